import { createHash } from "node:crypto";
import { createServer as createHttpServer, type Server } from "node:http";
import { createServer as createTlsServer, type Server as TlsServer } from "node:https";
import type { TLSSocket } from "node:tls";
import type { Request, Response } from "express";
import type { Role } from "#pki/certificate-profile.ts";
import { Certificate } from "#pki/certificate.ts";
import type { Clock } from "#pki/clock.ts";
import { certsOnly } from "#pki/cms.ts";
import { SignetError } from "#pki/errors.ts";
import { close, createApplication, jsonBody, listen, octetsOf, parse, requireMediaType, sendJson, type Handler } from "#pki/http-server.ts";
import type { Log } from "#pki/log.ts";
import { alpn, endChainsAtOwnAuthorities, mutualServerOptions, PeerSessions, renewMutualContext, serverOnlyOptions, type AuthenticatedPeer } from "#pki/mtls.ts";
import {
  caRoutes,
  certificateMediaType,
  certificateRequest,
  certificatesQuery,
  crlMediaType,
  estMediaTypes,
  estRoutes,
  longPollLimitSeconds,
  publicationRoutes,
  publishedAtHeader,
  revocationRequest,
  tokenRequest,
  type CertificateDescription,
  type CrlSummary,
  type RevocationReason,
} from "#pki/protocol-ca.ts";
import { summaryRows, type CaSummary } from "#pki/protocol-summary.ts";
import { memoryFloors, RevocationStore } from "#pki/revocation.ts";
import type { Authority } from "./authority.ts";
import type { PublishedCrl } from "./crl-publisher.ts";
import type { LedgerEntry } from "./ledger.ts";
import { listenerUrl } from "./settings.ts";

export interface ServingAuthority {
  readonly enrolmentUrl: string;
  readonly mutualUrl: string;
  readonly publicationUrl: string;
  close(): Promise<void>;
}

/** The authority's own view of its CRLs is confirmed each minute; this is what it could miss without noticing. */
const ownRefreshMilliseconds = 60_000;
const ownMaxAgeMilliseconds = 10 * ownRefreshMilliseconds;

/**
 * Serves an authority that has started: the enrolment listener (no client certificate is asked for), the mutual listener (nobody without one), and the
 * publication listener (plain HTTP, signed objects only; RFC 5280 section 8).
 */
export async function serveAuthority(authority: Authority, { clock, log }: { readonly clock: Clock; readonly log: Log }): Promise<ServingAuthority> {
  const { settings, root, publisher } = authority;
  const urls = {
    enrolmentUrl: listenerUrl(settings, "https", settings.enrolmentPort),
    mutualUrl: listenerUrl(settings, "https", settings.mutualPort),
    publicationUrl: listenerUrl(settings, "http", settings.publicationPort),
  };
  const { revocation, stop: stopRefreshing } = ownRevocation(authority, clock, log);
  const sessions = new PeerSessions({ trustAnchors: [root], authorities: () => authority.serverCredential.chain.slice(1), revocation, clock, purpose: "clientAuth", alpn: alpn.http });
  const http = new AuthorityHttp(authority, sessions, urls);
  const mutualOptions = () => mutualServerOptions({ credential: authority.serverCredential, trustAnchors: [root], alpn: alpn.http });
  const enrolmentOptions = () => serverOnlyOptions({ credential: authority.serverCredential, alpn: alpn.http, root });

  const mutual: TlsServer = createTlsServer(mutualOptions(), createApplication({ log, admit: http.admit, routes: http.mutualRoutes() }));
  endChainsAtOwnAuthorities(mutual);
  mutual.on("secureConnection", (socket: TLSSocket) => sessions.admit(socket));
  const enrolment: TlsServer = createTlsServer(enrolmentOptions(), createApplication({ log, routes: http.enrolmentRoutes() }));
  const publication = createHttpServer(createApplication({ log, routes: http.publicationRoutes() }));
  authority.onServerCredential(() => {
    renewMutualContext(mutual, mutualOptions());
    enrolment.setSecureContext(enrolmentOptions());
  });

  const listening: Server[] = [];
  const closeAll = async () => {
    stopRefreshing();
    http.endWaits();
    await Promise.all(listening.map(close));
  };
  try {
    for (const [server, port] of [[publication, settings.publicationPort], [enrolment, settings.enrolmentPort], [mutual, settings.mutualPort]] as const) {
      await listen(server, port, settings.host);
      listening.push(server);
    }
  } catch (error) {
    await closeAll();
    throw error;
  }
  log.info({ ...urls, crls: publisher.all().map(({ name, crl }) => `${name} ${crl.crlNumber}`) }, "listening");
  return { ...urls, close: closeAll };
}

