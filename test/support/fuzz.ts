/** Damaged encodings, for the test of 2,000 inputs and the run of a million (`npm run fuzz`). */
import { Certificate } from "#pki/certificate.ts";
import { CertificateRequest } from "#pki/certificate-request.ts";
import { certsOnly, parseCertsOnly } from "#pki/cms.ts";
import { CertificateRevocationList } from "#pki/crl.ts";
import { DerReader, encodeSequence } from "#pki/der.ts";
import { SignetError } from "#pki/errors.ts";
import { createCsr } from "#pki/keys.ts";
import { lintCertificate, lintCrl } from "#pki/lint.ts";
import { Name, encodeGeneralName } from "#pki/name.ts";
import { oid } from "#pki/oids.ts";
import { pemDecodeAll } from "#pki/pem.ts";
import { validatePath } from "#pki/path-validation.ts";
import { RevocationStore, memoryFloors } from "#pki/revocation.ts";
import { answerLine } from "#pki/verification-contract.ts";
import { crlEntry, crlExtensions, directory, dns, email, extension, extensions, forgeCa, forgeCrl, forgeLeaf, ip, reasonCode, testAuthority, testTime, uri } from "./pki.ts";

const authority = await testAuthority();
const leaf = await authority.issue({ kind: "service", role: "server", name: "kms" });
const crl = authority.leafCrl([{ serialNumber: leaf.certificate.serialNumber, revocationDate: testTime.now, reason: "superseded" }]);
const request = await createCsr(leaf.privateKey, { commonName: "x", uri: "spiffe://signet.internal/agent/x" });

/** A CA, a leaf and a CRL with every extension that is read. */
const rich = forgeCa("Rich CA", undefined, {
  extra: [
    extensions.nameConstraints({ permitted: [dns("example.com"), email("example.com"), uri(".example.com"), ip("10.0.0.0/255.0.0.0"), directory([oid.organizationName, "Example"])], excluded: [dns("example.org")] }),
    extensions.certificatePolicies("1.2.3", "1.2.4"),
    extensions.policyMappings(["1.2.3", "1.2.5"]),
    extensions.policyConstraints({ requireExplicitPolicy: 1, inhibitPolicyMapping: 2 }),
    extensions.inhibitAnyPolicy(1),
  ],
});
const richLeaf = forgeLeaf("leaf", rich, {
  content: { subject: Name.of([[oid.organizationName, "Example"], [oid.emailAddress, "a@example.com"]]) },
  extensions: [
    extensions.subjectAltName([dns("*.example.com"), email("a@example.com"), uri("https://a.example.com/x"), ip("10.1.2.3"), directory([oid.organizationName, "Example"], [oid.commonName, "x"])]),
    extensions.certificatePolicies("1.2.5"),
    extensions.crlDistributionPoint("http://a.example.com/x.crl"),
    crlExtensions.freshestCrl("http://a.example.com/delta.crl"),
  ],
});
const richCrl = forgeCrl(
  {
    issuer: rich.name,
    entries: [crlEntry(richLeaf.serialNumber.replace(/^./, "5"), reasonCode(1)), crlEntry("4242", extension(oid.certificateIssuer, true, encodeSequence(encodeGeneralName(directory([oid.commonName, "Other"])))))],
    extensions: [crlExtensions.crlNumber(7), crlExtensions.issuingDistributionPoint({ fullName: uri("http://a.example.com/x.crl"), user: true, indirect: true }), crlExtensions.freshestCrl("http://a.example.com/delta.crl")],
  },
  rich.privateKey,
);
const base64 = (der: Uint8Array): string => Buffer.from(der).toString("base64");
const request64 = { n: 1, trust: [base64(rich.certificate.der)], intermediates: [], crls: [base64(richCrl.der)], leaf: base64(richLeaf.der), time: testTime.now.toISOString(), names: [{ kind: "DNS", value: "a.example.com" }], crlCheck: "leaf", policy: { initialSet: ["1.2.3"], explicit: true, inhibitMapping: false, inhibitAny: false } };
/** Asks for a verification with some parts replaced; an answer always comes, and a defect would be `internal`. */
function ask(changed: object | string): void {
  const { reason } = answerLine(typeof changed === "string" ? changed : JSON.stringify({ ...request64, ...changed }));
  if (reason !== "valid") throw new SignetError(reason, "refused");
}

export interface FuzzTarget {
  readonly seed: Uint8Array;
  readonly read: (bytes: Buffer) => void;
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
  {
    seed: crl.der,
    read: (bytes) => new RevocationStore({ trustAnchors: [authority.root], floors: memoryFloors(), clock: { now: () => testTime.now, monotonicMilliseconds: () => 0 }, maxAgeMilliseconds: 1 }).accept(bytes, [authority.issuing]),
  },
  { seed: leaf.certificate.der, refusesWithDerCode: true, read: walk },
  { seed: rich.certificate.der, read: (bytes) => ask({ trust: [base64(bytes)], anchor: "cert" }) },
  { seed: richLeaf.der, read: (bytes) => ask({ leaf: base64(bytes), strict: true }) },
  { seed: richCrl.der, read: (bytes) => ask({ crls: [base64(bytes)] }) },
  { seed: Buffer.from(JSON.stringify(request64)), read: (bytes) => ask(bytes.toString("latin1")) },
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
