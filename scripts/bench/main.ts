import { availableParallelism } from "node:os";
import { parseArgs } from "node:util";
import Table from "cli-table3";
import type { MeasuredRow, Samples } from "./measurement.ts";

/** Reports each row as soon as it is measured; `rounds` overrides how often each arm is sampled. */
export type BenchArea = (report: (rows: readonly MeasuredRow[]) => void, rounds?: number) => Promise<void>;

const areas: Readonly<Record<string, () => Promise<BenchArea>>> = {
  pki: async () => (await import("./pki.ts")).benchPki,
  ca: async () => (await import("./ca.ts")).benchCa,
  kms: async () => (await import("./kms.ts")).benchKms,
  agents: async () => (await import("./agents.ts")).benchAgents,
};

/**
 * Measures one area (or `all`) against its baselines. With --json, stdout gets exactly one array of rows.
 * @returns exit code: 0 whatever the goals say, 1 for wrong usage
 */
export async function main(argv: readonly string[]): Promise<number> {
  let parsed;
  try {
    parsed = parseArgs({
      args: [...argv],
      options: { json: { type: "boolean", default: false }, rounds: { type: "string" } },
      allowPositionals: true,
    });
  } catch (error) {
    return usage(error instanceof Error ? error.message : String(error));
  }
  const { values, positionals } = parsed;
  const [name = "", ...rest] = positionals;
  const rounds = values.rounds === undefined ? undefined : Number(values.rounds);
  if (rounds !== undefined && !(Number.isInteger(rounds) && rounds >= 1)) return usage("--rounds wants a whole number from 1");
  const chosen = name === "all" ? Object.values(areas) : Object.hasOwn(areas, name) ? [areas[name]] : [];
  if (chosen.length === 0 || rest.length > 0) return usage(name === "" ? "which area?" : `unknown area ${JSON.stringify(positionals.join(" "))}`);

  const measured: MeasuredRow[] = [];
  const report = (rows: readonly MeasuredRow[]): void => {
    measured.push(...rows);
    for (const { row } of rows) process.stderr.write(`${row.area}: ${row.name}: ${figure(row.value)} ${row.unit}\n`);
  };
  for (const load of chosen) await (await load?.())?.(report, rounds);

  process.stdout.write(values.json ? `${JSON.stringify(measured.map(({ row }) => row), null, 2)}\n` : table(measured));
  return 0;
}

function usage(message: string): number {
  process.stderr.write(`bench: ${message}; areas: ${Object.keys(areas).join(", ")}, all. Usage: npm run bench -- AREA [--json] [--rounds N]\n`);
  return 1;
}

function table(measured: readonly MeasuredRow[]): string {
  const rows = new Table({
    head: ["area", "what", "Signet", "baseline", "unit", "ratio", "goal", "holds"],
    colAligns: ["left", "left", "right", "right", "left", "right", "left", "left"],
    style: { head: [], border: [] },
  });
  for (const { row, baselineSamples } of measured) {
    rows.push([
      row.area,
      row.name,
      withSpread(row.samples),
      baselineSamples === null ? "" : withSpread(baselineSamples),
      row.unit,
      row.ratio === null ? "" : row.ratio.toFixed(2),
      row.goal ?? "",
      row.holds === null ? "" : row.holds ? "yes" : "NO",
    ]);
  }
  return `${rows.toString()}\nMedians with the least and the greatest sample; both arms sampled in turn. Node ${process.versions.node}, ${availableParallelism()} cores.\n`;
}

const withSpread = (samples: Samples): string => `${figure(samples.median)} (${figure(samples.min)} to ${figure(samples.max)})`;

/** Three significant digits, never in exponential form. */
function figure(value: number): string {
  return new Intl.NumberFormat("en", value >= 100 ? { maximumFractionDigits: 0 } : { maximumSignificantDigits: 3 }).format(value);
}
