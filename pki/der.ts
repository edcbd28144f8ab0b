/**
 * Strict reader and writer of the Distinguished Encoding Rules (X.690 sections 8, 10 and 11).
 * The reader copies nothing: it walks one buffer and hands out views of it. It refuses every encoding that DER does not
 * allow: indefinite and non-minimal lengths, constructed strings, padded integers, booleans other than 00 and FF,
 * bytes after the end. Tag numbers above 30 do not occur in X.509 and are refused too.
 */
import { SignetError } from "./errors.ts";

/** Identifier octets (X.690 section 8.1.2): class, constructed bit and tag number in one byte. */
export const tag = {
  boolean: 0x01,
  integer: 0x02,
  bitString: 0x03,
  octetString: 0x04,
  null: 0x05,
  objectIdentifier: 0x06,
  enumerated: 0x0a,
  utf8String: 0x0c,
  numericString: 0x12,
  printableString: 0x13,
  teletexString: 0x14,
  ia5String: 0x16,
  utcTime: 0x17,
  generalizedTime: 0x18,
  universalString: 0x1c,
  bmpString: 0x1e,
  sequence: 0x30,
  set: 0x31,
} as const;

/** Identifier octet of a context-specific tag `[number]`. */
export const contextTag = (number: number): number => 0x80 | number;
/** Identifier octet of a constructed context-specific tag `[number]`: an explicit tag, or an implicit one over SEQUENCE or SET. */
export const constructedContextTag = (number: number): number => 0xa0 | number;

/** Deepest nesting that is followed. The deepest structure of RFC 5280 needs 12 levels. */
const depthLimit = 32;
/** Longest arc of an object identifier in octets: 128 bits (X.667) need 19. */
const arcOctetsLimit = 19;

function malformed(reason: string, offset: number): never {
  throw new SignetError("der-malformed", `Not DER: ${reason} at byte ${offset}.`, { details: { offset } });
}

