import { execFile, spawn, type ChildProcess } from "node:child_process";
import { closeSync, fstatSync, openSync, readFileSync } from "node:fs";
import path from "node:path";
import { createInterface } from "node:readline";
import { z } from "zod";
import { makeFolder } from "#pki/durable-file.ts";
import { isErrorCode, SignetError } from "#pki/errors.ts";
import { deploymentMode } from "#pki/protocol-ca.ts";
import { projectFile } from "../project-file.ts";
import { fileError } from "./program.ts";

/** What a service says on its first line of stdout, once it serves. */
export const caReady = z.object({ ready: z.literal(true), service: z.literal("ca"), enrolmentUrl: z.url(), mutualUrl: z.url(), publicationUrl: z.url(), rootFingerprint: z.string().regex(/^[0-9a-f]{64}$/), trustDomain: z.string(), mode: deploymentMode, pid: z.int() });
export const kmsReady = z.object({ ready: z.literal(true), service: z.literal("kms"), url: z.url(), mode: deploymentMode, pid: z.int() });

export interface ServiceExit {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
}

/** A service that runs as a process of its own. */
export interface Service<Ready> {
  readonly name: string;
  readonly ready: Ready;
  /** Where its log is, in words. */
  readonly log: string;
  readonly exit: Promise<ServiceExit>;
  /** SIGTERM, and SIGKILL where it has not ended after 15 seconds. */
  stop(): Promise<ServiceExit>;
}

const stopMilliseconds = 15_000;
/** Of a log that goes to stderr, this much of its end is kept to tell why a start failed. */
const loggedCharacters = 16_384;
const startMilliseconds = 60_000;

/**
 * Starts `ca/main.ts` or `kms-server/main.ts` under this Node and waits until it serves. Its log goes to a file, to which it
 * appends, or to our stderr. It gets a process group of its own: Ctrl-C reaches who started it, and that one stops the services in their order.
 * @param i.logDirectory none for stderr
 * @param i.stdin what it reads from stdin, such as a token, which must not stand in argv
 * @param i.signal ends it while it starts
 * @throws SignetError with the code of the service's own refusal
 */
export async function startService<Schema extends z.ZodType>(i: { readonly name: "ca" | "kms"; readonly ready: Schema; readonly argv: readonly string[]; readonly logDirectory: string | undefined; readonly stdin?: string; readonly signal?: AbortSignal }): Promise<Service<z.output<Schema>>> {
  const logFile = i.logDirectory === undefined ? undefined : path.join(i.logDirectory, `${i.name}.log`);
  const log = logFile ?? "standard error";
  const { child, logged } = spawnService(i.name, i.argv, logFile, i.stdin);
  const exit = new Promise<ServiceExit>((resolve) => child.once("close", (code, signal) => resolve({ code, signal })));
  const killWithUs = (): void => void child.kill("SIGKILL");
  process.once("exit", killWithUs);
  void exit.then(() => process.off("exit", killWithUs));
  i.signal?.addEventListener("abort", () => child.kill("SIGTERM"), { once: true });
  if (i.signal?.aborted === true) child.kill("SIGTERM");

  const ready = await new Promise<z.output<Schema>>((resolve, reject) => {
    const fail = (error: SignetError): void => {
      clearTimeout(timer);
      child.kill("SIGKILL");
      reject(error);
    };
    const timer = setTimeout(() => fail(new SignetError("timed-out", `The ${i.name} did not get ready in ${startMilliseconds / 1000} s.`, { details: { next: `See ${log}.` } })), startMilliseconds);
    child.once("error", (error) => fail(new SignetError("file-unusable", `The ${i.name} cannot be started: ${error.message}.`, { cause: error })));
    void exit.then((how) => fail(refusalIn(i.name, logged(), log, how)));
    if (child.stdout === null) return;
    createInterface({ input: child.stdout }).once("line", (line) => {
      clearTimeout(timer);
      const parsed = i.ready.safeParse(parseJson(line));
      if (parsed.success) resolve(parsed.data);
      else fail(new SignetError("internal", `The ${i.name} does not say that it is ready in the agreed form.`));
    });
  });
  // Whatever else it prints must not fill the pipe.
  child.stdout?.resume();
  const stop = async (): Promise<ServiceExit> => {
    child.kill("SIGTERM");
    const timer = setTimeout(() => child.kill("SIGKILL"), stopMilliseconds);
    const how = await exit;
    clearTimeout(timer);
    return how;
  };
  return { name: i.name, ready, log, exit, stop };
}

