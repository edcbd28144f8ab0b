import { createHash } from "node:crypto";
import { type Certificate, type CertificateId } from "./certificate.ts";
import { CertificateRevocationList, type CrlHead } from "./crl.ts";
import type { CrlFloors } from "./crl-floors.ts";
import type { Clock } from "./clock.ts";
import { SignetError } from "./errors.ts";
import type { GeneralName } from "./name.ts";
import { isStrongSignature } from "./path-rules.ts";
import { demands, isValidatedPath, type ValidatedPath, validatePath } from "./path-validation.ts";

export { createFloors, type CrlFloor, type CrlFloors, fileFloors, memoryFloors } from "./crl-floors.ts";

/** How far a CRL's thisUpdate may lie ahead, and the clock behind what was verified: what two clocks may differ by. */
const clockToleranceMilliseconds = 5 * 60_000;

/** Known in this module alone: without it no NotRevoked comes into being. */
const construction = Symbol("construction");

interface Standing {
  readonly generation: number;
  /** Wall-clock milliseconds from which and until which the answer stands: clock floor, and the first of nextUpdate and notAfter. */
  readonly validFrom: number;
  readonly validUntil: number;
  /** Monotonic milliseconds: when the first refresh is overdue. */
  readonly freshUntil: number;
}

/** Proof that no certificate of a path was revoked, by CRLs that were fresh: only {@link RevocationStore.check} makes one. */
export class NotRevoked {
  readonly #standing: Standing;
  readonly path: ValidatedPath;

  /** @internal */
  constructor(key: symbol, path: ValidatedPath, standing: Standing) {
    if (key !== construction) throw new SignetError("internal", "A NotRevoked comes from RevocationStore.check alone.");
    this.path = path;
    this.#standing = standing;
    Object.freeze(this);
  }

  /** Run-time brand: an object literal of the same shape is no NotRevoked. */
  static is(value: unknown): value is NotRevoked {
    return typeof value === "object" && value !== null && #standing in value;
  }

  /** The first of the CRLs' nextUpdate and the certificates' notAfter. */
  get validUntil(): Date {
    return new Date(this.#standing.validUntil);
  }

  /** @internal for RevocationStore.recheck */
  static standingOf(proof: NotRevoked): Standing {
    return proof.#standing;
  }
}

/** One CRL that is in force. */
interface HeldCrl {
  readonly scope: string;
  readonly crl: CertificateRevocationList;
  readonly digest: string;
  /** Monotonic; -Infinity for one that nobody has shown to be the latest. */
  refreshedAt: number;
}

/**
 * Where a CRL came from. `authority`: the CA itself, over TLS that was verified, or the CRL's maker; its word that a CRL is the latest counts.
 * `elsewhere`: plain HTTP or a file, where nothing counts but signatures. A CRL that rises above its floor is news from anywhere, hence a refresh; one that
 * was seen before is a refresh from the authority only, since anybody can show it again.
 */
export type CrlOrigin = "authority" | "elsewhere";

/** A CRL that is in force. */
export interface AcceptedCrl {
  readonly scope: string;
  readonly crlNumber: bigint;
  readonly crl: CertificateRevocationList;
  /** Revoked by this CRL and not by the one before. */
  readonly added: readonly CertificateId[];
}

/** A CRL that is held, for people and monitors. */
export interface CrlStatus {
  readonly scope: string;
  readonly issuer: string;
  readonly crlNumber: bigint;
  readonly thisUpdate: Date;
  readonly nextUpdate: Date;
  readonly entries: number;
  /** Milliseconds since the last authenticated refresh; Infinity before the first. */
  readonly ageMilliseconds: number;
}

/** What a store rests on. */
export interface RevocationStoreOptions {
  readonly trustAnchors: readonly Certificate[];
  /** What each scope's next CRL must rise above: {@link fileFloors} outlive a restart, {@link memoryFloors} do not. */
  readonly floors: CrlFloors;
  readonly clock: Clock;
  /** Longest that a CRL counts without an authenticated refresh. */
  readonly maxAgeMilliseconds: number;
}

/**
 * What one party knows of revocations: the CRLs in force, checked as RFC 5280 section 6.3 asks for the CRLs that Signet publishes (complete, direct, of
 * all reasons, by the certificates' own issuer). A CRL counts once its issuer, signature, scope and dates stand and its number and thisUpdate rise; the floor is on disk before.
 * Certificates are named by issuer key and serial number, never by a serial alone.
 */
export class RevocationStore {
  readonly #options: RevocationStoreOptions;
  /** By key identifier of the issuer. */
  readonly #held = new Map<string, HeldCrl[]>();
  readonly #listeners = new Set<(added: readonly CertificateId[]) => void>();
  #generation = 0;

