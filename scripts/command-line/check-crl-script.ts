import { existsSync } from "node:fs";
import path from "node:path";
import type { Certificate } from "#pki/certificate.ts";
import { systemClock, type Clock } from "#pki/clock.ts";
import { CertificateRevocationList } from "#pki/crl.ts";
import { SignetError, type ErrorCode } from "#pki/errors.ts";
import { oid } from "#pki/oids.ts";
import { validatePath, type KeyPurpose, type ValidatedPath } from "#pki/path-validation.ts";
import { publicationRoutes } from "#pki/protocol-ca.ts";
import { memoryFloors, RevocationStore } from "#pki/revocation.ts";
import { layoutOf, readServices } from "./deployment.ts";
import { readInput } from "./files.ts";
import { formatDescription, freshnessOf, readCertificates, readCrls, scopeOf } from "./inspect.ts";
import { collect, processTerminal, runCommandLine, usageError, withExample, type Invocation, type Outcome, type Terminal } from "./program.ts";

interface CheckOptions {
  readonly crl?: readonly string[];
  readonly crlUrl?: readonly string[];
  readonly trust?: string;
  readonly intermediate?: readonly string[];
}

/** A CRL that was offered, and why it counts for nothing where it does not. */
interface OfferedCrl {
  readonly from: string;
  readonly crl?: CertificateRevocationList;
  readonly problem?: ErrorCode;
}

/** What is known of one certificate of the path. */
interface RevocationStatus {
  readonly status: "good" | "revoked" | "unknown";
  readonly certificate: string;
  readonly serialNumber: string;
  readonly crl?: Readonly<Record<string, unknown>>;
  readonly revokedAt?: string;
  readonly reason?: string;
  /** Code of what is in the way of an answer. */
  readonly problem?: string;
}

/** Good, revoked, and what leaves it open: no CRL, a stale one, one that is unsigned or another issuer's. */
const exitCodes = { good: 0, revoked: 5, unknown: 2 } as const;
const fetchMilliseconds = 10_000;
const crlOctetsLimit = 64 * 1024 * 1024;

/** `scripts/check-crl.ts`: is this certificate revoked, by which CRL, how fresh. @returns 0 good, 5 revoked, 2 cannot tell, 1 usage or local */
export async function checkCrlScript(argv: readonly string[], terminal: Terminal = processTerminal): Promise<number> {
  return runCommandLine(
    "scripts/check-crl.ts",
    ({ program, handle }) => {
      withExample(program, "Tells whether a certificate is revoked, by which CRL, and how fresh that is. Exit codes: 0 good, 5 revoked, 2 cannot tell, 1 usage or local.", "npx tsx scripts/check-crl.ts certs/api/fullchain.pem\nnpx tsx scripts/check-crl.ts cert.pem --trust root.pem --intermediate issuing.pem --crl crl.pem")
        .argument("<certificate>", "file with the certificate, first; the chain may follow")
        .option("--crl <file>", "file with CRLs (repeatable)", collect)
        .option("--crl-url <url>", "where a CRL is published (repeatable; default: the CA of the data directory)", collect)
        .option("--trust <file>", "root certificates (default: the data directory's)")
        .option("--intermediate <file>", "further certificates of the chain (repeatable)", collect);
      handle(program, async (invocation: Invocation, file: string, options: CheckOptions) => check(invocation, file, options, systemClock));
    },
    argv,
    terminal,
  );
}

async function check(invocation: Invocation, file: string, options: CheckOptions, clock: Clock): Promise<Outcome> {
  const trustAnchors = await readTrust(invocation, options.trust);
  try {
    const [certificate, ...rest] = readCertificates(await readInput(file, invocation), file);
    if (certificate === undefined) throw usageError(`${file} holds no certificate`);
    const path = validatePath({ endEntity: certificate, intermediates: [...rest, ...(await readIntermediates(invocation, options.intermediate))], trustAnchors, purpose: purposeOf(certificate), at: clock.now() });
    const offered = await offeredCrls(invocation, options, path);
    const statuses = statusesOf(path, offered, clock);
    return verdict(statuses, offered, clock.now());
  } catch (error) {
    // Exit code 5 says "revoked" here, and nothing else may say it.
    if (!(error instanceof SignetError) || error.exitCode === 1) throw error;
    return { json: { verdict: "unknown", problem: error.code, detail: error.message }, text: `cannot tell: ${error.code}: ${error.message}${error.code === "path-not-found" ? " Name the certificate of its issuer with --intermediate FILE, and the root with --trust FILE." : ""}`, exitCode: exitCodes.unknown };
  }
}

