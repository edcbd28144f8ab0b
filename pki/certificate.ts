/** X.509 certificates (RFC 5280 section 4). */
import { hash } from "node:crypto";
import type { KeyObject } from "node:crypto";
import { DerReader, asBuffer, constructedContextTag, contextTag, encode, encodeBitString, prescribedTimeTag, tag } from "./der.ts";
import { SignetError } from "./errors.ts";
import { interpretExtensions, readExtensionList, serialNumberHex } from "./extensions.ts";
import type { CertificateExtensions } from "./extensions.ts";
import { Name } from "./name.ts";
import { pemDecodeLabel, pemDecodeOne, pemEncode } from "./pem.ts";
import { SubjectPublicKeyInfo, readSignatureAlgorithm, verifySignature } from "./signature-algorithm.ts";
import type { SignatureAlgorithm } from "./signature-algorithm.ts";

export type { CertificateExtensions, DistributionPoint, KeyUsageBit, NameConstraints } from "./extensions.ts";

/** What names a certificate: a serial number alone names nothing, since every issuer counts for itself. */
export interface CertificateId {
  /** keyIdentifier of the certificate's AuthorityKeyIdentifier, hex; empty where it has none. */
  readonly issuerKeyId: string;
  /** Hex, as `Certificate.serialNumber`. */
  readonly serialNumber: string;
}

/** One text for one id, for keys of a Map. */
export function certificateIdKey(id: CertificateId): string {
  return `${id.issuerKeyId}:${id.serialNumber}`;
}

/** Longest certificate that is read, in octets. ML-DSA-87 with long names stays under 20,000. */
const certificateOctetsLimit = 1 << 20;

/** A certificate whose encoding has been checked whole. Nothing is said of its signature or validity: that is path-validation.ts. */
export class Certificate {
  /** The whole certificate. */
  readonly der: Uint8Array;
  /** tbsCertificate: the bytes that are signed. */
  readonly tbs: Uint8Array;
  /** Octets of signatureValue. */
  readonly signature: Uint8Array;
  readonly signatureAlgorithm: SignatureAlgorithm;
  /** 1, 2 or 3. */
  readonly version: number;
  /** Hex of the INTEGER, lower case, without a leading 00 octet; "-" in front where it is negative. */
  readonly serialNumber: string;
  /** Content octets of the same INTEGER. */
  readonly serialNumberOctets: Uint8Array;
  readonly issuer: Name;
  readonly subject: Name;
  /** Milliseconds since 1970; `notBefore` and `notAfter` are the same as dates. */
  readonly notBeforeTime: number;
  readonly notAfterTime: number;
  /** Both times are UTCTime through 2049 and GeneralizedTime after (RFC 5280 section 4.1.2.5). */
  readonly hasPrescribedTimes: boolean;
  readonly hasUniqueIdentifiers: boolean;
  readonly subjectPublicKeyInfo: SubjectPublicKeyInfo;
  readonly extensions: CertificateExtensions;
  #fingerprint: string | undefined;
  #spkiFingerprint: string | undefined;
  #selfIssued: boolean | undefined;
  /** The key that the signature was last found to be by: bytes do not change, and neither does the finding. */
  #signedBy: SubjectPublicKeyInfo | undefined;

  private constructor(der: Buffer) {
    const outer = new DerReader(der);
    const certificate = outer.enter(tag.sequence);
    outer.finish();
    const tbsStart = certificate.position;
    const tbs = certificate.enter(tag.sequence);
    this.der = der;
    this.tbs = der.subarray(tbsStart, certificate.position);
    this.signatureAlgorithm = readSignatureAlgorithm(certificate);
    this.signature = certificate.readBitStringOctets();
    certificate.finish();

    const version = tbs.enterIf(constructedContextTag(0));
    this.version = version === undefined ? 1 : version.readCount() + 1;
    version?.finish();
    if (version !== undefined && this.version !== 2 && this.version !== 3) throw malformed(`version ${this.version}`);
    this.serialNumberOctets = tbs.readIntegerBytes();
    this.serialNumber = serialNumberHex(this.serialNumberOctets);
    const innerAlgorithm = readSignatureAlgorithm(tbs);
    if (innerAlgorithm !== this.signatureAlgorithm && !asBuffer(innerAlgorithm.der).equals(this.signatureAlgorithm.der)) throw malformed("the two signature algorithms differ (RFC 5280 section 4.1.1.2)");
    this.issuer = Name.read(tbs);
    if (this.issuer.isEmpty) throw malformed("the issuer is empty (RFC 5280 section 4.1.2.4)");
    const validity = tbs.enter(tag.sequence);
    const notBeforeTag = validity.peek();
    this.notBeforeTime = validity.readTime();
    const notAfterTag = validity.peek();
    this.notAfterTime = validity.readTime();
    validity.finish();
    this.hasPrescribedTimes = notBeforeTag === prescribedTimeTag(this.notBeforeTime) && notAfterTag === prescribedTimeTag(this.notAfterTime);
    this.subject = Name.read(tbs);
    this.subjectPublicKeyInfo = new SubjectPublicKeyInfo(tbs.readElement(tag.sequence));
    // issuerUniqueID and subjectUniqueID: of versions 2 and 3, and of no meaning here.
    let uniqueIdentifiers = 0;
    for (const number of [1, 2]) {
      if (tbs.peek() !== contextTag(number)) continue;
      tbs.skipBitString(contextTag(number));
      uniqueIdentifiers++;
    }
    this.hasUniqueIdentifiers = uniqueIdentifiers > 0;
    if (this.hasUniqueIdentifiers && this.version === 1) throw malformed("unique identifiers need version 2");
    const extensions = tbs.enterIf(constructedContextTag(3));
    if (extensions !== undefined && this.version !== 3) throw malformed("extensions need version 3");
    this.extensions = interpretExtensions(extensions === undefined ? [] : readExtensionList(extensions));
    extensions?.finish();
    tbs.finish();
  }

