import { randomUUID } from "node:crypto";
import path from "node:path";
import type { Readable, Writable } from "node:stream";
import { Command, CommanderError, InvalidArgumentError } from "commander";
import { SignetError, toProblem, type ErrorCode } from "#pki/errors.ts";

/** The three streams of a command. In-process tests hand in their own. */
export interface Terminal {
  readonly stdin: Readable & { readonly isTTY?: boolean };
  readonly stdout: Writable & { readonly isTTY?: boolean };
  readonly stderr: Writable & { readonly isTTY?: boolean; readonly columns?: number };
}

/** What a command leaves on stdout: with --json its one object, else octets as they are, else text; nothing where it has written its output itself. */
export interface Outcome {
  readonly json?: Readonly<Record<string, unknown>>;
  readonly text?: string;
  readonly octets?: Uint8Array;
  /** Exit code where the command did its work and the answer itself is bad news. */
  readonly exitCode?: number;
}

/** What every handler gets beside its arguments. */
export interface Invocation {
  readonly terminal: Terminal;
  /** The data directory as it was named. */
  readonly data: string;
  readonly json: boolean;
  /** Shows what is going on while `work` runs: a spinner on a terminal, nothing in a pipe or with --json. `note` changes its line. */
  progress<T>(line: string, work: (note: (line: string) => void) => Promise<T>): Promise<T>;
}

export type Handler<Arguments extends readonly unknown[]> = (invocation: Invocation, ...parameters: Arguments) => Promise<Outcome>;

/** Adds commands to a program; a handler's return value is all that reaches stdout. */
export interface Definition {
  readonly program: Command;
  /**
   * A command with an example, which every command has to have.
   * @param signature as commander reads it, such as "issue <name>"
   * @param example the command line that its help shows
   */
  command(parent: Command, signature: string, summary: string, example: string): Command;
  /** A command that only holds others. */
  group(parent: Command, name: string, summary: string): Command;
  /** `Options` and arguments come as commander parsed them: arguments first, options last. */
  handle<Arguments extends readonly unknown[]>(command: Command, handler: Handler<Arguments>): void;
}

export const processTerminal: Terminal = process;

/** Data directory where nothing else is said: $SIGNET_DATA names another. */
export const defaultData = "data";

/** How `signet` is typed for a data directory: bare where it is the one that is used where nothing else is said. */
export function signetFor(data: string): string {
  const root = path.resolve(data);
  return root === path.resolve(defaultData) ? "npx signet" : `npx signet --data ${/^[\w./-]+$/.test(root) ? root : JSON.stringify(root)}`;
}

/** A hint whose commands reach the deployment that the hint is about, but for those that name one themselves, or need none. */
export function hintFor(hint: string, data: string): string {
  return hint.replaceAll(/`[^`]*`/g, (commands) => (/ --(?:data|help)\b/.test(commands) ? commands : commands.replaceAll(/npx signet (?!pki |node )/g, () => `${signetFor(data)} `)));
}

/** Runs one command line and returns its exit code; nothing is thrown, and whatever went wrong is one line on stderr. */
export async function runCommandLine(name: string, define: (definition: Definition) => void, argv: readonly string[], terminal: Terminal): Promise<number> {
  const wantsJson = beforeTerminator(argv).includes("--json");
  const program = new Command(name)
    .exitOverride()
    .configureOutput({ writeOut: (text) => void terminal.stdout.write(text), writeErr: (text) => void (wantsJson || terminal.stderr.write(text)), outputError: () => {} })
    .configureHelp({ showGlobalOptions: true, sortSubcommands: false })
    .option("--json", "print one JSON object on stdout, and errors as one problem object (RFC 9457) on stderr")
    .option("--data <directory>", "data directory", process.env["SIGNET_DATA"] ?? defaultData)
    .helpCommand(false)
    .showSuggestionAfterError(true);
  let outcome: Outcome | undefined;
  const definition: Definition = {
    program,
    command: (parent, signature, summary, example) => withExample(parent.command(signature), summary, example),
    group: (parent, group, summary) => parent.command(group).description(summary).helpCommand(false),
    handle<Arguments extends readonly unknown[]>(command: Command, handler: Handler<Arguments>): void {
      command.action(async (...parameters: unknown[]) => {
        const { json = false, data } = program.opts<{ json?: boolean; data: string }>();
        const invocation = { terminal, json, data, progress: progressOn(terminal, json) };
        // Commander passes arguments, options and the command itself, which handlers have no use for.
        outcome = await handler(invocation, ...(parameters.slice(0, -1) as unknown as Arguments));
      });
    },
  };
  define(definition);
  try {
    await program.parseAsync([...argv], { from: "user" });
    if (outcome === undefined) return 0;
    await print(outcome, wantsJson, terminal.stdout);
    return outcome.exitCode ?? 0;
  } catch (error) {
    if (error instanceof CommanderError && error.exitCode === 0) return 0;
    // The help of a group without a subcommand has been written already.
    if (error instanceof CommanderError && error.code === "commander.help" && !wantsJson) return 1;
    const { data } = program.opts<{ data: string }>();
    const refusal = asSignetError(error, () => `See \`${invocationOf(program, argv)} --help\`.`);
    const { next } = refusal.details;
    const told = typeof next === "string" ? new SignetError(refusal.code, refusal.message, { details: { ...refusal.details, next: hintFor(next, data) } }) : refusal;
    if (wantsJson) terminal.stderr.write(`${JSON.stringify(toProblem(told, requestIdOf(refusal)))}\n`);
    else terminal.stderr.write(`${errorLine(refusal, data)}\n`);
    return refusal.exitCode;
  }
}

