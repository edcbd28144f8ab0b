import { createPublicKey } from "node:crypto";
import { SignetError } from "#pki/errors.ts";
import { keyNamePattern } from "#pki/protocol-kms.ts";
import type { Agent } from "./agent.ts";
import { EphemeralKeyPair, type AgreementGroup } from "./key-agreement.ts";
import { openLegacyCbc, sealLegacyCbc } from "./legacy-cbc.ts";
import { encryptForUser, UserKeyPair } from "./user-keys.ts";

/** Stands before the ciphertext of the default form; '.' is no base64, so that no text has both forms. */
const gcmPrefix = "A256GCM.";

/**
 * The eight operations of the program that Signet grew out of, as a thin face over the real thing: AES keys are made, kept and
 * revoked by the KMS under the agent's certificate; RSA private keys stay in this object. What the agent may not do, this may not do.
 *
 *     const system = new SecureKeyManagementSystem(agent);
 *     await system.generateAesKey("reports");
 *     const sealed = await system.encryptWithAes("reports", "text");
 *     await system.decryptWithAes("reports", sealed);      // "text"
 *     await system.keyRevocation("reports");               // "Key Revoked Successfully"; decryptWithAes now throws
 */
export class SecureKeyManagementSystem {
  readonly #agent: Agent;
  readonly #userKeys = new Map<string, UserKeyPair>();

  constructor(agent: Agent) {
    this.#agent = agent;
  }

  /**
   * Makes a 256-bit AES key at the KMS and returns base64 of its 32 octets. Its policy allows AES-256-GCM and the older CBC form.
   * The returned string cannot be wiped from memory; `Agent.requestKey` gives the same key as a SecretKey.
   * @throws SignetError already-exists, request-malformed
   */
  async generateAesKey(keyId: string): Promise<string> {
    await this.#agent.createKey(keyId, { algorithms: ["AES-256-GCM", "AES-256-CBC-PKCS7"] });
    const { secret } = await this.#agent.requestKey(keyId);
    return Buffer.from(secret.reveal("local-use")).toString("base64");
  }

  /**
   * Makes an RSA-2048 pair (e = 65537) for a user, in place of any before, and returns its public key as PEM; the private key stays here.
   */
  async generateRsaKeyPair(user: string): Promise<string> {
    const pair = await UserKeyPair.generate("rsa-2048");
    this.#userKeys.set(user, pair);
    return pair.publicKeyPem();
  }

  /**
   * Encrypts a text: by default with AES-256-GCM at the KMS, as "A256GCM." and base64; with "AES-256-CBC-PKCS7", in this process, in the
   * older form base64(IV || ciphertext), which nothing authenticates (see {@link sealLegacyCbc}).
   * @throws SignetError not-permitted where the key is absent, revoked or not this agent's
   */
  async encryptWithAes(keyId: string, plaintext: string, algorithm: "AES-256-GCM" | "AES-256-CBC-PKCS7" = "AES-256-GCM"): Promise<string> {
    if (algorithm === "AES-256-CBC-PKCS7") return sealLegacyCbc(await this.#agent.requestKey(keyId), plaintext);
    const { ciphertext } = await this.#agent.kms.encrypt(keyId, Buffer.from(plaintext, "utf8"));
    return gcmPrefix + Buffer.from(ciphertext).toString("base64");
  }

  /**
   * Decrypts either form of {@link encryptWithAes}; the older one under the key's latest version.
   * @throws SignetError not-permitted or state-conflict after revocation, ciphertext-malformed, decryption-failed, algorithm-not-permitted
   */
  async decryptWithAes(keyId: string, ciphertext: string): Promise<string> {
    if (ciphertext.startsWith(gcmPrefix)) {
      const { plaintext } = await this.#agent.kms.decrypt(keyId, Buffer.from(ciphertext.slice(gcmPrefix.length), "base64"));
      return Buffer.from(plaintext).toString("utf8");
    }
    return Buffer.from(openLegacyCbc(await this.#agent.requestKey(keyId), ciphertext)).toString("utf8");
  }

  /**
   * Encrypts a text for a user whose pair is here: RSA-OAEP with SHA-256, or RSAES-PKCS1-v1_5 by name; base64.
   * @throws SignetError not-found, request-malformed (too long for one RSA block)
   */
  async encryptWithRsa(user: string, plaintext: string, encryption: "RSA-OAEP-SHA256" | "RSAES-PKCS1-v1_5" = "RSA-OAEP-SHA256"): Promise<string> {
    const publicKey = createPublicKey(this.#userKey(user).publicKeyPem());
    return Buffer.from(encryptForUser(publicKey, Buffer.from(plaintext, "utf8"), encryption)).toString("base64");
  }

  /**
   * Decrypts base64 of an RSA ciphertext. OAEP yields the text. RSAES-PKCS1-v1_5 yields octets, which are random-looking where the padding
   * was bad: to decode them, and so tell good from bad, would undo the implicit rejection (see {@link UserKeyPair.decrypt}).
   * @throws SignetError not-found, ciphertext-malformed, decryption-failed (OAEP)
   */
  async decryptWithRsa(user: string, ciphertext: string): Promise<string>;
  async decryptWithRsa(user: string, ciphertext: string, encryption: "RSAES-PKCS1-v1_5"): Promise<Uint8Array>;
  async decryptWithRsa(user: string, ciphertext: string, encryption?: "RSAES-PKCS1-v1_5"): Promise<string | Uint8Array> {
    const octets = this.#userKey(user).decrypt(Buffer.from(ciphertext, "base64"), encryption);
    return encryption === undefined ? Buffer.from(octets).toString("utf8") : octets;
  }

  /**
   * An ephemeral Diffie-Hellman pair: its public value goes to the peer, and `sessionKey` makes of the peer's the key that both share.
   * Group ffdhe2048 (2048 bits, generator 2) as the older program had, but RFC 7919's and not made up: see `key-agreement.ts`, also
   * for why two agents rather open a {@link Agent.dial | link}.
   */
  async generateDiffieHellmanKey(group: AgreementGroup = "ffdhe2048"): Promise<EphemeralKeyPair> {
    return EphemeralKeyPair.generate(group);
  }

  /**
   * Revokes a key at the KMS as compromised and forgets the user's RSA pair of that name. Answers alike whether or not there was one; afterwards
   * decryption fails. What was given out before stays known to whoever has it.
   */
  async keyRevocation(keyId: string): Promise<"Key Revoked Successfully"> {
    this.#userKeys.delete(keyId);
    // A user may have a name that no key of the KMS can have.
    if (keyNamePattern.test(keyId)) await this.#agent.kms.revokeKey(keyId, "keyCompromise");
    return "Key Revoked Successfully";
  }

  #userKey(user: string): UserKeyPair {
    const pair = this.#userKeys.get(user);
    if (pair === undefined) throw new SignetError("not-found", `No RSA key pair of ${user} is here.`);
    return pair;
  }
}
