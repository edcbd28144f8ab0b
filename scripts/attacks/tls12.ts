/**
 * Reads a recorded TLS 1.2 session with RSA key exchange and AES-128-GCM (RFC 5246, 5288, 7627), given the server's
 * private key: what a thief of that key can do to every session that was ever recorded. TLS 1.3 has no such key exchange.
 */
import { constants, createDecipheriv, createHash, createHmac, type KeyObject, privateDecrypt } from "node:crypto";

export interface Recording {
  readonly client: Buffer[];
  readonly server: Buffer[];
}

interface TlsRecord {
  readonly type: number;
  readonly body: Buffer;
}

function recordsOf(stream: Buffer): TlsRecord[] {
  const records: TlsRecord[] = [];
  for (let at = 0; at + 5 <= stream.length; ) {
    const end = at + 5 + stream.readUInt16BE(at + 3);
    records.push({ type: stream.readUInt8(at), body: stream.subarray(at + 5, end) });
    at = end;
  }
  return records;
}

/** Handshake messages before the first change of cipher, each with its header of four bytes. */
function handshakeOf(records: readonly TlsRecord[]): Buffer[] {
  const end = records.findIndex((record) => record.type === 20);
  const joined = Buffer.concat(records.slice(0, end < 0 ? undefined : end).filter((record) => record.type === 22).map((record) => record.body));
  const messages: Buffer[] = [];
  for (let at = 0; at + 4 <= joined.length; ) {
    const length = 4 + joined.readUIntBE(at + 1, 3);
    messages.push(joined.subarray(at, at + length));
    at += length;
  }
  return messages;
}

function pseudoRandom(secret: Buffer, label: string, seed: Buffer, length: number): Buffer {
  const labelled = Buffer.concat([Buffer.from(label), seed]);
  const hmac = (data: Buffer): Buffer => createHmac("sha256", secret).update(data).digest();
  let a: Buffer = labelled;
  let output: Buffer = Buffer.alloc(0);
  while (output.length < length) {
    a = hmac(a);
    output = Buffer.concat([output, hmac(Buffer.concat([a, labelled]))]);
  }
  return output.subarray(0, length);
}

/** What client and server said to each other, as text. Throws where the recording is of anything but TLS 1.2 with RSA key exchange. */
export function readRecording(recording: Recording, serverKey: KeyObject): string {
  const sides = [recordsOf(Buffer.concat(recording.client)), recordsOf(Buffer.concat(recording.server))] as const;
  const fromClient = handshakeOf(sides[0]);
  // The session hash ends with the client's key exchange, before any ticket that the server may send.
  const fromServer = handshakeOf(sides[1]).filter((message) => message[0] !== 4);
  const hello = fromClient.find((message) => message[0] === 1);
  const keyExchange = fromClient.find((message) => message[0] === 16);
  const serverHello = fromServer.find((message) => message[0] === 2);
  if (hello === undefined || keyExchange === undefined || serverHello === undefined) throw new Error("no RSA key exchange in this recording");
  const premaster = privateDecrypt({ key: serverKey, padding: constants.RSA_PKCS1_PADDING }, keyExchange.subarray(6));
  const exchanged = [hello, ...fromServer, ...fromClient.slice(1, fromClient.indexOf(keyExchange) + 1)];
  const sessionHash = createHash("sha256").update(Buffer.concat(exchanged)).digest();
  const [clientRandom, serverRandom] = [hello.subarray(6, 38), serverHello.subarray(6, 38)];
  const master = pseudoRandom(premaster, "extended master secret", sessionHash, 48);
  const block = pseudoRandom(master, "key expansion", Buffer.concat([serverRandom, clientRandom]), 40);
  const said = sides.map((records, side) => {
    const key = block.subarray(16 * side, 16 * side + 16);
    const salt = block.subarray(32 + 4 * side, 36 + 4 * side);
    const sealed = records.slice(records.findIndex((record) => record.type === 20) + 1);
    return sealed.map((record, sequence) => {
      const additional = Buffer.alloc(13);
      additional.writeBigUInt64BE(BigInt(sequence));
      additional.writeUInt8(record.type, 8);
      additional.writeUInt16BE(0x0303, 9);
      additional.writeUInt16BE(record.body.length - 24, 11);
      const decipher = createDecipheriv("aes-128-gcm", key, Buffer.concat([salt, record.body.subarray(0, 8)]), { authTagLength: 16 });
      decipher.setAAD(additional);
      decipher.setAuthTag(record.body.subarray(-16));
      const text = Buffer.concat([decipher.update(record.body.subarray(8, -16)), decipher.final()]).toString("latin1");
      return record.type === 23 ? text : "";
    });
  });
  return said.flat().join("");
}
