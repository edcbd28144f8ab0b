// npm run mutations [-- RULE...] [--json]
import { requireAcceptedRuntime } from "./runtime.mjs";

requireAcceptedRuntime();
const { main } = await import("./mutations/main.ts");
process.exitCode = await main(process.argv.slice(2));
