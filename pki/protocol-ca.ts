import { z } from "zod";

/** HTTP API of the CA: routes, bodies and answers, shared by server and client. EST bodies are base64 of DER (RFC 7030 section 4), all else is JSON. */

export const estRoutes = {
  cacerts: "/.well-known/est/cacerts",
  /** Enrolment listener: client role, by one-time token (HTTP Basic, name and token). */
  simpleenroll: "/.well-known/est/simpleenroll",
  /** Mutual listener: renews the client role. */
  simplereenroll: "/.well-known/est/simplereenroll",
  /** Mutual listener: the server role of the calling identity, by EST label (RFC 7030 section 3.2.2). */
  serverSimpleenroll: "/.well-known/est/server/simpleenroll",
  serverSimplereenroll: "/.well-known/est/server/simplereenroll",
} as const;

/** Media types of RFC 7030 section 3.2.4. */
export const estMediaTypes = { request: "application/pkcs10", certificates: "application/pkcs7-mime", certificatesOnly: "application/pkcs7-mime; smime-type=certs-only" } as const;

export const caRoutes = {
  directory: "/v1/directory",
  health: "/healthz",
  crls: "/v1/crls",
  crl: (name: string) => `/v1/crls/${name}`,
  chain: "/v1/chain",
  tokens: "/v1/tokens",
  certificates: "/v1/certificates",
  certificate: (serialNumber: string) => `/v1/certificates/${serialNumber}`,
  revocations: "/v1/revocations",
  summary: "/v1/summary",
} as const;

export const publicationRoutes = {
  crl: (name: string) => `/crl/${name}.crl`,
  certificate: (name: "root" | "issuing") => `/ca/${name}.crt`,
} as const;

/** Media type of a CRL (RFC 2585 section 4.2) and of a certificate (section 4.1). */
export const crlMediaType = "application/pkix-crl";
export const certificateMediaType = "application/pkix-cert";

/** Answer header of a CRL: when the CA published it, ISO 8601 with milliseconds, by the CA's clock. It counts where the connection proves the CA. */
export const publishedAtHeader = "Signet-Published-At";

/** Longest a CRL request with `Prefer: wait=N` (RFC 7240 section 4.3) is held. */
export const longPollLimitSeconds = 30;

