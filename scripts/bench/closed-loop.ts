import { once } from "node:events";
import { readdirSync, readFileSync } from "node:fs";
import tls from "node:tls";

/** Where to send a request to, as whom, and what exactly. */
export interface LoadTarget {
  readonly port: number;
  /** PEM files of the caller: root, chain (leaf first) and private key. */
  readonly ca: string;
  readonly cert: string;
  readonly key: string;
  readonly request: Uint8Array;
  /** Process of the server, for its CPU time. */
  readonly serverPid: number;
}

/** An HTTP/1.1 request as it goes over the wire. The headers are the same for both arms of a comparison. */
export function wireRequest(method: "GET" | "POST", path: string, body?: string, mediaType = "application/json"): Uint8Array {
  const content = body === undefined ? "" : `content-type: ${mediaType}\r\ncontent-length: ${Buffer.byteLength(body)}\r\n`;
  return Buffer.from(`${method} ${path} HTTP/1.1\r\nhost: localhost\r\n${content}\r\n${body ?? ""}`);
}

/**
 * One keep-alive connection that sends the next request when the answer to the last has come. It reads HTTP by hand
 * (status line, Content-Length), because node:https would cost the client more than the server that is measured.
 */
export class LoadConnection {
  readonly #socket: tls.TLSSocket;
  readonly #target: LoadTarget;
  #buffered: Buffer = Buffer.alloc(0);
  #waiting: { resolve: (body: Uint8Array) => void; reject: (error: Error) => void } | undefined;

  private constructor(socket: tls.TLSSocket, target: LoadTarget) {
    this.#socket = socket;
    this.#target = target;
    socket.on("data", (chunk: Buffer) => this.#take(chunk));
    socket.on("error", (error) => this.#waiting?.reject(error));
    socket.on("close", () => this.#waiting?.reject(new Error("the server closed the connection")));
  }

  /** A full TLS 1.3 handshake with both certificates; no session is offered. */
  static async open(target: LoadTarget): Promise<LoadConnection> {
    const { port, ca, cert, key } = target;
    const socket = tls.connect({ host: "127.0.0.1", servername: "localhost", port, ca, cert, key, minVersion: "TLSv1.3", ALPNProtocols: ["http/1.1"] });
    await once(socket, "secureConnect");
    socket.setNoDelay(true);
    return new LoadConnection(socket, target);
  }

  /** Body of the answer. @throws Error for any status but 200: a benchmark of refusals measures nothing */
  exchange(): Promise<Uint8Array> {
    return new Promise((resolve, reject) => {
      this.#waiting = { resolve, reject };
      this.#socket.write(this.#target.request);
    });
  }

  /** Resolves when the server ends the connection. */
  async closed(): Promise<void> {
    if (!this.#socket.closed) await once(this.#socket, "close");
  }

  close(): void {
    this.#socket.destroy();
  }

  #take(chunk: Buffer): void {
    const bytes = this.#buffered.length === 0 ? chunk : Buffer.concat([this.#buffered, chunk]);
    this.#buffered = bytes;
    const headEnd = bytes.indexOf("\r\n\r\n");
    if (headEnd < 0) return;
    const head = bytes.toString("latin1", 0, headEnd);
    const length = Number(/\r\ncontent-length: *(\d+)/i.exec(head)?.[1] ?? Number.NaN);
    if (bytes.length < headEnd + 4 + length) return;
    const waiting = this.#waiting;
    this.#waiting = undefined;
    this.#buffered = Buffer.alloc(0);
    const body = bytes.subarray(headEnd + 4);
    if (head.startsWith("HTTP/1.1 200") && body.length === length) waiting?.resolve(body);
    else waiting?.reject(new Error(`unexpected answer: ${head.split("\r\n", 1)[0]} ${body.toString("utf8").slice(0, 300)}`));
  }
}

/** CPU time that a process has used so far, in microseconds, over all its threads; undefined where /proc is not Linux's. */
export function processCpuMicroseconds(pid: number): number | undefined {
  try {
    let nanoseconds = 0;
    for (const task of readdirSync(`/proc/${pid}/task`)) {
      nanoseconds += Number(readFileSync(`/proc/${pid}/task/${task}/schedstat`, "latin1").split(" ", 1)[0]);
    }
    return nanoseconds / 1000;
  } catch {
    return undefined;
  }
}

/** Keeps every connection busy for a while; requests per second, and the server's CPU time for each (0 where unknown). */
export async function closedLoop(
  connections: readonly LoadConnection[],
  target: LoadTarget,
  milliseconds: number,
): Promise<{ rate: number; cpu: number }> {
  const cpuBefore = processCpuMicroseconds(target.serverPid);
  const start = performance.now();
  const end = start + milliseconds;
  let answered = 0;
  await Promise.all(
    connections.map(async (connection) => {
      while (performance.now() < end) {
        await connection.exchange();
        answered++;
      }
    }),
  );
  const seconds = (performance.now() - start) / 1000;
  const cpuAfter = processCpuMicroseconds(target.serverPid);
  return { rate: answered / seconds, cpu: cpuBefore === undefined || cpuAfter === undefined ? 0 : (cpuAfter - cpuBefore) / answered };
}

/** New connection, first answer, one after another: median milliseconds of one, and the server's CPU milliseconds. */
export async function handshakes(target: LoadTarget, count: number): Promise<{ milliseconds: number; cpu: number }> {
  const cpuBefore = processCpuMicroseconds(target.serverPid);
  const times: number[] = [];
  for (let i = 0; i < count; i++) {
    const start = performance.now();
    const connection = await LoadConnection.open(target);
    await connection.exchange();
    times.push(performance.now() - start);
    connection.close();
  }
  const cpuAfter = processCpuMicroseconds(target.serverPid);
  times.sort((a, b) => a - b);
  return {
    milliseconds: times[times.length >> 1] ?? Number.NaN,
    cpu: cpuBefore === undefined || cpuAfter === undefined ? 0 : (cpuAfter - cpuBefore) / 1000 / count,
  };
}
