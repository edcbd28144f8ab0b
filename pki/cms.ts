/** Certificates-only messages (RFC 5652 SignedData without signers), as EST answers with them (RFC 7030 section 4.1.3). */
import { Certificate } from "./certificate.ts";
import { DerReader, constructedContextTag, encode, encodeExplicit, encodeInteger, encodeObjectIdentifier, encodeSequence, encodeSetOf, tag } from "./der.ts";
import { SignetError } from "./errors.ts";
import { oid } from "./oids.ts";

/** Most certificates that one message may hold. */
const certificatesLimit = 64;

/** DER of a certs-only message. The set has no order: a reader builds the chain by itself. */
export function certsOnly(certificates: readonly Certificate[]): Uint8Array {
  const set = [...certificates].map((certificate) => certificate.der).sort(Buffer.compare);
  const signedData = encodeSequence(
    encodeInteger(1),
    encodeSetOf([]),
    encodeSequence(encodeObjectIdentifier(oid.pkcs7Data)),
    encode(constructedContextTag(0), ...set),
    encodeSetOf([]),
  );
  return encodeSequence(encodeObjectIdentifier(oid.pkcs7SignedData), encodeExplicit(0, signedData));
}

/**
 * Certificates of a certs-only message, in the order they stand in.
 * @throws SignetError `cms-malformed`, `certificate-malformed`
 */
export function parseCertsOnly(der: Uint8Array): Certificate[] {
  try {
    return readCertificates(der).map((certificate) => Certificate.parse(certificate));
  } catch (cause) {
    if (cause instanceof SignetError && cause.code === "der-malformed") throw new SignetError("cms-malformed", `Not a certs-only message: ${cause.message}`, { cause });
    throw cause;
  }
}

function readCertificates(der: Uint8Array): Uint8Array[] {
  const outer = new DerReader(der);
  const contentInfo = outer.enter(tag.sequence);
  outer.finish();
  const refuse = (reason: string): never => {
    throw new SignetError("cms-malformed", `Not a certs-only message: ${reason}.`);
  };
  if (contentInfo.readObjectIdentifier() !== oid.pkcs7SignedData) refuse("no SignedData");
  const explicit = contentInfo.enter(constructedContextTag(0));
  contentInfo.finish();
  const signedData = explicit.enter(tag.sequence);
  explicit.finish();
  if (signedData.readCount() !== 1) refuse("version is not 1");
  if (signedData.readContent(tag.set).length > 0) refuse("it names digest algorithms");
  const content = signedData.enter(tag.sequence);
  if (content.readObjectIdentifier() !== oid.pkcs7Data || !content.atEnd) refuse("it has content");
  const certificates = signedData.enter(constructedContextTag(0));
  const list: Uint8Array[] = [];
  while (!certificates.atEnd) {
    list.push(certificates.readElement(tag.sequence));
    if (list.length > certificatesLimit) refuse(`more than ${certificatesLimit} certificates`);
  }
  // CRLs may stand here (RFC 5652 section 5.1); nobody in EST reads them.
  if (signedData.peek() === constructedContextTag(1)) signedData.next();
  if (signedData.readContent(tag.set).length > 0) refuse("it has signers");
  signedData.finish();
  return list;
}
