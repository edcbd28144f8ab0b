/**
 * Compact JWS (RFC 7515) and JWE (RFC 7516), in as much as Signet hands keys out in them. All of it in octets: a string that held a key could not be
 * wiped. Algorithms are never the sender's choice: a signature's follows from the signer's key, and a JWE has the one pair that is spoken here.
 */
import { constants, createCipheriv, createDecipheriv, createHash, privateDecrypt, publicEncrypt, randomBytes, sign, verify, type KeyObject } from "node:crypto";
import type { z } from "zod";
import type { Certificate } from "./certificate.ts";
import { SignetError } from "./errors.ts";
import { type KeyType, keyTypeOf } from "./keys.ts";

/** Longest compact serialisation that is read. */
const compactLimit = 64 * 1024;
const contentKeyLength = 32;
const ivLength = 12;
const tagLength = 16;

/** The one pair that Signet speaks (RFC 7518 sections 4.3 and 5.3). */
export const jweAlgorithms = { alg: "RSA-OAEP-256", enc: "A256GCM" } as const;

interface SignatureScheme {
  /** RFC 7518 section 3.1, RFC 8037 section 3.1; ML-DSA as in draft-ietf-cose-dilithium. */
  readonly alg: string;
  readonly hash: "sha256" | "sha384" | null;
  /** Beside the key, for node:crypto. */
  readonly options: { readonly padding?: number; readonly saltLength?: number; readonly dsaEncoding?: "ieee-p1363" };
}

const pss: SignatureScheme = { alg: "PS256", hash: "sha256", options: { padding: constants.RSA_PKCS1_PSS_PADDING, saltLength: 32 } };
const schemes: Readonly<Record<KeyType, SignatureScheme>> = {
  "rsa-2048": pss,
  "rsa-3072": pss,
  "rsa-4096": pss,
  "ec-p256": { alg: "ES256", hash: "sha256", options: { dsaEncoding: "ieee-p1363" } },
  "ec-p384": { alg: "ES384", hash: "sha384", options: { dsaEncoding: "ieee-p1363" } },
  ed25519: { alg: "EdDSA", hash: null, options: {} },
  "ml-dsa-65": { alg: "ML-DSA-65", hash: null, options: {} },
};

function schemeOf(key: KeyObject): SignatureScheme {
  const keyType = keyTypeOf(key);
  if (keyType === undefined) throw new SignetError("key-rejected", "A key of this type signs nothing for Signet.");
  return schemes[keyType];
}

/** A compact JWS; `alg` is added to the header, by the type of the key. What it is made from stays the caller's to wipe. */
export function signCompactJws(header: Readonly<Record<string, unknown>>, payload: Uint8Array, privateKey: KeyObject): Buffer {
  const { alg, hash, options } = schemeOf(privateKey);
  const encoded = encodeBase64url(payload);
  const input = joined(encodedHeader({ alg, ...header }), encoded);
  try {
    return joined(input, encodeBase64url(sign(hash, input, { key: privateKey, ...options })));
  } finally {
    encoded.fill(0);
    input.fill(0);
  }
}

/** A compact JWS of which nothing has been verified yet. */
export interface UnverifiedJws<Header> {
  readonly header: Header;
  readonly payload: Buffer;
  /** @throws SignetError algorithm-rejected where `alg` is not the one for this type of key; signature-invalid */
  verify(publicKey: KeyObject): void;
}

/** Reads a compact JWS whose header fits the schema and holds nothing else. @throws SignetError ciphertext-malformed */
export function parseCompactJws<Header extends { readonly alg: string }>(compact: Uint8Array, schema: z.ZodType<Header>): UnverifiedJws<Header> {
  const octets = bufferOf(compact);
  const [first, second, third] = partsOf(octets, 3) as [Buffer, Buffer, Buffer];
  const header = parseHeader(first, schema);
  const signature = decodeBase64url(third);
  const input = octets.subarray(0, first.length + 1 + second.length);
  return {
    header,
    payload: decodeBase64url(second),
    verify: (publicKey) => {
      const { alg, hash, options } = schemeOf(publicKey);
      if (header.alg !== alg) throw new SignetError("algorithm-rejected", `The signature says ${header.alg.slice(0, 32)}, and its key is one for ${alg}.`);
      if (!verify(hash, input, { key: publicKey, ...options }, signature)) throw new SignetError("signature-invalid", "The signature is not by the key of the certificate that it names.");
    },
  };
}

/** A compact JWE to the holder of an RSA certificate. `x5t#S256` tells the holder which of its keys is meant. */
export function encryptCompactJwe(recipient: Certificate, contentType: string, plaintext: Uint8Array): Buffer {
  const header = encodedHeader({ ...jweAlgorithms, cty: contentType, "x5t#S256": thumbprintOf(recipient) });
  const contentKey = randomBytes(contentKeyLength);
  try {
    const encryptedKey = publicEncrypt({ key: recipient.subjectPublicKeyInfo.keyObject, ...oaep }, contentKey);
    const iv = randomBytes(ivLength);
    const cipher = createCipheriv("aes-256-gcm", contentKey, iv, { authTagLength: tagLength });
    cipher.setAAD(header);
    const ciphertext = cipher.update(plaintext);
    cipher.final();
    return joined(header, encodeBase64url(encryptedKey), encodeBase64url(iv), encodeBase64url(ciphertext), encodeBase64url(cipher.getAuthTag()));
  } finally {
    contentKey.fill(0);
  }
}

/**
 * Opens a compact JWE whose header fits the schema and holds nothing else. The caller wipes what it gets.
 * @throws SignetError ciphertext-malformed | key-rejected (no RSA key) | decryption-failed, without saying why
 */
