import { constants, generateKeyPairSync, publicEncrypt } from "node:crypto";
import { beforeAll, describe, expect, test } from "vitest";
import { encryptForUser, UserKeyPair } from "#agents/user-keys.ts";

let pair: UserKeyPair;
beforeAll(async () => {
  pair = await UserKeyPair.generate();
});
const refusal = (code: string) => expect.objectContaining({ code });
const message = Buffer.from("grüße");

describe("a user's RSA key pair", () => {
  test("is RSA-2048 with e = 65537 by default, and decrypts what was encrypted for it, in both schemes", () => {
    expect(pair.publicKey.asymmetricKeyDetails).toMatchObject({ modulusLength: 2048, publicExponent: 65537n });
    for (const encryption of ["RSA-OAEP-SHA256", "RSAES-PKCS1-v1_5"] as const) {
      const sealed = encryptForUser(pair.publicKey, message, encryption);
      expect(sealed).toHaveLength(256);
      expect(Buffer.from(pair.decrypt(sealed, encryption)).equals(message)).toBe(true);
    }
  });

  test("uses OAEP where nothing is said", () => {
    expect(Buffer.from(pair.decrypt(encryptForUser(pair.publicKey, message), "RSA-OAEP-SHA256")).equals(message)).toBe(true);
  });

  test("takes plaintexts up to the scheme's limit and refuses one octet more", () => {
    for (const [encryption, longest] of [["RSA-OAEP-SHA256", 190], ["RSAES-PKCS1-v1_5", 245]] as const) {
      expect(pair.decrypt(encryptForUser(pair.publicKey, Buffer.alloc(longest, 7), encryption), encryption)).toHaveLength(longest);
      expect(() => encryptForUser(pair.publicKey, Buffer.alloc(longest + 1), encryption)).toThrow(refusal("request-malformed"));
    }
  });

  test("fails alike for every OAEP ciphertext that does not open", () => {
    const altered = Buffer.from(encryptForUser(pair.publicKey, message));
    altered[255] = (altered[255] ?? 0) ^ 1;
    const otherHash = publicEncrypt({ key: pair.publicKey, padding: constants.RSA_PKCS1_OAEP_PADDING, oaepHash: "sha1" }, message);
    const otherScheme = encryptForUser(pair.publicKey, message, "RSAES-PKCS1-v1_5");
    for (const ciphertext of [altered, otherHash, otherScheme]) expect(() => pair.decrypt(ciphertext)).toThrow(refusal("decryption-failed"));
  });

  test("answers bad PKCS#1 v1.5 padding with octets that depend on the ciphertext alone, never with an error", () => {
    // Encrypted without any padding: the block begins 00 03, so that its padding is certainly wrong.
    const block = Buffer.concat([Buffer.from([0, 3]), Buffer.alloc(254, 9)]);
    const bad = publicEncrypt({ key: pair.publicKey, padding: constants.RSA_NO_PADDING }, block);
    const first = pair.decrypt(bad, "RSAES-PKCS1-v1_5");
    expect(Buffer.from(pair.decrypt(bad, "RSAES-PKCS1-v1_5")).equals(first)).toBe(true);
    expect(Buffer.from(first).includes(Buffer.alloc(16, 9))).toBe(false);
    for (let n = 0; n < 20; n++) {
      const another = publicEncrypt({ key: pair.publicKey, padding: constants.RSA_NO_PADDING }, Buffer.concat([Buffer.from([0, 3, n]), Buffer.alloc(253, 9)]));
      expect(pair.decrypt(another, "RSAES-PKCS1-v1_5").length).toBeLessThanOrEqual(245);
    }
  });

  test("refuses as malformed what is no number below its modulus, in both schemes", () => {
    for (const encryption of ["RSA-OAEP-SHA256", "RSAES-PKCS1-v1_5"] as const) {
      for (const ciphertext of [Buffer.alloc(0), Buffer.alloc(255), Buffer.alloc(257), Buffer.alloc(256, 0xff)]) {
        expect(() => pair.decrypt(ciphertext, encryption)).toThrow(refusal("ciphertext-malformed"));
      }
    }
  });

  test("is not made of a key that is too short, has another exponent, or is not RSA", () => {
    for (const { privateKey, publicKey } of [
      generateKeyPairSync("rsa", { modulusLength: 1024 }),
      generateKeyPairSync("rsa", { modulusLength: 2048, publicExponent: 3 }),
      generateKeyPairSync("ec", { namedCurve: "P-256" }),
    ]) {
      expect(() => UserKeyPair.fromPrivateKey(privateKey)).toThrow(refusal("key-rejected"));
      expect(() => encryptForUser(publicKey, message)).toThrow(refusal("key-rejected"));
    }
  });

  test("shows its public key alone", () => {
    expect(pair.publicKeyPem()).toMatch(/^-----BEGIN PUBLIC KEY-----\n/);
    expect(JSON.stringify(pair)).not.toContain("PRIVATE");
  });
});
