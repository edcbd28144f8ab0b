import { spawnSync } from "node:child_process";
import { createSecretKey } from "node:crypto";
import { chmodSync, readdirSync, statSync, writeFileSync } from "node:fs";
import path from "node:path";
import { expect, test } from "vitest";
import { openAes256Gcm, sealAes256Gcm } from "#pki/aead.ts";
import { SecretKey } from "#pki/keys.ts";
import { createUnsealKey, readUnsealKey } from "#pki/unseal.ts";
import { temporaryDirectory } from "../support/temporary-directory.ts";

const aad = Buffer.from("key payroll, version 1");
const failed = expect.objectContaining({ code: "decryption-failed" });

test("what was sealed opens under the same key and additional data, as SecretKey and as KeyObject", () => {
  const key = SecretKey.random(32);
  const sealed = sealAes256Gcm(key, Buffer.from("plaintext"), aad);
  expect(sealed).toHaveLength(12 + 9 + 16);
  expect(Buffer.from(openAes256Gcm(key.keyObject, sealed, aad)).toString()).toBe("plaintext");
});

test("another key, other additional data, and any bit changed make opening fail, alike", () => {
  const key = SecretKey.random(32);
  const sealed = sealAes256Gcm(key, Buffer.from("plaintext"), aad);
  expect(() => openAes256Gcm(SecretKey.random(32), sealed, aad)).toThrow(failed);
  expect(() => openAes256Gcm(key, sealed, Buffer.from("key payroll, version 2"))).toThrow(failed);
  for (let at = 0; at < sealed.length; at++) {
    const changed = Uint8Array.from(sealed, (octet, index) => (index === at ? octet ^ 1 : octet));
    expect(() => openAes256Gcm(key, changed, aad)).toThrow(failed);
  }
});

test("a ciphertext whose tag was cut short does not open", () => {
  const key = SecretKey.random(32);
  const sealed = sealAes256Gcm(key, new Uint8Array(0), aad);
  for (const length of [0, 12, 16, 27]) expect(() => openAes256Gcm(key, sealed.subarray(0, length), aad)).toThrow(failed);
});

test("no two sealings share an initialisation vector", () => {
  const key = SecretKey.random(32);
  const vectors = Array.from({ length: 500 }, () => Buffer.from(sealAes256Gcm(key, aad, aad).subarray(0, 12)).toString("hex"));
  expect(new Set(vectors).size).toBe(vectors.length);
});

test("a key of another length is refused", () => {
  expect(() => sealAes256Gcm(createSecretKey(Buffer.alloc(16)), aad, aad)).toThrow(expect.objectContaining({ code: "key-rejected" }));
});

test("an unseal key is made once, for its owner alone, and read back", async () => {
  const file = path.join(temporaryDirectory(), "unseal", "ca.key");
  const made = await createUnsealKey(file);
  expect(statSync(file).mode & 0o777).toBe(0o600);
  expect(Buffer.from((await readUnsealKey(file)).reveal("local-use"))).toEqual(Buffer.from(made.reveal("local-use")));
  await expect(createUnsealKey(file)).rejects.toMatchObject({ code: "unseal-failed" });
});

test.skipIf(process.platform === "win32")("an unseal key that could not be written whole leaves nothing, so that it can be made later", () => {
  const file = path.join(temporaryDirectory(), "unseal", "ca.key");
  const script = `import("#pki/unseal.ts").then(({ createUnsealKey }) => createUnsealKey(${JSON.stringify(file)})).catch((error) => process.stdout.write(error.code))`;
  // A file size limit of 0 fails the first write as a full disk does.
  const { stdout } = spawnSync("sh", ["-c", 'ulimit -f 0 && exec "$0" -e "$1"', process.execPath, script], { encoding: "utf8" });
  expect(stdout).toBe("unseal-failed");
  expect(readdirSync(path.dirname(file))).toEqual([]);
});

test("an unseal key that is missing, of another length, or readable by others is refused", async () => {
  const directory = temporaryDirectory();
  const file = path.join(directory, "ca.key");
  await expect(readUnsealKey(file)).rejects.toMatchObject({ code: "unseal-failed" });
  writeFileSync(file, Buffer.alloc(31), { mode: 0o600 });
  await expect(readUnsealKey(file)).rejects.toMatchObject({ code: "unseal-failed" });
  writeFileSync(file, Buffer.alloc(32));
  chmodSync(file, 0o640);
  await expect(readUnsealKey(file)).rejects.toMatchObject({ code: "unseal-failed" });
});
