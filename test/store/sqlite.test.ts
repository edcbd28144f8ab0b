import { mkdirSync, readFileSync, truncateSync, writeFileSync } from "node:fs";
import path from "node:path";
import { DatabaseSync } from "node:sqlite";
import { pathToFileURL } from "node:url";
import { describe, expect, test } from "vitest";
import type { SqlEngine } from "#store/engine.ts";
import { openSqlite } from "#store/sqlite.ts";
import { temporaryDirectory } from "#test/support/temporary-directory.ts";

const auditMigrations = new URL("../../store/migrations/", import.meta.url);

async function withTable(engine: SqlEngine): Promise<SqlEngine> {
  await engine.transaction((t) => t.run("CREATE TABLE item (id INTEGER PRIMARY KEY, word TEXT NOT NULL UNIQUE) STRICT"));
  return engine;
}

const words = async (engine: SqlEngine) => (await engine.read((t) => t.all("SELECT word FROM item ORDER BY id"))).map((row) => row["word"]);
const insert = (engine: SqlEngine, word: string) => engine.transaction((t) => t.run("INSERT INTO item (word) VALUES (?)", word));

describe.each(["file", ":memory:"])("on %s", (kind) => {
  const open = () => openSqlite(kind === "file" ? path.join(temporaryDirectory(), "test.sqlite") : ":memory:");

  test("a unit of work that throws is rolled back alone while its neighbours in the same batch commit", async () => {
    const engine = await withTable(open());
    const results = await Promise.allSettled([
      insert(engine, "before"),
      engine.transaction(async (t) => {
        await t.run("INSERT INTO item (word) VALUES ('undone')");
        throw new Error("on purpose");
      }),
      engine.transaction(async (t) => {
        await t.run("INSERT INTO item (word) VALUES ('undone too')");
        await t.run("INSERT INTO item (word) VALUES ('before')");
      }),
      insert(engine, "after"),
    ]);
    expect(results.map((result) => result.status)).toEqual(["fulfilled", "rejected", "rejected", "fulfilled"]);
    expect(await words(engine)).toEqual(["before", "after"]);
    await engine.close();
  });

  test("concurrent units never see each other's half-done work", async () => {
    const engine = await withTable(open());
    await insert(engine, "0");
    // Each unit reads, gives way several times, then writes what it read plus one: any interleaving loses an increment.
    await Promise.all(
      Array.from({ length: 200 }, () =>
        engine.transaction(async (t) => {
          const row = await t.get("SELECT word FROM item WHERE id = 1");
          for (let turn = 0; turn < 5; turn++) await t.get("SELECT 1");
          await t.run("UPDATE item SET word = ? WHERE id = 1", String(Number(row?.["word"]) + 1));
        }),
      ),
    );
    expect(await words(engine)).toEqual(["200"]);
    await engine.close();
  });

  test("a statement that was not awaited cannot land in a later unit", async () => {
    const engine = await withTable(open());
    const leaked = await engine.transaction(async (t) => ({ t }));
    await expect(leaked.t.run("INSERT INTO item (word) VALUES ('late')")).rejects.toMatchObject({ code: "internal" });
    expect(await words(engine)).toEqual([]);
    await engine.close();
  });

  test("close waits for the units in flight, and refuses later ones", async () => {
    const engine = await withTable(open());
    const acknowledged = insert(engine, "in time");
    const closing = engine.close();
    await expect(insert(engine, "too late")).rejects.toMatchObject({ code: "storage-unavailable" });
    await closing;
    expect(await acknowledged).toEqual({ changes: 1 });
  });
});

test("a read sees everything acknowledged and nothing in flight", async () => {
  const engine = await withTable(openSqlite(path.join(temporaryDirectory(), "test.sqlite")));
  let release = () => {};
  const gate = new Promise<void>((resolve) => (release = resolve));
  let inside = () => {};
  const written = new Promise<void>((resolve) => (inside = resolve));
  const unit = engine.transaction(async (t) => {
    await t.run("INSERT INTO item (word) VALUES ('half done')");
    inside();
    await gate;
  });
  await written;
  expect(await words(engine)).toEqual([]);
  release();
  await unit;
  expect(await words(engine)).toEqual(["half done"]);
  await engine.close();
});

