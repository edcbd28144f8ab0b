import { existsSync, readFileSync } from "node:fs";
import { expect, test } from "vitest";
import { mutations } from "#scripts/mutations/table.ts";

const root = new URL("../../", import.meta.url);

test.each(mutations.map((mutation) => [mutation.rule, mutation] as const))("what `npm run mutations` takes out is there once: %s", (_rule, { file, replace, by, tests }) => {
  const source = readFileSync(new URL(file, root), "utf8");
  expect(source.split(replace).length - 1).toBe(1);
  expect(source.replace(replace, () => by)).not.toBe(source);
  expect(tests.length).toBeGreaterThan(0);
  for (const each of tests) expect(existsSync(new URL(each, root)), each).toBe(true);
});
