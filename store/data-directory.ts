import { existsSync, lstatSync, readFileSync, readdirSync, rmSync, statSync, writeFileSync } from "node:fs";
import path from "node:path";
import { DatabaseSync } from "node:sqlite";
import { makeFolder, temporarySuffix, writeFileDurably } from "#pki/durable-file.ts";
import { SignetError } from "#pki/errors.ts";

export interface DataDirectoryFormat {
  /** Names the marker file, `signet-<service>.json`. */
  readonly service: "ca" | "kms" | "demo" | "ephemeral";
  /** Version that this code writes; anything newer is left alone. */
  readonly version: number;
}

/** A process that holds a data directory. Without a `pid` it took the lock a moment ago, or its note is lost. */
export interface DataDirectoryHolder {
  readonly pid?: number;
  readonly startedAt?: string;
  /** Whether the process of that number is still the one that the note tells of and no later one; where the platform does not tell (all but Linux), true. */
  readonly isThatProcess?: () => boolean;
  /**
   * Whether the operating system says, as the note does, that this process holds the directory: it runs as the directory's owner and has the lock open.
   * False also where we may not look. Whoever may write to the directory can write any note, so nothing is signalled without this. Where the platform does
   * not tell (all but Linux), true.
   */
  readonly isProved?: () => boolean;
}

/**
 * The directory in which one service keeps its state, held for this process alone.
 *
 * A marker file says whose it is and in which format. The exclusive lock is the operating system's, taken through SQLite
 * on the file `lock`, so it ends with the process however that dies: a kill -9 leaves nothing stale behind, and a recycled
 * process id cannot be mistaken for the holder, as it could with a file that only names one.
 */
export class DataDirectory {
  readonly path: string;
  readonly #lock: DatabaseSync;

  private constructor(directory: string, lock: DatabaseSync) {
    this.path = directory;
    this.#lock = lock;
  }

  /**
   * What lies at `directory`: `empty` where nothing is, `unfinished` where an initialisation was killed, or `ours`.
   * @throws SignetError data-directory-foreign, -corrupt, -newer
   */
  static inspect(directory: string, format: DataDirectoryFormat): "empty" | "unfinished" | "ours" {
    let names: string[];
    try {
      names = readdirSync(directory);
    } catch (error) {
      if (errnoOf(error) === "ENOENT") return "empty";
      if (errnoOf(error) === "ENOTDIR") throw foreign(directory);
      throw unusable(directory, error);
    }
    if (names.includes(markerName(format))) return readMarker(directory, format).complete ? "ours" : "unfinished";
    if (names.every((name) => lockFiles.includes(name) || name.endsWith(temporarySuffix))) return "empty";
    throw foreign(directory);
  }

  /**
   * The process that holds a directory at this moment; undefined where none does. The lock says that somebody holds it, and the holder's note who that is.
   */
  static holder(directory: string): DataDirectoryHolder | undefined {
    const file = path.join(directory, "lock");
    if (!existsSync(file)) return undefined;
    let probe: DatabaseSync | undefined;
    try {
      probe = new DatabaseSync(file, { readOnly: true, timeout: 0 });
      // A shared lock, for as long as the statement takes: a holder's exclusive one refuses it.
      probe.prepare("SELECT count(*) FROM sqlite_schema").get();
      return undefined;
    } catch (error) {
      if (!isBusy(error)) throw unusable(file, error);
      return readNote(directory) ?? {};
    } finally {
      probe?.close();
    }
  }

  /**
   * Takes an existing data directory.
   * @throws SignetError data-directory-foreign, -corrupt, -newer, -locked, storage-unavailable: in every case nothing in it was changed
   */
  static open(directory: string, format: DataDirectoryFormat): DataDirectory {
    if (DataDirectory.inspect(directory, format) !== "ours")
      throw new SignetError("data-directory-foreign", `${directory} has not been initialised.`);
    return new DataDirectory(directory, takeLock(directory));
  }

  /**
   * Makes a data directory where there is none and `populate` fills it. The marker says that it is whole only after that; what
   * an initialisation left that was killed is cleared away, since nobody was ever told of it.
   * @throws SignetError data-directory-foreign, -locked, storage-unavailable, state-conflict where one exists already
   */
  static async initialise(directory: string, format: DataDirectoryFormat, populate: (directory: DataDirectory) => Promise<void>): Promise<DataDirectory> {
    if (DataDirectory.inspect(directory, format) === "ours") throw alreadyInitialised(directory);
    try {
      makeFolder(directory);
    } catch (cause) {
      throw unusable(directory, cause);
    }
    const data = new DataDirectory(directory, takeLock(directory));
    try {
      // Again, under the lock: another process may have been faster.
      const found = DataDirectory.inspect(directory, format);
      if (found === "ours") throw alreadyInitialised(directory);
      if (found === "unfinished")
        for (const name of readdirSync(directory))
          if (!lockFiles.includes(name) && name !== markerName(format)) rmSync(data.file(name), { recursive: true });
      writeMarker(directory, format, false);
      await populate(data);
      writeMarker(directory, format, true);
      return data;
    } catch (error) {
      data.close();
      throw error;
    }
  }

  file(...names: readonly string[]): string {
    return path.join(this.path, ...names);
  }