test("the reading connection cannot write", async () => {
  const engine = await withTable(openSqlite(path.join(temporaryDirectory(), "test.sqlite")));
  await expect(engine.read((t) => t.all("DELETE FROM item RETURNING id"))).rejects.toMatchObject({ code: "storage-unavailable" });
  await engine.close();
});

test("what was acknowledged is there after the database is opened again", async () => {
  const file = path.join(temporaryDirectory(), "test.sqlite");
  const first = await withTable(openSqlite(file));
  await first.migrate(auditMigrations);
  await insert(first, "kept");
  await first.close();
  const second = openSqlite(file, { mode: "existing" });
  expect(await words(second)).toEqual(["kept"]);
  await second.close();
});

describe("a damaged database is named corrupt and left as it was", () => {
  async function filled(): Promise<string> {
    const file = path.join(temporaryDirectory(), "test.sqlite");
    const engine = await withTable(openSqlite(file));
    await engine.migrate(auditMigrations);
    for (let n = 0; n < 200; n++) void insert(engine, `${n}`.padStart(200, "x"));
    await engine.close();
    return file;
  }

  test.each<[string, (file: string) => void]>([
    ["another kind of file", (file) => writeFileSync(file, "this is no database, and long enough to be looked at. ".repeat(100))],
    ["a header overwritten", (file) => writeFileSync(file, Buffer.concat([Buffer.alloc(64, 0xff), readFileSync(file).subarray(64)]))],
    ["cut in the middle of a page", (file) => truncateSync(file, 10_000)],
    ["pages overwritten with noise", (file) => writeFileSync(file, Buffer.concat([readFileSync(file).subarray(0, 8192), Buffer.alloc(20_000, 0xa5)]))],
    ["cut to nothing", (file) => truncateSync(file, 0)],
  ])("%s", async (_, damage) => {
    const file = await filled();
    damage(file);
    const before = readFileSync(file);
    expect(() => openSqlite(file, { mode: "existing" })).toThrow(expect.objectContaining({ code: "data-directory-corrupt" }));
    expect(readFileSync(file).equals(before)).toBe(true);
  });

  test("a database of another program", () => {
    const file = path.join(temporaryDirectory(), "notes.sqlite");
    const theirs = new DatabaseSync(file);
    theirs.exec("CREATE TABLE note (text TEXT); INSERT INTO note VALUES ('mine')");
    theirs.close();
    const before = readFileSync(file);
    expect(() => openSqlite(file, { mode: "existing" })).toThrow(expect.objectContaining({ code: "data-directory-corrupt" }));
    expect(readFileSync(file).equals(before)).toBe(true);
  });

  test("missing where it should exist", () => {
    expect(() => openSqlite(path.join(temporaryDirectory(), "none.sqlite"), { mode: "existing" })).toThrow(
      expect.objectContaining({ code: "data-directory-corrupt" }),
    );
  });
});

describe("migrations", () => {
  function migrations(files: Record<string, string>): URL {
    const folder = path.join(temporaryDirectory(), "part", "migrations");
    mkdirSync(folder, { recursive: true });
    for (const [name, sql] of Object.entries(files)) writeFileSync(path.join(folder, name), sql);
    return pathToFileURL(`${folder}/`);
  }
  const first = { "0001-item.sql": "CREATE TABLE item (id INTEGER PRIMARY KEY, word TEXT) STRICT;" };
  const second = { ...first, "0002-colour.sql": "ALTER TABLE item ADD COLUMN colour TEXT; INSERT INTO item (word) VALUES ('added once');" };

  test("are applied in order and once each", async () => {
    const engine = openSqlite(":memory:");
    await engine.migrate(migrations(first));
    await engine.migrate(migrations(second));
    await engine.migrate(migrations(second));
    expect(await words(engine)).toEqual(["added once"]);
    await engine.close();
  });

  test("one that fails leaves no trace", async () => {
    const engine = openSqlite(":memory:");
    await expect(engine.migrate(migrations({ ...first, "0002-broken.sql": "CREATE TABLE other (id); nonsense;" }))).rejects.toThrow();
    await engine.migrate(migrations(second));
    expect(await words(engine)).toEqual(["added once"]);
    await engine.close();
  });

  test("a database that knows more migrations than the code is newer and is left alone", async () => {
    const engine = openSqlite(":memory:");
    await engine.migrate(migrations(second));
    await expect(engine.migrate(migrations(first))).rejects.toMatchObject({ code: "data-directory-newer" });
    await engine.close();
  });
});
