import { spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { randomBytes } from "node:crypto";
import { tmpdir } from "node:os";
import path from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from "vitest";
import type { Agent } from "#agents/agent.ts";
import type { WatchedEvent } from "#agents/key-watch.ts";
import { signet } from "#scripts/command-line/signet.ts";
import { startSystem, type RunningSystem } from "../support/system.ts";
import { recordedTerminal } from "../support/terminal.ts";

// What is held open or runs long: the stream of events up to its end, and files. CA and KMS are processes of their own.
let system: RunningSystem;
let alice: Agent;
let home: string;
const file = (name: string): string => path.join(home, name);

beforeAll(async () => {
  system = await startSystem();
  home = mkdtempSync(path.join(tmpdir(), "signet-watch-"));
  alice = await system.enroll("alice", { directory: file("alice") });
  await alice.createKey("orders");
});
afterAll(async () => {
  await alice?.close();
  await system?.stop();
  rmSync(home, { recursive: true, force: true });
});

const as = (name: string): string[] => ["--identity", file(name), "--kms", system.kmsUrl];
async function run(argv: readonly string[], input: Uint8Array | string = "", options: { readonly stdoutIsTerminal?: boolean } = {}) {
  const terminal = recordedTerminal(input, options);
  const exitCode = await signet(argv, terminal);
  return { exitCode, out: terminal.out(), err: terminal.err() };
}

/** The command line in a process of its own, which signals reach. */
function start(argv: readonly string[]): ChildProcess {
  const program = fileURLToPath(new URL("../../scripts/signet.ts", import.meta.url));
  const child = spawn(process.execPath, [program, ...argv], { stdio: ["pipe", "pipe", "pipe"] });
  onTestFinished(() => void child.kill("SIGKILL"));
  return child;
}
const exitOf = async (child: ChildProcess): Promise<number | null> => ((await once(child, "close")) as [number | null])[0];

describe("signet file", () => {
  const content = randomBytes(200_000);
  beforeAll(() => writeFileSync(file("content"), content));

  test("brings a file back, by files and by pipes, of which the KMS has seen a data key alone", async () => {
    expect(await run(["file", "encrypt", file("content"), "--key", "orders", "--context", "project=x", "--out", file("sealed"), ...as("alice")])).toMatchObject({ exitCode: 0, err: "" });
    if (process.platform !== "win32") expect(statSync(file("sealed")).mode & 0o777).toBe(0o600);
    expect(readFileSync(file("sealed")).includes(content.subarray(0, 16))).toBe(false);
    expect((await run(["file", "decrypt", file("sealed"), "--out", file("opened"), "--context", "project=x", ...as("alice")])).exitCode).toBe(0);
    expect(readFileSync(file("opened")).equals(content)).toBe(true);
    const piped = await run(["file", "encrypt", "-", "--key", "orders", ...as("alice")], "hello");
    expect((await run(["file", "decrypt", "-", ...as("alice")], piped.out)).out.toString()).toBe("hello");
  });

  test("leaves nothing under the name where the file is damaged, and what was there before stays", async () => {
    const sealed = readFileSync(file("sealed"));
    writeFileSync(file("cut"), sealed.subarray(0, -70_000));
    writeFileSync(file("kept"), "before");
    for (const out of ["kept", "absent"]) expect(await run(["file", "decrypt", file("cut"), "--out", file(out), ...as("alice")])).toMatchObject({ exitCode: 5, err: expect.stringContaining(`decryption-failed: ${file("cut")}: `) });
    expect(readFileSync(file("kept"), "utf8")).toBe("before");
    expect(readdirSync(home).filter((name) => name.startsWith("absent") || name.endsWith(".tmp"))).toEqual([]);
    // To a pipe goes the beginning, and the exit code says that it is one.
    const piped = await run(["file", "decrypt", file("cut"), ...as("alice")]);
    expect(piped.exitCode).toBe(5);
    expect(piped.out.equals(content.subarray(0, piped.out.length))).toBe(true);
  });

  test("names the file whose head is damaged, and speaks of no token", async () => {
    const sealed = readFileSync(file("sealed"));
    writeFileSync(file("headless"), sealed.fill("!", 12, 13));
    const { exitCode, err } = await run(["file", "decrypt", file("headless"), "--out", file("absent"), ...as("alice")]);
    expect({ exitCode, err }).toEqual({ exitCode: 5, err: expect.stringContaining(`ciphertext-malformed: ${file("headless")}: `) });
    expect(err).not.toMatch(/JW[ES]/);
  });

  test.each<[string, readonly string[], number]>([
    ["a context that the file is not bound to", ["decrypt", "sealed", "--context", "project=y", "--out", "x"], 5],
    ["a file that is none of Signet's", ["decrypt", "content", "--out", "x"], 5],
    ["a key that is not there", ["encrypt", "content", "--key", "nowhere", "--out", "x"], 4],
    ["a file that is not there", ["encrypt", "nothing", "--key", "orders", "--out", "x"], 1],
    ["a directory", ["encrypt", "alice", "--key", "orders", "--out", "x"], 1],
    ["a place that cannot be written", ["encrypt", "content", "--key", "orders", "--out", "content/x"], 1],
    ["--json without a place", ["encrypt", "content", "--key", "orders", "--json"], 1],
  ])("refuses %s in one line, and makes nothing", async (_what, [verb = "", source = "", ...rest], exitCode) => {
    const place = rest.map((word, index) => (rest[index - 1] === "--out" ? file(word) : word));
    const outcome = await run(["file", verb, file(source), ...place, ...as("alice")]);
    expect(outcome).toMatchObject({ exitCode, out: Buffer.alloc(0) });
    expect(outcome.err.trimEnd()).not.toContain("\n");
    expect(readdirSync(home).filter((name) => name.startsWith("x"))).toEqual([]);
  });

  test.skipIf(process.platform === "win32")("leaves nothing behind when it is interrupted", async () => {
    const child = start(["file", "encrypt", "-", "--key", "orders", "--out", file("interrupted"), ...as("alice")]);
    const ended = exitOf(child);
    child.stdin?.write(content);
    await expect.poll(() => readdirSync(home).some((name) => name.startsWith("interrupted") && name.endsWith(".tmp") && statSync(file(name)).size > 65_536), { timeout: 50_000 }).toBe(true);
    child.kill("SIGINT");
    expect(await ended).toBe(130);
    expect(readdirSync(home).filter((name) => name.startsWith("interrupted"))).toEqual([]);
  });
});

test("a watch ends without an error when its agent is closed", async () => {
  const carol = await system.enroll("carol");
  const begun = Promise.withResolvers<void>();
  const watching = carol.watchKeys((event) => {
    if (event.type === "connected") begun.resolve();
  }, new AbortController().signal);
  await begun.promise;
  await carol.close();
  await watching;
});

test("kms key get keeps the octets off a terminal, and says what to type", async () => {
  const { exitCode, err } = await run(["kms", "key", "get", "orders", "--as", "alice"], "", { stdoutIsTerminal: true });
  expect([exitCode, err.includes("npx signet kms key get orders --as alice --out orders.key")]).toEqual([1, true]);
});

test("an agent is told of the keys that come to it; once it is revoked every watcher ends with the CA's reason and exit code 5", async () => {
  const bob = await system.enroll("bob", { directory: file("bob") });
  await bob.close();
  const watchers = [start(["agent", "watch", "bob", "--json", ...as("bob")]), start(["agent", "watch", "bob", "--json", ...as("bob")])].map((child) => {
    const [lines, errors]: [Record<string, unknown>[], string[]] = [[], []];
    if (child.stdout !== null) createInterface({ input: child.stdout }).on("line", (line) => lines.push(JSON.parse(line) as Record<string, unknown>));
    child.stderr?.on("data", (text: Buffer) => errors.push(text.toString()));
    return { ended: exitOf(child), lines, errors };
  });
  const seen = (type: string, more: object = {}) => expect.poll(() => watchers.every(({ lines }) => lines.some((line) => line["type"] === type && Object.entries(more).every(([name, value]) => line[name] === value))), { timeout: 50_000 });
  await seen("connected", { keys: 0 }).toBe(true);
  await alice.createKey("shared", { readers: [bob.identity.uri] });
  await seen("received", { key: "shared", version: 1, octets: 32 }).toBe(true);
  await alice.kms.rotateKey("shared");
  await seen("received", { key: "shared", version: 2, octets: 32 }).toBe(true);
  await system.revoke("bob", "keyCompromise");
  const material = (await alice.requestKey("shared")).secret.reveal("local-use");
  for (const { ended, lines, errors } of watchers) {
    expect(await ended).toBe(5);
    const problem = JSON.parse(errors.join("")) as { code: string; details: Record<string, unknown> };
    expect(problem).toMatchObject({ code: "certificate-revoked", details: { reason: "keyCompromise", publishedAt: expect.any(String), cutAt: expect.any(String) } });
    expect(problem.details["milliseconds"]).toBe(Date.parse(String(problem.details["cutAt"])) - Date.parse(String(problem.details["publishedAt"])));
    for (const encoding of ["hex", "base64", "base64url"] as const) expect(JSON.stringify(lines)).not.toContain(Buffer.from(material).toString(encoding));
  }
  // One that begins only now is told the same.
  expect(await run(["agent", "watch", "bob", ...as("bob")])).toMatchObject({ exitCode: 5, err: expect.stringContaining("keyCompromise") });
});

test("a KMS that is gone is told from a revocation: the watch goes on trying until it is ended; without a KMS at the start it does not begin", async () => {
  const events: WatchedEvent[] = [];
  const stop = new AbortController();
  const watching = alice.watchKeys((event) => void events.push(event), stop.signal);
  const seen = (type: string, code?: string) => expect.poll(() => events.some((event) => event.type === type && (code === undefined || ("code" in event && event.code === code))), { timeout: 50_000 });
  await seen("connected").toBe(true);
  await system.kms.stop();
  await seen("disconnected", "not-ready").toBe(true);
  await seen("disconnected", "remote-unreachable").toBe(true);
  stop.abort();
  await watching;
  await expect(alice.watchKeys(() => {}, new AbortController().signal)).rejects.toMatchObject({ code: "remote-unreachable" });
});
