/**
 * PKCS #12 (RFC 7292), the form in which browsers and Java take a private key with its certificates. One suite is written and read: PBES2 with
 * PBKDF2-HMAC-SHA256 and AES-256-CBC (RFC 8018), under a MAC of HMAC-SHA256. The MAC is checked before anything is decrypted.
 */
import { createCipheriv, createDecipheriv, createHmac, createPrivateKey, hash, pbkdf2Sync, randomBytes, type KeyObject } from "node:crypto";
import { Certificate } from "./certificate.ts";
import { constructedContextTag, contextTag, DerReader, encode, encodeExplicit, encodeInteger, encodeObjectIdentifier, encodeOctetString, encodeSequence, encodeSetOf, readSingle, tag } from "./der.ts";
import { SignetError } from "./errors.ts";
import { equalInConstantTime } from "./keys.ts";
import { oid } from "./oids.ts";

/**
 * Rounds of each derivation. A guesser of passwords takes the cheapest of the three, so that all have the same count. At twenty guesses a second and core it
 * helps a password that a person chose; a generated one needs no rounds at all.
 */
const writtenIterations = 200_000;
/** Most rounds that are run for a file: what it asks for, the process that reads it has to work. NSS asks for 600,000 each for MAC, certificates and key. */
const mostIterations = 2_000_000;
const saltLength = 16;
const macKeyLength = 32;

export interface Pkcs12Content {
  readonly privateKey: KeyObject;
  /** The key's certificate first, then its issuers; the root may be among them. */
  readonly chain: readonly Certificate[];
  /** What a program shows as the name of the key. */
  readonly friendlyName: string;
}

export interface Pkcs12Object<T> {
  readonly value: T;
  readonly friendlyName?: string;
}

export interface Pkcs12Objects {
  readonly certificates: readonly Pkcs12Object<Certificate>[];
  readonly privateKeys: readonly Pkcs12Object<KeyObject>[];
  /** How many bags hold something else. */
  readonly others: number;
}

/** What a file may still ask for. Each of its counts is charged before it is run. */
export class IterationLimit {
  #remaining = mostIterations;

