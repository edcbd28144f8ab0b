/** Finds the entries of a CRL by serial number, in the encoding itself (RFC 5280 section 5.1.2.6). */
import { randomBytes } from "node:crypto";

/** Most content octets that a serial number in an indexed list may have, so that its header is always two octets. */
export const serialOctetsLimit = 127;

/** Entries whose slots are read ahead of their being filled. */
const batchEntries = 1024;
const batchOffsets = new Int32Array(batchEntries);
const batchHashes = new Int32Array(batchEntries);

/** Content octets of the serial number that is looked for, and the same by words; look-ups are synchronous, so one place will do. */
const sought = new Uint8Array(serialOctetsLimit + 1);
const soughtView = new DataView(sought.buffer);

/** The key of the hash, drawn once a process, so that nobody can choose serial numbers that collide. */
const [key0, key1] = new Int32Array(Uint8Array.from(randomBytes(8)).buffer) as unknown as readonly [number, number];

/** Issuer of every entry of a list that has but one. */
const onlyIssuer = -1;

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
  readonly #issuerAt: ((offset: number) => number) | undefined;

  /**
   * @param der the CRL, whose entries at `start` to `end` have been checked; `start` is not 0
   * @param size number of entries
   * @param issuerAt number from 0 of the certificate issuer of the entry at an offset; left out where all are of one
   */
  constructor(der: Buffer, start: number, end: number, size: number, issuerAt?: (offset: number) => number) {
    this.#bytes = der;
    this.#view = new DataView(der.buffer, der.byteOffset, der.byteLength);
    // A power of two, so that a mask takes a hash to its slot.
    this.#slots = new Int32Array(2 ** Math.max(2, Math.ceil(Math.log2(size * 2))));
    this.#offsetMask = 2 ** (32 - Math.clz32(end)) - 1;
    this.#issuerAt = issuerAt;
    this.hasDuplicates = this.#fill(start, end);
  }

  /** Octets that the index takes, besides the list. */
  get byteLength(): number {
    return this.#slots.byteLength;
  }

  /**
   * Offset of the entry with this serial number, or -1.
   * @param octets content octets of the INTEGER are those from `start` to `end`, {@link serialOctetsLimit} at most
   * @param issuer number of the certificate issuer, where `issuerAt` was given
   */
  locate(octets: Uint8Array, start = 0, end = octets.length, issuer = onlyIssuer): number {
    const length = end - start;
    for (let i = 0; i < length; i++) sought[i] = octets[start + i] as number;
    const slots = this.#slots;
    const slotMask = slots.length - 1;
    const offsetMask = this.#offsetMask;
    const hash = hashOctets(sought, soughtView, 0, length, issuer);
    for (let slot = (hash >>> 3) & slotMask; ; slot = (slot + 1) & slotMask) {
      const held = slots[slot] as number;
      if (held === 0) return -1;
      const offset = held & offsetMask;
      if (((held ^ hash) & ~offsetMask) === 0 && this.#isSought(contentOffset(this.#bytes, offset), length) && (this.#issuerAt === undefined || this.#issuerAt(offset) === issuer)) return offset;
    }
  }

  /**
   * Puts every entry into its slot and says whether one stands twice; the second is left out, or many would make one long run of slots.
   * In batches: first the hashes, then a read of each slot for nothing, which brings them from memory side by side. Whoever looked at one to decide what comes next
   * would wait for it, and for every one anew.
   */
  #fill(start: number, end: number): boolean {
    const bytes = this.#bytes;
    const view = this.#view;
    const slots = this.#slots;
    const slotMask = slots.length - 1;
    const offsetMask = this.#offsetMask;
    const issuerAt = this.#issuerAt;
    let hasDuplicates = false;
    let read = 0;
    for (let at = start; at < end; ) {
      let count = 0;
      for (; at < end && count < batchEntries; count++) {
        const serial = contentOffset(bytes, at);
        const hash = hashOctets(bytes, view, serial + 2, bytes[serial + 1] as number, issuerAt === undefined ? onlyIssuer : issuerAt(at));
        batchOffsets[count] = at;
        batchHashes[count] = hash;
        at = serial + contentLength(bytes, at);
      }
      for (let i = 0; i < count; i++) read |= slots[((batchHashes[i] as number) >>> 3) & slotMask] as number;
      for (let i = 0; i < count; i++) {
        const hash = batchHashes[i] as number;
        const offset = batchOffsets[i] as number;
        let slot = (hash >>> 3) & slotMask;
        let isSecond = false;
        for (let held = slots[slot] as number; held !== 0 && !isSecond; slot = (slot + 1) & slotMask, held = slots[slot] as number) {
          if (((held ^ hash) & ~offsetMask) === 0) isSecond = this.#haveSameSerialAndIssuer(held & offsetMask, offset);
        }
        if (isSecond) hasDuplicates = true;
        else slots[slot] = (hash & ~offsetMask) | offset;
      }
    }
    // What nobody uses would not be read.
    batchHashes[0] = read;
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

  #haveSameSerialAndIssuer(one: number, other: number): boolean {
    const bytes = this.#bytes;
    const mine = contentOffset(bytes, one);
    const its = contentOffset(bytes, other);
    const length = bytes[mine + 1] as number;
    for (let i = 1; i < length + 2; i++) if (bytes[mine + i] !== bytes[its + i]) return false;
    return this.#issuerAt === undefined || this.#issuerAt(one) === this.#issuerAt(other);
  }
}

