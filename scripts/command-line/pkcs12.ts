import { createHash, createPublicKey, type KeyObject } from "node:crypto";
import forge from "node-forge";
import { Certificate } from "#pki/certificate.ts";
import { DerReader, tag } from "#pki/der.ts";
import { SignetError } from "#pki/errors.ts";
import { keyTypeOf } from "#pki/keys.ts";
import { decodePkcs12, type Pkcs12Objects } from "#pki/pkcs12.ts";
import { describeCertificate } from "./inspect.ts";

/** Most rounds of key derivation that are run for a file: what it asks for, this process has to work. */
const mostIterations = 3_000_000;

/** Whether octets open as a PFX does (RFC 7292 section 4): a SEQUENCE that begins with version 3. */
export function isPkcs12(octets: Uint8Array): boolean {
  try {
    const content = new DerReader(octets).enter(tag.sequence);
    return content.peek() === tag.integer && Buffer.from(content.readContent(tag.integer)).equals(Buffer.of(3));
  } catch (error) {
    if (error instanceof SignetError) return false;
    throw error;
  }
}

type Description = Record<string, unknown>;

/**
 * What a PKCS#12 file holds: itself, its certificates, and of each private key that there is one. Octets of keys are shown nowhere; a key is named by the
 * SHA-256 of its public key, as certificates are. Files of today's encryption are read by pki/pkcs12.ts; older ones by node-forge, which names no keys but RSA.
 * @throws SignetError decryption-failed (another password, or damaged) | certificate-malformed
 */
