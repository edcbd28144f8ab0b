/** Where CRLs come from when the CA does not answer: distribution points over plain HTTP, and files. What they bring counts by its signature alone. */
import { open, readdir } from "node:fs/promises";
import path from "node:path";
import { addressAttempts } from "./address-attempts.ts";
import type { Certificate } from "./certificate.ts";
import type { CrlSource, FetchedCrl } from "./crl-refresher.ts";
import { pemDecodeOne } from "./pem.ts";
import { crlMediaType } from "./protocol-ca.ts";
import { SignetError } from "./errors.ts";

/** Longest CRL that is read: room for a million entries. */
export const longestCrlBytes = 64 * 1024 * 1024;
/** For one CRL, all redirects included. */
const fetchMilliseconds = 60_000;
const mostRedirects = 3;
/** Ports below are assigned to services (RFC 6335 section 6). */
const systemPorts = 1024;

export interface DistributionPointOptions {
  /** Certificates of a validated path: their distribution points are asked, and they may have issued the CRLs. */
  readonly certificates: () => readonly Certificate[];
  /**
   * Hosts that may be asked (host names, or addresses without brackets), in lower case; a redirect leads to no other. With a port (`host:8080`, `[::1]:8080`) at
   * that port; without, at port 80 and at those from 1024 up: below are services of other kinds (RFC 6335 section 6), which are not to be sent requests.
   */
  readonly hosts: ReadonlySet<string>;
  readonly timeoutMilliseconds?: number;
  readonly maximumBytes?: number;
}

/**
 * CRLs over plain HTTP from where certificates say they are (RFC 5280 section 4.2.1.13). Size, time and redirects are limited, and hosts are those that were
 * configured: a certificate's maker does not choose whom this party talks to. An ETag saves the transfer and is no proof: nobody signs a 304.
 */
export class DistributionPointSource implements CrlSource {
  readonly #options: DistributionPointOptions;

  constructor(options: DistributionPointOptions) {
    this.#options = options;
  }

  async issuers(): Promise<readonly Certificate[]> {
    return this.#options.certificates();
  }

  /** Addresses of the distribution points on the configured hosts, each once. */
  async crlNames(): Promise<readonly string[]> {
    const points = this.#options.certificates().flatMap(({ extensions }) => extensions.crlDistributionPoints ?? []);
    const addresses = points.flatMap(({ fullNames = [] }) => fullNames.flatMap((name) => (name.kind === "uri" ? [name.value] : [])));
    return [...new Set(addresses)].filter((address) => this.#allowed(URL.parse(address)) !== undefined);
  }

  /** @throws SignetError remote-unreachable | timed-out | body-too-large | remote-malformed | usage (a host that is not configured) */
  async fetchCrl(name: string, wanted: Parameters<CrlSource["fetchCrl"]>[1]): Promise<FetchedCrl> {
    const { timeoutMilliseconds = fetchMilliseconds } = this.#options;
    const timeout = AbortSignal.timeout(timeoutMilliseconds);
    const signal = wanted.signal === undefined ? timeout : AbortSignal.any([timeout, wanted.signal]);
    let url = URL.parse(name);
    for (let redirects = 0; redirects <= mostRedirects; redirects++) {
      const allowed = this.#allowed(url);
      if (allowed === undefined) throw new SignetError("usage", `${url?.host ?? name} is no host that CRLs may be fetched from.`, { details: { url: name } });
      const answer = await this.#get(allowed, wanted.etag, signal);
      if (answer.redirectedTo === undefined) return answer.crl;
      url = URL.parse(answer.redirectedTo, allowed);
    }
    throw new SignetError("remote-malformed", `${name} leads on and on: more than ${mostRedirects} redirects.`);
  }

  #allowed(url: URL | null): URL | undefined {
    if (url === null || url.protocol !== "http:" || url.username !== "" || url.password !== "") return undefined;
    const { hosts } = this.#options;
    const port = url.port === "" ? 80 : Number(url.port);
    const isAnyHosts = port === 80 || port >= systemPorts;
    return (isAnyHosts && hosts.has(url.hostname.replace(/^\[|\]$/g, ""))) || hosts.has(`${url.hostname}:${port}`) ? url : undefined;
  }

