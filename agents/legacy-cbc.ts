import { createCipheriv, createDecipheriv, randomBytes } from "node:crypto";
import { SignetError } from "#pki/errors.ts";
import type { GroupKey } from "./kms-client.ts";

const blockBytes = 16;

/**
 * Seals in the wire form of the program that Signet grew out of: base64(IV || ciphertext), AES-256-CBC (SP 800-38A section 6.2)
 * with PKCS #7 padding (RFC 5652 section 6.3) and a random 16-byte IV. A string is sealed as its UTF-8.
 *
 * Nothing authenticates this form: whoever can alter a ciphertext alters the plaintext bit by bit, and whoever learns
 * whether the padding was good reads it (Vaudenay, EUROCRYPT 2002). It is here for data that exists already, under a key whose
 * policy names the algorithm, and only in the agent: the KMS opens it for nobody.
 * @throws SignetError algorithm-not-permitted where the key's policy does not name AES-256-CBC-PKCS7
 */
export function sealLegacyCbc(key: GroupKey, plaintext: string | Uint8Array): string {
  requireLegacyPolicy(key);
  const iv = randomBytes(blockBytes);
  const cipher = createCipheriv("aes-256-cbc", key.secret.keyObject, iv);
  const octets = typeof plaintext === "string" ? Buffer.from(plaintext, "utf8") : plaintext;
  return Buffer.concat([iv, cipher.update(octets), cipher.final()]).toString("base64");
}

/**
 * Opens base64(IV || AES-256-CBC with PKCS #7), the form of {@link sealLegacyCbc}, and returns the plaintext's octets. Whether it succeeds
 * says nothing about who wrote it. Never tell the sender of a ciphertext whether it opened: that is the padding oracle.
 * @throws SignetError algorithm-not-permitted, ciphertext-malformed (not base64, or not two whole blocks at least), decryption-failed
 */
export function openLegacyCbc(key: GroupKey, ciphertext: string): Uint8Array {
  requireLegacyPolicy(key);
  const octets = Buffer.from(ciphertext, "base64");
  // Buffer skips what is not base64, so only a text that encodes back to itself was base64 to begin with.
  if (octets.toString("base64") !== ciphertext || octets.length < 2 * blockBytes || octets.length % blockBytes !== 0) {
    throw new SignetError("ciphertext-malformed", "Not base64 of an IV and whole AES blocks.");
  }
  const decipher = createDecipheriv("aes-256-cbc", key.secret.keyObject, octets.subarray(0, blockBytes));
  try {
    return Buffer.concat([decipher.update(octets.subarray(blockBytes)), decipher.final()]);
  } catch {
    throw new SignetError("decryption-failed", `The ciphertext does not open under version ${key.version} of key ${key.name}.`);
  }
}

function requireLegacyPolicy(key: GroupKey): void {
  if (key.algorithms.includes("AES-256-CBC-PKCS7")) return;
  throw new SignetError("algorithm-not-permitted", `The policy of key ${key.name} does not allow AES-256-CBC-PKCS7.`, {
    details: { key: key.name, algorithm: "AES-256-CBC-PKCS7" },
  });
}
