import { spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, statfsSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { afterAll, describe, expect, it, onTestFinished } from "vitest";
import { Certificate } from "#pki/certificate.ts";
import { signet } from "#scripts/command-line/signet.ts";
import { portOptions } from "#scripts/free-ports.ts";
import { DataDirectory } from "#store/data-directory.ts";
import { recordedTerminal } from "#test/support/terminal.ts";

const root = path.dirname(path.dirname(path.dirname(fileURLToPath(import.meta.url))));
const folder = mkdtempSync(path.join(tmpdir(), "signet-modes-"));
const started: ChildProcess[] = [];

afterAll(() => {
  for (const child of started) child.kill("SIGTERM");
  rmSync(folder, { recursive: true, force: true });
});

const freePorts = () => portOptions("enrolment", "mutual", "publication", "kms", "status");

interface Ready {
  readonly mode: string;
  readonly data: string;
  readonly agent?: string;
}

async function start(argv: readonly string[]): Promise<{ readonly child: ChildProcess; readonly ready: Ready; readonly ended: Promise<number | null> }> {
  const child = spawn(process.execPath, [path.join(root, "scripts/start.ts"), "--json", ...argv], { stdio: ["ignore", "pipe", "pipe"] });
  started.push(child);
  let log = "";
  child.stderr.setEncoding("utf8").on("data", (text: string) => (log += text));
  const ended = once(child, "close").then(([code]) => code as number | null);
  const line = await Promise.race([once(createInterface({ input: child.stdout }), "line"), ended.then((code) => Promise.reject(new Error(`ended with ${code}: ${log}`)))]);
  return { child, ready: JSON.parse(String(line[0])) as Ready, ended };
}

async function run(argv: readonly string[]) {
  const terminal = recordedTerminal("");
  const exitCode = await signet(argv, terminal);
  return { exitCode, out: terminal.out().toString("utf8"), err: terminal.err() };
}

function passphraseFile(name: string, text: string): string {
  const file = path.join(folder, name);
  writeFileSync(file, text, { mode: 0o600 });
  return file;
}

describe("a production deployment", () => {
  const data = path.join(folder, "production");
  const passphrases = ["--ca-passphrase-file", passphraseFile("ca.pass", "correct horse battery\n"), "--kms-passphrase-file", passphraseFile("kms.pass", "staple of another kind\n")];
  const inData = ["--data", data];
  let first: Awaited<ReturnType<typeof start>>;

  it("is not made without both passphrases, and nothing else is", async () => {
    for (const given of [[], passphrases.slice(0, 2)]) {
      const { exitCode, err } = await run(["start", ...inData, "--production", ...given]);
      expect([exitCode, err.split(":")[1]]).toStrictEqual([1, " usage"]);
    }
    const [, enrolment, , mutual] = await freePorts();
    for (const option of ["--kms-port", "--status-port", "--mutual-port"]) {
      const { exitCode, err } = await run(["start", ...inData, "--production", ...passphrases, "--enrolment-port", enrolment ?? "", "--mutual-port", mutual ?? "", option, enrolment ?? ""]);
      expect([exitCode, err]).toStrictEqual([1, expect.stringMatching(/^signet: usage: port \d+ is wanted twice/)]);
    }
    expect(existsSync(data)).toBe(false);
  });

  it("has neither a bare unseal key, nor the label DEVELOPMENT, nor an agent", async () => {
    first = await start([...inData, "--production", ...passphrases, ...(await freePorts())]);
    expect(first.ready).toMatchObject({ mode: "production" });
    expect(first.ready.agent).toBeUndefined();
    for (const service of ["ca", "kms"]) expect(JSON.parse(readFileSync(path.join(data, "unseal", `${service}.key`), "utf8"))).toMatchObject({ format: "signet-unseal-2" });
    expect(Certificate.fromPem(readFileSync(path.join(data, "operator", "root.pem"), "utf8")).subject.toString()).not.toContain("DEVELOPMENT");
    // Of the operator, the CA, the KMS in both roles, and the status page.
    expect(JSON.parse((await run([...inData, "status", "--json"])).out)).toMatchObject({ mode: "production", up: true, statusPage: { up: true }, certificates: { valid: 5 }, keys: { total: 0 } });
  });

  it("keeps its passphrases while it runs, and is stopped, KMS first, by `signet stop`", async () => {
    expect((await run([...inData, "ca", "change-passphrase", "--old-passphrase-file", passphrases[1] ?? "", "--new-passphrase-file", passphrases[3] ?? ""])).err).toMatch(/^signet: data-directory-locked: /);
    const { exitCode, out } = await run([...inData, "stop", "--json"]);
    expect(exitCode).toBe(0);
    expect(JSON.parse(out)).toMatchObject({ stopped: [{ service: "kms" }, { service: "ca" }] });
    expect(await first.ended).toBe(0);
    const status = await run([...inData, "status"]);
    expect(status.exitCode).toBe(2);
    expect(status.out).toContain(`Start with \`npx signet --data ${data} start `);
    expect(status.out).toMatch(/^status page +is not served/m);
    expect(JSON.parse((await run([...inData, "stop", "--json"])).out)).toMatchObject({ stopped: [] });
  });

  it("opens under its passphrases alone, whatever is asked or recorded", async () => {
    const files = () => readdirSync(data, { recursive: true, withFileTypes: true }).filter((entry) => entry.isFile() && entry.name.endsWith(".key")).map((entry) => readFileSync(path.join(entry.parentPath, entry.name), "utf8"));
    const before = files();
    const services = path.join(data, "signet.json");
    const record = readFileSync(services, "utf8");
    writeFileSync(services, record.replace('"production"', '"development"'));
    expect((await run(["start", ...inData])).err).toMatch(/^signet: usage: .*--ca-passphrase-file/);
    writeFileSync(services, record);
    const swapped = ["--ca-passphrase-file", passphrases[3] ?? "", "--kms-passphrase-file", passphrases[1] ?? ""];
    expect((await run(["start", ...inData, ...swapped])).err).toMatch(/^signet: unseal-failed: /);
    expect(files()).toStrictEqual(before);
  });

  it("opens under a new passphrase after a change, and what a supervisor's kill -9 left running is stopped", async () => {
    const next = passphraseFile("next.pass", "a third one altogether");
    expect((await run([...inData, "ca", "change-passphrase", "--old-passphrase-file", passphrases[1] ?? "", "--new-passphrase-file", next])).exitCode).toBe(0);
    const { child, ended } = await start([...inData, "--ca-passphrase-file", next, ...passphrases.slice(2)]);
    child.kill("SIGKILL");
    await ended;
    expect((await run([...inData, "status"])).exitCode).toBe(0);
    expect(JSON.parse((await run([...inData, "stop", "--json"])).out)).toMatchObject({ stopped: [{ service: "kms" }, { service: "ca" }] });
  });
});

/** A process that holds another directory. */
async function holderOf(directory: string): Promise<ChildProcess> {
  const program = `import { DataDirectory } from ${JSON.stringify(new URL("../../store/data-directory.ts", import.meta.url).href)};
    globalThis.held = await DataDirectory.initialise(${JSON.stringify(directory)}, { service: "ca", version: 1 }, async () => {});
    console.log("held"); setInterval(() => {}, 1e6);`;
  const child = spawn(process.execPath, ["--input-type=module", "-e", program], { stdio: ["ignore", "pipe", "inherit"] });
  started.push(child);
  await once(child.stdout, "data");
  return child;
}

describe("signet stop", () => {
  it("refuses where there is no deployment, as status does", async () => {
    const data = path.join(folder, "typo");
    for (const command of ["stop", "status"]) expect((await run(["--data", data, command])).err).toMatch(/^signet: file-unusable: .*`npx signet --data [^ `]*typo start`/);
    expect(existsSync(data)).toBe(false);
  });


  it("signals no process but the one that holds the directory, whatever a note says", async () => {
    const data = path.join(folder, "held");
    const format = { service: "ca", version: 1 } as const;
    const held = await DataDirectory.initialise(path.join(data, "ca"), format, async () => {});
    const bystander = await holderOf(path.join(folder, "other"));
    const note = held.file("lock.json");
    // The holder's own note of another process; one that does not tell which it is; and one that is right in all but that this process holds nothing here.
    const notes = [
      { ...(JSON.parse(readFileSync(note, "utf8")) as object), pid: bystander.pid },
      { pid: bystander.pid, startedAt: "" },
      JSON.parse(readFileSync(path.join(folder, "other", "lock.json"), "utf8")) as object,
    ];
    // Elsewhere the platform does not tell which process holds a file.
    for (const forged of process.platform === "linux" ? notes : []) {
      writeFileSync(note, JSON.stringify(forged));
      expect((await run(["--data", data, "stop"])).err).toMatch(/^signet: data-directory-locked: /);
    }
    held.close();
    writeFileSync(note, JSON.stringify({ pid: bystander.pid, startedAt: "" }));
    expect(JSON.parse((await run(["--data", data, "stop", "--json"])).out)).toMatchObject({ stopped: [] });
    if (process.platform === "linux") expect([bystander.exitCode, bystander.signalCode]).toStrictEqual([null, null]);
  });
});

function hasMemoryFileSystem(): boolean {
  return process.platform === "linux" && existsSync("/dev/shm") && statfsSync("/dev/shm").type === 0x0102_1994;
}

describe("npm start -- --ephemeral", () => {
  it("refuses production, a disk, and a directory that is there, and makes nothing", async () => {
    const data = path.join(folder, "ephemeral");
    for (const argv of [["--production"], ["--data", folder], ["--data", data]]) expect((await run(["start", "--ephemeral", ...argv])).exitCode).toBe(1);
    expect(existsSync(data)).toBe(false);
    expect(existsSync(folder)).toBe(true);
  });

  it.skipIf(!hasMemoryFileSystem())("keeps everything in memory, and leaves nothing when it is told to end (skipped without tmpfs at /dev/shm)", async () => {
    const { child, ready, ended } = await start(["--ephemeral", ...(await freePorts())]);
    expect(ready.data).toMatch(/^\/dev\/shm\/signet-/);
    expect((await run(["--data", ready.data, "kms", "key", "create", "orders"])).exitCode).toBe(0);
    child.kill("SIGTERM");
    expect(await ended).toBe(0);
    expect(existsSync(ready.data)).toBe(false);
  });

  it.skipIf(!hasMemoryFileSystem())("is stopped and removed by `signet stop` after its starter was killed, or by the next start, which names one that runs (skipped without tmpfs at /dev/shm)", async () => {
    const ports = await freePorts();
    const { child, ready, ended } = await start(["--ephemeral", ...ports]);
    onTestFinished(async () => void (await run(["--data", ready.data, "stop"])));
    child.kill("SIGKILL");
    await ended;
    const { err } = await run(["start", "--data", path.join(folder, "second"), ...ports]);
    expect(err).toMatch(/^signet: port-taken: /);
    expect(err).toContain(`\`npx signet stop --data ${ready.data}\``);
    expect(JSON.parse((await run(["--data", ready.data, "stop", "--json"])).out)).toMatchObject({ stopped: [{ service: "kms" }, { service: "ca" }], removed: true });
    expect(existsSync(ready.data)).toBe(false);

    // What nobody holds any more, and what was not made by an --ephemeral start.
    const [abandoned, kept] = [mkdtempSync("/dev/shm/signet-"), mkdtempSync("/dev/shm/signet-")];
    (await DataDirectory.initialise(path.join(abandoned, "ephemeral"), { service: "ephemeral", version: 1 }, async () => {})).close();
    await run(["start", "--ephemeral", ...ports.slice(0, 2), "--mutual-port", ports[1] ?? ""]);
    const left = [existsSync(abandoned), existsSync(kept)];
    rmSync(kept, { recursive: true });
    expect(left).toStrictEqual([false, true]);
  });
});
