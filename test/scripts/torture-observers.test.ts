import { createHash } from "node:crypto";
import { expect, test } from "vitest";
import { AuditChain, type ShownRecord } from "#scripts/torture/audit-chain.ts";
import { Findings, ruleResults } from "#scripts/torture/findings.ts";
import { Random } from "#scripts/torture/random.ts";

function chained(count: number): ShownRecord[] {
  const records: ShownRecord[] = [];
  let previous = Buffer.alloc(32);
  for (let sequence = 1; sequence <= count; sequence++) {
    const record = JSON.stringify({ sequence });
    previous = createHash("sha256").update("signet audit record v1\0").update(previous).update(record).digest();
    records.push({ sequence, record, hash: previous.toString("hex") });
  }
  return records;
}

test("a whole audit chain is followed, from its first record and from any later one", () => {
  const chain = new AuditChain();
  const records = chained(6);
  expect(chain.follow(1, records.slice(0, 4))).toEqual({ broken: [], missing: 0 });
  expect(chain.follow(4, records.slice(3))).toEqual({ broken: [], missing: 0 });
  expect(chain.length).toBe(6);
});

test.each<[string, (records: ShownRecord[]) => ShownRecord[]]>([
  ["changed", (records) => records.map((one) => (one.sequence === 2 ? { ...one, record: "{}" } : one))],
  ["left out", (records) => records.filter((one) => one.sequence !== 2)],
  ["swapped", ([a, b, c, ...rest]) => [a, c, b, ...rest].filter((one) => one !== undefined)],
])("a record that was %s breaks the audit chain", (_what, tamper) => {
  expect(new AuditChain().follow(1, tamper(chained(4))).broken).not.toEqual([]);
});

test("an audit chain that got shorter, or was written anew, is noticed", () => {
  const chain = new AuditChain();
  const records = chained(5);
  chain.follow(1, records);
  expect(chain.follow(1, records.slice(0, 3))).toEqual({ broken: [], missing: 2 });
  const anew = chained(5).map((one) => ({ ...one }));
  const record = JSON.stringify({ sequence: 1, other: true });
  const hash = createHash("sha256").update("signet audit record v1\0").update(Buffer.alloc(32)).update(record).digest("hex");
  expect(chain.follow(1, [{ sequence: 1, record, hash }, ...anew.slice(1)]).broken).not.toEqual([]);
});

test.each([
  ["something lost", { lost: 1, violated: 0, control: 1, acknowledged: 10 }, false],
  ["something violated", { lost: 0, violated: 1, control: 1, acknowledged: 10 }, false],
  ["a control that was not caught", { lost: 0, violated: 0, control: 0, acknowledged: 10 }, false],
  ["less load than the minimum", { lost: 0, violated: 0, control: 1, acknowledged: 9 }, false],
  ["none of these", { lost: 0, violated: 0, control: 1, acknowledged: 10 }, true],
])("with %s a rule holds: %o %s", (_what, i, holds) => {
  const findings = new Findings<"rule">();
  const control = new Findings<"rule">();
  for (let n = 0; n < i.lost; n++) findings.lost("rule", "x");
  for (let n = 0; n < i.violated; n++) findings.violated("rule", "x");
  for (let n = 0; n < i.control; n++) control.lost("rule", "x");
  const results = ruleResults({
    suite: "test", rules: ["rule"], trials: 5, acknowledged: { rule: i.acknowledged }, minimumPerTrial: { rule: 2 }, findings, control, broken: { rule: "cut" },
  });
  expect(results).toHaveLength(1);
  expect(results[0]).toMatchObject({ suite: "test", name: "rule", trials: 5, acknowledged: i.acknowledged, lost: i.lost, violations: i.violated, holds });
});

test("the same seed gives the same choices", () => {
  const draw = (seed: number) => {
    const random = new Random(seed);
    return [random.next(), random.between(1, 100), ...random.sample([1, 2, 3, 4, 5], 3)];
  };
  expect(draw(7)).toEqual(draw(7));
  expect(draw(7)).not.toEqual(draw(8));
  expect(new Set(new Random(1).sample([1, 2, 3], 9)).size).toBe(3);
});
