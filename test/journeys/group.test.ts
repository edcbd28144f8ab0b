import { once } from "node:events";
import tls, { type TLSSocket } from "node:tls";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { Agent } from "#agents/agent.ts";
import type { Link, LinkListener } from "#agents/link.ts";
import { alpn, mutualServerOptions } from "#pki/mtls.ts";
import { startSystem, type RunningSystem } from "../support/system.ts";

// One group from its first message to the revocation of a member, on the CA and the KMS as processes of their own. The tests are chapters: each builds on the ones before.
let system: RunningSystem;
let alice: Agent;
let bob: Agent;
let carol: Agent;
let dave: Agent;
let port: Record<"alice" | "carol", number>;
const refusedBy: Record<"alice" | "carol", string[]> = { alice: [], carol: [] };
const opened: Link[] = [];

const octets = (text: string) => Buffer.from(text);
const text = (bytes: Uint8Array) => Buffer.from(bytes).toString();
const refusal = (code: string) => expect.objectContaining({ code });
const address = (name: "alice" | "carol") => ({ host: "127.0.0.1", port: port[name] });

beforeAll(async () => {
  system = await startSystem();
  [alice, bob, carol, dave] = await Promise.all([system.enroll("alice"), system.enroll("bob"), system.enroll("carol"), system.enroll("dave")]);
  const listen = (agent: Agent, name: "alice" | "carol"): Promise<LinkListener> =>
    agent.listen({ onLink: (link) => opened.push(link), onRefused: (reason) => refusedBy[name].push(reason.code) });
  const [atAlice, atCarol] = await Promise.all([listen(alice, "alice"), listen(carol, "carol")]);
  port = { alice: atAlice.port, carol: atCarol.port };
});
afterAll(async () => {
  await Promise.all([alice, bob, carol, dave].map((agent) => agent?.close()));
  await system?.stop();
});

