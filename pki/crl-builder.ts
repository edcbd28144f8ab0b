/** Writes the to-be-signed part of CRLs in one pass over their entries (RFC 5280 section 5.1.2). */
import type { Certificate } from "./certificate.ts";
import {
  constructedContextTag,
  contextTag,
  encode,
  encodeBitString,
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
import type { Signer } from "./keys.ts";
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
/** CRLReason by its name in RFC 5280 section 5.3.1. */
export type ReasonCode = Exclude<(typeof reasonCodes)[number], undefined>;

/** One certificate on a CRL. */
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
    if (reasons.some((reason) => reasonCodes[reason] === undefined)) throw new SignetError("internal", "Packed revocations with a reason that does not exist.");
    this.serialOctets = serialOctets;
    this.serials = serials;
    this.revocationTimes = revocationTimes;
    this.reasons = reasons;
  }
}

/** What a CRL is to say. */
export interface CrlContent {
  /** Its name and subjectKeyIdentifier go into the CRL. */
  readonly issuer: Certificate;
  readonly thisUpdate: Date;
  readonly nextUpdate: Date;
  readonly crlNumber: bigint;
  /** Makes it a delta CRL over the CRL of this number. */
  readonly baseCrlNumber?: bigint;
  /** Where a base CRL says its delta is. */
  readonly freshestCrl?: string;
  /** Critical: what the CRL covers, and (fullName) the URI of the certificates' distribution point. */
  readonly issuingDistributionPoint: { readonly fullName?: string; readonly only: "user" | "ca" };
  readonly entries: Iterable<RevokedEntry> | PackedRevocations;
  /** DER of the AlgorithmIdentifier that the signer will use. */
  readonly signatureAlgorithm: Uint8Array;
}

/** DER of tbsCertList; entries in the order given. The issuer must have a subjectKeyIdentifier. */
export function crlToBeSigned(content: CrlContent): Uint8Array {
  return writerFor(content).write(content.entries);
}

/** DER of a CertificateList, signed. A long list is never copied: what frames it is written around it. @throws SignetError profile-violation (the issuer has no subjectKeyIdentifier) */
export async function buildCrl(content: Omit<CrlContent, "signatureAlgorithm">, signer: Pick<Signer, "signatureAlgorithm" | "sign">): Promise<Uint8Array> {
  const { signatureAlgorithm } = signer;
  const writer = writerFor({ ...content, signatureAlgorithm });
  return writer.frame(signatureAlgorithm, await signer.sign(writer.write(content.entries)));
}

function writerFor(content: CrlContent): EntryWriter {
  const { issuer } = content;
  const keyIdentifier = issuer.extensions.subjectKeyIdentifier;
  if (keyIdentifier === undefined) throw new SignetError("profile-violation", "A CRL issuer needs a subjectKeyIdentifier.");
  const { crlNumber, baseCrlNumber = 0n } = content;
  if (!isCrlNumber(crlNumber) || !isCrlNumber(baseCrlNumber)) throw new SignetError("internal", "A CRLNumber is from 0 up and takes 20 octets at most (RFC 5280 section 5.2.3).");
  for (const time of [content.thisUpdate, content.nextUpdate]) requireEncodableTime(time);
  const before = [encodeInteger(1), content.signatureAlgorithm, issuer.subject.der, encodeTime(content.thisUpdate), encodeTime(content.nextUpdate)];
  const extensions = [
    extension(oid.authorityKeyIdentifier, false, encodeSequence(encode(contextTag(0), Buffer.from(keyIdentifier, "hex")))),
    extension(oid.crlNumber, false, encodeInteger(content.crlNumber)),
    ...(content.baseCrlNumber === undefined ? [] : [extension(oid.deltaCrlIndicator, true, encodeInteger(content.baseCrlNumber))]),
    extension(oid.issuingDistributionPoint, true, encodeIssuingDistributionPoint(content.issuingDistributionPoint)),
    ...(content.freshestCrl === undefined ? [] : [extension(oid.freshestCrl, false, encodeSequence(encodeSequence(uriDistributionPointName(content.freshestCrl))))]),
  ];
  const after = encodeExplicit(0, encodeSequence(...extensions));
  return new EntryWriter(before, after);
}

const isCrlNumber = (number: bigint): boolean => number >= 0n && number < 1n << 159n;

/** Years have four digits (RFC 5280 section 4.1.2.5); a date of no time at all has none. */
function requireEncodableTime(time: Date): void {
  if (!(time.getTime() >= earliestTime && time.getTime() < endOfTime)) throw new SignetError("internal", "No time that a CRL can say.");
}
const earliestTime = Date.parse("0000-01-01T00:00:00Z");
const endOfTime = Date.UTC(10_000, 0);

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
/** Space for the outer three headers, which depend on the length of what follows them. */
const headersOctets = 18;
/** Space for what follows tbsCertList: an AlgorithmIdentifier and a signature, of which ML-DSA-65 makes the longest, with 3309 octets. */
const signatureSpace = 4096;

/** crlEntryExtensions with a reasonCode, which is the last octet. */
const reasonExtension = Buffer.from("300c300a0603551d1504030a0100", "hex");

/** Writes everything behind free space for the headers into one buffer that grows, and the headers last. */
class EntryWriter {
  #buffer: Buffer;
  #length: number;
  /** Where tbsCertList begins. */
  #start = 0;
  readonly #before: Buffer;
  readonly #after: Buffer;
  /** Element of some time of each day. */
  readonly #days = new Map<number, Octets>();
  #day = Number.NaN;
  #seconds = Number.NaN;
  #timeOctets: Octets = withView(new Uint8Array());

