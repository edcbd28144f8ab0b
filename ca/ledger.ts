import type { Certificate } from "#pki/certificate.ts";
import type { Role } from "#pki/certificate-profile.ts";
import type { ReasonCode, RevokedEntry } from "#pki/crl.ts";
import { SignetError } from "#pki/errors.ts";
import type { SqlRow, SqlTransaction } from "#store/engine.ts";

/** CRLs of this authority: the root's, for CA certificates, and the issuing CA's only shard of leaf certificates. */
export type CrlName = "root" | "leaf-0";

/** A certificate about to be signed. Its serial number is taken for ever from here on. */
export interface Intent {
  readonly serialNumber: string;
  readonly issuerKeyId: string;
  readonly crlName: CrlName;
  /** URI of a leaf, subject of a CA certificate. */
  readonly identity: string;
  readonly role: Role | "ca";
  readonly spkiFingerprint: string;
  /** SHA-256 of the to-be-signed bytes, hex. */
  readonly tbsDigest: string;
  readonly notBefore: Date;
  readonly notAfter: Date;
}

export interface LedgerEntry {
  /** Rises with each; a cursor for listing. */
  readonly id: number;
  readonly serialNumber: string;
  readonly issuerKeyId: string;
  readonly identity: string;
  readonly role: string;
  readonly spkiFingerprint: string;
  readonly notBefore: Date;
  readonly notAfter: Date;
  readonly der: Uint8Array;
  readonly revokedAt?: Date;
  readonly reason?: ReasonCode;
}

export interface LedgerFilter {
  readonly identity?: string | undefined;
  readonly state?: "valid" | "revoked" | "expired" | undefined;
  /** Entries with a smaller id follow: the newest come first. */
  readonly before?: number | undefined;
  readonly limit: number;
}

/** What is revoked by one act: a certificate, or an identity whole. */
export type RevocationTarget = { readonly serialNumber: string } | { readonly identity: string };

type Reads = Pick<SqlTransaction, "get" | "all">;

const columns = "id, serial_number, issuer_key_id, identity, role, spki_fingerprint, not_before, not_after, certificate, revoked_at, reason";

/**
 * Takes the serial number and writes down what is about to be signed.
 * @throws SignetError key-barred
 */
export async function recordIntent(transaction: SqlTransaction, intent: Intent): Promise<void> {
  const barred = await transaction.get("SELECT 1 FROM barred_key WHERE spki_fingerprint = ?", intent.spkiFingerprint);
  if (barred !== undefined) throw new SignetError("key-barred", "This key was revoked for keyCompromise. Make a new one.");
  await transaction.run(
    "INSERT INTO certificate (serial_number, issuer_key_id, crl_name, identity, role, spki_fingerprint, tbs_digest, not_before, not_after, state) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, 'intended')",
    intent.serialNumber,
    intent.issuerKeyId,
    intent.crlName,
    intent.identity,
    intent.role,
    intent.spkiFingerprint,
    intent.tbsDigest,
    intent.notBefore.getTime(),
    intent.notAfter.getTime(),
  );
}

/**
 * Completes an intent. A revocation may have come between: then the certificate is on the CRL already and stays here.
 * @throws SignetError certificate-revoked
 */
export async function recordIssued(transaction: SqlTransaction, certificate: Certificate): Promise<void> {
  const { changes } = await transaction.run(
    "UPDATE certificate SET state = 'issued', certificate = ? WHERE serial_number = ? AND state = 'intended' AND revoked_at IS NULL",
    certificate.der,
    certificate.serialNumber,
  );
  if (changes !== 1) throw new SignetError("certificate-revoked", "The identity was revoked while its certificate was made.");
}

/** Gives up intents that were not completed, this one or all; the tokens that they burnt can be used again until they expire. */
export async function abandonIntents(transaction: SqlTransaction, serialNumber?: string): Promise<void> {
  const rows = await transaction.all("SELECT serial_number FROM certificate WHERE state = 'intended' AND (? IS NULL OR serial_number = ?)", serialNumber ?? null, serialNumber ?? null);
  for (const { serial_number: serial } of rows) {
    await transaction.run("UPDATE certificate SET state = 'abandoned' WHERE serial_number = ?", serial ?? null);
    await transaction.run("UPDATE enrolment_token SET serial_number = NULL WHERE serial_number = ?", serial ?? null);
  }
}

/** Whether this serial number stands for a certificate that was issued and is not revoked. The ledger knows before any CRL does. */
export async function isLive(reads: Reads, serialNumber: string, at: Date): Promise<boolean> {
  const row = await reads.get(
    "SELECT 1 FROM certificate WHERE serial_number = ? AND state = 'issued' AND revoked_at IS NULL AND not_after > ?",
    serialNumber,
    at.getTime(),
  );
  return row !== undefined;
}

