// `npm start`, which is `signet start`: the CA and the KMS over one data directory, in the foreground. Ctrl-C stops them.
import { requireAcceptedRuntime } from "./runtime.mjs";

requireAcceptedRuntime();
const { signet } = await import("./command-line/signet.ts");
process.exitCode = await signet(["start", ...process.argv.slice(2)]);
