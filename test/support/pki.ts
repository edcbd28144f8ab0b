/**
 * Authorities in memory, for tests. `testAuthority` issues under Signet's own profiles, as the CA does; `forge` signs any
 * certificate at all, good or bad, from parts that a test chooses.
 */
import { createHash, generateKeyPairSync, randomBytes, sign } from "node:crypto";
import type { KeyObject } from "node:crypto";
import { Certificate, assembleSigned } from "#pki/certificate.ts";
import { buildCertificate } from "#pki/certificate-builder.ts";
import type { CertificateContent } from "#pki/certificate-builder.ts";
import { identityUri } from "#pki/certificate-profile.ts";
import type { IdentityKind, Role } from "#pki/certificate-profile.ts";
import { CertificateRevocationList, crlToBeSigned } from "#pki/crl.ts";
import type { CrlContent, RevokedEntry } from "#pki/crl.ts";
import {
  constructedContextTag,
  contextTag,
  encode,
  encodeBoolean,
  encodeExplicit,
  encodeInteger,
  encodeIntegerHex,
  encodeNamedBits,
  encodeObjectIdentifier,
  encodeOctetString,
  encodeSequence,
  encodeText,
  encodeTime,
} from "#pki/der.ts";
import { keyUsageBits } from "#pki/extensions.ts";
import type { KeyUsageBit } from "#pki/extensions.ts";
import { Name, encodeGeneralName, parseIpAddress } from "#pki/name.ts";
import type { GeneralName } from "#pki/name.ts";
import { oid } from "#pki/oids.ts";

export interface KeyPair {
  readonly privateKey: KeyObject;
  readonly publicKey: KeyObject;
}

export type TestKeyType = "ec-p256" | "ec-p384" | "ec-p521" | "ed25519" | "ml-dsa-44" | "ml-dsa-65" | "ml-dsa-87" | "rsa-2048" | "rsa-1024";

export function testKeyPair(type: TestKeyType = "ec-p256"): KeyPair {
  if (type.startsWith("ec-")) return generateKeyPairSync("ec", { namedCurve: type.replace("ec-p", "P-") });
  if (type.startsWith("rsa-")) return generateKeyPairSync("rsa", { modulusLength: Number(type.slice(4)) });
  // The types of @types/node know the plain algorithms by overload only.
  return generateKeyPairSync(type as "ed25519");
}

export const spkiOf = (key: KeyObject): Uint8Array => key.export({ type: "spki", format: "der" });

/** AlgorithmIdentifiers in hex, and the digest that node:crypto wants with each. */
export const signatureAlgorithms = {
  "ec-p256": { der: "300a06082a8648ce3d040302", digest: "sha256" },
  "ec-p384": { der: "300a06082a8648ce3d040303", digest: "sha384" },
  "ec-p521": { der: "300a06082a8648ce3d040304", digest: "sha512" },
  "ed25519": { der: "300506032b6570", digest: null },
  "ml-dsa-44": { der: "300b0609608648016503040311", digest: null },
  "ml-dsa-65": { der: "300b0609608648016503040312", digest: null },
  "ml-dsa-87": { der: "300b0609608648016503040313", digest: null },
  "rsa": { der: "300d06092a864886f70d01010b0500", digest: "sha256" },
  "rsa-sha1": { der: "300d06092a864886f70d0101050500", digest: "sha1" },
} as const;
export type SignatureAlgorithmName = keyof typeof signatureAlgorithms;

const curveNames: Readonly<Record<string, SignatureAlgorithmName>> = { prime256v1: "ec-p256", secp384r1: "ec-p384", secp521r1: "ec-p521" };

export function algorithmFor(key: KeyObject): SignatureAlgorithmName {
  const curve = key.asymmetricKeyDetails?.namedCurve;
  return curve === undefined ? (key.asymmetricKeyType as SignatureAlgorithmName) : (curveNames[curve] ?? "ec-p256");
}

export function signToBeSigned(tbs: Uint8Array, key: KeyObject, algorithm: SignatureAlgorithmName = algorithmFor(key)): Uint8Array {
  const { der, digest } = signatureAlgorithms[algorithm];
  return assembleSigned(tbs, Buffer.from(der, "hex"), sign(digest, tbs, key));
}

