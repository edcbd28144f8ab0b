// npm run demo [-- --directory DIR] [--only P01,R06] [--keep]
import { requireAcceptedRuntime } from "./runtime.mjs";

requireAcceptedRuntime();
const { demo } = await import("./demo/main.ts");
process.exitCode = await demo(process.argv.slice(2));
