import { closeSync, openSync, readFileSync } from "node:fs";
import { DatabaseSync } from "node:sqlite";
import { z } from "zod";
import { writeFileDurably } from "./durable-file.ts";
import { SignetError } from "./errors.ts";

/** What a scope's next CRL must rise above: the last that was verified. `digest` is its SHA-256 in hex, so that one number names one CRL. */
export interface CrlFloor {
  readonly crlNumber: bigint;
  readonly thisUpdate: Date;
  /** 64 hexadecimal digits. */
  readonly digest: string;
}

/** Floors by scope. They outlive restarts: a party that forgot them would take a replayed CRL for news. */
export interface CrlFloors {
  get(scope: string): CrlFloor | undefined;
  /** Durable when it returns. @throws SignetError crl-rollback where another process of this party has seen a later CRL; storage-unavailable */
  raise(scope: string, floor: CrlFloor): void;
  /** Latest thisUpdate of any scope: no honest clock lies far before it. */
  readonly latestThisUpdate: Date | undefined;
}

/** A floor that an operator took away, kept beside the floors for good. */
export interface LoweredFloor {
  readonly scope: string;
  /** Number and thisUpdate that were given up: CRLs up to these can be replayed since. */
  readonly crlNumber: bigint;
  readonly thisUpdate: Date;
  readonly at: Date;
  readonly reason: string;
}

/** Floors that end with the process: for identities that do so too. */
export function memoryFloors(): CrlFloors {
  return new Floors(new Map(), () => {});
}

/**
 * Floors in one JSON file of mode 0600, replaced whole, which {@link createFloors} has made. Several processes of one party may share it: a raise reads it
 * anew, and between its reading and its writing no other process writes.
 * @throws SignetError data-directory-corrupt (also where the file is missing) | file-unusable
 */
export function fileFloors(file: string): CrlFloors {
  const atStart = readFloors(file);
  if (atStart === undefined) {
    throw new SignetError("data-directory-corrupt", `${file} is missing, without which revoked certificates could pass again. Restore it; for a new party alone it is made with createFloors.`);
  }
  return new Floors(new Map(atStart.scopes), (scope, floor, known) =>
    whileLocked(file, () => {
      const stored = readFloors(file) ?? { scopes: known, lowered: [] };
      const other = stored.scopes.get(scope);
      if (other !== undefined && other.digest !== floor.digest && (other.crlNumber >= floor.crlNumber || other.thisUpdate >= floor.thisUpdate)) {
        throw new SignetError("crl-rollback", `The CRL has the number ${floor.crlNumber}, and another process of this party has seen number ${other.crlNumber}.`, {
          details: { crlNumber: floor.crlNumber.toString(), seen: other.crlNumber.toString() },
        });
      }
      writeFloors(file, { scopes: new Map(stored.scopes).set(scope, floor), lowered: stored.lowered });
    }),
  );
}

/** An empty file of floors for a new party, so that one that is missing later is noticed. An existing one is left alone. @throws SignetError data-directory-corrupt | file-unusable | storage-unavailable */
export function createFloors(file: string): void {
  whileLocked(file, () => {
    if (readFloors(file) === undefined) writeFloors(file, { scopes: new Map(), lowered: [] });
  });
}

/** Another process reads and writes a few hundred octets while it has the lock: one that has waited for so long waits for a disk that has stopped. */
const lockMilliseconds = 10_000;

/**
 * Runs `action` while no other process changes the floors in `file`. The lock is the operating system's, taken through SQLite on an empty file beside it: it
 * ends with the process however that dies, so that nothing stale is left, and nobody has to guess whether a holder lives.
 */
function whileLocked<T>(file: string, action: () => T): T {
  const lockFile = `${file}.lock`;
  let lock: DatabaseSync | undefined;
  try {
    try {
      closeSync(openSync(lockFile, "a", 0o600));
      lock = new DatabaseSync(lockFile, { timeout: lockMilliseconds });
      lock.exec("BEGIN EXCLUSIVE");
    } catch (cause) {
      throw new SignetError("storage-unavailable", `${lockFile} could not be locked, which keeps floors of CRLs from being lost.`, { cause });
    }
    return action();
  } finally {
    lock?.close();
  }
}

/** Floors that were taken away from a file; undefined where there is no file. @throws SignetError data-directory-corrupt | file-unusable */
export function loweredFloors(file: string): readonly LoweredFloor[] | undefined {
  return readFloors(file)?.lowered;
}

/**
 * The one way to lower floors: takes them away, of one scope or of all, and keeps a record of it with its reason. It is for a CA that was restored
 * from a backup and numbers its CRLs from an earlier time on. Until the next CRL arrives, older ones can be replayed to this party, and certificates that
 * were revoked since then would pass. A process that runs meanwhile keeps its own floors until it ends.
 * @throws SignetError usage (no reason) | not-found (no such floor) | data-directory-corrupt | storage-unavailable
 */
