// `npm pack` runs this first (prepack): compiles the package into dist/, from nothing. Whatever fails ends it with 1, and there is no tarball.
//
// Nothing is rewritten but relative imports, which tsc does by itself. Imports by `#pki/...ts` stay as they are: Node and TypeScript resolve them by
// the nearest package.json, and the one that is written into dist/ leads the same names to the compiled files.
import { spawnSync } from "node:child_process";
import { cpSync, existsSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import path from "node:path";
import { fileURLToPath } from "node:url";

const root = path.dirname(path.dirname(fileURLToPath(import.meta.url)));
const dist = path.join(root, "dist");
const isModule = (name: string): boolean => /\.(m?js|m?ts)$/.test(name);

rmSync(dist, { recursive: true, force: true });
const compiler = spawnSync(process.execPath, [path.join(root, "scripts/launch.mjs"), "typescript", "--project", path.join(root, "tsconfig.build.json")], { cwd: root, stdio: ["ignore", 2, 2] });
if (compiler.status !== 0) fail("The package does not compile.");

const { version, imports, files } = JSON.parse(readFileSync(path.join(root, "package.json"), "utf8")) as { version: string; imports: Record<string, string>; files: readonly string[] };

// What lies beside the modules and is read by them: SQL, style sheets. Not what the package has under its own name.
for (const folder of folders(dist)) {
  for (const entry of readdirSync(path.join(root, folder), { withFileTypes: true })) {
    if (files.includes(path.join(folder, entry.name).replaceAll(path.sep, "/"))) continue;
    if (entry.isFile() ? !isModule(entry.name) : !existsSync(path.join(dist, folder, entry.name)) && !holdsModules(path.join(root, folder, entry.name))) {
      cpSync(path.join(root, folder, entry.name), path.join(dist, folder, entry.name), { recursive: true });
    }
  }
}

// A file that is started by its path has to be named by an import of package.json, since its ending is another in the package.
for (const file of readdirSync(dist, { recursive: true, encoding: "utf8" }).filter((name) => name.endsWith(".js"))) {
  if (/new URL\([^)]*\.ts["`]/.test(readFileSync(path.join(dist, file), "utf8"))) fail(`${file} names a source file by its path; projectFile("folder/name.ts") finds it in both places.`);
}

const compiled = Object.entries(imports).filter(([name]) => existsSync(path.join(dist, name.slice(1).split("/")[0] ?? "")));
const manifest = { version, type: "module", imports: Object.fromEntries(compiled.map(([name, file]) => [name, file.replace(/\.ts$/, ".js")])) };
writeFileSync(path.join(dist, "package.json"), `${JSON.stringify(manifest, undefined, 2)}\n`);

/** Folders below a directory, as paths from it. */
function folders(directory: string): string[] {
  return readdirSync(directory, { recursive: true, withFileTypes: true }).filter((entry) => entry.isDirectory()).map((entry) => path.relative(directory, path.join(entry.parentPath, entry.name)));
}

function holdsModules(folder: string): boolean {
  return readdirSync(folder, { recursive: true, encoding: "utf8" }).some(isModule);
}

function fail(reason: string): never {
  rmSync(dist, { recursive: true, force: true });
  process.stderr.write(`signet: ${reason}\n`);
  process.exit(1);
}
