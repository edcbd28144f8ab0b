import { BlockList, isIPv6 } from "node:net";
import { CertificateRequest } from "#pki/certificate-request.ts";
import { identityUri, parseIdentityUri, type Identity, type IdentityKind, type Role } from "#pki/certificate-profile.ts";
import type { Certificate } from "#pki/certificate.ts";
import type { Clock } from "#pki/clock.ts";
import { SignetError } from "#pki/errors.ts";
import { isInLastThird } from "#pki/identity.ts";
import { checkAcceptableKey, signerFromKey, type SecretKey } from "#pki/keys.ts";
import type { Log } from "#pki/log.ts";
import type { AuthenticatedPeer, Credential } from "#pki/mtls.ts";
import type { CertificateRequestBody, DeploymentMode, RevocationReason, TokenRequest } from "#pki/protocol-ca.ts";
import { summaryRows, type CaSummary } from "#pki/protocol-summary.ts";
import { readUnsealKey } from "#pki/unseal.ts";
import { AuditLog, toLatestRecords } from "#store/audit-log.ts";
import { DataDirectory } from "#store/data-directory.ts";
import type { SqlEngine, SqlTransaction } from "#store/engine.ts";
import { openSqlite } from "#store/sqlite.ts";
import { CrlPublisher, type CrlScope, type PublishedCrl } from "./crl-publisher.ts";
import { createToken, inspectToken, redeemToken, serverNamesOf, setServerNames, type ServerNames } from "./enrollment.ts";
import { makeServerKey, renewOperatorIfDue } from "./initialisation.ts";
import { Issuer } from "./issuer.ts";
import { abandonIntents, countCertificates, findCertificate, isLive, lastRevocations, listCertificates, nextToExpire, revoke, type LedgerEntry, type LedgerFilter, type RevocationTarget } from "./ledger.ts";
import { loadAuthorityKey, type AuthorityKey } from "./sealed-keys.ts";
import {
  authorityDirectoryFormat,
  authorityIdentity,
  authorityPaths,
  leafDistributionPoint,
  leafValidityDays,
  ledgerMigrations,
  loadSettings,
  permittedNames,
  type AuthoritySettings,
} from "./settings.ts";

export { initialiseAuthority, type InitialisationOptions } from "./initialisation.ts";
export type { AuthoritySettings } from "./settings.ts";

const day = 86_400_000;
const defaultTokenLifetimeSeconds = 3600;
/** How often a running authority looks at the certificates that it renews itself. */
const renewalCheckMilliseconds = 3_600_000;

export interface IssuedToken {
  readonly token: string;
  readonly expiresAt: Date;
}

export interface Revocation {
  readonly revoked: readonly string[];
  /** The CRL that carries it. */
  readonly published: PublishedCrl;
}

interface AuthorityParts {
  readonly directory: DataDirectory;
  readonly engine: SqlEngine;
  readonly audit: AuditLog;
  readonly clock: Clock;
  readonly log: Log;
  readonly settings: AuthoritySettings;
  readonly unsealKey: SecretKey;
  readonly root: AuthorityKey;
  readonly issuing: AuthorityKey;
  readonly server: AuthorityKey;
  readonly issuer: Issuer;
  readonly publisher: CrlPublisher;
  readonly operatorDirectory: string;
}

/**
 * The certificate authority: enrols, renews, revokes and publishes. A caller is an AuthenticatedPeer; what it may do is decided here, and in
 * the transaction of the act the ledger is asked once more whether the caller's certificate still stands.
 */
export class Authority {
  readonly settings: AuthoritySettings;
  readonly mode: DeploymentMode;
  readonly root: Certificate;
  readonly issuingCertificate: Certificate;
  readonly publisher: CrlPublisher;
  readonly #parts: AuthorityParts;
  readonly #identity: Identity;
  #server: AuthorityKey;
  #renewing: Promise<void> | undefined;
  #timer: NodeJS.Timeout | undefined;
  readonly #credentialListeners = new Set<() => void>();

