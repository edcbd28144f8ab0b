import { z } from "zod";

/** HTTP API of the KMS: routes, bodies and answers, shared by server and client. Bodies are JSON but for key material, which is raw octets. */

/** Name of a key: 1 to 63 characters of lower-case ASCII, so that a name has one spelling. */
export const keyNamePattern = /^[a-z0-9][a-z0-9._-]{0,62}$/;

export const kmsRoutes = {
  keys: "/v1/keys",
  import: "/v1/keys:import",
  key: (name: string) => `/v1/keys/${name}`,
  versions: (name: string) => `/v1/keys/${name}/versions`,
  material: (name: string, version: number | "latest") => `/v1/keys/${name}/versions/${version}/material`,
  action: (name: string, action: KeyAction) => `/v1/keys/${name}:${action}`,
  whoami: "/v1/whoami",
  status: "/v1/status",
  auditEntries: "/v1/audit/entries",
  events: "/v1/events",
  summary: "/v1/summary",
} as const;

export const keyActions = ["rotate", "revoke", "destroy", "encrypt", "decrypt"] as const;
/** What can be done with a key. */
export type KeyAction = (typeof keyActions)[number];

/** What a key may be used for. The server itself speaks AES-256-GCM only; the CBC form is opened by agents, under a key that allows it. */
export const keyAlgorithms = ["AES-256-GCM", "AES-256-CBC-PKCS7"] as const;
/** One of {@link keyAlgorithms}. */
export type KeyAlgorithm = (typeof keyAlgorithms)[number];

export const keyRevocationReasons = ["keyCompromise", "superseded", "cessationOfOperation", "privilegeWithdrawn", "affiliationChanged", "unspecified"] as const;
/** Why a key is revoked. */
export type KeyRevocationReason = (typeof keyRevocationReasons)[number];

/** Strings that the ciphertext is bound to (authenticated, not encrypted): at most 32 entries, names of 1 to 128 characters, values of at most 1024. */
export type EncryptionContext = Readonly<Record<string, string>>;

/** Request headers. Idempotency-Key: 1 to 128 visible ASCII characters, remembered for a day. */
export const idempotencyKeyPattern = /^[\x21-\x7e]{1,128}$/;
/** Answer headers that go with key material. */
export const materialHeaders = { keyId: "Signet-Key-Id", version: "Signet-Key-Version", state: "Signet-Key-State" } as const;

/** Media type of a key as an envelope, asked for by Accept: a JWE to the caller around a JWS by the KMS, in compact serialisation. */
export const keyEnvelopeMediaType = "application/jose";
/** `cty` of the JWE (RFC 7519 section 5.2), and `typ` of the JWS, which no other token has (RFC 8725 section 3.11). */
export const keyEnvelopeTypes = { content: "JWT", signed: "signet-key+jwt" } as const;

const keyName = z.string().regex(keyNamePattern);

/** Base64 with padding in its one canonical spelling (RFC 4648 section 4). */
const base64 = z.string().refine((text) => Buffer.from(text, "base64").toString("base64") === text, "not canonical base64");

// Kept by reference: a record schema would drop an entry called __proto__ in silence, and bind less than the caller asked for.
export const encryptionContext = z.custom<EncryptionContext>((value) => {
  if (typeof value !== "object" || value === null || Array.isArray(value)) return false;
  const entries = Object.entries(value);
  return entries.length <= 32 && entries.every(([name, text]) => name.length >= 1 && name.length <= 128 && name.isWellFormed() && typeof text === "string" && text.length <= 1024 && text.isWellFormed());
}, "not a map of strings within the limits");

const distribution = z.strictObject({ readers: z.array(z.string().max(512)).max(256) });
const newKey = {
  name: keyName,
  spec: z.literal("aes-256"),
  algorithms: z.array(z.enum(keyAlgorithms)).min(1).max(keyAlgorithms.length).optional(),
  distribution: distribution.optional(),
};

export const createKeyRequest = z.strictObject(newKey);
/** `material`: base64 of 32 octets. */
export const importKeyRequest = z.strictObject({ ...newKey, material: base64 });
export const changeKeyRequest = z.strictObject({ distribution });
export const rotateKeyRequest = z.strictObject({});
export const revokeKeyRequest = z.strictObject({ reason: z.enum(keyRevocationReasons).default("unspecified") });
/** `confirm` repeats the key's name: there is no way back. */
export const destroyKeyRequest = z.strictObject({ confirm: keyName });
export const encryptRequest = z.strictObject({ plaintext: base64, context: encryptionContext.optional() });
export const decryptRequest = z.strictObject({ ciphertext: base64, context: encryptionContext.optional() });

const time = z.iso.datetime();
/** NIST SP 800-57 Part 1 section 7. */
export const keyStates = ["pre-activation", "active", "suspended", "deactivated", "compromised", "destroyed"] as const;
const keyState = z.enum(keyStates);

/** One version of a key. `uses` counts what the server encrypted under it; `rotationAdvised` from 2^30 on, refused at 2^31. */
export const keyVersionDescription = z.object({
  version: z.int().positive(),
  state: keyState,
  origin: z.enum(["generated", "imported"]),
  createdAt: time,
  stateChangedAt: time,
  uses: z.int().nonnegative(),
  rotationAdvised: z.boolean(),
  revocationReason: z.enum(keyRevocationReasons).optional(),
});

/** A key as those see it who may describe it. `etag` is what If-Match wants; `latest` is the version with the highest number. */
export const keyDescription = z.object({
  name: z.string(),
  id: z.string(),
  spec: z.literal("aes-256"),
  algorithms: z.array(z.enum(keyAlgorithms)),
  owner: z.string(),
  distribution: z.object({ readers: z.array(z.string()) }),
  createdAt: time,
  etag: z.string(),
  latest: keyVersionDescription,
});

