import { InvalidArgumentError, Option, type Command } from "commander";
import { openKeyEnvelope } from "#agents/key-envelope.ts";
import type { GroupKey } from "#agents/kms-client.ts";
import { identityUri } from "#pki/certificate-profile.ts";
import { keyAlgorithms, keyNamePattern, keyRevocationReasons, type EncryptionContext, type KeyAlgorithm, type KeyDescription, type KeyRevocationReason } from "#pki/protocol-kms.ts";
import { readInput, readSecret, writeWhole } from "./files.ts";
import { formatDescription, formatTable } from "./inspect.ts";
import { collect, parseInteger, usageError, type Definition, type Invocation, type Outcome } from "./program.ts";
import { defineChangePassphrase } from "./passphrase-command.ts";
import { serveKms } from "./serve.ts";
import { addKmsOptions, addLogOption, addModeOption, type KmsOptions } from "./service-options.ts";
import { allKeys, withKms, type Caller } from "./session.ts";

interface NewKeyOptions extends Caller {
  readonly reader?: readonly string[];
  readonly algorithm?: readonly KeyAlgorithm[];
}

interface CipherOptions extends Caller {
  readonly in: string;
  readonly out?: string;
  readonly context?: readonly string[];
}

/** `signet kms`: the service itself, and what agents and operators do with keys over mutual TLS. */
export function defineKmsCommands(definition: Definition): void {
  const kms = definition.group(definition.program, "kms", "the key-management service");
  const { handle } = definition;

  const serve = addLogOption(addModeOption(addKmsOptions(definition.command(kms, "serve", "run the KMS in the foreground, made first where there is none; Ctrl-C stops it", "npx signet kms serve --data data"))))
    .option("--ca <url>", "enrolment listener of a CA elsewhere, for the first start")
    .option("--root-fingerprint <hex>", "SHA-256 of that CA's root certificate, with --ca")
    .option("--token-file <file>", "file with a token for kind service, name kms, with --ca (- for stdin)");
  handle(serve, async (invocation: Invocation, options: KmsOptions & { readonly ca?: string; readonly rootFingerprint?: string; readonly tokenFile?: string }): Promise<Outcome> => {
    const { ca, rootFingerprint, tokenFile } = options;
    if (ca === undefined) return serveKms(invocation, options);
    if (rootFingerprint === undefined || tokenFile === undefined) throw usageError("--ca, --root-fingerprint and --token-file go together", "Get all three from `npx signet ca token kms --kind service --json`.");
    const token = await readSecret(tokenFile, "token", invocation);
    return serveKms(invocation, { ...options, enrolment: { caUrl: ca, rootFingerprint, token } });
  });

  defineChangePassphrase(definition, kms, "kms");

  const status = asCaller(definition.command(kms, "status", "whether the KMS serves, and the CRLs it enforces", "npx signet kms status"), "the operator");
  handle(status, (invocation: Invocation, caller: Caller) =>
    withKms(invocation, caller, async (client) => {
      const answer = await client.status();
      const crls = answer.crls.map((crl) => [crl.crlNumber, crl.thisUpdate, crl.nextUpdate, String(crl.entries)]);
      return { json: answer, text: `The KMS serves${answer.keys === undefined ? "" : `; it holds ${answer.keys} keys`}.\n\n${formatTable(["crl number", "this update", "next update", "entries"], crls)}` };
    }, "operator"),
  );

  const key = definition.group(kms, "key", "AES-256 keys");
  const keyCommand = (verb: string, summary: string, example: string): Command => definition.command(key, verb, summary, example).argument("<name>", "name of the key", keyName);
  const create = asCaller(newKeyOptions(keyCommand("create", "make a key, which its creator owns", "npx signet kms key create orders\nnpx signet kms key create team --as alice --reader bob --reader carol")));
  handle(create, (invocation: Invocation, name: string, options: NewKeyOptions) => withKms(invocation, options, async (client, identity) => described(await client.createKey(name, newKey(options, identity.identity.trustDomain)))));

  const bringIn = asCaller(newKeyOptions(keyCommand("import", "bring in 32 octets of existing material", "head -c 32 /dev/urandom > team.key\nnpx signet kms key import team --as alice --in team.key"))).requiredOption("--in <file>", "file with the 32 octets (- for stdin)");
  handle(bringIn, async (invocation: Invocation, name: string, options: NewKeyOptions & { readonly in: string }) => {
    const material = await readInput(options.in, invocation);
    if (material.length !== 32) throw usageError(`${options.in} holds ${material.length} octets, not the 32 of an AES-256 key`);
    return withKms(invocation, options, async (client, identity) => described(await client.importKey(name, material, newKey(options, identity.identity.trustDomain))));
  });

  const list = asCaller(definition.command(key, "list", "list the keys that the caller may see", "npx signet kms key list --as alice"));
  handle(list, (invocation: Invocation, caller: Caller) =>
    withKms(invocation, caller, async (client) => {
      const keys = await allKeys(client);
      return { json: { keys }, text: formatTable(["name", "version", "state", "owner", "readers"], keys.map((each) => [each.name, String(each.latest.version), each.latest.state, each.owner, each.distribution.readers.join(" ") || "-"])) };
    }),
  );

  const show = asCaller(keyCommand("show", "show a key and its versions, never its material", "npx signet kms key show team --as alice"));
  handle(show, (invocation: Invocation, name: string, caller: Caller) =>
    withKms(invocation, caller, async (client) => {
      const description = await client.describeKey(name);
      const { versions } = await client.listVersions(name);
      const rows = versions.map((each) => [String(each.version), each.state, each.origin, each.createdAt, String(each.uses)]);
      return { json: { ...description, versions }, text: `${keyText(description)}\n\n${formatTable(["version", "state", "origin", "created", "uses"], rows)}` };
    }),
  );

  const get = asCaller(keyCommand("get", "fetch the 32 octets of a key: to a file, or to a pipe", "npx signet kms key get team --as alice --out team.key"))
    .option("--version <number>", "version to fetch (default: the latest)", parseInteger(1, 999_999_999))
    .option("--out <file>", "file for the octets (mode 0600)");
  handle(get, async (invocation: Invocation, name: string, options: Caller & { readonly version?: number; readonly out?: string }) => {
    requireNoTerminal(invocation, options.out, name, `npx signet kms key get ${name}${options.as === undefined ? "" : ` --as ${options.as}`}`);
    return withKms(invocation, options, async (client) => material(await client.material(name, options.version), options.out));
  });

  const unseal = asCaller(keyCommand("open", "open an envelope that the KMS has made for this agent", "npx signet kms key open orders --in orders.jwe --out orders.key"))
    .requiredOption("--in <file>", "the envelope, as `Accept: application/jose` brings it (- for stdin)")
    .option("--out <file>", "file for the octets (mode 0600)")
    .addHelpText("after", "\nThe signature has to be by the KMS, whose certificate is checked up to its root and against the CRLs; an envelope for another, or one that is five minutes old, is refused.");
  handle(unseal, async (invocation: Invocation, name: string, options: Caller & { readonly in: string; readonly out?: string }) => {
    requireNoTerminal(invocation, options.out, name, `npx signet kms key open ${name} --in ${options.in}`);
    const envelope = await readInput(options.in, invocation);
    return withKms(invocation, options, async (_client, identity) => material(openKeyEnvelope(Buffer.from(Buffer.from(envelope).toString("latin1").trim(), "latin1"), identity, { name }), options.out));
  });

  const rotate = asCaller(keyCommand("rotate", "make the next version; older ones only open", "npx signet kms key rotate team --as alice"));
  handle(rotate, (invocation: Invocation, name: string, caller: Caller) => withKms(invocation, caller, async (client) => described(await client.rotateKey(name))));

  const revoke = asCaller(keyCommand("revoke", "revoke a key: nothing is sealed or opened under it again", "npx signet kms key revoke team --as alice --reason keyCompromise")).addOption(
    new Option("--reason <reason>", "why").choices(keyRevocationReasons).default("unspecified"),
  );
  handle(revoke, (invocation: Invocation, name: string, options: Caller & { readonly reason: KeyRevocationReason }) =>
    withKms(invocation, options, async (client) => {
      await client.revokeKey(name, options.reason);
      return { json: { key: name, revoked: true }, text: `No key named ${name} that you may revoke is usable now.` };
    }),
  );

  const destroy = asCaller(keyCommand("destroy", "destroy a compromised key at once and for good", "npx signet kms key destroy team --as alice --confirm team")).requiredOption("--confirm <name>", "the key's name once more: there is no way back");
  handle(destroy, (invocation: Invocation, name: string, options: Caller & { readonly confirm: string }) => {
    if (options.confirm !== name) throw usageError(`--confirm ${options.confirm} is not the key's name`, `Type --confirm ${name} if that is what you mean.`);
    return withKms(invocation, options, async (client) => {
      const destroyed = await client.destroyKey(name);
      return { json: { key: name, destroyed }, text: `Destroyed: ${name}, version ${destroyed.join(", ")}.` };
    });
  });

  const encrypt = cipherOptions(keyCommand("encrypt", "encrypt at the KMS with AES-256-GCM", "echo hello | npx signet kms key encrypt team --as alice --out hello.sealed"));
  handle(encrypt, async (invocation: Invocation, name: string, options: CipherOptions) => {
    if (options.out === undefined && !invocation.json && invocation.terminal.stdout.isTTY === true) throw usageError("a ciphertext is octets, which are not written to a terminal", "Add --out FILE or --json, or pipe it on.");
    const plaintext = await readInput(options.in, invocation);
    return withKms(invocation, options, async (client) => {
      const { ciphertext, version } = await client.encrypt(name, plaintext, contextOf(options));
      return written({ key: name, version, ciphertext: Buffer.from(ciphertext).toString("base64") }, "ciphertext", ciphertext, options.out);
    });
  });

  const decrypt = cipherOptions(keyCommand("decrypt", "decrypt what encrypt made, with the same context", "npx signet kms key decrypt team --as alice --in hello.sealed"));
  handle(decrypt, async (invocation: Invocation, name: string, options: CipherOptions) => {
    const ciphertext = await readInput(options.in, invocation);
    return withKms(invocation, options, async (client) => {
      const { plaintext, version } = await client.decrypt(name, ciphertext, contextOf(options));
      if (options.out === undefined && !invocation.json && invocation.terminal.stdout.isTTY === true && !isPlainText(plaintext)) throw usageError("the plaintext is not text, and not written to a terminal", "Add --out FILE or --json, or pipe it on.");
      return written({ key: name, version, plaintext: Buffer.from(plaintext).toString("base64") }, "plaintext", plaintext, options.out);
    });
  });
}