/**
 * Takes out of the environment where systemd waits to be told that we listen (Type=notify), so that no service of ours can speak in our place.
 * @returns what tells it; `systemctl start` returns then, and what is typed next finds us. Node has no datagram sockets of that family; systemd's own command has.
 */
export function takeSupervisor(): () => Promise<void> {
  const { NOTIFY_SOCKET, ...rest } = process.env;
  delete process.env["NOTIFY_SOCKET"];
  if (NOTIFY_SOCKET === undefined) return async () => {};
  return () =>
    new Promise((resolve, reject) => {
      execFile("systemd-notify", ["--ready"], { env: { ...rest, NOTIFY_SOCKET } }, (cause) => {
        if (cause === null) resolve();
        // It would be taken for one that never came up, and ended.
        else reject(new SignetError("internal", "systemd could not be told that this is up: `systemd-notify --ready` failed.", { cause, details: { next: "See that systemd-notify is installed, and that the unit says Type=notify and NotifyAccess=all." } }));
      });
    });
}

/** How a service ended, in words. */
export function describeExit({ code, signal }: ServiceExit): string {
  return signal === null ? `ended with code ${code}` : `was ended by ${signal}`;
}

/** Runs a script of the project in the foreground, with these streams. Resolves with its exit code. */
export function runScript(file: string, argv: readonly string[]): Promise<number> {
  const child = spawn(process.execPath, [projectFile(file), ...argv], { stdio: "inherit" });
  // Ctrl-C reaches the script itself; it decides when it ends.
  const wait = (): void => {};
  process.on("SIGINT", wait);
  return new Promise((resolve, reject) => {
    child.once("error", reject);
    child.once("exit", (code, signal) => {
      process.off("SIGINT", wait);
      resolve(signal === null ? (code ?? 1) : 130);
    });
  });
}

/** `logged` is what the service has logged since, or the end of it. */
function spawnService(name: "ca" | "kms", argv: readonly string[], logFile: string | undefined, stdin: string | undefined): { child: ChildProcess; logged: () => string } {
  const { log, logged } = logFile === undefined ? { log: "pipe" as const, logged: undefined } : openLog(logFile);
  const child = spawn(process.execPath, [projectFile(name === "ca" ? "ca/main.ts" : "kms-server/main.ts"), ...argv], {
    stdio: [stdin === undefined ? "ignore" : "pipe", "pipe", log],
    detached: process.platform !== "win32",
  });
  child.stdin?.on("error", () => {});
  child.stdin?.end(stdin);
  if (logged !== undefined) {
    closeSync(log);
    return { child, logged };
  }
  let passedOn = "";
  child.stderr?.setEncoding("utf8").on("data", (text: string) => {
    process.stderr.write(text);
    passedOn = `${passedOn}${text}`.slice(-loggedCharacters);
  });
  return { child, logged: () => passedOn };
}

function openLog(logFile: string): { log: number; logged: () => string } {
  const folder = path.dirname(logFile);
  try {
    makeFolder(folder);
  } catch (error) {
    throw fileError(folder, error, "Name another data directory with --data.");
  }
  try {
    const log = openSync(logFile, "a", 0o600);
    const logStart = fstatSync(log).size;
    return { log, logged: () => readFileSync(logFile).subarray(logStart).toString("utf8") };
  } catch (error) {
    throw fileError(logFile, error);
  }
}

/** Why a service did not start, out of what it logged last: the code is the service's, so the exit code is too. */
function refusalIn(name: string, logged: string, log: string, how: ServiceExit): SignetError {
  const lines = logged.trim().split("\n");
  for (const line of lines.reverse()) {
    const record = logRecord.safeParse(parseJson(line));
    if (record.success && isErrorCode(record.data.code)) return new SignetError(record.data.code, record.data.msg);
    const [, code, message] = /^signet(?: \w+)?: ([a-z-]+): (.*)$/.exec(line) ?? [];
    if (message !== undefined && isErrorCode(code)) return new SignetError(code, message);
  }
  return new SignetError("internal", `The ${name} ${describeExit(how)} before it was ready.`, { details: { next: `See ${log}.` } });
}

const logRecord = z.object({ code: z.string(), msg: z.string() });

function parseJson(line: string): unknown {
  try {
    return JSON.parse(line);
  } catch {
    return undefined;
  }
}