  async #get(url: URL, etag: string | undefined, signal: AbortSignal): Promise<{ readonly redirectedTo?: undefined; readonly crl: FetchedCrl } | { readonly redirectedTo: string }> {
    const { maximumBytes = longestCrlBytes } = this.#options;
    // Only here: an import of node:http reads all that it exports and so loads undici, a tenth of what a command costs.
    const http = await import("node:http");
    return new Promise((resolve, reject) => {
      const headers = { accept: crlMediaType, "accept-encoding": "identity", ...(etag === undefined ? {} : { "if-none-match": etag }) };
      const outgoing = http.get(url, { ...addressAttempts(url.hostname), headers, signal, agent: false });
      const refuse = (error: SignetError): void => {
        reject(error);
        outgoing.destroy();
      };
      const failed = (cause: Error): void =>
        refuse(signal.aborted ? new SignetError("timed-out", `${url.origin} did not answer in time.`, { cause }) : new SignetError("remote-unreachable", `No CRL from ${url.origin}.`, { cause }));
      outgoing.on("error", failed);
      outgoing.on("response", (incoming) => {
        const { statusCode: status = 0, headers: received } = incoming;
        if (status === 304) return finish({ crl: { status: "unchanged" } });
        if ([301, 302, 303, 307, 308].includes(status) && received.location !== undefined) return finish({ redirectedTo: received.location });
        if (status !== 200) return refuse(new SignetError("remote-malformed", `${url.origin} answered with status ${status} where a CRL was expected.`, { details: { status } }));
        const chunks: Buffer[] = [];
        let length = 0;
        incoming.on("data", (chunk: Buffer) => {
          length += chunk.length;
          if (length > maximumBytes) refuse(new SignetError("body-too-large", `${url.origin} answered with more than ${maximumBytes} bytes.`));
          else chunks.push(chunk);
        });
        incoming.on("error", failed);
        incoming.on("end", () => resolve({ crl: { status: "new", der: Buffer.concat(chunks), ...(received.etag === undefined ? {} : { etag: received.etag }) } }));
        function finish(answer: { readonly crl: FetchedCrl } | { readonly redirectedTo: string }): void {
          resolve(answer);
          // What else is said is nobody's to read.
          outgoing.destroy();
        }
      });
    });
  }
}

/** CRLs that were brought in as files, `*.crl` in DER or PEM, such as {@link EnrolledIdentity.importCrl} leaves them. A folder that is missing holds none. */
export class FolderSource implements CrlSource {
  readonly #folder: string;
  readonly #issuers: () => readonly Certificate[];

  constructor(folder: string, issuers: () => readonly Certificate[]) {
    this.#folder = folder;
    this.#issuers = issuers;
  }

  async issuers(): Promise<readonly Certificate[]> {
    return this.#issuers();
  }

  async crlNames(): Promise<readonly string[]> {
    try {
      return (await readdir(this.#folder)).filter((name) => name.endsWith(".crl")).sort();
    } catch {
      return [];
    }
  }

  /** @throws SignetError file-unusable | body-too-large | pem-malformed */
  async fetchCrl(name: string): Promise<FetchedCrl> {
    const file = path.join(this.#folder, path.basename(name));
    let content: Buffer;
    try {
      await using handle = await open(file, "r");
      if ((await handle.stat()).size > longestCrlBytes) throw new SignetError("body-too-large", `${file} is larger than ${longestCrlBytes} bytes.`);
      content = await handle.readFile();
    } catch (cause) {
      throw cause instanceof SignetError ? cause : new SignetError("file-unusable", `${file} cannot be read.`, { cause });
    }
    // 0x30 opens the SEQUENCE that a CRL in DER is.
    return { status: "new", der: content[0] === 0x30 ? content : pemDecodeOne(content.toString("latin1"), "X509 CRL") };
  }
}
