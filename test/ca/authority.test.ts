import { cpSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { afterAll, beforeAll, expect, onTestFinished, test, vi } from "vitest";
import { Authority, initialiseAuthority } from "#ca/authority.ts";
import { serveAuthority } from "#ca/http.ts";
import { revoke } from "#ca/ledger.ts";
import { permittedNames } from "#ca/settings.ts";
import type { Clock } from "#pki/clock.ts";
import { EnrolledIdentity } from "#pki/identity.ts";
import { silentLog } from "#pki/log.ts";
import { openSqlite } from "#store/sqlite.ts";
import { temporaryDirectory } from "#test/support/temporary-directory.ts";

const hour = 3_600_000;
const day = 24 * hour;

class TestClock implements Clock {
  time = Date.UTC(2030, 0, 1);
  now = () => new Date(this.time);
  monotonicMilliseconds = () => this.time;
}

const template = mkdtempSync(path.join(tmpdir(), "signet-ca-"));
beforeAll(() => initialiseAuthority(template, { clock: new TestClock() }));
afterAll(() => rmSync(template, { recursive: true }));

function initialised(): string {
  const data = temporaryDirectory();
  cpSync(template, data, { recursive: true });
  return data;
}

async function startedAt(clock: TestClock, data: string): Promise<Authority> {
  const authority = await Authority.open(data, { clock, log: silentLog });
  onTestFinished(() => authority.close());
  await authority.start();
  return authority;
}

const operatorCertificate = (data: string) => EnrolledIdentity.open(path.join(data, "operator")).credential("client").chain[0];

/** Revokes certificates of one identity in the ledger alone, as if the authority had died before it did anything else. */
async function revokeInLedger(data: string, identity: string, at: Date): Promise<void> {
  const ledger = openSqlite(path.join(data, "ca", "ca.sqlite"), { mode: "existing" });
  await ledger.transaction((transaction) => revoke(transaction, { identity }, "superseded", at));
  await ledger.close();
}

test("a clock that is set back does not end a serving authority", async () => {
  const clock = new TestClock();
  const authority = await startedAt(clock, initialised());
  vi.useFakeTimers({ toFake: ["setInterval", "clearInterval"] });
  onTestFinished(() => void vi.useRealTimers());
  const serving = await serveAuthority(authority, { clock, log: silentLog });
  onTestFinished(() => serving.close());
  clock.time -= day;
  // A timer that throws would end the process.
  expect(() => vi.advanceTimersByTime(5 * 60_000)).not.toThrow();
});

test("an authority that was put back from a backup gives another entity tag to another CRL of the same number", async () => {
  const clock = new TestClock();
  const seen: (readonly [bigint | undefined, string | null])[] = [];
  for (const data of [initialised(), initialised()]) {
    const authority = await startedAt(clock, data);
    const serving = await serveAuthority(authority, { clock, log: silentLog });
    const { headers } = await fetch(`${serving.publicationUrl}/crl/leaf-0.crl`, { headers: { connection: "close" } });
    seen.push([authority.publisher.current("leaf-0")?.crl.crlNumber, headers.get("etag")]);
    await serving.close();
  }
  expect(seen[0]?.[0]).toBe(seen[1]?.[0]);
  expect(seen[0]?.[1]).not.toBe(seen[1]?.[1]);
});

test("a start replaces the own server certificate when it is revoked, and not when it stands", async () => {
  const clock = new TestClock();
  const data = initialised();
  const before = await startedAt(clock, data);
  const [standing] = before.serverCredential.chain;
  await before.close();
  const again = await startedAt(clock, data);
  expect(again.serverCredential.chain[0]?.serialNumber).toBe(standing?.serialNumber);
  await again.close();
  await revokeInLedger(data, "spiffe://signet.internal/service/ca", clock.now());
  const after = await startedAt(clock, data);
  expect(after.serverCredential.chain[0]?.serialNumber).not.toBe(standing?.serialNumber);
});

test("after a stop that outlived the first operator's certificate, a start renews it; before that is due it is left alone", async () => {
  const clock = new TestClock();
  const data = initialised();
  const first = operatorCertificate(data);
  await (await startedAt(clock, data)).close();
  expect(operatorCertificate(data)?.serialNumber).toBe(first?.serialNumber);
  clock.time += 40 * day;
  await startedAt(clock, data);
  const renewed = operatorCertificate(data);
  expect(renewed?.spkiFingerprint).not.toBe(first?.spkiFingerprint);
  expect(renewed?.notAfter.getTime()).toBe(clock.time + 30 * day);
  expect(EnrolledIdentity.open(path.join(data, "operator")).identity.uri).toBe("spiffe://signet.internal/operator/admin");
});

test.each<[string, (data: string, clock: TestClock) => Promise<void>]>([
  ["was revoked", (data, clock) => revokeInLedger(data, "spiffe://signet.internal/operator/admin", clock.now())],
  ["is another authority's", async (data, clock) => {
    const other = temporaryDirectory();
    await initialiseAuthority(other, { clock });
    rmSync(path.join(data, "operator"), { recursive: true });
    cpSync(path.join(other, "operator"), path.join(data, "operator"), { recursive: true });
  }],
])("a first operator whose certificate %s is not renewed", async (_title, change) => {
  const clock = new TestClock();
  const data = initialised();
  await change(data, clock);
  const credential = readFileSync(path.join(data, "operator", "client.pem"), "utf8");
  clock.time += 40 * day;
  await startedAt(clock, data);
  expect(readFileSync(path.join(data, "operator", "client.pem"), "utf8")).toBe(credential);
});

test("an authority whose first operator's credential was moved away starts without it", async () => {
  const clock = new TestClock();
  const data = initialised();
  rmSync(path.join(data, "operator"), { recursive: true });
  clock.time += 40 * day;
  await startedAt(clock, data);
  expect(EnrolledIdentity.isAt(path.join(data, "operator"))).toBe(false);
});

test("an authority of before there were modes counts as development, and certifies no more than it did", async () => {
  const clock = new TestClock();
  const data = initialised();
  const ledger = openSqlite(path.join(data, "ca", "ca.sqlite"), { mode: "existing" });
  await ledger.transaction((transaction) => transaction.run("UPDATE authority_settings SET settings = json_remove(settings, '$.mode')"));
  await ledger.close();
  const { mode, settings } = await startedAt(clock, data);
  expect([mode, permittedNames(settings).dns]).toStrictEqual(["development", ["localhost"]]);
});
