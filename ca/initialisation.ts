import { existsSync, rmSync } from "node:fs";
import { createServer, isIP, type AddressInfo } from "node:net";
import { buildCertificate } from "#pki/certificate-builder.ts";
import { identityUri, isTrustDomain, parseIdentityUri, type Identity } from "#pki/certificate-profile.ts";
import type { Certificate } from "#pki/certificate.ts";
import type { Clock } from "#pki/clock.ts";
import { SignetError } from "#pki/errors.ts";
import { EnrolledIdentity } from "#pki/identity.ts";
import { generateKeyPair, signerFromKey, type SecretKey } from "#pki/keys.ts";
import type { Credential } from "#pki/mtls.ts";
import { identityNamePattern } from "#pki/protocol-ca.ts";
import { createUnsealKey, readUnsealKey } from "#pki/unseal.ts";
import { AuditLog } from "#store/audit-log.ts";
import { DataDirectory } from "#store/data-directory.ts";
import type { SqlEngine, SqlTransaction } from "#store/engine.ts";
import { openSqlite } from "#store/sqlite.ts";
import { Issuer, newSerialNumber, sha256, signCertificate, wholeSeconds } from "./issuer.ts";
import { findCertificate, recordIntent, recordIssued } from "./ledger.ts";
import { saveAuthorityKey, type AuthorityKey } from "./sealed-keys.ts";
import {
  authorityDirectoryFormat,
  authorityIdentity,
  authorityPaths,
  leafDistributionPoint,
  leafValidityDays,
  ledgerMigrations,
  listenerUrl,
  ownServerNames,
  permittedNames,
  saveSettings,
  type AuthoritySettings,
} from "./settings.ts";

export interface InitialisationOptions {
  /** Two DNS labels or more, no underscore. Default `signet.internal`. */
  readonly trustDomain?: string;
  /** Address that the listeners bind. Default 127.0.0.1. */
  readonly host?: string;
  /** 0 or none takes a free port, for good. */
  readonly enrolmentPort?: number;
  readonly mutualPort?: number;
  readonly publicationPort?: number;
  /** DNS names and addresses that may be certified besides localhost and the loopback addresses. */
  readonly dns?: readonly string[];
  readonly ip?: readonly string[];
  /** Makes a production authority, whose unseal key is sealed under it; without one it is for development. */
  readonly passphrase?: SecretKey;
  readonly clock: Clock;
}

const day = 86_400_000;
const validityDays = { root: 20 * 365, issuing: 5 * 365 } as const;

/**
 * Makes an authority in `<dataDirectory>/ca`: root and issuing CA, its own server certificate, the unseal key in
 * `<dataDirectory>/unseal/ca.key`, and in `<dataDirectory>/operator` the credential of `operator/admin`. A killed attempt can be repeated.
 * @throws SignetError usage, data-directory-foreign, -locked, state-conflict where there is one already
 */
export async function initialiseAuthority(dataDirectory: string, options: InitialisationOptions): Promise<void> {
  const settings = await completeSettings(options);
  const paths = authorityPaths(dataDirectory);
  if (DataDirectory.inspect(paths.ca, authorityDirectoryFormat) === "empty" && existsSync(paths.operator))
    throw new SignetError("data-directory-foreign", `${paths.operator} holds the credential of another authority. It was left alone.`);
  const directory = await DataDirectory.initialise(paths.ca, authorityDirectoryFormat, async (data) => {
    // A killed attempt may have left its key; nothing but that attempt's leavings was ever sealed under it.
    const unsealKey = await (existsSync(paths.unsealKey) ? readUnsealKey : createUnsealKey)(paths.unsealKey, options.passphrase);
    const engine = openSqlite(data.file("ca.sqlite"));
    try {
      await engine.migrate(ledgerMigrations);
      await populate(engine, unsealKey, settings, options.clock, paths.operator);
    } finally {
      await engine.close();
    }
  });
  directory.close();
}

/** New key and certificate of the authority's own listeners, saved. */
export async function makeServerKey(engine: SqlEngine, issuer: Issuer, unsealKey: SecretKey, settings: AuthoritySettings): Promise<AuthorityKey> {
  const identity = authorityIdentity(settings.trustDomain);
  const { privateKey, publicKey } = await generateKeyPair("ec-p256");
  const prepared = await issuer.prepare(
    {
      identity,
      role: "server",
      names: ownServerNames(settings),
      subjectPublicKey: publicKey.export({ format: "der", type: "spki" }),
      validityDays: leafValidityDays.server,
      requestedBy: identity.uri,
    },
    async () => {},
  );
  const key = { certificate: await issuer.issue(prepared), privateKey };
  await engine.transaction((transaction) => saveAuthorityKey(transaction, unsealKey, "server", key));
  return key;
}

