/** Public keys and signature algorithms that are understood, and the one place where a signature is verified. */
import { createPublicKey, constants, verify } from "node:crypto";
import type { KeyObject } from "node:crypto";
import { DerReader, asBuffer, constructedContextTag, readSingle, tag } from "./der.ts";
import { SignetError } from "./errors.ts";
import { oid } from "./oids.ts";

type KeyFamily = "rsa" | "rsa-pss" | "ec" | "ed25519" | "ml-dsa-44" | "ml-dsa-65" | "ml-dsa-87" | "dsa";
type HashName = "sha1" | "sha224" | "sha256" | "sha384" | "sha512";

/** AlgorithmIdentifier of a signature. `family` is undefined where Signet does not know the algorithm. */
export interface SignatureAlgorithm {
  readonly oid: string;
  readonly der: Uint8Array;
  readonly family: KeyFamily | undefined;
  /** Hash that is applied first; undefined for the algorithms that hash by themselves. */
  readonly hash: HashName | undefined;
  /** RSASSA-PSS only: salt length in octets. */
  readonly saltLength?: number;
}

const simpleAlgorithms: Readonly<Record<string, readonly [KeyFamily, HashName | undefined]>> = {
  [oid.sha1WithRsa]: ["rsa", "sha1"],
  [oid.sha224WithRsa]: ["rsa", "sha224"],
  [oid.sha256WithRsa]: ["rsa", "sha256"],
  [oid.sha384WithRsa]: ["rsa", "sha384"],
  [oid.sha512WithRsa]: ["rsa", "sha512"],
  [oid.ecdsaWithSha1]: ["ec", "sha1"],
  [oid.ecdsaWithSha224]: ["ec", "sha224"],
  [oid.ecdsaWithSha256]: ["ec", "sha256"],
  [oid.ecdsaWithSha384]: ["ec", "sha384"],
  [oid.ecdsaWithSha512]: ["ec", "sha512"],
  [oid.dsaWithSha1]: ["dsa", "sha1"],
  [oid.dsaWithSha256]: ["dsa", "sha256"],
  [oid.ed25519]: ["ed25519", undefined],
  [oid.mlDsa44]: ["ml-dsa-44", undefined],
  [oid.mlDsa65]: ["ml-dsa-65", undefined],
  [oid.mlDsa87]: ["ml-dsa-87", undefined],
};

/** What was read before, by its bytes, which strangers choose: so many entries at most, the first in going out first, and none of long bytes. */
class BoundedCache<Value> {
  readonly #values = new Map<string, Value>();
  readonly #octetsLimit: number;
  static readonly #entriesLimit = 64;

  constructor(octetsLimit: number) {
    this.#octetsLimit = octetsLimit;
  }