export const keyListResponse = z.object({ keys: z.array(keyDescription), nextCursor: z.string().optional() });
export const keyVersionListResponse = z.object({ versions: z.array(keyVersionDescription), nextCursor: z.string().optional() });
/** Says "after this, no key of this name that you may revoke is usable": the same whether or not there was one. */
export const revokeKeyResponse = z.object({ key: z.string(), revoked: z.literal(true) });
export const destroyKeyResponse = z.object({ key: z.string(), destroyed: z.array(z.int().positive()) });
export const encryptResponse = z.object({ ciphertext: z.string(), version: z.int().positive() });
export const decryptResponse = z.object({ plaintext: z.string(), version: z.int().positive() });
/** Answer to any call with ?dryRun=true that would have been carried out. */
export const dryRunResponse = z.object({ dryRun: z.literal(true), permitted: z.literal(true) });

/**
 * What the JWS of an envelope says: `iss` the KMS and `aud` the caller by URI, `iat` in seconds, `jti` the request's id; of the key its name, version, state
 * and algorithms, and the key itself as JWK (RFC 7517, RFC 7518 section 6.4), whose `kid` is the key's id and version with a dot between.
 */
export const keyEnvelopeClaims = z.strictObject({
  iss: z.string(),
  aud: z.string(),
  iat: z.int().nonnegative(),
  jti: z.string(),
  name: keyName,
  version: z.int().positive(),
  state: keyState,
  algorithms: z.array(z.enum(keyAlgorithms)),
  jwk: z.strictObject({ kty: z.literal("oct"), kid: z.string().regex(/^[0-9a-f]{32}\.[1-9]\d{0,8}$/), k: z.string().length(43) }),
});
export type KeyEnvelopeClaims = z.output<typeof keyEnvelopeClaims>;

/** Media type of the stream of events: one JSON object a line. */
export const eventStreamMediaType = "application/x-ndjson";
/** A line comes at least this often. A reader that hears nothing for three times as long may take the stream for dead. */
export const heartbeatSeconds = 15;

/**
 * One line of the stream of events. `available`: a key whose latest version the caller may have from now on, since it was made or the readers changed; `rotated`: a new version of one that it had;
 * `state-changed`: versions that took another state; `withdrawn`: the caller is no reader any more; `end`: why no line follows, with the code that a further request would be refused with.
 */
export const keyEvent = z.discriminatedUnion("type", [
  z.object({ type: z.literal("connected"), uri: z.string(), heartbeatSeconds: z.int().positive() }),
  z.object({ type: z.literal("heartbeat") }),
  z.object({ type: z.literal("available"), key: keyName, id: z.string(), version: z.int().positive(), state: keyState }),
  z.object({ type: z.literal("rotated"), key: keyName, id: z.string(), version: z.int().positive(), state: keyState }),
  z.object({ type: z.literal("state-changed"), key: keyName, id: z.string(), versions: z.array(z.int().positive()), state: keyState, reason: z.enum(keyRevocationReasons).optional() }),
  z.object({ type: z.literal("withdrawn"), key: keyName, id: z.string() }),
  z.object({ type: z.literal("end"), code: z.string(), detail: z.string() }),
]);
export type KeyEvent = z.output<typeof keyEvent>;

export const whoamiResponse = z.object({
  uri: z.string(),
  kind: z.enum(["agent", "operator", "service"]),
  name: z.string(),
  trustDomain: z.string(),
  certificate: z.object({ issuerKeyId: z.string(), serialNumber: z.string(), spkiSha256: z.string(), notAfter: time }),
});

/** `keys` and `denials` (counts by caller and operation) are for operators. */
export const kmsStatusResponse = z.object({
  service: z.literal("kms"),
  crls: z.array(z.object({ scope: z.string(), crlNumber: z.string(), thisUpdate: time, nextUpdate: time, entries: z.int() })),
  keys: z.int().optional(),
  denials: z.array(z.object({ caller: z.string(), operation: z.string(), count: z.int() })).optional(),
});

export const auditEntriesResponse = z.object({ entries: z.array(z.record(z.string(), z.unknown())), nextCursor: z.string().optional() });

export type CreateKeyRequest = z.input<typeof createKeyRequest>;
export type ImportKeyRequest = z.input<typeof importKeyRequest>;
export type ChangeKeyRequest = z.input<typeof changeKeyRequest>;
export type RevokeKeyRequest = z.input<typeof revokeKeyRequest>;
/** A key without its material: name, id, owner and readers (identity URIs), algorithms, latest version and its state, and `etag` for a change. */
export type KeyDescription = z.output<typeof keyDescription>;
export type KeyVersionDescription = z.output<typeof keyVersionDescription>;
/** A page of keys; `nextCursor` where there are more. */
export type KeyListResponse = z.output<typeof keyListResponse>;
/** A page of versions; `nextCursor` where there are more. */
export type KeyVersionListResponse = z.output<typeof keyVersionListResponse>;
export type RevokeKeyResponse = z.output<typeof revokeKeyResponse>;
export type DestroyKeyResponse = z.output<typeof destroyKeyResponse>;
export type EncryptResponse = z.output<typeof encryptResponse>;
export type DecryptResponse = z.output<typeof decryptResponse>;
/** Whom the KMS takes its caller for, and by which certificate. */
export type WhoamiResponse = z.output<typeof whoamiResponse>;
/** State of the KMS. */
export type KmsStatusResponse = z.output<typeof kmsStatusResponse>;
/** A page of the audit log; `nextCursor` where there are more. */
export type AuditEntriesResponse = z.output<typeof auditEntriesResponse>;
