import { spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { createInterface } from "node:readline";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { onTestFinished } from "vitest";

const projectRoot = path.dirname(path.dirname(path.dirname(fileURLToPath(import.meta.url))));

/** A service in a process of its own. */
export interface ServiceProcess<Ready> {
  /** What its ready line said. */
  readonly ready: Ready;
  readonly pid: number;
  /** All that it has written to stderr so far. */
  log(): string;
  /** SIGTERM, and waits for the end. @returns the exit code; null if it was killed */
  stop(): Promise<number | null>;
  /** SIGKILL, and waits for the end. */
  kill(): Promise<void>;
}

/** A service that ended before it was ready. */
export class ServiceRefused extends Error {
  readonly exitCode: number | null;
  readonly log: string;

  constructor(exitCode: number | null, log: string) {
    super(`The service ended with ${exitCode} before it was ready:\n${log}`);
    this.exitCode = exitCode;
    this.log = log;
  }
}

export interface ServiceOptions {
  readonly env?: Readonly<Record<string, string>>;
  /** Text for the process's stdin; none ends it at once. */
  readonly stdin?: string;
  /** Leave the process to the caller; otherwise it ends with the test at the latest. */
  readonly outlivesTest?: boolean;
}

/** Starts a service's main file with the Node that runs this, and waits for its ready line. @throws ServiceRefused */
export async function startService<Ready>(main: string, args: readonly string[], options: ServiceOptions = {}): Promise<ServiceProcess<Ready>> {
  const child: ChildProcess = spawn(process.execPath, [path.join(projectRoot, main), ...args], {
    stdio: ["pipe", "pipe", "pipe"],
    env: { ...process.env, ...options.env },
  });
  const { stdin, stdout, stderr } = child;
  if (stdin === null || stdout === null || stderr === null) throw new Error("The process has no pipes.");
  stdin.end(options.stdin);
  let log = "";
  stderr.setEncoding("utf8").on("data", (text: string) => (log += text));
  const ended = once(child, "close") as Promise<[number | null, string | null]>;
  if (options.outlivesTest !== true)
    onTestFinished(async () => {
      child.kill("SIGKILL");
      await ended;
    });
  const lines = createInterface({ input: stdout });
  const first = await Promise.race([once(lines, "line") as Promise<[string]>, ended.then(([code]) => code)]);
  if (!Array.isArray(first)) throw new ServiceRefused(first, log);
  const end = async (signal: "SIGTERM" | "SIGKILL") => {
    child.kill(signal);
    return (await ended)[0];
  };
  return {
    ready: JSON.parse(first[0]) as Ready,
    pid: Number(child.pid),
    log: () => log,
    stop: () => end("SIGTERM"),
    kill: async () => void (await end("SIGKILL")),
  };
}

export interface CaReady {
  readonly ready: true;
  readonly service: "ca";
  readonly enrolmentUrl: string;
  readonly mutualUrl: string;
  readonly publicationUrl: string;
  readonly rootFingerprint: string;
  readonly trustDomain: string;
  readonly pid: number;
}

/**
 * Starts the CA on a data directory, which is initialised if it is new, on free ports. `arguments` are further ones of ca/main.ts.
 * @example
 * const ca = await startCa(temporaryDirectory());
 * const operator = EnrolledIdentity.open(ca.operatorDirectory);
 */
export async function startCa(dataDirectory: string, options: ServiceOptions & { readonly arguments?: readonly string[] } = {}): Promise<ServiceProcess<CaReady> & { readonly operatorDirectory: string }> {
  const service = await startService<CaReady>("ca/main.ts", ["--data", dataDirectory, "--init", ...(options.arguments ?? [])], options);
  return { ...service, operatorDirectory: path.join(dataDirectory, "operator") };
}
