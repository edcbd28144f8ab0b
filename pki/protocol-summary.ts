import { z } from "zod";
import { crlSummary, identityKinds, revocationReasons } from "./protocol-ca.ts";
import { keyStates } from "./protocol-kms.ts";

/** What the CA and the KMS tell operators of themselves at a glance, as the status page shows it. Nothing in it is secret, and each is cheap however much they hold. */

/** Rows of each list at most. */
export const summaryRows = 10;

const time = z.iso.datetime();
const count = z.int().nonnegative();

/** Who is connected: all connections and identities by number, and the identities that came last by name. */
const connectedPeers = z.object({
  connections: count,
  identities: count,
  latest: z.array(z.object({ identity: z.string(), kind: z.enum(identityKinds), connections: count, /** Of the oldest connection that is open. */ since: time })).max(summaryRows),
});
export type ConnectedPeers = z.output<typeof connectedPeers>;

/** The last records of an audit log, newest first: what was done by whom to what, without its details but for the reason. */
const latestRecords = z.array(z.object({ sequence: z.int().positive(), at: time, action: z.string(), actor: z.string(), subject: z.string(), reason: z.string().optional() })).max(summaryRows);
export type LatestRecords = z.output<typeof latestRecords>;

const certificate = z.object({ serialNumber: z.string(), identity: z.string(), role: z.enum(["client", "server"]) });

export const caSummary = z.object({
  at: time,
  trustDomain: z.string(),
  rootFingerprint: z.string(),
  /** Leaf certificates. `expiring` counts those of the valid ones that end within seven days. */
  certificates: z.object({ valid: count, expiring: count, revoked: count, expired: count }),
  /** Valid ones that end first; `renewed` where a later one of the same identity and role is there. */
  nextToExpire: z.array(certificate.extend({ notAfter: time, renewed: z.boolean() })).max(summaryRows),
  /** Newest first. */
  revocations: z.array(certificate.extend({ revokedAt: time, reason: z.enum(revocationReasons) })).max(summaryRows),
  crls: z.array(crlSummary.extend({ publishedAt: time })),
  peers: connectedPeers,
  audit: latestRecords,
});
export type CaSummary = z.output<typeof caSummary>;

export const kmsSummary = z.object({
  at: time,
  /** Keys by the state of their latest version. */
  keys: z.object({ total: count, states: z.partialRecord(z.enum(keyStates), count) }),
  /** CRLs that the KMS holds its callers against. `refreshedAt`: the last authenticated answer to say that it is the current one. */
  crls: z.array(z.object({ issuer: z.string(), crlNumber: z.string(), thisUpdate: time, nextUpdate: time, refreshedAt: time, entries: count })),
  /** Refusals by policy, since the database was made. */
  denials: count,
  peers: connectedPeers,
  audit: latestRecords,
});
export type KmsSummary = z.output<typeof kmsSummary>;