  /** Gives the lock back. */
  close(): void {
    if (!this.#lock.isOpen) return;
    rmSync(this.file("lock.json"), { force: true });
    this.#lock.close();
  }
}

const lockFiles = ["lock", "lock.json"];

function takeLock(directory: string): DatabaseSync {
  const file = path.join(directory, "lock");
  let lock: DatabaseSync | undefined;
  try {
    // Long enough for whoever only asks who holds it.
    lock = new DatabaseSync(file, { timeout: 200 });
    // Nothing is ever written to it, so it needs no journal file beside it.
    lock.exec("PRAGMA journal_mode = MEMORY; BEGIN EXCLUSIVE");
  } catch (error) {
    lock?.close();
    if (!isBusy(error)) throw unusable(file, error);
    throw new SignetError("data-directory-locked", `${directory} is in use by ${holder(directory)}. Nothing was touched.`);
  }
  // For the message of a second start, and for who wants to stop this process. The lock file itself must not be opened: closing it would release a POSIX lock.
  const note = path.join(directory, "lock.json");
  try {
    writeFileSync(note, JSON.stringify({ pid: process.pid, startedAt: new Date(performance.timeOrigin).toISOString(), process: processIdentity(process.pid) }), { mode: 0o600 });
  } catch (cause) {
    lock.close();
    throw unusable(note, cause);
  }
  return lock;
}

const sqliteBusy = 5;

function isBusy(error: unknown): boolean {
  return error instanceof Error && "errcode" in error && Number(error.errcode) === sqliteBusy;
}

function holder(directory: string): string {
  const note = readNote(directory);
  return note === undefined ? "another process" : `process ${note.pid}, started ${note.startedAt}`;
}

function readNote(directory: string): Required<DataDirectoryHolder> | undefined {
  try {
    const { pid, startedAt, process: identity } = JSON.parse(readFileSync(path.join(directory, "lock.json"), "utf8")) as Record<string, unknown>;
    if (typeof pid !== "number" || !Number.isSafeInteger(pid) || pid < 2 || typeof startedAt !== "string") return undefined;
    const isThatProcess = (): boolean => process.platform !== "linux" || (typeof identity === "string" && identity === processIdentity(pid));
    return { pid, startedAt, isThatProcess, isProved: () => isThatProcess() && (process.platform !== "linux" || hasOpen(pid, directory)) };
  } catch {
    return undefined;
  }
}

/**
 * Boot and start time of a process, which no later process of the same number shares; undefined where the platform does not tell, or there is none. One that has
 * ended is none, even where its parent never takes note of it, as process 1 of many a container does not.
 */
function processIdentity(pid: number): string | undefined {
  if (process.platform !== "linux") return undefined;
  try {
    const boot = readFileSync("/proc/sys/kernel/random/boot_id", "utf8").trim();
    // Fields 3 and 22 of proc_pid_stat(5); the second, the command, is in parentheses and may hold anything.
    const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
    const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
    return fields[0] === "Z" || fields[0] === "X" ? undefined : `${boot} ${fields[19]}`;
  } catch {
    return undefined;
  }
}

/** Linux: whether a process of the directory's owner has the directory's lock open. A link in the lock's place, to a file that others have open, counts for nothing. */
function hasOpen(pid: number, directory: string): boolean {
  try {
    const lock = lstatSync(path.join(directory, "lock"), { bigint: true });
    if (!lock.isFile() || lock.nlink !== 1n || statSync(`/proc/${pid}`).uid !== statSync(directory).uid) return false;
    const descriptors = `/proc/${pid}/fd`;
    return readdirSync(descriptors).some((descriptor) => {
      const open = statSync(path.join(descriptors, descriptor), { bigint: true, throwIfNoEntry: false });
      return open?.dev === lock.dev && open.ino === lock.ino;
    });
  } catch {
    return false;
  }
}

function markerName(format: DataDirectoryFormat): string {
  return `signet-${format.service}.json`;
}

function writeMarker(directory: string, format: DataDirectoryFormat, complete: boolean): void {
  const marker = { format: `signet-${format.service}`, version: format.version, complete };
  writeFileDurably(path.join(directory, markerName(format)), `${JSON.stringify(marker)}\n`, 0o600);
}

function readMarker(directory: string, format: DataDirectoryFormat): { readonly complete: boolean } {
  const file = path.join(directory, markerName(format));
  let marker: unknown;
  try {
    marker = JSON.parse(readFileSync(file, "utf8"));
  } catch (error) {
    throw new SignetError("data-directory-corrupt", `${file} cannot be read. The directory was left alone.`, { cause: error });
  }
  const { format: name, version, complete } = (typeof marker === "object" && marker !== null ? marker : {}) as Record<string, unknown>;
  if (name !== `signet-${format.service}` || typeof version !== "number" || !Number.isSafeInteger(version) || version < 1)
    throw new SignetError("data-directory-corrupt", `${file} is damaged. The directory was left alone.`);
  if (version > format.version)
    throw new SignetError("data-directory-newer", `${directory} has format ${version}; this version of Signet reads up to ${format.version}. It was left alone.`);
  if (typeof complete !== "boolean") throw new SignetError("data-directory-corrupt", `${file} is damaged. The directory was left alone.`);
  return { complete };
}

function foreign(directory: string): SignetError {
  return new SignetError("data-directory-foreign", `${directory} holds something else. It was left alone.`);
}

function alreadyInitialised(directory: string): SignetError {
  return new SignetError("state-conflict", `${directory} is initialised already. Nothing was touched.`);
}

function unusable(file: string, cause: unknown): SignetError {
  return new SignetError("storage-unavailable", `${file} cannot be used: ${errnoOf(cause)}.`, { cause });
}

function errnoOf(error: unknown): string {
  return error instanceof Error && "code" in error ? String(error.code) : String(error);
}
