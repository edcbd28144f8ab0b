import path from "node:path";
import { Option } from "commander";
import type { IdentityKind, Role } from "#pki/certificate-profile.ts";
import { keyTypes, type KeyType } from "#pki/keys.ts";
import { requireName } from "./deployment.ts";
import { forEachName, readNames } from "./each-user.ts";
import { issueCredential } from "./issue.ts";
import { parseInteger, processTerminal, runCommandLine, withExample, type Invocation, type Terminal } from "./program.ts";
import { withCa } from "./session.ts";

interface IssueUsersOptions {
  readonly file?: string;
  readonly out: string;
  readonly kind: IdentityKind;
  readonly keyType: KeyType;
  readonly days?: number;
}

/** `scripts/issue.ts`: a key and a certificate for each of a list of users. @returns the exit code */
export async function issueScript(argv: readonly string[], terminal: Terminal = processTerminal): Promise<number> {
  return runCommandLine(
    "scripts/issue.ts",
    ({ program, handle }) => {
      withExample(program, "Makes a key and a client certificate for each of a list of users, each in a directory of its own.", "npx tsx scripts/issue.ts alice bob --out certs/users\nnpx tsx scripts/issue.ts --file users.txt --out certs/users --days 30")
        .argument("[name...]", "names of users")
        .option("--file <file>", "file with one name a line (- for stdin)")
        .requiredOption("--out <directory>", "where each user gets a directory with key.pem, cert.pem, fullchain.pem, root.pem and crl.pem")
        .addOption(new Option("--kind <kind>", "kind of the identities").choices(["agent", "operator"]).default("agent"))
        .addOption(new Option("--key-type <type>", "type of the keys").choices(keyTypes).default("ec-p256"))
        .option("--days <days>", "validity (1 to 398)", parseInteger(1, 398));
      handle(program, async (invocation: Invocation, listed: readonly string[], options: IssueUsersOptions) => {
        const names = (await readNames(invocation, listed, options.file)).map(requireName);
        const role: Role = "client";
        const request = { kind: options.kind, role, dns: [], ip: [], keyType: options.keyType, ...(options.days === undefined ? {} : { validityDays: options.days }) };
        return withCa(invocation, (ca) =>
          forEachName(invocation, "Issuing", names, ["serialNumber", "notAfter", "directory"], async (name) => {
            const directory = path.join(options.out, name);
            const { certificate } = await issueCredential(ca, directory, { ...request, name });
            return { serialNumber: certificate.serialNumber, notAfter: certificate.notAfter.toISOString(), directory };
          }),
        );
      });
    },
    argv,
    terminal,
  );
}
