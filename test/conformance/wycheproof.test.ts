import { createHmac, createPrivateKey, createPublicKey, hkdfSync, timingSafeEqual } from "node:crypto";
import { readdirSync } from "node:fs";
import path from "node:path";
import { describe, expect, test } from "vitest";
import { sharedSecret } from "#agents/key-agreement.ts";
import type { GroupKey } from "#agents/kms-client.ts";
import { openLegacyCbc } from "#agents/legacy-cbc.ts";
import { UserKeyPair } from "#agents/user-keys.ts";
import { openAes256Gcm } from "#pki/aead.ts";
import { DerReader } from "#pki/der.ts";
import { SignetError } from "#pki/errors.ts";
import { SecretKey, checkAcceptableKey } from "#pki/keys.ts";
import { SubjectPublicKeyInfo, readSignatureAlgorithm, verifySignature } from "#pki/signature-algorithm.ts";
import { readVectors, vectorsAreAbsent, vectorsDirectory } from "#test/support/vectors.ts";

/** Every file of the folder, and the code that its vectors go through. */
const uses: Readonly<Record<string, string>> = {
  "ecdsa_secp256r1_sha256_test.json": "pki/signature-algorithm.ts",
  "rsa_signature_2048_sha256_test.json": "pki/signature-algorithm.ts",
  "rsa_pss_2048_sha256_mgf1_32_test.json": "pki/signature-algorithm.ts",
  "aes_gcm_test.json": "pki/aead.ts, under which keys at rest, KMS ciphertexts and messages lie",
  "aes_cbc_pkcs5_test.json": "agents/legacy-cbc.ts",
  "rsa_oaep_2048_sha256_mgf1sha256_test.json": "agents/user-keys.ts",
  "rsa_pkcs1_2048_test.json": "agents/user-keys.ts",
  "x25519_test.json": "agents/key-agreement.ts",
  "ecdh_secp256r1_test.json": "pki/keys.ts, which keys are certified. Agreement on P-256 is TLS's alone, in OpenSSL",
  "hkdf_sha256_test.json": "node:crypto itself: Signet adds labels and nothing else",
  "hmac_sha256_test.json": "node:crypto itself: Signet adds labels and nothing else",
  "aes_wrap_test.json": "not used: keys at rest are wrapped with AES-256-GCM, bound to their name, version and state",
  "aes_kwp_test.json": "not used, as AES-KW",
  "aes_cmac_test.json": "not used",
};

test.skipIf(vectorsAreAbsent("wycheproof"))("every file of Wycheproof's is run, or is said not to be used", () => {
  expect(readdirSync(path.join(vectorsDirectory, "wycheproof")).filter((file) => file.endsWith(".json")).sort()).toEqual(Object.keys(uses).sort());
});

interface Group {
  readonly publicKeyDer?: string;
  readonly publicKeyPem?: string;
  readonly publicKeyAsn?: string;
  readonly tests: readonly { readonly tcId: number; readonly comment: string; readonly msg: string; readonly sig: string; readonly result: "valid" | "invalid" | "acceptable" }[];
}

/** Signatures that certificates, CRLs and requests may bear, by AlgorithmIdentifier. */
const files = [
  ["ecdsa_secp256r1_sha256_test.json", "300a06082a8648ce3d040302"],
  ["rsa_signature_2048_sha256_test.json", "300d06092a864886f70d01010b0500"],
  ["rsa_pss_2048_sha256_mgf1_32_test.json", "303d06092a864886f70d01010a3030a00d300b0609608648016503040201a11a301806092a864886f70d010108300b0609608648016503040201a203020120"],
] as const;

describe.each(files)("Wycheproof %s", (file, algorithmHex) => {
  test.skipIf(vectorsAreAbsent(`wycheproof/${file}`))("no invalid signature is accepted, and no valid one refused", () => {
    const { testGroups } = JSON.parse(readVectors(`wycheproof/${file}`)) as { testGroups: readonly Group[] };
    const algorithm = readSignatureAlgorithm(new DerReader(Buffer.from(algorithmHex, "hex")));
    const wrong: number[] = [];
    let cases = 0;
    for (const group of testGroups) {
      const spki = group.publicKeyDer === undefined ? createPublicKey(group.publicKeyPem ?? "").export({ format: "der", type: "spki" }) : Buffer.from(group.publicKeyDer, "hex");
      const key = new SubjectPublicKeyInfo(spki);
      for (const { tcId, msg, sig, result } of group.tests) {
        cases++;
        const accepted = verifySignature(algorithm, key, Buffer.from(msg, "hex"), Buffer.from(sig, "hex"));
        if (result === "invalid" ? accepted : result === "valid" && !accepted) wrong.push(tcId);
      }
    }
    expect(cases).toBeGreaterThan(80);
    expect(wrong).toEqual([]);
  });
});

