import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { expect, test } from "vitest";
import { tortureCa } from "#scripts/torture/ca.ts";
import { tortureKms } from "#scripts/torture/kms.ts";
import type { RuleResult } from "#scripts/torture/findings.ts";
import type { TortureSuite } from "#scripts/torture/main.ts";

async function run(suite: TortureSuite): Promise<RuleResult[]> {
  const directory = await mkdtemp(path.join(tmpdir(), "signet-torture-"));
  try {
    return await suite({ trials: 2, seed: Date.now(), directory, progress: () => {} });
  } finally {
    await rm(directory, { recursive: true, force: true });
  }
}

// A small share of `npm run torture`: enough to notice that a service forgets, and that the observer would notice.
test.concurrent.each<[string, TortureSuite]>([
  ["CA", tortureCa],
  ["KMS", tortureKms],
])("a %s killed under load keeps what it acknowledged, and the observer sees what an older copy has lost", async (_service, suite) => {
  const results = await run(suite);
  expect(results.length).toBeGreaterThan(0);
  for (const { name, lost, violations, control } of results) {
    expect({ name, lost, violations, controlCaught: control.caught }).toEqual({ name, lost: 0, violations: 0, controlCaught: true });
  }
});
