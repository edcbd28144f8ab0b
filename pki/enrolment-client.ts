import { X509Certificate, type KeyObject } from "node:crypto";
import https from "node:https";
import tls from "node:tls";
import { addressAttempts } from "./address-attempts.ts";
import { Certificate } from "./certificate.ts";
import type { Identity } from "./certificate-profile.ts";
import type { Clock } from "./clock.ts";
import type { CrlSource, FetchedCrl } from "./crl-refresher.ts";
import { longestCrlBytes } from "./crl-sources.ts";
import { parseCertsOnly } from "./cms.ts";
import { SignetError } from "./errors.ts";
import { requestOverMutualTls } from "./http-client.ts";
import { alpn, connectToServer, type Credential, serverNameIndication } from "./mtls.ts";
import type { ValidatedPath } from "./path-validation.ts";
import { caRoutes, crlMediaType, directoryAnswer, type DirectoryAnswer, estMediaTypes, estRoutes, publishedAtHeader } from "./protocol-ca.ts";
import type { RevocationStore } from "./revocation.ts";

/** How long a single request to the CA may take, long polls aside. */
const requestMilliseconds = 15_000;
/** The same for a CRL, which may have a million entries. */
const crlMilliseconds = 60_000;

/**
 * Root certificate that a CA shows in its TLS handshake, if its SHA-256 is the pinned one (RFC 7030 section 4.1.1). With no anchor
 * to verify against, the handshake is always refused here: its certificates are read and nothing is sent.
 * @param rootFingerprint SHA-256 of the root certificate, 64 hexadecimal digits
 * @throws SignetError root-fingerprint-mismatch | remote-unreachable | timed-out
 */
export async function fetchPinnedRoot(caUrl: URL, rootFingerprint: string): Promise<Certificate> {
  const shown = await new Promise<X509Certificate[]>((resolve, reject) => {
    const certificates: X509Certificate[] = [];
    const socket = tls.connect({ ...addressAttempts(hostOf(caUrl)), host: hostOf(caUrl), port: portOf(caUrl), servername: serverNameIndication(hostOf(caUrl)), ca: [], minVersion: "TLSv1.3", ALPNProtocols: [alpn.http] });
    socket.setTimeout(requestMilliseconds, () => socket.destroy(new SignetError("timed-out", `${caUrl.origin} did not answer in ${requestMilliseconds} ms.`)));
    // Before tls.connect's own listener, which ends the connection because nothing verifies without an anchor.
    socket.prependListener("secure", () => {
      for (let certificate = socket.getPeerX509Certificate(); certificate !== undefined && certificates.length < 8; certificate = certificate.issuerCertificate) {
        certificates.push(certificate);
      }
    });
    let failure: unknown;
    socket.on("error", (cause) => (failure = cause));
    socket.on("close", () => {
      if (certificates.length > 0) resolve(certificates);
      else reject(failure instanceof SignetError ? failure : new SignetError("remote-unreachable", `No TLS connection to the CA at ${caUrl.origin}. Is it running?`, { cause: failure }));
    });
  });
  const pinned = normalFingerprint(rootFingerprint);
  const root = shown.map((certificate) => Certificate.parse(certificate.raw)).find((certificate) => certificate.fingerprint === pinned);
  if (root === undefined) {
    throw new SignetError("root-fingerprint-mismatch", `The CA at ${caUrl.origin} does not show the root that was pinned: it is another CA, or somebody stands in between.`, {
      details: { pinned, shown: shown.at(-1)?.fingerprint256.replaceAll(":", "").toLowerCase() ?? "" },
    });
  }
  return root;
}

/** A SHA-256 in the spellings that tools print (colons, upper case, `sha256:`), as 64 lower-case digits. @throws SignetError usage */
export function normalFingerprint(text: string): string {
  const digits = text.trim().toLowerCase().replace(/^sha-?256[:=]/, "").replaceAll(":", "");
  if (!/^[0-9a-f]{64}$/.test(digits)) throw new SignetError("usage", "A root fingerprint is a SHA-256: 64 hexadecimal digits, with or without colons.");
  return digits;
}

export interface EnrolmentClientOptions {
  /** Enrolment listener of the CA, `https://host:port`. */
  readonly caUrl: URL;
  readonly root: Certificate;
  readonly revocation: RevocationStore;
  readonly clock: Clock;
  /** Client certificate for the mutual listener; read anew for each connection, so that a renewal takes effect. */
  readonly credential?: () => Credential | undefined;
}

