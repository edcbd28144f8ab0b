import { describe, expect, test } from "vitest";
import type { Certificate } from "#pki/certificate.ts";
import type { CertificateRevocationList } from "#pki/crl.ts";
import { CrlValidator } from "#pki/crl-validation.ts";
import type { RevocationExtent } from "#pki/crl-validation.ts";
import { constructedContextTag, contextTag, encode, encodeExplicit, encodeNamedBits, encodeSequence, encodeTime } from "#pki/der.ts";
import { SignetError } from "#pki/errors.ts";
import { encodeGeneralName } from "#pki/name.ts";
import type { GeneralName } from "#pki/name.ts";
import { oid } from "#pki/oids.ts";
import { findPath } from "#pki/path-building.ts";
import { anyPolicyParameters } from "#pki/path-rules.ts";
import type { PathParameters } from "#pki/path-rules.ts";
import { crlEntry, crlExtensions, extension, extensions, forgeCa, forgeCrl, forgeLeaf, keyIdentifier, reasonCode, testKeyPair, testTime, uri } from "#test/support/pki.ts";
import type { ForgedCa } from "#test/support/pki.ts";

const root = forgeCa("Root");
const issuing = forgeCa("Issuing CA", root);
const elsewhere = forgeCa("CRL Issuer", root);

/** One DistributionPoint of a certificate. */
const point = (i: { name?: GeneralName; reasons?: number; crlIssuer?: ForgedCa }): Uint8Array =>
  encodeSequence(
    ...(i.name === undefined ? [] : [encodeExplicit(0, encode(constructedContextTag(0), encodeGeneralName(i.name)))]),
    ...(i.reasons === undefined ? [] : [encodeNamedBits(i.reasons, contextTag(1))]),
    ...(i.crlIssuer === undefined ? [] : [encode(constructedContextTag(2), encodeGeneralName({ kind: "directory", value: i.crlIssuer.name }))]),
  );
const points = (...list: readonly Uint8Array[]): Uint8Array => extension(oid.crlDistributionPoints, false, encodeSequence(...list));

const shard = uri("http://localhost/0.crl");
const otherShard = uri("http://localhost/1.crl");
const leaf = forgeLeaf("leaf", issuing, { extensions: [points(point({ name: shard }))] });
const keyCompromise = 1 << 1;
const otherReasons = 0x1fe & ~keyCompromise;

const parameters: PathParameters = { at: testTime.now, purpose: undefined, policy: anyPolicyParameters, maximumDepth: undefined, minimumRsaBits: 2048, strict: false, anchor: "certificate" };

interface Check {
  readonly certificate?: Certificate;
  readonly certificates?: readonly ForgedCa[];
  readonly extent?: RevocationExtent;
  readonly maximumAgeMilliseconds?: number;
}

function outcome(crls: readonly CertificateRevocationList[], { certificate = leaf, certificates = [], extent = "leaf", maximumAgeMilliseconds = Infinity }: Check = {}): string {
  const pool = [issuing, ...certificates].map((ca) => ca.certificate);
  const validator = new CrlValidator({ crls, certificates: pool, parameters, maximumAgeMilliseconds });
  try {
    findPath({ endEntity: certificate, intermediates: pool, trustAnchors: [root.certificate], parameters, accept: (chain) => validator.checkPath(chain, extent) });
    return "good";
  } catch (error) {
    if (error instanceof SignetError) return error.code;
    throw error;
  }
}

const hour = (hours: number): Uint8Array => encodeTime(new Date(testTime.now.getTime() + hours * 3_600_000));
type CrlContent = Partial<Parameters<typeof forgeCrl>[0]>;
const crlBy = (ca: ForgedCa, content: CrlContent = {}): CertificateRevocationList => forgeCrl({ issuer: ca.name, ...content }, ca.privateKey);
const scoped = (i: Parameters<typeof crlExtensions.issuingDistributionPoint>[0], content: CrlContent = {}, ca: ForgedCa = issuing): CertificateRevocationList =>
  crlBy(ca, { ...content, extensions: [crlExtensions.issuingDistributionPoint(i), ...(content.extensions ?? [])] });