/** Description and example of a command, in its help. */
export function withExample(command: Command, summary: string, example: string): Command {
  return command.description(summary).addHelpText("after", `\nExample:\n  $ ${example.replaceAll("\n", "\n  $ ")}`);
}

/** A mistake in what was typed. `next` says what to type instead. */
export function usageError(message: string, next?: string): SignetError {
  return new SignetError("usage", message, next === undefined ? {} : { details: { next } });
}

/** A file that cannot be read or written. */
export function fileError(file: string, cause: unknown, next?: string): SignetError {
  const code = errnoOf(cause);
  const what = code === undefined ? String(cause) : (fileTroubles[code] ?? code);
  return new SignetError("file-unusable", `${file}: ${what}.`, { cause, ...(next === undefined ? {} : { details: { next } }) });
}

/** Option and argument parsers: commander names the option that was wrong. */
export function parseInteger(least: number, most: number): (text: string) => number {
  return (text) => {
    const value = /^\d{1,9}$/.test(text) ? Number(text) : Number.NaN;
    if (!(value >= least && value <= most)) throw new InvalidArgumentError(`A whole number from ${least} to ${most} is wanted.`);
    return value;
  };
}

/** For options that may be given several times. */
export function collect(value: string, previous: readonly string[] = []): readonly string[] {
  return [...previous, value];
}

/** `signet: CODE: what happened. What to type next.`, all on one line: a peer's message cannot add lines or move the cursor. */
export function errorLine(error: SignetError, data: string = defaultData): string {
  const { next } = error.details;
  const what = sentence(error.message);
  const general = typeof next === "string" ? next : nextStep[error.code];
  const hint = general === undefined ? undefined : hintFor(general, data);
  return `signet: ${error.code}: ${hint === undefined || what.includes(hint) ? what : `${what} ${sentence(hint)}`}`;
}

/** Whatever was thrown, as the refusal that it is. Only what nobody foresaw becomes `internal`. */
export function asSignetError(error: unknown, usageHint: () => string = () => "Add --help to see how it is used."): SignetError {
  if (error instanceof SignetError) return error;
  if (error instanceof CommanderError) {
    const message = error.message.replace(/^error: /, "").replace(/\n\(Did you mean (.*)\?\)$/, "; did you mean $1?");
    return usageError(error.code === "commander.help" ? "a command is missing" : message, usageHint());
  }
  const code = errnoOf(error);
  if (code !== undefined && error instanceof Error) {
    const file = "path" in error && typeof error.path === "string" ? error.path : undefined;
    if (file !== undefined) return fileError(file, error);
    if (unreachable.has(code)) return new SignetError("remote-unreachable", `No connection: ${code}.`, { cause: error });
  }
  return new SignetError("internal", `Unforeseen: ${error instanceof Error ? `${error.name}: ${error.message}` : String(error)}.`, { cause: error });
}

