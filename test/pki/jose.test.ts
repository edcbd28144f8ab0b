import { randomBytes } from "node:crypto";
import * as fc from "fast-check";
import { compactDecrypt, compactVerify } from "jose";
import { beforeAll, describe, expect, test } from "vitest";
import { z } from "zod";
import type { ErrorCode } from "#pki/errors.ts";
import { decodeBase64url, decryptCompactJwe, encodeBase64url, encryptCompactJwe, parseCompactJws, parseOneSpelling, signCompactJws } from "#pki/jose.ts";
import { extensions, forge, testKeyPair, commonName, type TestKeyType } from "#test/support/pki.ts";

const refused = (code: ErrorCode) => expect.objectContaining({ code });
const header = z.looseObject({ alg: z.string() });

describe("base64url", () => {
  test("is what Buffer makes of the same octets, and comes back", () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 200 }), (octets) => {
        const text = encodeBase64url(octets);
        expect(text.toString("latin1")).toBe(Buffer.from(octets).toString("base64url"));
        expect(decodeBase64url(text).equals(octets)).toBe(true);
      }),
    );
  });

  test("has one spelling: whatever else Buffer takes is refused", () => {
    fc.assert(
      fc.property(fc.string({ maxLength: 40, unit: fc.constantFrom(..."ABYZaz09-_+/= .\u00e9") }), (text) => {
        const isCanonical = Buffer.from(text, "base64url").toString("base64url") === text;
        if (isCanonical) expect(decodeBase64url(Buffer.from(text, "latin1")).toString("base64url")).toBe(text);
        else expect(() => decodeBase64url(Buffer.from(text, "latin1"))).toThrow(refused("ciphertext-malformed"));
      }),
    );
  });
});

test.each(['{"a":1,"a":2}', '{ "a":1}', '{"a":1}\n', '\ufeff{"a":1}', '{"a":1.0}', '{"\\u0061":1}', "{", "", Buffer.from([0x22, 0xff, 0x22])])("JSON in another spelling than the one is refused: %j", (text) => {
  expect(() => parseOneSpelling(Buffer.from(text as string), z.looseObject({}))).toThrow(refused("ciphertext-malformed"));
});

describe("a compact JWS", () => {
  test.each<[TestKeyType, string]>([["rsa-2048", "PS256"], ["ec-p256", "ES256"], ["ec-p384", "ES384"], ["ed25519", "EdDSA"], ["ml-dsa-65", "ML-DSA-65"]])("by a key of type %s is one by %s, as jose reads it", async (type, alg) => {
    const { privateKey, publicKey } = testKeyPair(type);
    const compact = signCompactJws({ typ: "x" }, Buffer.from("payload"), privateKey);
    const jws = parseCompactJws(compact, header);
    jws.verify(publicKey);
    expect([jws.header, jws.payload.toString()]).toEqual([{ alg, typ: "x" }, "payload"]);
    if (type !== "ml-dsa-65") expect((await compactVerify(compact.toString("latin1"), publicKey)).protectedHeader).toEqual({ alg, typ: "x" });
  });

  test("is refused under another key, with another payload, and with any algorithm but that of the key", () => {
    const { privateKey, publicKey } = testKeyPair("ec-p256");
    const [head = "", body = "", signature = ""] = signCompactJws({}, Buffer.from("payload"), privateKey).toString("latin1").split(".");
    const verify = (...parts: string[]) => () => parseCompactJws(Buffer.from(parts.join(".")), header).verify(publicKey);
    verify(head, body, signature)();
    expect(() => parseCompactJws(Buffer.from([head, body, signature].join(".")), header).verify(testKeyPair("ec-p256").publicKey)).toThrow(refused("signature-invalid"));
    expect(verify(head, Buffer.from("pay1oad").toString("base64url"), signature)).toThrow(refused("signature-invalid"));
    for (const alg of ["none", "None", "HS256", "RS256", "ES384", ""]) expect(verify(Buffer.from(JSON.stringify({ alg })).toString("base64url"), body, alg === "none" ? "" : signature)).toThrow(refused("algorithm-rejected"));
    for (const parts of [[head, body], [head, body, signature, ""], ["", body, signature], [head, `${body}=`, signature]]) expect(verify(...parts)).toThrow(refused("ciphertext-malformed"));
  });
});

describe("a compact JWE", () => {
  const keys = testKeyPair("rsa-2048");
  let compact: Buffer;
  beforeAll(() => {
    const certificate = forge({ subject: commonName("r"), issuer: commonName("r"), publicKey: keys.publicKey, notBefore: new Date(0), notAfter: new Date(1e12), extensions: [extensions.keyUsage("digitalSignature")] }, keys.privateKey);
    compact = encryptCompactJwe(certificate, "JWT", Buffer.from("plaintext"));
  });

  test("opens under its key, here and by jose", async () => {
    expect(decryptCompactJwe(compact, header, keys.privateKey).plaintext.toString()).toBe("plaintext");
    const { plaintext, protectedHeader } = await compactDecrypt(compact.toString("latin1"), keys.privateKey);
    expect([Buffer.from(plaintext).toString(), protectedHeader.alg, protectedHeader.enc]).toEqual(["plaintext", "RSA-OAEP-256", "A256GCM"]);
  });

  test("is refused whole for a change in any of its parts, and another key alike", () => {
    const parts = compact.toString("latin1").split(".");
    for (const [index, part] of parts.entries()) {
      const octets = Buffer.from(part, "base64url");
      const at = index === 0 ? octets.indexOf("JWT") : 0;
      octets[at] = (octets[at] ?? 0) ^ 1;
      const changed = parts.with(index, octets.toString("base64url")).join(".");
      expect(() => decryptCompactJwe(Buffer.from(changed), header, keys.privateKey)).toThrow(refused("decryption-failed"));
    }
    expect(() => decryptCompactJwe(compact, header, testKeyPair("rsa-2048").privateKey)).toThrow(refused("decryption-failed"));
    expect(() => decryptCompactJwe(compact, header, testKeyPair("ec-p256").privateKey)).toThrow(refused("key-rejected"));
    for (const bad of [compact.subarray(0, -22), Buffer.concat([compact, Buffer.from(".")]), Buffer.alloc(0), Buffer.alloc(70_000, "A"), parts.with(4, "AAAA").join("."), parts.with(2, "").join(".")]) {
      expect(() => decryptCompactJwe(Buffer.from(bad as string), header, keys.privateKey)).toThrow(refused("ciphertext-malformed"));
    }
  });

  test("damaged anyhow gives a typed refusal", () => {
    fc.assert(
      fc.property(fc.nat(compact.length - 1), fc.integer({ min: 1, max: 255 }), (at, change) => {
        const damaged = Buffer.from(compact);
        damaged[at] = (damaged[at] ?? 0) ^ change;
        expect(() => decryptCompactJwe(damaged, header, keys.privateKey)).toThrow(expect.objectContaining({ code: expect.stringMatching(/^(?:ciphertext-malformed|decryption-failed)$/) }));
      }),
      { numRuns: 60 },
    );
    expect(() => decryptCompactJwe(randomBytes(500), header, keys.privateKey)).toThrow(refused("ciphertext-malformed"));
  });
});
