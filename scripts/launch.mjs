#!/usr/bin/env node
// What the npm scripts call: runs a script of the project, or one of its tools, under the pinned Node.
//   node scripts/launch.mjs scripts/demo.ts [ARGUMENT...]      a script; this Node strips its types
//   node scripts/launch.mjs vitest|typescript|oxlint [ARGUMENT...]
import { createRequire } from "node:module";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { requireInstalled, runInForeground } from "./runtime.mjs";

const require = createRequire(import.meta.url);
const root = path.dirname(path.dirname(fileURLToPath(import.meta.url)));

/**
 * File that a tool's package names as its executable.
 * @param {string} name
 * @param {string} bin
 */
function toolFile(name, bin) {
  const manifest = require.resolve(`${name}/package.json`);
  const bins = require(manifest).bin;
  return path.join(path.dirname(manifest), typeof bins === "string" ? bins : bins[bin]);
}

requireInstalled();
const [what = "", ...rest] = process.argv.slice(2);
if (what === "vitest" || what === "oxlint") runInForeground([toolFile(what, what), ...rest]);
else if (what === "typescript") runInForeground([toolFile(what, "tsc"), ...rest]);
else runInForeground([path.resolve(root, what), ...rest]);
