import { Option } from "commander";
import type { IdentityKind } from "#pki/certificate-profile.ts";
import { revocationReasons, type RevocationReason } from "#pki/protocol-ca.ts";
import { revokeTarget } from "./ca-commands.ts";
import { forEachName, readNames } from "./each-user.ts";
import { processTerminal, runCommandLine, withExample, type Invocation, type Terminal } from "./program.ts";
import { withCa } from "./session.ts";

interface RevokeOptions {
  readonly file?: string;
  readonly reason: RevocationReason;
  readonly kind?: IdentityKind;
}

/** `scripts/revoke.ts`: revokes each of a list of users or certificates. @returns the exit code */
export async function revokeScript(argv: readonly string[], terminal: Terminal = processTerminal): Promise<number> {
  return runCommandLine(
    "scripts/revoke.ts",
    ({ program, handle }) => {
      withExample(program, "Revokes users whole, or single certificates by serial number; each is on a published CRL when it says so.", "npx tsx scripts/revoke.ts bob --reason keyCompromise\nnpx tsx scripts/revoke.ts --file leavers.txt --reason cessationOfOperation")
        .argument("[name|serial...]", "names, identity URIs or serial numbers")
        .option("--file <file>", "file with one of them a line (- for stdin)")
        .addOption(new Option("--reason <reason>", "why (RFC 5280 section 5.3.1)").choices(revocationReasons).default("unspecified"))
        .addOption(new Option("--kind <kind>", "kind of the identities, where names alone do not tell").choices(["agent", "operator", "service"]));
      handle(program, async (invocation: Invocation, listed: readonly string[], options: RevokeOptions) => {
        const names = await readNames(invocation, listed, options.file);
        return withCa(invocation, (ca) =>
          forEachName(invocation, "Revoking", names, ["revoked", "crlNumber", "publishedAt"], async (name) => ({ ...(await revokeTarget(ca, name, options)) })),
        );
      });
    },
    argv,
    terminal,
  );
}
