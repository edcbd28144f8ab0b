import { createPublicKey, createSecretKey, generateKeyPairSync, verify } from "node:crypto";
import { inspect } from "node:util";
import { expect, test } from "vitest";
import { CertificateRequest } from "#pki/certificate-request.ts";
import { checkAcceptableKey, createCsr, equalInConstantTime, generateKeyPair, keyTypeOf, keyTypes, SecretKey, signerFromKey, type KeyType } from "#pki/keys.ts";
import { encode, encodeBitString, encodeIntegerHex, encodeSequence, tag } from "#pki/der.ts";

const rejected = expect.objectContaining({ code: "key-rejected" });
// RSA-3072 and RSA-4096 differ from RSA-2048 in a number alone, and cost seconds to make.
const quickTypes = keyTypes.filter((type) => type !== "rsa-3072" && type !== "rsa-4096");

/** SubjectPublicKeyInfo of an RSA key with this modulus and exponent, whether it makes sense or not. */
function rsaSpki(modulus: bigint, exponent = 65537n): Uint8Array {
  const integer = (value: bigint): Uint8Array => {
    const digits = value.toString(16);
    return encodeIntegerHex(digits.length % 2 === 0 ? digits : `0${digits}`);
  };
  const rsaEncryption = Buffer.from("300d06092a864886f70d0101010500", "hex");
  return encodeSequence(rsaEncryption, encodeBitString(encodeSequence(integer(modulus), integer(exponent))));
}

function modulusOf(spki: Uint8Array): bigint {
  const { n = "" } = createPublicKey({ key: Buffer.from(spki), format: "der", type: "spki" }).export({ format: "jwk" });
  return BigInt(`0x${Buffer.from(n, "base64url").toString("hex")}`);
}

const spkiOf = (type: string, options: object): Uint8Array =>
  (generateKeyPairSync as (type: string, options: object) => { publicKey: Uint8Array })(type, { ...options, publicKeyEncoding: { format: "der", type: "spki" }, privateKeyEncoding: { format: "der", type: "pkcs8" } }).publicKey;

test.each(quickTypes)("a fresh %s key is accepted, signs, and makes a CSR that proves possession", async (type) => {
  const { privateKey, publicKey } = await generateKeyPair(type);
  const spki = publicKey.export({ format: "der", type: "spki" });
  expect(keyTypeOf(privateKey)).toBe(type);
  expect(checkAcceptableKey(spki)).toBe(type);
  const signer = signerFromKey(privateKey);
  const signature = await signer.sign(Buffer.from("to be signed"));
  const digest: Partial<Record<KeyType, string>> = { "rsa-2048": "sha256", "ec-p256": "sha256", "ec-p384": "sha384" };
  expect(verify(digest[type] ?? null, Buffer.from("to be signed"), publicKey, signature)).toBe(true);
  const csr = CertificateRequest.parse(await createCsr(privateKey, { commonName: "alice", uri: "spiffe://signet.internal/agent/alice", dns: ["localhost"], ip: ["127.0.0.1"] }));
  csr.verifyPossession();
  expect(Buffer.from(csr.spki).equals(spki)).toBe(true);
});

test.each(["ec-p256", "ed25519"] as const)("a %s key signs as many bytes as a long CRL has", async (type) => {
  const { privateKey, publicKey } = await generateKeyPair(type);
  const bytes = Buffer.alloc(3 << 20, 1);
  expect(verify(type === "ec-p256" ? "sha256" : null, bytes, publicKey, await signerFromKey(privateKey).sign(bytes))).toBe(true);
});

test.each<[string, () => Uint8Array]>([
  ["RSA of 1024 bits", () => spkiOf("rsa", { modulusLength: 1024 })],
  ["RSA of a size between the accepted ones", () => spkiOf("rsa", { modulusLength: 2056 })],
  ["RSA with the exponent 3", () => spkiOf("rsa", { modulusLength: 2048, publicExponent: 3 })],
  ["RSA-PSS, which binds the key to other parameters", () => spkiOf("rsa-pss", { modulusLength: 2048 })],
  ["P-521", () => spkiOf("ec", { namedCurve: "secp521r1" })],
  ["secp256k1", () => spkiOf("ec", { namedCurve: "secp256k1" })],
  ["Ed448", () => spkiOf("ed448", {})],
  ["X25519, which does not sign", () => spkiOf("x25519", {})],
  ["ML-DSA-44", () => spkiOf("ml-dsa-44", {})],
  ["bytes that are no key", () => Buffer.from("30030101ff", "hex")],
])("%s is refused", (_, spki) => {
  const bytes = spki();
  expect(() => checkAcceptableKey(bytes)).toThrow(rejected);
});

test("an RSA modulus with a factor below 752 is refused", () => {
  const modulus = modulusOf(spkiOf("rsa", { modulusLength: 2048 }));
  const divisible = modulus - (modulus % 751n);
  const odd = divisible % 2n === 0n ? divisible - 751n : divisible;
  expect(() => checkAcceptableKey(rsaSpki(odd))).toThrow(expect.objectContaining({ code: "key-rejected", message: expect.stringContaining("752") }));
});

