import { SignetError } from "#pki/errors.ts";
import { equalInConstantTime } from "#pki/keys.ts";
import type { KeyAlgorithm, KeyRevocationReason } from "#pki/protocol-kms.ts";
import type { SqlEngine, SqlRow, SqlTransaction } from "#store/engine.ts";
import type { KeyPolicy } from "./key-policy.ts";
import { isKeyState, type KeyState } from "./key-state.ts";
import { inventoryLength, type KeyWrap } from "./key-wrap.ts";

/** One version of a key. `wrapped` is null once it is destroyed; times are milliseconds since 1970. */
export interface KeyVersionRecord {
  readonly version: number;
  readonly state: KeyState;
  readonly origin: "generated" | "imported";
  readonly createdAt: number;
  readonly stateChangedAt: number;
  readonly revocationReason: KeyRevocationReason | null;
  readonly wrapped: Uint8Array | null;
}

/** A key with its policy and its versions, in ascending order and never empty. Never changed in place: a change makes a new record with a higher revision. */
export interface KeyRecord extends KeyPolicy {
  /** 16 random octets in hex. */
  readonly id: string;
  readonly name: string;
  readonly algorithms: readonly KeyAlgorithm[];
  readonly createdAt: number;
  readonly revision: number;
  readonly versions: readonly KeyVersionRecord[];
}

/**
 * The keys in SQL, and an index of all of them in memory. Policy, state and wrapped material are served from the index;
 * plaintext is never in it. Changes are computed from the rows inside their transaction, and enter the index when that has committed:
 * {@link publish} keeps the higher revision, in whatever order the callers wake up.
 */
export class KeyStore {
  readonly #engine: SqlEngine;
  readonly #wrap: KeyWrap;
  readonly #byName = new Map<string, KeyRecord>();
  readonly #byId = new Map<string, KeyRecord>();
  readonly #listeners = new Set<(before: KeyRecord | undefined, after: KeyRecord) => void>();
  /** Keys by the state of their latest version, kept with the index. */
  readonly #states = new Map<KeyState, number>();

  private constructor(engine: SqlEngine, wrap: KeyWrap) {
    this.#engine = engine;
    this.#wrap = wrap;
  }

  /**
   * Reads every row and holds it against the sealed inventory before anything is served.
   * @throws SignetError unseal-failed: another unseal key
   * @throws SignetError data-directory-corrupt: a row was added, removed, changed or put back from an earlier time
   */
  static async open(engine: SqlEngine, wrap: KeyWrap): Promise<KeyStore> {
    const store = new KeyStore(engine, wrap);
    await engine.transaction(async (tx) => {
      const inventory = await store.#readInventory(tx);
      for (const row of await tx.all("SELECT * FROM key_record")) {
        const record = await store.#readRecord(tx, row);
        mix(inventory, wrap.inventoryTag(recordText(record)));
        store.publish(record);
      }
      const strays = await tx.get("SELECT (SELECT COUNT(*) FROM key_version WHERE key_id NOT IN (SELECT id FROM key_record)) + (SELECT COUNT(*) FROM key_reader WHERE key_id NOT IN (SELECT id FROM key_record)) AS n");
      if (Number(strays?.["n"]) !== 0 || inventory.some((octet) => octet !== 0)) throw corrupt();
    });
    return store;
  }

  get size(): number {
    return this.#byId.size;
  }

  /** A key as last committed. */
  find(name: string): KeyRecord | undefined {
    return this.#byName.get(name);
  }

  findById(id: string): KeyRecord | undefined {
    return this.#byId.get(id);
  }

