import type { Identity } from "#pki/certificate-profile.ts";
import { SignetError } from "#pki/errors.ts";

/** Operations of the key service, as policy, audit log and denial counters name them. */
export type KeyOperation =
  | "create" | "import" | "list" | "watch" | "describe" | "distribute" | "encrypt" | "decrypt"
  | "set-distribution" | "rotate" | "revoke" | "destroy" | "read-audit";

/** What a caller is to one key. An operator that owned a key would still only be an operator: operators cannot own. */
type Standing = "owner" | "reader" | "operator" | "stranger";

/** The part of a key that decides who may do what with it. */
export interface KeyPolicy {
  readonly owner: string;
  readonly readers: ReadonlySet<string>;
}

const permitted: Readonly<Record<Standing, ReadonlySet<KeyOperation>>> = {
  owner: new Set<KeyOperation>(["describe", "distribute", "encrypt", "decrypt", "set-distribution", "rotate", "revoke", "destroy"]),
  reader: new Set<KeyOperation>(["describe", "distribute", "encrypt", "decrypt"]),
  operator: new Set<KeyOperation>(["describe", "revoke", "destroy"]),
  stranger: new Set<KeyOperation>(),
};

/** What an identity may do that concerns no key in particular. A service holds no keys of its own here, so it may do nothing. */
const permittedAtLarge: Readonly<Record<Identity["kind"], ReadonlySet<KeyOperation>>> = {
  agent: new Set<KeyOperation>(["create", "import", "list", "watch"]),
  operator: new Set<KeyOperation>(["list", "read-audit"]),
  service: new Set<KeyOperation>(),
};

function standing(caller: Identity, policy: KeyPolicy): Standing {
  if (caller.kind === "operator") return "operator";
  if (caller.kind !== "agent") return "stranger";
  if (caller.uri === policy.owner) return "owner";
  return policy.readers.has(caller.uri) ? "reader" : "stranger";
}

/** Whether the caller may do this to a key with this policy; with `undefined` for a key that is not there: never. */
export function isPermitted(caller: Identity, operation: KeyOperation, policy: KeyPolicy | undefined): boolean {
  return policy !== undefined && permitted[standing(caller, policy)].has(operation);
}

/** Whether the caller may do this without naming a key. */
export function isPermittedAtLarge(caller: Identity, operation: KeyOperation): boolean {
  return permittedAtLarge[caller.kind].has(operation);
}

/** The one refusal of the policy. It says nothing of the key, so that an absent key and a forbidden one look alike. */
export function notPermitted(): SignetError {
  return new SignetError("not-permitted", "There is no such key, or you may not do this with it.");
}