export const dns = (value: string): GeneralName => ({ kind: "dns", value });
export const uri = (value: string): GeneralName => ({ kind: "uri", value });
export const email = (value: string): GeneralName => ({ kind: "email", value });
/** An address, or in constraints a CIDR range written as address and mask: `10.0.0.0/255.0.0.0`. */
export const ip = (text: string): GeneralName => ({ kind: "ip", value: text, octets: Buffer.concat(text.split("/").map((part) => parseIpAddress(part) ?? Buffer.from(part, "hex"))) });
export const directory = (...attributes: (readonly [string, string])[]): GeneralName => ({ kind: "directory", value: Name.of(attributes) });

/** DER of one Extension. */
export const extension = (extensionOid: string, critical: boolean, value: Uint8Array): Uint8Array =>
  encodeSequence(encodeObjectIdentifier(extensionOid), ...(critical ? [encodeBoolean(true)] : []), encodeOctetString(value));

export const keyIdentifier = (key: KeyObject): string => createHash("sha256").update(spkiOf(key)).digest("hex").slice(0, 40);

/** Extensions by what they say; each gives the DER of one Extension. */
export const extensions = {
  basicConstraints: (ca: boolean, pathLength?: number, critical = true) =>
    extension(oid.basicConstraints, critical, encodeSequence(...(ca ? [encodeBoolean(true)] : []), ...(pathLength === undefined ? [] : [encodeInteger(pathLength)]))),
  keyUsage: (...bits: KeyUsageBit[]) => extension(oid.keyUsage, true, encodeNamedBits(bits.reduce((value, bit) => value | (1 << keyUsageBits.indexOf(bit)), 0))),
  extendedKeyUsage: (...oids: string[]) => extension(oid.extendedKeyUsage, false, encodeSequence(...oids.map((one) => encodeObjectIdentifier(one)))),
  subjectAltName: (names: readonly GeneralName[], critical = false) => extension(oid.subjectAltName, critical, encodeSequence(...names.map(encodeGeneralName))),
  subjectKeyIdentifier: (hex: string, critical = false) => extension(oid.subjectKeyIdentifier, critical, encodeOctetString(Buffer.from(hex, "hex"))),
  authorityKeyIdentifier: (hex: string, critical = false) => extension(oid.authorityKeyIdentifier, critical, encodeSequence(encode(contextTag(0), Buffer.from(hex, "hex")))),
  nameConstraints: (i: { permitted?: readonly GeneralName[]; excluded?: readonly GeneralName[] }, critical = true) => {
    const subtrees = (number: number, bases: readonly GeneralName[] = []) => (bases.length === 0 ? [] : [encode(constructedContextTag(number), ...bases.map((base) => encodeSequence(encodeGeneralName(base))))]);
    return extension(oid.nameConstraints, critical, encodeSequence(...subtrees(0, i.permitted), ...subtrees(1, i.excluded)));
  },
  certificatePolicies: (...policies: string[]) => extension(oid.certificatePolicies, false, encodeSequence(...policies.map((policy) => encodeSequence(encodeObjectIdentifier(policy))))),
  policyMappings: (...mappings: (readonly [issuer: string, subject: string])[]) =>
    extension(oid.policyMappings, true, encodeSequence(...mappings.map(([issuer, subject]) => encodeSequence(encodeObjectIdentifier(issuer), encodeObjectIdentifier(subject))))),
  policyConstraints: (i: { requireExplicitPolicy?: number; inhibitPolicyMapping?: number }, critical = true) =>
    extension(
      oid.policyConstraints,
      critical,
      encodeSequence(
        ...(i.requireExplicitPolicy === undefined ? [] : [encodeInteger(i.requireExplicitPolicy, contextTag(0))]),
        ...(i.inhibitPolicyMapping === undefined ? [] : [encodeInteger(i.inhibitPolicyMapping, contextTag(1))]),
      ),
    ),
  inhibitAnyPolicy: (skip: number, critical = true) => extension(oid.inhibitAnyPolicy, critical, encodeInteger(skip)),
  crlDistributionPoint: (url: string) =>
    extension(oid.crlDistributionPoints, false, encodeSequence(encodeSequence(encodeExplicit(0, encode(constructedContextTag(0), encodeText(url, contextTag(6))))))),
} as const;

