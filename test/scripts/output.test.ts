import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import { OutputDirectory } from "#scripts/demo/output.ts";

let directory = "";
beforeEach(() => void (directory = mkdtempSync(path.join(tmpdir(), "signet-output-"))));
afterEach(() => rmSync(directory, { recursive: true, force: true }));

test("a directory that holds something else is refused and left alone", async () => {
  writeFileSync(path.join(directory, "mine.pem"), "precious");
  await expect(OutputDirectory.take(directory)).rejects.toMatchObject({ code: "data-directory-foreign" });
  expect(readdirSync(directory)).toEqual(["mine.pem"]);
  expect(readFileSync(path.join(directory, "mine.pem"), "utf8")).toBe("precious");
});

test("a second run on the same directory is refused, and the first one's files stay", async () => {
  const first = await OutputDirectory.take(directory);
  writeFileSync(path.join(first.working, "key"), "x");
  await expect(OutputDirectory.take(directory)).rejects.toMatchObject({ code: "data-directory-locked" });
  expect(existsSync(path.join(first.working, "key"))).toBe(true);
  await first.release({ keepWorking: false });
});

test("what a run leaves is its report; the next run replaces it", async () => {
  const first = await OutputDirectory.take(directory);
  for (const name of ["alice.pem", "report.json"]) writeFileSync(path.join(directory, name), "{}");
  await first.release({ keepWorking: false });
  expect(readdirSync(directory).sort()).toEqual(["alice.pem", "report.json"]);
  const second = await OutputDirectory.take(directory);
  expect(readdirSync(directory)).toEqual(["run"]);
  await second.release({ keepWorking: false });
});

test("a run that is given up leaves nothing, and what a killed one left is taken up", async () => {
  const first = await OutputDirectory.take(directory);
  writeFileSync(path.join(directory, "alice.pem"), "half a run");
  await first.release({ keepWorking: true });
  expect(readdirSync(directory)).toEqual(["run"]);
  mkdirSync(path.join(directory, "run", "work"), { recursive: true });
  const second = await OutputDirectory.take(directory);
  expect(readdirSync(second.working)).toEqual([]);
  await second.release({ keepWorking: false });
  expect(readdirSync(directory)).toEqual([]);
});
