import { randomInt } from "node:crypto";
import { setTimeout as delay } from "node:timers/promises";
import type { Certificate } from "./certificate.ts";
import type { Clock } from "./clock.ts";
import { SignetError } from "./errors.ts";
import type { Log } from "./log.ts";
import type { AcceptedCrl, RevocationStore } from "./revocation.ts";

/** Where CRLs come from. */
export interface CrlSource {
  /** Certificates that may have issued the CRLs. */
  issuers(): Promise<readonly Certificate[]>;
  crlNames(): Promise<readonly string[]>;
  /** With `waitSeconds` the answer may be held until there is news. */
  fetchCrl(name: string, wanted: { readonly etag?: string | undefined; readonly waitSeconds?: number | undefined; readonly signal?: AbortSignal | undefined }): Promise<FetchedCrl>;
}

/** `publishedAt`: as the CA itself says over TLS. */
export type FetchedCrl = { readonly status: "new"; readonly der: Uint8Array; readonly etag?: string; readonly publishedAt?: Date } | { readonly status: "unchanged" };

/** Long poll, RFC 7240 `Prefer: wait`. */
const waitSeconds = 25;
/** Least time between two questions where the CA does not hold the answer. */
const pauseMilliseconds = 5000;
const backOffMilliseconds = { first: 200, longest: 15_000 };
/** How often the list of CRLs is asked for, since a CA may publish more of them as time goes by. */
const listMilliseconds = 30_000;

export interface CrlRefresherOptions {
  readonly store: RevocationStore;
  /** The CA itself, over TLS that was verified, so that its word that nothing is new counts. */
  readonly source: CrlSource;
  /** Asked in their order while the CA does not answer. What they bring counts by its signature, and as a refresh only where it is news. */
  readonly furtherSources?: readonly CrlSource[];
  readonly clock: Clock;
  readonly log: Log;
  readonly listMilliseconds?: number;
}

/** Keeps a party's CRLs fresh: a long poll per CRL, with back-off and jitter and other sources when the CA does not answer. Nothing is locked during a fetch. */
export class CrlRefresher {
  readonly #options: CrlRefresherOptions;
  readonly #latest = new Map<string, { readonly scope: string; readonly etag: string | undefined }>();
  /** ETags of the further sources' answers that were accepted, by source and name. */
  readonly #furtherTags = new Map<string, string>();
  #furtherRound: Promise<void> | undefined;
  #issuers: readonly Certificate[] | undefined;
  #stop: AbortController | undefined;

  constructor(options: CrlRefresherOptions) {
    this.#options = options;
  }

