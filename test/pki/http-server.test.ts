import { once } from "node:events";
import { createServer, request as send, type IncomingMessage, type ServerResponse } from "node:http";
import { connect } from "node:net";
import { text } from "node:stream/consumers";
import { pino } from "pino";
import { afterAll, beforeAll, expect, test } from "vitest";
import { z } from "zod";
import { SignetError } from "#pki/errors.ts";
import { bodyLimitBytes, close, createApplication, jsonBody, listen, parse, sendJson, sendProblem } from "#pki/http-server.ts";
import { silentLog } from "#pki/log.ts";

let port = 0;
const reached: string[] = [];
const server = createServer(
  createApplication({
    log: silentLog,
    admit: (request) => {
      if (request.headers["x-caller"] === "mallory") throw new SignetError("not-permitted", "Not you.");
    },
    routes: {
      "/v1/things": {
        GET: (_request, response) => sendJson(response, 200, { things: [] }),
        POST: (request, response) => {
          reached.push("POST");
          sendJson(response, 201, parse(z.strictObject({ name: z.string() }), jsonBody(request)));
        },
      },
      "/v1/defect": {
        GET: () => {
          throw new TypeError("canary: inner detail");
        },
      },
      "/v1/things/:name": { GET: (request, response) => sendJson(response, 200, { name: request.params["name"] }) },
    },
  }),
);

beforeAll(async () => {
  port = await listen(server, 0, "127.0.0.1");
});
afterAll(() => close(server));

function call(method: string, path: string, headers: Record<string, string> = {}, body?: string | Buffer): Promise<{ status: number; headers: IncomingMessage["headers"]; body: string }> {
  return new Promise((resolve, reject) => {
    const outgoing = send({ port, method, path, headers }, (incoming) => {
      text(incoming).then((body) => resolve({ status: incoming.statusCode ?? 0, headers: incoming.headers, body }), reject);
    });
    outgoing.on("error", reject);
    outgoing.end(body);
  });
}
const json = { "content-type": "application/json" };

test.each<[string, number, string, [method: string, path: string, headers?: Record<string, string>, body?: string | Buffer]]>([
  ["an unknown route", 404, "route-not-found", ["GET", "/v1/nothing"]],
  ["a route in other letters", 404, "route-not-found", ["GET", "/V1/things"]],
  ["a route with a slash after it", 404, "route-not-found", ["GET", "/v1/things/"]],
  ["a route by an encoded name", 404, "route-not-found", ["GET", "/v1/%74hings"]],
  ["a broken percent-encoding", 400, "request-malformed", ["GET", "/v1/things/%zz"]],
  ["another method", 405, "method-not-allowed", ["DELETE", "/v1/things"]],
  ["no media type", 415, "unsupported-media-type", ["POST", "/v1/things", {}, '{"name":"a"}']],
  ["another media type", 415, "unsupported-media-type", ["POST", "/v1/things", { "content-type": "text/plain" }, '{"name":"a"}']],
  ["a compressed body", 415, "unsupported-media-type", ["POST", "/v1/things", { ...json, "content-encoding": "gzip" }, "x"]],
  ["a body that is no JSON", 400, "request-malformed", ["POST", "/v1/things", json, "{"]],
  ["no body", 400, "request-malformed", ["POST", "/v1/things", json]],
  ["a body that does not fit the schema", 400, "request-malformed", ["POST", "/v1/things", json, '{"name":1}']],
  ["a name that the schema does not know", 400, "request-malformed", ["POST", "/v1/things", json, '{"name":"a","__proto__":{}}']],
  ["a body that is nested beyond reason", 400, "request-malformed", ["POST", "/v1/things", json, `{"name":${"[".repeat(17)}${"]".repeat(17)}}`]],
  ["a body over the limit", 413, "body-too-large", ["POST", "/v1/things", json, Buffer.alloc(bodyLimitBytes + 1, 0x20)]],
  ["a caller that is not admitted, whatever it asks for", 403, "not-permitted", ["POST", "/v1/nothing", { "x-caller": "mallory" }, "{"]],
  ["a defect", 500, "internal", ["GET", "/v1/defect"]],
])("%s is refused with a problem document", async (_, status, code, request) => {
  const answer = await call(...request);
  expect(answer.status).toBe(status);
  expect(answer.headers["content-type"]).toBe("application/problem+json");
  expect(JSON.parse(answer.body)).toMatchObject({ status, code, type: `urn:signet:error:${code}`, requestId: expect.stringMatching(/^[0-9a-f-]{36}$/) });
  expect(answer.headers["x-request-id"]).toBe((JSON.parse(answer.body) as { requestId: string }).requestId);
  expect(answer.body).not.toContain("canary");
});

