import { spawn } from "node:child_process";
import { existsSync } from "node:fs";
import path from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { isErrorCode, SignetError } from "#pki/errors.ts";
import { EnrolledIdentity } from "#pki/identity.ts";
import { type Log, silentLog } from "#pki/log.ts";
import { writeWhole } from "./files.ts";
import { untilInterrupted, whenAborted } from "./interruption.ts";
import { asSignetError, errorLine, fileError, type Invocation, type Outcome } from "./program.ts";
import { type Caller, identityDirectory, openIdentity } from "./session.ts";

export interface FollowOptions extends Pick<Caller, "as" | "identity"> {
  /** The file that servers read. */
  readonly out: string;
  readonly once?: true;
}

/** How long a hook may run: as long as it does, no later CRL reaches the server. */
const hookMilliseconds = 60_000;
/** Until what failed is tried again without news. */
const retryMilliseconds = { first: 1_000, longest: 60_000 };
/** How often the age of the revocation data and the own certificate are looked at. */
const checkMilliseconds = 60_000;

/**
 * Keeps a file of CRLs current for a server that cannot follow them itself: writes it whole whenever a CRL of any scope takes effect, then runs a
 * hook that has the server read it. The hook runs at the start too, since nobody knows whether the server has read what a killed follower wrote.
 * What fails is said and tried again, at the next CRL at the latest.
 * @param hook command and arguments; run without a shell. None writes the file alone.
 */
export async function followCrl(invocation: Invocation, hook: readonly string[], options: FollowOptions): Promise<Outcome> {
  const file = options.out;
  if (!existsSync(path.dirname(path.resolve(file)))) throw fileError(path.dirname(file), Object.assign(new Error(), { code: "ENOENT" }), "Make it first, or name a file in the directory of `npx signet ca issue`.");
  const directory = identityDirectory(invocation, options);
  const notices = options.once === true ? undefined : noticesOn(invocation);
  const identity = openIdentity(directory, notices?.log);
  try {
    await identity.refreshRevocation();
    if (options.once === true) return told(invocation, await bringUpToDate(identity, file, hook, invocation));
    const checks = setInterval(() => void check(identity, notices, invocation.data), checkMilliseconds);
    try {
      await untilInterrupted((signal) => follow(identity, file, hook, invocation, signal));
    } finally {
      clearInterval(checks);
    }
    return invocation.json ? {} : { text: "Stopped." };
  } finally {
    identity.stop();
  }
}

async function follow(identity: EnrolledIdentity, file: string, hook: readonly string[], invocation: Invocation, signal: AbortSignal): Promise<void> {
  let news = Promise.withResolvers<void>();
  const unsubscribe = identity.revocation.onRevoked(() => news.resolve());
  const stopped = whenAborted(signal);
  identity.startRevocationRefresh();
  try {
    for (let failures = 0, isFirst = true; !signal.aborted; isFirst = false) {
      // Before the CRLs are read: one that comes from here on is the next round's.
      news = Promise.withResolvers();
      const waits: Promise<unknown>[] = [news.promise, stopped];
      try {
        say(invocation, await bringUpToDate(identity, file, hook, invocation, signal));
        failures = 0;
      } catch (error) {
        // Nothing is there yet that could be kept going: a mistake in what was typed, most likely.
        if (isFirst && error instanceof SignetError && error.code === "file-unusable") throw error;
        failures += 1;
        report(invocation, error);
        waits.push(delay(Math.min(retryMilliseconds.longest, retryMilliseconds.first * 2 ** Math.min(failures - 1, 10)), undefined, { signal }).catch(() => {}));
      }
      await Promise.race(waits);
    }
  } finally {
    unsubscribe();
  }
}

interface Round {
  readonly file: string;
  readonly crls: readonly { readonly issuer: string; readonly crlNumber: string; readonly nextUpdate: string }[];
  readonly hook?: { readonly command: string; readonly milliseconds: number };
}

/** @throws SignetError file-unusable (the file, or a command that is not there) | hook-failed */
async function bringUpToDate(identity: EnrolledIdentity, file: string, hook: readonly string[], invocation: Invocation, signal?: AbortSignal): Promise<Round> {
  const crls = identity.revocation.crls();
  writeWhole(file, crls.map((crl) => crl.toPem()).join(""), 0o644);
  const round = { file, crls: crls.map(({ issuer, crlNumber, nextUpdate }) => ({ issuer: issuer.toString(), crlNumber: String(crlNumber), nextUpdate: nextUpdate.toISOString() })) };
  const [command, ...args] = hook;
  if (command === undefined) return round;
  const started = performance.now();
  await run(command, args, `${file} holds ${numbersOf(round)}, and the server may not have read it`, invocation, signal);
  return { ...round, hook: { command: hook.join(" "), milliseconds: Math.round(performance.now() - started) } };
}

