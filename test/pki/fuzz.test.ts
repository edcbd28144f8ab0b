import { expect, test } from "vitest";
import { Certificate } from "#pki/certificate.ts";
import { CertificateRequest } from "#pki/certificate-request.ts";
import { certsOnly, parseCertsOnly } from "#pki/cms.ts";
import { CertificateRevocationList } from "#pki/crl.ts";
import { SignetError } from "#pki/errors.ts";
import { createCsr } from "#pki/keys.ts";
import { lintCertificate, lintCrl } from "#pki/lint.ts";
import { pemDecodeAll } from "#pki/pem.ts";
import { validatePath } from "#pki/path-validation.ts";
import { testAuthority, testTime } from "#test/support/pki.ts";

const authority = await testAuthority();
const leaf = await authority.issue({ kind: "service", role: "server", name: "kms" });
const crl = authority.leafCrl([{ serialNumber: leaf.certificate.serialNumber, revocationDate: testTime.now, reason: "superseded" }]);
const request = await createCsr(leaf.privateKey, { commonName: "x", uri: "spiffe://signet.internal/agent/x" });

/** Everything that can be asked of what was read. */
const targets: readonly { readonly seed: Uint8Array; readonly read: (bytes: Uint8Array) => void }[] = [
  {
    seed: leaf.certificate.der,
    read(bytes) {
      const certificate = Certificate.parse(bytes);
      void [certificate.subject.toString(), certificate.issuer.canonicalKey, certificate.fingerprint, certificate.isSelfIssued];
      lintCertificate(certificate, { profile: { kind: "service", role: "server" }, issuer: authority.issuing });
      validatePath({ endEntity: certificate, intermediates: [authority.issuing, certificate], trustAnchors: [authority.root], purpose: "serverAuth", at: testTime.now });
    },
  },
  {
    seed: authority.issuing.der,
    read: (bytes) => validatePath({ endEntity: leaf.certificate, intermediates: [Certificate.parse(bytes)], trustAnchors: [authority.root], purpose: "serverAuth", at: testTime.now }),
  },
  {
    seed: crl.der,
    read(bytes) {
      const list = CertificateRevocationList.parse(bytes);
      void [...list.entries()].map((entry) => list.find(entry.serialNumber));
      lintCrl(list, { issuer: authority.issuing, scope: "user" });
      list.verifySignature(authority.issuing);
    },
  },
  { seed: request, read: (bytes) => CertificateRequest.parse(bytes).verifyPossession() },
  { seed: certsOnly([authority.root]), read: (bytes) => parseCertsOnly(bytes) },
  { seed: Buffer.from(authority.root.toPem()), read: (bytes) => pemDecodeAll(Buffer.from(bytes).toString("latin1")) },
];

/** xorshift: the same inputs in every run, so that a failure can be seen again. */
function randomFrom(seed: number): (below: number) => number {
  let state = seed;
  return (below) => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) % below;
  };
}

function mutate(seed: Uint8Array, random: (below: number) => number): Buffer {
  let bytes = Buffer.from(seed);
  for (let changes = 1 + random(4); changes > 0; changes--) {
    const at = random(bytes.length || 1);
    const kind = random(6);
    if (kind === 0) bytes = bytes.subarray(0, at);
    else if (kind === 1) bytes = Buffer.concat([bytes.subarray(0, at), bytes.subarray(random(bytes.length || 1))]);
    else if (kind === 2) bytes = Buffer.concat([bytes.subarray(0, at), Buffer.from([random(256), random(256)]), bytes.subarray(at)]);
    else if (bytes.length > 0) bytes[at] = kind === 3 ? random(256) : (bytes[at] as number) ^ (1 << random(8));
  }
  return bytes;
}

test("2,000 damaged certificates, CRLs, requests, messages and PEM texts: typed errors only, and nothing that is accepted has changed", () => {
  const random = randomFrom(0x5157);
  let refused = 0;
  for (let round = 0; round < 2000; round++) {
    const { seed, read } = targets[round % targets.length] as (typeof targets)[number];
    const input = mutate(seed, random);
    try {
      read(input);
    } catch (error) {
      if (!(error instanceof SignetError) || error.code === "internal") throw new Error(`Round ${round}: ${input.toString("hex")}`, { cause: error });
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
