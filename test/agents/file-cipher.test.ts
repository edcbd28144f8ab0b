import { createHash, randomBytes } from "node:crypto";
import { buffer } from "node:stream/consumers";
import * as fc from "fast-check";
import { describe, expect, test } from "vitest";
import { chunkLength, decryptFile, encryptFile } from "#agents/file-cipher.ts";
import { sealCiphertext, openCiphertext } from "#kms-server/ciphertext.ts";
import type { ErrorCode } from "#pki/errors.ts";
import { SecretKey } from "#pki/keys.ts";
import type { EncryptionContext } from "#pki/protocol-kms.ts";

const refused = (code: ErrorCode) => expect.objectContaining({ code });

/** The KMS's own ciphertext, without the network. */
const secret = SecretKey.random(32);
const kms = {
  encrypt: async (_name: string, plaintext: Uint8Array, context: EncryptionContext = {}) => ({ ciphertext: sealCiphertext(secret, { keyId: "0a".repeat(16), version: 1 }, plaintext, context), version: 1 }),
  decrypt: async (_name: string, ciphertext: Uint8Array, context: EncryptionContext = {}) => ({ plaintext: openCiphertext(secret, ciphertext, context), version: 1 }),
};

async function* pieces(octets: Uint8Array, length = 50_000): AsyncGenerator<Uint8Array> {
  for (let at = 0; at < octets.length; at += length) yield octets.subarray(at, at + length);
}
const all = (source: AsyncIterable<Uint8Array>) => buffer(source);
const seal = (content: Uint8Array, context?: EncryptionContext, length?: number) => all(encryptFile(kms, "orders", pieces(content, length), context));
const open = (sealed: Uint8Array, length?: number) => all(decryptFile(kms, pieces(sealed, length)));
const headLength = (sealed: Buffer) => 12 + sealed.readUInt32BE(8);
const stride = chunkLength + 16;

const content = randomBytes(3 * chunkLength + 1234);
const lengths = [0, 1, chunkLength - 1, chunkLength, chunkLength + 1, 2 * chunkLength, 3 * chunkLength + 1234];

test.each(lengths)("%i octets come back, however they arrive in pieces", async (length) => {
  const plaintext = content.subarray(0, length);
  const sealed = await seal(plaintext, { project: "x" }, 1 + (length % 7777));
  expect(sealed.length).toBe(headLength(sealed) + length + 16 * Math.max(1, Math.ceil(length / chunkLength)));
  expect((await open(sealed, 33_333)).equals(plaintext)).toBe(true);
});

test("two files of one content share nothing but their form", async () => {
  const [one, other] = await Promise.all([seal(content), seal(content)]);
  expect(one.subarray(headLength(one)).includes(other.subarray(headLength(other), headLength(other) + 16))).toBe(false);
});

