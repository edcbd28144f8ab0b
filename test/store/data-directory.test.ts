import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdirSync, readFileSync, readdirSync, rmdirSync, statSync, symlinkSync, writeFileSync } from "node:fs";
import path from "node:path";
import { describe, expect, onTestFinished, test } from "vitest";
import { writeFileDurably } from "#pki/durable-file.ts";
import { DataDirectory } from "#store/data-directory.ts";
import { temporaryDirectory } from "#test/support/temporary-directory.ts";

const format = { service: "ca", version: 2 } as const;
const withCode = (code: string) => expect.objectContaining({ code });

/** Everything in a folder: names and content. */
const contentOf = (directory: string) =>
  readdirSync(directory).sort().map((name) => [name, name === "lock" ? statSync(path.join(directory, name)).size : readFileSync(path.join(directory, name), "utf8")]);

async function initialised(directory = path.join(temporaryDirectory(), "ca")): Promise<string> {
  const data = await DataDirectory.initialise(directory, format, async (d) => writeFileSync(d.file("state"), "kept"));
  data.close();
  return directory;
}

test("a directory that was initialised opens, and is not initialised twice", async () => {
  const directory = await initialised();
  const data = DataDirectory.open(directory, format);
  expect(readFileSync(data.file("state"), "utf8")).toBe("kept");
  data.close();
  await expect(initialised(directory)).rejects.toMatchObject({ code: "state-conflict" });
});

describe("is named and left alone", () => {
  test.each<[string, string, (directory: string) => void]>([
    ["a folder with something else", "data-directory-foreign", (d) => writeFileSync(path.join(d, "holiday.jpg"), "")],
    ["the folder of another service", "data-directory-foreign", (d) => writeFileSync(path.join(d, "signet-kms.json"), '{"format":"signet-kms","version":1,"complete":true}')],
    ["a marker that is no JSON", "data-directory-corrupt", (d) => writeFileSync(path.join(d, "signet-ca.json"), "{")],
    ["an empty marker", "data-directory-corrupt", (d) => writeFileSync(path.join(d, "signet-ca.json"), "")],
    ["a marker of another form", "data-directory-corrupt", (d) => writeFileSync(path.join(d, "signet-ca.json"), '{"format":"signet-ca","version":"1"}')],
    ["a marker that says another service", "data-directory-corrupt", (d) => writeFileSync(path.join(d, "signet-ca.json"), '{"format":"signet-kms","version":1,"complete":true}')],
    ["a newer format", "data-directory-newer", (d) => writeFileSync(path.join(d, "signet-ca.json"), '{"format":"signet-ca","version":3}')],
  ])("%s", async (_, code, make) => {
    const directory = temporaryDirectory();
    make(directory);
    const before = contentOf(directory);
    expect(() => DataDirectory.open(directory, format)).toThrow(withCode(code));
    await expect(DataDirectory.initialise(directory, format, async () => {})).rejects.toThrow(withCode(code));
    expect(contentOf(directory)).toEqual(before);
  });

  test("a file in place of the folder", () => {
    const file = path.join(temporaryDirectory(), "file");
    writeFileSync(file, "");
    expect(() => DataDirectory.open(file, format)).toThrow(withCode("data-directory-foreign"));
  });
});

test("an initialisation that failed half-way is not taken for a whole directory, and can be repeated", async () => {
  const directory = path.join(temporaryDirectory(), "ca");
  const failing = DataDirectory.initialise(directory, format, async (d) => {
    writeFileSync(d.file("half"), "");
    mkdirSync(d.file("folder"));
    throw new Error("on purpose");
  });
  await expect(failing).rejects.toThrow("on purpose");
  expect(() => DataDirectory.open(directory, format)).toThrow(withCode("data-directory-foreign"));
  await initialised(directory);
  expect(readdirSync(directory).sort()).toEqual(["lock", "signet-ca.json", "state"]);
});

