/**
 * One process of one arm: `node arm.ts ID ARM victim|mallory`. It talks with the director of the run in lines of JSON on
 * stdin and stdout; the first line it is given holds its part of the world.
 */
import { createInterface } from "node:readline";
import type { Arm, ArmName, FamilyArms, MalloryStage, VictimStage, World } from "./attack.ts";
import { errorCodeOf } from "./observe.ts";

/** First line that an arm's process reads. Mallory gets no secret and the victim no forgery. */
export interface Opening {
  readonly world: World;
  readonly secret?: string;
  readonly forgery?: string;
}

/** Lines from the director. */
export type Inbound =
  | { readonly heard: string; readonly value?: unknown }
  | { readonly reply: number; readonly value?: unknown; readonly error?: string }
  | { readonly end: true };

/** Lines to the director. */
export type Outbound =
  | { readonly tell: string; readonly value?: unknown }
  | { readonly cue: string; readonly number: number; readonly value?: unknown }
  | { readonly log: string }
  | { readonly note: string }
  | { readonly claim: string }
  | { readonly accepted: string }
  | { readonly refused: string; readonly detail?: string }
  | { readonly failed: string }
  | { readonly done: true };

async function familyOf(id: string): Promise<FamilyArms> {
  switch (id[0]) {
    case "P":
      return (await import("./paths.ts")).paths;
    case "R":
      return (await import("./revocation.ts")).revocation;
    case "T":
      return (await import("./transport.ts")).transport;
    case "K":
      return (await import("./key-exchange.ts")).keyExchange;
    default:
      return (await import("./ciphertext.ts")).ciphertext;
  }
}

const send = (line: Outbound): void => void process.stdout.write(`${JSON.stringify(line)}\n`);
const asText = (thing: string | Uint8Array): string => (typeof thing === "string" ? thing : Buffer.from(thing).toString("hex"));

const [id = "", armName = "", role = ""] = process.argv.slice(2);
const waiting = new Map<string, ((value: unknown) => void)[]>();
const early = new Map<string, unknown[]>();
const cues = new Map<number, { resolve: (value: unknown) => void; reject: (error: Error) => void }>();
const closers: (() => unknown)[] = [];
const opening = Promise.withResolvers<Opening>();
const end = Promise.withResolvers<void>();

let opened = false;
const input = createInterface({ input: process.stdin });
input.on("line", (line) => {
  if (!opened) {
    opened = true;
    opening.resolve(JSON.parse(line) as Opening);
    return;
  }
  const message = JSON.parse(line) as Inbound;
  if ("end" in message) end.resolve();
  else if ("heard" in message) {
    const listener = waiting.get(message.heard)?.shift();
    if (listener !== undefined) listener(message.value);
    else early.set(message.heard, [...(early.get(message.heard) ?? []), message.value]);
  } else {
    const cue = cues.get(message.reply);
    cues.delete(message.reply);
    if (message.error === undefined) cue?.resolve(message.value);
    else cue?.reject(new Error(message.error));
  }
});
// The director is gone: nobody is left to attack for.
input.on("close", () => process.exit(0));

const { world, secret = "", forgery = "" } = await opening.promise;
const stage: VictimStage & MalloryStage = {
  world,
  secret,
  forgery,
  end: end.promise,
  tell: (topic, value) => send({ tell: topic, value }),
  hear: (topic) => {
    const queued = early.get(topic);
    if (queued !== undefined && queued.length > 0) return Promise.resolve(queued.shift());
    return new Promise((resolve) => waiting.set(topic, [...(waiting.get(topic) ?? []), resolve]));
  },
  direct: (cue, value) => {
    const number = cues.size + Math.floor(Math.random() * 2 ** 40);
    send({ cue, number, value });
    return new Promise((resolve, reject) => cues.set(number, { resolve, reject }));
  },
  note: (text) => send({ note: text }),
  onEnd: (close) => void closers.push(close),
  log: (...things) => send({ log: things.map(asText).join(" ") }),
  claim: (value) => send({ claim: value }),
  accepted: (value) => send({ accepted: value }),
  refused: (code, detail) => send(detail === undefined ? { refused: code } : { refused: code, detail }),
};

try {
  const arm: Arm | undefined = (await familyOf(id))[id]?.[armName as ArmName];
  const act = role === "victim" ? arm?.victim : arm?.mallory;
  if (act === undefined) throw new Error(`no ${role} in ${id} ${armName}`);
  await act(stage);
} catch (error) {
  // A role that ends in an exception did not play its part: the verdict must not rest on it. What is said here goes into the
  // report, which is passed on: no stack, since that names places on this machine.
  send({ failed: `${role}: ${errorCodeOf(error)}: ${error instanceof Error ? error.message : String(error)}` });
}
for (const close of closers) await Promise.resolve(close()).catch(() => {});
process.stdout.write(`${JSON.stringify({ done: true } satisfies Outbound)}\n`, () => process.exit(0));
