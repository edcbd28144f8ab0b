import { readFileSync } from "node:fs";
import { z } from "zod";
import { defineCaCommands } from "./ca-commands.ts";
import { defineAgentCommands } from "./agent-commands.ts";
import { defineFileCommands } from "./file-commands.ts";
import { defineKmsCommands } from "./kms-commands.ts";
import { definePkiCommands } from "./pki-commands.ts";
import { processTerminal, runCommandLine, type Definition, type Terminal } from "./program.ts";
import { serveBoth, serveStatusPageAlone } from "./serve.ts";
import { addCaOptions, addKmsOptions, addModeOption, addStatusPageOptions } from "./service-options.ts";
import { runScript } from "./services.ts";
import { defineStatusCommand } from "./status-command.ts";
import { defineStopCommand } from "./stop-command.ts";
import { defineTrustCommands } from "./trust-commands.ts";

const { version } = z.object({ version: z.string() }).parse(JSON.parse(readFileSync(new URL("../../package.json", import.meta.url), "utf8")));

/** Every command of `signet`. */
export function defineSignet(definition: Definition): void {
  const { program } = definition;
  program
    .description("A private certificate authority and key-management service over mutual TLS.")
    .version(version)
    .addHelpText("after", "\n`npx signet node FILE [ARGUMENT...]` runs a program of yours under the Node that Signet brings.\n\nExit codes: 0 done, 1 usage or local, 2 remote or TLS, 3 not found, 4 denied, 5 verification failed or revoked.\n\nExample:\n  $ npx signet start\n  $ npx signet ca token alice | npx signet agent enroll alice --token-file -");
  const start = definition.command(
    program,
    "start",
    "run the CA and the KMS in the foreground; on an empty data directory, make them first",
    "npx signet start\nnpx signet start --ephemeral\nnpx signet start --data /var/lib/signet --production --ca-passphrase-file ca.pass --kms-passphrase-file kms.pass",
  );
  addStatusPageOptions(addKmsOptions(addCaOptions(addModeOption(start)))).option("--ephemeral", "keep everything in memory (Linux, /dev/shm or the parent of --data): it is gone when this ends. Memory may be swapped out: where that matters, swap has to be off or encrypted");
  definition.handle(start, serveBoth);
  defineStatusCommand(definition);
  defineStopCommand(definition);
  const page = definition.command(program, "status-page", "serve the status page alone, in the foreground, where `start` does not run", "npx signet status-page\nnpx signet status-page --data /var/lib/signet-ca --kms https://localhost:7443");
  definition.handle(addStatusPageOptions(page).option("--kms <url>", "base URL of the KMS (default: the one of the data directory)"), serveStatusPageAlone);
  defineCaCommands(definition);
  defineKmsCommands(definition);
  defineFileCommands(definition);
  defineAgentCommands(definition);
  definePkiCommands(definition);
  defineTrustCommands(definition);
  const demo = definition.command(program, "demo [argument...]", "run the demo: the parties, the revocation, the attacks", "npx signet demo");
  demo.allowUnknownOption().addHelpText("after", "\nOptions: --directory DIR, --only P01,R06, --keep; `npx signet demo -- --help` says more.");
  definition.handle(demo, async (_invocation, args: readonly string[]) => ({ exitCode: await runScript("scripts/demo.ts", args) }));
}

/** Runs `signet` with these arguments and returns its exit code. */
export async function signet(argv: readonly string[], terminal: Terminal = processTerminal): Promise<number> {
  return runCommandLine("signet", defineSignet, argv, terminal);
}
