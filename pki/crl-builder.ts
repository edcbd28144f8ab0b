/** Writes the to-be-signed part of CRLs in one pass over their entries (RFC 5280 section 5.1.2). */
import type { Certificate } from "./certificate.ts";
import {
  asBuffer,
  constructedContextTag,
  contextTag,
  encode,
  encodeBoolean,
  encodeExplicit,
  encodeInteger,
  encodeObjectIdentifier,
  encodeOctetString,
  encodeSequence,
  encodeText,
  encodeTime,
  headerOctets,
  tag,
  writeHeader,
} from "./der.ts";
import { SignetError } from "./errors.ts";
import { oid } from "./oids.ts";

/** CRLReason by its number (RFC 5280 section 5.3.1); 7 is not used. */
export const reasonCodes = [
  "unspecified",
  "keyCompromise",
  "cACompromise",
  "affiliationChanged",
  "superseded",
  "cessationOfOperation",
  "certificateHold",
  undefined,
  "removeFromCRL",
  "privilegeWithdrawn",
  "aACompromise",
] as const;
export type ReasonCode = Exclude<(typeof reasonCodes)[number], undefined>;

export interface RevokedEntry {
  /** Hex, as `Certificate.serialNumber`. */
  readonly serialNumber: string;
  readonly revocationDate: Date;
  readonly reason?: ReasonCode;
}

/**
 * Many revocations in little memory: serial numbers of one length side by side, times in seconds, reasons as numbers.
 * What a ledger reads out for a CRL of a million entries.
 */
export class PackedRevocations {
  readonly serialOctets: number;
  /** `serialOctets` octets each, big-endian; leading zero octets do not count. */
  readonly serials: Uint8Array;
  /** Seconds since 1970. */
  readonly revocationTimes: Uint32Array;
  /** CRLReason by number; 0 writes none. */
  readonly reasons: Uint8Array;

  constructor(serialOctets: number, serials: Uint8Array, revocationTimes: Uint32Array, reasons: Uint8Array) {
    const count = revocationTimes.length;
    if (serialOctets < 1 || serialOctets > 20 || serials.length !== count * serialOctets || reasons.length !== count) throw new SignetError("internal", "Packed revocations of unequal lengths.");
    this.serialOctets = serialOctets;
    this.serials = serials;
    this.revocationTimes = revocationTimes;
    this.reasons = reasons;
  }
}

export interface CrlContent {
  readonly issuer: Certificate;
  readonly thisUpdate: Date;
  readonly nextUpdate: Date;
  readonly crlNumber: bigint;
  /** Makes it a delta CRL over the CRL of this number. */
  readonly baseCrlNumber?: bigint;
  /** Where a base CRL says its delta is. */
  readonly freshestCrl?: string;
  readonly issuingDistributionPoint: { readonly fullName?: string; readonly only: "user" | "ca" };
  readonly entries: Iterable<RevokedEntry> | PackedRevocations;
  /** DER of the AlgorithmIdentifier that the signer will use. */
  readonly signatureAlgorithm: Uint8Array;
}

/** DER of tbsCertList; entries in the order given. The issuer must have a subjectKeyIdentifier. */
export function crlToBeSigned(content: CrlContent): Uint8Array {
  const { issuer } = content;
  const keyIdentifier = issuer.extensions.subjectKeyIdentifier;
  if (keyIdentifier === undefined) throw new SignetError("profile-violation", "A CRL issuer needs a subjectKeyIdentifier.");
  const before = [encodeInteger(1), content.signatureAlgorithm, issuer.subject.der, encodeTime(content.thisUpdate), encodeTime(content.nextUpdate)];
  const extensions = [
    extension(oid.authorityKeyIdentifier, false, encodeSequence(encode(contextTag(0), Buffer.from(keyIdentifier, "hex")))),
    extension(oid.crlNumber, false, encodeInteger(content.crlNumber)),
    ...(content.baseCrlNumber === undefined ? [] : [extension(oid.deltaCrlIndicator, true, encodeInteger(content.baseCrlNumber))]),
    extension(oid.issuingDistributionPoint, true, encodeIssuingDistributionPoint(content.issuingDistributionPoint)),
    ...(content.freshestCrl === undefined ? [] : [extension(oid.freshestCrl, false, encodeSequence(encodeSequence(uriDistributionPointName(content.freshestCrl))))]),
  ];
  const after = encodeExplicit(0, encodeSequence(...extensions));
  return new EntryWriter(before, after).write(content.entries);
}

function extension(extensionOid: string, critical: boolean, value: Uint8Array): Buffer {
  return encodeSequence(encodeObjectIdentifier(extensionOid), ...(critical ? [encodeBoolean(true)] : []), encodeOctetString(value));
}

/** distributionPoint [0] over fullName [0] of one URI. */
function uriDistributionPointName(uri: string): Buffer {
  return encodeExplicit(0, encode(constructedContextTag(0), encodeText(uri, contextTag(6))));
}

