import { randomInt } from "node:crypto";
import { setTimeout as delay } from "node:timers/promises";
import type { Certificate } from "./certificate.ts";
import type { Clock } from "./clock.ts";
import { SignetError } from "./errors.ts";
import type { Log } from "./log.ts";
import type { AcceptedCrl, RevocationStore } from "./revocation.ts";

/** Where CRLs come from: the CA itself, over TLS that was verified, so that its word that nothing is new counts. */
export interface CrlSource {
  /** Certificates that may have issued the CRLs. */
  issuers(): Promise<readonly Certificate[]>;
  crlNames(): Promise<readonly string[]>;
  /** With `waitSeconds` the answer may be held until there is news. */
  fetchCrl(name: string, wanted: { readonly etag?: string | undefined; readonly waitSeconds?: number | undefined; readonly signal?: AbortSignal | undefined }): Promise<FetchedCrl>;
}

export type FetchedCrl = { readonly status: "new"; readonly der: Uint8Array; readonly etag?: string } | { readonly status: "unchanged" };

/** Long poll, RFC 7240 `Prefer: wait`. */
const waitSeconds = 25;
/** Least time between two questions where the CA does not hold the answer. */
const pauseMilliseconds = 5000;
const backOffMilliseconds = { first: 200, longest: 15_000 };

export interface CrlRefresherOptions {
  readonly store: RevocationStore;
  readonly source: CrlSource;
  readonly clock: Clock;
  readonly log: Log;
}

/** Keeps a party's CRLs fresh: a long poll per CRL, with back-off and jitter when the CA does not answer. Nothing is locked during a fetch. */
export class CrlRefresher {
  readonly #options: CrlRefresherOptions;
  readonly #latest = new Map<string, { readonly scope: string; readonly etag: string | undefined }>();
  #issuers: readonly Certificate[] | undefined;
  #stop: AbortController | undefined;

  constructor(options: CrlRefresherOptions) {
    this.#options = options;
  }

  /** Asks for every CRL once, and waits for the answers. @throws SignetError why the first one failed */
  async refreshOnce(): Promise<void> {
    const names = await this.#options.source.crlNames();
    await Promise.all(names.map((name) => this.#refresh(name, undefined, undefined)));
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
    let names: readonly string[] = [];
    await this.#persistently(signal, "the list of CRLs", async () => {
      names = await this.#options.source.crlNames();
      return "done";
    });
    await Promise.all(names.map((name) => this.#persistently(signal, name, () => this.#poll(name, signal))));
  }

  /** Repeats a step until it is done or stopped; after a failure it waits longer each time. */
  async #persistently(signal: AbortSignal, what: string, step: () => Promise<"again" | "done">): Promise<void> {
    const { log } = this.#options;
    let failures = 0;
    while (!signal.aborted) {
      try {
        if ((await step()) === "done") return;
        if (failures > 0) log.info({ crl: what, failures }, "revocation data is refreshed again");
        failures = 0;
      } catch (error) {
        if (signal.aborted) return;
        failures += 1;
        const code = error instanceof SignetError ? error.code : "internal";
        log.warn({ crl: what, code, failures, reason: error instanceof Error ? error.message : "" }, "revocation data could not be refreshed");
        const limit = Math.min(backOffMilliseconds.longest, backOffMilliseconds.first * 2 ** Math.min(failures - 1, 10));
        await pause(randomInt(Math.ceil(limit / 2), limit + 1), signal);
      }
    }
  }

  async #poll(name: string, signal: AbortSignal): Promise<"again"> {
    const { clock } = this.#options;
    const asked = clock.monotonicMilliseconds();
    const news = await this.#refresh(name, waitSeconds, signal);
    const early = clock.monotonicMilliseconds() - asked < (waitSeconds * 1000) / 2;
    if (!news && early) await pause(pauseMilliseconds, signal);
    return "again";
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
