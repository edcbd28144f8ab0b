#!/usr/bin/env node
// What `npx signet` starts: the command line under the pinned Node, which strips the types by itself.
import { fileURLToPath } from "node:url";
import { runInForeground } from "./runtime.mjs";

runInForeground([fileURLToPath(new URL("./signet.ts", import.meta.url)), ...process.argv.slice(2)]);
