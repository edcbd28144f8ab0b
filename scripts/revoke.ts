// Revokes users or single certificates: `npx tsx scripts/revoke.ts --help` shows how. Node 20 may be what starts it; the rest is loaded once an accepted Node runs.
import { requireAcceptedRuntime } from "./runtime.mjs";

requireAcceptedRuntime();
const { revokeScript } = await import("./command-line/revoke-script.ts");
process.exitCode = await revokeScript(process.argv.slice(2));