/** Status of every certificate of the path but the anchor, leaf first: each under its own issuer, whose path has been validated whole. */
function statusesOf(path: ValidatedPath, offered: OfferedCrl[], clock: Clock): readonly RevocationStatus[] {
  const store = new RevocationStore({ trustAnchors: [path.trustAnchor, ...path.chain.slice(1, -1)], floors: memoryFloors(), clock, maxAgeMilliseconds: Number.MAX_SAFE_INTEGER });
  const accepted: CertificateRevocationList[] = [];
  for (const [index, { from, crl }] of offered.entries()) {
    if (crl === undefined) continue;
    try {
      store.accept(crl.der, path.chain);
      accepted.push(crl);
    } catch (error) {
      if (!(error instanceof SignetError)) throw error;
      offered[index] = { from, crl, problem: error.code };
    }
  }
  return path.chain.slice(0, -1).map((_, index) => statusOf(path, index, accepted, store, clock.now()));
}

/**
 * The store's own check decides of the certificate that was asked about, with its issuer for an anchor, so that a missing CRL further
 * up does not hide the answer. CAs above it are no end entities, and are looked up in the CRLs that the store has accepted.
 */
function statusOf(path: ValidatedPath, index: number, accepted: readonly CertificateRevocationList[], store: RevocationStore, now: Date): RevocationStatus {
  const certificate = path.chain[index] ?? path.endEntity;
  const issuer = path.chain[index + 1] ?? path.trustAnchor;
  const isCa = certificate.extensions.basicConstraints?.ca === true;
  const crl = accepted.find((each) => each.issuer.equals(issuer.subject) && each.isSignedBy(issuer.subjectPublicKeyInfo) && !(isCa ? each.issuingDistributionPoint?.onlyContainsUserCerts : each.issuingDistributionPoint?.onlyContainsCACerts));
  const known = {
    certificate: certificate.subject.isEmpty ? (certificate.extensions.subjectAltName ?? []).map((name) => name.value.toString()).join(", ") : certificate.subject.toString(),
    serialNumber: certificate.serialNumber,
    ...(crl === undefined
      ? {}
      : { crl: { crlNumber: crl.crlNumber?.toString(), issuer: crl.issuer.toString(), scope: scopeOf(crl), thisUpdate: crl.thisUpdate.toISOString(), nextUpdate: crl.nextUpdate.toISOString(), freshness: freshnessOf(crl, now), ageSeconds: Math.round((now.getTime() - crl.thisUpdate.getTime()) / 1000) } }),
  };
  const problem = index === 0 ? refusalOf(() => store.check(validatePath({ endEntity: certificate, intermediates: [], trustAnchors: [issuer], purpose: path.purpose, at: now }))) : undefined;
  const entry = crl?.find(certificate.serialNumber);
  if (crl !== undefined && entry !== undefined && (problem === undefined || problem === "certificate-revoked")) return { status: "revoked", ...known, revokedAt: entry.revocationDate.toISOString(), reason: entry.reason ?? "unspecified" };
  if (crl === undefined || problem !== undefined) return { status: "unknown", ...known, problem: problem ?? "crl-missing" };
  return { status: "good", ...known };
}

/** Code that `check` refuses with; undefined where it does not. */
function refusalOf(check: () => unknown): ErrorCode | undefined {
  try {
    check();
    return undefined;
  } catch (error) {
    if (error instanceof SignetError) return error.code;
    throw error;
  }
}

function verdict(statuses: readonly RevocationStatus[], offered: readonly OfferedCrl[], now: Date): Outcome {
  const [own] = statuses;
  // A revoked CA takes its certificates with it; a CA of which nothing is known leaves the certificate's own status standing, and is listed.
  const answer = statuses.some(({ status }) => status === "revoked") ? "revoked" : (own?.status ?? "unknown");
  const refused = offered.flatMap(({ from, problem }) => (problem === undefined ? [] : [{ from, problem }]));
  return {
    json: { verdict: answer, at: now.toISOString(), certificates: statuses, refusedCrls: refused },
    text: [
      answer === "unknown" ? `cannot tell: ${refused[0]?.problem ?? own?.problem ?? "crl-missing"}` : answer,
      ...statuses.map(({ crl, ...status }) => `\n${formatDescription({ ...status, ...crl })}`),
      ...refused.map(({ from, problem }) => `\n${from}: not used: ${problem}`),
    ].join("\n"),
    exitCode: exitCodes[answer],
  };
}