/** A view of `bytes` as a Buffer, without a copy. */
export function asBuffer(bytes: Uint8Array): Buffer {
  return Buffer.isBuffer(bytes) ? bytes : Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

/**
 * Cursor over a run of DER elements. Each `read…` takes the next element, which must have the expected tag.
 * All methods throw `der-malformed`.
 */
export class DerReader {
  readonly bytes: Buffer;
  /** Offset of the next element. */
  position: number;
  readonly end: number;
  /** Offsets of the content of the element that was read last. */
  contentStart = 0;
  contentEnd = 0;
  readonly #depth: number;

  constructor(bytes: Uint8Array, start = 0, end = bytes.length, depth = 0) {
    if (depth > depthLimit) malformed(`nested deeper than ${depthLimit}`, start);
    this.bytes = asBuffer(bytes);
    this.position = start;
    this.end = end;
    this.#depth = depth;
  }

  get atEnd(): boolean {
    return this.position >= this.end;
  }

  /** Identifier octet of the next element, or -1 at the end. */
  peek(): number {
    return this.position < this.end ? (this.bytes[this.position] ?? -1) : -1;
  }

  /** Passes over the next element, whatever it is, and returns its identifier octet. Its content is not looked at. */
  next(): number {
    const { bytes, end } = this;
    const start = this.position;
    if (start + 2 > end) malformed("truncated header", start);
    const identifier = bytes[start] as number;
    if ((identifier & 0x1f) === 0x1f) malformed("tag number above 30", start);
    let length = bytes[start + 1] as number;
    let content = start + 2;
    if (length >= 0x80) {
      const octets = length & 0x7f;
      if (octets === 0) malformed("indefinite length", start);
      if (octets > 4 || content + octets > end) malformed("length too large", start);
      length = 0;
      for (const stop = content + octets; content < stop; content++) length = length * 256 + (bytes[content] as number);
      if (length < 0x80 || length < 256 ** (octets - 1)) malformed("length not minimal", start);
    }
    if (length > end - content) malformed("element longer than what holds it", start);
    this.contentStart = content;
    this.contentEnd = content + length;
    this.position = content + length;
    return identifier;
  }

  /** Takes the next element, which must have this identifier octet. */
  expect(identifier: number): void {
    const start = this.position;
    if (this.next() !== identifier) malformed(`tag ${hexOctet(this.bytes[start] ?? 0)} where ${hexOctet(identifier)} belongs`, start);
  }

  /** Reader over the content of the next element. */
  enter(identifier: number): DerReader {
    this.expect(identifier);
    return new DerReader(this.bytes, this.contentStart, this.contentEnd, this.#depth + 1);
  }

  /** Reader over the content of the next element if it has this identifier octet, otherwise undefined. */
  enterIf(identifier: number): DerReader | undefined {
    return this.peek() === identifier ? this.enter(identifier) : undefined;
  }

  /** The whole next element, header included, as a view. */
  readElement(identifier?: number): Buffer {
    const start = this.position;
    if (identifier === undefined) this.next();
    else this.expect(identifier);
    return this.bytes.subarray(start, this.position);
  }

  /** Content of the next element, as a view. */
  readContent(identifier: number): Buffer {
    this.expect(identifier);
    return this.bytes.subarray(this.contentStart, this.contentEnd);
  }

  /** Nothing may follow. */
  finish(): void {
    if (this.position !== this.end) malformed("bytes after the end", this.position);
  }

  readBoolean(identifier: number = tag.boolean): boolean {
    this.expect(identifier);
    const value = this.bytes[this.contentStart];
    if (this.contentEnd - this.contentStart !== 1 || (value !== 0 && value !== 0xff)) malformed("BOOLEAN is neither 00 nor FF", this.contentStart);
    return value === 0xff;
  }

  /** BOOLEAN DEFAULT FALSE: absent is false, and an encoded FALSE is refused (X.690 section 11.5). */
  readBooleanDefaultFalse(identifier: number = tag.boolean): boolean {
    if (this.peek() !== identifier) return false;
    if (!this.readBoolean(identifier)) malformed("default value encoded", this.contentStart);
    return true;
  }

  /** Content octets of an INTEGER: two's complement, big-endian, minimal. */
  readIntegerBytes(identifier: number = tag.integer): Buffer {
    this.expect(identifier);
    const { bytes, contentStart: start, contentEnd: end } = this;
    if (start === end) malformed("empty INTEGER", start);
    if (end - start > 1) {
      const first = bytes[start] as number;
      const negative = (bytes[start + 1] as number) >= 0x80;
      if ((first === 0 && !negative) || (first === 0xff && negative)) malformed("INTEGER not minimal", start);
    }
    return bytes.subarray(start, end);
  }

  /** INTEGER from 0 up; values over 2^48 read as 2^48, which is more than any count in X.509. */
  readCount(identifier: number = tag.integer): number {
    const octets = this.readIntegerBytes(identifier);
    if ((octets[0] as number) >= 0x80) malformed("negative INTEGER", this.contentStart);
    return octets.length > 6 ? 2 ** 48 : octets.readUIntBE(0, octets.length);
  }

  /** OBJECT IDENTIFIER in dotted form. */
  readObjectIdentifier(identifier: number = tag.objectIdentifier): string {
    this.expect(identifier);
    return decodeObjectIdentifier(this.bytes, this.contentStart, this.contentEnd);
  }

  /** Passes over an OBJECT IDENTIFIER, which must be well formed, without making a text of it. */
  skipObjectIdentifier(identifier: number = tag.objectIdentifier): void {
    this.expect(identifier);
    checkObjectIdentifier(this.bytes, this.contentStart, this.contentEnd);
  }

  /** BIT STRING of whole octets, as keys and signatures are. */
  readBitStringOctets(identifier: number = tag.bitString): Buffer {
    this.expect(identifier);
    if (this.contentStart === this.contentEnd || this.bytes[this.contentStart] !== 0) malformed("BIT STRING is not whole octets", this.contentStart);
    return this.bytes.subarray(this.contentStart + 1, this.contentEnd);
  }

  /** Passes over a BIT STRING of any number of bits, whose unused ones are zero (X.690 sections 8.6.2 and 11.2.1). */
  skipBitString(identifier: number = tag.bitString): void {
    this.expect(identifier);
    const { bytes, contentStart: start, contentEnd: end } = this;
    const unused = bytes[start] ?? 8;
    if (start === end || unused > 7 || (end - start === 1 && unused !== 0) || ((bytes[end - 1] as number) & ((1 << unused) - 1)) !== 0) malformed("BIT STRING", start);
  }

  /** Named bits (X.680 section 22.7) as a number: bit 0 of the list has the value 1, bit 1 the value 2, up to bit 15. */
  readNamedBits(identifier: number = tag.bitString, mayEndInZeros = false): number {
    this.expect(identifier);
    const { bytes, contentStart: start, contentEnd: end } = this;
    const unused = bytes[start] ?? 8;
    if (start === end || unused > 7 || end - start > 3 || (end - start === 1 && unused !== 0)) malformed("BIT STRING", start);
    const last = bytes[end - 1] as number;
    if (end - start > 1 && ((last & ((1 << unused) - 1)) !== 0 || (!mayEndInZeros && (last & (1 << unused)) === 0))) malformed("trailing zero bits in a named bit list", start);
    let value = 0;
    for (let bit = 0; bit < (end - start - 1) * 8; bit++) {
      if (((bytes[start + 1 + (bit >> 3)] as number) & (0x80 >> (bit & 7))) !== 0) value |= 1 << bit;
    }
    return value;
  }

  /** UTCTime or GeneralizedTime in the forms of RFC 5280 section 4.1.2.5, in milliseconds since 1970. */
  readTime(): number {
    const identifier = this.next();
    if (identifier !== tag.utcTime && identifier !== tag.generalizedTime) malformed("not a Time", this.contentStart);
    return decodeTime(this.bytes, identifier, this.contentStart, this.contentEnd);
  }

  /** IA5String (or an implicit tag over one) of ASCII only. */
  readAscii(identifier: number = tag.ia5String): string {
    this.expect(identifier);
    for (let at = this.contentStart; at < this.contentEnd; at++) if ((this.bytes[at] as number) > 0x7f) malformed("not ASCII", at);
    return this.bytes.toString("latin1", this.contentStart, this.contentEnd);
  }
}

/** Reads the single element that `bytes` must consist of; `read` gets a reader over its content. */
export function readSingle<T>(bytes: Uint8Array, identifier: number, read: (content: DerReader) => T): T {
  const outer = new DerReader(bytes);
  const content = outer.enter(identifier);
  outer.finish();
  const value = read(content);
  content.finish();
  return value;
}

function hexOctet(value: number): string {
  return value.toString(16).padStart(2, "0");
}

/** Dotted forms of 2.5.29.n, which are most of the object identifiers in a certificate. */
const extensionOids = Array.from({ length: 128 }, (_, n) => `2.5.29.${n}`);

/** Arcs end inside, take the fewest octets, and are not longer than any that are in use. */
function checkObjectIdentifier(bytes: Buffer, start: number, end: number): void {
  if (start === end || (bytes[end - 1] as number) >= 0x80) malformed("OBJECT IDENTIFIER ends inside an arc", start);
  for (let at = start, arcStart = start; at < end; at++) {
    if (at === arcStart && bytes[at] === 0x80) malformed("arc not minimal", at);
    if (at - arcStart >= arcOctetsLimit) malformed("arc too large", arcStart);
    if ((bytes[at] as number) < 0x80) arcStart = at + 1;
  }
}

function decodeObjectIdentifier(bytes: Buffer, start: number, end: number): string {
  if (end - start === 3 && bytes[start] === 0x55 && bytes[start + 1] === 0x1d) {
    const known = extensionOids[bytes[start + 2] as number];
    if (known !== undefined) return known;
  }
  checkObjectIdentifier(bytes, start, end);
  let text = "";
  for (let at = start; at < end; ) {
    const arcStart = at;
    let small = 0;
    while ((bytes[at] as number) >= 0x80) small = small * 128 + ((bytes[at++] as number) & 0x7f);
    small = small * 128 + (bytes[at++] as number);
    const arc = at - arcStart <= 7 ? small : largeArc(bytes, arcStart, at);
    if (arcStart > start) text += `.${arc}`;
    else if (arc < 80) text = `${Math.floor(Number(arc) / 40)}.${Number(arc) % 40}`;
    else text = `2.${typeof arc === "bigint" ? arc - 80n : arc - 80}`;
  }
  return text;
}

function largeArc(bytes: Buffer, start: number, end: number): bigint {
  let value = 0n;
  for (let at = start; at < end; at++) value = (value << 7n) | BigInt((bytes[at] as number) & 0x7f);
  return value;
}

const daysInMonth = [0, 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] as const;

const twoDigits = (bytes: Uint8Array, at: number): number => (bytes[at] as number) * 10 + (bytes[at + 1] as number) - 528;

/** Whether the ten digits MMDDHHMMSS at `at`, in a year of the Gregorian calendar, are followed by Z and name a time that there is. */
function isTimeInYear(bytes: Uint8Array, at: number, year: number): boolean {
  for (let i = at; i < at + 10; i++) if ((((bytes[i] as number) - 0x30) & 0xff) > 9) return false;
  const month = twoDigits(bytes, at);
  const day = twoDigits(bytes, at + 2);
  const leapDay = month === 2 && year % 4 === 0 && (year % 100 !== 0 || year % 400 === 0) ? 1 : 0;
  return (
    day >= 1 &&
    day <= (daysInMonth[month] ?? -1) + leapDay &&
    twoDigits(bytes, at + 4) < 24 &&
    twoDigits(bytes, at + 6) < 60 &&
    twoDigits(bytes, at + 8) < 60 &&
    bytes[at + 10] === 0x5a
  );
}

/** Whether the 13 octets at `at` are a UTCTime in the form of RFC 5280 section 4.1.2.5.1: YYMMDDHHMMSSZ. */
export function isUtcTime(bytes: Uint8Array, at: number): boolean {
  if ((((bytes[at] as number) - 0x30) & 0xff) > 9 || (((bytes[at + 1] as number) - 0x30) & 0xff) > 9) return false;
  // Within 1950 to 2049 every fourth year is a leap year.
  return isTimeInYear(bytes, at + 2, 2000 + twoDigits(bytes, at));
}

/**
 * Milliseconds since 1970 of the content of a UTCTime (YYMMDDHHMMSSZ) or GeneralizedTime (YYYYMMDDHHMMSSZ): seconds and Z
 * are required, fractions refused (RFC 5280 sections 4.1.2.5.1 and 4.1.2.5.2).
 */
export function decodeTime(bytes: Uint8Array, identifier: number, start: number, end: number): number {
  const yearDigits = identifier === tag.utcTime ? 2 : 4;
  if (end - start !== yearDigits + 11) malformed("Time is not in the form of RFC 5280", start);
  for (let at = start; at < start + yearDigits; at++) if ((((bytes[at] as number) - 0x30) & 0xff) > 9) malformed("Time is not in the form of RFC 5280", at);
  const rest = start + yearDigits;
  const first = twoDigits(bytes, start);
  const year = yearDigits === 4 ? first * 100 + twoDigits(bytes, start + 2) : first + (first >= 50 ? 1900 : 2000);
  if (!isTimeInYear(bytes, rest, year)) malformed("no such time", start);
  return timeInYear(bytes, rest, year);
}

/** Milliseconds since 1970 of the 13 octets of a UTCTime that `isUtcTime` has accepted. */
export function valueOfUtcTime(bytes: Uint8Array, at: number): number {
  const year = twoDigits(bytes, at);
  return timeInYear(bytes, at + 2, year + (year >= 50 ? 1900 : 2000));
}

/** Milliseconds since 1970 of the ten digits MMDDHHMMSS at `at`. */
function timeInYear(bytes: Uint8Array, at: number, year: number): number {
  const days = daysSince1970(year, twoDigits(bytes, at), twoDigits(bytes, at + 2));
  return (((days * 24 + twoDigits(bytes, at + 4)) * 60 + twoDigits(bytes, at + 6)) * 60 + twoDigits(bytes, at + 8)) * 1000;
}

/** Days of the Gregorian calendar, counted in years that begin in March, so that the leap day is the last of one. */
function daysSince1970(year: number, month: number, day: number): number {
  const marchYear = month > 2 ? year : year - 1;
  const dayOfYear = Math.floor((153 * (month > 2 ? month - 3 : month + 9) + 2) / 5) + day - 1;
  return marchYear * 365 + Math.floor(marchYear / 4) - Math.floor(marchYear / 100) + Math.floor(marchYear / 400) + dayOfYear - 719_468;
}

/** Number of octets that the header of an element with this content length takes. */
export function headerOctets(length: number): number {
  if (length < 0x80) return 2;
  if (length < 0x100) return 3;
  if (length < 0x10000) return 4;
  return length < 0x1000000 ? 5 : 6;
}

/** Writes a header at `offset` and returns the offset of the content. */
export function writeHeader(target: Uint8Array, offset: number, identifier: number, length: number): number {
  target[offset] = identifier;
  const octets = headerOctets(length) - 2;
  if (octets === 0) {
    target[offset + 1] = length;
    return offset + 2;
  }
  target[offset + 1] = 0x80 | octets;
  for (let i = 0, rest = length; i < octets; i++, rest = Math.floor(rest / 256)) target[offset + 1 + octets - i] = rest % 256;
  return offset + 2 + octets;
}

/** One element: this identifier octet over the concatenation of `contents`. */
export function encode(identifier: number, ...contents: readonly Uint8Array[]): Buffer {
  const length = contents.reduce((sum, part) => sum + part.length, 0);
  const element = Buffer.allocUnsafe(headerOctets(length) + length);
  let offset = writeHeader(element, 0, identifier, length);
  for (const part of contents) {
    element.set(part, offset);
    offset += part.length;
  }
  return element;
}

export const encodeSequence = (...contents: readonly Uint8Array[]): Buffer => encode(tag.sequence, ...contents);
export const encodeBoolean = (value: boolean): Buffer => encode(tag.boolean, Buffer.of(value ? 0xff : 0));
export const encodeOctetString = (value: Uint8Array): Buffer => encode(tag.octetString, value);
/** BIT STRING of whole octets. */
export const encodeBitString = (value: Uint8Array): Buffer => encode(tag.bitString, Buffer.of(0), value);
/** `[number] EXPLICIT` over one element. */
export const encodeExplicit = (number: number, element: Uint8Array): Buffer => encode(constructedContextTag(number), element);

/** SET OF: the elements in ascending order of their encodings (X.690 section 11.6). */
export const encodeSetOf = (elements: readonly Uint8Array[]): Buffer => encode(tag.set, ...[...elements].sort(Buffer.compare));

/** INTEGER in the fewest octets, two's complement. */
export function encodeInteger(value: bigint | number, identifier: number = tag.integer): Buffer {
  let rest = BigInt(value);
  const octets: number[] = [];
  do {
    octets.unshift(Number(BigInt.asUintN(8, rest)));
    rest >>= 8n;
  } while (!((rest === 0n && (octets[0] as number) < 0x80) || (rest === -1n && (octets[0] as number) >= 0x80)));
  return encode(identifier, Buffer.from(octets));
}

/** INTEGER from its magnitude in hex, as serial numbers are written; a leading "-" marks two's complement content. */
export function encodeIntegerHex(hex: string, identifier: number = tag.integer): Buffer {
  const negative = hex.startsWith("-");
  const octets = Buffer.from(negative ? hex.slice(1) : hex, "hex");
  return !negative && (octets[0] ?? 0) >= 0x80 ? encode(identifier, Buffer.of(0), octets) : encode(identifier, octets);
}

/** BIT STRING of named bits, trailing zero bits removed (X.690 section 11.2.2); bit 0 of the list has the value 1. */
export function encodeNamedBits(value: number, identifier: number = tag.bitString): Buffer {
  if (value === 0) return encode(identifier, Buffer.of(0));
  const bits = 32 - Math.clz32(value);
  const octets = new Uint8Array(Math.ceil(bits / 8));
  for (let bit = 0; bit < bits; bit++) if ((value & (1 << bit)) !== 0) octets[bit >> 3] = (octets[bit >> 3] as number) | (0x80 >> (bit & 7));
  return encode(identifier, Buffer.of(octets.length * 8 - bits), octets);
}

/** OBJECT IDENTIFIER from its dotted form. */
export function encodeObjectIdentifier(dotted: string, identifier: number = tag.objectIdentifier): Buffer {
  const [first = 0n, second = 0n, ...rest] = dotted.split(".").map(BigInt);
  const octets: number[] = [];
  for (const arc of [first * 40n + second, ...rest]) {
    const base128 = [Number(arc & 0x7fn)];
    for (let high = arc >> 7n; high > 0n; high >>= 7n) base128.unshift(Number(high & 0x7fn) | 0x80);
    octets.push(...base128);
  }
  return encode(identifier, Buffer.from(octets));
}

/** String types: the text must fit the type; `utf8String` takes any. */
export function encodeText(text: string, identifier: number = tag.utf8String): Buffer {
  return encode(identifier, Buffer.from(text, identifier === tag.utf8String ? "utf8" : "latin1"));
}

/** UTCTime from 1950 through 2049, GeneralizedTime otherwise (RFC 5280 section 4.1.2.5). */
export function prescribedTimeTag(time: number): number {
  return time >= Date.UTC(1950, 0) && time < Date.UTC(2050, 0) ? tag.utcTime : tag.generalizedTime;
}

/** Time in the form that RFC 5280 section 4.1.2.5 prescribes. Milliseconds are dropped. */
export function encodeTime(time: Date): Buffer {
  const digits = time.toISOString().replace(/\.\d+Z$|[-:T]/g, "");
  const identifier = prescribedTimeTag(time.getTime());
  return encode(identifier, Buffer.from(`${identifier === tag.utcTime ? digits.slice(2) : digits}Z`, "latin1"));
}
