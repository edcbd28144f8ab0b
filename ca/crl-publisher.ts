import { setTimeout as delay } from "node:timers/promises";
import type { Certificate } from "#pki/certificate.ts";
import type { Clock } from "#pki/clock.ts";
import { buildCrl, CertificateRevocationList, type RevokedEntry } from "#pki/crl.ts";
import { SignetError } from "#pki/errors.ts";
import type { Signer } from "#pki/keys.ts";
import { lintCrl } from "#pki/lint.ts";
import type { Log } from "#pki/log.ts";
import type { AuditLog } from "#store/audit-log.ts";
import type { SqlEngine } from "#store/engine.ts";
import { expiryOf, revokedEntries, type CrlName } from "./ledger.ts";

/** One CRL that is published again and again: its scope never changes. */
export interface CrlScope {
  readonly name: CrlName;
  readonly issuer: Certificate;
  readonly signer: Signer;
  readonly only: "user" | "ca";
  /** The distribution point in the certificates, byte for byte; none for CA certificates. */
  readonly fullName?: string;
  readonly lifetimeMilliseconds: number;
  /** A new one follows after this, well before the old one ends. */
  readonly intervalMilliseconds: number;
}

export interface PublishedCrl {
  readonly name: CrlName;
  readonly crl: CertificateRevocationList;
  readonly publishedAt: Date;
}

export interface CrlPublisherOptions {
  readonly engine: SqlEngine;
  readonly audit: AuditLog;
  readonly clock: Clock;
  readonly log: Log;
  readonly scopes: readonly CrlScope[];
  /** Identity URI of the authority, for the audit log. */
  readonly actor: string;
}

/** A number that was taken, with what its CRL must hold. */
interface Reservation {
  readonly crlNumber: bigint;
  readonly thisUpdate: Date;
  readonly nextUpdate: Date;
  readonly entries: readonly RevokedEntry[];
}

const hour = 3_600_000;
/** How often the schedule is looked at. */
const tickMilliseconds = 60_000;
/** Longest wait for the clock to reach the next second; a clock further behind has been set back. */
const patienceMilliseconds = 2000;

/**
 * Publishes CRLs. Each goes through one gate before its first reader sees it, and is durable before it is served.
 * Publications of a scope run one after another; whoever asks while one runs shares the next.
 */
export class CrlPublisher {
  readonly #options: CrlPublisherOptions;
  readonly #current = new Map<CrlName, PublishedCrl>();
  readonly #running = new Map<CrlName, Promise<unknown>>();
  readonly #queued = new Map<CrlName, Promise<PublishedCrl>>();
  readonly #listeners = new Set<(published: PublishedCrl) => void>();
  /** Scopes whose last publication failed: the schedule tries them again at once. */
  readonly #failed = new Set<CrlName>();
  #timer: NodeJS.Timeout | undefined;

  private constructor(options: CrlPublisherOptions) {
    this.#options = options;
  }

  /** Takes up the last published CRL of each scope. @throws SignetError data-directory-corrupt */
  static async open(options: CrlPublisherOptions): Promise<CrlPublisher> {
    const publisher = new CrlPublisher(options);
    for (const scope of options.scopes) {
      const row = await options.engine.read((reads) =>
        reads.get("SELECT number, crl, published_at FROM crl WHERE name = ? AND crl IS NOT NULL ORDER BY number DESC LIMIT 1", scope.name),
      );
      if (row === undefined) continue;
      try {
        const crl = CertificateRevocationList.parse(row["crl"] as Uint8Array);
        crl.verifySignature(scope.issuer);
        if (crl.crlNumber !== BigInt(Number(row["number"]))) throw new SignetError("data-directory-corrupt", "the number differs");
        publisher.#current.set(scope.name, { name: scope.name, crl, publishedAt: new Date(Number(row["published_at"])) });
      } catch (cause) {
        throw new SignetError("data-directory-corrupt", `The stored CRL ${scope.name} was changed outside of this service.`, { cause });
      }
    }
    return publisher;
  }

  /** The CRL to serve; undefined before its first publication. */
  current(name: string): PublishedCrl | undefined {
    return this.#current.get(name as CrlName);
  }

