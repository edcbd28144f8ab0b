/**
 * Verification on request: any path under any parameters, in the terms that validators are compared in. What Signet itself
 * trusts goes through path-validation.ts, whose parameters nobody can relax.
 */
import { Certificate } from "./certificate.ts";
import { CertificateRevocationList } from "./crl.ts";
import { CrlValidator } from "./crl-validation.ts";
import type { RevocationExtent } from "./crl-validation.ts";
import { asBuffer } from "./der.ts";
import { SignetError } from "./errors.ts";
import { matchesDnsName, matchesIpAddress, matchesMailbox } from "./name-matching.ts";
import { findPath } from "./path-building.ts";
import { anyPolicyParameters } from "./path-rules.ts";
import type { AnyKeyPurpose, PathParameters, PolicyParameters } from "./path-rules.ts";

/** A name that the end entity must have in its subjectAltName. */
export interface ExpectedName {
  readonly kind: "DNS" | "IP" | "RFC822";
  readonly value: string;
}

/** DER throughout. Intermediates and CRLs that do not parse are passed over, since anybody may have sent them. */
export interface VerificationRequest {
  /** Certificates of the trust anchors. */
  readonly trust: readonly Uint8Array[];
  /** Certificates that may lie between, in any order; CRL issuers are looked for here as well. */
  readonly intermediates: readonly Uint8Array[];
  /** In any order; deltas and indirect CRLs count too. */
  readonly crls: readonly Uint8Array[];
  /** The certificate in question. */
  readonly leaf: Uint8Array;
  /** Undefined: now. */
  readonly time: Date | undefined;
  /** What the leaf's key is to be used for; undefined asks for nothing in particular. */
  readonly purpose: AnyKeyPurpose | undefined;
  /** All of these must stand in subjectAltName. */
  readonly names: readonly ExpectedName[];
  /** Which certificates must be shown to be unrevoked: none, the leaf alone, or all but the anchor. */
  readonly crlCheck: "none" | RevocationExtent;
  /** Undefined: any policy. */
  readonly policy: PolicyParameters | undefined;
  /** Most intermediates that are not self-issued; undefined sets no limit. */
  readonly maxDepth: number | undefined;
  /** Fewest bits of an RSA modulus; undefined: 1024. From 2048 on SHA-1 is refused as well. */
  readonly minRsaBits: number | undefined;
  /** Oldest thisUpdate of a CRL, in seconds; undefined sets no limit. */
  readonly crlMaxAgeSec: number | undefined;
  /** Of an anchor only its name and key count (`bare`), or all that its certificate says. */
  readonly anchor: PathParameters["anchor"];
  /** Also hold every certificate and CRL against what RFC 5280 sections 4 and 5 demand of those who issue. */
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
    // Certificates and CRLs count in whole seconds (RFC 5280 section 4.1.2.5): a moment within the second of notAfter is not after it.
    at: new Date(Math.floor((request.time ?? new Date()).getTime() / 1000) * 1000),
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

/** Names asked for, times names in the certificate: more than anybody means. */
const nameComparisonsLimit = 1 << 20;

/** Every name must be there, in subjectAltName; the common name counts for nothing (RFC 9525 section 6). */
function checkNames({ extensions: { subjectAltName = [] } }: Certificate, names: readonly ExpectedName[]): void {
  if (names.length * subjectAltName.length > nameComparisonsLimit) throw new SignetError("budget-exceeded", "These names cause too much work.", { details: { budget: "names" } });
  for (const { kind, value } of names) {
    const found = subjectAltName.some((name) => {
      // One asks for a host in the DNS's absolute form too, with a dot at the end; certificates have none (section 4.2.1.6 of RFC 5280).
      if (kind === "DNS") return name.kind === "dns" && matchesDnsName(name.value, value.replace(/\.$/, ""));
      if (kind === "IP") return name.kind === "ip" && matchesIpAddress(name.octets, value);
      return name.kind === "email" && matchesMailbox(name.value, value);
    });
    if (!found) throw new SignetError("name-mismatch", `The certificate is not for ${value}.`, { details: { name: value } });
  }
}