/** What usually helps, by code; a message that knows better brings its own in `details.next`. */
const nextStep: Partial<Record<ErrorCode, string>> = {
  "remote-unreachable": "Start the services with `npx signet start`.",
  "tls-refused": "Check this machine's clock (`date`), that the address is the service's, and that the certificate is not expired or revoked: `npx signet agent whoami NAME`.",
  "token-invalid": "Tokens work once and not for long: make a new one with `npx signet ca token NAME`.",
  "certificate-revoked": "Enrol again with a new token: `npx signet ca token NAME`.",
  "certificate-expired": "Enrol again with a new token: `npx signet ca token NAME`.",
  "root-fingerprint-mismatch": "Ask the operator for the fingerprint; do not go on without it.",
  "pem-malformed": "Look at it with `openssl asn1parse -in FILE`.",
  "not-ready": "Try again in a moment.",
  "crl-missing": "Start the CA: `npx signet start`.",
  "crl-stale": "Start the CA, which publishes a new one: `npx signet start`. Where it runs, check this machine's clock: `date`.",
  "crl-rollback": "Where the CA was put back from a backup, revoke again what it has forgotten, then type `npx signet ca crl --publish` until its number has passed.",
  "unseal-failed": "Name the right passphrase file. What comes from a backup opens under the passphrase of its time.",
  "clock-rolled-back": "Set this machine's clock right (`date`), and type the same again.",
  "crl-refresh-overdue": "Start the CA: `npx signet start`.",
  "audit-unavailable": "Make room where the KMS keeps its data (`df`), and type the same again.",
  "storage-unavailable": "Make room or mend the permissions where that lies (`df`, `ls -l`), and type the same again.",
  "port-taken": "Stop what uses it, or choose other ports.",
  "data-directory-foreign": "Name another one with --data.",
  "data-directory-corrupt": "Restore it from a backup, or name another one with --data.",
  "data-directory-newer": "Use the newer Signet, or name another one with --data.",
  "data-directory-locked": "Stop it with `npx signet stop`, or name another directory with --data.",
  internal: "This is a defect; please report it.",
};

const fileTroubles: Readonly<Record<string, string>> = {
  ENOENT: "there is no such file or directory",
  EACCES: "permission is denied",
  EPERM: "permission is denied",
  EISDIR: "it is a directory",
  ENOTDIR: "a part of the path is not a directory",
  EEXIST: "it exists already",
  ENOSPC: "the disk is full",
  EROFS: "the file system is read-only",
  EMFILE: "too many files are open",
  ENAMETOOLONG: "the name is too long",
};

const unreachable: ReadonlySet<string> = new Set(["ECONNREFUSED", "ECONNRESET", "ENOTFOUND", "ETIMEDOUT", "EHOSTUNREACH", "ENETUNREACH", "EAI_AGAIN", "EPIPE"]);

export function errnoOf(error: unknown): string | undefined {
  return error instanceof Error && "code" in error && typeof error.code === "string" ? error.code : undefined;
}

async function print(outcome: Outcome, json: boolean, stdout: Writable): Promise<void> {
  const body = json ? (outcome.json === undefined ? "" : `${JSON.stringify(outcome.json)}\n`) : (outcome.octets ?? (outcome.text === undefined ? "" : `${outcome.text.trimEnd()}\n`));
  if (body.length === 0) return;
  await new Promise<void>((resolve, reject) => {
    // A reader that has seen enough (`| head -1`) is no error.
    stdout.once("error", (error) => (errnoOf(error) === "EPIPE" ? resolve() : reject(error)));
    stdout.write(body, (error) => {
      if (error === null || error === undefined) resolve();
    });
  });
}

function progressOn(terminal: Terminal, json: boolean): Invocation["progress"] {
  return async (line, work) => {
    // A terminal that tells no width (a pseudo-terminal without a window) cannot be drawn on: ora would clear lines without end.
    if (json || terminal.stderr.isTTY !== true || !((terminal.stderr.columns ?? 0) > 0)) return work(() => {});
    const { default: ora } = await import("ora");
    const spinner = ora({ text: line, stream: terminal.stderr as NodeJS.WriteStream, discardStdin: false }).start();
    try {
      return await work((text) => void (spinner.text = text));
    } finally {
      spinner.stop();
    }
  };
}

function sentence(text: string): string {
  const line = text.replaceAll(/[\p{Cc}\p{Cf}\u2028\u2029]+/gu, " ").replaceAll(/ {2,}/g, " ").trim();
  return /[.!?`]$/.test(line) ? line : `${line}.`;
}

/** The deepest command that the words of a command line name: the one whose help helps. */
function invocationOf(program: Command, argv: readonly string[]): string {
  let command = program;
  const names = [program.name() === "signet" ? "npx signet" : `npx tsx ${program.name()}`];
  for (const word of beforeTerminator(argv)) {
    const next = command.commands.find((candidate) => candidate.name() === word);
    if (next === undefined) continue;
    command = next;
    names.push(word);
  }
  return names.join(" ");
}

function beforeTerminator(argv: readonly string[]): readonly string[] {
  const end = argv.indexOf("--");
  return end === -1 ? argv : argv.slice(0, end);
}

function requestIdOf(error: SignetError): string {
  const { requestId } = error.details;
  return typeof requestId === "string" ? requestId : randomUUID();
}
