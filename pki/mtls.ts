import { constants, type KeyObject } from "node:crypto";
import https from "node:https";
import type { Socket } from "node:net";
import tls, { type DetailedPeerCertificate, type TLSSocket } from "node:tls";
import { addressAttempts } from "./address-attempts.ts";
import { type Certificate, certificateIdKey } from "./certificate.ts";
import { checkProfile, checkServerName, type Identity } from "./certificate-profile.ts";
import type { Clock } from "./clock.ts";
import { SignetError } from "./errors.ts";
import { type KeyPurpose, type ValidatedPath, validatePath } from "./path-validation.ts";
import type { ConnectedPeers } from "./protocol-summary.ts";
import { presentedChain, presentedEndEntity } from "./presented-certificates.ts";
import type { NotRevoked, RevocationStore } from "./revocation.ts";

/** What is spoken inside a connection (RFC 7301). Checked at both ends, so that no connection for one service means anything to another (ALPACA). */
export const alpn = { http: "http/1.1", link: "signet-link/1" } as const;

/** Key exchange groups, first choice first: the hybrid of X25519 and ML-KEM-768, then X25519. */
export const keyExchangeGroups = "X25519MLKEM768:X25519";

/** Signatures that a peer may make, and that its chain may carry (RFC 8446 section 4.2.3). */
const signatureSchemes = "ecdsa_secp256r1_sha256:ecdsa_secp384r1_sha384:ed25519:mldsa65:rsa_pss_rsae_sha256:rsa_pss_rsae_sha384:rsa_pss_rsae_sha512:rsa_pkcs1_sha256:rsa_pkcs1_sha384:rsa_pkcs1_sha512";

const handshakeMilliseconds = 10_000;
/** How long a refused caller may go on sending what it had begun to. */
const lingeringMilliseconds = 2_000;

/** A private key and its certificate with the issuing CAs, end entity first, without the root. */
export interface Credential {
  readonly privateKey: KeyObject;
  readonly chain: readonly Certificate[];
}

/** TLS options that carry a credential. */
export function credentialOptions(credential: Credential): { readonly key: string; readonly cert: string } {
  return { key: String(credential.privateKey.export({ format: "pem", type: "pkcs8" })), cert: credential.chain.map((certificate) => certificate.toPem()).join("") };
}

const versionAndGroups = { minVersion: "TLSv1.3", maxVersion: "TLSv1.3", ecdhCurve: keyExchangeGroups, sigalgs: signatureSchemes } as const;

/**
 * Options of a listener that serves nobody without a certificate. No session tickets: a connection that resumed an earlier one would rest on
 * an authentication from before a revocation. OpenSSL checks the chain; {@link PeerSessions} checks all of it again, and the rest.
 * OpenSSL is also given the CAs of the server's own chain that an anchor has signed; {@link endChainsAtOwnAuthorities} says why.
 */
export function mutualServerOptions(i: { readonly credential: Credential; readonly trustAnchors: readonly Certificate[]; readonly alpn: string }): tls.TlsOptions & tls.SecureContextOptions {
  const { credential, trustAnchors } = i;
  const own = credential.chain.slice(1).filter((authority) => trustAnchors.some((anchor) => authority.issuer.equals(anchor.subject) && authority.isSignedBy(anchor.subjectPublicKeyInfo)));
  return {
    ...serverOnlyOptions(i),
    ca: [...trustAnchors, ...own].map((certificate) => certificate.toPem()),
    requestCert: true,
    rejectUnauthorized: true,
  };
}

/**
 * Lets OpenSSL end a caller's chain at any CA of {@link mutualServerOptions}, not at a root alone: the root's signature over the server's own issuing CA was
 * verified when the options were made, and need not be in every handshake. It decides nothing: whoever OpenSSL lets through is judged by our own validation,
 * up to the root, with all dates and revocations. To be called when the server is made; {@link renewMutualContext} sees to it from then on.
 */
export function endChainsAtOwnAuthorities(server: tls.Server): void {
  // Node takes allowPartialTrustChain for clients, and forgets it for servers. Where its context is elsewhere one day, OpenSSL verifies one signature more.
  (server as { readonly _sharedCreds?: { readonly context?: { setAllowPartialTrustChain?(): void } } })._sharedCreds?.context?.setAllowPartialTrustChain?.();
}

/** Has new connections served with other options of {@link mutualServerOptions}: those of a renewed credential. */
export function renewMutualContext(server: tls.Server, options: tls.SecureContextOptions): void {
  server.setSecureContext(options);
  endChainsAtOwnAuthorities(server);
}

