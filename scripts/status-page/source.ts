import { KmsClient } from "#agents/kms-client.ts";
import { identityUri } from "#pki/certificate-profile.ts";
import type { Clock } from "#pki/clock.ts";
import { SignetError } from "#pki/errors.ts";
import { EnrolledIdentity } from "#pki/identity.ts";
import type { Log } from "#pki/log.ts";
import { MutualAgent } from "#pki/mtls.ts";
import type { DeploymentMode } from "#pki/protocol-ca.ts";
import type { CaSummary, KmsSummary } from "#pki/protocol-summary.ts";
import { CaClient } from "../command-line/ca-client.ts";

/** What a service said last, when, and why it says nothing since, where that is so. */
export interface Known<Summary> {
  readonly summary?: Summary;
  readonly at?: Date;
  readonly failure?: { readonly code: string; readonly message: string };
}

export interface StatusView {
  readonly at: Date;
  readonly mode: DeploymentMode;
  readonly trustDomain: string;
  readonly ca: Known<CaSummary>;
  readonly kms: Known<KmsSummary>;
}

/** However many pages are open, the services are asked once in this time. */
const sharedMilliseconds = 1000;
/** How often the operator's directory is looked at while its certificate is due to be renewed there. */
const renewalLookMilliseconds = 60_000;

export interface StatusSourceOptions {
  /** Directory of the operator who asks; the CA keeps the first operator's certificate renewed there. */
  readonly operatorDirectory: string;
  /** Base URL of the CA's mutual listener. */
  readonly mutualUrl: string;
  readonly kmsUrl: string;
  readonly clock: Clock;
  readonly log: Log;
}

/** Asks the CA and the KMS, as an operator over mutual TLS, and remembers what they said while they are down. */
export class StatusSource {
  readonly operator: EnrolledIdentity;
  readonly ca: CaClient;
  readonly clock: Clock;
  readonly #kms: KmsClient;
  readonly #kmsAgent: MutualAgent;
  readonly #options: StatusSourceOptions;
  #view: Pick<StatusView, "ca" | "kms"> = { ca: {}, kms: {} };
  #asking: Promise<void> | undefined;
  #askedAt = Number.NEGATIVE_INFINITY;
  #renewalLookedAt = Number.NEGATIVE_INFINITY;

  private constructor(options: StatusSourceOptions, operator: EnrolledIdentity) {
    const { clock, mutualUrl, kmsUrl } = options;
    this.#options = options;
    this.operator = operator;
    this.clock = clock;
    this.ca = new CaClient({ operator, mutualUrl, clock });
    this.#kmsAgent = new MutualAgent({
      credential: () => operator.credential("client"),
      trustAnchors: operator.trustAnchors,
      revocation: operator.revocation,
      clock,
      expect: { uri: identityUri(operator.identity.trustDomain, "service", "kms") },
    });
    this.#kms = new KmsClient({ url: kmsUrl, agent: this.#kmsAgent });
  }

  /** Opens the operator's identity and keeps its CRLs fresh until {@link stop}. @throws SignetError file-unusable, and what the first refresh brings */
  static async open(options: StatusSourceOptions): Promise<StatusSource> {
    const operator = EnrolledIdentity.open(options.operatorDirectory, { clock: options.clock, log: options.log });
    try {
      await operator.refreshRevocation();
    } catch (error) {
      operator.stop();
      throw error;
    }
    operator.startRevocationRefresh();
    return new StatusSource(options, operator);
  }

  /** What is known now. It never fails: what a service does not say is part of it. */
  async view(): Promise<Omit<StatusView, "mode">> {
    const { clock } = this.#options;
    if (clock.monotonicMilliseconds() - this.#askedAt >= sharedMilliseconds) this.#asking ??= this.#ask().finally(() => (this.#asking = undefined));
    await this.#asking;
    return { at: clock.now(), trustDomain: this.operator.identity.trustDomain, ...this.#view };
  }

  stop(): void {
    this.ca.close();
    this.#kmsAgent.destroy();
    this.operator.stop();
  }

  async #ask(): Promise<void> {
    this.#adoptRenewal();
    const [ca, kms] = await Promise.all([this.#known(this.#view.ca, () => this.ca.summary()), this.#known(this.#view.kms, () => this.#kms.summary())]);
    this.#view = { ca, kms };
    this.#askedAt = this.#options.clock.monotonicMilliseconds();
  }

  async #known<Summary>(before: Known<Summary>, ask: () => Promise<Summary>): Promise<Known<Summary>> {
    try {
      return { summary: await ask(), at: this.#options.clock.now() };
    } catch (error) {
      const known = error instanceof SignetError ? error : new SignetError("internal", "The service could not be asked.", { cause: error });
      if (known.code === "internal") this.#options.log.error({ err: error }, "a summary could not be asked for");
      return { ...before, failure: { code: known.code, message: known.message } };
    }
  }

  /** The CA renews the first operator's certificate in its directory, so it is there that a new one is looked for. */
  #adoptRenewal(): void {
    const { clock, operatorDirectory, log } = this.#options;
    const now = clock.monotonicMilliseconds();
    if (!this.operator.isRenewalDue("client") || now - this.#renewalLookedAt < renewalLookMilliseconds) return;
    this.#renewalLookedAt = now;
    try {
      const stored = EnrolledIdentity.open(operatorDirectory, { clock });
      const credential = stored.credential("client");
      stored.stop();
      if (credential.chain[0]?.serialNumber !== this.operator.credential("client").chain[0]?.serialNumber) this.operator.adopt("client", credential);
    } catch (error) {
      log.error({ err: error }, "the operator's renewed certificate could not be taken up");
    }
  }
}
