import { once } from "node:events";
import type { KeyObject } from "node:crypto";
import https from "node:https";
import type { AddressInfo } from "node:net";
import tls, { type TLSSocket } from "node:tls";
import { beforeAll, expect, onTestFinished, test } from "vitest";
import type { Certificate } from "#pki/certificate.ts";
import { type Clock, systemClock } from "#pki/clock.ts";
import type { RevokedEntry } from "#pki/crl.ts";
import { type ErrorCode, toProblem } from "#pki/errors.ts";
import { requestOverMutualTls } from "#pki/http-client.ts";
import { alpn, AuthenticatedPeer, type ConnectOptions, connectMutually, type Credential, MutualAgent, mutualServerOptions, PeerSessions } from "#pki/mtls.ts";
import { Name } from "#pki/name.ts";
import { memoryFloors, RevocationStore } from "#pki/revocation.ts";
import { lookUpWhileBusy } from "../support/busy-lookup.ts";
import { extensions, forge, testAuthority, testKeyPair, uri, type TestAuthority } from "../support/pki.ts";

const maxAgeMilliseconds = 300_000;
const kmsUri = "spiffe://signet.internal/service/kms";
const aliceUri = "spiffe://signet.internal/agent/alice";
const refused = (code: ErrorCode) => expect.objectContaining({ code });

let authority: TestAuthority;
let kms: Credential;
let alice: Credential;

const credentialOf = (leaf: { readonly privateKey: KeyObject; readonly certificate: Certificate }): Credential => ({ privateKey: leaf.privateKey, chain: [leaf.certificate, authority.issuing] });

beforeAll(async () => {
  authority = await testAuthority({ now: new Date() });
  kms = credentialOf(await authority.issue({ kind: "service", role: "server", name: "kms" }));
  alice = credentialOf(await authority.issue({ role: "client", name: "alice" }));
});

/** What one party knows of revocations, with a clock whose monotonic time a test moves on. */
function knowledge(i: { readonly informed?: boolean } = {}) {
  let elapsed = 0;
  const clock: Clock = { now: () => systemClock.now(), monotonicMilliseconds: () => systemClock.monotonicMilliseconds() + elapsed };
  const revocation = new RevocationStore({ trustAnchors: [authority.root], floors: memoryFloors(), clock, maxAgeMilliseconds });
  let crlNumber = 0;
  const revoke = (...entries: readonly RevokedEntry[]): void => {
    crlNumber += 1;
    const thisUpdate = new Date(Math.floor(Date.now() / 1000) * 1000 - 3_600_000 + crlNumber * 1000);
    revocation.accept(authority.leafCrl(entries, { crlNumber: BigInt(crlNumber), thisUpdate }).der, [authority.issuing]);
  };
  if (i.informed !== false) {
    revocation.accept(authority.rootCrl([]).der, []);
    revoke();
  }
  return { clock, revocation, trustAnchors: [authority.root], revoke, age: (milliseconds: number) => void (elapsed += milliseconds) };
}
const entryOf = ({ chain: [certificate] }: Credential): RevokedEntry => ({ serialNumber: certificate?.serialNumber ?? "", revocationDate: new Date(Date.now() - 7_200_000) });

interface Served {
  readonly port: number;
  readonly sessions: PeerSessions;
  readonly known: ReturnType<typeof knowledge>;
  readonly requests: string[];
  readonly sockets: TLSSocket[];
  readonly failures: Error[];
}

