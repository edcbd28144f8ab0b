/** Certificate revocation lists (RFC 5280 section 5): reading, looking up, and the signature. crl-builder.ts writes them. */
import type { Certificate } from "./certificate.ts";
import { reasonCodes } from "./crl-builder.ts";
import type { ReasonCode, RevokedEntry } from "./crl-builder.ts";
import { CrlIndex, contentLength, contentOffset, serialOctetsLimit } from "./crl-index.ts";
import { DerReader, asBuffer, constructedContextTag, contextTag, isUtcTime, prescribedTimeTag, readSingle, tag, valueOfUtcTime } from "./der.ts";
import { SignetError } from "./errors.ts";
import { readAuthorityKeyIdentifier, readDistributionPointName, readExtensionList, serialNumberHex } from "./extensions.ts";
import type { DistributionPoint, Extension } from "./extensions.ts";
import { Name, readGeneralNames } from "./name.ts";
import type { GeneralName } from "./name.ts";
import { oid } from "./oids.ts";
import { pemDecodeLabel, pemDecodeOne, pemEncode } from "./pem.ts";
import { readSignatureAlgorithm, verifySignature } from "./signature-algorithm.ts";
import type { SignatureAlgorithm, SubjectPublicKeyInfo } from "./signature-algorithm.ts";

export { PackedRevocations, buildCrl, crlToBeSigned } from "./crl-builder.ts";
export type { CrlContent, ReasonCode, RevokedEntry } from "./crl-builder.ts";
export { assembleSigned } from "./certificate.ts";

/** IssuingDistributionPoint (RFC 5280 section 5.2.5): what the CRL covers. */
export interface IssuingDistributionPoint {
  /** Content of the extension; two scopes are one if these bytes are. */
  readonly der: Uint8Array;
  readonly fullNames: readonly GeneralName[];
  /** nameRelativeToCRLIssuer: content of the RDN. */
  readonly relativeName?: Uint8Array;
  readonly onlyContainsUserCerts: boolean;
  readonly onlyContainsCACerts: boolean;
  readonly onlyContainsAttributeCerts: boolean;
  /** ReasonFlags as named bits; absent means all. */
  readonly onlySomeReasons?: number;
  readonly indirect: boolean;
}

/** Longest CRL that is read, in octets: offsets into it fit 31 bits. A million entries take about 40 MB. */
const crlOctetsLimit = 2 ** 31 - 1;

/** From `start` on, entries are of this certificate issuer (RFC 5280 section 5.3.3). */
interface IssuerRun {
  readonly start: number;
  readonly issuer: Name;
}

/** Everything of a CRL but its entries. @internal */
export type CrlHead = Pick<CertificateRevocationList, "issuer" | "authorityKeyIdentifier" | "crlNumber" | "issuingDistributionPoint" | "isDelta" | "unknownCritical" | "signatureAlgorithm" | "verifySignature">;

/**
 * A CRL whose encoding has been checked whole, every entry included. The entries stay where they are, in `der`; the index,
 * made at the first look-up, lies beside them (crl-index.ts).
 */
export class CertificateRevocationList {
  /** Not copied: whoever hands the bytes in must not change them. */
  readonly der: Uint8Array;
  readonly tbs: Uint8Array;
  readonly signature: Uint8Array;
  readonly signatureAlgorithm: SignatureAlgorithm;
  readonly issuer: Name;
  readonly thisUpdate: Date;
  readonly nextUpdate: Date;
  /** Absent only in CRLs that do not conform to RFC 5280 section 5.2.3. */
  readonly crlNumber: bigint | undefined;
  /** Hex. */
  readonly authorityKeyIdentifier: string | undefined;
  readonly issuingDistributionPoint?: IssuingDistributionPoint;
  /** BaseCRLNumber of a delta CRL. */
  readonly baseCrlNumber?: bigint;
  /** OIDs of critical extensions, the list's or an entry's, that are not processed: with one, the CRL decides nothing. */
  readonly unknownCritical: readonly string[];
  readonly extensions: readonly Extension[];
  /** Whether thisUpdate and nextUpdate are in the form of RFC 5280 section 5.1.2.4. */
  readonly hasPrescribedTimes: boolean;
  readonly version: 1 | 2;
  /** Whether every revocationDate is in that form too (RFC 5280 section 5.1.2.6). */
  readonly hasPrescribedRevocationDates: boolean;
  /** Whether every certificateIssuer is critical (RFC 5280 section 5.3.3). */
  readonly hasCriticalCertificateIssuers: boolean;
  /** Reasons that occur among the entries. */
  readonly reasonsPresent: ReadonlySet<ReasonCode>;
  /** OIDs of entry extensions that are critical somewhere. */
  readonly criticalEntryExtensions: readonly string[];
  /** Number of entries. */
  readonly size: number;
  readonly #entriesStart: number;
  readonly #entriesEnd: number;
  readonly #issuerRuns: readonly IssuerRun[];
  #index: CrlIndex | undefined;
  /** Numbers of the certificate issuers that occur, by `canonicalKey`; made with the index. */
  #issuerNumbers: ReadonlyMap<string, number> | undefined;

