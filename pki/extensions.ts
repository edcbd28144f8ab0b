/** Extensions of certificates, parsed once into typed values (RFC 5280 section 4.2). */
import { DerReader, asBuffer, constructedContextTag, contextTag, encode, encodeSequence, readSingle, tag } from "./der.ts";
import { SignetError } from "./errors.ts";
import { Name, readGeneralName, readGeneralNames } from "./name.ts";
import type { GeneralName } from "./name.ts";
import { oid } from "./oids.ts";

export interface Extension {
  readonly oid: string;
  readonly critical: boolean;
  /** Content of extnValue. */
  readonly value: Uint8Array;
}

/** Bits of KeyUsage, in their order (RFC 5280 section 4.2.1.3). */
export const keyUsageBits = [
  "digitalSignature",
  "nonRepudiation",
  "keyEncipherment",
  "dataEncipherment",
  "keyAgreement",
  "keyCertSign",
  "cRLSign",
  "encipherOnly",
  "decipherOnly",
] as const;
export type KeyUsageBit = (typeof keyUsageBits)[number];

export interface BasicConstraints {
  readonly ca: boolean;
  readonly pathLength?: number;
}

/** DistributionPoint (RFC 5280 section 4.2.1.13). */
export interface DistributionPoint {
  readonly fullNames?: readonly GeneralName[];
  /** nameRelativeToCRLIssuer: content of the RDN. */
  readonly relativeName?: Uint8Array;
  /** ReasonFlags as named bits: bit 1 keyCompromise ... bit 8 aACompromise. Absent means all. */
  readonly reasons?: number;
  readonly crlIssuers?: readonly GeneralName[];
}

export interface NameConstraints {
  readonly permitted: readonly GeneralName[];
  readonly excluded: readonly GeneralName[];
}

export interface PolicyMapping {
  readonly issuerDomainPolicy: string;
  readonly subjectDomainPolicy: string;
}

export interface PolicyConstraints {
  readonly requireExplicitPolicy?: number;
  readonly inhibitPolicyMapping?: number;
}

/** What a certificate's extensions say; an absent extension is an absent property. */
export interface CertificateExtensions {
  /** Every extension as it stands, in order. */
  readonly all: readonly Extension[];
  /** OIDs of critical extensions that Signet does not process, and of qualifiers in a critical certificatePolicies. */
  readonly unknownCritical: readonly string[];
  readonly basicConstraints?: BasicConstraints;
  readonly keyUsage?: ReadonlySet<KeyUsageBit>;
  /** OIDs, in order. */
  readonly extendedKeyUsage?: readonly string[];
  readonly subjectAltName?: readonly GeneralName[];
  /** Hex. */
  readonly subjectKeyIdentifier?: string;
  /** Hex of the keyIdentifier; absent also where the extension has none. */
  readonly authorityKeyIdentifier?: string;
  readonly crlDistributionPoints?: readonly DistributionPoint[];
  readonly freshestCrl?: readonly DistributionPoint[];
  readonly nameConstraints?: NameConstraints;
  /** OIDs of the policies. */
  readonly certificatePolicies?: readonly string[];
  readonly policyMappings?: readonly PolicyMapping[];
  readonly policyConstraints?: PolicyConstraints;
  /** SkipCerts. */
  readonly inhibitAnyPolicy?: number;
}

type Writable<T> = { -readonly [K in keyof T]: T[K] };

/** Reads Extensions from `reader`: one at least, no two with one OID. @throws SignetError `der-malformed` */
export function readExtensionList(reader: DerReader): Extension[] {
  const list = reader.enter(tag.sequence);
  const extensions: Extension[] = [];
  do {
    const extension = list.enter(tag.sequence);
    const extensionOid = extension.readObjectIdentifier();
    const critical = extension.readBooleanDefaultFalse();
    const value = extension.readContent(tag.octetString);
    extension.finish();
    for (const earlier of extensions) if (earlier.oid === extensionOid) throw new SignetError("der-malformed", `The extension ${extensionOid} occurs twice.`);
    if (extensions.length >= extensionsLimit) throw new SignetError("der-malformed", `There are more than ${extensionsLimit} extensions.`);
    extensions.push({ oid: extensionOid, critical, value });
  } while (!list.atEnd);
  return extensions;
}

/** Keeps the search for duplicates linear in effect; certificates in the wild have about a dozen. */
const extensionsLimit = 100;