export function describePkcs12(octets: Uint8Array, password: string, now: Date): readonly Readonly<Description>[] {
  const objects = openModern(octets, password);
  const { certificates, keys, others } = objects === undefined ? describeLegacy(octets, password, now) : describeModern(objects, now);
  for (const key of keys) {
    const owner = certificates.find(({ spkiFingerprint }) => spkiFingerprint === key["spkiFingerprint"]);
    if (owner !== undefined) key["certificate"] = owner["serialNumber"];
  }
  return [{ type: "pkcs12", integrity: "password and MAC verified", certificates: certificates.length, privateKeys: keys.length, otherObjects: others }, ...certificates, ...keys];
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

function describeModern({ certificates, privateKeys, others }: Pkcs12Objects, now: Date): { certificates: Description[]; keys: Description[]; others: number } {
  const named = (friendlyName: string | undefined): Description => (friendlyName === undefined ? {} : { friendlyName });
  return {
    certificates: certificates.map(({ value, friendlyName }) => ({ ...describeCertificate(value, now), ...named(friendlyName) })),
    keys: privateKeys.map(({ value, friendlyName }) => ({ type: "private key", publicKey: keyTypeOf(value) ?? value.asymmetricKeyType, spkiFingerprint: fingerprintOf(value), ...named(friendlyName) })),
    others,
  };
}

function fingerprintOf(privateKey: KeyObject): string {
  return createHash("sha256").update(createPublicKey(privateKey).export({ format: "der", type: "spki" })).digest("hex");
}

function describeLegacy(octets: Uint8Array, password: string, now: Date): { certificates: Description[]; keys: Description[]; others: number } {
  const bags = openBags(octets, password);
  const certificates: Description[] = [];
  const keys: Description[] = [];
  for (const bag of bags) {
    const friendlyName = bag.attributes?.friendlyName?.[0] as unknown;
    const name = typeof friendlyName === "string" ? { friendlyName } : {};
    if (bag.type === forge.pki.oids["certBag"]) certificates.push({ ...describeCertificate(certificateOf(bag), now), ...name });
    else if (bag.type === forge.pki.oids["keyBag"] || bag.type === forge.pki.oids["pkcs8ShroudedKeyBag"]) keys.push({ type: "private key", ...describeKey(bag), ...name });
  }
  return { certificates, keys, others: bags.length - certificates.length - keys.length };
}

function openBags(octets: Uint8Array, password: string): forge.pkcs12.Bag[] {
  try {
    const pfx = forge.asn1.fromDer(forge.util.createBuffer(Buffer.from(octets).toString("latin1")));
    new DerivationBudget(password).spend(pfx);
    // A PFX without MacData proves no password and no integrity (RFC 7292 section 4).
    if (!Array.isArray(pfx.value) || pfx.value.length < 3) throw new SignetError("decryption-failed", "The PKCS#12 file has no MAC: whatever it holds, anybody can have put there.");
    return forge.pkcs12.pkcs12FromAsn1(pfx, false, password).safeContents.flatMap(({ safeBags }) => safeBags);
  } catch (cause) {
    if (cause instanceof SignetError) throw cause;
    // node-forge's own messages may quote what it read.
    throw new SignetError("decryption-failed", "The PKCS#12 file does not open: another password, a damaged file, or an encryption that is not known here.");
  }
}

/** Left out of the types of node-forge. */
const { pbe: passwordBasedEncryption } = forge.pki as unknown as { readonly pbe: { getCipher(scheme: string, parameters: forge.asn1.Asn1, password: string): forge.cipher.BlockCipher } };

/**
 * Refuses, before node-forge works through it, a file whose derivations of keys would run more rounds together than mostIterations. Salt and count stand next to each
 * other wherever PKCS#12 derives a key: MacData, PBE parameters and PBKDF2 alike. Octet strings are entered as node-forge enters them, and opened where they are encrypted.
 */
class DerivationBudget {
  readonly #password: string;
  #remaining = mostIterations;

  constructor(password: string) {
    this.#password = password;
  }

  /** @throws SignetError decryption-failed, and whatever node-forge throws at an encryption that it does not know */
  spend(node: forge.asn1.Asn1, depth = 0): void {
    if (depth > 32) throw new SignetError("decryption-failed", "The PKCS#12 file is nested deeper than any is.");
    const { OCTETSTRING, INTEGER } = forge.asn1.Type;
    if (isOf(node, OCTETSTRING)) this.#spendWithin(octetsOf(node), depth);
    if (!Array.isArray(node.value)) return;
    for (const [index, child] of node.value.entries()) {
      if (isOf(child, INTEGER) && isOf(node.value[index - 1], OCTETSTRING)) this.#remaining -= Number(`0x${forge.util.bytesToHex(String(child.value))}`);
      if (!(this.#remaining >= 0)) throw new SignetError("decryption-failed", `The PKCS#12 file asks for more than ${mostIterations} rounds of key derivation.`);
      this.spend(child, depth + 1);
    }
    // EncryptedContentInfo (RFC 5652 section 6.1), whose algorithm has been spent for by now; keys in what it holds are encrypted once more.
    const [type, algorithm, content] = node.value;
    if (type?.type !== forge.asn1.Type.OID || content?.tagClass !== forge.asn1.Class.CONTEXT_SPECIFIC || !Array.isArray(algorithm?.value)) return;
    const [scheme, parameters] = algorithm.value;
    if (scheme?.type !== forge.asn1.Type.OID || parameters === undefined) return;
    const cipher = passwordBasedEncryption.getCipher(forge.asn1.derToOid(String(scheme.value)), parameters, this.#password);
    cipher.update(forge.util.createBuffer(octetsOf(content)));
    if (cipher.finish()) this.#spendWithin(cipher.output.getBytes(), depth);
  }

  #spendWithin(octets: string, depth: number): void {
    let content: forge.asn1.Asn1;
    try {
      content = forge.asn1.fromDer(octets, false);
    } catch {
      // A salt, a digest, a ciphertext: what does not parse here does not in node-forge either.
      return;
    }
    this.spend(content, depth + 1);
  }
}

/** The number of a tag says which type it is only in its class: the [4] and [2] of a GeneralName are a directory name and a DNS name. */
function isOf(node: forge.asn1.Asn1 | undefined, type: forge.asn1.Type): boolean {
  return node?.type === type && node.tagClass === forge.asn1.Class.UNIVERSAL;
}

/** BER may have an octet string in pieces, as node-forge's own reading of PKCS#12 allows for. */
function octetsOf({ value }: forge.asn1.Asn1): string {
  return Array.isArray(value) ? value.map((piece) => String(piece.value)).join("") : String(value);
}

/** In its own octets: node-forge keeps the signed part as it was, and writes the algorithm beside the signature its own way. */
function certificateOf({ cert, asn1: kept }: forge.pkcs12.Bag): Certificate {
  const { asn1 } = forge;
  let whole = kept;
  if (cert !== undefined && cert !== null) {
    const { tbsCertificate: signed } = cert as unknown as { readonly tbsCertificate: forge.asn1.Asn1 };
    const fields = signed.value as forge.asn1.Asn1[];
    const algorithm = fields[fields[0]?.tagClass === asn1.Class.CONTEXT_SPECIFIC ? 2 : 1];
    const signature = asn1.create(asn1.Class.UNIVERSAL, asn1.Type.BITSTRING, false, `\0${String(cert.signature)}`);
    whole = asn1.create(asn1.Class.UNIVERSAL, asn1.Type.SEQUENCE, true, [signed, ...(algorithm === undefined ? [] : [algorithm]), signature]);
  }
  return Certificate.parse(Buffer.from(asn1.toDer(whole).getBytes(), "latin1"));
}

function describeKey({ key }: forge.pkcs12.Bag): Record<string, unknown> {
  // node-forge leaves keys other than RSA out.
  if (key === undefined || key === null || !("n" in key)) return { publicKey: "not RSA" };
  const { n, e } = key as forge.pki.rsa.PrivateKey;
  const spki = Buffer.from(forge.asn1.toDer(forge.pki.publicKeyToAsn1(forge.pki.rsa.setPublicKey(n, e))).getBytes(), "latin1");
  return { publicKey: `rsa-${n.bitLength()}`, spkiFingerprint: createHash("sha256").update(spki).digest("hex") };
}
