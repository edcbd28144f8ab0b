import { hash as digest } from "node:crypto";
import type { Clock } from "#pki/clock.ts";
import { SignetError } from "#pki/errors.ts";
import type { LatestRecords } from "#pki/protocol-summary.ts";
import type { SqlEngine, SqlRow, SqlTransaction } from "./engine.ts";

/** What happened, who did it and to what. Never a secret: a record is kept for ever and shown to operators. */
export interface AuditEvent {
  /** Dotted verb, such as `certificate.issued`. */
  readonly action: string;
  /** Identity URI of the caller, or the service's own for what it does by itself. */
  readonly actor: string;
  /** What it was done to: an identity URI, a serial number, a key name. */
  readonly subject: string;
  readonly details?: Readonly<Record<string, string | number | boolean | readonly string[] | null>>;
}

export interface AuditRecord extends AuditEvent {
  /** 1 for the first, without gaps. */
  readonly sequence: number;
  /** ISO 8601, UTC. */
  readonly at: string;
  /** Lower-case hex, 64 digits. */
  readonly hash: string;
}

/** A head that somebody has seen: the log must still contain it. */
export type AuditHead = Pick<AuditRecord, "sequence" | "hash">;

type Reads = Pick<SqlTransaction, "get" | "all">;

const genesis = new Uint8Array(32);
const pageSize = 1000;

/**
 * An append-only log in the database of the service, written in the transaction of the change that it records.
 * Records form a hash chain: hash = SHA-256("signet audit record v1" || 00 || previous hash || JSON text), where the first
 * record's previous hash is 32 zero octets. A changed, inserted, reordered or missing record breaks the chain; a shortened
 * log shows to whoever has kept a later head.
 */
export class AuditLog {
  readonly #clock: Clock;

  private constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** Brings the log's table up to date. */
  static async open(engine: SqlEngine, clock: Clock): Promise<AuditLog> {
    await engine.migrate(new URL("./migrations/", import.meta.url));
    return new AuditLog(clock);
  }

  /** Appends one record. It is durable when the transaction is. */
  async append(transaction: SqlTransaction, event: AuditEvent): Promise<AuditHead> {
    const last = await transaction.get("SELECT sequence, hash FROM audit_record ORDER BY sequence DESC LIMIT 1");
    const sequence = last === undefined ? 1 : Number(last["sequence"]) + 1;
    const { action, actor, subject, details } = event;
    const record = JSON.stringify({ sequence, at: this.#clock.now().toISOString(), action, actor, subject, ...(details && { details }) });
    const hash = chainedHash(last === undefined ? genesis : hashOf(last), record);
    await transaction.run("INSERT INTO audit_record (sequence, record, hash) VALUES (?, ?, ?)", sequence, record, hash);
    return { sequence, hash: hash.toString("hex") };
  }

  /** Up to `limit` records that follow sequence number `after`, oldest first. */
  async entries(reads: Reads, after: number, limit: number): Promise<readonly AuditRecord[]> {
    const rows = await reads.all("SELECT sequence, record, hash FROM audit_record WHERE sequence > ? ORDER BY sequence LIMIT ?", after, limit);
    return rows.map(readRecord);
  }

  /** The last `limit` records, newest first. */
  async latest(reads: Reads, limit: number): Promise<readonly AuditRecord[]> {
    const rows = await reads.all("SELECT sequence, record, hash FROM audit_record ORDER BY sequence DESC LIMIT ?", limit);
    return rows.map(readRecord);
  }

  /** The last record's number and hash; `undefined` while the log is empty. */
  async head(reads: Reads): Promise<AuditHead | undefined> {
    const row = await reads.get("SELECT sequence, hash FROM audit_record ORDER BY sequence DESC LIMIT 1");
    return row && { sequence: Number(row["sequence"]), hash: Buffer.from(hashOf(row)).toString("hex") };
  }

  /**
   * Walks the whole chain, and checks that it contains `seen` where the caller kept a head from before.
   * @throws SignetError data-directory-corrupt, with the sequence number where the chain breaks
   */
  async verify(reads: Reads, seen?: AuditHead): Promise<AuditHead | undefined> {
    let previous: Uint8Array = genesis;
    let sequence = 0;
    let seenFound = seen === undefined;
    for (;;) {
      const rows = await reads.all("SELECT sequence, record, hash FROM audit_record WHERE sequence > ? ORDER BY sequence LIMIT ?", sequence, pageSize);
      for (const row of rows) {
        sequence += 1;
        const hash = chainedHash(previous, String(row["record"]));
        if (Number(row["sequence"]) !== sequence || parseRecord(row).sequence !== sequence || !hash.equals(hashOf(row))) throw broken(sequence);
        if (seen?.sequence === sequence) {
          if (seen.hash !== hash.toString("hex")) throw broken(sequence);
          seenFound = true;
        }
        previous = hash;
      }
      if (rows.length < pageSize) break;
    }
    if (!seenFound) throw broken(sequence + 1);
    return sequence === 0 ? undefined : { sequence, hash: Buffer.from(previous).toString("hex") };
  }
}

/** Records as a summary shows them: of the details the reason alone, since the rest may be long and says nothing at a glance. */
export function toLatestRecords(records: readonly AuditRecord[]): LatestRecords {
  return records.map(({ sequence, at, action, actor, subject, details }) => {
    const reason = details?.["reason"];
    return { sequence, at, action, actor, subject, ...(typeof reason === "string" ? { reason } : {}) };
  });
}

const domain = Buffer.from("signet audit record v1\0");

function chainedHash(previous: Uint8Array, record: string): Buffer {
  return digest("sha256", Buffer.concat([domain, previous, Buffer.from(record)]), "buffer");
}

function hashOf(row: SqlRow): Uint8Array {
  const hash = row["hash"];
  if (!(hash instanceof Uint8Array)) throw broken(Number(row["sequence"]));
  return hash;
}

function readRecord(row: SqlRow): AuditRecord {
  return { ...parseRecord(row), hash: Buffer.from(hashOf(row)).toString("hex") };
}

function parseRecord(row: SqlRow): Omit<AuditRecord, "hash"> {
  try {
    return JSON.parse(String(row["record"])) as Omit<AuditRecord, "hash">;
  } catch {
    throw broken(Number(row["sequence"]));
  }
}

function broken(sequence: number): SignetError {
  return new SignetError("data-directory-corrupt", `The audit log was changed outside of this service: its chain breaks at record ${sequence}.`, {
    details: { sequence },
  });
}