/** The authority holds its callers against its own published CRLs, as every party does; it is itself the source of their freshness. */
function ownRevocation({ root, issuingCertificate, publisher }: Authority, clock: Clock, log: Log): { revocation: RevocationStore; stop: () => void } {
  const revocation = new RevocationStore({ trustAnchors: [root], floors: memoryFloors(), clock, maxAgeMilliseconds: ownMaxAgeMilliseconds });
  const accept = (published: PublishedCrl) => revocation.accept(published.crl.der, [issuingCertificate]);
  for (const published of publisher.all()) accept(published);
  const unsubscribe = publisher.onPublished(accept);
  const timer = setInterval(() => {
    for (const published of publisher.all()) {
      try {
        accept(published);
      } catch (error) {
        // A clock that was set back, or a CRL that ran out: callers are refused with that until it is mended, and the process goes on.
        log.error({ err: error, crl: published.name }, "the own CRL is not accepted");
      }
    }
  }, ownRefreshMilliseconds);
  timer.unref();
  return {
    revocation,
    stop: () => {
      unsubscribe();
      clearInterval(timer);
    },
  };
}

type CallerHandler = (caller: AuthenticatedPeer, request: Request, response: Response) => Promise<void> | void;

class AuthorityHttp {
  readonly #authority: Authority;
  readonly #sessions: PeerSessions;
  readonly #urls: Pick<ServingAuthority, "enrolmentUrl" | "mutualUrl" | "publicationUrl">;
  readonly #waits = new Set<() => void>();

  constructor(authority: Authority, sessions: PeerSessions, urls: Pick<ServingAuthority, "enrolmentUrl" | "mutualUrl" | "publicationUrl">) {
    this.#authority = authority;
    this.#sessions = sessions;
    this.#urls = urls;
  }

  /** Every request of the mutual listener, to whatever route: who calls is settled before its body is read. */
  readonly admit = (request: Request, response: Response): void => {
    response.locals["caller"] = this.#sessions.peer(request.socket as TLSSocket);
  };

