/**
 * What certificates and CRLs must look like, one rule a row. Before Signet signs, the exact bytes pass every row; a validator in
 * strict mode holds what it is shown against the rows marked `strict`, which are RFC 5280's own demands on issuers.
 */
import { hash } from "node:crypto";
import type { Certificate } from "./certificate.ts";
import type { CertificateRevocationList } from "./crl.ts";
import { DerReader, constructedContextTag, contextTag, encodeNamedBits, readSingle, tag } from "./der.ts";
import { SignetError } from "./errors.ts";
import type { ErrorCode } from "./errors.ts";
import { findExtension, keyUsageBits } from "./extensions.ts";
import type { KeyUsageBit } from "./extensions.ts";
import { checkAcceptableKey } from "./keys.ts";
import { isDnsName, isDnsNameOrWildcard } from "./name-matching.ts";
import { encodeGeneralName } from "./name.ts";
import type { GeneralName } from "./name.ts";
import { oid } from "./oids.ts";

/** What a certificate is issued as. */
export type CertificateProfile = "root" | "issuing" | { readonly kind: "agent" | "operator" | "service"; readonly role: "client" | "server" };

/** What is known besides the certificate. A rule that needs what is not given here is passed over. */
export interface CertificateLintContext {
  /** The profile it is issued under; without it, the rows of RFC 5280 alone apply. */
  readonly profile?: CertificateProfile;
  /** The issuer's certificate; the certificate itself for a root. */
  readonly issuer?: Certificate;
  /** When it is issued. */
  readonly at?: Date;
  /** The CRL that lists it if it is revoked. */
  readonly crl?: CertificateRevocationList;
}

export interface CrlLintContext {
  readonly issuer?: Certificate;
  /** The distribution point that the certificates of a shard name; with it or `scope`, Signet's own rows apply. */
  readonly distributionPoint?: string;
  readonly scope?: "user" | "ca";
  /** The CRL of this scope and kind before this one. */
  readonly previous?: CertificateRevocationList;
  /** Of a delta: the complete CRL that it changes. */
  readonly base?: CertificateRevocationList;
  /** When it is published. */
  readonly at?: Date;
}

interface Rule<AppliesTo extends "certificate" | "crl", Subject, Context> {
  /** Named for the demand. */
  readonly id: string;
  readonly citation: string;
  readonly appliesTo: AppliesTo;
  /** RFC 5280 demands it of every issuer; the others are Signet's own. */
  readonly strict: boolean;
  /** Whether the rule is kept, or has nothing to say. */
  readonly check: (subject: Subject, context: Context) => boolean;
}
export type CertificateRule = Rule<"certificate", Certificate, CertificateLintContext>;
export type CrlRule = Rule<"crl", CertificateRevocationList, CrlLintContext>;

const rfc = <Subject, Context>(id: string, section: string, check: (subject: Subject, context: Context) => boolean) => ({ id, citation: `RFC 5280 section ${section}`, strict: true, check });
const own = <Subject, Context>(id: string, citation: string, check: (subject: Subject, context: Context) => boolean) => ({ id, citation, strict: false, check });

const minute = 60_000;
const day = 86_400_000;
/** Two values, of which either may be absent. */
const sameOctets = (one: Uint8Array = Buffer.alloc(0), other: Uint8Array = Buffer.alloc(0)): boolean => Buffer.from(one).equals(other);
const crlExtension = ({ extensions }: CertificateRevocationList, extensionOid: string) => findExtension(extensions, extensionOid);
const isCa = (certificate: Certificate): boolean => certificate.extensions.basicConstraints?.ca === true;
const isCritical = ({ extensions }: Certificate, extensionOid: string): boolean | undefined => findExtension(extensions.all, extensionOid)?.critical;
/** Absent, or critical. */
const criticalIfPresent = (extensionOid: string) => (certificate: Certificate): boolean => isCritical(certificate, extensionOid) !== false;
const neverCritical = (extensionOid: string) => (certificate: Certificate): boolean => isCritical(certificate, extensionOid) !== true;
const serialOctets = (serialNumber: string): number => serialNumber.replace("-", "").length / 2 + (/^[89a-f]/.test(serialNumber) ? 1 : 0);
/** Signed by its own key, whatever name it gives the issuer (RFC 5280 section 4.2.1.1). */
const isSelfSigned = (certificate: Certificate): boolean => certificate.isSignedBy(certificate.subjectPublicKeyInfo);
const leafProfile = ({ profile }: CertificateLintContext) => (typeof profile === "object" ? profile : undefined);
const namesOfKind = (certificate: Certificate, kind: GeneralName["kind"]): GeneralName[] => (certificate.extensions.subjectAltName ?? []).filter((name) => name.kind === kind);