function encodeIssuingDistributionPoint({ fullName, only }: CrlContent["issuingDistributionPoint"]): Buffer {
  const name = fullName === undefined ? [] : [uriDistributionPointName(fullName)];
  return encodeSequence(...name, encode(contextTag(only === "user" ? 1 : 2), Buffer.of(0xff)));
}

/** Longest entry: header, serial number of 21 octets, GeneralizedTime, reasonCode. */
const entryOctetsLimit = 2 + 23 + 17 + 14;
/** Space for the outer two headers, which depend on the length of what follows them. */
const headersOctets = 12;

/** crlEntryExtensions with a reasonCode, which is the last octet. */
const reasonExtension = Buffer.from("300c300a0603551d1504030a0100", "hex");

/** Writes everything behind free space for the headers into one buffer that grows, and the headers last. */
class EntryWriter {
  #buffer: Buffer;
  #length: number;
  readonly #before: Buffer;
  readonly #after: Buffer;
  readonly #timeOctets = new Map<number, Buffer>();

  constructor(before: readonly Uint8Array[], after: Buffer) {
    this.#before = Buffer.concat(before);
    this.#after = after;
    this.#length = headersOctets + this.#before.length;
    this.#buffer = Buffer.allocUnsafe(this.#length + after.length + 4096);
  }

  write(entries: Iterable<RevokedEntry> | PackedRevocations): Buffer {
    if (entries instanceof PackedRevocations) {
      const { serialOctets, serials, revocationTimes, reasons } = entries;
      this.#reserve(revocationTimes.length * entryOctetsLimit);
      for (let i = 0; i < revocationTimes.length; i++) {
        this.#entry(serials, i * serialOctets, (i + 1) * serialOctets, this.#time(revocationTimes[i] as number), reasons[i] as number);
      }
    } else {
      for (const { serialNumber, revocationDate, reason } of entries) {
        this.#reserve(entryOctetsLimit);
        const serial = Buffer.from(serialNumber, "hex");
        if (serial.length === 0 || serial.length > 20 || serial.length * 2 !== serialNumber.length) throw new SignetError("internal", "Not a serial number in hex.", { details: { serialNumber } });
        this.#entry(serial, 0, serial.length, this.#time(Math.floor(revocationDate.getTime() / 1000)), reason === undefined ? 0 : reasonCodes.indexOf(reason));
      }
    }
    return this.#finish();
  }

  #entry(serials: Uint8Array, serialStart: number, serialEnd: number, time: Buffer, reason: number): void {
    let start = serialStart;
    while (start < serialEnd - 1 && serials[start] === 0) start++;
    const padding = (serials[start] as number) >= 0x80 ? 1 : 0;
    const serialLength = serialEnd - start + padding;
    const buffer = this.#buffer;
    let at = this.#length;
    buffer[at++] = tag.sequence;
    buffer[at++] = 2 + serialLength + time.length + (reason === 0 ? 0 : reasonExtension.length);
    buffer[at++] = tag.integer;
    buffer[at++] = serialLength;
    if (padding === 1) buffer[at++] = 0;
    while (start < serialEnd) buffer[at++] = serials[start++] as number;
    for (let i = 0; i < time.length; i++) buffer[at++] = time[i] as number;
    if (reason !== 0) {
      for (let i = 0; i < 13; i++) buffer[at++] = reasonExtension[i] as number;
      buffer[at++] = reason;
    }
    this.#length = at;
  }

  /** Element of a time; a day has 86,400 of them, and a CRL mostly few. */
  #time(seconds: number): Buffer {
    let octets = this.#timeOctets.get(seconds);
    if (octets === undefined) {
      octets = encodeTime(new Date(seconds * 1000));
      if (this.#timeOctets.size < 100_000) this.#timeOctets.set(seconds, octets);
    }
    return octets;
  }

  #reserve(octets: number): void {
    const needed = this.#length + octets + this.#after.length;
    if (needed <= this.#buffer.length) return;
    const larger = Buffer.allocUnsafe(Math.max(needed, this.#buffer.length * 2));
    larger.set(this.#buffer.subarray(0, this.#length));
    this.#buffer = larger;
  }

  /** Puts the headers of revokedCertificates and tbsCertList in front. revokedCertificates is absent when empty. */
  #finish(): Buffer {
    const entriesStart = headersOctets + this.#before.length;
    const entriesLength = this.#length - entriesStart;
    const entriesHeader = entriesLength === 0 ? 0 : headerOctets(entriesLength);
    this.#buffer.set(this.#after, this.#length);
    this.#length += this.#after.length;
    const contentStart = entriesStart - entriesHeader - this.#before.length;
    this.#buffer.set(this.#before, contentStart);
    if (entriesLength > 0) writeHeader(this.#buffer, contentStart + this.#before.length, tag.sequence, entriesLength);
    const contentLength = this.#length - contentStart;
    const start = contentStart - headerOctets(contentLength);
    writeHeader(this.#buffer, start, tag.sequence, contentLength);
    return asBuffer(this.#buffer.subarray(start, this.#length));
  }
}