/** @throws SignetError `der-malformed` */
export function interpretExtensions(all: readonly Extension[]): CertificateExtensions {
  const unknownCritical: string[] = [];
  const typed: Writable<CertificateExtensions> = { all, unknownCritical };
  for (const extension of all) {
    const { value } = extension;
    switch (extension.oid) {
      case oid.basicConstraints:
        typed.basicConstraints = readSingle(value, tag.sequence, readBasicConstraints);
        break;
      case oid.keyUsage:
        typed.keyUsage = readKeyUsage(value);
        break;
      case oid.extendedKeyUsage:
        typed.extendedKeyUsage = readSingle(value, tag.sequence, (list) => readList(list, (item) => item.readObjectIdentifier()));
        break;
      case oid.subjectAltName:
        typed.subjectAltName = readSingle(value, tag.sequence, readGeneralNames);
        break;
      case oid.subjectKeyIdentifier:
        typed.subjectKeyIdentifier = readKeyIdentifier(value);
        break;
      case oid.authorityKeyIdentifier: {
        const keyIdentifier = readAuthorityKeyIdentifier(value);
        if (keyIdentifier !== undefined) typed.authorityKeyIdentifier = keyIdentifier;
        break;
      }
      case oid.crlDistributionPoints:
        typed.crlDistributionPoints = readDistributionPoints(value);
        break;
      case oid.freshestCrl:
        typed.freshestCrl = readDistributionPoints(value);
        break;
      case oid.nameConstraints:
        typed.nameConstraints = readSingle(value, tag.sequence, readNameConstraints);
        break;
      case oid.certificatePolicies: {
        const information = readSingle(value, tag.sequence, (list) => readList(list, readPolicyInformation));
        typed.certificatePolicies = information.map(({ policy }) => policy);
        // Section 4.2.1.4: where the extension is critical, its qualifiers are to be understood as well.
        if (extension.critical) unknownCritical.push(...information.flatMap(({ qualifiers }) => qualifiers.filter((qualifier) => !knownPolicyQualifiers.has(qualifier))));
        break;
      }
      case oid.policyMappings:
        typed.policyMappings = readSingle(value, tag.sequence, (list) => readList(list, readPolicyMapping));
        break;
      case oid.policyConstraints:
        typed.policyConstraints = readSingle(value, tag.sequence, readPolicyConstraints);
        break;
      case oid.inhibitAnyPolicy:
        typed.inhibitAnyPolicy = readWhole(value, (reader) => reader.readCount());
        break;
      case oid.issuerAltName:
        // Nothing depends on it, so that its criticality changes nothing; it must be well formed.
        readSingle(value, tag.sequence, readGeneralNames);
        break;
      case oid.ocspNoCheck:
        // RFC 6960 section 4.2.2.2.1: an OCSP responder is not to be looked up by OCSP; here nothing is.
        break;
      case oid.authorityInfoAccess:
        // Signet fetches nothing that a certificate names here. It is never critical (section 4.2.2.1).
        readSingle(value, tag.sequence, (list) => readList(list, readAccessDescription));
        if (extension.critical) unknownCritical.push(extension.oid);
        break;
      default:
        if (extension.critical) unknownCritical.push(extension.oid);
    }
  }
  return typed;
}

/** Reads `bytes`, which must hold what `read` takes and nothing else. */
function readWhole<T>(bytes: Uint8Array, read: (reader: DerReader) => T): T {
  const reader = new DerReader(bytes);
  const value = read(reader);
  reader.finish();
  return value;
}

/** SEQUENCE SIZE (1..MAX) OF. */
function readList<T>(reader: DerReader, read: (reader: DerReader) => T): T[] {
  const items: T[] = [];
  do items.push(read(reader));
  while (!reader.atEnd);
  return items;
}

function readBasicConstraints(content: DerReader): BasicConstraints {
  // X.690 section 11.5 wants FALSE left out. Many authorities write it, RFC 8410 section 10.2 among them, and it means the same.
  const ca = content.peek() === tag.boolean && content.readBoolean();
  return content.atEnd ? { ca } : { ca, pathLength: content.readCount() };
}

/** Sets by their bits: there are few in use, and each is built once. */
const keyUsageSets = new Map<number, ReadonlySet<KeyUsageBit>>();

function readKeyUsage(value: Uint8Array): ReadonlySet<KeyUsageBit> {
  // X.690 section 11.2.2 wants zero bits at the end left out. Certificates of GnuTLS had them for years, and they mean nothing.
  const bits = readWhole(value, (reader) => reader.readNamedBits(tag.bitString, true));
  const seen = keyUsageSets.get(bits);
  if (seen !== undefined) return seen;
  // RFC 5280 section 4.2.1.3: at least one of the bits is set.
  if (bits === 0 || bits >= 1 << keyUsageBits.length) throw new SignetError("der-malformed", "KeyUsage has no bit set, or one that does not exist.");
  const set = new Set(keyUsageBits.filter((_, bit) => (bits & (1 << bit)) !== 0));
  keyUsageSets.set(bits, set);
  return set;
}

function readKeyIdentifier(value: Uint8Array): string {
  return readWhole(value, (reader) => reader.readContent(tag.octetString)).toString("hex");
}

/** Hex of the keyIdentifier of an AuthorityKeyIdentifier extension, certificate's and CRL's alike. @throws SignetError `der-malformed` */
export function readAuthorityKeyIdentifier(value: Uint8Array): string | undefined {
  return readSingle(value, tag.sequence, (content) => {
    const keyIdentifier = content.peek() === contextTag(0) ? content.readContent(contextTag(0)).toString("hex") : undefined;
    // authorityCertIssuer and authorityCertSerialNumber are both present or both absent (RFC 5280 section 4.2.1.1).
    const issuer = content.enterIf(constructedContextTag(1));
    if (issuer !== undefined) {
      readGeneralNames(issuer);
      content.readIntegerBytes(contextTag(2));
    }
    return keyIdentifier;
  });
}

