import { createCipheriv, createDecipheriv, createHash, createSecretKey, hkdfSync, type KeyObject, randomBytes } from "node:crypto";
import { z } from "zod";
import { SignetError } from "#pki/errors.ts";
import { parseOneSpelling } from "#pki/jose.ts";
import { encryptionContext, type EncryptionContext, keyNamePattern } from "#pki/protocol-kms.ts";
import type { KmsClient } from "./kms-client.ts";

/*
 * Files of any size, under a fresh data key that the KMS wraps: the content stays here. Layout:
 *
 *     octets  0..6   ASCII "SGNFILE"
 *             7      version, 1
 *             8..11  length of the header, unsigned, big-endian, 65,536 at most
 *            12..    header, JSON as JSON.stringify spells it: key (name), context, wrappedKey and salt (base64)
 *             then   chunks: 65,536 octets of content each, encrypted, with a tag of 16
 *
 * The key of the chunks is HKDF-SHA256 over the data key, with the salt (32 octets) and "signet file 1". A chunk's nonce is its number from 0 on (11 octets, big-endian) and an
 * octet that is 1 for the last chunk and 0 for the others: the STREAM construction (Hoang, Reyhanitabar, Rogaway, Vizar 2015), by which no chunk can be dropped, moved,
 * repeated or added, and no end be cut off. The additional data of every chunk is the SHA-256 of all that stands before the first. Only an empty file has an empty chunk.
 */
const magic = Buffer.from("SGNFILE\x01", "latin1");
const prefixLength = magic.length + 4;
const headerLimit = 64 * 1024;
const saltLength = 32;
const dataKeyLength = 32;
const tagLength = 16;

/** Octets of content in each chunk but the last. */
export const chunkLength = 64 * 1024;
/** 2^32 chunks are 256 TiB: as many messages as SP 800-38D section 8.3 has in mind for one key. */
const chunksLimit = 2 ** 32;
/** Keeps data keys of files apart from what else is encrypted under a key of the KMS: this name is not the caller's to give. */
const purpose = { "signet.file": "1" } as const;

const headerSchema = z.strictObject({ key: z.string().regex(keyNamePattern), context: encryptionContext, wrappedKey: z.base64(), salt: z.base64() });
/** What stands in front of an encrypted file, for everybody to read. */
export interface FileHeader {
  readonly key: string;
  readonly context: EncryptionContext;
}

/**
 * Encrypts a stream of octets under a data key of its own, which the KMS wraps with the latest version of a key. Holds two chunks in memory, whatever the length.
 * @param context strings that stand readable in the file, are bound to it, and go into the KMS's audit log with each decryption
 * @throws SignetError request-malformed | not-permitted | state-conflict, and what reading the source brings
 */
export async function* encryptFile(kms: Pick<KmsClient, "encrypt">, key: string, source: AsyncIterable<Uint8Array>, context: EncryptionContext = {}): AsyncGenerator<Uint8Array, void, void> {
  requireOwnNames(context);
  const reader = new ChunkReader(source);
  const dataKey = randomBytes(dataKeyLength);
  try {
    const wrapped = await kms.encrypt(key, dataKey, { ...context, ...purpose });
    const salt = randomBytes(saltLength);
    const header = Buffer.from(JSON.stringify({ key, context, wrappedKey: Buffer.from(wrapped.ciphertext).toString("base64"), salt: salt.toString("base64") }));
    if (header.length > headerLimit) throw new SignetError("request-malformed", "The encryption context is too long for the head of a file.");
    const preamble = Buffer.concat([magic, Buffer.alloc(4), header]);
    preamble.writeUInt32BE(header.length, magic.length);
    yield preamble;
    yield* encryptChunks(chunkKeyOf(dataKey, salt), digestOf(preamble), reader);
  } finally {
    dataKey.fill(0);
    await reader.close();
  }
}

/**
 * Decrypts what {@link encryptFile} made. Every chunk is authenticated before it is yielded, but that the file is whole is known only when the generator has ended without an error:
 * whoever acts on chunks before acts on a beginning that may have been cut.
 * @param accept is shown the header before the KMS is asked, and throws to refuse
 * @throws SignetError ciphertext-malformed | decryption-failed (damaged, cut, lengthened or put together of others) | not-permitted | state-conflict, and what reading the source brings
 */
export async function* decryptFile(kms: Pick<KmsClient, "decrypt">, source: AsyncIterable<Uint8Array>, accept: (header: FileHeader) => void = () => {}): AsyncGenerator<Uint8Array, void, void> {
  const reader = new ChunkReader(source);
  let dataKey: Buffer | undefined;
  try {
    const prefix = (await reader.take(prefixLength)).octets;
    if (prefix.length < prefixLength || !prefix.subarray(0, magic.length).equals(magic)) throw new SignetError("ciphertext-malformed", "This is no file that Signet has encrypted, or one of another version.");
    const length = prefix.readUInt32BE(magic.length);
    if (length > headerLimit) throw new SignetError("ciphertext-malformed", "The head of the file is longer than any can be.");
    const encoded = (await reader.take(length)).octets;
    const { key, context, wrappedKey, salt } = parseHeader(encoded);
    requireOwnNames(context);
    accept({ key, context });
    dataKey = Buffer.from((await kms.decrypt(key, Buffer.from(wrappedKey, "base64"), { ...context, ...purpose })).plaintext);
    if (dataKey.length !== dataKeyLength) throw new SignetError("decryption-failed", "What the KMS unwrapped is no data key.");
    yield* decryptChunks(chunkKeyOf(dataKey, Buffer.from(salt, "base64")), digestOf(Buffer.concat([prefix, encoded])), reader);
  } finally {
    dataKey?.fill(0);
    await reader.close();
  }
}