export interface ForgedContent {
  readonly subject: Name;
  readonly issuer: Name;
  readonly publicKey: KeyObject;
  readonly serialNumber?: string;
  readonly notBefore?: Date;
  readonly notAfter?: Date;
  /** DER of validity, instead of the two dates. */
  readonly validity?: Uint8Array;
  readonly extensions?: readonly Uint8Array[];
  readonly version?: 1 | 3;
  /** Elements between the key and the extensions: unique identifiers. */
  readonly beforeExtensions?: readonly Uint8Array[];
}

/** A certificate with exactly this content, signed by `signer`. */
export function forge(content: ForgedContent, signer: KeyObject, algorithm: SignatureAlgorithmName = algorithmFor(signer)): Certificate {
  const version = content.version ?? 3;
  const tbs = encodeSequence(
    ...(version === 3 ? [encodeExplicit(0, encodeInteger(2))] : []),
    encodeIntegerHex(content.serialNumber ?? newSerialNumber()),
    Buffer.from(signatureAlgorithms[algorithm].der, "hex"),
    content.issuer.der,
    content.validity ?? encodeSequence(encodeTime(content.notBefore ?? testTime.notBefore), encodeTime(content.notAfter ?? testTime.notAfter)),
    content.subject.der,
    spkiOf(content.publicKey),
    ...(content.beforeExtensions ?? []),
    ...(content.extensions === undefined || content.extensions.length === 0 ? [] : [encodeExplicit(3, encodeSequence(...content.extensions))]),
  );
  return Certificate.parse(signToBeSigned(tbs, signer, algorithm));
}

export interface ForgedCrlContent {
  readonly issuer: Name;
  /** DER elements instead of the usual times. */
  readonly thisUpdate?: Uint8Array;
  readonly nextUpdate?: Uint8Array;
  /** DER of each entry. */
  readonly entries?: readonly Uint8Array[];
  readonly extensions?: readonly Uint8Array[];
  readonly version?: 1 | 2;
}

/** One entry of a CRL, with extensions as they are given. */
export const crlEntry = (serialNumber: string, ...list: readonly Uint8Array[]): Uint8Array =>
  encodeSequence(encodeIntegerHex(serialNumber), encodeTime(testTime.notBefore), ...(list.length === 0 ? [] : [encodeSequence(...list)]));

export const reasonCode = (reason: number, critical = false): Uint8Array => extension(oid.reasonCode, critical, Buffer.of(0x0a, 1, reason));

/** Content of an IssuingDistributionPoint. */
export const issuingDistributionPoint = (i: { fullName?: GeneralName; user?: boolean; ca?: boolean; attribute?: boolean; reasons?: number; indirect?: boolean }): Uint8Array => {
  const flag = (number: number, set?: boolean) => (set === true ? [encode(contextTag(number), Buffer.of(0xff))] : []);
  return encodeSequence(
    ...(i.fullName === undefined ? [] : [encodeExplicit(0, encode(constructedContextTag(0), encodeGeneralName(i.fullName)))]),
    ...flag(1, i.user),
    ...flag(2, i.ca),
    ...(i.reasons === undefined ? [] : [encodeNamedBits(i.reasons, contextTag(3))]),
    ...flag(4, i.indirect),
    ...flag(5, i.attribute),
  );
};

/** Extensions of CRLs by what they say; each gives the DER of one Extension. */
export const crlExtensions = {
  crlNumber: (number: number | bigint, critical = false) => extension(oid.crlNumber, critical, encodeInteger(number)),
  deltaCrlIndicator: (base: number, critical = true) => extension(oid.deltaCrlIndicator, critical, encodeInteger(base)),
  issuingDistributionPoint: (i: Parameters<typeof issuingDistributionPoint>[0], critical = true) => extension(oid.issuingDistributionPoint, critical, issuingDistributionPoint(i)),
  freshestCrl: (url: string, critical = false) =>
    extension(oid.freshestCrl, critical, encodeSequence(encodeSequence(encodeExplicit(0, encode(constructedContextTag(0), encodeText(url, contextTag(6))))))),
  authorityKeyIdentifier: (hex: string, critical = false) => extensions.authorityKeyIdentifier(hex, critical),
} as const;