const listed = [crlEntry(leaf.serialNumber, reasonCode(1))];

describe("a CRL of the issuer", () => {
  test("tells good from revoked", () => {
    expect(outcome([crlBy(issuing)])).toBe("good");
    expect(outcome([crlBy(issuing, { entries: [crlEntry("41")] })])).toBe("good");
    expect(outcome([crlBy(issuing, { entries: listed })])).toBe("certificate-revoked");
  });

  test.each([1, 2, 3, 4, 5, 6, 9, 10])("revokes for reason %i", (reason) => {
    expect(outcome([crlBy(issuing, { entries: [crlEntry(leaf.serialNumber, reasonCode(reason))] })])).toBe("certificate-revoked");
  });

  test("must be there: for the leaf, and with the extent chain for the CA", () => {
    expect(outcome([])).toBe("crl-missing");
    expect(outcome([crlBy(root)])).toBe("crl-missing");
    expect(outcome([crlBy(issuing)], { extent: "chain" })).toBe("crl-missing");
    expect(outcome([crlBy(issuing), crlBy(root)], { extent: "chain" })).toBe("good");
    expect(outcome([crlBy(issuing), crlBy(root, { entries: [crlEntry(issuing.certificate.serialNumber)] })], { extent: "chain" })).toBe("certificate-revoked");
  });

  test("must be signed by the issuer's key", () => {
    expect(outcome([forgeCrl({ issuer: issuing.name }, testKeyPair().privateKey)])).toBe("crl-signature-invalid");
    expect(outcome([forgeCrl({ issuer: issuing.name, entries: listed }, testKeyPair().privateKey), crlBy(issuing)])).toBe("good");
  });

  test("must be of an issuer whose keyUsage has cRLSign", () => {
    const ca = forgeCa("No CRLs", root, { replace: [extensions.basicConstraints(true), extensions.keyUsage("keyCertSign")] });
    expect(outcome([crlBy(ca)], { certificate: forgeLeaf("leaf", ca), certificates: [ca] })).toBe("crl-issuer-not-authorized");
  });

  test("must be current: thisUpdate not ahead, nextUpdate not past, not older than is allowed", () => {
    expect(outcome([crlBy(issuing, { thisUpdate: hour(0.1) })])).toBe("crl-from-future");
    expect(outcome([crlBy(issuing, { thisUpdate: hour(-3), nextUpdate: hour(-1) })])).toBe("crl-stale");
    expect(outcome([crlBy(issuing, { thisUpdate: hour(-3), nextUpdate: hour(0) })])).toBe("good");
    expect(outcome([crlBy(issuing)], { maximumAgeMilliseconds: 3_599_999 })).toBe("crl-stale");
    expect(outcome([crlBy(issuing)], { maximumAgeMilliseconds: 3_600_000 })).toBe("good");
  });

  test("with a critical extension that is not processed tells nothing good", () => {
    const unknown = extension("1.2.3.4", true, Buffer.from("0500", "hex"));
    expect(outcome([crlBy(issuing, { extensions: [unknown] })])).toBe("crl-scope-unsupported");
    expect(outcome([crlBy(issuing, { entries: [crlEntry("41", unknown)] })])).toBe("crl-scope-unsupported");
  });

  test("gives way to a newer one of the same scope, in whatever order they come", () => {
    const older = crlBy(issuing, { thisUpdate: hour(-2), extensions: [crlExtensions.crlNumber(1)] });
    const newer = crlBy(issuing, { entries: listed, extensions: [crlExtensions.crlNumber(2)] });
    expect(outcome([older, newer])).toBe("certificate-revoked");
    expect(outcome([newer, older])).toBe("certificate-revoked");
    const sameSecond = crlBy(issuing, { extensions: [crlExtensions.crlNumber(1)] });
    expect(outcome([sameSecond, newer])).toBe("certificate-revoked");
  });
});

