import { readFileSync, statSync, writeFileSync } from "node:fs";
import path from "node:path";
import { beforeAll, expect, test } from "vitest";
import type { Certificate, CertificateId } from "#pki/certificate.ts";
import type { Clock } from "#pki/clock.ts";
import { crlToBeSigned, type RevokedEntry } from "#pki/crl.ts";
import { constructedContextTag, contextTag, encode, encodeBoolean, encodeExplicit, encodeInteger, encodeSequence, encodeText, encodeTime } from "#pki/der.ts";
import type { ErrorCode } from "#pki/errors.ts";
import { oid } from "#pki/oids.ts";
import { validatePath, type ValidatedPath } from "#pki/path-validation.ts";
import { createFloors, type CrlFloor, type CrlFloors, fileFloors, memoryFloors, NotRevoked, RevocationStore } from "#pki/revocation.ts";
import { extension, extensions, forge, keyIdentifier, signatureAlgorithms, signToBeSigned, testAuthority, testKeyPair, type TestAuthority } from "../support/pki.ts";
import { temporaryDirectory } from "../support/temporary-directory.ts";

const start = new Date("2026-06-01T12:00:00Z");
const minutes = (count: number): number => count * 60_000;
const at = (milliseconds: number): Date => new Date(start.getTime() + milliseconds);
const maxAgeMilliseconds = minutes(5);

let authority: TestAuthority;
let alice: Certificate;
beforeAll(async () => {
  authority = await testAuthority({ now: start });
  alice = (await authority.issue({ role: "client", name: "alice" })).certificate;
});

/** A clock of which wall and monotonic time move apart, as a test wills. */
class TestClock implements Clock {
  wall = start.getTime();
  monotonic = 1000;
  now = (): Date => new Date(this.wall);
  monotonicMilliseconds = (): number => this.monotonic;
  advance(milliseconds: number): void {
    this.wall += milliseconds;
    this.monotonic += milliseconds;
  }
}

const refused = (code: ErrorCode) => expect.objectContaining({ code });
const revocationOf = (certificate: Certificate): RevokedEntry => ({ serialNumber: certificate.serialNumber, revocationDate: start, reason: "keyCompromise" });
const pathOf = (endEntity: Certificate, of: TestAuthority = authority): ValidatedPath =>
  validatePath({ endEntity, intermediates: [of.issuing], trustAnchors: [of.root], purpose: "clientAuth", at: start });

/** Number `crlNumber`, made so many minutes after the first; the first is an hour old at the start. */
const leafCrl = (crlNumber: number, entries: readonly RevokedEntry[] = [], thisUpdate = at(-minutes(60 - crlNumber))): Uint8Array =>
  authority.leafCrl(entries, { crlNumber: BigInt(crlNumber), thisUpdate }).der;

function party(floors: CrlFloors = memoryFloors(), clock = new TestClock()) {
  const store = new RevocationStore({ trustAnchors: [authority.root], floors, clock, maxAgeMilliseconds });
  return { store, clock, floors, accept: (der: Uint8Array) => store.accept(der, [authority.issuing]) };
}

/** A party with both CRLs in force, of number 1. */
function informedParty(floors?: CrlFloors, clock?: TestClock) {
  const made = party(floors, clock);
  made.accept(authority.rootCrl([]).der);
  const { scope } = made.accept(leafCrl(1));
  return { ...made, leafScope: scope };
}

test("a certificate that no CRL lists is not revoked, and one that a CRL lists is, by whatever proof", () => {
  const { store, accept } = informedParty();
  const proof = store.check(pathOf(alice));
  expect(NotRevoked.is(proof)).toBe(true);
  accept(leafCrl(2, [revocationOf(alice)]));
  expect(() => store.check(pathOf(alice))).toThrow(refused("certificate-revoked"));
  expect(() => store.recheck(proof)).toThrow(refused("certificate-revoked"));
});

test("a proof stands without being made anew while nothing changes, and is made anew after a CRL", () => {
  const { store, accept } = informedParty();
  const proof = store.check(pathOf(alice));
  expect(store.recheck(proof)).toBe(proof);
  accept(leafCrl(2));
  expect(store.recheck(proof)).not.toBe(proof);
});

test("both CRLs are needed: the root's for the issuing CA, the issuing CA's for the leaf", () => {
  const leafOnly = party();
  leafOnly.accept(leafCrl(1));
  expect(() => leafOnly.store.check(pathOf(alice))).toThrow(refused("crl-missing"));
  const rootOnly = party();
  rootOnly.accept(authority.rootCrl([]).der);
  expect(() => rootOnly.store.check(pathOf(alice))).toThrow(refused("crl-missing"));
  expect(() => party().store.check(pathOf(alice))).toThrow(refused("crl-missing"));
});

