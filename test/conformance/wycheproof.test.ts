import { createPrivateKey, createPublicKey } from "node:crypto";
import { describe, expect, test } from "vitest";
import { UserKeyPair } from "#agents/user-keys.ts";
import { openAes256Gcm } from "#pki/aead.ts";
import { DerReader } from "#pki/der.ts";
import { SignetError } from "#pki/errors.ts";
import { SecretKey } from "#pki/keys.ts";
import { SubjectPublicKeyInfo, readSignatureAlgorithm, verifySignature } from "#pki/signature-algorithm.ts";
import { readVectors, vectorsAreAbsent } from "#test/support/vectors.ts";

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
});