describe("a group of Alice, Bob and Carol", () => {
  test("shares a key that the KMS gives to its readers, and to nobody else", async () => {
    await alice.createKey("team", { readers: [alice.peerUri("bob"), alice.peerUri("carol")] });
    const sealed = await alice.group("team").seal(octets("hello"));
    for (const member of [bob, carol]) {
      const message = await member.group("team").open(sealed);
      expect([text(message.plaintext), message.sender.name]).toEqual(["hello", "alice"]);
    }
    await expect(dave.requestKey("team")).rejects.toThrow(refusal("not-permitted"));
    await expect(dave.group("team").open(sealed)).rejects.toThrow(refusal("not-permitted"));
    await expect(dave.requestKey("no-such-key")).rejects.toThrow(refusal("not-permitted"));
  });

  test("has its key confirmed by the KMS each time it is asked for, and gives the same", async () => {
    const [first, again] = [await bob.requestKey("team"), await bob.requestKey("team")];
    expect(text(again.secret.reveal("local-use"))).toBe(text(first.secret.reveal("local-use")));
    expect(first.version).toBe(1);
  });

  test("talks over links too, with one session key at both ends", async () => {
    const link = await bob.dial("alice", address("alice"));
    await link.send(octets("psst"));
    const accepted = opened.at(-1);
    expect(text((await accepted?.receive()) ?? octets(""))).toBe("psst");
    expect(Buffer.compare(link.sessionKey.reveal("local-use"), accepted?.sessionKey.reveal("local-use") ?? octets(""))).toBe(0);
    link.close();
  });

  test("loses Bob at once when he is revoked while he holds connections open", async () => {
    const link = await bob.dial("alice", address("alice"));
    const atAlice = opened.at(-1);
    const held = await connect("kms");
    const [kmsSession] = held.sessions;
    const linkBefore = await connect("alice");
    const [linkSession] = linkBefore.sessions;
    expect([kmsSession, linkSession].map((session) => (session?.length ?? 0) > 0)).toEqual([true, true]);
    // While he is a member, the very request that is refused below is answered with the key.
    expect(await ask(kmsSession)).toMatch(/^HTTP\/1.1 200 OK[^]*octet-stream/);
    const late = await bob.group("team").seal(octets("sealed while it was mine"));
    const news = Promise.all([nextRevocation(alice), nextRevocation(carol)]);
    const cut = once(held.socket, "close");

    await system.revoke("bob");

    // On the open connections: the KMS's socket, and the link at Alice's end.
    await cut;
    expect((await atAlice?.closed)?.code).toBe("certificate-revoked");
    expect((await link.closed).code).toBe("link-closed");
    await news;

    // With a session from before, and on new ones: no octet from the KMS but a refusal, no link from the agents.
    for (const session of [kmsSession, undefined]) {
      const answer = await ask(session);
      expect(answer).not.toContain(" 200 ");
      expect(answer).not.toContain("octet-stream");
    }
    await expect(bob.requestKey("team")).rejects.toThrow(expect.objectContaining({ name: "SignetError" }));
    refusedBy.alice.length = 0;
    await expect(bob.dial("alice", address("alice"))).rejects.toThrow(refusal("tls-refused"));
    await expect(bob.dial("carol", address("carol"))).rejects.toThrow(refusal("tls-refused"));
    const again = await connect("alice", linkSession);
    await again.ended;
    expect(again.received()).toBe(0);
    expect(refusedBy.alice).toEqual(["certificate-revoked", "certificate-revoked"]);
    expect(refusedBy.carol).toEqual(["certificate-revoked"]);

    // And the group goes on without him.
    expect((await alice.group("team").removeMember(alice.peerUri("bob"))).version).toBe(2);
    const message = await carol.group("team").open(await alice.group("team").seal(octets("without Bob")));
    expect([text(message.plaintext), message.keyVersion]).toEqual(["without Bob", 2]);
    await expect(carol.group("team").open(late)).rejects.toThrow(refusal("message-superseded"));
    const fromCarol = await carol.dial("alice", address("alice"));
    await fromCarol.send(octets("still here"));
    expect(text((await opened.at(-1)?.receive()) ?? octets(""))).toBe("still here");
  });
});

function nextRevocation(agent: Agent): Promise<void> {
  return new Promise((resolve) => {
    const stop = agent.onRevocation(() => {
      stop();
      resolve();
    });
  });
}

/** A connection of Bob's that is made of node:tls alone and checks nothing, so that what refuses him is the other end. */
async function connect(to: "kms" | "alice", session?: Buffer) {
  const url = new URL(system.kmsUrl);
  const target = to === "kms" ? { host: url.hostname, port: Number(url.port) } : address("alice");
  const options: Omit<tls.TlsOptions, "pskCallback"> = mutualServerOptions({
    credential: bob.enrolled.credential("client"),
    trustAnchors: bob.enrolled.trustAnchors,
    alpn: to === "kms" ? alpn.http : alpn.link,
  });
  const socket: TLSSocket = tls.connect({ ...options, ...target, checkServerIdentity: () => undefined, ...(session === undefined ? {} : { session }) });
  const sessions: Buffer[] = [];
  let received = 0;
  socket.on("session", (offered) => sessions.push(offered)).on("error", () => {});
  const ended = new Promise<void>((resolve) => socket.once("close", () => resolve()));
  await Promise.race([once(socket, "secureConnect"), ended]);
  if (session === undefined) await Promise.race([once(socket, "session"), ended]);
  socket.on("data", (chunk: Buffer) => (received += chunk.length));
  return { socket, sessions, ended, received: () => received };
}

/** All that the KMS answers to Bob's request for the group's key over a connection of its own. */
async function ask(session: Buffer | undefined): Promise<string> {
  const { socket, ended } = await connect("kms", session);
  let answer = "";
  socket.on("data", (chunk: Buffer) => (answer += chunk.toString("latin1")));
  socket.write("GET /v1/keys/team/versions/latest/material HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
  await ended;
  return answer;
}
