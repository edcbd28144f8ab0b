/** What Signet demands of a peer's certificate beyond a valid path. certificate-builder.ts makes certificates that meet it. */
import type { Certificate } from "./certificate.ts";
import { SignetError } from "./errors.ts";
import type { ErrorCode } from "./errors.ts";
import { matchesDnsName, matchesIpAddress } from "./name-matching.ts";
import { parseIpAddress } from "./name.ts";
import { oid } from "./oids.ts";
import { isValidatedPath } from "./path-validation.ts";
import type { ValidatedPath } from "./path-validation.ts";

/** What an identity is: an agent holds keys, an operator enrols and revokes, a service is the CA or the KMS. */
export type IdentityKind = "agent" | "operator" | "service";
/** `client`: extendedKeyUsage clientAuth alone; `server`: serverAuth alone. */
export type Role = "client" | "server";

/** A SPIFFE URI and its parts; what stands as the only URI in every certificate of a party. */
export interface Identity {
  /** `spiffe://<trust domain>/<kind>/<name>` */
  readonly uri: string;
  /** Two DNS labels or more, lower case. */
  readonly trustDomain: string;
  readonly kind: IdentityKind;
  /** 1 to 63 of a-z, 0-9 and -. */
  readonly name: string;
}

const identityPattern = /^spiffe:\/\/([a-z0-9-]+(?:\.[a-z0-9-]+)+)\/(agent|operator|service)\/([a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?)$/;

/** @throws SignetError `request-malformed` where the parts make no identity */
export function identityUri(trustDomain: string, kind: IdentityKind, name: string): string {
  return parseIdentityUri(`spiffe://${trustDomain}/${kind}/${name}`).uri;
}

/** @throws SignetError `request-malformed` */
export function parseIdentityUri(uri: string): Identity {
  const [, trustDomain, kind, name] = (uri.length <= 400 && identityPattern.exec(uri)) || [];
  if (trustDomain === undefined || kind === undefined || name === undefined || !isTrustDomain(trustDomain)) throw new SignetError("request-malformed", "Not a Signet identity; one looks like spiffe://signet.internal/agent/alice.");
  return { uri, trustDomain, kind: kind as IdentityKind, name };
}

/** Two DNS labels or more, lower case, no underscore. */
export function isTrustDomain(name: string): boolean {
  return name.length <= 253 && /^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)+$/.test(name);
}

const refuse = (code: ErrorCode, reason: string, { endEntity }: ValidatedPath): SignetError =>
  new SignetError(code, reason, { details: { subject: endEntity.subject.toString(), serialNumber: endEntity.serialNumber } });

/**
 * Signet's own rules for a leaf, over a path that is valid: a subjectAltName, an extendedKeyUsage with the path's purpose and nothing
 * else, exactly one URI, which is the identity, in the trust domain that its issuer has as its one organizationName; never the common name. The issuer's
 * name is signed by the root, so that this binds an issuing CA as a name constraint would; browsers refuse certificates with URIs where there is one.
 * @throws SignetError `san-missing`, `extended-key-usage-missing`, `purpose-not-permitted`, `identity-ambiguous`, `profile-violation`
 */
export function checkProfile(path: ValidatedPath): Identity {
  if (!isValidatedPath(path)) throw new SignetError("internal", "A profile is checked over a validated path.");
  const { extensions } = path.endEntity;
  if (extensions.basicConstraints?.ca === true) throw refuse("profile-violation", "A CA certificate identifies nobody.", path);
  if (extensions.subjectAltName === undefined) throw refuse("san-missing", "The certificate has no subjectAltName; its common name does not count.", path);
  if (extensions.extendedKeyUsage === undefined) throw refuse("extended-key-usage-missing", "The certificate has no extendedKeyUsage.", path);
  if (path.purpose === "cRLSign" || extensions.extendedKeyUsage.length !== 1 || extensions.extendedKeyUsage[0] !== oid[path.purpose]) throw refuse("purpose-not-permitted", `The certificate is not for ${path.purpose} alone.`, path);
  const uris = extensions.subjectAltName.filter((name) => name.kind === "uri");
  if (uris.length !== 1) throw refuse("identity-ambiguous", `The certificate has ${uris.length} URIs where one belongs.`, path);
  let identity: Identity;
  try {
    identity = parseIdentityUri(uris[0]?.value as string);
  } catch (cause) {
    throw new SignetError("profile-violation", "The URI of the certificate is not a Signet identity.", { cause });
  }
  const [organization, ...others] = path.endEntity.issuer.attributes(oid.organizationName);
  if (organization?.text !== identity.trustDomain || others.length > 0) throw refuse("profile-violation", `The issuer is not named for the trust domain ${identity.trustDomain}.`, path);
  return identity;
}

/**
 * Whether a server's certificate is for the host that was dialled: a DNS name or IP address in subjectAltName (RFC 9525 section 6), never the common name.
 * @throws SignetError `name-mismatch`
 */
export function checkServerName(certificate: Certificate, host: string): void {
  const names = certificate.extensions.subjectAltName ?? [];
  const isAddress = parseIpAddress(host) !== undefined;
  const matches = names.some((name) => (isAddress ? name.kind === "ip" && matchesIpAddress(name.octets, host) : name.kind === "dns" && matchesDnsName(name.value, host)));
  if (!matches) throw new SignetError("name-mismatch", `The certificate is not for ${host}.`, { details: { host } });
}