  all(): readonly PublishedCrl[] {
    return [...this.#current.values()];
  }

  /** Tells of each publication, once it is durable. @returns ends it */
  onPublished(listener: (published: PublishedCrl) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /**
   * Publishes a CRL that holds everything committed before this call. Calls that come while another publication runs share the
   * one after it, so that a hundred revocations at once cost two CRLs.
   * @throws SignetError clock-rolled-back, lint-failed, data-directory-corrupt, storage-unavailable: the CRL of before stays
   */
  publish(name: CrlName): Promise<PublishedCrl> {
    const queued = this.#queued.get(name);
    if (queued !== undefined) return queued;
    const scope = this.#options.scopes.find((candidate) => candidate.name === name);
    if (scope === undefined) return Promise.reject(new SignetError("not-found", `No CRL ${name}.`));
    const next = this.#publishAfter(this.#running.get(name), scope);
    this.#queued.set(name, next);
    this.#running.set(
      name,
      next.then(
        () => this.#failed.delete(name),
        () => this.#failed.add(name),
      ),
    );
    return next;
  }

  /** Publishes what is due, and the leaf CRL in any case; whoever is served afterwards is served from fresh lists. Then keeps the schedule. */
  async start(): Promise<void> {
    for (const { name, only } of this.#options.scopes) if (only === "user" || this.#isDue(name)) await this.publish(name);
    this.#timer = setInterval(() => this.#tick(), tickMilliseconds);
    this.#timer.unref();
  }

  /** Ends the schedule and waits for what is under way. */
  async stop(): Promise<void> {
    clearInterval(this.#timer);
    await Promise.all(this.#running.values());
  }

  #tick(): void {
    for (const { name } of this.#options.scopes)
      if (this.#isDue(name) && !this.#queued.has(name))
        this.publish(name).catch((error: unknown) => this.#options.log.error({ err: error, crl: name }, "a CRL could not be published; the next attempt is in a minute"));
  }

  #isDue(name: CrlName): boolean {
    const published = this.#current.get(name);
    const scope = this.#options.scopes.find((candidate) => candidate.name === name);
    if (published === undefined || scope === undefined || this.#failed.has(name)) return true;
    const age = this.#options.clock.now().getTime() - published.publishedAt.getTime();
    return age < 0 || age >= scope.intervalMilliseconds;
  }

  async #publishAfter(earlier: Promise<unknown> | undefined, scope: CrlScope): Promise<PublishedCrl> {
    try {
      await earlier;
      await this.#waitForClock(scope);
    } finally {
      // From here on the entries are read: who comes later has to wait for the next.
      this.#queued.delete(scope.name);
    }
    return this.#publishNow(scope);
  }

  async #publishNow(scope: CrlScope): Promise<PublishedCrl> {
    const { engine, audit, clock, log, actor } = this.#options;
    const { name, issuer, signer } = scope;
    const reservation = await this.#reserve(scope);
    const issuingDistributionPoint = { only: scope.only, ...(scope.fullName !== undefined && { fullName: scope.fullName }) };
    const crl = CertificateRevocationList.parse(await buildCrl({ ...reservation, issuer, issuingDistributionPoint }, signer));
    await this.#passGate(scope, crl, reservation);
    const publishedAt = clock.now();
    const { crlNumber, thisUpdate, nextUpdate } = reservation;
    await engine.transaction(async (transaction) => {
      await transaction.run("UPDATE crl SET crl = ?, published_at = ? WHERE name = ? AND number = ?", crl.der, publishedAt.getTime(), name, crlNumber);
      // The numbers stay; of the bytes only the last are needed again.
      await transaction.run("UPDATE crl SET crl = NULL WHERE name = ? AND number < ? AND crl IS NOT NULL", name, crlNumber);
      await audit.append(transaction, {
        action: "crl.published",
        actor,
        subject: name,
        details: { crlNumber: String(crlNumber), thisUpdate: thisUpdate.toISOString(), nextUpdate: nextUpdate.toISOString(), entries: crl.size },
      });
    });
    const published = { name, crl, publishedAt };
    this.#current.set(name, published);
    log.info({ crl: name, crlNumber: String(crlNumber), entries: crl.size }, "CRL published");
    for (const listener of this.#listeners) listener(published);
    return published;
  }

  /**
   * thisUpdate rises by a second with each CRL of a scope, and never lies ahead of the clock. More than one publication a second
   * uses up the hour that it lies behind; after that, each waits for its second, and what comes meanwhile shares it.
   */
  async #waitForClock({ name }: CrlScope): Promise<void> {
    const { engine, clock } = this.#options;
    const row = await engine.read((reads) => reads.get("SELECT MAX(this_update) AS last FROM crl WHERE name = ?", name));
    const ahead = Number(row?.["last"] ?? 0) + 1000 - clock.now().getTime();
    if (ahead > patienceMilliseconds)
      throw new SignetError("clock-rolled-back", `The clock shows ${clock.now().toISOString()}, and the CRL ${name} is from ${new Date(Number(row?.["last"])).toISOString()} already.`);
    if (ahead > 0) await delay(ahead);
  }

  /** Takes the next number and reads the entries in one transaction: no CRL of a higher number can know less. */
  #reserve(scope: CrlScope): Promise<Reservation> {
    const { engine, clock } = this.#options;
    return engine.transaction(async (transaction) => {
      const last = await transaction.get("SELECT MAX(number) AS number, MAX(this_update) AS this_update FROM crl WHERE name = ?", scope.name);
      const number = Number(last?.["number"] ?? 0) + 1;
      const previousUpdate = Number(last?.["this_update"] ?? 0);
      const now = clock.now().getTime();
      const thisUpdate = new Date(Math.floor(Math.max(previousUpdate + 1000, now - hour) / 1000) * 1000);
      const nextUpdate = new Date(Math.floor(Math.min(now + scope.lifetimeMilliseconds, scope.issuer.notAfter.getTime()) / 1000) * 1000);
      // An expired certificate goes once a published CRL has carried it beyond its validity.
      const published = this.#current.get(scope.name)?.crl.thisUpdate ?? new Date(0);
      const entries = await revokedEntries(transaction, scope.name, published);
      await transaction.run("INSERT INTO crl (name, number, this_update, next_update) VALUES (?, ?, ?, ?)", scope.name, number, thisUpdate.getTime(), nextUpdate.getTime());
      return { crlNumber: BigInt(number), thisUpdate, nextUpdate, entries };
    });
  }

  /** What a CRL has to satisfy before anyone is served from it. */
  async #passGate(scope: CrlScope, crl: CertificateRevocationList, { entries }: Reservation): Promise<void> {
    const refuse = (reason: string): never => {
      throw new SignetError("data-directory-corrupt", `The CRL ${scope.name} was not published: ${reason}.`);
    };
    const previous = this.#current.get(scope.name)?.crl;
    lintCrl(crl, {
      issuer: scope.issuer,
      scope: scope.only,
      at: this.#options.clock.now(),
      ...(scope.fullName !== undefined && { distributionPoint: scope.fullName }),
      ...(previous !== undefined && { previous }),
    });
    crl.verifySignature(scope.issuer);
    if (crl.size !== entries.length) refuse("its entries are not the ledger's");
    for (const entry of entries) {
      const found = crl.find(entry.serialNumber);
      if (found === undefined || found.reason !== entry.reason || found.revocationDate.getTime() !== entry.revocationDate.getTime()) refuse("its entries are not the ledger's");
    }
    if (previous === undefined) return;
    if ((crl.crlNumber ?? 0n) <= (previous.crlNumber ?? 0n)) refuse("its number does not rise");
    if (crl.thisUpdate.getTime() - previous.thisUpdate.getTime() < 1000) refuse("its thisUpdate does not rise by a second");
    for (const { serialNumber } of previous.entries()) {
      if (crl.find(serialNumber) !== undefined) continue;
      const notAfter = await this.#options.engine.read((reads) => expiryOf(reads, serialNumber));
      if (notAfter === undefined || notAfter >= previous.thisUpdate) refuse(`the revocation of ${serialNumber} has vanished from the ledger`);
    }
  }
}
