import { CertificateRequest } from "#pki/certificate-request.ts";
import { Certificate } from "#pki/certificate.ts";
import { CertificateRevocationList } from "#pki/crl.ts";
import { SignetError } from "#pki/errors.ts";
import { formatIpAddress, type GeneralName } from "#pki/name.ts";
import { oid } from "#pki/oids.ts";
import { pemDecodeAll } from "#pki/pem.ts";

/** What a file can hold that is shown. Private keys are recognised, and never shown. */
export type PkiObject =
  | { readonly kind: "certificate"; readonly value: Certificate }
  | { readonly kind: "request"; readonly value: CertificateRequest }
  | { readonly kind: "crl"; readonly value: CertificateRevocationList };

/**
 * Everything in a file of PEM blocks, or the one object of a DER file.
 * @param name the file's, for messages
 * @throws SignetError pem-malformed where it holds nothing of the kind; certificate-malformed, csr-malformed, crl-malformed
 */
export function readPkiObjects(octets: Uint8Array, name: string): readonly PkiObject[] {
  const buffer = Buffer.from(octets.buffer, octets.byteOffset, octets.byteLength);
  try {
    // 0x30 opens a SEQUENCE, which each of the three is.
    const objects = buffer.includes("-----BEGIN ") ? pemDecodeAll(buffer.toString("latin1")).flatMap(({ label, der }) => objectOf(label, der)) : buffer[0] === 0x30 ? [objectOfDer(buffer)] : [];
    if (objects.length > 0) return objects;
  } catch (error) {
    if (error instanceof SignetError) throw new SignetError(error.code, `${name}: ${error.message}`, { cause: error });
    throw error;
  }
  throw new SignetError("pem-malformed", `${name} holds no certificate, request or CRL`, { details: { next: "PEM or DER is wanted." } });
}

/** Certificates of a PEM or DER file. @throws SignetError pem-malformed where there is none */
export function readCertificates(octets: Uint8Array, name: string): readonly Certificate[] {
  const certificates = readPkiObjects(octets, name).flatMap((object) => (object.kind === "certificate" ? [object.value] : []));
  if (certificates.length === 0) throw new SignetError("pem-malformed", `${name} holds no certificate`, { details: { next: "A file with a CERTIFICATE block is wanted." } });
  return certificates;
}

/** CRLs of a PEM or DER file. @throws SignetError pem-malformed where there is none */
export function readCrls(octets: Uint8Array, name: string): readonly CertificateRevocationList[] {
  const crls = readPkiObjects(octets, name).flatMap((object) => (object.kind === "crl" ? [object.value] : []));
  if (crls.length === 0) throw new SignetError("pem-malformed", `${name} holds no CRL`, { details: { next: "A file with an X509 CRL block is wanted." } });
  return crls;
}

/** The object as --json shows it. */
export function describe(object: PkiObject, now: Date): Readonly<Record<string, unknown>> {
  if (object.kind === "certificate") return describeCertificate(object.value, now);
  if (object.kind === "request") return describeRequest(object.value);
  return describeCrl(object.value, now);
}

export function describeCertificate(certificate: Certificate, now: Date): Readonly<Record<string, unknown>> {
  const { extensions } = certificate;
  return {
    type: "certificate",
    subject: certificate.subject.toString(),
    issuer: certificate.issuer.toString(),
    serialNumber: certificate.serialNumber,
    notBefore: certificate.notBefore.toISOString(),
    notAfter: certificate.notAfter.toISOString(),
    validity: now < certificate.notBefore ? "not yet valid" : now > certificate.notAfter ? "expired" : "in date",
    publicKey: certificate.publicKeyType,
    signatureAlgorithm: nameOfOid(certificate.signatureAlgorithm.oid),
    ...present({
      basicConstraints: extensions.basicConstraints,
      keyUsage: extensions.keyUsage === undefined ? undefined : [...extensions.keyUsage],
      extendedKeyUsage: extensions.extendedKeyUsage?.map(nameOfOid),
      subjectAltName: extensions.subjectAltName?.map(formatGeneralName),
      subjectKeyIdentifier: extensions.subjectKeyIdentifier,
      authorityKeyIdentifier: extensions.authorityKeyIdentifier,
      crlDistributionPoints: extensions.crlDistributionPoints?.flatMap((point) => (point.fullNames ?? []).map(formatGeneralName)),
      nameConstraints: extensions.nameConstraints && { permitted: extensions.nameConstraints.permitted.map(formatGeneralName), excluded: extensions.nameConstraints.excluded.map(formatGeneralName) },
      certificatePolicies: extensions.certificatePolicies?.map(nameOfOid),
      unknownCritical: extensions.unknownCritical.length === 0 ? undefined : extensions.unknownCritical,
    }),
    fingerprint: certificate.fingerprint,
    spkiFingerprint: certificate.spkiFingerprint,
  };
}

function describeRequest(request: CertificateRequest): Readonly<Record<string, unknown>> {
  return {
    type: "request",
    subject: request.subject.toString(),
    requestedNames: request.requestedNames.map(formatGeneralName),
    publicKey: request.subjectPublicKeyInfo.type,
    signatureAlgorithm: nameOfOid(request.signatureAlgorithm.oid),
    possession: provesPossession(request) ? "signed by the key in it" : "NOT signed by the key in it",
  };
}

/** Entries that a description carries; the file has the rest. */
const entriesShown = 20;