function parseHeader(encoded: Uint8Array): z.infer<typeof headerSchema> {
  try {
    return parseOneSpelling(encoded, headerSchema);
  } catch (cause) {
    throw new SignetError("ciphertext-malformed", "The head of the file is damaged or not whole.", { cause });
  }
}

async function* encryptChunks(key: KeyObject, additionalData: Uint8Array, reader: ChunkReader): AsyncGenerator<Uint8Array, void, void> {
  for (let number = 0, isLast = false; !isLast; number += 1) {
    const chunk = await reader.take(chunkLength);
    isLast = chunk.isLast;
    const cipher = createCipheriv("aes-256-gcm", key, nonceOf(number, isLast), { authTagLength: tagLength });
    cipher.setAAD(additionalData);
    const ciphertext = cipher.update(chunk.octets);
    cipher.final();
    yield Buffer.concat([ciphertext, cipher.getAuthTag()]);
  }
}

async function* decryptChunks(key: KeyObject, additionalData: Uint8Array, reader: ChunkReader): AsyncGenerator<Uint8Array, void, void> {
  for (let number = 0, isLast = false; !isLast; number += 1) {
    const chunk = await reader.take(chunkLength + tagLength);
    isLast = chunk.isLast;
    const end = chunk.octets.length - tagLength;
    let content: Uint8Array | undefined;
    // An empty chunk after others would be a second spelling of the same file.
    if (end > 0 || (end === 0 && number === 0)) {
      const decipher = createDecipheriv("aes-256-gcm", key, nonceOf(number, isLast), { authTagLength: tagLength });
      decipher.setAAD(additionalData);
      decipher.setAuthTag(chunk.octets.subarray(end));
      try {
        content = decipher.update(chunk.octets.subarray(0, end));
        decipher.final();
      } catch {
        content = undefined;
      }
    }
    if (content === undefined) throw new SignetError("decryption-failed", `The file is damaged or not whole: chunk ${number}, at octet ${number * chunkLength} of the content, does not open${isLast ? ", and is the last that is there" : ""}.`, { details: { chunk: number } });
    yield content;
  }
}

function chunkKeyOf(dataKey: Uint8Array, salt: Uint8Array): KeyObject {
  const derived = Buffer.from(hkdfSync("sha256", dataKey, salt, "signet file 1", 32));
  const key = createSecretKey(derived);
  derived.fill(0);
  return key;
}

function nonceOf(number: number, isLast: boolean): Uint8Array {
  if (number >= chunksLimit) throw new SignetError("key-usage-exhausted", "A file has 2^32 chunks at most, which are 256 TiB.");
  const nonce = Buffer.alloc(12);
  nonce.writeUIntBE(number, 5, 6);
  nonce[11] = isLast ? 1 : 0;
  return nonce;
}

function digestOf(preamble: Uint8Array): Uint8Array {
  return createHash("sha256").update(preamble).digest();
}

function requireOwnNames(context: EncryptionContext): void {
  if (Object.keys(context).some((name) => name.startsWith("signet."))) throw new SignetError("request-malformed", "Names of an encryption context that begin with `signet.` are Signet's own.");
}

/** Reads a stream in pieces of a wanted length, one octet ahead, so that the last is known to be the last. */
class ChunkReader {
  readonly #source: AsyncIterator<Uint8Array>;
  #held: Uint8Array[] = [];
  #length = 0;
  #ended = false;

  constructor(source: AsyncIterable<Uint8Array>) {
    this.#source = source[Symbol.asyncIterator]();
  }

  /** This many octets, or as many as are left; `isLast` where none follow. */
  async take(length: number): Promise<{ readonly octets: Buffer; readonly isLast: boolean }> {
    while (this.#length <= length && !this.#ended) {
      const { value, done } = await this.#source.next();
      if (done === true) this.#ended = true;
      else {
        this.#held.push(value);
        this.#length += value.length;
      }
    }
    const all = Buffer.concat(this.#held, this.#length);
    const rest = all.subarray(length);
    this.#held = rest.length === 0 ? [] : [rest];
    this.#length = rest.length;
    return { octets: all.subarray(0, length), isLast: this.#ended && rest.length === 0 };
  }

  /** Lets go of the source, wherever it stands. */
  async close(): Promise<void> {
    await this.#source.return?.();
  }
}