/** Options of a listener for callers that have no certificate yet. With `root`, the chain that is sent ends in it, for those who only know its fingerprint. */
export function serverOnlyOptions(i: { readonly credential: Credential; readonly alpn: string; readonly root?: Certificate }): tls.TlsOptions & tls.SecureContextOptions {
  const { privateKey, chain } = i.credential;
  return {
    ...versionAndGroups,
    ...credentialOptions({ privateKey, chain: i.root === undefined ? chain : [...chain, i.root] }),
    ALPNProtocols: [i.alpn],
    secureOptions: constants.SSL_OP_NO_TICKET,
    handshakeTimeout: handshakeMilliseconds,
  };
}

/** Known in this module alone: without it no AuthenticatedPeer comes into being. */
const construction = Symbol("construction");

/** A caller whose certificate has been validated, fits a profile, and is not revoked, as of the request that it was made for. */
export class AuthenticatedPeer {
  readonly #brand = true;
  readonly identity: Identity;
  readonly certificate: Certificate;
  readonly proof: NotRevoked;

  constructor(key: symbol, identity: Identity, proof: NotRevoked) {
    if (key !== construction) throw new SignetError("internal", "An AuthenticatedPeer comes from PeerSessions alone.");
    this.identity = identity;
    this.certificate = proof.path.endEntity;
    this.proof = proof;
    Object.freeze(this);
  }

  /** Run-time brand: an object literal of the same shape is nobody. */
  static is(value: unknown): value is AuthenticatedPeer {
    return typeof value === "object" && value !== null && #brand in value && value.#brand;
  }
}

type Admission = { readonly refusal: SignetError } | { readonly path: ValidatedPath; readonly identity: Identity; readonly since: Date; proof?: NotRevoked };

export interface PeerSessionsOptions {
  readonly trustAnchors: readonly Certificate[];
  readonly revocation: RevocationStore;
  readonly clock: Clock;
  readonly purpose: KeyPurpose;
  readonly alpn?: string;
  /**
   * The CAs of the server's own chain, asked for at each handshake. A peer need not show them (a browser leaves out those that the server has named as
   * acceptable), and where they lead to a path, the chain that it shows is not read. They are judged like any others.
   */
  readonly authorities?: () => readonly Certificate[];
}

/**
 * The open connections of a server and who is at their other ends. A connection is validated once, at its handshake; whether it still
 * may be served is asked anew for every request. When a CRL brings news, the connections of the revoked are destroyed.
 */
export class PeerSessions {
  readonly #options: PeerSessionsOptions;
  readonly #admissions = new Map<TLSSocket, Admission>();