export function describeCrl(crl: CertificateRevocationList, now: Date): Readonly<Record<string, unknown>> {
  const entries = [];
  for (const { serialNumber, revocationDate, reason } of crl.entries()) {
    if (entries.push({ serialNumber, revocationDate: revocationDate.toISOString(), ...present({ reason }) }) === entriesShown) break;
  }
  const point = crl.issuingDistributionPoint;
  return {
    type: "crl",
    issuer: crl.issuer.toString(),
    authorityKeyIdentifier: crl.authorityKeyIdentifier,
    ...present({ crlNumber: crl.crlNumber?.toString() }),
    scope: scopeOf(crl),
    ...present({ distributionPoint: point?.fullNames.map(formatGeneralName) }),
    isDelta: crl.isDelta,
    thisUpdate: crl.thisUpdate.toISOString(),
    nextUpdate: crl.nextUpdate.toISOString(),
    freshness: freshnessOf(crl, now),
    size: crl.size,
    entries,
    ...(crl.size > entries.length ? { entriesNotShown: crl.size - entries.length } : {}),
  };
}

/** Which certificates a CRL speaks of, in words. */
export function scopeOf(crl: CertificateRevocationList): string {
  const point = crl.issuingDistributionPoint;
  if (point === undefined) return "all certificates";
  return point.onlyContainsCACerts ? "CA certificates" : point.onlyContainsUserCerts ? "end-entity certificates" : "certificates of its distribution point";
}

export function freshnessOf(crl: CertificateRevocationList, now: Date): "fresh" | "stale" | "from the future" {
  if (now > crl.nextUpdate) return "stale";
  // RFC 5280 knows no such CRL; five minutes is what clocks may differ by, as in pki/revocation.ts.
  return crl.thisUpdate.getTime() - now.getTime() > 5 * 60_000 ? "from the future" : "fresh";
}

/** A description as aligned lines. */
export function formatDescription(description: Readonly<Record<string, unknown>>, indent = ""): string {
  const entries = Object.entries(description);
  const width = Math.max(...entries.map(([name]) => name.length));
  return entries.map(([name, value]) => `${indent}${name.padEnd(width)}  ${formatValue(value, `${indent}${" ".repeat(width + 2)}`)}`).join("\n");
}

/** Rows under their headings, in aligned columns that `awk` can cut too. */
export function formatTable(headings: readonly string[], rows: readonly (readonly string[])[]): string {
  const all = [headings.map((heading) => heading.replaceAll(/([a-z])([A-Z])/g, "$1 $2").toUpperCase().replaceAll(" ", "-")), ...rows];
  const widths = headings.map((_, column) => Math.max(...all.map((row) => row[column]?.length ?? 0)));
  return all.map((row) => row.map((cell, column) => printable(cell).padEnd(widths[column] ?? 0)).join("  ").trimEnd()).join("\n");
}

function formatValue(value: unknown, indent: string): string {
  if (Array.isArray(value)) return value.length === 0 ? "none" : value.map((item) => formatValue(item, indent)).join(`\n${indent}`);
  if (typeof value === "object" && value !== null) {
    const parts = Object.entries(value).map(([name, item]) => `${name} ${Array.isArray(item) ? item.join(", ") || "none" : String(item)}`);
    return parts.join("; ");
  }
  return printable(String(value));
}

/** Text of a certificate's maker, harmless to a terminal. */
export function printable(text: string): string {
  return text.replaceAll(/[\p{Cc}\p{Cf}\u2028\u2029]/gu, (character) => `\\u{${(character.codePointAt(0) ?? 0).toString(16)}}`);
}

export function formatGeneralName(name: GeneralName): string {
  // In name constraints an address comes with its mask (RFC 5280 section 4.2.1.10).
  if (name.kind === "ip" && (name.octets.length === 8 || name.octets.length === 32)) {
    const [address, mask] = [name.octets.subarray(0, name.octets.length / 2), name.octets.subarray(name.octets.length / 2)];
    const bits = [...mask].map((octet) => octet.toString(2).padStart(8, "0")).join("");
    return `ip:${formatIpAddress(address)}/${/^1*0*$/.test(bits) ? bits.replaceAll("0", "").length : formatIpAddress(mask)}`;
  }
  return `${name.kind}:${printable(name.value.toString())}`;
}

const oidNames: ReadonlyMap<string, string> = new Map(Object.entries(oid).map(([name, dotted]) => [dotted, name]));

function nameOfOid(dotted: string): string {
  return oidNames.get(dotted) ?? dotted;
}

function objectOf(label: string, der: Uint8Array): readonly PkiObject[] {
  switch (label) {
    case "CERTIFICATE":
      return [{ kind: "certificate", value: Certificate.parse(der) }];
    case "CERTIFICATE REQUEST":
    case "NEW CERTIFICATE REQUEST":
      return [{ kind: "request", value: CertificateRequest.parse(der) }];
    case "X509 CRL":
      return [{ kind: "crl", value: CertificateRevocationList.parse(der) }];
    default:
      // Keys and parameters may stand beside certificates; they are nobody's to look at here.
      return [];
  }
}

function objectOfDer(der: Uint8Array): PkiObject {
  try {
    return { kind: "certificate", value: Certificate.parse(der) };
  } catch (notACertificate) {
    for (const label of ["CERTIFICATE REQUEST", "X509 CRL"]) {
      try {
        const [object] = objectOf(label, der);
        if (object !== undefined) return object;
      } catch (error) {
        if (!(error instanceof SignetError)) throw error;
      }
    }
    throw notACertificate;
  }
}

function provesPossession(request: CertificateRequest): boolean {
  try {
    request.verifyPossession();
    return true;
  } catch (error) {
    if (error instanceof SignetError) return false;
    throw error;
  }
}

function present(fields: Readonly<Record<string, unknown>>): Record<string, unknown> {
  return Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== undefined));
}