  constructor(before: readonly Uint8Array[], after: Buffer) {
    this.#before = Buffer.concat(before);
    this.#after = after;
    this.#length = headersOctets + this.#before.length;
    this.#buffer = Buffer.allocUnsafe(this.#length + after.length + 4096 + signatureSpace);
  }

  write(entries: Iterable<RevokedEntry> | PackedRevocations): Buffer {
    if (entries instanceof PackedRevocations) {
      const { serialOctets, serials, revocationTimes, reasons } = entries;
      let withReason = 0;
      for (const reason of reasons) if (reason !== 0) withReason++;
      this.#reserve(revocationTimes.length * (serialOctets + 5 + 17) + withReason * reasonExtension.length);
      const target = withView(this.#buffer);
      const source = withView(serials);
      let at = this.#length;
      for (let i = 0, start = 0; i < revocationTimes.length; i++, start += serialOctets) {
        at = writeEntry(target, at, source, start, start + serialOctets, this.#time(revocationTimes[i] as number), reasons[i] as number);
      }
      this.#length = at;
    } else {
      for (const { serialNumber, revocationDate, reason } of entries) {
        this.#reserve(entryOctetsLimit);
        const serial = Buffer.from(serialNumber, "hex");
        if (serial.length === 0 || serial.length > 20 || serial.length * 2 !== serialNumber.length) throw new SignetError("internal", "Not a serial number in hex.", { details: { serialNumber } });
        requireEncodableTime(revocationDate);
        const time = this.#time(Math.floor(revocationDate.getTime() / 1000));
        this.#length = writeEntry(withView(this.#buffer), this.#length, withView(serial), 0, serial.length, time, reason === undefined ? 0 : reasonCodes.indexOf(reason));
      }
    }
    return this.#finish();
  }

  /** Element of a time. Header and date are kept for the day, and the whole for the second, since a CRL has few days and often runs of one second. */
  #time(seconds: number): Octets {
    if (seconds === this.#seconds) return this.#timeOctets;
    const day = Math.floor(seconds / 86_400);
    if (day !== this.#day) {
      let octets = this.#days.get(day);
      if (octets === undefined) this.#days.set(day, (octets = withView(encodeTime(new Date(day * 86_400_000)))));
      this.#timeOctets = octets;
      this.#day = day;
    }
    this.#seconds = seconds;
    // The element of the day is written over: its time of day is always set before it is read.
    const { octets } = this.#timeOctets;
    let rest = (seconds - day * 86_400) | 0;
    for (let end = octets.length - 1; end > octets.length - 7; end -= 2) {
      const two = rest % 60;
      rest = (rest / 60) | 0;
      octets[end - 1] = 0x30 + (two % 10);
      octets[end - 2] = 0x30 + ((two / 10) | 0);
    }
    return this.#timeOctets;
  }

  #reserve(octets: number): void {
    const needed = this.#length + octets + this.#after.length + signatureSpace;
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
    this.#start = contentStart - headerOctets(contentLength);
    writeHeader(this.#buffer, this.#start, tag.sequence, contentLength);
    return this.#buffer.subarray(this.#start, this.#length);
  }

  /** Puts the header of CertificateList in front of the tbsCertList that was written, and the signature behind it. */
  frame(signatureAlgorithm: Uint8Array, signature: Uint8Array): Buffer {
    const behind = Buffer.concat([signatureAlgorithm, encodeBitString(signature)]);
    if (behind.length > signatureSpace) throw new SignetError("internal", "A signature longer than any that Signet makes.");
    const end = this.#length + behind.length;
    const start = this.#start - headerOctets(end - this.#start);
    this.#buffer.set(behind, this.#length);
    writeHeader(this.#buffer, start, tag.sequence, end - this.#start);
    return this.#buffer.subarray(start, end);
  }
}

/** Writes one entry at `at` and returns the offset behind it. Every length in it is short (X.690 section 8.1.3.4). */
function writeEntry(target: Octets, entry: number, source: Octets, serialStart: number, serialEnd: number, time: Octets, reason: number): number {
  const { octets: buffer } = target;
  const { octets: serials } = source;
  let start = serialStart;
  while (start < serialEnd - 1 && serials[start] === 0) start++;
  const padding = (serials[start] as number) >= 0x80 ? 1 : 0;
  const serialLength = serialEnd - start + padding;
  let at = entry + 4;
  buffer[entry] = tag.sequence;
  buffer[entry + 2] = tag.integer;
  buffer[entry + 3] = serialLength;
  if (padding === 1) buffer[at++] = 0;
  at = copyOctets(target, at, source, start, serialEnd);
  at = copyOctets(target, at, time, 0, time.octets.length);
  if (reason !== 0) {
    for (let i = 0; i < 13; i++) buffer[at++] = reasonExtension[i] as number;
    buffer[at++] = reason;
  }
  buffer[entry + 1] = at - entry - 2;
  return at;
}

/** Octets, and a view that moves four of them at once: a call into the engine to copy sixteen costs more than the copy. */
interface Octets {
  readonly octets: Uint8Array;
  readonly view: DataView;
}

const withView = (octets: Uint8Array): Octets => ({ octets, view: new DataView(octets.buffer, octets.byteOffset, octets.byteLength) });

/** Copies octets `start` to `end` of `source` to `at` and returns the offset behind them. */
function copyOctets(target: Octets, at: number, source: Octets, start: number, end: number): number {
  let from = start;
  let to = at;
  for (; from + 4 <= end; from += 4, to += 4) target.view.setUint32(to, source.view.getUint32(from));
  while (from < end) target.octets[to++] = source.octets[from++] as number;
  return to;
}
