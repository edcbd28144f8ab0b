/**
 * `signet/path-validation`: certificates and paths by RFC 5280 section 6. {@link validatePath} is what Signet itself relies on and has nothing to
 * relax; {@link verify} answers under parameters of one's own, names and CRLs included. Both throw a {@link SignetError} whose `code` is the rule that is broken.
 *
 * The files are those that `npx signet ca issue api --dns localhost --out api` leaves.
 *
 * @example
 * import { readFileSync } from "node:fs";
 * import { Certificate, SignetError, validatePath } from "signet/path-validation";
 *
 * const endEntity = Certificate.fromPem(readFileSync("api/cert.pem", "utf8"));
 * const intermediates = Certificate.listFromPem(readFileSync("api/fullchain.pem", "utf8"));
 * const trustAnchors = [Certificate.fromPem(readFileSync("api/root.pem", "utf8"))];
 * const path = validatePath({ endEntity, intermediates, trustAnchors, purpose: "serverAuth", at: new Date() });
 * console.log(path.chain.length); // 3: end entity, issuing CA, root
 * try {
 *   validatePath({ endEntity, intermediates, trustAnchors, purpose: "clientAuth", at: new Date() });
 * } catch (error) {
 *   if (!(error instanceof SignetError)) throw error;
 *   console.log(error.code); // purpose-not-permitted
 * }
 */
export { Certificate } from "#pki/certificate.ts";
export type { CertificateExtensions, CertificateId } from "#pki/certificate.ts";
export type { RevocationExtent } from "#pki/crl-validation.ts";
export { isErrorCode, SignetError } from "#pki/errors.ts";
export type { ErrorCode, ErrorDetails } from "#pki/errors.ts";
export type { AnyKeyPurpose, PolicyParameters } from "#pki/path-rules.ts";
export { isValidatedPath, validatePath } from "#pki/path-validation.ts";
export type { PathBudget, PathPurpose, ValidatedPath } from "#pki/path-validation.ts";
export { verify } from "#pki/verification.ts";
export type { ExpectedName, VerificationRequest } from "#pki/verification.ts";
