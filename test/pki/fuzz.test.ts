import { expect, test } from "vitest";
import { Certificate } from "#pki/certificate.ts";
import { CertificateRequest } from "#pki/certificate-request.ts";
import { parseCertsOnly } from "#pki/cms.ts";
import { CertificateRevocationList } from "#pki/crl.ts";
import { SignetError } from "#pki/errors.ts";
import { damage, fuzzTargets } from "#test/support/fuzz.ts";
import { randomFrom } from "#test/support/random-paths.ts";

test("2,000 damaged certificates, CRLs, requests, messages and PEM texts: typed errors only, and nothing that is accepted has changed", () => {
  const random = randomFrom(0x5157);
  let refused = 0;
  for (let round = 0; round < 2000; round++) {
    const { seed, read, refusesWithDerCode = false } = fuzzTargets[round % fuzzTargets.length] as (typeof fuzzTargets)[number];
    const input = damage(seed, random);
    try {
      read(input);
    } catch (error) {
      if (!(error instanceof SignetError) || error.code === "internal" || (error.code === "der-malformed" && !refusesWithDerCode)) throw new Error(`Round ${round}: ${input.toString("hex")}`, { cause: error });
      refused++;
    }
  }
  expect(refused).toBeGreaterThan(1500);
});

test("64 KiB of hostile structure is refused with a typed error: deep nesting, many tiny elements, endless arcs, huge claims", () => {
  const size = 1 << 16;
  const inputs = [
    Buffer.alloc(size, 0x30),
    Buffer.from("3080".repeat(size / 2), "hex"),
    Buffer.concat([Buffer.from("3083010000", "hex"), Buffer.alloc(size, 0x05)]),
    Buffer.concat([Buffer.from("308300fffb", "hex"), Buffer.from("3000".repeat(size / 2), "hex")]),
    Buffer.concat([Buffer.from("06830100 00".replace(" ", ""), "hex"), Buffer.alloc(size, 0xff)]),
    Buffer.from(`3084ffffffff${"00".repeat(size)}`, "hex"),
    Buffer.alloc(size),
  ];
  for (const input of inputs) {
    for (const read of [Certificate.parse, CertificateRevocationList.parse, CertificateRequest.parse, parseCertsOnly]) expect(() => read(input)).toThrow(SignetError);
  }
});
