import { PassThrough } from "node:stream";
import { afterEach, expect, test, vi } from "vitest";
import { openTerminal } from "#scripts/demo/terminal.ts";

afterEach(() => void vi.unstubAllEnvs());

const escape = "\u001B[";

async function written(columns: number): Promise<string> {
  const out = Object.assign(new PassThrough(), { isTTY: true, columns, clearLine: () => true, cursorTo: () => true, moveCursor: () => true });
  const terminal = openTerminal(out as unknown as NodeJS.WriteStream);
  await terminal.step("Alice enrolls", async () => "She has a certificate.");
  terminal.stop();
  return String(out.read());
}

test("a terminal that tells no width is written to, not drawn on", async () => {
  // Where these say that nobody watches, nothing is drawn whatever the width.
  vi.stubEnv("CI", undefined);
  vi.stubEnv("TERM", "xterm");
  expect(await written(0)).not.toContain(`${escape}?25l`);
  expect(await written(80)).toContain(`${escape}?25l`);
});
