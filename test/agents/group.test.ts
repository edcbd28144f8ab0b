import { beforeEach, describe, expect, test } from "vitest";
import { Group } from "#agents/group.ts";
import type { GroupKey } from "#agents/kms-client.ts";
import { newStream, sealMessage } from "#agents/message.ts";
import { parseIdentityUri } from "#pki/certificate-profile.ts";
import type { Clock } from "#pki/clock.ts";
import { SignetError } from "#pki/errors.ts";
import { SecretKey } from "#pki/keys.ts";

/** What a group needs of the KMS, with the versions in plain sight; the real one is in test/journeys/group.test.ts. */
class FewKeys {
  readonly versions: GroupKey[] = [];
  denied = false;
  asked = 0;
  constructor() {
    this.add();
  }
  add(): void {
    this.versions.push({ name: "team", id: "k1", version: this.versions.length + 1, algorithms: ["AES-256-GCM"], secret: SecretKey.random(32) });
  }
  get latest(): GroupKey {
    const key = this.versions.at(-1);
    if (key === undefined) throw new Error("no version");
    return key;
  }
  async material(): Promise<GroupKey> {
    this.asked += 1;
    if (this.denied) throw new SignetError("not-permitted", "denied");
    return this.latest;
  }
  async rotateKey(): Promise<never> {
    this.add();
    return undefined as never;
  }
  async describeKey(): Promise<never> {
    throw new Error("not asked for here");
  }
  async changeReaders(): Promise<never> {
    throw new Error("not asked for here");
  }
}

let keys: FewKeys;
let time: number;
const clock: Clock = { now: () => new Date("2026-01-01T00:00:00Z"), monotonicMilliseconds: () => time };
const member = (name: string, kms = keys) => new Group({ name: "team", self: parseIdentityUri(`spiffe://signet.internal/agent/${name}`), kms, clock });
const say = (group: Group, text: string) => group.seal(Buffer.from(text));
const refusal = (code: string) => expect.objectContaining({ code });

beforeEach(() => {
  keys = new FewKeys();
  time = 0;
});

describe("a group", () => {
  test("carries a message from one member to all others, with its sender", async () => {
    const [alice, bob, carol] = [member("alice"), member("bob"), member("carol")];
    const sealed = await say(alice, "hello");
    for (const receiver of [bob, carol]) {
      const opened = await receiver.open(sealed);
      expect(Buffer.from(opened.plaintext).toString()).toBe("hello");
      expect(opened).toMatchObject({ sender: { name: "alice" }, keyVersion: 1 });
    }
  });

  test("accepts a message once", async () => {
    const [alice, bob] = [member("alice"), member("bob")];
    const sealed = await say(alice, "pay 5");
    await bob.open(sealed);
    await expect(bob.open(sealed)).rejects.toThrow(refusal("message-replayed"));
  });

  test("remembers nothing of a message that does not open", async () => {
    const [alice, bob] = [member("alice"), member("bob")];
    const sealed = await say(alice, "x");
    const altered = Uint8Array.from(sealed);
    altered[altered.length - 1] = (altered.at(-1) ?? 0) ^ 1;
    await expect(bob.open(altered)).rejects.toThrow(refusal("decryption-failed"));
    expect(Buffer.from((await bob.open(sealed)).plaintext).toString()).toBe("x");
  });

  test("refuses a superseded version as soon as the agent knows a newer one", async () => {
    const [alice, bob] = [member("alice"), member("bob")];
    const old = await say(alice, "old");
    await bob.rotate();
    await expect(bob.open(old)).rejects.toThrow(refusal("message-superseded"));
  });

  test("learns of a new version from the first message under it", async () => {
    const [alice, bob] = [member("alice"), member("bob")];
    const old = await say(alice, "old");
    await bob.refresh();
    await alice.rotate();
    expect((await bob.open(await say(alice, "new"))).keyVersion).toBe(2);
    await expect(bob.open(old)).rejects.toThrow(refusal("message-superseded"));
  });

  test("goes back to no older version, whatever it is told", async () => {
    const bob = member("bob");
    keys.add();
    await bob.refresh();
    keys.versions.pop();
    time += 3_600_000;
    expect((await bob.refresh()).version).toBe(2);
  });

  test("confirms its key after a minute and after a revocation, and goes on no further once it is refused", async () => {
    const alice = member("alice");
    await say(alice, "1");
    await say(alice, "2");
    expect(keys.asked).toBe(1);
    time += 60_000;
    await say(alice, "3");
    expect(keys.asked).toBe(2);
    keys.denied = true;
    await say(alice, "4");
    alice.expire();
    await expect(say(alice, "5")).rejects.toThrow(refusal("not-permitted"));
  });

  test("refuses a version that does not exist, one's own messages, other groups and foreign senders", async () => {
    const bob = member("bob");
    const sealed = (change: object) =>
      sealMessage(keys.latest.secret, { sender: "spiffe://signet.internal/agent/alice", group: "team", keyVersion: 1, stream: newStream(new Date(0)), sequence: 1, ...change }, Buffer.from("x"));
    await expect(bob.open(sealed({ keyVersion: 9 }))).rejects.toThrow(refusal("message-malformed"));
    await expect(bob.open(sealed({ sender: "spiffe://signet.internal/agent/bob" }))).rejects.toThrow(refusal("peer-is-self"));
    await expect(bob.open(sealed({ group: "other" }))).rejects.toThrow(refusal("message-malformed"));
    await expect(bob.open(sealed({ sender: "spiffe://other.internal/agent/alice" }))).rejects.toThrow(refusal("message-malformed"));
    await expect(bob.open(sealed({ sender: "alice" }))).rejects.toThrow(refusal("message-malformed"));
    expect((await bob.open(sealed({}))).sender.name).toBe("alice");
  });
});
