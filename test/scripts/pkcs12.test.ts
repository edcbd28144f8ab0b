import { execFileSync } from "node:child_process";
import { generateKeyPairSync } from "node:crypto";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import path from "node:path";
import forge from "node-forge";
import { beforeAll, describe, expect, test } from "vitest";
import { oid } from "#pki/oids.ts";
import { encodePkcs12 } from "#pki/pkcs12.ts";
import { signet } from "#scripts/command-line/signet.ts";
import { findTool } from "#scripts/trust/trust-store.ts";
import { hasOpenssl } from "#test/support/openssl.ts";
import { commonName, directory, dns, extensions, forge as forgeCertificate, testAuthority, testKeyPair } from "#test/support/pki.ts";
import { temporaryDirectory } from "#test/support/temporary-directory.ts";
import { recordedTerminal } from "#test/support/terminal.ts";

const password = "correct horse";
let pfx: Buffer;
let serialNumber: string;
let fingerprint: string;
let secretPrime: string;

async function run(argv: readonly string[], input: string | Uint8Array = "") {
  const terminal = recordedTerminal(input);
  const exitCode = await signet(argv, terminal);
  return { exitCode, out: terminal.out().toString("utf8"), err: terminal.err() };
}

function write(octets: Uint8Array): string {
  const file = path.join(temporaryDirectory(), "alice.p12");
  writeFileSync(file, octets);
  return file;
}

beforeAll(() => {
  const keys = testKeyPair("rsa-2048");
  const certificate = forgeCertificate({ subject: commonName("alice"), issuer: commonName("alice"), publicKey: keys.publicKey }, keys.privateKey);
  serialNumber = certificate.serialNumber;
  fingerprint = certificate.fingerprint;
  const key = forge.pki.privateKeyFromPem(String(keys.privateKey.export({ format: "pem", type: "pkcs1" })));
  secretPrime = key.p.toString(16);
  const asn1 = forge.pkcs12.toPkcs12Asn1(key, [forge.pki.certificateFromPem(certificate.toPem())], password, { algorithm: "aes256", count: 2048, friendlyName: "alice" });
  pfx = Buffer.from(forge.asn1.toDer(asn1).getBytes(), "latin1");
});

test("shows certificates and which of them a key belongs to, and of the key nothing else, for people and as --json", async () => {
  const file = write(pfx);
  const json = await run(["pki", "inspect", file, "--password-file", "-", "--json"], `${password}\n`);
  expect(json).toMatchObject({ exitCode: 0, err: "" });
  const { objects } = JSON.parse(json.out) as { readonly objects: readonly Record<string, unknown>[] };
  expect(objects).toMatchObject([{ type: "pkcs12", certificates: 1, privateKeys: 1 }, { type: "certificate", serialNumber, fingerprint }, { type: "private key", publicKey: "rsa-2048", certificate: serialNumber, friendlyName: "alice" }]);
  const plain = await run(["pki", "inspect", file, "--password-file", "-"], password);
  for (const { out } of [json, plain]) expect([out.includes(secretPrime), out.includes("PRIVATE KEY")]).toEqual([false, false]);
  expect(plain.out).toContain(serialNumber);
});

test("names keys other than RSA too, in files such as `signet ca issue --p12` writes", async () => {
  const authority = await testAuthority();
  const { certificate, privateKey } = await authority.issue({ role: "client", name: "alice" });
  const file = write(encodePkcs12({ privateKey, chain: [certificate, authority.issuing], friendlyName: "alice" }, Buffer.from(password), 2048));
  const { exitCode, out } = await run(["pki", "inspect", file, "--password-file", "-", "--json"], password);
  expect(exitCode).toBe(0);
  const { objects } = JSON.parse(out) as { readonly objects: readonly Record<string, unknown>[] };
  expect(objects).toMatchObject([{ type: "pkcs12", certificates: 2, privateKeys: 1 }, { friendlyName: "alice" }, { type: "certificate" }, { type: "private key", publicKey: "ec-p256", spkiFingerprint: certificate.spkiFingerprint, certificate: certificate.serialNumber }]);
});

