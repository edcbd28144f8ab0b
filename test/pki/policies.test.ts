import { describe, expect, test } from "vitest";
import { SignetError } from "#pki/errors.ts";
import { oid } from "#pki/oids.ts";
import { findPath } from "#pki/path-building.ts";
import type { PolicyParameters } from "#pki/path-rules.ts";
import { extensions, forgeCa, forgeLeaf, testTime } from "#test/support/pki.ts";
import type { ForgedCa } from "#test/support/pki.ts";

const gold = "1.2.3.1";
const silver = "1.2.3.2";
const bronze = "1.2.3.3";
const { certificatePolicies, policyMappings, policyConstraints, inhibitAnyPolicy } = extensions;

/** A path root, one CA for each list of extensions, leaf; "accepted", or the code. */
function outcome(cas: readonly (readonly Uint8Array[])[], leaf: readonly Uint8Array[], policy: Partial<PolicyParameters> = {}, i: { root?: readonly Uint8Array[]; selfIssued?: number } = {}): string {
  const root = forgeCa("Root", undefined, { extra: i.root ?? [] });
  const chain: ForgedCa[] = [root];
  for (const [index, extra] of cas.entries()) chain.push(forgeCa(i.selfIssued === index ? `CA ${index - 1}` : `CA ${index}`, chain.at(-1), { extra }));
  const endEntity = forgeLeaf("leaf", chain.at(-1) as ForgedCa, { extensions: leaf });
  try {
    findPath({
      endEntity,
      intermediates: chain.slice(1).map((ca) => ca.certificate),
      trustAnchors: [root.certificate],
      parameters: {
        at: testTime.now,
        purpose: undefined,
        policy: { initialSet: [], explicit: false, inhibitMapping: false, inhibitAny: false, ...policy },
        maximumDepth: undefined,
        minimumRsaBits: 2048,
        strict: false,
        anchor: "certificate",
      },
    });
    return "accepted";
  } catch (error) {
    if (error instanceof SignetError) return error.code;
    throw error;
  }
}

const refused = "policy-required";
const explicit = { explicit: true } as const;
const asking = (...initialSet: string[]) => ({ explicit: true, initialSet });

describe("a policy that is asked for", () => {
  test("must be valid all along the path", () => {
    expect(outcome([[certificatePolicies(gold, silver)]], [certificatePolicies(gold)], asking(gold))).toBe("accepted");
    expect(outcome([[certificatePolicies(gold, silver)]], [certificatePolicies(silver)], asking(gold))).toBe(refused);
    expect(outcome([[certificatePolicies(silver)]], [certificatePolicies(gold)], asking(gold))).toBe(refused);
    expect(outcome([[]], [certificatePolicies(gold)], asking(gold))).toBe(refused);
    expect(outcome([[certificatePolicies(gold)]], [], asking(gold))).toBe(refused);
    expect(outcome([[certificatePolicies(gold)], [certificatePolicies(silver)]], [certificatePolicies(gold)], explicit)).toBe(refused);
  });

  test("is needed only where the request or a certificate requires one", () => {
    expect(outcome([[]], [])).toBe("accepted");
    expect(outcome([[]], [], { initialSet: [gold] })).toBe("accepted");
    expect(outcome([[]], [], explicit)).toBe(refused);
    expect(outcome([[policyConstraints({ requireExplicitPolicy: 0 })]], [])).toBe(refused);
    expect(outcome([[policyConstraints({ requireExplicitPolicy: 1 })]], [])).toBe(refused);
    expect(outcome([[policyConstraints({ requireExplicitPolicy: 2 })]], [])).toBe("accepted");
    expect(outcome([[policyConstraints({ requireExplicitPolicy: 2 })], []], [])).toBe(refused);
    expect(outcome([[]], [policyConstraints({ requireExplicitPolicy: 0 })])).toBe(refused);
    expect(outcome([[]], [], {}, { root: [policyConstraints({ requireExplicitPolicy: 0 })] })).toBe(refused);
  });

  test("is narrowed by the policies of the anchor (RFC 5937)", () => {
    expect(outcome([[certificatePolicies(gold, silver)]], [certificatePolicies(gold, silver)], explicit, { root: [certificatePolicies(bronze)] })).toBe(refused);
    expect(outcome([[certificatePolicies(gold, silver)]], [certificatePolicies(gold, silver)], asking(gold), { root: [certificatePolicies(gold)] })).toBe("accepted");
    expect(outcome([[certificatePolicies(gold, silver)]], [certificatePolicies(gold, silver)], asking(silver), { root: [certificatePolicies(gold)] })).toBe(refused);
  });
});

