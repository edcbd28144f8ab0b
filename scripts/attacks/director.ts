/** Directs the arms of the attacks: starts their processes, passes lines between them, and judges by what it finds afterwards. */
import { type ChildProcess, spawn } from "node:child_process";
import { createHash, randomBytes } from "node:crypto";
import { mkdir } from "node:fs/promises";
import path from "node:path";
import { createInterface } from "node:readline";
import { projectFile } from "../project-file.ts";
import type { ArmName, ArmResult, Attack, LiveSystem, Laboratory } from "./attack.ts";
import type { Inbound, Opening, Outbound } from "./arm.ts";

/** What the director knows of the arm that gives a cue. */
export interface CueContext {
  readonly id: string;
  readonly secret: string;
  readonly directory: string;
}
export type Cues = Readonly<Record<string, (value: unknown, context: CueContext) => Promise<unknown>>>;

export interface Direction {
  readonly laboratory: Laboratory;
  readonly live?: LiveSystem;
  /** What honest people do when an arm asks for it. */
  readonly cues?: Cues;
  /** Working directory; each arm gets one of its own below it. */
  readonly directory: string;
  /** Every process that is started is added here and leaves when it ends, so that the caller can stop them all. */
  readonly processes: Set<ChildProcess>;
  /** No arm is begun once this is aborted. */
  readonly stopping?: AbortSignal;
}

const armFile = projectFile("scripts/attacks/arm.ts");
const armLimitMilliseconds = 45_000;

type Role = "victim" | "mallory";

/** Runs one arm of an attack in processes of its own and judges it. */
export async function runArm(attack: Attack, arm: ArmName, hasVictim: boolean, direction: Direction): Promise<ArmResult> {
  direction.stopping?.throwIfAborted();
  const started = performance.now();
  const secret = randomBytes(32).toString("hex");
  const forgery = `forged-${randomBytes(16).toString("hex")}`;
  const directory = path.join(direction.directory, `${attack.id}-${arm}`);
  await mkdir(directory, { recursive: true, mode: 0o700 });
  const world = { laboratory: direction.laboratory, directory, ...(direction.live === undefined ? {} : { live: direction.live }) };

  const log: string[] = [];
  const claims = new Set([forgery]);
  const accepted: string[] = [];
  const refusals: { code: string; detail: string }[] = [];
  const failures: string[] = [];
  const notes: string[] = [];
  const processes = new Map<Role, ChildProcess>();
  const finished: Promise<void>[] = [];

  const write = (role: Role, line: Inbound | Opening): void => {
    const child = processes.get(role);
    if (child?.stdin?.writable === true) child.stdin.write(`${JSON.stringify(line)}\n`);
  };
  const receive = (role: Role, line: Outbound): void => {
    const other: Role = role === "victim" ? "mallory" : "victim";
    if ("tell" in line) write(other, { heard: line.tell, value: line.value });
    else if ("cue" in line) {
      const cue = direction.cues?.[line.cue];
      const answer = cue === undefined ? Promise.reject(new Error(`no cue ${line.cue}`)) : cue(line.value, { id: attack.id, secret, directory });
      answer.then(
        (value) => write(role, { reply: line.number, value }),
        (error: unknown) => write(role, { reply: line.number, error: error instanceof Error ? error.message : String(error) }),
      );
    } else if ("log" in line) {
      if (role === "mallory") log.push(line.log);
    } else if ("note" in line) notes.push(line.note);
    else if ("claim" in line) {
      if (role === "mallory") claims.add(line.claim);
    } else if ("accepted" in line) {
      if (role === "victim") accepted.push(line.accepted);
    } else if ("refused" in line) refusals.push({ code: line.refused, detail: line.detail ?? "" });
    else if ("failed" in line) failures.push(line.failed);
    // Whoever has finished ends the play for the other as well.
    if ("done" in line || "failed" in line) write(other, { end: true });
  };

  const start = (role: Role): void => {
    const child = spawn(process.execPath, [armFile, attack.id, arm, role], {
      stdio: ["pipe", "pipe", "pipe"],
      env: { ...process.env, NODE_NO_WARNINGS: "1" },
    });
    direction.processes.add(child);
    processes.set(role, child);
    child.stdin.on("error", () => {});
    let errors = "";
    child.stderr.on("data", (part: Buffer) => (errors = (errors + part.toString()).slice(-2_000)));
    createInterface({ input: child.stdout }).on("line", (line) => receive(role, JSON.parse(line) as Outbound));
    finished.push(
      new Promise((resolve) => {
        child.on("close", (code, signal) => {
          direction.processes.delete(child);
          if (code !== 0) failures.push(`${role} ended with ${code ?? signal}: ${errors.trim()}`);
          resolve();
        });
      }),
    );
    write(role, role === "victim" ? { world, secret } : { world, forgery });
  };
  if (hasVictim) start("victim");
  start("mallory");

  const limit = setTimeout(() => {
    failures.push(`not finished after ${armLimitMilliseconds} ms`);
    for (const child of processes.values()) child.kill("SIGKILL");
  }, armLimitMilliseconds);
  await Promise.all(finished);
  clearTimeout(limit);

  return judge(attack, arm, { secret, claims, log, accepted, refusals, failures, notes, ms: Math.round(performance.now() - started) });
}