test("an RSA modulus whose factors are close to each other is refused (Fermat)", () => {
  // Any two close odd numbers will do: the check asks for closeness, not for primes.
  let p = (3n << 1022n) + 1n;
  const coprime = (value: bigint): boolean => Array.from({ length: 751 }, (_, index) => BigInt(index + 2)).every((divisor) => divisor > 751n || value % divisor !== 0n);
  while (!coprime(p)) p += 2n;
  let q = p + 2n;
  while (!coprime(q)) q += 2n;
  expect(() => checkAcceptableKey(rsaSpki(p * q))).toThrow(expect.objectContaining({ code: "key-rejected", message: expect.stringContaining("Fermat") }));
});

test("an RSA modulus with the structure of ROCA's is refused", () => {
  // ROCA's primes are k * M + (65537^a mod M), M the product of the first primes; so is a product of two of them modulo M.
  const primes = Array.from({ length: 166 }, (_, index) => BigInt(index + 2)).filter((value, _index, all) => all.every((divisor) => divisor >= value || value % divisor !== 0n));
  const M = primes.reduce((product, prime) => product * prime, 1n);
  const power = (exponent: number): bigint => Array.from({ length: exponent }).reduce<bigint>((value) => (value * 65537n) % M, 1n);
  const small = Array.from({ length: 750 }, (_, index) => BigInt(index + 2));
  const candidate = (k: bigint, exponent: number): bigint => {
    let prime = k * M + power(exponent);
    while (small.some((divisor) => prime % divisor === 0n)) prime += M;
    return prime;
  };
  const p = candidate((15n << 1020n) / M, 5);
  const q = candidate((13n << 1020n) / M, 11);
  expect((p * q).toString(2)).toHaveLength(2048);
  expect(() => checkAcceptableKey(rsaSpki(p * q))).toThrow(expect.objectContaining({ code: "key-rejected", message: expect.stringContaining("ROCA") }));
});

test("a P-256 key with a compressed point is refused: one key, one encoding", () => {
  const spki = spkiOf("ec", { namedCurve: "prime256v1" });
  const point = spki.subarray(27);
  const compressed = Buffer.concat([Buffer.of((point[63] as number) % 2 === 0 ? 2 : 3), point.subarray(0, 32)]);
  const algorithm = Buffer.from("301306072a8648ce3d020106082a8648ce3d030107", "hex");
  expect(() => checkAcceptableKey(encodeSequence(algorithm, encodeBitString(compressed)))).toThrow(rejected);
});

test("a P-256 point that is not on the curve is refused", () => {
  const spki = Buffer.from(spkiOf("ec", { namedCurve: "prime256v1" }));
  spki.writeUInt8(spki.readUInt8(90) ^ 1, 90);
  expect(() => checkAcceptableKey(spki)).toThrow(rejected);
});

test.each(["00".repeat(32), `01${"00".repeat(31)}`, `ec${"ff".repeat(30)}7f`, `ee${"ff".repeat(30)}7f`, "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85"])("the Ed25519 point of small order %s is refused", (point) => {
  expect(() => checkAcceptableKey(Buffer.from(`302a300506032b6570032100${point}`, "hex"))).toThrow(rejected);
});

test("a key whose private half is published is refused (RFC 9500 section 2.3, testECCP256)", () => {
  const spki = Buffer.from("MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEQiVI+I+3gv+17KN0RFLHKh5Vj71vc75eSOkyMsxFxbFsTNEMTLjVuKFxOelIgsiZJXKZNCX0FBmrfpCkKklCcg==", "base64");
  expect(() => checkAcceptableKey(spki)).toThrow(expect.objectContaining({ code: "key-rejected", message: "The private key is published (RFC 9500)." }));
});

test("octets after a key are refused", () => {
  const spki = spkiOf("ed25519", {});
  expect(() => checkAcceptableKey(Buffer.concat([spki, Buffer.of(0)]))).toThrow(rejected);
  expect(() => checkAcceptableKey(encode(tag.sequence, spki))).toThrow(rejected);
});

test("a secret key shows itself to nobody who prints it", () => {
  const bytes = Buffer.from("an AES-256 key of thirty-two by.");
  const key = SecretKey.from(bytes);
  for (const printed of [String(key), JSON.stringify({ key }), inspect({ key }, { showHidden: true, depth: 5 }), `${key}`]) {
    expect(printed).toContain("[SecretKey]");
    expect(printed).not.toContain(bytes.toString("hex"));
  }
  expect(Buffer.from(key.reveal("local-use")).equals(bytes)).toBe(true);
});

test("a secret key is told from a look-alike at run time", () => {
  expect(SecretKey.is(SecretKey.random(32))).toBe(true);
  expect(SecretKey.is({ reveal: () => new Uint8Array(32), keyObject: createSecretKey(Buffer.alloc(32)) })).toBe(false);
  expect(SecretKey.random(32).length).toBe(32);
});

test("bytes are compared whole", () => {
  expect(equalInConstantTime(Buffer.from("abc"), Buffer.from("abc"))).toBe(true);
  expect(equalInConstantTime(Buffer.from("abc"), Buffer.from("abd"))).toBe(false);
  expect(equalInConstantTime(Buffer.from("abc"), Buffer.from("ab"))).toBe(false);
});
