import { describe, expect, it } from "vitest";
import { isErrorCode, SignetError } from "#pki/errors.ts";
import { collect, parseInteger, runCommandLine, usageError, type Definition, type Invocation } from "#scripts/command-line/program.ts";
import { recordedTerminal } from "#test/support/terminal.ts";

function define(definition: Definition): void {
  const group = definition.group(definition.program, "key", "keys");
  const create = definition.command(group, "create <name>", "make a key", "npx signet key create team").option("--reader <name>", "who gets it", collect).option("--port <port>", "a port", parseInteger(1, 65_535));
  definition.handle(create, async (invocation: Invocation, name: string, options: { readonly reader?: readonly string[] }) => ({ json: { name, data: invocation.data, readers: options.reader ?? [] }, text: `made ${name}` }));
  const fail = definition.command(group, "fail <how>", "fail", "npx signet key fail typed");
  definition.handle(fail, async (_invocation: Invocation, how: string) => {
    if (how === "typed") throw new SignetError("not-permitted", "Not this\nkey.\u001b[2J", { details: { name: "team" } });
    if (how === "file") throw Object.assign(new Error("ENOENT: no such file or directory, open '/x'"), { code: "ENOENT", path: "/x" });
    if (how === "refused") throw Object.assign(new Error("connect ECONNREFUSED"), { code: "ECONNREFUSED" });
    if (how === "defect") throw new TypeError("undefined is not a function");
    if (how === "verdict") return { json: { verdict: "revoked" }, text: "revoked", exitCode: 5 };
    throw usageError(`no such way to fail: ${how}`, "Try typed.");
  });
}

async function run(...argv: string[]) {
  const terminal = recordedTerminal();
  const exitCode = await runCommandLine("signet", define, argv, terminal);
  return { exitCode, out: terminal.out().toString("utf8"), err: terminal.err() };
}

describe("a command line", () => {
  it("prints text for people and one object with --json, wherever --json and --data stand", async () => {
    expect(await run("key", "create", "team")).toStrictEqual({ exitCode: 0, out: "made team\n", err: "" });
    for (const argv of [["--json", "--data", "x", "key", "create", "team", "--reader", "bob", "--reader", "carol"], ["key", "create", "team", "--reader", "bob", "--data", "x", "--reader", "carol", "--json"]]) {
      const { exitCode, out, err } = await run(...argv);
      expect([exitCode, err]).toStrictEqual([0, ""]);
      expect(JSON.parse(out)).toStrictEqual({ name: "team", data: "x", readers: ["bob", "carol"] });
      expect(out.trimEnd()).not.toContain("\n");
    }
  });

  it.each([
    ["an unknown command", ["key", "creat", "team"], "did you mean create?"],
    ["an unknown group", ["kei", "create", "team"], "did you mean key?"],
    ["an unknown option", ["key", "create", "team", "--raeder", "bob"], "did you mean --reader?"],
    ["a missing argument", ["key", "create"], "name"],
    ["a value out of range", ["key", "create", "team", "--port", "70000"], "65535"],
    ["one argument too many", ["key", "create", "team", "other"], "too many"],
  ])("answers %s with exit code 1, one line that names the way, and nothing on stdout", async (_what, argv, named) => {
    const { exitCode, out, err } = await run(...argv);
    expect([exitCode, out]).toStrictEqual([1, ""]);
    expect(err).toMatch(/^signet: usage: [^\n]+ See `npx signet[^`]*--help`\.\n$/);
    expect(err).toContain(named);
  });

  it.each([
    ["typed", "not-permitted", 4],
    ["file", "file-unusable", 1],
    ["refused", "remote-unreachable", 2],
    ["defect", "internal", 2],
    ["otherwise", "usage", 1],
  ])("turns a failure (%s) into one line with code %s and its exit code, or one problem object with --json", async (how, code, exitCode) => {
    const plain = await run("key", "fail", how);
    expect([plain.exitCode, plain.out]).toStrictEqual([exitCode, ""]);
    expect(plain.err).toMatch(new RegExp(`^signet: ${code}: \\P{Cc}+\\n$`, "u"));
    expect(plain.err).not.toContain("    at ");
    const json = await run("key", "fail", how, "--json");
    expect([json.exitCode, json.out]).toStrictEqual([exitCode, ""]);
    const problem: unknown = JSON.parse(json.err);
    expect(problem).toMatchObject({ code, type: `urn:signet:error:${code}` });
  });

  it("lets an answer carry an exit code of its own", async () => {
    expect(await run("key", "fail", "verdict")).toStrictEqual({ exitCode: 5, out: "revoked\n", err: "" });
  });

  it("prints help on stdout and ends with 0; a group without a command is a mistake", async () => {
    const help = await run("key", "create", "--help");
    expect(help.exitCode).toBe(0);
    expect(help.out).toContain("Example:");
    expect(help.err).toBe("");
    const group = await run("key");
    expect([group.exitCode, group.out]).toStrictEqual([1, ""]);
    const json = await run("key", "--json");
    expect(json.exitCode).toBe(1);
    expect(isErrorCode((JSON.parse(json.err) as { code: unknown }).code)).toBe(true);
  });
});