interface Findings {
  readonly secret: string;
  readonly claims: ReadonlySet<string>;
  readonly log: readonly string[];
  readonly accepted: readonly string[];
  readonly refusals: readonly { readonly code: string; readonly detail: string }[];
  readonly failures: readonly string[];
  readonly notes: readonly string[];
  readonly ms: number;
}

const fingerprint = (value: string): string => createHash("sha256").update(value).digest("hex").slice(0, 16);

/**
 * Mallory has won if the canary stands in her own log, in hexadecimal or in base64, or if the victim's code took a value
 * that she forged for true. Handshake events, exceptions and what she believes herself count for nothing.
 */
export function judge(attack: Attack, arm: ArmName, found: Findings): ArmResult {
  const bytes = Buffer.from(found.secret, "hex");
  const forms = [found.secret, bytes.toString("base64").replaceAll("=", ""), bytes.toString("base64url")];
  // The secret as text inside other text that was logged as bytes.
  forms.push(...forms.map((form) => Buffer.from(form).toString("hex")));
  const holds = (text: string): boolean => forms.some((form) => text.includes(form) || text.toLowerCase().includes(form));
  const line = found.log.findIndex(holds);
  const canarySeen = line >= 0;
  const taken = found.accepted.find((value) => found.claims.has(value));
  const attackerWon = canarySeen || taken !== undefined;
  const refusal = found.refusals[0];
  const reasonCode = refusal?.code ?? null;
  const expected = arm === "naive" ? "attacker-wins" : attack.expected;
  const forTheReason = reasonCode === attack.expected && (refusal?.detail ?? "").includes(attack.because ?? "");
  const asExpected = found.failures.length === 0 && (arm === "naive" ? attackerWon : !attackerWon && forTheReason);
  const evidence: string[] = [];
  const lines = `${found.log.length} line${found.log.length === 1 ? "" : "s"}`;
  if (canarySeen) evidence.push(`The canary (SHA-256 ${fingerprint(found.secret)}...) stands in line ${line + 1} of Mallory's log of ${lines}.`);
  else evidence.push(`The canary (SHA-256 ${fingerprint(found.secret)}...) stands nowhere in Mallory's log of ${lines}.`);
  if (taken !== undefined) evidence.push(`The victim accepted a value that Mallory forged (SHA-256 ${fingerprint(taken)}...).`);
  else evidence.push(`No forged value was accepted.`);
  if (refusal !== undefined) evidence.push(`Refused with ${refusal.code}${refusal.detail === "" ? "" : `: ${refusal.detail}`}`);
  evidence.push(...found.notes);
  for (const failure of found.failures) evidence.push(`The arm itself failed: ${failure}`);
  const clean = evidence.map((text) => (holds(text) ? "(a line that held the canary was left out)" : text));
  return { id: attack.id, arm, attackerWon, canarySeen, reasonCode, expected, ms: found.ms, asExpected, evidence: clean };
}