/** A CRL with exactly this content, signed by `signer`; this and next update are an hour around `testTime.now` unless told otherwise. */
export function forgeCrl(content: ForgedCrlContent, signer: KeyObject, algorithm: SignatureAlgorithmName = algorithmFor(signer)): CertificateRevocationList {
  const around = (hours: number): Uint8Array => encodeTime(new Date(testTime.now.getTime() + hours * 3_600_000));
  const tbs = encodeSequence(
    ...(content.version === 1 ? [] : [encodeInteger(1)]),
    Buffer.from(signatureAlgorithms[algorithm].der, "hex"),
    content.issuer.der,
    content.thisUpdate ?? around(-1),
    content.nextUpdate ?? around(1),
    ...(content.entries === undefined || content.entries.length === 0 ? [] : [encodeSequence(...content.entries)]),
    ...(content.extensions === undefined || content.extensions.length === 0 ? [] : [encodeExplicit(0, encodeSequence(...content.extensions))]),
  );
  return CertificateRevocationList.parse(signToBeSigned(tbs, signer, algorithm));
}

/** Serial number of 16 octets, positive. */
export function newSerialNumber(): string {
  const octets = randomBytes(16);
  octets[0] = ((octets[0] as number) & 0x7f) | 0x40;
  return octets.toString("hex");
}

/** The time at which tests look at certificates, and the dates that certificates have unless a test says otherwise. */
export const testTime = {
  now: new Date("2026-06-01T12:00:00Z"),
  notBefore: new Date("2026-06-01T11:00:00Z"),
  notAfter: new Date("2026-06-08T12:00:00Z"),
} as const;

export const commonName = (text: string): Name => Name.of([[oid.commonName, text]]);

/** A CA of a test's own making: name, key and certificate. */
export interface ForgedCa extends KeyPair {
  readonly name: Name;
  readonly certificate: Certificate;
}

/** A CA under `issuer`, or self-signed; `extra` extensions are added, `replace` stand in for the usual ones. */
export function forgeCa(label: string, issuer?: ForgedCa, i: { extra?: readonly Uint8Array[]; replace?: readonly Uint8Array[]; keys?: KeyPair; content?: Partial<ForgedContent>; algorithm?: SignatureAlgorithmName } = {}): ForgedCa {
  const keys = i.keys ?? testKeyPair();
  const name = commonName(label);
  const usual = [
    extensions.basicConstraints(true),
    extensions.keyUsage("keyCertSign", "cRLSign"),
    extensions.subjectKeyIdentifier(keyIdentifier(keys.publicKey)),
    extensions.authorityKeyIdentifier(keyIdentifier(issuer?.publicKey ?? keys.publicKey)),
  ];
  const certificate = forge(
    { subject: name, issuer: issuer?.name ?? name, publicKey: keys.publicKey, extensions: [...(i.replace ?? usual), ...(i.extra ?? [])], ...i.content },
    issuer?.privateKey ?? keys.privateKey,
    i.algorithm,
  );
  return { ...keys, name: certificate.subject, certificate };
}

/** An end entity under `issuer` with `extensions` besides the key identifiers. */
export function forgeLeaf(label: string, issuer: ForgedCa, i: { extensions?: readonly Uint8Array[]; keys?: KeyPair; content?: Partial<ForgedContent>; algorithm?: SignatureAlgorithmName } = {}): Certificate {
  const keys = i.keys ?? testKeyPair();
  return forge(
    {
      subject: commonName(label),
      issuer: issuer.name,
      publicKey: keys.publicKey,
      extensions: [extensions.authorityKeyIdentifier(keyIdentifier(issuer.publicKey)), ...(i.extensions ?? [])],
      ...i.content,
    },
    issuer.privateKey,
    i.algorithm,
  );
}

export interface IssuedLeaf extends KeyPair {
  readonly certificate: Certificate;
}

