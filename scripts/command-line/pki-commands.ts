import { PassThrough } from "node:stream";
import { text } from "node:stream/consumers";
import { parseIdentityUri } from "#pki/certificate-profile.ts";
import type { Certificate } from "#pki/certificate.ts";
import type { CertificateRevocationList } from "#pki/crl.ts";
import { systemClock } from "#pki/clock.ts";
import { SignetError } from "#pki/errors.ts";
import { EnrolledIdentity } from "#pki/identity.ts";
import { lintCertificate, lintCrl, type CertificateProfile } from "#pki/lint.ts";
import { oid } from "#pki/oids.ts";
import { pkiVerify } from "../pki-verify.ts";
import { readInput } from "./files.ts";
import { describe, formatDescription, readCrls, readPkiObjects, type PkiObject } from "./inspect.ts";
import { usageError, type Definition, type Invocation, type Outcome } from "./program.ts";

/** By exit code. */
const verdicts = ["accept", "reject", "unusable", "unsupported"] as const;

const verifyOptions = `
Exit 0 accept; 1 reject, its reason code on stdout; 2 unusable input; 3 not supported.

  --trust FILE           trust anchors (PEM); may be repeated, as --intermediate and --crl
  --intermediate FILE    certificates that a path may lead through
  --crl FILE             CRLs
  --crl-check WHICH      none, leaf or chain: which certificates must be shown to be unrevoked
  --time TIME            RFC 3339; now by default
  --purpose PURPOSE      serverAuth, clientAuth, codeSigning, emailProtection, timeStamping or OCSPSigning
  --host, --ip, --email  a name that subjectAltName must hold; may be repeated
  --policy OID           an acceptable policy; may be repeated
  --require-policy  --inhibit-mapping  --inhibit-any
  --max-depth N          most intermediates
  --min-rsa-bits N       from 2048 on SHA-1 and DSA are refused too
  --crl-max-age SECONDS  oldest CRL that is believed
  --anchor cert|bare     of an anchor all counts, or its name and key alone
  --strict               hold certificates and CRLs against RFC 5280's demands on issuers
  --jsonl                one request a line on stdin, one answer a line on stdout`;

const passwordVariable = "SIGNET_PKCS12_PASSWORD";

/** Never an argument, which everybody may read. One line break at the end is the editor's. */
async function readPassword(file: string | undefined, invocation: Invocation): Promise<string> {
  if (file !== undefined) return Buffer.from(await readInput(file, invocation)).toString("utf8").replace(/\r?\n$/, "");
  const password = process.env[passwordVariable];
  if (password === undefined) throw usageError("A PKCS#12 file opens with its password", `Add --password-file FILE, or set ${passwordVariable}.`);
  return password;
}

