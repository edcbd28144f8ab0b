/** Damaged encodings, for the test of 2,000 inputs and the run of a million (`npm run fuzz`). */
import { Certificate } from "#pki/certificate.ts";
import { CertificateRequest } from "#pki/certificate-request.ts";
import { certsOnly, parseCertsOnly } from "#pki/cms.ts";
import { CertificateRevocationList } from "#pki/crl.ts";
import { DerReader } from "#pki/der.ts";
import { createCsr } from "#pki/keys.ts";
import { lintCertificate, lintCrl } from "#pki/lint.ts";
import { pemDecodeAll } from "#pki/pem.ts";
import { validatePath } from "#pki/path-validation.ts";
import { testAuthority, testTime } from "./pki.ts";

const authority = await testAuthority();
const leaf = await authority.issue({ kind: "service", role: "server", name: "kms" });
const crl = authority.leafCrl([{ serialNumber: leaf.certificate.serialNumber, revocationDate: testTime.now, reason: "superseded" }]);
const request = await createCsr(leaf.privateKey, { commonName: "x", uri: "spiffe://signet.internal/agent/x" });

export interface FuzzTarget {
  readonly seed: Uint8Array;
  readonly read: (bytes: Uint8Array) => void;
  /** The DER reader itself, whose code no reader above it lets through. */
  readonly refusesWithDerCode?: true;
}

/** Reads every element of an encoding, into each constructed one. */
function walk(bytes: Uint8Array): void {
  const pending = [new DerReader(bytes)];
  for (let reader = pending.pop(); reader !== undefined; reader = pending.pop()) {
    while (!reader.atEnd) {
      const identifier = reader.peek();
      if ((identifier & 0x20) === 0) reader.readContent(identifier);
      else pending.push(reader.enter(identifier));
    }
  }
}

/** Inputs to damage, and everything that can be asked of what is read from them. */
export const fuzzTargets: readonly FuzzTarget[] = [
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
  { seed: leaf.certificate.der, refusesWithDerCode: true, read: walk },
  { seed: request, read: (bytes) => CertificateRequest.parse(bytes).verifyPossession() },
  { seed: certsOnly([authority.root]), read: (bytes) => parseCertsOnly(bytes) },
  { seed: Buffer.from(authority.root.toPem()), read: (bytes) => pemDecodeAll(Buffer.from(bytes).toString("latin1")) },
];

/** A copy with one to four changes: cut short, spliced, lengthened, octets or bits changed. */
export function damage(seed: Uint8Array, random: (below: number) => number): Buffer {
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
