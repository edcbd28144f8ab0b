import {
  createHash,
  createPublicKey,
  createSecretKey,
  generateKeyPair as generateKeyPairWithCallback,
  KeyObject,
  randomBytes,
  sign,
  timingSafeEqual,
  type webcrypto,
} from "node:crypto";
import { promisify } from "node:util";
import type { JsonGeneralNames } from "@peculiar/x509";
import { SignetError } from "./errors.ts";

/** Kinds of key that Signet certifies. RSA keys have the public exponent 65537. */
export type KeyType = "rsa-2048" | "rsa-3072" | "rsa-4096" | "ec-p256" | "ec-p384" | "ed25519" | "ml-dsa-65";

export const keyTypes = ["rsa-2048", "rsa-3072", "rsa-4096", "ec-p256", "ec-p384", "ed25519", "ml-dsa-65"] as const satisfies readonly KeyType[];

interface KeyTypeFacts {
  /** Type and options of crypto.generateKeyPair. */
  readonly generate: readonly [string, object];
  /** WebCrypto algorithm, which is how @peculiar/x509 names a kind of key. */
  readonly webCrypto: { readonly name: string; readonly hash?: string; readonly namedCurve?: string };
  /** Digest of crypto.sign; null where the scheme hashes for itself. */
  readonly digest: "sha256" | "sha384" | null;
  /** AlgorithmIdentifier of the signature, DER in hex (RFC 4055 section 5, RFC 5758 section 3.2, RFC 8410 section 3, RFC 9881 section 3). */
  readonly signatureAlgorithm: string;
}

const rsaFacts = (modulusLength: number): KeyTypeFacts => ({
  generate: ["rsa", { modulusLength, publicExponent: 65537 }],
  webCrypto: { name: "RSASSA-PKCS1-v1_5", hash: "SHA-256" },
  digest: "sha256",
  signatureAlgorithm: "300d06092a864886f70d01010b0500",
});

const facts: Readonly<Record<KeyType, KeyTypeFacts>> = {
  "rsa-2048": rsaFacts(2048),
  "rsa-3072": rsaFacts(3072),
  "rsa-4096": rsaFacts(4096),
  "ec-p256": {
    generate: ["ec", { namedCurve: "prime256v1" }],
    webCrypto: { name: "ECDSA", namedCurve: "P-256", hash: "SHA-256" },
    digest: "sha256",
    signatureAlgorithm: "300a06082a8648ce3d040302",
  },
  "ec-p384": {
    generate: ["ec", { namedCurve: "secp384r1" }],
    webCrypto: { name: "ECDSA", namedCurve: "P-384", hash: "SHA-384" },
    digest: "sha384",
    signatureAlgorithm: "300a06082a8648ce3d040303",
  },
  ed25519: { generate: ["ed25519", {}], webCrypto: { name: "Ed25519" }, digest: null, signatureAlgorithm: "300506032b6570" },
  "ml-dsa-65": { generate: ["ml-dsa-65", {}], webCrypto: { name: "ML-DSA-65" }, digest: null, signatureAlgorithm: "300b0609608648016503040312" },
};

type GenerateKeyPair = (type: string, options: object) => Promise<{ privateKey: KeyObject; publicKey: KeyObject }>;
const generateOffTheEventLoop = promisify(generateKeyPairWithCallback) as unknown as GenerateKeyPair;

/** Makes a key pair on a worker thread: an RSA key costs 35 to 400 ms, which no event loop may spend. */
export function generateKeyPair(type: KeyType): Promise<{ privateKey: KeyObject; publicKey: KeyObject }> {
  return generateOffTheEventLoop(...facts[type].generate);
}

/** Kind of a key, private or public; undefined where it is none that Signet certifies. Says nothing of its strength: see checkAcceptableKey. */
export function keyTypeOf(key: KeyObject): KeyType | undefined {
  const details = key.asymmetricKeyDetails;
  switch (key.asymmetricKeyType as string | undefined) {
    case "rsa": {
      const type = `rsa-${details?.modulusLength}`;
      return keyTypes.find((known) => known === type);
    }
    case "ec":
      return details?.namedCurve === "prime256v1" ? "ec-p256" : details?.namedCurve === "secp384r1" ? "ec-p384" : undefined;
    case "ed25519":
      return "ed25519";
    case "ml-dsa-65":
      return "ml-dsa-65";
    default:
      return undefined;
  }
}