test("a leaf under a revoked issuing CA is refused", () => {
  const { store, accept } = informedParty();
  accept(authority.rootCrl([revocationOf(authority.issuing)], { crlNumber: 2n, thisUpdate: at(-minutes(1)) }).der);
  expect(() => store.check(pathOf(alice))).toThrow(refused("certificate-revoked"));
});

test("a serial number counts for its own issuer only", async () => {
  const other = await testAuthority({ now: start });
  const trustAnchors = [authority.root, other.root];
  const store = new RevocationStore({ trustAnchors, floors: memoryFloors(), clock: new TestClock(), maxAgeMilliseconds });
  for (const each of [authority, other]) store.accept(each.rootCrl([]).der, []);
  store.accept(leafCrl(1), [authority.issuing]);
  store.accept(other.leafCrl([revocationOf(alice)]).der, [other.issuing]);
  expect(store.check(pathOf(alice)).path.endEntity).toBe(alice);
});

test("the number of a scope rises strictly: a lower one, and the same one for other bytes, are rollbacks", () => {
  const { store, accept } = informedParty();
  accept(leafCrl(3, [revocationOf(alice)]));
  const { generation } = store;
  expect(() => accept(leafCrl(2))).toThrow(refused("crl-rollback"));
  expect(() => accept(leafCrl(2, [], at(-minutes(2))))).toThrow(refused("crl-rollback"));
  expect(() => accept(leafCrl(3, [], at(-minutes(2))))).toThrow(refused("crl-rollback"));
  expect(store.generation).toBe(generation);
  expect(() => store.check(pathOf(alice))).toThrow(refused("certificate-revoked"));
});

test("thisUpdate of a scope rises strictly, whatever the number says", () => {
  const { accept } = informedParty();
  accept(leafCrl(2));
  expect(() => accept(leafCrl(3, [], at(-minutes(58))))).toThrow(refused("crl-rollback"));
  expect(() => accept(leafCrl(3, [], at(-minutes(59))))).toThrow(refused("crl-rollback"));
  expect(accept(leafCrl(3, [], at(-minutes(58) + 1000))).crlNumber).toBe(3n);
});

test("the floor outlives a restart: an older CRL is refused by a party that holds none, and the latest is taken again", () => {
  const file = path.join(temporaryDirectory(), "crl-floors.json");
  createFloors(file);
  const [older, latest] = [leafCrl(1), leafCrl(2, [revocationOf(alice)])];
  const before = party(fileFloors(file));
  before.accept(older);
  before.accept(latest);
  expect(statSync(file).mode & 0o777).toBe(0o600);
  const restarted = party(fileFloors(file));
  expect(() => restarted.accept(older)).toThrow(refused("crl-rollback"));
  restarted.accept(authority.rootCrl([]).der);
  restarted.accept(latest);
  expect(() => restarted.store.check(pathOf(alice))).toThrow(refused("certificate-revoked"));
});

test("a CRL counts only when its floor is durable", () => {
  const kept = memoryFloors();
  let full = false;
  const floors: CrlFloors = {
    get: (scope) => kept.get(scope),
    get latestThisUpdate() {
      return kept.latestThisUpdate;
    },
    raise(scope: string, floor: CrlFloor) {
      if (full) throw new Error("no space left");
      kept.raise(scope, floor);
    },
  };
  const { store, accept } = informedParty(floors);
  full = true;
  const { generation } = store;
  expect(() => accept(leafCrl(2, [revocationOf(alice)]))).toThrow("no space left");
  expect(store.generation).toBe(generation);
});

test("damaged floors are named and left alone", () => {
  const file = path.join(temporaryDirectory(), "crl-floors.json");
  for (const text of ["", "{}", '{"format":2,"scopes":{}}', '{"format":1,"scopes":{"a":{"crlNumber":"-1","thisUpdate":"x","digest":"00"}}}']) {
    writeFileSync(file, text);
    expect(() => fileFloors(file)).toThrow(refused("data-directory-corrupt"));
    expect(readFileSync(file, "utf8")).toBe(text);
  }
});

