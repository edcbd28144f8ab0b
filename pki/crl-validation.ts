/**
 * Revocation by CRLs as RFC 5280 section 6.3 has it: distribution points, partial reasons, deltas, indirect CRLs, and CRL
 * issuers with paths of their own. It judges the CRLs that it is given; revocation.ts fetches and keeps Signet's own.
 */
import type { Certificate } from "./certificate.ts";
import type { CertificateRevocationList, RevokedEntry } from "./crl.ts";
import { asBuffer } from "./der.ts";
import { SignetError } from "./errors.ts";
import type { ErrorCode } from "./errors.ts";
import type { DistributionPoint } from "./extensions.ts";
import { checkCrlStrictly } from "./lint.ts";
import type { GeneralName, Name } from "./name.ts";
import { SearchWork, findPath } from "./path-building.ts";
import { anyPolicyParameters, isStrongSignature } from "./path-rules.ts";
import type { PathParameters } from "./path-rules.ts";

/** Which certificates of a path must be shown to be unrevoked: the end entity, or all but the anchor. */
export type RevocationExtent = "leaf" | "chain";

/** ReasonFlags bits 1 (keyCompromise) to 8 (aACompromise): all that there are to cover. */
const allReasons = 0x1fe;

/**
 * Work that one check may cause: CRL signatures, of which an honest set needs one for each CA, paths of CRL issuers, and comparisons:
 * of distribution points with CRLs, of their names, of CRLs with deltas and with those who may have signed them.
 */
const limits = { signatures: 200, paths: 50, comparisons: 1 << 20 };

/** Why no CRL was of use, from the least telling to the most; the most telling one is reported. */
const reasonsForNone = ["crl-missing", "crl-scope-unsupported", "crl-from-future", "crl-stale", "crl-issuer-not-authorized", "crl-signature-invalid"] as const satisfies readonly ErrorCode[];
type ReasonForNone = (typeof reasonsForNone)[number];

export interface CrlValidation {
  readonly crls: readonly CertificateRevocationList[];
  /** Where certificates of CRL issuers may be found. */
  readonly certificates: readonly Certificate[];
  readonly parameters: PathParameters;
  /** Oldest thisUpdate that is believed; undefined sets no limit. */
  readonly maximumAgeMilliseconds?: number;
}

/** One check of one or more candidate paths against one set of CRLs. */
export class CrlValidator {
  readonly #input: CrlValidation;
  /** Newest first: of two CRLs of one scope, the newer one decides. */
  readonly #complete: readonly CertificateRevocationList[];
  readonly #deltas: readonly CertificateRevocationList[];
  readonly #signatures = new Map<CertificateRevocationList, Map<Certificate, boolean>>();
  /** Certificates whose status is being determined. */
  readonly #inProgress = new Set<Certificate>();
  readonly #remaining = { ...limits };
  /** One for the paths of all CRL issuers: with one for each, a set of certificates could cost as many budgets as it has CRL issuers. */
  readonly #pathWork = new SearchWork();

  constructor(input: CrlValidation) {
    this.#input = input;
    const newestFirst = [...input.crls].sort((one, other) => other.thisUpdate.getTime() - one.thisUpdate.getTime() || Number((other.crlNumber ?? -1n) - (one.crlNumber ?? -1n)));
    this.#complete = newestFirst.filter((crl) => !crl.isDelta);
    this.#deltas = newestFirst.filter((crl) => crl.isDelta);
  }

  /**
   * Refuses a path of which a certificate is revoked, or not shown to be unrevoked for every reason. `chain` has been
   * validated: end entity first, trust anchor last.
   * @throws SignetError `certificate-revoked`, or a code of why no CRL could tell: `crl-missing`, `crl-stale` ...
   */
  checkPath(chain: readonly Certificate[], extent: RevocationExtent): void {
    const anchor = chain.at(-1) as Certificate;
    for (const [index, certificate] of chain.slice(0, extent === "leaf" ? 1 : -1).entries()) this.#checkCertificate(certificate, { issuers: chain.slice(index + 1), anchor, extent });
  }

  /** RFC 5280 section 6.3.3 for one certificate. */
  #checkCertificate(certificate: Certificate, place: Place): void {
    this.#inProgress.add(certificate);
    try {
      if (this.#whyUndetermined(certificate, place, false) === undefined) return;
      // A CRL issuer may lie in the scope of its own CRL alone. That it does not list itself counts where nobody else's can tell.
      const why = this.#whyUndetermined(certificate, place, true);
      if (why !== undefined) throw undetermined(why, certificate);
    } finally {
      this.#inProgress.delete(certificate);
    }
  }

