import { randomBytes } from "node:crypto";
import { lstatSync } from "node:fs";
import { link, mkdir, open, readdir, rename, rm, rmdir } from "node:fs/promises";
import path from "node:path";
import type { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { SignetError } from "#pki/errors.ts";
import { makeFolder, syncFolder, temporarySuffix, writeFileDurably } from "#pki/durable-file.ts";
import { errnoOf, fileError, type Invocation, usageError } from "./program.ts";

/** Octets of input that are read at most: room for a CRL of a million entries. */
const inputLimit = 64 * 1024 * 1024;

/**
 * The content of a file, or of stdin for `-`.
 * @param secret what the file holds that nobody but its owner may read
 * @throws SignetError file-unusable
 */
export async function readInput(file: string, invocation: Invocation, secret?: string): Promise<Uint8Array> {
  if (file === "-") {
    if (invocation.terminal.stdin.isTTY === true && !invocation.json) invocation.terminal.stderr.write("Reading from the terminal; end with Ctrl-D.\n");
    return readStream(invocation.terminal.stdin, "standard input");
  }
  let handle;
  try {
    handle = await open(file, "r");
    const { size, mode } = await handle.stat();
    if (secret !== undefined && process.platform !== "win32" && (mode & 0o077) !== 0) {
      throw new SignetError("file-unusable", `${file}: the ${secret} may be read by others: its mode has to be 0600 or 0400.`, { details: { next: `Set it with \`chmod 600\`, and take another ${secret} if others had it.` } });
    }
    if (size > inputLimit) throw new SignetError("file-unusable", `${file}: it is larger than ${inputLimit} octets.`);
    return await readStream(handle.createReadStream({ autoClose: false }), file);
  } catch (error) {
    if (error instanceof SignetError) throw error;
    throw fileError(file, error);
  } finally {
    await handle?.close();
  }
}

/** A secret that is never an argument: from a file, or from stdin for `-`. White space around it is dropped. */
export async function readSecret(file: string, what: string, invocation: Invocation): Promise<string> {
  const secret = Buffer.from(await readInput(file, invocation)).toString("utf8").trim();
  if (secret === "" || /\s/.test(secret)) throw usageError(`${file === "-" ? "standard input" : file} holds no ${what}`);
  return secret;
}

/** Writes a file whole or not at all, over an older one if there is one. @throws SignetError file-unusable */
export function writeWhole(file: string, content: Uint8Array | string, mode: 0o600 | 0o644): void {
  requireReplaceable(file);
  try {
    writeFileDurably(file, content, mode);
  } catch (error) {
    throw fileError(file, error instanceof SignetError ? error.cause : error);
  }
}

/** What a file is renamed over is gone: a device (/dev/null), a pipe or a link that somebody else relies on, or that leads to what was meant. */
function requireReplaceable(file: string): void {
  let found;
  try {
    found = lstatSync(file, { throwIfNoEntry: false });
  } catch (error) {
    throw fileError(file, error);
  }
  if (found === undefined || found.isFile()) return;
  if (found.isDirectory()) throw fileError(file, Object.assign(new Error(), { code: "EISDIR" }));
  throw new SignetError("file-unusable", `${file}: it is ${found.isSymbolicLink() ? "a symbolic link" : "a device, pipe or socket"}, which a file would replace.`, { details: { next: "Name the file itself, or leave out --out to pipe." } });
}

/** A file, or stdin for `-`, as a stream of any length. @throws SignetError file-unusable */
export async function openInput(file: string, invocation: Invocation): Promise<Readable> {
  if (file === "-") return invocation.terminal.stdin;
  try {
    const handle = await open(file, "r");
    if ((await handle.stat()).isDirectory()) {
      await handle.close();
      throw Object.assign(new Error(), { code: "EISDIR" });
    }
    return handle.createReadStream({ highWaterMark: 256 * 1024 });
  } catch (error) {
    throw fileError(file, error);
  }
}

/**
 * Writes a stream to a file whole or not at all, over an older one if there is one, with mode 0600. The place is prepared before the first octet is asked for.
 * @returns how many octets
 * @throws SignetError file-unusable, and whatever ends the stream
 */
export async function writeWholeFrom(file: string, content: AsyncIterable<Uint8Array>, signal: AbortSignal): Promise<number> {
  requireReplaceable(file);
  const temporary = `${file}.${randomBytes(6).toString("hex")}${temporarySuffix}`;
  let output;
  try {
    output = (await open(temporary, "wx", 0o600)).createWriteStream({ flush: true });
  } catch (error) {
    throw fileError(file, error);
  }
  try {
    await pipeline(content, output, { signal });
    await rename(temporary, file);
    syncFolder(path.dirname(file));
    return output.bytesWritten;
  } catch (error) {
    await rm(temporary, { force: true });
    throw error instanceof SignetError || errnoOf(error) === undefined || signal.aborted ? error : fileError(file, error);
  }
}

/**
 * Fills a directory with new files, all of them or none. The place is prepared before `fill` runs, so that a directory that
 * cannot be written is known before anything is asked of a CA; what `fill` keeps first survives a crash only as a hidden folder.
 * @param names files that `fill` may write; one that exists already, or comes to be meanwhile, is a refusal
 * @throws SignetError file-unusable
 */
export async function fillDirectory<T>(directory: string, names: readonly string[], fill: (write: (name: string, content: Uint8Array | string, mode: 0o600 | 0o644) => void) => Promise<T>): Promise<T> {
  let staging: string | undefined;
  let made: string | undefined;
  try {
    made = makeFolder(directory);
    const taken = (await readdir(directory)).find((name) => names.includes(name));
    if (taken !== undefined) throw fileError(path.join(directory, taken), Object.assign(new Error(), { code: "EEXIST" }), "Choose another --out directory.");
    staging = path.join(directory, `.signet-${randomBytes(6).toString("hex")}`);
    await mkdir(staging, { mode: 0o700 });
  } catch (error) {
    throw error instanceof SignetError ? error : fileError(directory, error);
  }
  const folder = staging;
  const written: string[] = [];
  const placed: string[] = [];
  try {
    const result = await fill((name, content, mode) => {
      writeWhole(path.join(folder, name), content, mode);
      written.push(name);
    });
    for (const name of written) {
      const file = path.join(directory, name);
      // Not a rename, which would take the place of what somebody else has filled it with meanwhile.
      await link(path.join(folder, name), file).catch((error: unknown) => {
        throw fileError(file, error, errnoOf(error) === "EEXIST" ? "Choose another --out directory." : undefined);
      });
      placed.push(file);
    }
    syncFolder(directory);
    await rm(folder, { recursive: true });
    return result;
  } catch (error) {
    for (const file of placed) await rm(file, { force: true });
    await rm(folder, { recursive: true, force: true });
    if (made !== undefined) await removeEmpty(directory, made);
    throw error instanceof SignetError || errnoOf(error) === undefined ? error : fileError(directory, error);
  }
}

/** Removes the folders from `inner` out to `outer` that are empty. */
async function removeEmpty(inner: string, outer: string): Promise<void> {
  for (let folder = path.resolve(inner); folder.length >= path.resolve(outer).length; folder = path.dirname(folder)) await rmdir(folder).catch(() => {});
}

async function readStream(stream: Readable, name: string): Promise<Uint8Array> {
  const parts: Uint8Array[] = [];
  let length = 0;
  for await (const part of stream) {
    const octets = typeof part === "string" ? Buffer.from(part) : (part as Uint8Array);
    length += octets.length;
    if (length > inputLimit) throw new SignetError("file-unusable", `${name}: it is larger than ${inputLimit} octets.`);
    parts.push(octets);
  }
  return Buffer.concat(parts);
}
