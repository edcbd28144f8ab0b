import * as fc from "fast-check";
import { describe, expect, test } from "vitest";
import { newStream, openMessage, readMessageHeader, ReplayWindow, sealMessage, type MessageHeader } from "#agents/message.ts";
import { SignetError } from "#pki/errors.ts";
import { SecretKey } from "#pki/keys.ts";

const key = SecretKey.random(32);
const stream = newStream(new Date("2026-01-01T00:00:00Z"));
const header = (change: Partial<MessageHeader> = {}): MessageHeader => ({
  sender: "spiffe://signet.internal/agent/alice",
  group: "team",
  keyVersion: 3,
  stream,
  sequence: 1,
  ...change,
});
const text = (octets: Uint8Array) => Buffer.from(octets).toString();
const code = (act: () => unknown): string => {
  try {
    act();
  } catch (error) {
    if (error instanceof SignetError) return error.code;
    throw error;
  }
  return "none";
};

describe("a sealed message", () => {
  test("opens to the plaintext and the header it was sealed with", () => {
    const opened = openMessage(key, sealMessage(key, header(), Buffer.from("héllo")));
    expect(text(opened.plaintext)).toBe("héllo");
    expect(opened.header).toEqual(header());
  });

  test("does not open once any single octet of it is changed, header included", () => {
    const sealed = sealMessage(key, header(), Buffer.from("x"));
    for (let at = 0; at < sealed.length; at++) {
      const altered = Uint8Array.from(sealed);
      altered[at] = (altered[at] ?? 0) ^ 1;
      expect(["decryption-failed", "message-malformed"], `octet ${at}`).toContain(code(() => openMessage(key, altered)));
    }
  });

  test("does not open with its sender, group or version exchanged for another of the same length", () => {
    const sealed = Buffer.from(sealMessage(key, header(), Buffer.from("x")));
    for (const [from, to] of [["/agent/alice", "/agent/mallo"], ["team", "tean"]] as const) {
      const altered = Buffer.from(sealed.toString("latin1").replace(from, to), "latin1");
      expect(altered.equals(sealed)).toBe(false);
      expect(code(() => openMessage(key, altered))).toBe("decryption-failed");
    }
  });

  test("never has the same ciphertext twice, and hides the group's key behind a key of its own", () => {
    const [one, two] = [sealMessage(key, header(), Buffer.from("same")), sealMessage(key, header(), Buffer.from("same"))];
    expect(text(one)).not.toBe(text(two));
    expect(code(() => openMessage(SecretKey.random(32), one))).toBe("decryption-failed");
  });

  test("that is cut anywhere is malformed or fails, and nothing else is thrown for any octets", () => {
    const sealed = sealMessage(key, header(), Buffer.from("abc"));
    for (let length = 0; length < sealed.length; length++) {
      expect(["decryption-failed", "message-malformed"]).toContain(code(() => openMessage(key, sealed.subarray(0, length))));
    }
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 200 }), (octets) => {
        const candidate = Buffer.concat([Buffer.from("SGM1"), octets]);
        return ["none", "message-malformed"].includes(code(() => readMessageHeader(candidate)));
      }),
      { numRuns: 300 },
    );
  });
});

describe("the replay window", () => {
  const accept = (window: ReplayWindow, change: Partial<MessageHeader>) => code(() => window.accept(header(change)));

  test("accepts each number of a stream once, in any order within 1,024", () => {
    fc.assert(
      fc.property(fc.uniqueArray(fc.integer({ min: 1, max: ReplayWindow.sequences }), { minLength: 1, maxLength: 60 }), (sequences) => {
        const window = new ReplayWindow();
        return sequences.every((sequence) => accept(window, { sequence }) === "none") && sequences.every((sequence) => accept(window, { sequence }) === "message-replayed");
      }),
      { numRuns: 100 },
    );
  });

  test("refuses what is too old to tell, and keeps telling after a leap", () => {
    const window = new ReplayWindow();
    expect(accept(window, { sequence: 1 })).toBe("none");
    expect(accept(window, { sequence: 1 + ReplayWindow.sequences })).toBe("none");
    expect(accept(window, { sequence: 1 })).toBe("message-replayed");
    expect(accept(window, { sequence: 2 })).toBe("none");
    expect(accept(window, { sequence: 10 ** 9 })).toBe("none");
    expect(accept(window, { sequence: 10 ** 9 })).toBe("message-replayed");
    expect(accept(window, { sequence: 10 ** 9 - ReplayWindow.sequences })).toBe("message-replayed");
    expect(accept(window, { sequence: 10 ** 9 - ReplayWindow.sequences + 1 })).toBe("none");
  });

  test("keeps sixteen streams of a sender, and accepts nothing of one it dropped", () => {
    const window = new ReplayWindow();
    const at = (milliseconds: number) => ({ stream: { startedAtMilliseconds: milliseconds, nonce: "0102030405060708" } });
    for (let n = 1; n <= ReplayWindow.streamsPerSender + 1; n++) expect(accept(window, at(n))).toBe("none");
    expect(accept(window, { ...at(1), sequence: 2 })).toBe("message-replayed");
    expect(accept(window, { ...at(1), sequence: 1 })).toBe("message-replayed");
    expect(accept(window, { ...at(2), sequence: 2 })).toBe("none");
  });

  test("refuses senders beyond those it can remember, rather than forget one", () => {
    const window = new ReplayWindow();
    for (let n = 0; n < ReplayWindow.senders; n++) expect(accept(window, { sender: `spiffe://signet.internal/agent/a${n}` })).toBe("none");
    expect(accept(window, { sender: "spiffe://signet.internal/agent/more" })).toBe("limit-exceeded");
    expect(accept(window, { sender: "spiffe://signet.internal/agent/a0" })).toBe("message-replayed");
  });
});
