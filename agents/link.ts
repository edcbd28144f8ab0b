import { createHash } from "node:crypto";
import { once } from "node:events";
import type { AddressInfo } from "node:net";
import type { Duplex } from "node:stream";
import tls, { type TLSSocket } from "node:tls";
import { addressAttempts } from "#pki/address-attempts.ts";
import type { Certificate } from "#pki/certificate.ts";
import { checkProfile, type Identity, type Role } from "#pki/certificate-profile.ts";
import type { Clock } from "#pki/clock.ts";
import { SignetError } from "#pki/errors.ts";
import { SecretKey } from "#pki/keys.ts";
import { alpn, endChainsAtOwnAuthorities, mutualServerOptions, renewMutualContext, type Credential } from "#pki/mtls.ts";
import { validatePath, type KeyPurpose } from "#pki/path-validation.ts";
import { presentedChain } from "#pki/presented-certificates.ts";
import type { NotRevoked, RevocationStore } from "#pki/revocation.ts";

/**
 * TLS groups of a link (RFC 8446 section 4.2.7). Each end offers only those it was told to, so that there is nothing to downgrade to. The
 * finite-field ones are RFC 7919's: safe primes with generator 2 that everyone can check, which is why no parameters are made up.
 */
export const linkGroups = ["X25519MLKEM768", "X25519", "ffdhe3072", "ffdhe2048"] as const;
/** One of {@link linkGroups}. */
export type LinkGroup = (typeof linkGroups)[number];

/** What a link needs of an enrolled party; `EnrolledIdentity` has it all. */
export interface LinkParty {
  readonly identity: Identity;
  readonly trustAnchors: readonly Certificate[];
  readonly revocation: RevocationStore;
  credential(role: Role): Credential;
  /** Tells when a role has a new certificate; returns how to stop that. */
  onRenewal?(listener: (role: Role) => void): () => void;
}

/** Whom to dial, and how. */
export interface DialOptions {
  /** Who dials: its credential of the client role is shown. */
  readonly self: LinkParty;
  /** Identity URI of the agent that must answer. */
  readonly uri: string;
  /** Where it listens: a TCP address, or a function that opens any other duplex stream to it, once per handshake. */
  readonly to: { readonly host: string; readonly port: number } | (() => Duplex | Promise<Duplex>);
  /** The one key exchange that is offered; X25519MLKEM768 where none is named. */
  readonly group?: LinkGroup;
  readonly clock: Clock;
  /** Messages after which this end wants new keys, where fewer than {@link rekeyLimits} are wanted. */
  readonly rekeyAfterMessages?: number;
}

/** Where links are answered, and what becomes of them. */
export interface ListenOptions {
  /** Who answers: its credential of the server role is shown. */
  readonly self: LinkParty;
  readonly clock: Clock;
  /** As {@link DialOptions.rekeyAfterMessages}. */
  readonly rekeyAfterMessages?: number;
  /** Address to listen on; 127.0.0.1 where none is named. */
  readonly host?: string;
  /** 0 for any free one. */
  readonly port?: number;
  /** Key exchanges that are taken; X25519MLKEM768 alone where none are named. */
  readonly groups?: readonly LinkGroup[];
  /** Gets each link that passed every check. Whether this peer is welcome is for the caller to decide, by `link.peer`. */
  readonly onLink: (link: Link) => void;
  /** Told why a connection was refused; the peer itself is told nothing. */
  readonly onRefused?: (reason: SignetError) => void;
}

/** Longest message of a link in octets. */
export const longestMessageBytes = 64 * 1024;
/** After so many messages both ways, or so long, a link ends and its dialler makes a new handshake. */
export const rekeyLimits = { messages: 2 ** 20, milliseconds: 3_600_000 } as const;

const exporterLabel = "EXPORTER-signet-link-v1";
const lengthBytes = 4;
const handshakeMilliseconds = 10_000;
const mostOpenLinks = 1024;

/** What the checks of a handshake have established about the other end. */
interface Verified {
  readonly socket: TLSSocket;
  readonly proof: NotRevoked;
  readonly peer: Identity;
  readonly group: LinkGroup | undefined;
}

/**
 * An authenticated, ephemeral session between two agents: TLS 1.3 with both certificates over TCP or any duplex stream. What is sent
 * arrives whole, once and in order. The peer's certificates are checked again at every message, and the link is cut when a CRL revokes one.
 */
