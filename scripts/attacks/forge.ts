/**
 * Mallory's forge: certificates and CRLs of any shape, well formed or hostile, without a rule in the way. node-forge's
 * ASN.1 writer lays out the DER and node:crypto signs; keys are P-256. Nothing here is ever used to verify.
 */
import { createHash, createPrivateKey, createPublicKey, generateKeyPairSync, randomBytes, sign, type KeyObject } from "node:crypto";
import forge from "node-forge";
import type { Laboratory, PemCredential } from "./attack.ts";

const { asn1 } = forge;
type Node = forge.asn1.Asn1;
const { Class, Type } = asn1;

const sequence = (...children: Node[]): Node => asn1.create(Class.UNIVERSAL, Type.SEQUENCE, true, children);
const set = (...children: Node[]): Node => asn1.create(Class.UNIVERSAL, Type.SET, true, children);
const primitive = (type: number, bytes: Uint8Array): Node => asn1.create(Class.UNIVERSAL, type, false, Buffer.from(bytes).toString("latin1"));
const identifier = (dotted: string): Node => asn1.create(Class.UNIVERSAL, Type.OID, false, asn1.oidToDer(dotted).getBytes());
const boolean = (value: boolean): Node => primitive(Type.BOOLEAN, Uint8Array.of(value ? 0xff : 0));
const octets = (bytes: Uint8Array): Node => primitive(Type.OCTETSTRING, bytes);
const bits = (bytes: Uint8Array, unused = 0): Node => primitive(Type.BITSTRING, Buffer.concat([Uint8Array.of(unused), bytes]));
const tagged = (tag: number, content: readonly Node[] | Uint8Array): Node =>
  content instanceof Uint8Array
    ? asn1.create(Class.CONTEXT_SPECIFIC, tag, false, Buffer.from(content).toString("latin1"))
    : asn1.create(Class.CONTEXT_SPECIFIC, tag, true, [...content]);
const encode = (node: Node): Buffer => Buffer.from(asn1.toDer(node).getBytes(), "latin1");
// Bit strings stay as they are, so that what is decoded encodes to the same bytes again. node-forge takes an options
// object here, which its published types do not know.
const decodeOptions = { strict: true, parseAllBytes: true, decodeBitStrings: false } as unknown as boolean;
const decode = (der: Uint8Array): Node => asn1.fromDer(Buffer.from(der).toString("latin1"), decodeOptions);

/** INTEGER from its magnitude in hexadecimal. */
function integer(hex: string): Node {
  const bytes = Buffer.from(hex.length % 2 === 0 ? hex : `0${hex}`, "hex");
  return primitive(Type.INTEGER, (bytes[0] ?? 0) >= 0x80 ? Buffer.concat([Uint8Array.of(0), bytes]) : bytes);
}

function time(date: Date): Node {
  const text = date.toISOString().replaceAll(/[-:T]|\.\d+/g, "");
  return date.getUTCFullYear() < 2050 ? primitive(Type.UTCTIME, Buffer.from(text.slice(2))) : primitive(Type.GENERALIZEDTIME, Buffer.from(text));
}

/** A Name: of one commonName, or the very bytes of somebody else's. */
const nameOf = (name: string | Uint8Array): Node => (typeof name === "string" ? sequence(attribute("2.5.4.3", name)) : decode(name));
const attribute = (type: string, text: string): Node => set(sequence(identifier(type), primitive(Type.UTF8, Buffer.from(text))));

/** ecdsa-with-SHA256 or sha256WithRSAEncryption, as the key wants. */
const algorithmFor = (key: KeyObject): Node =>
  key.asymmetricKeyType === "rsa"
    ? sequence(identifier("1.2.840.113549.1.1.11"), primitive(Type.NULL, new Uint8Array()))
    : sequence(identifier("1.2.840.10045.4.3.2"));

function children(node: Node): readonly Node[] {
  if (typeof node.value === "string") throw new Error("not constructed");
  return node.value;
}

function child(node: Node, index: number): Node {
  const found = children(node)[index];
  if (found === undefined) throw new Error(`no element ${index}`);
  return found;
}

function pem(label: string, der: Uint8Array): string {
  return `-----BEGIN ${label}-----\n${Buffer.from(der).toString("base64").replaceAll(/.{64}(?=.)/g, "$&\n")}\n-----END ${label}-----\n`;
}

/** Leftmost 160 bits of the SHA-256 of the key's bits (RFC 7093 section 2, method 1). */
function keyIdentifier(publicKey: KeyObject): Buffer {
  const value = child(decode(publicKey.export({ format: "der", type: "spki" })), 1).value;
  if (typeof value !== "string") throw new Error("no bit string");
  return createHash("sha256").update(Buffer.from(value, "latin1").subarray(1)).digest().subarray(0, 20);
}

export interface Issuer {
  readonly name: string | Uint8Array;
  readonly privateKey: KeyObject;
}