/**
 * A party's side of the CA's enrolment API: EST (RFC 7030), the directory, CRLs.
 *
 * The CA's server is checked before the first byte goes out: path to the pinned root, profile, host name, and that it is the CA.
 * A CA certificate that is known to be revoked is refused always. Revocation data that is missing or too old is fatal to everything but the requests that bring
 * it, for the directory, the CA's certificates and the CRLs: these carry no secret, and what they bring proves itself by signatures up to the pinned root.
 */
export class EnrolmentClient implements CrlSource {
  readonly #options: EnrolmentClientOptions;
  readonly #trustAnchors: readonly Certificate[];
  readonly #agents: Readonly<Record<"checked" | "checkedButForFreshness", https.Agent>>;
  #directory: DirectoryAnswer | undefined;
  /** Trust domain that the CA's verified certificate names. */
  #trustDomain: string | undefined;

  constructor(options: EnrolmentClientOptions) {
    this.#options = options;
    this.#trustAnchors = [options.root];
    this.#agents = { checked: this.#agent(true), checkedButForFreshness: this.#agent(false) };
  }

  get trustDomain(): string | undefined {
    return this.#trustDomain;
  }

  /** Where the CA's other listeners and its CRLs are. */
  async directory(): Promise<DirectoryAnswer> {
    return this.#directory ?? this.#fetchDirectory();
  }

  async #fetchDirectory(): Promise<DirectoryAnswer> {
    const answer = await this.#request("checkedButForFreshness", "GET", new URL(caRoutes.directory, this.#options.caUrl), {});
    const parsed = directoryAnswer.safeParse(parseJson(answer.body));
    if (!parsed.success) throw new SignetError("remote-malformed", "The CA's directory does not parse.", { cause: parsed.error });
    if (parsed.data.trustDomain !== this.#trustDomain) throw new SignetError("peer-mismatch", "The CA's directory names another trust domain than its certificate.");
    this.#directory = parsed.data;
    return parsed.data;
  }

