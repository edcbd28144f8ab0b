import { closeSync, existsSync, openSync, readFileSync, readdirSync, statSync } from "node:fs";
import path from "node:path";
import { DatabaseSync, type SQLInputValue, type StatementSync } from "node:sqlite";
import { fileURLToPath } from "node:url";
import { SignetError } from "#pki/errors.ts";
import type { SqlEngine, SqlRow, SqlTransaction, SqlValue } from "./engine.ts";

/** SQLite primary result codes (sqlite.org/rescode.html). The low byte of an extended code is its primary code. */
const sqliteResult = { busy: 5, readOnly: 8, ioError: 10, corrupt: 11, full: 13, cannotOpen: 14, notADatabase: 26 } as const;

export interface SqliteOptions {
  /** `existing` refuses a file that is absent or holds no migrated schema: what was there once has been lost. Default `create`. */
  readonly mode?: "create" | "existing";
}

/**
 * The embedded engine: one writing connection in WAL mode with synchronous=FULL, and a read-only one for `read`.
 *
 * Units of work wait in one queue. A batch opens with BEGIN IMMEDIATE, runs each waiting unit in a savepoint of its own,
 * one after another, and commits once: a single fsync acknowledges them all, and a unit that throws is rolled back alone.
 * The next batch begins when that commit has returned, never on a timer. `:memory:` keeps everything in this process and
 * reads through the queue; it is for tests.
 *
 * @throws SignetError data-directory-corrupt, storage-unavailable
 */
export function openSqlite(file: string, options: SqliteOptions = {}): SqlEngine {
  const inMemory = file === ":memory:";
  const existing = options.mode === "existing" && !inMemory;
  if (existing) requireDatabaseFile(file);
  return guarded(file, () => {
    // Owner-only from its first byte; SQLite gives the -wal and -shm files the same mode.
    if (!inMemory) makeOwnerOnly(file);
    const writer = new DatabaseSync(file, { timeout: 5000, enableForeignKeyConstraints: true });
    try {
      // Before anything is written: a database of somebody else's is not migrated, and one that lost its tables does not begin anew.
      if (existing && writer.prepare("SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = 'schema_migration'").get() === undefined)
        throw new SignetError("data-directory-corrupt", `${file} does not hold what this service keeps there. Nothing was changed.`);
      writer.exec("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA trusted_schema = OFF; PRAGMA secure_delete = ON");
      const check = writer.prepare("PRAGMA quick_check(1)").get();
      if (check?.["quick_check"] !== "ok") throw corrupt(file);
      const reader = inMemory ? undefined : new DatabaseSync(file, { readOnly: true, timeout: 5000 });
      return new Sqlite(file, writer, reader);
    } catch (error) {
      writer.close();
      throw error;
    }
  });
}

interface WaitingUnit {
  /** Runs the unit and returns how to settle its promise once the batch's fate is known. */
  readonly run: (database: Connection) => Promise<() => void>;
  readonly reject: (reason: unknown) => void;
}

class Sqlite implements SqlEngine {
  readonly dialect = "sqlite";
  readonly #file: string;
  readonly #writer: Connection;
  readonly #reader: Connection | undefined;
  #waiting: WaitingUnit[] = [];
  #batch: Promise<void> | undefined;
  #lastRead: Promise<unknown> = Promise.resolve();
  #closed = false;

  constructor(file: string, writer: DatabaseSync, reader: DatabaseSync | undefined) {
    this.#file = file;
    this.#writer = new Connection(file, writer);
    this.#reader = reader === undefined ? undefined : new Connection(file, reader);
  }

  transaction<T>(work: (transaction: SqlTransaction) => Promise<T>): Promise<T> {
    return this.#enqueue((database) => inUnit(database, work));
  }

