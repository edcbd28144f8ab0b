import { chmodSync, copyFileSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { afterAll, afterEach, beforeAll, expect, test } from "vitest";
import { SecretKey } from "#pki/keys.ts";
import { readPassphrase } from "#pki/passphrase.ts";
import { changePassphrase, createUnsealKey, isUnsealKeySealed, readUnsealKey } from "#pki/unseal.ts";
import { temporaryDirectory } from "#test/support/temporary-directory.ts";

const passphrase = (text: string) => SecretKey.from(Buffer.from(text));
const octets = (key: SecretKey) => Buffer.from(key.reveal("local-use")).toString("hex");
const refusal = (code: string) => expect.objectContaining({ code });

// One file for them all: a derivation takes its time.
const directory = mkdtempSync(path.join(tmpdir(), "signet-passphrase-"));
const sealedFile = path.join(directory, "ca.key");
let key: SecretKey;
beforeAll(async () => void (key = await createUnsealKey(sealedFile, passphrase("correct horse"))));
afterAll(() => rmSync(directory, { recursive: true }));

function copyOfSealed(): string {
  const file = path.join(temporaryDirectory(), "ca.key");
  copyFileSync(sealedFile, file);
  return file;
}

test("a sealed unseal key opens under its passphrase alone; another one, or none, says so and changes nothing", async () => {
  const before = readFileSync(sealedFile, "utf8");
  expect(before).not.toContain(Buffer.from(octets(key), "hex").toString("base64"));
  expect(isUnsealKeySealed(sealedFile)).toBe(true);
  await expect(readUnsealKey(sealedFile, passphrase("correct house"))).rejects.toThrow(refusal("unseal-failed"));
  await expect(readUnsealKey(sealedFile)).rejects.toThrow(refusal("unseal-failed"));
  expect(readFileSync(sealedFile, "utf8")).toBe(before);
});

test("a bare unseal key is not taken for production's", async () => {
  const file = path.join(temporaryDirectory(), "ca.key");
  await createUnsealKey(file);
  expect(isUnsealKeySealed(file)).toBe(false);
  await expect(readUnsealKey(file, passphrase("correct horse"))).rejects.toThrow(refusal("unseal-failed"));
});

test("after a change the new passphrase opens the same key, and the old one nothing", async () => {
  const file = copyOfSealed();
  await changePassphrase(file, passphrase("correct horse"), passphrase("battery staple"));
  expect(octets(await readUnsealKey(file, passphrase("battery staple")))).toBe(octets(key));
  await expect(readUnsealKey(file, passphrase("correct horse"))).rejects.toThrow(refusal("unseal-failed"));
  expect(octets(await readUnsealKey(sealedFile, passphrase("correct horse")))).toBe(octets(key));
});

test.each([
  ["more passes", { passes: 4 }],
  ["another salt", { salt: Buffer.alloc(16).toString("base64") }],
  ["memory without end", { memoryKibibytes: 2 ** 31 }],
  ["less memory than is written", { memoryKibibytes: 8 }],
  ["time without end", { passes: 2 ** 31 }],
  ["another derivation", { derivation: "none" }],
  ["a member more", { more: 1 }],
])("a sealed unseal key with %s is refused", async (_title, change) => {
  const file = copyOfSealed();
  writeFileSync(file, JSON.stringify({ ...(JSON.parse(readFileSync(file, "utf8")) as object), ...change }));
  await expect(readUnsealKey(file, passphrase("correct horse"))).rejects.toThrow(refusal("unseal-failed"));
});

afterEach(() => void delete process.env["CREDENTIALS_DIRECTORY"]);

test("a passphrase is what its file holds without the line's end, 12 octets at least; where none is given, the ways to give it are told", async () => {
  const file = path.join(temporaryDirectory(), "ca.pass");
  const read = async (content: string) => {
    writeFileSync(file, content, { mode: 0o600 });
    return Buffer.from((await readPassphrase({ file, option: "--ca-passphrase-file", credential: "ca-passphrase" })).reveal("local-use")).toString();
  };
  expect(await read("correct horse\n")).toBe("correct horse");
  expect(await read("correct horse\r\n")).toBe("correct horse");
  expect(await read(" correct\nhorse ")).toBe(" correct\nhorse ");
  await expect(read("too short!!\n")).rejects.toThrow(refusal("usage"));
  await expect(read("x".repeat(1025))).rejects.toThrow(refusal("usage"));
  await expect(readPassphrase({ file: undefined, option: "--ca-passphrase-file", credential: "ca-passphrase" })).rejects.toThrow(/--ca-passphrase-file.*LoadCredential=ca-passphrase/);
});

test.skipIf(process.platform === "win32")("a passphrase that others may read is refused; the group's bits of systemd's credentials are an access control list's", async () => {
  const directory = path.join(temporaryDirectory(), "credentials");
  mkdirSync(directory);
  const file = path.join(directory, "kms-passphrase");
  writeFileSync(file, "correct horse");
  chmodSync(file, 0o440);
  const source = { option: "--kms-passphrase-file", credential: "kms-passphrase" };
  await expect(readPassphrase({ ...source, file })).rejects.toThrow(refusal("file-unusable"));
  process.env["CREDENTIALS_DIRECTORY"] = directory;
  expect((await readPassphrase({ ...source, file: undefined })).length).toBe(13);
  chmodSync(file, 0o444);
  await expect(readPassphrase({ ...source, file: undefined })).rejects.toThrow(refusal("file-unusable"));
});
