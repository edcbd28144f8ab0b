// The first import of what speaks TLS: on a Node that Signet does not run on, nothing else is loaded.
import { isAcceptedRuntime } from "../scripts/runtime.mjs";

if (!isAcceptedRuntime(process.versions.node)) {
  throw new Error(`This is Node ${process.versions.node}; signet runs on Node ^24.21 or 26.10 and later, because older ones let a TLS client without a certificate through on a resumed connection (nodejs/node#35317). Run the program with \`npx signet node FILE\`.`);
}