export interface CertificateShape {
  /** The commonName, or the DER of a whole Name. */
  readonly subject: string | Uint8Array;
  readonly publicKey: KeyObject;
  readonly issuer: Issuer;
  readonly serialNumber?: string;
  readonly notBefore?: Date;
  readonly notAfter?: Date;
  readonly authority?: { readonly pathLength?: number };
  readonly purposes?: readonly ("clientAuth" | "serverAuth" | "emailProtection")[];
  readonly uris?: readonly string[];
  readonly dns?: readonly string[];
  readonly addresses?: readonly string[];
  readonly crlDistributionPoint?: string;
}

const purposeIdentifiers = { serverAuth: "1.3.6.1.5.5.7.3.1", clientAuth: "1.3.6.1.5.5.7.3.2", emailProtection: "1.3.6.1.5.5.7.3.4" };

/** DER of a certificate of any shape. What is left out of the shape is left out of the certificate. */
export function forgeCertificate(shape: CertificateShape): Buffer {
  const extension = (oid: string, critical: boolean, value: Node): Node =>
    sequence(identifier(oid), ...(critical ? [boolean(true)] : []), octets(encode(value)));
  const names = [
    ...(shape.uris ?? []).map((uri) => tagged(6, Buffer.from(uri))),
    ...(shape.dns ?? []).map((name) => tagged(2, Buffer.from(name))),
    ...(shape.addresses ?? []).map((address) => tagged(7, Uint8Array.from(address.split(".").map(Number)))),
  ];
  const length = shape.authority?.pathLength;
  const extensions = [
    extension("2.5.29.35", false, sequence(tagged(0, keyIdentifier(createPublicKey(shape.issuer.privateKey))))),
    extension("2.5.29.14", false, octets(keyIdentifier(shape.publicKey))),
    shape.authority === undefined
      ? extension("2.5.29.19", true, sequence())
      : extension("2.5.29.19", true, sequence(boolean(true), ...(length === undefined ? [] : [integer(length.toString(16))]))),
    // keyCertSign and cRLSign, or digitalSignature.
    extension("2.5.29.15", true, shape.authority === undefined ? bits(Uint8Array.of(0x80), 7) : bits(Uint8Array.of(0x06), 1)),
    ...(shape.purposes === undefined ? [] : [extension("2.5.29.37", false, sequence(...shape.purposes.map((purpose) => identifier(purposeIdentifiers[purpose]))))]),
    ...(names.length === 0 ? [] : [extension("2.5.29.17", false, sequence(...names))]),
    ...(shape.crlDistributionPoint === undefined
      ? []
      : [extension("2.5.29.31", false, sequence(sequence(tagged(0, [tagged(0, [tagged(6, Buffer.from(shape.crlDistributionPoint))])]))))]),
  ];
  const toBeSigned = sequence(
    tagged(0, [integer("02")]),
    integer(shape.serialNumber ?? `4${randomBytes(15).toString("hex").slice(1)}`),
    algorithmFor(shape.issuer.privateKey),
    nameOf(shape.issuer.name),
    sequence(time(shape.notBefore ?? new Date(Date.now() - 60_000)), time(shape.notAfter ?? new Date(Date.now() + 86_400_000))),
    nameOf(shape.subject),
    decode(shape.publicKey.export({ format: "der", type: "spki" })),
    tagged(3, [sequence(...extensions)]),
  );
  return signed(toBeSigned, shape.issuer.privateKey);
}

function signed(toBeSigned: Node, key: KeyObject): Buffer {
  return encode(sequence(toBeSigned, algorithmFor(key), bits(sign("sha256", encode(toBeSigned), key))));
}

export interface CrlShape {
  readonly issuer: Issuer;
  /** Key whose identifier the CRL names; the signing key's own, unless Mallory pretends. */
  readonly authorityKey?: KeyObject;
  readonly number: number;
  readonly thisUpdate: Date;
  readonly nextUpdate: Date;
  readonly serialNumbers: readonly string[];
  readonly scope: { readonly only: "user"; readonly fullName: string } | { readonly only: "ca" };
}

/** DER of a CRL of any shape (RFC 5280 section 5.1). */
export function forgeCrl(shape: CrlShape): Buffer {
  const extension = (oid: string, critical: boolean, value: Node): Node =>
    sequence(identifier(oid), ...(critical ? [boolean(true)] : []), octets(encode(value)));
  const scope =
    shape.scope.only === "user"
      ? sequence(tagged(0, [tagged(0, [tagged(6, Buffer.from(shape.scope.fullName))])]), tagged(1, Uint8Array.of(0xff)))
      : sequence(tagged(2, Uint8Array.of(0xff)));
  const entries = shape.serialNumbers.map((serial) => sequence(integer(serial), time(shape.thisUpdate)));
  const toBeSigned = sequence(
    integer("01"),
    algorithmFor(shape.issuer.privateKey),
    nameOf(shape.issuer.name),
    time(shape.thisUpdate),
    time(shape.nextUpdate),
    ...(entries.length === 0 ? [] : [sequence(...entries)]),
    tagged(0, [
      sequence(
        extension("2.5.29.35", false, sequence(tagged(0, keyIdentifier(shape.authorityKey ?? createPublicKey(shape.issuer.privateKey))))),
        extension("2.5.29.20", false, integer(shape.number.toString(16))),
        extension("2.5.29.28", true, scope),
      ),
    ]),
  );
  return signed(toBeSigned, shape.issuer.privateKey);
}

