import { constants, createPublicKey, privateDecrypt, publicEncrypt, type KeyObject } from "node:crypto";
import { SignetError } from "#pki/errors.ts";
import { checkAcceptableKey, generateKeyPair } from "#pki/keys.ts";

/** Encryption schemes of RFC 8017. RSAES-PKCS1-v1_5 (section 7.2) is for data and partners that exist already. */
export type RsaEncryption = "RSA-OAEP-SHA256" | "RSAES-PKCS1-v1_5";

/** Octets that each scheme takes from the modulus: 2 * 32 + 2 for OAEP with SHA-256 (RFC 8017 section 7.1.1), 11 for v1.5 (7.2.1). */
const overheadBytes: Readonly<Record<RsaEncryption, number>> = { "RSA-OAEP-SHA256": 66, "RSAES-PKCS1-v1_5": 11 };

/**
 * An RSA key pair for encryption that stays with its user: the private key is made here, never leaves this object and never reaches the CA
 * or the KMS. It is a pair of its own, apart from the one that the user's certificates are for: a key that signs
 * handshakes decrypts nothing (SP 800-57 Part 1 section 5.2).
 */
export class UserKeyPair {
  readonly publicKey: KeyObject;
  readonly #privateKey: KeyObject;

  private constructor(privateKey: KeyObject, publicKey: KeyObject) {
    this.#privateKey = privateKey;
    this.publicKey = publicKey;
  }

  /** Makes a pair with e = 65537, off the event loop. */
  static async generate(type: "rsa-2048" | "rsa-3072" | "rsa-4096" = "rsa-2048"): Promise<UserKeyPair> {
    const { privateKey, publicKey } = await generateKeyPair(type);
    return new UserKeyPair(privateKey, publicKey);
  }

  /**
   * Takes over a private key that the user already has.
   * @throws SignetError key-rejected where it is not RSA of 2048 bits at least with e = 65537
   */
  static fromPrivateKey(privateKey: KeyObject): UserKeyPair {
    const publicKey = createPublicKey(privateKey);
    requireRsa(publicKey);
    return new UserKeyPair(privateKey, publicKey);
  }

  /** The public key as PEM SubjectPublicKeyInfo (RFC 7468 section 13), for whoever writes to this user. */
  publicKeyPem(): string {
    return this.publicKey.export({ type: "spki", format: "pem" }) as string;
  }

  /**
   * Decrypts a ciphertext of exactly the modulus's length.
   *
   * Under RSAES-PKCS1-v1_5 a ciphertext with bad padding does not fail: it yields octets that depend on key and ciphertext alone
   * (implicit rejection), so that nobody can tell good padding from bad by asking (Bleichenbacher, CRYPTO '98; Marvin, CVE-2023-46809).
   * That holds only while the octets are used as a key or compared as a whole: decode them to text, parse them, or report whether they
   * made sense, and the oracle is back. So this returns octets, and integrity must come from elsewhere.
   * @throws SignetError ciphertext-malformed (wrong length, or a number not below the modulus: both are public), decryption-failed (OAEP only)
   */
  decrypt(ciphertext: Uint8Array, encryption: RsaEncryption = "RSA-OAEP-SHA256"): Uint8Array {
    if (ciphertext.length !== modulusBytes(this.publicKey) || !isBelowModulus(ciphertext, this.publicKey)) {
      throw new SignetError("ciphertext-malformed", "Not an RSA ciphertext for this key.");
    }
    try {
      return privateDecrypt({ key: this.#privateKey, ...padding(encryption) }, ciphertext);
    } catch {
      throw new SignetError("decryption-failed", "The ciphertext does not open under this key.");
    }
  }
}

/**
 * Encrypts for the holder of a public key; the result has the modulus's length.
 * @throws SignetError key-rejected (not RSA of 2048 bits at least with e = 65537), request-malformed (plaintext longer than the modulus
 *   less 66 octets for OAEP, 11 for RSAES-PKCS1-v1_5)
 */
export function encryptForUser(publicKey: KeyObject, plaintext: Uint8Array, encryption: RsaEncryption = "RSA-OAEP-SHA256"): Uint8Array {
  requireRsa(publicKey);
  const longest = modulusBytes(publicKey) - overheadBytes[encryption];
  if (plaintext.length > longest) {
    throw new SignetError("request-malformed", `${encryption} takes at most ${longest} octets under this key; encrypt a key, and the data under that key.`, {
      details: { longest, length: plaintext.length },
    });
  }
  return publicEncrypt({ key: publicKey, ...padding(encryption) }, plaintext);
}

function padding(encryption: RsaEncryption) {
  return encryption === "RSA-OAEP-SHA256"
    ? { padding: constants.RSA_PKCS1_OAEP_PADDING, oaepHash: "sha256" }
    : { padding: constants.RSA_PKCS1_PADDING };
}

function requireRsa(publicKey: KeyObject): void {
  const type = checkAcceptableKey(publicKey.export({ type: "spki", format: "der" }));
  if (!type.startsWith("rsa-")) throw new SignetError("key-rejected", `RSA is needed here; this key is ${type}.`);
}

function modulusBytes(publicKey: KeyObject): number {
  return Math.ceil((publicKey.asymmetricKeyDetails?.modulusLength ?? 0) / 8);
}

/** RFC 8017 section 5.1.2: a ciphertext representative lies between 0 and n - 1. Both numbers are public. */
function isBelowModulus(ciphertext: Uint8Array, publicKey: KeyObject): boolean {
  const modulus = Buffer.from(publicKey.export({ format: "jwk" }).n ?? "", "base64url");
  return Buffer.compare(ciphertext, modulus) < 0;
}
