import { spawnSync } from "node:child_process";
import { createPrivateKey, createPublicKey } from "node:crypto";
import { chmodSync, existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import tls from "node:tls";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { Certificate } from "#pki/certificate.ts";
import { createCsr, generateKeyPair } from "#pki/keys.ts";
import { pemDecodeAll, pemEncode } from "#pki/pem.ts";
import { decodePkcs12 } from "#pki/pkcs12.ts";
import { signet } from "#scripts/command-line/signet.ts";
import { startCa } from "#test/support/services.ts";
import { recordedTerminal } from "#test/support/terminal.ts";
import { hasOpenssl } from "#test/support/openssl.ts";


let ca: Awaited<ReturnType<typeof startCa>>;
let folder: string;

beforeAll(async () => {
  folder = mkdtempSync(path.join(tmpdir(), "signet-issue-"));
  ca = await startCa(path.join(folder, "data"), { outlivesTest: true, arguments: ["--dns", "api.corp"] });
});
afterAll(async () => {
  await ca?.stop();
  rmSync(folder, { recursive: true, force: true });
});

const at = (...names: string[]): string => path.join(folder, ...names);
const read = (...names: string[]): string => readFileSync(at(...names), "utf8");

async function issue(argv: readonly string[], input: string | Uint8Array = "") {
  const terminal = recordedTerminal(input);
  const exitCode = await signet(["--json", "--data", at("data"), "ca", ...argv], terminal);
  const [out, err] = [terminal.out().toString("utf8"), terminal.err()];
  return { exitCode, out, answer: JSON.parse(out === "" ? err : out) as { readonly code?: string; readonly detail?: string; readonly files?: readonly string[]; readonly certificates?: readonly { readonly identity: string }[] } };
}

const modes = (directory: string): Readonly<Record<string, string>> => Object.fromEntries(readdirSync(at(directory)).map((name) => [name, (statSync(at(directory, name)).mode & 0o777).toString(8)]));

describe("signet ca issue", () => {
  test("leaves key, certificate, chain, root and every CRL of the chain, the key for its owner alone", async () => {
    const { exitCode, answer } = await issue(["issue", "api", "--dns", "localhost", "--dns", "API.corp", "--ip", "127.0.0.1", "--out", at("api")]);
    expect(exitCode).toBe(0);
    expect(answer.files).toStrictEqual(["key.pem", "cert.pem", "fullchain.pem", "root.pem", "crl.pem"]);
    if (process.platform !== "win32") {
      expect(modes("api")).toStrictEqual({ "key.pem": "600", "cert.pem": "644", "fullchain.pem": "644", "root.pem": "644", "crl.pem": "644" });
      expect(statSync(at("api")).mode & 0o777).toBe(0o700);
    }
    const [certificate, issuing] = Certificate.listFromPem(read("api", "fullchain.pem"));
    expect(certificate?.toPem()).toBe(read("api", "cert.pem"));
    expect(issuing?.extensions.basicConstraints?.ca).toBe(true);
    expect(createPublicKey(createPrivateKey(read("api", "key.pem"))).export({ format: "der", type: "spki" }).equals(certificate?.spki as Uint8Array)).toBe(true);
    expect(certificate?.extensions.subjectAltName?.map(({ value }) => value.toString())).toStrictEqual(["spiffe://signet.internal/service/api", "localhost", "api.corp", "127.0.0.1"]);
    expect(pemDecodeAll(read("api", "crl.pem")).map(({ label }) => label)).toStrictEqual(["X509 CRL", "X509 CRL"]);
  });

  test("replaces no file", async () => {
    const before = read("api", "key.pem");
    expect(await issue(["issue", "api", "--dns", "localhost", "--out", at("api")])).toMatchObject({ exitCode: 1, answer: { code: "file-unusable" } });
    expect(read("api", "key.pem")).toBe(before);
  });

  test("makes an agent's client certificate without a host name", async () => {
    expect((await issue(["issue", "bob", "--kind", "agent", "--out", at("bob")])).exitCode).toBe(0);
    const certificate = Certificate.fromPem(read("bob", "cert.pem"));
    expect(certificate.extensions.subjectAltName?.map(({ value }) => value.toString())).toStrictEqual(["spiffe://signet.internal/agent/bob"]);
    expect(certificate.extensions.extendedKeyUsage).toStrictEqual(["1.3.6.1.5.5.7.3.2"]);
  });

  test.skipIf(!hasOpenssl)("leaves what openssl verify accepts with a CRL for every certificate, for the purpose it has and no other (skipped without OpenSSL 3)", () => {
    const verify = (who: string, purpose: string) => spawnSync("openssl", ["verify", "-CAfile", "root.pem", "-CRLfile", "crl.pem", "-crl_check_all", "-x509_strict", "-untrusted", "fullchain.pem", "-purpose", purpose, "cert.pem"], { cwd: at(who) }).status;
    expect([verify("api", "sslserver"), verify("api", "sslclient"), verify("bob", "sslclient"), verify("bob", "sslserver")]).toStrictEqual([0, 2, 0, 2]);
  });

  test.each([
    ["--dns", "api.example.com"],
    ["--ip", "192.0.2.1"],
  ])("refuses a name that the CA's constraints forbid, by the rule, and leaves nothing: %s %s", async (option, name) => {
    const { exitCode, answer } = await issue(["issue", "other", "--dns", "localhost", option, name, "--out", at("new", "deep", "other")]);
    expect([exitCode, answer.code]).toStrictEqual([5, "name-not-permitted"]);
    for (const said of [name, "localhost", "api.corp", "127.0.0.0/8"]) expect(answer.detail).toContain(said);
    expect(existsSync(at("new"))).toBe(false);
    const { answer: listed } = await issue(["list", "--identity", "spiffe://signet.internal/service/other"]);
    expect(listed.certificates).toStrictEqual([]);
  });

  test.each([["--dns", "api corp"], ["--dns", "127.0.0.1"], ["--ip", "localhost"]])("says at once that a name is none: %s %s", async (option, name) => {
    const { exitCode, answer } = await issue(["issue", "other", option, name, "--out", at("other")]);
    expect([exitCode, answer.code, existsSync(at("other"))]).toStrictEqual([1, "usage", false]);
  });

  test("certifies the key of a request, which stays with its owner", async () => {
    const { privateKey, publicKey } = await generateKeyPair("ec-p384");
    writeFileSync(at("my.csr"), pemEncode("CERTIFICATE REQUEST", await createCsr(privateKey, { commonName: "whatever.example" })));
    const { answer } = await issue(["issue", "own", "--dns", "localhost", "--csr", at("my.csr"), "--out", at("own")]);
    expect(answer.files).toStrictEqual(["cert.pem", "fullchain.pem", "root.pem", "crl.pem"]);
    const certificate = Certificate.fromPem(read("own", "cert.pem"));
    expect(Buffer.from(certificate.spki).equals(publicKey.export({ format: "der", type: "spki" }))).toBe(true);
    expect(certificate.subject.toString()).not.toContain("whatever");
    expect(await issue(["issue", "own2", "--dns", "localhost", "--csr", at("my.csr"), "--p12", "--out", at("own2")])).toMatchObject({ exitCode: 1, answer: { code: "usage" } });
  });

  test("writes a .p12 with key and whole chain, under a password that is made into a file of its own, and is shown nowhere else", async () => {
    const { answer, out } = await issue(["issue", "browser", "--kind", "operator", "--p12", "--out", at("browser")]);
    expect(answer.files?.slice(-2)).toStrictEqual(["browser.p12", "browser.p12.password"]);
    if (process.platform !== "win32") expect(modes("browser")).toMatchObject({ "browser.p12": "600", "browser.p12.password": "600" });
    const password = read("browser", "browser.p12.password").trimEnd();
    expect(password).toMatch(/^[0-9a-f]{36}$/);
    expect(out).not.toContain(password);
    const pfx = readFileSync(at("browser", "browser.p12"));
    const { certificates, privateKeys } = decodePkcs12(pfx, Buffer.from(password));
    expect(certificates.map(({ value }) => value.toPem()).join("")).toBe(read("browser", "fullchain.pem") + read("browser", "root.pem"));
    expect(privateKeys[0]?.value.equals(createPrivateKey(read("browser", "key.pem")))).toBe(true);
    expect(() => tls.createSecureContext({ pfx, passphrase: password })).not.toThrow();
  });

  test("takes the password of a .p12 from a file or stdin, and as an argument never", async () => {
    const { answer } = await issue(["issue", "java", "--kind", "agent", "--p12", "--p12-password-file", "-", "--out", at("java")], "correct horse\n");
    expect(answer.files?.at(-1)).toBe("java.p12");
    expect(decodePkcs12(readFileSync(at("java", "java.p12")), Buffer.from("correct horse")).privateKeys).toHaveLength(1);
    for (const argv of [["--p12", "--p12-password", "x"], ["--p12-password-file", "-"], ["--p12", "--p12-password-file", "-"]]) {
      expect(await issue(["issue", "no", "--kind", "agent", ...argv, "--out", at("no")], "\n")).toMatchObject({ exitCode: 1, answer: { code: "usage" } });
    }
    expect(existsSync(at("no"))).toBe(false);
  });

  test.skipIf(process.platform === "win32")("takes the password of a .p12 from no file that others may read (skipped on Windows)", async () => {
    const file = at("p12.password");
    writeFileSync(file, "correct horse\n");
    for (const [mode, exitCode] of [[0o644, 1], [0o640, 1], [0o600, 0]] as const) {
      chmodSync(file, mode);
      expect(await issue(["issue", "open", "--kind", "agent", "--p12", "--p12-password-file", file, "--out", at("open")])).toMatchObject({ exitCode, ...(exitCode === 0 ? {} : { answer: { code: "file-unusable" } }) });
    }
  });
});
