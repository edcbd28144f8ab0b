import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { once } from "node:events";
import { Agent, createServer, request as httpsRequest } from "node:https";
import type { IncomingHttpHeaders } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { createInterface } from "node:readline";
import path from "node:path";
import { buffer } from "node:stream/consumers";
import { connect, type TLSSocket } from "node:tls";
import { pino } from "pino";
import { EventStreams } from "#kms-server/event-streams.ts";
import { kmsListener } from "#kms-server/http.ts";
import type { IdentityKind, Role } from "#pki/certificate-profile.ts";
import { systemClock } from "#pki/clock.ts";
import type { RevokedEntry } from "#pki/crl.ts";
import { SecretKey } from "#pki/keys.ts";
import { alpn, mutualServerOptions, PeerSessions } from "#pki/mtls.ts";
import { memoryFloors, RevocationStore } from "#pki/revocation.ts";
import { testAuthority, type IssuedLeaf, type KeyPair, type TestAuthority } from "#test/support/pki.ts";
import { openKeyService, trustDomain } from "./fixture.ts";

export interface Answer {
  readonly status: number;
  readonly headers: IncomingHttpHeaders;
  readonly octets: Buffer;
  /** Body as JSON; empty where it is none. */
  readonly json: Readonly<Record<string, unknown>>;
}

/** Somebody on the other end of the wire, on one keep-alive connection. */
export interface Party {
  readonly uri: string;
  readonly serialNumber: string;
  request(method: string, path: string, body?: unknown, headers?: Record<string, string>): Promise<Answer>;
  /** The same on a connection of its own, with the path as it stands and the body as octets: what a client library would not send. */
  raw(method: string, path: string, body?: string | Uint8Array, headers?: Record<string, string>): Promise<Answer>;
  /** The head of a request, and the body only once the answer has come; resolves when the server has ended the connection. */
  sendInTwo(method: string, path: string, body: Uint8Array): Promise<Answer>;
  /** A connection of its own on which the answer goes on: its lines as they come, until the connection ends. Aborting ends it. */
  lines(path: string): Promise<{ readonly status: number; readonly lines: AsyncIterator<string>; close(): void }>;
  /** Asks for this and is gone before the answer. */
  hangUp(path: string): Promise<void>;
}

export type TestKms = Awaited<ReturnType<typeof startTestKms>>;

