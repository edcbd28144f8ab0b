import { cp, rename, rm } from "node:fs/promises";
import { setTimeout as delay } from "node:timers/promises";
import { SignetError, type ErrorCode } from "#pki/errors.ts";
import type { Findings } from "./findings.ts";
import type { Random } from "./random.ts";

/** The service under test, over one data directory that lives through all trials. */
export interface TortureSubject<Rule extends string> {
  readonly dataDirectory: string;
  /** Starts the process; resolves when it serves. */
  start(): Promise<void>;
  /** Starts the process and kills it before or while it gets ready. */
  startAndKill(milliseconds: number): Promise<void>;
  kill(): Promise<void>;
  stop(): Promise<void>;
  /** One of the workers (numbered from 0) of the load: acts and records what was acknowledged until `load.over`. */
  work(load: Load, worker: number): Promise<void>;
  /**
   * Looks again for what was acknowledged. It settles what was in doubt (in flight when the process died), and remembers nothing else.
   * @param everything all that was ever acknowledged, not a sample and what is new
   */
  verify(everything: boolean): Promise<Findings<Rule>>;
  /** Shows the observer what an older copy of the data would not show: the control of the rules that it leaves alone. */
  verifyBroken?(findings: Findings<Rule>): Promise<void>;
}

/** Acknowledged operations that every stretch of load has before it may end: a kill of an idle service shows nothing. */
const leastAcknowledged = 24;

/** State of one stretch of load. */
export class Load {
  over = false;
  /** Resolves when the load is under way. */
  readonly underWay: Promise<void>;
  #acknowledged = 0;
  #begin: () => void = () => {};

  constructor() {
    this.underWay = new Promise((resolve) => (this.#begin = resolve));
  }

  /**
   * Carries out one operation. When the process dies under it, nobody knows whether it happened: `inDoubt` records that.
   * @throws whatever else goes wrong: a service that refuses its own load is no place to look for lost answers
   */
  async attempt<T>(operation: () => Promise<T>, acknowledged: (answer: T) => void, inDoubt: () => void): Promise<void> {
    let answer: T;
    try {
      answer = await operation();
    } catch (error) {
      if (!this.over) throw error;
      inDoubt();
      return;
    }
    acknowledged(answer);
    this.#acknowledged++;
    if (this.#acknowledged === leastAcknowledged) this.#begin();
  }
}

export const workers = 16;
/** The kill falls within so long after the load is under way. */
const loadMilliseconds = 500;
/** One start in so many is itself killed first, at a random moment. */
const startsKilled = 8;

/**
 * Kills the service at a random moment under load, starts it again and lets the observer look, `trials` times; then once more
 * over everything, and once against an older copy of its data put in place of the newer (the control).
 */
export async function runTrials<Rule extends string>(i: {
  readonly subject: TortureSubject<Rule>;
  readonly trials: number;
  readonly random: Random;
  readonly progress: (line: string) => void;
}): Promise<{ trials: Findings<Rule>; control: Findings<Rule> }> {
  const { subject, random } = i;
  const older = `${subject.dataDirectory}-older`;
  const newer = `${subject.dataDirectory}-newer`;

  await subject.start();
  // Some history first, so that even the oldest copy has something that can change afterwards.
  await underLoad(subject, 300, () => Promise.resolve());
  const found = await subject.verify(true);
  await subject.stop();

  for (let trial = 0; trial < i.trials; trial++) {
    if (trial === i.trials >> 1) await cp(subject.dataDirectory, older, { recursive: true });
    if (random.between(1, startsKilled) === 1) await subject.startAndKill(random.between(0, 500));
    await subject.start();
    if (trial > 0) found.add(await subject.verify(false));
    await underLoad(subject, random.between(0, loadMilliseconds), () => subject.kill());
    if ((trial + 1) % 10 === 0 || trial + 1 === i.trials) i.progress(`${trial + 1} of ${i.trials} trials${found.clean ? "" : `: ${found.examples.join("; ")}`}`);
  }
  await subject.start();
  found.add(await subject.verify(true));
  await subject.stop();

  await rename(subject.dataDirectory, newer);
  await rename(older, subject.dataDirectory);
  await subject.start();
  const control = await subject.verify(true);
  await subject.verifyBroken?.(control);
  await subject.stop();
  await rm(newer, { recursive: true });
  return { trials: found, control };
}

async function underLoad<Rule extends string>(subject: TortureSubject<Rule>, milliseconds: number, end: () => Promise<void>): Promise<void> {
  const load = new Load();
  const failures: unknown[] = [];
  const working = Array.from({ length: workers }, (_, worker) =>
    subject.work(load, worker).catch((error: unknown) => {
      failures.push(error);
      load.over = true;
    }),
  );
  await Promise.race([load.underWay, Promise.all(working)]);
  await delay(milliseconds);
  load.over = true;
  await end();
  await Promise.all(working);
  if (failures.length > 0) throw failures[0];
}

const refusals: readonly ErrorCode[] = ["not-permitted", "not-found", "state-conflict"];

/** The code with which the service refused an act; undefined if it was carried out. @throws whatever is no answer of the service about the act */
export async function refusalOf(act: () => Promise<unknown>): Promise<ErrorCode | undefined> {
  try {
    await act();
    return undefined;
  } catch (error) {
    if (error instanceof SignetError && refusals.includes(error.code)) return error.code;
    throw error;
  }
}
