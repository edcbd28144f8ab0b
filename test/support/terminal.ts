import { Readable, Writable } from "node:stream";
import type { Terminal } from "#scripts/command-line/program.ts";

/** A terminal in memory, for commands that run in this process. */
export interface RecordedTerminal extends Terminal {
  readonly out: () => Buffer;
  readonly err: () => string;
}

/** @param input what stdin holds; `isTTY` of stdout, for what commands refuse to write there */
export function recordedTerminal(input: Uint8Array | string = "", options: { readonly stdoutIsTerminal?: boolean } = {}): RecordedTerminal {
  const [out, outputs] = recorder();
  const [err, errors] = recorder();
  return {
    stdin: Readable.from([Buffer.from(input)]),
    stdout: Object.assign(outputs, { isTTY: options.stdoutIsTerminal === true }),
    stderr: errors,
    out,
    err: () => err().toString("utf8"),
  };
}

function recorder(): [() => Buffer, Writable] {
  const parts: Buffer[] = [];
  const stream = new Writable({
    write(part: Buffer, _encoding, done) {
      parts.push(part);
      done();
    },
  });
  return [() => Buffer.concat(parts), stream];
}
