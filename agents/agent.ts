import path from "node:path";
import { identityUri, type Identity } from "#pki/certificate-profile.ts";
import type { CertificateId } from "#pki/certificate.ts";
import { systemClock, type Clock } from "#pki/clock.ts";
import { SignetError } from "#pki/errors.ts";
import { EnrolledIdentity } from "#pki/identity.ts";
import type { KeyType } from "#pki/keys.ts";
import { alpn, MutualAgent } from "#pki/mtls.ts";
import type { KeyDescription } from "#pki/protocol-kms.ts";
import { Group } from "./group.ts";
import { openKeyEnvelope } from "./key-envelope.ts";
import { watchKeys, type WatchedEvent } from "./key-watch.ts";
import { KmsClient, type GroupKey, type NewKey } from "./kms-client.ts";
import { Link, LinkListener, type DialOptions, type ListenOptions } from "./link.ts";

/** What an operator hands over, and where this agent keeps what it makes. */
export interface EnrollOptions {
  /** Base URL of the CA's enrolment listener. */
  readonly caUrl: string;
  /** SHA-256 of the root certificate in hex, obtained apart from the network: it is what the first contact is checked against. */
  readonly rootFingerprint: string;
  /** The agent's name: 1 to 63 of a-z, 0-9 and -, as the token was made for. */
  readonly name: string;
  /** One-time enrolment token: 43 characters of base64url. */
  readonly token: string;
  /** Base URL of the KMS's mutual listener. */
  readonly kmsUrl: string;
  /** Where keys and certificates are kept (0700); in memory only, if absent. */
  readonly directory?: string;
  /** Kind of the agent's own keys; rsa-2048 where none is named. */
  readonly keyType?: KeyType;
  /** For tests; the system's where none is given. */
  readonly clock?: Clock;
}

/**
 * An enrolled agent: its identity, the KMS, groups, and links to other agents.
 *
 *     const alice = await Agent.enroll({ caUrl, rootFingerprint, name: "alice", token, kmsUrl });
 *     await alice.createKey("team", { readers: [alice.peerUri("bob")] });
 *     const sealed = await alice.group("team").seal(Buffer.from("hello"));
 *     alice.close();
 */
export class Agent {
  /** Every route of the KMS, under this agent's certificate. */
  readonly kms: KmsClient;
  readonly #enrolled: EnrolledIdentity;
  readonly #clock: Clock;
  readonly #connections: MutualAgent;
  readonly #groups = new Map<string, Group>();
  readonly #links = new Set<Link>();
  readonly #listeners = new Set<LinkListener>();
  readonly #closing = new AbortController();
  readonly #unsubscribe: () => void;