async function completeSettings(options: InitialisationOptions): Promise<AuthoritySettings> {
  const { trustDomain = "signet.internal", host = "127.0.0.1", dns = [], ip = [] } = options;
  const wildcard = host === "0.0.0.0" || host === "::";
  if (!isTrustDomain(trustDomain)) throw new SignetError("usage", `${trustDomain} is no trust domain: two DNS labels or more, in lower case, without underscore.`);
  if (wildcard && dns.length + ip.length === 0) throw new SignetError("usage", `Whoever is to reach ${host} needs a name for it: give --dns NAME or --ip ADDRESS.`);
  // Here, before anything is made: they stand in the issuing CA's name constraints.
  const odd = [...dns.filter((name) => name.length > 253 || !name.split(".").every((label) => identityNamePattern.test(label))), ...ip.filter((address) => isIP(address) === 0 || address.includes("%"))];
  if (odd.length > 0) throw new SignetError("usage", `No DNS name in lower case, or no address: ${odd.join(", ")}.`);
  const chosen = [options.enrolmentPort, options.mutualPort, options.publicationPort].map((port) => port ?? 0);
  const [enrolmentPort = 0, mutualPort = 0, publicationPort = 0] = await freePorts(host, chosen);
  return { mode: options.passphrase === undefined ? "development" : "production", trustDomain, host, enrolmentPort, mutualPort, publicationPort, dns: [...dns], ip: isIP(host) === 0 || wildcard ? [...ip] : [...new Set([...ip, host])] };
}

/** The ports as given, with a free one for each 0; all are held at once, so that no two are the same. */
async function freePorts(host: string, ports: readonly number[]): Promise<readonly number[]> {
  const servers = await Promise.all(
    ports.map(
      (port) =>
        new Promise<ReturnType<typeof createServer>>((resolve, reject) => {
          const server = createServer();
          server.once("error", () => reject(new SignetError("port-taken", `Port ${port} of ${host} cannot be bound.`)));
          server.listen(port, host, () => resolve(server));
        }),
    ),
  );
  const bound = servers.map((server) => (server.address() as AddressInfo).port);
  await Promise.all(servers.map((server) => new Promise((resolve) => server.close(resolve))));
  return bound;
}

async function populate(engine: SqlEngine, unsealKey: SecretKey, settings: AuthoritySettings, clock: Clock, operatorDirectory: string): Promise<void> {
  const audit = await AuditLog.open(engine, clock);
  const actor = authorityIdentity(settings.trustDomain).uri;
  const root = await makeAuthorityKey("root", "self", settings, clock);
  const issuing = await makeAuthorityKey("issuing", root, settings, clock);
  await engine.transaction(async (transaction) => {
    await saveSettings(transaction, settings);
    for (const [name, key, issuer] of [["root", root, root], ["issuing", issuing, root]] as const) {
      await recordAuthorityCertificate(transaction, key.certificate, issuer.certificate);
      await saveAuthorityKey(transaction, unsealKey, name, key);
      await audit.append(transaction, {
        action: "authority.created",
        actor,
        subject: key.certificate.subject.toString(),
        details: { name, serialNumber: key.certificate.serialNumber, fingerprint: key.certificate.fingerprint },
      });
    }
  });
  const issuer = new Issuer({
    engine,
    audit,
    clock,
    root: root.certificate,
    certificate: issuing.certificate,
    signer: signerFromKey(issuing.privateKey),
    crlDistributionPoint: leafDistributionPoint(settings),
  });
  await makeServerKey(engine, issuer, unsealKey, settings);
  await makeOperator(issuer, settings, root.certificate, issuing.certificate, operatorDirectory);
}

/** The first operator: whoever may read this directory runs the authority. */
async function makeOperator(issuer: Issuer, settings: AuthoritySettings, root: Certificate, issuing: Certificate, directory: string): Promise<void> {
  const client = await issueOperatorCredential(issuer, settings, issuing, async () => {});
  // What a killed attempt left belongs to an authority that never came to be.
  rmSync(directory, { recursive: true, force: true });
  EnrolledIdentity.write(directory, {
    uri: operatorIdentity(settings).uri,
    caUrl: listenerUrl(settings, "https", settings.enrolmentPort),
    root,
    credentials: { client },
  });
}

