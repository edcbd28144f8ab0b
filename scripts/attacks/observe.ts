/** What Mallory and the victims see of a refusal: the code of a SignetError or a system error, or of a problem document. */
import { once } from "node:events";
import https from "node:https";
import net from "node:net";
import tls from "node:tls";

/** `code` of an error, its own or the first of its causes that has one. */
export function errorCodeOf(error: unknown): string {
  for (let at: unknown = error; at instanceof Error; at = at.cause) if ("code" in at && typeof at.code === "string") return at.code;
  return error instanceof Error ? error.name : "unknown";
}

/** Code for what a client sees of a server that ends its handshake: the alert where one was sent, else that it was refused. */
export function handshakeRefusalOf(error: unknown): string {
  const code = errorCodeOf(error);
  if (code === "ERR_SSL_TLSV13_ALERT_CERTIFICATE_REQUIRED") return "client-certificate-required";
  return code.startsWith("ERR_SSL_") || code === "ECONNRESET" || code === "EPIPE" ? "tls-refused" : code;
}

/** `code` of an RFC 9457 problem document; undefined for any other body. */
export function problemCodeOf(body: Uint8Array | string): string | undefined {
  try {
    const problem: unknown = JSON.parse(typeof body === "string" ? body : Buffer.from(body).toString());
    if (typeof problem === "object" && problem !== null && "code" in problem && typeof problem.code === "string") return problem.code;
  } catch {
    // Not JSON: raw octets of a key, for instance.
  }
  return undefined;
}

export interface Answer {
  readonly status: number;
  readonly body: Buffer;
  readonly text: string;
}

/** Options of a request and of the TLS connection that it goes over. */
export type RequestOptions = Pick<https.RequestOptions, "method" | "agent" | "headers"> &
  Pick<tls.ConnectionOptions, "ca" | "cert" | "key" | "rejectUnauthorized" | "ALPNProtocols" | "minVersion" | "maxVersion" | "ciphers">;

/** One HTTPS request, as Mallory or a naive client makes it. */
export function request(url: string, options: RequestOptions, body?: string | Uint8Array): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const outgoing = https.request(url, { timeout: 20_000, ...options }, (incoming) => {
      const parts: Buffer[] = [];
      incoming.on("data", (part: Buffer) => parts.push(part));
      incoming.on("error", reject);
      incoming.on("end", () => {
        const whole = Buffer.concat(parts);
        resolve({ status: incoming.statusCode ?? 0, body: whole, text: whole.toString() });
      });
    });
    outgoing.on("timeout", () => outgoing.destroy(Object.assign(new Error("no answer"), { code: "timed-out" })));
    outgoing.on("error", reject);
    outgoing.end(body);
  });
}

/** Binds a server to a free port of the loopback interface. */
export async function listenOnLoopback(server: net.Server): Promise<number> {
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const address = server.address();
  if (address === null || typeof address === "string") throw new Error("no TCP address");
  return address.port;
}

/** A TLS connection whose handshake has ended. */
export async function connectTls(options: tls.ConnectionOptions): Promise<tls.TLSSocket> {
  const socket = tls.connect({ host: "127.0.0.1", servername: "localhost", ...options });
  await once(socket, "secureConnect");
  return socket;
}

/** Reads lines from a stream, one at a time. */
export function lines(stream: NodeJS.ReadableStream): () => Promise<string> {
  let buffered = "";
  const ready: string[] = [];
  const takers: ((line: string) => void)[] = [];
  stream.on("data", (part: Buffer) => {
    buffered += part.toString("latin1");
    for (let at = buffered.indexOf("\n"); at >= 0; at = buffered.indexOf("\n")) {
      const line = buffered.slice(0, at);
      buffered = buffered.slice(at + 1);
      const taker = takers.shift();
      if (taker === undefined) ready.push(line);
      else taker(line);
    }
  });
  return () => {
    const line = ready.shift();
    return line === undefined ? new Promise((resolve) => takers.push(resolve)) : Promise.resolve(line);
  };
}
