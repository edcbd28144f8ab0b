import { hkdfSync, randomBytes } from "node:crypto";
import { openAes256Gcm, sealAes256Gcm } from "#pki/aead.ts";
import { SignetError } from "#pki/errors.ts";
import { SecretKey } from "#pki/keys.ts";

/**
 * One run of one sender: messages are numbered within it. A process that starts again starts a new stream, so that no number is ever
 * used twice, even by a sender whose disk was restored from a backup.
 */
export interface MessageStream {
  /** Wall-clock milliseconds since 1970 at which the stream began; orders the streams of one sender. */
  readonly startedAtMilliseconds: number;
  /** 8 random octets in lower-case hex. */
  readonly nonce: string;
}

/** What stands in front of a sealed message, in the clear and authenticated. */
export interface MessageHeader {
  /** Identity URI of the sender. */
  readonly sender: string;
  /** Name of the group's key at the KMS. */
  readonly group: string;
  /** Version of that key, from 1. */
  readonly keyVersion: number;
  readonly stream: MessageStream;
  /** From 1, rising by one within the stream. */
  readonly sequence: number;
}

const formatVersion = Buffer.from("SGM1", "latin1");
const streamNonceBytes = 8;
const saltBytes = 32;
/** IV and tag of AES-256-GCM. */
const sealOverheadBytes = 12 + 16;
const longestSenderBytes = 2048;
const utf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

export function newStream(now: Date): MessageStream {
  return { startedAtMilliseconds: now.getTime(), nonce: randomBytes(streamNonceBytes).toString("hex") };
}

/**
 * Seals a message to a group. Each message has a key of its own, HKDF-SHA256 (RFC 5869) of the group's key over a random 32-byte salt, so
 * that no number of senders and messages brings two nonces together under one AES key (SP 800-38D section 8.3). The encoding,
 * integers big-endian:
 *
 *     "SGM1" | u16 length, sender | u8 length, group | u32 key version | u64 stream start | 8 stream nonce | u64 sequence | 32 salt
 *     | 12 IV | ciphertext | 16 tag
 *
 * All before the IV is the AAD. Whoever holds the group's key can seal in any member's name: a group is as trustworthy as its members,
 * and a link between two agents is what proves a sender.
 */
export function sealMessage(groupKey: SecretKey, header: MessageHeader, plaintext: Uint8Array): Uint8Array {
  const aad = encodeHeader(header, randomBytes(saltBytes));
  return Buffer.concat([aad, sealAes256Gcm(messageKey(groupKey, aad), plaintext, aad)]);
}

/**
 * Opens a message with the key of its group and version; the header is true only if this returns. Whether the message is new is for
 * {@link ReplayWindow} to say.
 * @throws SignetError message-malformed, decryption-failed
 */
export function openMessage(groupKey: SecretKey, message: Uint8Array): { readonly header: MessageHeader; readonly plaintext: Uint8Array } {
  const { header, length } = parseHeader(message);
  const aad = message.subarray(0, length);
  return { header, plaintext: openAes256Gcm(messageKey(groupKey, aad), message.subarray(length), aad) };
}

/**
 * Header of a message, read to find the key that opens it. Until {@link openMessage} returns, it is anybody's word.
 * @throws SignetError message-malformed
 */
export function readMessageHeader(message: Uint8Array): MessageHeader {
  return parseHeader(message).header;
}

/**
 * Remembers which messages were accepted, in bounded memory, and refuses when it cannot tell. Per sender it keeps the 16 latest
 * streams, per stream the 1,024 latest numbers: messages may overtake each other that far. It knows 1,024 senders. It lives as long as
 * the process: after a restart, messages under the current key version can be accepted once more.
 */
export class ReplayWindow {
  static readonly sequences = 1024;
  static readonly streamsPerSender = 16;
  static readonly senders = 1024;
  readonly #streams = new Map<string, Map<string, { startedAt: number; highest: number; seen: bigint }>>();

