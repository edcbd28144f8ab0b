/**
 * `signet/crl`: CRLs by RFC 5280 section 5. {@link CertificateRevocationList} reads and looks up, in lists of a million entries too;
 * {@link RevocationStore} holds what one party knows over time (signatures, scopes, dates, numbers that never go back) and answers whether a path
 * is revoked; {@link buildCrl} writes. There is no soft-fail: without a fresh CRL for every certificate of a path the answer is a {@link SignetError}.
 *
 * The files are those that `npx signet ca issue api --dns localhost --out api` leaves.
 *
 * @example
 * import { readFileSync } from "node:fs";
 * import { CertificateRevocationList, memoryFloors, RevocationStore, systemClock } from "signet/crl";
 * import { Certificate, validatePath } from "signet/path-validation";
 *
 * const endEntity = Certificate.fromPem(readFileSync("api/cert.pem", "utf8"));
 * const intermediates = Certificate.listFromPem(readFileSync("api/fullchain.pem", "utf8"));
 * const trustAnchors = [Certificate.fromPem(readFileSync("api/root.pem", "utf8"))];
 * const store = new RevocationStore({ trustAnchors, floors: memoryFloors(), clock: systemClock, maxAgeMilliseconds: 15 * 60_000 });
 * for (const crl of CertificateRevocationList.listFromPem(readFileSync("api/crl.pem", "utf8"))) {
 *   const { crlNumber, added } = store.accept(crl.der, intermediates);
 *   console.log(`CRL ${crlNumber}: ${added.length} revoked`);
 * }
 * const path = validatePath({ endEntity, intermediates, trustAnchors, purpose: "serverAuth", at: new Date() });
 * const proof = store.check(path); // throws certificate-revoked, crl-missing, crl-stale ...
 * console.log(proof.validUntil > new Date()); // true
 */
export { systemClock } from "#pki/clock.ts";
export type { Clock } from "#pki/clock.ts";
export { buildCrl, CertificateRevocationList } from "#pki/crl.ts";
export type { CrlContent, IssuingDistributionPoint, ReasonCode, RevokedEntry } from "#pki/crl.ts";
export { isErrorCode, SignetError } from "#pki/errors.ts";
export type { ErrorCode, ErrorDetails } from "#pki/errors.ts";
export { signerFromKey } from "#pki/keys.ts";
export type { Signer } from "#pki/keys.ts";
export { createFloors, fileFloors, memoryFloors, RevocationStore } from "#pki/revocation.ts";
export type { AcceptedCrl, CrlFloor, CrlFloors, CrlOrigin, CrlStatus, NotRevoked, RevocationStoreOptions } from "#pki/revocation.ts";
