/** What strangers' octets may cost. No clock is read: what is not bounded here takes minutes, or is counted. */
import { createPrivateKey, createPublicKey, generateKeyPairSync, sign, verify } from "node:crypto";
import { describe, expect, test } from "vitest";
import { CrlValidator } from "#pki/crl-validation.ts";
import { DerReader, constructedContextTag, encode, encodeInteger, encodeObjectIdentifier, encodeSequence, encodeTime, tag } from "#pki/der.ts";
import { SignetError } from "#pki/errors.ts";
import { isWithinSubtree } from "#pki/name-matching.ts";
import { encodeGeneralName } from "#pki/name.ts";
import { oid } from "#pki/oids.ts";
import { findPath } from "#pki/path-building.ts";
import { demands } from "#pki/path-validation.ts";
import { SubjectPublicKeyInfo, readSignatureAlgorithm, verifySignature } from "#pki/signature-algorithm.ts";
import { commonName, crlEntry, crlExtensions, directory, extension, extensions, forge, forgeCa, forgeCrl, forgeLeaf, signatureAlgorithms, spkiOf, testKeyPair, testTime, uri } from "#test/support/pki.ts";

const root = forgeCa("Root");
const issuing = forgeCa("Issuing CA", root);

const many = 100_000;

describe("the index of a CRL", () => {
  test("takes one serial number a hundred thousand times", () => {
    const crl = forgeCrl({ issuer: issuing.name, entries: [Buffer.concat(Array.from({ length: many }, () => crlEntry("7f01")))] }, issuing.privateKey);
    expect(crl.hasDuplicateEntries).toBe(true);
    expect(crl.find("7f01")?.serialNumber).toBe("7f01");
    expect(crl.find("7f02")).toBeUndefined();
  });

  test("takes one serial number of twenty thousand issuers, and knows whose each is", () => {
    const issuers = Array.from({ length: 20_000 }, (_, n) => directory([oid.commonName, `CA ${n}`]));
    const entries = issuers.map((name) => crlEntry("7f01", extension(oid.certificateIssuer, true, encodeSequence(encodeGeneralName(name)))));
    const crl = forgeCrl({ issuer: issuing.name, entries: [crlEntry("7f02"), ...entries, ...entries.slice(0, 1), crlEntry("7f03")], extensions: [crlExtensions.issuingDistributionPoint({ indirect: true })] }, issuing.privateKey);
    for (const n of [0, 1, 19_999]) expect(crl.find("7f01", commonName(`ca  ${n}`))?.serialNumber).toBe("7f01");
    expect(crl.find("7f01", commonName("CA 20000"))).toBeUndefined();
    expect(crl.find("7f01")).toBeUndefined();
    expect(crl.find("7f02")?.serialNumber).toBe("7f02");
    expect(crl.find("7f03", commonName("CA 0"))?.serialNumber).toBe("7f03");
    expect(crl.find("7f03")).toBeUndefined();
    expect(crl.hasDuplicateEntries).toBe(true);
  });

  test("takes serial numbers that collide under a hash which mixes too little", () => {
    // Under a product with an odd number, whatever it is, and a shift by 15, the highest bit of one word is undone by two of the next.
    const words = 20;
    const colliding = (n: number): Buffer => {
      const serial = Buffer.alloc(words * 4, 0x11);
      for (let word = 0; word < words - 1; word++) {
        if (((n >> word) & 1) === 0) continue;
        serial.writeUInt32LE((serial.readUInt32LE(word * 4) ^ 0x8000_0000) >>> 0, word * 4);
        serial.writeUInt32LE((serial.readUInt32LE(word * 4 + 4) ^ 0x8001_0000) >>> 0, word * 4 + 4);
      }
      return serial;
    };
    const time = encodeTime(testTime.notBefore);
    const crl = forgeCrl({ issuer: issuing.name, entries: [Buffer.concat(Array.from({ length: many }, (_, n) => encodeSequence(encode(tag.integer, colliding(n)), time)))] }, issuing.privateKey);
    expect(crl.hasDuplicateEntries).toBe(false);
    expect(crl.has(colliding(many - 1))).toBe(true);
    expect(crl.has(colliding(many))).toBe(false);
  });
});

describe("what is kept of signature algorithms and keys", () => {
  const identifier = (parameters: Uint8Array): Buffer => encodeSequence(encodeObjectIdentifier("1.2.3"), parameters);
  const read = (der: Uint8Array) => readSignatureAlgorithm(new DerReader(Buffer.from(der)));

  test("is not what is long, and strange identifiers do not keep the usual ones out", () => {
    for (let n = 0; n < 200; n++) read(identifier(encodeInteger(n)));
    const usual = Buffer.from(signatureAlgorithms["ec-p256"].der, "hex");
    expect(read(usual)).toBe(read(usual));
    const long = identifier(encode(tag.octetString, Buffer.alloc(200)));
    expect(read(long)).not.toBe(read(long));
  });
});

