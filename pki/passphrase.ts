import { argon2Sync, createSecretKey, randomBytes, type KeyObject } from "node:crypto";
import { open } from "node:fs/promises";
import path from "node:path";
import { z } from "zod";
import { openAes256Gcm, sealAes256Gcm } from "./aead.ts";
import { SignetError } from "./errors.ts";
import { SecretKey } from "./keys.ts";

/** Octets of a passphrase. The least are few for a word and enough for three: `openssl rand -base64 24` makes a good one. */
const leastLength = 12;
const mostLength = 1024;

/** Where a service gets its passphrase from. */
export interface PassphraseSource {
  /** File that was named, if one was. */
  readonly file: string | undefined;
  /** Name of the option that names it, for what is said where it is missing. */
  readonly option: string;
  /** Name of systemd's credential that takes its place: `LoadCredential=NAME:FILE` of a unit. */
  readonly credential: string;
}

/**
 * Reads a passphrase (12 to 1,024 octets, without the line's end) from the file that was named, else from systemd's $CREDENTIALS_DIRECTORY. It is never
 * an argument or the value of an environment variable, which other processes could read.
 * @throws SignetError usage where none is given or it is too short; file-unusable
 */
export async function readPassphrase(source: PassphraseSource): Promise<SecretKey> {
  const credentials = process.env["CREDENTIALS_DIRECTORY"];
  const file = source.file ?? (credentials === undefined ? undefined : path.join(credentials, source.credential));
  const ways = `Write it to a file that its owner alone may read and name that with ${source.option} FILE; under systemd, LoadCredential=${source.credential}:FILE.`;
  if (file === undefined) throw new SignetError("usage", `A production deployment's unseal key is sealed under a passphrase, and none is given. ${ways}`);
  const octets = await readSecretFile(file, path.dirname(file) === credentials, ways);
  try {
    const length = octets.at(-1) === 0x0a ? octets.length - (octets.at(-2) === 0x0d ? 2 : 1) : octets.length;
    if (length < leastLength || length > mostLength) throw new SignetError("usage", `The passphrase in ${file} has ${length} octets; ${leastLength} to ${mostLength} are wanted. \`openssl rand -base64 24\` makes a good one.`);
    return SecretKey.from(octets.subarray(0, length));
  } finally {
    octets.fill(0);
  }
}

/** @throws SignetError file-unusable */
async function readSecretFile(file: string, isCredential: boolean, ways: string): Promise<Buffer> {
  let handle;
  try {
    handle = await open(file, "r");
    const { mode } = await handle.stat();
    // systemd gives an unprivileged user its credential by an access control list, whose mask shows in the group's bits.
    if (process.platform !== "win32" && (mode & (isCredential ? 0o007 : 0o077)) !== 0)
      throw new SignetError("file-unusable", `The passphrase file ${file} may be read by others: its mode has to be 0600 or 0400. Set it with \`chmod 600\`, and change the passphrase if others had it.`);
    const octets = Buffer.alloc(mostLength + 3);
    let length = 0;
    for (let read = -1; read !== 0 && length < octets.length; length += read) ({ bytesRead: read } = await handle.read(octets, length, octets.length - length, null));
    return octets.subarray(0, length);
  } catch (cause) {
    if (cause instanceof SignetError) throw cause;
    const code = cause instanceof Error && "code" in cause ? String(cause.code) : "unknown error";
    throw new SignetError("file-unusable", `The passphrase file ${file} cannot be read (${code}). ${ways}`, { cause });
  } finally {
    await handle?.close();
  }
}

/**
 * A key sealed under a passphrase, as JSON: AES-256-GCM under what argon2id (RFC 9106) makes of the passphrase. Parameters are
 * stored, and bounded when they are read: at least as strong as what is written, and no more than a start can afford.
 */
const sealedKey = z.strictObject({
  format: z.literal("signet-unseal-2"),
  derivation: z.literal("argon2id"),
  memoryKibibytes: z.int().min(65_536).max(262_144),
  passes: z.int().min(3).max(10),
  parallelism: z.int().min(1).max(16),
  /** Base64 of 16 octets. */
  salt: z.string().regex(/^[A-Za-z0-9+/]{22}==$/),
  /** Base64 of IV (12), ciphertext (32) and tag (16). */
  sealed: z.string().regex(/^[A-Za-z0-9+/]{80}$/),
});
type Derivation = Omit<z.infer<typeof sealedKey>, "sealed">;

/** Seals a key of 32 octets. The memory is RFC 9106's second recommended option; the time is that of one start. */
export function sealUnderPassphrase(key: SecretKey, passphrase: SecretKey): string {
  const derivation: Derivation = { format: "signet-unseal-2", derivation: "argon2id", memoryKibibytes: 65_536, passes: 3, parallelism: 4, salt: randomBytes(16).toString("base64") };
  const plaintext = key.reveal("wrap");
  try {
    const sealed = sealAes256Gcm(derive(passphrase, derivation), plaintext, additionalData(derivation));
    return `${JSON.stringify({ ...derivation, sealed: Buffer.from(sealed).toString("base64") })}\n`;
  } finally {
    plaintext.fill(0);
  }
}

/** @throws SignetError unseal-failed; `what` names the file in its message */
export function openUnderPassphrase(text: string, passphrase: SecretKey, what: string): SecretKey {
  const { sealed, ...derivation } = parseSealedKey(text, what);
  let plaintext: Uint8Array;
  try {
    plaintext = openAes256Gcm(derive(passphrase, derivation), Buffer.from(sealed, "base64"), additionalData(derivation));
  } catch (cause) {
    throw new SignetError("unseal-failed", `The passphrase does not open ${what}: it is another one, or the file was changed. Nothing was changed.`, { cause });
  }
  const key = SecretKey.from(plaintext);
  plaintext.fill(0);
  return key;
}

function parseSealedKey(text: string, what: string): z.infer<typeof sealedKey> {
  try {
    return sealedKey.parse(JSON.parse(text));
  } catch (cause) {
    throw new SignetError("unseal-failed", `${what} is damaged, or of a form that this version does not know.`, { cause });
  }
}

function derive(passphrase: SecretKey, { memoryKibibytes, passes, parallelism, salt }: Derivation): KeyObject {
  const message = passphrase.reveal("local-use");
  const octets = argon2Sync("argon2id", { message, nonce: Buffer.from(salt, "base64"), memory: memoryKibibytes, passes, parallelism, tagLength: 32 });
  message.fill(0);
  const key = createSecretKey(octets);
  octets.fill(0);
  return key;
}

/** Binds what is sealed to its format and to how the key was derived: changed parameters do not open. */
function additionalData({ format, derivation, memoryKibibytes, passes, parallelism, salt }: Derivation): Uint8Array {
  return Buffer.from([format, derivation, memoryKibibytes, passes, parallelism, salt].join(" "), "ascii");
}