interface Sealed {
  readonly tcId: number;
  readonly key: string;
  readonly iv: string;
  readonly aad: string;
  readonly msg: string;
  readonly ct: string;
  readonly tag: string;
  readonly label: string;
  readonly result: "valid" | "invalid" | "acceptable";
}

const bytes = (hex: string): Buffer => Buffer.from(hex, "hex");

/** What a decryption yields, in hex; undefined where it refuses with a code. */
function opened(open: () => Uint8Array): string | undefined {
  try {
    return Buffer.from(open()).toString("hex");
  } catch (error) {
    if (error instanceof SignetError) return undefined;
    throw error;
  }
}

/** Numbers of the cases that were judged wrong, and how many there were. With implicit rejection a bad ciphertext yields other octets instead of a refusal. */
function judge<G extends object>(file: string, wanted: (group: G) => boolean, open: (group: G, one: Sealed) => Uint8Array, implicitRejection = false): { cases: number; wrong: number[] } {
  const { testGroups } = JSON.parse(readVectors(`wycheproof/${file}`)) as { testGroups: readonly (G & { readonly tests: readonly Sealed[] })[] };
  // Signet has no OAEP labels: cases with one are not of its making.
  const cases = testGroups.filter(wanted).flatMap((group) => group.tests.filter(({ label = "" }) => label === "").map((one) => ({ group, one })));
  const wrong = cases.filter(({ group, one }) => {
    const plaintext = opened(() => open(group, one));
    return one.result === "valid" ? plaintext !== one.msg : one.result === "invalid" && (implicitRejection ? plaintext === one.msg : plaintext !== undefined);
  });
  return { cases: cases.length, wrong: wrong.map(({ one }) => one.tcId) };
}

describe("Wycheproof decryption", () => {
  const suite = (file: string, title: string, run: () => { cases: number; wrong: number[] }) =>
    test.skipIf(vectorsAreAbsent(`wycheproof/${file}`))(`${file}: ${title}`, () => {
      const { cases, wrong } = run();
      expect(cases).toBeGreaterThan(20);
      expect(wrong).toEqual([]);
    });

  suite("aes_gcm_test.json", "AES-256-GCM opens what is whole and nothing else", () =>
    judge<{ keySize: number; ivSize: number; tagSize: number }>(
      "aes_gcm_test.json",
      (group) => group.keySize === 256 && group.ivSize === 96 && group.tagSize === 128,
      (_group, one) => openAes256Gcm(SecretKey.from(bytes(one.key)), Buffer.concat([bytes(one.iv), bytes(one.ct), bytes(one.tag)]), bytes(one.aad)),
    ),
  );

  suite("rsa_oaep_2048_sha256_mgf1sha256_test.json", "RSA-OAEP-SHA256 opens what is whole and nothing else", () =>
    judge<{ privateKeyPkcs8: string }>(
      "rsa_oaep_2048_sha256_mgf1sha256_test.json",
      () => true,
      ({ privateKeyPkcs8 }, one) => UserKeyPair.fromPrivateKey(createPrivateKey({ key: bytes(privateKeyPkcs8), format: "der", type: "pkcs8" })).decrypt(bytes(one.ct)),
    ),
  );

  suite("rsa_pkcs1_2048_test.json", "RSAES-PKCS1-v1_5 yields the message where the padding is right, and never where it is not", () =>
    judge<{ privateKeyPkcs8: string }>(
      "rsa_pkcs1_2048_test.json",
      () => true,
      ({ privateKeyPkcs8 }, one) => UserKeyPair.fromPrivateKey(createPrivateKey({ key: bytes(privateKeyPkcs8), format: "der", type: "pkcs8" })).decrypt(bytes(one.ct), "RSAES-PKCS1-v1_5"),
      true,
    ),
  );

  suite("aes_cbc_pkcs5_test.json", "AES-256-CBC opens what is whole, and refuses wrong padding and broken blocks", () =>
    judge<{ keySize: number }>(
      "aes_cbc_pkcs5_test.json",
      (group) => group.keySize === 256,
      (_group, one) =>
        openLegacyCbc(
          { name: "old", version: 1, algorithms: ["AES-256-CBC-PKCS7"], secret: SecretKey.from(bytes(one.key)) } as unknown as GroupKey,
          Buffer.concat([bytes(one.iv), bytes(one.ct)]).toString("base64"),
        ),
    ),
  );
});

