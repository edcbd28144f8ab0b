import { once } from "node:events";
import { Certificate } from "#pki/certificate.ts";
import { SignetError } from "#pki/errors.ts";
import { isInLastThird } from "#pki/identity.ts";
import { createCsr, generateKeyPair } from "#pki/keys.ts";
import type { Log } from "#pki/log.ts";
import type { Credential } from "#pki/mtls.ts";
import type { CaClient } from "../command-line/ca-client.ts";

/** Long enough that a renewal in the last third comes before the page itself warns of an end within a week. */
const validityDays = 30;
const renewalCheckMilliseconds = 3_600_000;
/** A CA that is stopping too keeps nobody waiting. */
const revocationMilliseconds = 3000;

/** Key and certificate of the status page's own server, `service/status` at localhost. The key is made at each start and kept in memory alone. */
export class StatusCredential {
  #current: Credential;
  readonly #renewed = new Set<() => void>();
  readonly #timer: NodeJS.Timeout;
  readonly #log: Log;

  private constructor(ca: CaClient, first: Credential, log: Log) {
    this.#current = first;
    this.#log = log;
    this.#timer = setInterval(() => {
      this.#renewIfDue(ca).catch((error: unknown) => log.error({ err: error }, "the status page's certificate could not be renewed; the next attempt is in an hour"));
    }, renewalCheckMilliseconds);
    this.#timer.unref();
  }

  /** @throws SignetError as the CA refuses */
  static async obtain(ca: CaClient, log: Log): Promise<StatusCredential> {
    return new StatusCredential(ca, await make(ca), log);
  }

  get current(): Credential {
    return this.#current;
  }

  onRenewal(listener: () => void): void {
    this.#renewed.add(listener);
  }

  /** Revokes the certificate, whose key nobody has from here on. Where the CA does not answer in time, it runs out by itself. */
  async stop(ca: CaClient): Promise<void> {
    clearInterval(this.#timer);
    const [certificate] = this.#current.chain;
    if (certificate === undefined) return;
    const revocation = ca.revoke({ serialNumber: certificate.serialNumber, reason: "cessationOfOperation" });
    const limit = AbortSignal.timeout(revocationMilliseconds);
    try {
      await Promise.race([revocation, once(limit, "abort").then(() => Promise.reject(new SignetError("timed-out", "The CA did not answer.")))]);
    } catch (error) {
      this.#log.warn({ err: error }, "the status page's certificate could not be revoked; it runs out by itself");
    }
  }

  async #renewIfDue(ca: CaClient): Promise<void> {
    const [certificate] = this.#current.chain;
    if (certificate !== undefined && !isInLastThird(certificate, ca.clock.now())) return;
    this.#current = await make(ca);
    for (const listener of this.#renewed) listener();
  }
}

async function make(ca: CaClient): Promise<Credential> {
  const { privateKey } = await generateKeyPair("ec-p256");
  const csr = Buffer.from(await createCsr(privateKey, { commonName: "status" })).toString("base64");
  const { chain } = await ca.issue({ csr, kind: "service", name: "status", role: "server", dns: ["localhost"], ip: ["127.0.0.1"], validityDays });
  return { privateKey, chain: Certificate.listFromPem(chain) };
}
