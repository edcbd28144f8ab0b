import { SignetError } from "#pki/errors.ts";
import { readInput } from "./files.ts";
import { formatTable } from "./inspect.ts";
import { asSignetError, errorLine, usageError, type Invocation, type Outcome } from "./program.ts";

interface Done {
  readonly name: string;
  readonly result: Readonly<Record<string, unknown>>;
}

interface Failed {
  readonly name: string;
  readonly code: string;
  readonly detail: string;
}

/** Names from the arguments, and from a file with one a line, where `#` begins a comment. @throws SignetError usage where there are none, or one twice */
export async function readNames(invocation: Invocation, names: readonly string[], file: string | undefined): Promise<readonly string[]> {
  const lines = file === undefined ? [] : Buffer.from(await readInput(file, invocation)).toString("utf8").split(/\r?\n/);
  const all = [...names, ...lines.map((line) => line.replace(/#.*/, "").trim()).filter((line) => line !== "")];
  if (all.length === 0) throw usageError("there are no names", "Give them as arguments, or in a file with --file.");
  const twice = all.find((name, index) => all.indexOf(name) !== index);
  if (twice !== undefined) throw usageError(`${twice} is named twice`);
  return all;
}

/**
 * Does one thing for each name. What fails for one does not stop the others, and is a line on stderr; where the service cannot be
 * reached, the rest is not tried. The exit code is that of the first failure.
 * @param verb for the progress line, such as "Issuing"
 * @param columns fields of the results that the table shows
 */
export async function forEachName(invocation: Invocation, verb: string, names: readonly string[], columns: readonly string[], work: (name: string) => Promise<Readonly<Record<string, unknown>>>): Promise<Outcome> {
  const done: Done[] = [];
  const failed: Failed[] = [];
  let exitCode = 0;
  let unreachable = false;
  await invocation.progress(verb, async (note) => {
    for (const [index, name] of names.entries()) {
      note(`${verb} ${name} (${index + 1} of ${names.length})`);
      if (unreachable) {
        failed.push({ name, code: "remote-unreachable", detail: "not tried" });
        continue;
      }
      try {
        done.push({ name, result: await work(name) });
      } catch (error) {
        const refusal = asSignetError(error);
        failed.push({ name, code: refusal.code, detail: refusal.message });
        exitCode ||= refusal.exitCode;
        unreachable = refusal.code === "remote-unreachable";
        if (!invocation.json) invocation.terminal.stderr.write(`${errorLine(new SignetError(refusal.code, `${name}: ${refusal.message}`, { details: refusal.details }), invocation.data)}\n`);
      }
    }
  });
  const rows = [...done.map(({ name, result }) => [name, "done", ...columns.map((column) => String(result[column]))]), ...failed.map(({ name, code, detail }) => [name, detail === "not tried" ? detail : code])];
  return {
    json: { done: done.map(({ name, result }) => ({ name, ...result })), failed },
    text: `${formatTable(["name", "result", ...columns], rows)}\n\n${done.length} done, ${failed.length} failed.`,
    exitCode,
  };
}