/** `signet pki`: looks at files, needs no service. */
export function definePkiCommands(definition: Definition): void {
  const pki = definition.group(definition.program, "pki", "certificates, requests and CRLs in files");

  const inspect = definition.command(pki, "inspect <file...>", "show certificates, requests, CRLs (PEM or DER) and PKCS#12 files; - for stdin", "npx signet pki inspect fullchain.pem crl.pem");
  inspect.option("--password-file <file>", `password of PKCS#12 files (- for stdin); or in the environment as ${passwordVariable}`);
  definition.handle(inspect, async (invocation: Invocation, files: readonly string[], options: { readonly passwordFile?: string }): Promise<Outcome> => {
    // node-forge, which it loads, is of use to no other command.
    const { describePkcs12, isPkcs12 } = await import("./pkcs12.ts");
    const now = systemClock.now();
    const shown: { readonly file: string; readonly description: Readonly<Record<string, unknown>> }[] = [];
    for (const file of files) {
      const octets = await readInput(file, invocation);
      if (isPkcs12(octets)) for (const description of describePkcs12(octets, await readPassword(options.passwordFile, invocation), now)) shown.push({ file, description });
      else for (const object of readPkiObjects(octets, file)) shown.push({ file, description: describe(object, now) });
    }
    return {
      json: { objects: shown.map(({ file, description }) => ({ file, ...description })) },
      text: shown.map(({ file, description }) => `${file}\n${formatDescription(description, "  ")}`).join("\n\n"),
    };
  });

  const verify = definition.command(
    pki,
    "verify [argument...]",
    "validate a certificate's path and revocation (RFC 5280 section 6)",
    "npx signet pki verify --trust root.pem --intermediate issuing.pem --crl crls.pem --crl-check chain --purpose clientAuth leaf.pem",
  );
  // The options are those of pki-verify.ts, which runs by itself too.
  verify.allowUnknownOption().addHelpText("after", verifyOptions);
  definition.handle(verify, async ({ terminal, json }: Invocation, args: readonly string[]): Promise<Outcome> => {
    if (!json) return { exitCode: await pkiVerify(args, terminal) };
    const stdout = new PassThrough();
    const stderr = new PassThrough();
    const exitCode = await pkiVerify(args, { stdin: terminal.stdin, stdout, stderr });
    const [reason, detail] = await Promise.all([stdout, stderr].map(async (stream) => (await text(stream.end())).trim()));
    return { json: { verdict: verdicts[exitCode] ?? "unusable", ...(reason === "" ? {} : { reason }), ...(detail === "" ? {} : { detail }) }, exitCode };
  });

  const importCrl = definition.command(pki, "import-crl <file...>", "give CRLs from files to a party whose CA is out of reach", "npx signet pki import-crl --identity data/agents/alice leaf-0.crl");
  importCrl.requiredOption("--identity <directory>", "directory of the enrolled party");
  definition.handle(importCrl, async (invocation: Invocation, files: readonly string[], { identity: directory }: { readonly identity: string }): Promise<Outcome> => {
    const party = EnrolledIdentity.open(directory);
    try {
      const imported = [];
      for (const file of files) {
        for (const crl of readCrls(await readInput(file, invocation), file)) {
          const { scope, crlNumber, added } = party.importCrl(crl.der);
          imported.push({ file, scope, crlNumber: crlNumber.toString(), entries: added.length });
        }
      }
      return { json: { imported }, text: imported.map(({ file, crlNumber, entries }) => `${file}: CRL number ${crlNumber} with ${entries} entries counts from now on`).join("\n") };
    } finally {
      party.stop();
    }
  });

  const lowerFloor = definition.command(
    pki,
    "lower-crl-floor <identity-directory>",
    "after a CA was restored from a backup: let a party accept CRLs with lower numbers again",
    'npx signet pki lower-crl-floor data/kms/identity --reason "CA restored from the backup of 1 June" --i-understand-that-revoked-certificates-may-pass',
  );
  lowerFloor.requiredOption("--reason <text>", "why; it stays on record").option("--scope <scope>", "this scope alone; all by default").option("--i-understand-that-revoked-certificates-may-pass", "without it nothing is done");
  definition.handle(lowerFloor, async (_: Invocation, directory: string, options: { readonly reason: string; readonly scope?: string; readonly iUnderstandThatRevokedCertificatesMayPass?: boolean }): Promise<Outcome> => {
    if (options.iUnderstandThatRevokedCertificatesMayPass !== true) {
      throw usageError("Lower floors let older CRLs pass, and with them certificates that were revoked since", "Stop the party, then add --i-understand-that-revoked-certificates-may-pass.");
    }
    const lowered = EnrolledIdentity.lowerCrlFloors(directory, { reason: options.reason, at: systemClock.now(), ...(options.scope === undefined ? {} : { scope: options.scope }) });
    const shown = lowered.map(({ scope, crlNumber, thisUpdate }) => ({ scope, crlNumber: crlNumber.toString(), thisUpdate: thisUpdate.toISOString() }));
    return {
      json: { lowered: shown },
      text: [...shown.map(({ scope, crlNumber, thisUpdate }) => `Given up: scope ${scope}, number ${crlNumber} of ${thisUpdate}.`), "It is recorded, said in the log at every start, and takes effect when the party starts again."].join("\n"),
    };
  });

  const lint = definition.command(pki, "lint <file...>", "check certificates and CRLs against the rules that Signet issues by", "npx signet pki lint fullchain.pem root.pem crl.pem");
  definition.handle(lint, async (invocation: Invocation, files: readonly string[]): Promise<Outcome> => {
    const objects: { readonly file: string; readonly object: PkiObject }[] = [];
    for (const file of files) {
      const octets = await readInput(file, invocation);
      // Only what may be one is worth loading the reader.
      if (octets[0] === 0x30 && (await import("./pkcs12.ts")).isPkcs12(octets)) throw usageError(`${file} is a PKCS#12 file, and its certificates lie behind a password`, `Take them out first: openssl pkcs12 -in ${file} -nokeys`);
      const read = readPkiObjects(octets, file);
      if (read.every(({ kind }) => kind === "request")) throw usageError(`${file} holds a request, and there are rules for certificates and CRLs alone`, `Look at it with: npx signet pki inspect ${file}`);
      objects.push(...read.map((object) => ({ file, object })));
    }
    const certificates = objects.flatMap(({ object }) => (object.kind === "certificate" ? [object.value] : []));
    const crls = objects.flatMap(({ object }) => (object.kind === "crl" ? [object.value] : []));
    const results = objects
      .filter(({ object }) => object.kind !== "request")
      .map(({ file, object }) => {
        const broken = brokenRules(object, certificates, crls);
        return { file, type: object.kind, holds: broken === undefined, ...(broken === undefined ? {} : { broken }) };
      });
    return {
      json: { results },
      text: results.map(({ file, type, broken }) => `${file}: ${type}: ${broken ?? "every rule holds"}`).join("\n"),
      exitCode: results.every(({ holds }) => holds) ? 0 : 5,
    };
  });
}

