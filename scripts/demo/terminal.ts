/** Tells the run on a terminal, or in plain lines where there is none. Colours only where the stream shows them and NO_COLOR is not set. */
import { styleText } from "node:util";
import Table from "cli-table3";
import ora from "ora";
import type { ArmResult, Attack } from "../attacks/attack.ts";
import { familyOf, families } from "../attacks/catalogue.ts";
import type { StoryStep } from "./story.ts";

type Style = Parameters<typeof styleText>[0];

export interface Terminal {
  heading(text: string): void;
  line(text?: string): void;
  step(title: string, act: () => Promise<string>): Promise<StoryStep>;
  attackStarted(attack: Attack): void;
  attackFinished(attack: Attack, results: readonly ArmResult[]): void;
  verdicts(attacks: readonly Attack[], results: ReadonlyMap<string, readonly ArmResult[]>): void;
  /** Ends what still moves on the screen; nothing is written from here on. */
  stop(): void;
}

/** Width of the verdict table; narrower terminals get a list. */
const tableColumns = 114;
const plainColumns = 120;

export function openTerminal(out: NodeJS.WriteStream): Terminal {
  // A terminal that tells no width (a pseudo-terminal without a window) cannot be drawn on: lines are written as to a file.
  const live = out.isTTY === true && out.columns > 0;
  const columns = (): number => (live ? Math.max(40, out.columns || 80) : plainColumns);
  const paint = (style: Style, text: string): string => styleText(style, text, { stream: out });
  let stopped = false;
  const write = (text: string): void => {
    if (!stopped) out.write(`${text}\n`);
  };
  const started = performance.now();
  const clock = (): string => `${((performance.now() - started) / 1000).toFixed(1).padStart(5)} s`;

  /** Breaks text between words, so that each line begins at the same column. */
  const fold = (text: string, indent: number): string => {
    const room = columns() - indent;
    const lines: string[] = [];
    for (const word of text.split(" ")) {
      const last = lines.at(-1);
      if (last !== undefined && last.length + 1 + word.length <= room) lines[lines.length - 1] = `${last} ${word}`;
      else lines.push(word);
    }
    return lines.join(`\n${" ".repeat(indent)}`);
  };

  const spinner = live ? ora({ stream: out, discardStdin: false, color: process.env["NO_COLOR"] ? false : "cyan" }) : undefined;
  const running = new Map<string, Attack>();
  const showRunning = (): void => {
    if (spinner === undefined || stopped) return;
    const names = [...running.values()].map((attack) => attack.id).join(", ");
    if (names === "") spinner.stop();
    else spinner.start(`Mallory at work: ${names}`);
  };

  return {
    heading: (text) => write(`\n${paint("bold", text)}\n${paint("dim", "-".repeat(Math.min(text.length, columns())))}`),
    line: (text = "") => write(fold(text, 0)),
    step: async (title, act) => {
      const at = performance.now();
      spinner?.start(title);
      let detail: string;
      let ok = true;
      try {
        detail = await act();
      } catch (error) {
        ok = false;
        detail = error instanceof Error ? error.message : String(error);
      }
      spinner?.stop();
      const ms = Math.round(performance.now() - at);
      write(`${paint("dim", clock())}  ${ok ? paint("green", "ok  ") : paint("red", "FAIL")}  ${paint("bold", title)}`);
      write(`               ${paint(ok ? "dim" : "red", fold(detail, 15))}`);
      return { title, detail, ms, ok };
    },
    attackStarted: (attack) => {
      running.set(attack.id, attack);
      showRunning();
    },
    attackFinished: (attack, results) => {
      running.delete(attack.id);
      spinner?.stop();
      const ok = results.every((result) => result.asExpected);
      const naive = results.find((result) => result.arm === "naive");
      const signet = results.find((result) => result.arm === "signet");
      const told = `naive: ${naive?.attackerWon === true ? "Mallory wins" : "Mallory loses"}; Signet: ${signet?.attackerWon === true ? "MALLORY WINS" : (signet?.reasonCode ?? "no refusal")}`;
      write(`${paint("dim", clock())}  ${ok ? paint("green", "ok  ") : paint("red", "FAIL")}  ${paint("bold", attack.id)}  ${attack.title}`);
      write(`               ${paint("dim", fold(told, 15))}`);
      if (!ok) for (const result of results.filter((one) => !one.asExpected)) for (const text of result.evidence) write(`               ${paint("red", fold(`${result.arm}: ${text}`, 15))}`);
      showRunning();
    },
    verdicts: (attacks, results) => {
      const row = (attack: Attack): { naive: string; signet: string; ok: boolean } => {
        const of = results.get(attack.id) ?? [];
        const naive = of.find((result) => result.arm === "naive");
        const signet = of.find((result) => result.arm === "signet");
        return {
          naive: naive?.attackerWon === true ? (naive.canarySeen ? "has the secret" : "forgery accepted") : "lost",
          signet: signet?.attackerWon === true ? "MALLORY WON" : (signet?.reasonCode ?? "no refusal"),
          ok: of.length === 2 && of.every((result) => result.asExpected),
        };
      };
      const mark = (ok: boolean): string => (ok ? paint("green", "as expected") : paint("red", "UNEXPECTED"));
      if (columns() < tableColumns) {
        for (const attack of attacks) {
          const { naive, signet, ok } = row(attack);
          write(`${paint("bold", attack.id)} ${fold(attack.title, 4)}\n    naive: ${naive}\n    Signet: ${signet} (${mark(ok)})`);
        }
        return;
      }
      const table = new Table({
        head: ["", "attack", "naive arm: Mallory", "Signet refuses with", ""],
        style: { head: [], border: [] },
        // No rule between rows of a family.
        chars: { mid: "", "left-mid": "", "mid-mid": "", "right-mid": "" },
      });
      let family = "";
      for (const attack of attacks) {
        if (familyOf(attack) !== family) {
          family = familyOf(attack);
          table.push(["", paint("bold", families[familyOf(attack)]), "", "", ""]);
        }
        const { naive, signet, ok } = row(attack);
        table.push([attack.id, attack.title, naive, signet, mark(ok)]);
      }
      write(table.toString());
    },
    stop: () => {
      stopped = true;
      spinner?.stop();
    },
  };
}
