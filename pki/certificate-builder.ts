/** Certificates under Signet's profiles, up to what is to be signed. certificate-profile.ts checks what others present. */
import "reflect-metadata";
import { webcrypto } from "node:crypto";
import * as x509 from "@peculiar/x509";
import { Certificate } from "./certificate.ts";
import { asBuffer, contextTag, encode, encodeBoolean, encodeExplicit, encodeInteger, encodeNamedBits, encodeObjectIdentifier, encodeOctetString, encodeSequence, encodeText, constructedContextTag } from "./der.ts";
import { SignetError } from "./errors.ts";
import { keyUsageBits } from "./extensions.ts";
import type { KeyUsageBit } from "./extensions.ts";
import type { KeyType } from "./keys.ts";
import { lintCertificate, subjectKeyIdentifierOf } from "./lint.ts";
import type { CertificateProfile } from "./lint.ts";
import { Name, encodeGeneralName, formatIpAddress, parseIpAddress } from "./name.ts";
import type { GeneralName } from "./name.ts";
import { oid } from "./oids.ts";
import { SubjectPublicKeyInfo } from "./signature-algorithm.ts";

export type { CertificateProfile } from "./lint.ts";

/** What the issuing CA may certify; other forms of name but URIs are shut out whole. */
export interface IssuingConstraints {
  readonly dns: readonly string[];
  /** CIDR, such as `127.0.0.0/8`, or single addresses. */
  readonly ipRanges: readonly string[];
}

export interface CertificateContent {
  readonly profile: CertificateProfile;
  /** SubjectPublicKeyInfo, DER. */
  readonly subjectPublicKey: Uint8Array;
  /** Hex, 8 to 20 octets, positive. */
  readonly serialNumber: string;
  readonly issuer: Certificate | "self";
  readonly issuerKeyType: KeyType;
  /** For a leaf: one URI, and hosts for a service's server certificate. `commonName` names a CA; in a leaf it must be one of the hosts. */
  readonly names: { readonly uri?: string; readonly dns?: readonly string[]; readonly ip?: readonly string[]; readonly commonName?: string };
  readonly notBefore: Date;
  readonly notAfter: Date;
  /** When it is issued: notBefore lies a minute before. */
  readonly at?: Date;
  /** URI of the CRL that will list the certificate if it is revoked. */
  readonly crlDistributionPoint?: string;
  /** Of an issuing CA. */
  readonly constraints?: IssuingConstraints;
  readonly trustDomain: string;
}

/**
 * DER of tbsCertificate under a profile, ready for the issuer to sign. It is built with a throw-away key of the issuer's kind,
 * so that it can be linted as a whole certificate; what is returned are the bytes that were linted.
 * @throws SignetError `lint-failed`, `request-malformed`
 */
export async function buildCertificate(content: CertificateContent): Promise<Uint8Array> {
  const { profile, issuer } = content;
  const subject = subjectName(content);
  const { signingAlgorithm, key } = await throwAwayKey(content.issuerKeyType);
  const built = await x509.X509CertificateGenerator.create(
    {
      serialNumber: content.serialNumber,
      subject: new x509.Name(subject.der as Uint8Array<ArrayBuffer>),
      issuer: new x509.Name((issuer === "self" ? subject : issuer.subject).der as Uint8Array<ArrayBuffer>),
      notBefore: content.notBefore,
      notAfter: content.notAfter,
      publicKey: content.subjectPublicKey as Uint8Array<ArrayBuffer>,
      signingKey: key as CryptoKey,
      signingAlgorithm,
      extensions: profileExtensions(content),
    },
    webcrypto as Crypto,
  );
  const certificate = Certificate.parse(new Uint8Array(built.rawData));
  lintCertificate(certificate, { profile, issuer: issuer === "self" ? certificate : issuer, ...(content.at === undefined ? {} : { at: content.at }) });
  return certificate.tbs;
}

/** CAs are O = trust domain, CN = their name. A leaf's subject is empty, unless it repeats one of its hosts as common name. */
function subjectName({ names, trustDomain }: CertificateContent): Name {
  return names.commonName === undefined ? Name.of([]) : Name.of([[oid.organizationName, trustDomain], [oid.commonName, names.commonName]]);
}

function profileExtensions(content: CertificateContent): x509.Extension[] {
  const { profile, subjectPublicKey, issuer, names, crlDistributionPoint } = content;
  const keyIdentifier = subjectKeyIdentifierOf(subjectPublicKey);
  const issuerKeyIdentifier = issuer === "self" ? keyIdentifier : issuer.extensions.subjectKeyIdentifier;
  if (issuerKeyIdentifier === undefined) throw new SignetError("profile-violation", "An issuer needs a subjectKeyIdentifier.");
  const extensions = [
    extension(oid.subjectKeyIdentifier, false, encodeOctetString(Buffer.from(keyIdentifier, "hex"))),
    extension(oid.authorityKeyIdentifier, false, encodeSequence(encode(contextTag(0), Buffer.from(issuerKeyIdentifier, "hex")))),
  ];
  if (typeof profile === "string") {
    extensions.push(extension(oid.basicConstraints, true, encodeSequence(encodeBoolean(true), encodeInteger(profile === "root" ? 1 : 0))), keyUsage(["keyCertSign", "cRLSign"]));
    if (content.constraints !== undefined) extensions.push(extension(oid.nameConstraints, true, encodeConstraints(content.constraints, content.trustDomain)));
  } else {
    const rsa = new SubjectPublicKeyInfo(subjectPublicKey).family === "rsa";
    extensions.push(
      extension(oid.basicConstraints, true, encodeSequence()),
      keyUsage(rsa ? ["digitalSignature", "keyEncipherment"] : ["digitalSignature"]),
      extension(oid.extendedKeyUsage, false, encodeSequence(encodeObjectIdentifier(profile.role === "client" ? oid.clientAuth : oid.serverAuth))),
      extension(oid.subjectAltName, names.commonName === undefined, encodeSequence(...alternativeNames(names).map(encodeGeneralName))),
    );
  }
  if (crlDistributionPoint !== undefined) {
    const fullName = encode(constructedContextTag(0), encodeText(crlDistributionPoint, contextTag(6)));
    extensions.push(extension(oid.crlDistributionPoints, false, encodeSequence(encodeSequence(encodeExplicit(0, fullName)))));
  }
  return extensions;
}