  private constructor(parts: AuthorityParts) {
    this.#parts = parts;
    this.settings = parts.settings;
    this.mode = parts.settings.mode ?? "development";
    this.root = parts.root.certificate;
    this.issuingCertificate = parts.issuing.certificate;
    this.publisher = parts.publisher;
    this.#server = parts.server;
    this.#identity = authorityIdentity(parts.settings.trustDomain);
  }

  /**
   * Opens the authority in `<dataDirectory>/ca`, alone: verifies the audit log, unseals the keys, gives up what a crash left half done.
   * @throws SignetError data-directory-foreign, -corrupt, -newer, -locked, unseal-failed
   */
  static async open(dataDirectory: string, { clock, log, passphrase }: { readonly clock: Clock; readonly log: Log; readonly passphrase?: SecretKey }): Promise<Authority> {
    const paths = authorityPaths(dataDirectory);
    const directory = DataDirectory.open(paths.ca, authorityDirectoryFormat);
    let engine: SqlEngine | undefined;
    try {
      engine = openSqlite(directory.file("ca.sqlite"), { mode: "existing" });
      await engine.migrate(ledgerMigrations);
      const audit = await AuditLog.open(engine, clock);
      await engine.read((reads) => audit.verify(reads));
      const settings = await engine.read(loadSettings);
      const unsealKey = await readUnsealKey(paths.unsealKey, passphrase);
      if ((settings.mode === "production") !== (passphrase !== undefined))
        throw new SignetError("data-directory-corrupt", `${paths.ca} and ${paths.unsealKey} do not belong together: one is for production, one for development.`);
      const load = (name: "root" | "issuing" | "server") => (engine as SqlEngine).read((reads) => loadAuthorityKey(reads, unsealKey, name));
      const [root, issuing, server] = [await load("root"), await load("issuing"), await load("server")];
      await engine.transaction((transaction) => abandonIntents(transaction));
      const scopes = crlScopes(settings, root, issuing);
      const publisher = await CrlPublisher.open({ engine, audit, clock, log, scopes, actor: authorityIdentity(settings.trustDomain).uri });
      const issuer = new Issuer({
        engine,
        audit,
        clock,
        root: root.certificate,
        certificate: issuing.certificate,
        signer: signerFromKey(issuing.privateKey),
        crlDistributionPoint: leafDistributionPoint(settings),
      });
      return new Authority({ directory, engine, audit, clock, log, settings, unsealKey, root, issuing, server, issuer, publisher, operatorDirectory: paths.operator });
    } catch (error) {
      await engine?.close();
      directory.close();
      throw error;
    }
  }

