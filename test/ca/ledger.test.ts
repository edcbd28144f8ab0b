import { expect, test } from "vitest";
import { abandonIntents, countCertificates, lastRevocations, nextToExpire, revoke } from "#ca/ledger.ts";
import { ledgerMigrations } from "#ca/settings.ts";
import type { SqlEngine } from "#store/engine.ts";
import { openSqlite } from "#store/sqlite.ts";

const day = 86_400_000;
const now = new Date(Date.UTC(2030, 0, 1, 12));
const at = (days: number) => new Date(now.getTime() + days * day);

/** A certificate of each: identity, days until it ends, and how far it came. */
async function ledgerOf(rows: readonly (readonly [identity: string, days: number, state?: "intended" | "ca"])[]): Promise<SqlEngine> {
  const engine = openSqlite(":memory:");
  await engine.migrate(ledgerMigrations);
  await engine.transaction(async (transaction) => {
    for (const [index, [identity, days, state]] of rows.entries()) {
      const serial = index.toString(16).padStart(4, "0");
      await transaction.run(
        "INSERT INTO certificate (serial_number, issuer_key_id, crl_name, identity, role, spki_fingerprint, tbs_digest, not_before, not_after, state) VALUES (?, 'aa', 'leaf-0', ?, ?, ?, 'bb', 0, ?, 'intended')",
        serial, identity, state === "ca" ? "ca" : "client", serial, at(days).getTime(),
      );
      if (state !== "intended") await transaction.run("UPDATE certificate SET state = 'issued', certificate = x'00' WHERE serial_number = ?", serial);
    }
  });
  return engine;
}

test("counts of certificates follow each change of state and the clock, and leave out CAs and what was never issued", async () => {
  const engine = await ledgerOf([["root", 900, "ca"], ["a", 30], ["a", 6], ["b", 0.25], ["b", -0.25], ["c", -3], ["d", 20], ["e", 5, "intended"]]);
  const counts = (when: Date) => engine.read((reads) => countCertificates(reads, when));
  expect(await counts(now)).toEqual({ valid: 4, expiring: 2, revoked: 0, expired: 2 });
  await engine.transaction((transaction) => revoke(transaction, { identity: "a" }, "keyCompromise", now));
  await engine.transaction((transaction) => revoke(transaction, { identity: "a" }, "superseded", now));
  await engine.transaction((transaction) => revoke(transaction, { identity: "e" }, "superseded", now));
  await engine.transaction((transaction) => abandonIntents(transaction));
  expect(await counts(now)).toEqual({ valid: 2, expiring: 1, revoked: 2, expired: 2 });
  expect(await counts(at(1))).toEqual({ valid: 1, expiring: 0, revoked: 2, expired: 3 });
  expect((await engine.read((reads) => lastRevocations(reads, 10))).map(({ identity, reason }) => [identity, reason])).toEqual([["a", "keyCompromise"], ["a", "keyCompromise"]]);
  await engine.close();
});

test("what ends next comes first, with whether a later certificate of the same identity and role stands", async () => {
  const engine = await ledgerOf([["gone", -1], ["late", 9], ["renewed", 1], ["alone", 2], ["renewed", 31], ["tried", 3], ["tried", 33, "intended"]]);
  const next = await engine.read((reads) => nextToExpire(reads, now, 4));
  expect(next.map(({ identity, renewed }) => [identity, renewed])).toEqual([["renewed", true], ["alone", false], ["tried", false], ["late", false]]);
  await engine.close();
});