function readDistributionPoints(value: Uint8Array): DistributionPoint[] {
  return readSingle(value, tag.sequence, (list) => readList(list, readDistributionPoint));
}

function readDistributionPoint(list: DerReader): DistributionPoint {
  const content = list.enter(tag.sequence);
  const name = content.enterIf(constructedContextTag(0));
  const point: Writable<DistributionPoint> = name === undefined ? {} : readDistributionPointName(name);
  if (content.peek() === contextTag(1)) point.reasons = content.readNamedBits(contextTag(1));
  const crlIssuers = content.enterIf(constructedContextTag(2));
  if (crlIssuers !== undefined) point.crlIssuers = readGeneralNames(crlIssuers);
  content.finish();
  return point;
}

/** DistributionPointName, from a reader over the content of its explicit tag. @throws SignetError `der-malformed` */
export function readDistributionPointName(explicit: DerReader): Pick<DistributionPoint, "fullNames" | "relativeName"> {
  const fullNames = explicit.enterIf(constructedContextTag(0));
  if (fullNames !== undefined) {
    explicit.finish();
    return { fullNames: readGeneralNames(fullNames) };
  }
  const relativeName = explicit.readContent(constructedContextTag(1));
  explicit.finish();
  // As the RDN that it will be at the end of a name.
  Name.parse(encodeSequence(encode(tag.set, relativeName)));
  return { relativeName };
}

function readNameConstraints(content: DerReader): NameConstraints {
  const permitted = content.enterIf(constructedContextTag(0));
  const permittedNames = permitted === undefined ? [] : readList(permitted, readSubtree);
  const excluded = content.enterIf(constructedContextTag(1));
  const excludedNames = excluded === undefined ? [] : readList(excluded, readSubtree);
  // RFC 5280 section 4.2.1.10: not an empty sequence.
  if (permitted === undefined && excluded === undefined) throw new SignetError("der-malformed", "NameConstraints is empty.");
  return { permitted: permittedNames, excluded: excludedNames };
}

function readSubtree(list: DerReader): GeneralName {
  const subtree = list.enter(tag.sequence);
  const base = readGeneralName(subtree, true);
  // minimum is 0, which DER leaves out, and maximum is absent (RFC 5280 section 4.2.1.10).
  subtree.finish();
  return base;
}

const knownPolicyQualifiers: ReadonlySet<string> = new Set([oid.cpsUri, oid.userNotice]);

/** A policy and the OIDs of its qualifiers, whose values are for people. */
function readPolicyInformation(list: DerReader): { policy: string; qualifiers: readonly string[] } {
  const information = list.enter(tag.sequence);
  const policy = information.readObjectIdentifier();
  const qualifierList = information.enterIf(tag.sequence);
  const readQualifier = (qualifiers: DerReader): string => {
    const qualifier = qualifiers.enter(tag.sequence);
    const qualifierId = qualifier.readObjectIdentifier();
    qualifier.next();
    qualifier.finish();
    return qualifierId;
  };
  const qualifiers = qualifierList === undefined ? [] : readList(qualifierList, readQualifier);
  information.finish();
  return { policy, qualifiers };
}

function readAccessDescription(list: DerReader): void {
  const description = list.enter(tag.sequence);
  description.readObjectIdentifier();
  readGeneralName(description);
  description.finish();
}

function readPolicyMapping(list: DerReader): PolicyMapping {
  const mapping = list.enter(tag.sequence);
  const issuerDomainPolicy = mapping.readObjectIdentifier();
  const subjectDomainPolicy = mapping.readObjectIdentifier();
  mapping.finish();
  return { issuerDomainPolicy, subjectDomainPolicy };
}

function readPolicyConstraints(content: DerReader): PolicyConstraints {
  const constraints: Writable<PolicyConstraints> = {};
  if (content.peek() === contextTag(0)) constraints.requireExplicitPolicy = content.readCount(contextTag(0));
  if (content.peek() === contextTag(1)) constraints.inhibitPolicyMapping = content.readCount(contextTag(1));
  return constraints;
}

/** The extension under an OID, as it stands. */
export function findExtension(all: readonly Extension[], extensionOid: string): Extension | undefined {
  return all.find((extension) => extension.oid === extensionOid);
}

/** Serial numbers are hex of the INTEGER's magnitude; a negative one, which RFC 5280 forbids but readers meet, is "-" and its content. */
export function serialNumberHex(integer: Uint8Array): string {
  const bytes = asBuffer(integer);
  const first = bytes[0] as number;
  if (first >= 0x80) return `-${bytes.toString("hex")}`;
  return first === 0 && bytes.length > 1 ? bytes.toString("hex", 1) : bytes.toString("hex");
}