  private constructor(der: Buffer, authenticate?: (head: CrlHead) => void) {
    const outer = new DerReader(der);
    const list = outer.enter(tag.sequence);
    outer.finish();
    const tbsStart = list.position;
    const tbs = list.enter(tag.sequence);
    this.der = der;
    this.tbs = der.subarray(tbsStart, list.position);
    this.signatureAlgorithm = readSignatureAlgorithm(list);
    this.signature = list.readBitStringOctets();
    list.finish();

    const version2 = tbs.peek() === tag.integer;
    if (version2 && tbs.readCount() !== 1) throw malformed("the version is neither 1 nor 2");
    const innerAlgorithm = readSignatureAlgorithm(tbs);
    if (!asBuffer(innerAlgorithm.der).equals(this.signatureAlgorithm.der)) throw malformed("the two signature algorithms differ (RFC 5280 section 5.1.1.2)");
    this.issuer = Name.read(tbs);
    if (this.issuer.isEmpty) throw malformed("the issuer is empty (RFC 5280 section 5.1.2.3)");
    const thisUpdateTag = tbs.peek();
    this.thisUpdate = new Date(tbs.readTime());
    const nextUpdateTag = tbs.peek();
    if (nextUpdateTag !== tag.utcTime && nextUpdateTag !== tag.generalizedTime) throw malformed("nextUpdate is missing (RFC 5280 section 5.1.2.5)");
    this.nextUpdate = new Date(tbs.readTime());
    this.hasPrescribedTimes = thisUpdateTag === prescribedTimeTag(this.thisUpdate.getTime()) && nextUpdateTag === prescribedTimeTag(this.nextUpdate.getTime());
    this.version = version2 ? 2 : 1;

    if (tbs.peek() === tag.sequence) {
      tbs.expect(tag.sequence);
      this.#entriesStart = tbs.contentStart;
      this.#entriesEnd = tbs.contentEnd;
      if (this.#entriesStart === this.#entriesEnd) throw malformed("revokedCertificates is there and empty (RFC 5280 section 5.1.2.6)");
    } else {
      this.#entriesStart = this.#entriesEnd = 0;
    }

    const explicit = tbs.enterIf(constructedContextTag(0));
    if (explicit !== undefined && !version2) throw malformed("extensions need version 2");
    this.extensions = explicit === undefined ? [] : readExtensionList(explicit);
    explicit?.finish();
    tbs.finish();
    const unknownCritical = new Set<string>();
    for (const { oid: extensionOid, critical, value } of this.extensions) {
      if (extensionOid === oid.crlNumber) this.crlNumber = readNumber(value);
      else if (extensionOid === oid.deltaCrlIndicator) this.baseCrlNumber = readNumber(value);
      else if (extensionOid === oid.authorityKeyIdentifier) this.authorityKeyIdentifier = readAuthorityKeyIdentifier(value);
      else if (extensionOid === oid.issuingDistributionPoint) this.issuingDistributionPoint = readIssuingDistributionPoint(value);
      else if (critical) unknownCritical.add(extensionOid);
    }
    this.unknownCritical = [...unknownCritical];
    authenticate?.(this);

    const walk: EntryWalk = { size: 0, issuerRuns: [], unknownCritical, critical: new Set(), reasonBits: 0, prescribedDates: true, criticalIssuers: true };
    checkEntries(der, this.#entriesStart, this.#entriesEnd, walk);
    this.size = walk.size;
    this.#issuerRuns = walk.issuerRuns;
    this.reasonsPresent = new Set(reasonCodes.filter((reason, number) => reason !== undefined && (walk.reasonBits & (1 << number)) !== 0) as ReasonCode[]);
    this.criticalEntryExtensions = [...walk.critical];
    this.hasPrescribedRevocationDates = walk.prescribedDates;
    this.hasCriticalCertificateIssuers = walk.criticalIssuers;
    this.unknownCritical = [...unknownCritical];
    if (walk.issuerRuns.length > 0 && this.issuingDistributionPoint?.indirect !== true) throw malformed("a certificateIssuer in a CRL that is not indirect");
  }

  /** @throws SignetError `crl-malformed` */
  static parse(der: Uint8Array): CertificateRevocationList {
    return CertificateRevocationList.parseAuthenticated(der);
  }

  /**
   * Reads all but the entries, then them: a stranger's list of many megabytes is not worth reading for a signature that does not hold.
   * @param authenticate throws what is wrong with whoever made it
   * @throws SignetError `crl-malformed`, and what `authenticate` throws
   * @internal
   */
  static parseAuthenticated(der: Uint8Array, authenticate?: (head: CrlHead) => void): CertificateRevocationList {
    if (der.length > crlOctetsLimit) throw malformed(`longer than ${crlOctetsLimit} octets`);
    try {
      return new CertificateRevocationList(asBuffer(der), authenticate);
    } catch (cause) {
      if (cause instanceof SignetError && cause.code === "der-malformed") throw malformed(cause.message, cause);
      throw cause;
    }
  }

  /** The only CRL in a PEM text. @throws SignetError `pem-malformed`, `crl-malformed` */
  static fromPem(text: string): CertificateRevocationList {
    return CertificateRevocationList.parse(pemDecodeOne(text, "X509 CRL"));
  }

  /** All CRLs in a PEM text. @throws SignetError `pem-malformed`, `crl-malformed` */
  static listFromPem(text: string): CertificateRevocationList[] {
    return pemDecodeLabel(text, "X509 CRL").map((der) => CertificateRevocationList.parse(der));
  }

  /** It lists changes since CRL `baseCrlNumber` alone, and says nothing by itself. */
  get isDelta(): boolean {
    return this.baseCrlNumber !== undefined;
  }

  /**
   * The entry of a certificate with this serial number, or undefined. In an indirect CRL, entries belong to the
   * `certificateIssuer` they name, or to the CRL's issuer; leave it out for certificates that the CRL's issuer issued.
   * @throws SignetError `request-malformed` where `serialNumber` is not in the form of `Certificate.serialNumber`; `crl-missing` where it is too long for any list
   */
  find(serialNumber: string, certificateIssuer?: Name): RevokedEntry | undefined {
    const at = this.#locate(serialNumberOctets(serialNumber), certificateIssuer);
    if (at < 0) return undefined;
    return usualEntry(this.der, at, serialNumber) ?? readEntry(new DerReader(this.der, at, this.#entriesEnd)).entry;
  }

  /**
   * Whether there is an entry of a certificate with this serial number, which costs less than `find`: most are not on the list.
   * @param serialNumber as `Certificate.serialNumberOctets`
   * @param certificateIssuer as for `find`
   * @throws SignetError `crl-missing` where it is too long for any list
   */
  has(serialNumber: Uint8Array, certificateIssuer?: Name): boolean {
    return this.#locate(serialNumber, certificateIssuer) >= 0;
  }

  /** Offset of an entry in `der`, or -1. */
  #locate(serialNumber: Uint8Array, certificateIssuer: Name | undefined): number {
    // A list with such an entry is refused: that it is not found would not mean that it is not revoked.
    if (serialNumber.length > serialOctetsLimit) throw new SignetError("crl-missing", `No CRL can list a serial number of more than ${serialOctetsLimit} octets.`);
    if (this.size === 0) return -1;
    const index = this.#indexed();
    if (this.#issuerNumbers === undefined) return certificateIssuer === undefined || certificateIssuer.equals(this.issuer) ? index.locate(serialNumber) : -1;
    const issuer = this.#issuerNumbers.get((certificateIssuer ?? this.issuer).canonicalKey);
    return issuer === undefined ? -1 : index.locate(serialNumber, 0, serialNumber.length, issuer);
  }

  /**
   * Serial numbers of the entries that another CRL of the same issuer has not; neither is indirect. Both are indexed by then, so that
   * no later look-up has to wait for it.
   * @internal
   */
  serialNumbersNotOn(other: CertificateRevocationList | undefined): string[] {
    if (this.size > 0) this.#indexed();
    const index = other === undefined || other.size === 0 ? undefined : other.#indexed();
    const bytes = asBuffer(this.der);
    const serialNumbers: string[] = [];
    for (let at = this.#entriesStart; at < this.#entriesEnd; ) {
      const content = contentOffset(bytes, at);
      const start = content + 2;
      const end = start + (bytes[content + 1] as number);
      if (index === undefined || index.locate(bytes, start, end) < 0) serialNumbers.push(serialNumberHex(bytes.subarray(start, end)));
      at = content + contentLength(bytes, at);
    }
    return serialNumbers;
  }

  /** All entries, in order. For an indirect CRL, `find` knows whose each is. */
  *entries(): Iterable<RevokedEntry> {
    const reader = new DerReader(this.der, this.#entriesStart, this.#entriesEnd);
    while (!reader.atEnd) yield readEntry(reader).entry;
  }

  /** Whether the signature is one by this key. */
  isSignedBy(key: SubjectPublicKeyInfo): boolean {
    return verifySignature(this.signatureAlgorithm, key, this.tbs, this.signature);
  }

  /** Checks the signature with the issuer's key; whether the issuer may sign CRLs is a matter of its path. @throws SignetError `crl-signature-invalid` */
  verifySignature(issuer: Certificate): void {
    if (!this.isSignedBy(issuer.subjectPublicKeyInfo)) throw new SignetError("crl-signature-invalid", "The CRL is not signed by its issuer.");
  }

  /** One X509 CRL block in lines of 64 characters (RFC 7468). */
  toPem(): string {
    return pemEncode("X509 CRL", this.der);
  }

  /** Whether a serial number stands twice, for one certificate issuer. */
  get hasDuplicateEntries(): boolean {
    return this.size > 0 && this.#indexed().hasDuplicates;
  }

  /** Bytes of the index for each entry. */
  get indexOctetsPerEntry(): number {
    return this.size === 0 ? 0 : this.#indexed().byteLength / this.size;
  }

  #indexed(): CrlIndex {
    return (this.#index ??= new CrlIndex(asBuffer(this.der), this.#entriesStart, this.#entriesEnd, this.size, this.#numberIssuers()));
  }

  /** Numbers the certificate issuers of an indirect CRL, the CRL's own first; returns whose the entry at an offset is. */
  #numberIssuers(): ((offset: number) => number) | undefined {
    const runs = this.#issuerRuns;
    if (runs.length === 0) return undefined;
    const numbers = new Map([[this.issuer.canonicalKey, 0]]);
    const numberOfRun = runs.map(({ issuer: { canonicalKey } }) => {
      const number = numbers.get(canonicalKey) ?? numbers.size;
      numbers.set(canonicalKey, number);
      return number;
    });
    this.#issuerNumbers = numbers;
    return (offset) => {
      let number = 0;
      for (let low = 0, high = runs.length; low < high; ) {
        const middle = (low + high) >> 1;
        if ((runs[middle] as IssuerRun).start <= offset) {
          number = numberOfRun[middle] as number;
          low = middle + 1;
        } else {
          high = middle;
        }
      }
      return number;
    };
  }
}

interface EntryWalk {
  size: number;
  readonly issuerRuns: IssuerRun[];
  readonly unknownCritical: Set<string>;
  readonly critical: Set<string>;
  /** Bit n: CRLReason n occurs. */
  reasonBits: number;
  /** What holds of every entry so far: see hasPrescribedRevocationDates and hasCriticalCertificateIssuers. */
  prescribedDates: boolean;
  criticalIssuers: boolean;
}

const processedEntryExtensions: ReadonlySet<string> = new Set([oid.reasonCode, oid.invalidityDate, oid.certificateIssuer]);

/** crlEntryExtensions that hold a reasonCode alone, up to its value. */
const reasonOnly = Buffer.from("300c300a0603551d1504030a01", "hex");

/**
 * Checks every entry and counts them. Entries of the usual form (short lengths, UTCTime, no extension or a reasonCode) are
 * checked in place, since a list may have a million; any other goes through the reader.
 */
function checkEntries(bytes: Buffer, start: number, end: number, walk: EntryWalk): void {
  for (let at = start; at < end; walk.size++) {
    const length = bytes[at + 1] as number;
    const next = at + 2 + length;
    const serialLength = bytes[at + 3] as number;
    const serial = at + 4;
    const time = serial + serialLength;
    const extensions = time + 15;
    const usual =
      bytes[at] === tag.sequence &&
      length < 0x80 &&
      next <= end &&
      bytes[at + 2] === tag.integer &&
      serialLength > 0 &&
      extensions <= next &&
      bytes[time] === tag.utcTime &&
      bytes[time + 1] === 13 &&
      (serialLength === 1 || (bytes[serial] !== 0 && bytes[serial] !== 0xff) || (bytes[serial] === 0) === (bytes[serial + 1] as number) >= 0x80) &&
      (extensions === next || (next - extensions === 14 && isReasonOnly(bytes, extensions)));
    if (usual) {
      if (!isUtcTime(bytes, time + 2)) throw malformed("a revocationDate that there is not");
      if (extensions !== next) walk.reasonBits |= 1 << (bytes[next - 1] as number);
      at = next;
    } else {
      const reader = new DerReader(bytes, at, end);
      const { entry, hasPrescribedDate, certificateIssuer, critical, unknownCritical, serialOctets } = readEntry(reader);
      // A UTCTime, as the usual form has, is always in the prescribed form.
      if (!hasPrescribedDate) walk.prescribedDates = false;
      if (certificateIssuer !== undefined && !critical.includes(oid.certificateIssuer)) walk.criticalIssuers = false;
      // The index reads the serial number's header as two octets.
      if (serialOctets > serialOctetsLimit) throw malformed(`a serial number of more than ${serialOctetsLimit} octets`);
      if (certificateIssuer !== undefined) walk.issuerRuns.push({ start: at, issuer: certificateIssuer });
      if (entry.reason !== undefined) walk.reasonBits |= 1 << reasonCodes.indexOf(entry.reason);
      for (const extension of critical) walk.critical.add(extension);
      for (const extension of unknownCritical) walk.unknownCritical.add(extension);
      at = reader.position;
    }
  }
}

function isReasonOnly(bytes: Uint8Array, at: number): boolean {
  for (let i = 0; i < 13; i++) if (bytes[at + i] !== reasonOnly[i]) return false;
  return reasonCodes[bytes[at + 13] as number] !== undefined;
}

/** The entry at `at` if it has the usual form, which nearly all have; its serial number is known already. */
function usualEntry(bytes: Uint8Array, at: number, serialNumber: string): RevokedEntry | undefined {
  const next = at + 2 + (bytes[at + 1] as number);
  const time = at + 4 + (bytes[at + 3] as number);
  const extensions = time + 15;
  if ((bytes[at + 1] as number) >= 0x80 || bytes[time] !== tag.utcTime) return undefined;
  const revocationDate = new Date(valueOfUtcTime(bytes, time + 2));
  if (extensions === next) return { serialNumber, revocationDate };
  const reason = next - extensions === 14 && isReasonOnly(bytes, extensions) ? reasonCodes[bytes[next - 1] as number] : undefined;
  return reason === undefined ? undefined : { serialNumber, revocationDate, reason };
}

interface EntryReading {
  readonly entry: RevokedEntry;
  readonly hasPrescribedDate: boolean;
  readonly certificateIssuer: Name | undefined;
  /** OIDs of critical extensions, and of those among them that are not processed. */
  readonly critical: readonly string[];
  readonly unknownCritical: readonly string[];
  readonly serialOctets: number;
}

/** Reads one entry (RFC 5280 sections 5.1.2.6 and 5.3). @throws SignetError `der-malformed`, `crl-malformed` */
function readEntry(reader: DerReader): EntryReading {
  const content = reader.enter(tag.sequence);
  const serial = content.readIntegerBytes();
  const dateTag = content.peek();
  const revocationDate = new Date(content.readTime());
  let reason: ReasonCode | undefined;
  let certificateIssuer: Name | undefined;
  const extensions = content.atEnd ? [] : readExtensionList(content);
  const critical = extensions.filter((extension) => extension.critical).map((extension) => extension.oid);
  for (const { oid: extensionOid, value } of extensions) {
    if (extensionOid === oid.reasonCode) {
      const number = new DerReader(value);
      reason = reasonCodes[number.readCount(tag.enumerated)];
      number.finish();
      if (reason === undefined) throw malformed("a reasonCode that does not exist");
    } else if (extensionOid === oid.invalidityDate) {
      const date = new DerReader(value);
      if (date.peek() !== tag.generalizedTime) throw malformed("an invalidityDate that is not a GeneralizedTime");
      date.readTime();
      date.finish();
    } else if (extensionOid === oid.certificateIssuer) {
      const name = readSingle(value, tag.sequence, readGeneralNames).find((general) => general.kind === "directory");
      if (name === undefined) throw malformed("a certificateIssuer without a directoryName");
      certificateIssuer = name.value;
    }
  }
  content.finish();
  const entry = { serialNumber: serialNumberHex(serial), revocationDate, ...(reason === undefined ? {} : { reason }) };
  const hasPrescribedDate = dateTag === prescribedTimeTag(revocationDate.getTime());
  return { entry, hasPrescribedDate, certificateIssuer, critical, unknownCritical: critical.filter((extensionOid) => !processedEntryExtensions.has(extensionOid)), serialOctets: serial.length };
}

function readNumber(value: Uint8Array): bigint {
  const reader = new DerReader(value);
  const number = reader.readIntegerBytes();
  reader.finish();
  if ((number[0] as number) >= 0x80) throw malformed("a negative CRL number");
  return BigInt(`0x${number.toString("hex")}`);
}

function readIssuingDistributionPoint(value: Uint8Array): IssuingDistributionPoint {
  return readSingle(value, tag.sequence, (content) => {
    const explicit = content.enterIf(constructedContextTag(0));
    const name: Pick<DistributionPoint, "fullNames" | "relativeName"> = explicit === undefined ? {} : readDistributionPointName(explicit);
    const onlyContainsUserCerts = content.readBooleanDefaultFalse(contextTag(1));
    const onlyContainsCACerts = content.readBooleanDefaultFalse(contextTag(2));
    const reasons = content.peek() === contextTag(3) ? content.readNamedBits(contextTag(3)) : undefined;
    const indirect = content.readBooleanDefaultFalse(contextTag(4));
    const onlyContainsAttributeCerts = content.readBooleanDefaultFalse(contextTag(5));
    if (Number(onlyContainsUserCerts) + Number(onlyContainsCACerts) + Number(onlyContainsAttributeCerts) > 1) throw malformed("a scope that excludes itself (RFC 5280 section 5.2.5)");
    return {
      der: value,
      fullNames: name.fullNames ?? [],
      ...(name.relativeName === undefined ? {} : { relativeName: name.relativeName }),
      onlyContainsUserCerts,
      onlyContainsCACerts,
      onlyContainsAttributeCerts,
      ...(reasons === undefined ? {} : { onlySomeReasons: reasons }),
      indirect,
    };
  });
}

/** What `serialNumberOctets` answers with; look-ups are synchronous, so one place will do. */
const scratch = new Uint8Array(serialOctetsLimit + 1);
const tooLong = new Uint8Array(serialOctetsLimit + 1);
/** Value of a hex digit in lower case by its character code; -1 for other characters. */
const nibbles = Int8Array.from({ length: 128 }, (_, code) => "0123456789abcdef".indexOf(String.fromCharCode(code)));

/**
 * INTEGER content of a serial number in hex, good until the next call. A text in another form is refused: that nothing is found for it
 * would mean "not revoked".
 */
function serialNumberOctets(serialNumber: string): Uint8Array {
  const start = serialNumber.charCodeAt(0) === 0x2d ? 1 : 0;
  const digits = serialNumber.length - start;
  if (digits === 0 || digits % 2 !== 0) return refuseSerialNumber();
  // One octet more than any list holds is left for `#locate` to refuse.
  if (digits > 2 * serialOctetsLimit) return tooLong;
  // A positive number with the high bit set is written with a zero octet in front.
  let length = start === 0 && (nibbles[serialNumber.charCodeAt(0) & 0x7f] as number) >= 8 ? 1 : 0;
  scratch[0] = 0;
  let characters = 0;
  let wrong = 0;
  for (let at = start; at < serialNumber.length; at += 2) {
    const one = serialNumber.charCodeAt(at);
    const other = serialNumber.charCodeAt(at + 1);
    const octet = ((nibbles[one & 0x7f] as number) << 4) | (nibbles[other & 0x7f] as number);
    characters |= one | other;
    wrong |= octet;
    scratch[length++] = octet;
  }
  if (wrong < 0 || characters > 0x7f) return refuseSerialNumber();
  // Two's complement in the fewest octets, as the INTEGER is written.
  const first = scratch[0] as number;
  const second = length > 1 ? (scratch[1] as number) : 0x80;
  if (start === 1 ? first < 0x80 || (first === 0xff && second >= 0x80 && length > 1) : first === 0 && (second < 0x80 || digits === 2 * length) && length > 1) return refuseSerialNumber();
  return scratch.subarray(0, length);
}

function refuseSerialNumber(): never {
  throw new SignetError("request-malformed", "A serial number is lower-case hex of whole octets, without leading zero octets.");
}

function malformed(reason: string, cause?: unknown): SignetError {
  return new SignetError("crl-malformed", `Not a CRL: ${reason}`, { cause });
}