  enrolmentRoutes() {
    const { settings, root, publisher } = this.#authority;
    const directory = {
      trustDomain: settings.trustDomain,
      rootFingerprint: root.fingerprint,
      mutualUrl: this.#urls.mutualUrl,
      publicationUrl: this.#urls.publicationUrl,
      crls: publisher.all().map(({ name }) => ({ name, url: this.#crlUrl(name) })),
    };
    return {
      [estRoutes.cacerts]: { GET: this.#caCertificates },
      [estRoutes.simpleenroll]: {
        POST: async (request: Request, response: Response) => {
          const { name, token } = basicCredentials(request, response);
          sendCertificates(response, [await this.#authority.enroll(name, token, csrOf(request))]);
        },
      },
      [caRoutes.directory]: { GET: (_request: Request, response: Response) => sendJson(response, 200, directory) },
      [caRoutes.crl(":name")]: { GET: (request: Request, response: Response) => this.#sendCrl(request, response, this.#crl(request)) },
      [caRoutes.health]: { GET: (_request: Request, response: Response) => sendJson(response, 200, { service: "ca", status: "serving" }) },
    };
  }

  mutualRoutes() {
    const authority = this.#authority;
    const renewal = (role: Role) => ({
      POST: this.#for(async (caller, request, response) => sendCertificates(response, [await authority.renew(caller, role, csrOf(request))])),
    });
    return {
      [estRoutes.cacerts]: { GET: this.#caCertificates },
      [estRoutes.simplereenroll]: renewal("client"),
      [estRoutes.serverSimpleenroll]: renewal("server"),
      [estRoutes.serverSimplereenroll]: renewal("server"),
      [caRoutes.chain]: {
        GET: this.#for((_caller, _request, response) =>
          sendOctets(response, "application/pem-certificate-chain", Buffer.from(authority.issuingCertificate.toPem() + authority.root.toPem())),
        ),
      },
      [caRoutes.crls]: {
        GET: this.#for((_caller, _request, response) => sendJson(response, 200, { crls: authority.publisher.all().map((published) => this.#summary(published)) })),
        POST: this.#for(async (caller, _request, response) => sendJson(response, 200, this.#summary(await authority.publish(caller)))),
      },
      [caRoutes.crl(":name")]: { GET: this.#for((caller, request, response) => this.#waitForCrl(caller, request, response)) },
      [caRoutes.tokens]: {
        POST: this.#forOperators(async (caller, request, response) => {
          const body = parse(tokenRequest, jsonBody(request));
          const { token, expiresAt } = await authority.createToken(caller, body);
          sendJson(response, 201, {
            name: body.name,
            kind: body.kind,
            token,
            expiresAt: expiresAt.toISOString(),
            rootFingerprint: authority.root.fingerprint,
            enrolmentUrl: this.#urls.enrolmentUrl,
          });
        }),
      },
      [caRoutes.certificates]: {
        GET: this.#forOperators(async (caller, request, response) => {
          const { cursor, limit, identity, state } = parse(certificatesQuery, request.query);
          if (cursor !== undefined && !/^[1-9]\d{0,14}$/.test(cursor)) throw new SignetError("request-malformed", "The cursor is not one that this route gave.");
          const entries = await authority.certificates(caller, { identity, state, limit, before: cursor === undefined ? undefined : Number(cursor) });
          const last = entries.length === limit ? entries.at(-1) : undefined;
          sendJson(response, 200, { certificates: entries.map((entry) => this.#describe(entry)), ...(last !== undefined && { nextCursor: String(last.id) }) });
        }),
        POST: this.#forOperators(async (caller, request, response) => {
          const certificate = await authority.issueFor(caller, parse(certificateRequest, jsonBody(request)));
          const pem = certificate.toPem();
          sendJson(response, 201, { certificate: pem, chain: pem + authority.issuingCertificate.toPem(), root: authority.root.toPem() });
        }),
      },
      [caRoutes.certificate(":serialNumber")]: {
        GET: this.#forOperators(async (caller, request, response) => {
          const entry = await authority.certificate(caller, String(request.params["serialNumber"]));
          sendJson(response, 200, { ...this.#describe(entry), certificate: Certificate.parse(entry.der).toPem() });
        }),
      },
      [caRoutes.summary]: {
        GET: this.#forOperators(async (caller, _request, response) => {
          const summary: CaSummary = {
            at: authority.now().toISOString(),
            trustDomain: authority.settings.trustDomain,
            rootFingerprint: authority.root.fingerprint,
            ...(await authority.summary(caller)),
            crls: authority.publisher.all().map((published) => ({ ...this.#summary(published), publishedAt: published.publishedAt.toISOString() })),
            peers: this.#sessions.connected(summaryRows),
          };
          sendJson(response, 200, summary);
        }),
      },
      [caRoutes.revocations]: {
        POST: this.#forOperators(async (caller, request, response) => {
          const { reason, ...target } = parse(revocationRequest, jsonBody(request));
          const { revoked, published } = await authority.revoke(caller, target, reason);
          sendJson(response, 200, { revoked, crlNumber: String(published.crl.crlNumber), publishedAt: published.publishedAt.toISOString() });
        }),
      },
    };
  }

  publicationRoutes() {
    const { root, issuingCertificate, publisher } = this.#authority;
    const crls = publisher.all().map(({ name }) => [
      publicationRoutes.crl(name),
      { GET: (request: Request, response: Response) => this.#sendCrl(request, response, publisher.current(name) ?? missingCrl(name)) },
    ]);
    const certificates = ([["root", root], ["issuing", issuingCertificate]] as const).map(([name, certificate]) => [
      publicationRoutes.certificate(name),
      { GET: (_request: Request, response: Response) => sendOctets(response, certificateMediaType, certificate.der) },
    ]);
    return Object.fromEntries([...crls, ...certificates]) as Record<string, { GET: Handler }>;
  }

  /** Answers everybody who waits for a CRL, because the listeners are about to close. */
  endWaits(): void {
    for (const end of this.#waits) end();
  }

  readonly #caCertificates = (_request: Request, response: Response): void => {
    sendCertificates(response, [this.#authority.issuingCertificate, this.#authority.root]);
  };

  /** A route for every admitted caller. */
  #for(handler: CallerHandler): Handler {
    return (request, response) => handler(response.locals["caller"] as AuthenticatedPeer, request, response);
  }

  /** A route for operators: anybody else is refused before its body is parsed. */
  #forOperators(handler: CallerHandler): Handler {
    return this.#for((caller, request, response) => {
      if (caller.identity.kind !== "operator") throw new SignetError("not-permitted", "This takes an operator.");
      return handler(caller, request, response);
    });
  }

  #crl(request: Request): PublishedCrl {
    const name = String(request.params["name"]);
    return this.#authority.publisher.current(name) ?? missingCrl(name);
  }

  /** `Prefer: wait=N` (RFC 7240 section 4.3): a caller that has the current CRL is answered when there is a newer one, with 304 after N seconds. */
  async #waitForCrl(caller: AuthenticatedPeer, request: Request, response: Response): Promise<void> {
    const held = this.#crl(request);
    const seconds = waitSecondsOf(request);
    if (seconds > 0) response.setHeader("Preference-Applied", `wait=${seconds}`);
    if (seconds > 0 && request.headers["if-none-match"] === etagOf(held)) await this.#nextPublication(held, seconds, response);
    if (response.destroyed) return;
    this.#sessions.recheck(caller);
    this.#sendCrl(request, response, this.#crl(request));
  }

  #nextPublication(held: PublishedCrl, seconds: number, response: Response): Promise<void> {
    return new Promise((resolve) => {
      const end = () => {
        clearTimeout(limit);
        unsubscribe();
        this.#waits.delete(end);
        resolve();
      };
      const unsubscribe = this.#authority.publisher.onPublished((published) => {
        if (published.name === held.name) end();
      });
      const limit = setTimeout(end, seconds * 1000);
      this.#waits.add(end);
      response.once("close", end);
    });
  }

  #sendCrl(request: Request, response: Response, published: PublishedCrl): void {
    const etag = etagOf(published);
    response.setHeader("ETag", etag);
    if (request.headers["if-none-match"] === etag) {
      response.writeHead(304).end();
      return;
    }
    response.setHeader("Last-Modified", published.publishedAt.toUTCString());
    response.setHeader(publishedAtHeader, published.publishedAt.toISOString());
    sendOctets(response, crlMediaType, published.crl.der);
  }

  #summary({ name, crl }: PublishedCrl): CrlSummary {
    return {
      name,
      issuer: crl.issuer.toString(),
      crlNumber: String(crl.crlNumber),
      thisUpdate: crl.thisUpdate.toISOString(),
      nextUpdate: crl.nextUpdate.toISOString(),
      entries: crl.size,
      url: this.#crlUrl(name),
    };
  }

  #crlUrl(name: string): string {
    return `${this.#urls.publicationUrl}${publicationRoutes.crl(name)}`;
  }

  #describe(entry: LedgerEntry): CertificateDescription {
    const expired = entry.notAfter <= this.#authority.now();
    return {
      serialNumber: entry.serialNumber,
      issuerKeyId: entry.issuerKeyId,
      identity: entry.identity,
      role: entry.role as Role,
      state: entry.revokedAt !== undefined ? "revoked" : expired ? "expired" : "valid",
      notBefore: entry.notBefore.toISOString(),
      notAfter: entry.notAfter.toISOString(),
      fingerprint: Certificate.parse(entry.der).fingerprint,
      ...(entry.revokedAt !== undefined && { revokedAt: entry.revokedAt.toISOString(), reason: entry.reason as RevocationReason }),
    };
  }
}

