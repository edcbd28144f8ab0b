import { execFile } from "node:child_process";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { expect, test } from "vitest";
import { atLeast, atMost, compare, summarize } from "#scripts/bench/measurement.ts";

const run = promisify(execFile);
const bench = fileURLToPath(new URL("../../scripts/bench.ts", import.meta.url));

test("project and baseline are sampled in turn, one uncounted round first", async () => {
  const order: string[] = [];
  const sampled = (name: string, values: number[]) => async () => {
    order.push(name);
    return { milliseconds: values.shift() ?? Number.NaN };
  };
  const [measured] = await compare({
    area: "test",
    rows: [{ metric: "milliseconds", name: "work", unit: "ms" }],
    rounds: 3,
    project: sampled("A", [1000, 3, 9, 6]),
    baseline: sampled("B", [1000, 2, 1, 3]),
  });
  expect(order).toEqual(["A", "B", "A", "B", "A", "B", "A", "B"]);
  expect(measured?.row).toEqual({
    area: "test", name: "work", value: 6, unit: "ms", baseline: 2, ratio: 3, goal: null, holds: null, samples: { min: 3, median: 6, max: 9 },
  });
});

test.each([
  [atMost(2), 4, 2, true],
  [atMost(2), 4.1, 2, false],
  [atLeast(0.5), 1, 2, true],
  [atLeast(0.5), 0.9, 2, false],
  [atLeast(10, "value"), 10, 1, true],
  [atMost(10, "value"), 10.5, 100, false],
])("a goal of %o is judged by what it names: value %d, baseline %d, holds %s", async (goal, value, baseline, holds) => {
  const [measured] = await compare({
    area: "test", rows: [{ metric: "m", name: "n", unit: "u", goal }], rounds: 1, project: async () => ({ m: value }), baseline: async () => ({ m: baseline }),
  });
  expect(measured?.row.holds).toBe(holds);
});

test("a goal on a ratio does not hold where there is no baseline", async () => {
  const [measured] = await compare({ area: "test", rows: [{ metric: "m", name: "n", unit: "u", goal: atMost(2) }], rounds: 1, project: async () => ({ m: 1 }) });
  expect(measured?.row).toMatchObject({ baseline: null, ratio: null, holds: false });
});

test("what is no number is not summarized", () => {
  expect(summarize([4, 1, 2, 3])).toEqual({ min: 1, median: 2.5, max: 4 });
  expect(() => summarize([])).toThrow(RangeError);
  expect(() => summarize([1, Number.NaN])).toThrow(RangeError);
});

test("an unknown area gets one line that names the known ones, and exit code 1", async () => {
  const failure: unknown = await run(process.execPath, [bench, "nowhere"]).catch((error: unknown) => error);
  expect(failure).toMatchObject({ code: 1, stdout: "" });
  const { stderr } = failure as { stderr: string };
  expect(stderr.trim().split("\n")).toHaveLength(1);
  for (const area of ["pki", "ca", "kms", "agents"]) expect(stderr).toContain(area);
});
