import { createHash } from "node:crypto";
import { once } from "node:events";
import net from "node:net";
import { duplexPair } from "node:stream";
import tls from "node:tls";
import { afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { Link, LinkListener, linkGroups, longestMessageBytes, rekeyLimits, type DialOptions, type LinkParty, type ListenOptions } from "#agents/link.ts";
import { systemClock, type Clock } from "#pki/clock.ts";
import type { SignetError } from "#pki/errors.ts";
import type { SecretKey } from "#pki/keys.ts";
import { alpn, mutualServerOptions } from "#pki/mtls.ts";
import { oid } from "#pki/oids.ts";
import { extensions, uri as subjectUri } from "../support/pki.ts";
import { linkWorld, type LinkWorld } from "../support/parties.ts";

let world: LinkWorld;
let alice: LinkParty;
let bob: LinkParty;
let elapsed = 0;
const clock: Clock = { now: () => systemClock.now(), monotonicMilliseconds: () => systemClock.monotonicMilliseconds() + elapsed };
const stop: (() => void | Promise<void>)[] = [];

const uri = (name: string) => `spiffe://signet.internal/agent/${name}`;
const refusal = (code: string) => expect.objectContaining({ code });
const hex = (key: SecretKey) => Buffer.from(key.reveal("local-use")).toString("hex");
const text = (octets: Uint8Array) => Buffer.from(octets).toString();

/** A listener of this party; `links` hands out its links, and `refused` the codes of what it refused, in order. */
async function listening(self: LinkParty, options: Partial<ListenOptions> = {}) {
  const links = queue<Link>();
  const refused = queue<string>();
  const listener = await LinkListener.listen({
    self,
    clock,
    onLink: (link) => links.put(link),
    onRefused: (reason) => refused.put(reason.code),
    ...options,
  });
  stop.push(() => listener.close());
  return { listener, links, refused, to: { host: "127.0.0.1", port: listener.port } };
}

async function dial(self: LinkParty, to: DialOptions["to"], options: Partial<DialOptions> = {}): Promise<Link> {
  const link = await Link.dial({ self, uri: uri("bob"), to, clock, ...options });
  stop.push(() => link.close());
  return link;
}

function queue<T>() {
  const values: T[] = [];
  const waiting: ((value: T) => void)[] = [];
  return {
    put(value: T) {
      const taker = waiting.shift();
      if (taker === undefined) values.push(value);
      else taker(value);
    },
    take: (): Promise<T> => {
      const value = values.shift();
      return value === undefined ? new Promise((resolve) => waiting.push(resolve)) : Promise.resolve(value);
    },
  };
}

beforeAll(async () => {
  world = await linkWorld();
});
beforeEach(async () => {
  elapsed = 0;
  [alice, bob] = await Promise.all([world.party("alice"), world.party("bob")]);
});
afterEach(async () => {
  for (const end of stop.splice(0).reverse()) await end();
});

describe("a link", () => {
  test("is opened for an agent that leaves out the CA which the listener's own chain holds, as at the services", async () => {
    const { links, to } = await listening(bob);
    const bare: LinkParty = { ...alice, credential: (role) => ({ ...alice.credential(role), chain: alice.credential(role).chain.slice(0, 1) }) };
    await dial(bare, to);
    expect((await links.take()).peer.uri).toBe(uri("alice"));
  });

  test("carries messages both ways, whole and in order, between two agents that know each other's identity", async () => {
    const { links, to } = await listening(bob);
    const dialled = await dial(alice, to);
    const accepted = await links.take();
    expect([dialled.peer.uri, dialled.initiator, accepted.peer.uri, accepted.initiator]).toEqual([uri("bob"), true, uri("alice"), false]);
    const longest = Buffer.alloc(longestMessageBytes, 7);
    for (const message of [Buffer.from("one"), Buffer.alloc(0), longest, Buffer.from("two")]) await dialled.send(message);
    for (const message of ["one", "", longest.toString(), "two"]) expect(text(await accepted.receive())).toBe(message);
    await accepted.send(Buffer.from("back"));
    expect(text(await dialled.receive())).toBe("back");
  });

  test("runs over any duplex stream", async () => {
    const { listener, links } = await listening(bob);
    const dialled = await dial(alice, () => {
      const [near, far] = duplexPair();
      listener.accept(far);
      return near;
    });
    await dialled.send(Buffer.from("hello"));
    expect(text(await (await links.take()).receive())).toBe("hello");
  });

  test.each(linkGroups)("uses %s where both ends name it", async (group) => {
    const { links, to } = await listening(bob, { groups: [group] });
    const dialled = await dial(alice, to, { group });
    expect(dialled.group).toBe(group);
    expect(hex(dialled.sessionKey)).toBe(hex((await links.take()).sessionKey));
  });

  test("uses X25519MLKEM768 where nothing is said, and opens with no end that names another group", async () => {
    const { refused, to } = await listening(bob);
    expect((await dial(alice, to)).group).toBe("X25519MLKEM768");
    await expect(dial(alice, to, { group: "ffdhe3072" })).rejects.toThrow(refusal("tls-refused"));
    expect(await refused.take()).toBe("tls-refused");
  });

  test("has one session key at both ends, another each time, bound to both certificates", async () => {
    const { links, to } = await listening(bob);
    const [first, second] = [await dial(alice, to), await dial(alice, to)];
    const keys = [hex(first.sessionKey), hex((await links.take()).sessionKey), hex(second.sessionKey), hex((await links.take()).sessionKey)];
    expect(keys[0]).toBe(keys[1]);
    expect(keys[2]).toBe(keys[3]);
    expect(keys[0]).not.toBe(keys[2]);

    // A responder made of node:tls alone derives the key that the contract says.
    const digest = (party: LinkParty, role: "client" | "server") => createHash("sha256").update(party.credential(role).chain[0]?.der ?? "").digest();
    const plain = await plainListener(bob);
    const connecting = dial(alice, plain.to);
    const socket = await plain.next();
    const expected = socket.exportKeyingMaterial(32, "EXPORTER-signet-link-v1", Buffer.concat([digest(alice, "client"), digest(bob, "server")]));
    socket.write(Buffer.alloc(4));
    expect(hex((await connecting).sessionKey)).toBe(expected.toString("hex"));
  });
});

describe("whom a dialler accepts", () => {
  test("nobody but the party that was dialled", async () => {
    const carol = await world.party("carol");
    const { to } = await listening(carol);
    await expect(dial(alice, to)).rejects.toThrow(refusal("peer-mismatch"));
  });

  test("not itself: neither by name, nor where its own hello is bounced back", async () => {
    const { to } = await listening(alice);
    await expect(dial(alice, to, { uri: uri("alice") })).rejects.toThrow(refusal("peer-is-self"));
    await expect(dial(alice, to)).rejects.toThrow(refusal("peer-is-self"));
  });

  test("no certificate of the client's role, though it names the right party", async () => {
    const { to } = await listening({ ...bob, credential: () => bob.credential("client") });
    await expect(dial(alice, to)).rejects.toThrow(refusal("tls-refused"));
  });

  test("no certificate that OpenSSL would accept and the profile does not: without a purpose, or with a second URI", async () => {
    const [name, second, purpose] = [subjectUri(uri("bob")), subjectUri(uri("eve")), extensions.extendedKeyUsage(oid.serverAuth)];
    for (const [forged, code] of [
      [[extensions.subjectAltName([name]), purpose], undefined],
      [[extensions.subjectAltName([name])], "extended-key-usage-missing"],
      [[extensions.subjectAltName([name, second]), purpose], "identity-ambiguous"],
      [[purpose], "san-missing"],
    ] as const) {
      const { to } = await listening(world.withServerCertificate(bob, forged));
      if (code === undefined) expect((await dial(alice, to)).peer.name).toBe("bob");
      else await expect(dial(alice, to)).rejects.toThrow(refusal(code));
    }
  });

  test("no certificate of another authority, though it names the right party", async () => {
    const stranger = await (await linkWorld()).party("bob");
    const { to } = await listening(stranger);
    await expect(dial(alice, to)).rejects.toThrow(refusal("tls-refused"));
  });

  test("no revoked party, and none while it has no revocation data", async () => {
    const { to } = await listening(bob);
    world.revoke(bob, [alice]);
    await expect(dial(alice, to)).rejects.toThrow(refusal("certificate-revoked"));
    const uninformed = await world.party("dora", { informed: false });
    await expect(dial(uninformed, to)).rejects.toThrow(refusal("crl-missing"));
  });

  test("no server that speaks another protocol, or none", async () => {
    for (const protocols of [["http/1.1"], undefined]) {
      const plain = await plainListener(bob, protocols === undefined ? { ALPNProtocols: [] } : { ALPNProtocols: protocols });
      await expect(dial(alice, plain.to)).rejects.toThrow(refusal("alpn-mismatch"));
    }
  });

  test("nobody where nobody listens", async () => {
    const { listener, to } = await listening(bob);
    await listener.close();
    await expect(dial(alice, to)).rejects.toThrow(refusal("remote-unreachable"));
  });
});

describe("whom a listener accepts", () => {
  test("nobody without a certificate, with one of the server's role, or with one of another authority", async () => {
    const { to, refused } = await listening(bob);
    const stranger = await (await linkWorld()).party("alice");
    await knock(to, { ...clientOptions(alice), key: undefined, cert: undefined });
    expect(await refused.take()).toBe("tls-refused");
    await knock(to, { ...clientOptions(alice, "server") });
    expect(await refused.take()).toBe("tls-refused");
    await knock(to, { ...clientOptions(stranger), ca: bob.trustAnchors.map((anchor) => anchor.toPem()) });
    expect(await refused.take()).toBe("tls-refused");
  });

  test("nobody that offers no ALPN, or another protocol's", async () => {
    const { to, refused } = await listening(bob);
    await knock(to, { ...clientOptions(alice), ALPNProtocols: undefined });
    expect(await refused.take()).toBe("alpn-mismatch");
    await knock(to, { ...clientOptions(alice), ALPNProtocols: ["http/1.1"] });
    expect(await refused.take()).toBe("tls-refused");
  });

  test("nobody below TLS 1.3", async () => {
    const { to, refused } = await listening(bob);
    await knock(to, { ...clientOptions(alice), minVersion: "TLSv1.2", maxVersion: "TLSv1.2", ecdhCurve: "X25519" });
    expect(await refused.take()).toBe("tls-refused");
  });

  test("not itself, and no service or operator", async () => {
    const { to, refused } = await listening(bob);
    await knock(to, clientOptions(bob));
    expect(await refused.take()).toBe("peer-is-self");
    await knock(to, clientOptions(await world.party("olga", { kind: "operator" })));
    expect(await refused.take()).toBe("peer-mismatch");
  });

  test("no revoked party, which a dialler learns as a refusal before its first message", async () => {
    const { to, refused } = await listening(bob);
    world.revoke(alice, [bob]);
    await expect(dial(alice, to)).rejects.toThrow(refusal("tls-refused"));
    expect(await refused.take()).toBe("certificate-revoked");
  });

  test("no revoked party that offers a session from before its revocation", async () => {
    const { to, links, refused } = await listening(bob);
    const before = tls.connect({ ...to, ...clientOptions(alice) });
    const [session] = (await once(before, "session")) as [Buffer];
    await links.take();
    before.destroy();
    world.revoke(alice, [bob]);
    await knock(to, { ...clientOptions(alice), session });
    expect(await refused.take()).toBe("certificate-revoked");
  });

  test("one good peer after many bad ones: a refusal leaves nothing behind", async () => {
    const { to, listener, links } = await listening(bob);
    for (let n = 0; n < 5; n++) {
      const socket = net.connect(to.port, to.host);
      socket.end("GET / HTTP/1.1\r\n\r\n");
      await once(socket.resume(), "close");
    }
    const dialled = await dial(alice, to);
    await links.take();
    expect(listener.open).toBe(1);
    expect(dialled.peer.name).toBe("bob");
  });
});

describe("an open link", () => {
  test("is cut at both ends when its peer is revoked, while it waits for a message", async () => {
    const { links, to, listener } = await listening(bob);
    const dialled = await dial(alice, to);
    const accepted = await links.take();
    const waiting = expect(dialled.receive()).rejects.toThrow(refusal("certificate-revoked"));
    world.revoke(bob, [alice]);
    await waiting;
    expect((await dialled.closed).code).toBe("certificate-revoked");
    await expect(accepted.receive()).rejects.toThrow(refusal("link-closed"));
    await accepted.closed;
    expect(listener.open).toBe(0);
    await expect(dialled.send(Buffer.from("x"))).rejects.toThrow(refusal("certificate-revoked"));
  });

  test("hands over no message of a peer that was revoked after sending it", async () => {
    const { links, to } = await listening(bob);
    const dialled = await dial(alice, to);
    const accepted = await links.take();
    await dialled.send(Buffer.from("too late"));
    world.revoke(alice, [bob]);
    await expect(accepted.receive()).rejects.toThrow(refusal("certificate-revoked"));
  });

  test("survives the revocation of somebody else", async () => {
    const { links, to } = await listening(bob);
    const dialled = await dial(alice, to);
    const accepted = await links.take();
    world.revoke(await world.party("dave"), [alice, bob]);
    await dialled.send(Buffer.from("still here"));
    expect(text(await accepted.receive())).toBe("still here");
  });

  test("stops at the first message once revocation data is overdue", async () => {
    const { links, to } = await listening(bob);
    const dialled = await dial(alice, to);
    const accepted = await links.take();
    world.advance(16 * 60_000);
    try {
      await expect(dialled.send(Buffer.from("x"))).rejects.toThrow(refusal("crl-refresh-overdue"));
      await expect(accepted.receive()).rejects.toThrow(expect.anything());
    } finally {
      world.advance(-16 * 60_000);
    }
  });

  test("ends after an hour or its number of messages, and is dialled again with new keys", async () => {
    expect(rekeyLimits).toEqual({ messages: 2 ** 20, milliseconds: 3_600_000 });
    const { links, to } = await listening(bob);
    const dialled = await dial(alice, to, { rekeyAfterMessages: 2 });
    await dialled.send(Buffer.from("1"));
    await dialled.send(Buffer.from("2"));
    await expect(dialled.send(Buffer.from("3"))).rejects.toThrow(refusal("link-closed"));
    const again = await dialled.redial();
    stop.push(() => again.close());
    expect(hex(again.sessionKey)).not.toBe(hex(dialled.sessionKey));
    const [first, second] = [await links.take(), await links.take()];
    expect(text(await first.receive())).toBe("1");
    await again.send(Buffer.from("4"));
    expect(text(await second.receive())).toBe("4");
    elapsed = rekeyLimits.milliseconds;
    await expect(again.send(Buffer.from("5"))).rejects.toThrow(refusal("link-closed"));
    await expect(second.redial()).rejects.toThrow(refusal("link-closed"));
  });

  test("refuses to send more than 64 KiB, and ends where the peer announces more", async () => {
    const { links, to } = await listening(bob);
    const dialled = await dial(alice, to);
    await expect(dialled.send(Buffer.alloc(longestMessageBytes + 1))).rejects.toThrow(refusal("body-too-large"));
    await links.take();
    const raw = tls.connect({ ...to, ...clientOptions(alice) });
    await once(raw, "secureConnect");
    const accepted = await links.take();
    raw.write(Buffer.from([0, 1, 0, 1]));
    await expect(accepted.receive()).rejects.toThrow(refusal("message-malformed"));
    raw.destroy();
  });

  test("says that it was closed, to both ends, and ends an iteration over its messages", async () => {
    const { links, to } = await listening(bob);
    const dialled = await dial(alice, to);
    const accepted = await links.take();
    await dialled.send(Buffer.from("last"));
    dialled.close();
    const received: string[] = [];
    for await (const message of accepted) received.push(text(message));
    expect(received).toEqual(["last"]);
    expect((await accepted.closed).code).toBe("link-closed");
    await expect(dialled.receive()).rejects.toThrow(refusal("link-closed"));
  });
});

/** What a peer would offer that is made of node:tls alone. */
function clientOptions(party: LinkParty, role: "client" | "server" = "client"): tls.ConnectionOptions {
  const options: Omit<tls.TlsOptions, "pskCallback"> = mutualServerOptions({ credential: party.credential(role), trustAnchors: party.trustAnchors, alpn: alpn.link });
  return { ...options, ecdhCurve: "X25519MLKEM768", checkServerIdentity: () => undefined };
}

/** Connects and waits for the end, whichever way it comes. */
async function knock(to: { host: string; port: number }, options: object): Promise<void> {
  const socket = tls.connect({ ...to, ...options });
  socket.on("error", () => {});
  socket.resume();
  await once(socket, "close").catch((error: SignetError) => error);
}

async function plainListener(party: LinkParty, change: tls.TlsOptions = {}) {
  const sockets = queue<tls.TLSSocket>();
  const options = mutualServerOptions({ credential: party.credential("server"), trustAnchors: party.trustAnchors, alpn: alpn.link });
  const server = tls.createServer({ ...options, ...change }, (socket) => {
    socket.on("error", () => {});
    sockets.put(socket);
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  stop.push(() => {
    server.close();
  });
  return { to: { host: "127.0.0.1", port: (server.address() as net.AddressInfo).port }, next: sockets.take };
}