/** Octets of a key go to a file or a pipe. `command` is what was typed, without its --out. */
function requireNoTerminal(invocation: Invocation, out: string | undefined, name: string, command: string): void {
  if (out !== undefined || (!invocation.json && invocation.terminal.stdout.isTTY !== true)) return;
  const toFile = `Write them to a file that only you can read: \`${command} --out ${name}.key\``;
  if (invocation.json) throw usageError(`the 32 octets of ${name} are not written into JSON`, toFile);
  throw usageError(`the 32 octets of ${name} are not written to a terminal, where they would stay in its history`, `${toFile}, or pipe them on: \`${command} | wc -c\`.`);
}

export function keyName(text: string): string {
  if (!keyNamePattern.test(text)) throw new InvalidArgumentError("Names are 1 to 63 of a-z, 0-9, '.', '_' and -, and begin with a letter or digit.");
  return text;
}

/** Options that say as whom a command speaks, and to which KMS. */
export function asCaller(command: Command, otherwise = "the one in signet.json, such as a development deployment's `developer`; else the operator"): Command {
  return command
    .option("--as <name>", `agent of the data directory to do it as (default: ${otherwise})`)
    .option("--identity <directory>", "directory of the enrolled identity to do it as")
    .option("--kms <url>", "base URL of the KMS (default: the one of the data directory)");
}