  constructor(options: RevocationStoreOptions) {
    this.#options = options;
  }

  /** Rises with every CRL that takes effect. */
  get generation(): number {
    return this.#generation;
  }

  /**
   * Verifies a CRL and puts it in force in one step, then tells the subscribers. The bytes that are in force already count as a refresh where they come from the authority.
   * @param issuers certificates among which its issuer may be, besides the anchors
   * @throws SignetError crl-malformed | crl-scope-unsupported | crl-issuer-not-authorized | crl-signature-invalid | crl-from-future | crl-stale | crl-rollback | clock-rolled-back, or what is wrong with the issuer's path
   */
  accept(crlDer: Uint8Array, issuers: readonly Certificate[], origin: CrlOrigin = "authority"): AcceptedCrl {
    const { clock, floors } = this.#options;
    const now = clock.now();
    const crl = CertificateRevocationList.parseAuthenticated(crlDer, (head) => this.#verifyIssuer(head, requireSupportedScope(head).authorityKeyIdentifier, issuers, now));
    // Once more: entries too have critical extensions.
    const { crlNumber, authorityKeyIdentifier } = requireSupportedScope(crl);
    this.#requireClock(now);
    if (crl.thisUpdate.getTime() > now.getTime() + clockToleranceMilliseconds) {
      throw new SignetError("crl-from-future", `The CRL of ${crl.issuer} says it was made at ${crl.thisUpdate.toISOString()}, which lies ahead.`, { details: { thisUpdate: crl.thisUpdate.toISOString() } });
    }
    if (crl.nextUpdate.getTime() <= now.getTime()) throw stale(crl);

    const scope = scopeOf(authorityKeyIdentifier, crl);
    const digest = createHash("sha256").update(crlDer).digest("hex");
    const siblings = this.#held.get(authorityKeyIdentifier) ?? [];
    const before = siblings.find((held) => held.scope === scope);
    if (before?.digest === digest) {
      if (origin === "authority") before.refreshedAt = clock.monotonicMilliseconds();
      return { scope, crlNumber, crl, added: [] };
    }
    const floor = floors.get(scope);
    if (floor !== undefined && floor.digest !== digest && (crlNumber <= floor.crlNumber || crl.thisUpdate <= floor.thisUpdate)) {
      throw new SignetError("crl-rollback", `The CRL of ${crl.issuer} has the number ${crlNumber}, and number ${floor.crlNumber} was seen before.`, {
        details: { crlNumber: crlNumber.toString(), seen: floor.crlNumber.toString() },
      });
    }
    const isNews = floor?.digest !== digest;
    floors.raise(scope, { crlNumber, thisUpdate: crl.thisUpdate, digest });
    const added: CertificateId[] = crl.serialNumbersNotOn(before?.crl).map((serialNumber) => ({ issuerKeyId: authorityKeyIdentifier, serialNumber }));
    this.#held.set(authorityKeyIdentifier, [...siblings.filter((held) => held !== before), { scope, crl, digest, refreshedAt: isNews || origin === "authority" ? clock.monotonicMilliseconds() : -Infinity }]);
    this.#generation += 1;
    this.#tell(added);
    return { scope, crlNumber, crl, added };
  }

  /** The CA said over TLS that this scope's CRL is the latest (304): moves the time of its refresh, nothing else. */
  confirmCurrent(scope: string): void {
    const held = [...this.#held.values()].flat().find((candidate) => candidate.scope === scope);
    if (held !== undefined) held.refreshedAt = this.#options.clock.monotonicMilliseconds();
  }

  /** The CRLs in force, one of each scope, those for CA certificates first: what a verifier that keeps none of its own has to be handed. */
  crls(): readonly CertificateRevocationList[] {
    const rank = ({ crl, scope }: HeldCrl): string => `${crl.issuingDistributionPoint?.onlyContainsCACerts === true ? 0 : 1} ${scope}`;
    return [...this.#held.values()].flat().sort((a, b) => (rank(a) < rank(b) ? -1 : 1)).map(({ crl }) => crl);
  }

  /**
   * Proves that no certificate of the path, its anchor aside, is revoked, nor has expired since the path was validated.
   * @throws SignetError certificate-expired | certificate-revoked | crl-missing | crl-stale | crl-refresh-overdue | clock-rolled-back
   */
  check(path: ValidatedPath): NotRevoked {
    if (!isValidatedPath(path)) throw new SignetError("internal", "Revocation is checked of validated paths alone.");
    const { clock, maxAgeMilliseconds } = this.#options;
    const now = clock.now();
    const monotonic = clock.monotonicMilliseconds();
    const validFrom = this.#requireClock(now);
    let validUntil = Infinity;
    let freshUntil = Infinity;
    path.chain.slice(0, -1).forEach((certificate, index) => {
      const issuer = path.chain[index + 1] as Certificate;
      if (now.getTime() > certificate.notAfterTime) {
        throw new SignetError("certificate-expired", `The certificate ${certificate.serialNumber} (${certificate.label}) expired at ${certificate.notAfter.toISOString()}.`, { details: { notAfter: certificate.notAfter.toISOString() } });
      }
      const held = this.#covering(certificate, issuer);
      if (held === undefined) throw new SignetError("crl-missing", `No CRL covers ${certificate.label} (serial number ${certificate.serialNumber}).`, { details: { serialNumber: certificate.serialNumber } });
      const { crl, refreshedAt } = held;
      if (crl.has(certificate.serialNumberOctets)) throw revoked(certificate, crl);
      if (crl.nextUpdate.getTime() <= now.getTime()) throw stale(crl);
      if (monotonic - refreshedAt > maxAgeMilliseconds) throw new SignetError("crl-refresh-overdue", overdueMessage(crl, monotonic - refreshedAt, maxAgeMilliseconds));
      validUntil = Math.min(validUntil, crl.nextUpdate.getTime() - 1, certificate.notAfterTime);
      freshUntil = Math.min(freshUntil, refreshedAt + maxAgeMilliseconds);
    });
    return new NotRevoked(construction, path, { generation: this.#generation, validFrom, validUntil, freshUntil });
  }

  /**
   * The proof itself while everything that it rests on stands, which costs three comparisons; otherwise a new one, or a refusal.
   * @throws SignetError as {@link check}
   */
  recheck(proof: NotRevoked): NotRevoked {
    if (!NotRevoked.is(proof)) throw new SignetError("internal", "Only a NotRevoked can be rechecked.");
    const { generation, validFrom, validUntil, freshUntil } = NotRevoked.standingOf(proof);
    const { clock } = this.#options;
    const now = clock.now().getTime();
    if (generation === this.#generation && now >= validFrom && now <= validUntil && clock.monotonicMilliseconds() <= freshUntil) return proof;
    return this.check(proof.path);
  }

  /** What this party has to wait for before it can accept anybody, in words; undefined when nothing is missing. */
  waitingFor(): string | undefined {
    const { clock, maxAgeMilliseconds } = this.#options;
    const held = [...this.#held.values()].flat();
    if (!held.some(({ crl }) => crl.issuingDistributionPoint?.onlyContainsUserCerts !== true)) return "the CRL for CA certificates";
    if (!held.some(({ crl }) => crl.issuingDistributionPoint?.onlyContainsCACerts !== true)) return "the CRL for end-entity certificates";
    const now = clock.now().getTime();
    const clockFloor = this.#clockFloor();
    if (now < clockFloor) return `the clock to reach ${new Date(clockFloor).toISOString()}, which verified CRLs show to have passed`;
    const old = held.find(({ crl }) => crl.nextUpdate.getTime() <= now);
    if (old !== undefined) return `the next CRL of ${old.crl.issuer}: number ${old.crl.crlNumber} ended at ${old.crl.nextUpdate.toISOString()}`;
    const overdue = held.find(({ refreshedAt }) => clock.monotonicMilliseconds() - refreshedAt > maxAgeMilliseconds);
    return overdue === undefined ? undefined : `an answer of the CA that the CRL of ${overdue.crl.issuer} is still the latest`;
  }

  /** @returns a function that ends the subscription */
  onRevoked(listener: (added: readonly CertificateId[]) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** The CRLs in force. */
  status(): CrlStatus[] {
    const monotonic = this.#options.clock.monotonicMilliseconds();
    return [...this.#held.values()].flat().map(({ scope, crl, refreshedAt }) => ({
      scope,
      issuer: crl.issuer.toString(),
      crlNumber: crl.crlNumber ?? 0n,
      thisUpdate: crl.thisUpdate,
      nextUpdate: crl.nextUpdate,
      entries: crl.size,
      ageMilliseconds: monotonic - refreshedAt,
    }));
  }

  /** Every subscriber hears of it, whatever befalls another: one of them may have connections to cut. */
  #tell(added: readonly CertificateId[]): void {
    const failures: unknown[] = [];
    for (const listener of this.#listeners) {
      try {
        listener(added);
      } catch (error) {
        failures.push(error);
      }
    }
    if (failures.length > 0) throw new SignetError("internal", "A CRL is in force, and a subscriber failed to act on it.", { cause: failures[0] });
  }

  #covering(certificate: Certificate, issuer: Certificate): HeldCrl | undefined {
    const isCa = certificate.extensions.basicConstraints?.ca === true;
    return this.#held.get(issuer.extensions.subjectKeyIdentifier ?? "")?.find(({ crl }) => {
      const scope = crl.issuingDistributionPoint;
      if (!crl.issuer.equals(certificate.issuer)) return false;
      if (scope === undefined) return true;
      if (isCa ? scope.onlyContainsUserCerts : scope.onlyContainsCACerts) return false;
      return scope.fullNames.length === 0 || sharesDistributionPoint(certificate, scope.fullNames);
    });
  }

  #verifyIssuer(crl: CrlHead, keyId: string, issuers: readonly Certificate[], at: Date): void {
    const { trustAnchors } = this.#options;
    const candidates = [...trustAnchors, ...issuers].filter((candidate) => candidate.subject.equals(crl.issuer));
    const issuer = candidates.find((candidate) => candidate.extensions.subjectKeyIdentifier === keyId);
    if (issuer === undefined) throw new SignetError("crl-signature-invalid", `The CRL of ${crl.issuer} is by a key that none of the known issuers of that name has.`, { details: { keyId } });
    if (issuer.extensions.keyUsage?.has("cRLSign") !== true) throw new SignetError("crl-issuer-not-authorized", `${issuer.subject} may not sign CRLs: its certificate lacks cRLSign.`);
    if (!isStrongSignature(crl.signatureAlgorithm, { ...demands, purpose: "cRLSign", at })) throw new SignetError("crl-signature-invalid", `The CRL of ${crl.issuer} is signed with ${crl.signatureAlgorithm.oid}, which is too weak.`);
    crl.verifySignature(issuer);
    if (!trustAnchors.includes(issuer)) validatePath({ endEntity: issuer, intermediates: issuers, trustAnchors, purpose: "cRLSign", at });
  }

  #clockFloor(): number {
    return (this.#options.floors.latestThisUpdate?.getTime() ?? -Infinity) - clockToleranceMilliseconds;
  }

  #requireClock(now: Date): number {
    const floor = this.#clockFloor();
    if (now.getTime() < floor) {
      throw new SignetError("clock-rolled-back", `The clock says ${now.toISOString()}, before the verified CRL of ${this.#options.floors.latestThisUpdate?.toISOString() ?? ""}.`);
    }
    return floor;
  }
}

/** A CRL number has 20 octets at most (RFC 5280 section 5.2.3), and is positive. */
const crlNumberLimit = 2n ** 159n;

function requireSupportedScope(crl: CrlHead): { crlNumber: bigint; authorityKeyIdentifier: string } {
  const { crlNumber, authorityKeyIdentifier, issuingDistributionPoint: scope } = crl;
  const unsupported = (what: string) => new SignetError("crl-scope-unsupported", `The CRL of ${crl.issuer} ${what}.`);
  if (crl.unknownCritical.length > 0) throw unsupported(`has the critical extension ${crl.unknownCritical[0] ?? ""}, which is not understood`);
  if (crl.isDelta) throw unsupported("is a delta: it says nothing by itself");
  if (scope?.indirect === true) throw unsupported("is indirect");
  if (scope?.onlySomeReasons !== undefined) throw unsupported("covers only some reasons");
  if (scope?.onlyContainsAttributeCerts === true || scope?.relativeName !== undefined) throw unsupported("has a scope that no certificate of Signet is in");
  if (scope?.onlyContainsUserCerts === true && scope.onlyContainsCACerts) throw unsupported("covers no certificate");
  if (crlNumber === undefined || authorityKeyIdentifier === undefined) throw unsupported("lacks its number or its issuer's key identifier (RFC 5280 sections 5.2.1 and 5.2.3)");
  if (crlNumber >= crlNumberLimit) throw unsupported("has a number of more than 20 octets (RFC 5280 section 5.2.3)");
  return { crlNumber, authorityKeyIdentifier };
}

/** A scope is the issuer's key and the IssuingDistributionPoint, byte for byte. */
function scopeOf(issuerKeyId: string, crl: CertificateRevocationList): string {
  const scope = crl.issuingDistributionPoint;
  return `${issuerKeyId}/${scope === undefined ? "complete" : createHash("sha256").update(scope.der).digest("hex").slice(0, 16)}`;
}

function sharesDistributionPoint(certificate: Certificate, fullNames: readonly GeneralName[]): boolean {
  for (const point of certificate.extensions.crlDistributionPoints ?? []) {
    for (const name of point.fullNames ?? []) if (name.kind === "uri" && fullNames.some((other) => other.kind === "uri" && other.value === name.value)) return true;
  }
  return false;
}

function revoked({ serialNumber, label }: Certificate, crl: CertificateRevocationList): SignetError {
  const { reason = "unspecified", revocationDate } = crl.find(serialNumber) ?? {};
  const since = revocationDate?.toISOString() ?? "";
  return new SignetError("certificate-revoked", `The certificate ${serialNumber} (${label}) was revoked at ${since}: ${reason}.`, {
    details: { serialNumber, reason, revocationDate: since, crlNumber: String(crl.crlNumber) },
  });
}

function overdueMessage(crl: CertificateRevocationList, age: number, limit: number): string {
  if (age === Infinity) return `The CRL of ${crl.issuer} was seen before, and the CA has not confirmed since the start that it is the latest.`;
  return `The CRL of ${crl.issuer} was last confirmed ${Math.round(age / 1000)} s ago, over ${limit / 1000} s.`;
}

function stale(crl: CertificateRevocationList): SignetError {
  return new SignetError("crl-stale", `The CRL of ${crl.issuer}, number ${crl.crlNumber}, ended at ${crl.nextUpdate.toISOString()}.`, { details: { nextUpdate: crl.nextUpdate.toISOString() } });
}