  read<T>(work: (transaction: Pick<SqlTransaction, "get" | "all">) => Promise<T>): Promise<T> {
    const reader = this.#reader;
    if (reader === undefined) return this.transaction(work);
    if (this.#closed) return Promise.reject(closedError());
    // Reads share one connection, so they take turns: each sees one snapshot, taken after all that was acknowledged before it.
    const turn = this.#lastRead.then(async () => {
      reader.run("BEGIN");
      try {
        return await inUnit(reader, work);
      } finally {
        reader.run("COMMIT");
      }
    });
    this.#lastRead = turn.catch(() => {});
    return turn;
  }

  async migrate(directory: URL): Promise<void> {
    const folder = fileURLToPath(directory);
    const component = path.basename(path.dirname(folder));
    const files = readdirSync(folder).filter((name) => /^\d{4}-.+\.sql$/.test(name)).sort();
    await this.#enqueue(async (database) => {
      database.exec(
        "CREATE TABLE IF NOT EXISTS schema_migration (component TEXT NOT NULL, name TEXT NOT NULL, PRIMARY KEY (component, name)) STRICT",
      );
      const applied = database
        .all("SELECT name FROM schema_migration WHERE component = ? ORDER BY name", [component])
        .map((row) => String(row["name"]));
      const unknown = applied.find((name, index) => files[index] !== name);
      if (unknown !== undefined)
        throw new SignetError("data-directory-newer", `${this.#file} was written by another version of Signet: it has the migration ${unknown}.`);
      for (const name of files.slice(applied.length)) {
        database.exec(readFileSync(path.join(folder, name), "utf8"));
        database.run("INSERT INTO schema_migration (component, name) VALUES (?, ?)", [component, name]);
      }
    });
  }

  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    while (this.#batch !== undefined) await this.#batch;
    await this.#lastRead;
    this.#reader?.close();
    this.#writer.close();
  }

  #enqueue<T>(work: (database: Connection) => Promise<T>): Promise<T> {
    if (this.#closed) return Promise.reject(closedError());
    return new Promise<T>((resolve, reject) => {
      this.#waiting.push({
        reject,
        run: async (database) => {
          const result = await work(database);
          return () => resolve(result);
        },
      });
      this.#batch ??= this.#runBatches();
    });
  }

  async #runBatches(): Promise<void> {
    while (this.#waiting.length > 0) {
      // One turn of the event loop gathers the requests that are ready: they share the commit.
      await new Promise((resolve) => setImmediate(resolve));
      const units = this.#waiting;
      this.#waiting = [];
      await this.#runBatch(units);
    }
    this.#batch = undefined;
  }

  async #runBatch(units: readonly WaitingUnit[]): Promise<void> {
    const settle: (() => void)[] = [];
    try {
      this.#writer.run("BEGIN IMMEDIATE");
      for (const unit of units) {
        this.#writer.run("SAVEPOINT unit");
        try {
          settle.push(await unit.run(this.#writer));
        } catch (error) {
          // A full disk or an I/O error makes SQLite roll the whole transaction back: then no unit of it has happened.
          if (!this.#writer.inTransaction) throw error;
          this.#writer.run("ROLLBACK TO unit");
          settle.push(() => unit.reject(error));
        }
        this.#writer.run("RELEASE unit");
      }
      this.#writer.run("COMMIT");
    } catch (error) {
      if (this.#writer.inTransaction) this.#writer.run("ROLLBACK");
      for (const unit of units) unit.reject(error);
      return;
    }
    // Nobody hears of an outcome, not even of a refusal that a neighbour's row caused, before the commit is durable.
    for (const tell of settle) tell();
  }
}

/** Runs `work` with a handle that dies with the unit, so that a statement that was not awaited cannot land in another one. */
async function inUnit<T>(database: Connection, work: (transaction: SqlTransaction) => Promise<T>): Promise<T> {
  let ended = false;
  const alive = () => {
    if (ended) throw new SignetError("internal", "A statement was issued after its unit of work had ended.");
    return database;
  };
  const transaction: SqlTransaction = {
    run: async (sql, ...parameters) => alive().run(sql, parameters),
    get: async (sql, ...parameters) => alive().get(sql, parameters),
    all: async (sql, ...parameters) => alive().all(sql, parameters),
  };
  try {
    return await work(transaction);
  } finally {
    ended = true;
  }
}

/** One connection with its prepared statements; every failure leaves as a SignetError where SQLite's code has a meaning. */
class Connection {
  readonly #file: string;
  readonly #database: DatabaseSync;
  readonly #statements = new Map<string, StatementSync>();

  constructor(file: string, database: DatabaseSync) {
    this.#file = file;
    this.#database = database;
  }

  get inTransaction(): boolean {
    return this.#database.isTransaction;
  }

  exec(sql: string): void {
    guarded(this.#file, () => this.#database.exec(sql));
  }

  run(sql: string, parameters: readonly SqlValue[] = []): { readonly changes: number } {
    return guarded(this.#file, () => ({ changes: Number(this.#prepared(sql).run(...(parameters as readonly SQLInputValue[])).changes) }));
  }

  get(sql: string, parameters: readonly SqlValue[]): SqlRow | undefined {
    return guarded(this.#file, () => this.#prepared(sql).get(...(parameters as readonly SQLInputValue[])));
  }

  all(sql: string, parameters: readonly SqlValue[]): readonly SqlRow[] {
    return guarded(this.#file, () => this.#prepared(sql).all(...(parameters as readonly SQLInputValue[])));
  }

  close(): void {
    this.#statements.clear();
    this.#database.close();
  }

  #prepared(sql: string): StatementSync {
    let statement = this.#statements.get(sql);
    if (statement === undefined) {
      statement = this.#database.prepare(sql);
      this.#statements.set(sql, statement);
    }
    return statement;
  }
}

function requireDatabaseFile(file: string): void {
  if (!existsSync(file)) throw new SignetError("data-directory-corrupt", `${file} is missing. Nothing was changed.`);
  if (statSync(file).size === 0) throw new SignetError("data-directory-corrupt", `${file} is empty. Nothing was changed.`);
}

function makeOwnerOnly(file: string): void {
  try {
    closeSync(openSync(file, "a", 0o600));
  } catch (cause) {
    throw new SignetError("storage-unavailable", `${file} cannot be opened for writing: ${cause instanceof Error && "code" in cause ? String(cause.code) : "unknown error"}.`, { cause });
  }
}

function guarded<T>(file: string, work: () => T): T {
  try {
    return work();
  } catch (error) {
    if (error instanceof SignetError || !(error instanceof Error) || !("errcode" in error)) throw error;
    const primary = Number(error.errcode) & 0xff;
    if (primary === sqliteResult.corrupt || primary === sqliteResult.notADatabase) throw corrupt(file, error);
    if ([sqliteResult.busy, sqliteResult.readOnly, sqliteResult.ioError, sqliteResult.full, sqliteResult.cannotOpen].some((code) => code === primary))
      throw new SignetError("storage-unavailable", `${file}: ${error.message}.`, { cause: error });
    throw error;
  }
}

function corrupt(file: string, cause?: unknown): SignetError {
  return new SignetError("data-directory-corrupt", `${file} is damaged or not a database. It was left alone.`, { cause });
}

function closedError(): SignetError {
  return new SignetError("storage-unavailable", "The store is closed.");
}