describe("every damage is refused", () => {
  test("a bit anywhere", async () => {
    const sealed = await seal(content.subarray(0, chunkLength + 100), { a: "b" });
    await fc.assert(
      fc.asyncProperty(fc.nat(sealed.length - 1), fc.integer({ min: 0, max: 7 }), async (at, bit) => {
        const damaged = Buffer.from(sealed);
        damaged[at] = (damaged[at] ?? 0) ^ (1 << bit);
        await expect(open(damaged)).rejects.toMatchObject({ code: expect.stringMatching(/^(?:ciphertext-malformed|decryption-failed|request-malformed)$/) });
      }),
      { numRuns: 150 },
    );
  });

  test("a cut at every boundary of a chunk, and beside it", async () => {
    for (const length of [2 * chunkLength, content.length]) {
      const sealed = await seal(content.subarray(0, length));
      const head = headLength(sealed);
      for (let boundary = head; boundary < sealed.length; boundary += stride) {
        for (const at of [boundary - 1, boundary, boundary + 1, boundary + 15, boundary + 16, boundary + 17]) await expect(open(sealed.subarray(0, at))).rejects.toMatchObject({ code: expect.stringMatching(/^(?:ciphertext-malformed|decryption-failed)$/) });
      }
      await expect(open(sealed.subarray(0, -1))).rejects.toThrow(refused("decryption-failed"));
    }
  });

  test("chunks that are swapped, repeated, dropped or added, of this file or of another", async () => {
    const [sealed, other] = await Promise.all([seal(content), seal(content)]);
    const head = headLength(sealed);
    const chunk = (number: number, of = sealed) => of.subarray(head + number * stride, head + (number + 1) * stride);
    const put = (...parts: Uint8Array[]) => Buffer.concat([sealed.subarray(0, head), ...parts]);
    expect((await open(put(chunk(0), chunk(1), chunk(2), chunk(3)))).equals(content)).toBe(true);
    for (const forged of [
      put(chunk(1), chunk(0), chunk(2), chunk(3)),
      put(chunk(0), chunk(0), chunk(2), chunk(3)),
      put(chunk(0), chunk(1), chunk(3)),
      put(chunk(0), chunk(1), chunk(2)),
      put(chunk(0), chunk(1), chunk(2), chunk(3), chunk(3)),
      put(chunk(0), chunk(1), chunk(2), chunk(3), Buffer.of(0)),
      put(chunk(0), chunk(1, other), chunk(2), chunk(3)),
      put(chunk(3)),
      Buffer.concat([other.subarray(0, head), chunk(0), chunk(1), chunk(2), chunk(3)]),
    ])
      await expect(open(forged)).rejects.toThrow(refused("decryption-failed"));
  });

  test("a head with anything changed: key, context, salt, version, length, or JSON in another spelling", async () => {
    const sealed = await seal(content.subarray(0, 10), { project: "x" });
    const body = sealed.subarray(headLength(sealed));
    const json = sealed.toString("utf8", 12, headLength(sealed));
    const put = (text: string, version = 1) => {
      const header = Buffer.from(text);
      const prefix = Buffer.from(`SGNFILE${String.fromCharCode(version)}\0\0\0\0`, "latin1");
      prefix.writeUInt32BE(header.length, 8);
      return Buffer.concat([prefix, header, body]);
    };
    expect((await open(put(json))).length).toBe(10);
    const forged: [string, ErrorCode][] = [
      [json.replace("orders", "invoices"), "decryption-failed"],
      [json.replace('"x"', '"y"'), "decryption-failed"],
      [json.replace(/"salt":"[^"]+"/, `"salt":"${randomBytes(32).toString("base64")}"`), "decryption-failed"],
      [json.replace('"project"', '"signet.file"'), "request-malformed"],
      [`${json} `, "ciphertext-malformed"],
      [json.replace('"key"', '"key":"orders","key"'), "ciphertext-malformed"],
      [json.replace("}", ',"__proto__":"x"}'), "decryption-failed"],
      [json.replace('"orders"', '"../x"'), "ciphertext-malformed"],
    ];
    for (const [text, code] of forged) await expect(open(put(text))).rejects.toThrow(refused(code));
    await expect(open(put(json, 2))).rejects.toThrow(refused("ciphertext-malformed"));
    const long = Buffer.from(put(json));
    long.writeUInt32BE(0xffff_ffff, 8);
    await expect(open(long)).rejects.toThrow(refused("ciphertext-malformed"));
  });

  test("what is no such file at all", async () => {
    await fc.assert(fc.asyncProperty(fc.uint8Array({ maxLength: 200 }), async (octets) => void (await expect(open(octets)).rejects.toThrow(refused("ciphertext-malformed")))), { numRuns: 50 });
  });
});

test("what has been yielded before a cut is a beginning of the content, and the end says that it was one", async () => {
  const sealed = await seal(content);
  const hash = createHash("sha256");
  let length = 0;
  const reading = (async () => {
    for await (const octets of decryptFile(kms, pieces(sealed.subarray(0, headLength(sealed) + 2 * stride)))) {
      hash.update(octets);
      length += octets.length;
    }
  })();
  await expect(reading).rejects.toThrow(refused("decryption-failed"));
  expect(hash.digest().equals(createHash("sha256").update(content.subarray(0, length)).digest())).toBe(true);
});

test("whoever decrypts sees key and context before the KMS is asked, and may refuse", async () => {
  const sealed = await seal(content.subarray(0, 5), { project: "x" });
  const asked: unknown[] = [];
  const never = { decrypt: async () => Promise.reject(new Error("asked")) };
  await expect(all(decryptFile(never, pieces(sealed), (header) => {
    asked.push(header);
    throw new Error("refused");
  }))).rejects.toThrow("refused");
  expect(asked).toEqual([{ key: "orders", context: { project: "x" } }]);
  await expect(seal(content, { "signet.file": "2" })).rejects.toThrow(refused("request-malformed"));
});
