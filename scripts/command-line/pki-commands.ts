import { parseIdentityUri } from "#pki/certificate-profile.ts";
import type { Certificate } from "#pki/certificate.ts";
import type { CertificateRevocationList } from "#pki/crl.ts";
import { systemClock } from "#pki/clock.ts";
import { SignetError } from "#pki/errors.ts";
import { lintCertificate, lintCrl, type CertificateProfile } from "#pki/lint.ts";
import { oid } from "#pki/oids.ts";
import { readInput } from "./files.ts";
import { describe, formatDescription, readPkiObjects, type PkiObject } from "./inspect.ts";
import type { Definition, Invocation, Outcome } from "./program.ts";

/** `signet pki`: looks at files, needs no service. */
export function definePkiCommands(definition: Definition): void {
  const pki = definition.group(definition.program, "pki", "certificates, requests and CRLs in files");

  const inspect = definition.command(pki, "inspect <file...>", "show certificates, requests and CRLs (PEM or DER; - for stdin)", "npx signet pki inspect fullchain.pem crl.pem");
  definition.handle(inspect, async (invocation: Invocation, files: readonly string[]): Promise<Outcome> => {
    const now = systemClock.now();
    const shown: { readonly file: string; readonly description: Readonly<Record<string, unknown>> }[] = [];
    for (const file of files) {
      for (const object of readPkiObjects(await readInput(file, invocation), file)) shown.push({ file, description: describe(object, now) });
    }
    return {
      json: { objects: shown.map(({ file, description }) => ({ file, ...description })) },
      text: shown.map(({ file, description }) => `${file}\n${formatDescription(description, "  ")}`).join("\n\n"),
    };
  });

  const lint = definition.command(pki, "lint <file...>", "check certificates and CRLs against the rules that Signet issues by", "npx signet pki lint fullchain.pem root.pem crl.pem");
  definition.handle(lint, async (invocation: Invocation, files: readonly string[]): Promise<Outcome> => {
    const objects: { readonly file: string; readonly object: PkiObject }[] = [];
    for (const file of files) objects.push(...readPkiObjects(await readInput(file, invocation), file).map((object) => ({ file, object })));
    const certificates = objects.flatMap(({ object }) => (object.kind === "certificate" ? [object.value] : []));
    const results = objects
      .filter(({ object }) => object.kind !== "request")
      .map(({ file, object }) => {
        const broken = brokenRules(object, certificates);
        return { file, type: object.kind, holds: broken === undefined, ...(broken === undefined ? {} : { broken }) };
      });
    return {
      json: { results },
      text: results.map(({ file, type, broken }) => `${file}: ${type}: ${broken ?? "every rule holds"}`).join("\n"),
      exitCode: results.every(({ holds }) => holds) ? 0 : 5,
    };
  });
}

/** Lints with all that is known: the issuer where it is among the files, and the profile that the object itself claims. */
function brokenRules(object: PkiObject, certificates: readonly Certificate[]): string | undefined {
  try {
    if (object.kind === "certificate") {
      const issuer = issuerOf(object.value, certificates);
      const profile = profileOf(object.value);
      lintCertificate(object.value, { ...(issuer === undefined ? {} : { issuer }), ...(profile === undefined ? {} : { profile }) });
    } else if (object.kind === "crl") {
      const issuer = issuerOf(object.value, certificates);
      lintCrl(object.value, issuer === undefined ? {} : { issuer });
    }
    return undefined;
  } catch (error) {
    if (error instanceof SignetError && error.code === "lint-failed") return error.message;
    throw error;
  }
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
