import { createHmac, createSecretKey, hkdfSync, type KeyObject } from "node:crypto";
import { openAes256Gcm, sealAes256Gcm } from "#pki/aead.ts";
import { SignetError } from "#pki/errors.ts";
import type { SecretKey } from "#pki/keys.ts";
import type { KeyState } from "./key-state.ts";

/** What wrapped material is bound to. It opens for this key (32 hex digits), version and state, and for no other. */
export interface WrapBinding {
  readonly keyId: string;
  readonly version: number;
  readonly state: KeyState;
}

/** Octets of an inventory: the XOR of the inventory tags of all records. */
export const inventoryLength = 32;

/**
 * Protection of keys at rest. The unseal key lies outside the data directory; from it come, by HKDF-SHA256 (RFC 5869)
 * and one label each: keys for wrapping, for tags of records, for the inventory and for request digests.
 *
 * Wrapping binds material to its key, version and state; a tag binds a record, policy included, as a whole. The inventory
 * binds the records to each other: one that was added, taken away, or put back as it once was no longer fits it.
 */
export class KeyWrap {
  readonly #wrapping: KeyObject;
  readonly #inventory: KeyObject;
  readonly #recordTags: KeyObject;
  readonly #inventoryTags: KeyObject;
  readonly #requests: KeyObject;

  constructor(unsealKey: SecretKey) {
    const derive = (label: string) => createSecretKey(Buffer.from(hkdfSync("sha256", unsealKey.keyObject, "", `signet-kms-1 ${label}`, 32)));
    this.#wrapping = derive("wrap");
    this.#inventory = derive("inventory");
    this.#recordTags = derive("record tags");
    this.#inventoryTags = derive("inventory tags");
    this.#requests = derive("request digests");
  }

  /** Wraps 32 octets of material: IV (12), ciphertext (32), tag (16). The caller zeroes the material. */
  wrap(material: Uint8Array, binding: WrapBinding): Uint8Array {
    return sealAes256Gcm(this.#wrapping, material, bindingOctets(binding));
  }

  /**
   * Unwraps material into octets of its own, which the caller zeroes after use.
   * @throws SignetError data-directory-corrupt when the octets were not wrapped for this key, version and state
   */
  unwrap(wrapped: Uint8Array, binding: WrapBinding): Uint8Array {
    try {
      return openAes256Gcm(this.#wrapping, wrapped, bindingOctets(binding));
    } catch (cause) {
      throw new SignetError("data-directory-corrupt", "The stored key is not the one that belongs here; nothing was opened.", {
        details: { keyId: binding.keyId, version: binding.version, state: binding.state },
        cause,
      });
    }
  }

  /** The same material, bound to another state of the same version. */
  rewrap(wrapped: Uint8Array, from: WrapBinding, state: KeyState): Uint8Array {
    const material = this.unwrap(wrapped, from);
    try {
      return this.wrap(material, { ...from, state });
    } finally {
      material.fill(0);
    }
  }

  /** Tag that is stored with a record, 32 octets: HMAC-SHA256, so that who holds the database can neither change the record nor make one. */
  recordTag(record: string): Uint8Array {
    return createHmac("sha256", this.#recordTags).update(record).digest();
  }

  /**
   * What a record adds to the inventory, 32 octets. Under a key of its own and never stored: who knew these could solve, by linear algebra,
   * for a set of earlier records with the same XOR.
   */
  inventoryTag(record: string): Uint8Array {
    return createHmac("sha256", this.#inventoryTags).update(record).digest();
  }

  sealInventory(inventory: Uint8Array): Uint8Array {
    return sealAes256Gcm(this.#inventory, inventory, inventoryFormat);
  }

  /** @throws SignetError unseal-failed: it is the first thing opened at a start, so a failure means another unseal key */
  openInventory(sealed: Uint8Array): Uint8Array {
    try {
      return openAes256Gcm(this.#inventory, sealed, inventoryFormat);
    } catch (cause) {
      throw new SignetError("unseal-failed", "The unseal key does not open this key store.", { cause });
    }
  }

  /** Digest of a request that may hold a secret: HMAC-SHA256 in hex, so that nobody can try guesses against it. */
  requestDigest(request: string): string {
    return createHmac("sha256", this.#requests).update(request).digest("hex");
  }
}

const inventoryFormat = Buffer.from("signet-kms-inventory-1", "ascii");

function bindingOctets({ keyId, version, state }: WrapBinding): Uint8Array {
  return Buffer.from(`signet-kms-wrap-1 ${keyId} ${version} ${state}`, "ascii");
}
