import { spawn } from "node:child_process";
import { cp, mkdtemp, readFile, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import Table from "cli-table3";
import { mutations, type Mutation } from "./table.ts";

/** What happened when one rule was taken out. */
interface Outcome {
  readonly rule: string;
  readonly file: string;
  /** The test that turned red; null if none did. */
  readonly test: string | null;
  readonly caught: boolean;
}

const root = fileURLToPath(new URL("../..", import.meta.url));
const notCopied = new Set(["node_modules", ".git", "coverage", "dist", "data"]);

/**
 * Takes out one rule at a time in a scratch copy of the tree and requires that a test turns red for each; before that,
 * the same tests must be green. The tree itself is never touched.
 * @returns exit code: 0 only if a test noticed the absence of every rule
 */
export async function main(argv: readonly string[]): Promise<number> {
  const { values, positionals } = parseArgs({ args: [...argv], options: { json: { type: "boolean", default: false } }, allowPositionals: true });
  const chosen = positionals.length === 0 ? mutations : mutations.filter((mutation) => positionals.includes(mutation.rule));
  if (chosen.length === 0 || (positionals.length > 0 && chosen.length < positionals.length)) {
    process.stderr.write(`mutations: unknown rule; rules: ${mutations.map((mutation) => mutation.rule).join("; ")}\n`);
    return 1;
  }
  const copy = await mkdtemp(path.join(tmpdir(), "signet-mutations-"));
  try {
    await cp(root, copy, { recursive: true, filter: (from) => !notCopied.has(path.relative(root, from)) });
    await symlink(path.join(root, "node_modules"), path.join(copy, "node_modules"), "junction");
    // All replacements are tried before the first test runs, so that one that no longer fits is said at once.
    for (const mutation of chosen) await mutatedSource(copy, mutation);

    process.stderr.write("green before: ");
    const before = await runTests(copy, [...new Set(chosen.flatMap((mutation) => mutation.tests))], []);
    process.stderr.write(`${before.passed} tests\n`);
    if (before.exitCode !== 0 || before.failed.length > 0 || before.passed === 0) {
      process.stderr.write(`mutations: the tests are not green before anything is taken out: ${before.failed[0] ?? before.output}\n`);
      return 1;
    }
    const outcomes: Outcome[] = [];
    for (const mutation of chosen) {
      process.stderr.write(`without ${mutation.rule}: `);
      const outcome = await tryMutation(copy, mutation);
      process.stderr.write(`${outcome.test ?? "NO TEST TURNED RED"}\n`);
      outcomes.push(outcome);
    }
    process.stdout.write(values.json ? `${JSON.stringify(outcomes, null, 2)}\n` : table(outcomes));
    return outcomes.every((outcome) => outcome.caught) ? 0 : 1;
  } finally {
    await rm(copy, { recursive: true, force: true });
  }
}

async function tryMutation(copy: string, mutation: Mutation): Promise<Outcome> {
  const file = path.join(copy, mutation.file);
  const original = await readFile(file, "utf8");
  await writeFile(file, await mutatedSource(copy, mutation));
  try {
    const { failed } = await runTests(copy, mutation.tests, ["--bail=1"]);
    const [test = null] = failed;
    return { rule: mutation.rule, file: mutation.file, test, caught: test !== null };
  } finally {
    await writeFile(file, original);
  }
}

/** @throws Error unless the text to take out is there exactly once */
async function mutatedSource(copy: string, mutation: Mutation): Promise<string> {
  const source = await readFile(path.join(copy, mutation.file), "utf8");
  const found = source.split(mutation.replace).length - 1;
  if (found !== 1) throw new Error(`${mutation.rule}: the text to take out of ${mutation.file} is there ${found} times, not once:\n${mutation.replace}`);
  return source.replace(mutation.replace, () => mutation.by);
}

interface TestRun {
  readonly exitCode: number | null;
  readonly passed: number;
  /** Full names of the tests that failed. A file that does not even load counts as none: that is a broken mutation. */
  readonly failed: readonly string[];
  readonly output: string;
}

async function runTests(copy: string, files: readonly string[], options: readonly string[]): Promise<TestRun> {
  const report = path.join(copy, "test-report.json");
  await rm(report, { force: true });
  const argv = [path.join(copy, "scripts/launch.mjs"), "vitest", "run", ...files, ...options, "--reporter=json", `--outputFile=${report}`];
  const child = spawn(process.execPath, argv, { cwd: copy, stdio: ["ignore", "pipe", "pipe"] });
  let output = "";
  for (const stream of [child.stdout, child.stderr]) stream.setEncoding("utf8").on("data", (text: string) => (output += text));
  const exitCode = await new Promise<number | null>((resolve) => child.once("close", resolve));
  let parsed: { numPassedTests: number; testResults: { assertionResults: { status: string; fullName: string }[] }[] };
  try {
    parsed = JSON.parse(await readFile(report, "utf8"));
  } catch {
    return { exitCode, passed: 0, failed: [], output };
  }
  const failed = parsed.testResults.flatMap((file) => file.assertionResults.filter((one) => one.status === "failed").map((one) => one.fullName));
  return { exitCode, passed: parsed.numPassedTests, failed, output };
}

function table(outcomes: readonly Outcome[]): string {
  const rows = new Table({ head: ["rule taken out", "file", "test that turned red"], style: { head: [], border: [] } });
  for (const { rule, file, test } of outcomes) rows.push([rule, file, test ?? "NONE"]);
  return `${rows.toString()}\n${outcomes.filter((outcome) => outcome.caught).length} of ${outcomes.length} noticed\n`;
}
