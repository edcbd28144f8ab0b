#!/usr/bin/env node
// What `npx signet` starts: the command line under the pinned Node, which strips the types by itself.
import { fileURLToPath } from "node:url";
import { requireInstalled, runInForeground } from "./runtime.mjs";

requireInstalled();
runInForeground([fileURLToPath(new URL("./signet.ts", import.meta.url)), ...process.argv.slice(2)]);
