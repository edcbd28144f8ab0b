import { EventEmitter } from "node:events";
import type { ServerResponse } from "node:http";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { EventStreams, streamsPerIdentity } from "#kms-server/event-streams.ts";
import { keyEventsFor } from "#kms-server/key-events.ts";
import type { KeyRecord, KeyVersionRecord } from "#kms-server/key-store.ts";
import { parseIdentityUri } from "#pki/certificate-profile.ts";
import { SignetError } from "#pki/errors.ts";
import type { KeyEvent } from "#pki/protocol-kms.ts";
import { callBy, testPeer } from "./fixture.ts";
import { startTestKms, type Party, type TestKms } from "./wire.ts";

const uri = (name: string, kind = "agent") => `spiffe://test.signet.internal/${kind}/${name}`;
const version = (number: number, state: KeyVersionRecord["state"], revocationReason: KeyVersionRecord["revocationReason"] = null): KeyVersionRecord => ({ version: number, state, origin: "generated", createdAt: 0, stateChangedAt: 0, revocationReason, wrapped: null });
const record = (revision: number, versions: KeyVersionRecord[], readers: string[] = []): KeyRecord => ({ id: "k", name: "team", algorithms: ["AES-256-GCM"], owner: uri("alice"), readers: new Set(readers.map((name) => uri(name))), createdAt: 0, revision, versions });

describe("what a change is to a caller", () => {
  const first = version(1, "active");
  const shared = record(2, [first], ["bob"]);
  const rotated = record(3, [version(1, "deactivated"), version(2, "active")], ["bob"]);
  test.each<[string, string, KeyRecord | undefined, KeyRecord, KeyEvent[]]>([
    ["a new key, to its owner", "alice", undefined, record(1, [first]), [{ type: "available", key: "team", id: "k", version: 1, state: "active" }]],
    ["a new key, to a reader", "bob", undefined, shared, [{ type: "available", key: "team", id: "k", version: 1, state: "active" }]],
    ["readers that changed, to a new one", "bob", record(1, [first]), shared, [{ type: "available", key: "team", id: "k", version: 1, state: "active" }]],
    ["readers that changed, to one who stays", "alice", record(1, [first]), shared, []],
    ["readers that changed, to one who is out", "bob", shared, record(3, [first]), [{ type: "withdrawn", key: "team", id: "k" }]],
    ["a rotation", "bob", shared, rotated, [{ type: "rotated", key: "team", id: "k", version: 2, state: "active" }, { type: "state-changed", key: "team", id: "k", versions: [1], state: "deactivated" }]],
    ["a revocation of all versions", "bob", rotated, record(4, [version(1, "compromised", "keyCompromise"), version(2, "compromised", "keyCompromise")], ["bob"]), [{ type: "state-changed", key: "team", id: "k", versions: [1, 2], state: "compromised", reason: "keyCompromise" }]],
    ["two changes of which only the later was told", "bob", record(1, [first]), rotated, [{ type: "available", key: "team", id: "k", version: 2, state: "active" }]],
  ])("%s (%s)", (_what, name, before, after, events) => {
    expect(keyEventsFor(parseIdentityUri(uri(name)), before, after)).toEqual(events);
  });

  test("names a bounded number of versions in one event, and all of them in several", () => {
    const all = Array.from({ length: 14_000 }, (_, index) => index + 1);
    const events = keyEventsFor(parseIdentityUri(uri("alice")), record(1, all.map((number) => version(number, "deactivated"))), record(2, all.map((number) => version(number, "compromised", "keyCompromise"))));
    expect(events.flatMap((event) => (event.type === "state-changed" && event.reason === "keyCompromise" ? event.versions : []))).toEqual(all);
    for (const event of events) expect(JSON.stringify(event).length).toBeLessThan(16 * 1024);
  });

  test("is nothing to anybody else: a stranger, an operator, a service", () => {
    for (const other of [uri("dave"), uri("alice", "operator"), uri("bob", "service")]) expect(keyEventsFor(parseIdentityUri(other), undefined, shared)).toEqual([]);
  });
});

