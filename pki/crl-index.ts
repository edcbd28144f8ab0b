/** Finds the entries of a CRL by serial number, in the encoding itself (RFC 5280 section 5.1.2.6). */
import { randomInt } from "node:crypto";

/** Most content octets that a serial number in an indexed list may have, so that its header is always two octets. */
export const serialOctetsLimit = 127;

/** Entries whose slots are read ahead of their being filled. */
const batchEntries = 1024;
const batchOffsets = new Int32Array(batchEntries);
const batchHashes = new Int32Array(batchEntries);

/** Content octets of the serial number that is looked for, and the same by words; look-ups are synchronous, so one place will do. */
const sought = new Uint8Array(serialOctetsLimit + 1);
const soughtView = new DataView(sought.buffer);

/** Drawn once a process, so that nobody can choose serial numbers that collide. */
const seed = randomInt(2 ** 32) | 1;

/**
 * Open addressing, half full at most: 8 to 16 bytes an entry. A slot holds the offset of an entry, 0 where it is free, and above it
 * as many bits of the hash as 32 leave room for: with them, a look-up that finds nothing seldom has to touch the list.
 */
export class CrlIndex {
  /** The same serial number stands twice for one certificate issuer. */
  readonly hasDuplicates: boolean;
  readonly #bytes: Buffer;
  readonly #view: DataView;
  readonly #slots: Int32Array;
  /** Covers every offset of an entry. */
  readonly #offsetMask: number;

  /**
   * @param der the CRL, whose entries at `start` to `end` have been checked; `start` is not 0
   * @param size number of entries
   * @param isSameIssuer whether the entries at two offsets are of one certificate issuer
   */
  constructor(der: Buffer, start: number, end: number, size: number, isSameIssuer: (one: number, other: number) => boolean) {
    this.#bytes = der;
    this.#view = new DataView(der.buffer, der.byteOffset, der.byteLength);
    // A power of two, so that a mask takes a hash to its slot.
    this.#slots = new Int32Array(2 ** Math.max(2, Math.ceil(Math.log2(size * 2))));
    this.#offsetMask = 2 ** (32 - Math.clz32(end)) - 1;
    this.hasDuplicates = this.#fill(start, end, isSameIssuer);
  }

  /** Octets that the index takes, besides the list. */
  get byteLength(): number {
    return this.#slots.byteLength;
  }

  /**
   * Offset of the entry with this serial number, or -1.
   * @param serialNumber content octets of the INTEGER
   * @param isWanted asked of every entry with that serial number where there may be several
   */
  locate(serialNumber: Uint8Array, isWanted?: (offset: number) => boolean): number {
    const { length } = serialNumber;
    if (length > serialOctetsLimit) return -1;
    for (let i = 0; i < length; i++) sought[i] = serialNumber[i] as number;
    const slots = this.#slots;
    const slotMask = slots.length - 1;
    const offsetMask = this.#offsetMask;
    const hash = hashOctets(sought, soughtView, 0, length);
    for (let slot = (hash >>> 3) & slotMask; ; slot = (slot + 1) & slotMask) {
      const held = slots[slot] as number;
      if (held === 0) return -1;
      const offset = held & offsetMask;
      if (((held ^ hash) & ~offsetMask) === 0 && this.#isSought(contentOffset(this.#bytes, offset), length) && (isWanted === undefined || isWanted(offset))) return offset;
    }
  }

  /**
   * Puts every entry into its slot and says whether one stands twice. In batches: first the hashes, which reads the slots of a whole batch from
   * memory side by side, then the slots, which are near by then. One by one, each entry would wait for its own.
   */
  #fill(start: number, end: number, isSameIssuer: (one: number, other: number) => boolean): boolean {
    const bytes = this.#bytes;
    const view = this.#view;
    const slots = this.#slots;
    const slotMask = slots.length - 1;
    const offsetMask = this.#offsetMask;
    let hasDuplicates = false;
    for (let at = start; at < end; ) {
      let count = 0;
      for (; at < end && count < batchEntries; count++) {
        const serial = contentOffset(bytes, at);
        const hash = hashOctets(bytes, view, serial + 2, bytes[serial + 1] as number);
        batchOffsets[count] = at;
        batchHashes[count] = hash;
        at = serial + contentLength(bytes, at);
      }
      for (let i = 0; i < count; i++) {
        const hash = batchHashes[i] as number;
        const offset = batchOffsets[i] as number;
        let slot = (hash >>> 3) & slotMask;
        for (let held = slots[slot] as number; held !== 0; slot = (slot + 1) & slotMask, held = slots[slot] as number) {
          if (((held ^ hash) & ~offsetMask) !== 0) continue;
          const other = held & offsetMask;
          if (this.#haveSameSerial(contentOffset(bytes, other), contentOffset(bytes, offset)) && isSameIssuer(other, offset)) hasDuplicates = true;
        }
        slots[slot] = (hash & ~offsetMask) | offset;
      }
    }
    return hasDuplicates;
  }

  /** Whether the INTEGER at `serial` has the content that is sought. */
  #isSought(serial: number, length: number): boolean {
    const bytes = this.#bytes;
    if (bytes[serial + 1] !== length) return false;
    const start = serial + 2;
    let i = 0;
    for (; i + 4 <= length; i += 4) if (this.#view.getInt32(start + i, true) !== soughtView.getInt32(i, true)) return false;
    for (; i < length; i++) if (bytes[start + i] !== sought[i]) return false;
    return true;
  }

  #haveSameSerial(one: number, other: number): boolean {
    const bytes = this.#bytes;
    const length = bytes[one + 1] as number;
    for (let i = 1; i < length + 2; i++) if (bytes[one + i] !== bytes[other + i]) return false;
    return true;
  }
}

/** 32 bits over all octets, four at a time. */
function hashOctets(bytes: Uint8Array, view: DataView, start: number, length: number): number {
  const end = start + length;
  let value = seed ^ length;
  let at = start;
  for (; at + 4 <= end; at += 4) {
    value = Math.imul(value ^ view.getInt32(at, true), 0x2c1b3c6d);
    value ^= value >>> 15;
  }
  for (; at < end; at++) value = Math.imul(value ^ (bytes[at] as number), 0x01000193);
  value = Math.imul(value ^ (value >>> 13), 0x297a2d39);
  return value ^ (value >>> 16);
}

/** Offset of the content of the element at `at`, in bytes that have been checked. */
function contentOffset(bytes: Uint8Array, at: number): number {
  const first = bytes[at + 1] as number;
  return first < 0x80 ? at + 2 : at + 2 + (first & 0x7f);
}

function contentLength(bytes: Uint8Array, at: number): number {
  const first = bytes[at + 1] as number;
  if (first < 0x80) return first;
  let length = 0;
  for (let i = 0; i < (first & 0x7f); i++) length = length * 256 + (bytes[at + 2 + i] as number);
  return length;
}