  /** Goes through the distribution points until all reasons are covered. @throws SignetError `certificate-revoked` */
  #whyUndetermined(certificate: Certificate, place: Place, selfCovered: boolean): ErrorCode | undefined {
    // Section 6.3.3, last paragraphs: CRLs of the certificate's issuer count even where no distribution point names them.
    const implicit: DistributionPoint = { fullNames: [{ kind: "directory", value: certificate.issuer }] };
    let covered = 0;
    let why = 0;
    for (const point of [...(certificate.extensions.crlDistributionPoints ?? []), implicit]) {
      const crlIssuers = crlIssuersOf(point);
      for (const crl of this.#complete) {
        this.#spend("comparisons", namesOf(point) * (crl.issuingDistributionPoint === undefined ? 1 : namesOf(crl.issuingDistributionPoint)));
        if (!isInScope(crl, point, crlIssuers, certificate)) continue;
        const reasons = (point.reasons ?? allReasons) & (crl.issuingDistributionPoint?.onlySomeReasons ?? allReasons) & allReasons;
        if ((reasons & ~covered) === 0) continue;
        const signer = this.#usableSigner(crl, place, selfCovered);
        if (typeof signer === "string") {
          why = Math.max(why, reasonsForNone.indexOf(signer));
          continue;
        }
        this.#spend("comparisons", this.#deltas.length);
        const delta = this.#deltas.find((each) => isDeltaOf(each, crl) && this.#usableSigner(each, place, selfCovered) === signer);
        const entry = findEntry(crl, delta, certificate);
        if (entry !== undefined) throw revoked(certificate, entry);
        covered |= reasons;
        if (covered === allReasons) return undefined;
      }
    }
    return reasonsForNone[why];
  }

  /** Who signed a CRL that may decide: current, understood, and signed by one who may. Otherwise why it may not. */
  #usableSigner(crl: CertificateRevocationList, place: Place, selfCovered: boolean): Certificate | ReasonForNone {
    const { parameters, maximumAgeMilliseconds = Infinity } = this.#input;
    const at = parameters.at.getTime();
    if (!(crl.thisUpdate.getTime() <= at)) return "crl-from-future";
    if (!(at <= crl.nextUpdate.getTime()) || at - crl.thisUpdate.getTime() > maximumAgeMilliseconds) return "crl-stale";
    // Section 5.2: a critical extension that is not processed makes a CRL useless for telling that a certificate is good.
    if (crl.unknownCritical.length > 0) return "crl-scope-unsupported";
    if (!isStrongSignature(crl.signatureAlgorithm, parameters)) return "crl-signature-invalid";
    if (parameters.strict && !isStrictlyFormed(crl)) return "crl-scope-unsupported";

    // Section 6.3.3 (f), (g): a certificate on the path already, or one with a valid path of its own to the same anchor.
    this.#spend("comparisons", place.issuers.length + this.#input.certificates.length);
    let forged = false;
    for (const candidate of [...place.issuers, ...this.#input.certificates]) {
      if (!candidate.subject.equals(crl.issuer)) continue;
      if (!this.#isSigned(crl, candidate)) forged = true;
      else if (this.#maySignCrls(candidate, place, selfCovered)) return candidate;
      else forged = false;
    }
    return forged ? "crl-signature-invalid" : "crl-issuer-not-authorized";
  }

  #isSigned(crl: CertificateRevocationList, candidate: Certificate): boolean {
    let bySigner = this.#signatures.get(crl);
    if (bySigner === undefined) this.#signatures.set(crl, (bySigner = new Map<Certificate, boolean>()));
    let signed = bySigner.get(candidate);
    if (signed === undefined) {
      this.#spend("signatures");
      bySigner.set(candidate, (signed = crl.isSignedBy(candidate.subjectPublicKeyInfo)));
    }
    return signed;
  }

  #maySignCrls(candidate: Certificate, { issuers, anchor, extent }: Place, selfCovered: boolean): boolean {
    const { parameters, certificates } = this.#input;
    const isBareAnchor = candidate === anchor && parameters.anchor === "bare";
    if (!isBareAnchor && candidate.extensions.keyUsage?.has("cRLSign") === false) return false;
    if (issuers.includes(candidate)) return true;
    if (this.#inProgress.has(candidate)) return selfCovered;
    this.#spend("paths");
    try {
      findPath({
        endEntity: candidate,
        intermediates: certificates,
        trustAnchors: [anchor],
        parameters: { ...parameters, purpose: "cRLSign", policy: anyPolicyParameters },
        work: this.#pathWork,
        ...(extent === "chain" ? { accept: (chain) => this.checkPath(chain, extent) } : {}),
      });
      return true;
    } catch (error) {
      if (error instanceof SignetError && error.code !== "budget-exceeded") return false;
      throw error;
    }
  }

  #spend(what: keyof typeof limits, count = 1): void {
    this.#remaining[what] -= count;
    if (this.#remaining[what] < 0) throw new SignetError("budget-exceeded", `These CRLs cause too much work: ${what}.`, { details: { budget: what } });
  }
}

/** Where on which path a certificate stands. */
interface Place {
  /** The rest of its path, the anchor last. */
  readonly issuers: readonly Certificate[];
  readonly anchor: Certificate;
  readonly extent: RevocationExtent;
}

