/** Mallory on the wire: a TCP relay that reads, changes, redirects or drops what passes. */
import net from "node:net";
import { listenOnLoopback } from "./observe.ts";

export interface InterposerOptions {
  /** Where the victim meant to go, or where Mallory sends it instead. May change between connections. */
  readonly target: () => number;
  /** Sees each piece from the client and answers what is passed on; undefined drops the connection. */
  readonly fromClient?: (bytes: Buffer, state: ConnectionState) => Buffer | undefined;
  readonly fromServer?: (bytes: Buffer, state: ConnectionState) => Buffer | undefined;
}

/** Per connection: how many pieces have passed in each direction. */
export interface ConnectionState {
  readonly connection: number;
  client: number;
  server: number;
}

export interface Interposer {
  readonly port: number;
  readonly connections: () => number;
  close(): void;
}

export async function interpose(options: InterposerOptions): Promise<Interposer> {
  const sockets = new Set<net.Socket>();
  let connections = 0;
  const server = net.createServer((client) => {
    const state: ConnectionState = { connection: ++connections, client: 0, server: 0 };
    const upstream = net.connect(options.target(), "127.0.0.1");
    const drop = (): void => {
      client.destroy();
      upstream.destroy();
    };
    for (const socket of [client, upstream]) {
      sockets.add(socket);
      socket.on("error", drop);
      socket.on("close", () => {
        sockets.delete(socket);
        drop();
      });
    }
    client.on("data", (bytes: Buffer) => {
      state.client += 1;
      const passed = options.fromClient === undefined ? bytes : options.fromClient(bytes, state);
      if (passed === undefined) drop();
      else upstream.write(passed);
    });
    upstream.on("data", (bytes: Buffer) => {
      state.server += 1;
      const passed = options.fromServer === undefined ? bytes : options.fromServer(bytes, state);
      if (passed === undefined) drop();
      else client.write(passed);
    });
  });
  const port = await listenOnLoopback(server);
  return {
    port,
    connections: () => connections,
    close: () => {
      server.close();
      for (const socket of sockets) socket.destroy();
    },
  };
}

const supportedVersions = 43;

/**
 * A ClientHello record without its supported_versions extension, so that the server sees a client of TLS 1.2 at most
 * (RFC 8446 sections 4.1.2 and 4.2.1). Undefined if the bytes are not one whole ClientHello record.
 */
export function withoutSupportedVersions(record: Buffer): Buffer | undefined {
  if (record.length < 48 || record[0] !== 22 || record[5] !== 1 || record.readUInt16BE(3) + 5 !== record.length) return undefined;
  let at = 5 + 4 + 2 + 32;
  at += 1 + record.readUInt8(at);
  at += 2 + record.readUInt16BE(at);
  at += 1 + record.readUInt8(at);
  const extensionsAt = at;
  const kept: Buffer[] = [];
  for (at += 2; at + 4 <= record.length; ) {
    const end = at + 4 + record.readUInt16BE(at + 2);
    if (record.readUInt16BE(at) !== supportedVersions) kept.push(record.subarray(at, end));
    at = end;
  }
  const extensions = Buffer.concat(kept);
  const body = Buffer.concat([record.subarray(9, extensionsAt), Buffer.alloc(2), extensions]);
  body.writeUInt16BE(extensions.length, extensionsAt - 9);
  const head = Buffer.from(record.subarray(0, 9));
  head.writeUIntBE(body.length, 6, 3);
  head.writeUInt16BE(body.length + 4, 3);
  return Buffer.concat([head, body]);
}
