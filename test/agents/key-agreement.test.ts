import { checkPrimeSync } from "node:crypto";
import { describe, expect, test } from "vitest";
import { agreementGroups, EphemeralKeyPair, ffdhePrimes, type AgreementGroup } from "#agents/key-agreement.ts";
import type { SecretKey } from "#pki/keys.ts";

const refusal = (code: string) => expect.objectContaining({ code });
const hex = (key: SecretKey) => Buffer.from(key.reveal("local-use")).toString("hex");
const pairOf = (group: AgreementGroup) => Promise.all([EphemeralKeyPair.generate(group), EphemeralKeyPair.generate(group)]);

/** floor(2^bits e), from the series of e with guard bits. */
function scaledE(bits: number): bigint {
  const guard = 64n;
  let term = 1n << (BigInt(bits) + guard);
  let sum = 0n;
  for (let n = 1n; term > 0n; n++) {
    sum += term;
    term /= n;
  }
  return sum >> guard;
}

describe.each([
  ["ffdhe2048", 2048, 560316n],
  ["ffdhe3072", 3072, 2625351n],
] as const)("the prime of %s", (group, bits, offset) => {
  const prime = BigInt(`0x${ffdhePrimes[group]}`);

  test("follows RFC 7919's formula", () => {
    const b = BigInt(bits);
    expect(prime).toBe((1n << b) - (1n << (b - 64n)) + ((scaledE(bits - 130) + offset) << 64n) - 1n);
  });

  test("is a safe prime of which 2 generates the large subgroup", () => {
    expect(checkPrimeSync(prime)).toBe(true);
    expect(checkPrimeSync((prime - 1n) / 2n)).toBe(true);
    // 2 is a square modulo p, hence of order q, exactly if p is 1 or 7 modulo 8.
    expect(prime % 8n).toBe(7n);
  });

  test("leaves no room for degenerate public values: 0, 1, p - 1, p and p + 1 are refused", async () => {
    for (const value of [0n, 1n, prime - 1n, prime, prime + 1n]) {
      const pair = await EphemeralKeyPair.generate(group);
      const octets = Buffer.from(value.toString(16).padStart(bits / 4, "0"), "hex");
      expect(() => pair.sessionKey(octets)).toThrow(refusal("key-rejected"));
    }
  });
});

describe.each(agreementGroups)("an agreement over %s", (group) => {
  test("gives both sides one 32-octet key, and other sides another", async () => {
    const [alice, bob] = await pairOf(group);
    const [carol, dave] = await pairOf(group);
    const key = hex(alice.sessionKey(bob.publicValue));
    expect(key).toHaveLength(64);
    expect(hex(bob.sessionKey(alice.publicValue))).toBe(key);
    expect(hex(carol.sessionKey(dave.publicValue))).not.toBe(key);
  });

  test("binds the context: sides that disagree on it share no key", async () => {
    const [alice, bob] = await pairOf(group);
    expect(hex(alice.sessionKey(bob.publicValue, Buffer.from("a")))).not.toBe(hex(bob.sessionKey(alice.publicValue, Buffer.from("b"))));
  });

  test("happens once per key pair, and never with oneself", async () => {
    const [alice, bob] = await pairOf(group);
    alice.sessionKey(bob.publicValue);
    expect(() => alice.sessionKey(bob.publicValue)).toThrow(refusal("state-conflict"));
    expect(() => bob.sessionKey(bob.publicValue)).toThrow(refusal("peer-is-self"));
  });

  test("refuses public values of another length", async () => {
    for (const change of [-1, 1]) {
      const [alice, bob] = await pairOf(group);
      const value = Buffer.alloc(bob.publicValue.length + change, 5);
      expect(() => alice.sessionKey(value)).toThrow(refusal("key-rejected"));
    }
  });
});

test("X25519 points of small order agree on nothing", async () => {
  for (const value of [Buffer.alloc(32), Buffer.concat([Buffer.from([1]), Buffer.alloc(31)])]) {
    const pair = await EphemeralKeyPair.generate("x25519");
    expect(() => pair.sessionKey(value)).toThrow(refusal("key-rejected"));
  }
});

test.each([["x25519", 32], ["ffdhe2048", 256], ["ffdhe3072", 384]] as const)("a public value of %s has %i octets", async (group, length) => {
  expect((await EphemeralKeyPair.generate(group)).publicValue).toHaveLength(length);
});