/** Something that signs with a private key it does not show. */
export interface Signer {
  readonly keyType: KeyType;
  readonly publicKey: KeyObject;
  /** AlgorithmIdentifier, DER. */
  readonly signatureAlgorithm: Uint8Array;
  /** Signature over these bytes: PKCS#1 v1.5 for RSA, Ecdsa-Sig-Value DER for EC, raw for Ed25519 (64 bytes) and ML-DSA-65 (3309 bytes). */
  sign(toBeSigned: Uint8Array): Promise<Uint8Array>;
}

/** From here on, bytes are signed where they are: a worker thread gets a copy of them, which takes the event loop as long as the hash does. */
const signedInPlaceOctets = 1 << 20;

/** Signs with a key in memory, on a worker thread where that is of use. @throws SignetError key-rejected for a kind of key that Signet does not use */
export function signerFromKey(privateKey: KeyObject): Signer {
  const keyType = keyTypeOf(privateKey);
  if (keyType === undefined) throw new SignetError("key-rejected", `A key of type ${privateKey.asymmetricKeyType ?? privateKey.type} does not sign for Signet.`);
  const { digest, signatureAlgorithm } = facts[keyType];
  return {
    keyType,
    publicKey: createPublicKey(privateKey),
    signatureAlgorithm: Buffer.from(signatureAlgorithm, "hex"),
    sign: (toBeSigned) =>
      new Promise((resolve, reject) => {
        if (toBeSigned.length >= signedInPlaceOctets) resolve(sign(digest, toBeSigned, privateKey));
        else sign(digest, toBeSigned, privateKey, (error, signature) => (error === null ? resolve(signature) : reject(error)));
      }),
  };
}

/**
 * PKCS #10 request (RFC 2986), DER, signed by the key as proof of possession. The names are a wish:
 * the authority takes the key alone and decides the names itself.
 * @throws SignetError key-rejected for a kind of key that Signet does not use
 */
export async function createCsr(
  privateKey: KeyObject,
  names: { readonly commonName?: string; readonly uri?: string; readonly dns?: readonly string[]; readonly ip?: readonly string[] },
): Promise<Uint8Array> {
  const keyType = keyTypeOf(privateKey);
  if (keyType === undefined) throw new SignetError("key-rejected", "Signet certifies no key of this type.");
  const algorithm = facts[keyType].webCrypto;
  const alternativeNames: JsonGeneralNames = [
    ...(names.uri === undefined ? [] : [{ type: "url" as const, value: names.uri }]),
    ...(names.dns ?? []).map((value) => ({ type: "dns" as const, value })),
    ...(names.ip ?? []).map((value) => ({ type: "ip" as const, value })),
  ];
  // Loaded where it is used: enrolling is rare, and it takes as long to load as everything else that an agent needs.
  await import("reflect-metadata");
  const { Pkcs10CertificateRequestGenerator, SubjectAlternativeNameExtension } = await import("@peculiar/x509");
  const request = await Pkcs10CertificateRequestGenerator.create({
    name: names.commonName === undefined ? [] : [{ CN: [names.commonName] }],
    keys: {
      privateKey: toCryptoKey(privateKey, algorithm, "sign"),
      publicKey: toCryptoKey(createPublicKey(privateKey), algorithm, "verify"),
    },
    // SHA-256 for the schemes that take no hash: the library wants one and they ignore it.
    signingAlgorithm: { hash: "SHA-256", ...algorithm },
    extensions: alternativeNames.length === 0 ? [] : [new SubjectAlternativeNameExtension(alternativeNames)],
  });
  return new Uint8Array(request.rawData);
}

function toCryptoKey(key: KeyObject, algorithm: KeyTypeFacts["webCrypto"], usage: "sign" | "verify"): webcrypto.CryptoKey {
  return key.toCryptoKey(algorithm as webcrypto.AlgorithmIdentifier, usage === "verify", [usage]);
}