/** Runs the hook; ends it when the follower is to stop. What it prints goes to stderr: stdout is for the numbers. */
function run(command: string, args: readonly string[], consequence: string, { terminal }: Invocation, stop?: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const child = spawn(command, args, { stdio: ["ignore", "pipe", "pipe"], ...(stop === undefined ? {} : { signal: stop }) });
    for (const stream of [child.stdout, child.stderr]) stream.on("data", (part: Buffer) => terminal.stderr.write(part));
    let tooLong = false;
    const limit = setTimeout(() => {
      tooLong = true;
      child.kill("SIGKILL");
    }, hookMilliseconds);
    child.on("error", (cause) => {
      // It has got its SIGTERM: "exit" follows.
      if (cause.name === "AbortError") return;
      clearTimeout(limit);
      reject(fileError(command, cause, "Name a command that is on the PATH, or its whole path."));
    });
    // Not "close": a daemon that the hook has started may hold its streams for ever.
    child.once("exit", (code, signal) => {
      clearTimeout(limit);
      if (code === 0) return resolve();
      const how = tooLong ? `was ended after ${hookMilliseconds / 1000} s` : code === null ? `was ended by ${signal}` : `ended with ${code}`;
      reject(new SignetError("hook-failed", `${[command, ...args].join(" ")} ${how}: ${consequence}.`));
    });
  });
}

function numbersOf({ crls }: Pick<Round, "crls">): string {
  return crls.map(({ issuer, crlNumber }) => `CRL ${crlNumber} of ${/^CN=([^,]*)/.exec(issuer)?.[1] ?? issuer}`).join(" and ");
}

function describeRound(round: Round): string {
  return `${round.file}: ${numbersOf(round)}${round.hook === undefined ? "" : `; ${round.hook.command}: done in ${round.hook.milliseconds} ms`}`;
}

function told({ json }: Invocation, round: Round): Outcome {
  return json ? { json: { ...round } } : { text: describeRound(round) };
}

/** A line per round, and with --json an object. */
function say(invocation: Invocation, round: Round): void {
  invocation.terminal.stdout.write(invocation.json ? `${JSON.stringify(round)}\n` : `${describeRound(round)}\n`);
}

function report({ terminal, data }: Invocation, error: unknown): void {
  terminal.stderr.write(`${errorLine(asSignetError(error), data)}\n`);
}

interface Notices {
  readonly log: Log;
  /** Says what is new: the same again is not, until it is over. */
  notice(code: string, line: string): void;
  over(code: string): void;
}

function noticesOn({ terminal, data: directory }: Invocation): Notices {
  const said = new Set<string>();
  const notice = (code: string, line: string): void => {
    if (said.has(code)) return;
    said.add(code);
    terminal.stderr.write(`${line}\n`);
  };
  const log: Log = {
    ...silentLog,
    info: (data: object | string) => {
      if (typeof data === "string" || !("failures" in data) || said.size === 0) return;
      said.clear();
      terminal.stderr.write("signet: the CA answers again.\n");
    },
    warn: (data: object | string, sentence?: string) => {
      if (typeof data === "string") return;
      const { code, reason } = data as { readonly code?: unknown; readonly reason?: unknown };
      if (typeof code === "string" && isErrorCode(code)) notice(code, errorLine(new SignetError(code, `CRLs do not arrive: ${String(reason)} It is tried again without end.`), directory));
      else if (sentence !== undefined) terminal.stderr.write(`${sentence}\n`);
    },
  };
  return { log, notice, over: (code) => void said.delete(code) };
}

/** Says when the file is getting too old for whoever reads it, and renews the own certificate in time. */
async function check(identity: EnrolledIdentity, notices: Notices | undefined, data: string): Promise<void> {
  const missing = identity.revocation.waitingFor();
  if (missing === undefined) notices?.over("not-ready");
  else notices?.notice("not-ready", `signet: the CRLs in the file are old: waiting for ${missing}. A server refuses everybody once a CRL has ended, and accepts whoever was revoked since until then.`);
  try {
    await identity.renewWhereDue();
  } catch (error) {
    const refusal = asSignetError(error);
    notices?.notice(refusal.code, errorLine(new SignetError(refusal.code, `${identity.identity.uri} could not be renewed, and is tried again: ${refusal.message}`, { details: refusal.details }), data));
  }
}
