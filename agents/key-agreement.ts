import { createPublicKey, diffieHellman, generateKeyPair, hkdfSync, type KeyObject } from "node:crypto";
import { promisify } from "node:util";
import { encodeBitString, encodeInteger, encodeIntegerHex, encodeObjectIdentifier, encodeSequence, readSingle, tag } from "#pki/der.ts";
import { SignetError } from "#pki/errors.ts";
import { SecretKey } from "#pki/keys.ts";

/**
 * Ephemeral Diffie-Hellman over named groups: X25519 (RFC 7748) and the finite-field groups ffdhe2048 and ffdhe3072 (RFC 7919).
 *
 * The named groups stand where older programs generated fresh parameters. Each is a safe prime p = 2q + 1 with generator 2, made by a published formula
 * from the digits of e, so that everyone can check that nothing is hidden in it. Fresh parameters take seconds to make, and the peer that receives them
 * cannot tell a good prime from a weak or a prepared one: that is how Logjam (CVE-2015-4000) and small-subgroup attacks get in. So groups
 * are chosen by name, and a prime is never taken from a peer.
 *
 * An exchange of bare public values loses to a man in the middle: Mallory agrees one key with Alice and another with Bob, and neither can
 * notice. Use a link (`link.ts`) between agents: TLS 1.3 makes the same ephemeral exchange, over the same groups, and authenticates
 * it with both certificates. What is here is for protocols that authenticate the public values by other means.
 */
export const agreementGroups = ["x25519", "ffdhe2048", "ffdhe3072"] as const;
export type AgreementGroup = (typeof agreementGroups)[number];

type FiniteFieldGroup = Exclude<AgreementGroup, "x25519">;

/** The primes of RFC 7919 appendix A.1 and A.2 in hex: p = 2^b - 2^(b-64) + (floor(2^(b-130) e) + X) 2^64 - 1, X = 560316 and 2625351. */
export const ffdhePrimes: Readonly<Record<FiniteFieldGroup, string>> = {
  ffdhe2048:
    "ffffffffffffffffadf85458a2bb4a9aafdc5620273d3cf1d8b9c583ce2d3695a9e13641146433fbcc939dce249b3ef97d2fe363630c75d8" +
    "f681b202aec4617ad3df1ed5d5fd65612433f51f5f066ed0856365553ded1af3b557135e7f57c935984f0c70e0e68b77e2a689daf3efe872" +
    "1df158a136ade73530acca4f483a797abc0ab182b324fb61d108a94bb2c8e3fbb96adab760d7f4681d4f42a3de394df4ae56ede76372bb19" +
    "0b07a7c8ee0a6d709e02fce1cdf7e2ecc03404cd28342f619172fe9ce98583ff8e4f1232eef28183c3fe3b1b4c6fad733bb5fcbc2ec22005" +
    "c58ef1837d1683b2c6f34a26c1b2effa886b423861285c97ffffffffffffffff",
  ffdhe3072:
    "ffffffffffffffffadf85458a2bb4a9aafdc5620273d3cf1d8b9c583ce2d3695a9e13641146433fbcc939dce249b3ef97d2fe363630c75d8" +
    "f681b202aec4617ad3df1ed5d5fd65612433f51f5f066ed0856365553ded1af3b557135e7f57c935984f0c70e0e68b77e2a689daf3efe872" +
    "1df158a136ade73530acca4f483a797abc0ab182b324fb61d108a94bb2c8e3fbb96adab760d7f4681d4f42a3de394df4ae56ede76372bb19" +
    "0b07a7c8ee0a6d709e02fce1cdf7e2ecc03404cd28342f619172fe9ce98583ff8e4f1232eef28183c3fe3b1b4c6fad733bb5fcbc2ec22005" +
    "c58ef1837d1683b2c6f34a26c1b2effa886b4238611fcfdcde355b3b6519035bbc34f4def99c023861b46fc9d6e6c9077ad91d2691f7f7ee" +
    "598cb0fac186d91caefe130985139270b4130c93bc437944f4fd4452e2d74dd364f2e21e71f54bff5cae82ab9c9df69ee86d2bc522363a0d" +
    "abc521979b0deada1dbf9a42d5c4484e0abcd06bfa53ddef3c1b20ee3fd59d7c25e41d2b66c62e37ffffffffffffffff",
};

const generator = 2n;
const generatePair = promisify(generateKeyPair);

/** One side of one agreement: made, used once, gone. */
export class EphemeralKeyPair {
  readonly group: AgreementGroup;
  /** What the peer gets: 32 octets (RFC 7748 section 5) for x25519; y as big-endian octets of the prime's length (RFC 8446 section 4.2.8.1) for ffdhe. */
  readonly publicValue: Uint8Array;
  #privateKey: KeyObject | undefined;

  private constructor(group: AgreementGroup, privateKey: KeyObject, publicValue: Uint8Array) {
    this.group = group;
    this.#privateKey = privateKey;
    this.publicValue = publicValue;
  }