/** Exact length in bytes of a SubjectPublicKeyInfo; with it, compressed points and explicit curve parameters are out (RFC 5480 section 2.1.1). */
const spkiLengths: Partial<Record<KeyType, number>> = { "ec-p256": 91, "ec-p384": 120, ed25519: 44, "ml-dsa-65": 1974 };

/** SHA-256 of the SubjectPublicKeyInfo of keys whose private half anybody has: the test keys of RFC 9500 that would otherwise pass (sections 2.1 and 2.3). */
const publishedPrivateKeys: ReadonlySet<string> = new Set([
  "8fb6bad671cfe698393c453357da61b56d757ab8c0f3fb9c87f2849e63131878", // testRSA2048
  "96465ea5dc9bb2da7b351d808a7196e5761f2412a5040131c68d719aaba28fb9", // testRSA4096
  "b2b04340cfaee616ec9c2c62d261b208e54bb197498df52e8cadede23ac0ba5e", // testECCP256
  "c4c10105a0be0ed4dd3354428dc38a9bfee64da141ce16e75c94eda272f9dd3a", // testECCP384
]);

/**
 * Whether Signet certifies this public key (SubjectPublicKeyInfo, DER): RSA of 2048, 3072 or 4096 bits with e = 65537, no factor below 752
 * (SP 800-89 section 5.3.3), no two close factors (100 rounds of Fermat), not of the ROCA family (CVE-2017-15361);
 * P-256, P-384, Ed25519 (no point of small order), ML-DSA-65. The test keys of RFC 9500, whose private halves are published, are refused.
 * @throws SignetError key-rejected
 */
export function checkAcceptableKey(spki: Uint8Array): KeyType {
  let key: KeyObject;
  let canonical: Uint8Array;
  try {
    key = createPublicKey({ key: Buffer.from(spki), format: "der", type: "spki" });
    canonical = key.export({ format: "der", type: "spki" });
  } catch (cause) {
    throw new SignetError("key-rejected", "The public key does not parse, or its point is not on the curve.", { cause });
  }
  const type = keyTypeOf(key);
  if (type === undefined) throw new SignetError("key-rejected", "Signet certifies RSA of 2048, 3072 or 4096 bits, P-256, P-384, Ed25519 and ML-DSA-65.");
  if (!Buffer.from(spki).equals(canonical) || (spkiLengths[type] ?? spki.length) !== spki.length) {
    throw new SignetError("key-rejected", "The public key is not in its one canonical encoding.");
  }
  if (publishedPrivateKeys.has(createHash("sha256").update(spki).digest("hex"))) throw new SignetError("key-rejected", "The private key is published (RFC 9500).");
  if (type.startsWith("rsa-")) checkRsaKey(key);
  if (type === "ed25519") checkEd25519Point(spki.subarray(12));
  return type;
}

interface RsaTables {
  readonly smallPrimes: readonly bigint[];
  /** For each prime up to 167, the residues that powers of 65537 take: a modulus whose residues all lie in them has ROCA's structure (by chance: 2^-27). */
  readonly rocaResidues: readonly { readonly prime: bigint; readonly residues: ReadonlySet<bigint> }[];
}

/** Made at the first RSA key: their big integers cost each process 13 ms. */
let rsaTables: RsaTables | undefined;

function makeRsaTables(): RsaTables {
  const smallPrimes: bigint[] = [];
  for (let candidate = 2n; candidate < 752n; candidate++) if (smallPrimes.every((prime) => candidate % prime !== 0n)) smallPrimes.push(candidate);
  const rocaResidues = smallPrimes
    .filter((prime) => prime > 2n && prime <= 167n)
    .map((prime) => {
      const residues = new Set<bigint>();
      for (let power = 1n; !residues.has(power); power = (power * 65537n) % prime) residues.add(power);
      return { prime, residues };
    });
  return { smallPrimes, rocaResidues };
}