/** Sections 6.3.3 (i) to (k): the entry in a complete CRL, as its delta has changed it. */
function findEntry(complete: CertificateRevocationList, delta: CertificateRevocationList | undefined, { serialNumber, issuer }: Certificate): RevokedEntry | undefined {
  const changed = delta?.find(serialNumber, issuer);
  if (changed !== undefined) return changed.reason === "removeFromCRL" ? undefined : changed;
  return complete.find(serialNumber, issuer);
}

function isStrictlyFormed(crl: CertificateRevocationList): boolean {
  try {
    checkCrlStrictly(crl);
    return true;
  } catch (error) {
    if (error instanceof SignetError) return false;
    throw error;
  }
}

/** The names of a distribution point's CRL issuers; undefined where it names none, and the certificate's issuer is meant. Made once for each point. */
function crlIssuersOf({ crlIssuers }: DistributionPoint): readonly Name[] | undefined {
  return crlIssuers?.flatMap((name) => (name.kind === "directory" ? [name.value] : []));
}

/** Section 6.3.3 (b): issuer and scope of a complete CRL against a distribution point of a certificate, whose `crlIssuers` are given. */
function isInScope(crl: CertificateRevocationList, point: DistributionPoint, crlIssuers: readonly Name[] | undefined, certificate: Certificate): boolean {
  const scope = crl.issuingDistributionPoint;
  if (crlIssuers === undefined ? !crl.issuer.equals(certificate.issuer) : scope?.indirect !== true || !crlIssuers.some((name) => name.equals(crl.issuer))) return false;
  if (scope === undefined) return true;
  const isCa = certificate.extensions.basicConstraints?.ca === true;
  if (scope.onlyContainsAttributeCerts || (scope.onlyContainsUserCerts && isCa) || (scope.onlyContainsCACerts && !isCa)) return false;
  const scopeNames = pointNames(scope, crl.issuer);
  if (scopeNames.length === 0) return true;
  const named = pointNames(point, crlIssuers?.[0] ?? certificate.issuer);
  const wanted = named.length > 0 ? named : (point.crlIssuers ?? []);
  return scopeNames.some((one) => wanted.some((other) => isSameName(one, other)));
}

/** What the names of a distribution point, or of a CRL's scope, cost; a relative one is made whole first. */
const namesOf = ({ fullNames = [], crlIssuers = [], relativeName }: DistributionPoint): number => Math.max(1, fullNames.length + crlIssuers.length + (relativeName === undefined ? 0 : 16));

/** Names of a distribution point, a name relative to the CRL issuer made whole. */
function pointNames({ fullNames = [], relativeName }: Pick<DistributionPoint, "fullNames" | "relativeName">, crlIssuer: Name): readonly GeneralName[] {
  return relativeName === undefined ? fullNames : [...fullNames, { kind: "directory", value: crlIssuer.withRdn(relativeName) }];
}

function isSameName(one: GeneralName, other: GeneralName): boolean {
  if (one.kind === "directory" || other.kind === "directory") return one.kind === "directory" && other.kind === "directory" && one.value.equals(other.value);
  if (one.kind === "other" || other.kind === "other") return one.kind === "other" && other.kind === "other" && asBuffer(one.der).equals(other.der);
  return one.kind === other.kind && one.value === other.value;
}

/** Section 6.3.3 (c), and section 5.2.4: one scope, one issuer key, and a base that is neither too old nor newer than the delta. */
function isDeltaOf(delta: CertificateRevocationList, complete: CertificateRevocationList): boolean {
  const [one, other] = [delta.issuingDistributionPoint?.der, complete.issuingDistributionPoint?.der];
  const sameScope = one === undefined || other === undefined ? one === other : asBuffer(one).equals(other);
  return (
    sameScope &&
    delta.issuer.equals(complete.issuer) &&
    delta.authorityKeyIdentifier === complete.authorityKeyIdentifier &&
    complete.crlNumber !== undefined &&
    delta.crlNumber !== undefined &&
    delta.baseCrlNumber !== undefined &&
    delta.baseCrlNumber <= complete.crlNumber &&
    complete.crlNumber <= delta.crlNumber
  );
}

function revoked(certificate: Certificate, { revocationDate, reason }: RevokedEntry): SignetError {
  return new SignetError("certificate-revoked", `${certificate.label}, serial number ${certificate.serialNumber}, was revoked at ${revocationDate.toISOString()}.`, {
    details: { serialNumber: certificate.serialNumber, revocationDate: revocationDate.toISOString(), reason: reason ?? "unspecified" },
  });
}

function undetermined(code: ErrorCode, certificate: Certificate): SignetError {
  return new SignetError(code, `No CRL can tell whether ${certificate.label}, serial number ${certificate.serialNumber}, is revoked.`, { details: { serialNumber: certificate.serialNumber } });
}