export class Link {
  /** Who is at the other end. */
  readonly peer: Identity;
  /** Whether this end has dialled. */
  readonly initiator: boolean;
  /** The key exchange that was used; known to the dialler, which offers just one (OpenSSL tells a server nothing of it). */
  readonly group: LinkGroup | undefined;
  /**
   * 32 octets that both ends share and nobody else: exportKeyingMaterial (RFC 8446 section 7.5) with label EXPORTER-signet-link-v1 and the
   * context SHA-256(initiator's certificate) || SHA-256(responder's certificate). The exporter's transcript ends at the server's Finished, so without that
   * context it would not bind the initiator's certificate. In memory only: a restart means a new handshake.
   */
  readonly sessionKey: SecretKey;
  /** Resolves when the link has ended, with the reason. */
  readonly closed: Promise<SignetError>;
  readonly #socket: TLSSocket;
  readonly #self: LinkParty;
  readonly #clock: Clock;
  readonly #startedAt: number;
  readonly #mostMessages: number;
  readonly #incoming: AsyncGenerator<Uint8Array, void>;
  readonly #redial: (() => Promise<Link>) | undefined;
  #proof: NotRevoked;
  #messages = 0;
  #reason: SignetError | undefined;

  private constructor(i: {
    readonly verified: Verified;
    readonly options: Pick<DialOptions, "self" | "clock" | "rekeyAfterMessages">;
    readonly initiator: boolean;
    readonly redial?: () => Promise<Link>;
  }) {
    const { socket, proof, peer, group } = i.verified;
    const { self, clock, rekeyAfterMessages = rekeyLimits.messages } = i.options;
    this.peer = peer;
    this.group = group;
    this.initiator = i.initiator;
    this.#socket = socket;
    this.#proof = proof;
    this.#self = self;
    this.#clock = clock;
    this.#redial = i.redial;
    this.#startedAt = clock.monotonicMilliseconds();
    this.#mostMessages = Math.min(rekeyAfterMessages, rekeyLimits.messages);
    const [own] = self.credential(i.initiator ? "client" : "server").chain;
    if (own === undefined) throw new SignetError("internal", "A credential without a certificate.");
    const digests = [own, proof.path.endEntity].map((certificate) => createHash("sha256").update(certificate.der).digest());
    const context = Buffer.concat(i.initiator ? digests : digests.reverse());
    this.sessionKey = SecretKey.from(socket.exportKeyingMaterial(32, exporterLabel, context));
    const unsubscribe = self.revocation.onRevoked(() => this.#endIfNoLongerTrusted());
    socket.on("error", (error) => {
      this.#reason ??= error instanceof SignetError ? error : new SignetError("link-closed", `The link to ${peer.uri} broke.`, { cause: error });
    });
    this.closed = new Promise((resolve) => {
      socket.once("close", () => {
        unsubscribe();
        resolve(this.#ended());
      });
    });
    this.#incoming = frames(socket);
  }

  /**
   * Dials an agent and resolves once both ends have checked each other: version, group and ALPN; OpenSSL's chain; our own path validation and
   * profile; revocation; the URI is the one dialled and not one's own.
   * @throws SignetError peer-mismatch, peer-is-self, certificate-revoked, alpn-mismatch, tls-refused (also where the other end refuses
   *   without a word), crl-* where revocation data is missing or stale, path and profile codes, remote-unreachable, timed-out
   */
  static async dial(options: DialOptions): Promise<Link> {
    const { self, uri, group = "X25519MLKEM768", clock } = options;
    if (uri === self.identity.uri) throw new SignetError("peer-is-self", "An agent has no link to itself.");
    const transport = await openTransport(options.to);
    let verified: Verified | undefined;
    const socket = tls.connect({
      ...tlsOptions(self, "client", [group]),
      ...("host" in transport ? addressAttempts(transport.host) : {}),
      ...transport,
      // No SNI: agents have no host names.
      servername: "",
      // Replaces Node's host name check by one that is exact, and is no switch: an agent's server certificate has its URI as its only name, so that it can
      // stand in for no host, and that URI must be the dialled one octet for octet. Node calls this after OpenSSL has verified the chain and before
      // anything is sent; an error returned here ends the connection.
      checkServerIdentity: () => {
        try {
          requireTransport(socket);
          const used = negotiatedGroup(socket);
          if (used !== group) throw new SignetError("tls-refused", `The handshake used ${used ?? "an unknown group"}, not ${group}.`);
          const { proof, peer } = verifyPeer(socket, self, clock, "serverAuth");
          if (peer.uri !== uri) throw new SignetError("peer-mismatch", `Dialled ${uri}, and ${peer.uri} answered.`, { details: { dialled: uri, answered: peer.uri } });
          verified = { socket, proof, peer, group };
          return undefined;
        } catch (error) {
          return error instanceof Error ? error : new SignetError("internal", "The check of the peer failed.");
        }
      },
    });
    // Whoever waits learns of an error where it waits; between two waits nobody does.
    socket.on("error", () => {});
    return withinTime(socket, async () => {
      await once(socket, "secureConnect").catch((error: unknown) => {
        throw handshakeError(error);
      });
      // Node does not call the check above on a resumed session: then nobody was checked.
      if (verified === undefined || !socket.authorized) throw new SignetError("tls-refused", "The peer was not checked.");
      const link = new Link({ verified, options, initiator: true, redial: () => Link.dial(options) });
      // TLS 1.3 lets the dialler finish before the listener has looked at its certificate; an empty first frame says that it has.
      const first = await link.#next("tls-refused");
      if (first.length !== 0) throw new SignetError("message-malformed", "The link did not begin with an empty frame.");
      return link;
    });
  }

  /** Takes a connection whose TLS handshake is done, on the listening side. @internal for {@link LinkListener} */
  static accept(socket: TLSSocket, options: Pick<ListenOptions, "self" | "clock" | "rekeyAfterMessages">): Link {
    const { self, clock } = options;
    requireTransport(socket);
    if (!socket.authorized) throw new SignetError("tls-refused", "OpenSSL did not verify the peer's chain.");
    const { proof, peer } = verifyPeer(socket, self, clock, "clientAuth");
    const link = new Link({ verified: { socket, proof, peer, group: undefined }, options, initiator: false });
    socket.write(frame(new Uint8Array(0)));
    return link;
  }

  /**
   * Sends one message of at most 65,536 octets; resolves when it was handed to the transport, which is not yet that it was received.
   * @throws SignetError body-too-large; link-closed (retryable: {@link redial}); certificate-revoked, certificate-expired and crl-* if the peer may no
   *   longer be talked to, which ends the link
   */
  async send(message: Uint8Array): Promise<void> {
    if (message.length > longestMessageBytes) throw new SignetError("body-too-large", `A link carries messages of at most ${longestMessageBytes} octets.`);
    this.#admitMessage();
    await new Promise<void>((resolve, reject) => {
      this.#socket.write(frame(message), (error) => (error ? reject(this.#ended()) : resolve()));
    });
  }

  /**
   * The next message, waiting for it if need be.
   * @throws SignetError as {@link send}; message-malformed where the peer sends a frame that is too long
   */
  async receive(): Promise<Uint8Array> {
    const message = await this.#next("link-closed");
    this.#admitMessage();
    return message;
  }

  /** All messages until either end closes the link; an end for cause is thrown. */
  async *[Symbol.asyncIterator](): AsyncGenerator<Uint8Array, void> {
    for (;;) {
      let message: Uint8Array;
      try {
        message = await this.receive();
      } catch (error) {
        if (error instanceof SignetError && error.code === "link-closed" && error.cause === undefined) return;
        throw error;
      }
      yield message;
    }
  }

  /** A new link to the same agent in place of this one, with new keys. For the side that dialled. */
  async redial(): Promise<Link> {
    if (this.#redial === undefined) throw new SignetError("link-closed", "The side that dialled makes the new handshake.");
    this.close();
    return this.#redial();
  }

  /** Ends the link; the other end is told by the end of the connection. */
  close(): void {
    this.#reason ??= new SignetError("link-closed", `The link to ${this.peer.uri} was closed.`);
    this.#socket.end();
    this.#socket.destroySoon();
  }

  async #next(codeOfSilentEnd: "tls-refused" | "link-closed"): Promise<Uint8Array> {
    let next: IteratorResult<Uint8Array, void>;
    try {
      next = await this.#incoming.next();
    } catch (error) {
      if (error instanceof SignetError) this.#end(error);
      if (codeOfSilentEnd === "tls-refused" && this.#ended().code === "link-closed") throw refusedByPeer(this.peer.uri, error);
      throw this.#ended();
    }
    if (!next.done) return next.value;
    if (codeOfSilentEnd === "tls-refused") throw refusedByPeer(this.peer.uri);
    throw this.#ended();
  }

  /** Every message needs an open link within its limits and a peer that is still to be trusted. */
  #admitMessage(): void {
    if (this.#reason !== undefined || this.#socket.destroyed) throw this.#ended();
    this.#messages += 1;
    const age = this.#clock.monotonicMilliseconds() - this.#startedAt;
    if (this.#messages > this.#mostMessages || age >= rekeyLimits.milliseconds) {
      this.#end(new SignetError("link-closed", "The link has reached the age at which its keys are replaced; dial again.", { details: { rekey: true } }));
    }
    this.#endIfNoLongerTrusted();
    if (this.#reason !== undefined) throw this.#reason;
  }

  #endIfNoLongerTrusted(): void {
    try {
      this.#proof = this.#self.revocation.recheck(this.#proof);
    } catch (error) {
      this.#end(error instanceof SignetError ? error : new SignetError("internal", "The check of the peer failed.", { cause: error }));
    }
  }

  #end(reason: SignetError): void {
    this.#reason ??= reason;
    this.#socket.destroy(reason);
  }

  #ended(): SignetError {
    return (this.#reason ??= new SignetError("link-closed", `The link to ${this.peer.uri} was closed by the other end.`));
  }
}

/** Accepts links, over TCP and over streams that are handed to it. */
export class LinkListener {
  readonly #server: tls.Server;
  readonly #links = new Set<Link>();
  readonly #options: ListenOptions;
  readonly #unsubscribe: (() => void) | undefined;

  private constructor(options: ListenOptions) {
    this.#options = options;
    const { self, groups = ["X25519MLKEM768"] } = options;
    this.#server = tls.createServer({ ...tlsOptions(self, "server", groups), handshakeTimeout: handshakeMilliseconds });
    this.#unsubscribe = self.onRenewal?.((role) => {
      if (role === "server") renewMutualContext(this.#server, tlsOptions(self, "server", groups));
    });
    endChainsAtOwnAuthorities(this.#server);
    this.#server.maxConnections = mostOpenLinks;
    this.#server.on("secureConnection", (socket) => this.#admit(socket));
    this.#server.on("tlsClientError", (error) => {
      const code = "code" in error ? String(error.code) : "unknown";
      options.onRefused?.(new SignetError("tls-refused", "A handshake failed.", { details: { reason: code }, cause: error }));
    });
  }

