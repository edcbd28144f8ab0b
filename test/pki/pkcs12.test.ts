import { spawnSync } from "node:child_process";
import { createPublicKey } from "node:crypto";
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import path from "node:path";
import tls from "node:tls";
import { beforeAll, describe, expect, test } from "vitest";
import { decodePkcs12, encodePkcs12, IterationLimit } from "#pki/pkcs12.ts";
import { testAuthority, testKeyPair, type TestAuthority } from "#test/support/pki.ts";
import { temporaryDirectory } from "#test/support/temporary-directory.ts";
import { hasOpenssl } from "#test/support/openssl.ts";

const password = Buffer.from("correct horse");
/** Few, where the derivation itself is not what is tested. */
const rounds = 2048;

let authority: TestAuthority;

beforeAll(async () => {
  authority = await testAuthority({ now: new Date() });
});

async function pfx(type: Parameters<typeof testKeyPair>[0] = "ec-p256", iterations: number | undefined = rounds) {
  const leaf = await authority.issue({ role: "client", name: "alice", keys: testKeyPair(type) });
  const chain = [leaf.certificate, authority.issuing, authority.root];
  return { ...leaf, chain, der: encodePkcs12({ privateKey: leaf.privateKey, chain, friendlyName: "alice" }, password, iterations) };
}

const has = (tool: string, argument: string): boolean => spawnSync(tool, [argument]).error === undefined;

/** Directory with alice.p12 and its password, for programs that read files. */
async function files(type: Parameters<typeof testKeyPair>[0], iterations?: number) {
  const made = await pfx(type, iterations);
  const directory = temporaryDirectory();
  writeFileSync(path.join(directory, "alice.p12"), made.der);
  writeFileSync(path.join(directory, "password"), `${password.toString()}\n`, { mode: 0o600 });
  return { ...made, directory, run: (command: string, ...args: string[]) => spawnSync(command, args, { cwd: directory, encoding: "utf8" }) };
}

