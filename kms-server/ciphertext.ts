import { openAes256Gcm, sealAes256Gcm } from "#pki/aead.ts";
import { SignetError } from "#pki/errors.ts";
import type { SecretKey } from "#pki/keys.ts";
import type { EncryptionContext } from "#pki/protocol-kms.ts";

/**
 * Ciphertext of the KMS. It describes itself, so that nothing is opened by trial:
 *
 *     octets  0..3   format, ASCII "SGK1"
 *             4..19  key id
 *            20..23  key version, unsigned, big-endian
 *            24      algorithm, 1 = AES-256-GCM
 *            25..36  IV, 96 random bits (SP 800-38D section 8.2.2)
 *            37..    ciphertext, as long as the plaintext
 *            last 16 tag
 *
 * The additional authenticated data are the first 25 octets followed by the encryption context in canonical form.
 */
const formatOctets = Buffer.from("SGK1", "ascii");
const headerLength = 25;
const shortest = headerLength + 12 + 16;
const aes256Gcm = 1;

/** Which key version a ciphertext was made under; `keyId` is 32 hex digits. */
export interface CiphertextKey {
  readonly keyId: string;
  readonly version: number;
}

/**
 * Seals a plaintext under a key version. The IV is drawn here and nowhere else: no caller supplies one.
 * @returns the octets laid out above, 53 more than the plaintext has
 */
export function sealCiphertext(key: SecretKey, under: CiphertextKey, plaintext: Uint8Array, context: EncryptionContext): Uint8Array {
  const header = Buffer.alloc(headerLength);
  formatOctets.copy(header, 0);
  header.write(under.keyId, 4, 16, "hex");
  header.writeUInt32BE(under.version, 20);
  header[24] = aes256Gcm;
  const sealed = sealAes256Gcm(key, plaintext, Buffer.concat([header, canonicalContext(context)]));
  return Buffer.concat([header, sealed]);
}

/**
 * Reads which key version a ciphertext names. Nothing is authenticated yet.
 * @throws SignetError ciphertext-malformed
 */
export function readCiphertextKey(ciphertext: Uint8Array): CiphertextKey {
  const octets = Buffer.from(ciphertext.buffer, ciphertext.byteOffset, ciphertext.byteLength);
  if (octets.length < shortest || !octets.subarray(0, 4).equals(formatOctets) || octets[24] !== aes256Gcm) {
    throw new SignetError("ciphertext-malformed", "This is not a ciphertext that this service made.");
  }
  return { keyId: octets.toString("hex", 4, 20), version: octets.readUInt32BE(20) };
}

/**
 * Opens a ciphertext whose key version has been looked up by {@link readCiphertextKey}.
 * @throws SignetError decryption-failed when key, context or any octet is not what was sealed
 */
export function openCiphertext(key: SecretKey, ciphertext: Uint8Array, context: EncryptionContext): Uint8Array {
  const header = ciphertext.subarray(0, headerLength);
  return openAes256Gcm(key, ciphertext.subarray(headerLength), Buffer.concat([header, canonicalContext(context)]));
}

/**
 * The one encoding of a context, whatever order its entries came in: for each entry, by UTF-8 octets of its name,
 * the length of the name (32 bits, big-endian), the name, the length of the value, the value.
 */
export function canonicalContext(context: EncryptionContext): Uint8Array {
  const entries = Object.entries(context).map(([name, value]) => [Buffer.from(name, "utf8"), Buffer.from(value, "utf8")] as const);
  entries.sort(([a], [b]) => Buffer.compare(a, b));
  const parts: Buffer[] = [];
  for (const part of entries.flat()) {
    const length = Buffer.alloc(4);
    length.writeUInt32BE(part.length);
    parts.push(length, part);
  }
  return Buffer.concat(parts);
}
