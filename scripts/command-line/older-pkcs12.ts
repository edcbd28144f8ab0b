/**
 * PKCS #12 (RFC 7292) as other programs write it: in BER, and under older encryptions than pki/pkcs12.ts reads. For showing alone. node-forge reads the BER, and
 * decrypts RC2, which OpenSSL no longer has at hand; keys are derived here, so that each derivation is counted before it runs.
 */
import { createDecipheriv, createHmac, pbkdf2Sync, type KeyObject } from "node:crypto";
import forge from "node-forge";
import { Certificate } from "#pki/certificate.ts";
import { SignetError } from "#pki/errors.ts";
import { equalInConstantTime } from "#pki/keys.ts";
import { oid } from "#pki/oids.ts";
import { derivePkcs12Key, IterationLimit, takePrivateKey, type Pkcs12Object, type Pkcs12Objects } from "#pki/pkcs12.ts";

type Node = forge.asn1.Asn1;
const { Class, Type } = forge.asn1;
const named = (name: string): string => String(forge.pki.oids[name]);

/** By object identifier: the digests of a MAC, with the octets that they make. */
const digests: Readonly<Record<string, readonly [name: string, length: number]>> = { [named("md5")]: ["md5", 16], [oid.sha1]: ["sha1", 20], [oid.sha256]: ["sha256", 32], [oid.sha384]: ["sha384", 48], [oid.sha512]: ["sha512", 64] };
/** The digests under PBKDF2's HMAC. */
const pseudorandomFunctions = Object.fromEntries(["sha1", "sha224", "sha256", "sha384", "sha512"].map((name) => [named(`hmacWith${name.toUpperCase()}`), name]));
/** The ciphers of PBES2, with the octets of their keys. */
const ciphers: Readonly<Record<string, readonly [name: string, keyLength: number]>> = {
  [named("aes128-CBC")]: ["aes-128-cbc", 16],
  [named("aes192-CBC")]: ["aes-192-cbc", 24],
  [named("aes256-CBC")]: ["aes-256-cbc", 32],
  [named("des-EDE3-CBC")]: ["des-ede3-cbc", 24],
};

/** @throws SignetError decryption-failed | certificate-malformed | der-malformed */
export function decodeOlderPkcs12(octets: Uint8Array, password: string): Pkcs12Objects {
  try {
    return new OlderPkcs12(password).decode(octets);
  } catch (error) {
    if (error instanceof SignetError) throw error;
    // Messages of node-forge and OpenSSL may quote what they read.
    throw unreadable();
  }
}

class OlderPkcs12 {
  readonly #password: string;
  readonly #certificates: Pkcs12Object<Certificate>[] = [];
  readonly #privateKeys: Pkcs12Object<KeyObject>[] = [];
  #others = 0;
  readonly #limit = new IterationLimit();

  constructor(password: string) {
    this.#password = password;
  }

  decode(octets: Uint8Array): Pkcs12Objects {
    const [, authenticatedSafe, mac] = elementsOf(parse(octets));
    const [type, content] = elementsOf(authenticatedSafe);
    if (identifierOf(type) !== oid.pkcs7Data) throw unreadable();
    const safes = octetsOf(elementsOf(content)[0]);
    this.#verifyMac(mac, safes);
    for (const safe of elementsOf(parse(safes))) {
      const contents = this.#contentsOf(safe);
      // Some programs write a safe that holds nothing as no octets at all.
      if (contents.length > 0) for (const bag of elementsOf(parse(contents))) this.#readBag(bag);
    }
    return { certificates: this.#certificates, privateKeys: this.#privateKeys, others: this.#others };
  }

  /** Before anything is decrypted. A PFX without MacData proves no password and no integrity (RFC 7292 section 4). */
  #verifyMac(mac: Node | undefined, content: Buffer): void {
    if (mac === undefined) throw new SignetError("decryption-failed", "The PKCS#12 file has no MAC: whatever it holds, anybody can have put there.");
    const [digestInfo, salt, iterations] = elementsOf(mac);
    const [algorithm, expected] = elementsOf(digestInfo);
    const [digest, length] = known(digests, elementsOf(algorithm)[0]);
    const key = derivePkcs12Key(digest, 3, { ...this.#derivation(salt, iterations), length });
    if (!equalInConstantTime(createHmac(digest, key).update(content).digest(), octetsOf(expected))) throw unreadable();
  }

  /** A ContentInfo of the AuthenticatedSafe: data, or EncryptedData (RFC 5652 section 8) with its EncryptedContentInfo. */
  #contentsOf(safe: Node | undefined): Buffer {
    const [type, explicit] = elementsOf(safe);
    const [content] = elementsOf(explicit);
    if (identifierOf(type) === oid.pkcs7Data) return octetsOf(content);
    if (identifierOf(type) !== oid.pkcs7EncryptedData) throw unreadable();
    const [, algorithm, ciphertext] = elementsOf(elementsOf(content)[1]);
    return this.#decrypt(algorithm, octetsOf(ciphertext));
  }

  #readBag(bag: Node | undefined): void {
    const [type, explicit, attributes] = elementsOf(bag);
    const [value] = elementsOf(explicit);
    const friendlyName = friendlyNameOf(attributes);
    const name = friendlyName === undefined ? {} : { friendlyName };
    switch (identifierOf(type)) {
      case oid.certBag: {
        const [kind, certificate] = elementsOf(value);
        if (identifierOf(kind) === oid.x509CertificateBag) this.#certificates.push({ value: Certificate.parse(octetsOf(elementsOf(certificate)[0])), ...name });
        else this.#others += 1;
        break;
      }
      case oid.pkcs8ShroudedKeyBag: {
        const [algorithm, ciphertext] = elementsOf(value);
        this.#privateKeys.push({ value: takePrivateKey(this.#decrypt(algorithm, octetsOf(ciphertext))), ...name });
        break;
      }
      case named("keyBag"):
        if (value === undefined) throw unreadable();
        this.#privateKeys.push({ value: takePrivateKey(Buffer.from(forge.asn1.toDer(value).getBytes(), "latin1")), ...name });
        break;
      default:
        this.#others += 1;
    }
  }

