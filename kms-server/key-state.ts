import { SignetError } from "#pki/errors.ts";

/** Life of one key version: the states of NIST SP 800-57 Part 1 Rev. 5, section 7. Each version has a state of its own. */
export type KeyState = "pre-activation" | "active" | "suspended" | "deactivated" | "compromised" | "destroyed";

/** What may be asked of one key version. `protect` applies protection (encrypt), `process` reverses it (decrypt), `distribute` hands the key itself out. */
export type KeyUse = "protect" | "process" | "distribute";

/** An event in the life of a key version; the table says what it makes of a state. */
export type KeyTransition = "activate" | "suspend" | "resume" | "deactivate" | "compromise" | "destroy";

interface StateRule {
  readonly uses: readonly KeyUse[];
  readonly next: Readonly<Partial<Record<KeyTransition, KeyState>>>;
}

/**
 * The whole table. Narrower than SP 800-57 in three places, on purpose:
 * - an active or deactivated key cannot be destroyed at once, only a compromised one (or one that never was active);
 * - a compromised key processes nothing: section 7.5 would allow it under controls that Signet does not have yet;
 * - a suspended key processes nothing either, since a key is suspended on suspicion of compromise (section 7.3).
 * A deactivated key is still distributed: readers need it for what was sealed under it before (section 7.4).
 */
const table: Readonly<Record<KeyState, StateRule>> = {
  "pre-activation": { uses: [], next: { activate: "active", compromise: "compromised", destroy: "destroyed" } },
  active: { uses: ["protect", "process", "distribute"], next: { suspend: "suspended", deactivate: "deactivated", compromise: "compromised" } },
  suspended: { uses: [], next: { resume: "active", deactivate: "deactivated", compromise: "compromised" } },
  deactivated: { uses: ["process", "distribute"], next: { compromise: "compromised" } },
  compromised: { uses: [], next: { destroy: "destroyed" } },
  destroyed: { uses: [], next: {} },
};

export const keyStates = Object.keys(table) as readonly KeyState[];

export function isKeyState(value: unknown): value is KeyState {
  return typeof value === "string" && Object.hasOwn(table, value);
}

/** Whether a key version in this state may be used so. */
export function stateAllows(state: KeyState, use: KeyUse): boolean {
  return table[state].uses.includes(use);
}

/** State after a transition, or undefined where SP 800-57 or Signet knows none. */
export function stateAfter(state: KeyState, transition: KeyTransition): KeyState | undefined {
  return table[state].next[transition];
}

/** @throws SignetError state-conflict, with the state that forbids it */
export function requireUse(state: KeyState, use: KeyUse): void {
  if (!stateAllows(state, use)) throw new SignetError("state-conflict", `A key version in the state ${state} is not for that use.`, { details: { state, use } });
}

/** @throws SignetError state-conflict, with the state that forbids it */
export function requireTransition(state: KeyState, transition: KeyTransition): KeyState {
  const next = stateAfter(state, transition);
  if (next === undefined) throw new SignetError("state-conflict", `A key version in the state ${state} cannot take the transition "${transition}".`, { details: { state, transition } });
  return next;
}