function isWellFormedName(name: GeneralName): boolean {
  switch (name.kind) {
    case "dns":
      return isDnsNameOrWildcard(name.value) && !name.value.includes("_");
    case "email":
      return /^[^\s@]+@[^\s@]+$/.test(name.value) && isDnsName(name.value.slice(name.value.indexOf("@") + 1));
    case "uri":
      return /^[a-z][a-z0-9+.-]*:[!-~]+$/i.test(name.value);
    case "ip":
      return name.octets.length === 4 || name.octets.length === 16;
    default:
      return true;
  }
}

function isWellFormedSubtree(base: GeneralName): boolean {
  switch (base.kind) {
    case "dns":
      return base.value === "" || isDnsName(base.value);
    case "email":
    case "uri":
      return base.value === "" || isDnsName(base.value.replace(/^\./, "").replace(base.kind === "email" ? /^[^\s@]+@/ : /$^/, ""));
    case "ip":
      return base.octets.length === 8 || base.octets.length === 32;
    default:
      return true;
  }
}

/** RFC 7093 section 2 method 1: the leftmost 160 bits of the SHA-256 of the key's BIT STRING, without its header and unused bits, in hex. */
export function subjectKeyIdentifierOf(spki: Uint8Array): string {
  const key = readSingle(spki, tag.sequence, (content) => {
    content.readContent(tag.sequence);
    return content.readBitStringOctets();
  });
  return hash("sha256", key, "hex").slice(0, 40);
}

/** With a keyIdentifier, and where the certificate is signed with its own key, none but its own; there, it may be left out whole. */
function hasAuthorityKeyIdentifier(certificate: Certificate): boolean {
  const { all, authorityKeyIdentifier, subjectKeyIdentifier } = certificate.extensions;
  if (!isSelfSigned(certificate)) return authorityKeyIdentifier !== undefined;
  return findExtension(all, oid.authorityKeyIdentifier) === undefined || (authorityKeyIdentifier !== undefined && (subjectKeyIdentifier ?? authorityKeyIdentifier) === authorityKeyIdentifier);
}

const strongHashes: ReadonlySet<string | undefined> = new Set(["sha256", "sha384", "sha512", undefined]);
const certifiedKeyTypes: ReadonlySet<string> = new Set(["rsa-2048", "rsa-3072", "rsa-4096", "ec-p256", "ec-p384", "ed25519", "ml-dsa-65"]);

function hasKeyUsage(certificate: Certificate, wanted: readonly KeyUsageBit[]): boolean {
  const usage = certificate.extensions.keyUsage;
  return usage !== undefined && keyUsageBits.every((bit) => usage.has(bit) === wanted.includes(bit));
}