describe("the scope of a CRL", () => {
  test("is a distribution point that the certificate names, or none", () => {
    expect(outcome([scoped({ fullName: shard })])).toBe("good");
    expect(outcome([scoped({ fullName: otherShard })])).toBe("crl-missing");
    expect(outcome([scoped({ fullName: shard })], { certificate: forgeLeaf("leaf", issuing) })).toBe("crl-missing");
    expect(outcome([scoped({})], { certificate: forgeLeaf("leaf", issuing) })).toBe("good");
  });

  test("is users, CAs or attribute certificates", () => {
    expect(outcome([scoped({ user: true })])).toBe("good");
    expect(outcome([scoped({ ca: true })])).toBe("crl-missing");
    expect(outcome([scoped({ attribute: true })])).toBe("crl-missing");
    expect(outcome([crlBy(issuing), scoped({ ca: true }, {}, root)], { extent: "chain" })).toBe("good");
    expect(outcome([crlBy(issuing), scoped({ user: true }, {}, root)], { extent: "chain" })).toBe("crl-missing");
  });

  test("is all reasons, of one CRL or of several together", () => {
    expect(outcome([scoped({ reasons: keyCompromise })])).toBe("crl-missing");
    expect(outcome([scoped({ reasons: keyCompromise }), scoped({ reasons: otherReasons })])).toBe("good");
    expect(outcome([scoped({ reasons: keyCompromise }), scoped({ reasons: otherReasons }, { entries: listed })])).toBe("certificate-revoked");
    const split = forgeLeaf("leaf", issuing, { extensions: [points(point({ name: shard, reasons: keyCompromise }), point({ name: otherShard, reasons: otherReasons }))] });
    expect(outcome([scoped({ fullName: shard })], { certificate: split })).toBe("crl-missing");
    expect(outcome([scoped({ fullName: shard }), scoped({ fullName: otherShard })], { certificate: split })).toBe("good");
  });
});

describe("a delta CRL", () => {
  const aki = crlExtensions.authorityKeyIdentifier(keyIdentifier(issuing.publicKey));
  const base = (number: number, entries: readonly Uint8Array[] = []) => crlBy(issuing, { entries, extensions: [aki, crlExtensions.crlNumber(number)] });
  const delta = (number: number, from: number, entries: readonly Uint8Array[] = [], more: readonly Uint8Array[] = [], ca: ForgedCa = issuing) => crlBy(ca, { entries, extensions: [aki, crlExtensions.crlNumber(number), crlExtensions.deltaCrlIndicator(from), ...more] });
  const lifted = [crlEntry(leaf.serialNumber, reasonCode(8))];
  const held = [crlEntry(leaf.serialNumber, reasonCode(6))];

  test("alone tells nothing", () => {
    expect(outcome([delta(2, 1)])).toBe("crl-missing");
  });

  test("adds to its base, and lifts a hold", () => {
    expect(outcome([base(1), delta(2, 1)])).toBe("good");
    expect(outcome([base(1), delta(2, 1, listed)])).toBe("certificate-revoked");
    expect(outcome([base(1, held), delta(2, 1)])).toBe("certificate-revoked");
    expect(outcome([base(1, held), delta(2, 1, lifted)])).toBe("good");
  });

  test.each([
    ["to an older base than it builds on", [base(1, held), delta(3, 2, lifted)]],
    ["to a base newer than itself", [base(5, held), delta(3, 1, lifted)]],
    ["to a base of another scope", [base(1, held), delta(2, 1, lifted, [crlExtensions.issuingDistributionPoint({ user: true })])]],
    ["if it is not signed by the issuer", [base(1, held), forgeCrl({ issuer: issuing.name, entries: lifted, extensions: [aki, crlExtensions.crlNumber(2), crlExtensions.deltaCrlIndicator(1)] }, root.privateKey)]],
  ])("does not apply %s", (_, crls) => {
    expect(outcome(crls)).toBe("certificate-revoked");
  });
});

