import { createPublicKey } from "node:crypto";
import { describe, expect, test } from "vitest";
import { DerReader } from "#pki/der.ts";
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