export const certificatePem = (der: Uint8Array): string => pem("CERTIFICATE", der);
export const crlPem = (der: Uint8Array): string => pem("X509 CRL", der);

export interface KeyPair {
  readonly publicKey: KeyObject;
  readonly privateKey: KeyObject;
}

export const forgeKeyPair = (): KeyPair => generateKeyPairSync("ec", { namedCurve: "P-256" });

/** A certificate of this shape, with a key of its own unless one is given, and the certificates that its holder would send along. */
export function forgeCredential(shape: Omit<CertificateShape, "publicKey">, alongside = "", keys = forgeKeyPair()): PemCredential {
  const { publicKey, privateKey } = keys;
  const certificate = certificatePem(forgeCertificate({ ...shape, publicKey }));
  return { certificate, chain: certificate + alongside, key: privateKey.export({ format: "pem", type: "pkcs8" }) };
}

/** DER of the subject of a certificate in PEM. */
export function subjectOf(certificate: string): Buffer {
  const der = Buffer.from(certificate.replaceAll(/-----[^-]+-----|\s/g, ""), "base64");
  return encode(child(child(decode(der), 0), 5));
}

/** Whoever holds this certificate's key, as an issuer: whether or not it may be one. */
export const issuerFrom = (credential: PemCredential): Issuer => ({ name: subjectOf(credential.certificate), privateKey: createPrivateKey(credential.key) });

const trustDomain = "lab.signet.internal";
/** The issuing CA has the trust domain as its organizationName, without which Signet would take no leaf of it. */
const issuingName = encode(sequence(attribute("2.5.4.10", trustDomain), attribute("2.5.4.3", "Laboratory Issuing CA")));
export const laboratoryNames = { root: "Laboratory Root", issuing: issuingName, crl: "http://127.0.0.1:1/crl/leaf-0.crl" };

/** Makes the laboratory's authority: in about ten milliseconds, and for this run only. */
export function equipLaboratory(): Laboratory {
  const minutesFromNow = (minutes: number): Date => new Date(Math.floor(Date.now() / 1000) * 1000 + minutes * 60_000);
  const root = forgeKeyPair();
  const issuing = forgeKeyPair();
  const rootIssuer: Issuer = { name: laboratoryNames.root, privateKey: root.privateKey };
  const issuer: Issuer = { name: laboratoryNames.issuing, privateKey: issuing.privateKey };
  const period = { notBefore: minutesFromNow(-7 * 24 * 60), notAfter: minutesFromNow(7 * 24 * 60) };
  const rootPem = certificatePem(forgeCertificate({ subject: laboratoryNames.root, publicKey: root.publicKey, issuer: rootIssuer, authority: {}, ...period }));
  const issuingPem = certificatePem(
    forgeCertificate({ subject: laboratoryNames.issuing, publicKey: issuing.publicKey, issuer: rootIssuer, authority: { pathLength: 0 }, ...period }),
  );
  const agent = (name: string, serialNumber?: string): PemCredential =>
    forgeCredential(
      {
        subject: name,
        issuer,
        purposes: ["clientAuth"],
        uris: [`spiffe://${trustDomain}/agent/${name}`],
        crlDistributionPoint: laboratoryNames.crl,
        ...(serialNumber === undefined ? {} : { serialNumber }),
      },
      issuingPem,
    );
  const bobSerialNumber = "5b0b5b0b5b0b5b0b";
  const leafScope = { only: "user", fullName: laboratoryNames.crl } as const;
  const kept = (keys: KeyPair, certificate: string): PemCredential => ({
    certificate,
    chain: certificate,
    key: keys.privateKey.export({ format: "pem", type: "pkcs8" }),
  });
  return {
    trustDomain,
    root: kept(root, rootPem),
    issuing: kept(issuing, issuingPem),
    kms: forgeCredential(
      {
        subject: "kms",
        issuer,
        purposes: ["serverAuth"],
        uris: [`spiffe://${trustDomain}/service/kms`],
        dns: ["localhost"],
        addresses: ["127.0.0.1"],
        crlDistributionPoint: laboratoryNames.crl,
      },
      issuingPem,
    ),
    alice: agent("alice"),
    bob: agent("bob", bobSerialNumber),
    mallory: agent("mallory"),
    bobSerialNumber,
    rootCrl: crlPem(
      forgeCrl({ issuer: rootIssuer, number: 1, thisUpdate: minutesFromNow(-10), nextUpdate: minutesFromNow(30 * 24 * 60), serialNumbers: [], scope: { only: "ca" } }),
    ),
    emptyCrl: crlPem(
      forgeCrl({ issuer, number: 1, thisUpdate: minutesFromNow(-10), nextUpdate: minutesFromNow(350), serialNumbers: [], scope: leafScope }),
    ),
    bobRevokedCrl: crlPem(
      forgeCrl({ issuer, number: 2, thisUpdate: minutesFromNow(-9), nextUpdate: minutesFromNow(351), serialNumbers: [bobSerialNumber], scope: leafScope }),
    ),
  };
}