describe("an indirect CRL", () => {
  const pointed = forgeLeaf("leaf", issuing, { extensions: [points(point({ name: shard, crlIssuer: elsewhere }))] });
  const owned = (serialNumber: string, ca: ForgedCa) => crlEntry(serialNumber, extension(oid.certificateIssuer, true, encodeSequence(encodeGeneralName({ kind: "directory", value: ca.name }))));
  const by = (entries: readonly Uint8Array[] = [], i: Parameters<typeof crlExtensions.issuingDistributionPoint>[0] = { indirect: true }) => scoped(i, { entries }, elsewhere);
  const check = { certificate: pointed, certificates: [elsewhere] };

  test("counts where the certificate names its issuer, and it says that it is indirect", () => {
    expect(outcome([by()], check)).toBe("good");
    expect(outcome([by([], { fullName: shard })], check)).toBe("crl-missing");
    expect(outcome([by()], { certificates: [elsewhere] })).toBe("crl-missing");
  });

  test("lists certificates by issuer and serial number; an entry without an issuer is of the issuer before", () => {
    expect(outcome([by([owned(pointed.serialNumber, issuing)])], check)).toBe("certificate-revoked");
    expect(outcome([by([owned(pointed.serialNumber, root)])], check)).toBe("good");
    expect(outcome([by([crlEntry(pointed.serialNumber)])], check)).toBe("good");
    expect(outcome([by([owned("41", issuing), crlEntry(pointed.serialNumber)])], check)).toBe("certificate-revoked");
    expect(outcome([by([owned("41", issuing), owned("42", root), crlEntry(pointed.serialNumber)])], check)).toBe("good");
  });

  test("needs an issuer with a path to the same anchor", () => {
    expect(outcome([by()], { certificate: pointed })).toBe("crl-issuer-not-authorized");
    const stranger = forgeCa("CRL Issuer");
    expect(outcome([scoped({ indirect: true }, {}, stranger)], { certificate: pointed, certificates: [stranger] })).toBe("crl-issuer-not-authorized");
    const expired = forgeCa("CRL Issuer", root, { content: { notAfter: new Date("2026-06-01T11:30:00Z") } });
    expect(outcome([scoped({ indirect: true }, {}, expired)], { certificate: pointed, certificates: [expired] })).toBe("crl-issuer-not-authorized");
  });

  test("needs an issuer that is itself not revoked", () => {
    const rootSays = (...serials: string[]) => crlBy(root, { entries: serials.map((serial) => crlEntry(serial)) });
    expect(outcome([by(), rootSays()], { ...check, extent: "chain" })).toBe("good");
    expect(outcome([by(), rootSays(elsewhere.certificate.serialNumber)], { ...check, extent: "chain" })).toBe("crl-issuer-not-authorized");
  });

  test("by an issuer in its own scope counts unless it, or anybody else who can tell, lists that issuer", () => {
    const keys = testKeyPair();
    const named = { ...keys, name: forgeCa("Self-covered").name, certificate: root.certificate };
    const self = forgeCa("Self-covered", root, { keys, replace: [extensions.keyUsage("cRLSign"), points(point({ crlIssuer: named }))] });
    const certificate = forgeLeaf("leaf", issuing, { extensions: [points(point({ crlIssuer: self }))] });
    const ofCas = scoped({ ca: true }, {}, root);
    const ofUsers = (...entries: readonly Uint8Array[]) => scoped({ user: true }, { entries }, root);
    const own = (...entries: readonly Uint8Array[]) => scoped({ indirect: true }, { entries }, self);
    const asked = { certificate, certificates: [self], extent: "chain" } as const;
    expect(outcome([ofCas, own()], asked)).toBe("good");
    expect(outcome([ofCas, own(owned(self.certificate.serialNumber, root))], asked)).toBe("crl-issuer-not-authorized");
    expect(outcome([ofCas, own(), ofUsers(crlEntry(self.certificate.serialNumber))], asked)).toBe("crl-issuer-not-authorized");
    expect(outcome([ofCas, own(), ofUsers()], asked)).toBe("good");
  });
});

test("a budget ends the work that CRLs can cause", () => {
  const swarm = Array.from({ length: 15 }, () => forgeCa("Swarm"));
  const crls = swarm.map((ca) => crlBy(ca));
  const target = forgeLeaf("leaf", issuing, { extensions: [points(point({ crlIssuer: swarm[0] as ForgedCa }))] });
  const indirect = swarm.map((ca) => scoped({ indirect: true }, {}, ca));
  expect(outcome([...crls, ...indirect], { certificate: target, certificates: swarm })).toBe("budget-exceeded");
});
