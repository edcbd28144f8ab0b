// Certificates for a list of users: `npx tsx scripts/issue.ts --help` shows how. Node 20 may be what starts it; the rest is loaded once an accepted Node runs.
import { requireAcceptedRuntime } from "./runtime.mjs";

requireAcceptedRuntime();
const { issueScript } = await import("./command-line/issue-script.ts");
process.exitCode = await issueScript(process.argv.slice(2));
