import { createPrivateKey, createPublicKey, type KeyObject } from "node:crypto";
import { chmodSync, readdirSync, readFileSync } from "node:fs";
import path from "node:path";
import { z } from "zod";
import { Certificate } from "./certificate.ts";
import { checkProfile, type Identity, parseIdentityUri, type Role } from "./certificate-profile.ts";
import { type Clock, systemClock } from "./clock.ts";
import { createFloors, type LoweredFloor, loweredFloors, lowerFloorsAfterRestore } from "./crl-floors.ts";
import { CrlRefresher } from "./crl-refresher.ts";
import { DistributionPointSource, FolderSource } from "./crl-sources.ts";
import { makeFolder, writeFileDurably } from "./durable-file.ts";
import { certificateForKey, EnrolmentClient, fetchPinnedRoot, normalFingerprint } from "./enrolment-client.ts";
import { SignetError } from "./errors.ts";
import { createCsr, equalInConstantTime, generateKeyPair, type KeyType, keyTypeOf } from "./keys.ts";
import { type Log, silentLog } from "./log.ts";
import type { Credential } from "./mtls.ts";
import { type KeyPurpose, validatePath } from "./path-validation.ts";
import { pemDecodeOne } from "./pem.ts";
import { estRoutes } from "./protocol-ca.ts";
import { type AcceptedCrl, fileFloors, memoryFloors, RevocationStore } from "./revocation.ts";

/** `identity.json`, beside `root.pem`, `client.pem`, `server.pem` (private key and chain in one file, so that they change together), `crl-floors.json`, and `crls/` for CRLs that are imported. */
const settingsSchema = z.strictObject({ format: z.literal(1), uri: z.string(), caUrl: z.url(), rootFingerprint: z.string().regex(/^[0-9a-f]{64}$/) });
type Settings = z.infer<typeof settingsSchema>;

const settingsFile = "identity.json";
const rootFile = "root.pem";
const floorsFile = "crl-floors.json";
const crlFolder = "crls";
const credentialFile = (role: Role) => `${role}.pem`;
const purposeOf: Readonly<Record<Role, KeyPurpose>> = { client: "clientAuth", server: "serverAuth" };

/** Longest that an agent goes on with revocation data whose last authenticated refresh lies back. */
const agentMaxAgeMilliseconds = 15 * 60_000;

export interface IdentityOptions {
  readonly clock?: Clock;
  readonly log?: Log;
  /** See RevocationStore; 15 minutes by default. */
  readonly maxAgeMilliseconds?: number;
  /** Hosts besides the CA's own that distribution points may be on, at port 80 or from 1024 up; `host:port` permits that port alone. */
  readonly crlHosts?: readonly string[];
}

export interface EnrolmentOptions extends IdentityOptions {
  /** Enrolment listener of the CA: `https://host:port`. */
  readonly caUrl: string;
  /** SHA-256 of the CA's root certificate, which pins the first contact. */
  readonly rootFingerprint: string;
  readonly name: string;
  /** One-time token; spent by this call. */
  readonly token: string;
  /** Where the identity is kept; in memory alone if left out. Must not hold one yet. */
  readonly directory?: string;
  readonly keyType?: KeyType;
}

/** How often the life that is left of each certificate is looked at. */
const renewalLookMilliseconds = 60_000;

/**
 * An enrolled party: its URI, the keys that it made and never showed, their certificates by role, and what it knows of revocations.
 * On disk it is one directory of mode 0700; private keys are 0600. Agents, operators and the KMS are all one of these.
 */
export class EnrolledIdentity {
  readonly identity: Identity;
  readonly trustAnchors: readonly Certificate[];
  readonly revocation: RevocationStore;
  readonly #settings: Settings;
  readonly #directory: string | undefined;
  readonly #clock: Clock;
  readonly #client: EnrolmentClient;
  readonly #refresher: CrlRefresher;
  readonly #credentials = new Map<Role, Credential>();
  readonly #renewed = new Set<(role: Role) => void>();
  readonly #log: Log;
  #renewing: NodeJS.Timeout | undefined;

