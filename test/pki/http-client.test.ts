import { once } from "node:events";
import https from "node:https";
import type { RequestListener } from "node:http";
import type { AddressInfo } from "node:net";
import { beforeAll, expect, onTestFinished, test } from "vitest";
import { SignetError, toProblem } from "#pki/errors.ts";
import { requestOverMutualTls, type TlsRequest } from "#pki/http-client.ts";
import { alpn, type Credential, serverOnlyOptions } from "#pki/mtls.ts";
import { testAuthority, type TestAuthority } from "../support/pki.ts";

let authority: TestAuthority;
let credential: Credential;
beforeAll(async () => {
  authority = await testAuthority({ now: new Date() });
  const { privateKey, certificate } = await authority.issue({ kind: "service", role: "server", name: "ca" });
  credential = { privateKey, chain: [certificate, authority.issuing] };
});

/** Asks a server that answers so. */
async function ask(answer: RequestListener, more: Partial<TlsRequest> = {}) {
  const server = https.createServer(serverOnlyOptions({ credential, alpn: alpn.http }), answer).listen(0, "127.0.0.1");
  await once(server, "listening");
  const agent = new https.Agent({ ca: authority.root.toPem() });
  onTestFinished(() => {
    agent.destroy();
    server.close();
    server.closeAllConnections();
  });
  return requestOverMutualTls({ agent, url: `https://localhost:${(server.address() as AddressInfo).port}/`, method: "GET", ...more });
}

test("a body goes out and an answer comes back as octets", async () => {
  const answer = await ask((incoming, outgoing) => void incoming.pipe(outgoing.writeHead(201, { etag: '"7"' })), { method: "POST", body: Buffer.of(0, 255, 10) });
  expect([answer.status, answer.headers.etag, [...answer.body]]).toEqual([201, '"7"', [0, 255, 10]]);
});

test("304 is an answer", async () => {
  expect((await ask((_incoming, outgoing) => void outgoing.writeHead(304).end())).status).toBe(304);
});

test("a problem document is thrown as the refusal that it is", async () => {
  const problem = toProblem(new SignetError("state-conflict", "Not in this state.", { details: { state: "destroyed" } }), "id");
  await expect(ask((_incoming, outgoing) => void outgoing.writeHead(409, { "content-type": "application/problem+json" }).end(JSON.stringify(problem)))).rejects.toMatchObject({
    code: "state-conflict",
    details: { state: "destroyed" },
  });
});

test.each<[string, RequestListener]>([
  ["a redirect", (_incoming, outgoing) => void outgoing.writeHead(302, { location: "/elsewhere" }).end()],
  ["an error without a problem document", (_incoming, outgoing) => void outgoing.writeHead(500).end("oops")],
  ["a problem of an unknown code", (_incoming, outgoing) => void outgoing.writeHead(400, { "content-type": "application/problem+json" }).end('{"code":"constructor","detail":"x"}')],
])("%s is remote-malformed", async (_, answer) => {
  await expect(ask(answer)).rejects.toMatchObject({ code: "remote-malformed" });
});

test("an answer over the limit is refused", async () => {
  await expect(ask((_incoming, outgoing) => void outgoing.end(Buffer.alloc(1001)), { maximumBytes: 1000 })).rejects.toMatchObject({ code: "body-too-large" });
  expect((await ask((_incoming, outgoing) => void outgoing.end(Buffer.alloc(1000)), { maximumBytes: 1000 })).body).toHaveLength(1000);
});

test("an answer that does not come, or does not end, is timed out", async () => {
  await expect(ask(() => {}, { timeoutMilliseconds: 50 })).rejects.toMatchObject({ code: "timed-out" });
  await expect(ask((_incoming, outgoing) => void outgoing.write("half"), { timeoutMilliseconds: 50 })).rejects.toMatchObject({ code: "timed-out" });
});

test("an answer that breaks off is refused", async () => {
  await expect(ask((_incoming, outgoing) => void outgoing.writeHead(200, { "content-length": 10 }).write("half", () => outgoing.destroy()))).rejects.toMatchObject({ code: "tls-refused" });
});