function newKeyOptions(command: Command): Command {
  return command
    .option("--reader <name>", "agent, by name or identity URI, that gets the key too (repeatable)", collect)
    .addOption(new Option("--algorithm <algorithm...>", "what the key may be used for (default: AES-256-GCM)").choices(keyAlgorithms));
}

function cipherOptions(command: Command): Command {
  return asCaller(command)
    .option("--in <file>", "file to read (- for stdin)", "-")
    .option("--out <file>", "file to write (mode 0600)")
    .option("--context <name=value>", "encryption context that the ciphertext is bound to (repeatable)", collect);
}

function newKey({ reader, algorithm }: NewKeyOptions, trustDomain: string) {
  return {
    ...(reader === undefined ? {} : { readers: reader.map((each) => (each.includes(":") ? each : identityUri(trustDomain, "agent", each))) }),
    ...(algorithm === undefined ? {} : { algorithms: algorithm }),
  };
}

export function contextOf({ context = [] }: Pick<CipherOptions, "context">): EncryptionContext | undefined {
  if (context.length === 0) return undefined;
  return Object.fromEntries(
    context.map((entry) => {
      const [, name, value] = /^([^=]+)=(.*)$/s.exec(entry) ?? [];
      if (name === undefined || value === undefined) throw usageError(`--context ${entry} is not of the form NAME=VALUE`);
      return [name, value];
    }),
  );
}

function described(description: KeyDescription): Outcome {
  return { json: description, text: keyText(description) };
}

function keyText({ name, id, algorithms, owner, distribution, createdAt, latest }: KeyDescription): string {
  return formatDescription({ name, id, algorithms, owner, readers: distribution.readers, created: createdAt, version: latest.version, state: latest.state });
}

function material(key: GroupKey, out: string | undefined): Outcome {
  const octets = key.secret.reveal("local-use");
  if (out === undefined) return { octets };
  writeWhole(out, octets, 0o600);
  const summary = { key: key.name, id: key.id, version: key.version, file: out };
  return { json: summary, text: formatDescription(summary) };
}

function written(json: Readonly<Record<string, unknown>>, what: "ciphertext" | "plaintext", octets: Uint8Array, out: string | undefined): Outcome {
  if (out === undefined) return { json, octets };
  writeWhole(out, octets, 0o600);
  const { [what]: _written, ...rest } = json;
  return { json: { ...rest, file: out }, text: `${octets.length} octets to ${out}` };
}

function isPlainText(octets: Uint8Array): boolean {
  try {
    return !/[^\P{Cc}\n\r\t]/u.test(new TextDecoder("utf-8", { fatal: true }).decode(octets));
  } catch {
    return false;
  }
}