  /** Listens, and resolves when it does. @throws SignetError port-taken, state-conflict (no certificate of the server role) */
  static async listen(options: ListenOptions): Promise<LinkListener> {
    const listener = new LinkListener(options);
    listener.#server.listen(options.port ?? 0, options.host ?? "127.0.0.1");
    try {
      await once(listener.#server, "listening");
    } catch (error) {
      throw new SignetError("port-taken", `Cannot listen on port ${options.port ?? 0}.`, { cause: error });
    }
    return listener;
  }

  /** The port that it listens on. */
  get port(): number {
    return (this.#server.address() as AddressInfo).port;
  }

  /** Number of links that are open. */
  get open(): number {
    return this.#links.size;
  }

  /** Takes a connection that came some other way than TCP. */
  accept(transport: Duplex): void {
    this.#server.emit("connection", transport);
  }

  /** Stops listening and closes all links. */
  async close(): Promise<void> {
    this.#unsubscribe?.();
    const stopped = new Promise<void>((resolve) => this.#server.close(() => resolve()));
    for (const link of this.#links) link.close();
    await stopped;
  }

  #admit(socket: TLSSocket): void {
    // A peer that breaks off while it is being refused must not bring the process down.
    socket.on("error", () => {});
    let link: Link;
    try {
      link = Link.accept(socket, this.#options);
    } catch (error) {
      socket.destroy();
      this.#options.onRefused?.(error instanceof SignetError ? error : new SignetError("internal", "A link could not be opened.", { cause: error }));
      return;
    }
    this.#links.add(link);
    void link.closed.then(() => this.#links.delete(link));
    this.#options.onLink(link);
  }
}

/** The options of both ends: TLS 1.3 alone, our own certificate of the role, the peer's required, no tickets, ALPN, and the groups. */
function tlsOptions(self: LinkParty, role: Role, groups: readonly LinkGroup[]): Omit<tls.TlsOptions, "pskCallback"> {
  return {
    ...mutualServerOptions({ credential: self.credential(role), trustAnchors: self.trustAnchors, alpn: alpn.link }),
    ecdhCurve: groups.join(":"),
  };
}

function requireTransport(socket: TLSSocket): void {
  if (socket.getProtocol() !== "TLSv1.3") throw new SignetError("tls-refused", "A link is TLS 1.3.");
  // A server that sets ALPN does not bind a client that offers none, hence the check at both ends (ALPACA).
  if (socket.alpnProtocol !== alpn.link) throw new SignetError("alpn-mismatch", `A link speaks ${alpn.link} from its first octet.`);
  if (socket.isSessionReused()) throw new SignetError("tls-refused", "A link rests on a handshake of its own, never on an earlier session.");
}

function negotiatedGroup(socket: TLSSocket): string | undefined {
  const info: { type?: string; name?: string; size?: number } | null = socket.getEphemeralKeyInfo() as object | null;
  return info?.type === "DH" ? `ffdhe${info.size}` : info?.name;
}

/** Own path validation, profile and revocation; then that the peer is an agent and somebody else. */
function verifyPeer(socket: TLSSocket, self: LinkParty, clock: Clock, purpose: KeyPurpose): { proof: NotRevoked; peer: Identity } {
  const [endEntity, ...intermediates] = presentedChain(purpose === "clientAuth" ? socket.getPeerX509Certificate() : socket.getPeerCertificate(true));
  if (endEntity === undefined) throw new SignetError("client-certificate-required", "The peer showed no certificate.");
  // OpenSSL lets a dialler through who shows its end entity alone, where the listener's own CAs issued it: see mutualServerOptions.
  const own = purpose === "clientAuth" ? self.credential("server").chain.slice(1) : [];
  const path = validatePath({ endEntity, intermediates: [...intermediates, ...own], trustAnchors: self.trustAnchors, purpose, at: clock.now() });
  const peer = checkProfile(path);
  const proof = self.revocation.check(path);
  if (peer.uri === self.identity.uri) throw new SignetError("peer-is-self", "The peer shows one's own identity.");
  if (peer.kind !== "agent") throw new SignetError("peer-mismatch", `Links are between agents; this is ${peer.uri}.`);
  return { proof, peer };
}

async function openTransport(to: DialOptions["to"]): Promise<{ socket: Duplex } | { host: string; port: number }> {
  if (typeof to !== "function") return { host: to.host, port: to.port };
  try {
    return { socket: await to() };
  } catch (error) {
    throw new SignetError("remote-unreachable", "No stream to the agent could be opened.", { cause: error });
  }
}

function handshakeError(error: unknown): SignetError {
  if (error instanceof SignetError) return error;
  const code = error instanceof Error && "code" in error ? String(error.code) : "unknown";
  if (["ECONNREFUSED", "EHOSTUNREACH", "ENETUNREACH", "ENOTFOUND", "EAI_AGAIN"].includes(code)) {
    return new SignetError("remote-unreachable", "Nobody answers where the agent should listen.", { cause: error });
  }
  if (code === "ERR_SSL_TLSV1_ALERT_NO_APPLICATION_PROTOCOL") return new SignetError("alpn-mismatch", `The other end does not speak ${alpn.link}.`, { cause: error });
  return new SignetError("tls-refused", "The handshake failed.", { details: { reason: code }, cause: error });
}

/** Runs the opening of a link, within its time limit; whatever fails, nothing of the connection stays. */
async function withinTime<T>(socket: TLSSocket, open: () => Promise<T>): Promise<T> {
  const timer = setTimeout(() => socket.destroy(new SignetError("timed-out", "The link did not open in time.")), handshakeMilliseconds);
  try {
    return await open();
  } catch (error) {
    socket.destroy();
    throw error;
  } finally {
    clearTimeout(timer);
  }
}

function refusedByPeer(uri: string, cause?: unknown): SignetError {
  return new SignetError("tls-refused", `${uri} refused the link.`, { cause });
}

function frame(message: Uint8Array): Uint8Array {
  const length = Buffer.alloc(lengthBytes);
  length.writeUInt32BE(message.length);
  return Buffer.concat([length, message]);
}

/** Cuts the stream into frames: u32 length, big-endian, then as many octets. Reads on only as frames are taken. */
async function* frames(socket: TLSSocket): AsyncGenerator<Uint8Array, void> {
  let buffered = Buffer.alloc(0);
  for await (const chunk of socket as AsyncIterable<Buffer>) {
    buffered = Buffer.concat([buffered, chunk]);
    while (buffered.length >= lengthBytes) {
      const length = buffered.readUInt32BE();
      if (length > longestMessageBytes) throw new SignetError("message-malformed", `A frame of ${length} octets; at most ${longestMessageBytes} are allowed.`);
      if (buffered.length < lengthBytes + length) break;
      // A copy: the message must not keep or share the buffer of its neighbours.
      yield Uint8Array.from(buffered.subarray(lengthBytes, lengthBytes + length));
      buffered = buffered.subarray(lengthBytes + length);
    }
  }
}
