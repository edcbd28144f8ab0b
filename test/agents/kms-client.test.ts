import type { IncomingMessage, ServerResponse } from "node:http";
import https from "node:https";
import { once } from "node:events";
import type { AddressInfo } from "node:net";
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { KmsClient } from "#agents/kms-client.ts";
import { systemClock } from "#pki/clock.ts";
import { alpn, MutualAgent, mutualServerOptions } from "#pki/mtls.ts";
import { linkWorld } from "../support/parties.ts";

// What the client makes of answers that the real KMS would not give; its routes on the real one are in test/journeys/agent.test.ts.
type Answer = (request: IncomingMessage, response: ServerResponse) => void;
let answers: Answer[];
let requests: { method: string; url: string; headers: IncomingMessage["headers"] }[];
let client: KmsClient;
let server: https.Server;
let connections: MutualAgent;

const description = (id: string) => ({
  name: "team",
  id,
  spec: "aes-256",
  algorithms: ["AES-256-GCM"],
  owner: "spiffe://signet.internal/agent/alice",
  distribution: { readers: [] },
  createdAt: "2026-01-01T00:00:00Z",
  etag: '"1"',
  latest: { version: 1, state: "active", origin: "generated", createdAt: "2026-01-01T00:00:00Z", stateChangedAt: "2026-01-01T00:00:00Z", uses: 0, rotationAdvised: false },
});
const json = (body: unknown): Answer => (_, response) => response.writeHead(200, { "content-type": "application/json" }).end(JSON.stringify(body));
const material = (i: { id?: string; version?: string; octets?: number } = {}): Answer => (_, response) =>
  response
    .writeHead(200, { "content-type": "application/octet-stream", "signet-key-id": i.id ?? "k1", "signet-key-version": i.version ?? "1", "signet-key-state": "active", etag: '"m1"' })
    .end(Buffer.alloc(i.octets ?? 32, 7));
const notModified: Answer = (_, response) => response.writeHead(304).end();
const problem = (status: number, code: string): Answer => (_, response) =>
  response.writeHead(status, { "content-type": "application/problem+json" }).end(JSON.stringify({ type: `urn:signet:error:${code}`, title: "", status, code, detail: "no", requestId: "r", retryable: false }));
const refusal = (code: string) => expect.objectContaining({ code });

beforeAll(async () => {
  const world = await linkWorld();
  const [alice, kms] = [await world.party("alice"), await world.party("kms", { kind: "service" })];
  server = https.createServer(mutualServerOptions({ credential: kms.credential("server"), trustAnchors: kms.trustAnchors, alpn: alpn.http }), (request, response) => {
    requests.push({ method: request.method ?? "", url: request.url ?? "", headers: request.headers });
    request.resume();
    const answer = answers.shift();
    if (answer === undefined) response.writeHead(599).end();
    else answer(request, response);
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  connections = new MutualAgent({ credential: alice.credential("client"), trustAnchors: alice.trustAnchors, revocation: alice.revocation, clock: systemClock, expect: { uri: kms.identity.uri } });
});
afterAll(() => {
  connections.destroy();
  server.close();
});
beforeEach(() => {
  answers = [];
  requests = [];
  client = new KmsClient({ url: `https://localhost:${(server.address() as AddressInfo).port}`, agent: connections });
});

describe("material", () => {
  test("that was fetched before is handed out again only if the KMS confirms it", async () => {
    answers = [material(), json(description("k1")), notModified];
    const first = await client.material("team");
    expect(await client.material("team")).toBe(first);
    expect(requests.map((request) => request.headers["if-none-match"])).toEqual([undefined, undefined, '"m1"']);
  });

  test("is forgotten once the KMS refuses it", async () => {
    answers = [material(), json(description("k1")), problem(403, "not-permitted"), notModified];
    await client.material("team");
    await expect(client.material("team")).rejects.toThrow(refusal("not-permitted"));
    await expect(client.material("team")).rejects.toThrow(refusal("remote-malformed"));
    expect(requests.at(-1)?.headers["if-none-match"]).toBeUndefined();
  });

  test("is forgotten when its key is revoked or destroyed", async () => {
    answers = [material(), json(description("k1")), json({ key: "team", revoked: true }), problem(403, "not-permitted")];
    await client.material("team");
    await client.revokeKey("team");
    await expect(client.material("team")).rejects.toThrow(refusal("not-permitted"));
    expect(requests.at(-1)?.headers["if-none-match"]).toBeUndefined();
  });

  test.each([
    ["of another length", material({ octets: 31 })],
    ["of another version", material({ version: "2" })],
    ["without a version", material({ version: "x" })],
  ])("%s than was asked for is refused", async (_, answer) => {
    answers = [answer, json(description("k1"))];
    await expect(client.material("team", 1)).rejects.toThrow(refusal("remote-malformed"));
  });

  test("of a key that another took the name of in between is refused", async () => {
    answers = [material(), json(description("k2"))];
    await expect(client.material("team")).rejects.toThrow(refusal("state-conflict"));
  });
});

describe("answers", () => {
  test("that do not parse are remote-malformed, and quote nothing", async () => {
    answers = [(_, response) => response.writeHead(200).end("canary {"), json({ plaintext: 5, version: "canary" })];
    await expect(client.describeKey("team")).rejects.toThrow(expect.objectContaining({ code: "remote-malformed", message: expect.not.stringContaining("canary") }));
    await expect(client.decrypt("team", Buffer.from("x"))).rejects.toThrow(expect.objectContaining({ code: "remote-malformed", message: expect.not.stringContaining("canary") }));
  });

  test("that are problem documents become the error of that code", async () => {
    answers = [problem(409, "state-conflict"), problem(418, "teapot")];
    await expect(client.rotateKey("team")).rejects.toThrow(refusal("state-conflict"));
    await expect(client.rotateKey("team")).rejects.toThrow(refusal("remote-malformed"));
  });
});

test.each(["../whoami?x=", "..", "a/b", "A", ""])("what is no key's name leads to no route: %j", async (name) => {
  await expect(client.describeKey(name)).rejects.toThrow(refusal("request-malformed"));
  await expect(client.material(name)).rejects.toThrow(refusal("request-malformed"));
  await expect(client.revokeKey(name)).rejects.toThrow(refusal("request-malformed"));
  expect(requests).toEqual([]);
});

test("each call that makes something has an Idempotency-Key of its own, or the one it is given", async () => {
  answers = [json(description("k1")), json(description("k1")), json(description("k1"))];
  await client.createKey("team");
  await client.rotateKey("team");
  await client.rotateKey("team", "again");
  const keys = requests.map((request) => request.headers["idempotency-key"]);
  expect(new Set(keys).size).toBe(3);
  expect(keys[2]).toBe("again");
});

test("a call that may be repeated is made once more where its connection was cut, so that the reason arrives; no other is", async () => {
  const cut: Answer = (request) => request.socket.destroy();
  answers = [cut, problem(403, "certificate-revoked")];
  await expect(client.listKeys()).rejects.toThrow(refusal("certificate-revoked"));
  answers = [cut, json(description("k1"))];
  expect((await client.createKey("team")).id).toBe("k1");
  expect(new Set(requests.slice(2).map((request) => request.headers["idempotency-key"])).size).toBe(1);
  answers = [cut, problem(403, "certificate-revoked")];
  await expect(client.encrypt("team", Buffer.from("text"))).rejects.toThrow(refusal("tls-refused"));
  expect(requests).toHaveLength(5);
});