/** A server as the KMS is one: it names its caller, or answers with the problem. */
async function serve(options: tls.TlsOptions = {}, answer?: (response: { end(text: string): void }) => void): Promise<Served> {
  const known = knowledge();
  const sessions = new PeerSessions({ ...known, purpose: "clientAuth" });
  const [requests, sockets, failures]: [string[], TLSSocket[], Error[]] = [[], [], []];
  const server = https.createServer({ ...mutualServerOptions({ credential: kms, trustAnchors: [authority.root], alpn: alpn.http }), ...options }, (incoming, outgoing) => {
    requests.push(incoming.url ?? "");
    try {
      const { identity } = sessions.peer(incoming.socket as TLSSocket);
      if (answer === undefined) outgoing.end(identity.uri);
      else answer(outgoing);
    } catch (error) {
      const problem = toProblem(error, "test");
      outgoing.writeHead(problem.status, { "content-type": "application/problem+json" });
      outgoing.end(JSON.stringify(problem));
    }
  });
  server.on("secureConnection", (socket: TLSSocket) => {
    sockets.push(socket);
    sessions.admit(socket);
  });
  server.on("tlsClientError", (error) => failures.push(error));
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  onTestFinished(() => {
    server.close();
    server.closeAllConnections();
  });
  return { port: (server.address() as AddressInfo).port, sessions, known, requests, sockets, failures };
}

const pem = (credential: Credential) => ({ key: String(credential.privateKey.export({ format: "pem", type: "pkcs8" })), cert: credential.chain.map((certificate) => certificate.toPem()).join("") });

/** The end of a connection, by whatever means. */
const closeOf = (socket: TLSSocket): Promise<void> => new Promise((resolve) => void socket.once("close", () => resolve()));

/** A client that keeps to nothing but TLS. */
async function connectRaw(port: number, options: tls.ConnectionOptions = {}): Promise<TLSSocket> {
  const socket = tls.connect({ host: "127.0.0.1", port, servername: "localhost", ca: authority.root.toPem(), ALPNProtocols: [alpn.http], ...pem(alice), ...options });
  socket.on("error", () => {});
  onTestFinished(() => void socket.destroy());
  await once(socket, "secureConnect");
  return socket;
}