  /**
   * Reads a certificate. The bytes are copied once, so that nobody can change what has been checked; everything after is a view.
   * @throws SignetError `certificate-malformed`
   */
  static parse(der: Uint8Array): Certificate {
    if (der.length > certificateOctetsLimit) throw malformed(`longer than ${certificateOctetsLimit} octets`);
    try {
      return new Certificate(Buffer.from(der));
    } catch (cause) {
      if (cause instanceof SignetError && cause.code === "der-malformed") throw malformed(cause.message, cause);
      throw cause;
    }
  }

  /** The only certificate in a PEM text. @throws SignetError `pem-malformed`, `certificate-malformed` */
  static fromPem(text: string): Certificate {
    return Certificate.parse(pemDecodeOne(text, "CERTIFICATE"));
  }

  /** All certificates in a PEM text, in order; none is an empty list. @throws SignetError `pem-malformed`, `certificate-malformed` */
  static listFromPem(text: string): Certificate[] {
    return pemDecodeLabel(text, "CERTIFICATE").map((der) => Certificate.parse(der));
  }

  get notBefore(): Date {
    return new Date(this.notBeforeTime);
  }

  get notAfter(): Date {
    return new Date(this.notAfterTime);
  }

  /** DER of subjectPublicKeyInfo. */
  get spki(): Uint8Array {
    return this.subjectPublicKeyInfo.der;
  }

  /** @throws SignetError `key-rejected` */
  get publicKey(): KeyObject {
    return this.subjectPublicKeyInfo.keyObject;
  }

  /** Such as `rsa-3072`, `ec-p256`, `ed25519`, `ml-dsa-65`; `unknown` for what Signet does not use. */
  get publicKeyType(): string {
    return this.subjectPublicKeyInfo.type;
  }

  /** SHA-256 of `der`, hex. */
  get fingerprint(): string {
    return (this.#fingerprint ??= hash("sha256", this.der, "hex"));
  }

  /** SHA-256 of `spki`, hex. */
  get spkiFingerprint(): string {
    return (this.#spkiFingerprint ??= hash("sha256", this.spki, "hex"));
  }

  get id(): CertificateId {
    return { issuerKeyId: this.extensions.authorityKeyIdentifier ?? "", serialNumber: this.serialNumber };
  }

  /** What a message for people calls it: its subject, else the first URI or DNS name that it has. Decides nothing. */
  get label(): string {
    const subject = this.subject.toString();
    if (subject !== "") return subject;
    const name = this.extensions.subjectAltName?.find(({ kind }) => kind === "uri" || kind === "dns");
    return typeof name?.value === "string" ? name.value : "(no subject)";
  }

  /** Subject and issuer are the same name (RFC 5280 section 3.2); the keys may differ. */
  get isSelfIssued(): boolean {
    return (this.#selfIssued ??= this.subject.equals(this.issuer));
  }

  /** Whether the signature is one by this key. */
  isSignedBy(key: SubjectPublicKeyInfo): boolean {
    if (this.#signedBy === key) return true;
    const signed = verifySignature(this.signatureAlgorithm, key, this.tbs, this.signature);
    if (signed) this.#signedBy = key;
    return signed;
  }

  /** Whether both are the same octets. */
  equals(other: Certificate): boolean {
    return this === other || asBuffer(this.der).equals(other.der);
  }

  /** One CERTIFICATE block in lines of 64 characters (RFC 7468). */
  toPem(): string {
    return pemEncode("CERTIFICATE", this.der);
  }
}

function malformed(reason: string, cause?: unknown): SignetError {
  return new SignetError("certificate-malformed", `Not a certificate: ${reason}`, { cause });
}

/** A signed structure out of its parts: Certificate, CertificateList and CertificationRequest are all alike. */
export function assembleSigned(tbs: Uint8Array, signatureAlgorithmDer: Uint8Array, signature: Uint8Array): Uint8Array {
  return encode(tag.sequence, tbs, signatureAlgorithmDer, encodeBitString(signature));
}
