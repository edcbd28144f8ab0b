import { readdirSync, readFileSync } from "node:fs";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { expect, test } from "vitest";

const root = path.dirname(path.dirname(fileURLToPath(import.meta.url)));

/** Folders whose modules a folder may import besides its own. The process boundary is the trust boundary. */
const mayImport: Readonly<Record<string, readonly string[]>> = {
  pki: [],
  store: ["pki"],
  ca: ["pki", "store"],
  "kms-server": ["pki", "store"],
  agents: ["pki"],
  // Of scripts/ it is runtime.mjs alone.
  package: ["pki", "agents", "scripts"],
};

function importsOf(file: string): string[] {
  const source = readFileSync(file, "utf8");
  return [...source.matchAll(/(?:from|import)\s*\(?\s*"([#.][^"]+)"/g)].map((match) => match[1] ?? "");
}

function folderOf(file: string, specifier: string): string {
  if (specifier.startsWith("#")) return specifier.slice(1).split("/")[0] ?? "";
  return path.relative(root, path.resolve(path.dirname(file), specifier)).split(path.sep)[0] ?? "";
}

test.each(Object.entries(mayImport))("%s imports no folder but %j", (folder, allowed) => {
  const files = readdirSync(path.join(root, folder), { recursive: true, encoding: "utf8" }).filter((name) => name.endsWith(".ts"));
  expect(files).not.toHaveLength(0);
  const crossings = files.flatMap((name) => {
    const file = path.join(root, folder, name);
    return importsOf(file)
      .map((specifier) => folderOf(file, specifier))
      .filter((target) => target !== folder && !allowed.includes(target))
      .map((target) => `${folder}/${name} -> ${target}`);
  });
  expect(crossings).toEqual([]);
});

test("no page holds what an unfinished merge leaves", () => {
  const pages = readdirSync(root).filter((name) => name.endsWith(".md"));
  expect(pages).toContain("DESIGN.md");
  expect(pages.filter((name) => /^(?:<{7}|={7}|>{7})(?: |$)/m.test(readFileSync(path.join(root, name), "utf8")))).toEqual([]);
});
