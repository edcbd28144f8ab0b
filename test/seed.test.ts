import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { Agent } from "#agents/agent.ts";
import { SecureKeyManagementSystem } from "#agents/secure-key-management-system.ts";
import { startSystem, type RunningSystem } from "./support/system.ts";

// The five tests of the program that Signet grew out of, on the CA and the KMS as processes of their own, and what its data needs to live on.
let system: RunningSystem;
let agent: Agent;
let kms: SecureKeyManagementSystem;

beforeAll(async () => {
  system = await startSystem();
  agent = await system.enroll("alice");
  kms = new SecureKeyManagementSystem(agent);
});
afterAll(() => system?.stop());

/** A key that was revoked, or never was, opens nothing; both look alike to the caller. */
const unusable = expect.objectContaining({ code: expect.stringMatching(/^(not-permitted|state-conflict)$/) });

describe("the five tests of the program that Signet grew out of", () => {
  test("1. an AES key of 32 octets encrypts and decrypts a text", async () => {
    const material = await kms.generateAesKey("aes_key_1");
    expect(Buffer.from(material, "base64")).toHaveLength(32);
    const sealed = await kms.encryptWithAes("aes_key_1", "Hello, World! Ünïcödé");
    expect(sealed).not.toContain("Hello");
    expect(await kms.decryptWithAes("aes_key_1", sealed)).toBe("Hello, World! Ünïcödé");
  });

  test("2. a user's RSA-2048 pair encrypts and decrypts a text, by OAEP or by RSAES-PKCS1-v1_5", async () => {
    expect(await kms.generateRsaKeyPair("user1")).toContain("BEGIN PUBLIC KEY");
    const sealed = await kms.encryptWithRsa("user1", "grüße");
    expect(Buffer.from(sealed, "base64")).toHaveLength(256);
    expect(await kms.decryptWithRsa("user1", sealed)).toBe("grüße");
    const legacy = await kms.encryptWithRsa("user1", "grüße", "RSAES-PKCS1-v1_5");
    expect(Buffer.from(await kms.decryptWithRsa("user1", legacy, "RSAES-PKCS1-v1_5")).toString()).toBe("grüße");
  });

  test("3. a Diffie-Hellman pair of 2048 bits has a public value, and makes one key with a peer's", async () => {
    const [one, two] = [await kms.generateDiffieHellmanKey(), await kms.generateDiffieHellmanKey()];
    expect(one.group).toBe("ffdhe2048");
    expect(one.publicValue).toHaveLength(256);
    expect(Buffer.compare(one.publicValue, two.publicValue)).not.toBe(0);
    const shared = one.sessionKey(two.publicValue).reveal("local-use");
    expect(Buffer.compare(shared, two.sessionKey(one.publicValue).reveal("local-use"))).toBe(0);
  });

  test("4. a key is revoked, and the answer is the same where there was none", async () => {
    await kms.generateAesKey("aes_key_4");
    expect(await kms.keyRevocation("aes_key_4")).toBe("Key Revoked Successfully");
    expect(await kms.keyRevocation("never-was")).toBe("Key Revoked Successfully");
    expect(await kms.keyRevocation("No Key's Name")).toBe("Key Revoked Successfully");
  });

  test("5. after revocation nothing decrypts: no form of AES, and no RSA", async () => {
    await kms.generateAesKey("aes_key_5");
    const sealed = await kms.encryptWithAes("aes_key_5", "secret");
    const legacy = await kms.encryptWithAes("aes_key_5", "secret", "AES-256-CBC-PKCS7");
    expect(await kms.decryptWithAes("aes_key_5", legacy)).toBe("secret");
    await kms.keyRevocation("aes_key_5");
    await expect(kms.decryptWithAes("aes_key_5", sealed)).rejects.toThrow(unusable);
    await expect(kms.decryptWithAes("aes_key_5", legacy)).rejects.toThrow(unusable);
    await expect(kms.encryptWithAes("aes_key_5", "more")).rejects.toThrow(unusable);

    await kms.generateRsaKeyPair("user5");
    const wrapped = await kms.encryptWithRsa("user5", "secret");
    await kms.keyRevocation("user5");
    await expect(kms.decryptWithRsa("user5", wrapped)).rejects.toThrow(expect.objectContaining({ code: "not-found" }));
  });
});

describe("data of that program", () => {
  // Made with OpenSSL 3: openssl enc -aes-256-cbc -K 000102...1f -iv a0a1...af of the UTF-8 text, as base64(IV || ciphertext).
  const material = Buffer.from("000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f", "hex");
  const sealed = "oKGio6SlpqeoqaqrrK2ur28MXlj3MEpUxQtj7se+9fqIR/It1yiSP6QKPyoQTLJ9";

  test("opens under its key once that is imported with a policy that allows the form", async () => {
    await agent.kms.importKey("imported", material, { algorithms: ["AES-256-GCM", "AES-256-CBC-PKCS7"] });
    expect(await kms.decryptWithAes("imported", sealed)).toBe("Grüße from the first program");
  });

  test("does not open where the policy says nothing of the form, and the server opens it for nobody", async () => {
    await agent.kms.importKey("imported-strict", material);
    await expect(kms.decryptWithAes("imported-strict", sealed)).rejects.toThrow(expect.objectContaining({ code: "algorithm-not-permitted" }));
    await expect(agent.kms.decrypt("imported", Buffer.from(sealed, "base64"))).rejects.toThrow(expect.objectContaining({ code: "ciphertext-malformed" }));
  });
});
