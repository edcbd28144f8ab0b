import { existsSync, lstatSync, mkdirSync, mkdtempSync, readdirSync, rmSync, statfsSync } from "node:fs";
import path from "node:path";
import { SignetError } from "#pki/errors.ts";
import { DataDirectory } from "#store/data-directory.ts";
import { layoutOf } from "./deployment.ts";
import { defaultData, errnoOf, fileError, type Invocation } from "./program.ts";

/** Types of file systems whose content lies in memory alone, as statfs(2) names them: tmpfs and ramfs. */
const memoryFileSystems: ReadonlySet<number> = new Set([0x0102_1994, 0x8584_58f6]);
const sharedMemory = "/dev/shm";

const format = { service: "ephemeral", version: 1 } as const;

/**
 * Runs `use` over a data directory in memory, for this user alone, and removes it at every end that a process sees. SIGKILL is none of them: what it
 * leaves is removed by `signet stop`, by the next start once nothing runs in it, and by a boot.
 * @throws SignetError file-unusable where no memory file system is
 */
export async function withEphemeralData<T>(invocation: Invocation, use: (invocation: Invocation) => Promise<T>): Promise<T> {
  const wanted = invocation.data === defaultData ? undefined : path.resolve(invocation.data);
  const parent = wanted === undefined ? sharedMemory : path.dirname(wanted);
  requireMemory(parent);
  for (const { directory, isInUse } of ephemeralDirectories()) if (!isInUse) rmSync(directory, { recursive: true, force: true });
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
  let held: DataDirectory | undefined;
  try {
    held = await DataDirectory.initialise(layoutOf(data).ephemeral, format, async () => {});
    return await use({ ...invocation, data });
  } finally {
    process.off("exit", remove);
    remove();
    held?.close();
  }
}

/** Removes a directory in memory whose services have been stopped, and whose starter can no longer do it: it was killed. */
export function removeAbandoned(data: string): boolean {
  const { root } = layoutOf(data);
  if (!isEphemeral(root) || isInUse(root)) return false;
  rmSync(root, { recursive: true, force: true });
  return true;
}

/** This user's directories in memory in which something runs. */
export function ephemeralInUse(): readonly string[] {
  return ephemeralDirectories().flatMap(({ directory, isInUse: used }) => (used ? [directory] : []));
}

function ephemeralDirectories(): readonly { readonly directory: string; readonly isInUse: boolean }[] {
  if (process.platform !== "linux" || !existsSync(sharedMemory)) return [];
  const names = readdirSync(sharedMemory).filter((name) => name.startsWith("signet-"));
  return names.map((name) => path.join(sharedMemory, name)).filter(isEphemeral).map((directory) => ({ directory, isInUse: isInUse(directory) }));
}

/** Made by {@link withEphemeralData}, and by this user: nobody else can change what lies there while it is removed. */
function isEphemeral(directory: string): boolean {
  try {
    return lstatSync(directory).isDirectory() && lstatSync(directory).uid === process.getuid?.() && DataDirectory.inspect(layoutOf(directory).ephemeral, format) === "ours";
  } catch {
    return false;
  }
}

/** In doubt it is. */
function isInUse(directory: string): boolean {
  const { ephemeral, ca, kms } = layoutOf(directory);
  try {
    return [ephemeral, ca, kms].some((each) => DataDirectory.holder(each) !== undefined);
  } catch {
    return true;
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