  private constructor(settings: Settings, root: Certificate, directory: string | undefined, options: IdentityOptions) {
    this.#settings = settings;
    this.#directory = directory;
    this.#clock = options.clock ?? systemClock;
    this.#log = options.log ?? silentLog;
    this.identity = parseIdentityUri(settings.uri);
    this.trustAnchors = [root];
    this.revocation = new RevocationStore({
      trustAnchors: this.trustAnchors,
      floors: directory === undefined ? memoryFloors() : fileFloors(path.join(directory, floorsFile)),
      clock: this.#clock,
      maxAgeMilliseconds: options.maxAgeMilliseconds ?? agentMaxAgeMilliseconds,
    });
    this.#client = new EnrolmentClient({ caUrl: new URL(settings.caUrl), root, revocation: this.revocation, clock: this.#clock, credential: () => this.#credentials.get("client") });
    const certificates = (): Certificate[] => [...new Set([...this.#credentials.values()].flatMap(({ chain }) => chain))];
    const hosts = new Set([new URL(settings.caUrl).hostname.replace(/^\[|\]$/g, ""), ...(options.crlHosts ?? [])].map((host) => host.toLowerCase()));
    const furtherSources = [new DistributionPointSource({ certificates, hosts }), ...(directory === undefined ? [] : [new FolderSource(path.join(directory, crlFolder), certificates)])];
    this.#refresher = new CrlRefresher({ store: this.revocation, source: this.#client, furtherSources, clock: this.#clock, log: this.#log });
  }

  /**
   * Enrols by EST (RFC 7030): pins the root, fetches the CRLs, makes a key, and sends its CSR with the token. What comes back is validated
   * before it is kept. A token that was spent on an answer that got lost stays spent: ask for another.
   * @throws SignetError root-fingerprint-mismatch | token-invalid | key-rejected | already-exists (the directory holds an identity) | and what the network brings
   */
  static async enroll(options: EnrolmentOptions): Promise<EnrolledIdentity> {
    const { directory } = options;
    if (directory !== undefined) prepareDirectory(directory);
    const caUrl = parseCaUrl(options.caUrl);
    const rootFingerprint = normalFingerprint(options.rootFingerprint);
    const root = await fetchPinnedRoot(caUrl, rootFingerprint);
    // The token names the identity; its kind is the CA's to say, so the URI is known once the certificate is here.
    const revocation = new RevocationStore({ trustAnchors: [root], floors: memoryFloors(), clock: options.clock ?? systemClock, maxAgeMilliseconds: agentMaxAgeMilliseconds });
    const client = new EnrolmentClient({ caUrl, root, revocation, clock: options.clock ?? systemClock });
    try {
      await new CrlRefresher({ store: revocation, source: client, clock: options.clock ?? systemClock, log: options.log ?? silentLog }).refreshOnce();
      const authorities = await client.cacerts();
      const { privateKey } = await generateKeyPair(options.keyType ?? "rsa-2048");
      const answer = await client.simpleenroll(options.name, options.token, await createCsr(privateKey, { commonName: options.name }));
      const credential = { privateKey, chain: chainFor([...answer, ...authorities], privateKey, root) };
      const identity = identityOf(credential, root, "client", (options.clock ?? systemClock).now());
      if (identity.name !== options.name || identity.trustDomain !== client.trustDomain) {
        throw new SignetError("peer-mismatch", `The CA certified ${identity.uri} where ${options.name} was asked for.`);
      }
      const settings: Settings = { format: 1, uri: identity.uri, caUrl: caUrl.origin, rootFingerprint };
      if (directory !== undefined) writeIdentity(directory, settings, root, { client: credential });
      const enrolled = new EnrolledIdentity(settings, root, directory, options);
      enrolled.#credentials.set("client", credential);
      await enrolled.refreshRevocation();
      return enrolled;
    } finally {
      client.close();
    }
  }

  /**
   * Opens an identity that was enrolled before. Reads files only: call {@link refreshRevocation} before using it.
   * @throws SignetError file-unusable | data-directory-corrupt
   */
  static open(directory: string, options: IdentityOptions = {}): EnrolledIdentity {
    const text = readText(directory, settingsFile);
    try {
      const settings = settingsSchema.parse(JSON.parse(text));
      const root = Certificate.fromPem(readText(directory, rootFile));
      if (root.fingerprint !== settings.rootFingerprint) throw new SignetError("data-directory-corrupt", `${directory}: root.pem is not the root that was pinned.`);
      const names = readdirSync(directory);
      if (!names.includes(floorsFile)) throw new SignetError("data-directory-corrupt", `${directory}: ${floorsFile} is missing, without which revoked certificates could pass again. Restore it; a floor is given up with \`npx signet pki lower-crl-floor\` alone.`);
      const identity = new EnrolledIdentity(settings, root, directory, options);
      for (const { scope, crlNumber, at, reason } of loweredFloors(path.join(directory, floorsFile)) ?? []) {
        (options.log ?? silentLog).warn({ scope, crlNumber: crlNumber.toString(), at: at.toISOString(), reason }, "an operator has lowered this CRL floor: CRLs up to this number could have been replayed since");
      }
      for (const role of ["client", "server"] as const) {
        if (names.includes(credentialFile(role))) identity.#credentials.set(role, readCredential(readText(directory, credentialFile(role))));
      }
      return identity;
    } catch (cause) {
      if (cause instanceof SignetError && cause.code === "data-directory-corrupt") throw cause;
      throw new SignetError("data-directory-corrupt", `${directory} does not hold an identity that can be read.`, { cause });
    }
  }

  /**
   * Writes an identity that was certified without EST, as the CA does for its first operator.
   * @internal
   * @throws SignetError already-exists
   */
  static write(directory: string, i: { readonly uri: string; readonly caUrl: string; readonly root: Certificate; readonly credentials: Partial<Record<Role, Credential>> }): void {
    prepareDirectory(directory);
    writeIdentity(directory, { format: 1, uri: i.uri, caUrl: i.caUrl, rootFingerprint: i.root.fingerprint }, i.root, i.credentials);
  }

  /** Whether a directory holds an identity. */
  static isAt(directory: string): boolean {
    try {
      return readdirSync(directory).includes(settingsFile);
    } catch {
      return false;
    }
  }

  /** Enrolment listener of the CA. */
  get caUrl(): string {
    return this.#settings.caUrl;
  }

  /** Where the CA's other listeners are. @internal for the command line */
  get ca(): Pick<EnrolmentClient, "directory" | "cacerts"> {
    return this.#client;
  }

  /** Whether there is a certificate of the role. */
  hasRole(role: Role): boolean {
    return this.#credentials.has(role);
  }

  /** Key and chain of a role. @throws SignetError state-conflict */
  credential(role: Role): Credential {
    const credential = this.#credentials.get(role);
    if (credential === undefined) throw new SignetError("state-conflict", `${this.identity.uri} has no certificate for the ${role} role.`);
    return credential;
  }

  /** First certificate of the server role, by the client certificate. */
  async enrollServerRole(keyType?: KeyType): Promise<void> {
    await this.#obtain("server", estRoutes.serverSimpleenroll, keyType);
  }

  /** New key and certificate for a role (RFC 7030 section 4.2.2); the old one stays valid until it expires. */
  async renew(role: Role): Promise<void> {
    await this.#obtain(role, role === "client" ? estRoutes.simplereenroll : estRoutes.serverSimplereenroll, keyTypeOf(this.credential(role).privateKey));
  }

  /** Whether less than a third of a role's certificate's life is left. */
  isRenewalDue(role: Role): boolean {
    const [certificate] = this.credential(role).chain;
    return certificate === undefined || isInLastThird(certificate, this.#clock.now());
  }

  /** Whether the certificate of a role has expired. */
  /** Renews each certificate of which less than a third of its life is left. @throws SignetError as {@link renew} */
  async renewWhereDue(): Promise<void> {
    for (const role of ["client", "server"] as const) if (this.hasRole(role) && this.isRenewalDue(role)) await this.renew(role);
  }

  /** Renews in the background, looking once a minute, until {@link stop}. What fails is logged and tried again. */
  startRenewal(): void {
    let underWay = false;
    const look = (): void => {
      if (underWay) return;
      underWay = true;
      void this.renewWhereDue()
        .catch((error: unknown) => this.#log.warn({ err: error }, "a certificate could not be renewed; it is tried again in a minute"))
        .finally(() => (underWay = false));
    };
    this.#renewing ??= setInterval(look, renewalLookMilliseconds).unref();
    look();
  }

  isExpired(role: Role): boolean {
    const [certificate] = this.credential(role).chain;
    return certificate === undefined || certificate.notAfter < this.#clock.now();
  }

  /**
   * Puts a credential of this identity, validated first, in the place of the one that the role has: in memory and in its file.
   * @internal
   * @throws SignetError peer-mismatch, storage-unavailable, and what is wrong with its path
   */
  adopt(role: Role, credential: Credential): void {
    const root = this.trustAnchors[0] as Certificate;
    const { uri } = identityOf(credential, root, role, this.#clock.now());
    if (uri !== this.identity.uri) throw new SignetError("peer-mismatch", `The CA certified ${uri} where ${this.identity.uri} was asked for.`);
    if (this.#directory !== undefined) writeFileDurably(path.join(this.#directory, credentialFile(role)), credentialText(credential), 0o600);
    this.#credentials.set(role, credential);
    for (const listener of this.#renewed) listener(role);
  }

  /** Is told of each renewed role. Returns how to stop that. */
  onRenewal(listener: (role: Role) => void): () => void {
    this.#renewed.add(listener);
    return () => this.#renewed.delete(listener);
  }

  /** Fetches and verifies every CRL once. @throws SignetError when that fails */
  refreshRevocation(): Promise<void> {
    return this.#refresher.refreshOnce();
  }

  /**
   * What the CA's latest CRLs say of this identity's own client certificate. They are asked for at the enrolment listener, which wants no client certificate: so a party that was cut
   * off everywhere learns why.
   * @throws SignetError certificate-revoked (with `reason`, and `publishedAt`, when the CA published the CRL that shows it), certificate-expired, and what keeps the CRLs from being had
   */
  async checkOwnStanding(): Promise<void> {
    const [endEntity, ...intermediates] = this.credential("client").chain as [Certificate, ...Certificate[]];
    const path = validatePath({ endEntity, intermediates, trustAnchors: this.trustAnchors, purpose: "clientAuth", at: this.#clock.now() });
    const client = new EnrolmentClient({ caUrl: new URL(this.caUrl), root: this.trustAnchors[0] as Certificate, revocation: this.revocation, clock: this.#clock });
    try {
      const issuers = await client.issuers();
      let publishedAt: Date | undefined;
      for (const name of await client.crlNames()) {
        const answer = await client.fetchCrl(name, {});
        if (answer.status === "unchanged") continue;
        const { crl } = this.revocation.accept(answer.der, issuers);
        if (crl.authorityKeyIdentifier === endEntity.id.issuerKeyId && crl.find(endEntity.serialNumber) !== undefined) publishedAt = answer.publishedAt;
      }
      try {
        this.revocation.check(path);
      } catch (error) {
        if (!(error instanceof SignetError) || publishedAt === undefined) throw error;
        throw new SignetError(error.code, error.message, { details: { ...error.details, publishedAt: publishedAt.toISOString() }, cause: error });
      }
    } finally {
      client.close();
    }
  }

  /**
   * Takes a CRL that was brought in as a file: verified as any other, then kept in the directory, where a running process of this identity finds it
   * while the CA does not answer.
   * @throws SignetError as RevocationStore.accept
   */
  importCrl(der: Uint8Array): AcceptedCrl {
    const accepted = this.revocation.accept(der, [...this.#credentials.values()].flatMap(({ chain }) => chain), "elsewhere");
    if (this.#directory !== undefined) {
      const folder = path.join(this.#directory, crlFolder);
      makeFolder(folder);
      writeFileDurably(path.join(folder, `${accepted.scope.replace("/", "-")}.crl`), der, 0o600);
    }
    return accepted;
  }

  /** Gives up floors of the identity in a directory: see {@link lowerFloorsAfterRestore}, which says what that costs. @internal for the command line */
  static lowerCrlFloors(directory: string, i: { readonly scope?: string; readonly reason: string; readonly at: Date }): readonly LoweredFloor[] {
    if (!EnrolledIdentity.isAt(directory)) throw new SignetError("file-unusable", `${directory} holds no identity.`);
    return lowerFloorsAfterRestore(path.join(directory, floorsFile), i);
  }

  /** Keeps the CRLs fresh in the background, by long poll, until {@link stop}. */
  startRevocationRefresh(): void {
    this.#refresher.start();
  }

  /** Ends the refresh and every connection to the CA. */
  stop(): void {
    clearInterval(this.#renewing);
    this.#refresher.stop();
    this.#client.close();
  }

  async #obtain(role: Role, route: Parameters<EnrolmentClient["enrollMutually"]>[0], keyType: KeyType | undefined): Promise<void> {
    const root = this.trustAnchors[0] as Certificate;
    const { privateKey } = await generateKeyPair(keyType ?? keyTypeOf(this.credential("client").privateKey) ?? "rsa-2048");
    const answer = await this.#client.enrollMutually(route, await createCsr(privateKey, { commonName: this.identity.name, uri: this.identity.uri }));
    // The answer holds the certificate alone (RFC 7030 section 4.2.3); its issuers come from cacerts.
    const credential = { privateKey, chain: chainFor([...answer, ...(await this.#client.cacerts())], privateKey, root) };
    this.adopt(role, credential);
  }
}

/** Whether less than a third of a certificate's life is left: time to renew it, with room for failures. */
export function isInLastThird({ notBefore, notAfter }: Certificate, at: Date): boolean {
  return notAfter.getTime() - at.getTime() < (notAfter.getTime() - notBefore.getTime()) / 3;
}

/** Validates what the CA sent as anybody would who is shown it. */
function identityOf(credential: Credential, root: Certificate, role: Role, at: Date): Identity {
  const [endEntity, ...intermediates] = credential.chain;
  if (endEntity === undefined) throw new SignetError("remote-malformed", "The CA's answer holds no certificate.");
  return checkProfile(validatePath({ endEntity, intermediates, trustAnchors: [root], purpose: purposeOf[role], at }));
}

/** Chain to send in TLS: the end entity, then its issuers up to the root, which the other side has. */
function chainFor(answer: readonly Certificate[], privateKey: KeyObject, root: Certificate): Certificate[] {
  const chain = [certificateForKey(answer, createPublicKey(privateKey))];
  for (;;) {
    const last = chain.at(-1) as Certificate;
    const issuer = answer.find((candidate) => candidate.subject.equals(last.issuer) && candidate.fingerprint !== root.fingerprint && !chain.includes(candidate));
    if (issuer === undefined) return chain;
    chain.push(issuer);
  }
}

function credentialText(credential: Credential): string {
  return String(credential.privateKey.export({ format: "pem", type: "pkcs8" })) + credential.chain.map((certificate) => certificate.toPem()).join("");
}

function readCredential(text: string): Credential {
  const privateKey = createPrivateKey({ key: Buffer.from(pemDecodeOne(text, "PRIVATE KEY")), format: "der", type: "pkcs8" });
  const chain = Certificate.listFromPem(text);
  const spki = createPublicKey(privateKey).export({ format: "der", type: "spki" });
  if (chain[0] === undefined || !equalInConstantTime(spki, chain[0].spki)) throw new SignetError("data-directory-corrupt", "The private key and the certificate do not belong together.");
  return { privateKey, chain };
}

function writeIdentity(directory: string, settings: Settings, root: Certificate, credentials: Partial<Record<Role, Credential>>): void {
  for (const role of ["client", "server"] as const) {
    const credential = credentials[role];
    if (credential !== undefined) writeFileDurably(path.join(directory, credentialFile(role)), credentialText(credential), 0o600);
  }
  writeFileDurably(path.join(directory, rootFile), root.toPem(), 0o644);
  createFloors(path.join(directory, floorsFile));
  // Last: a directory without it holds no identity yet.
  writeFileDurably(path.join(directory, settingsFile), `${JSON.stringify(settings, null, 2)}\n`, 0o600);
}

function prepareDirectory(directory: string): void {
  if (EnrolledIdentity.isAt(directory)) throw new SignetError("already-exists", `${directory} holds an identity already. It was left alone.`);
  try {
    makeFolder(directory);
    chmodSync(directory, 0o700);
  } catch (cause) {
    throw new SignetError("file-unusable", `The directory ${directory} cannot be made.`, { cause });
  }
}

function readText(directory: string, name: string): string {
  try {
    return readFileSync(path.join(directory, name), "utf8");
  } catch (cause) {
    throw new SignetError("file-unusable", `${path.join(directory, name)} cannot be read: is ${directory} an enrolled identity?`, { cause });
  }
}

function parseCaUrl(text: string): URL {
  const url = URL.parse(text);
  if (url === null || url.protocol !== "https:" || url.pathname !== "/") throw new SignetError("usage", `'${text}' is not the address of a CA: https://HOST:PORT.`);
  return url;
}