test.each([
  ["another password", (octets: Buffer) => octets, "wrong"],
  ["a changed octet", (octets: Buffer) => Buffer.concat([octets.subarray(0, 200), Buffer.of((octets[200] ?? 0) ^ 1), octets.subarray(201)]), password],
  ["a changed octet of the MAC", (octets: Buffer) => Buffer.concat([octets.subarray(0, -20), Buffer.of((octets.at(-20) ?? 0) ^ 1), octets.subarray(-19)]), password],
  ["a file that was cut short", (octets: Buffer) => octets.subarray(0, 400), password],
])("refuses %s in one line", async (_, change, given) => {
  const { exitCode, out, err } = await run(["pki", "inspect", write(change(pfx)), "--password-file", "-"], given);
  expect([exitCode === 0, out]).toEqual([false, ""]);
  expect(err).toMatch(/^signet: [a-z-]+: [^\n]+\n$/);
  expect(err).not.toContain("unforeseen");
  expect(err).not.toContain("internal");
});

/** The PFX with another count at its MAC, or with another salt and the MAC that belongs to it. */
function withMac(change: { readonly iterations?: string; readonly salt?: string }): Buffer {
  const asn1 = forge.asn1.fromDer(forge.util.createBuffer(pfx.toString("latin1")));
  const within = (...indexes: number[]): forge.asn1.Asn1 => indexes.reduce((parent, index) => (parent.value as forge.asn1.Asn1[])[index] as forge.asn1.Asn1, asn1);
  if (change.iterations !== undefined) within(2, 2).value = forge.util.hexToBytes(change.iterations);
  if (change.salt !== undefined) {
    within(2, 1).value = change.salt;
    const hmac = forge.hmac.create();
    hmac.start("sha1", forge.pkcs12.generateKey(password, forge.util.createBuffer(change.salt), 3, 2048, 20));
    hmac.update(String(within(1, 1, 0).value));
    within(2, 0, 1).value = hmac.getMac().getBytes();
  }
  return Buffer.from(forge.asn1.toDer(asn1).getBytes(), "latin1");
}

test("opens a file whose random octets happen to look like the beginning of a SEQUENCE", async () => {
  const { exitCode, out } = await run(["pki", "inspect", write(withMac({ salt: "\x30\x77salted" })), "--password-file", "-", "--json"], password);
  expect([exitCode, (JSON.parse(out) as { readonly objects: readonly unknown[] }).objects.length]).toEqual([0, 3]);
});

test("opens a file whose certificate has a directory name before a DNS name, which carry the tag numbers of a salt and a count", async () => {
  const keys = testKeyPair("rsa-2048");
  const names = [directory([oid.commonName, "alice"]), dns("alice.corp")];
  const certificate = forgeCertificate({ subject: commonName("alice"), issuer: commonName("alice"), publicKey: keys.publicKey, extensions: [extensions.subjectAltName(names)] }, keys.privateKey);
  const asn1 = forge.pkcs12.toPkcs12Asn1(forge.pki.privateKeyFromPem(String(keys.privateKey.export({ format: "pem", type: "pkcs1" }))), [forge.pki.certificateFromPem(certificate.toPem())], password, { algorithm: "3des", count: 1 });
  const { exitCode, out } = await run(["pki", "inspect", write(Buffer.from(forge.asn1.toDer(asn1).getBytes(), "latin1")), "--password-file", "-", "--json"], password);
  expect([exitCode, JSON.parse(out)]).toMatchObject([0, { objects: [{ type: "pkcs12" }, { fingerprint: certificate.fingerprint }, { certificate: certificate.serialNumber }] }]);
});