export function lowerFloorsAfterRestore(file: string, i: { readonly scope?: string; readonly reason: string; readonly at: Date }): readonly LoweredFloor[] {
  const { scope: wanted, at } = i;
  const reason = i.reason.trim();
  if (reason === "" || reason.length > 500) throw new SignetError("usage", "A floor is lowered for a reason, of 500 characters at most.");
  return whileLocked(file, () => {
    const lost = { scopes: new Map([["unknown, since the file was missing", { crlNumber: 0n, thisUpdate: new Date(0), digest: "" }]]), lowered: [] };
    const stored: StoredFloors = readFloors(file) ?? lost;
    const given = [...stored.scopes].filter(([scope]) => wanted === undefined || scope === wanted);
    if (wanted !== undefined && given.length === 0) throw new SignetError("not-found", `${file} holds no floor of the scope ${wanted}.`);
    const lowered = given.map(([scope, { crlNumber, thisUpdate }]) => ({ scope, crlNumber, thisUpdate, at, reason }));
    writeFloors(file, { scopes: new Map([...stored.scopes].filter(([scope]) => !given.some(([taken]) => taken === scope))), lowered: [...stored.lowered, ...lowered] });
    return lowered;
  });
}

type Raise = (scope: string, floor: CrlFloor, known: ReadonlyMap<string, CrlFloor>) => void;

class Floors implements CrlFloors {
  readonly #floors: Map<string, CrlFloor>;
  readonly #save: Raise;
  #latestThisUpdate: Date | undefined;

  constructor(floors: Map<string, CrlFloor>, save: Raise) {
    this.#floors = floors;
    this.#save = save;
    this.#noteLatest();
  }

  get(scope: string): CrlFloor | undefined {
    return this.#floors.get(scope);
  }

  raise(scope: string, floor: CrlFloor): void {
    this.#save(scope, floor, this.#floors);
    this.#floors.set(scope, floor);
    this.#noteLatest();
  }

  /** Asked for at every check, hence kept. */
  get latestThisUpdate(): Date | undefined {
    return this.#latestThisUpdate;
  }

  #noteLatest(): void {
    const times = [...this.#floors.values()].map((floor) => floor.thisUpdate.getTime());
    this.#latestThisUpdate = times.length === 0 ? undefined : new Date(Math.max(...times));
  }
}

const crlNumber = z.string().regex(/^\d{1,49}$/);
const fileSchema = z.strictObject({
  format: z.literal(1),
  scopes: z.record(z.string(), z.strictObject({ crlNumber, thisUpdate: z.iso.datetime(), digest: z.string().regex(/^[0-9a-f]{64}$/) })),
  lowered: z.array(z.strictObject({ scope: z.string(), crlNumber, thisUpdate: z.iso.datetime(), at: z.iso.datetime(), reason: z.string() })).optional(),
});

interface StoredFloors {
  readonly scopes: ReadonlyMap<string, CrlFloor>;
  readonly lowered: readonly LoweredFloor[];
}

function readFloors(file: string): StoredFloors | undefined {
  let text: string;
  try {
    text = readFileSync(file, "utf8");
  } catch (cause) {
    if (cause instanceof Error && "code" in cause && cause.code === "ENOENT") return undefined;
    throw new SignetError("file-unusable", `${file} cannot be read.`, { cause });
  }
  try {
    const { scopes, lowered = [] } = fileSchema.parse(JSON.parse(text));
    return {
      scopes: new Map(Object.entries(scopes).map(([scope, floor]) => [scope, { ...floor, crlNumber: BigInt(floor.crlNumber), thisUpdate: new Date(floor.thisUpdate) }])),
      lowered: lowered.map((each) => ({ ...each, crlNumber: BigInt(each.crlNumber), thisUpdate: new Date(each.thisUpdate), at: new Date(each.at) })),
    };
  } catch (cause) {
    throw new SignetError("data-directory-corrupt", `${file}, which keeps CRLs from going back, is damaged. It was left alone.`, { cause });
  }
}

function writeFloors(file: string, { scopes, lowered }: StoredFloors): void {
  // Numbers are decimal text, since JSON's lose digits; times are ISO 8601 by Date's own toJSON.
  const content = { format: 1, scopes: Object.fromEntries(scopes), ...(lowered.length === 0 ? {} : { lowered }) };
  writeFileDurably(file, `${JSON.stringify(content, (_, value: unknown) => (typeof value === "bigint" ? value.toString() : value), 2)}\n`, 0o600);
}
