import { randomBytes } from "node:crypto";
import { closeSync, fsyncSync, openSync, renameSync, rmSync, writeFileSync } from "node:fs";
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
