import { spawn } from "node:child_process";
import { once } from "node:events";
import { createInterface } from "node:readline";
import { setTimeout as delay } from "node:timers/promises";
import { projectFile } from "./project-file.ts";

/** A service in a process of its own that has said it is ready. */
export interface ServiceProcess<Ready> {
  /** The line of JSON that it printed when it was ready. */
  readonly ready: Ready;
  readonly pid: number;
  /** SIGKILL: no handler runs, nothing is flushed. Resolves when the process is gone. */
  kill(): Promise<void>;
  /** SIGTERM, and SIGKILL after 10 seconds; resolves with the exit code, null after a signal. */
  stop(): Promise<number | null>;
  /** The last lines of its log (stderr). */
  log(): string;
}

const logLinesKept = 40;

/**
 * Starts a TypeScript file under this very Node, without a launcher or shell in between (a SIGKILL must hit the service
 * itself), and waits for the first line on its stdout.
 *
 * @param file path from the project's root, such as "ca/main.ts"
 * @throws Error with the end of the log if it ends, or stays silent for 30 seconds (or `startMilliseconds`, after which it is killed)
 */
export async function startService<Ready extends { readonly pid: number }>(
  file: string,
  argv: readonly string[],
  options: { readonly stdin?: string; readonly environment?: Readonly<Record<string, string>>; readonly nodeOptions?: readonly string[]; readonly startMilliseconds?: number } = {},
): Promise<ServiceProcess<Ready>> {
  const child = spawn(process.execPath, [...(options.nodeOptions ?? []), projectFile(file), ...argv], {
    env: { ...process.env, ...options.environment },
    stdio: ["pipe", "pipe", "pipe"],
  });
  // Whatever becomes of this process, the service does not outlive it.
  const killWithUs = (): void => void child.kill("SIGKILL");
  process.once("exit", killWithUs);
  const kept: string[] = [];
  createInterface({ input: child.stderr }).on("line", (line) => {
    kept.push(line);
    if (kept.length > logLinesKept) kept.shift();
  });
  const log = (): string => kept.join("\n");
  const gone = new Promise<number | null>((resolve) => child.once("close", (code) => resolve(code)));
  void gone.then(() => process.off("exit", killWithUs));
  child.stdin.on("error", () => {});
  child.stdin.end(options.stdin ?? "");

  const ready = await new Promise<Ready>((resolve, reject) => {
    const fail = (what: string): void => {
      clearTimeout(timer);
      child.kill("SIGKILL");
      reject(new Error(`${file} ${what}\n${log()}`));
    };
    const timer = setTimeout(() => fail("did not get ready"), options.startMilliseconds ?? 30_000);
    child.once("error", (error) => fail(error.message));
    void gone.then((code) => fail(`ended with ${code} before it was ready`));
    createInterface({ input: child.stdout }).once("line", (line) => {
      clearTimeout(timer);
      try {
        resolve(JSON.parse(line));
      } catch {
        fail(`said ${line}`);
      }
    });
  });

  const end = async (signal: "SIGKILL" | "SIGTERM"): Promise<number | null> => {
    child.kill(signal);
    const timer = setTimeout(() => child.kill("SIGKILL"), 10_000);
    const code = await gone;
    clearTimeout(timer);
    return code;
  };
  return {
    ready,
    pid: ready.pid,
    kill: async () => void (await end("SIGKILL")),
    stop: () => end("SIGTERM"),
    log,
  };
}

/** Starts a service and kills it after so many milliseconds, wherever it then is: before its first write, or in the middle of its recovery. */
export async function startAndKill(file: string, argv: readonly string[], milliseconds: number): Promise<void> {
  const child = spawn(process.execPath, [projectFile(file), ...argv], { stdio: "ignore" });
  const gone = once(child, "close");
  await delay(milliseconds);
  child.kill("SIGKILL");
  await gone;
}