  constructor(options: PeerSessionsOptions) {
    this.#options = options;
    options.revocation.onRevoked((added) => {
      if (added.length === 0 || this.#admissions.size === 0) return;
      const revoked = new Set(added.map(certificateIdKey));
      this.cut((path) => path.chain.some((certificate) => revoked.has(certificateIdKey(certificate.id))));
    });
  }

  /** Number of connections that are open. */
  get open(): number {
    return this.#admissions.size;
  }

  /** Whose connections they are; the `limit` identities that came last by name. What was refused at its handshake is nobody's. */
  connected(limit: number): ConnectedPeers {
    const identities = new Map<string, { readonly identity: Identity; connections: number; since: Date }>();
    let connections = 0;
    // In the order in which they were made: the first of an identity is its oldest.
    for (const admission of this.#admissions.values()) {
      if ("refusal" in admission) continue;
      connections += 1;
      const known = identities.get(admission.identity.uri);
      if (known === undefined) identities.set(admission.identity.uri, { identity: admission.identity, connections: 1, since: admission.since });
      else known.connections += 1;
    }
    const latest = [...identities.values()].slice(-limit).reverse();
    return {
      connections,
      identities: identities.size,
      latest: latest.map(({ identity, since, ...rest }) => ({ identity: identity.uri, kind: identity.kind, since: since.toISOString(), ...rest })),
    };
  }

  /** Takes a connection whose handshake is done. A refusal is kept, for the answer to its first request. */
  admit(socket: TLSSocket): void {
    this.#admissions.set(socket, this.#judge(socket));
    socket.once("close", () => this.#admissions.delete(socket));
  }

  /**
   * Who sends this request: judged anew each time. A refusal that time does not mend closes the connection after the answer.
   * @throws SignetError client-certificate-required | alpn-mismatch, the codes of path and profile, and those of {@link RevocationStore.check}
   */
  peer(socket: TLSSocket): AuthenticatedPeer {
    try {
      const admission = this.#admissions.get(socket);
      if (admission === undefined) throw new SignetError("client-certificate-required", "This connection has not been authenticated.");
      if ("refusal" in admission) throw admission.refusal;
      const { revocation } = this.#options;
      admission.proof = admission.proof === undefined ? revocation.check(admission.path) : revocation.recheck(admission.proof);
      return new AuthenticatedPeer(construction, admission.identity, admission.proof);
    } catch (error) {
      if (!(error instanceof SignetError && error.retryable)) endAndReadOn(socket);
      throw error;
    }
  }

  /** Asks again, for what took time since: call it immediately before bytes leave. @throws SignetError as {@link peer} */
  recheck(peer: AuthenticatedPeer): void {
    if (!AuthenticatedPeer.is(peer)) throw new SignetError("internal", "Only an AuthenticatedPeer can be rechecked.");
    this.#options.revocation.recheck(peer.proof);
  }

  /** Destroys the connections whose path this says yes to. @returns how many were cut */
  cut(which: (path: ValidatedPath) => boolean): number {
    let cut = 0;
    for (const [socket, admission] of this.#admissions) {
      if ("refusal" in admission || !which(admission.path)) continue;
      socket.destroy();
      cut += 1;
    }
    return cut;
  }

  #judge(socket: TLSSocket): Admission {
    try {
      requireAlpn(socket, this.#options.alpn ?? alpn.http);
      return this.#throughOwnAuthorities(socket) ?? this.#throughShownChain(socket);
    } catch (error) {
      return { refusal: error instanceof SignetError ? error : new SignetError("internal", "The certificate could not be checked.", { cause: error }) };
    }
  }

  /**
   * A path by way of the server's own CAs, which spares reading the chain. Where none holds, the chain that was shown decides, and says why. CAs that earlier
   * callers showed are not among them: who called before would change the verdict on a caller who shows less.
   */
  #throughOwnAuthorities(socket: TLSSocket): Admission | undefined {
    const authorities = this.#options.authorities?.() ?? [];
    if (authorities.length === 0) return undefined;
    const endEntity = presentedEndEntity(socket);
    if (endEntity === undefined) return undefined;
    try {
      const path = this.#validate(endEntity, authorities);
      // Here and not with the first request alone: where that CA has been revoked, the peer may have shown another.
      return { ...this.#admissionOf(path), proof: this.#options.revocation.check(path) };
    } catch (error) {
      if (error instanceof SignetError) return undefined;
      throw error;
    }
  }

  #throughShownChain(socket: TLSSocket): Admission {
    const [endEntity, ...intermediates] = presentedChain(socket.getPeerX509Certificate());
    if (endEntity === undefined) throw new SignetError("client-certificate-required", "No certificate was shown.");
    return this.#admissionOf(this.#validate(endEntity, intermediates));
  }

  #admissionOf(path: ValidatedPath) {
    return { path, identity: checkProfile(path), since: this.#options.clock.now() };
  }

  #validate(endEntity: Certificate, intermediates: readonly Certificate[]): ValidatedPath {
    const { trustAnchors, clock, purpose } = this.#options;
    return validatePath({ endEntity, intermediates, trustAnchors, purpose, at: clock.now() });
  }
}

/**
 * Ends a connection for its peer, and takes what that still sends for a while: closing one with octets unread is a reset, which overtakes the
 * answer and leaves the peer without the reason (RFC 9112 section 9.6).
 */
function endAndReadOn(socket: TLSSocket): void {
  if (socket.destroyed || ending.has(socket)) return;
  ending.add(socket);
  const limit = setTimeout(() => socket.destroy(), lingeringMilliseconds);
  socket.once("close", () => clearTimeout(limit));
  // Once the answer that says why has been written.
  setImmediate(() => socket.end());
}

const ending = new WeakSet<Socket>();

/** Whether a connection ends after the answer that is due on it, since its caller was refused for good. */
export function endsAfterAnswer(socket: Socket): boolean {
  return ending.has(socket);
}

export interface ConnectOptions {
  readonly host: string;
  readonly port: number;
  /** Name that the server's certificate must carry; the host by default. */
  readonly servername?: string;
  readonly credential: Credential;
  readonly trustAnchors: readonly Certificate[];
  readonly revocation: RevocationStore;
  readonly clock: Clock;
  readonly alpn: string;
  readonly expect: { readonly uri: string };
  /** A TLS session to offer; Signet's own servers resume none. */
  readonly session?: Buffer;
}