/**
 * Revokes what `target` names, unless it is revoked or has expired: an identity loses all its certificates, those that are being made
 * included, and its unused tokens. For keyCompromise each key is barred for ever, and every certificate on it goes too, whoever's it is.
 * @returns serial numbers that stand revoked by this target now, those of before included
 * @throws SignetError not-found where the target names nothing
 */
export async function revoke(transaction: SqlTransaction, target: RevocationTarget, reason: ReasonCode, at: Date): Promise<readonly string[]> {
  const named =
    "identity" in target
      ? await transaction.all("SELECT serial_number, spki_fingerprint FROM certificate WHERE identity = ? AND state <> 'abandoned' AND not_after > ?", target.identity, at.getTime())
      : await transaction.all("SELECT serial_number, spki_fingerprint FROM certificate WHERE serial_number = ? AND state = 'issued'", target.serialNumber);
  let tokens = 0;
  // Burnt ones too: an intent that is abandoned later must not bring its token back to life.
  if ("identity" in target)
    tokens = (await transaction.run("UPDATE enrolment_token SET revoked_at = ? WHERE identity = ? AND revoked_at IS NULL", at.getTime(), target.identity)).changes;
  if (named.length === 0 && tokens === 0) throw new SignetError("not-found", "No certificate and no token of this name.");
  const serials = new Set(named.map((row) => String(row["serial_number"])));
  if (reason === "keyCompromise")
    for (const spki of new Set(named.map((row) => String(row["spki_fingerprint"])))) {
      await transaction.run("INSERT INTO barred_key (spki_fingerprint, barred_at) VALUES (?, ?) ON CONFLICT DO NOTHING", spki, at.getTime());
      const others = await transaction.all("SELECT serial_number FROM certificate WHERE spki_fingerprint = ? AND state <> 'abandoned' AND not_after > ?", spki, at.getTime());
      for (const row of others) serials.add(String(row["serial_number"]));
    }
  for (const serial of serials)
    await transaction.run("UPDATE certificate SET revoked_at = ?, reason = ? WHERE serial_number = ? AND revoked_at IS NULL", at.getTime(), reason, serial);
  return [...serials];
}

/**
 * Entries of a CRL, by serial number. A revoked certificate stays until a CRL has carried it beyond its validity
 * (RFC 5280 section 3.3): `previousUpdate` is the thisUpdate of the CRL before.
 */
export async function revokedEntries(reads: Reads, crlName: CrlName, previousUpdate: Date): Promise<readonly RevokedEntry[]> {
  const rows = await reads.all(
    "SELECT serial_number, revoked_at, reason FROM certificate WHERE crl_name = ? AND revoked_at IS NOT NULL AND not_after >= ? ORDER BY serial_number",
    crlName,
    previousUpdate.getTime(),
  );
  return rows.map((row) => {
    const reason = row["reason"] as ReasonCode;
    return {
      serialNumber: String(row["serial_number"]),
      // A CRL's times have whole seconds.
      revocationDate: new Date(Math.floor(Number(row["revoked_at"]) / 1000) * 1000),
      // RFC 5280 section 5.3.1: unspecified is said by leaving the extension out.
      ...(reason !== "unspecified" && { reason }),
    };
  });
}

/** notAfter of a serial number; undefined where the ledger does not know it. */
export async function expiryOf(reads: Reads, serialNumber: string): Promise<Date | undefined> {
  const row = await reads.get("SELECT not_after FROM certificate WHERE serial_number = ?", serialNumber);
  return row && new Date(Number(row["not_after"]));
}

export async function findCertificate(reads: Reads, serialNumber: string): Promise<LedgerEntry | undefined> {
  const row = await reads.get(`SELECT ${columns} FROM certificate WHERE serial_number = ? AND state = 'issued'`, serialNumber);
  return row && toEntry(row);
}

/** Issued leaf certificates, newest first. */
export async function listCertificates(reads: Reads, filter: LedgerFilter, at: Date): Promise<readonly LedgerEntry[]> {
  const conditions = ["state = 'issued'", "role <> 'ca'"];
  const parameters: (string | number)[] = [];
  const add = (condition: string, ...values: readonly (string | number)[]) => {
    conditions.push(condition);
    parameters.push(...values);
  };
  if (filter.identity !== undefined) add("identity = ?", filter.identity);
  if (filter.before !== undefined) add("id < ?", filter.before);
  if (filter.state === "revoked") add("revoked_at IS NOT NULL");
  // The plus keeps SQLite from the index on not_after, out of which it would sort everything by id for one page.
  if (filter.state === "expired") add("revoked_at IS NULL AND +not_after <= ?", at.getTime());
  if (filter.state === "valid") add("revoked_at IS NULL AND +not_after > ?", at.getTime());
  const rows = await reads.all(`SELECT ${columns} FROM certificate WHERE ${conditions.join(" AND ")} ORDER BY id DESC LIMIT ?`, ...parameters, filter.limit);
  return rows.map(toEntry);
}