describe("a PKCS #12 file", () => {
  test.each(["rsa-2048", "ec-p256", "ec-p384", "ed25519", "ml-dsa-65"] as const)("of a key of type %s opens here and in Node's TLS, with key, name and whole chain", async (type) => {
    const { der, chain, privateKey, certificate } = await pfx(type);
    const { certificates, privateKeys, others } = decodePkcs12(der, password);
    expect(certificates.map(({ value }) => value.fingerprint)).toStrictEqual(chain.map(({ fingerprint }) => fingerprint));
    expect(privateKeys).toHaveLength(1);
    expect(privateKeys[0]?.value.equals(privateKey)).toBe(true);
    expect([certificates.map(({ friendlyName }) => friendlyName), privateKeys[0]?.friendlyName, others]).toStrictEqual([["alice", undefined, undefined], "alice", 0]);
    expect(() => tls.createSecureContext({ pfx: Buffer.from(der), passphrase: password.toString() })).not.toThrow();
    expect(() => tls.createSecureContext({ pfx: Buffer.from(der), passphrase: "wrong" })).toThrow();
    expect(createPublicKey(privateKey).export({ format: "der", type: "spki" }).equals(certificate.spki)).toBe(true);
  });

  test("is told from one that was changed, and opens with its own password alone", async () => {
    const { der } = await pfx();
    expect(() => decodePkcs12(der, Buffer.from("correct horsf"))).toThrow(expect.objectContaining({ code: "decryption-failed" }));
    for (const at of [200, 900, der.length - 40]) {
      const changed = Buffer.from(der);
      changed[at] = (changed[at] ?? 0) ^ 1;
      expect(() => decodePkcs12(changed, password), `octet ${at}`).toThrow(expect.objectContaining({ code: expect.stringMatching(/^(decryption-failed|der-malformed)$/) }));
    }
  });

  test("holds its password in no form, and no octets of the key", async () => {
    const { der, privateKey } = await pfx();
    const octets = Buffer.from(der);
    const scalar = Buffer.from(privateKey.export({ format: "jwk" }).d ?? "", "base64url");
    for (const secret of [password, Buffer.from(password.toString(), "utf16le"), Buffer.from(password.toString(), "utf16le").swap16(), scalar]) expect(octets.includes(secret)).toBe(false);
  });

  test("is not opened where it asks for endless work", async () => {
    const { der } = await pfx("ec-p256", 70_000);
    // INTEGER 70,000 behind the salt of the MAC, as 16,777,200.
    const greedy = Buffer.from(der);
    greedy.set([0x7f, 0xff, 0xf0], greedy.length - 3);
    expect(() => decodePkcs12(greedy, password)).toThrow(expect.objectContaining({ code: "decryption-failed", message: expect.stringContaining("rounds") }));
  });

  test("may ask for 2,000,000 rounds in all, however many keys they are spread over", () => {
    const limit = new IterationLimit();
    for (const count of [600_000, 600_000, 600_000, 200_000]) expect(limit.charge(count)).toBe(count);
    expect(() => limit.charge(1)).toThrow(expect.objectContaining({ code: "decryption-failed" }));
    for (const none of [0, Number.NaN]) expect(() => new IterationLimit().charge(none)).toThrow(expect.objectContaining({ code: "decryption-failed" }));
  });

  test.each([["none", ""], ["one that programs encode differently", "pässword"], ["one with a line break", "pass\nword"], ["an endless one", "x".repeat(129)]])("is not made under a bad password: %s", async (_, bad) => {
    const { privateKey, chain } = await pfx();
    expect(() => encodePkcs12({ privateKey, chain, friendlyName: "alice" }, Buffer.from(bad))).toThrow(expect.objectContaining({ code: "usage" }));
  });

  test.skipIf(!hasOpenssl).each(["rsa-2048", "ec-p384", "ed25519"] as const)("of a key of type %s opens in openssl pkcs12 (skipped without OpenSSL 3)", async (type) => {
    const { run, certificate, privateKey } = await files(type);
    expect(run("openssl", "pkcs12", "-in", "alice.p12", "-passin", "file:password", "-nodes", "-out", "all.pem")).toMatchObject({ status: 0 });
    expect(run("openssl", "x509", "-in", "all.pem", "-noout", "-fingerprint", "-sha256").stdout.replaceAll(":", "").toLowerCase()).toContain(certificate.fingerprint);
    expect(run("openssl", "pkey", "-in", "all.pem", "-pubout", "-outform", "PEM").stdout).toBe(createPublicKey(privateKey).export({ format: "pem", type: "spki" }));
    expect(run("openssl", "pkcs12", "-in", "alice.p12", "-passin", "pass:wrong", "-noout").status).not.toBe(0);
  });

  test.skipIf(!has("keytool", "-help"))("opens in Java's keytool as one key with its chain (skipped without Java)", async () => {
    const { run } = await files("ec-p256");
    const listed = run("keytool", "-J-Xshare:auto", "-list", "-v", "-keystore", "alice.p12", "-storetype", "PKCS12", "-storepass:file", "password");
    expect(listed.status).toBe(0);
    expect(listed.stdout).toMatch(/alias name: alice[^]*PrivateKeyEntry[^]*chain length: 3/i);
  });

  test.skipIf(!has("pk12util", "-H") || !has("certutil", "-H"))("opens in NSS's pk12util, which browsers are built on (skipped without libnss3-tools)", async () => {
    const { run, directory } = await files("rsa-2048");
    mkdirSync(path.join(directory, "nss"));
    expect(run("certutil", "-N", "-d", "sql:nss", "--empty-password").status).toBe(0);
    expect(run("pk12util", "-i", "alice.p12", "-d", "sql:nss", "-w", "password", "-K", "").status).toBe(0);
    expect(run("certutil", "-L", "-d", "sql:nss").stdout).toMatch(/^alice +u,u,u/m);
    expect(existsSync(path.join(directory, "nss", "key4.db"))).toBe(true);
  });

  test.skipIf(!hasOpenssl)("of OpenSSL's own making opens here (skipped without OpenSSL 3)", async () => {
    const { run, directory, privateKey } = await files("ec-p256");
    run("openssl", "pkcs12", "-in", "alice.p12", "-passin", "file:password", "-nodes", "-out", "all.pem");
    expect(run("openssl", "pkcs12", "-export", "-in", "all.pem", "-name", "carol", "-passout", "file:password", "-out", "carol.p12").status).toBe(0);
    const { privateKeys } = decodePkcs12(readFileSync(path.join(directory, "carol.p12")), password);
    expect([privateKeys[0]?.friendlyName, privateKeys[0]?.value.equals(privateKey)]).toStrictEqual(["carol", true]);
  });
});