test("a CRL from more than five minutes ahead is refused before any floor rises", () => {
  const { accept, floors, leafScope } = informedParty();
  const floor = floors.get(leafScope);
  const nextUpdate = at(minutes(300));
  expect(() => accept(authority.leafCrl([], { crlNumber: 9n, thisUpdate: at(minutes(5) + 1000), nextUpdate }).der)).toThrow(refused("crl-from-future"));
  expect(floors.get(leafScope)).toEqual(floor);
  expect(accept(authority.leafCrl([], { crlNumber: 2n, thisUpdate: at(minutes(5)), nextUpdate }).der).crlNumber).toBe(2n);
});

test("past nextUpdate nothing is served, and such a CRL is not accepted", () => {
  const { store, clock, accept } = informedParty();
  const proof = store.check(pathOf(alice));
  clock.advance(minutes(300) - 1);
  for (const { scope } of store.status()) store.confirmCurrent(scope);
  expect(store.recheck(proof).path).toBe(proof.path);
  clock.advance(1);
  expect(() => store.check(pathOf(alice))).toThrow(refused("crl-stale"));
  expect(() => store.recheck(proof)).toThrow(refused("crl-stale"));
  expect(() => accept(leafCrl(2))).toThrow(refused("crl-stale"));
});

test("a refresh that lies back more than maxAge, by monotonic time, is overdue, until the CRL is confirmed", () => {
  const { store, clock } = informedParty();
  const proof = store.check(pathOf(alice));
  const [root, leaf] = store.status();
  clock.monotonic += maxAgeMilliseconds;
  expect(store.recheck(proof)).toBe(proof);
  clock.monotonic += 1;
  expect(() => store.check(pathOf(alice))).toThrow(refused("crl-refresh-overdue"));
  expect(() => store.recheck(proof)).toThrow(refused("crl-refresh-overdue"));
  store.confirmCurrent(root?.scope ?? "");
  expect(() => store.recheck(proof)).toThrow(refused("crl-refresh-overdue"));
  store.confirmCurrent(leaf?.scope ?? "");
  expect(store.recheck(proof).path).toBe(proof.path);
});

test("the same bytes again are a confirmation", () => {
  const { store, clock, accept } = party();
  const [root, leaf] = [authority.rootCrl([]).der, leafCrl(1)];
  for (const der of [root, leaf]) accept(der);
  clock.monotonic += maxAgeMilliseconds + 1;
  const { generation } = store;
  for (const der of [root, leaf]) expect(accept(der).added).toEqual([]);
  expect(store.generation).toBe(generation);
  expect(store.check(pathOf(alice)).path.endEntity).toBe(alice);
});

test("a clock that lies more than five minutes before what was verified is refused, also after a restart", () => {
  const file = path.join(temporaryDirectory(), "crl-floors.json");
  createFloors(file);
  const { store, clock, accept } = informedParty(fileFloors(file));
  accept(leafCrl(2, [], at(0)));
  const proof = store.check(pathOf(alice));
  clock.wall = start.getTime() - minutes(5);
  expect(store.recheck(proof)).toBe(proof);
  clock.wall -= 1;
  expect(() => store.check(pathOf(alice))).toThrow(refused("clock-rolled-back"));
  expect(() => store.recheck(proof)).toThrow(refused("clock-rolled-back"));
  const restarted = party(fileFloors(file), clock);
  expect(() => restarted.accept(leafCrl(2, [], at(0)))).toThrow(refused("clock-rolled-back"));
});

test("a certificate that expired since its path was validated is refused, whether or not a proof was made before", () => {
  const { store, clock } = informedParty();
  const path = pathOf(alice);
  const proof = store.check(path);
  clock.wall = alice.notAfterTime + 1;
  expect(() => store.check(path)).toThrow(refused("certificate-expired"));
  expect(() => store.recheck(proof)).toThrow(refused("certificate-expired"));
});

test("a CRL by another key under the issuer's name is refused", async () => {
  const { accept } = informedParty();
  const impostor = await testAuthority({ now: start });
  expect(() => accept(impostor.leafCrl([]).der)).toThrow(refused("crl-signature-invalid"));
  const tampered = Buffer.from(leafCrl(2));
  tampered.writeUInt8(tampered.readUInt8(tampered.length - 1) ^ 1, tampered.length - 1);
  expect(() => accept(tampered)).toThrow(refused("crl-signature-invalid"));
});

