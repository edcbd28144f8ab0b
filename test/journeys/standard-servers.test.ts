import { spawn, spawnSync, type ChildProcess } from "node:child_process";
import { EventEmitter, once } from "node:events";
import { copyFileSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import https from "node:https";
import { connect, createServer, type AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import path from "node:path";
import tls from "node:tls";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { Certificate } from "#pki/certificate.ts";
import { signet } from "#scripts/command-line/signet.ts";
import { freePorts } from "#scripts/free-ports.ts";
import { startCa } from "#test/support/services.ts";
import { recordedTerminal } from "#test/support/terminal.ts";
import { hasOpenssl } from "#test/support/openssl.ts";

// Standard servers and clients from the files of `signet ca issue`, configured as the README shows, with the follower as what tells them of revocations.

const root = path.dirname(path.dirname(path.dirname(fileURLToPath(import.meta.url))));
// Debian keeps nginx where only root looks for it.
const env = { ...process.env, PATH: `${process.env["PATH"] ?? ""}${path.delimiter}/usr/sbin` };
const answers = (command: string, argument: string): boolean => spawnSync(command, [argument], { env }).error === undefined;
const hasNginx = answers("nginx", "-v");
const hasCurl = answers("curl", "--version");

let ca: Awaited<ReturnType<typeof startCa>>;
let folder: string;
const running: ChildProcess[] = [];

beforeAll(async () => {
  folder = mkdtempSync(path.join(tmpdir(), "signet-servers-"));
  ca = await startCa(at("data"), { outlivesTest: true, arguments: ["--dns", "api.corp"] });
  await ok("ca", "issue", "api", "--dns", "localhost", "--dns", "api.corp", "--ip", "127.0.0.1", "--out", at("api"));
  await ok("ca", "issue", "alice", "--kind", "agent", "--p12", "--out", at("alice"));
  for (const name of ["bob", "carol", "dave", "erin"]) await ok("ca", "issue", name, "--kind", "agent", "--out", at(name));
  const token = (await ok("ca", "token", "web"))["token"];
  await run(["agent", "enroll", "web", "--key-type", "ec-p256", "--token-file", "-", "--ca", ca.ready.enrolmentUrl, "--root-fingerprint", ca.ready.rootFingerprint], String(token));
});
afterAll(async () => {
  for (const child of running.reverse()) await stop(child);
  await ca?.stop();
  rmSync(folder, { recursive: true, force: true });
});

const at = (...names: string[]): string => path.join(folder, ...names);
const pem = (who: string, name: string): string => readFileSync(at(who, `${name}.pem`), "utf8");

async function run(argv: readonly string[], input = "") {
  const terminal = recordedTerminal(input);
  const exitCode = await signet(["--json", "--data", at("data"), ...argv], terminal);
  return { exitCode, out: terminal.out().toString("utf8"), err: terminal.err() };
}

async function ok(...argv: string[]): Promise<Readonly<Record<string, unknown>>> {
  const { exitCode, out, err } = await run(argv);
  expect(exitCode, err).toBe(0);
  return JSON.parse(out) as Readonly<Record<string, unknown>>;
}

/** A process in the reader's folder, whose output can be waited for. */
function start(command: string, ...args: string[]) {
  const child = spawn(command, args, { cwd: folder, env, stdio: ["ignore", "pipe", "pipe"] });
  running.push(child);
  const said = new EventEmitter();
  let output = "";
  for (const stream of [child.stdout, child.stderr])
    stream.setEncoding("utf8").on("data", (text: string) => {
      output += text;
      said.emit("more");
    });
  const until = async (found: (output: string) => boolean): Promise<void> => {
    while (!found(output)) {
      if (child.exitCode !== null) throw new Error(`${command} ended with ${child.exitCode}: ${output}`);
      await Promise.race([once(said, "more"), once(child, "close")]);
    }
  };
  return { child, until };
}

async function stop(child: ChildProcess): Promise<number | null> {
  if (child.exitCode === null && child.signalCode === null) {
    const closed = once(child, "close");
    child.kill("SIGTERM");
    await closed;
  }
  return child.exitCode;
}

const signetProcess = (...argv: string[]) => start(process.execPath, path.join(root, "scripts/signet.ts"), "--json", "--data", at("data"), ...argv);

interface Round {
  readonly crls: readonly { readonly crlNumber: string }[];
  readonly hook?: { readonly milliseconds: number };
}

/** Whether a follower has said that it wrote the leaf CRL of this number, or a later one, and that its hook has run. */
const wrote = (crlNumber: number) => (output: string): boolean =>
  output
    .split("\n")
    .filter((line) => line.startsWith('{"file"'))
    .some((line) => {
      const { crls, hook } = JSON.parse(line) as Round;
      return hook !== undefined && Number(crls.at(-1)?.crlNumber) >= crlNumber;
    });

const revoke = async (name: string): Promise<number> => Number((await ok("ca", "revoke", name, "--reason", "keyCompromise"))["crlNumber"]);

/** A client that has asked already, but whose certificate and request are kept from the server until they are released. */
async function stalledHandshake(port: number, who: https.RequestOptions): Promise<{ readonly release: () => Promise<string> }> {
  const released = Promise.withResolvers<void>();
  const proxy = createServer((near) => {
    const far = connect(port, "127.0.0.1");
    let hasAnswered = false;
    far.once("data", () => (hasAnswered = true));
    far.pipe(near).on("error", () => {});
    near.on("data", (flight) => void (hasAnswered ? released.promise : Promise.resolve()).then(() => far.write(flight)));
    near.on("close", () => far.destroy());
    far.on("error", () => {}).on("close", () => near.destroy());
  }).listen(0, "127.0.0.1");
  await once(proxy, "listening");
  const client = tls.connect({ host: "127.0.0.1", servername: "localhost", port: (proxy.address() as AddressInfo).port, ca: pem("api", "root"), minVersion: "TLSv1.3", ...who } as tls.ConnectionOptions);
  let answer = "";
  client.setEncoding("utf8").on("data", (part: string) => (answer += part));
  const closed = new Promise<void>((resolve) => client.once("close", () => resolve()));
  await once(client, "secureConnect");
  client.on("error", () => {}).write("GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
  return {
    release: async () => {
      released.resolve();
      await closed;
      proxy.close();
      return answer;
    },
  };
}

/** One of the files that the README shows, on a port of the test's own. */
async function example(name: string, target: string, portShown: string): Promise<number> {
  const [port = 0] = await freePorts(1);
  const text = readFileSync(path.join(root, "scripts/examples", name), "utf8");
  expect(text).toContain(portShown);
  mkdirSync(path.dirname(at(target)), { recursive: true });
  writeFileSync(at(target), text.replaceAll(portShown, String(port)));
  return port;
}

/** Status of an answer, or what ended the connection. Without a name, no certificate is shown. */
function ask(port: number, who: https.RequestOptions | undefined, agent: https.Agent | false = false): Promise<{ readonly status?: number; readonly body?: string; readonly error?: string; readonly socket?: tls.TLSSocket }> {
  return new Promise((resolve) => {
    const request = https.get({ host: "localhost", port, ca: pem("api", "root"), agent, ...who }, (response) => {
      let body = "";
      const socket = response.socket as tls.TLSSocket;
      response.setEncoding("utf8").on("data", (part: string) => (body += part));
      response.on("end", () => resolve({ status: response.statusCode ?? 0, body, socket }));
    });
    request.on("error", (error: NodeJS.ErrnoException) => resolve({ error: error.code ?? error.message }));
  });
}

const credentialOf = (name: string): https.RequestOptions => ({ key: pem(name, "key"), cert: pem(name, "fullchain") });

describe("signet ca follow-crl", () => {
  test("writes the file and runs the hook once where that is asked for, as an agent too, and ends with an error where the hook does", async () => {
    const hook = (code: number): string[] => ["--", process.execPath, "-e", `process.exit(${code})`];
    const follow = (...argv: string[]) => run(["ca", "follow-crl", "--once", ...argv]);
    const done = await follow("--as", "web", "--out", at("once.pem"), ...hook(0));
    expect(done.exitCode, done.err).toBe(0);
    expect(wrote(1)(done.out)).toBe(true);
    expect(readFileSync(at("once.pem"), "utf8")).toBe(pem("api", "crl"));
    const failed = await follow("--out", at("once.pem"), ...hook(3));
    expect([failed.exitCode, (JSON.parse(failed.err) as { code: string }).code]).toStrictEqual([1, "hook-failed"]);
    expect((await follow("--out", at("once.pem"), "--", "no-such-command")).exitCode).toBe(1);
    expect((await follow("--out", at("absent", "crl.pem"))).exitCode).toBe(1);
    expect((await follow("--as", "nobody", "--out", at("once.pem"))).exitCode).toBe(1);
  });

  test("says that a hook failed, and runs it again until it does not, and at each CRL; ends with 0 when it is asked to", async () => {
    const hook = `process.exit(require("node:fs").existsSync(${JSON.stringify(at("mended"))}) ? 0 : 3)`;
    const follower = signetProcess("ca", "follow-crl", "--as", "web", "--out", at("followed.pem"), "--", process.execPath, "-e", hook);
    await follower.until((output) => output.includes("hook-failed"));
    writeFileSync(at("mended"), "");
    await follower.until(wrote(1));
    await ok("ca", "crl", "--publish");
    await follower.until(wrote(2));
    expect(await stop(follower.child)).toBe(0);
  });

  test("ends a hook that hangs, and with it itself, when it is asked to", async () => {
    const follower = signetProcess("ca", "follow-crl", "--out", at("followed.pem"), "--", process.execPath, "-e", 'console.log("hanging"); setInterval(() => {}, 1000)');
    await follower.until((output) => output.includes("hanging"));
    expect(await stop(follower.child)).toBe(0);
    await follower.until((output) => output.includes("hook-failed"));
  }, 30_000);
});

describe.skipIf(!hasNginx)(`nginx${hasNginx ? "" : " (skipped without nginx)"}`, () => {
  const nginx = ["-p", "./nginx", "-c", "nginx.conf"];
  let port: number;

  beforeAll(async () => {
    port = await example("nginx.conf", "nginx/nginx.conf", "8443");
    const started = spawnSync("nginx", nginx, { cwd: folder, env, encoding: "utf8" });
    expect(started.status, started.stderr).toBe(0);
  });
  afterAll(() => void (existsSync(at("nginx/nginx.pid")) && spawnSync("nginx", [...nginx, "-s", "stop"], { cwd: folder, env })));

  test.skipIf(!hasCurl)("serves curl with a certificate of the CA, and nobody without one (skipped without curl)", () => {
    const curl = (...argv: string[]) => spawnSync("curl", ["-sS", "--fail", "--cacert", "alice/root.pem", "--crlfile", "alice/crl.pem", ...argv, `https://localhost:${port}/`], { cwd: folder, encoding: "utf8" });
    const answer = curl("--cert", "alice/fullchain.pem", "--key", "alice/key.pem");
    expect([answer.status, answer.stderr]).toStrictEqual([0, ""]);
    expect(answer.stdout).toContain(Certificate.fromPem(pem("alice", "cert")).serialNumber.toUpperCase());
    expect(curl().status).toBe(22);
    expect(curl("--cert", "api/fullchain.pem", "--key", "api/key.pem").status, "a server's certificate").toBe(22);
  });

  test("refuses a revoked client on a new connection, ends the one that it holds, resumes no session, and serves the others on", async () => {
    const follower = signetProcess("ca", "follow-crl", "--out", "api/crl.pem", "--", "nginx", ...nginx, "-s", "reload");
    await follower.until(wrote(1));
    const alice = { pfx: readFileSync(at("alice", "alice.p12")), passphrase: readFileSync(at("alice", "alice.p12.password"), "utf8").trim() };
    expect(await ask(port, alice)).toMatchObject({ status: 200 });
    const kept = new https.Agent({ keepAlive: true, maxSockets: 1 });
    const held = await ask(port, credentialOf("bob"), kept);
    expect(held.status).toBe(200);
    const session = held.socket?.getSession();
    const ended = held.socket?.destroyed === true ? Promise.resolve() : once(held.socket as tls.TLSSocket, "close");

    const crlNumber = await revoke("bob");
    await follower.until(wrote(crlNumber));
    await ended;
    // `nginx -s reload` returns before the new workers have the listening socket.
    await expect.poll(async () => (await ask(port, credentialOf("bob"))).status, { timeout: 20_000 }).toBe(400);
    const resuming = await ask(port, { ...credentialOf("bob"), ...(session === undefined ? {} : { session }) } as https.RequestOptions);
    expect([resuming.status, resuming.socket?.isSessionReused()]).toStrictEqual([400, false]);
    expect(await ask(port, alice)).toMatchObject({ status: 200 });
    kept.destroy();
    expect(await stop(follower.child)).toBe(0);
  });
});

describe("plain Node, as the README's two programs", () => {
  test("serves and refuses as the file of CRLs says, as soon as it changes", async () => {
    const port = await example("server.mjs", "server.mjs", "8444");
    copyFileSync(path.join(root, "scripts/examples/client.mjs"), at("client.mjs"));
    const server = start(process.execPath, "server.mjs");
    await server.until((output) => output.includes("listening"));
    const client = (who: string) => spawnSync(process.execPath, ["client.mjs", who, `https://localhost:${port}`], { cwd: folder, encoding: "utf8" });
    expect(client("alice")).toMatchObject({ status: 0, stdout: "Hello, URI:spiffe://signet.internal/agent/alice.\n" });
    expect(client("carol").status).toBe(0);
    expect(await ask(port, undefined)).not.toHaveProperty("status");
    const kept = new https.Agent({ keepAlive: true });
    const held = await ask(port, credentialOf("carol"), kept);
    const ended = once(held.socket as tls.TLSSocket, "close");
    const stalled = await stalledHandshake(port, credentialOf("erin"));

    await revoke("carol");
    await revoke("erin");
    await ok("ca", "follow-crl", "--once", "--out", at("api", "crl.pem"));
    await ended;
    expect(await stalled.release(), "the answer to a handshake that was under way").toBe("");
    expect(client("carol")).toMatchObject({ status: 1, stdout: "" });
    expect(client("alice").status).toBe(0);
    kept.destroy();
  });
});

describe("a revoked server", () => {
  let server: https.Server;
  let port: number;

  beforeAll(async () => {
    await ok("ca", "issue", "old", "--dns", "localhost", "--out", at("old"));
    server = https.createServer({ key: pem("old", "key"), cert: pem("old", "fullchain") }, (_, response) => response.end("hello"));
    server.listen(0, "127.0.0.1");
    await once(server, "listening");
    ({ port } = server.address() as AddressInfo);
    copyFileSync(at("old", "crl.pem"), at("before.pem"));
    await revoke("old");
    await ok("ca", "follow-crl", "--once", "--out", at("after.pem"));
    writeFileSync(at("trust.pem"), pem("old", "root") + readFileSync(at("after.pem"), "utf8"));
  });
  afterAll(() => void server?.close());

  /** The server answers from this process, so that nothing here may wait synchronously. */
  async function exitCodeOf(command: string, ...args: string[]): Promise<number | null> {
    const child = spawn(command, args, { cwd: folder, stdio: "ignore" });
    return ((await once(child, "close")) as [number | null])[0];
  }

  test.skipIf(!hasCurl)("is refused by curl --crlfile, for the CRL alone (skipped without curl)", async () => {
    const curl = (crl: string) => exitCodeOf("curl", "-sS", "--cacert", "old/root.pem", "--crlfile", crl, `https://localhost:${port}/`);
    expect([await curl("before.pem"), await curl("after.pem")]).toStrictEqual([0, 60]);
  });

  test.skipIf(!hasOpenssl)("is refused by openssl s_client -crl_check_all, for the CRL alone (skipped without OpenSSL 3)", async () => {
    const client = (...argv: string[]) => exitCodeOf("openssl", "s_client", "-connect", `localhost:${port}`, "-verify_return_error", "-verify_hostname", "localhost", "-brief", ...argv);
    expect([await client("-CAfile", "old/root.pem"), await client("-CAfile", "trust.pem", "-crl_check_all")]).toStrictEqual([0, 1]);
  });

  test("is refused by the README's client", async () => {
    expect(await ask(port, { crl: readFileSync(at("before.pem"), "utf8").split(/(?<=-----END X509 CRL-----\n)/) })).toMatchObject({ status: 200 });
    expect(await ask(port, { crl: readFileSync(at("after.pem"), "utf8").split(/(?<=-----END X509 CRL-----\n)/) })).toStrictEqual({ error: "CERT_REVOKED" });
  });
});

describe.skipIf(!hasOpenssl)(`openssl s_server${hasOpenssl ? "" : " (skipped without OpenSSL 3)"}`, () => {
  test("with root and CRLs in one file serves a client with a certificate, and refuses one that is revoked", async () => {
    await revoke("dave");
    await ok("ca", "follow-crl", "--once", "--out", at("api", "crl.pem"));
    writeFileSync(at("trust.pem"), pem("api", "root") + pem("api", "crl"));
    const [port = 0] = await freePorts(1);
    const server = start("openssl", "s_server", "-accept", `127.0.0.1:${port}`, "-cert", "api/cert.pem", "-cert_chain", "api/fullchain.pem", "-key", "api/key.pem", "-CAfile", "trust.pem", "-crl_check_all", "-Verify", "1", "-verify_return_error", "-tls1_3", "-num_tickets", "0", "-www");
    await server.until((output) => output.includes("ACCEPT"));
    const client = (who: string) => spawnSync("openssl", ["s_client", "-quiet", "-connect", `localhost:${port}`, "-cert", `${who}/cert.pem`, "-cert_chain", `${who}/fullchain.pem`, "-key", `${who}/key.pem`, "-CAfile", "trust.pem", "-crl_check_all", "-verify_return_error", "-verify_hostname", "localhost"], { cwd: folder, encoding: "utf8", input: "GET / HTTP/1.0\r\n\r\n" });
    const alice = client("alice");
    expect([alice.status, alice.stdout.startsWith("HTTP/1.0 200 ok")]).toStrictEqual([0, true]);
    expect(client("dave")).toMatchObject({ stdout: "" });
  });
});