/** A process of its own that opens the directory, says so and stays. Its output ends with it, even where it is the child of a parent that never takes note of its end. */
async function holderOf(directory: string, hasCarelessParent = false) {
  const program = `import { DataDirectory } from ${JSON.stringify(new URL("../../store/data-directory.ts", import.meta.url).href)};
    globalThis.held = DataDirectory.open(${JSON.stringify(directory)}, { service: "ca", version: 2 });
    console.log("held"); setInterval(() => {}, 1e6);`;
  const argv = [process.execPath, "--input-type=module", "-e", program];
  const [command = "", ...rest] = hasCarelessParent ? ["sh", "-c", '"$@" & exec sleep 600 >&-', "sh", ...argv] : argv;
  const child = spawn(command, rest, { stdio: ["ignore", "pipe", "inherit"] });
  onTestFinished(() => void child.kill("SIGKILL"));
  await once(child.stdout, "data");
  return child;
}

test("a second process is told who holds the directory and touches nothing; a killed holder leaves no stale lock", async () => {
  const directory = await initialised();
  const child = await holderOf(directory);
  const before = contentOf(directory);
  expect(() => DataDirectory.open(directory, format)).toThrow(withCode("data-directory-locked"));
  expect(() => DataDirectory.open(directory, format)).toThrow(new RegExp(`process ${child.pid}\\b`));
  expect(contentOf(directory)).toEqual(before);
  child.kill("SIGKILL");
  await once(child, "exit");
  DataDirectory.open(directory, format).close();
});

test.runIf(process.platform === "linux")("a killed holder is gone even while its parent has not taken note of it (Linux)", async () => {
  const directory = await initialised();
  const parent = await holderOf(directory, true);
  const holder = DataDirectory.holder(directory);
  if (holder?.pid === undefined) throw new Error("Nobody holds it.");
  const wasProved = holder.isProved?.();
  const closed = once(parent.stdout, "close");
  process.kill(holder.pid, "SIGKILL");
  await closed;
  await expect.poll(() => holder.isThatProcess?.()).toBe(false);
  expect([wasProved, existsSync(`/proc/${holder.pid}`)]).toStrictEqual([true, true]);
});

test("one process cannot take a directory twice", async () => {
  const directory = await initialised();
  const data = DataDirectory.open(directory, format);
  expect(() => DataDirectory.open(directory, format)).toThrow(withCode("data-directory-locked"));
  expect(() => DataDirectory.open(directory, format)).toThrow(withCode("data-directory-locked"));
  data.close();
  DataDirectory.open(directory, format).close();
});

test("a directory that cannot be written is named, and the lock on it given back", async () => {
  const directory = await initialised();
  mkdirSync(path.join(directory, "lock.json"));
  expect(() => DataDirectory.open(directory, format)).toThrow(withCode("storage-unavailable"));
  rmdirSync(path.join(directory, "lock.json"));
  DataDirectory.open(directory, format).close();
});

test.skipIf(process.platform === "win32")("a directory that cannot be made is named", async () => {
  const directory = path.join(temporaryDirectory(), "ca");
  symlinkSync("nowhere", directory);
  await expect(initialised(directory)).rejects.toMatchObject({ code: "storage-unavailable" });
});

test("a durable write replaces the file whole, with its mode, and leaves nothing beside it", () => {
  const directory = temporaryDirectory();
  const file = path.join(directory, "key");
  writeFileDurably(file, "first", 0o600);
  writeFileDurably(file, new Uint8Array([1, 2, 3]), 0o600);
  expect([...readFileSync(file)]).toEqual([1, 2, 3]);
  if (process.platform !== "win32") expect(statSync(file).mode & 0o777).toBe(0o600);
  expect(readdirSync(directory)).toEqual(["key"]);
  expect(() => writeFileDurably(path.join(directory, "absent", "key"), "x", 0o600)).toThrow(withCode("storage-unavailable"));
});