  /** What `make` made of these bytes, now or before. */
  get(bytes: Buffer, make: (bytes: Buffer) => Value): Value {
    if (bytes.length > this.#octetsLimit) return make(bytes);
    const key = bytes.toString("latin1");
    let value = this.#values.get(key);
    if (value === undefined) {
      // A copy, so that nothing here keeps somebody's whole certificate alive.
      value = make(Buffer.from(bytes));
      for (const first of this.#values.keys()) {
        if (this.#values.size < BoundedCache.#entriesLimit) break;
        this.#values.delete(first);
      }
      this.#values.set(key, value);
    }
    return value;
  }
}

/** Identifiers: a deployment uses one or two. The longest that is understood, RSASSA-PSS with all its parameters, has 78 octets. */
const knownAlgorithms = new BoundedCache<SignatureAlgorithm>(128);

/** Takes the next element of `reader`, an AlgorithmIdentifier. @throws SignetError `der-malformed` */
export function readSignatureAlgorithm(reader: DerReader): SignatureAlgorithm {
  return knownAlgorithms.get(reader.readElement(tag.sequence), parseSignatureAlgorithm);
}

function parseSignatureAlgorithm(der: Buffer): SignatureAlgorithm {
  const content = new DerReader(der).enter(tag.sequence);
  const algorithmOid = content.readObjectIdentifier();
  if (algorithmOid === oid.rsaPss) return { oid: algorithmOid, der, family: "rsa-pss", ...readPssParameters(content) };
  const [family, hash] = simpleAlgorithms[algorithmOid] ?? [];
  // RSA takes NULL parameters, and a reader must bear their absence (RFC 4055 section 5); all others have none.
  const parametersFit = content.atEnd || (family === "rsa" && content.readContent(tag.null).length === 0 && content.atEnd);
  return { oid: algorithmOid, der, family: parametersFit ? family : undefined, hash };
}

const pssHashes: Readonly<Record<string, HashName>> = { [oid.sha1]: "sha1", [oid.sha256]: "sha256", [oid.sha384]: "sha384", [oid.sha512]: "sha512" };

/** RSASSA-PSS-params (RFC 4055 section 3.1). Another mask hash than the message hash, or another trailer, is not understood. */
function readPssParameters(content: DerReader): { hash: HashName | undefined; saltLength: number } {
  const parameters = content.enter(tag.sequence);
  content.finish();
  const readHash = (reader: DerReader | undefined): HashName | undefined => {
    if (reader === undefined) return "sha1";
    const identifier = reader.enter(tag.sequence);
    const hash = pssHashes[identifier.readObjectIdentifier()];
    if (!identifier.atEnd) identifier.readContent(tag.null);
    identifier.finish();
    reader.finish();
    return hash;
  };
  const hash = readHash(parameters.enterIf(constructedContextTag(0)));
  const mask = parameters.enterIf(constructedContextTag(1));
  let maskHash: HashName | undefined = "sha1";
  if (mask !== undefined) {
    const identifier = mask.enter(tag.sequence);
    mask.finish();
    maskHash = identifier.readObjectIdentifier() === oid.mgf1 ? readHash(identifier) : undefined;
  }
  const salt = parameters.enterIf(constructedContextTag(2));
  const saltLength = salt === undefined ? 20 : salt.readCount();
  salt?.finish();
  const trailer = parameters.enterIf(constructedContextTag(3));
  const trailerField = trailer === undefined ? 1 : trailer.readCount();
  trailer?.finish();
  parameters.finish();
  return { hash: hash === maskHash && trailerField === 1 && saltLength <= 512 ? hash : undefined, saltLength };
}

/** SubjectPublicKeyInfo (RFC 5280 section 4.1.2.7), of which the key itself is imported when it is first used. */
export class SubjectPublicKeyInfo {
  readonly der: Uint8Array;
  /** `rsa-<bits>`, `rsa-pss-<bits>`, `ec-p256`, `ec-p384`, `ec-p521`, `ed25519`, `ml-dsa-44`, `ml-dsa-65`, `ml-dsa-87`, `dsa` or `unknown`. */
  readonly type: string;
  readonly family: KeyFamily | undefined;
  /** RSA only: bits of the modulus. */
  readonly modulusBits: number | undefined;
  /** RSA only: bits of the public exponent. @internal */
  readonly exponentBits: number | undefined;
  #keyObject: KeyObject | undefined;

  /** @throws SignetError `der-malformed` */
  constructor(der: Uint8Array) {
    this.der = der;
    const [family, name, rsa] = readSingle(der, tag.sequence, describeKey);
    this.family = family;
    this.modulusBits = rsa?.modulusBits;
    this.exponentBits = rsa?.exponentBits;
    this.type = rsa === undefined ? name : `${name}-${rsa.modulusBits}`;
  }

  /** @throws SignetError `key-rejected` where OpenSSL cannot use the key */
  get keyObject(): KeyObject {
    return (this.#keyObject ??= importKey(asBuffer(this.der)));
  }
}

/**
 * Keys imported before. A party meets the same few CA keys in every handshake, in certificates that are parsed anew, and an import costs a
 * third of a verification. Whoever floods it gains nothing but the cost of imports. An ML-DSA-87 key has 2614 octets, an RSA key of 8192 bits 1062.
 */
const importedKeys = new BoundedCache<KeyObject>(4096);

function importKey(der: Buffer): KeyObject {
  return importedKeys.get(der, (key) => {
    try {
      return createPublicKey({ key, format: "der", type: "spki" });
    } catch (cause) {
      throw new SignetError("key-rejected", "The public key cannot be used.", { cause });
    }
  });
}

const curves: Readonly<Record<string, string>> = { [oid.p256]: "ec-p256", [oid.p384]: "ec-p384", [oid.p521]: "ec-p521" };
const plainKeys: Readonly<Record<string, KeyFamily>> = {
  [oid.ed25519]: "ed25519",
  [oid.mlDsa44]: "ml-dsa-44",
  [oid.mlDsa65]: "ml-dsa-65",
  [oid.mlDsa87]: "ml-dsa-87",
};

interface RsaBits {
  readonly modulusBits: number;
  readonly exponentBits: number;
}

/** Of a positive INTEGER. */
function bitsOf(integer: Buffer): number {
  const leading = integer[0] === 0 ? 1 : 0;
  return (integer.length - leading) * 8 - (Math.clz32(integer[leading] ?? 0) - 24);
}

function describeKey(content: DerReader): [family: KeyFamily | undefined, name: string, rsa?: RsaBits] {
  const algorithm = content.enter(tag.sequence);
  const algorithmOid = algorithm.readObjectIdentifier();
  const key = content.readBitStringOctets();
  if (algorithmOid === oid.ecPublicKey) {
    // Named curves only (RFC 5480 section 2.1.1): explicit parameters let the sender choose the group (CVE-2020-0601).
    const curve = curves[algorithm.readObjectIdentifier()];
    algorithm.finish();
    // Section 2.2: uncompressed or compressed; the hybrid forms are to be refused.
    if (![0x02, 0x03, 0x04].includes(key[0] ?? 0)) throw new SignetError("der-malformed", "The form of an EC point is not one of RFC 5480.");
    return curve === undefined ? [undefined, "unknown"] : ["ec", curve];
  }
  if (algorithmOid === oid.rsaEncryption || algorithmOid === oid.rsaPss) {
    // RFC 3279 section 2.3.1: NULL, which some leave out; nothing else.
    if (algorithmOid === oid.rsaEncryption && !algorithm.atEnd) {
      algorithm.readContent(tag.null);
      algorithm.finish();
    }
    const rsaBits = readSingle(key, tag.sequence, (rsa) => {
      const modulus = rsa.readIntegerBytes();
      const exponent = rsa.readIntegerBytes();
      // An exponent of 1 makes every message its own signature; an even one has no inverse (RFC 8017 section 3.1).
      const odd = ((exponent.at(-1) as number) & 1) === 1 && ((modulus.at(-1) as number) & 1) === 1;
      if ((modulus[0] as number) >= 0x80 || (exponent[0] as number) >= 0x80 || !odd || (exponent.length === 1 && exponent[0] === 1)) throw new SignetError("der-malformed", "No RSA key has such a modulus and exponent.");
      return { modulusBits: bitsOf(modulus), exponentBits: bitsOf(exponent) };
    });
    return algorithmOid === oid.rsaPss ? ["rsa-pss", "rsa-pss", rsaBits] : ["rsa", "rsa", rsaBits];
  }
  if (algorithmOid === oid.dsa) return ["dsa", "dsa"];
  const plain = plainKeys[algorithmOid];
  return plain === undefined || !algorithm.atEnd ? [undefined, "unknown"] : [plain, plain];
}

/** A larger modulus costs more than a path is worth; OpenSSL itself goes to 16,384. */
const modulusBitsLimit = 8192;
/** An exponent as long as the modulus makes a verification cost what a signature does; OpenSSL sets the same limit for the larger moduli. */
const exponentBitsLimit = 64;

/**
 * Whether `signature` is one over `data` by the key, under exactly this algorithm. A key of another family, an algorithm that
 * is not understood and an unusable key all give false: there is no other outcome than yes and no.
 */
export function verifySignature(algorithm: SignatureAlgorithm, key: SubjectPublicKeyInfo, data: Uint8Array, signature: Uint8Array): boolean {
  const { family, hash, saltLength } = algorithm;
  if (family === undefined || (key.modulusBits ?? 0) > modulusBitsLimit || (key.exponentBits ?? 0) > exponentBitsLimit) return false;
  try {
    if (family === "rsa-pss") {
      if ((key.family !== "rsa" && key.family !== "rsa-pss") || hash === undefined || saltLength === undefined) return false;
      return verify(hash, data, { key: key.keyObject, padding: constants.RSA_PKCS1_PSS_PADDING, saltLength }, signature);
    }
    return key.family === family && verify(hash ?? null, data, key.keyObject, signature);
  } catch {
    return false;
  }
}
