import path from "node:path";
import { Option, type Command } from "commander";
import type { Certificate } from "#pki/certificate.ts";
import { SignetError } from "#pki/errors.ts";
import { nssStores } from "../trust/nss-database.ts";
import { systemStore } from "../trust/system-store.ts";
import type { TrustState, TrustStore } from "../trust/trust-store.ts";
import { formatDescription, formatGeneralName, printable } from "./inspect.ts";
import type { Definition, Invocation, Outcome } from "./program.ts";
import { identityDirectory, openIdentity } from "./session.ts";

interface TrustOptions {
  readonly store: "all" | TrustStore["kind"];
  readonly as?: string;
  readonly identity?: string;
}

/** The stores of a machine, of one kind or all. `rootFile` is for what has to be done by hand. */
export type FindStores = (kind: TrustOptions["store"], rootFile: string) => readonly TrustStore[];

const storesOfThisMachine: FindStores = (kind, rootFile) => [...(kind === "nss" ? [] : [systemStore(rootFile)]), ...(kind === "system" ? [] : nssStores())];

/** What the other programs of this machine are told. */
const doneWords = { install: { changed: "installed", already: "was there already" }, uninstall: { changed: "uninstalled", already: "was not there" } } as const;

/** `signet trust`: whether browsers and other programs of this machine believe in the deployment's root. */
export function defineTrustCommands(definition: Definition, findStores: FindStores = storesOfThisMachine): void {
  const { handle } = definition;
  const trust = definition.group(definition.program, "trust", "let the programs of this machine trust the root, or no longer");
  const define = (act: "install" | "uninstall", summary: string) => {
    const command = addTrustOptions(definition.command(trust, act, summary, `sudo npx signet trust ${act} --store system`));
    handle(command, (invocation: Invocation, options: TrustOptions) => change(act, invocation, options, findStores));
  };
  define("install", "put the root into the system's store and into NSS databases (Chromium, Firefox)");
  define("uninstall", "take out what `trust install` put in, and nothing else");

  const status = addTrustOptions(definition.command(trust, "status", "show where the root is trusted", "npx signet trust status"));
  handle(status, async (invocation: Invocation, options: TrustOptions): Promise<Outcome> => {
    const { root, rootFile, meaning } = rootOf(invocation, options);
    const stores = [];
    for (const store of findStores(options.store, rootFile)) stores.push({ kind: store.kind, location: store.location, ...(await store.state(root)) });
    const lines = stores.map(({ kind, location, state, note }) => `${`${kind}:`.padEnd(8)}${location}: ${state}${note === undefined ? "" : ` (${note})`}`);
    return { json: { root: meaning, stores }, text: `${formatDescription(meaning)}\n\n${linesOrNone(lines)}` };
  });
}

async function change(act: "install" | "uninstall", invocation: Invocation, options: TrustOptions, findStores: FindStores): Promise<Outcome> {
  const { root, rootFile, meaning } = rootOf(invocation, options);
  const wanted: readonly TrustState[] = act === "install" ? ["absent", "incomplete"] : ["installed", "incomplete"];
  const steps: { readonly store: TrustStore; readonly did: string; readonly planned: readonly string[] }[] = [];
  for (const store of findStores(options.store, rootFile)) {
    const { state, note } = await store.state(root);
    const obstacle = store.obstacle();
    if (!wanted.includes(state)) steps.push({ store, did: state === "foreign" ? `left alone: ${note}` : doneWords[act].already, planned: [] });
    else if (obstacle === undefined) steps.push({ store, did: doneWords[act].changed, planned: store.plan(act, root) });
    else if (obstacle.next !== "sudo") steps.push({ store, did: `left alone: ${obstacle.reason}. ${obstacle.next}`, planned: [] });
    // Before anything is changed anywhere: half of it would be harder to understand than none.
    else throw new SignetError("file-unusable", `${obstacle.reason}. Nothing was changed.`, { details: { next: `Type \`${asRoot(act, invocation, options)}\`; without root, --store nss does the browsers' databases alone.` } });
  }
  if (!invocation.json) {
    const planned = steps.flatMap((step) => step.planned);
    invocation.terminal.stdout.write(`${act === "install" ? `${formatDescription(meaning)}\n\n` : ""}${planned.length === 0 ? "Nothing to do.\n" : `To do:\n${planned.map((line) => `  ${line}\n`).join("")}`}`);
  }
  for (const { store, planned } of steps) if (planned.length > 0) await store[act](root);
  const stores = steps.map(({ store, did, planned }) => ({ kind: store.kind, location: store.location, did, acts: planned }));
  return { json: { root: meaning, stores }, text: `Done:\n${linesOrNone(stores.map(({ kind, location, did }) => `  ${kind}: ${location}: ${did}`))}` };
}

/** The root, out of an identity that was enrolled under it, and in words what trusting it means. */
function rootOf(invocation: Invocation, options: TrustOptions): { readonly root: Certificate; readonly rootFile: string; readonly meaning: Readonly<Record<string, string>> } {
  const directory = identityDirectory(invocation, options);
  const identity = openIdentity(directory);
  identity.stop();
  const root = identity.trustAnchors[0] as Certificate;
  const permitted = identity.credential("client").chain.flatMap(({ extensions }) => extensions.nameConstraints?.permitted ?? []).filter(({ kind }) => kind === "dns" || kind === "ip");
  const subject = printable(root.subject.toString());
  return {
    root,
    rootFile: path.join(directory, "root.pem"),
    meaning: {
      root: subject,
      "SHA-256": root.fingerprint,
      "not after": root.notAfter.toISOString(),
      means: "programs that use these stores believe what this authority certifies, as they believe the public ones",
      limit: permitted.length === 0 ? "none: the issuing CA's certificate names no constraints" : `the issuing CA's name constraints permit ${permitted.map(formatGeneralName).join(", ")}, and names below those; whoever has the root's own key is not bound by them`,
      ...(subject.includes("DEVELOPMENT") ? { DEVELOPMENT: "this root's key lies on this machine without a passphrase: whoever reads the data directory can pose as any site of those names, or of any" } : {}),
    },
  };
}

/** Root may have another PATH, without the Node that runs this. */
function asRoot(act: string, { data }: Invocation, options: TrustOptions): string {
  const more = [...(data === "data" ? [] : ["--data", quoted(data)]), "trust", act, "--store", "system", ...(options.as === undefined ? [] : ["--as", options.as]), ...(options.identity === undefined ? [] : ["--identity", quoted(options.identity)])];
  return `sudo env "PATH=$PATH" npx signet ${more.join(" ")}`;
}

function quoted(text: string): string {
  return /^[\w./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`;
}

function linesOrNone(lines: readonly string[]): string {
  return lines.length === 0 ? "No such store is here (NSS databases need certutil, and a browser that has been started once)." : lines.join("\n");
}

function addTrustOptions(command: Command): Command {
  return command
    .addOption(new Option("--store <kind>", "which stores").choices(["all", "system", "nss"]).default("all"))
    .option("--as <name>", "take the root from this agent's directory; the operator's where there is none")
    .option("--identity <directory>", "take the root from this enrolled identity");
}