const { asn1 } = forge;
const { Class, Type } = asn1;
const make = (type: number, value: string | forge.asn1.Asn1[], tagClass = Class.UNIVERSAL) => asn1.create(tagClass, type, Array.isArray(value), value);
const identifier = (name: string) => make(Type.OID, asn1.oidToDer(String(forge.pki.oids[name])).getBytes());
const explicit = (value: forge.asn1.Asn1) => make(0 as forge.asn1.Type, [value], Class.CONTEXT_SPECIFIC);
const der = (node: forge.asn1.Asn1) => asn1.toDer(node).getBytes();
const octetString = (octets: string) => make(Type.OCTETSTRING, octets);

/** A PFX around one safe, in BER: the octet string that holds it is in pieces. */
function pfxAround(safe: forge.asn1.Asn1): Buffer {
  const safes = der(make(Type.SEQUENCE, [safe]));
  const hmac = forge.hmac.create();
  hmac.start("sha1", forge.pkcs12.generateKey(password, forge.util.createBuffer("saltsalt"), 3, 1, 20));
  hmac.update(safes);
  const digest = make(Type.SEQUENCE, [make(Type.SEQUENCE, [identifier("sha1"), make(Type.NULL, "")]), octetString(hmac.getMac().getBytes())]);
  const pieces = make(Type.OCTETSTRING, [octetString(safes.slice(0, 20)), octetString(safes.slice(20))]);
  return Buffer.from(der(make(Type.SEQUENCE, [make(Type.INTEGER, "\x03"), make(Type.SEQUENCE, [identifier("data"), explicit(pieces)]), make(Type.SEQUENCE, [digest, octetString("saltsalt"), make(Type.INTEGER, "\x01")])])), "latin1");
}

/** Shows a file that opens: its objects. */
async function objectsOf(octets: Uint8Array): Promise<unknown> {
  const { exitCode, out, err } = await run(["pki", "inspect", write(octets), "--password-file", "-", "--json"], password);
  expect([exitCode, err]).toEqual([0, ""]);
  return (JSON.parse(out) as { readonly objects: unknown }).objects;
}

test("opens a file whose outer SEQUENCE is of indefinite length", async () => {
  const content = pfx.subarray(4);
  expect(await objectsOf(Buffer.concat([Buffer.of(0x30, 0x80), content, Buffer.of(0, 0)]))).toMatchObject([{ type: "pkcs12" }, { serialNumber }, { certificate: serialNumber, friendlyName: "alice" }]);
});

test("opens a file of a key whose curve is spelled out: base and order stand in it as salt and count do", async () => {
  const { privateKey } = generateKeyPairSync("ec", { namedCurve: "P-256", paramEncoding: "explicit" });
  const key = asn1.fromDer(forge.util.createBuffer(privateKey.export({ format: "der", type: "pkcs8" }).toString("latin1")));
  const bags = make(Type.SEQUENCE, [make(Type.SEQUENCE, [identifier("keyBag"), explicit(key)])]);
  expect(await objectsOf(pfxAround(make(Type.SEQUENCE, [identifier("data"), explicit(octetString(der(bags)))])))).toMatchObject([{ type: "pkcs12", privateKeys: 1 }, { type: "private key" }]);
});