  /** @throws SignetError decryption-failed */
  charge(count: number): number {
    if (!(count >= 1 && count <= this.#remaining)) throw new SignetError("decryption-failed", `The PKCS #12 file asks for no rounds of key derivation, or for more than ${mostIterations} in all.`);
    this.#remaining -= count;
    return count;
  }
}

/** @throws SignetError usage for what programs would not read alike */
export function requirePkcs12Password(password: Uint8Array): void {
  if (password.length < 1 || password.length > 128 || !isPrintableAscii(password)) {
    throw new SignetError("usage", "The password of a PKCS #12 file is 1 to 128 characters of printable ASCII: programs disagree on all others.");
  }
}

/**
 * DER of a PFX that holds a private key and its chain.
 * @param password 1 to 128 octets of printable ASCII
 * @throws SignetError usage
 */
export function encodePkcs12({ privateKey, chain, friendlyName }: Pkcs12Content, password: Uint8Array, iterations = writtenIterations): Uint8Array {
  requirePkcs12Password(password);
  const [endEntity] = chain;
  if (endEntity === undefined) throw new SignetError("usage", "A PKCS #12 file needs the certificate of its key.");
  // The same in both bags says that they belong together; readers do not compare keys.
  const named = encodeSetOf([
    encodeAttribute(oid.friendlyName, encode(tag.bmpString, Buffer.from(friendlyName, "utf16le").swap16())),
    encodeAttribute(oid.localKeyId, encodeOctetString(Buffer.from(endEntity.fingerprint, "hex"))),
  ]);
  const certificateBags = chain.map((certificate) => {
    const value = encodeSequence(encodeObjectIdentifier(oid.x509CertificateBag), encodeExplicit(0, encodeOctetString(certificate.der)));
    return encodeBag(oid.certBag, value, ...(certificate === endEntity ? [named] : []));
  });
  const pkcs8 = privateKey.export({ format: "der", type: "pkcs8" });
  const key = encrypt(pkcs8, password, iterations);
  pkcs8.fill(0);
  const shrouded = encodeSequence(key.algorithm, encodeOctetString(key.ciphertext));
  const certificates = encrypt(encodeSequence(...certificateBags), password, iterations);
  const encryptedData = encodeSequence(encodeInteger(0), encodeSequence(encodeObjectIdentifier(oid.pkcs7Data), certificates.algorithm, encode(contextTag(0), certificates.ciphertext)));
  const authenticatedSafe = encodeSequence(
    encodeSequence(encodeObjectIdentifier(oid.pkcs7EncryptedData), encodeExplicit(0, encryptedData)),
    encodeData(encodeSequence(encodeBag(oid.pkcs8ShroudedKeyBag, shrouded, named))),
  );
  const salt = randomBytes(saltLength);
  const digestInfo = encodeSequence(encodeSequence(encodeObjectIdentifier(oid.sha256), encode(tag.null)), encodeOctetString(macOf(authenticatedSafe, password, salt, iterations)));
  return encodeSequence(encodeInteger(3), encodeData(authenticatedSafe), encodeSequence(digestInfo, encodeOctetString(salt), encodeInteger(iterations)));
}

interface Opening {
  readonly password: Uint8Array;
  readonly limit: IterationLimit;
}

/**
 * What a PFX of this module's suite holds.
 * @throws SignetError decryption-failed (another password, damaged, or it asks for endless work) | algorithm-rejected (another suite, or no MAC) | der-malformed (BER, or no
 * PFX) | certificate-malformed
 */
export function decodePkcs12(octets: Uint8Array, password: Uint8Array): Pkcs12Objects {
  if (!isPrintableAscii(password)) throw new SignetError("algorithm-rejected", "A password with other characters than printable ASCII is not understood here.");
  return readSingle(octets, tag.sequence, (pfx) => {
    if (pfx.readCount() !== 3) throw new SignetError("algorithm-rejected", "The PKCS #12 file is of another version than 3.");
    const authenticatedSafe = readContentInfo(pfx, { [oid.pkcs7Data]: (content) => content.readContent(tag.octetString) });
    const opening: Opening = { password, limit: new IterationLimit() };
    verifyMac(pfx, authenticatedSafe, opening);
    return readSingle(authenticatedSafe, tag.sequence, (safes) => {
      const objects = { certificates: [] as Pkcs12Object<Certificate>[], privateKeys: [] as Pkcs12Object<KeyObject>[], others: 0 };
      while (!safes.atEnd) {
        const contents = readContentInfo(safes, {
          [oid.pkcs7Data]: (content) => content.readContent(tag.octetString),
          [oid.pkcs7EncryptedData]: (content) => readEncryptedData(content.enter(tag.sequence), opening),
        });
        readSingle(contents, tag.sequence, (bags) => {
          while (!bags.atEnd) readBag(bags.enter(tag.sequence), opening, objects);
        });
      }
      return objects;
    });
  });
}

function readBag(bag: DerReader, opening: Opening, objects: { certificates: Pkcs12Object<Certificate>[]; privateKeys: Pkcs12Object<KeyObject>[]; others: number }): void {
  const type = bag.readObjectIdentifier();
  const value = bag.enter(constructedContextTag(0));
  const friendlyName = readFriendlyName(bag.enterIf(tag.set));
  bag.finish();
  const named = friendlyName === undefined ? {} : { friendlyName };
  if (type === oid.certBag) {
    const content = value.enter(tag.sequence);
    if (content.readObjectIdentifier() === oid.x509CertificateBag) objects.certificates.push({ value: Certificate.parse(content.enter(constructedContextTag(0)).readContent(tag.octetString)), ...named });
    else objects.others += 1;
  } else if (type === oid.pkcs8ShroudedKeyBag) {
    const content = value.enter(tag.sequence);
    const decrypt = readPbes2(content.enter(tag.sequence), opening);
    const pkcs8 = decrypt(content.readContent(tag.octetString));
    objects.privateKeys.push({ value: takePrivateKey(pkcs8), ...named });
  } else {
    objects.others += 1;
  }
}

/** Imports the PKCS #8 octets of a private key, and overwrites them. @throws SignetError decryption-failed */
export function takePrivateKey(pkcs8: Buffer): KeyObject {
  try {
    return createPrivateKey({ key: pkcs8, format: "der", type: "pkcs8" });
  } catch {
    // OpenSSL's own message may quote what it read.
    throw new SignetError("decryption-failed", "The PKCS #12 file holds a private key of a kind that is not known here.");
  } finally {
    pkcs8.fill(0);
  }
}

function readFriendlyName(attributes: DerReader | undefined): string | undefined {
  if (attributes === undefined) return undefined;
  while (!attributes.atEnd) {
    const attribute = attributes.enter(tag.sequence);
    if (attribute.readObjectIdentifier() === oid.friendlyName) return new TextDecoder("utf-16be").decode(attribute.enter(tag.set).readContent(tag.bmpString));
  }
  return undefined;
}

/** The content of the next ContentInfo (RFC 5652 section 3), whose type has to be one of these. */
function readContentInfo(reader: DerReader, types: Readonly<Record<string, (content: DerReader) => Uint8Array>>): Uint8Array {
  const info = reader.enter(tag.sequence);
  const type = info.readObjectIdentifier();
  const read = types[type];
  if (read === undefined) throw new SignetError("algorithm-rejected", `The PKCS #12 file holds content of the type ${type}.`);
  return read(info.enter(constructedContextTag(0)));
}

function readEncryptedData(data: DerReader, opening: Opening): Uint8Array {
  data.readCount();
  const content = data.enter(tag.sequence);
  content.readObjectIdentifier();
  const decrypt = readPbes2(content.enter(tag.sequence), opening);
  return decrypt(content.readContent(contextTag(0)));
}

/** MacData (RFC 7292 section 4). A PFX without it proves no password and no integrity. */
function verifyMac(pfx: DerReader, authenticatedSafe: Uint8Array, { password, limit }: Opening): void {
  const mac = pfx.enterIf(tag.sequence);
  if (mac === undefined) throw new SignetError("algorithm-rejected", "The PKCS #12 file has no MAC.");
  const digestInfo = mac.enter(tag.sequence);
  if (digestInfo.enter(tag.sequence).readObjectIdentifier() !== oid.sha256) throw new SignetError("algorithm-rejected", "The MAC of the PKCS #12 file is not of HMAC-SHA256.");
  const expected = digestInfo.readContent(tag.octetString);
  const salt = mac.readContent(tag.octetString);
  const iterations = mac.atEnd ? 1 : limit.charge(mac.readCount());
  if (!equalInConstantTime(expected, macOf(authenticatedSafe, password, salt, iterations))) throw new SignetError("decryption-failed", "The PKCS #12 file does not open: another password, or a damaged file.");
}

function macOf(content: Uint8Array, password: Uint8Array, salt: Uint8Array, iterations: number): Buffer {
  // Widened here, so that no string of it lingers.
  const wide = Buffer.alloc(2 * (password.length + 1));
  password.forEach((octet, index) => (wide[2 * index + 1] = octet));
  const key = derivePkcs12Key("sha256", 3, { password: wide, salt, iterations, length: macKeyLength });
  wide.fill(0);
  const mac = createHmac("sha256", key).update(content).digest();
  key.fill(0);
  return mac;
}

/**
 * `length` octets for one purpose: 1 a key, 2 an IV, 3 the key of a MAC (RFC 7292 appendix B).
 * @param password a BMPString with two octets of NULL at its end (appendix B.1)
 */
export function derivePkcs12Key(digest: string, purpose: 1 | 2 | 3, { password, salt, iterations, length }: { readonly password: Uint8Array; readonly salt: Uint8Array; readonly iterations: number; readonly length: number }): Buffer {
  const blockLength = digest === "sha384" || digest === "sha512" ? 128 : 64;
  const repeated = (octets: Uint8Array): Buffer => Buffer.alloc(Math.ceil(octets.length / blockLength) * blockLength, octets);
  const input = Buffer.concat([Buffer.alloc(blockLength, purpose), repeated(salt), repeated(password)]);
  let output = Buffer.alloc(0);
  for (;;) {
    let key = hash(digest, input, "buffer");
    for (let round = 1; round < iterations; round++) key = hash(digest, key, "buffer");
    output = Buffer.concat([output, key]);
    if (output.length >= length) break;
    // Steps 6 B and C: to each block of salt and password, as a number, this output is added, and one.
    const addend = Buffer.alloc(blockLength, key);
    for (let block = blockLength; block < input.length; block += blockLength) {
      let carry = 1;
      for (let at = blockLength - 1; at >= 0; at--) {
        carry += (input[block + at] ?? 0) + (addend[at] ?? 0);
        input[block + at] = carry & 0xff;
        carry >>= 8;
      }
    }
  }
  input.fill(0);
  return output.subarray(0, length);
}

/** PBES2 (RFC 8018 section 6.2): AlgorithmIdentifier and ciphertext. */
function encrypt(plaintext: Uint8Array, password: Uint8Array, iterations: number): { readonly algorithm: Buffer; readonly ciphertext: Buffer } {
  const salt = randomBytes(saltLength);
  const iv = randomBytes(16);
  const prf = encodeSequence(encodeObjectIdentifier(oid.hmacWithSha256), encode(tag.null));
  const derivation = encodeSequence(encodeObjectIdentifier(oid.pbkdf2), encodeSequence(encodeOctetString(salt), encodeInteger(iterations), prf));
  const scheme = encodeSequence(encodeObjectIdentifier(oid.aes256Cbc), encodeOctetString(iv));
  const key = pbkdf2Sync(password, salt, iterations, 32, "sha256");
  const cipher = createCipheriv("aes-256-cbc", key, iv);
  key.fill(0);
  return { algorithm: encodeSequence(encodeObjectIdentifier(oid.pbes2), encodeSequence(derivation, scheme)), ciphertext: Buffer.concat([cipher.update(plaintext), cipher.final()]) };
}

/** Reads the content of an AlgorithmIdentifier of PBES2. @returns what opens a ciphertext under it */
function readPbes2(algorithm: DerReader, { password, limit }: Opening): (ciphertext: Uint8Array) => Buffer {
  const require = (reader: DerReader, wanted: string): void => {
    const found = reader.readObjectIdentifier();
    if (found !== wanted) throw new SignetError("algorithm-rejected", `The PKCS #12 file is encrypted with ${found}, not with AES-256-CBC under PBKDF2-HMAC-SHA256.`);
  };
  require(algorithm, oid.pbes2);
  const parameters = algorithm.enter(tag.sequence);
  const derivation = parameters.enter(tag.sequence);
  require(derivation, oid.pbkdf2);
  const pbkdf2 = derivation.enter(tag.sequence);
  const salt = pbkdf2.readContent(tag.octetString);
  const iterations = limit.charge(pbkdf2.readCount());
  if (pbkdf2.peek() === tag.integer) pbkdf2.readCount();
  // Left out, it is HMAC-SHA1 by default: refused as what it then is not.
  require(pbkdf2.enter(tag.sequence), oid.hmacWithSha256);
  const scheme = parameters.enter(tag.sequence);
  require(scheme, oid.aes256Cbc);
  const iv = scheme.readContent(tag.octetString);
  return (ciphertext) => {
    const key = pbkdf2Sync(password, salt, iterations, 32, "sha256");
    try {
      const decipher = createDecipheriv("aes-256-cbc", key, iv);
      return Buffer.concat([decipher.update(ciphertext), decipher.final()]);
    } catch {
      throw new SignetError("decryption-failed", "The PKCS #12 file does not open: its encryption is damaged.");
    } finally {
      key.fill(0);
    }
  };
}

const isPrintableAscii = (octets: Uint8Array): boolean => octets.every((octet) => octet >= 0x20 && octet < 0x7f);

const encodeAttribute = (type: string, value: Uint8Array): Buffer => encodeSequence(encodeObjectIdentifier(type), encodeSetOf([value]));
const encodeBag = (type: string, value: Uint8Array, ...attributes: readonly Uint8Array[]): Buffer => encodeSequence(encodeObjectIdentifier(type), encodeExplicit(0, value), ...attributes);
const encodeData = (content: Uint8Array): Buffer => encodeSequence(encodeObjectIdentifier(oid.pkcs7Data), encodeExplicit(0, encodeOctetString(content)));

