/** Distinguished names and general names (RFC 5280 sections 4.1.2.4, 4.2.1.6 and 7). */
import { DerReader, asBuffer, constructedContextTag, contextTag, encode, encodeObjectIdentifier, encodeSequence, encodeSetOf, encodeText, tag } from "./der.ts";
import { SignetError } from "./errors.ts";
import { oid } from "./oids.ts";

/** AttributeTypeAndValue. `text` is undefined where the value is not a string type, or not valid in the one it claims. */
export interface Attribute {
  readonly type: string;
  /** Identifier octet of the value. */
  readonly valueTag: number;
  /** Content octets of the value. */
  readonly valueBytes: Uint8Array;
  readonly text: string | undefined;
}

export type RelativeDistinguishedName = readonly Attribute[];

/** Name: compared by RFC 5280 section 7.1, never by what it displays. */
export class Name {
  readonly der: Uint8Array;
  #rdns: readonly RelativeDistinguishedName[] | undefined;
  #canonical: readonly string[] | undefined;
  #text: string | undefined;

  private constructor(der: Uint8Array) {
    this.der = der;
  }

  /** Takes the next element of `reader`, a Name. The structure is checked now; strings are decoded when they are needed. @internal @throws SignetError `der-malformed` */
  static read(reader: DerReader): Name {
    const start = reader.position;
    const rdns = reader.enter(tag.sequence);
    while (!rdns.atEnd) {
      const attributes = rdns.enter(tag.set);
      if (attributes.atEnd) throw new SignetError("der-malformed", "Not DER: a RelativeDistinguishedName is empty.");
      let earlier = attributes.position;
      checkAttribute(attributes);
      while (!attributes.atEnd) {
        const later = attributes.position;
        checkAttribute(attributes);
        // X.690 section 11.6; and no attribute stands twice (X.501 section 9.3).
        if (Buffer.compare(reader.bytes.subarray(earlier, later), reader.bytes.subarray(later, attributes.position)) >= 0) throw new SignetError("der-malformed", "Not DER: a RelativeDistinguishedName is not in ascending order.");
        earlier = later;
      }
    }
    return new Name(reader.bytes.subarray(start, reader.position));
  }

  /** @throws SignetError `der-malformed` */
  static parse(der: Uint8Array): Name {
    const reader = new DerReader(der);
    const name = Name.read(reader);
    reader.finish();
    return name;
  }

  /** A name of one attribute to each RDN, most significant first, as UTF8String (countryName as PrintableString, RFC 5280 appendix A). */
  static of(attributes: readonly (readonly [type: string, value: string])[]): Name {
    const rdns = attributes.map(([type, value]) =>
      encodeSetOf([encodeSequence(encodeObjectIdentifier(type), encodeText(value, type === oid.countryName ? tag.printableString : tag.utf8String))]),
    );
    return new Name(encodeSequence(...rdns));
  }

  get isEmpty(): boolean {
    return this.der.length === 2;
  }

