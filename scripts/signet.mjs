#!/usr/bin/env node
// What `npx signet` starts: the command line under the pinned Node. In a clone that is the source, whose types Node strips by itself; it strips
// none below node_modules, so that the package brings compiled JavaScript in its place.
import { existsSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { requireInstalled, runInForeground } from "./runtime.mjs";

requireInstalled();
const argv = process.argv.slice(2);
const source = new URL("./signet.ts", import.meta.url);
const program = existsSync(source) ? source : new URL("../dist/scripts/signet.js", import.meta.url);
// `signet node FILE`: a program of the user's own, on a machine whose own Node is too old for it.
runInForeground(argv[0] === "node" ? argv.slice(1) : [fileURLToPath(program), ...argv]);