/**
 * Renews the first operator's certificate in its directory, where that still is and less than a third of the certificate's life is
 * left, or none: an operator alone can make another, so an authority that was stopped for a month would be nobody's. One that was
 * revoked, or that this authority did not issue, is left as it is.
 * @returns whether it was renewed
 */
export async function renewOperatorIfDue(i: {
  readonly engine: SqlEngine;
  readonly issuer: Issuer;
  readonly settings: AuthoritySettings;
  readonly root: Certificate;
  readonly issuing: Certificate;
  readonly clock: Clock;
  readonly directory: string;
}): Promise<boolean> {
  if (!EnrolledIdentity.isAt(i.directory)) return false;
  const operator = EnrolledIdentity.open(i.directory, { clock: i.clock });
  const { uri } = operatorIdentity(i.settings);
  if (operator.identity.uri !== uri || !operator.hasRole("client") || !operator.isRenewalDue("client")) return false;
  const held = operator.credential("client").chain[0];
  const stands = async (reads: Pick<SqlTransaction, "get" | "all">) => {
    const entry = held && (await findCertificate(reads, held.serialNumber));
    return entry !== undefined && entry.identity === uri && entry.revokedAt === undefined && Buffer.from(entry.der).equals(held?.der ?? Buffer.alloc(0));
  };
  if (!(await i.engine.read(stands))) return false;
  const credential = await issueOperatorCredential(i.issuer, i.settings, i.issuing, async (transaction) => {
    if (!(await stands(transaction))) throw new SignetError("certificate-revoked", "The operator was revoked while its certificate was renewed.");
  });
  operator.adopt("client", credential);
  return true;
}

function operatorIdentity(settings: AuthoritySettings): Identity {
  return parseIdentityUri(identityUri(settings.trustDomain, "operator", "admin"));
}

async function issueOperatorCredential(issuer: Issuer, settings: AuthoritySettings, issuing: Certificate, authorize: (transaction: SqlTransaction) => Promise<void>): Promise<Credential> {
  const { privateKey, publicKey } = await generateKeyPair("ec-p256");
  const prepared = await issuer.prepare(
    {
      identity: operatorIdentity(settings),
      role: "client",
      names: { dns: [], ip: [] },
      subjectPublicKey: publicKey.export({ format: "der", type: "spki" }),
      validityDays: leafValidityDays.client,
      requestedBy: authorityIdentity(settings.trustDomain).uri,
    },
    authorize,
  );
  return { privateKey, chain: [await issuer.issue(prepared), issuing] };
}

async function makeAuthorityKey(profile: "root" | "issuing", issuer: AuthorityKey | "self", settings: AuthoritySettings, clock: Clock): Promise<AuthorityKey> {
  const { privateKey, publicKey } = await generateKeyPair("ec-p256");
  const signer = signerFromKey(issuer === "self" ? privateKey : issuer.privateKey);
  const issuerCertificate = issuer === "self" ? "self" : issuer.certificate;
  const { dns, ipRanges } = permittedNames(settings);
  const label = settings.mode === "development" ? "Signet DEVELOPMENT" : "Signet";
  const now = clock.now().getTime();
  const latest = issuer === "self" ? Infinity : issuer.certificate.notAfter.getTime();
  const toBeSigned = await buildCertificate({
    profile,
    subjectPublicKey: publicKey.export({ format: "der", type: "spki" }),
    serialNumber: newSerialNumber(),
    issuer: issuerCertificate,
    issuerKeyType: signer.keyType,
    names: { commonName: `${label} ${profile} CA ${settings.trustDomain}` },
    notBefore: wholeSeconds(now - 60_000),
    at: new Date(now),
    notAfter: wholeSeconds(Math.min(now + validityDays[profile] * day, latest)),
    ...(profile === "issuing" && { constraints: { dns: [...dns], ipRanges: [...ipRanges] } }),
    trustDomain: settings.trustDomain,
  });
  return { certificate: await signCertificate(toBeSigned, issuerCertificate, signer), privateKey };
}

/** CA certificates have their place in the ledger like any other, so that no serial number is used twice. */
async function recordAuthorityCertificate(transaction: SqlTransaction, certificate: Certificate, issuer: Certificate): Promise<void> {
  await recordIntent(transaction, {
    serialNumber: certificate.serialNumber,
    issuerKeyId: issuer.extensions.subjectKeyIdentifier ?? "",
    crlName: "root",
    identity: certificate.subject.toString(),
    role: "ca",
    spkiFingerprint: certificate.spkiFingerprint,
    tbsDigest: sha256(certificate.tbs),
    notBefore: certificate.notBefore,
    notAfter: certificate.notAfter,
  });
  await recordIssued(transaction, certificate);
}
