import type { Command } from "commander";
import { readPassphrase } from "#pki/passphrase.ts";
import { changePassphrase, isUnsealKeySealed } from "#pki/unseal.ts";
import { DataDirectory } from "#store/data-directory.ts";
import { layoutOf } from "./deployment.ts";
import { usageError, type Definition, type Invocation, type Outcome } from "./program.ts";
import { anyVersion, type ServiceName } from "./service-options.ts";

interface PassphraseFiles {
  readonly oldPassphraseFile: string;
  readonly newPassphraseFile: string;
}

/** `signet ca change-passphrase` and `signet kms change-passphrase`. */
export function defineChangePassphrase(definition: Definition, parent: Command, service: ServiceName): void {
  const command = definition
    .command(parent, "change-passphrase", "seal the unseal key under another passphrase, while the service is stopped", `npx signet ${service} change-passphrase --old-passphrase-file old.pass --new-passphrase-file new.pass`)
    .requiredOption("--old-passphrase-file <file>", "file of mode 0600 with the passphrase as it is")
    .requiredOption("--new-passphrase-file <file>", "file of mode 0600 with the passphrase as it shall be");
  definition.handle(command, async (invocation: Invocation, { oldPassphraseFile, newPassphraseFile }: PassphraseFiles): Promise<Outcome> => {
    const layout = layoutOf(invocation.data);
    const file = layout.unsealKey(service);
    // Held, so that no service starts meanwhile.
    const held = DataDirectory.open(layout[service], anyVersion(service));
    try {
      if (isUnsealKeySealed(file) === false) throw usageError(`${layout.root} is a development deployment, which has no passphrase`, "Make one for production in another directory: `npx signet start --production --data DIRECTORY`.");
      const old = await readPassphrase({ file: oldPassphraseFile, option: "--old-passphrase-file", credential: "" });
      const next = await readPassphrase({ file: newPassphraseFile, option: "--new-passphrase-file", credential: "" });
      await changePassphrase(file, old, next);
    } finally {
      held.close();
    }
    return { json: { service, unsealKey: file, changed: true }, text: `${file} opens under the new passphrase alone. Copies of it in backups still open under the old one.` };
  });
}
