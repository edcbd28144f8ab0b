import * as fc from "fast-check";
import { expect, test } from "vitest";
import { canonicalContext, openCiphertext, readCiphertextKey, sealCiphertext } from "#kms-server/ciphertext.ts";
import { SecretKey } from "#pki/keys.ts";

const under = { keyId: "00112233445566778899aabbccddeeff", version: 7 };
const key = SecretKey.random(32);
const plaintext = Buffer.from("attack at dawn");
const context = { tenant: "north", purpose: "backup" };

test("a ciphertext says what it was made under, and opens to what was sealed", () => {
  const ciphertext = sealCiphertext(key, under, plaintext, context);
  expect(ciphertext.length).toBe(plaintext.length + 53);
  expect(Buffer.from(ciphertext).subarray(0, 25).toString("hex")).toBe(`53474b31${under.keyId}0000000701`);
  expect(readCiphertextKey(ciphertext)).toEqual(under);
  expect(Buffer.from(openCiphertext(key, ciphertext, { purpose: "backup", tenant: "north" }))).toEqual(plaintext);
});

test("the empty plaintext and the empty context are sealed like any other", () => {
  const ciphertext = sealCiphertext(key, under, new Uint8Array(), {});
  expect(openCiphertext(key, ciphertext, {}).length).toBe(0);
});

test("no IV is used twice", () => {
  const seen = new Set<string>();
  for (let i = 0; i < 20_000; i++) seen.add(Buffer.from(sealCiphertext(key, under, plaintext, {})).toString("hex", 25, 37));
  expect(seen.size).toBe(20_000);
});

test("a ciphertext with any octet changed, cut or added does not open", () => {
  const ciphertext = sealCiphertext(key, under, plaintext, context);
  for (let i = 0; i < ciphertext.length; i++) {
    const changed = Uint8Array.from(ciphertext);
    changed[i] = (changed[i] ?? 0) ^ 1;
    expect(() => openCiphertext(key, changed, context)).toThrow(expect.objectContaining({ code: "decryption-failed" }));
  }
  for (const other of [ciphertext.subarray(0, -1), Buffer.concat([ciphertext, Buffer.of(0)]), ciphertext.subarray(0, -12)]) {
    expect(() => openCiphertext(key, other, context)).toThrow(expect.objectContaining({ code: "decryption-failed" }));
  }
});

test("a ciphertext opens under its own key and context only", () => {
  const ciphertext = sealCiphertext(key, under, plaintext, context);
  expect(() => openCiphertext(SecretKey.random(32), ciphertext, context)).toThrow(expect.objectContaining({ code: "decryption-failed" }));
  for (const other of [{}, { tenant: "north" }, { ...context, more: "" }, { tenant: "backup", purpose: "north" }, { "tenant\u0000": "north", purpose: "backup" }]) {
    expect(() => openCiphertext(key, ciphertext, other)).toThrow(expect.objectContaining({ code: "decryption-failed" }));
  }
});

test.each([
  ["empty", Buffer.alloc(0)],
  ["another format", Buffer.concat([Buffer.from("SGK2"), Buffer.alloc(60)])],
  ["another algorithm", Buffer.concat([Buffer.from("SGK1"), Buffer.alloc(20), Buffer.of(2), Buffer.alloc(28)])],
  ["too short for IV and tag", Buffer.concat([Buffer.from("SGK1"), Buffer.alloc(20), Buffer.of(1), Buffer.alloc(27)])],
])("what is no ciphertext is ciphertext-malformed: %s", (_title, octets) => {
  expect(() => readCiphertextKey(octets)).toThrow(expect.objectContaining({ code: "ciphertext-malformed" }));
});

test("two contexts have one encoding only if they are the same context", () => {
  // Few letters, so that equal contexts and equal concatenations come up often.
  const letters = fc.string({ unit: fc.constantFrom("a", "b", "\u0000", "é"), maxLength: 3 });
  const contexts = fc.dictionary(letters, letters, { maxKeys: 3, noNullPrototype: true });
  const same = (a: Record<string, string>, b: Record<string, string>) => {
    const [x, y] = [Object.entries(a), Object.entries(b)];
    return x.length === y.length && x.every(([name, value]) => Object.hasOwn(b, name) && b[name] === value);
  };
  fc.assert(fc.property(contexts, contexts, (a, b) => Buffer.from(canonicalContext(a)).equals(canonicalContext(b)) === same(a, b)), { numRuns: 2000 });
});

test("an entry called __proto__ is bound like any other", () => {
  const odd = JSON.parse('{"__proto__":"x"}') as Record<string, string>;
  expect(Buffer.from(canonicalContext(odd)).equals(canonicalContext({}))).toBe(false);
});