/** Lints with all that is known: the issuer and a delta's base where they are among the files, and the profile that the object itself claims. */
function brokenRules(object: PkiObject, certificates: readonly Certificate[], crls: readonly CertificateRevocationList[]): string | undefined {
  try {
    if (object.kind === "certificate") {
      const issuer = issuerOf(object.value, certificates);
      const profile = profileOf(object.value);
      lintCertificate(object.value, { ...(issuer === undefined ? {} : { issuer }), ...(profile === undefined ? {} : { profile }) });
    } else if (object.kind === "crl") {
      const issuer = issuerOf(object.value, certificates);
      const base = object.value.isDelta ? baseOf(object.value, crls) : undefined;
      lintCrl(object.value, { ...(issuer === undefined ? {} : { issuer }), ...(base === undefined ? {} : { base }) });
    }
    return undefined;
  } catch (error) {
    if (error instanceof SignetError && error.code === "lint-failed") return error.message;
    throw error;
  }
}

/** The complete CRL that a delta changes. Shards share numbers: the one of the delta's own scope comes first, and another is linted as the wrong one that it is. */
function baseOf(delta: CertificateRevocationList, crls: readonly CertificateRevocationList[]): CertificateRevocationList | undefined {
  const candidates = crls.filter((each) => !each.isDelta && each.issuer.equals(delta.issuer) && each.crlNumber === delta.baseCrlNumber);
  const scopeOf = ({ issuingDistributionPoint: point }: CertificateRevocationList): string => (point === undefined ? "" : Buffer.from(point.der).toString("latin1"));
  return candidates.find((each) => scopeOf(each) === scopeOf(delta)) ?? candidates[0];
}

function issuerOf(signed: Certificate | CertificateRevocationList, certificates: readonly Certificate[]): Certificate | undefined {
  return certificates.find((each) => each.subject.equals(signed.issuer) && signed.isSignedBy(each.subjectPublicKeyInfo));
}

/** The profile of Signet that a certificate claims by its names and purposes; undefined for one of somebody else. */
function profileOf({ extensions, isSelfIssued }: Certificate): CertificateProfile | undefined {
  if (extensions.basicConstraints?.ca === true) return isSelfIssued ? "root" : "issuing";
  const role = extensions.extendedKeyUsage?.includes(oid.serverAuth) === true ? "server" : "client";
  const name = extensions.subjectAltName?.find((each) => each.kind === "uri");
  if (name?.kind !== "uri") return undefined;
  try {
    return { kind: parseIdentityUri(name.value).kind, role };
  } catch {
    return undefined;
  }
}
