import { expect, test } from "vitest";
import { isPermitted, isPermittedAtLarge, type KeyOperation, type KeyPolicy } from "#kms-server/key-policy.ts";
import type { Identity } from "#pki/certificate-profile.ts";

const trustDomain = "test.signet.internal";
const identity = (kind: Identity["kind"], name: string): Identity => ({ uri: `spiffe://${trustDomain}/${kind}/${name}`, trustDomain, kind, name });

const alice = identity("agent", "alice");
const bob = identity("agent", "bob");
const policy: KeyPolicy = { owner: alice.uri, readers: new Set([bob.uri]) };

const callers: Record<string, Identity> = {
  owner: alice,
  reader: bob,
  "other agent": identity("agent", "dave"),
  operator: identity("operator", "olga"),
  service: identity("service", "kms"),
};

const rights: Record<KeyOperation, readonly string[]> = {
  create: ["owner", "reader", "other agent"],
  import: ["owner", "reader", "other agent"],
  list: ["owner", "reader", "other agent", "operator"],
  watch: ["owner", "reader", "other agent"],
  "read-audit": ["operator"],
  describe: ["owner", "reader", "operator"],
  distribute: ["owner", "reader"],
  encrypt: ["owner", "reader"],
  decrypt: ["owner", "reader"],
  "set-distribution": ["owner"],
  rotate: ["owner"],
  revoke: ["owner", "operator"],
  destroy: ["owner", "operator"],
};
const atLarge = new Set<string>(["create", "import", "list", "watch", "read-audit"]);

const cells = Object.entries(callers).flatMap(([who, caller]) => Object.entries(rights).map(([operation, may]) => [who, operation as KeyOperation, may.includes(who), caller] as const));

test.each(cells)("%s may %s: %s", (_who, operation, may, caller) => {
  if (atLarge.has(operation)) {
    expect(isPermittedAtLarge(caller, operation)).toBe(may);
    expect(isPermitted(caller, operation, policy)).toBe(false);
  } else {
    expect(isPermitted(caller, operation, policy)).toBe(may);
    expect(isPermittedAtLarge(caller, operation)).toBe(false);
  }
});

test.each(cells)("of a key that is not there, %s may %s nothing", (_who, operation, _may, caller) => {
  expect(isPermitted(caller, operation, undefined)).toBe(false);
});

test("an operator or a service named like an owner or a reader gains nothing by it", () => {
  for (const kind of ["operator", "service"] as const) {
    const twin = identity(kind, "alice");
    const owned: KeyPolicy = { owner: twin.uri, readers: new Set([twin.uri]) };
    for (const operation of ["distribute", "encrypt", "decrypt", "set-distribution", "rotate"] as const) expect(isPermitted(twin, operation, owned)).toBe(false);
  }
});

test("an identity is compared whole: another trust domain or spelling is a stranger", () => {
  for (const uri of ["spiffe://other.internal/agent/alice", alice.uri.toUpperCase(), `${alice.uri}/`, `${alice.uri}%00`]) {
    expect(isPermitted({ ...alice, uri }, "describe", policy)).toBe(false);
  }
});
