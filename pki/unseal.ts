import { randomBytes } from "node:crypto";
import { link, mkdir, open, readFile, rm, stat } from "node:fs/promises";
import path from "node:path";
import { syncFolder, temporarySuffix } from "./durable-file.ts";
import { SignetError } from "./errors.ts";
import { SecretKey } from "./keys.ts";

/** Bytes of an unseal key. It seals what a data directory keeps secret, and lies outside that directory, so that neither holds both. */
const unsealKeyLength = 32;

/**
 * Makes a new unseal key in a file of mode 0600, which is whole from the moment it has its name, and durable when this resolves. Never
 * replaces one that is there.
 * @throws SignetError unseal-failed
 */
export async function createUnsealKey(file: string): Promise<SecretKey> {
  const key = SecretKey.random(unsealKeyLength);
  const temporary = `${file}.${randomBytes(6).toString("hex")}${temporarySuffix}`;
  try {
    await mkdir(path.dirname(file), { recursive: true, mode: 0o700 });
    await writeKey(temporary, key);
    // A link, unlike a rename, fails where the name is taken.
    await link(temporary, file);
    await rm(temporary);
    syncFolder(path.dirname(file));
  } catch (cause) {
    await rm(temporary, { force: true });
    throw new SignetError("unseal-failed", `The unseal key ${file} cannot be created; one that exists is never replaced.`, { cause });
  }
  return key;
}

/**
 * Reads the unseal key. Refuses a file that others than its owner may read (POSIX), since what was readable has to count as read.
 * @throws SignetError unseal-failed
 */
export async function readUnsealKey(file: string): Promise<SecretKey> {
  let bytes: Buffer;
  try {
    if (process.platform !== "win32" && ((await stat(file)).mode & 0o077) !== 0) {
      throw new SignetError("unseal-failed", `The unseal key ${file} may be read by others: its mode has to be 0600.`);
    }
    bytes = await readFile(file);
  } catch (cause) {
    if (cause instanceof SignetError) throw cause;
    throw new SignetError("unseal-failed", `The unseal key ${file} cannot be read.`, { cause });
  }
  if (bytes.length !== unsealKeyLength) throw new SignetError("unseal-failed", `The unseal key ${file} is not ${unsealKeyLength} bytes long.`);
  const key = SecretKey.from(bytes);
  bytes.fill(0);
  return key;
}

async function writeKey(file: string, key: SecretKey): Promise<void> {
  await using handle = await open(file, "wx", 0o600);
  await handle.writeFile(key.reveal("local-use"));
  await handle.sync();
}
