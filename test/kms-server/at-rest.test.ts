import { copyFileSync, readFileSync } from "node:fs";
import path from "node:path";
import { DatabaseSync, type SQLInputValue } from "node:sqlite";
import { describe, expect, test } from "vitest";
import { KeyWrap } from "#kms-server/key-wrap.ts";
import { keyStates } from "#kms-server/key-state.ts";
import { SecretKey } from "#pki/keys.ts";
import { temporaryDirectory } from "#test/support/temporary-directory.ts";
import { callBy, materialOf, openKeyService, testPeer, trustDomain } from "./fixture.ts";

const unsealKey = SecretKey.random(32);
const corrupt = expect.objectContaining({ code: "data-directory-corrupt" });

describe("wrapped material", () => {
  const wrap = new KeyWrap(unsealKey);
  const binding = { keyId: "00112233445566778899aabbccddeeff", version: 1, state: "active" } as const;
  const material = SecretKey.random(32).reveal("local-use");
  const wrapped = wrap.wrap(material, binding);

  test("opens for its own key, version and state, and for no other", () => {
    expect(Buffer.from(wrap.unwrap(wrapped, binding)).equals(material)).toBe(true);
    for (const other of [
      { ...binding, keyId: "00112233445566778899aabbccddeefe" },
      { ...binding, version: 2 },
      ...keyStates.filter((state) => state !== "active").map((state) => ({ ...binding, state })),
    ]) expect(() => wrap.unwrap(wrapped, other)).toThrow(corrupt);
    expect(() => new KeyWrap(SecretKey.random(32)).unwrap(wrapped, binding)).toThrow(corrupt);
  });

  test("does not open in its old state once it was rewrapped for a new one", () => {
    const rewrapped = wrap.rewrap(wrapped, binding, "compromised");
    expect(() => wrap.unwrap(rewrapped, binding)).toThrow(corrupt);
    expect(Buffer.from(wrap.unwrap(rewrapped, { ...binding, state: "compromised" })).equals(material)).toBe(true);
  });
});

/** A database with an active key `live` (two versions, reader Bob), a key `other`, and a revoked key `gone`; `before` is its copy from before the last changes. */
async function seeded() {
  const directory = temporaryDirectory();
  const alice = await testPeer("agent", "alice");
  const bob = await testPeer("agent", "bob");
  const first = await openKeyService(directory, unsealKey);
  await first.service.create(callBy(alice), { name: "live", readers: [bob.identity.uri] });
  await first.service.create(callBy(alice), { name: "other" });
  await first.service.create(callBy(alice), { name: "gone" });
  await first.close();
  const before = path.join(directory, "before.sqlite");
  copyFileSync(first.file, before);
  const second = await openKeyService(directory, unsealKey);
  await second.service.rotate(callBy(alice), "live");
  await second.service.revoke(callBy(alice), "gone", "keyCompromise");
  await second.close();
  return { directory, file: second.file, before, alice, bob };
}

function tamper(file: string, before: string, sql: string, ...values: SQLInputValue[]): void {
  const database = new DatabaseSync(file, { enableForeignKeyConstraints: false });
  database.exec(`ATTACH '${before}' AS earlier`);
  if (values.length > 0) database.prepare(sql).run(...values);
  else database.exec(sql);
  database.close();
}

const mallory = `spiffe://${trustDomain}/agent/mallory`;
const idOf = (name: string) => `(SELECT id FROM key_record WHERE name = '${name}')`;
const rollBack = (name: string, table: string, key: string) =>
  `DELETE FROM ${table} WHERE ${key} = ${idOf(name)}; INSERT INTO ${table} SELECT * FROM earlier.${table} WHERE ${key} = (SELECT id FROM earlier.key_record WHERE name = '${name}');`;
const wholeKey = (name: string) => `PRAGMA defer_foreign_keys = ON; ${rollBack(name, "key_version", "key_id")} ${rollBack(name, "key_reader", "key_id")} ${rollBack(name, "key_record", "id")}`;

