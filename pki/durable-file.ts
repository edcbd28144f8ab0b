import { randomBytes } from "node:crypto";
import { closeSync, existsSync, fsyncSync, mkdirSync, openSync, renameSync, rmSync, statSync, writeFileSync } from "node:fs";
import path from "node:path";
import { SignetError } from "./errors.ts";

/** Ends the name of a file that was being written when its process died; such a file means nothing. */
export const temporarySuffix = ".tmp";

/**
 * Writes a file whole or not at all: a temporary file beside it, fsync, rename, fsync of the folder. Durable when it returns.
 * @param mode permission bits, such as 0o600
 * @throws SignetError storage-unavailable
 */
export function writeFileDurably(file: string, content: Uint8Array | string, mode: number): void {
  const temporary = `${file}.${randomBytes(6).toString("hex")}${temporarySuffix}`;
  try {
    const descriptor = openSync(temporary, "wx", mode);
    try {
      writeFileSync(descriptor, content);
      fsyncSync(descriptor);
    } finally {
      closeSync(descriptor);
    }
    renameSync(temporary, file);
    syncFolder(path.dirname(file));
  } catch (error) {
    rmSync(temporary, { force: true });
    throw new SignetError("storage-unavailable", `${file} could not be written: ${error instanceof Error && "code" in error ? String(error.code) : "unknown error"}.`, { cause: error });
  }
}

/**
 * Makes a folder and those above it that are missing, for their owner alone. Node's own `recursive` never returns where the file system answers ENOENT
 * to every new folder, as /proc does.
 * @returns the first that was made; undefined where all were there
 */
export function makeFolder(folder: string): string | undefined {
  const absolute = path.resolve(folder);
  const parent = path.dirname(absolute);
  const made = existsSync(parent) ? undefined : makeFolder(parent);
  try {
    mkdirSync(absolute, { mode: 0o700 });
    return made ?? absolute;
  } catch (error) {
    if (error instanceof Error && "code" in error && error.code === "EEXIST" && statSync(absolute).isDirectory()) return made;
    throw error;
  }
}

/** Makes renames and new files in a folder durable. */
export function syncFolder(folder: string): void {
  // Windows has no handle on a folder to sync; NTFS journals the rename.
  if (process.platform === "win32") return;
  const descriptor = openSync(folder, "r");
  try {
    fsyncSync(descriptor);
  } finally {
    closeSync(descriptor);
  }
}
