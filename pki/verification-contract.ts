/**
 * Verification on request: any path under any parameters, in the terms that validators are compared in. What Signet itself
 * trusts goes through path-validation.ts, whose parameters nobody can relax.
 */
import { z } from "zod";
import { Certificate } from "./certificate.ts";
import { CertificateRevocationList } from "./crl.ts";
import { CrlValidator } from "./crl-validation.ts";
import type { RevocationExtent } from "./crl-validation.ts";
import { asBuffer } from "./der.ts";
import { SignetError } from "./errors.ts";
import type { ErrorCode } from "./errors.ts";
import { matchesDnsName, matchesIpAddress, matchesMailbox } from "./name-matching.ts";
import { findPath } from "./path-building.ts";
import { anyPolicyParameters, keyPurposes } from "./path-rules.ts";
import type { AnyKeyPurpose, PathParameters, PolicyParameters } from "./path-rules.ts";

/** A name that the end entity must have in its subjectAltName. */
export interface ExpectedName {
  readonly kind: "DNS" | "IP" | "RFC822";
  readonly value: string;
}

/** DER throughout. Intermediates and CRLs that do not parse are passed over, since anybody may have sent them. */
export interface VerificationRequest {
  readonly trust: readonly Uint8Array[];
  readonly intermediates: readonly Uint8Array[];
  readonly crls: readonly Uint8Array[];
  readonly leaf: Uint8Array;
  /** Undefined: now. */
  readonly time: Date | undefined;
  readonly purpose: AnyKeyPurpose | undefined;
  readonly names: readonly ExpectedName[];
  readonly crlCheck: "none" | RevocationExtent;
  readonly policy: PolicyParameters | undefined;
  /** Most intermediates that are not self-issued. */
  readonly maxDepth: number | undefined;
  readonly minRsaBits: number | undefined;
  readonly crlMaxAgeSec: number | undefined;
  readonly anchor: PathParameters["anchor"];
  readonly strict: boolean;
}

/** RSA keys below are refused even where a request sets no limit: they have been factored. */
const leastRsaBits = 1024;

/**
 * Verifies and returns the path, end entity first.
 * @throws SignetError with the code of the reason to reject
 */
export function verify(request: VerificationRequest): readonly Certificate[] {
  const endEntity = Certificate.parse(request.leaf);
  const trustAnchors = readAll(request.trust, Certificate.parse);
  // One certificate is one object, however often it was sent.
  const intermediates = readAll(request.intermediates, Certificate.parse).map((certificate) => (certificate.equals(endEntity) ? endEntity : certificate));
  checkNames(endEntity, request.names);
  const parameters: PathParameters = {
    at: request.time ?? new Date(),
    purpose: request.purpose,
    policy: request.policy ?? anyPolicyParameters,
    maximumDepth: request.maxDepth,
    minimumRsaBits: Math.max(request.minRsaBits ?? leastRsaBits, leastRsaBits),
    strict: request.strict,
    anchor: request.anchor,
  };
  const { crlCheck } = request;
  if (crlCheck === "none") return findPath({ endEntity, intermediates, trustAnchors, parameters });
  const validator = new CrlValidator({
    crls: readAll(request.crls, CertificateRevocationList.parse),
    certificates: intermediates,
    parameters,
    ...(request.crlMaxAgeSec === undefined ? {} : { maximumAgeMilliseconds: request.crlMaxAgeSec * 1000 }),
  });
  return findPath({ endEntity, intermediates, trustAnchors, parameters, accept: (chain) => validator.checkPath(chain, crlCheck) });
}

/** What parses, each once. */
function readAll<T>(list: readonly Uint8Array[], parse: (der: Uint8Array) => T): T[] {
  const distinct = new Map(list.map((der) => [asBuffer(der).toString("latin1"), der]));
  return [...distinct.values()].flatMap((der) => {
    try {
      return [parse(der)];
    } catch (error) {
      if (error instanceof SignetError) return [];
      throw error;
    }
  });
}

/** Every name must be there, in subjectAltName; the common name counts for nothing (RFC 9525 section 6). */
function checkNames({ extensions: { subjectAltName = [] } }: Certificate, names: readonly ExpectedName[]): void {
  for (const { kind, value } of names) {
    const found = subjectAltName.some((name) => {
      if (kind === "DNS") return name.kind === "dns" && matchesDnsName(name.value, value);
      if (kind === "IP") return name.kind === "ip" && matchesIpAddress(name.octets, value);
      return name.kind === "email" && matchesMailbox(name.value, value);
    });
    if (!found) throw new SignetError("name-mismatch", `The certificate is not for ${value}.`, { details: { name: value } });
  }
}

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
