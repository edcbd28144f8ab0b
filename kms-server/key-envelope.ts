import { SignetError } from "#pki/errors.ts";
import { encodeBase64url, encryptCompactJwe, signCompactJws } from "#pki/jose.ts";
import type { AuthenticatedPeer, Credential } from "#pki/mtls.ts";
import { keyEnvelopeTypes, type KeyEnvelopeClaims } from "#pki/protocol-kms.ts";

/**
 * A key version for the eyes of one caller: a JWE to the caller's RSA certificate around a JWS by the KMS. Encryption alone would let whoever stands in
 * between put a key of its own in; the signature says whose key it is, for whom, and when it was asked for. Made in one turn of the event loop, and everything that
 * holds the key on the way is wiped.
 * @param claims all that is said of the key; `jwk` lacks `k`, which `material` is
 */
export function sealKeyEnvelope(peer: AuthenticatedPeer, credential: Credential, claims: Omit<KeyEnvelopeClaims, "jwk"> & { readonly jwk: Omit<KeyEnvelopeClaims["jwk"], "k"> }, material: Uint8Array): Buffer {
  const { jwk, ...rest } = claims;
  const open = (value: object) => JSON.stringify(value).slice(0, -1);
  const k = encodeBase64url(material);
  const payload = Buffer.concat([Buffer.from(`${open(rest)},"jwk":${open(jwk)},"k":"`), k, Buffer.from('"}}')]);
  const x5c = credential.chain.map((certificate) => Buffer.from(certificate.der).toString("base64"));
  const signed = signCompactJws({ typ: keyEnvelopeTypes.signed, x5c }, payload, credential.privateKey);
  try {
    return encryptCompactJwe(peer.certificate, keyEnvelopeTypes.content, signed);
  } finally {
    for (const octets of [k, payload, signed]) octets.fill(0);
  }
}

/** @throws SignetError not-acceptable where the caller's certificate has no RSA key, to which alone an envelope can be sealed */
export function requireEnvelopeRecipient({ certificate, identity }: AuthenticatedPeer): void {
  if (certificate.subjectPublicKeyInfo.family === "rsa") return;
  throw new SignetError("not-acceptable", `application/jose is sealed to an RSA key, and the certificate of ${identity.uri} has one of the type ${certificate.subjectPublicKeyInfo.type}.`, {
    details: { keyType: certificate.subjectPublicKeyInfo.type, next: "Ask for the raw octets, or enrol with `--key-type rsa-3072`." },
  });
}