  /**
   * Notes an authenticated message as accepted.
   * @throws SignetError message-replayed (seen, or older than is remembered), limit-exceeded (more senders than are remembered)
   */
  accept(header: MessageHeader): void {
    const streams = this.#streamsOf(header.sender);
    const id = `${header.stream.startedAtMilliseconds}.${header.stream.nonce}`;
    let stream = streams.get(id);
    if (stream === undefined) {
      if (streams.size >= ReplayWindow.streamsPerSender) {
        const [oldestId, oldest] = [...streams].reduce((a, b) => (b[1].startedAt < a[1].startedAt ? b : a));
        // A stream that began no later than the ones kept may be one that was dropped: it counts as seen.
        if (header.stream.startedAtMilliseconds <= oldest.startedAt) throw replayed(header);
        streams.delete(oldestId);
      }
      stream = { startedAt: header.stream.startedAtMilliseconds, highest: 0, seen: 0n };
      streams.set(id, stream);
    }
    const ahead = header.sequence - stream.highest;
    if (ahead > 0) {
      // Bit n stands for the number highest - n (RFC 4303 section 3.4.3). A leap past the window leaves only the new number.
      stream.seen = ahead >= ReplayWindow.sequences ? 1n : BigInt.asUintN(ReplayWindow.sequences, (stream.seen << BigInt(ahead)) | 1n);
      stream.highest = header.sequence;
      return;
    }
    const bit = 1n << BigInt(-ahead);
    if (-ahead >= ReplayWindow.sequences || (stream.seen & bit) !== 0n) throw replayed(header);
    stream.seen |= bit;
  }

  #streamsOf(sender: string) {
    const known = this.#streams.get(sender);
    if (known !== undefined) return known;
    if (this.#streams.size >= ReplayWindow.senders) {
      throw new SignetError("limit-exceeded", "Messages of more senders than can be told apart.", { details: { senders: ReplayWindow.senders } });
    }
    const fresh = new Map<string, { startedAt: number; highest: number; seen: bigint }>();
    this.#streams.set(sender, fresh);
    return fresh;
  }
}

function replayed(header: MessageHeader): SignetError {
  return new SignetError("message-replayed", `Message ${header.sequence} of ${header.sender} was accepted before, or is too old to tell.`, {
    details: { sender: header.sender, group: header.group, sequence: header.sequence },
  });
}

function messageKey(groupKey: SecretKey, aad: Uint8Array): SecretKey {
  const salt = aad.subarray(aad.length - saltBytes);
  return SecretKey.from(new Uint8Array(hkdfSync("sha256", groupKey.keyObject, salt, "signet-message-v1", 32)));
}

function encodeHeader(header: MessageHeader, salt: Uint8Array): Uint8Array {
  const sender = Buffer.from(header.sender, "utf8");
  const group = Buffer.from(header.group, "latin1");
  const lengths = Buffer.alloc(3);
  lengths.writeUInt16BE(sender.length, 0);
  lengths.writeUInt8(group.length, 2);
  const numbers = Buffer.alloc(28);
  numbers.writeUInt32BE(header.keyVersion, 0);
  numbers.writeBigUInt64BE(BigInt(header.stream.startedAtMilliseconds), 4);
  numbers.write(header.stream.nonce, 12, streamNonceBytes, "hex");
  numbers.writeBigUInt64BE(BigInt(header.sequence), 20);
  return Buffer.concat([formatVersion, lengths.subarray(0, 2), sender, lengths.subarray(2), group, numbers, salt]);
}

function parseHeader(message: Uint8Array): { header: MessageHeader; length: number } {
  const octets = Buffer.from(message.buffer, message.byteOffset, message.length);
  let at = 0;
  const take = (count: number): Buffer => {
    if (at + count > octets.length) throw malformed("it ends too soon");
    at += count;
    return octets.subarray(at - count, at);
  };
  if (!take(formatVersion.length).equals(formatVersion)) throw malformed("it is of no known format");
  const senderBytes = take(2).readUInt16BE();
  if (senderBytes > longestSenderBytes) throw malformed("its sender is too long");
  let sender: string;
  try {
    sender = utf8.decode(take(senderBytes));
  } catch (error) {
    throw error instanceof SignetError ? error : malformed("its sender is not UTF-8");
  }
  const group = take(take(1).readUInt8()).toString("latin1");
  if (!/^[a-z0-9][a-z0-9._-]{0,62}$/.test(group)) throw malformed("its group is not a key's name");
  const keyVersion = take(4).readUInt32BE();
  const startedAt = take(8).readBigUInt64BE();
  const nonce = take(streamNonceBytes).toString("hex");
  const sequence = take(8).readBigUInt64BE();
  if (keyVersion === 0 || sequence === 0n || sequence > BigInt(Number.MAX_SAFE_INTEGER) || startedAt > BigInt(Number.MAX_SAFE_INTEGER)) {
    throw malformed("a number in it is out of range");
  }
  take(saltBytes);
  if (octets.length - at < sealOverheadBytes) throw malformed("it ends too soon");
  return {
    header: { sender, group, keyVersion, stream: { startedAtMilliseconds: Number(startedAt), nonce }, sequence: Number(sequence) },
    length: at,
  };
}

function malformed(why: string): SignetError {
  return new SignetError("message-malformed", `Not a sealed message: ${why}.`);
}