/** The KMS's HTTP API over real mutual TLS, in this process, under an authority in memory. */
export async function startTestKms(options: { crls?: boolean } = {}) {
  const authority = await testAuthority({ now: new Date(), trustDomain });
  const foreignAuthority = await testAuthority({ now: new Date(), trustDomain });
  const directory = mkdtempSync(path.join(tmpdir(), "signet-"));
  const lines: string[] = [];
  const log = pino({ level: "debug" }, { write: (line: string) => void lines.push(line) });

  const revocation = new RevocationStore({ trustAnchors: [authority.root], floors: memoryFloors(), clock: systemClock, maxAgeMilliseconds: 300_000 });
  const revoked: RevokedEntry[] = [];
  let published = 0;
  const publishCrls = async () => {
    published += 1;
    const dates = { crlNumber: BigInt(published), thisUpdate: new Date(Date.now() - 3_600_000 + published * 1000) };
    revocation.accept(authority.rootCrl([], dates).der, [authority.issuing]);
    revocation.accept(authority.leafCrl(revoked, dates).der, [authority.issuing]);
  };
  if (options.crls !== false) await publishCrls();

  const sessions = new PeerSessions({ trustAnchors: [authority.root], revocation, clock: systemClock, purpose: "clientAuth" });
  const keys = await openKeyService(directory, SecretKey.random(32), (peer) => sessions.recheck(peer));
  const released: Uint8Array[] = [];
  const distribute = keys.service.distribute.bind(keys.service);
  keys.service.distribute = (call, name, version, ifNoneMatch, release) =>
    distribute(call, name, version, ifNoneMatch, (key) => {
      if (key.material !== undefined) released.push(key.material);
      release(key);
    });
  const own = await authority.issue({ kind: "service", role: "server", name: "kms" });
  const credential = { privateKey: own.privateKey, chain: [own.certificate, authority.issuing] };
  const events = new EventStreams({ service: keys.service, recheck: (peer) => sessions.recheck(peer), heartbeatMilliseconds: 50 });
  const listener = kmsListener({ service: keys.service, sessions, revocation, events, credential: () => credential, clock: systemClock, log });
  const server = createServer(mutualServerOptions({ credential, trustAnchors: [authority.root], alpn: alpn.http }), listener);
  server.on("secureConnection", (socket: TLSSocket) => sessions.admit(socket));
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as AddressInfo;

  const agents: Agent[] = [];
  const party = (uri: string, leaf?: IssuedLeaf, issuer: TestAuthority = authority): Party => {
    const tls = {
      host: "127.0.0.1", port, servername: "localhost", ca: authority.root.toPem(), ALPNProtocols: ["http/1.1"],
      ...(leaf === undefined ? {} : { key: leaf.privateKey.export({ type: "pkcs8", format: "pem" }), cert: leaf.certificate.toPem() + issuer.issuing.toPem() }),
    };
    const agent = new Agent({ keepAlive: true, maxSockets: 1, ...tls });
    agents.push(agent);
    return {
      uri,
      serialNumber: leaf?.certificate.serialNumber ?? "",
      request: async (method, path, body, headers = {}) => {
        const content = body === undefined ? undefined : Buffer.from(JSON.stringify(body));
        const typed = content === undefined ? {} : { "Content-Type": "application/json", "Content-Length": String(content.length) };
        const response = await new Promise<import("node:http").IncomingMessage>((resolve, reject) => {
          httpsRequest({ agent, method, path, headers: { ...typed, ...headers } }, resolve).on("error", reject).end(content);
        });
        return answer(response.statusCode ?? 0, response.headers, await buffer(response));
      },
      raw: async (method, path, body = "", headers = {}) => {
        const socket = connect({ ...tls });
        const content = Buffer.from(body);
        const fields = { Host: "localhost", Connection: "close", "Content-Length": String(content.length), ...headers };
        const head = `${method} ${path} HTTP/1.1\r\n${Object.entries(fields).map(([name, value]) => `${name}: ${value}\r\n`).join("")}\r\n`;
        socket.write(Buffer.concat([Buffer.from(head, "utf8"), content]));
        return parseAnswer(await buffer(socket));
      },
      lines: async (path) => {
        const response = await new Promise<import("node:http").IncomingMessage>((resolve, reject) => {
          httpsRequest({ agent: new Agent({ ...tls }), path }, resolve).on("error", reject).end();
        });
        async function* lines(): AsyncGenerator<string, void, void> {
          try {
            yield* createInterface({ input: response });
          } catch {
            // A connection that is cut ends the lines; it is no error of the reader's.
          }
        }
        return { status: response.statusCode ?? 0, lines: lines(), close: () => response.destroy() };
      },
      sendInTwo: async (method, path, body) => {
        const socket = connect({ ...tls });
        socket.write(`${method} ${path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: ${body.length}\r\n\r\n`);
        socket.once("data", () => socket.write(body));
        return parseAnswer(await buffer(socket));
      },
      hangUp: async (path) => {
        const socket = connect({ ...tls });
        await once(socket, "secureConnect");
        await new Promise((resolve) => socket.write(`GET ${path} HTTP/1.1\r\nHost: localhost\r\n\r\n`, resolve));
        socket.destroy();
      },
    };
  };
  const enrol = async (name: string, kind: IdentityKind = "agent", role: Role = "client", issuer = authority, keys?: KeyPair) =>
    party(`spiffe://${trustDomain}/${kind}/${name}`, await issuer.issue({ kind, role, name, ...(keys === undefined ? {} : { keys }) }), issuer);

  return {
    parties: { alice: await enrol("alice"), bob: await enrol("bob"), dave: await enrol("dave"), olga: await enrol("olga", "operator") },
    strangers: {
      none: party(""),
      foreign: await enrol("alice", "agent", "client", foreignAuthority),
      serverAsClient: await enrol("kms", "service", "server"),
      agentServerAsClient: await enrol("alice", "agent", "server"),
    },
    enrol: (name: string, keys?: KeyPair) => enrol(name, "agent", "client", authority, keys),
    /** The KMS's own certificate. */
    certificate: own.certificate,
    publishCrls,
    events,
    /** The buffers in which key material was handed to the HTTP layer. */
    released,
    revoke: async (who: Party) => {
      revoked.push({ serialNumber: who.serialNumber, revocationDate: new Date(), reason: "keyCompromise" });
      await publishCrls();
    },
    logged: () => lines.join(""),
    files: () => Buffer.concat(readdirSync(directory).map((name) => readFileSync(path.join(directory, name)))),
    stop: async () => {
      for (const agent of agents) agent.destroy();
      await new Promise((resolve) => server.close(resolve));
      await keys.close();
      rmSync(directory, { recursive: true, force: true });
    },
  };
}

function answer(status: number, headers: IncomingHttpHeaders, octets: Buffer): Answer {
  const isJson = octets.length > 0 && /json/.test(headers["content-type"] ?? "");
  return { status, headers, octets, json: isJson ? (JSON.parse(octets.toString("utf8")) as Record<string, unknown>) : {} };
}

function parseAnswer(octets: Buffer): Answer {
  const end = octets.indexOf("\r\n\r\n");
  const [statusLine = "", ...lines] = octets.toString("latin1", 0, end).split("\r\n");
  const headers = Object.fromEntries(lines.map((line) => [line.slice(0, line.indexOf(":")).toLowerCase(), line.slice(line.indexOf(":") + 1).trim()]));
  return answer(Number(statusLine.split(" ")[1]), headers, octets.subarray(end + 4));
}
