import { randomBytes } from "node:crypto";
import { statSync } from "node:fs";
import { link, open, rm } from "node:fs/promises";
import path from "node:path";
import { makeFolder, syncFolder, temporarySuffix, writeFileDurably } from "./durable-file.ts";
import { SignetError } from "./errors.ts";
import { SecretKey } from "./keys.ts";
import { openUnderPassphrase, readPassphrase, sealUnderPassphrase, type PassphraseSource } from "./passphrase.ts";

/** Bytes of an unseal key. It seals what a data directory keeps secret, and lies outside that directory, so that neither holds both. */
const unsealKeyLength = 32;
/** Longer files are no unseal key of either form: the bare 32 bytes, or JSON that holds them sealed under a passphrase. */
const fileLimit = 4096;

/**
 * Makes a new unseal key in a file of mode 0600, which is whole from the moment it has its name, and durable when this resolves. Never
 * replaces one that is there.
 * @param passphrase seals it; without one the bare key is written
 * @throws SignetError unseal-failed
 */
export async function createUnsealKey(file: string, passphrase?: SecretKey): Promise<SecretKey> {
  const key = SecretKey.random(unsealKeyLength);
  const temporary = `${file}.${randomBytes(6).toString("hex")}${temporarySuffix}`;
  try {
    makeFolder(path.dirname(file));
    await writeKey(temporary, passphrase === undefined ? key.reveal("local-use") : sealUnderPassphrase(key, passphrase));
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

/** Whether an unseal key is sealed under a passphrase, as those of production are; undefined where no file is. @throws SignetError unseal-failed */
export function isUnsealKeySealed(file: string): boolean | undefined {
  try {
    return statSync(file).size !== unsealKeyLength;
  } catch (cause) {
    if (cause instanceof Error && "code" in cause && cause.code === "ENOENT") return undefined;
    throw unreadable(file, cause);
  }
}

/**
 * Reads the unseal key. Refuses a file that others than its owner may read (POSIX), since what was readable has to count as read.
 * @param passphrase that it is sealed under; a bare key is not taken where one is given, nor a sealed one where none is
 * @throws SignetError unseal-failed
 */
export async function readUnsealKey(file: string, passphrase?: SecretKey): Promise<SecretKey> {
  let bytes: Buffer;
  try {
    await using handle = await open(file, "r");
    const { mode, size } = await handle.stat();
    if (process.platform !== "win32" && (mode & 0o077) !== 0) throw new SignetError("unseal-failed", `The unseal key ${file} may be read by others: its mode has to be 0600.`);
    if (size > fileLimit) throw new SignetError("unseal-failed", `${file} is no unseal key.`);
    bytes = await handle.readFile();
  } catch (cause) {
    throw cause instanceof SignetError ? cause : unreadable(file, cause);
  }
  try {
    const isSealed = bytes.length !== unsealKeyLength;
    if (passphrase === undefined && isSealed) throw new SignetError("unseal-failed", `The unseal key ${file} is not ${unsealKeyLength} bytes long: it is damaged, or sealed under a passphrase.`);
    if (passphrase !== undefined && !isSealed) throw new SignetError("unseal-failed", `The unseal key ${file} is not sealed under a passphrase: it is a development deployment's.`);
    return passphrase === undefined ? SecretKey.from(bytes) : openUnderPassphrase(bytes.toString("utf8"), passphrase, `the unseal key ${file}`);
  } finally {
    bytes.fill(0);
  }
}

/**
 * The passphrase that a service's unseal key is, or will be, sealed under; undefined for development. What a deployment is was decided when it was
 * made, and its unseal key shows it: no option changes that.
 * @throws SignetError usage, file-unusable, unseal-failed
 */
export async function passphraseOf(i: { readonly unsealKey: string; readonly isNew: boolean; readonly production: boolean; readonly source: PassphraseSource }): Promise<SecretKey | undefined> {
  const isProduction = i.isNew ? i.production : isUnsealKeySealed(i.unsealKey) === true;
  if (isProduction) return readPassphrase(i.source);
  if (i.production) throw new SignetError("usage", "This deployment was made for development, which does not change. Make one for production in another directory.");
  if (i.source.file !== undefined) throw new SignetError("usage", `A development deployment has no passphrase, so ${i.source.option} is not wanted. Make a new deployment with --production.`);
  return undefined;
}

/**
 * Seals an unseal key under another passphrase, in one step: the file is the old one or the new one. Copies of the old one still open under the old passphrase.
 * @throws SignetError unseal-failed, storage-unavailable
 */
export async function changePassphrase(file: string, old: SecretKey, next: SecretKey): Promise<void> {
  writeFileDurably(file, sealUnderPassphrase(await readUnsealKey(file, old), next), 0o600);
}

function unreadable(file: string, cause: unknown): SignetError {
  return new SignetError("unseal-failed", `The unseal key ${file} cannot be read.`, { cause });
}

async function writeKey(file: string, content: Uint8Array | string): Promise<void> {
  await using handle = await open(file, "wx", 0o600);
  await handle.writeFile(content);
  await handle.sync();
}
