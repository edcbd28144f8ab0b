import { expect, test } from "vitest";
import { createToken, inspectToken, redeemToken } from "#ca/enrollment.ts";
import { Issuer, type LeafRequest } from "#ca/issuer.ts";
import { abandonIntents, listCertificates, revoke, revokedEntries } from "#ca/ledger.ts";
import { ledgerMigrations } from "#ca/settings.ts";
import { identityUri, parseIdentityUri } from "#pki/certificate-profile.ts";
import type { Clock } from "#pki/clock.ts";
import { generateKeyPair, signerFromKey, type Signer } from "#pki/keys.ts";
import { AuditLog } from "#store/audit-log.ts";
import { openSqlite } from "#store/sqlite.ts";
import { testAuthority } from "#test/support/pki.ts";

const now = new Date(Date.UTC(2030, 0, 1));
const clock: Clock = { now: () => now, monotonicMilliseconds: () => 0 };
const later = (milliseconds: number) => new Date(now.getTime() + milliseconds);
const alice = parseIdentityUri(identityUri("signet.internal", "agent", "alice"));

async function issuerUnderTest(changeSigner: (signer: Signer) => Signer = (signer) => signer) {
  const { root, issuing, issuingKeys } = await testAuthority({ now });
  const engine = openSqlite(":memory:");
  await engine.migrate(ledgerMigrations);
  const audit = await AuditLog.open(engine, clock);
  const signer = changeSigner(signerFromKey(issuingKeys.privateKey));
  const issuer = new Issuer({ engine, audit, clock, root, certificate: issuing, signer, crlDistributionPoint: "http://localhost:8080/crl/leaf-0.crl" });
  const token = await engine.transaction((transaction) => createToken(transaction, { identity: alice.uri, dns: [], ip: [] }, later(3_600_000)));
  const { publicKey } = await generateKeyPair("ec-p256");
  const request: LeafRequest = { identity: alice, role: "client", names: { dns: [], ip: [] }, subjectPublicKey: publicKey.export({ format: "der", type: "spki" }), validityDays: 30, requestedBy: alice.uri };
  const prepare = () => issuer.prepare(request, async (transaction, serialNumber) => void (await redeemToken(transaction, "alice", token, serialNumber, now)));
  const states = async () => (await engine.read((reads) => reads.all("SELECT state FROM certificate ORDER BY id"))).map((row) => row["state"]);
  const tokenState = () => engine.read((reads) => inspectToken(reads, "alice", token, now)).then(() => "usable", (error: { code: string }) => error.code);
  return { engine, issuer, issuing, prepare, request, states, tokenState };
}

test("the intent, with its serial number, is in the ledger before anything is signed", async () => {
  const atSigning: unknown[] = [];
  const { issuer, prepare, states } = await issuerUnderTest((signer) => ({
    ...signer,
    sign: async (toBeSigned) => {
      atSigning.push(...(await states()));
      return signer.sign(toBeSigned);
    },
  }));
  const certificate = await issuer.issue(await prepare());
  expect(atSigning).toEqual(["intended"]);
  expect(await states()).toEqual(["issued"]);
  expect(certificate.serialNumber).toMatch(/^[4-7][0-9a-f]{31}$/);
});

test("an issuance token is good for one certificate", async () => {
  const { issuer, prepare, states } = await issuerUnderTest();
  const token = await prepare();
  await issuer.issue(token);
  await expect(issuer.issue(token)).rejects.toMatchObject({ code: "internal" });
  expect(await states()).toEqual(["issued"]);
});

test("a certificate lives from a minute ago to its limit, and never beyond its issuer", async () => {
  const { issuer, issuing, prepare, request } = await issuerUnderTest();
  const certificate = await issuer.issue(await prepare());
  expect([certificate.notBefore, certificate.notAfter]).toEqual([later(-60_000), later(30 * 86_400_000)]);
  const long = await issuer.issue(await issuer.prepare({ ...request, validityDays: 10_000 }, async () => {}));
  expect(long.notAfter).toEqual(issuing.notAfter);
});

test.each<[string, (signer: Signer) => Signer]>([
  ["signing fails", (signer) => ({ ...signer, sign: () => Promise.reject(new Error("no signature")) })],
  ["the signature is wrong", (signer) => ({ ...signer, sign: () => signer.sign(Buffer.from("other bytes")) })],
])("where %s, the intent is abandoned, its serial number stays taken and the enrolment token is usable again", async (_, change) => {
  const { issuer, prepare, states, tokenState } = await issuerUnderTest(change);
  const token = await prepare();
  expect(await tokenState()).toBe("token-invalid");
  await expect(issuer.issue(token)).rejects.toThrow();
  expect(await states()).toEqual(["abandoned"]);
  expect(await tokenState()).toBe("usable");
});

test("an intent that a crash left is given up at the next start, and its token lives again until it expires", async () => {
  const { engine, prepare, states, tokenState } = await issuerUnderTest();
  await prepare();
  await engine.transaction((transaction) => abandonIntents(transaction));
  expect(await states()).toEqual(["abandoned"]);
  expect(await tokenState()).toBe("usable");
});

test("a revocation between intent and certificate wins: nothing is handed out, the CRL lists it, the token stays burnt", async () => {
  const { engine, issuer, prepare, tokenState } = await issuerUnderTest();
  const token = await prepare();
  await engine.transaction((transaction) => revoke(transaction, { identity: alice.uri }, "privilegeWithdrawn", now));
  await expect(issuer.issue(token)).rejects.toMatchObject({ code: "certificate-revoked" });
  expect(await engine.read((reads) => listCertificates(reads, { limit: 10 }, now))).toEqual([]);
  expect(await engine.read((reads) => revokedEntries(reads, "leaf-0", now))).toMatchObject([{ serialNumber: token.serialNumber, reason: "privilegeWithdrawn" }]);
  expect(await tokenState()).toBe("token-invalid");
});

test("what `authorize` refuses leaves no trace, and neither does what the linter refuses", async () => {
  const { issuer, request, states } = await issuerUnderTest();
  const refuse = async () => {
    throw new Error("not entitled");
  };
  await expect(issuer.prepare(request, refuse)).rejects.toThrow("not entitled");
  await expect(issuer.prepare({ ...request, role: "server", names: { dns: ["not a name"], ip: [] } }, async () => {})).rejects.toMatchObject({ code: expect.stringMatching(/lint-failed|request-malformed|profile-violation/) });
  expect(await states()).toEqual([]);
});

test("a token expires, and the database holds its hash alone", async () => {
  const { engine } = await issuerUnderTest();
  const token = await engine.transaction((transaction) => createToken(transaction, { identity: alice.uri, dns: [], ip: [] }, later(1000)));
  const inspect = (at: Date) => engine.read((reads) => inspectToken(reads, "alice", token, at));
  expect((await inspect(later(999))).identity).toBe(alice.uri);
  await expect(inspect(later(1000))).rejects.toMatchObject({ code: "token-invalid" });
  const rows = await engine.read((reads) => reads.all("SELECT * FROM enrolment_token"));
  expect(JSON.stringify(rows)).not.toContain(token);
});
