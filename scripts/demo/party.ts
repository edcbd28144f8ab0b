/**
 * One party of the demo in a process of its own: `node party.ts`. It is told what to do in lines of JSON on stdin and answers on
 * stdout. Keys stay in the process and its identity directory; where two parties have to show that they hold the same key, they
 * show its SHA-256.
 */
import { createHash } from "node:crypto";
import { createInterface } from "node:readline";
import { readFile } from "node:fs/promises";
import path from "node:path";
import tls, { type TLSSocket } from "node:tls";
import { Agent } from "#agents/agent.ts";
import type { Link, LinkListener } from "#agents/link.ts";
import { openMessage } from "#agents/message.ts";
import { identityUri } from "#pki/certificate-profile.ts";
import { systemClock } from "#pki/clock.ts";
import { SignetError } from "#pki/errors.ts";
import { requestOverMutualTls } from "#pki/http-client.ts";
import { EnrolledIdentity } from "#pki/identity.ts";
import type { SecretKey } from "#pki/keys.ts";
import { alpn, MutualAgent } from "#pki/mtls.ts";
import { caRoutes } from "#pki/protocol-ca.ts";

export interface Order {
  readonly number: number;
  readonly do: string;
  readonly with?: Readonly<Record<string, unknown>>;
}
export type Report =
  | { readonly number: number; readonly value?: unknown }
  | { readonly number: number; readonly code: string; readonly message: string }
  | { readonly event: string; readonly value?: unknown };

/** Milliseconds since 1970 with a fraction: comparable between the processes of one machine. */
const now = (): number => performance.timeOrigin + performance.now();
const hashOf = (bytes: Uint8Array): string => createHash("sha256").update(bytes).digest("hex");
const report = (line: Report): void => void process.stdout.write(`${JSON.stringify(line)}\n`);

let agent: Agent | undefined;
let listener: LinkListener | undefined;
let operator: { identity: EnrolledIdentity; connections: MutualAgent; url: string } | undefined;
let copied: SecretKey | undefined;
let directory = "";
const links = new Map<string, Link>();
const held = new Map<string, { socket: TLSSocket; session: Buffer | undefined }>();

function self(): Agent {
  if (agent === undefined) throw new SignetError("state-conflict", "This party is not enrolled yet.");
  return agent;
}

