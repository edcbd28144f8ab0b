import { describe, expect, test } from "vitest";
import type { GroupKey } from "#agents/kms-client.ts";
import { openLegacyCbc, sealLegacyCbc } from "#agents/legacy-cbc.ts";
import { SecretKey } from "#pki/keys.ts";

const legacyKey = (secret = SecretKey.random(32)): GroupKey => ({
  name: "old-data",
  id: "k",
  version: 1,
  algorithms: ["AES-256-GCM", "AES-256-CBC-PKCS7"],
  secret,
});

describe("the legacy form base64(IV || AES-256-CBC with PKCS #7)", () => {
  test("opens what it sealed, at every length around a block", () => {
    const key = legacyKey();
    for (const length of [0, 1, 15, 16, 17, 31, 32, 1000]) {
      const plaintext = Buffer.alloc(length, "é");
      const sealed = sealLegacyCbc(key, plaintext);
      expect(Buffer.from(sealed, "base64")).toHaveLength(16 + 16 * (Math.floor(length / 16) + 1));
      expect(Buffer.from(openLegacyCbc(key, sealed)).equals(plaintext)).toBe(true);
    }
  });

  test("opens a ciphertext that another implementation made: NIST SP 800-38A F.2.5's first block, padded by `openssl enc`", () => {
    // printf of the block | openssl enc -aes-256-cbc -K <F.2.5 key> -iv 000102030405060708090a0b0c0d0e0f
    const key = legacyKey(SecretKey.from(Buffer.from("603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4", "hex")));
    const iv = "000102030405060708090a0b0c0d0e0f";
    const blocks = "f58c4c04d6e5f1ba779eabfb5f7bfbd6485a5c81519cf378fa36d42b8547edc0";
    const opened = openLegacyCbc(key, Buffer.from(iv + blocks, "hex").toString("base64"));
    expect(Buffer.from(opened).toString("hex")).toBe("6bc1bee22e409f96e93d7e117393172a");
  });

  test("is refused under a key whose policy does not name it, both ways", () => {
    const key: GroupKey = { ...legacyKey(), algorithms: ["AES-256-GCM"] };
    expect(() => sealLegacyCbc(key, "x")).toThrow(expect.objectContaining({ code: "algorithm-not-permitted" }));
    expect(() => openLegacyCbc(key, sealLegacyCbc(legacyKey(key.secret), "x"))).toThrow(expect.objectContaining({ code: "algorithm-not-permitted" }));
  });

  test.each(["", "AAAA", "not base64!", Buffer.alloc(16).toString("base64"), Buffer.alloc(33).toString("base64"), `${Buffer.alloc(32).toString("base64")}\n`])(
    "refuses as malformed what is not base64 of an IV and whole blocks: %j",
    (text) => {
      expect(() => openLegacyCbc(legacyKey(), text)).toThrow(expect.objectContaining({ code: "ciphertext-malformed" }));
    },
  );

  test("fails to open where the padding is wrong", () => {
    // Wrong keys unpad by chance once in 255; none of eight does by accident.
    const sealed = sealLegacyCbc(legacyKey(), "text");
    const codes = Array.from({ length: 8 }, () => {
      try {
        openLegacyCbc(legacyKey(), sealed);
        return "opened";
      } catch (error) {
        return (error as { code: string }).code;
      }
    });
    expect(codes).toContain("decryption-failed");
  });
});