test.each<[string, string]>([
  ["wrapped octets of another key", `UPDATE key_version SET wrapped = (SELECT wrapped FROM key_version WHERE key_id = ${idOf("other")}) WHERE key_id = ${idOf("live")} AND version = 2`],
  ["wrapped octets of another version", `UPDATE key_version SET wrapped = (SELECT wrapped FROM key_version WHERE key_id = ${idOf("live")} AND version = 1) WHERE key_id = ${idOf("live")} AND version = 2`],
  ["wrapped octets made up", `UPDATE key_version SET wrapped = randomblob(60) WHERE key_id = ${idOf("live")}`],
  ["a state set back by name alone", `UPDATE key_version SET state = 'active' WHERE key_id = ${idOf("gone")}`],
  ["the version row of a revoked key, put back whole", rollBack("gone", "key_version", "key_id")],
  ["a revoked key with all its rows, put back whole", wholeKey("gone")],
  ["a rotated key with all its rows, put back whole", wholeKey("live")],
  ["wrapped octets taken away", `UPDATE key_version SET wrapped = NULL WHERE key_id = ${idOf("live")} AND version = 1`],
  ["a version taken away", `DELETE FROM key_version WHERE key_id = ${idOf("live")} AND version = 2`],
  ["a key taken away", `DELETE FROM key_version WHERE key_id = ${idOf("gone")}; DELETE FROM key_record WHERE name = 'gone'`],
  ["a reader added", `INSERT INTO key_reader (principal, key_id) VALUES ('${mallory}', ${idOf("live")})`],
  ["an owner changed", `UPDATE key_record SET owner = '${mallory}' WHERE name = 'live'`],
  ["two names swapped", "UPDATE key_record SET name = 'x' WHERE name = 'live'; UPDATE key_record SET name = 'live' WHERE name = 'other'; UPDATE key_record SET name = 'other' WHERE name = 'x'"],
  ["an algorithm allowed", `UPDATE key_record SET algorithms = '["AES-256-CBC-PKCS7","AES-256-GCM"]' WHERE name = 'live'`],
  ["the inventory taken away", "DELETE FROM inventory"],
  ["the inventory of an earlier time", "UPDATE inventory SET sealed = (SELECT sealed FROM earlier.inventory)"],
  ["a state nobody knows", `UPDATE key_version SET state = 'fine' WHERE key_id = ${idOf("live")}`],
])("a database with %s is refused at the start", async (_title, sql) => {
  const { directory, file, before } = await seeded();
  tamper(file, before, sql);
  await expect(openKeyService(directory, unsealKey)).rejects.toThrow(corrupt);
});

test("a database that nobody touched opens, and serves what it served", async () => {
  const { directory, alice, bob } = await seeded();
  const { service, close } = await openKeyService(directory, unsealKey);
  expect(await materialOf(service, bob, "live")).toEqual(await materialOf(service, alice, "live", 2));
  await expect(materialOf(service, alice, "gone")).rejects.toMatchObject({ code: "state-conflict" });
  await close();
});

test("another unseal key opens nothing", async () => {
  const { directory } = await seeded();
  await expect(openKeyService(directory, SecretKey.random(32))).rejects.toMatchObject({ code: "unseal-failed" });
});

test("a row changed under the running service is noticed by the next change of that key, and takes no effect", async () => {
  const { directory, file, before, alice } = await seeded();
  const { service, close } = await openKeyService(directory, unsealKey);
  const thief = await testPeer("agent", "mallory");
  tamper(file, before, `UPDATE key_record SET owner = '${mallory}' WHERE name = 'live'`);
  await expect(service.rotate(callBy(thief), "live")).rejects.toThrow(corrupt);
  await expect(materialOf(service, thief, "live")).rejects.toMatchObject({ code: "not-permitted" });
  tamper(file, before, wholeKey("gone"));
  await expect(service.rotate(callBy(alice), "gone")).rejects.toThrow(corrupt);
  tamper(file, before, "DELETE FROM key_version WHERE key_id = (SELECT id FROM key_record WHERE name = 'other'); DELETE FROM key_record WHERE name = 'other'");
  await expect(service.create(callBy(thief), { name: "other" })).rejects.toThrow(corrupt);
  await close();
});

test("destroying a key leaves no octet of its wrapped material in its row, and the key material was never in the database in clear", async () => {
  const directory = temporaryDirectory();
  const alice = await testPeer("agent", "alice");
  const canary = SecretKey.random(32).reveal("local-use");
  const { service, engine, file, close } = await openKeyService(directory, unsealKey);
  await service.create(callBy(alice), { name: "canary", material: Uint8Array.from(canary) });
  const wrapped = (await engine.read((tx) => tx.get("SELECT wrapped FROM key_version")))?.["wrapped"] as Uint8Array;
  expect(wrapped.length).toBe(60);
  const database = () => Buffer.concat([readFileSync(file), readFileSync(`${file}-wal`)]);
  expect(database().includes(wrapped)).toBe(true);
  for (const form of [canary, Buffer.from(canary).toString("hex"), Buffer.from(canary).toString("base64")]) expect(database().includes(form)).toBe(false);
  await service.revoke(callBy(alice), "canary", "keyCompromise");
  await service.destroy(callBy(alice), "canary", "canary");
  expect(await engine.read((tx) => tx.get("SELECT wrapped, state FROM key_version"))).toEqual({ wrapped: null, state: "destroyed" });
  await close();
  const left = readFileSync(file);
  expect(left.includes(wrapped)).toBe(false);
  for (const form of [canary, Buffer.from(canary).toString("hex"), Buffer.from(canary).toString("base64")]) expect(left.includes(form)).toBe(false);
});