  /**
   * Asks for every CRL once, and waits for the answers; the further sources where the CA has none.
   * @throws SignetError why the CA's first one failed, where something is missing still
   */
  async refreshOnce(): Promise<void> {
    try {
      const names = await this.#options.source.crlNames();
      await Promise.all(names.map((name) => this.#refresh(name, undefined, undefined)));
    } catch (error) {
      await this.#askFurtherSources(undefined);
      if ((this.#options.furtherSources ?? []).length === 0 || this.#options.store.waitingFor() !== undefined) throw error;
    }
  }

  /** Goes on until {@link stop}. */
  start(): void {
    if (this.#stop !== undefined) return;
    this.#stop = new AbortController();
    void this.#watchAll(this.#stop.signal);
  }

  stop(): void {
    this.#stop?.abort();
    this.#stop = undefined;
  }

  async #watchAll(signal: AbortSignal): Promise<void> {
    const watched = new Set<string>();
    await this.#persistently(signal, "the list of CRLs", async () => {
      for (const name of await this.#options.source.crlNames()) {
        if (watched.has(name)) continue;
        watched.add(name);
        void this.#persistently(signal, name, () => this.#poll(name, signal));
      }
      await pause(this.#options.listMilliseconds ?? listMilliseconds, signal);
    });
  }

  /** Repeats a step until it is stopped; after a failure it asks the further sources, and waits longer each time. */
  async #persistently(signal: AbortSignal, what: string, step: () => Promise<void>): Promise<void> {
    const { log } = this.#options;
    let failures = 0;
    while (!signal.aborted) {
      try {
        await step();
        if (failures > 0) log.info({ crl: what, failures }, "revocation data is refreshed again");
        failures = 0;
      } catch (error) {
        if (signal.aborted) return;
        failures += 1;
        const code = error instanceof SignetError ? error.code : "internal";
        log.warn({ crl: what, code, failures, reason: error instanceof Error ? error.message : "" }, "revocation data could not be refreshed");
        // Not waited for: the CA may be back before a distribution point has failed.
        void this.#askFurtherSources(signal);
        const limit = Math.min(backOffMilliseconds.longest, backOffMilliseconds.first * 2 ** Math.min(failures - 1, 10));
        await pause(randomInt(Math.ceil(limit / 2), limit + 1), signal);
      }
    }
  }

  async #poll(name: string, signal: AbortSignal): Promise<void> {
    const { clock } = this.#options;
    const asked = clock.monotonicMilliseconds();
    const news = await this.#refresh(name, waitSeconds, signal);
    const early = clock.monotonicMilliseconds() - asked < (waitSeconds * 1000) / 2;
    if (!news && early) await pause(pauseMilliseconds, signal);
  }

  /** @returns whether there was news */
  async #refresh(name: string, wait: number | undefined, signal: AbortSignal | undefined): Promise<boolean> {
    const { store, source } = this.#options;
    const latest = this.#latest.get(name);
    const answer = await source.fetchCrl(name, { etag: latest?.etag, waitSeconds: latest === undefined ? undefined : wait, signal });
    if (answer.status === "unchanged") {
      if (latest === undefined) throw new SignetError("remote-malformed", `The CA says that ${name} is unchanged, and was asked for it for the first time.`);
      store.confirmCurrent(latest.scope);
      return false;
    }
    const { generation } = store;
    const { scope } = await this.#accept(answer.der);
    this.#latest.set(name, { scope, etag: answer.etag });
    return store.generation !== generation;
  }

  /** One round over all further sources at a time, however many questions to the CA failed. Their own failures are the CA's to make good. */
  #askFurtherSources(signal: AbortSignal | undefined): Promise<void> {
    this.#furtherRound ??= this.#askEachFurtherSource(signal).finally(() => (this.#furtherRound = undefined));
    return this.#furtherRound;
  }

  async #askEachFurtherSource(signal: AbortSignal | undefined): Promise<void> {
    const { store, furtherSources = [], log } = this.#options;
    for (const [index, source] of furtherSources.entries()) {
      for (const name of await source.crlNames().catch(() => [])) {
        const key = `${index} ${name}`;
        try {
          const answer = await source.fetchCrl(name, { etag: this.#furtherTags.get(key), signal });
          if (answer.status === "unchanged") continue;
          const { generation } = store;
          const { scope, crlNumber } = store.accept(answer.der, [...(this.#issuers ?? []), ...(await source.issuers())], "elsewhere");
          if (answer.etag !== undefined) this.#furtherTags.set(key, answer.etag);
          if (store.generation !== generation) log.info({ crl: name, scope, crlNumber: crlNumber.toString() }, "a CRL came from a further source");
        } catch (error) {
          if (signal?.aborted === true) return;
          log.debug({ crl: name, code: error instanceof SignetError ? error.code : "internal" }, "a further source brought nothing");
        }
      }
    }
  }

  /** With the issuers that are known, so that a revocation waits for nothing; one that is by none of them has them fetched again. */
  async #accept(der: Uint8Array): Promise<AcceptedCrl> {
    const { store, source } = this.#options;
    if (this.#issuers !== undefined) {
      try {
        return store.accept(der, this.#issuers);
      } catch (error) {
        if (!(error instanceof SignetError && (error.code === "crl-signature-invalid" || error.code === "certificate-expired"))) throw error;
      }
    }
    this.#issuers = await source.issuers();
    return store.accept(der, this.#issuers);
  }
}

async function pause(milliseconds: number, signal: AbortSignal): Promise<void> {
  // Ends early, without an error, when the refresher is stopped; holds no process open.
  await delay(milliseconds, undefined, { signal, ref: false }).catch(() => {});
}