/** Name of an identity: one DNS label, in lower case. */
export const identityNamePattern = /^[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?$/;
const identityName = z.string().regex(identityNamePattern);
const identityUri = z.string().max(512).regex(/^spiffe:\/\/[a-z0-9.-]+\/(?:agent|operator|service)\/[a-z0-9-]+$/);
/** Serial number: lower-case hexadecimal without leading zero octets, 1 to 20 octets. */
const serialNumber = z.string().regex(/^(?:[0-9a-f]{2}){1,20}$/);
const dnsName = z.string().max(253).regex(/^(?:\*\.)?(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?)(?:\.[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?)*$/);
const ipAddress = z.union([z.ipv4(), z.ipv6()]);
export const identityKinds = ["agent", "operator", "service"] as const;
const kind = z.enum(identityKinds);
const role = z.enum(["client", "server"]);
const time = z.iso.datetime();
/** Base64 with padding in its one canonical spelling (RFC 4648 section 4). */
const base64 = z.string().min(4).refine((text) => Buffer.from(text, "base64").toString("base64") === text, "not canonical base64");

/** What a deployment is for: fixed when it is made. In production the unseal keys are sealed under passphrases. */
export const deploymentMode = z.enum(["development", "production"]);
export type DeploymentMode = z.infer<typeof deploymentMode>;

/** Reasons that an operator may give (RFC 5280 section 5.3.1); `unspecified` leaves the extension out. */
export const revocationReasons = ["keyCompromise", "cACompromise", "affiliationChanged", "superseded", "cessationOfOperation", "privilegeWithdrawn", "unspecified"] as const;
export type RevocationReason = (typeof revocationReasons)[number];

export const directoryAnswer = z.object({
  trustDomain: z.string().max(253),
  /** SHA-256 of the root certificate, lower-case hexadecimal. */
  rootFingerprint: z.string().regex(/^[0-9a-f]{64}$/),
  mutualUrl: z.url(),
  publicationUrl: z.url(),
  crls: z.array(z.object({ name: z.string(), url: z.url() })).min(1),
});
export type DirectoryAnswer = z.infer<typeof directoryAnswer>;

export const crlSummary = z.object({
  name: z.string(),
  issuer: z.string(),
  crlNumber: z.string(),
  thisUpdate: time,
  nextUpdate: time,
  entries: z.int().nonnegative(),
  url: z.url(),
});
export const crlsAnswer = z.object({ crls: z.array(crlSummary) });
export type CrlSummary = z.infer<typeof crlSummary>;

/** A one-time token for one identity: `dns` and `ip` are the names of its server role. Lifetime 1 minute to 7 days, one hour by default. */
export const tokenRequest = z.strictObject({
  name: identityName,
  kind,
  dns: z.array(dnsName).max(32).optional(),
  ip: z.array(ipAddress).max(32).optional(),
  lifetimeSeconds: z.int().min(60).max(7 * 86_400).optional(),
});
export type TokenRequest = z.infer<typeof tokenRequest>;
export const tokenAnswer = z.object({
  name: identityName,
  kind,
  /** 43 characters: base64url of 32 random bytes. The CA keeps its hash alone. */
  token: z.string(),
  expiresAt: time,
  rootFingerprint: z.string(),
  enrolmentUrl: z.url(),
});
export type TokenAnswer = z.infer<typeof tokenAnswer>;

/** Certificate for a key that its owner made: from the CSR only the key is taken. */
export const certificateRequest = z.strictObject({
  csr: base64,
  kind,
  name: identityName,
  role,
  dns: z.array(dnsName).max(32).optional(),
  ip: z.array(ipAddress).max(32).optional(),
  validityDays: z.int().min(1).max(398).optional(),
});
export type CertificateRequestBody = z.infer<typeof certificateRequest>;
/** PEM: the certificate, and the chain from it to the issuing CA (without the root). */
export const certificateAnswer = z.object({ certificate: z.string(), chain: z.string(), root: z.string() });
export type CertificateAnswer = z.infer<typeof certificateAnswer>;

export const certificateStates = ["valid", "revoked", "expired"] as const;
export const certificateDescription = z.object({
  serialNumber,
  issuerKeyId: z.string(),
  identity: z.string(),
  role,
  state: z.enum(certificateStates),
  notBefore: time,
  notAfter: time,
  fingerprint: z.string(),
  revokedAt: time.optional(),
  reason: z.enum(revocationReasons).optional(),
});
export type CertificateDescription = z.infer<typeof certificateDescription>;
export const certificatesQuery = z.strictObject({
  cursor: z.string().max(64).optional(),
  limit: z.coerce.number().int().min(1).max(500).default(100),
  identity: identityUri.optional(),
  state: z.enum(certificateStates).optional(),
});
export const certificatesAnswer = z.object({ certificates: z.array(certificateDescription), nextCursor: z.string().optional() });
/** One certificate, with its PEM. */
export const certificateDetails = certificateDescription.extend({ certificate: z.string() });

/** Revokes one certificate, or an identity whole: all its certificates that have not expired, and its unused tokens. */
export const revocationRequest = z.union([
  z.strictObject({ serialNumber, reason: z.enum(revocationReasons) }),
  z.strictObject({ identity: identityUri, reason: z.enum(revocationReasons) }),
]);
export type RevocationRequest = z.infer<typeof revocationRequest>;
/** Acknowledged: durable, and on the published CRL of this number. */
export const revocationAnswer = z.object({ revoked: z.array(serialNumber), crlNumber: z.string(), publishedAt: time });
export type RevocationAnswer = z.infer<typeof revocationAnswer>;
