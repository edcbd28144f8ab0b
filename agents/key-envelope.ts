import { z } from "zod";
import { checkProfile, identityUri, type Identity } from "#pki/certificate-profile.ts";
import { Certificate } from "#pki/certificate.ts";
import { systemClock, type Clock } from "#pki/clock.ts";
import { SignetError } from "#pki/errors.ts";
import { decodeBase64url, decryptCompactJwe, jweAlgorithms, parseCompactJws, parseOneSpelling, thumbprintOf } from "#pki/jose.ts";
import { SecretKey } from "#pki/keys.ts";
import type { Credential } from "#pki/mtls.ts";
import { validatePath } from "#pki/path-validation.ts";
import { keyEnvelopeClaims, keyEnvelopeTypes } from "#pki/protocol-kms.ts";
import type { RevocationStore } from "#pki/revocation.ts";
import type { GroupKey } from "./kms-client.ts";

/** How far the time of an envelope may lie from now, in either direction, unless told. */
const toleranceMilliseconds = 5 * 60_000;

/** Who opens an envelope: an EnrolledIdentity is one. */
export interface EnvelopeRecipient {
  readonly identity: Identity;
  readonly trustAnchors: readonly Certificate[];
  readonly revocation: Pick<RevocationStore, "check">;
  credential(role: "client"): Credential;
}

export interface ExpectedEnvelope {
  readonly name?: string;
  readonly version?: number | "latest";
  /** Longest time since the KMS made it, in milliseconds; five minutes by default, Infinity for one that was kept. */
  readonly maximumAgeMilliseconds?: number;
}

// Strict: a header that names another key, an extension (`crit`) or anything else that a reader may act on is refused whole.
const outerHeader = z.strictObject({ alg: z.literal(jweAlgorithms.alg), enc: z.literal(jweAlgorithms.enc), cty: z.literal(keyEnvelopeTypes.content), "x5t#S256": z.string() });
const innerHeader = z.strictObject({ alg: z.string(), typ: z.literal(keyEnvelopeTypes.signed), x5c: z.array(z.base64()).min(1).max(8) });

/**
 * Opens what the KMS answers with to `Accept: application/jose`: decrypts the JWE with the RSA key of the recipient's client certificate, then demands of the JWS
 * inside it a valid, unrevoked chain that names the KMS of this trust domain, the signature algorithm of that certificate's key, the recipient as audience, and a fresh date.
 * @param envelope compact serialisation as ASCII octets, 64 KiB at most
 * @returns the key version with its 32 octets of AES-256 material
 * @throws SignetError ciphertext-malformed | key-rejected | decryption-failed | algorithm-rejected | signature-invalid | peer-mismatch | message-replayed (too old, or of another version than was asked for),
 *   the codes of path and profile, and those of revocation
 */
export function openKeyEnvelope(envelope: Uint8Array, recipient: EnvelopeRecipient, expected: ExpectedEnvelope = {}, clock: Clock = systemClock): GroupKey {
  const { privateKey, chain } = recipient.credential("client");
  const { header, plaintext } = decryptCompactJwe(envelope, outerHeader, privateKey);
  try {
    if (chain[0] === undefined || header["x5t#S256"] !== thumbprintOf(chain[0])) throw new SignetError("decryption-failed", "The envelope was sealed to another certificate of this key.");
    const jws = parseCompactJws(plaintext, innerHeader);
    try {
      const issuer = requireKms(jws.header.x5c, recipient, clock.now());
      jws.verify(issuer.publicKey);
      return keyIn(jws.payload, issuer.uri, recipient.identity.uri, clock.now(), expected);
    } finally {
      jws.payload.fill(0);
    }
  } finally {
    plaintext.fill(0);
  }
}

/** The certificate of the signer, judged as that of a server which is connected to. */
function requireKms(x5c: readonly string[], { trustAnchors, revocation, identity }: EnvelopeRecipient, at: Date) {
  const [endEntity, ...intermediates] = x5c.map((der) => Certificate.parse(Buffer.from(der, "base64"))) as [Certificate, ...Certificate[]];
  const path = validatePath({ endEntity, intermediates, trustAnchors, purpose: "serverAuth", at });
  const { uri } = checkProfile(path);
  const kms = identityUri(identity.trustDomain, "service", "kms");
  if (uri !== kms) throw new SignetError("peer-mismatch", `The envelope is signed by ${uri}, not by ${kms}.`, { details: { expected: kms, uri } });
  revocation.check(path);
  return { uri, publicKey: endEntity.subjectPublicKeyInfo.keyObject };
}

function keyIn(payload: Buffer, issuer: string, audience: string, now: Date, expected: ExpectedEnvelope): GroupKey {
  const material = takeMaterial(payload);
  try {
    const claims = parseOneSpelling(payload, keyEnvelopeClaims);
    const { name, version, jwk, algorithms } = claims;
    if (claims.iss !== issuer) throw new SignetError("peer-mismatch", `The envelope says that it is by ${claims.iss}, and ${issuer} has signed it.`);
    if (claims.aud !== audience) throw new SignetError("peer-mismatch", `The envelope is for ${claims.aud}, not for ${audience}.`, { details: { audience: claims.aud } });
    const age = now.getTime() - claims.iat * 1000;
    if (age > (expected.maximumAgeMilliseconds ?? toleranceMilliseconds) || age < -toleranceMilliseconds) {
      throw new SignetError("message-replayed", `The envelope was made at ${new Date(claims.iat * 1000).toISOString()}, which is not about now.`);
    }
    if ((expected.name ?? name) !== name || (typeof expected.version === "number" && expected.version !== version)) {
      throw new SignetError("message-replayed", `The envelope holds ${name}, version ${version}, and another key or version was asked for.`);
    }
    const id = jwk.kid.slice(0, jwk.kid.lastIndexOf("."));
    return { name, id, version, algorithms, secret: SecretKey.from(material) };
  } finally {
    material.fill(0);
  }
}

const memberK = Buffer.from('"k":"');
const encodedLength = 43;

/**
 * Takes the key out of the claims before these become strings, and leaves 32 zero octets in its place. Inside of a JSON string a quotation mark is escaped, so that
 * the member's name in this spelling is a member; the schema then says which.
 */
function takeMaterial(payload: Buffer): Buffer {
  const at = payload.indexOf(memberK);
  if (at < 0 || payload.indexOf(memberK, at + 1) >= 0) throw new SignetError("ciphertext-malformed", "The envelope does not hold one key.");
  const encoded = payload.subarray(at + memberK.length, at + memberK.length + encodedLength);
  const material = decodeBase64url(encoded);
  encoded.fill("A");
  return material;
}