/**
 * Connects with both certificates. Before the first byte of the application: OpenSSL's chain, our own path validation and profile, the host name,
 * the URI that was asked for, revocation, ALPN.
 * @throws SignetError peer-mismatch | name-mismatch | alpn-mismatch | tls-refused | remote-unreachable | timed-out, the codes of path and profile, and of revocation
 */
export async function connectMutually(options: ConnectOptions): Promise<TLSSocket> {
  return (await connectChecked(options)).socket;
}

async function connectChecked(options: ConnectOptions): Promise<{ socket: TLSSocket; proof: NotRevoked }> {
  const { socket, judged } = await connectToServer({
    ...options,
    judge: (path, identity) => {
      requireIdentity(identity.uri, options.expect.uri);
      return options.revocation.check(path);
    },
  });
  return { socket, proof: judged };
}

/**
 * Connects to a server, and shows a certificate where there is a credential. The chain, path, profile and host name are checked here; `judge` decides on
 * who that is and on its revocation, and throws to refuse. All of it happens before the first byte of the application.
 */
export function connectToServer<T>(i: {
  readonly host: string;
  readonly port: number;
  readonly servername?: string;
  readonly credential?: Credential | undefined;
  readonly trustAnchors: readonly Certificate[];
  readonly clock: Clock;
  readonly alpn: string;
  readonly session?: Buffer;
  readonly judge: (path: ValidatedPath, identity: Identity) => T;
}): Promise<{ socket: TLSSocket; judged: T }> {
  const { host, port, servername = host, trustAnchors } = i;
  return new Promise((resolve, reject) => {
    let judgement: { readonly judged: T } | undefined;
    const socket = tls.connect({
      ...addressAttempts(host),
      secureContext: clientContext(i.credential, trustAnchors),
      host,
      port,
      servername: serverNameIndication(servername),
      ALPNProtocols: [i.alpn],
      ...(i.session === undefined ? {} : { session: i.session }),
      // Called once OpenSSL has verified the chain; what it returns ends the connection before anything is sent.
      checkServerIdentity: (_name, shown) => {
        try {
          const [endEntity, ...intermediates] = presentedChain(shown as DetailedPeerCertificate);
          if (endEntity === undefined) throw new SignetError("path-not-found", "The server showed no certificate.");
          const path = validatePath({ endEntity, intermediates, trustAnchors, purpose: "serverAuth", at: i.clock.now() });
          const identity = checkProfile(path);
          checkServerName(endEntity, servername);
          judgement = { judged: i.judge(path, identity) };
          return undefined;
        } catch (error) {
          return error instanceof Error ? error : new SignetError("internal", "The server's certificate could not be checked.", { cause: error });
        }
      },
    });
    const limit = setTimeout(() => socket.destroy(new SignetError("timed-out", `${host}:${port} did not finish the handshake in ${handshakeMilliseconds} ms.`)), handshakeMilliseconds);
    // Stays for good: whoever gets the socket learns of its end by 'close', and a reset must not bring the process down before they listen.
    socket.on("error", (error) => reject(refusalOf(error, `${host}:${port}`)));
    socket.once("close", () => {
      clearTimeout(limit);
      reject(new SignetError("tls-refused", `${host}:${port} closed the connection during the handshake.`));
    });
    socket.once("secureConnect", () => {
      clearTimeout(limit);
      try {
        requireAlpn(socket, i.alpn);
        // Node does not call the check above where a session was resumed: then nobody was checked.
        if (judgement === undefined) throw new SignetError("tls-refused", "The server's certificate was not checked.");
        resolve({ socket, judged: judgement.judged });
      } catch (error) {
        socket.destroy(error as Error);
      }
    });
  });
}

/** The TLS context of a credential, made once: reading a key costs as much as a handshake. */
const clientContexts = new WeakMap<Credential, { readonly trustAnchors: readonly Certificate[]; readonly context: tls.SecureContext }>();

function clientContext(credential: Credential | undefined, trustAnchors: readonly Certificate[]): tls.SecureContext {
  const kept = credential === undefined ? undefined : clientContexts.get(credential);
  if (kept?.trustAnchors === trustAnchors) return kept.context;
  const context = tls.createSecureContext({
    ...versionAndGroups,
    ...(credential === undefined ? {} : credentialOptions(credential)),
    ca: trustAnchors.map((certificate) => certificate.toPem()),
  });
  if (credential !== undefined) clientContexts.set(credential, { trustAnchors, context });
  return context;
}

