import { mkdtempSync, cpSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from "vitest";
import { Authority, initialiseAuthority } from "#ca/authority.ts";
import { listCertificates, recordIntent, recordIssued, revoke } from "#ca/ledger.ts";
import type { Clock } from "#pki/clock.ts";
import { Certificate } from "#pki/certificate.ts";
import { silentLog } from "#pki/log.ts";
import type { SqlEngine } from "#store/engine.ts";
import { openSqlite } from "#store/sqlite.ts";
import { temporaryDirectory } from "#test/support/temporary-directory.ts";

const minute = 60_000;
const hour = 60 * minute;
const day = 24 * hour;

class TestClock implements Clock {
  time = Date.UTC(2030, 0, 1);
  now = () => new Date(this.time);
  monotonicMilliseconds = () => this.time;
}

const template = mkdtempSync(path.join(tmpdir(), "signet-ca-"));
beforeAll(() => initialiseAuthority(template, { clock: new TestClock() }));
afterAll(() => rmSync(template, { recursive: true }));

/** An authority under a clock that the test sets, and a second connection to its database for what no API does. */
async function authorityAt(clock: TestClock): Promise<{ authority: Authority; ledger: SqlEngine; data: string; reopen: () => Promise<Authority> }> {
  const data = temporaryDirectory();
  cpSync(template, data, { recursive: true });
  let authority = await Authority.open(data, { clock, log: silentLog });
  const ledger = openSqlite(path.join(data, "ca", "ca.sqlite"), { mode: "existing" });
  onTestFinished(async () => {
    await authority.close();
    await ledger.close();
  });
  const reopen = async () => {
    await authority.close();
    authority = await Authority.open(data, { clock, log: silentLog });
    return authority;
  };
  return { authority, ledger, data, reopen };
}

/** Serial number of the operator's certificate, which stands for any leaf: it lives 30 days. */
async function leafOf(ledger: SqlEngine, clock: Clock): Promise<string> {
  const [leaf] = await ledger.read((reads) => listCertificates(reads, { limit: 1, identity: "spiffe://signet.internal/operator/admin" }, clock.now()));
  return leaf?.serialNumber ?? "";
}

const revokeLeaf = (ledger: SqlEngine, serialNumber: string, at: Date) => ledger.transaction((transaction) => revoke(transaction, { serialNumber }, "superseded", at));

test("thisUpdate lies an hour back, rises by a second with each CRL, and never lies ahead of the clock", async () => {
  const clock = new TestClock();
  const { authority } = await authorityAt(clock);
  const times: number[] = [];
  for (let n = 0; n < 5; n++) times.push((await authority.publisher.publish("leaf-0")).crl.thisUpdate.getTime());
  expect(times).toEqual([0, 1, 2, 3, 4].map((n) => clock.time - hour + n * 1000));
  clock.time += 10 * minute;
  expect((await authority.publisher.publish("leaf-0")).crl.thisUpdate.getTime()).toBe(clock.time - hour);
});

test("numbers rise by one, across restarts too, and nextUpdate is six hours or thirty days ahead", async () => {
  const clock = new TestClock();
  const { authority, reopen } = await authorityAt(clock);
  await authority.start();
  const again = await reopen();
  await again.start();
  const [root, leaf] = [again.publisher.current("root")?.crl, again.publisher.current("leaf-0")?.crl];
  expect([root?.crlNumber, leaf?.crlNumber]).toEqual([1n, 2n]);
  expect([root?.nextUpdate.getTime(), leaf?.nextUpdate.getTime()]).toEqual([clock.time + 30 * day, clock.time + 6 * hour]);
  expect(root?.issuingDistributionPoint).toMatchObject({ onlyContainsCACerts: true, fullNames: [] });
  expect(leaf?.issuingDistributionPoint).toMatchObject({ onlyContainsUserCerts: true });
});

test("the root's CRL follows after two thirds of its life, at the next start", async () => {
  const clock = new TestClock();
  const { authority, reopen } = await authorityAt(clock);
  await authority.start();
  clock.time += 20 * day;
  const again = await reopen();
  await again.start();
  expect(again.publisher.current("root")?.crl.crlNumber).toBe(2n);
});

test("a clock that was set back publishes nothing; what was published stays", async () => {
  const clock = new TestClock();
  const { authority, reopen } = await authorityAt(clock);
  await authority.start();
  const before = authority.publisher.current("leaf-0");
  clock.time -= 2 * hour;
  await expect(authority.publisher.publish("leaf-0")).rejects.toMatchObject({ code: "clock-rolled-back" });
  expect(authority.publisher.current("leaf-0")).toBe(before);
  await expect((await reopen()).start()).rejects.toMatchObject({ code: "clock-rolled-back" });
  // By less than the hour that thisUpdate lies back, it does no harm.
  clock.time += 90 * minute;
  expect((await authorityAfter(reopen)).crl.thisUpdate.getTime()).toBe((before?.crl.thisUpdate.getTime() ?? 0) + 1000);
});

async function authorityAfter(reopen: () => Promise<Authority>) {
  return (await reopen()).publisher.publish("leaf-0");
}

test("a hundred calls at once share two publications", async () => {
  const { authority } = await authorityAt(new TestClock());
  const first = authority.publisher.publish("leaf-0");
  await first;
  const running = authority.publisher.publish("leaf-0");
  const results = await Promise.all([running, ...Array.from({ length: 100 }, () => authority.publisher.publish("leaf-0"))]);
  expect(new Set(results.map(({ crl }) => crl.crlNumber)).size).toBeLessThanOrEqual(2);
});

test("a revocation that is committed before publish is called is on the CRL that it gives", async () => {
  const clock = new TestClock();
  const { authority, ledger } = await authorityAt(clock);
  const serial = await leafOf(ledger, clock);
  const earlier = authority.publisher.publish("leaf-0");
  await revokeLeaf(ledger, serial, clock.now());
  const { crl } = await authority.publisher.publish("leaf-0");
  expect(crl.find(serial)).toMatchObject({ serialNumber: serial, reason: "superseded", revocationDate: clock.now() });
  await earlier;
});

test("an expired certificate stays until a CRL has carried it beyond its validity, then goes", async () => {
  const clock = new TestClock();
  const { authority, ledger } = await authorityAt(clock);
  const serial = await leafOf(ledger, clock);
  await revokeLeaf(ledger, serial, clock.now());
  const present = async () => (await authority.publisher.publish("leaf-0")).crl.find(serial) !== undefined;
  expect(await present()).toBe(true);
  clock.time += 30 * day - minute;
  expect(await present()).toBe(true);
  clock.time += 2 * hour;
  expect(await present()).toBe(true);
  expect(await present()).toBe(false);
  expect(await present()).toBe(false);
});

describe("the publication gate keeps back, and the CRL of before stays", () => {
  test.each([
    ["a revocation that vanished from the ledger", "UPDATE certificate SET revoked_at = NULL, reason = NULL"],
    ["a certificate that vanished from the ledger", "DELETE FROM certificate WHERE revoked_at IS NOT NULL"],
  ])("%s", async (_, tampering) => {
    const clock = new TestClock();
    const { authority, ledger, reopen } = await authorityAt(clock);
    const serial = await leafOf(ledger, clock);
    await revokeLeaf(ledger, serial, clock.now());
    const { crl } = await authority.publisher.publish("leaf-0");
    await ledger.transaction((transaction) => transaction.run(tampering));
    await expect(authority.publisher.publish("leaf-0")).rejects.toMatchObject({ code: "data-directory-corrupt" });
    expect(authority.publisher.current("leaf-0")?.crl).toBe(crl);
    const again = await reopen();
    await expect(again.start()).rejects.toMatchObject({ code: "data-directory-corrupt" });
    expect(again.publisher.current("leaf-0")?.crl.find(serial)).toBeDefined();
  });

  test("and the number that it had is not given again", async () => {
    const clock = new TestClock();
    const { authority, ledger } = await authorityAt(clock);
    const serial = await leafOf(ledger, clock);
    await revokeLeaf(ledger, serial, clock.now());
    await authority.publisher.publish("leaf-0");
    await ledger.transaction((transaction) => transaction.run("UPDATE certificate SET revoked_at = NULL, reason = NULL"));
    await expect(authority.publisher.publish("leaf-0")).rejects.toThrow();
    await revokeLeaf(ledger, serial, clock.now());
    expect((await authority.publisher.publish("leaf-0")).crl.crlNumber).toBe(3n);
  });
});

test("a stored CRL that was exchanged is noticed at the next start", async () => {
  const { authority, ledger, reopen } = await authorityAt(new TestClock());
  await authority.start();
  await ledger.transaction((transaction) => transaction.run("UPDATE crl SET crl = (SELECT crl FROM crl WHERE name = 'root') WHERE name = 'leaf-0'"));
  await expect(reopen()).rejects.toMatchObject({ code: "data-directory-corrupt" });
});

test("the authority renews its own server certificate at a start when less than a third of its life is left", async () => {
  const clock = new TestClock();
  const { authority, reopen } = await authorityAt(clock);
  await authority.start();
  const first = authority.serverCredential.chain[0];
  clock.time += 59 * day;
  const still = await reopen();
  await still.start();
  expect(still.serverCredential.chain[0]?.serialNumber).toBe(first?.serialNumber);
  clock.time += 2 * day;
  const renewed = await reopen();
  await renewed.start();
  const second = renewed.serverCredential.chain[0];
  expect(second?.serialNumber).not.toBe(first?.serialNumber);
  expect(second?.spkiFingerprint).not.toBe(first?.spkiFingerprint);
  expect((await reopen()).serverCredential.chain[0]?.serialNumber).toBe(second?.serialNumber);
});

test("a serial number is taken once, whoever asks", async () => {
  const clock = new TestClock();
  const { authority, ledger } = await authorityAt(clock);
  const leaf = authority.serverCredential.chain[0] as Certificate;
  const intent = { serialNumber: leaf.serialNumber, issuerKeyId: "00", crlName: "leaf-0", identity: "x", role: "client", spkiFingerprint: "00", tbsDigest: "00", notBefore: clock.now(), notAfter: clock.now() } as const;
  await expect(ledger.transaction((transaction) => recordIntent(transaction, intent))).rejects.toThrow(/UNIQUE/);
  await expect(ledger.transaction((transaction) => recordIssued(transaction, leaf))).rejects.toMatchObject({ code: "certificate-revoked" });
});
