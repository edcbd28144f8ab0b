import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { parseArgs } from "node:util";
import Table from "cli-table3";
import type { RuleResult } from "./findings.ts";

export interface TortureOptions {
  readonly trials: number;
  /** Decides the moments of the kills and the mix of operations; the machine's own timing stays its own. */
  readonly seed: number;
  /** An empty directory of the suite's own, for one store that lives through all trials. */
  readonly directory: string;
  readonly progress: (line: string) => void;
}

export type TortureSuite = (options: TortureOptions) => Promise<RuleResult[]>;

const suites: Readonly<Record<string, () => Promise<TortureSuite>>> = {
  ca: async () => (await import("./ca.ts")).tortureCa,
  kms: async () => (await import("./kms.ts")).tortureKms,
};

/**
 * Runs one fault suite (or `all`). With --json, stdout gets exactly one array of results.
 * @returns exit code: 0 if every rule holds, 1 if one does not, or for wrong usage
 */
export async function main(argv: readonly string[]): Promise<number> {
  let parsed;
  try {
    parsed = parseArgs({
      args: [...argv],
      options: { json: { type: "boolean", default: false }, trials: { type: "string", default: "100" }, seed: { type: "string" } },
      allowPositionals: true,
    });
  } catch (error) {
    return usage(error instanceof Error ? error.message : String(error));
  }
  const { values, positionals } = parsed;
  const [name = "", ...rest] = positionals;
  const trials = Number(values.trials);
  const seed = values.seed === undefined ? Math.floor(Math.random() * 2 ** 32) : Number(values.seed);
  if (!Number.isInteger(trials) || trials < 1) return usage("--trials wants a whole number from 1");
  if (!Number.isInteger(seed) || seed < 0) return usage("--seed wants a whole number");
  const chosen = name === "all" ? Object.values(suites) : Object.hasOwn(suites, name) ? [suites[name]] : [];
  if (chosen.length === 0 || rest.length > 0) return usage(name === "" ? "which suite?" : `unknown suite ${JSON.stringify(positionals.join(" "))}`);

  process.stderr.write(`seed ${seed}\n`);
  const results: RuleResult[] = [];
  for (const load of chosen) {
    const suite = await load?.();
    const directory = await mkdtemp(path.join(tmpdir(), "signet-torture-"));
    try {
      results.push(...((await suite?.({ trials, seed, directory, progress: (line) => void process.stderr.write(`${line}\n`) })) ?? []));
    } finally {
      await rm(directory, { recursive: true, force: true });
    }
  }
  process.stdout.write(values.json ? `${JSON.stringify(results, null, 2)}\n` : table(results));
  return results.every((result) => result.holds) ? 0 : 1;
}

function usage(message: string): number {
  process.stderr.write(`torture: ${message}; suites: ${Object.keys(suites).join(", ")}, all. Usage: npm run torture -- SUITE [--trials N] [--seed N] [--json]\n`);
  return 1;
}

function table(results: readonly RuleResult[]): string {
  const rows = new Table({
    head: ["suite", "rule", "trials", "acknowledged", "lost", "violations", "control", "holds"],
    colAligns: ["left", "left", "right", "right", "right", "right", "left", "left"],
    style: { head: [], border: [] },
  });
  for (const { suite, name, trials, acknowledged, lost, violations, control, holds } of results) {
    const seen = `${control.caught ? "caught" : "NOT CAUGHT"}: ${control.broken} (lost ${control.lost}, violations ${control.violations})`;
    rows.push([suite, name, trials, acknowledged, lost, violations, seen, holds ? "yes" : "NO"]);
  }
  return `${rows.toString()}\n`;
}