test("a CRL of a CA that may not sign CRLs is refused", () => {
  const keys = testKeyPair();
  const unable = forge(
    {
      subject: authority.issuing.subject,
      issuer: authority.root.subject,
      publicKey: keys.publicKey,
      notBefore: at(-minutes(60)),
      notAfter: at(minutes(6000)),
      extensions: [
        extensions.basicConstraints(true, 0),
        extensions.keyUsage("keyCertSign"),
        extensions.subjectKeyIdentifier(keyIdentifier(keys.publicKey)),
        extensions.authorityKeyIdentifier(keyIdentifier(authority.rootKeys.publicKey)),
      ],
    },
    authority.rootKeys.privateKey,
  );
  const tbs = crlToBeSigned({
    issuer: unable,
    thisUpdate: at(-minutes(1)),
    nextUpdate: at(minutes(60)),
    crlNumber: 1n,
    issuingDistributionPoint: { only: "user", fullName: authority.crlDistributionPoint },
    entries: [],
    signatureAlgorithm: Buffer.from(signatureAlgorithms["ec-p256"].der, "hex"),
  });
  expect(() => party().store.accept(signToBeSigned(tbs, keys.privateKey), [unable])).toThrow(refused("crl-issuer-not-authorized"));
});

test("a CRL number of 20 octets counts, and is read again after a restart", () => {
  const file = path.join(temporaryDirectory(), "floors.json");
  createFloors(file);
  const crl = authority.leafCrl([], { crlNumber: 2n ** 159n - 1n, thisUpdate: at(-minutes(1)) }).der;
  const { scope, crlNumber } = party(fileFloors(file)).accept(crl);
  expect(fileFloors(file).get(scope)?.crlNumber).toBe(crlNumber);
});

test("a CRL that is signed with SHA-1 is refused, even by the right key", async () => {
  const ofRsa = await testAuthority({ now: start, keyType: "rsa-2048" });
  const store = new RevocationStore({ trustAnchors: [ofRsa.root], floors: memoryFloors(), clock: new TestClock(), maxAgeMilliseconds });
  const crl = (algorithm: "rsa" | "rsa-sha1"): Uint8Array =>
    signToBeSigned(
      crlToBeSigned({
        issuer: ofRsa.issuing,
        thisUpdate: at(-minutes(1)),
        nextUpdate: at(minutes(60)),
        crlNumber: 1n,
        issuingDistributionPoint: { only: "user", fullName: ofRsa.crlDistributionPoint },
        entries: [],
        signatureAlgorithm: Buffer.from(signatureAlgorithms[algorithm].der, "hex"),
      }),
      ofRsa.issuingKeys.privateKey,
      algorithm,
    );
  expect(() => store.accept(crl("rsa-sha1"), [ofRsa.issuing])).toThrow(refused("crl-signature-invalid"));
  expect(store.accept(crl("rsa"), [ofRsa.issuing]).crlNumber).toBe(1n);
});

test("the entries of a CRL are read only where its signature holds", () => {
  const algorithm = Buffer.from(signatureAlgorithms["ec-p256"].der, "hex");
  const common = [extensions.authorityKeyIdentifier(authority.issuing.extensions.subjectKeyIdentifier ?? ""), extension(oid.crlNumber, false, encodeInteger(7))];
  const noEntry = encodeSequence(encodeInteger(5));
  const tbs = encodeSequence(encodeInteger(1), algorithm, authority.issuing.subject.der, encodeTime(at(-minutes(1))), encodeTime(at(minutes(60))), encodeSequence(noEntry), encodeExplicit(0, encodeSequence(...common)));
  expect(() => party().accept(signToBeSigned(tbs, testKeyPair().privateKey))).toThrow(refused("crl-signature-invalid"));
  expect(() => party().accept(signToBeSigned(tbs, authority.issuingKeys.privateKey))).toThrow(refused("crl-malformed"));
});

test("a certificate whose serial number is too long for any CRL is refused", () => {
  const { store } = informedParty();
  const withSerial = (serialNumber: string): Certificate =>
    forge(
      {
        subject: alice.subject,
        issuer: authority.issuing.subject,
        publicKey: testKeyPair().publicKey,
        serialNumber,
        extensions: [extensions.authorityKeyIdentifier(authority.issuing.extensions.subjectKeyIdentifier ?? ""), extensions.crlDistributionPoint(authority.crlDistributionPoint)],
      },
      authority.issuingKeys.privateKey,
    );
  expect(NotRevoked.is(store.check(pathOf(withSerial("7f".repeat(127)))))).toBe(true);
  expect(() => store.check(pathOf(withSerial("7f".repeat(128))))).toThrow(refused("crl-missing"));
});

const flag = (number: number): Uint8Array => encode(contextTag(number), Buffer.of(0xff));
const fullName = (url: string): Uint8Array => encodeExplicit(0, encode(constructedContextTag(0), encodeText(url, contextTag(6))));