  /** CA certificates as EST gives them (RFC 7030 section 4.1); the pinned root must be among them. */
  async cacerts(): Promise<readonly Certificate[]> {
    const answer = await this.#request("checkedButForFreshness", "GET", new URL(estRoutes.cacerts, this.#options.caUrl), {});
    const certificates = certificatesOf(answer.body);
    if (!certificates.some((certificate) => certificate.fingerprint === this.#options.root.fingerprint)) {
      throw new SignetError("root-fingerprint-mismatch", "The CA's certificates do not contain the pinned root.");
    }
    return certificates;
  }

  /**
   * First certificate of an identity, by one-time token (RFC 7030 sections 3.2.3 and 4.2.1).
   * @returns the certificates of the answer; the end entity is the one that carries the request's key
   * @throws SignetError token-invalid | key-rejected | key-barred | csr-signature-invalid
   */
  async simpleenroll(name: string, token: string, csr: Uint8Array): Promise<Certificate[]> {
    const authorization = `Basic ${Buffer.from(`${name}:${token}`).toString("base64")}`;
    return this.#enroll(new URL(estRoutes.simpleenroll, this.#options.caUrl), csr, { authorization });
  }

  /** A certificate by the client certificate that one holds: a renewal, or the first of the server role. */
  async enrollMutually(route: (typeof estRoutes)["simplereenroll" | "serverSimpleenroll" | "serverSimplereenroll"], csr: Uint8Array): Promise<Certificate[]> {
    return this.#enroll(new URL(route, (await this.directory()).mutualUrl), csr, {});
  }

  /** Certificates that may have signed the CRLs: a CRL of a new issuing CA brings its certificate with the next question. */
  issuers(): Promise<readonly Certificate[]> {
    return this.cacerts();
  }

  /** Asked anew each time: a CA may have begun another CRL. */
  async crlNames(): Promise<readonly string[]> {
    return (await this.#fetchDirectory()).crls.map((crl) => crl.name);
  }

  /** One CRL over TLS from the CA; with a client certificate the CA may hold the answer until there is news (RFC 7240 section 4.3). */
  async fetchCrl(name: string, wanted: { readonly etag?: string | undefined; readonly waitSeconds?: number | undefined; readonly signal?: AbortSignal | undefined }): Promise<FetchedCrl> {
    const directory = await this.directory();
    const base = this.#options.credential?.() === undefined ? this.#options.caUrl : directory.mutualUrl;
    const answer = await this.#request(
      "checkedButForFreshness",
      "GET",
      new URL(caRoutes.crl(name), base),
      {
        accept: crlMediaType,
        ...(wanted.etag === undefined ? {} : { "if-none-match": wanted.etag }),
        ...(wanted.waitSeconds === undefined ? {} : { prefer: `wait=${wanted.waitSeconds}` }),
      },
      undefined,
      { milliseconds: crlMilliseconds + 1000 * (wanted.waitSeconds ?? 0), signal: wanted.signal, bytes: longestCrlBytes },
    );
    if (answer.status === 304) return { status: "unchanged" };
    const etag = answer.headers["etag"];
    const published = new Date(String(answer.headers[publishedAtHeader.toLowerCase()]));
    return { status: "new", der: answer.body, ...(typeof etag === "string" ? { etag } : {}), ...(Number.isNaN(published.getTime()) ? {} : { publishedAt: published }) };
  }

  close(): void {
    for (const agent of Object.values(this.#agents)) agent.destroy();
  }

  async #enroll(url: URL, csr: Uint8Array, headers: Record<string, string>): Promise<Certificate[]> {
    const body = Buffer.from(Buffer.from(csr).toString("base64"));
    const answer = await this.#request("checked", "POST", url, { ...headers, "content-type": estMediaTypes.request, accept: estMediaTypes.certificates }, body);
    return certificatesOf(answer.body);
  }

  #request(
    agent: "checked" | "checkedButForFreshness",
    method: "GET" | "POST",
    url: URL,
    headers: Record<string, string>,
    body?: Uint8Array,
    limits: { readonly milliseconds: number; readonly signal?: AbortSignal | undefined; readonly bytes?: number } = { milliseconds: requestMilliseconds },
  ): ReturnType<typeof requestOverMutualTls> {
    return requestOverMutualTls({ agent: this.#agents[agent], url, method, headers, ...(body === undefined ? {} : { body }), timeoutMilliseconds: limits.milliseconds, ...(limits.signal === undefined ? {} : { signal: limits.signal }), ...(limits.bytes === undefined ? {} : { maximumBytes: limits.bytes }) });
  }

  #agent(freshRevocationDataNeeded: boolean): https.Agent {
    const connect = (host: string, port: number) => {
      const { clock, credential } = this.#options;
      const judge = (path: ValidatedPath, identity: Identity) => this.#checkCa(path, identity, freshRevocationDataNeeded);
      return connectToServer({ host, port, credential: credential?.(), trustAnchors: this.#trustAnchors, clock, alpn: alpn.http, judge });
    };
    class CaAgent extends https.Agent {
      override createConnection(options: https.RequestOptions, callback?: (error: Error | null, stream: tls.TLSSocket) => void): undefined {
        connect(String(options.host ?? options.hostname), Number(options.port ?? 443)).then(
          ({ socket }) => callback?.(null, socket),
          (error: Error) => callback?.(error, undefined as never),
        );
        return undefined;
      }
    }
    // Few and far between: a kept connection would outlive a renewal and hold a place at the CA.
    return new CaAgent({ keepAlive: false });
  }

  #checkCa(path: ValidatedPath, identity: Identity, freshRevocationDataNeeded: boolean): void {
    if (identity.kind !== "service" || identity.name !== "ca" || (this.#trustDomain !== undefined && identity.trustDomain !== this.#trustDomain)) {
      throw new SignetError("peer-mismatch", `${identity.uri} answered where the CA was expected.`);
    }
    this.#trustDomain = identity.trustDomain;
    try {
      this.#options.revocation.check(path);
    } catch (error) {
      const lacksData = error instanceof SignetError && (error.code === "crl-missing" || error.code === "crl-stale" || error.code === "crl-refresh-overdue");
      if (freshRevocationDataNeeded || !lacksData) throw error;
    }
  }
}

function certificatesOf(body: Uint8Array): Certificate[] {
  // RFC 8951 section 3.1: base64 whatever the transfer encoding says; line breaks are allowed.
  return parseCertsOnly(Buffer.from(Buffer.from(body).toString("latin1"), "base64"));
}

function parseJson(body: Uint8Array): unknown {
  try {
    return JSON.parse(Buffer.from(body).toString("utf8"));
  } catch {
    return undefined;
  }
}

function hostOf(url: URL): string {
  return url.hostname.replace(/^\[|\]$/g, "");
}

function portOf(url: URL): number {
  return url.port === "" ? 443 : Number(url.port);
}

/** Certificate among these that carries the key. @throws SignetError remote-malformed */
export function certificateForKey(certificates: readonly Certificate[], publicKey: KeyObject): Certificate {
  const spki = publicKey.export({ format: "der", type: "spki" });
  const found = certificates.find((certificate) => spki.equals(certificate.spki));
  if (found === undefined) throw new SignetError("remote-malformed", "The CA's answer holds no certificate for the key of the request.");
  return found;
}
