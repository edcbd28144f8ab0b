// npm run bench -- AREA [--json] [--rounds N]
import { requireAcceptedRuntime } from "./runtime.mjs";

requireAcceptedRuntime();
const { main } = await import("./bench/main.ts");
process.exitCode = await main(process.argv.slice(2));
