import { once } from "node:events";
import path from "node:path";
import tls from "node:tls";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { Agent } from "#agents/agent.ts";
import { KmsClient } from "#agents/kms-client.ts";
import { identityUri, type Role } from "#pki/certificate-profile.ts";
import { systemClock } from "#pki/clock.ts";
import { alpn, MutualAgent } from "#pki/mtls.ts";
import { startSystem, type RunningSystem } from "../support/system.ts";
import { temporaryDirectory } from "../support/temporary-directory.ts";

// Every route of the KMS through the agent's client, on the CA and the KMS as processes of their own.
let system: RunningSystem;
let alice: Agent;
let bob: Agent;
let operator: KmsClient;
let connections: MutualAgent;

const refusal = (code: string) => expect.objectContaining({ code });
const octets = (text: string) => Buffer.from(text);

beforeAll(async () => {
  system = await startSystem();
  [alice, bob] = await Promise.all([system.enroll("alice"), system.enroll("bob")]);
  connections = new MutualAgent({
    credential: system.operator.credential("client"),
    trustAnchors: system.operator.trustAnchors,
    revocation: system.operator.revocation,
    clock: systemClock,
    expect: { uri: identityUri(alice.identity.trustDomain, "service", "kms") },
  });
  operator = new KmsClient({ url: system.kmsUrl, agent: connections });
});
afterAll(async () => {
  connections?.destroy();
  await Promise.all([alice, bob].map((agent) => agent?.close()));
  await system?.stop();
});

describe("an agent at the KMS", () => {
  test("makes, lists, describes and rotates its keys, and opens with old versions what they sealed", async () => {
    const created = await alice.createKey("ledger");
    expect(created).toMatchObject({ name: "ledger", owner: alice.identity.uri, algorithms: ["AES-256-GCM"], latest: { version: 1, state: "active" } });
    await expect(alice.createKey("ledger")).rejects.toThrow(refusal("already-exists"));
    const sealed = await alice.kms.encrypt("ledger", octets("page 1"), { book: "2026" });
    expect((await alice.kms.rotateKey("ledger")).latest.version).toBe(2);
    expect((await alice.kms.listVersions("ledger")).versions.map((version) => version.version).sort()).toEqual([1, 2]);
    expect((await alice.kms.listKeys()).keys.map((key) => key.name)).toContain("ledger");
    const opened = await alice.kms.decrypt("ledger", sealed.ciphertext, { book: "2026" });
    expect([Buffer.from(opened.plaintext).toString(), opened.version]).toEqual(["page 1", 1]);
    await expect(alice.kms.decrypt("ledger", sealed.ciphertext, { book: "2027" })).rejects.toThrow(refusal("decryption-failed"));
    expect((await alice.requestKey("ledger")).version).toBe(2);
    expect((await alice.requestKey("ledger", 1)).version).toBe(1);
  });

  test("decides who reads its key, on the state of the key that it saw", async () => {
    const { etag } = await alice.createKey("shared");
    await expect(bob.requestKey("shared")).rejects.toThrow(refusal("not-permitted"));
    await alice.kms.changeReaders("shared", [bob.identity.uri], etag);
    expect((await bob.requestKey("shared")).version).toBe(1);
    await expect(alice.kms.changeReaders("shared", [], etag)).rejects.toThrow(refusal("precondition-failed"));
    await expect(bob.kms.rotateKey("shared")).rejects.toThrow(refusal("not-permitted"));
    await alice.group("shared").removeMember(bob.identity.uri);
    await expect(bob.requestKey("shared")).rejects.toThrow(refusal("not-permitted"));
  });

  test("carries out a call that is repeated under one Idempotency-Key once", async () => {
    const [first, again] = [await alice.kms.createKey("once", {}, "request-1"), await alice.kms.createKey("once", {}, "request-1")];
    expect(again.id).toBe(first.id);
    await expect(alice.kms.createKey("twice", {}, "request-1")).rejects.toThrow(refusal("idempotency-conflict"));
  });

  test("learns by a dry run what it may do, and nothing is done", async () => {
    await alice.createKey("dry");
    await alice.kms.dryRun("dry", "rotate");
    expect((await alice.kms.describeKey("dry")).latest.version).toBe(1);
    await expect(bob.kms.dryRun("dry", "rotate")).rejects.toThrow(refusal("not-permitted"));
  });

  test("destroys a compromised key at once, and no other", async () => {
    await alice.createKey("leaked");
    await expect(alice.kms.destroyKey("leaked")).rejects.toThrow(refusal("state-conflict"));
    await alice.kms.revokeKey("leaked", "keyCompromise");
    expect(await alice.kms.destroyKey("leaked")).toEqual([1]);
    await expect(alice.requestKey("leaked")).rejects.toThrow(expect.objectContaining({ name: "SignetError" }));
  });

  test("is told who it is, and how the service stands; the audit log is for operators, who get no material", async () => {
    expect(await alice.kms.whoami()).toMatchObject({ uri: alice.identity.uri, kind: "agent", name: "alice" });
    expect((await alice.kms.status()).service).toBe("kms");
    await expect(alice.kms.auditEntries()).rejects.toThrow(refusal("not-permitted"));
    expect((await operator.auditEntries()).entries.length).toBeGreaterThan(0);
    await alice.createKey("private");
    await expect(operator.material("private")).rejects.toThrow(refusal("not-permitted"));
  });
});

test("an agent that was enrolled into a directory is opened from it with both roles, and renews both by itself where that is due, for listeners too", async () => {
  const directory = path.join(temporaryDirectory(), "carol");
  const enrolled = await system.enroll("carol", { directory });
  await enrolled.close();
  const carol = await Agent.open(directory, { kmsUrl: system.kmsUrl });
  const before = (await carol.kms.whoami()).certificate.serialNumber;
  const listener = await carol.listen({ onLink: () => {} });
  const renewed = new Promise<void>((resolve) => carol.enrolled.onRenewal((role) => role === "server" && resolve()));
  // What the passing of time would say; renewal itself is the CA's and real.
  const due = new Set<Role>(["client", "server"]);
  carol.enrolled.isRenewalDue = (role) => due.delete(role);
  carol.enrolled.startRenewal();
  await renewed;
  const link = await alice.dial("carol", { host: "127.0.0.1", port: listener.port });
  expect(link.peer.name).toBe("carol");
  const { privateKey, chain } = alice.enrolled.credential("client");
  const socket = tls.connect({ port: listener.port, key: privateKey.export({ type: "pkcs8", format: "pem" }), cert: chain.map((each) => each.toPem()).join(""), ca: alice.enrolled.trustAnchors.map((each) => each.toPem()), ALPNProtocols: [alpn.link], checkServerIdentity: () => undefined });
  await once(socket, "secureConnect");
  expect(socket.getPeerX509Certificate()?.serialNumber.toLowerCase()).toBe(carol.enrolled.credential("server").chain[0]?.serialNumber);
  socket.destroy();
  await carol.close();
  expect((await link.closed).code).toBe("link-closed");
  const reopened = await Agent.open(directory, { kmsUrl: system.kmsUrl });
  expect((await reopened.kms.whoami()).certificate.serialNumber).not.toBe(before);
  await reopened.close();
});
