/**
 * `signet`: the SDK of an agent. It enrols at a CA, gets keys from the KMS over mutual TLS, seals messages to groups and holds links to
 * other agents. Every refusal is a {@link SignetError} with a stable `code`. Importing it starts nothing.
 *
 * An operator hands over what `signet.json` in the data directory holds (addresses and the root's fingerprint) and a one-time token: `npx signet ca token alice`.
 *
 * @example
 * import { readFileSync } from "node:fs";
 * import { Agent, SignetError } from "signet";
 *
 * const { ca, kms } = JSON.parse(readFileSync(`${process.env["SIGNET_DATA"] ?? "data"}/signet.json`, "utf8"));
 * const alice = await Agent.enroll({
 *   caUrl: ca.enrolmentUrl,
 *   rootFingerprint: ca.rootFingerprint,
 *   kmsUrl: kms.url,
 *   name: "alice",
 *   token: readFileSync(0, "utf8").trim(), // from stdin: an argument is everybody's to read
 *   directory: "alice", // keys and certificates, mode 0700; Agent.open("alice", { kmsUrl }) from then on
 * });
 * try {
 *   await alice.createKey("orders");
 *   const { version, secret } = await alice.requestKey("orders");
 *   console.log(`orders, version ${version}: ${secret.length} octets`);
 *   await alice.requestKey("payroll");
 * } catch (error) {
 *   if (!(error instanceof SignetError)) throw error;
 *   console.log(error.code); // not-permitted: absent and forbidden look alike
 * } finally {
 *   await alice.close();
 * }
 */
import "./accepted-runtime.ts";

export { Agent } from "#agents/agent.ts";
export type { EnrollOptions } from "#agents/agent.ts";
export { decryptFile, encryptFile } from "#agents/file-cipher.ts";
export type { FileHeader } from "#agents/file-cipher.ts";
export type { Group, OpenedMessage } from "#agents/group.ts";
export { openKeyEnvelope } from "#agents/key-envelope.ts";
export type { EnvelopeRecipient, ExpectedEnvelope } from "#agents/key-envelope.ts";
export type { WatchedEvent } from "#agents/key-watch.ts";
export type { GroupKey, KmsClient, NewKey, Page } from "#agents/kms-client.ts";
export type { DialOptions, Link, LinkGroup, LinkListener, ListenOptions } from "#agents/link.ts";
export { SecureKeyManagementSystem } from "#agents/secure-key-management-system.ts";
export type { CertificateId } from "#pki/certificate.ts";
export type { Identity, IdentityKind, Role } from "#pki/certificate-profile.ts";
export type { Clock } from "#pki/clock.ts";
export { isErrorCode, SignetError } from "#pki/errors.ts";
export type { ErrorCode, ErrorDetails } from "#pki/errors.ts";
export type { EnrolledIdentity } from "#pki/identity.ts";
export { SecretKey } from "#pki/keys.ts";
export type { KeyType } from "#pki/keys.ts";
export type { AuditEntriesResponse, EncryptionContext, KeyAction, KeyAlgorithm, KeyDescription, KeyEvent, KeyListResponse, KeyRevocationReason, KeyVersionListResponse, KmsStatusResponse, WhoamiResponse } from "#pki/protocol-kms.ts";
