/** Certification requests (PKCS #10, RFC 2986). Only the key is taken from one, and only with proof of possession. */
import type { KeyObject } from "node:crypto";
import { DerReader, constructedContextTag, tag } from "./der.ts";
import { SignetError } from "./errors.ts";
import { interpretExtensions, readExtensionList } from "./extensions.ts";
import { Name } from "./name.ts";
import type { GeneralName } from "./name.ts";
import { oid } from "./oids.ts";
import { pemDecodeAll, pemEncode } from "./pem.ts";
import { SubjectPublicKeyInfo, readSignatureAlgorithm, verifySignature } from "./signature-algorithm.ts";
import type { SignatureAlgorithm } from "./signature-algorithm.ts";

/** Longest request that is read, in octets. */
const requestOctetsLimit = 1 << 16;

export class CertificateRequest {
  readonly der: Uint8Array;
  /** certificationRequestInfo: the bytes that are signed. */
  readonly tbs: Uint8Array;
  readonly signature: Uint8Array;
  readonly signatureAlgorithm: SignatureAlgorithm;
  readonly subject: Name;
  readonly subjectPublicKeyInfo: SubjectPublicKeyInfo;
  /** subjectAltName of the extensionRequest attribute: what the requester wishes, never what it gets. */
  readonly requestedNames: readonly GeneralName[];

  private constructor(der: Buffer) {
    const outer = new DerReader(der);
    const request = outer.enter(tag.sequence);
    outer.finish();
    const tbsStart = request.position;
    const tbs = request.enter(tag.sequence);
    this.der = der;
    this.tbs = der.subarray(tbsStart, request.position);
    this.signatureAlgorithm = readSignatureAlgorithm(request);
    this.signature = request.readBitStringOctets();
    request.finish();

    if (tbs.readCount() !== 0) throw malformed("version is not 1");
    this.subject = Name.read(tbs);
    this.subjectPublicKeyInfo = new SubjectPublicKeyInfo(tbs.readElement(tag.sequence));
    this.requestedNames = readRequestedNames(tbs.enter(constructedContextTag(0)));
    tbs.finish();
  }

  /** @throws SignetError `csr-malformed` */
  static parse(der: Uint8Array): CertificateRequest {
    if (der.length > requestOctetsLimit) throw malformed(`longer than ${requestOctetsLimit} octets`);
    try {
      return new CertificateRequest(Buffer.from(der));
    } catch (cause) {
      if (cause instanceof SignetError && cause.code === "der-malformed") throw malformed(cause.message, cause);
      throw cause;
    }
  }

  /** The only request in a PEM text, under either label that is in use. @throws SignetError `pem-malformed`, `csr-malformed` */
  static fromPem(text: string): CertificateRequest {
    const [block, ...more] = pemDecodeAll(text).filter(({ label }) => label === "CERTIFICATE REQUEST" || label === "NEW CERTIFICATE REQUEST");
    if (block === undefined || more.length > 0) throw new SignetError("pem-malformed", "Exactly one block CERTIFICATE REQUEST is expected.");
    return CertificateRequest.parse(block.der);
  }

  /** DER of subjectPublicKeyInfo. */
  get spki(): Uint8Array {
    return this.subjectPublicKeyInfo.der;
  }

  /** @throws SignetError `key-rejected` */
  get publicKey(): KeyObject {
    return this.subjectPublicKeyInfo.keyObject;
  }

  /**
   * Checks that the request is signed by the key in it, with SHA-256 or better.
   * @throws SignetError `csr-signature-invalid`
   */
  verifyPossession(): void {
    const { hash } = this.signatureAlgorithm;
    if (hash === "sha1" || hash === "sha224" || !verifySignature(this.signatureAlgorithm, this.subjectPublicKeyInfo, this.tbs, this.signature)) {
      throw new SignetError("csr-signature-invalid", "The request is not signed by the key in it.");
    }
  }

  toPem(): string {
    return pemEncode("CERTIFICATE REQUEST", this.der);
  }
}

function readRequestedNames(attributes: DerReader): readonly GeneralName[] {
  let names: readonly GeneralName[] = [];
  let seen = false;
  while (!attributes.atEnd) {
    const attribute = attributes.enter(tag.sequence);
    const type = attribute.readObjectIdentifier();
    const values = attribute.enter(tag.set);
    attribute.finish();
    if (type !== oid.extensionRequest) continue;
    if (seen) throw malformed("two extensionRequest attributes");
    seen = true;
    names = interpretExtensions(readExtensionList(values)).subjectAltName ?? [];
    values.finish();
  }
  return names;
}

function malformed(reason: string, cause?: unknown): SignetError {
  return new SignetError("csr-malformed", `Not a certification request: ${reason}`, { cause });
}