/** Server name indication takes DNS names only (RFC 6066 section 3). */
export function serverNameIndication(host: string): string {
  return /^[\d.]+$|:/.test(host) ? "" : host;
}

function requireIdentity(uri: string, expected: string): void {
  if (uri !== expected) throw new SignetError("peer-mismatch", `Asked for ${expected}, and ${uri} answered.`, { details: { expected, uri } });
}

function requireAlpn(socket: TLSSocket, expected: string): void {
  // A server that sets ALPN does not bind a client that offers none, hence the check at both ends.
  if (socket.alpnProtocol !== expected) throw new SignetError("alpn-mismatch", `This connection is for ${expected}, and ${socket.alpnProtocol || "nothing"} was agreed on.`);
}

/** Codes of errors that say that nobody was reached, whatever was to be spoken. */
export const unreachableCodes: ReadonlySet<string> = new Set(["ECONNREFUSED", "ENOTFOUND", "EHOSTUNREACH", "ENETUNREACH", "ETIMEDOUT", "EAI_AGAIN"]);

function refusalOf(error: Error, where: string): SignetError {
  if (error instanceof SignetError) return error;
  const reason = "code" in error ? String(error.code) : error.message;
  if (unreachableCodes.has(reason)) {
    return new SignetError("remote-unreachable", `No connection to ${where} (${reason}). Is the service running?`, { details: { reason }, cause: error });
  }
  return new SignetError("tls-refused", `The TLS handshake with ${where} failed (${reason}).`, { details: { reason }, cause: error });
}

export interface MutualAgentOptions extends Omit<ConnectOptions, "host" | "port" | "servername" | "alpn" | "credential" | "session"> {
  /** A function is asked at each new connection, so that a renewal takes effect. */
  readonly credential: Credential | (() => Credential);
  readonly alpn?: string;
}

/**
 * Connections of node:https to one server identity, kept alive. Each is made by {@link connectMutually}; before each further request over one, the server's
 * standing is asked anew, and when a CRL revokes the server its connections are destroyed.
 */
export class MutualAgent extends https.Agent {
  readonly #options: MutualAgentOptions;
  readonly #proofs = new Map<TLSSocket, NotRevoked>();
  readonly #unsubscribe: () => void;

  constructor(options: MutualAgentOptions) {
    // First in, first out: the oldest idle connection is asked first, and those that no longer stand go before the rest.
    super({ keepAlive: true, maxSockets: 64, maxCachedSessions: 0, scheduling: "fifo" });
    this.#options = options;
    this.#unsubscribe = options.revocation.onRevoked((added) => {
      if (added.length > 0) this.#dropUnproven(this.#proofs.keys());
    });
    // Before node:http's own listener, which gives the connection to the next request in the queue.
    this.prependListener("free", (socket: TLSSocket) => this.#dropUnproven([socket]));
  }

  /** node:http's hook for a request that wants a connection, for which it may take an idle one. */
  addRequest(request: unknown, options: unknown): void {
    this.#dropUnproven(Object.values(this.freeSockets).flatMap((sockets) => (sockets ?? []) as TLSSocket[]));
    addRequestOfAgent.call(this, request, options);
  }

  override createConnection(options: https.RequestOptions, callback?: (error: Error | null, stream: TLSSocket) => void): undefined {
    const { credential, alpn: spoken = alpn.http, ...rest } = this.#options;
    const [host, port] = [String(options.host ?? options.hostname), Number(options.port ?? 443)];
    connectChecked({ ...rest, alpn: spoken, credential: typeof credential === "function" ? credential() : credential, host, port }).then(
      ({ socket, proof }) => {
        this.#proofs.set(socket, proof);
        socket.once("close", () => this.#proofs.delete(socket));
        callback?.(null, socket);
      },
      (error: Error) => callback?.(error, undefined as never),
    );
    return undefined;
  }

  override destroy(): void {
    this.#unsubscribe();
    super.destroy();
  }

  /** Ends the connections whose server no longer stands; a new one then says why. */
  #dropUnproven(sockets: Iterable<TLSSocket>): void {
    for (const socket of sockets) {
      const proof = this.#proofs.get(socket);
      if (proof === undefined) continue;
      try {
        this.#proofs.set(socket, this.#options.revocation.recheck(proof));
      } catch (error) {
        socket.destroy(error instanceof Error ? error : undefined);
      }
    }
  }
}

/** In node:http, not in its types. */
const addRequestOfAgent = (https.Agent.prototype as unknown as { addRequest: (this: https.Agent, request: unknown, options: unknown) => void }).addRequest;
