import { createHash, randomBytes } from "node:crypto";
import { SignetError } from "#pki/errors.ts";
import type { SqlRow, SqlTransaction } from "#store/engine.ts";

/** Names of an identity's server role. */
export interface ServerNames {
  readonly dns: readonly string[];
  readonly ip: readonly string[];
}

/** What a token stands for. */
export interface Enrollment extends ServerNames {
  /** Identity URI. */
  readonly identity: string;
}

type Reads = Pick<SqlTransaction, "get" | "all">;

/**
 * Makes a one-time token, 32 random bytes as 43 characters of base64url, and keeps its SHA-256 alone: a reader of the database
 * or of a backup can enrol nobody. A fast hash will do, since there is nothing to guess.
 */
export async function createToken(transaction: SqlTransaction, enrollment: Enrollment, expiresAt: Date): Promise<string> {
  const token = randomBytes(32).toString("base64url");
  await transaction.run(
    "INSERT INTO enrolment_token (token_hash, identity, dns, ip, expires_at) VALUES (?, ?, ?, ?, ?)",
    digestOf(token),
    enrollment.identity,
    JSON.stringify(enrollment.dns),
    JSON.stringify(enrollment.ip),
    expiresAt.getTime(),
  );
  return token;
}

/** What an unused token stands for, without burning it. @throws SignetError token-invalid */
export async function inspectToken(reads: Reads, name: string, token: string, at: Date): Promise<Enrollment> {
  return usable(await reads.get("SELECT * FROM enrolment_token WHERE token_hash = ?", digestOf(token)), name, at);
}

/**
 * Burns a token, in the transaction that records the intent `serialNumber`: of two redemptions the later finds it used.
 * Should the authority die between the intent and the certificate, the intent is abandoned at the next start and the token with it is
 * unburnt (ledger.ts, abandonIntents): no certificate was handed out for it, so nothing is given twice. Once the certificate is
 * recorded the token is spent for good, also where the answer got lost on its way: the operator makes another one then.
 * @throws SignetError token-invalid: unknown, used, expired, revoked and another's look alike
 */
export async function redeemToken(transaction: SqlTransaction, name: string, token: string, serialNumber: string, at: Date): Promise<Enrollment> {
  const enrollment = await inspectToken(transaction, name, token, at);
  await transaction.run("UPDATE enrolment_token SET serial_number = ? WHERE token_hash = ?", serialNumber, digestOf(token));
  await setServerNames(transaction, enrollment.identity, enrollment);
  return enrollment;
}

/** Remembers the names of an identity's server role; an operator decides them, through a token or an issuance. */
export async function setServerNames(transaction: SqlTransaction, identity: string, { dns, ip }: ServerNames): Promise<void> {
  await transaction.run(
    "INSERT INTO server_name (identity, dns, ip) VALUES (?, ?, ?) ON CONFLICT (identity) DO UPDATE SET dns = excluded.dns, ip = excluded.ip",
    identity,
    JSON.stringify(dns),
    JSON.stringify(ip),
  );
}

export async function serverNamesOf(reads: Reads, identity: string): Promise<ServerNames> {
  const row = await reads.get("SELECT dns, ip FROM server_name WHERE identity = ?", identity);
  return row === undefined ? { dns: [], ip: [] } : namesIn(row);
}

function usable(row: SqlRow | undefined, name: string, at: Date): Enrollment {
  const identity = String(row?.["identity"]);
  if (row === undefined || row["serial_number"] !== null || row["revoked_at"] !== null || Number(row["expires_at"]) <= at.getTime() || identity.split("/").at(-1) !== name)
    throw new SignetError("token-invalid", "The enrolment token is not valid.");
  return { identity, ...namesIn(row) };
}

function namesIn(row: SqlRow): ServerNames {
  return { dns: JSON.parse(String(row["dns"])) as string[], ip: JSON.parse(String(row["ip"])) as string[] };
}

function digestOf(token: string): string {
  return createHash("sha256").update(token).digest("hex");
}