function missingCrl(name: string): never {
  throw new SignetError("not-found", `There is no CRL ${JSON.stringify(name.slice(0, 32))}.`);
}

/**
 * Strong (RFC 9110 section 8.8.3), by content: an authority that was put back from a backup gives a number again to another CRL, and
 * a party that holds the first must not hear that nothing is new.
 */
function etagOf({ crl }: PublishedCrl): string {
  const known = etags.get(crl);
  if (known !== undefined) return known;
  const etag = `"${crl.crlNumber}.${createHash("sha256").update(crl.der).digest("hex").slice(0, 32)}"`;
  etags.set(crl, etag);
  return etag;
}

const etags = new WeakMap<PublishedCrl["crl"], string>();

function waitSecondsOf(request: Request): number {
  const wait = /(?:^|[,;\s])wait=(\d{1,5})(?:$|[,;\s])/.exec(request.headers["prefer"]?.toString() ?? "")?.[1];
  return Math.min(Number(wait ?? 0), longPollLimitSeconds);
}

/** HTTP Basic (RFC 7617), as EST has it for clients without a certificate. @throws SignetError token-invalid */
function basicCredentials(request: Request, response: Response): { readonly name: string; readonly token: string } {
  const encoded = /^Basic ([A-Za-z0-9+/]{1,400}={0,2})$/i.exec(request.headers.authorization ?? "")?.[1];
  const [name, token, ...more] = Buffer.from(encoded ?? "", "base64").toString("utf8").split(":");
  // RFC 7235 section 4.1: a 401 says what is wanted. It does no harm on any other answer.
  response.setHeader("WWW-Authenticate", 'Basic realm="signet enrolment", charset="UTF-8"');
  if (name === undefined || token === undefined || more.length > 0) throw new SignetError("token-invalid", "The enrolment token is not valid.");
  return { name, token };
}

/** Base64 of a PKCS #10 request; white space may break its lines (RFC 8951 section 3.1). @throws SignetError unsupported-media-type, csr-malformed */
function csrOf(request: Request): Uint8Array {
  requireMediaType(request, estMediaTypes.request);
  const text = octetsOf(request).toString("latin1").replaceAll(/[\r\n\t ]/g, "");
  const der = Buffer.from(text, "base64");
  if (der.length === 0 || der.toString("base64") !== text) throw new SignetError("csr-malformed", "The body is not base64 of a certification request.");
  return der;
}

function sendCertificates(response: Response, certificates: readonly Certificate[]): void {
  response.removeHeader("WWW-Authenticate");
  sendOctets(response, estMediaTypes.certificatesOnly, Buffer.from(Buffer.from(certsOnly(certificates)).toString("base64")));
}

function sendOctets(response: Response, mediaType: string, octets: Uint8Array): void {
  response.writeHead(200, { "Content-Type": mediaType, "Content-Length": octets.length }).end(octets);
}