async function get(socket: TLSSocket): Promise<string> {
  socket.write("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
  return String((await once(socket, "data"))[0]);
}

const clientOptions = (port: number, known = knowledge(), more: Partial<ConnectOptions> = {}): ConnectOptions => ({ ...known, host: "localhost", port, credential: alice, alpn: alpn.http, expect: { uri: kmsUri }, ...more });

function agentFor(known = knowledge()): MutualAgent {
  const agent = new MutualAgent({ ...known, credential: alice, expect: { uri: kmsUri } });
  onTestFinished(() => agent.destroy());
  return agent;
}
const ask = async (agent: MutualAgent, port: number, path = "/") => Buffer.from((await requestOverMutualTls({ agent, url: `https://localhost:${port}${path}`, method: "GET" })).body).toString();

test("a caller is the URI of its certificate", async () => {
  const { port, sessions } = await serve();
  const socket = await connectRaw(port);
  expect(await get(socket)).toContain(aliceUri);
  expect(sessions.open).toBe(1);
});

test("without a certificate, and with one of a foreign root, there is no connection", async () => {
  const { port, requests, sockets, failures } = await serve();
  const foreign = await testAuthority({ now: new Date() });
  const stranger = await foreign.issue({ role: "client", name: "alice" });
  const credentials = [{ key: undefined, cert: undefined }, pem({ privateKey: stranger.privateKey, chain: [stranger.certificate, foreign.issuing] })];
  for (const credential of credentials) {
    const socket = tls.connect({ host: "127.0.0.1", port, servername: "localhost", ca: authority.root.toPem(), ALPNProtocols: [alpn.http], ...credential } as tls.ConnectionOptions);
    socket.on("error", () => {});
    socket.write("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
    await closeOf(socket);
  }
  expect([requests, sockets]).toEqual([[], []]);
  expect(failures).toHaveLength(2);
});

/** Whether a server resumes the session of an earlier connection. */
async function resumes(port: number): Promise<boolean> {
  const first = await connectRaw(port);
  let session: Buffer | undefined;
  first.on("session", (given: Buffer) => (session = given));
  await get(first);
  session ??= first.getSession();
  const second = await connectRaw(port, session === undefined ? {} : { session });
  await get(second);
  return second.isSessionReused();
}

test("a session from before is not resumed: every connection is authenticated by itself", async () => {
  const { port, sockets } = await serve();
  expect(await resumes(port)).toBe(false);
  expect(sockets.map((socket) => socket.isSessionReused())).toEqual([false, false]);
  // The control: with tickets the very same client resumes.
  const withTickets = await serve({ secureOptions: 0 });
  expect(await resumes(withTickets.port)).toBe(true);
});

test("TLS 1.2 is not spoken", async () => {
  const { port } = await serve();
  await expect(connectRaw(port, { maxVersion: "TLSv1.2" })).rejects.toMatchObject({ code: "ERR_SSL_TLSV1_ALERT_PROTOCOL_VERSION" });
});

test("a request on an open connection is refused once its caller is revoked, before the connection is gone", async () => {
  const { port, sessions, known, sockets } = await serve();
  await get(await connectRaw(port));
  const [socket] = sockets as [TLSSocket];
  const peer = sessions.peer(socket);
  expect(AuthenticatedPeer.is(peer)).toBe(true);
  known.revoke(entryOf(alice));
  expect(() => sessions.peer(socket)).toThrow(refused("certificate-revoked"));
  expect(() => sessions.recheck(peer)).toThrow(refused("certificate-revoked"));
});

test("a CRL that revokes a caller cuts its connections, and nobody else's", async () => {
  const { port, known, sockets } = await serve();
  const bob = credentialOf(await authority.issue({ role: "client", name: "bob" }));
  const [ofAlice, ofBob] = [await connectRaw(port), await connectRaw(port, pem(bob))];
  await Promise.all([get(ofAlice), get(ofBob)]);
  const closed = closeOf(ofAlice);
  known.revoke(entryOf(alice));
  expect(sockets.map((socket) => socket.destroyed)).toEqual([true, false]);
  await closed;
  expect(await get(ofBob)).toContain("/agent/bob");
});

test("a refused caller may send its body to the end: the server reads it before the connection is gone, so that the answer is not lost in a reset", async () => {
  const { port, known, sockets } = await serve();
  known.revoke(entryOf(alice));
  const socket = await connectRaw(port);
  const [failures, body]: [Error[], Buffer] = [[], Buffer.alloc(60_000)];
  socket.on("error", (error) => failures.push(error));
  const closed = closeOf(socket);
  socket.write(`POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: ${body.length}\r\n\r\n`);
  expect(String((await once(socket, "data"))[0])).toContain('"code":"certificate-revoked"');
  const [served] = sockets as [TLSSocket];
  expect(served.destroyed).toBe(false);
  socket.end(body);
  await closed;
  expect(failures).toEqual([]);
  expect(served.bytesRead).toBeGreaterThan(body.length);
});

test("a revoked caller that connects anew is told so at its first request, and its connection is closed", async () => {
  const { port, known } = await serve();
  known.revoke(entryOf(alice));
  const socket = await connectRaw(port);
  const closed = closeOf(socket);
  const answer = await get(socket);
  expect(answer).toMatch(/^HTTP\/1\.1 403 /);
  expect(answer).toContain('"code":"certificate-revoked"');
  await closed;
});

test("a caller is refused while revocation data is overdue, keeps its connection, and is served again", async () => {
  const { port, known } = await serve();
  const socket = await connectRaw(port);
  await get(socket);
  known.age(maxAgeMilliseconds + 1000);
  expect(await get(socket)).toContain('"code":"crl-refresh-overdue"');
  for (const { scope } of known.revocation.status()) known.revocation.confirmCurrent(scope);
  expect(await get(socket)).toContain(aliceUri);
});

test("a client that offers no protocol, or that speaks another, is refused", async () => {
  const { port } = await serve();
  expect(await get(await connectRaw(port, { ALPNProtocols: [] }))).toContain('"code":"alpn-mismatch"');
  await expect(connectRaw(port, { ALPNProtocols: [alpn.link] })).rejects.toMatchObject({ code: "ERR_SSL_TLSV1_ALERT_NO_APPLICATION_PROTOCOL" });
});

const clientAuth = "1.3.6.1.5.5.7.3.2";
test.each<[string, ErrorCode, () => readonly Uint8Array[]]>([
  ["without extendedKeyUsage", "extended-key-usage-missing", () => [extensions.subjectAltName([uri(aliceUri)])]],
  ["without subjectAltName", "san-missing", () => [extensions.extendedKeyUsage(clientAuth)]],
  ["with two URIs", "identity-ambiguous", () => [extensions.extendedKeyUsage(clientAuth), extensions.subjectAltName([uri(aliceUri), uri("spiffe://signet.internal/agent/bob")])]],
])("a certificate %s, which OpenSSL accepts, is refused", async (_, code, more) => {
  const { port } = await serve();
  const keys = testKeyPair();
  const certificate = forge(
    {
      subject: Name.of([["2.5.4.10", "signet.internal"], ["2.5.4.3", "alice"]]),
      issuer: authority.issuing.subject,
      publicKey: keys.publicKey,
      notBefore: new Date(Date.now() - 60_000),
      notAfter: new Date(Date.now() + 3_600_000),
      extensions: [
        extensions.keyUsage("digitalSignature"),
        extensions.authorityKeyIdentifier(authority.issuing.extensions.subjectKeyIdentifier ?? ""),
        extensions.crlDistributionPoint(authority.crlDistributionPoint),
        ...more(),
      ],
    },
    authority.issuingKeys.privateKey,
  );
  const socket = await connectRaw(port, pem({ privateKey: keys.privateKey, chain: [certificate, authority.issuing] }));
  const closed = closeOf(socket);
  expect(await get(socket)).toContain(`"code":"${code}"`);
  await closed;
});

test("only an AuthenticatedPeer of PeerSessions is a caller", async () => {
  const { port, sessions, sockets } = await serve();
  const socket = await connectRaw(port);
  await get(socket);
  const peer = sessions.peer(sockets[0] as TLSSocket);
  expect(() => new AuthenticatedPeer(Symbol("construction"), peer.identity, peer.proof)).toThrow(refused("internal"));
  expect(() => sessions.recheck({ ...peer } as unknown as AuthenticatedPeer)).toThrow(refused("internal"));
  expect(() => sessions.peer(socket)).toThrow(refused("client-certificate-required"));
});

test("a client gets a connection when every check of the server has passed", async () => {
  const { port } = await serve();
  const socket = await connectMutually(clientOptions(port));
  onTestFinished(() => void socket.destroy());
  expect(await get(socket)).toContain(aliceUri);
});

test.each<[string, ErrorCode, (known: ReturnType<typeof knowledge>) => Partial<ConnectOptions>]>([
  ["whose URI is not the one asked for", "peer-mismatch", () => ({ expect: { uri: "spiffe://signet.internal/service/ca" } })],
  ["of another host name", "name-mismatch", () => ({ servername: "kms.example" })],
  ["of another address", "name-mismatch", () => ({ servername: "127.0.0.2" })],
  ["that is revoked", "certificate-revoked", (known) => (known.revoke(entryOf(kms)), {})],
  ["while revocation data is overdue", "crl-refresh-overdue", (known) => (known.age(maxAgeMilliseconds + 1000), {})],
  ["of whom no CRL is known", "crl-missing", () => ({ revocation: knowledge({ informed: false }).revocation })],
])("a client sends nothing to a server %s", async (_, code, change) => {
  const { port, requests } = await serve();
  const known = knowledge();
  await expect(connectMutually(clientOptions(port, known, change(known)))).rejects.toMatchObject({ code });
  expect(requests).toEqual([]);
});

test("a client refuses a server that agrees on no protocol", async () => {
  const { port } = await serve({ ALPNProtocols: [] });
  await expect(connectMutually(clientOptions(port))).rejects.toMatchObject({ code: "alpn-mismatch" });
});

test("a client refuses a server that shows a client's certificate, or a chain of another root", async () => {
  const foreign = await testAuthority({ now: new Date() });
  const stranger = await foreign.issue({ kind: "service", role: "server", name: "kms" });
  for (const credential of [alice, { privateKey: stranger.privateKey, chain: [stranger.certificate, foreign.issuing] }]) {
    const { port, requests } = await serve(pem(credential));
    await expect(connectMutually(clientOptions(port))).rejects.toMatchObject({ code: "tls-refused" });
    expect(requests).toEqual([]);
  }
});

test("nobody at the port is remote-unreachable", async () => {
  const server = tls.createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  await new Promise((resolve) => server.close(resolve));
  await expect(connectMutually(clientOptions(port, knowledge(), { host: "127.0.0.1" }))).rejects.toMatchObject({ code: "remote-unreachable" });
});

test("who listens on the first of two addresses alone is reached, though this process was busy for longer than Node waits for one", async () => {
  const { port } = await serve();
  const lookup = lookUpWhileBusy();
  const socket = await connectMutually(clientOptions(port));
  onTestFinished(() => void socket.destroy());
  expect(lookup).toHaveBeenCalled();
  expect(await get(socket)).toContain(aliceUri);
});

test("requests of one agent share a connection, and every one of them asks for the server's standing", async () => {
  const { port, requests, sockets } = await serve();
  const known = knowledge();
  const agent = agentFor(known);
  await ask(agent, port, "/1");
  await ask(agent, port, "/2");
  expect(sockets).toHaveLength(1);
  known.age(maxAgeMilliseconds + 1000);
  await expect(ask(agent, port, "/3")).rejects.toMatchObject({ code: "crl-refresh-overdue" });
  expect(requests).toEqual(["/1", "/2"]);
});

test("a request that queued for a connection asks for the server's standing too", async () => {
  const known = knowledge();
  const agent = agentFor(known);
  agent.maxSockets = 1;
  let served = 0;
  const { port, requests } = await serve({}, (response) => {
    served += 1;
    if (served === 2) known.age(maxAgeMilliseconds + 1000);
    response.end("answer");
  });
  // A first one by itself: while a connection is being made, node:http does not queue but makes another.
  await ask(agent, port, "/1");
  const [first, second] = await Promise.allSettled([ask(agent, port, "/2"), ask(agent, port, "/3")]);
  expect(first).toMatchObject({ status: "fulfilled", value: "answer" });
  expect(second).toMatchObject({ status: "rejected", reason: refused("crl-refresh-overdue") });
  expect(requests).toEqual(["/1", "/2"]);
});

test("a CRL that revokes the server ends a request that waits for its answer", async () => {
  const known = knowledge();
  const { port } = await serve({}, () => known.revoke(entryOf(kms)));
  await expect(ask(agentFor(known), port)).rejects.toMatchObject({ code: "certificate-revoked" });
});

test("an agent takes its credential anew for each connection, so that a renewal takes effect", async () => {
  const { port } = await serve();
  const bob = credentialOf(await authority.issue({ role: "client", name: "bob" }));
  let current = alice;
  const known = knowledge();
  const agent = new MutualAgent({ ...known, credential: () => current, expect: { uri: kmsUri } });
  onTestFinished(() => agent.destroy());
  expect(await ask(agent, port)).toBe(aliceUri);
  current = bob;
  for (const socket of Object.values(agent.freeSockets).flatMap((sockets) => sockets ?? [])) socket.destroy();
  expect(await ask(agent, port)).toContain("/agent/bob");
});