describe("opens what other programs export, and names certificate and key", () => {
  const exported = async (make: (at: (name: string) => string, tool: (name: string, ...args: readonly string[]) => void) => void) => {
    const folder = temporaryDirectory();
    const at = (name: string) => path.join(folder, name);
    const authority = await testAuthority();
    const { certificate, privateKey } = await authority.issue({ role: "client", name: "alice" });
    writeFileSync(at("alice.p12"), encodePkcs12({ privateKey, chain: [certificate], friendlyName: "alice" }, Buffer.from(password), 2048));
    writeFileSync(at("certificate.pem"), certificate.toPem());
    writeFileSync(at("key.pem"), privateKey.export({ format: "pem", type: "pkcs8" }));
    make(at, (name, ...args) => execFileSync(name, args, { stdio: "ignore" }));
    expect(await objectsOf(readFileSync(at("exported.p12")))).toMatchObject([
      { type: "pkcs12", certificates: 1, privateKeys: 1, otherObjects: 0 },
      { type: "certificate", fingerprint: certificate.fingerprint },
      { type: "private key", publicKey: "ec-p256", spkiFingerprint: certificate.spkiFingerprint, certificate: certificate.serialNumber },
    ]);
  };

  test.skipIf(findTool("pk12util") === undefined || findTool("certutil") === undefined)("NSS and so Firefox: BER in two layers of pieces, 600,000 rounds each for MAC, certificates and key (skipped without libnss3-tools)", () =>
    exported((at, tool) => {
      mkdirSync(at("nss"));
      tool("certutil", "-N", "-d", `sql:${at("nss")}`, "--empty-password");
      tool("pk12util", "-i", at("alice.p12"), "-d", `sql:${at("nss")}`, "-W", password, "-K", "");
      tool("pk12util", "-o", at("exported.p12"), "-n", "alice", "-d", `sql:${at("nss")}`, "-W", password, "-K", "");
    }));

  test.skipIf(!hasOpenssl).each([
    ["PBE-SHA1-3DES", "PBE-SHA1-3DES", "sha1"],
    ["PBE-SHA1-RC2-40", "PBE-SHA1-3DES", "sha1"],
    ["AES-128-CBC", "AES-192-CBC", "sha512"],
    ["DES-EDE3-CBC", "AES-256-CBC", "sha384"],
  ])("OpenSSL: certificates under %s, key under %s, MAC of %s (skipped without OpenSSL 3)", (certificates, key, mac) =>
    exported((at, tool) => {
      const legacy = certificates.includes("RC2") ? ["-legacy"] : [];
      tool("openssl", "pkcs12", "-export", ...legacy, "-in", at("certificate.pem"), "-inkey", at("key.pem"), "-certpbe", certificates, "-keypbe", key, "-macalg", mac, "-passout", `pass:${password}`, "-out", at("exported.p12"));
    }));
});

describe("refuses endless key derivation before it begins", () => {
  const refusal = async (octets: Buffer) => {
    const { exitCode, err } = await run(["pki", "inspect", write(octets), "--password-file", "-"], password);
    expect([exitCode === 0, err.includes("rounds of key derivation")]).toEqual([false, true]);
  };

  test("of the MAC", () => refusal(withMac({ iterations: "7fffffff" })));

  test.each([
    ["endless by itself", "\x7f\xff\xff\xff"],
    ["2,000,001 rounds together with MAC and certificates", "\x1e\x84\x7f"],
  ])("of a key within what is encrypted, in BER as well: %s", async (_, count) => {
    const scheme = (iterations: string) => make(Type.SEQUENCE, [identifier("pbeWithSHAAnd3-KeyTripleDES-CBC"), make(Type.SEQUENCE, [octetString("saltsalt"), make(Type.INTEGER, iterations)])]);
    const bag = make(Type.SEQUENCE, [identifier("pkcs8ShroudedKeyBag"), explicit(make(Type.SEQUENCE, [scheme(count), octetString("12345678")]))]);
    const salt = forge.util.createBuffer("saltsalt");
    const cipher = forge.cipher.createCipher("3DES-CBC", forge.pkcs12.generateKey(password, salt.copy(), 1, 1, 24));
    cipher.start({ iv: forge.pkcs12.generateKey(password, salt.copy(), 2, 1, 8) });
    cipher.update(forge.util.createBuffer(der(make(Type.SEQUENCE, [bag]))));
    cipher.finish();
    const encrypted = make(Type.SEQUENCE, [identifier("data"), scheme("\x01"), make(0 as forge.asn1.Type, cipher.output.getBytes(), Class.CONTEXT_SPECIFIC)]);
    await refusal(pfxAround(make(Type.SEQUENCE, [identifier("encryptedData"), explicit(make(Type.SEQUENCE, [make(Type.INTEGER, "\0"), encrypted]))])));
  });
});

test("wants the password from a file, stdin or the environment", async () => {
  expect((await run(["pki", "inspect", write(pfx)])).err).toContain("--password-file");
  expect((await run(["pki", "inspect", write(pfx), "--password", "x"])).exitCode).toBe(1);
});