/** Signet's own hierarchy: root, issuing CA with name constraints, leaves by kind and role, CRLs of both. */
export interface TestAuthority {
  readonly trustDomain: string;
  readonly rootKeys: KeyPair;
  readonly root: Certificate;
  readonly issuingKeys: KeyPair;
  readonly issuing: Certificate;
  readonly crlDistributionPoint: string;
  /** A leaf; a service's server certificate has localhost and 127.0.0.1 unless told otherwise. */
  issue(i: { kind?: IdentityKind; role: Role; name: string; dns?: readonly string[]; ip?: readonly string[]; notBefore?: Date; notAfter?: Date; keys?: KeyPair }): Promise<IssuedLeaf>;
  /** The issuing CA's CRL over leaves, number 1 unless told otherwise. */
  leafCrl(entries: Iterable<RevokedEntry>, i?: Partial<Pick<CrlContent, "crlNumber" | "thisUpdate" | "nextUpdate">>): CertificateRevocationList;
  /** The root's CRL over CAs. */
  rootCrl(entries: Iterable<RevokedEntry>, i?: Partial<Pick<CrlContent, "crlNumber" | "thisUpdate" | "nextUpdate">>): CertificateRevocationList;
}

/** `now` is the time around which everything is valid: pass the real time for tests over sockets. */
export async function testAuthority(i: { now?: Date; trustDomain?: string; keyType?: "ec-p256" | "rsa-2048" } = {}): Promise<TestAuthority> {
  const now = i.now ?? testTime.now;
  const trustDomain = i.trustDomain ?? "signet.internal";
  const keyType = i.keyType ?? "ec-p256";
  const after = (hours: number): Date => new Date(now.getTime() + hours * 3_600_000);
  const rootKeys = testKeyPair(keyType);
  const issuingKeys = testKeyPair(keyType);
  const crlDistributionPoint = `http://localhost:8080/crl/leaf-0.crl`;
  const signed = async (content: CertificateContent, signer: KeyObject): Promise<Certificate> => Certificate.parse(signToBeSigned(await buildCertificate(content), signer));
  const common = { issuerKeyType: keyType, trustDomain, notBefore: after(-2) };
  const root = await signed(
    { ...common, profile: "root", subjectPublicKey: spkiOf(rootKeys.publicKey), serialNumber: newSerialNumber(), issuer: "self", names: { commonName: "Test Root CA" }, notAfter: after(24 * 365) },
    rootKeys.privateKey,
  );
  const issuing = await signed(
    {
      ...common,
      profile: "issuing",
      subjectPublicKey: spkiOf(issuingKeys.publicKey),
      serialNumber: newSerialNumber(),
      issuer: root,
      names: { commonName: "Test Issuing CA" },
      notAfter: after(24 * 300),
      crlDistributionPoint: "http://localhost:8080/crl/root.crl",
      constraints: { dns: ["localhost", `internal.${trustDomain}`], ipRanges: ["127.0.0.0/8", "::1/128"] },
    },
    rootKeys.privateKey,
  );
  const crl = (issuer: Certificate, signer: KeyObject, only: "user" | "ca", entries: Iterable<RevokedEntry>, dates: Partial<CrlContent>): CertificateRevocationList =>
    CertificateRevocationList.parse(
      signToBeSigned(
        crlToBeSigned({
          issuer,
          thisUpdate: after(-1),
          nextUpdate: after(5),
          crlNumber: 1n,
          issuingDistributionPoint: only === "user" ? { only, fullName: crlDistributionPoint } : { only },
          entries,
          signatureAlgorithm: Buffer.from(signatureAlgorithms[algorithmFor(signer)].der, "hex"),
          ...dates,
        }),
        signer,
      ),
    );
  return {
    trustDomain,
    rootKeys,
    root,
    issuingKeys,
    issuing,
    crlDistributionPoint,
    async issue({ kind = "agent", role, name, notBefore, notAfter, keys = testKeyPair(), ...hosts }) {
      const isServer = kind === "service" && role === "server";
      const certificate = await signed(
        {
          ...common,
          profile: { kind, role },
          subjectPublicKey: spkiOf(keys.publicKey),
          serialNumber: newSerialNumber(),
          issuer: issuing,
          names: { uri: identityUri(trustDomain, kind, name), dns: hosts.dns ?? (isServer ? ["localhost"] : []), ip: hosts.ip ?? (isServer ? ["127.0.0.1"] : []) },
          notBefore: notBefore ?? after(-1),
          notAfter: notAfter ?? after(24),
          crlDistributionPoint,
        },
        issuingKeys.privateKey,
      );
      return { ...keys, certificate };
    },
    leafCrl: (entries, dates = {}) => crl(issuing, issuingKeys.privateKey, "user", entries, dates),
    rootCrl: (entries, dates = {}) => crl(root, rootKeys.privateKey, "ca", entries, dates),
  };
}