/**
 * HalfSipHash-1-3 (Aumasson and Bernstein): 32 bits, keyed with 64, over the issuer's number where there are several, then the octets.
 * What mixes less can be made to collide without its key: whoever writes the list chooses 20 octets of each serial number, and up to 127 in a bad one.
 */
function hashOctets(bytes: Uint8Array, view: DataView, start: number, length: number, issuer: number): number {
  const tail = start + (length & ~3);
  let v0 = key0;
  let v1 = key1;
  let v2 = key0 ^ 0x6c796765;
  let v3 = key1 ^ 0x74656462;
  for (let at = issuer === onlyIssuer ? start : start - 4; at < tail; at += 4) {
    const word = at < start ? issuer : view.getInt32(at, true);
    v3 ^= word;
    v0 = (v0 + v1) | 0;
    v1 = ((v1 << 5) | (v1 >>> 27)) ^ v0;
    v0 = (v0 << 16) | (v0 >>> 16);
    v2 = (v2 + v3) | 0;
    v3 = ((v3 << 8) | (v3 >>> 24)) ^ v2;
    v0 = (v0 + v3) | 0;
    v3 = ((v3 << 7) | (v3 >>> 25)) ^ v0;
    v2 = (v2 + v1) | 0;
    v1 = ((v1 << 13) | (v1 >>> 19)) ^ v2;
    v2 = (v2 << 16) | (v2 >>> 16);
    v0 ^= word;
  }
  let last = length << 24;
  for (let i = length & 3; i > 0; ) last |= (bytes[tail + --i] as number) << (8 * i);
  v3 ^= last;
  // The same round, written out twice since a look-up takes half as long so: once with the last octets and the length, three times with none.
  for (let round = 0; round < 4; round++) {
    v0 = (v0 + v1) | 0;
    v1 = ((v1 << 5) | (v1 >>> 27)) ^ v0;
    v0 = (v0 << 16) | (v0 >>> 16);
    v2 = (v2 + v3) | 0;
    v3 = ((v3 << 8) | (v3 >>> 24)) ^ v2;
    v0 = (v0 + v3) | 0;
    v3 = ((v3 << 7) | (v3 >>> 25)) ^ v0;
    v2 = (v2 + v1) | 0;
    v1 = ((v1 << 13) | (v1 >>> 19)) ^ v2;
    v2 = (v2 << 16) | (v2 >>> 16);
    if (round > 0) continue;
    v0 ^= last;
    v2 ^= 0xff;
  }
  return v1 ^ v3;
}

/** Offset of the content of the element at `at`, in bytes that have been checked. */
export function contentOffset(bytes: Uint8Array, at: number): number {
  const first = bytes[at + 1] as number;
  return first < 0x80 ? at + 2 : at + 2 + (first & 0x7f);
}

/** Length of that content. */
export function contentLength(bytes: Uint8Array, at: number): number {
  const first = bytes[at + 1] as number;
  if (first < 0x80) return first;
  let length = 0;
  for (let i = 0; i < (first & 0x7f); i++) length = length * 256 + (bytes[at + 2 + i] as number);
  return length;
}
