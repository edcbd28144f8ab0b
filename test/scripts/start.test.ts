import { execFile, spawn, type ChildProcess } from "node:child_process";
import { createHash } from "node:crypto";
import { once } from "node:events";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { Certificate } from "#pki/certificate.ts";
import { checkCrlScript } from "#scripts/command-line/check-crl-script.ts";
import { issueScript } from "#scripts/command-line/issue-script.ts";
import { revokeScript } from "#scripts/command-line/revoke-script.ts";
import { signet } from "#scripts/command-line/signet.ts";
import type { Terminal } from "#scripts/command-line/program.ts";
import { freePorts, portOptions } from "#scripts/free-ports.ts";
import { recordedTerminal } from "#test/support/terminal.ts";

const root = path.dirname(path.dirname(path.dirname(fileURLToPath(import.meta.url))));

interface Started {
  readonly child: ChildProcess;
  readonly ready: { readonly initialised: boolean; readonly mode: string; readonly agent: string; readonly ca: { readonly enrolmentUrl: string; readonly rootFingerprint: string }; readonly kms: { readonly url: string }; readonly next: readonly string[] };
  /** Exit code, when it has ended. */
  readonly ended: Promise<number | null>;
  readonly log: () => string;
}

describe("npm start", () => {
  const folder = mkdtempSync(path.join(tmpdir(), "signet-start-"));
  const data = path.join(folder, "data");
  let ports: readonly string[];
  let services: Started;

  async function start(more: readonly string[] = []): Promise<Started> {
    const child = spawn(process.execPath, [path.join(root, "scripts/start.ts"), "--data", data, "--json", ...more], { stdio: ["ignore", "pipe", "pipe"] });
    let log = "";
    child.stderr.setEncoding("utf8").on("data", (text: string) => (log += text));
    const ended = once(child, "close").then(([code]) => code as number | null);
    const line = await Promise.race([once(createInterface({ input: child.stdout }), "line"), ended.then((code) => Promise.reject(new Error(`ended with ${code}: ${log}`)))]);
    return { child, ready: JSON.parse(String(line[0])) as Started["ready"], ended, log: () => log };
  }

  async function run(script: (argv: readonly string[], terminal: Terminal) => Promise<number>, argv: readonly string[], input: Uint8Array | string = "") {
    const terminal = recordedTerminal(input);
    const exitCode = await script(["--data", data, ...argv], terminal);
    return { exitCode, out: terminal.out(), err: terminal.err() };
  }

  beforeAll(async () => {
    ports = await portOptions("enrolment", "mutual", "publication", "kms", "status");
    services = await start(ports);
  });

  afterAll(async () => {
    services.child.kill("SIGTERM");
    await services.ended;
    rmSync(folder, { recursive: true, force: true });
  });

  it("makes a CA and a KMS in an empty directory and says where they are", async () => {
    expect(services.ready.initialised).toBe(true);
    const { exitCode, out } = await run(signet, ["kms", "status", "--json"]);
    expect(exitCode).toBe(0);
    expect(JSON.parse(out.toString("utf8"))).toMatchObject({ service: "kms", keys: 0 });
    if (process.platform !== "win32") expect(statSync(data).mode & 0o077).toBe(0);
  });

  it.skipIf(process.platform === "win32")("prints five commands that work as they stand", async () => {
    expect(services.ready.next).toHaveLength(5);
    const bin = `"${process.execPath}" "${path.join(root, "scripts/signet.ts")}"`;
    for (const command of services.ready.next) {
      expect(command).toContain("npx signet");
      const { stderr } = await promisify(execFile)("sh", ["-c", command.replaceAll("npx signet", bin)], { cwd: folder });
      expect(stderr).toBe("");
    }
    expect(readFileSync(path.join(folder, "orders.key"))).toHaveLength(32);
    // The last one revoked the agent that the fourth one enrolled.
    const refused = await run(signet, ["kms", "key", "list", "--as", "bob"]);
    expect(refused.err).toMatch(/^signet: certificate-revoked: /);
    expect(refused.exitCode).toBe(5);
  });

  it("says DEVELOPMENT in its certificates, and certifies names that are nobody's and no others", async () => {
    expect(services.ready).toMatchObject({ mode: "development", agent: "developer" });
    const [, issuing] = Certificate.listFromPem(readFileSync(path.join(folder, "api", "fullchain.pem"), "utf8"));
    for (const certificate of [issuing, Certificate.fromPem(readFileSync(path.join(folder, "api", "root.pem"), "utf8"))]) expect(certificate?.subject.toString()).toContain("DEVELOPMENT");
    const issue = (host: string) => run(signet, ["ca", "issue", "shop", "--dns", host, "--out", path.join(folder, host)]);
    expect((await issue("shop.home.arpa")).exitCode).toBe(0);
    expect((await issue("api.example.com")).err).toMatch(/^signet: name-not-permitted: .*home\.arpa/);
    expect(existsSync(path.join(folder, "api.example.com"))).toBe(false);
  });

  it("refuses a second start on the same data, which touches nothing", async () => {
    const before = fingerprints(data);
    await expect(start(ports)).rejects.toThrow("data-directory-locked");
    expect(fingerprints(data)).toStrictEqual(before);
  });

  it("refuses a directory that holds something else, and one whose ports are taken, and makes nothing", async () => {
    const foreign = path.join(folder, "foreign");
    writeFileSync(`${foreign}.txt`, "mine");
    await expect(start(["--data", folder])).rejects.toThrow("data-directory-foreign");
    await expect(start(["--data", foreign, ...ports])).rejects.toThrow(new RegExp(`port-taken.*${ports[1]}`));
    expect(existsSync(foreign)).toBe(false);
  });

  it("spends a token once, and leaves nothing of an enrolment that failed", async () => {
    const { out } = await run(signet, ["ca", "token", "frank"]);
    const token = out.toString("utf8");
    expect(token).toMatch(/^[\w-]{43}\n$/);
    const enroll = (name: string, more: readonly string[] = []) => run(signet, ["agent", "enroll", name, "--token-file", "-", "--key-type", "ec-p256", ...more], token);
    expect((await enroll("frank", ["--root-fingerprint", "ab".repeat(32)])).err).toMatch(/^signet: root-fingerprint-mismatch: /);
    expect((await enroll("carol")).err).toMatch(/^signet: token-invalid: /);
    expect((await enroll("frank")).exitCode).toBe(0);
    expect((await enroll("dave")).exitCode).toBe(4);
    expect((await enroll("frank")).err).toMatch(/^signet: already-exists: /);
    expect(readdirSync(path.join(data, "agents"))).not.toContain("dave");
    expect((await run(signet, ["agent", "renew", "frank"])).exitCode).toBe(0);
    expect((await run(signet, ["agent", "whoami", "frank"])).exitCode).toBe(0);
  });

  it("seals and opens under a key, hands it out to a file of mode 0600, and denies it to the operator", async () => {
    const asFrank = (argv: readonly string[], input?: Uint8Array) => run(signet, ["kms", "key", ...argv, "--as", "frank"], input);
    expect((await asFrank(["create", "team"])).exitCode).toBe(0);
    const sealed = await asFrank(["encrypt", "team", "--context", "a=b"], Buffer.from([0, 1, 255]));
    expect((await asFrank(["decrypt", "team", "--context", "a=b"], sealed.out)).out).toStrictEqual(Buffer.from([0, 1, 255]));
    expect((await asFrank(["decrypt", "team"], sealed.out)).exitCode).toBe(5);
    const file = path.join(folder, "team.key");
    expect((await asFrank(["get", "team", "--out", file])).exitCode).toBe(0);
    expect(readFileSync(file)).toHaveLength(32);
    if (process.platform !== "win32") expect(statSync(file).mode & 0o777).toBe(0o600);
    for (const other of [["--identity", path.join(data, "operator")], ["--as", "developer"], []]) expect((await run(signet, ["kms", "key", "get", "team", ...other])).exitCode).toBe(4);
    expect((await asFrank(["rotate", "team"])).exitCode).toBe(0);
    expect((await asFrank(["revoke", "team", "--reason", "keyCompromise"])).exitCode).toBe(0);
    expect((await asFrank(["decrypt", "team", "--context", "a=b"], sealed.out)).exitCode).toBe(4);
    expect((await asFrank(["destroy", "team", "--confirm", "team"])).exitCode).toBe(0);
  });

  it("issues for a list of users, names each that failed, revokes, and check-crl sees it at once", async () => {
    const out = path.join(folder, "users");
    const list = path.join(folder, "users.txt");
    writeFileSync(list, "erin\n# left: frank\n\ngrace\n");
    expect((await run(issueScript, ["--file", list, "--out", out])).exitCode).toBe(0);
    expect(readdirSync(path.join(out, "erin")).sort()).toStrictEqual(["cert.pem", "crl.pem", "fullchain.pem", "key.pem", "root.pem"]);
    const again = await run(issueScript, ["erin", "heidi", "--out", out, "--json"]);
    expect(again.exitCode).toBe(1);
    expect(JSON.parse(again.out.toString("utf8"))).toMatchObject({ done: [{ name: "heidi" }], failed: [{ name: "erin", code: "file-unusable" }] });

    const certificate = path.join(out, "grace", "cert.pem");
    expect((await run(signet, ["ca", "crl", "--publish"])).exitCode).toBe(0);
    expect((await run(checkCrlScript, [certificate])).exitCode).toBe(0);
    const revoked = await run(revokeScript, ["grace", "nobody", "--reason", "keyCompromise", "--json"]);
    expect(revoked.exitCode).toBe(3);
    expect(JSON.parse(revoked.out.toString("utf8"))).toMatchObject({ done: [{ name: "grace" }], failed: [{ name: "nobody", code: "not-found" }] });
    expect((await run(checkCrlScript, [certificate])).exitCode).toBe(5);
  });

  it("has a status page that can be served alone, too, as where systemd runs the services", async () => {
    // The port of the page that `npm start` serves.
    expect((await run(signet, ["status-page", "--status-port", ports[9] ?? ""])).err).toMatch(/^signet: port-taken: /);
    const [port] = await freePorts(1);
    const free = spawn(process.execPath, [path.join(root, "scripts/signet.ts"), "status-page", "--data", data, "--json", "--status-port", String(port)], { stdio: ["ignore", "pipe", "inherit"] });
    const ended = once(free, "close");
    const [line] = await once(createInterface({ input: free.stdout }), "line");
    const { statusPage } = JSON.parse(String(line)) as { readonly statusPage: { readonly url: string } };
    expect(await (await fetch(`${statusPage.url}/status.json`)).json()).toMatchObject({ mode: "development", ca: { summary: {} }, kms: { summary: {} } });
    free.kill("SIGTERM");
    expect(await ended).toStrictEqual([0, null]);
  });

  it("ends with 0 when it is asked to, says so where a service is missing, and goes on where it was when started again", async () => {
    services.child.kill("SIGINT");
    expect(await services.ended).toBe(0);
    for (const argv of [["ca", "list"], ["kms", "status"], ["agent", "whoami", "frank"]]) {
      const { exitCode, err } = await run(signet, argv);
      expect([exitCode, err.split(":")[1]]).toStrictEqual([2, " remote-unreachable"]);
    }
    const { ca, kms } = services.ready;
    services = await start();
    expect(services.ready).toMatchObject({ initialised: false, ca, kms });
    expect((await run(signet, ["agent", "whoami", "frank"])).exitCode).toBe(0);
    for (const command of services.ready.next) expect(command).not.toMatch(/\b(?:orders|bob)\b(?!-)/);
    expect((await run(checkCrlScript, [path.join(folder, "users", "grace", "cert.pem")])).exitCode).toBe(5);
  });

  it("stops the CA with one clear line when the KMS dies", async () => {
    const [last] = readFileSync(path.join(data, "logs", "kms.log"), "utf8").trim().split("\n").reverse();
    process.kill((JSON.parse(last ?? "") as { pid: number }).pid, "SIGKILL");
    expect(await services.ended).toBe(2);
    expect(JSON.parse(services.log())).toMatchObject({ code: "internal" });
    expect((await run(signet, ["ca", "list"])).exitCode).toBe(2);
  });
});

/** SHA-256 of every file, but for the write-ahead logs of the running services' databases. */
function fingerprints(directory: string): Readonly<Record<string, string>> {
  const files = readdirSync(directory, { recursive: true, withFileTypes: true }).filter((entry) => entry.isFile() && !/-(?:wal|shm)$/.test(entry.name));
  return Object.fromEntries(files.map((entry) => path.join(entry.parentPath, entry.name)).sort().map((file) => [file, createHash("sha256").update(readFileSync(file)).digest("hex")]));
}
