import { spawnSync } from "node:child_process";
import { createPrivateKey, X509Certificate } from "node:crypto";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { compactDecrypt } from "jose";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { Agent } from "#agents/agent.ts";
import { pemEncode } from "#pki/pem.ts";
import { kmsRoutes } from "#pki/protocol-kms.ts";
import { signet } from "#scripts/command-line/signet.ts";
import { startSystem, type RunningSystem } from "../support/system.ts";
import { recordedTerminal } from "../support/terminal.ts";

const has = (tool: string): boolean => spawnSync(tool, ["--version"]).error === undefined;
const hasCurl = has("curl");
const hasJose = hasCurl && has("jose") && has("openssl");
/** Debian 12 builds its jose without RSA-OAEP (it looks for a macro that OpenSSL 3 has as a function), and offers RSA1_5 alone for RSA keys. */
const joseHasOaep = hasJose && spawnSync("jose", ["alg"], { encoding: "utf8" }).stdout.split("\n").includes("RSA-OAEP-256");

// A key by standard clients, from the files in an agent's directory.
let system: RunningSystem;
let alice: Agent;
let home: string;
let directory: string;
const run = (tool: string, args: readonly string[], input: string | Uint8Array = "") => {
  const { status, stdout, stderr } = spawnSync(tool, args, { cwd: directory, input });
  return { status, stdout, stderr: stderr.toString() };
};
const curl = (...args: string[]) => run("curl", ["-sS", "--cert", "client.pem", "--cacert", "root.pem", "--crlfile", "crl.pem", ...args, `${system.kmsUrl}${kmsRoutes.material("orders", "latest")}`]);

describe.skipIf(!hasCurl)("curl with the files of an agent's directory (skipped without curl)", () => {
  beforeAll(async () => {
    system = await startSystem();
    home = mkdtempSync(path.join(tmpdir(), "signet-curl-"));
    directory = path.join(home, "alice");
    alice = await system.enroll("alice", { directory, keyType: "rsa-2048" });
    await alice.createKey("orders");
    const crls = await Promise.all(["leaf-0", "root"].map(async (name) => (await fetch(`${system.ca.ready.publicationUrl}/crl/${name}.crl`)).bytes()));
    writeFileSync(path.join(directory, "crl.pem"), crls.map((der) => pemEncode("X509 CRL", der)).join(""));
  });
  afterAll(async () => {
    await alice?.close();
    await system?.stop();
    rmSync(home, { recursive: true, force: true });
  });

  test("gets the 32 octets, and checks the KMS against the CRLs of its whole chain", async () => {
    const { status, stdout } = curl();
    expect([status, stdout.length]).toEqual([0, 32]);
    expect(stdout.equals((await alice.requestKey("orders")).secret.reveal("local-use"))).toBe(true);
    // Without the CRL of the issuing CA, OpenSSL refuses: the file has to hold every CRL of the chain.
    const [first = ""] = readFileSync(path.join(directory, "crl.pem"), "utf8").split(/(?<=-----END X509 CRL-----\n)/);
    writeFileSync(path.join(directory, "one-crl.pem"), first);
    expect(curl("--crlfile", "one-crl.pem").status).not.toBe(0);
  });

  test("gets an envelope, which the SDK opens too; an agent with an EC key is refused with 406", async () => {
    expect((await alice.requestSealedKey("orders")).version).toBe(1);
    const dora = await system.enroll("dora");
    await expect(dora.requestSealedKey("orders")).rejects.toMatchObject({ code: "not-acceptable" });
    await dora.close();
    expect(curl("-H", "Accept: application/jose").stdout.toString("latin1").split(".")).toHaveLength(5);
  });

  test("gets an envelope that `signet kms key open` opens, for the key that it is of", async () => {
    writeFileSync(path.join(directory, "orders.jwe"), curl("-H", "Accept: application/jose").stdout);
    const open = async (name: string) => {
      const terminal = recordedTerminal();
      const exitCode = await signet(["kms", "key", "open", name, "--in", path.join(directory, "orders.jwe"), "--identity", directory, "--kms", system.kmsUrl], terminal);
      return { exitCode, out: terminal.out() };
    };
    expect(await open("orders")).toMatchObject({ exitCode: 0 });
    expect((await open("orders")).out.equals((await alice.requestKey("orders")).secret.reveal("local-use"))).toBe(true);
    expect(await open("invoices")).toMatchObject({ exitCode: 5, out: Buffer.alloc(0) });
  });

  test.skipIf(!joseHasOaep)("and Debian's jose opens the envelope (skipped where it is missing, or built without RSA-OAEP-256)", () => {
    writeFileSync(path.join(directory, "sealed.jwe"), curl("-H", "Accept: application/jose").stdout);
    writeFileSync(path.join(directory, "own.jwk"), JSON.stringify(createPrivateKey(readFileSync(path.join(directory, "client.pem"))).export({ format: "jwk" })), { mode: 0o600 });
    const { status, stdout } = run("jose", ["jwe", "dec", "-i", "sealed.jwe", "-k", "own.jwk"]);
    expect([status, stdout.toString("latin1").split(".").length]).toEqual([0, 3]);
  });

  test.skipIf(!hasJose)("and openssl checks the signer's path and revocation, and Debian's jose its signature (skipped without them)", async () => {
    const jwk = (name: string, key: object) => writeFileSync(path.join(directory, name), JSON.stringify(key), { mode: 0o600 });
    const opened = await compactDecrypt(curl("-H", "Accept: application/jose").stdout.toString("latin1"), createPrivateKey(readFileSync(path.join(directory, "client.pem"))));
    const jws = Buffer.from(opened.plaintext);
    writeFileSync(path.join(directory, "orders.jws"), jws);
    const { x5c } = JSON.parse(Buffer.from(jws.toString("latin1").split(".")[0] ?? "", "base64url").toString()) as { x5c: string[] };
    const [kms, issuing] = x5c.map((der) => pemEncode("CERTIFICATE", Buffer.from(der, "base64")));
    writeFileSync(path.join(directory, "kms.pem"), kms ?? "");
    writeFileSync(path.join(directory, "issuing.pem"), issuing ?? "");
    expect(run("openssl", ["verify", "-purpose", "sslserver", "-CAfile", "root.pem", "-untrusted", "issuing.pem", "-CRLfile", "crl.pem", "-crl_check_all", "kms.pem"])).toMatchObject({ status: 0 });
    const certificate = new X509Certificate(kms ?? "");
    expect(certificate.subjectAltName).toContain(`URI:spiffe://${alice.identity.trustDomain}/service/kms`);
    jwk("kms.jwk", certificate.publicKey.export({ format: "jwk" }));
    const verified = run("jose", ["jws", "ver", "-i", "orders.jws", "-k", "kms.jwk", "-O", "-"]);
    expect(verified.status).toBe(0);
    const claims = JSON.parse(verified.stdout.toString()) as { aud: string; jwk: { k: string } };
    expect(claims.aud).toBe(alice.identity.uri);
    expect(Buffer.from(claims.jwk.k, "base64url").equals((await alice.requestKey("orders")).secret.reveal("local-use"))).toBe(true);
    // Another signer's key does not verify it: the control.
    jwk("other.jwk", createPrivateKey(readFileSync(path.join(directory, "client.pem"))).export({ format: "jwk" }));
    expect(run("jose", ["jws", "ver", "-i", "orders.jws", "-k", "other.jwk"]).status).not.toBe(0);
  });
});
