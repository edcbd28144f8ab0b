import { spawnSync } from "node:child_process";
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { describe, expect, it, onTestFinished, vi } from "vitest";
import { takeSupervisor } from "#scripts/command-line/services.ts";
import { signet } from "#scripts/command-line/signet.ts";
import { temporaryDirectory } from "#test/support/temporary-directory.ts";
import { recordedTerminal } from "#test/support/terminal.ts";

const scripts = fileURLToPath(new URL("../../scripts/", import.meta.url));
const folder = path.join(scripts, "systemd");
const units = readdirSync(folder);
const hasAnalyze = process.platform === "linux" && spawnSync("systemd-analyze", ["--version"]).status === 0;

describe.each(units)("the systemd unit %s", (unit) => {
  const text = readFileSync(path.join(folder, unit), "utf8");

  it.skipIf(!hasAnalyze)("is one that systemd takes without a word (skipped without systemd-analyze)", () => {
    const copy = path.join(temporaryDirectory(), unit);
    // Where it is installed is this project's own launcher.
    writeFileSync(copy, text.replace("ExecStart=/opt/signet/signet ", `ExecStart=${path.join(scripts, "signet.mjs")} `));
    const { status, stdout, stderr } = spawnSync("systemd-analyze", ["verify", "--man=no", copy], { encoding: "utf8" });
    expect([status, stdout, stderr.split("\n").filter((line) => line.includes(unit))]).toStrictEqual([0, "", []]);
  });

  it("starts a command that there is, with options that it has", async () => {
    const data = temporaryDirectory();
    writeFileSync(path.join(data, "notes.txt"), "mine");
    const [, command = ""] = /^ExecStart=\/opt\/signet\/signet (.+)$/m.exec(text) ?? [];
    const terminal = recordedTerminal("");
    await signet(command.replace(/\/var\/lib\/\S+/, data).split(" "), terminal);
    // Had it not parsed, it would be `usage`.
    expect(JSON.parse(terminal.err())).toMatchObject({ code: "data-directory-foreign" });
  });

  it("is given its passphrase by a credential, and nothing of it on the command line or in the environment", () => {
    expect(text).toMatch(/^LoadCredential=(?:ca|kms)-passphrase:\/etc\/signet\/(?:ca|kms)-passphrase$/m);
    expect(text).not.toMatch(/^Environment|passphrase-file/m);
  });
});

it("is not up for systemd where systemd cannot be told so, and no service of ours speaks to it", async () => {
  onTestFinished(() => void vi.unstubAllEnvs());
  vi.stubEnv("NOTIFY_SOCKET", "/nowhere");
  vi.stubEnv("PATH", "");
  const tell = takeSupervisor();
  expect(process.env["NOTIFY_SOCKET"]).toBeUndefined();
  await expect(tell()).rejects.toMatchObject({ code: "internal" });
  await takeSupervisor()();
});

it("leaves nobody listening for signals once it has ended", async () => {
  const listeners = () => (["SIGINT", "SIGTERM", "SIGHUP"] as const).map((signal) => process.listenerCount(signal));
  const before = listeners();
  const data = temporaryDirectory();
  writeFileSync(path.join(data, "notes.txt"), "mine");
  expect(await signet(["ca", "serve", "--data", data], recordedTerminal(""))).not.toBe(0);
  expect(listeners()).toStrictEqual(before);
});
