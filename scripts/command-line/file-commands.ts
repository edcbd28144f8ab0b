import { pipeline } from "node:stream/promises";
import { decryptFile, encryptFile, type FileHeader } from "#agents/file-cipher.ts";
import { SignetError } from "#pki/errors.ts";
import { openInput, writeWholeFrom } from "./files.ts";
import { interruptedExitCode, untilInterrupted } from "./interruption.ts";
import { asCaller, contextOf, keyName } from "./kms-commands.ts";
import { collect, errnoOf, usageError, type Definition, type Invocation, type Outcome } from "./program.ts";
import { withKms, type Caller } from "./session.ts";

interface FileOptions extends Caller {
  readonly out?: string;
  readonly context?: readonly string[];
}

/** `signet file`: files of any size, encrypted here under a data key that the KMS wraps. */
export function defineFileCommands(definition: Definition): void {
  const group = definition.group(definition.program, "file", "encrypt and decrypt files of any size; the KMS sees a data key alone");
  const { handle } = definition;

  const encrypt = asCaller(definition.command(group, "encrypt", "encrypt a file under a key of the KMS", "npx signet file encrypt report.pdf --key orders --out report.pdf.sealed"))
    .argument("<file>", "file to encrypt (- for stdin)")
    .requiredOption("--key <name>", "key of the KMS that wraps the file's own key", keyName)
    .option("--out <file>", "file to write (mode 0600), whole or not at all; without it, to a pipe")
    .option("--context <name=value>", "what the file is bound to, readable in it (repeatable)", collect);
  handle(encrypt, (invocation: Invocation, file: string, options: FileOptions & { readonly key: string }) => {
    requireDestination(invocation, options.out);
    return transfer(invocation, file, options, { verb: "Encrypting", done: `sealed under ${options.key}` }, (kms, source) => encryptFile(kms, options.key, source, contextOf(options)));
  });

  const decrypt = asCaller(definition.command(group, "decrypt", "decrypt what `file encrypt` made", "npx signet file decrypt report.pdf.sealed --out report.pdf"))
    .argument("<file>", "file to decrypt (- for stdin)")
    .option("--out <file>", "file to write (mode 0600), whole or not at all; without it, to a pipe")
    .option("--context <name=value>", "what the file has to be bound to (repeatable)", collect)
    .addHelpText("after", "\nTo a pipe go authenticated chunks before the end is known: a file that was cut gives its beginning and then exit code 5. With --out nothing of it is left.");
  handle(decrypt, (invocation: Invocation, file: string, options: FileOptions) => {
    requireDestination(invocation, options.out);
    return transfer(invocation, file, options, { verb: "Decrypting", done: "opened and whole" }, (kms, source) => decryptFile(kms, source, (header) => requireContext(header, options)));
  });
}

/** From a file or stdin to a file or a pipe. An interruption leaves nothing under the name. */
async function transfer(
  invocation: Invocation,
  file: string,
  options: FileOptions,
  words: { readonly verb: string; readonly done: string },
  convert: (kms: Parameters<Parameters<typeof withKms>[2]>[0], source: AsyncIterable<Uint8Array>) => AsyncIterable<Uint8Array>,
): Promise<Outcome> {
  return untilInterrupted(async (signal) => {
    const source = await openInput(file, invocation);
    // A read that waits, on a terminal or a pipe, ends with it.
    signal.addEventListener("abort", () => source.destroy(), { once: true });
    try {
      return await withKms(invocation, options, async (kms) => {
        const content = convert(kms, source);
        if (options.out === undefined) return toPipe(content, invocation, signal);
        const { out } = options;
        const octets = await invocation.progress(`${words.verb} ${file}`, () => writeWholeFrom(out, content, signal));
        const summary = { file: out, octets };
        return { json: summary, text: `${octets} octets to ${out}, ${words.done}.` };
      });
    } catch (error) {
      if (!signal.aborted) throw ofFile(error, file);
      return { exitCode: interruptedExitCode };
    } finally {
      source.destroy();
    }
  });
}

/** What does not open is one of many, perhaps. */
function ofFile(error: unknown, file: string): unknown {
  if (!(error instanceof SignetError) || (error.code !== "ciphertext-malformed" && error.code !== "decryption-failed")) return error;
  return new SignetError(error.code, `${file === "-" ? "standard input" : file}: ${error.message}`, { details: error.details, cause: error });
}

async function toPipe(content: AsyncIterable<Uint8Array>, { terminal: { stdout } }: Invocation, signal: AbortSignal): Promise<Outcome> {
  try {
    await pipeline(content, stdout, { signal, end: false });
  } catch (error) {
    // A reader that has seen enough (`| head -1`) is no error.
    if (errnoOf(error) !== "EPIPE") throw error;
  }
  return {};
}

function requireDestination(invocation: Invocation, out: string | undefined): void {
  if (out !== undefined) return;
  if (invocation.json) throw usageError("with --json the file goes to a file", "Add --out FILE.");
  if (invocation.terminal.stdout.isTTY === true) throw usageError("files are not written to a terminal", "Add --out FILE, or pipe it on.");
}

function requireContext({ context, key }: FileHeader, options: FileOptions): void {
  for (const [name, value] of Object.entries(contextOf(options) ?? {})) {
    if (Object.hasOwn(context, name) && context[name] === value) continue;
    throw new SignetError("decryption-failed", `The file, under the key ${key}, is not bound to ${name}=${value}.`, { details: { next: "See what it is bound to: `head -c 2000 FILE`." } });
  }
}