export interface CertificateCounts {
  readonly valid: number;
  /** Of the valid ones, those that end within seven days, the last of them whole. */
  readonly expiring: number;
  readonly revoked: number;
  readonly expired: number;
}

const day = 86_400_000;

/** Leaf certificates by state, out of the counts that are kept by day of expiry; of a day that is not over, what is past of it is counted. */
export async function countCertificates(reads: Reads, at: Date): Promise<CertificateCounts> {
  const now = at.getTime();
  const today = Math.floor(now / day);
  const past = await reads.get(`SELECT COUNT(*) AS n FROM certificate WHERE ${standingLeaf} AND not_after >= ? AND not_after <= ?`, today * day, now);
  const sums = await reads.get(
    `SELECT COALESCE(SUM(revoked), 0) AS revoked, COALESCE(SUM(standing), 0) AS standing, COALESCE(SUM(CASE WHEN day < ? THEN standing END), 0) AS ended,
       COALESCE(SUM(CASE WHEN day >= ? AND day <= ? THEN standing END), 0) AS ending FROM certificate_count`,
    today,
    today,
    today + 7,
  );
  const number = (name: string) => Number(sums?.[name]);
  const endedToday = Number(past?.["n"]);
  const expired = number("ended") + endedToday;
  return { valid: number("standing") - expired, expiring: number("ending") - endedToday, revoked: number("revoked"), expired };
}

/** Valid leaf certificates that end first; `renewed` where a later one of the same identity and role stands. */
export async function nextToExpire(reads: Reads, at: Date, limit: number): Promise<readonly { readonly serialNumber: string; readonly identity: string; readonly role: Role; readonly notAfter: Date; readonly renewed: boolean }[]> {
  const rows = await reads.all(
    `SELECT serial_number, identity, role, not_after,
       EXISTS (SELECT 1 FROM certificate AS later WHERE later.identity = certificate.identity AND later.id > certificate.id AND later.role = certificate.role AND later.state = 'issued' AND later.revoked_at IS NULL) AS renewed
     FROM certificate WHERE ${standingLeaf} AND not_after > ? ORDER BY not_after LIMIT ?`,
    at.getTime(),
    limit,
  );
  return rows.map((row) => ({ serialNumber: String(row["serial_number"]), identity: String(row["identity"]), role: row["role"] as Role, notAfter: new Date(Number(row["not_after"])), renewed: Number(row["renewed"]) === 1 }));
}

/** Leaf certificates that were revoked last, newest first. */
export async function lastRevocations(reads: Reads, limit: number): Promise<readonly { readonly serialNumber: string; readonly identity: string; readonly role: Role; readonly revokedAt: Date; readonly reason: ReasonCode }[]> {
  const rows = await reads.all(`SELECT serial_number, identity, role, revoked_at, reason FROM certificate WHERE ${revokedLeaf} ORDER BY revoked_at DESC LIMIT ?`, limit);
  return rows.map((row) => ({ serialNumber: String(row["serial_number"]), identity: String(row["identity"]), role: row["role"] as Role, revokedAt: new Date(Number(row["revoked_at"])), reason: row["reason"] as ReasonCode }));
}

/** Word for word the conditions of the indexes in migrations/0002-summary.sql: SQLite uses a partial index for nothing else. */
const standingLeaf = "state = 'issued' AND role <> 'ca' AND revoked_at IS NULL";
const revokedLeaf = "state = 'issued' AND role <> 'ca' AND revoked_at IS NOT NULL";

function toEntry(row: SqlRow): LedgerEntry {
  const revokedAt = row["revoked_at"];
  return {
    id: Number(row["id"]),
    serialNumber: String(row["serial_number"]),
    issuerKeyId: String(row["issuer_key_id"]),
    identity: String(row["identity"]),
    role: String(row["role"]),
    spkiFingerprint: String(row["spki_fingerprint"]),
    notBefore: new Date(Number(row["not_before"])),
    notAfter: new Date(Number(row["not_after"])),
    der: row["certificate"] as Uint8Array,
    ...(revokedAt !== null && { revokedAt: new Date(Number(revokedAt)), reason: row["reason"] as ReasonCode }),
  };
}