async function readTrust(invocation: Invocation, file: string | undefined): Promise<readonly Certificate[]> {
  if (file !== undefined) return readCertificates(await readInput(file, invocation), file);
  const root = path.join(layoutOf(invocation.data).operator, "root.pem");
  if (!existsSync(root)) throw usageError(`there is no root certificate in ${layoutOf(invocation.data).root}`, "Name one with --trust FILE.");
  return readCertificates(await readInput(root, invocation), root);
}

async function readIntermediates(invocation: Invocation, files: readonly string[] | undefined): Promise<readonly Certificate[]> {
  // The operator's chain is there: beside its certificate it holds that of the issuing CA.
  const chain = path.join(layoutOf(invocation.data).operator, "client.pem");
  const all = files ?? (existsSync(chain) ? [chain] : []);
  return (await Promise.all(all.map(async (file) => readCertificates(await readInput(file, invocation), file)))).flat();
}

/** CRLs as they were named; else those that the data directory's CA publishes. A distribution point elsewhere is never called on a certificate's word. */
async function offeredCrls(invocation: Invocation, options: CheckOptions, path: ValidatedPath): Promise<OfferedCrl[]> {
  const offered: OfferedCrl[] = [];
  for (const file of options.crl ?? []) offered.push(...readOffered(await readInput(file, invocation), file));
  const named = options.crl !== undefined || options.crlUrl !== undefined;
  for (const url of options.crlUrl ?? (named ? [] : publishedUrls(invocation, path))) {
    try {
      offered.push(...readOffered(await download(url), url));
    } catch (error) {
      if (!(error instanceof SignetError) || error.exitCode === 1) throw error;
      offered.push({ from: url, problem: error.code });
    }
  }
  return offered;
}

function readOffered(octets: Uint8Array, from: string): OfferedCrl[] {
  try {
    return readCrls(octets, from).map((crl) => ({ from, crl }));
  } catch (error) {
    if (error instanceof SignetError) return [{ from, problem: error.code }];
    throw error;
  }
}

function publishedUrls(invocation: Invocation, { chain }: ValidatedPath): readonly string[] {
  const { ca } = readServices(invocation.data);
  if (ca === undefined) return [];
  const { origin } = new URL(ca.publicationUrl);
  const points = chain.flatMap((certificate) => (certificate.extensions.crlDistributionPoints ?? []).flatMap((point) => (point.fullNames ?? []).flatMap((name) => (name.kind === "uri" ? [name.value] : []))));
  return [...new Set([...points.filter((url) => URL.parse(url)?.origin === origin), new URL(publicationRoutes.crl("root"), origin).href])];
}

/** A CRL is signed, so plain HTTP will do (RFC 5280 section 8). */
async function download(url: string): Promise<Uint8Array> {
  const parsed = URL.parse(url);
  if (parsed === null || (parsed.protocol !== "http:" && parsed.protocol !== "https:")) throw usageError(`${url} is not an http or https URL`);
  try {
    const answer = await fetch(parsed, { redirect: "error", signal: AbortSignal.timeout(fetchMilliseconds) });
    if (!answer.ok) throw new SignetError("remote-malformed", `${url} answered with status ${answer.status}.`);
    const parts: Uint8Array[] = [];
    let length = 0;
    for await (const part of answer.body ?? []) {
      length += part.length;
      if (length > crlOctetsLimit) throw new SignetError("remote-malformed", `${url} answered with more than ${crlOctetsLimit} octets.`);
      parts.push(part);
    }
    return Buffer.concat(parts);
  } catch (error) {
    if (error instanceof SignetError) throw error;
    throw new SignetError("remote-unreachable", `${url} cannot be fetched.`, { cause: error });
  }
}

function purposeOf(certificate: Certificate): KeyPurpose {
  return certificate.extensions.extendedKeyUsage?.includes(oid.serverAuth) === true ? "serverAuth" : "clientAuth";
}
