import { spawn, spawnSync, type ChildProcess } from "node:child_process";
import { EventEmitter, once } from "node:events";
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { freemem, tmpdir } from "node:os";
import path from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";

const packages = fileURLToPath(new URL("../../node_modules", import.meta.url));
const script = fileURLToPath(new URL("boot-systemd.sh", import.meta.url));
/** Nothing of ours goes in. */
export const environment = { PATH: "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin" };

/** Why a systemd cannot be booted here; undefined where it can. */
export function whyNoSystemd(): string | undefined {
  if (process.platform !== "linux") return "only on Linux";
  if (process.getuid?.() !== 0) return "only as root";
  const missing = ["git", "ip", "nsenter", "openssl", "script", "setpriv", "sudo", "unshare", "useradd"].filter((command) => find(command) === undefined);
  if (!existsSync("/lib/systemd/systemd")) missing.push("systemd");
  if (missing.length > 0) return `without ${missing.join(", ")}`;
  if (freemem() < 1.5 * 2 ** 30) return "with less than 1.5 GB of memory free";
  const directory = mkdtempSync(path.join(tmpdir(), "signet-systemd-"));
  try {
    const { status, stderr, error } = spawnSync("bash", [script, "try", directory, directory, packages], { encoding: "utf8", env: environment, stdio: ["pipe", "ignore", "pipe"], input: "", timeout: 60_000 });
    return status === 0 ? undefined : `not possible here: ${error?.message ?? stderr.trim().replaceAll(/\s+/g, " ")}`;
  } finally {
    rmSync(directory, { recursive: true });
  }
}

function find(command: string): string | undefined {
  return environment.PATH.split(":").map((directory) => path.join(directory, command)).find((file) => existsSync(file));
}

/** A machine of its own, as far as its users, services, files, ports and processes go. */
export interface OwnSystemd {
  /** A terminal of somebody who may use sudo, in his home directory. */
  terminal(): Promise<Typist>;
  /** What a command, run as root, writes to stdout. @throws Error where it fails */
  run(command: string, args?: readonly string[]): string;
  /** Ends all that runs in it, and takes away all that was changed. */
  stop(): Promise<void>;
}

/** @param repository directory that is seen there as /srv/signet */
export async function bootSystemd(repository: string): Promise<OwnSystemd> {
  const directory = mkdtempSync(path.join(tmpdir(), "signet-systemd-"));
  // A process group of its own: it ends when its stdin does, however we end.
  const child = spawn("bash", [script, "boot", directory, repository, packages], { stdio: ["pipe", "pipe", "pipe"], env: environment, detached: true });
  let errors = "";
  child.stderr.setEncoding("utf8").on("data", (text: string) => (errors += text));
  const ended = once(child, "close");
  const [line] = (await Promise.race([once(createInterface({ input: child.stdout }), "line"), ended])) as [unknown];
  const pid = /^up (\d+)$/.exec(String(line))?.[1];
  if (pid === undefined) throw new Error(`No systemd was booted (${String(line)}):\n${errors}`);
  const enter = ["--target", pid, "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--"];
  return {
    terminal: () => Typist.open(spawn("nsenter", [...enter, "setpriv", "--reuid=reader", "--regid=reader", "--init-groups", "--reset-env", "env", "NODE_COMPILE_CACHE=/var/cache/compiled", "script", "-qfec", "cd; umask 022; exec bash --noediting --norc -i", "/dev/null"], { env: environment, stdio: "pipe" })),
    run: (command, args = []) => {
      const { status, stdout, stderr } = spawnSync("nsenter", [...enter, command, ...args], { encoding: "utf8", env: environment, timeout: 60_000 });
      if (status !== 0) throw new Error(`${command} ${args.join(" ")} ended with ${status}:\n${stdout}${stderr}`);
      return stdout;
    },
    stop: async () => {
      child.stdin.end();
      await ended;
      rmSync(directory, { recursive: true });
    },
  };
}

/** Ends each command, in place of a prompt. */
const prompt = /\[exit (\d+)\]/;

/** Somebody at a terminal: types a line, waits until the shell asks for the next, and presses Ctrl-C where he is told to. */
export class Typist {
  readonly #child: ChildProcess;
  readonly #said = new EventEmitter();
  #text = "";
  #isOpen = true;

  private constructor(child: ChildProcess) {
    this.#child = child;
    for (const stream of [child.stdout, child.stderr]) {
      stream?.setEncoding("utf8").on("data", (text: string) => {
        this.#text += text;
        this.#said.emit("more");
      });
    }
    child.once("close", () => {
      this.#isOpen = false;
      this.#said.emit("more");
    });
  }

  static async open(child: ChildProcess): Promise<Typist> {
    const typist = new Typist(child);
    await typist.type(`PS1= PS2= PROMPT_COMMAND='printf "[exit %s]" "$?"'`);
    return typist;
  }

  /**
   * Types one line.
   * @param whileUp called where the command goes on until Ctrl-C, which is pressed thereafter
   * @returns the exit code, and all that was seen since
   */
  async type(line: string, whileUp?: () => unknown): Promise<{ readonly code: number; readonly seen: string }> {
    this.#text = "";
    this.#child.stdin?.write(`${line}\n`);
    if (whileUp !== undefined && (await this.#until(/Ctrl-C stops/)) !== undefined) {
      await whileUp();
      this.#child.stdin?.write("\u0003");
    }
    const [, code] = (await this.#until(prompt)) ?? [];
    return { code: Number(code), seen: this.#text.replace(prompt, "") };
  }

  /** Undefined where the command, or the terminal, has ended without it. */
  async #until(wanted: RegExp): Promise<RegExpExecArray | undefined> {
    for (;;) {
      const found = wanted.exec(this.#text);
      if (found !== null) return found;
      if (prompt.test(this.#text) || !this.#isOpen) return undefined;
      await once(this.#said, "more");
    }
  }
}
