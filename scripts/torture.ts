// npm run torture -- SUITE [--trials N] [--seed N] [--json]
import { requireAcceptedRuntime } from "./runtime.mjs";

requireAcceptedRuntime();
const { main } = await import("./torture/main.ts");
process.exitCode = await main(process.argv.slice(2));
