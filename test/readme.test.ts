import { spawn, spawnSync, type ChildProcess } from "node:child_process";
import { EventEmitter, once } from "node:events";
import { existsSync, mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { isFree } from "#scripts/free-ports.ts";
import { commandsOf, copyProject, isIgnored, readmeBlocks, type ReadmeBlock } from "#test/support/readme.ts";

// The README's blocks as they stand, one after another, in a copy of the project: what the reader of that page types.

const root = path.dirname(path.dirname(fileURLToPath(import.meta.url)));
const blocks = readmeBlocks();

/** Ports that the page names, of which something else has one: whoever runs a Signet of his own can still run the tests. */
const taken = await firstTaken([...new Set(blocks.flatMap(({ text }) => [...text.matchAll(/(?<=[:\s])[78]4\d\d\b/g)].map(([port]) => Number(port))).concat(7440, 7441, 7442, 7443, 7444))]);
const skipped = process.platform === "win32" ? "skipped on Windows, whose shell is another" : taken === undefined ? undefined : `skipped: port ${taken}, which it names, is in use`;

interface Terminal {
  readonly block: ReadmeBlock;
  readonly child: ChildProcess;
  readonly output: () => string;
  /** Resolves when it says something more. */
  readonly said: () => Promise<void>;
  readonly ended: Promise<number | null>;
}

describe.skipIf(skipped !== undefined)(`README.md${skipped === undefined ? "" : ` (${skipped})`}`, () => {
  const folder = mkdtempSync(path.join(tmpdir(), "signet-readme-"));
  const project = path.join(folder, "signet");
  const terminals: Terminal[] = [];
  let npmCache = "";

  beforeAll(() => {
    copyProject(project);
    npmCache = spawnSync("npm", ["config", "get", "cache"], { encoding: "utf8" }).stdout.trim();
  });

  afterAll(async () => {
    for (const { child } of terminals.splice(0).reverse()) await end(child);
    rmSync(folder, { recursive: true, force: true });
  });

  const environment = () => ({ ...process.env, HOME: folder, NODE_COMPILE_CACHE: path.join(folder, "compiled"), npm_config_cache: npmCache, npm_config_update_notifier: "false", PATH: `${process.env["PATH"]}${path.delimiter}/usr/sbin`, NO_COLOR: "1", FORCE_COLOR: undefined, CI: undefined });

  function open(block: ReadmeBlock): Terminal {
    const child = spawn("bash", ["-c", `set -euo pipefail\n${block.text}`], { cwd: project, env: environment(), stdio: ["ignore", "pipe", "pipe"], detached: true });
    let text = "";
    const said = new EventEmitter();
    for (const stream of [child.stdout, child.stderr]) {
      stream.setEncoding("utf8").on("data", (part: string) => {
        text += part;
        said.emit("more");
      });
    }
    return { block, child, output: () => text, said: () => once(said, "more").then(() => {}), ended: once(child, "close").then(([code]) => code as number | null) };
  }

  async function run(block: ReadmeBlock): Promise<void> {
    const { attributes } = block;
    const terminal = open(block);
    if (attributes["background"] === undefined) {
      const code = await terminal.ended;
      expect(code, `line ${block.line}:\n${terminal.output()}`).toBe(Number(attributes["exit"] ?? 0));
      return;
    }
    terminals.push(terminal);
    const { until = "" } = attributes;
    const early = terminal.ended.then((code) => Promise.reject(new Error(`line ${block.line} ended with ${code}:\n${terminal.output()}`)));
    early.catch(() => {});
    while (!terminal.output().includes(until)) await Promise.race([terminal.said(), early]);
  }

  for (const block of blocks) {
    const { language, attributes } = block;
    const title = `${block.heading}, block ${block.number}`;
    if (attributes["elsewhere"] !== undefined) {
      const { elsewhere } = attributes;
      it(`${title}: is executed by ${elsewhere}`, () => {
        const text = readFileSync(path.join(root, elsewhere), "utf8");
        // A test asks for the block by its heading, and types what it finds there.
        if (elsewhere.endsWith(".test.ts")) expect(text).toContain(`readmeBlock("${block.heading}", ${block.number})`);
        else for (const line of commandsOf(block)) expect(text).toContain(line);
      });
    } else if (attributes["file"] !== undefined) {
      it(`${title}: is saved as ${attributes["file"]}`, () => {
        const file = attributes["file"] ?? "";
        const example = path.join(root, "scripts/examples", path.basename(file));
        // Those that other tests take through revocations are kept as files, too.
        if (existsSync(example)) expect(block.text).toBe(readFileSync(example, "utf8"));
        writeFileSync(path.join(project, file), block.text, { flag: "wx" });
      });
    } else if (language === "sh") {
      const missing = (attributes["needs"] ?? "").split(",").filter((command) => command !== "" && !isThere(command));
      it.skipIf(missing.length > 0)(`${title}: does what it says${missing.length > 0 ? ` (skipped without ${missing.join(", ")})` : ""}`, () => run(block), 120_000);
    } else {
      it(`${title}: is shown, not typed`, () => expect(language).toBe("text"));
    }
  }

  it("leaves nothing in the clone that git would take: keys and passphrases are among it", () => {
    const found = readdirSync(root);
    expect(readdirSync(project).filter((name) => !found.includes(name) && !isIgnored(name))).toStrictEqual([]);
  });

  it("ends what it says will end, as it says", async () => {
    for (const terminal of terminals.filter(({ block }) => block.attributes["then"] !== undefined)) {
      expect(await terminal.ended, terminal.output()).toBe(Number(terminal.block.attributes["then"]));
    }
  });
});

function isThere(command: string): boolean {
  return (process.env["PATH"] ?? "").split(path.delimiter).concat("/usr/sbin").some((directory) => existsSync(path.join(directory, command)));
}

async function firstTaken(ports: readonly number[]): Promise<number | undefined> {
  for (const port of ports) if (!(await isFree(port))) return port;
  return undefined;
}

/** Ctrl-C in a terminal reaches all that runs in it. */
async function end(child: ChildProcess): Promise<void> {
  if (child.pid === undefined || child.exitCode !== null || child.signalCode !== null) return;
  const closed = once(child, "close");
  process.kill(-child.pid, "SIGINT");
  await closed;
}