  get rdns(): readonly RelativeDistinguishedName[] {
    return (this.#rdns ??= readRdns(this.der));
  }

  /** Values of all attributes of a type, in order. */
  attributes(type: string): readonly Attribute[] {
    return this.rdns.flat().filter((attribute) => attribute.type === type);
  }

  /** Same bytes, which is the usual case and costs least. */
  hasSameBytes(other: Name): boolean {
    return asBuffer(this.der).equals(other.der);
  }

  /** RFC 5280 section 7.1: same RDNs in the same order; strings by case-folded, normalised, white-space-compressed text. */
  equals(other: Name): boolean {
    if (this.hasSameBytes(other)) return true;
    if (this.isEmpty || other.isEmpty) return false;
    const mine = this.#canonicalRdns();
    const theirs = other.#canonicalRdns();
    return mine.length === theirs.length && mine.every((rdn, index) => rdn === theirs[index]);
  }

  /**
   * Whether this name lies in the subtree of `base`: the RDNs of `base` are the first of this name's. `undefined` where it cannot be told, because
   * an attribute that both have is no text in one of them.
   */
  isWithin(base: Name): boolean | undefined {
    const mine = this.#canonicalRdns();
    let within: boolean | undefined = true;
    for (const [index, rdn] of base.#canonicalRdns().entries()) {
      if (rdn === mine[index]) continue;
      if (!isIncomparable(this.rdns[index] ?? [], base.rdns[index] ?? [])) return false;
      within = undefined;
    }
    return within;
  }

  /** The name with one more RDN, as nameRelativeToCRLIssuer means it (RFC 5280 section 4.2.1.13). */
  withRdn(attributesContent: Uint8Array): Name {
    const reader = new DerReader(this.der);
    return Name.parse(encodeSequence(reader.readContent(tag.sequence), encode(tag.set, attributesContent)));
  }

  /** A text that two names share exactly if they are equal. */
  get canonicalKey(): string {
    return this.#canonicalRdns().join("\u0000\u0000");
  }

  /** RFC 4514 text, for people; last RDN first. */
  toString(): string {
    return (this.#text ??= this.rdns
      .map((rdn) => rdn.map(attributeText).join("+"))
      .reverse()
      .join(","));
  }

  #canonicalRdns(): readonly string[] {
    return (this.#canonical ??= this.rdns.map((rdn) => rdn.map(canonicalAttribute).sort().join("\u0000")));
  }
}

/** Passes over the next AttributeTypeAndValue, which must be well formed. */
function checkAttribute(attributes: DerReader): void {
  const attribute = attributes.enter(tag.sequence);
  attribute.skipObjectIdentifier();
  const identifier = attribute.next();
  // X.690 section 10.2: strings are never constructed. Of the universal types that attributes have, SEQUENCE and SET alone are.
  if ((identifier & 0xe0) === 0x20 && identifier !== tag.sequence && identifier !== tag.set) throw new SignetError("der-malformed", "Not DER: a constructed string in a name.");
  attribute.finish();
}

/** Whether two RDNs share a type of attribute whose value is no text in one of them: then their difference says nothing. */
function isIncomparable(one: RelativeDistinguishedName, other: RelativeDistinguishedName): boolean {
  return one.some(({ type, text }) => other.some((attribute) => attribute.type === type && (text === undefined || attribute.text === undefined)));
}

function readRdns(der: Uint8Array): RelativeDistinguishedName[] {
  const rdns = new DerReader(der).enter(tag.sequence);
  const result: RelativeDistinguishedName[] = [];
  while (!rdns.atEnd) {
    const attributes = rdns.enter(tag.set);
    const rdn: Attribute[] = [];
    while (!attributes.atEnd) {
      const attribute = attributes.enter(tag.sequence);
      const type = attribute.readObjectIdentifier();
      const valueTag = attribute.next();
      const valueBytes = attribute.bytes.subarray(attribute.contentStart, attribute.contentEnd);
      rdn.push({ type, valueTag, valueBytes, text: decodeText(valueTag, valueBytes) });
    }
    result.push(rdn);
  }
  return result;
}

const strictUtf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** Text of a DirectoryString, IA5String or NumericString; undefined where the bytes do not fit the type. */
function decodeText(valueTag: number, bytes: Buffer): string | undefined {
  switch (valueTag) {
    case tag.utf8String:
      try {
        return strictUtf8.decode(bytes);
      } catch {
        return undefined;
      }
    case tag.printableString:
    case tag.numericString:
    case tag.ia5String:
      return bytes.every((octet) => octet < 0x80) ? bytes.toString("latin1") : undefined;
    case tag.teletexString:
      return bytes.toString("latin1");
    case tag.bmpString:
      return bytes.length % 2 === 0 ? codePoints(bytes, 2) : undefined;
    case tag.universalString:
      return bytes.length % 4 === 0 ? codePoints(bytes, 4) : undefined;
    default:
      return undefined;
  }
}

function codePoints(bytes: Buffer, octets: 2 | 4): string | undefined {
  let text = "";
  for (let at = 0; at < bytes.length; at += octets) {
    const point = bytes.readUIntBE(at, octets);
    if (point > 0x10ffff || (point >= 0xd800 && point < 0xe000)) return undefined;
    text += String.fromCodePoint(point);
  }
  return text;
}

/** String preparation of RFC 4518 section 2 as RFC 5280 section 7.1 asks for it: map, fold case, normalise, compress white space. */
function prepare(text: string): string {
  if (/^[!-~]+(?: [!-~]+)*$/.test(text)) return text.toLowerCase();
  // White space becomes a space; controls, formatting characters and what is invisible by default map to nothing.
  const mapped = text.replace(/[\s\u0085\p{Z}]+/gu, " ").replace(/[\p{Cc}\p{Cf}\p{Default_Ignorable_Code_Point}\ufffc]/gu, "");
  return mapped.normalize("NFKC").toLowerCase().normalize("NFKC").replace(/ +/g, " ").trim();
}

function canonicalAttribute({ type, valueTag, valueBytes, text }: Attribute): string {
  // Types without text are compared octet for octet, with their tag.
  return text === undefined ? `${type}#${valueTag}:${asBuffer(valueBytes).toString("hex")}` : `${type}=${prepare(text)}`;
}

const shortNames: Readonly<Record<string, string>> = {
  [oid.commonName]: "CN",
  [oid.localityName]: "L",
  [oid.stateOrProvinceName]: "ST",
  [oid.organizationName]: "O",
  [oid.organizationalUnitName]: "OU",
  [oid.countryName]: "C",
  [oid.streetAddress]: "STREET",
  [oid.domainComponent]: "DC",
  [oid.userId]: "UID",
};

function attributeText({ type, valueTag, valueBytes, text }: Attribute): string {
  const short = shortNames[type];
  if (short === undefined || text === undefined) return `${type}=#${encode(valueTag, valueBytes).toString("hex")}`;
  const escaped = text
    .replace(/[\\"+,;<>]/g, "\\$&")
    // oxlint-disable-next-line no-control-regex -- RFC 4514 section 2.4 wants these as hex pairs
    .replace(/[\u0000-\u001f\u007f]/g, (character) => `\\${character.charCodeAt(0).toString(16).padStart(2, "0")}`)
    .replace(/^[ #]/, "\\$&")
    .replace(/(?<!\\) $/, "\\ ");
  return `${short}=${escaped}`;
}

/** GeneralName (RFC 5280 section 4.2.1.6). Forms that Signet does not use are `other`, with the number of their tag. */
export type GeneralName =
  | { readonly kind: "dns" | "uri" | "email"; readonly value: string }
  /** 4 or 16 octets; in name constraints 8 or 32, the address and its mask. */
  | { readonly kind: "ip"; readonly value: string; readonly octets: Uint8Array }
  | { readonly kind: "directory"; readonly value: Name }
  | { readonly kind: "other"; readonly value: string; readonly tagNumber: number; readonly der: Uint8Array };

/** Octets of an address in a certificate, and of one with its mask in a constraint (RFC 5280 sections 4.2.1.6 and 4.2.1.10). */
const addressOctets: readonly number[] = [4, 16];
const addressRangeOctets: readonly number[] = [8, 32];

/** Takes the next element of `reader`, a GeneralName; in a subtree of constraints, addresses have masks. @throws SignetError `der-malformed` */
export function readGeneralName(reader: DerReader, inSubtree = false): GeneralName {
  const identifier = reader.peek();
  switch (identifier) {
    case contextTag(1):
      return { kind: "email", value: reader.readAscii(identifier) };
    case contextTag(2):
      return { kind: "dns", value: reader.readAscii(identifier) };
    case contextTag(6):
      return { kind: "uri", value: reader.readAscii(identifier) };
    case contextTag(7): {
      const octets = reader.readContent(identifier);
      if (!(inSubtree ? addressRangeOctets : addressOctets).includes(octets.length)) throw new SignetError("der-malformed", `Not an iPAddress: ${octets.length} octets.`);
      return { kind: "ip", value: formatIpAddress(octets), octets };
    }
    case constructedContextTag(4): {
      const explicit = reader.enter(identifier);
      const value = Name.read(explicit);
      explicit.finish();
      return { kind: "directory", value };
    }
    case constructedContextTag(0): {
      const start = reader.position;
      const otherName = reader.enter(identifier);
      const typeId = otherName.readObjectIdentifier();
      const value = otherName.enter(constructedContextTag(0));
      value.next();
      value.finish();
      otherName.finish();
      return { kind: "other", value: typeId, tagNumber: 0, der: reader.bytes.subarray(start, reader.position) };
    }
    case constructedContextTag(3):
    case constructedContextTag(5): {
      const der = reader.readElement(identifier);
      return { kind: "other", value: der.toString("hex"), tagNumber: identifier & 0x1f, der };
    }
    case contextTag(8): {
      const start = reader.position;
      reader.skipObjectIdentifier(identifier);
      const der = reader.bytes.subarray(start, reader.position);
      return { kind: "other", value: der.toString("hex"), tagNumber: 8, der };
    }
    default:
      throw new SignetError("der-malformed", `Not DER: no GeneralName at byte ${reader.position}.`, { details: { offset: reader.position } });
  }
}

/** GeneralNames: all that `reader` holds, one at least. @throws SignetError `der-malformed` */
export function readGeneralNames(reader: DerReader): GeneralName[] {
  const names: GeneralName[] = [];
  do names.push(readGeneralName(reader));
  while (!reader.atEnd);
  return names;
}

export function encodeGeneralName(name: GeneralName): Buffer {
  switch (name.kind) {
    case "email":
      return encodeText(name.value, contextTag(1));
    case "dns":
      return encodeText(name.value, contextTag(2));
    case "uri":
      return encodeText(name.value, contextTag(6));
    case "ip":
      return encode(contextTag(7), name.octets);
    case "directory":
      return encode(constructedContextTag(4), name.value.der);
    case "other":
      return asBuffer(name.der);
  }
}

/** Dotted decimal for 4 octets, the text of RFC 5952 for 16, hex for any other length. */
export function formatIpAddress(octets: Uint8Array): string {
  if (octets.length === 4) return octets.join(".");
  if (octets.length !== 16) return `#${asBuffer(octets).toString("hex")}`;
  const groups = Array.from({ length: 8 }, (_, index) => ((octets[index * 2] as number) << 8) | (octets[index * 2 + 1] as number));
  let zerosStart = -1;
  let zerosLength = 1;
  for (let start = 0; start < 8; start++) {
    let end = start;
    while (end < 8 && groups[end] === 0) end++;
    if (end - start > zerosLength) [zerosStart, zerosLength] = [start, end - start];
  }
  const hex = groups.map((group) => group.toString(16));
  return zerosStart < 0 ? hex.join(":") : `${hex.slice(0, zerosStart).join(":")}::${hex.slice(zerosStart + zerosLength).join(":")}`;
}

const ipv4Octet = "(?:25[0-5]|2[0-4]\\d|1\\d\\d|[1-9]?\\d)";
const ipv4Address = new RegExp(`^${ipv4Octet}(?:\\.${ipv4Octet}){3}$`);

/** Octets of an IPv4 or IPv6 address (RFC 4291 section 2.2); undefined where the text is neither. */
export function parseIpAddress(text: string): Uint8Array | undefined {
  if (ipv4Address.test(text)) return Uint8Array.from(text.split("."), Number);
  // The last 32 bits of an IPv6 address may be written as an IPv4 address.
  const lastColon = text.lastIndexOf(":");
  const embedded = text.slice(lastColon + 1);
  if (lastColon > 0 && ipv4Address.test(embedded)) {
    const [a = 0, b = 0, c = 0, d = 0] = embedded.split(".").map(Number);
    return parseIpAddress(`${text.slice(0, lastColon + 1)}${((a << 8) | b).toString(16)}:${((c << 8) | d).toString(16)}`);
  }
  if (!/^[0-9a-fA-F:]{2,39}$/.test(text)) return undefined;
  const halves = text.split("::");
  const [left = [], right = []] = halves.map((half) => (half === "" ? [] : half.split(":")));
  const missing = 8 - left.length - right.length;
  if (halves.length > 2 || (halves.length === 2 ? missing < 1 : missing !== 0)) return undefined;
  const groups = [...left, ...Array.from({ length: missing }, () => "0"), ...right];
  if (!groups.every((group) => /^[0-9a-fA-F]{1,4}$/.test(group))) return undefined;
  return Uint8Array.from(groups.flatMap((group) => [Number.parseInt(group, 16) >> 8, Number.parseInt(group, 16) & 0xff]));
}