describe("over mutual TLS", () => {
  let kms: TestKms;
  beforeAll(async () => {
    kms = await startTestKms();
  });
  afterAll(() => kms.stop());

  /** The next line that is no heartbeat; undefined once the stream has ended. */
  const next = async (stream: Awaited<ReturnType<Party["lines"]>>): Promise<KeyEvent | undefined> => {
    for (;;) {
      const { value, done } = await stream.lines.next();
      if (done === true) return undefined;
      const event = JSON.parse(value) as KeyEvent;
      if (event.type !== "heartbeat") return event;
    }
  };

  test("a reader hears of a key that is made for it, of its rotation and its revocation; a stranger hears heartbeats alone", async () => {
    const { alice, bob, dave } = kms.parties;
    const [ofBob, ofDave] = [await bob.lines("/v1/events"), await dave.lines("/v1/events")];
    expect(await next(ofBob)).toEqual({ type: "connected", uri: bob.uri, heartbeatSeconds: 15 });
    await next(ofDave);
    const created = await alice.request("POST", "/v1/keys", { name: "told", spec: "aes-256", distribution: { readers: [bob.uri] } });
    expect(await next(ofBob)).toMatchObject({ type: "available", key: "told", version: 1, state: "active" });
    await alice.request("POST", "/v1/keys/told:rotate");
    expect([(await next(ofBob))?.type, (await next(ofBob))?.type]).toEqual(["rotated", "state-changed"]);
    await alice.request("POST", "/v1/keys/told:revoke", { reason: "superseded" });
    expect(await next(ofBob)).toMatchObject({ type: "state-changed", versions: [1, 2], state: "compromised", reason: "superseded" });
    // Dave's next line comes after all of that has been told.
    expect(JSON.parse((await ofDave.lines.next()).value as string)).toEqual({ type: "heartbeat" });
    expect(created.status).toBe(201);
    for (const stream of [ofBob, ofDave]) stream.close();
  });

  test("operators are denied, HEAD has no stream, and one identity holds a bounded number", async () => {
    const { olga, alice } = kms.parties;
    expect(await olga.request("GET", "/v1/events")).toMatchObject({ status: 403, json: { code: "not-permitted" } });
    expect((await alice.raw("HEAD", "/v1/events")).status).toBe(405);
    const streams = await Promise.all(Array.from({ length: streamsPerIdentity }, () => alice.lines("/v1/events")));
    expect(streams.map(({ status }) => status)).toEqual(Array.from({ length: streamsPerIdentity }, () => 200));
    expect(await alice.request("GET", "/v1/events")).toMatchObject({ status: 429, json: { code: "limit-exceeded", retryable: true } });
    for (const stream of streams) stream.close();
    await expect.poll(async () => {
      const again = await alice.lines("/v1/events");
      again.close();
      return again.status;
    }, { timeout: 30_000 }).toBe(200);
  });

  test("the stream of a revoked caller ends at once, without a further line", async () => {
    const rita = await kms.enrol("rita");
    const stream = await rita.lines("/v1/events");
    await next(stream);
    await kms.revoke(rita);
    expect(await next(stream)).toBeUndefined();
  });

  test("a service that stops says so in the last line", async () => {
    const stream = await kms.parties.bob.lines("/v1/events");
    await next(stream);
    kms.events.end();
    expect(await next(stream)).toMatchObject({ type: "end", code: "not-ready" });
    expect(await next(stream)).toBeUndefined();
  });
});

describe("a reader", () => {
  class Response extends EventEmitter {
    readonly written: KeyEvent[] = [];
    writableLength = 0;
    writableEnded = false;
    destroyed = false;
    closed = false;
    writeHead() {}
    write(lines: string) {
      this.writableLength += lines.length;
      this.written.push(...lines.trim().split("\n").map((line) => JSON.parse(line) as KeyEvent));
    }
    end(line: string) {
      this.write(line);
      this.writableEnded = true;
    }
    destroy() {
      this.destroyed = true;
      this.emit("close");
    }
  }
  const begun = async (recheck: () => void = () => {}) => {
    const peer = await testPeer("agent", "bob");
    let tell: (events: readonly KeyEvent[]) => void = () => {};
    let watching = 0;
    const service = {
      watch: (_call: unknown, listener: (events: readonly KeyEvent[]) => void) => {
        tell = listener;
        watching += 1;
        return () => (watching -= 1);
      },
    };
    const response = new Response();
    new EventStreams({ service, recheck }).begin(callBy(peer), response as unknown as ServerResponse);
    return { response, tell: (...events: KeyEvent[]) => tell(events.length > 0 ? events : [{ type: "withdrawn", key: "k", id: "i" }]), watching: () => watching };
  };

  test("that does not read is cut, and nothing more is kept for it", async () => {
    const { response, tell, watching } = await begun();
    response.writableLength = 70_000;
    tell();
    expect([response.destroyed, watching()]).toEqual([true, 0]);
    tell();
    expect(response.written).toHaveLength(1);
  });

  test("gets all of one change, however much, and is cut where it has not read that when the next comes", async () => {
    const { response, tell } = await begun();
    const change = Array.from({ length: 20 }, (_, at): KeyEvent => ({ type: "state-changed", key: "k", id: "i", versions: Array.from({ length: 1_000 }, (_, number) => 10_000 + number), state: at % 2 === 0 ? "deactivated" : "destroyed" }));
    tell(...change);
    expect([response.destroyed, response.written.slice(1), response.writableLength > 100_000]).toEqual([false, change, true]);
    tell();
    expect([response.destroyed, response.written.length]).toEqual([true, 21]);
  });

  test("whose standing has ended gets the reason in place of the event", async () => {
    const standing: { refusal?: SignetError } = {};
    const { response, tell } = await begun(() => {
      if (standing.refusal !== undefined) throw standing.refusal;
    });
    standing.refusal = new SignetError("crl-refresh-overdue", "Too old.");
    tell();
    tell();
    expect(response.written.slice(1)).toEqual([{ type: "end", code: "crl-refresh-overdue", detail: "Too old." }]);
    response.destroy();
  });
});
