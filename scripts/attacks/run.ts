/** Runs attacks, the naive arm of each before Signet's, a few attacks at a time. */
import type { ArmName, ArmResult, Attack, FamilyArms } from "./attack.ts";
import { familyOf } from "./catalogue.ts";
import { ciphertext } from "./ciphertext.ts";
import { type Direction, runArm } from "./director.ts";
import { keyExchange } from "./key-exchange.ts";
import { paths } from "./paths.ts";
import { revocation } from "./revocation.ts";
import { transport } from "./transport.ts";

export const arms: Readonly<Record<string, FamilyArms>> = { P: paths, R: revocation, T: transport, K: keyExchange, C: ciphertext };

export interface Watcher {
  started(attack: Attack): void;
  finished(attack: Attack, results: readonly ArmResult[]): void;
}

/** Two processes an arm, and two cores: three at a time keep both busy while one waits. */
const atOnce = 3;

export async function runAttack(attack: Attack, direction: Direction): Promise<readonly ArmResult[]> {
  const results: ArmResult[] = [];
  for (const name of ["naive", "signet"] as const satisfies readonly ArmName[]) {
    const arm = arms[familyOf(attack)]?.[attack.id]?.[name];
    if (arm === undefined) throw new Error(`${attack.id} has no ${name} arm`);
    results.push(await runArm(attack, name, arm.victim !== undefined, direction));
  }
  return results;
}

export async function runAttacks(attacks: readonly Attack[], direction: Direction, watcher: Watcher): Promise<void> {
  const left = [...attacks];
  const worker = async (): Promise<void> => {
    for (let attack = left.shift(); attack !== undefined; attack = left.shift()) {
      watcher.started(attack);
      watcher.finished(attack, await runAttack(attack, direction));
    }
  };
  await Promise.all(Array.from({ length: atOnce }, worker));
}