function extension(extensionOid: string, critical: boolean, value: Uint8Array): x509.Extension {
  return new x509.Extension(extensionOid, critical, value as Uint8Array<ArrayBuffer>);
}

function keyUsage(bits: readonly KeyUsageBit[]): x509.Extension {
  return extension(oid.keyUsage, true, encodeNamedBits(bits.reduce((value, bit) => value | (1 << keyUsageBits.indexOf(bit)), 0)));
}

function alternativeNames({ uri, dns = [], ip = [] }: CertificateContent["names"]): GeneralName[] {
  return [
    ...(uri === undefined ? [] : [{ kind: "uri", value: uri } as const]),
    ...dns.map((value) => ({ kind: "dns", value: value.toLowerCase() }) as const),
    ...ip.map((value) => addressName(value)),
  ];
}

function addressName(text: string): GeneralName {
  const octets = parseIpAddress(text);
  if (octets === undefined) throw new SignetError("request-malformed", `Not an IP address: ${text}.`);
  return { kind: "ip", value: formatIpAddress(octets), octets };
}

/**
 * NameConstraints with a permitted subtree for every form. Mailboxes are permitted at the host `invalid` alone, which RFC 2606
 * reserves: unlike an excluded empty subtree, every validator takes that for none. Subjects lie under O = trust domain.
 */
/** Nothing of URIs: browsers do not process that form, and refuse every certificate that has a URI under a critical constraint on URIs, as RFC 5280 section 4.2.1.10 demands. */
function encodeConstraints({ dns, ipRanges }: IssuingConstraints, trustDomain: string): Buffer {
  const bases: GeneralName[] = [
    ...orNone(dns).map((value) => ({ kind: "dns", value }) as const),
    ...(ipRanges.length === 0 ? ["0.0.0.0/32"] : ipRanges).map((range) => ({ kind: "ip", value: range, octets: addressRange(range) }) as const),
    { kind: "email", value: "invalid" },
    { kind: "directory", value: Name.of([[oid.organizationName, trustDomain]]) },
  ];
  return encodeSequence(encode(constructedContextTag(0), ...bases.map((base) => encodeSequence(encodeGeneralName(base)))));
}

const orNone = (values: readonly string[]): readonly string[] => (values.length === 0 ? ["invalid"] : values);

/** Address and mask, 8 or 32 octets. */
function addressRange(range: string): Uint8Array {
  const [address = "", prefix, ...more] = range.split("/");
  const octets = parseIpAddress(address);
  const bits = prefix === undefined ? (octets?.length ?? 0) * 8 : Number(prefix);
  if (octets === undefined || more.length > 0 || prefix === "" || !Number.isInteger(bits) || bits < 0 || bits > octets.length * 8) throw new SignetError("request-malformed", `Not an address range: ${range}.`);
  const mask = octets.map((_, index) => (0xff00 >> Math.max(0, Math.min(8, bits - index * 8))) & 0xff);
  return Buffer.concat([octets.map((octet, index) => octet & (mask[index] as number)), asBuffer(mask)]);
}

interface ThrowAwayKey {
  readonly signingAlgorithm: { readonly name: string; readonly hash?: string };
  readonly key: webcrypto.CryptoKey;
}

/** One key a kind, for the life of the process: it never signs anything that leaves it. */
const throwAwayKeys = new Map<string, Promise<ThrowAwayKey>>();

function throwAwayKey(type: KeyType): Promise<ThrowAwayKey> {
  // The length of an RSA key does not show in what is to be signed.
  const kind = type.startsWith("rsa-") ? "rsa-2048" : type;
  let pending = throwAwayKeys.get(kind);
  if (pending === undefined) {
    pending = makeThrowAwayKey(kind);
    throwAwayKeys.set(kind, pending);
  }
  return pending;
}

async function makeThrowAwayKey(kind: string): Promise<ThrowAwayKey> {
  const algorithms: Readonly<Record<string, { name: string; hash?: string; namedCurve?: string; modulusLength?: number; publicExponent?: Uint8Array }>> = {
    "rsa-2048": { name: "RSASSA-PKCS1-v1_5", hash: "SHA-256", modulusLength: 2048, publicExponent: Uint8Array.of(1, 0, 1) },
    "ec-p256": { name: "ECDSA", namedCurve: "P-256", hash: "SHA-256" },
    "ec-p384": { name: "ECDSA", namedCurve: "P-384", hash: "SHA-384" },
    ed25519: { name: "Ed25519" },
    "ml-dsa-65": { name: "ML-DSA-65" },
  };
  const algorithm = algorithms[kind];
  if (algorithm === undefined) throw new SignetError("key-rejected", `Signet does not sign with keys of type ${kind}.`);
  const pair = (await webcrypto.subtle.generateKey(algorithm as webcrypto.AlgorithmIdentifier, false, ["sign", "verify"])) as webcrypto.CryptoKeyPair;
  const { name, hash } = algorithm;
  return { signingAlgorithm: hash === undefined ? { name } : { name, hash }, key: pair.privateKey };
}