test("an RSA exponent of more than 64 bits verifies nothing", () => {
  const { p = "", q = "", n = "" } = generateKeyPairSync("rsa", { modulusLength: 2048 }).privateKey.export({ format: "jwk" });
  const number = (text: string): bigint => BigInt(`0x${Buffer.from(text, "base64url").toString("hex")}`);
  const octets = (value: bigint): string => {
    const digits = value.toString(16);
    return Buffer.from(digits.padStart(digits.length + (digits.length % 2), "0"), "hex").toString("base64url");
  };
  const [first, second] = [number(p), number(q)];
  const order = (first - 1n) * (second - 1n);
  const inverse = (value: bigint, modulus: bigint): bigint => {
    let [a, b, x, y] = [value % modulus, modulus, 1n, 0n];
    while (a > 1n) {
      if (b === 0n) return 0n;
      [a, b, x, y] = [b, a % b, y, x - (a / b) * y];
    }
    return a === 1n ? ((x % modulus) + modulus) % modulus : 0n;
  };
  const keyOf = (from: bigint) => {
    let e = from;
    while (inverse(e, order) === 0n) e += 2n;
    const d = inverse(e, order);
    const jwk = { kty: "RSA", n, e: octets(e), d: octets(d), p, q, dp: octets(d % (first - 1n)), dq: octets(d % (second - 1n)), qi: octets(inverse(second, first)) };
    return createPrivateKey({ key: jwk, format: "jwk" });
  };
  const algorithm = readSignatureAlgorithm(new DerReader(Buffer.from(signatureAlgorithms.rsa.der, "hex")));
  const data = Buffer.from("data");
  for (const [from, accepted] of [[2n ** 63n + 1n, true], [2n ** 64n + 1n, false]] as const) {
    const privateKey = keyOf(from);
    const signature = sign("sha256", data, privateKey);
    expect(verify("sha256", data, privateKey, signature)).toBe(true);
    const spki = spkiOf(createPublicKey(privateKey));
    expect(verifySignature(algorithm, new SubjectPublicKeyInfo(spki), data, signature)).toBe(accepted);
  }
});

describe("a check of CRLs", () => {
  const parameters = { ...demands, at: testTime.now, purpose: undefined };
  const check = (leaf: ReturnType<typeof forgeLeaf>, crls: ReturnType<typeof forgeCrl>[], certificates: readonly (typeof root.certificate)[] = []): string => {
    const pool = [issuing.certificate, ...certificates];
    const validator = new CrlValidator({ crls, certificates: pool, parameters });
    try {
      findPath({ endEntity: leaf, intermediates: [issuing.certificate], trustAnchors: [root.certificate], parameters, accept: (chain) => validator.checkPath(chain, "leaf") });
      return "good";
    } catch (error) {
      if (error instanceof SignetError) return error.code;
      throw error;
    }
  };

  test("has one budget for the paths of all CRL issuers", () => {
    const slow = forgeCa("Slow");
    const ofCa = [extensions.basicConstraints(true), extensions.keyUsage("keyCertSign", "cRLSign")];
    const slowIssuers = Array.from({ length: 60 }, () => forge({ subject: slow.name, issuer: commonName("Nobody"), publicKey: testKeyPair().publicKey, extensions: ofCa }, slow.privateKey));
    const keys = testKeyPair();
    // Each of these holds the key of the CRL, and each of sixty might have issued it.
    const signers = [1, 2, 3].map((n) => forge({ subject: issuing.name, issuer: slow.name, publicKey: keys.publicKey, serialNumber: `4${n}`, extensions: [] }, testKeyPair().privateKey));
    const crl = forgeCrl({ issuer: issuing.name }, keys.privateKey);
    expect(check(forgeLeaf("leaf", issuing), [crl], [...signers.slice(0, 1), ...slowIssuers])).toBe("crl-issuer-not-authorized");
    expect(check(forgeLeaf("leaf", issuing), [crl], [...signers, ...slowIssuers])).toBe("budget-exceeded");
  });

  test("counts the names of a distribution point against every CRL", () => {
    const names = Array.from({ length: 3000 }, () => encodeGeneralName(directory([oid.commonName, "A"])));
    const leaf = forgeLeaf("leaf", issuing, { extensions: [extension(oid.crlDistributionPoints, false, encodeSequence(encodeSequence(encode(constructedContextTag(2), ...names))))] });
    const stranger = forgeCrl({ issuer: commonName("Z") }, issuing.privateKey);
    expect(check(leaf, [stranger])).toBe("crl-missing");
    expect(check(leaf, Array.from({ length: 400 }, () => stranger))).toBe("budget-exceeded");
  });
});

test("a name is taken apart once, however many subtrees it is held against, and a subtree likewise", () => {
  let reads = 0;
  const counted = <Kind extends "dns" | "uri" | "email">(kind: Kind, value: string) => ({
    kind,
    get value() {
      reads++;
      return value;
    },
  });
  const cases = [
    [counted("dns", "a.example.com"), counted("dns", "example.com")],
    [counted("uri", `https://${"u".repeat(1000)}@a.example.com/`), counted("uri", ".example.com")],
    [counted("email", "a@example.com"), counted("email", "example.com")],
    [counted("email", "a@example.com"), counted("email", "a@example.com")],
  ] as const;
  for (const [name, base] of cases) {
    const before = reads;
    expect(isWithinSubtree(name, base, false)).toBe(true);
    const once = reads - before;
    for (let n = 0; n < 100; n++) isWithinSubtree(name, base, true);
    expect(reads - before).toBe(once);
  }
  expect(isWithinSubtree(uri("https://a.example.org/"), cases[1][1], false)).toBe(false);
});
