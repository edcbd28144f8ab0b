import { createHash, createPublicKey, type KeyObject } from "node:crypto";
import forge from "node-forge";
import { Certificate } from "#pki/certificate.ts";
import { DerReader, tag } from "#pki/der.ts";
import { SignetError } from "#pki/errors.ts";
import { keyTypeOf } from "#pki/keys.ts";
import { decodePkcs12, type Pkcs12Objects } from "#pki/pkcs12.ts";
import { describeCertificate } from "./inspect.ts";

/** Most rounds of key derivation that are run: what a file asks for, this process has to work. */
const mostIterations = 1_000_000;

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
    refuseEndlessWork(pfx, 0);
    // A PFX without MacData proves no password and no integrity (RFC 7292 section 4).
    if (!Array.isArray(pfx.value) || pfx.value.length < 3) throw new SignetError("decryption-failed", "The PKCS#12 file has no MAC: whatever it holds, anybody can have put there.");
    return forge.pkcs12.pkcs12FromAsn1(pfx, false, password).safeContents.flatMap(({ safeBags }) => safeBags);
  } catch (cause) {
    if (cause instanceof SignetError) throw cause;
    // node-forge's own messages may quote what it read.
    throw new SignetError("decryption-failed", "The PKCS#12 file does not open: another password, a damaged file, or an encryption that is not known here.");
  }
}

/** Salt and count stand next to each other wherever PKCS#12 derives a key: MacData, PBE parameters and PBKDF2 alike. */
function refuseEndlessWork(node: forge.asn1.Asn1, depth: number): void {
  if (depth > 32) throw new SignetError("decryption-failed", "The PKCS#12 file is nested deeper than any is.");
  if (!Array.isArray(node.value)) {
    const first = node.type === forge.asn1.Type.OCTETSTRING ? String(node.value).charCodeAt(0) : 0;
    if (first === tag.sequence) refuseEndlessWork(forge.asn1.fromDer(forge.util.createBuffer(String(node.value))), depth + 1);
    return;
  }
  node.value.forEach((child, index) => {
    const before = Array.isArray(node.value) ? node.value[index - 1] : undefined;
    if (before?.type === forge.asn1.Type.OCTETSTRING && child.type === forge.asn1.Type.INTEGER && !(Number(`0x${forge.util.bytesToHex(String(child.value))}`) <= mostIterations)) {
      throw new SignetError("decryption-failed", `The PKCS#12 file asks for more than ${mostIterations} rounds of key derivation.`);
    }
    refuseEndlessWork(child, depth + 1);
  });
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
