// `signet pki verify`: one certificate by options, or a stream of requests with --jsonl. Exit 0 accept, 1 reject, 2 unusable input, 3 not supported.
import { readFile } from "node:fs/promises";
import type { Readable, Writable } from "node:stream";
import { parseArgs } from "node:util";
import { pathToFileURL } from "node:url";
import { SignetError } from "#pki/errors.ts";
import { parseIpAddress } from "#pki/name.ts";
import { pemDecodeLabel } from "#pki/pem.ts";
import { answerLine, policyOid, requestPurpose, requestTime, unreadable } from "#pki/verification-contract.ts";
import { verify } from "#pki/verification.ts";
import type { ExpectedName, VerificationRequest } from "#pki/verification.ts";

const exit = { accept: 0, reject: 1, unusable: 2, unsupported: 3 } as const;

const options = {
  "jsonl": { type: "boolean" },
  "trust": { type: "string", multiple: true },
  "intermediate": { type: "string", multiple: true },
  "crl": { type: "string", multiple: true },
  "crl-check": { type: "string" },
  "time": { type: "string" },
  "purpose": { type: "string" },
  "host": { type: "string", multiple: true },
  "ip": { type: "string", multiple: true },
  "email": { type: "string", multiple: true },
  "policy": { type: "string", multiple: true },
  "require-policy": { type: "boolean" },
  "inhibit-mapping": { type: "boolean" },
  "inhibit-any": { type: "boolean" },
  "max-depth": { type: "string" },
  "min-rsa-bits": { type: "string" },
  "crl-max-age": { type: "string" },
  "anchor": { type: "string" },
  "strict": { type: "boolean" },
} as const;

/** Something in the command line that cannot be used; `exitCode` tells whether it makes no sense or is not supported. */
class Unusable extends Error {
  readonly exitCode: number;
  constructor(message: string, exitCode: number = exit.unusable) {
    super(message);
    this.exitCode = exitCode;
  }
}

export interface VerifyStreams {
  readonly stdin: Readable;
  readonly stdout: Writable;
  readonly stderr: Writable;
}

/** Runs the command; `args` are what follows `signet pki verify`. Returns the exit code. */
export async function pkiVerify(args: readonly string[], streams: VerifyStreams = process): Promise<number> {
  try {
    const { values, positionals } = readArguments(args);
    if (values.jsonl === true) {
      const besides = [...Object.keys(values).filter((name) => name !== "jsonl").map((name) => `--${name}`), ...positionals];
      if (besides.length > 0) throw new Unusable(`with --jsonl each request says all that it asks for; nothing else goes with it: ${besides.join(" ")}`);
      return await answerLines(streams);
    }
    verify(await readRequest(values, positionals));
    streams.stdout.write("valid\n");
    return exit.accept;
  } catch (error) {
    if (error instanceof Unusable) {
      streams.stderr.write(`signet: usage: ${error.message}\n`);
      return error.exitCode;
    }
    if (!(error instanceof SignetError)) throw error;
    streams.stdout.write(`${error.code}\n`);
    streams.stderr.write(`signet: ${error.code}: ${error.message}\n`);
    return exit.reject;
  }
}

function readArguments(args: readonly string[]) {
  try {
    return parseArgs({ args: [...args], options, allowPositionals: true });
  } catch (error) {
    throw new Unusable((error as Error).message.split("\n", 1)[0] as string, (error as { code?: string }).code === "ERR_PARSE_ARGS_UNKNOWN_OPTION" ? exit.unsupported : exit.unusable);
  }
}

type Values = ReturnType<typeof readArguments>["values"];

