import { createPrivateKey, type KeyObject } from "node:crypto";
import { openAes256Gcm, sealAes256Gcm } from "#pki/aead.ts";
import { Certificate } from "#pki/certificate.ts";
import { SignetError } from "#pki/errors.ts";
import type { SecretKey } from "#pki/keys.ts";
import type { SqlTransaction } from "#store/engine.ts";

/** The authority's own keys: `server` is its TLS key. */
export type AuthorityKeyName = "root" | "issuing" | "server";

export interface AuthorityKey {
  readonly certificate: Certificate;
  readonly privateKey: KeyObject;
}

/**
 * Keeps a private key (PKCS #8, DER) sealed with AES-256-GCM under the unseal key, which lies in neither database nor backup.
 * Its additional data is the name and the SHA-256 of the public key, so that one sealed key cannot be put in another's place.
 */
export async function saveAuthorityKey(transaction: SqlTransaction, unsealKey: SecretKey, name: AuthorityKeyName, key: AuthorityKey): Promise<void> {
  const pkcs8 = key.privateKey.export({ format: "der", type: "pkcs8" });
  const sealed = sealAes256Gcm(unsealKey, pkcs8, additionalData(name, key.certificate));
  pkcs8.fill(0);
  await transaction.run(
    "INSERT INTO authority_key (name, certificate, sealed_key) VALUES (?, ?, ?) ON CONFLICT (name) DO UPDATE SET certificate = excluded.certificate, sealed_key = excluded.sealed_key",
    name,
    key.certificate.der,
    sealed,
  );
}

/** @throws SignetError unseal-failed, data-directory-corrupt */
export async function loadAuthorityKey(reads: Pick<SqlTransaction, "get">, unsealKey: SecretKey, name: AuthorityKeyName): Promise<AuthorityKey> {
  const row = await reads.get("SELECT certificate, sealed_key FROM authority_key WHERE name = ?", name);
  if (!(row?.["certificate"] instanceof Uint8Array) || !(row["sealed_key"] instanceof Uint8Array))
    throw new SignetError("data-directory-corrupt", `The database has lost the key ${name}.`);
  const certificate = Certificate.parse(row["certificate"]);
  let privateKey: KeyObject;
  try {
    const pkcs8 = Buffer.from(openAes256Gcm(unsealKey, row["sealed_key"], additionalData(name, certificate)));
    privateKey = createPrivateKey({ key: pkcs8, format: "der", type: "pkcs8" });
    pkcs8.fill(0);
  } catch (cause) {
    throw new SignetError("unseal-failed", `The unseal key does not open the key ${name} of this authority.`, { cause });
  }
  return { certificate, privateKey };
}

function additionalData(name: AuthorityKeyName, certificate: Certificate): Uint8Array {
  return Buffer.from(`signet ca key v1\0${name}\0${certificate.spkiFingerprint}`);
}