  /** Publishes fresh CRLs and renews the own certificate, and the first operator's, where it is time; serve nobody before this resolves. */
  async start(): Promise<void> {
    await this.publisher.start();
    await this.#renewServerIfDue();
    await this.#renewOperatorIfDue();
    this.#timer = setInterval(() => {
      this.#renewServerIfDue().catch((error: unknown) => this.#parts.log.error({ err: error }, "the own server certificate could not be renewed"));
      void this.#renewOperatorIfDue();
    }, renewalCheckMilliseconds);
    this.#timer.unref();
  }

  async close(): Promise<void> {
    clearInterval(this.#timer);
    await this.publisher.stop();
    await this.#renewing?.catch(() => {});
    await this.#parts.engine.close();
    this.#parts.directory.close();
  }

  now(): Date {
    return this.#parts.clock.now();
  }

  /** What the authority's own listeners show. The chain ends before the root. */
  get serverCredential(): Credential {
    return { privateKey: this.#server.privateKey, chain: [this.#server.certificate, this.issuingCertificate] };
  }

  /** Tells when the own server certificate was renewed. */
  onServerCredential(listener: () => void): void {
    this.#credentialListeners.add(listener);
  }

  /**
   * First certificate of an identity, for a one-time token.
   * @throws SignetError token-invalid, csr-malformed, csr-signature-invalid, key-rejected, key-barred
   */
  async enroll(name: string, token: string, csrDer: Uint8Array): Promise<Certificate> {
    const { engine, clock } = this.#parts;
    // Before any work on the request: strangers without a token cost a look-up.
    const { identity } = await engine.read((reads) => inspectToken(reads, name, token, clock.now()));
    const parsed = parseIdentityUri(identity);
    return this.#issue(parsed, "client", noNames, csrDer, leafValidityDays.client, identity, async (transaction, serialNumber) => {
      await redeemToken(transaction, name, token, serialNumber, clock.now());
    });
  }

  /**
   * A certificate of the caller's own identity, its first or a renewed one of this role. Names of a server come from what an operator set.
   * @throws SignetError not-permitted, certificate-revoked, csr-malformed, csr-signature-invalid, key-rejected, key-barred
   */
  async renew(caller: AuthenticatedPeer, role: Role, csrDer: Uint8Array): Promise<Certificate> {
    const { identity } = caller;
    const names = role === "server" && identity.kind === "service" ? await this.#parts.engine.read((reads) => serverNamesOf(reads, identity.uri)) : noNames;
    this.#checkNames(identity.kind, role, names, "not-permitted");
    return this.#issue(identity, role, names, csrDer, leafValidityDays[role], identity.uri, (transaction) => this.#confirm(transaction, caller));
  }

  /** A certificate for somebody's request, on an operator's word. @throws SignetError not-permitted, request-malformed, name-not-permitted, and as `renew` */
  async issueFor(caller: AuthenticatedPeer, body: CertificateRequestBody): Promise<Certificate> {
    requireOperator(caller);
    const identity = this.#identityFor(body.kind, body.name);
    const names = { dns: body.dns ?? [], ip: body.ip ?? [] };
    this.#checkNames(body.kind, body.role, names, "request-malformed");
    const validityDays = body.validityDays ?? leafValidityDays[body.role];
    if (validityDays > leafValidityDays[body.role])
      throw new SignetError("request-malformed", `A ${body.role} certificate lives ${leafValidityDays[body.role]} days at most.`);
    const csr = Buffer.from(body.csr, "base64");
    return this.#issue(identity, body.role, names, csr, validityDays, caller.identity.uri, async (transaction) => {
      await this.#confirm(transaction, caller);
      if (body.role === "server") await setServerNames(transaction, identity.uri, names);
    });
  }

  /** @throws SignetError not-permitted, request-malformed, name-not-permitted, certificate-revoked */
  async createToken(caller: AuthenticatedPeer, body: TokenRequest): Promise<IssuedToken> {
    requireOperator(caller);
    const { engine, audit, clock } = this.#parts;
    const identity = this.#identityFor(body.kind, body.name);
    const names = { dns: body.dns ?? [], ip: body.ip ?? [] };
    if (names.dns.length + names.ip.length > 0) this.#checkNames(body.kind, "server", names, "request-malformed");
    const expiresAt = new Date(clock.now().getTime() + (body.lifetimeSeconds ?? defaultTokenLifetimeSeconds) * 1000);
    const token = await engine.transaction(async (transaction) => {
      await this.#confirm(transaction, caller);
      await audit.append(transaction, {
        action: "token.created",
        actor: caller.identity.uri,
        subject: identity.uri,
        details: { expiresAt: expiresAt.toISOString(), dns: names.dns, ip: names.ip },
      });
      return createToken(transaction, { identity: identity.uri, ...names }, expiresAt);
    });
    return { token, expiresAt };
  }

  /**
   * Revokes a certificate, or an identity with all its certificates and tokens. Resolves when that is durable and on the published CRL.
   * @throws SignetError not-permitted, not-found, certificate-revoked; storage-unavailable, clock-rolled-back where it is durable but not yet published
   */
  async revoke(caller: AuthenticatedPeer, target: RevocationTarget, reason: RevocationReason): Promise<Revocation> {
    requireOperator(caller);
    const { engine, audit, clock } = this.#parts;
    if ("serialNumber" in target && [this.root, this.issuingCertificate].some((ca) => ca.serialNumber === target.serialNumber))
      throw new SignetError("not-permitted", "A certificate authority is not revoked through itself.");
    const revoked = await engine.transaction(async (transaction) => {
      await this.#confirm(transaction, caller);
      const serials = await revoke(transaction, target, reason, clock.now());
      await audit.append(transaction, {
        action: "identity" in target ? "identity.revoked" : "certificate.revoked",
        actor: caller.identity.uri,
        subject: "identity" in target ? target.identity : target.serialNumber,
        details: { reason, serialNumbers: serials },
      });
      return serials;
    });
    const published = await this.publisher.publish("leaf-0");
    if (revoked.includes(this.#server.certificate.serialNumber)) await this.#renewServer();
    return { revoked, published };
  }

  /** Publishes the leaf CRL now. */
  async publish(caller: AuthenticatedPeer): Promise<PublishedCrl> {
    requireOperator(caller);
    return this.publisher.publish("leaf-0");
  }

  async certificates(caller: AuthenticatedPeer, filter: LedgerFilter): Promise<readonly LedgerEntry[]> {
    requireOperator(caller);
    return this.#parts.engine.read((reads) => listCertificates(reads, filter, this.#parts.clock.now()));
  }

  /** What stands in the ledger and the audit log, at a glance. */
  async summary(caller: AuthenticatedPeer): Promise<Pick<CaSummary, "certificates" | "nextToExpire" | "revocations" | "audit">> {
    requireOperator(caller);
    const { engine, audit } = this.#parts;
    const now = this.now();
    return engine.read(async (reads) => ({
      certificates: await countCertificates(reads, now),
      nextToExpire: (await nextToExpire(reads, now, summaryRows)).map((entry) => ({ ...entry, notAfter: entry.notAfter.toISOString() })),
      revocations: (await lastRevocations(reads, summaryRows)).map(({ reason, ...entry }) => ({ ...entry, reason: reason as RevocationReason, revokedAt: entry.revokedAt.toISOString() })),
      audit: toLatestRecords(await audit.latest(reads, summaryRows)),
    }));
  }

  /** @throws SignetError not-found */
  async certificate(caller: AuthenticatedPeer, serialNumber: string): Promise<LedgerEntry> {
    requireOperator(caller);
    const entry = await this.#parts.engine.read((reads) => findCertificate(reads, serialNumber));
    if (entry === undefined || entry.role === "ca") throw new SignetError("not-found", "No certificate has this serial number.");
    return entry;
  }

  async #issue(
    identity: Identity,
    role: Role,
    names: ServerNames,
    csrDer: Uint8Array,
    validityDays: number,
    requestedBy: string,
    authorize: (transaction: SqlTransaction, serialNumber: string) => Promise<void>,
  ): Promise<Certificate> {
    const request = CertificateRequest.parse(csrDer);
    // Strength before possession: verifying under a key that nobody checked is work that its sender chooses.
    checkAcceptableKey(request.spki);
    request.verifyPossession();
    const { issuer } = this.#parts;
    return issuer.issue(await issuer.prepare({ identity, role, names, subjectPublicKey: request.spki, validityDays, requestedBy }, authorize));
  }

  /** The CRL may lag behind the ledger by a publication; an act that lasts is decided by the ledger, in its own transaction. */
  async #confirm(transaction: SqlTransaction, caller: AuthenticatedPeer): Promise<void> {
    if (!(await isLive(transaction, caller.certificate.serialNumber, this.#parts.clock.now())))
      throw new SignetError("certificate-revoked", "The caller's certificate is revoked.");
  }

  #identityFor(kind: IdentityKind, name: string): Identity {
    const identity = parseIdentityUri(identityUri(this.settings.trustDomain, kind, name));
    if (identity.uri === this.#identity.uri) throw new SignetError("not-permitted", `${identity.uri} is this authority itself.`);
    return identity;
  }

  /** Names a service only, and only within the issuing CA's name constraints. */
  #checkNames(kind: IdentityKind, role: Role, names: ServerNames, code: "not-permitted" | "request-malformed"): void {
    const count = names.dns.length + names.ip.length;
    if (role === "server" && kind === "operator") throw new SignetError(code, "An operator has no server role.");
    if (count > 0 && (kind !== "service" || role !== "server")) throw new SignetError(code, "DNS names and addresses belong to a service's server role alone.");
    if (count === 0 && kind === "service" && role === "server") throw new SignetError(code, "A service's server role needs a DNS name or an address, which an operator sets with its token.");
    const { dns, ipRanges } = permittedNames(this.settings);
    const outside = [
      ...names.dns.filter((name) => !dns.some((permitted) => name === permitted || name.endsWith(`.${permitted}`))),
      ...names.ip.filter((address) => !inRanges(address, ipRanges)),
    ];
    if (outside.length > 0) {
      throw new SignetError("name-not-permitted", `This CA may not certify ${outside.join(", ")}. Its name constraints permit ${dns.join(", ")} with all names below, and the addresses ${ipRanges.join(", ")}. Nothing was issued.`, {
        details: { outside: outside.join(", "), next: "Ask for a name within these. They stand in the CA's own certificate and are chosen when a CA is made: `npx signet --data NEW ca init --dns NAME --ip ADDRESS`." },
      });
    }
  }

  async #renewServerIfDue(): Promise<void> {
    const { certificate } = this.#server;
    const now = this.#parts.clock.now();
    // It may be revoked, if this process died between a revocation and the renewal that follows it: then nobody would talk to it again.
    if (!isInLastThird(certificate, now) && (await this.#parts.engine.read((reads) => isLive(reads, certificate.serialNumber, now)))) return;
    await this.#renewServer();
  }

  /** Whatever keeps the operator's directory from being renewed keeps nobody else from being served. */
  async #renewOperatorIfDue(): Promise<void> {
    const { engine, issuer, clock, log, settings, operatorDirectory: directory } = this.#parts;
    try {
      const renewed = await renewOperatorIfDue({ engine, issuer, settings, root: this.root, issuing: this.issuingCertificate, clock, directory });
      if (renewed) log.info({ directory }, "the first operator's certificate renewed");
    } catch (error) {
      log.error({ err: error }, "the first operator's certificate could not be renewed");
    }
  }

  #renewServer(): Promise<void> {
    return (this.#renewing ??= this.#makeServerKey().finally(() => (this.#renewing = undefined)));
  }

  async #makeServerKey(): Promise<void> {
    const { engine, issuer, unsealKey, log } = this.#parts;
    this.#server = await makeServerKey(engine, issuer, unsealKey, this.settings);
    log.info({ serialNumber: this.#server.certificate.serialNumber, notAfter: this.#server.certificate.notAfter.toISOString() }, "own server certificate renewed");
    for (const listener of this.#credentialListeners) listener();
  }
}

const noNames: ServerNames = { dns: [], ip: [] };

function crlScopes(settings: AuthoritySettings, root: AuthorityKey, issuing: AuthorityKey): readonly CrlScope[] {
  return [
    {
      name: "root",
      issuer: root.certificate,
      signer: signerFromKey(root.privateKey),
      only: "ca",
      lifetimeMilliseconds: 30 * day,
      intervalMilliseconds: 20 * day,
    },
    {
      name: "leaf-0",
      issuer: issuing.certificate,
      signer: signerFromKey(issuing.privateKey),
      only: "user",
      fullName: leafDistributionPoint(settings),
      lifetimeMilliseconds: day / 4,
      intervalMilliseconds: day / 24,
    },
  ];
}

function requireOperator(caller: AuthenticatedPeer): void {
  if (caller.identity.kind !== "operator") throw new SignetError("not-permitted", "This takes an operator.");
}

function inRanges(address: string, ranges: readonly string[]): boolean {
  const family = (text: string) => (isIPv6(text) ? "ipv6" : "ipv4");
  const list = new BlockList();
  for (const range of ranges) {
    const [network = "", prefix = ""] = range.split("/");
    list.addSubnet(network, Number(prefix), family(network));
  }
  return list.check(address, family(address));
}