async function readRequest(values: Values, positionals: readonly string[]): Promise<VerificationRequest> {
  const [leafFile, ...more] = positionals;
  if (more.length > 0) throw new Unusable(`one certificate is verified at a time; ${more.join(" ")} is too much`);
  if (leafFile === undefined || values.trust === undefined) throw new Unusable("a leaf and its trust anchors are wanted: signet pki verify --trust roots.pem --crl-check none|leaf|chain [...] leaf.pem");
  const crlCheck = values["crl-check"];
  if (crlCheck !== "none" && crlCheck !== "leaf" && crlCheck !== "chain") throw new Unusable("--crl-check says which certificates must be shown to be unrevoked: none, leaf or chain (with --crl FILE)");
  const anchor = values.anchor ?? "cert";
  if (anchor !== "cert" && anchor !== "bare") throw new Unusable("--anchor is cert or bare");
  const time = values.time === undefined ? undefined : requestTime.safeParse(values.time);
  if (time?.success === false) throw new Unusable("--time is in the form of RFC 3339, such as 2026-06-01T12:00:00Z");
  const purpose = values.purpose === undefined ? undefined : requestPurpose.safeParse(values.purpose);
  if (purpose?.success === false) throw new Unusable(`--purpose ${values.purpose} is not known; there are ${requestPurpose.options.join(", ")}`, exit.unsupported);
  const policies = values.policy ?? [];
  if (!policies.every((policy) => policyOid.safeParse(policy).success)) throw new Unusable("--policy is an object identifier in dotted form");
  const noAddress = values.ip?.find((text) => parseIpAddress(text) === undefined);
  if (noAddress !== undefined) throw new Unusable(`--ip ${noAddress} is no IPv4 or IPv6 address; a host's name goes with --host`);
  const named = (kind: ExpectedName["kind"], list: readonly string[] = []): ExpectedName[] => list.map((value) => ({ kind, value }));
  return {
    trust: await readEncodings(values.trust, "CERTIFICATE"),
    intermediates: await readEncodings(values.intermediate, "CERTIFICATE"),
    crls: await readEncodings(values.crl, "X509 CRL"),
    leaf: await readLeaf(leafFile),
    time: time?.data,
    purpose: purpose?.data,
    names: [...named("DNS", values.host), ...named("IP", values.ip), ...named("RFC822", values.email)],
    crlCheck,
    policy: { initialSet: policies, explicit: values["require-policy"] ?? false, inhibitMapping: values["inhibit-mapping"] ?? false, inhibitAny: values["inhibit-any"] ?? false },
    maxDepth: readCount("max-depth", values["max-depth"]),
    minRsaBits: readCount("min-rsa-bits", values["min-rsa-bits"]),
    crlMaxAgeSec: readCount("crl-max-age", values["crl-max-age"]),
    anchor: anchor === "bare" ? "bare" : "certificate",
    strict: values.strict ?? false,
  };
}

function readCount(name: string, text: string | undefined): number | undefined {
  if (text === undefined) return undefined;
  if (!/^\d{1,12}$/.test(text)) throw new Unusable(`--${name} is a number from 0 up`);
  return Number(text);
}

/** What a file holds under a label, one at least; a file of DER is one. */
async function readEncodings(files: readonly string[] = [], label: "CERTIFICATE" | "X509 CRL"): Promise<Uint8Array[]> {
  const lists = await Promise.all(
    files.map(async (file) => {
      const octets = await readOctets(file);
      if (octets[0] === 0x30) return [octets];
      let found: Uint8Array[];
      try {
        found = pemDecodeLabel(octets.toString("latin1"), label);
      } catch (error) {
        throw new Unusable(`${file}: ${(error as Error).message}`);
      }
      if (found.length === 0) throw new Unusable(`${file} holds no ${label === "CERTIFICATE" ? "certificate" : "CRL"}; PEM with a block ${label}, or DER, is wanted`);
      return found;
    }),
  );
  return lists.flat();
}

async function readOctets(file: string): Promise<Buffer> {
  try {
    return await readFile(file);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    throw new Unusable(`${file} cannot be read: ${code === "ENOENT" ? "there is no such file" : code === "EISDIR" ? "it is a directory" : String(code)}`);
  }
}

async function readLeaf(file: string): Promise<Uint8Array> {
  const [leaf, ...more] = await readEncodings([file], "CERTIFICATE");
  if (leaf === undefined || more.length > 0) throw new Unusable(`${file} holds ${more.length + 1} certificates where the one to verify is wanted; give the others with --intermediate`);
  return leaf;
}

/** Longest line that is read, in octets: room for some CRLs of a million entries. */
const lineLimit = 1 << 28;

/** One answer for each line of stdin, in order, until it ends. */
async function answerLines({ stdin, stdout }: VerifyStreams): Promise<number> {
  for await (const line of linesOf(stdin)) {
    if (line?.trim() === "") continue;
    stdout.write(`${JSON.stringify(line === undefined ? unreadable : answerLine(line))}\n`);
  }
  return exit.accept;
}

/** Lines end with a line feed and nothing else: a JSON text may hold U+2028. One that is too long is undefined, and its octets are let go. */
async function* linesOf(stdin: Readable): AsyncGenerator<string | undefined> {
  let parts: Buffer[] = [];
  let length = 0;
  const take = (): string | undefined => {
    const line = length > lineLimit ? undefined : Buffer.concat(parts).toString("utf8");
    parts = [];
    length = 0;
    return line;
  };
  for await (const chunk of stdin as AsyncIterable<Buffer | string>) {
    const octets = Buffer.from(chunk as Buffer);
    let start = 0;
    for (let end = octets.indexOf(0x0a); end >= 0; end = octets.indexOf(0x0a, start)) {
      length += end - start;
      parts.push(octets.subarray(start, end));
      yield take();
      start = end + 1;
    }
    length += octets.length - start;
    if (length > lineLimit) parts = [];
    else parts.push(octets.subarray(start));
  }
  if (length > 0) yield take();
}

if (process.argv[1] !== undefined && import.meta.url === pathToFileURL(process.argv[1]).href) process.exitCode = await pkiVerify(process.argv.slice(2));
