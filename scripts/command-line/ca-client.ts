import type { z } from "zod";
import { identityUri } from "#pki/certificate-profile.ts";
import type { Certificate } from "#pki/certificate.ts";
import type { Clock } from "#pki/clock.ts";
import { CertificateRevocationList } from "#pki/crl.ts";
import { SignetError } from "#pki/errors.ts";
import { requestOverMutualTls } from "#pki/http-client.ts";
import type { EnrolledIdentity } from "#pki/identity.ts";
import { alpn, MutualAgent } from "#pki/mtls.ts";
import {
  caRoutes,
  certificateAnswer,
  certificateDetails,
  certificatesAnswer,
  crlMediaType,
  crlSummary,
  crlsAnswer,
  revocationAnswer,
  tokenAnswer,
  type CertificateAnswer,
  type CertificateDescription,
  type CertificateRequestBody,
  type CrlSummary,
  type RevocationAnswer,
  type RevocationRequest,
  type TokenAnswer,
  type TokenRequest,
} from "#pki/protocol-ca.ts";
import { caSummary, type CaSummary } from "#pki/protocol-summary.ts";
import type { RevocationStore } from "#pki/revocation.ts";

/**
 * The CA's API for operators, on its mutual listener. The operator's certificate is the only credential, and the CA's refusals
 * come as SignetError of the same code.
 */
export class CaClient {
  readonly trustDomain: string;
  readonly trustAnchors: readonly Certificate[];
  readonly clock: Clock;
  /** What the operator knows of revocations, by CRLs that were verified. */
  readonly revocation: RevocationStore;
  readonly #url: string;
  readonly #issuers: readonly Certificate[];
  readonly #agent: MutualAgent;

  /** `mutualUrl`: base URL of the CA's mutual listener, such as https://localhost:7441. */
  constructor(i: { readonly operator: EnrolledIdentity; readonly mutualUrl: string; readonly clock: Clock }) {
    const { operator, clock } = i;
    this.trustDomain = operator.identity.trustDomain;
    this.trustAnchors = operator.trustAnchors;
    this.clock = clock;
    this.revocation = operator.revocation;
    this.#url = i.mutualUrl;
    this.#issuers = operator.credential("client").chain;
    this.#agent = new MutualAgent({
      credential: () => operator.credential("client"),
      trustAnchors: operator.trustAnchors,
      revocation: operator.revocation,
      clock,
      alpn: alpn.http,
      expect: { uri: identityUri(this.trustDomain, "service", "ca") },
    });
  }

  /** Makes a one-time enrolment token. */
  createToken(request: TokenRequest): Promise<TokenAnswer> {
    return this.#call("POST", caRoutes.tokens, tokenAnswer, request);
  }

  /** Certifies the key of a CSR. @throws SignetError csr-signature-invalid, key-rejected, key-barred, name-not-permitted */
  issue(request: CertificateRequestBody): Promise<CertificateAnswer> {
    return this.#call("POST", caRoutes.certificates, certificateAnswer, request);
  }

  /** Every certificate that fits, page after page. */
  async listCertificates(filter: { readonly identity?: string; readonly state?: CertificateDescription["state"] } = {}): Promise<readonly CertificateDescription[]> {
    const certificates: CertificateDescription[] = [];
    let cursor: string | undefined;
    do {
      const query = new URLSearchParams({ ...filter, limit: "500", ...(cursor === undefined ? {} : { cursor }) });
      const page = await this.#call("GET", `${caRoutes.certificates}?${query}`, certificatesAnswer);
      certificates.push(...page.certificates);
      cursor = page.nextCursor;
    } while (cursor !== undefined);
    return certificates;
  }

  /** @throws SignetError not-found */
  describeCertificate(serialNumber: string): Promise<z.output<typeof certificateDetails>> {
    return this.#call("GET", caRoutes.certificate(encodeURIComponent(serialNumber)), certificateDetails);
  }

  /** When it resolves, the revocation is durable and on a published CRL. @throws SignetError not-found */
  revoke(request: RevocationRequest): Promise<RevocationAnswer> {
    return this.#call("POST", caRoutes.revocations, revocationAnswer, request);
  }

  /** Certificates by state, who is connected, the last audit records. */
  summary(): Promise<CaSummary> {
    return this.#call("GET", caRoutes.summary, caSummary);
  }

  async listCrls(): Promise<readonly CrlSummary[]> {
    return (await this.#call("GET", caRoutes.crls, crlsAnswer)).crls;
  }

  /** Publishes a new CRL of leaves now, whatever the schedule says. */
  publishCrl(): Promise<CrlSummary> {
    return this.#call("POST", caRoutes.crls, crlSummary, {});
  }

  /** The CRLs in force, as they are published. Their signatures are the reader's to check. */
  async crls(): Promise<readonly CertificateRevocationList[]> {
    const names = (await this.listCrls()).map(({ name }) => name);
    return Promise.all(names.map(async (name) => CertificateRevocationList.parse((await this.#send("GET", caRoutes.crl(encodeURIComponent(name)), crlMediaType)).body)));
  }

  /** Verifies the CRLs in force and puts them in force here too. @throws SignetError as RevocationStore.accept */
  async refreshRevocation(): Promise<void> {
    for (const crl of await this.crls()) this.revocation.accept(crl.der, this.#issuers);
  }

  close(): void {
    this.#agent.destroy();
  }

  async #call<S extends z.ZodType>(method: "GET" | "POST", route: string, schema: S, body?: unknown): Promise<z.output<S>> {
    const answer = await this.#send(method, route, "application/json", body);
    let parsed: unknown;
    try {
      parsed = JSON.parse(Buffer.from(answer.body).toString("utf8"));
    } catch (cause) {
      throw new SignetError("remote-malformed", "The CA's answer is not JSON.", { cause });
    }
    const result = schema.safeParse(parsed);
    if (!result.success) throw new SignetError("remote-malformed", `The CA's answer to ${method} ${route} is not of the agreed shape.`, { cause: result.error });
    return result.data;
  }

  #send(method: "GET" | "POST", route: string, accept: string, body?: unknown) {
    return requestOverMutualTls({
      agent: this.#agent,
      url: new URL(route, this.#url).href,
      method,
      headers: { accept, ...(body === undefined ? {} : { "content-type": "application/json" }) },
      ...(body === undefined ? {} : { body: Buffer.from(JSON.stringify(body)) }),
    });
  }
}
