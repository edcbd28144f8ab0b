import { execFile, spawn, spawnSync, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { cpSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { portOptions } from "#scripts/free-ports.ts";
import { copyProject, readmeBlock, type ReadmeBlock } from "#test/support/readme.ts";
import { pinnedRuntime } from "../../scripts/runtime.mjs";
import { publicApi } from "./public-api.ts";

// The tarball of `npm pack`, installed by npm into an empty project elsewhere, and used as a stranger would use it. All that is typed and run
// here stands in the README or in the docstrings of the entry points.

const root = path.dirname(path.dirname(path.dirname(fileURLToPath(import.meta.url))));
const folder = mkdtempSync(path.join(tmpdir(), "signet-package-"));
/** The README's two folders: the clone, and a project beside it. */
const clone = path.join(folder, "signet");
const project = path.join(folder, "shop");
const installed = path.join(project, "node_modules", "signet");
const onWindows = process.platform === "win32";
/** As a user's shell has it: without what the npm that runs the tests has put there. The pinned runtime, 190 MB that lie here already, is not installed again. */
const environment: NodeJS.ProcessEnv = {
  ...Object.fromEntries(Object.entries(process.env).filter(([name]) => !/^npm_(package|lifecycle)|^npm_config_local_prefix$|^INIT_CWD$|^NODE_(COMPILE_CACHE|OPTIONS|ENV)$/i.test(name))),
  npm_config_omit: "optional",
  npm_config_prefer_offline: "true",
  // Nobody waits minutes for a registry that does not answer.
  npm_config_fetch_retries: "1",
  npm_config_fetch_retry_mintimeout: "1000",
  npm_config_fetch_timeout: "30000",
  npm_config_audit: "false",
  npm_config_fund: "false",
  npm_config_update_notifier: "false",
  SIGNET_DATA: path.join(clone, "data"),
};

const entryPoints = { signet: "package/signet.d.ts", "signet/path-validation": "package/path-validation.d.ts", "signet/crl": "package/crl.d.ts" };

const [install, shop, watch] = [readmeBlock("Used from another project", 1), readmeBlock("Used from another project", 2), readmeBlock("Used from another project", 3)];
/** Of npm: that the packages are not to be had, which is no fault of what is tested. */
const unavailable = /E(NOTCACHED|NOTFOUND|CONNREFUSED|CONNRESET|TIMEDOUT|IDLETIMEOUT|AI_AGAIN|429|5\d\d)\b|SOCKET_TIMEOUT|network/;
let typedInstall: "done" | "unavailable" | Error = "unavailable";
const skipped = await installPackage();

describe.skipIf(skipped !== undefined)(`the package${skipped === undefined ? "" : ` (skipped: ${skipped})`}`, () => {
  let services: ChildProcess | undefined;

  beforeAll(async () => {
    const ports = await portOptions("enrolment", "mutual", "publication", "kms", "status");
    services = spawn("node", [path.join(installed, "scripts", "signet.mjs"), "start", "--json", ...ports], { cwd: project, env: environment, stdio: ["ignore", "pipe", "inherit"] });
    const { stdout } = services;
    if (stdout === null) throw new Error("no pipe");
    const line = await Promise.race([once(createInterface({ input: stdout }), "line"), once(services, "exit").then(([code]) => Promise.reject(new Error(`signet start ended with ${code}`)))]);
    expect(JSON.parse(String(line[0]))).toMatchObject({ ready: true, initialised: true });
    await shell("signet ca issue api --dns localhost --out api");
  });

  afterAll(async () => {
    if (services?.kill("SIGTERM") === true) await once(services, "exit");
    rmSync(folder, { recursive: true, force: true });
  });

  it.skipIf(typedInstall === "unavailable")("is packed and installed by what the README types (skipped on Windows and without a registry: by the lockfile of the clone)", () => {
    if (typedInstall instanceof Error) throw typedInstall;
    expect(JSON.parse(readFileSync(path.join(project, "package.json"), "utf8"))).toMatchObject({ name: "shop", type: "module", dependencies: { signet: expect.stringMatching(/^file:signet-.*\.tgz$/) } });
  });

  it("holds compiled JavaScript with types, and neither sources nor tests nor a path of the machine that made it", () => {
    const files = readdirSync(installed, { recursive: true, withFileTypes: true }).filter((entry) => entry.isFile()).map((entry) => path.relative(installed, path.join(entry.parentPath, entry.name)).replaceAll(path.sep, "/"));
    expect(files.filter((file) => !file.startsWith("dist/")).sort()).toStrictEqual(["CHANGELOG.md", "DESIGN.md", "README.md", "SECURITY.md", "package.json", "scripts/runtime.mjs", "scripts/signet.mjs", "scripts/systemd/signet-ca.service", "scripts/systemd/signet-kms.service"]);
    expect(files.filter((file) => /(?<!\.d)\.ts$|\.(pem|key|p12|crl|tsbuildinfo)$|(^|\/)(test|bench|torture|mutations|fuzz|certs|data)(\/|$)/.test(file))).toStrictEqual([]);
    expect(files).toContain("dist/store/migrations/0001-audit-record.sql");
    expect(files.filter((file) => files.includes(`dist/${file}`))).toStrictEqual(["package.json", "scripts/runtime.mjs"]); // which modules on both sides import
    const places = [root, folder, tmpdir()].filter((place) => place.length > 5);
    expect(files.filter((file) => places.some((place) => readFileSync(path.join(installed, file)).includes(place)))).toStrictEqual([]);
  });

  it("imports no package that its manifest does not name, brings the pinned runtime as the clone does, and no install script", () => {
    const { dependencies, optionalDependencies } = JSON.parse(readFileSync(path.join(installed, "package.json"), "utf8")) as Record<string, Record<string, string>>;
    const compiled = readdirSync(path.join(installed, "dist"), { recursive: true, encoding: "utf8" }).filter((file) => file.endsWith("js"));
    const named = new Set(compiled.flatMap((file) => [...readFileSync(path.join(installed, "dist", file), "utf8").matchAll(/^(?:import|export)\b[^"']*?from "([^".#][^"]*)"|^import "([^".#][^"]*)"|\bimport\("([^".#][^"]*)"\)/gm)].map(([, one, other, third]) => one ?? other ?? third ?? "")));
    const packages = [...named].filter((name) => !name.startsWith("node:")).map((name) => name.split("/").slice(0, name.startsWith("@") ? 2 : 1).join("/"));
    expect(new Set(packages)).toStrictEqual(new Set(Object.keys(dependencies ?? {})));
    expect(Object.keys(optionalDependencies ?? {}).every((name) => name.startsWith("node-"))).toBe(true);
    const lock = JSON.parse(readFileSync(path.join(project, "package-lock.json"), "utf8")) as { packages: Record<string, { version: string; optional?: boolean; hasInstallScript?: boolean }> };
    for (const [name, version] of Object.entries(optionalDependencies ?? {})) expect(lock.packages[`node_modules/${name}`]).toMatchObject({ version, optional: true });
    expect(Object.entries(lock.packages).filter(([, { hasInstallScript }]) => hasInstallScript === true)).toStrictEqual([]);
  });

  it("type-checks in a strict project that has @types/node and nothing else, declarations of libraries included", async () => {
    const files = Object.keys(entryPoints).map((name, index) => {
      writeFileSync(path.join(project, `example-${index}.ts`), exampleOf(name));
      return `example-${index}.ts`;
    });
    writeFileSync(path.join(project, "watch.ts"), watch.text);
    writeFileSync(
      path.join(project, "misuse.ts"),
      `import { Agent, type ErrorCode } from "signet";
const agent = await Agent.open("alice", { kmsUrl: "https://localhost" });
// @ts-expect-error A version is a number.
const version: string = (await agent.createKey("orders")).latest.version;
// @ts-expect-error There is no such code.
const code: ErrorCode = "nonsense";
export { version, code };
`,
    );
    const compilerOptions = { strict: true, noUncheckedIndexedAccess: true, exactOptionalPropertyTypes: true, skipLibCheck: false, module: "nodenext", target: "es2022", types: ["node"], noEmit: true };
    writeFileSync(path.join(project, "tsconfig.json"), JSON.stringify({ compilerOptions, files: [...files, "watch.ts", "misuse.ts"] }));
    await run(process.execPath, [path.join(root, "scripts/launch.mjs"), "typescript", "--project", project]);
  });

  it("runs the example of the SDK: an agent enrols, makes a key and gets it, and is refused another by code", async () => {
    writeFileSync(path.join(project, "orders.mjs"), exampleOf("signet"));
    expect(await shell("npx signet ca token alice | npx signet node orders.mjs")).toBe("orders, version 1: 32 octets\nnot-permitted\n");
  });

  it.skipIf(onWindows)("runs the README's program: another project's agent enrols, makes a key and gets it (skipped on Windows, whose shell is another)", async () => {
    writeFileSync(path.join(project, "shop.mjs"), shop.text);
    expect(await typed(readmeBlock("Used from another project", 4))).toBe(readmeBlock("Used from another project", 5).text);
  });

  it.skipIf(onWindows)("refuses the agent its key once it is revoked, and says so by code, in the README's program in TypeScript (skipped on Windows, whose shell is another)", async () => {
    const child = spawn("bash", ["-c", readmeBlock("Used from another project", 6).text], { cwd: clone, env: environment, stdio: ["ignore", "pipe", "inherit"] });
    const ended = once(child, "exit");
    let said = "";
    for await (const line of createInterface({ input: child.stdout })) {
      if (said === "") await typed(readmeBlock("Used from another project", 7));
      said += `${line}\n`;
    }
    expect(said).toBe(readmeBlock("Used from another project", 8).text);
    expect(await ended).toStrictEqual([0, null]);
  });

  it.each([
    ["signet/path-validation", /^3\npurpose-not-permitted\n$/],
    ["signet/crl", /^(CRL \d+: \d+ revoked\n){2}true\n$/],
  ])("runs the example of %s", async (entryPoint, says) => {
    const file = `${path.basename(entryPoint)}.mjs`;
    writeFileSync(path.join(project, file), exampleOf(entryPoint));
    expect(await run(process.execPath, [file])).toMatch(says);
  });

  it("has the whole command line, under the machine's own Node too", async () => {
    const { version } = JSON.parse(readFileSync(path.join(installed, "package.json"), "utf8")) as { version: string };
    expect(await shell("npx signet --version")).toBe(`${version}\n`);
    const help = await shell("signet --help");
    for (const command of ["start", "ca", "kms", "agent", "pki", "demo"]) expect(help).toMatch(new RegExp(`^  ${command} `, "m"));
    expect(await shell("signet pki verify --trust api/root.pem --intermediate api/fullchain.pem --crl api/crl.pem --crl-check chain --purpose serverAuth --host localhost api/cert.pem")).toBe("valid\n");
  });

  it("starts nothing where it is imported, changes nothing global but what zod does, and loads no package but zod", async () => {
    const program = `
import { registerHooks } from "node:module";
const packages = new Set();
registerHooks({ load(url, context, next) { packages.add(/node_modules\\/((?:@[^/]+\\/)?[^/]+)(?!.*node_modules)/.exec(url)?.[1] ?? "node"); return next(url, context); } });
const globals = () => [globalThis, Reflect, Object, Array.prototype, Promise].flatMap((each) => Reflect.ownKeys(each).map(String));
const before = globals();
for (const name of ${JSON.stringify(Object.keys(entryPoints))}) await import(name);
console.log(JSON.stringify({ packages: [...packages].filter((name) => name !== "node").sort(), added: globals().filter((name) => !before.includes(name) && !name.startsWith("__zod_")), resources: process.getActiveResourcesInfo().filter((name) => !/^(TTY|Pipe)Wrap$/.test(name)) }));
`;
    writeFileSync(path.join(project, "import.mjs"), program);
    expect(JSON.parse(await run(process.execPath, ["import.mjs"]))).toStrictEqual({ packages: ["signet", "zod"], added: [], resources: [] });
  });

  it("has the API of api.golden.txt, so that a change of it is seen in review: `npm test -- test/package -u` writes it anew", async () => {
    await expect(publicApi(path.join(installed, "dist"), entryPoints)).toMatchFileSnapshot("./api.golden.txt");
  });
});

/** Packs and installs; the reason why not, where npm is missing or the packages can be had neither from its cache nor from a registry. */
async function installPackage(): Promise<string | undefined> {
  if (spawnSync("npm", ["--version"], { shell: onWindows }).error !== undefined) return "there is no npm";
  copyProject(clone);
  if (!onWindows && hasRegistry()) typedInstall = await installAsTyped();
  if (typedInstall !== "done" && !installByLockfile()) {
    rmSync(folder, { recursive: true, force: true });
    return "its dependencies are in no npm cache, and no registry answers";
  }
  // What a project in TypeScript has, and the runtime that was left out.
  for (const name of ["@types/node", "undici-types"]) cpSync(path.join(root, "node_modules", name), path.join(project, "node_modules", name), { recursive: true });
  const runtime = pinnedRuntime();
  if (runtime !== undefined) {
    const directory = path.dirname(path.dirname(runtime));
    symlinkSync(directory, path.join(project, "node_modules", path.basename(directory)), "junction");
  }
  return undefined;
}

/** Without a lockfile, so that npm has to ask the registry. What goes wrong takes one test down, or none: the others go on with what the lockfile installs. */
async function installAsTyped(): Promise<typeof typedInstall> {
  try {
    await typed(install);
    return "done";
  } catch (error) {
    rmSync(project, { recursive: true, force: true });
    return unavailable.test(String((error as { readonly stderr?: unknown }).stderr)) ? "unavailable" : (error as Error);
  }
}

/** False where the packages are not to be had. */
function installByLockfile(): boolean {
  mkdirSync(project);
  const packed = npm(["pack", "--pack-destination", project], clone);
  if (packed.status !== 0) throw new Error(packed.stderr);
  const tarball = readdirSync(project).find((name) => name.endsWith(".tgz")) ?? "";
  writeFileSync(path.join(project, "package.json"), JSON.stringify({ name: "shop", private: true, type: "module", dependencies: { signet: `file:${tarball}` } }));
  writeFileSync(path.join(project, "package-lock.json"), JSON.stringify(lockfileFor(tarball)));
  const { status, stderr } = npm(["ci", "--ignore-scripts"], project);
  if (status !== 0 && !unavailable.test(stderr)) throw new Error(stderr);
  return status === 0;
}

function hasRegistry(): boolean {
  return spawnSync("npm", ["ping", "--fetch-retries=0", "--fetch-timeout=5000"], { stdio: "ignore" }).status === 0;
}

/** The versions that the clone was installed with, and so the tarballs that npm's cache holds. */
function lockfileFor(tarball: string) {
  const { packages } = JSON.parse(readFileSync(path.join(root, "package-lock.json"), "utf8")) as { packages: Record<string, { readonly dev?: boolean; readonly version?: string; readonly bin?: object; readonly dependencies?: object; readonly optionalDependencies?: object }> };
  const { version, bin, dependencies, optionalDependencies } = packages[""] ?? {};
  const others = Object.entries(packages).filter(([at, { dev }]) => at !== "" && dev !== true);
  return {
    name: "shop",
    lockfileVersion: 3,
    requires: true,
    packages: {
      "": { name: "shop", dependencies: { signet: `file:${tarball}` } },
      "node_modules/signet": { version, resolved: `file:${tarball}`, bin, dependencies, optionalDependencies },
      ...Object.fromEntries(others),
    },
  };
}

function npm(args: readonly string[], cwd: string) {
  return spawnSync("npm", [...args, "--loglevel=error"], { cwd, env: environment, encoding: "utf8", shell: onWindows });
}

/** The runnable example in the docstring of an entry point. */
function exampleOf(entryPoint: string): string {
  const source = readFileSync(path.join(root, "package", `${path.basename(entryPoint)}.ts`), "utf8");
  const [, example = ""] = /@example\n([\s\S]*?)\*\//.exec(source) ?? [];
  return example.replaceAll(/^ \* ?/gm, "");
}

/** Types a line into a shell in the project, as a script of its package.json would: `signet` is what npm has linked. Resolves with what it says. */
function shell(line: string): Promise<string> {
  return run(onWindows ? "cmd" : "sh", [onWindows ? "/c" : "-c", line]);
}

function run(command: string, args: readonly string[]): Promise<string> {
  return outputOf(command, args, project, { ...environment, PATH: `${path.join(project, "node_modules", ".bin")}${path.delimiter}${environment["PATH"] ?? ""}` });
}

/** Types a block of the README in the clone, and resolves with what it says. */
function typed({ text }: ReadmeBlock): Promise<string> {
  return outputOf("bash", ["-c", `set -euo pipefail\n${text}`], clone, environment);
}

async function outputOf(command: string, args: readonly string[], cwd: string, env: NodeJS.ProcessEnv): Promise<string> {
  const { stdout } = await promisify(execFile)(command, args, { cwd, env });
  return stdout;
}