  static async generate(group: AgreementGroup): Promise<EphemeralKeyPair> {
    if (group === "x25519") {
      const { privateKey, publicKey } = await generatePair("x25519");
      return new EphemeralKeyPair(group, privateKey, Buffer.from(publicKey.export({ format: "jwk" }).x ?? "", "base64url"));
    }
    // By value, since Node knows only older groups by name; OpenSSL recognises the prime and takes the exponent length of RFC 7919 section 5.2.
    const { privateKey, publicKey } = await generatePair("dh", { prime: Buffer.from(ffdhePrimes[group], "hex"), generator: Number(generator) });
    return new EphemeralKeyPair(group, privateKey, encodePublicValue(group, publicKey));
  }

  /**
   * The 32-octet key that both sides share: HKDF-SHA256 (RFC 5869, no salt) of the shared secret, with the group's name, both public values
   * and the context as info, so that a key stands for this exchange and no other. The values are taken in ascending order: the sides need no
   * roles. The private key is forgotten with this call, whatever comes of it, which is what makes the agreement forward secret.
   * @param context whatever else both sides must agree on, such as their names
   * @throws SignetError key-rejected (the peer's value is not of the group, or of small order), peer-is-self (one's own value came back),
   *   state-conflict (used before)
   */
  sessionKey(peerPublicValue: Uint8Array, context: Uint8Array = new Uint8Array(0)): SecretKey {
    const privateKey = this.#privateKey;
    this.#privateKey = undefined;
    if (privateKey === undefined) throw new SignetError("state-conflict", "An ephemeral key pair agrees on one key only.");
    if (Buffer.compare(peerPublicValue, this.publicValue) === 0) throw new SignetError("peer-is-self", "One's own public value came back.");
    const shared = sharedSecret(this.group, privateKey, peerPublicValue);
    const values = [this.publicValue, peerPublicValue].sort(Buffer.compare);
    const info = Buffer.concat(["signet-key-agreement-v1", this.group, ...values, context].map(lengthPrefixed));
    const key = SecretKey.from(new Uint8Array(hkdfSync("sha256", shared, new Uint8Array(0), info, 32)));
    shared.fill(0);
    return key;
  }
}

/**
 * The bare shared secret, which is no key yet, and whose octets the caller zeroes. For public vectors and `sessionKey` alone.
 * @throws SignetError key-rejected (the peer's value is not of the group, or of small order)
 */
export function sharedSecret(group: AgreementGroup, privateKey: KeyObject, peerPublicValue: Uint8Array): Buffer {
  const publicKey = decodePublicValue(group, peerPublicValue);
  try {
    return diffieHellman({ privateKey, publicKey });
  } catch (cause) {
    // For X25519 this is the all-zero secret of a point of small order (RFC 7748 section 6.1).
    throw new SignetError("key-rejected", "The peer's public value does not agree on a key.", { cause });
  }
}

/** dhKeyAgreement (PKCS #3 section 9), the algorithm of a SubjectPublicKeyInfo whose parameters are prime and generator. */
const dhKeyAgreement = encodeObjectIdentifier("1.2.840.113549.1.3.1");

function encodePublicValue(group: FiniteFieldGroup, publicKey: KeyObject): Uint8Array {
  const y = readSingle(publicKey.export({ type: "spki", format: "der" }), tag.sequence, (spki) => {
    spki.readElement(tag.sequence);
    return readSingle(spki.readBitStringOctets(), tag.integer, (content) => {
      const octets = content.bytes.subarray(content.position, content.end);
      content.position = content.end;
      return octets;
    });
  });
  const magnitude = y[0] === 0 ? y.subarray(1) : y;
  return Buffer.concat([Buffer.alloc(ffdhePrimes[group].length / 2 - magnitude.length), magnitude]);
}

function decodePublicValue(group: AgreementGroup, value: Uint8Array): KeyObject {
  const octets = Buffer.from(value);
  if (group === "x25519") {
    if (octets.length !== 32) throw rejected(group);
    return createPublicKey({ key: { kty: "OKP", crv: "X25519", x: octets.toString("base64url") }, format: "jwk" });
  }
  const prime = ffdhePrimes[group];
  if (octets.length !== prime.length / 2) throw rejected(group);
  // RFC 7919 section 5.1: 1 < y < p - 1. What passes generates the group or its one large subgroup, since p is a safe prime.
  const y = BigInt(`0x${octets.toString("hex")}`);
  if (y <= 1n || y >= BigInt(`0x${prime}`) - 1n) throw rejected(group);
  const parameters = encodeSequence(encodeIntegerHex(prime), encodeInteger(generator));
  const spki = encodeSequence(encodeSequence(dhKeyAgreement, parameters), encodeBitString(encodeInteger(y)));
  return createPublicKey({ key: spki, format: "der", type: "spki" });
}

function rejected(group: AgreementGroup): SignetError {
  return new SignetError("key-rejected", `The peer's public value is not one of ${group}.`);
}

function lengthPrefixed(part: string | Uint8Array): Uint8Array {
  const octets = typeof part === "string" ? Buffer.from(part, "latin1") : part;
  const length = Buffer.alloc(4);
  length.writeUInt32BE(octets.length);
  return Buffer.concat([length, octets]);
}
