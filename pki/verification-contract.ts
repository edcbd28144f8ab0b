/** The lines of `signet pki verify --jsonl`: a request each, and its answer. verification.ts does the work. */
import { z } from "zod";
import { SignetError } from "./errors.ts";
import type { ErrorCode } from "./errors.ts";
import { keyPurposes } from "./path-rules.ts";
import type { AnyKeyPurpose } from "./path-rules.ts";
import { verify } from "./verification.ts";

const base64 = z.base64().transform((text) => Buffer.from(text, "base64"));
const count = z.number().int().nonnegative();

/** RFC 3339 with an offset; seconds and fractions as they come. */
export const requestTime = z.iso.datetime({ offset: true }).transform((text) => new Date(text));
export const requestPurpose = z.enum(Object.keys(keyPurposes) as [AnyKeyPurpose, ...AnyKeyPurpose[]]);
export const policyOid = z.string().regex(/^[0-2](\.(0|[1-9]\d*))+$/);

/** One line of `signet pki verify --jsonl`. A field that is not known is refused: it might have been a restriction. */
const requestLine = z.strictObject({
  n: z.unknown(),
  trust: z.array(base64),
  intermediates: z.array(base64).default([]),
  crls: z.array(base64).default([]),
  leaf: base64,
  time: requestTime.nullish(),
  purpose: requestPurpose.nullish(),
  names: z.array(z.strictObject({ kind: z.enum(["DNS", "IP", "RFC822"]), value: z.string() })).default([]),
  crlCheck: z.enum(["none", "leaf", "chain"]),
  policy: z.strictObject({ initialSet: z.array(policyOid), explicit: z.boolean(), inhibitMapping: z.boolean(), inhibitAny: z.boolean() }).nullish(),
  maxDepth: count.nullish(),
  minRsaBits: count.nullish(),
  crlMaxAgeSec: z.number().nonnegative().nullish(),
  anchor: z.enum(["bare", "cert"]).nullish(),
  strict: z.boolean().nullish(),
});

export interface VerificationAnswer {
  readonly n: unknown;
  readonly verdict: "accept" | "reject" | "skip";
  readonly reason: ErrorCode | "valid";
}

/** The answer to a line that cannot be read. */
export const unreadable: VerificationAnswer = { n: null, verdict: "reject", reason: "request-malformed" };

/** Answers one request line; never throws. A line that is no JSON is rejected; one that asks for what is not supported is skipped. */
export function answerLine(line: string): VerificationAnswer {
  let n: unknown = null;
  try {
    const json: unknown = JSON.parse(line);
    n = typeof json === "object" && json !== null && "n" in json ? json.n : null;
    const parsed = requestLine.safeParse(json);
    if (!parsed.success) return { n, verdict: "skip", reason: "request-malformed" };
    const { data } = parsed;
    verify({
      trust: data.trust,
      intermediates: data.intermediates,
      crls: data.crls,
      leaf: data.leaf,
      time: data.time ?? undefined,
      purpose: data.purpose ?? undefined,
      names: data.names,
      crlCheck: data.crlCheck,
      policy: data.policy ?? undefined,
      maxDepth: data.maxDepth ?? undefined,
      minRsaBits: data.minRsaBits ?? undefined,
      crlMaxAgeSec: data.crlMaxAgeSec ?? undefined,
      anchor: data.anchor === "bare" ? "bare" : "certificate",
      strict: data.strict ?? false,
    });
    return { n, verdict: "accept", reason: "valid" };
  } catch (error) {
    if (error instanceof SignetError) return { n, verdict: "reject", reason: error.code };
    return { n, verdict: "reject", reason: error instanceof SyntaxError ? "request-malformed" : "internal" };
  }
}
