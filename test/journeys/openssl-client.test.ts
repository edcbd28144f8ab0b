import { spawn, spawnSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { Agent } from "#agents/agent.ts";
import { kmsRoutes } from "#pki/protocol-kms.ts";
import { startSystem, type RunningSystem } from "../support/system.ts";
import { hasOpenssl } from "#test/support/openssl.ts";


/** 32 octets that can be told from all else in what s_client prints. */
const material = Buffer.from("the-canary-of-this-key-32-octets", "latin1");

let system: RunningSystem;
let alice: Agent;
let bob: Agent;

let directory: string;
let aliceFile: string;
let bobFile: string;
let rootFile: string;
let foreignFile: string;

/** All that `openssl s_client` gets for a request of the key, on stdout. */
function ask(credentialFile: string | undefined): Promise<Buffer> {
  const { port } = new URL(system.kmsUrl);
  const credential = credentialFile === undefined ? [] : ["-cert", credentialFile, "-key", credentialFile, "-cert_chain", credentialFile];
  const client = spawn("openssl", ["s_client", "-quiet", "-connect", `127.0.0.1:${port}`, "-servername", "localhost", "-alpn", "http/1.1", "-CAfile", rootFile, ...credential], { stdio: ["pipe", "pipe", "ignore"] });
  const received: Buffer[] = [];
  client.stdout.on("data", (part: Buffer) => received.push(part));
  client.stdin.on("error", () => {});
  client.stdin.write(`GET ${kmsRoutes.material("canary", "latest")} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n`);
  return new Promise((resolve) => client.once("close", () => resolve(Buffer.concat(received))));
}

describe.skipIf(!hasOpenssl)("openssl s_client (skipped without OpenSSL 3)", () => {
  beforeAll(async () => {
    system = await startSystem();
    directory = mkdtempSync(path.join(tmpdir(), "signet-openssl-client-"));
    [alice, bob] = await Promise.all([
      system.enroll("alice", { directory: path.join(directory, "alice") }),
      system.enroll("bob", { directory: path.join(directory, "bob") }),
    ]);
    await alice.kms.importKey("canary", Buffer.from(material), { readers: [bob.identity.uri] });
    aliceFile = path.join(directory, "alice", "client.pem");
    bobFile = path.join(directory, "bob", "client.pem");
    rootFile = path.join(directory, "alice", "root.pem");
    foreignFile = path.join(directory, "foreign.pem");
    const subject = ["-subj", "/CN=alice", "-addext", `subjectAltName=URI:${alice.identity.uri}`, "-addext", "extendedKeyUsage=clientAuth"];
    const made = spawnSync("openssl", ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", "-", "-days", "2", ...subject], { encoding: "utf8" });
    writeFileSync(foreignFile, made.stdout);
  });
  afterAll(async () => {
    await Promise.all([alice, bob].map((agent) => agent?.close()));
    await system?.stop();
    rmSync(directory, { recursive: true, force: true });
  });

  test("gets the key with a certificate that may have it: the control", async () => {
    for (const file of [aliceFile, bobFile]) {
      const answer = await ask(file);
      expect(answer.toString("latin1")).toMatch(/^HTTP\/1\.1 200 /);
      expect(answer.includes(material)).toBe(true);
    }
  });

  test("gets nothing at all without a certificate, and with a foreign one of the same names", async () => {
    expect(await ask(undefined)).toHaveLength(0);
    expect(await ask(foreignFile)).toHaveLength(0);
  });

  test("gets a refusal and no octet of the key with a revoked certificate", async () => {
    await system.revoke("bob");
    // The KMS has the CRL once Bob's own client is refused there.
    await expect.poll(async () => bob.kms.whoami().then(() => "served", (error: { code: string }) => error.code), { timeout: 30_000 }).toBe("certificate-revoked");
    const answer = (await ask(bobFile)).toString("latin1");
    expect(answer).toMatch(/^HTTP\/1\.1 403 /);
    expect(JSON.parse(answer.slice(answer.indexOf("\r\n\r\n") + 4))).toMatchObject({ code: "certificate-revoked" });
    for (let at = 0; at + 8 <= material.length; at += 1) expect(answer).not.toContain(material.subarray(at, at + 8).toString("latin1"));
  });
});
