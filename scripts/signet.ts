// The command line `signet`. Node 20 may be what starts it, so the program itself is loaded only once an accepted Node runs.
import module from "node:module";
import { requireAcceptedRuntime } from "./runtime.mjs";

requireAcceptedRuntime();
// A command is over in a moment, most of which is compiling: that is kept for the next one.
module.enableCompileCache();
const { signet } = await import("./command-line/signet.ts");
process.exitCode = await signet(process.argv.slice(2));