/** Waits until the CRLs are there; a party judges nobody before. */
async function untilReady(identity: EnrolledIdentity): Promise<void> {
  const givenUp = performance.now() + 20_000;
  for (let missing = identity.revocation.waitingFor(); missing !== undefined; missing = identity.revocation.waitingFor()) {
    if (performance.now() > givenUp) throw new SignetError("not-ready", `Still waiting for ${missing}`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

const keep = (link: Link): void => {
  links.set(link.peer.name, link);
  void link.closed.then((reason) => report({ event: "link-ended", value: { peer: link.peer.name, code: reason.code, at: now() } }));
};

/** A TLS connection under this party's certificate, outside the SDK: a revoked party does not keep to its SDK either. */
async function connectRaw(port: number, protocol: string, session?: Buffer): Promise<TLSSocket> {
  // Key and chain are in one file.
  const credential = await readFile(path.join(directory, "client.pem"));
  const ca = await readFile(path.join(directory, "root.pem"));
  const socket = tls.connect({
    host: "127.0.0.1",
    port,
    key: credential,
    cert: credential,
    ca,
    ALPNProtocols: [protocol],
    servername: protocol === alpn.http ? "localhost" : "",
    // An agent's certificate names no host; whom this party talks to is not what is on trial here.
    checkServerIdentity: () => undefined,
    minVersion: "TLSv1.3",
    ...(session === undefined ? {} : { session }),
  });
  socket.on("error", () => {});
  await new Promise<void>((resolve, reject) => {
    socket.once("secureConnect", resolve);
    socket.once("close", () => reject(new SignetError("tls-refused", "The handshake was refused.")));
  });
  return socket;
}

/** The first bytes of an answer, or undefined if the other end closes or stays silent for ten seconds. */
function firstBytes(socket: TLSSocket): Promise<Buffer | undefined> {
  return new Promise((resolve) => {
    const silence = setTimeout(() => resolve(undefined), 10_000);
    const done = (bytes: Buffer | undefined): void => {
      clearTimeout(silence);
      resolve(bytes);
    };
    socket.once("data", (bytes: Buffer) => done(bytes));
    socket.once("close", () => done(undefined));
    if (socket.destroyed) done(undefined);
  });
}

/** Asks over a raw connection whether it is served: by the KMS's answer, or by the empty frame with which a listener begins. */
async function isServed(socket: TLSSocket, protocol: string): Promise<{ served: boolean; code: string | null }> {
  const first = firstBytes(socket);
  if (protocol === alpn.http) socket.write("GET /v1/whoami HTTP/1.1\r\nHost: localhost\r\n\r\n");
  const answer = await first;
  if (answer === undefined) return { served: false, code: null };
  if (protocol !== alpn.http) return { served: true, code: null };
  const text = answer.toString();
  return { served: text.startsWith("HTTP/1.1 200"), code: /"code":"([a-z-]+)"/.exec(text)?.[1] ?? null };
}

type Act = (i: Readonly<Record<string, string>>) => Promise<unknown>;

const acts: Readonly<Record<string, Act>> = {
  enroll: async ({ caUrl = "", rootFingerprint = "", name = "", token = "", kmsUrl = "", directory: where = "" }) => {
    directory = where;
    agent = await Agent.enroll({ caUrl, rootFingerprint, name, token, kmsUrl, directory: where, keyType: "rsa-2048" });
    await untilReady(agent.enrolled);
    const [certificate] = agent.enrolled.credential("client").chain;
    return { uri: agent.identity.uri, serialNumber: certificate?.serialNumber, keyType: certificate?.publicKeyType, notAfter: certificate?.notAfter };
  },
  // Enrolls somebody else's identity into a directory and forgets it: a user whose machine nobody watches.
  enrollInto: async ({ caUrl = "", rootFingerprint = "", name = "", token = "", directory: where = "", servers = "" }) => {
    const enrolled = await EnrolledIdentity.enroll({ caUrl, rootFingerprint, name, token, directory: where, keyType: "rsa-2048" });
    if (servers !== "") await enrolled.enrollServerRole();
    enrolled.stop();
    return { uri: enrolled.identity.uri };
  },
  renew: async () => {
    const before = self().enrolled.credential("client").chain[0]?.serialNumber;
    await self().enrolled.renew("client");
    return { before, after: self().enrolled.credential("client").chain[0]?.serialNumber };
  },
  kmsStatus: () => self().kms.status(),
  createKey: ({ name = "", readers = "" }) => self().createKey(name, { readers: readers.split(",").filter((reader) => reader !== "").map((reader) => self().peerUri(reader)) }),
  importKey: ({ name = "", material = "", readers = "" }) =>
    self().kms.importKey(name, Buffer.from(material, "hex"), { readers: readers.split(",").filter((reader) => reader !== "").map((reader) => self().peerUri(reader)) }),
  requestKey: async ({ name = "" }) => {
    const { version, secret } = await self().requestKey(name);
    copied = secret;
    return { version, sha256: hashOf(secret.reveal("local-use")) };
  },
  removeMember: async ({ group = "", member = "" }) => ({ version: (await self().group(group).removeMember(self().peerUri(member))).version }),
  seal: async ({ group = "", text = "" }) => Buffer.from(await self().group(group).seal(Buffer.from(text))).toString("base64"),
  open: async ({ group = "", message = "" }) => {
    const { sender, keyVersion, plaintext } = await self().group(group).open(Buffer.from(message, "base64"));
    return { from: sender.name, keyVersion, text: Buffer.from(plaintext).toString() };
  },
  // With the copy of the group's key that this party made for itself, past its SDK.
  openWithKeptKey: async ({ message = "" }) => {
    if (copied === undefined) throw new SignetError("state-conflict", "No key was ever fetched.");
    try {
      openMessage(copied, Buffer.from(message, "base64"));
      return { code: null };
    } catch (error) {
      return { code: error instanceof SignetError ? error.code : "internal" };
    }
  },
  listen: async () => {
    listener = await self().listen({ onLink: keep, onRefused: (reason) => report({ event: "link-refused", value: { code: reason.code } }) });
    return listener.port;
  },
  dial: async ({ peer = "", port = "" }) => {
    const link = await self().dial(peer, { host: "127.0.0.1", port: Number(port) });
    keep(link);
    return { group: link.group, sha256: hashOf(link.sessionKey.reveal("local-use")) };
  },
  linkKey: async ({ peer = "" }) => ({ sha256: hashOf(links.get(peer)?.sessionKey.reveal("local-use") ?? new Uint8Array()) }),
  say: async ({ peer = "", text = "" }) => links.get(peer)?.send(Buffer.from(text)),
  hear: async ({ peer = "" }) => Buffer.from((await links.get(peer)?.receive()) ?? new Uint8Array()).toString(),
  // Opens a connection and keeps it, together with the TLS session that it may be given.
  hold: async ({ name = "", port = "", protocol = "" }) => {
    const socket = await connectRaw(Number(port), protocol);
    const kept: { socket: TLSSocket; session: Buffer | undefined } = { socket, session: undefined };
    socket.on("session", (session: Buffer) => (kept.session = session));
    held.set(name, kept);
    const answer = await isServed(socket, protocol);
    kept.session ??= socket.getSession();
    socket.on("data", () => {});
    socket.once("close", () => report({ event: "cut", value: { name, at: now() } }));
    return { ...answer, session: kept.session !== undefined };
  },
  tryOpenConnection: async ({ name = "", protocol = "" }) => {
    const kept = held.get(name);
    return kept === undefined || kept.socket.destroyed ? { served: false, code: "socket-cut" } : isServed(kept.socket, protocol);
  },
  tryNewConnection: async ({ name = "", port = "", protocol = "", offerSession = "" }) => {
    const session = offerSession === "" ? undefined : held.get(name)?.session;
    try {
      const socket = await connectRaw(Number(port), protocol, session);
      const reused = socket.isSessionReused();
      const answer = await isServed(socket, protocol);
      socket.destroy();
      return { ...answer, offered: session !== undefined, reused };
    } catch (error) {
      return { served: false, code: error instanceof SignetError ? error.code : "tls-refused", offered: session !== undefined, reused: false };
    }
  },
  openOperator: async ({ directory: where = "", mutualUrl = "" }) => {
    const identity = EnrolledIdentity.open(where);
    identity.startRevocationRefresh();
    await untilReady(identity);
    const connections = new MutualAgent({
      credential: identity.credential("client"),
      trustAnchors: identity.trustAnchors,
      revocation: identity.revocation,
      clock: systemClock,
      alpn: alpn.http,
      expect: { uri: identityUri(identity.identity.trustDomain, "service", "ca") },
    });
    operator = { identity, connections, url: mutualUrl };
    return { uri: identity.identity.uri };
  },
  token: async ({ name = "", kind = "agent", dns = "", ip = "" }) =>
    askCa(caRoutes.tokens, { name, kind, ...(dns === "" ? {} : { dns: dns.split(",") }), ...(ip === "" ? {} : { ip: ip.split(",") }) }),
  revoke: async ({ identity = "", reason = "keyCompromise" }) => {
    const sentAt = now();
    const answer = await askCa(caRoutes.revocations, { identity, reason });
    return { ...(answer as object), sentAt, acknowledgedAt: now() };
  },
};

async function askCa(route: string, body: unknown): Promise<unknown> {
  if (operator === undefined) throw new SignetError("state-conflict", "This party is no operator.");
  const answer = await requestOverMutualTls({
    agent: operator.connections,
    url: new URL(route, operator.url).href,
    method: "POST",
    headers: { "content-type": "application/json" },
    body: Buffer.from(JSON.stringify(body)),
  });
  return JSON.parse(Buffer.from(answer.body).toString()) as unknown;
}

const input = createInterface({ input: process.stdin });
input.on("line", (line) => {
  const order = JSON.parse(line) as Order;
  const act = acts[order.do];
  const given = Object.fromEntries(Object.entries(order.with ?? {}).map(([name, value]) => [name, String(value)]));
  (act === undefined ? Promise.reject(new SignetError("usage", `no act ${order.do}`)) : act(given)).then(
    (value) => report({ number: order.number, value }),
    (error: unknown) => {
      const code = error instanceof SignetError ? error.code : "internal";
      report({ number: order.number, code, message: error instanceof Error ? error.message : String(error) });
    },
  );
});
// Whoever started this party has gone; so does the party.
input.on("close", () => process.exit(0));
process.on("SIGINT", () => {});
