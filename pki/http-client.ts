import type { ClientRequest, IncomingHttpHeaders, IncomingMessage } from "node:http";
import https from "node:https";
import { z } from "zod";
import { isErrorCode, SignetError } from "./errors.ts";
import { unreachableCodes } from "./mtls.ts";

/** Longest answer that is read unless a caller names another limit: a CRL of a quarter of a million entries fits. */
const defaultMaximumBytes = 16 * 1024 * 1024;
const defaultTimeoutMilliseconds = 15_000;
/** Longest refusal that is read in the place of a stream. */
const problemBytes = 64 * 1024;

export interface TlsRequest {
  /** Checks the server before the first byte goes out: a MutualAgent, or the enrolment client's. */
  readonly agent: https.Agent;
  readonly url: string | URL;
  readonly method: "GET" | "POST" | "PATCH" | "PUT" | "DELETE";
  readonly headers?: Readonly<Record<string, string>>;
  readonly body?: Uint8Array;
  /** For the whole exchange, connection included. */
  readonly timeoutMilliseconds?: number;
  readonly maximumBytes?: number;
  readonly signal?: AbortSignal;
}

export interface TlsAnswer {
  readonly status: number;
  readonly headers: IncomingHttpHeaders;
  readonly body: Uint8Array;
}

/**
 * One exchange over TLS. Redirects are not followed. Answers 200 to 299 and 304 are returned; a problem document (RFC 9457) is thrown as the
 * SignetError that the server refused with.
 * @throws SignetError remote-unreachable | tls-refused | timed-out | remote-malformed | body-too-large, what the agent's check of the server says, or the server's own code
 */
export async function requestOverMutualTls(request: TlsRequest): Promise<TlsAnswer> {
  const answer = await exchange(request, new URL(request.url));
  if ((answer.status >= 200 && answer.status < 300) || answer.status === 304) return answer;
  throw problemOf(answer, request.url);
}

/** An answer that goes on: `body` yields what comes, and throws why it ended where the server did not end it. */
export interface TlsStream {
  readonly headers: IncomingHttpHeaders;
  readonly body: AsyncIterable<Buffer>;
}

/**
 * The same for an answer that goes on until one side ends it. The time limit is for its head, and then for each silence.
 * @throws SignetError as {@link requestOverMutualTls}
 */
export async function streamOverMutualTls(request: Omit<TlsRequest, "maximumBytes"> & { readonly silenceMilliseconds: number }): Promise<TlsStream> {
  const url = new URL(request.url);
  const outgoing = startRequest(request, url);
  let failure: SignetError | undefined;
  const incoming = await new Promise<IncomingMessage>((resolve, reject) => {
    const limit = setTimeout(() => outgoing.destroy(timedOut(url, request.timeoutMilliseconds ?? defaultTimeoutMilliseconds)), request.timeoutMilliseconds ?? defaultTimeoutMilliseconds);
    outgoing.on("close", () => clearTimeout(limit));
    // Also once the answer has begun: what the agent's check of the server says of a connection that it ends comes here.
    outgoing.on("error", (error) => reject((failure = refusalOf(error, url))));
    outgoing.on("response", (answer) => {
      clearTimeout(limit);
      resolve(answer);
    });
    outgoing.end(request.body);
  });
  if (incoming.statusCode !== 200) {
    incoming.setTimeout(defaultTimeoutMilliseconds, () => incoming.destroy(timedOut(url, defaultTimeoutMilliseconds)));
    throw problemOf({ status: incoming.statusCode ?? 0, headers: incoming.headers, body: await problemBody(incoming, url) }, url);
  }
  const silence = setTimeout(() => outgoing.destroy((failure = timedOut(url, request.silenceMilliseconds))), request.silenceMilliseconds);
  async function* body(): AsyncGenerator<Buffer, void, void> {
    try {
      for await (const octets of incoming) {
        silence.refresh();
        yield octets as Buffer;
      }
    } catch (error) {
      throw failure ?? refusalOf(error as Error, url);
    } finally {
      clearTimeout(silence);
      outgoing.destroy();
    }
  }
  return { headers: incoming.headers, body: body() };
}

