import { randomUUID } from "node:crypto";
import type { IncomingMessage, Server, ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import type { Duplex } from "node:stream";
import express, { type Express, type NextFunction, type Request, type RequestHandler, type Response } from "express";
import type { z } from "zod";
import { SignetError, toProblem } from "./errors.ts";
import type { Log } from "./log.ts";
import { endsAfterAnswer } from "./mtls.ts";

export const bodyLimitBytes = 64 * 1024;

/** What no body of Signet's comes near, and no recursion over a body can be led beyond. */
const jsonDepthLimit = 16;

/** Connections that one listener holds open; further ones are closed unheard. */
const connectionLimit = 8192;

/** Every answer of a service names its request so, as its log and its audit log do. */
export const requestIdHeader = "X-Request-Id";

/** Time that open requests have to end in when a server closes. */
const closingMilliseconds = 2000;

type Method = "GET" | "POST" | "PATCH" | "PUT" | "DELETE";
export type Handler = (request: Request, response: Response) => Promise<void> | void;

/** What one path answers to; any other method is refused. Paths are literal but for `:name`, which takes one segment. */
export type Routes = Readonly<Record<string, Readonly<Partial<Record<Method, Handler>>>>>;

export interface ApplicationOptions {
  readonly log: Log;
  readonly routes: Routes;
  /** Runs before anything of the request but its head is looked at, and refuses by throwing: who the caller is, and whether the service is ready. */
  readonly admit?: (request: Request, response: Response) => Promise<void> | void;
}

/**
 * An express application of Signet: literal, case-sensitive routes, bodies of 64 KiB at most as octets in `request.body`, and every error as a
 * problem document (RFC 9457) that carries the request's id. Nothing is compressed, cached or negotiated.
 */
export function createApplication({ log, routes, admit }: ApplicationOptions): Express {
  const application = express();
  application.disable("x-powered-by");
  application.disable("etag");
  application.enable("case sensitive routing");
  application.enable("strict routing");
  application.set("query parser", "simple");
  application.use((_request, response, next) => {
    const requestId = randomUUID();
    response.locals["requestId"] = requestId;
    response.setHeader(requestIdHeader, requestId);
    response.setHeader("Cache-Control", "no-store");
    next();
  });
  if (admit !== undefined) application.use(wrapped(admit, true));
  // A compressed body could be far larger than its limit says: none is taken.
  application.use(express.raw({ type: () => true, limit: bodyLimitBytes, inflate: false }));
  for (const [path, methods] of Object.entries(routes)) {
    const route = application.route(path);
    const allowed = Object.keys(methods);
    route.all((request, response, next) => {
      // HEAD is a GET whose body node:http leaves out.
      const handler = methods[(request.method === "HEAD" ? "GET" : request.method) as Method];
      if (handler !== undefined) return wrapped(handler, false)(request, response, next);
      response.setHeader("Allow", allowed.join(", "));
      return next(new SignetError("method-not-allowed", `${path} answers to ${allowed.join(" and ")}.`));
    });
  }
  application.use((_request, _response, next) => next(new SignetError("route-not-found", "There is no such route.")));
  application.use((error: unknown, _request: Request, response: Response, _next: NextFunction) => sendProblem(response, error, requestIdOf(response), log));
  return application;
}

export function requestIdOf(response: Response): string {
  return String(response.locals["requestId"]);
}

/** Answers with the problem document of an error; a connection whose answer has begun is cut. Defects and outages go to the log. */
export function sendProblem(response: ServerResponse, error: unknown, requestId: string, log: Log): void {
  const problem = toProblem(refusalOf(error), requestId);
  // An outage is said by its code, however often it is met; a defect, which may be anything, with its stack.
  if (error instanceof SignetError && error.retryable) log.warn({ code: error.code, reason: error.message, cause: causeOf(error), requestId }, "request refused");
  else if (problem.status >= 500) log.error({ err: error, requestId }, "request failed");
  if (response.headersSent) {
    response.destroy();
    return;
  }
  const octets = Buffer.from(JSON.stringify(problem));
  const request = response.req;
  if (!endsAfterAnswer(request.socket)) {
    response.writeHead(problem.status, problemHead(octets)).end(octets);
    return;
  }
  // The answer goes out now; it ends, and the connection with it, when the request has been read.
  response.writeHead(problem.status, { ...problemHead(octets), Connection: "close" }).write(octets);
  if (request.complete) response.end();
  else request.once("close", () => response.end()).resume();
}

function causeOf(error: SignetError): string | undefined {
  return error.cause instanceof Error ? error.cause.message : undefined;
}

/** A problem document with the status that HTTP has for it, where that is finer than the code's. */
function problemOctets(refusal: SignetError, status: number): Buffer {
  return Buffer.from(JSON.stringify({ ...toProblem(refusal, randomUUID()), status }));
}

function problemHead(octets: Uint8Array) {
  return { "Content-Type": "application/problem+json", "Content-Length": octets.length };
}

export function sendJson(response: Response, status: number, body: object): void {
  const octets = Buffer.from(JSON.stringify(body));
  response.writeHead(status, { "Content-Type": "application/json", "Content-Length": octets.length });
  response.end(octets);
}

/** The JSON value in a request's body, nested 16 deep at most. @throws SignetError unsupported-media-type, request-malformed */
export function jsonBody(request: Request): unknown {
  requireMediaType(request, "application/json");
  let value: unknown;
  try {
    value = JSON.parse(octetsOf(request).toString("utf8"));
  } catch {
    throw new SignetError("request-malformed", "The body is not JSON.");
  }
  requireShallow(value, jsonDepthLimit);
  return value;
}

function requireShallow(value: unknown, levels: number): void {
  if (typeof value !== "object" || value === null) return;
  if (levels === 0) throw new SignetError("request-malformed", `The body is nested more than ${jsonDepthLimit} deep.`);
  for (const inner of Object.values(value)) requireShallow(inner, levels - 1);
}

/** The octets of a request's body; none where it has no body. */
export function octetsOf(request: Request): Buffer {
  return Buffer.isBuffer(request.body) ? request.body : Buffer.alloc(0);
}

/** @throws SignetError unsupported-media-type */
export function requireMediaType(request: Request, mediaType: string): void {
  const given = request.headers["content-type"]?.split(";", 1)[0]?.trim().toLowerCase();
  if (given !== mediaType) throw new SignetError("unsupported-media-type", `The body has to be ${mediaType}.`);
}

/** A value as its schema describes it. The message names the places that do not fit, never what stood there. @throws SignetError request-malformed */
export function parse<T>(schema: z.ZodType<T>, value: unknown): T {
  const result = schema.safeParse(value);
  if (result.success) return result.data;
  const places = result.error.issues.slice(0, 5).map((issue) => `${issue.path.join(".") || "body"} (${issue.code})`);
  throw new SignetError("request-malformed", `The request does not fit: ${places.join(", ")}.`);
}

/** Binds a port; 0 takes a free one. @returns the port @throws SignetError port-taken */
export function listen(server: Server, port: number, host: string): Promise<number> {
  server.maxConnections = connectionLimit;
  server.headersTimeout = 10_000;
  server.requestTimeout = 30_000;
  server.keepAliveTimeout = 65_000;
  // Longer than any answer is held: it ends the connections of those who do not read theirs.
  server.timeout = 90_000;
  server.on("clientError", refuseUnparsed);
  server.on("checkExpectation", (_request: IncomingMessage, response: ServerResponse) => {
    const octets = problemOctets(new SignetError("request-malformed", "The only expectation that is met is 100-continue."), 417);
    response.writeHead(417, problemHead(octets)).end(octets);
  });
  return new Promise((resolve, reject) => {
    server.once("error", (cause) => reject(new SignetError("port-taken", `Port ${port} of ${host} cannot be bound.`, { details: { port }, cause })));
    server.listen(port, host, () => resolve((server.address() as AddressInfo).port));
  });
}

/** Answers what node:http could not parse, which no application sees, and ends the connection. */
function refuseUnparsed(error: NodeJS.ErrnoException, socket: Duplex): void {
  if (!socket.writable || error.code === "ECONNRESET") {
    socket.destroy();
    return;
  }
  const [statusLine, refusal] = unparsed[error.code ?? ""] ?? ["400 Bad Request", new SignetError("request-malformed", "The request is not HTTP/1.1.")];
  const octets = problemOctets(refusal, Number.parseInt(statusLine, 10));
  const head = Object.entries({ ...problemHead(octets), Connection: "close" }).map(([name, value]) => `${name}: ${value}\r\n`);
  socket.end(Buffer.concat([Buffer.from(`HTTP/1.1 ${statusLine}\r\n${head.join("")}\r\n`), octets]), () => socket.destroy());
}

/** By error code of node:http: the status that HTTP has for it, and the refusal. */
const unparsed: Readonly<Record<string, readonly [string, SignetError]>> = {
  HPE_HEADER_OVERFLOW: ["431 Request Header Fields Too Large", new SignetError("request-malformed", "The head of a request has 16 KiB at most.")],
  HPE_CHUNK_EXTENSIONS_OVERFLOW: ["413 Payload Too Large", new SignetError("body-too-large", "Chunk extensions are not read.")],
  ERR_HTTP_REQUEST_TIMEOUT: ["408 Request Timeout", new SignetError("timed-out", "The request did not arrive whole within its time.")],
};

/** Takes no more connections, lets open requests end, and cuts what is left after two seconds. */
export function close(server: Server): Promise<void> {
  return new Promise((resolve) => {
    const limit = setTimeout(() => server.closeAllConnections(), closingMilliseconds);
    // A connection idles again when its open request has ended; node:http closes those alone that idle when it is told to.
    const sweep = setInterval(() => server.closeIdleConnections(), 10);
    server.close(() => {
      clearTimeout(limit);
      clearInterval(sweep);
      resolve();
    });
    server.closeIdleConnections();
  });
}

/** Express 5 takes a rejected promise for an error. */
function wrapped(handler: Handler, goesOn: boolean): RequestHandler {
  return async (request, response, next) => {
    await handler(request, response);
    if (goesOn) next();
  };
}

/** What body-parser and the router throw has an HTTP status; whatever else is a defect. */
function refusalOf(error: unknown): unknown {
  if (error instanceof SignetError || !(error instanceof Error)) return error;
  if ("type" in error && error.type === "entity.too.large") return new SignetError("body-too-large", `A body has ${bodyLimitBytes} bytes at most.`, { cause: error });
  if ("status" in error && error.status === 415) return new SignetError("unsupported-media-type", "The body's encoding is not accepted.", { cause: error });
  if ("status" in error && typeof error.status === "number" && error.status >= 400 && error.status < 500)
    return new SignetError("request-malformed", "The request does not parse.", { cause: error });
  return error;
}
