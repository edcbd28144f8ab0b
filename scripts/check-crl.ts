// Tells whether a certificate is revoked: `npx tsx scripts/check-crl.ts --help` shows how. Node 20 may be what starts it; the rest is loaded once an accepted Node runs.
import { requireAcceptedRuntime } from "./runtime.mjs";

requireAcceptedRuntime();
const { checkCrlScript } = await import("./command-line/check-crl-script.ts");
process.exitCode = await checkCrlScript(process.argv.slice(2));