async function problemBody(incoming: IncomingMessage, url: URL): Promise<Uint8Array> {
  const parts: Buffer[] = [];
  let length = 0;
  try {
    for await (const octets of incoming as AsyncIterable<Buffer>) {
      length += octets.length;
      if (length > problemBytes) throw new SignetError("body-too-large", `${url.origin} answered with more than ${problemBytes} bytes.`);
      parts.push(octets);
    }
  } catch (error) {
    throw refusalOf(error as Error, url);
  }
  return Buffer.concat(parts);
}

function timedOut(url: URL, milliseconds: number): SignetError {
  return new SignetError("timed-out", `${url.origin} did not answer in ${milliseconds} ms.`);
}

function startRequest(request: TlsRequest, url: URL): ClientRequest {
  const { body } = request;
  const headers = body === undefined ? { ...request.headers } : { "content-length": String(body.length), ...request.headers };
  return https.request(url, { agent: request.agent, method: request.method, headers, ...(request.signal === undefined ? {} : { signal: request.signal }) });
}

function exchange(request: TlsRequest, url: URL): Promise<TlsAnswer> {
  const { timeoutMilliseconds = defaultTimeoutMilliseconds, maximumBytes = defaultMaximumBytes, body } = request;
  return new Promise((resolve, reject) => {
    const outgoing = startRequest(request, url);
    const limit = setTimeout(() => outgoing.destroy(timedOut(url, timeoutMilliseconds)), timeoutMilliseconds);
    outgoing.on("close", () => clearTimeout(limit));
    outgoing.on("error", (error) => reject(refusalOf(error, url)));
    outgoing.on("response", (incoming) => {
      const chunks: Buffer[] = [];
      let length = 0;
      incoming.on("data", (chunk: Buffer) => {
        length += chunk.length;
        if (length <= maximumBytes) {
          chunks.push(chunk);
          return;
        }
        // Refused here and now: an answer that came in one burst has its 'end' before the error of the destroyed connection.
        const refusal = new SignetError("body-too-large", `${url.origin} answered with more than ${maximumBytes} bytes.`);
        reject(refusal);
        outgoing.destroy(refusal);
      });
      incoming.on("error", (error) => reject(refusalOf(error, url)));
      incoming.on("end", () => resolve({ status: incoming.statusCode ?? 0, headers: incoming.headers, body: chunks.length === 1 && chunks[0] !== undefined ? chunks[0] : Buffer.concat(chunks) }));
    });
    outgoing.end(body);
  });
}

function refusalOf(error: Error, url: URL): SignetError {
  if (error instanceof SignetError) return error;
  const code = "code" in error ? String(error.code) : "";
  if (error.name === "AbortError") return new SignetError("timed-out", `The request to ${url.origin} was abandoned.`, { cause: error });
  if (unreachableCodes.has(code)) return new SignetError("remote-unreachable", `No connection to ${url.origin} (${code}). Is the service running?`, { details: { reason: code }, cause: error });
  // A server that refuses a client's certificate in TLS 1.3 ends the connection after the client's handshake: a reset, or an alert.
  return new SignetError("tls-refused", `The connection to ${url.origin} was refused or cut (${code === "" ? error.message : code}).`, { details: { reason: code }, cause: error });
}

const problemDocument = z.object({ code: z.string(), detail: z.string().max(2000), details: z.record(z.string(), z.union([z.string(), z.number(), z.boolean()])).optional() });

function problemOf(answer: TlsAnswer, url: string | URL): SignetError {
  if (answer.headers["content-type"]?.startsWith("application/problem+json") === true) {
    try {
      const problem = problemDocument.parse(JSON.parse(Buffer.from(answer.body).toString("utf8")));
      if (isErrorCode(problem.code)) return new SignetError(problem.code, problem.detail, problem.details === undefined ? {} : { details: problem.details });
    } catch {
      // Falls through: whoever answers with something else does not speak Signet's protocol.
    }
  }
  return new SignetError("remote-malformed", `${new URL(url).origin} answered with status ${answer.status} and no problem document.`, { details: { status: answer.status } });
}
