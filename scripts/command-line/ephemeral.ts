import { mkdirSync, mkdtempSync, rmSync, statfsSync } from "node:fs";
import path from "node:path";
import { SignetError } from "#pki/errors.ts";
import { defaultData, errnoOf, fileError, type Invocation } from "./program.ts";

/** Types of file systems whose content lies in memory alone, as statfs(2) names them: tmpfs and ramfs. */
const memoryFileSystems: ReadonlySet<number> = new Set([0x0102_1994, 0x8584_58f6]);
const sharedMemory = "/dev/shm";

/**
 * Runs `use` over a data directory in memory, for this user alone, and removes it at every end that a process sees. SIGKILL is none of them: what it
 * leaves is gone with the next boot, or with `rm -r`.
 * @throws SignetError file-unusable where no memory file system is
 */
export async function withEphemeralData<T>(invocation: Invocation, use: (invocation: Invocation) => Promise<T>): Promise<T> {
  const wanted = invocation.data === defaultData ? undefined : path.resolve(invocation.data);
  const parent = wanted === undefined ? sharedMemory : path.dirname(wanted);
  requireMemory(parent);
  let data: string;
  try {
    if (wanted === undefined) data = mkdtempSync(path.join(parent, "signet-"));
    // Never one that is there: it will be removed.
    else mkdirSync((data = wanted), { mode: 0o700 });
  } catch (error) {
    throw fileError(wanted ?? parent, error, "Name one that does not exist yet.");
  }
  const remove = (): void => rmSync(data, { recursive: true, force: true });
  process.once("exit", remove);
  try {
    return await use({ ...invocation, data });
  } finally {
    process.off("exit", remove);
    remove();
  }
}

function requireMemory(directory: string): void {
  let type: number | undefined;
  try {
    if (process.platform === "linux") type = statfsSync(directory).type;
  } catch (error) {
    if (errnoOf(error) !== "ENOENT") throw fileError(directory, error);
  }
  if (type !== undefined && memoryFileSystems.has(type)) return;
  throw new SignetError("file-unusable", `--ephemeral needs a file system in memory, and ${directory} is none${process.platform === "linux" ? "" : ` on ${process.platform}`}. Nothing was made.`, {
    details: { next: "Name a directory on a tmpfs with --data, or start without --ephemeral." },
  });
}