function checkRsaKey(key: KeyObject): void {
  if (key.asymmetricKeyDetails?.publicExponent !== 65537n) throw new SignetError("key-rejected", "The RSA public exponent is not 65537.");
  const { smallPrimes, rocaResidues } = (rsaTables ??= makeRsaTables());
  const modulus = BigInt(`0x${Buffer.from(key.export({ format: "jwk" }).n ?? "", "base64url").toString("hex")}`);
  if (smallPrimes.some((prime) => modulus % prime === 0n)) throw new SignetError("key-rejected", "The RSA modulus has a factor below 752.");
  if (rocaResidues.every(({ prime, residues }) => residues.has(modulus % prime))) {
    throw new SignetError("key-rejected", "The RSA modulus has the structure of CVE-2017-15361 (ROCA).");
  }
  // Fermat: close factors p and q make ((p+q)/2)^2 - n a square for an a just above the root of n.
  let a = integerSquareRoot(modulus);
  if (a * a < modulus) a += 1n;
  for (let round = 0; round < 100; round++, a += 1n) {
    const remainder = a * a - modulus;
    // A square is 0, 1, 4 or 9 modulo 16; that leaves few roots to take.
    if ([0n, 1n, 4n, 9n].includes(remainder & 15n) && integerSquareRoot(remainder) ** 2n === remainder) {
      throw new SignetError("key-rejected", "The factors of the RSA modulus are too close to each other (Fermat).");
    }
  }
}

function integerSquareRoot(value: bigint): bigint {
  if (value < 2n) return value;
  let root = 1n << BigInt((value.toString(16).length * 4 + 1) >> 1);
  for (;;) {
    const next = (root + value / root) >> 1n;
    if (next >= root) return root;
    root = next;
  }
}

/** y-coordinates, little-endian, of the points whose order divides 8 (RFC 8032 section 5.1.7): under such a key, signatures prove nothing. */
const smallOrderPoints: ReadonlySet<string> = new Set([
  "00".repeat(32),
  `01${"00".repeat(31)}`,
  `ec${"ff".repeat(30)}7f`,
  "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
  "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
]);

function checkEd25519Point(point: Uint8Array): void {
  const y = Buffer.from(point);
  y.writeUInt8(y.readUInt8(31) & 0x7f, 31);
  const value = BigInt(`0x${Buffer.from(y).reverse().toString("hex")}`);
  if (value >= 2n ** 255n - 19n || smallOrderPoints.has(y.toString("hex"))) {
    throw new SignetError("key-rejected", "The Ed25519 key is a point of small order or not in canonical form.");
  }
}

/** A symmetric key. Its bytes leave through `reveal` alone; printing it shows nothing. */
export class SecretKey {
  readonly #key: KeyObject;

  private constructor(bytes: Uint8Array) {
    this.#key = createSecretKey(bytes);
  }

  /** Copies the bytes; what becomes of the original is the caller's business. */
  static from(bytes: Uint8Array): SecretKey {
    return new SecretKey(bytes);
  }

  /** A fresh key of this many bytes. */
  static random(length: 16 | 32): SecretKey {
    const bytes = randomBytes(length);
    const key = new SecretKey(bytes);
    bytes.fill(0);
    return key;
  }

  /** Run-time brand: an object literal of the same shape is no SecretKey. */
  static is(value: unknown): value is SecretKey {
    return typeof value === "object" && value !== null && #key in value;
  }

  /** The one exit of the bytes, with its reason named so that every use can be found. */
  reveal(_why: "wire-response" | "wrap" | "local-use"): Uint8Array {
    return this.#key.export();
  }

  /** For node:crypto. */
  get keyObject(): KeyObject {
    return this.#key;
  }

  /** Length in bytes. */
  get length(): number {
    return this.#key.symmetricKeySize ?? 0;
  }

  toString(): string {
    return "[SecretKey]";
  }

  toJSON(): string {
    return "[SecretKey]";
  }

  [Symbol.for("nodejs.util.inspect.custom")](): string {
    return "[SecretKey]";
  }
}

/** Whether two byte strings are equal, in a time that depends on their lengths only. */
export function equalInConstantTime(a: Uint8Array, b: Uint8Array): boolean {
  return a.length === b.length && timingSafeEqual(a, b);
}