describe("anyPolicy", () => {
  test("stands for every policy", () => {
    expect(outcome([[certificatePolicies(oid.anyPolicy)]], [certificatePolicies(gold)], asking(gold))).toBe("accepted");
    expect(outcome([[certificatePolicies(gold)]], [certificatePolicies(oid.anyPolicy)], asking(gold))).toBe("accepted");
    expect(outcome([[certificatePolicies(oid.anyPolicy)]], [certificatePolicies(oid.anyPolicy)], asking(gold))).toBe("accepted");
    expect(outcome([[certificatePolicies(gold)]], [certificatePolicies(oid.anyPolicy)], asking(silver))).toBe(refused);
  });

  test("stands for none where it is inhibited: by request, at once, or after some certificates", () => {
    const cas = [[certificatePolicies(gold)]];
    const leaf = [certificatePolicies(oid.anyPolicy)];
    expect(outcome(cas, leaf, { ...explicit, inhibitAny: true })).toBe(refused);
    expect(outcome([[certificatePolicies(gold), inhibitAnyPolicy(0)]], leaf, explicit)).toBe(refused);
    expect(outcome([[certificatePolicies(gold), inhibitAnyPolicy(1)]], leaf, explicit)).toBe("accepted");
    expect(outcome([[certificatePolicies(gold), inhibitAnyPolicy(1)], [certificatePolicies(gold)]], leaf, explicit)).toBe(refused);
    expect(outcome(cas, leaf, explicit, { root: [inhibitAnyPolicy(0)] })).toBe(refused);
  });

  test("in a self-issued intermediate is not inhibited", () => {
    const cas = [[certificatePolicies(gold), inhibitAnyPolicy(0)], [certificatePolicies(oid.anyPolicy)]];
    expect(outcome(cas, [certificatePolicies(gold)], explicit)).toBe(refused);
    expect(outcome(cas, [certificatePolicies(gold)], explicit, { selfIssued: 1 })).toBe("accepted");
  });
});

describe("a mapping", () => {
  const mapping = [certificatePolicies(gold), policyMappings([gold, silver])];

  test("makes the subject's policy count as the issuer's, which is the one that is asked for", () => {
    expect(outcome([mapping], [certificatePolicies(silver)], asking(gold))).toBe("accepted");
    expect(outcome([mapping], [certificatePolicies(silver)], asking(silver))).toBe(refused);
    expect(outcome([mapping], [certificatePolicies(gold)], asking(gold))).toBe(refused);
  });

  test("of two steps is followed back to the first", () => {
    const second = [certificatePolicies(silver), policyMappings([silver, bronze])];
    expect(outcome([mapping, second], [certificatePolicies(bronze)], asking(gold))).toBe("accepted");
    expect(outcome([mapping, second], [certificatePolicies(silver)], asking(gold))).toBe(refused);
    expect(outcome([mapping, second], [certificatePolicies(bronze)], asking(bronze))).toBe(refused);
  });

  test("of a policy that stands there by anyPolicy alone holds too", () => {
    const open = [certificatePolicies(oid.anyPolicy), policyMappings([gold, silver])];
    expect(outcome([open], [certificatePolicies(silver)], asking(gold))).toBe("accepted");
    expect(outcome([open], [certificatePolicies(silver)], asking(bronze))).toBe(refused);
  });

  test("takes the mapped policy away where it is inhibited: by request, at once, or after some certificates", () => {
    expect(outcome([mapping], [certificatePolicies(silver)], { ...explicit, inhibitMapping: true })).toBe(refused);
    expect(outcome([mapping], [certificatePolicies(gold)], { ...explicit, inhibitMapping: true })).toBe(refused);
    expect(outcome([[certificatePolicies(gold), policyConstraints({ inhibitPolicyMapping: 0 })], mapping], [certificatePolicies(silver)], explicit)).toBe(refused);
    expect(outcome([[certificatePolicies(gold), policyConstraints({ inhibitPolicyMapping: 1 })], mapping], [certificatePolicies(silver)], explicit)).toBe("accepted");
  });

  test.each([
    ["to anyPolicy", [policyMappings([gold, oid.anyPolicy])]],
    ["from anyPolicy", [policyMappings([oid.anyPolicy, gold])]],
  ])("%s is refused, even where no policy is asked for", (_, list) => {
    expect(outcome([[certificatePolicies(gold), ...list]], [certificatePolicies(gold)])).toBe(refused);
  });
});

test("an anchor's policies narrow what is acceptable, and its mappings hold", () => {
  const root = [certificatePolicies(gold), policyMappings([gold, silver])];
  expect(outcome([[certificatePolicies(silver)]], [certificatePolicies(silver)], asking(gold), { root })).toBe("accepted");
  expect(outcome([[certificatePolicies(gold)]], [certificatePolicies(gold)], asking(gold), { root })).toBe(refused);
  expect(outcome([[certificatePolicies(silver)]], [certificatePolicies(silver)], { ...asking(gold), inhibitMapping: true }, { root })).toBe(refused);
});

test("a policy that stands twice in a certificate is refused", () => {
  expect(outcome([[certificatePolicies(gold, gold)]], [certificatePolicies(gold)])).toBe(refused);
});