  /** Enters a committed record into the index, unless a later one is there already, and tells of it. */
  publish(record: KeyRecord): void {
    const before = this.#byId.get(record.id);
    if ((before?.revision ?? -1) >= record.revision) return;
    if (before !== undefined) this.#countState(before, -1);
    this.#countState(record, 1);
    this.#byName.set(record.name, record);
    this.#byId.set(record.id, record);
    for (const listener of this.#listeners) listener(before, record);
  }

  /** Tells of each change that is in force, with the record before. Listeners do not throw. @returns ends it */
  onPublished(listener: (before: KeyRecord | undefined, after: KeyRecord) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** Keys by the state of their latest version. */
  get states(): Readonly<Partial<Record<KeyState, number>>> {
    return Object.fromEntries([...this.#states].filter(([, count]) => count > 0));
  }

  #countState(record: KeyRecord, change: 1 | -1): void {
    const state = record.versions.at(-1)?.state;
    if (state !== undefined) this.#states.set(state, (this.#states.get(state) ?? 0) + change);
  }

  /**
   * A key as this transaction sees it.
   * @throws SignetError data-directory-corrupt when somebody else changed it, removed it or put it back since it was read or written here
   */
  async load(tx: SqlTransaction, name: string): Promise<KeyRecord | undefined> {
    const known = this.#byName.get(name);
    const row = await tx.get("SELECT * FROM key_record WHERE name = ?", name);
    if (row === undefined) {
      if (known !== undefined) throw corrupt();
      return undefined;
    }
    const record = await this.#readRecord(tx, row);
    if (known !== undefined && (known.id !== record.id || known.revision > record.revision)) throw corrupt();
    return record;
  }

  async insert(tx: SqlTransaction, record: KeyRecord): Promise<void> {
    await tx.run(
      "INSERT INTO key_record (id, name, spec, algorithms, owner, created_at, revision, tag) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
      record.id, record.name, "aes-256", JSON.stringify(record.algorithms), record.owner, record.createdAt, record.revision, this.#wrap.recordTag(recordText(record)),
    );
    for (const reader of record.readers) await tx.run("INSERT INTO key_reader (principal, key_id) VALUES (?, ?)", reader, record.id);
    for (const version of record.versions) await writeVersion(tx, record.id, version);
    await this.#moveInventory(tx, undefined, record);
  }

  /** Writes what differs between a record that {@link load} gave and its successor. */
  async update(tx: SqlTransaction, before: KeyRecord, after: KeyRecord): Promise<void> {
    await tx.run("UPDATE key_record SET revision = ?, tag = ? WHERE id = ?", after.revision, this.#wrap.recordTag(recordText(after)), after.id);
    for (const reader of before.readers) {
      if (!after.readers.has(reader)) await tx.run("DELETE FROM key_reader WHERE principal = ? AND key_id = ?", reader, after.id);
    }
    for (const reader of after.readers) {
      if (!before.readers.has(reader)) await tx.run("INSERT INTO key_reader (principal, key_id) VALUES (?, ?)", reader, after.id);
    }
    for (const version of after.versions) {
      if (!before.versions.includes(version)) await writeVersion(tx, after.id, version);
    }
    await this.#moveInventory(tx, before, after);
  }

  /** Counts one encryption under a key version, never beyond the limit, however many run at once. @returns false at the limit */
  async countUse(tx: SqlTransaction, keyId: string, version: number, limit: number): Promise<boolean> {
    const { changes } = await tx.run("UPDATE key_version SET uses = uses + 1 WHERE key_id = ? AND version = ? AND uses < ?", keyId, version, limit);
    return changes === 1;
  }

  /** Encryptions counted so far, by version. */
  async uses(keyId: string): Promise<ReadonlyMap<number, number>> {
    const rows = await this.#engine.read((tx) => tx.all("SELECT version, uses FROM key_version WHERE key_id = ?", keyId));
    return new Map(rows.map((row) => [Number(row["version"]), Number(row["uses"])]));
  }

  /** Names after a cursor, in order: all of them, or those that a principal owns or may read. */
  async names(principal: string | "all", after: string, limit: number): Promise<readonly string[]> {
    const rows = await this.#engine.read((tx) =>
      principal === "all"
        ? tx.all("SELECT name FROM key_record WHERE name > ? ORDER BY name LIMIT ?", after, limit)
        : tx.all(
            "SELECT name FROM key_record WHERE owner = ? AND name > ? UNION SELECT k.name FROM key_reader r JOIN key_record k ON k.id = r.key_id WHERE r.principal = ? AND k.name > ? ORDER BY name LIMIT ?",
            principal, after, principal, after, limit,
          ),
    );
    return rows.map((row) => String(row["name"]));
  }

  /** Answer that was given to this caller under this Idempotency-Key. @throws SignetError idempotency-conflict when it was another request */
  async recall(tx: SqlTransaction, caller: string, idempotencyKey: string, requestDigest: string, notBefore: number): Promise<string | undefined> {
    await tx.run("DELETE FROM idempotency WHERE created_at < ?", notBefore);
    const row = await tx.get("SELECT request_digest, answer FROM idempotency WHERE caller = ? AND idempotency_key = ?", caller, idempotencyKey);
    if (row === undefined) return undefined;
    if (row["request_digest"] !== requestDigest) throw new SignetError("idempotency-conflict", "This Idempotency-Key was used for another request.");
    return String(row["answer"]);
  }

  async remember(tx: SqlTransaction, caller: string, idempotencyKey: string, requestDigest: string, answer: string, at: number): Promise<void> {
    await tx.run("INSERT INTO idempotency (caller, idempotency_key, request_digest, answer, created_at) VALUES (?, ?, ?, ?, ?)", caller, idempotencyKey, requestDigest, answer, at);
  }

  async addDenials(tx: SqlTransaction, caller: string, operation: string, count: number): Promise<void> {
    await tx.run(
      "INSERT INTO denial_count (caller, operation, count) VALUES (?, ?, ?) ON CONFLICT (caller, operation) DO UPDATE SET count = denial_count.count + excluded.count",
      caller, operation, count,
    );
  }

  async denials(): Promise<readonly { caller: string; operation: string; count: number }[]> {
    const rows = await this.#engine.read((tx) => tx.all("SELECT caller, operation, count FROM denial_count ORDER BY caller, operation"));
    return rows.map((row) => ({ caller: String(row["caller"]), operation: String(row["operation"]), count: Number(row["count"]) }));
  }

  async #readInventory(tx: SqlTransaction): Promise<Uint8Array> {
    const row = await tx.get("SELECT sealed FROM inventory WHERE id = 1");
    if (row !== undefined) return this.#wrap.openInventory(octets(row["sealed"]));
    // A new store, or one whose inventory was taken away to hide a change: only an empty store may begin without.
    if ((await tx.get("SELECT 1 FROM key_record LIMIT 1")) !== undefined) throw corrupt();
    const empty = new Uint8Array(inventoryLength);
    await tx.run("INSERT INTO inventory (id, sealed) VALUES (1, ?)", this.#wrap.sealInventory(empty));
    return empty;
  }

  async #moveInventory(tx: SqlTransaction, before: KeyRecord | undefined, after: KeyRecord): Promise<void> {
    const inventory = await this.#readInventory(tx);
    if (before !== undefined) mix(inventory, this.#wrap.inventoryTag(recordText(before)));
    mix(inventory, this.#wrap.inventoryTag(recordText(after)));
    await tx.run("UPDATE inventory SET sealed = ? WHERE id = 1", this.#wrap.sealInventory(inventory));
  }

  async #readRecord(tx: SqlTransaction, row: SqlRow): Promise<KeyRecord> {
    const id = String(row["id"]);
    const readers = await tx.all("SELECT principal FROM key_reader WHERE key_id = ?", id);
    const versions = await tx.all("SELECT * FROM key_version WHERE key_id = ? ORDER BY version", id);
    const record: KeyRecord = {
      id,
      name: String(row["name"]),
      algorithms: readAlgorithms(row["algorithms"]),
      owner: String(row["owner"]),
      readers: new Set(readers.map((reader) => String(reader["principal"]))),
      createdAt: Number(row["created_at"]),
      revision: Number(row["revision"]),
      versions: versions.map(readVersion),
    };
    if (!equalInConstantTime(octets(row["tag"]), this.#wrap.recordTag(recordText(record)))) throw corrupt();
    return record;
  }
}

/**
 * What tag and inventory hold of a record: the key with its policy, and each version with its state and wrapped material. The counter of
 * uses is left out, since it moves with every encryption; whoever sets it back gains nothing before 2^31 further messages.
 */
function recordText(record: KeyRecord): string {
  const versions = record.versions.map((v) => [v.version, v.state, v.origin, v.createdAt, v.stateChangedAt, v.revocationReason, v.wrapped === null ? null : Buffer.from(v.wrapped).toString("hex")]);
  return JSON.stringify([record.id, record.name, record.algorithms, record.owner, [...record.readers].sort(), record.createdAt, record.revision, versions]);
}

function mix(inventory: Uint8Array, tag: Uint8Array): void {
  for (let i = 0; i < inventory.length; i++) inventory[i] = (inventory[i] ?? 0) ^ (tag[i] ?? 0);
}

async function writeVersion(tx: SqlTransaction, keyId: string, v: KeyVersionRecord): Promise<void> {
  await tx.run(
    "INSERT INTO key_version (key_id, version, state, origin, created_at, state_changed_at, revocation_reason, wrapped) VALUES (?, ?, ?, ?, ?, ?, ?, ?) " +
      "ON CONFLICT (key_id, version) DO UPDATE SET state = excluded.state, state_changed_at = excluded.state_changed_at, revocation_reason = excluded.revocation_reason, wrapped = excluded.wrapped",
    keyId, v.version, v.state, v.origin, v.createdAt, v.stateChangedAt, v.revocationReason, v.wrapped,
  );
}

/** Values are checked for their shape here; that they are the right ones is what the tag says. */
function readVersion(row: SqlRow): KeyVersionRecord {
  const state = row["state"];
  const wrapped = row["wrapped"];
  if (!isKeyState(state)) throw corrupt();
  return {
    version: Number(row["version"]),
    state,
    origin: row["origin"] === "imported" ? "imported" : "generated",
    createdAt: Number(row["created_at"]),
    stateChangedAt: Number(row["state_changed_at"]),
    revocationReason: row["revocation_reason"] as KeyRevocationReason | null,
    wrapped: wrapped === null ? null : octets(wrapped),
  };
}

function readAlgorithms(value: unknown): readonly KeyAlgorithm[] {
  try {
    const algorithms: unknown = JSON.parse(String(value));
    if (Array.isArray(algorithms)) return algorithms as readonly KeyAlgorithm[];
  } catch {
    // falls through to the one answer
  }
  throw corrupt();
}

function octets(value: unknown): Uint8Array {
  if (!(value instanceof Uint8Array)) throw corrupt();
  return value;
}

function corrupt(): SignetError {
  return new SignetError("data-directory-corrupt", "The stored keys are not what this service wrote last; nothing is served.");
}
