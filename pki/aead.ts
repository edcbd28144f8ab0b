import { createCipheriv, createDecipheriv, randomBytes, type KeyObject } from "node:crypto";
import { SignetError } from "./errors.ts";
import { SecretKey } from "./keys.ts";

const ivLength = 12;
const tagLength = 16;

/**
 * AES-256-GCM (SP 800-38D) under a 32-byte key: iv (12 bytes) || ciphertext || tag (16 bytes). The IV is random and made here, never
 * given by a caller; so a key may seal 2^32 messages at most (section 8.3), which who owns the key has to count.
 * @throws SignetError key-rejected for a key that is not 32 bytes long
 */
export function sealAes256Gcm(key: SecretKey | KeyObject, plaintext: Uint8Array, additionalData: Uint8Array): Uint8Array {
  const iv = randomBytes(ivLength);
  const cipher = createCipheriv("aes-256-gcm", aes256Key(key), iv, { authTagLength: tagLength });
  cipher.setAAD(additionalData);
  return Buffer.concat([iv, cipher.update(plaintext), cipher.final(), cipher.getAuthTag()]);
}

/**
 * Opens what sealAes256Gcm sealed under the same key and additional data.
 * @throws SignetError decryption-failed, without saying why; key-rejected for a key that is not 32 bytes long
 */
export function openAes256Gcm(key: SecretKey | KeyObject, sealed: Uint8Array, additionalData: Uint8Array): Uint8Array {
  const keyObject = aes256Key(key);
  try {
    if (sealed.length < ivLength + tagLength) throw new RangeError("shorter than IV and tag");
    // authTagLength: without it Node takes tags of four bytes.
    const decipher = createDecipheriv("aes-256-gcm", keyObject, sealed.subarray(0, ivLength), { authTagLength: tagLength });
    decipher.setAAD(additionalData);
    decipher.setAuthTag(sealed.subarray(sealed.length - tagLength));
    const plaintext = decipher.update(sealed.subarray(ivLength, sealed.length - tagLength));
    // GCM leaves nothing for final(), which only checks the tag: so there is one copy of the plaintext, and who zeroes it has zeroed it.
    decipher.final();
    return plaintext;
  } catch {
    throw new SignetError("decryption-failed", "The ciphertext does not open under this key and context.");
  }
}

function aes256Key(key: SecretKey | KeyObject): KeyObject {
  const keyObject = SecretKey.is(key) ? key.keyObject : key;
  if (keyObject.type !== "secret" || keyObject.symmetricKeySize !== 32) throw new SignetError("key-rejected", "AES-256 takes a key of 32 bytes.");
  return keyObject;
}
