import { createHash, createPublicKey, type KeyObject } from "node:crypto";
import { SignetError } from "#pki/errors.ts";
import { tag } from "#pki/der.ts";
import { keyTypeOf } from "#pki/keys.ts";
import { decodePkcs12, type Pkcs12Objects } from "#pki/pkcs12.ts";
import { describeCertificate } from "./inspect.ts";
import { decodeOlderPkcs12 } from "./older-pkcs12.ts";

/** Whether octets open as a PFX does (RFC 7292 section 4): a SEQUENCE that begins with version 3. Its length may be of any form that BER knows: NSS leaves it open. */
export function isPkcs12(octets: Uint8Array): boolean {
  const length = octets[1] ?? 0;
  const content = length < 0x80 ? 2 : 2 + (length & 0x7f);
  return octets[0] === tag.sequence && Buffer.from(octets.subarray(content, content + 3)).equals(Buffer.of(tag.integer, 1, 3));
}

type Description = Record<string, unknown>;

/**
 * What a PKCS#12 file holds: itself, its certificates, and of each private key that there is one. Octets of keys are shown nowhere; a key is named by the
 * SHA-256 of its public key, as certificates are.
 * @throws SignetError decryption-failed (another password, damaged, an encryption that is not known, or it asks for endless work) | certificate-malformed | der-malformed
 */
export function describePkcs12(octets: Uint8Array, password: string, now: Date): readonly Readonly<Description>[] {
  const objects = openModern(octets, password) ?? decodeOlderPkcs12(octets, password);
  const named = (friendlyName: string | undefined): Description => (friendlyName === undefined ? {} : { friendlyName });
  const certificates: Description[] = objects.certificates.map(({ value, friendlyName }) => ({ ...describeCertificate(value, now), ...named(friendlyName) }));
  const keys: Description[] = objects.privateKeys.map(({ value, friendlyName }) => {
    const spkiFingerprint = fingerprintOf(value);
    const owner = certificates.find((certificate) => certificate["spkiFingerprint"] === spkiFingerprint);
    return { type: "private key", publicKey: keyTypeOf(value) ?? value.asymmetricKeyType, spkiFingerprint, ...named(friendlyName), ...(owner === undefined ? {} : { certificate: owner["serialNumber"] }) };
  });
  return [{ type: "pkcs12", integrity: "password and MAC verified", certificates: certificates.length, privateKeys: keys.length, otherObjects: objects.others }, ...certificates, ...keys];
}

/** @returns undefined where the file is of another encryption, or in BER */
function openModern(octets: Uint8Array, password: string): Pkcs12Objects | undefined {
  try {
    return decodePkcs12(octets, Buffer.from(password));
  } catch (error) {
    if (error instanceof SignetError && (error.code === "algorithm-rejected" || error.code === "der-malformed")) return undefined;
    throw error;
  }
}

function fingerprintOf(privateKey: KeyObject): string {
  return createHash("sha256").update(createPublicKey(privateKey).export({ format: "der", type: "spki" })).digest("hex");
}