export function decryptCompactJwe<Header>(compact: Uint8Array, schema: z.ZodType<Header>, privateKey: KeyObject): { readonly header: Header; readonly plaintext: Buffer } {
  const parts = partsOf(bufferOf(compact), 5) as [Buffer, Buffer, Buffer, Buffer, Buffer];
  const header = parseHeader(parts[0], schema);
  const [encryptedKey, iv, ciphertext, tag] = parts.slice(1).map(decodeBase64url) as [Buffer, Buffer, Buffer, Buffer];
  if (privateKey.asymmetricKeyType !== "rsa") throw new SignetError("key-rejected", "What is sealed by RSA-OAEP is opened with an RSA key.");
  if (iv.length !== ivLength || tag.length !== tagLength) throw malformed("its IV or tag is of another length");
  // A key that does not come out is replaced by chance, so that nobody learns which step failed (RFC 7516 section 11.5).
  let contentKey = randomBytes(contentKeyLength);
  try {
    const opened = privateDecrypt({ key: privateKey, ...oaep }, encryptedKey);
    if (opened.length === contentKeyLength) contentKey = opened;
  } catch {
    // Falls through to the tag, which does not fit.
  }
  let plaintext: Buffer | undefined;
  try {
    const decipher = createDecipheriv("aes-256-gcm", contentKey, iv, { authTagLength: tagLength });
    decipher.setAAD(parts[0]);
    decipher.setAuthTag(tag);
    plaintext = decipher.update(ciphertext);
    decipher.final();
    return { header, plaintext };
  } catch {
    plaintext?.fill(0);
    throw new SignetError("decryption-failed", "The JWE does not open under this key.");
  } finally {
    contentKey.fill(0);
  }
}

/** `x5t#S256` (RFC 7515 section 4.1.8). */
export function thumbprintOf(certificate: Certificate): string {
  return createHash("sha256").update(certificate.der).digest("base64url");
}

/**
 * A JSON text in the one spelling that JSON.stringify gives it: a member that stands twice, which readers take differently (RFC 7515 section 4), does not.
 * @throws SignetError ciphertext-malformed
 */
export function parseOneSpelling<T>(octets: Uint8Array, schema: z.ZodType<T>): T {
  let text: string;
  let value: unknown;
  try {
    text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(octets);
    value = JSON.parse(text);
  } catch {
    throw malformed("it holds no JSON where it should");
  }
  const parsed = schema.safeParse(value);
  if (!parsed.success || JSON.stringify(value) !== text) throw malformed("its JSON is not of the agreed form");
  return parsed.data;
}

const oaep = { padding: constants.RSA_PKCS1_OAEP_PADDING, oaepHash: "sha256" } as const;
const dot = 0x2e;

function encodedHeader(header: Readonly<Record<string, unknown>>): Buffer {
  return encodeBase64url(Buffer.from(JSON.stringify(header)));
}

function parseHeader<Header>(part: Buffer, schema: z.ZodType<Header>): Header {
  return parseOneSpelling(decodeBase64url(part), schema);
}

function joined(...parts: readonly Buffer[]): Buffer {
  return Buffer.concat(parts.flatMap((part, index) => (index === 0 ? [part] : [Buffer.of(dot), part])));
}

function bufferOf(octets: Uint8Array): Buffer {
  return Buffer.from(octets.buffer, octets.byteOffset, octets.byteLength);
}

function partsOf(compact: Buffer, count: 3 | 5): Buffer[] {
  if (compact.length > compactLimit) throw malformed(`it is longer than ${compactLimit} octets`);
  const parts: Buffer[] = [];
  for (let start = 0; start <= compact.length; ) {
    const found = compact.indexOf(dot, start);
    const end = found < 0 ? compact.length : found;
    parts.push(compact.subarray(start, end));
    start = end + 1;
  }
  if (parts.length !== count) throw malformed(`it has ${parts.length} parts in place of ${count}`);
  return parts;
}

const alphabet = Buffer.from("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_", "latin1");
const values = new Uint8Array(256).fill(0xff);
for (const [value, character] of alphabet.entries()) values[character] = value;

/** Base64url without padding (RFC 7515 section 2) as ASCII octets: Buffer's own way leads through a string. */
export function encodeBase64url(octets: Uint8Array): Buffer {
  const text = Buffer.alloc(Math.ceil((octets.length * 4) / 3));
  for (let from = 0, to = 0; from < octets.length; from += 3, to += 4) {
    const group = ((octets[from] ?? 0) << 16) | ((octets[from + 1] ?? 0) << 8) | (octets[from + 2] ?? 0);
    for (let digit = 0; digit < 4 && to + digit < text.length; digit += 1) text[to + digit] = alphabet[(group >> (18 - 6 * digit)) & 63] ?? 0;
  }
  return text;
}

/** The octets of base64url in its one spelling: no padding, no other character, no bit beyond the last octet. @throws SignetError ciphertext-malformed */
export function decodeBase64url(text: Uint8Array): Buffer {
  const octets = Buffer.alloc(Math.floor((text.length * 3) / 4));
  let [group, bits, to, wrong] = [0, 0, 0, text.length % 4 === 1 ? 1 : 0];
  for (const character of text) {
    const value = values[character] ?? 0xff;
    wrong |= value & 0xc0;
    group = ((group << 6) | (value & 63)) & 0xffff;
    bits += 6;
    if (bits < 8) continue;
    bits -= 8;
    octets[to] = (group >> bits) & 0xff;
    to += 1;
  }
  if (wrong !== 0 || (group & ((1 << bits) - 1)) !== 0) throw malformed("a part is not base64url");
  return octets;
}

function malformed(reason: string): SignetError {
  return new SignetError("ciphertext-malformed", `Not a compact JWE or JWS as the KMS makes them: ${reason}.`);
}
