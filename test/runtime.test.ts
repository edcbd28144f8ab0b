import { readFileSync } from "node:fs";
import { expect, test } from "vitest";
import { isAcceptedRuntime, pinnedRuntime } from "../scripts/runtime.mjs";

test("the tests run on the pinned Node, whichever npm started them", () => {
  const pinned = pinnedRuntime();
  if (pinned !== undefined) expect(process.execPath).toBe(pinned);
  expect(isAcceptedRuntime(process.versions.node)).toBe(true);
});

test.each([
  ["20.20.2", false],
  ["22.23.0", false],
  ["24.20.9", false],
  ["24.21.0", true],
  ["25.9.0", false],
  ["26.9.0", false],
  ["26.10.0", true],
  ["27.0.0", true],
])("Node %s is accepted: %s", (version, accepted) => {
  expect(isAcceptedRuntime(version)).toBe(accepted);
});

test("the lockfile holds every platform's package of every dependency, with integrity: npm 11 installs from no other", () => {
  const { packages } = JSON.parse(readFileSync(new URL("../package-lock.json", import.meta.url), "utf8")) as {
    packages: Record<string, { optionalDependencies?: Record<string, string>; integrity?: string }>;
  };
  const missing = Object.entries(packages).flatMap(([at, { optionalDependencies = {} }]) =>
    Object.keys(optionalDependencies).filter((name) => [`${at}/node_modules/${name}`, `node_modules/${name}`].every((place) => packages[place]?.integrity === undefined)),
  );
  expect(missing).toEqual([]);
});