const certificateRules: readonly Omit<CertificateRule, "appliesTo">[] = [
  rfc("serial-positive", "4.1.2.2", ({ serialNumber }: Certificate) => !serialNumber.startsWith("-") && serialNumber !== "00"),
  rfc("serial-at-most-20-octets", "4.1.2.2", ({ serialNumber }: Certificate) => serialOctets(serialNumber) <= 20),
  rfc("version-3", "4.1.2.1", ({ version }: Certificate) => version === 3),
  rfc("time-form", "4.1.2.5", ({ hasPrescribedTimes }: Certificate) => hasPrescribedTimes),
  rfc("unique-identifiers-absent", "4.1.2.8", ({ hasUniqueIdentifiers }: Certificate) => !hasUniqueIdentifiers),
  rfc("ca-subject-present", "4.1.2.6", (certificate: Certificate) => !isCa(certificate) || !certificate.subject.isEmpty),
  rfc("authority-key-identifier-present", "4.2.1.1", hasAuthorityKeyIdentifier),
  rfc("authority-key-identifier-not-critical", "4.2.1.1", neverCritical(oid.authorityKeyIdentifier)),
  rfc("ca-subject-key-identifier-present", "4.2.1.2", (certificate: Certificate) => !isCa(certificate) || certificate.extensions.subjectKeyIdentifier !== undefined),
  rfc("subject-key-identifier-not-critical", "4.2.1.2", neverCritical(oid.subjectKeyIdentifier)),
  rfc("key-cert-sign-of-cas-only", "4.2.1.9", (certificate: Certificate) => isCa(certificate) || certificate.extensions.keyUsage?.has("keyCertSign") !== true),
  rfc("ca-basic-constraints-critical", "4.2.1.9", (certificate: Certificate) => !isCa(certificate) || isCritical(certificate, oid.basicConstraints) === true),
  rfc("path-length-of-cas-only", "4.2.1.9", (certificate: Certificate) => certificate.extensions.basicConstraints?.pathLength === undefined || (isCa(certificate) && certificate.extensions.keyUsage?.has("keyCertSign") !== false)),
  rfc("policies-once-each", "4.2.1.4", ({ extensions: { certificatePolicies: policies = [] } }: Certificate) => new Set(policies).size === policies.length),
  rfc("any-policy-not-mapped", "4.2.1.5", ({ extensions: { policyMappings = [] } }: Certificate) => policyMappings.every((mapping) => mapping.issuerDomainPolicy !== oid.anyPolicy && mapping.subjectDomainPolicy !== oid.anyPolicy)),
  rfc("subject-alt-name-critical-without-subject", "4.2.1.6", (certificate: Certificate) => !certificate.subject.isEmpty || isCritical(certificate, oid.subjectAltName) === true),
  rfc("subject-alt-name-form", "4.2.1.6", ({ extensions: { subjectAltName = [] } }: Certificate) => subjectAltName.every(isWellFormedName)),
  rfc("name-constraints-critical", "4.2.1.10", criticalIfPresent(oid.nameConstraints)),
  rfc("name-constraints-of-cas-only", "4.2.1.10", (certificate: Certificate) => isCa(certificate) || certificate.extensions.nameConstraints === undefined),
  rfc("name-constraints-form", "4.2.1.10", ({ extensions: { nameConstraints } }: Certificate) => [...(nameConstraints?.permitted ?? []), ...(nameConstraints?.excluded ?? [])].every(isWellFormedSubtree)),
  rfc("policy-constraints-critical", "4.2.1.11", criticalIfPresent(oid.policyConstraints)),
  rfc("policy-constraints-not-empty", "4.2.1.11", ({ extensions: { policyConstraints } }: Certificate) => policyConstraints === undefined || Object.keys(policyConstraints).length > 0),
  rfc("distribution-point-names-something", "4.2.1.13", ({ extensions: { crlDistributionPoints = [], freshestCrl = [] } }: Certificate) =>
    [...crlDistributionPoints, ...freshestCrl].every((point) => point.fullNames !== undefined || point.relativeName !== undefined || point.crlIssuers !== undefined)),
  rfc("inhibit-any-policy-critical", "4.2.1.14", criticalIfPresent(oid.inhibitAnyPolicy)),
  rfc("freshest-crl-not-critical", "4.2.1.15", neverCritical(oid.freshestCrl)),

  // Not strict: sections 6.1.4 (n) and 6.3.3 (f) read keyUsage only where it is present.
  own("ca-key-usage-present", "RFC 5280 section 4.2.1.3", (certificate: Certificate) => !isCa(certificate) || certificate.extensions.keyUsage !== undefined),
  own("validity-in-order", "RFC 5280 section 4.1.2.5", ({ notBeforeTime, notAfterTime }: Certificate) => notBeforeTime < notAfterTime),
  own("distinguished-encoding", "X.690 sections 11.2.2 and 11.5", isDistinguished),
  own("not-before-backdated", "profile: a minute, for clocks that are late, and never before the issuer", ({ notBeforeTime }: Certificate, { at, issuer }) => {
    const backdated = at === undefined ? minute : at.getTime() - notBeforeTime;
    return (backdated >= minute && backdated < 2 * minute) || notBeforeTime === issuer?.notBeforeTime;
  }),
  own("serial-of-64-random-bits", "CA/Browser Forum BR 7.1", ({ serialNumber }: Certificate, { profile }) => profile === undefined || serialOctets(serialNumber) >= 8),
  own("signature-algorithm-strong", "SP 800-131A", ({ signatureAlgorithm: { family, hash: name } }: Certificate, { profile }) => profile === undefined || (family !== undefined && family !== "dsa" && strongHashes.has(name))),
  own("key-type-certified", "SP 800-57 Part 1 section 5.6", ({ publicKeyType }: Certificate, { profile }) => profile === undefined || certifiedKeyTypes.has(publicKeyType)),
  own("key-acceptable", "SP 800-56B section 6.4; CA/Browser Forum BR 6.1.1.3", ({ spki, publicKeyType }: Certificate, { profile }) => profile === undefined || !certifiedKeyTypes.has(publicKeyType) || isAcceptableKey(spki)),
  own("subject-key-identifier-method", "RFC 7093 section 2", (certificate: Certificate, { profile }) => profile === undefined || certificate.extensions.subjectKeyIdentifier === subjectKeyIdentifierOf(certificate.spki)),
  own("authority-key-identifier-of-issuer", "RFC 5280 section 4.2.1.1", (certificate: Certificate, { issuer }) => issuer === undefined || certificate.extensions.authorityKeyIdentifier === issuer.extensions.subjectKeyIdentifier),
  own("issuer-name-of-issuer", "RFC 5280 section 4.1.2.4", (certificate: Certificate, { issuer }) => issuer === undefined || certificate.issuer.hasSameBytes(issuer.subject)),
  own("validity-within-issuer", "profile", ({ notAfterTime }: Certificate, { issuer }) => issuer === undefined || notAfterTime <= issuer.notAfterTime),
  own("key-usage-critical", "RFC 5280 section 4.2.1.3", (certificate: Certificate, { profile }) => profile === undefined || isCritical(certificate, oid.keyUsage) === true),
  own("ca-profile", "profile", (certificate: Certificate, { profile }) => typeof profile !== "string" || (isCa(certificate) && hasKeyUsage(certificate, ["keyCertSign", "cRLSign"]))),
  own("ca-path-length", "profile", (certificate: Certificate, { profile }) => typeof profile !== "string" || certificate.extensions.basicConstraints?.pathLength === (profile === "root" ? 1 : 0)),
  own("issuing-ca-names-constrained", "profile", (certificate: Certificate, { profile }) => profile !== "issuing" || isConstrainedInEveryForm(certificate)),
  own("issuing-ca-organization", "profile: the trust domain that checkProfile holds its leaves to", ({ subject }: Certificate, { profile }) => {
    const organizations = subject.attributes(oid.organizationName);
    return profile !== "issuing" || (organizations.length === 1 && isTrustDomainForm(organizations[0]?.text));
  }),
  own("crl-distribution-point-present", "profile", (certificate: Certificate, { profile }) => profile === undefined || typeof profile === "string" || namedDistributionPoints(certificate) === 1),
  own("crl-distribution-point-of-crl", "RFC 5280 section 6.3.3 (b)(2)(i)", ({ extensions: { crlDistributionPoints = [] } }: Certificate, { crl }) => {
    const names = crl?.issuingDistributionPoint?.fullNames ?? [];
    return names.length === 0 || names.some((name) => crlDistributionPoints.some((point) => point.fullNames?.some((other) => encodeGeneralName(other).equals(encodeGeneralName(name)))));
  }),
  own("freshest-crl-as-in-crl", "RFC 5280 sections 4.2.1.15 and 5.2.6", (certificate: Certificate, { crl }) =>
    crl === undefined || sameOctets(findExtension(certificate.extensions.all, oid.freshestCrl)?.value, crlExtension(crl, oid.freshestCrl)?.value)),
  own("leaf-is-no-ca", "RFC 5280 section 4.2.1.9", (certificate: Certificate, context) => leafProfile(context) === undefined || !isCa(certificate)),
  own("leaf-key-usage", "RFC 5280 section 4.2.1.3; RFC 9881 section 5", (certificate: Certificate, context) =>
    leafProfile(context) === undefined || hasKeyUsage(certificate, certificate.publicKeyType.startsWith("rsa-") ? ["digitalSignature", "keyEncipherment"] : ["digitalSignature"])),
  own("leaf-extended-key-usage", "RFC 5280 section 4.2.1.12", ({ extensions: { extendedKeyUsage: usage } }: Certificate, context) => {
    const leaf = leafProfile(context);
    return leaf === undefined || (usage?.length === 1 && usage[0] === (leaf.role === "client" ? oid.clientAuth : oid.serverAuth));
  }),
  own("leaf-one-uri", "SPIFFE X509-SVID section 2", (certificate: Certificate, context) => leafProfile(context) === undefined || namesOfKind(certificate, "uri").length === 1),
  own("leaf-identity", "profile", (certificate: Certificate, context) => {
    const leaf = leafProfile(context);
    return leaf === undefined || namesOfKind(certificate, "uri").every(({ value }) => identityPath.exec(String(value))?.[1] === leaf.kind);
  }),
  own("trust-domain-form", "SPIFFE-ID section 2.1; profile", (certificate: Certificate, context) =>
    leafProfile(context) === undefined || namesOfKind(certificate, "uri").every(({ value }) => isTrustDomainForm(/^spiffe:\/\/([^/]*)/.exec(String(value))?.[1]))),
  own("leaf-names-by-role", "profile", (certificate: Certificate, context) => {
    const leaf = leafProfile(context);
    const hosts = namesOfKind(certificate, "dns").length + namesOfKind(certificate, "ip").length;
    const all = certificate.extensions.subjectAltName?.length ?? 0;
    return leaf === undefined || (all === hosts + 1 && hosts > 0 === (leaf.kind === "service" && leaf.role === "server"));
  }),
  own("leaf-common-name-repeated", "RFC 9525 section 2", (certificate: Certificate, context) => {
    const hosts = [...namesOfKind(certificate, "dns"), ...namesOfKind(certificate, "ip")].map((name) => name.value);
    return leafProfile(context) === undefined || certificate.subject.attributes(oid.commonName).every(({ text }) => text !== undefined && hosts.includes(text));
  }),
];

