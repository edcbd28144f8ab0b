// `npm start`: the CA and the KMS over one data directory, in the foreground. Ctrl-C stops them.
import { requireAcceptedRuntime } from "./runtime.mjs";

requireAcceptedRuntime();
const { startScript } = await import("./command-line/start-script.ts");
process.exitCode = await startScript(process.argv.slice(2));
