import { expect, test } from "vitest";
import { systemClock } from "#pki/clock.ts";
import { AuditLog } from "#store/audit-log.ts";
import { openSqlite } from "#store/sqlite.ts";

async function logOf(count: number) {
  const engine = openSqlite(":memory:");
  const log = await AuditLog.open(engine, systemClock);
  for (let n = 1; n <= count; n++)
    await engine.transaction((t) => log.append(t, { action: "test.done", actor: "spiffe://signet.internal/service/ca", subject: `thing ${n}`, details: { n } }));
  return { engine, log };
}

test("records are numbered from 1 without gaps, although units between them failed", async () => {
  const { engine, log } = await logOf(2);
  await engine
    .transaction(async (t) => {
      await log.append(t, { action: "test.undone", actor: "a", subject: "b" });
      throw new Error("on purpose");
    })
    .catch(() => {});
  await engine.transaction((t) => log.append(t, { action: "test.done", actor: "a", subject: "thing 3" }));
  const records = await engine.read((t) => log.entries(t, 0, 10));
  expect(records.map((record) => [record.sequence, record.subject])).toEqual([[1, "thing 1"], [2, "thing 2"], [3, "thing 3"]]);
  const head = await engine.read((t) => log.verify(t));
  expect(head).toEqual({ sequence: 3, hash: records[2]?.hash });
});

test.each([
  ["a changed record", "UPDATE audit_record SET record = replace(record, 'thing 2', 'thing 9') WHERE sequence = 2"],
  ["a record that is missing", "DELETE FROM audit_record WHERE sequence = 2"],
  ["a record whose hash was made anew", "UPDATE audit_record SET hash = zeroblob(32) WHERE sequence = 5"],
  ["a first record that is missing", "DELETE FROM audit_record WHERE sequence = 1"],
  ["records that changed places", "UPDATE audit_record SET record = CASE sequence WHEN 2 THEN (SELECT record FROM audit_record WHERE sequence = 3) ELSE (SELECT record FROM audit_record WHERE sequence = 2) END WHERE sequence IN (2, 3)"],
  ["a record that is no JSON", "UPDATE audit_record SET record = '{' WHERE sequence = 4"],
])("%s breaks the chain", async (_, tampering) => {
  const { engine, log } = await logOf(5);
  await engine.transaction((t) => t.run(tampering));
  await expect(engine.read((t) => log.verify(t))).rejects.toMatchObject({ code: "data-directory-corrupt" });
});

test("whoever kept a head notices that the log was cut shorter or written anew", async () => {
  const { engine, log } = await logOf(5);
  const seen = await engine.read((t) => log.head(t));
  expect(await engine.read((t) => log.verify(t, seen))).toEqual(seen);
  await engine.transaction((t) => t.run("DELETE FROM audit_record WHERE sequence > 3"));
  expect(await engine.read((t) => log.verify(t))).toMatchObject({ sequence: 3 });
  await expect(engine.read((t) => log.verify(t, seen))).rejects.toMatchObject({ code: "data-directory-corrupt" });
  for (const n of [4, 5]) await engine.transaction((t) => log.append(t, { action: "test.other", actor: "a", subject: `${n}` }));
  await expect(engine.read((t) => log.verify(t, seen))).rejects.toMatchObject({ code: "data-directory-corrupt", details: { sequence: 5 } });
});