const identityPath = /^spiffe:\/\/[^/]*\/(agent|operator|service)\/[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?$/;

/** Two DNS labels or more, in lower case and without an underscore; no URI of another scheme has one. */
function isTrustDomainForm(domain: string | undefined): boolean {
  return domain !== undefined && domain === domain.toLowerCase() && domain.includes(".") && !domain.includes("_") && isDnsName(domain);
}

function isAcceptableKey(spki: Uint8Array): boolean {
  try {
    checkAcceptableKey(spki);
    return true;
  } catch (error) {
    if (error instanceof SignetError && error.code === "key-rejected") return false;
    throw error;
  }
}

/** Distribution points that hold one URI and nothing else. */
function namedDistributionPoints({ extensions: { crlDistributionPoints = [] } }: Certificate): number {
  return crlDistributionPoints.filter((point) => point.fullNames?.length === 1 && point.fullNames[0]?.kind === "uri" && point.crlIssuers === undefined && point.reasons === undefined).length;
}

/** A permitted subtree alone lets any name of another form through (RFC 5280 section 4.2.1.10), an excluded one all the rest of its form. Of URIs: see checkProfile. */
function isConstrainedInEveryForm({ extensions: { nameConstraints: { permitted, excluded } = { permitted: [], excluded: [] } } }: Certificate): boolean {
  const excludedWhole = excluded.filter(isWholeForm);
  const kinds = new Set([...permitted, ...excludedWhole].map((base) => base.kind));
  // The whole of IPv4 is not the whole of IPv6, nor the other way round; a permitted range of one shuts the other out.
  const families = new Set(excludedWhole.flatMap((base) => (base.kind === "ip" ? [base.octets.length] : [])));
  const isConstrainedInAddresses = permitted.some((base) => base.kind === "ip") || families.size === 2;
  return isConstrainedInAddresses && (["dns", "email", "directory"] as const).every((kind) => kinds.has(kind));
}

function isWholeForm(base: GeneralName): boolean {
  if (base.kind === "ip") return base.octets.every((octet) => octet === 0);
  return base.kind === "directory" ? base.value.isEmpty : base.value === "";
}

/** What readers bear in the two extensions that everybody has written wrongly at some time. */
function isDistinguished({ extensions: { all, basicConstraints, keyUsage } }: Certificate): boolean {
  const usageBits = keyUsageBits.reduce((bits, bit, index) => (keyUsage?.has(bit) === true ? bits | (1 << index) : bits), 0);
  const usage = findExtension(all, oid.keyUsage)?.value;
  const constraints = findExtension(all, oid.basicConstraints)?.value;
  const falseIsWritten = basicConstraints?.ca === false && constraints?.[2] === tag.boolean;
  return (usage === undefined || sameOctets(usage, encodeNamedBits(usageBits))) && !falseIsWritten;
}

function isKeyIdentifierOnly(crl: CertificateRevocationList): boolean {
  const value = crlExtension(crl, oid.authorityKeyIdentifier)?.value;
  if (value === undefined) return false;
  const content = new DerReader(value).enter(tag.sequence);
  return content.peek() === contextTag(0) && content.readContent(contextTag(0)).length > 0 && content.peek() !== constructedContextTag(1);
}

const crlRules: readonly Omit<CrlRule, "appliesTo">[] = [
  rfc("crl-version-2", "5.1.2.1", ({ version }: CertificateRevocationList) => version === 2),
  rfc("crl-time-form", "5.1.2.4", ({ hasPrescribedTimes }: CertificateRevocationList) => hasPrescribedTimes),
  rfc("revocation-date-form", "5.1.2.6", ({ hasPrescribedRevocationDates }: CertificateRevocationList) => hasPrescribedRevocationDates),
  rfc("crl-number-present", "5.2.3", ({ crlNumber }: CertificateRevocationList) => crlNumber !== undefined),
  rfc("crl-number-not-critical", "5.2.3", (crl: CertificateRevocationList) => crlExtension(crl, oid.crlNumber)?.critical !== true),
  rfc("crl-number-at-most-20-octets", "5.2.3", ({ crlNumber }: CertificateRevocationList) => (crlNumber ?? 0n) < 1n << 159n),
  rfc("delta-indicator-critical", "5.2.4", (crl: CertificateRevocationList) => crlExtension(crl, oid.deltaCrlIndicator)?.critical !== false),
  rfc("issuing-distribution-point-critical", "5.2.5", (crl: CertificateRevocationList) => crlExtension(crl, oid.issuingDistributionPoint)?.critical !== false),
  rfc("crl-freshest-crl-not-critical", "5.2.6", (crl: CertificateRevocationList) => crlExtension(crl, oid.freshestCrl)?.critical !== true),
  rfc("freshest-crl-not-in-delta", "5.2.6", (crl: CertificateRevocationList) => !crl.isDelta || crlExtension(crl, oid.freshestCrl) === undefined),
  rfc("reason-code-not-critical", "5.3.1", ({ criticalEntryExtensions }: CertificateRevocationList) => !criticalEntryExtensions.includes(oid.reasonCode)),
  rfc("certificate-issuer-critical", "5.3.3", ({ hasCriticalCertificateIssuers }: CertificateRevocationList) => hasCriticalCertificateIssuers),
  rfc("remove-from-crl-in-delta-only", "5.3.1", ({ isDelta, reasonsPresent }: CertificateRevocationList) => isDelta || !reasonsPresent.has("removeFromCRL")),

  // Not strict: where it is absent the issuer's key is found by name, and its signature tells.
  own("crl-authority-key-identifier", "RFC 5280 section 5.2.1", (crl: CertificateRevocationList) => crl.authorityKeyIdentifier !== undefined && crlExtension(crl, oid.authorityKeyIdentifier)?.critical === false),
  own("next-update-later", "RFC 5280 section 5.1.2.5", ({ thisUpdate, nextUpdate }: CertificateRevocationList) => thisUpdate < nextUpdate),
  own("crl-authority-key-identifier-only", "profile", isKeyIdentifierOnly),
  own("crl-authority-key-identifier-of-issuer", "RFC 5280 section 5.2.1", (crl: CertificateRevocationList, { issuer }) => issuer === undefined || crl.authorityKeyIdentifier === issuer.extensions.subjectKeyIdentifier),
  own("crl-issuer-name-of-issuer", "RFC 5280 section 5.1.2.3", (crl: CertificateRevocationList, { issuer }) => issuer === undefined || crl.issuer.hasSameBytes(issuer.subject)),
  own("crl-within-issuer", "profile", ({ nextUpdate }: CertificateRevocationList, { issuer }) => issuer === undefined || nextUpdate.getTime() <= issuer.notAfterTime),
  own("crl-signature-algorithm-strong", "SP 800-131A", ({ signatureAlgorithm: { family, hash: name } }: CertificateRevocationList) => family !== undefined && family !== "dsa" && strongHashes.has(name)),
  own("crl-entries-once-each", "RFC 5280 section 5.1.2.6", ({ hasDuplicateEntries }: CertificateRevocationList) => !hasDuplicateEntries),
  own("reason-never-unspecified", "RFC 5280 section 5.3.1", ({ reasonsPresent }: CertificateRevocationList) => !reasonsPresent.has("unspecified")),
  own("no-hold", "profile", ({ reasonsPresent }: CertificateRevocationList) => !reasonsPresent.has("certificateHold")),
  own("crl-period", "CA/Browser Forum BR 7.2", ({ thisUpdate, nextUpdate, issuingDistributionPoint }: CertificateRevocationList, { scope }) => {
    const period = nextUpdate.getTime() - thisUpdate.getTime();
    return scope === undefined || period <= (issuingDistributionPoint?.onlyContainsCACerts === true ? 366 : 10) * day;
  }),
  own("crl-scope", "RFC 5280 section 5.2.5", ({ issuingDistributionPoint: point }: CertificateRevocationList, { scope }) => {
    if (scope === undefined) return true;
    if (point === undefined || point.indirect || point.onlySomeReasons !== undefined || point.relativeName !== undefined) return false;
    return scope === "ca" ? point.onlyContainsCACerts && point.fullNames.length === 0 : point.onlyContainsUserCerts && point.fullNames.length === 1;
  }),
  own("crl-distribution-point-of-shard", "RFC 5280 section 6.3.3 (b)", ({ issuingDistributionPoint: point }: CertificateRevocationList, { distributionPoint }) =>
    distributionPoint === undefined || (point?.fullNames.length === 1 && point.fullNames[0]?.value === distributionPoint)),
  own("crl-scope-kept", "profile: a scope is the issuer's key and the distribution point, and neither ever changes", ({ issuingDistributionPoint: point, authorityKeyIdentifier }: CertificateRevocationList, { previous }) =>
    previous === undefined || (authorityKeyIdentifier === previous.authorityKeyIdentifier && sameOctets(point?.der, previous.issuingDistributionPoint?.der))),
  own("delta-scope-of-base", "RFC 5280 section 5.2.4", (crl: CertificateRevocationList, { base }) =>
    base === undefined || (crl.issuer.hasSameBytes(base.issuer) && crl.authorityKeyIdentifier === base.authorityKeyIdentifier && sameOctets(crl.issuingDistributionPoint?.der, base.issuingDistributionPoint?.der))),
  own("delta-number-of-base", "RFC 5280 section 5.2.3: made at one time, they share a number", ({ crlNumber, thisUpdate }: CertificateRevocationList, { base }) =>
    base === undefined || base.thisUpdate.getTime() !== thisUpdate.getTime() || base.crlNumber === crlNumber),
  own("base-names-its-delta", "RFC 5280 section 5.2.6", (_crl: CertificateRevocationList, { base }) => base === undefined || crlExtension(base, oid.freshestCrl) !== undefined),
  own("delta-after-its-base", "RFC 5280 section 5.2.4", ({ crlNumber, baseCrlNumber }: CertificateRevocationList) => baseCrlNumber === undefined || (crlNumber ?? -1n) >= baseCrlNumber),
  own("crl-number-rises", "RFC 5280 section 5.2.3", ({ crlNumber }: CertificateRevocationList, { previous }) => previous?.crlNumber === undefined || (crlNumber ?? -1n) > previous.crlNumber),
  own("this-update-rises", "platform: OpenSSL keeps the first of two CRLs of one second", ({ thisUpdate }: CertificateRevocationList, { previous }) => previous === undefined || thisUpdate.getTime() >= previous.thisUpdate.getTime() + 1000),
  own("this-update-recent", "profile: an hour back, so that revocations in quick succession need no future date", ({ thisUpdate }: CertificateRevocationList, { at }) =>
    at === undefined || at.getTime() - thisUpdate.getTime() <= 65 * minute),
  own("this-update-not-ahead", "RFC 5280 section 5.1.2.4", ({ thisUpdate }: CertificateRevocationList, { at }) => at === undefined || thisUpdate <= at),
];

/** Every rule, once. */
export const lintRules: readonly (CertificateRule | CrlRule)[] = [
  ...certificateRules.map((rule): CertificateRule => ({ appliesTo: "certificate", ...rule })),
  ...crlRules.map((rule): CrlRule => ({ appliesTo: "crl", ...rule })),
];

function failedRules<Subject, Context>(rules: readonly Omit<Rule<"certificate" | "crl", Subject, Context>, "appliesTo">[], subject: Subject, context: Context) {
  return rules.filter((rule) => !rule.check(subject, context));
}

function refuseIfAny(failed: readonly { readonly id: string; readonly citation: string }[], code: ErrorCode): void {
  const [first] = failed;
  if (first === undefined) return;
  throw new SignetError(code, `Breaks ${failed.map((rule) => `${rule.id} (${rule.citation})`).join(", ")}.`, { details: { rule: first.id, rules: failed.map((rule) => rule.id).join(" ") } });
}

/** All rules. @throws SignetError `lint-failed` with the first broken rule's id in `details.rule` and all of them in `details.rules` */
export function lintCertificate(certificate: Certificate, context: CertificateLintContext): void {
  refuseIfAny(failedRules(certificateRules, certificate, context), "lint-failed");
}

/** All rules. @throws SignetError `lint-failed`, as `lintCertificate` */
export function lintCrl(crl: CertificateRevocationList, context: CrlLintContext): void {
  refuseIfAny(failedRules(crlRules, crl, context), "lint-failed");
}

const strictCertificateRules = certificateRules.filter((rule) => rule.strict);
/** Roots that everybody trusts have the serial number 0, and RFC 5280 section 4.1.2.2 has readers bear it: nobody looks an anchor up by it. */
const strictAnchorRules = strictCertificateRules.filter((rule) => !rule.id.startsWith("serial-"));
const strictCrlRules = crlRules.filter((rule) => rule.strict);

/** What RFC 5280 demands of those who issue certificates. @throws SignetError `profile-violation` */
export function checkStrictly(certificate: Certificate, isAnchor = false): void {
  refuseIfAny(failedRules(isAnchor ? strictAnchorRules : strictCertificateRules, certificate, {}), "profile-violation");
}

/** What RFC 5280 demands of those who issue CRLs. @throws SignetError `profile-violation` */
export function checkCrlStrictly(crl: CertificateRevocationList): void {
  refuseIfAny(failedRules(strictCrlRules, crl, {}), "profile-violation");
}