/** A leaf CRL of these extensions, beside its key identifier and number. */
const crlWith = (...more: readonly Uint8Array[]): Uint8Array => crlOfNumber(7, ...more);

function crlOfNumber(number: number | bigint, ...more: readonly Uint8Array[]): Uint8Array {
  const algorithm = Buffer.from(signatureAlgorithms["ec-p256"].der, "hex");
  const common = [extensions.authorityKeyIdentifier(authority.issuing.extensions.subjectKeyIdentifier ?? ""), extension(oid.crlNumber, false, encodeInteger(number))];
  const tbs = encodeSequence(encodeInteger(1), algorithm, authority.issuing.subject.der, encodeTime(at(-minutes(1))), encodeTime(at(minutes(60))), encodeExplicit(0, encodeSequence(...common, ...more)));
  return signToBeSigned(tbs, authority.issuingKeys.privateKey);
}
const distributionPoint = (...fields: readonly Uint8Array[]): Uint8Array => extension(oid.issuingDistributionPoint, true, encodeSequence(...fields));

test.each<[string, () => Uint8Array]>([
  ["a delta", () => crlWith(extension(oid.deltaCrlIndicator, true, encodeInteger(1)))],
  ["an indirect CRL", () => crlWith(distributionPoint(flag(4)))],
  ["a CRL of some reasons", () => crlWith(distributionPoint(encode(contextTag(3), Buffer.of(6, 0x40))))],
  ["a CRL of attribute certificates", () => crlWith(distributionPoint(flag(5)))],
  ["a CRL with a number of 21 octets", () => crlOfNumber(2n ** 159n)],
  ["a CRL with an unknown critical extension", () => crlWith(extension("1.3.6.1.4.1.55555.1", true, encodeBoolean(true)))],
])("%s does not take the place of a complete CRL", (_, crl) => {
  const { accept } = party();
  expect(() => accept(crl())).toThrow(refused("crl-scope-unsupported"));
});

test.each<[string, () => Uint8Array]>([
  ["for CA certificates", () => crlWith(distributionPoint(flag(2)))],
  ["of another distribution point", () => crlWith(distributionPoint(fullName(`${authority.crlDistributionPoint}x`), flag(1)))],
])("a CRL %s does not cover a leaf", (_, crl) => {
  const { store, accept } = party();
  accept(authority.rootCrl([]).der);
  accept(crl());
  expect(() => store.check(pathOf(alice))).toThrow(refused("crl-missing"));
});

test("a CRL without a distribution point covers everything of its issuer", () => {
  const { store, accept } = party();
  accept(authority.rootCrl([]).der);
  accept(crlWith());
  expect(store.check(pathOf(alice)).path.endEntity).toBe(alice);
});

test("subscribers hear once of each revocation, whatever befalls another of them, until they leave", () => {
  const { store, accept } = informedParty();
  const heard: (readonly CertificateId[])[] = [];
  store.onRevoked(() => {
    throw new TypeError("a defect");
  });
  const leave = store.onRevoked((added) => heard.push(added));
  expect(() => accept(leafCrl(2, [revocationOf(alice)]))).toThrow(refused("internal"));
  expect(() => store.check(pathOf(alice))).toThrow(refused("certificate-revoked"));
  expect(heard).toEqual([[alice.id]]);
  leave();
  expect(() => accept(leafCrl(3, [revocationOf(alice)]))).toThrow(refused("internal"));
  expect(heard).toHaveLength(1);
});

test("what a party waits for is said in words until it can judge", () => {
  const { store, clock, accept } = party();
  expect(store.waitingFor()).toContain("CA certificates");
  accept(authority.rootCrl([]).der);
  expect(store.waitingFor()).toContain("end-entity");
  accept(leafCrl(1));
  expect(store.waitingFor()).toBeUndefined();
  clock.monotonic += maxAgeMilliseconds + 1;
  expect(store.waitingFor()).toBeDefined();
});

test("proofs come from the store alone, and nothing of their shape passes for one", () => {
  const { store } = informedParty();
  const proof = store.check(pathOf(alice));
  expect(() => new NotRevoked(Symbol("construction"), proof.path, { generation: 1, validFrom: 0, validUntil: Infinity, freshUntil: Infinity })).toThrow(refused("internal"));
  const lookalike = { path: proof.path, validUntil: proof.validUntil } as unknown as NotRevoked;
  expect(() => store.recheck(lookalike)).toThrow(refused("internal"));
  expect(() => store.check({ ...pathOf(alice) } as unknown as ValidatedPath)).toThrow(refused("internal"));
});