interface Agreement {
  readonly tcId: number;
  readonly public: string;
  readonly private: string;
  readonly shared: string;
  readonly flags: readonly string[];
  readonly result: "valid" | "invalid" | "acceptable";
}

const agreements = (file: string): readonly Agreement[] => (JSON.parse(readVectors(file)) as { testGroups: readonly { tests: readonly Agreement[] }[] }).testGroups.flatMap((group) => group.tests);

describe("Wycheproof agreement", () => {
  test.skipIf(vectorsAreAbsent("wycheproof/x25519_test.json"))("x25519_test.json: X25519 agrees on the secret, and on none with a point of small order", () => {
    const cases = agreements("wycheproof/x25519_test.json");
    const wrong = cases.filter((one) => {
      const privateKey = createPrivateKey({ key: Buffer.concat([bytes("302e020100300506032b656e04220420"), bytes(one.private)]), format: "der", type: "pkcs8" });
      const secret = opened(() => sharedSecret("x25519", privateKey, bytes(one.public)));
      return secret !== (/^0*$/.test(one.shared) ? undefined : one.shared);
    });
    expect(cases.length).toBeGreaterThan(500);
    expect(wrong.map(({ tcId }) => tcId)).toEqual([]);
  });

  test.skipIf(vectorsAreAbsent("wycheproof/ecdh_secp256r1_test.json"))("ecdh_secp256r1_test.json: no key off the curve, on another curve or in another form is certified as one on P-256", () => {
    const cases = agreements("wycheproof/ecdh_secp256r1_test.json");
    const wrong = cases.filter((one) => {
      const certified = opened(() => Buffer.from(checkAcceptableKey(bytes(one.public)))) === Buffer.from("ec-p256").toString("hex");
      return one.result === "valid" ? !certified : one.result === "invalid" && certified;
    });
    expect(cases.length).toBeGreaterThan(500);
    expect(wrong.map(({ tcId }) => tcId)).toEqual([]);
  });
});

describe("Wycheproof derivation", () => {
  test.skipIf(vectorsAreAbsent("wycheproof/hkdf_sha256_test.json"))("hkdf_sha256_test.json", () => {
    const { testGroups } = JSON.parse(readVectors("wycheproof/hkdf_sha256_test.json")) as { testGroups: readonly { tests: readonly { tcId: number; ikm: string; salt: string; info: string; size: number; okm: string; result: string }[] }[] };
    for (const { tcId, ikm, salt, info, size, okm, result } of testGroups.flatMap((group) => group.tests)) {
      const derive = (): string => Buffer.from(hkdfSync("sha256", bytes(ikm), bytes(salt), bytes(info), size)).toString("hex");
      if (result === "valid") expect(derive(), String(tcId)).toBe(okm);
      else expect(derive, String(tcId)).toThrow(RangeError);
    }
  });

  test.skipIf(vectorsAreAbsent("wycheproof/hmac_sha256_test.json"))("hmac_sha256_test.json", () => {
    const { testGroups } = JSON.parse(readVectors("wycheproof/hmac_sha256_test.json")) as { testGroups: readonly { tagSize: number; tests: readonly { tcId: number; key: string; msg: string; tag: string; result: string }[] }[] };
    for (const { tagSize, tests } of testGroups) {
      for (const { tcId, key, msg, tag, result } of tests) {
        const made = createHmac("sha256", bytes(key)).update(bytes(msg)).digest().subarray(0, tagSize / 8);
        expect(timingSafeEqual(made, bytes(tag)), String(tcId)).toBe(result === "valid");
      }
    }
  });
});