  /** Under an AlgorithmIdentifier of PBES2 (RFC 8018 section 6.2) or of one of the two of RFC 7292 appendix C that are found in files. */
  #decrypt(algorithm: Node | undefined, ciphertext: Buffer): Buffer {
    const [scheme, parameters] = elementsOf(algorithm);
    const [first, second] = elementsOf(parameters);
    switch (identifierOf(scheme)) {
      case oid.pbes2: {
        const [kdf, pbkdf2] = elementsOf(first);
        if (identifierOf(kdf) !== oid.pbkdf2) throw unreadable();
        const [salt, iterations, ...rest] = elementsOf(pbkdf2);
        // Behind an optional keyLength; HMAC-SHA1 where it is left out.
        const prf = rest.find((node) => isOf(node, Type.SEQUENCE));
        const digest = prf === undefined ? "sha1" : known(pseudorandomFunctions, elementsOf(prf)[0]);
        const [encryption, iv] = elementsOf(second);
        const [cipher, keyLength] = known(ciphers, encryption);
        const derivation = this.#derivation(salt, iterations);
        return decipher(cipher, pbkdf2Sync(this.#password, derivation.salt, derivation.iterations, keyLength, digest), octetsOf(iv), ciphertext);
      }
      case named("pbeWithSHAAnd3-KeyTripleDES-CBC"): {
        const derivation = this.#derivation(first, second);
        return decipher("des-ede3-cbc", derivePkcs12Key("sha1", 1, { ...derivation, length: 24 }), derivePkcs12Key("sha1", 2, { ...derivation, length: 8 }), ciphertext);
      }
      case named("pbewithSHAAnd40BitRC2-CBC"): {
        const derivation = this.#derivation(first, second);
        const cipher = forge.rc2.createDecryptionCipher(derivePkcs12Key("sha1", 1, { ...derivation, length: 5 }).toString("latin1"), 40);
        cipher.start(derivePkcs12Key("sha1", 2, { ...derivation, length: 8 }).toString("latin1"));
        cipher.update(forge.util.createBuffer(ciphertext.toString("latin1")));
        if (!cipher.finish()) throw unreadable();
        return Buffer.from(cipher.output.getBytes(), "latin1");
      }
      default:
        throw unreadable();
    }
  }

  /** The one way to a salt and a count, which is charged as it stands before anything is derived: NSS asks for 600,000 of 3DES too, which runs them three times, for two blocks of key and one of IV. */
  #derivation(salt: Node | undefined, count: Node | undefined): { readonly password: Buffer; readonly salt: Buffer; readonly iterations: number } {
    const iterations = this.#limit.charge(count === undefined ? 1 : Number(`0x${octetsOf(count, Type.INTEGER).toString("hex")}`));
    return { password: Buffer.from(`${this.#password}\0`, "utf16le").swap16(), salt: octetsOf(salt, Type.OCTETSTRING), iterations };
  }
}

function unreadable(): SignetError {
  return new SignetError("decryption-failed", "The PKCS#12 file does not open: another password, a damaged file, or an encryption that is not known here.");
}

function parse(octets: Uint8Array): Node {
  return forge.asn1.fromDer(forge.util.createBuffer(Buffer.from(octets).toString("latin1")));
}

/** The number of a tag says which type it is only in its class. */
function isOf(node: Node | undefined, type: forge.asn1.Type): node is Node {
  return node?.type === type && node.tagClass === Class.UNIVERSAL;
}

function elementsOf(node: Node | undefined): readonly (Node | undefined)[] {
  if (!Array.isArray(node?.value)) throw unreadable();
  return node.value;
}

function identifierOf(node: Node | undefined): string {
  if (!isOf(node, Type.OID)) throw unreadable();
  return forge.asn1.derToOid(String(node.value));
}

/** BER may have an octet string in pieces, each of them one. */
function octetsOf(node: Node | undefined, type?: forge.asn1.Type): Buffer {
  if (node === undefined || (type !== undefined && !isOf(node, type))) throw unreadable();
  return Array.isArray(node.value) ? Buffer.concat(node.value.map((piece) => octetsOf(piece, Type.OCTETSTRING))) : Buffer.from(node.value, "latin1");
}

function known<T>(algorithms: Readonly<Record<string, T>>, identifier: Node | undefined): T {
  const algorithm = algorithms[identifierOf(identifier)];
  if (algorithm === undefined) throw unreadable();
  return algorithm;
}

function friendlyNameOf(attributes: Node | undefined): string | undefined {
  for (const attribute of attributes === undefined ? [] : elementsOf(attributes)) {
    const [type, values] = elementsOf(attribute);
    const [value] = elementsOf(values);
    // node-forge has made a string of it.
    if (identifierOf(type) === oid.friendlyName && isOf(value, Type.BMPSTRING)) return String(value.value);
  }
  return undefined;
}

function decipher(name: string, key: Buffer, iv: Buffer, ciphertext: Buffer): Buffer {
  const cipher = createDecipheriv(name, key, iv);
  return Buffer.concat([cipher.update(ciphertext), cipher.final()]);
}
