/** `npm run demo`: brings the system up, tells its story, lets Mallory loose on it, and leaves a report. Loopback only. */
import type { ChildProcess } from "node:child_process";
import { readFileSync } from "node:fs";
import { writeFile } from "node:fs/promises";
import { constants } from "node:os";
import path from "node:path";
import { parseArgs } from "node:util";
import type { ArmResult, Attack } from "../attacks/attack.ts";
import { catalogue } from "../attacks/catalogue.ts";
import type { Direction } from "../attacks/director.ts";
import { runAttacks } from "../attacks/run.ts";
import { equipLaboratory } from "../attacks/forge.ts";
import { asSignetError, errorLine } from "../command-line/program.ts";
import { gatherEvidence } from "./evidence.ts";
import { OutputDirectory } from "./output.ts";
import { attackReport, type Report, renderHtml, verdictOf } from "./report.ts";
import { countedBy, tellStory } from "./story.ts";
import { openTerminal } from "./terminal.ts";
import { SystemUnderAttack, trustDomain } from "./world.ts";

const { version: signetVersion } = JSON.parse(readFileSync(new URL("../../package.json", import.meta.url), "utf8")) as { version: string };
const usage = `Usage: npx signet demo [-- OPTION...]
  --directory DIR   where the report goes (default certs/demo)
  --only P01,R06    only these attacks
  --keep            keep the run's working directory, private keys included, and say where it is
`;

/** Runs the demo. Exit code 0 only if every step and every verdict was as expected. */
export async function demo(argv: readonly string[]): Promise<number> {
  let options;
  try {
    options = parseArgs({
      args: [...argv],
      options: { directory: { type: "string" }, only: { type: "string" }, keep: { type: "boolean", default: false }, help: { type: "boolean", short: "h", default: false } },
    }).values;
  } catch (error) {
    process.stderr.write(`signet demo: ${error instanceof Error ? error.message : String(error)}\n${usage}`);
    return 1;
  }
  if (options.help) {
    process.stdout.write(usage);
    return 0;
  }
  const wanted = options.only?.split(",");
  const unknown = wanted?.filter((id) => !catalogue.some((attack) => attack.id === id)) ?? [];
  if (unknown.length > 0) {
    process.stderr.write(`signet demo: no such attack: ${unknown.join(", ")}; there are ${catalogue.map((attack) => attack.id).join(", ")}\n`);
    return 1;
  }
  const chosen = catalogue.filter((attack) => wanted?.includes(attack.id) ?? true);

  let held: OutputDirectory;
  try {
    held = await OutputDirectory.take(path.resolve(options.directory ?? path.join("certs", "demo")));
  } catch (error) {
    const refusal = asSignetError(error);
    process.stderr.write(`${errorLine(refusal)}\n`);
    return refusal.exitCode;
  }
  const { path: output, working } = held;
  // Some eighty processes load the same modules: what the first has compiled the others take over.
  process.env["NODE_COMPILE_CACHE"] ??= path.join(working, "compile-cache");
  const processes = new Set<ChildProcess>();
  // A reader that has seen enough (`| head`) is no error: the run goes on, and the report tells the rest.
  process.stdout.on("error", (error: NodeJS.ErrnoException) => {
    if (error.code !== "EPIPE") throw error;
  });
  const terminal = openTerminal(process.stdout);
  const system = new SystemUnderAttack(working, processes);

  const cleanUp = async (): Promise<void> => {
    terminal.stop();
    await system.stop();
    await held.release({ keepWorking: options.keep });
  };
  const stopping = new AbortController();
  const interrupt = (signal: NodeJS.Signals): void => {
    if (stopping.signal.aborted) return;
    stopping.abort();
    process.stderr.write(`\nsignet demo: ${signal}: cleaning up\n`);
    void cleanUp().finally(() => process.exit(128 + constants.signals[signal]));
  };
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) process.on(signal, interrupt);

  try {
    return await run(system, chosen, output, { directory: path.join(working, "arms"), processes, stopping: stopping.signal }, terminal);
  } catch (error) {
    if (stopping.signal.aborted) return 130;
    terminal.stop();
    process.stderr.write(`signet demo: ${error instanceof Error ? error.message : String(error)}\n`);
    return 1;
  } finally {
    if (!stopping.signal.aborted) await cleanUp();
    if (options.keep) process.stdout.write(`The working directory, with the run's private keys, was kept: ${working}\n`);
  }
}

async function run(
  system: SystemUnderAttack,
  chosen: readonly Attack[],
  output: string,
  arms: Pick<Direction, "directory" | "processes" | "stopping">,
  terminal: ReturnType<typeof openTerminal>,
): Promise<number> {
  const startedAt = new Date();
  const started = performance.now();

  terminal.heading("Signet: a private authority, a key service, four agents, and Mallory");
  const story = await tellStory(system, async (title, act) => {
    const step = await terminal.step(title, act);
    // What comes after would only repeat the failure.
    if (!step.ok) throw new Error(`the story stopped at "${title}": ${step.detail}`);
    return step;
  });

  terminal.heading(`Mallory: ${countedBy(chosen)}, each first on a naive system`);
  const results = new Map<string, readonly ArmResult[]>();
  const laboratory = equipLaboratory();
  await runAttacks(chosen, { ...arms, laboratory, live: system.live, cues: system.cues }, {
    started: terminal.attackStarted,
    finished: (attack, arms) => {
      results.set(attack.id, arms);
      terminal.attackFinished(attack, arms);
    },
  });

  terminal.heading("The verdicts");
  terminal.verdicts(chosen, results);
  const evidence = await gatherEvidence(system, output);
  const ok = chosen.every((attack) => results.get(attack.id)?.length === 2 && results.get(attack.id)?.every((result) => result.asExpected) === true);
  const report: Report = {
    format: "signet-demo-report-1",
    ok,
    startedAt: startedAt.toISOString(),
    durationMilliseconds: Math.round(performance.now() - started),
    versions: { Signet: signetVersion, Node: process.versions.node, OpenSSL: process.versions.openssl },
    trustDomain,
    rootFingerprint: system.ca.rootFingerprint,
    parties: story.parties,
    story: story.steps,
    cuts: story.cuts,
    attacks: chosen.map((attack) => attackReport(attack, results.get(attack.id) ?? [])),
    verdicts: chosen.flatMap((attack) => (results.get(attack.id) ?? []).map(verdictOf)),
    evidence,
  };
  await writeFile(path.join(output, "report.json"), `${JSON.stringify(report, null, 2)}\n`);
  await writeFile(path.join(output, "report.html"), renderHtml(report, chosen));

  const where = path.relative(process.cwd(), output) || ".";
  terminal.heading("Check it yourself");
  terminal.line(`In ${where} lie report.html, report.json, and every certificate and CRL of the run. With OpenSSL 3:`);
  process.stdout.write(`\n  cd ${where}\n`);
  for (const { command, outcome } of evidence.verifications) process.stdout.write(`  ${command}    # ${outcome === "good" ? "OK" : "certificate revoked"}\n`);
  const held = report.attacks.filter((attack) => attack.arms.find((arm) => arm.arm === "signet")?.asExpected === true).length;
  terminal.line();
  terminal.line(`${ok ? "Every verdict is as expected" : "NOT every verdict is as expected"}: ${held} of ${chosen.length} attacks stopped for the expected reason, in ${(report.durationMilliseconds / 1000).toFixed(1)} s.`);
  return ok ? 0 : 1;
}
