/** The demo's side of its parties: each a child process that is given orders and asked for answers. */
import { type ChildProcess, spawn } from "node:child_process";
import { createInterface } from "node:readline";
import { projectFile } from "../project-file.ts";
import type { Order, Report } from "./party.ts";

const partyFile = projectFile("scripts/demo/party.ts");
const orderLimitMilliseconds = 45_000;

/** A refusal that a party met, with its code. */
export class PartyRefusal extends Error {
  override readonly name = "PartyRefusal";
  readonly code: string;

  constructor(code: string, message: string) {
    super(message);
    this.code = code;
  }
}

export interface PartyEvent {
  readonly event: string;
  readonly value: unknown;
}

export class Party {
  readonly name: string;
  readonly pid: number;
  readonly events: PartyEvent[] = [];
  readonly #child: ChildProcess;
  readonly #waiting = new Map<number, { resolve: (value: unknown) => void; reject: (error: Error) => void }>();
  readonly #listeners = new Set<(event: PartyEvent) => void>();
  #numbers = 0;
  #errors = "";

  constructor(name: string, processes: Set<ChildProcess>) {
    this.name = name;
    const child = spawn(process.execPath, [partyFile], { stdio: ["pipe", "pipe", "pipe"], env: { ...process.env, NODE_NO_WARNINGS: "1" } });
    this.#child = child;
    this.pid = child.pid ?? 0;
    processes.add(child);
    child.stdin.on("error", () => {});
    child.stderr.on("data", (part: Buffer) => (this.#errors = (this.#errors + part.toString()).slice(-4_000)));
    createInterface({ input: child.stdout }).on("line", (line) => this.#receive(JSON.parse(line) as Report));
    child.on("close", () => {
      processes.delete(child);
      for (const { reject } of this.#waiting.values()) reject(new Error(`${name} has left: ${this.#errors.trim()}`));
      this.#waiting.clear();
    });
  }

  /** Has the party do something, and resolves with what it answers. @throws PartyRefusal with the code that it met */
  async order(act: string, given: Readonly<Record<string, string | number>> = {}): Promise<unknown> {
    const number = ++this.#numbers;
    const order: Order = { number, do: act, with: given };
    const answer = new Promise<unknown>((resolve, reject) => this.#waiting.set(number, { resolve, reject }));
    this.#child.stdin?.write(`${JSON.stringify(order)}\n`);
    let limit: NodeJS.Timeout | undefined;
    const late = new Promise<never>((_resolve, reject) => {
      limit = setTimeout(() => reject(new Error(`${this.name} did not finish "${act}" in time: ${this.#errors.trim()}`)), orderLimitMilliseconds);
    });
    try {
      return await Promise.race([answer, late]);
    } finally {
      clearTimeout(limit);
      this.#waiting.delete(number);
    }
  }

  /** The code with which an order was refused; undefined where it was not. */
  async refusalOf(act: string, given: Readonly<Record<string, string | number>> = {}): Promise<string | undefined> {
    try {
      await this.order(act, given);
      return undefined;
    } catch (error) {
      if (error instanceof PartyRefusal) return error.code;
      throw error;
    }
  }

  /** The first event for which `fits` holds, past or to come; undefined if none comes in time. */
  async event(fits: (event: PartyEvent) => boolean, withinMilliseconds = 20_000): Promise<PartyEvent | undefined> {
    const past = this.events.find(fits);
    if (past !== undefined) return past;
    return new Promise((resolve) => {
      const listener = (event: PartyEvent): void => {
        if (fits(event)) done(event);
      };
      const done = (event: PartyEvent | undefined): void => {
        clearTimeout(limit);
        this.#listeners.delete(listener);
        resolve(event);
      };
      const limit = setTimeout(() => done(undefined), withinMilliseconds);
      this.#listeners.add(listener);
    });
  }

  leave(): void {
    this.#child.stdin?.end();
  }

  #receive(line: Report): void {
    if ("event" in line) {
      const event = { event: line.event, value: line.value };
      this.events.push(event);
      for (const listener of this.#listeners) listener(event);
      return;
    }
    const waiting = this.#waiting.get(line.number);
    if ("code" in line) waiting?.reject(new PartyRefusal(line.code, line.message));
    else waiting?.resolve(line.value);
  }
}
