import { processTerminal, runCommandLine, withExample, type Terminal } from "./program.ts";
import { addCaOptions, addKmsOptions, serveBoth } from "./serve.ts";

/** `npm start`. @returns the exit code, when the services have ended */
export async function startScript(argv: readonly string[], terminal: Terminal = processTerminal): Promise<number> {
  return runCommandLine(
    "scripts/start.ts",
    ({ program, handle }) => {
      withExample(program, "Runs the CA and the KMS; on an empty data directory it makes them first.", "npm start\nnpm start -- --data /var/lib/signet --trust-domain example.internal");
      addKmsOptions(addCaOptions(program));
      handle(program, serveBoth);
    },
    argv,
    terminal,
  );
}