  private constructor(enrolled: EnrolledIdentity, kmsUrl: string, clock: Clock) {
    this.#enrolled = enrolled;
    this.#clock = clock;
    this.#connections = new MutualAgent({
      // Asked at each connection, so that a renewed certificate takes effect.
      credential: () => enrolled.credential("client"),
      trustAnchors: enrolled.trustAnchors,
      revocation: enrolled.revocation,
      clock,
      alpn: alpn.http,
      expect: { uri: identityUri(enrolled.identity.trustDomain, "service", "kms") },
    });
    this.kms = new KmsClient({ url: kmsUrl, agent: this.#connections });
    // Whoever was revoked may have been a member: each group asks for its key again before it goes on.
    this.#unsubscribe = this.onRevocation(() => {
      for (const group of this.#groups.values()) group.expire();
    });
  }

  /**
   * Enrols by EST (RFC 7030) with a one-time token: makes a key pair, of which only the CSR leaves, and validates what comes back.
   * Then obtains the certificate of the server role, with which this agent answers links.
   * @throws SignetError root-fingerprint-mismatch, token-invalid, remote-unreachable and others
   */
  static async enroll(i: EnrollOptions): Promise<Agent> {
    const clock = i.clock ?? systemClock;
    const enrolled = await EnrolledIdentity.enroll({
      caUrl: i.caUrl,
      rootFingerprint: i.rootFingerprint,
      name: i.name,
      token: i.token,
      clock,
      ...(i.directory === undefined ? {} : { directory: path.resolve(i.directory) }),
      ...(i.keyType === undefined ? {} : { keyType: i.keyType }),
    });
    await enrolled.enrollServerRole();
    enrolled.startRevocationRefresh();
    enrolled.startRenewal();
    return new Agent(enrolled, i.kmsUrl, clock);
  }

  /** Opens an agent that was enrolled into a directory before, once its CRLs are fresh. @throws SignetError file-unusable, data-directory-corrupt, remote-unreachable */
  static async open(directory: string, i: { readonly kmsUrl: string; readonly clock?: Clock }): Promise<Agent> {
    const clock = i.clock ?? systemClock;
    const enrolled = EnrolledIdentity.open(path.resolve(directory), { clock });
    await enrolled.refreshRevocation();
    enrolled.startRevocationRefresh();
    enrolled.startRenewal();
    return new Agent(enrolled, i.kmsUrl, clock);
  }

  /** Who this agent is, as its certificates say. */
  get identity(): Identity {
    return this.#enrolled.identity;
  }

  /** The enrolled party underneath: credentials, trust anchors, revocation, renewal. */
  get enrolled(): EnrolledIdentity {
    return this.#enrolled;
  }

  /** Identity URI of another agent of this trust domain. */
  peerUri(name: string): string {
    return identityUri(this.identity.trustDomain, "agent", name);
  }

  /** Makes an AES-256 key at the KMS, which this agent owns. @throws SignetError already-exists */
  createKey(name: string, key: NewKey = {}): Promise<KeyDescription> {
    return this.kms.createKey(name, key);
  }

  /** The key's material, confirmed by the KMS in this very call. @throws SignetError not-permitted, state-conflict */
  requestKey(name: string, version: number | "latest" = "latest"): Promise<GroupKey> {
    return this.kms.material(name, version);
  }

  /**
   * The same, sealed to this agent's RSA key and signed by the KMS, for a path on which TLS ends before the KMS.
   * @throws SignetError not-acceptable where this agent has no RSA key, not-permitted, state-conflict, and as {@link openKeyEnvelope}
   */
  async requestSealedKey(name: string, version: number | "latest" = "latest"): Promise<GroupKey> {
    return openKeyEnvelope(await this.kms.keyEnvelope(name, version), this.#enrolled, { name, version }, this.#clock);
  }

  /**
   * Tells of key versions as they come to this agent or change, until `signal` is aborted or the agent closed; it connects again where that makes sense.
   *
   *     await agent.watchKeys((event) => console.log(event), AbortSignal.timeout(60_000));
   * @throws SignetError as {@link watchKeys}: certificate-revoked with the CA's reason when this agent is revoked
   */
  watchKeys(onEvent: (event: WatchedEvent) => void, signal: AbortSignal): Promise<void> {
    return watchKeys({ kms: this.kms, enrolled: this.#enrolled, onEvent, signal: AbortSignal.any([signal, this.#closing.signal]) });
  }

  /** The group that shares a key of the KMS. One object a name, since it is what remembers the messages that were accepted. */
  group(name: string): Group {
    const known = this.#groups.get(name);
    if (known !== undefined) return known;
    const group = new Group({ name, self: this.identity, kms: this.kms, clock: this.#clock });
    this.#groups.set(name, group);
    return group;
  }

  /** Opens a link to another agent, by its name or URI. @throws SignetError as {@link Link.dial} */
  async dial(peer: string, to: DialOptions["to"], options: Pick<DialOptions, "group"> = {}): Promise<Link> {
    const uri = peer.includes(":") ? peer : this.peerUri(peer);
    return this.#track(await Link.dial({ ...options, self: this.#enrolled, clock: this.#clock, uri, to }));
  }

  /** Answers links of other agents. */
  async listen(options: Omit<ListenOptions, "self" | "clock">): Promise<LinkListener> {
    if (!this.#enrolled.hasRole("server")) throw new SignetError("state-conflict", "This agent has no certificate of the server role.");
    const listener = await LinkListener.listen({ ...options, self: this.#enrolled, clock: this.#clock });
    this.#listeners.add(listener);
    return listener;
  }

  /** Is told of the certificates that a new CRL revokes, after connections and links of theirs were cut. Returns how to stop that. */
  onRevocation(listener: (revoked: readonly CertificateId[]) => void): () => void {
    return this.#enrolled.revocation.onRevoked((added) => {
      if (added.length > 0) listener(added);
    });
  }

  /** Ends every link, listener, watch and connection. */
  async close(): Promise<void> {
    this.#closing.abort();
    this.#unsubscribe();
    for (const link of this.#links) link.close();
    await Promise.all([...this.#listeners].map((listener) => listener.close()));
    this.#connections.destroy();
    this.#enrolled.stop();
  }

  #track(link: Link): Link {
    this.#links.add(link);
    void link.closed.then(() => this.#links.delete(link));
    return link;
  }
}
