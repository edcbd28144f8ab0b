import { expect, test } from "vitest";
import { isKeyState, keyStates, type KeyState, type KeyTransition, type KeyUse, requireTransition, requireUse, stateAfter, stateAllows } from "#kms-server/key-state.ts";

const uses: readonly KeyUse[] = ["protect", "process", "distribute"];
const transitions: readonly KeyTransition[] = ["activate", "suspend", "resume", "deactivate", "compromise", "destroy"];

/** SP 800-57 Part 1 Rev. 5 section 7 as Signet applies it, cell by cell. */
const allowed: Record<KeyState, readonly KeyUse[]> = {
  "pre-activation": [],
  active: ["protect", "process", "distribute"],
  suspended: [],
  deactivated: ["process", "distribute"],
  compromised: [],
  destroyed: [],
};
const after: Record<KeyState, Partial<Record<KeyTransition, KeyState>>> = {
  "pre-activation": { activate: "active", compromise: "compromised", destroy: "destroyed" },
  active: { suspend: "suspended", deactivate: "deactivated", compromise: "compromised" },
  suspended: { resume: "active", deactivate: "deactivated", compromise: "compromised" },
  deactivated: { compromise: "compromised" },
  compromised: { destroy: "destroyed" },
  destroyed: {},
};

test("there are the six states of SP 800-57 Part 1 section 7", () => {
  expect([...keyStates].sort()).toEqual(Object.keys(allowed).sort());
  expect(isKeyState("active")).toBe(true);
  for (const other of ["Active", "", "__proto__", "constructor", null, 1]) expect(isKeyState(other)).toBe(false);
});

test.each(keyStates.flatMap((state) => uses.map((use) => [state, use, allowed[state].includes(use)] as const)))("a %s key may %s: %s", (state, use, may) => {
  expect(stateAllows(state, use)).toBe(may);
  if (may) requireUse(state, use);
  else expect(() => requireUse(state, use)).toThrow(expect.objectContaining({ code: "state-conflict" }));
});

test.each(keyStates.flatMap((state) => transitions.map((transition) => [state, transition, after[state][transition]] as const)))("a %s key, %s: becomes %s", (state, transition, next) => {
  expect(stateAfter(state, transition)).toBe(next);
  if (next !== undefined) expect(requireTransition(state, transition)).toBe(next);
  else expect(() => requireTransition(state, transition)).toThrow(expect.objectContaining({ code: "state-conflict" }));
});

test("no way leads back from compromised or destroyed to a state that allows a use", () => {
  const reached = new Set<KeyState>(["compromised"]);
  for (const state of reached) for (const transition of transitions) {
    const next = stateAfter(state, transition);
    if (next !== undefined) reached.add(next);
  }
  expect([...reached]).toEqual(["compromised", "destroyed"]);
  for (const state of reached) for (const use of uses) expect(stateAllows(state, use)).toBe(false);
});