test.each<[string, number, string, string]>([
  ["what is no HTTP", 400, "request-malformed", "\0\u0001\u0002\r\n\r\n"],
  ["two lengths", 400, "request-malformed", "POST /v1/things HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"],
  ["a head beyond its limit", 431, "request-malformed", `GET /v1/things HTTP/1.1\r\nHost: x\r\nX-Filler: ${"a".repeat(20_000)}\r\n\r\n`],
  ["chunk extensions beyond their limit", 413, "body-too-large", `POST /v1/things HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1;${"x".repeat(20_000)}\r\n`],
  ["an expectation that nobody knows", 417, "request-malformed", "POST /v1/things HTTP/1.1\r\nHost: x\r\nConnection: close\r\nExpect: miracles\r\nContent-Length: 0\r\n\r\n"],
])("%s is refused with a problem document before it reaches the application", async (_, status, code, octets) => {
  const socket = connect(port, "127.0.0.1");
  socket.write(octets, "latin1");
  const [head = "", body = ""] = (await text(socket)).split("\r\n\r\n");
  expect(head).toMatch(new RegExp(`^HTTP/1.1 ${status} `));
  expect(head.toLowerCase()).toContain("content-type: application/problem+json");
  expect(JSON.parse(body)).toMatchObject({ status, code, requestId: expect.stringMatching(/^[0-9a-f-]{36}$/) });
});

test("what fits is served, and says that nobody may keep it", async () => {
  const answer = await call("POST", "/v1/things", { "content-type": "application/json; charset=utf-8" }, '{"name":"a"}');
  expect([answer.status, JSON.parse(answer.body), answer.headers["cache-control"]]).toEqual([201, { name: "a" }, "no-store"]);
  expect(answer.headers["x-powered-by"]).toBeUndefined();
  expect(answer.headers["etag"]).toBeUndefined();
  expect(reached).toContain("POST");
});

test("an outage goes to the log by its code, a defect with its stack", () => {
  const lines: string[] = [];
  const log = pino({}, { write: (line: string) => void lines.push(line) });
  const response = () => {
    const recorder = { headersSent: false, req: { socket: {} }, writeHead: () => recorder, end: () => {} };
    return recorder as unknown as ServerResponse;
  };
  sendProblem(response(), new SignetError("crl-stale", "The CRL ended."), "1", log);
  sendProblem(response(), new TypeError("inner"), "2", log);
  sendProblem(response(), new SignetError("not-permitted", "Not you."), "3", log);
  expect(lines.map((line) => [line.includes('"code":"crl-stale"'), line.includes('"stack"')])).toEqual([[true, false], [false, true]]);
});

test("a port that is in use is named", async () => {
  await expect(listen(createServer(), port, "127.0.0.1")).rejects.toMatchObject({ code: "port-taken", details: { port } });
});

test("closing waits for an open request, and cuts the connections that idle", async () => {
  const asked: (() => void)[] = [];
  const slow = createServer(createApplication({ log: silentLog, routes: { "/slow": { GET: (_request, response) => new Promise((resolve) => asked.push(() => resolve(sendJson(response, 200, {})))) }, "/": { GET: (_request, response) => sendJson(response, 200, {}) } } }));
  const at = await listen(slow, 0, "127.0.0.1");
  const idle = connect(at, "127.0.0.1");
  idle.write("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
  await once(idle, "data");
  const answer = new Promise<number | undefined>((resolve, reject) => {
    send({ port: at, path: "/slow" }, (incoming) => resolve(incoming.resume().statusCode)).on("error", reject).end();
  });
  while (asked.length === 0) await new Promise((resolve) => setImmediate(resolve));
  const closed = close(slow);
  idle.resume();
  await once(idle, "close");
  asked[0]?.();
  expect(await answer).toBe(200);
  await closed;
});
