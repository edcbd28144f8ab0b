import { writeFileSync } from "node:fs";
import path from "node:path";
import forge from "node-forge";
import { beforeAll, describe, expect, test } from "vitest";
import { oid } from "#pki/oids.ts";
import { encodePkcs12 } from "#pki/pkcs12.ts";
import { signet } from "#scripts/command-line/signet.ts";
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

describe("refuses endless key derivation before it begins", () => {
  const refusal = async (octets: Buffer) => {
    const { exitCode, err } = await run(["pki", "inspect", write(octets), "--password-file", "-"], password);
    expect([exitCode === 0, err.includes("rounds of key derivation")]).toEqual([false, true]);
  };

  test("of the MAC", () => refusal(withMac({ iterations: "7fffffff" })));

  test("of a key within what is encrypted, in BER as well", async () => {
    const { asn1 } = forge;
    const { Class, Type } = asn1;
    const make = (type: number, value: string | forge.asn1.Asn1[], tagClass = Class.UNIVERSAL) => asn1.create(tagClass, type, Array.isArray(value), value);
    const identifier = (name: string) => make(Type.OID, asn1.oidToDer(String(forge.pki.oids[name])).getBytes());
    const explicit = (value: forge.asn1.Asn1) => make(0 as forge.asn1.Type, [value], Class.CONTEXT_SPECIFIC);
    const der = (node: forge.asn1.Asn1) => asn1.toDer(node).getBytes();
    const parameters = (iterations: string) => make(Type.SEQUENCE, [make(Type.OCTETSTRING, "saltsalt"), make(Type.INTEGER, iterations)]);
    const scheme = (iterations: string) => make(Type.SEQUENCE, [identifier("pbeWithSHAAnd3-KeyTripleDES-CBC"), parameters(iterations)]);
    const bag = make(Type.SEQUENCE, [identifier("pkcs8ShroudedKeyBag"), explicit(make(Type.SEQUENCE, [scheme("\x7f\xff\xff\xff"), make(Type.OCTETSTRING, "12345678")]))]);
    const plaintext = der(make(Type.SEQUENCE, [bag]));
    const salt = forge.util.createBuffer("saltsalt");
    const key = forge.pkcs12.generateKey(password, salt.copy(), 1, 1, 24);
    const cipher = forge.cipher.createCipher("3DES-CBC", key);
    cipher.start({ iv: forge.pkcs12.generateKey(password, salt.copy(), 2, 1, 8) });
    cipher.update(forge.util.createBuffer(plaintext));
    cipher.finish();
    const encrypted = make(Type.SEQUENCE, [identifier("data"), scheme("\x01"), make(0 as forge.asn1.Type, cipher.output.getBytes(), Class.CONTEXT_SPECIFIC)]);
    const safe = der(make(Type.SEQUENCE, [make(Type.SEQUENCE, [identifier("encryptedData"), explicit(make(Type.SEQUENCE, [make(Type.INTEGER, "\0"), encrypted]))])]));
    const hmac = forge.hmac.create();
    hmac.start("sha1", forge.pkcs12.generateKey(password, salt.copy(), 3, 1, 20));
    hmac.update(safe);
    const digest = make(Type.SEQUENCE, [make(Type.SEQUENCE, [identifier("sha1"), make(Type.NULL, "")]), make(Type.OCTETSTRING, hmac.getMac().getBytes())]);
    const pieces = make(Type.OCTETSTRING, [make(Type.OCTETSTRING, safe.slice(0, 20)), make(Type.OCTETSTRING, safe.slice(20))]);
    const file = make(Type.SEQUENCE, [make(Type.INTEGER, "\x03"), make(Type.SEQUENCE, [identifier("data"), explicit(pieces)]), make(Type.SEQUENCE, [digest, make(Type.OCTETSTRING, "saltsalt"), make(Type.INTEGER, "\x01")])]);
    await refusal(Buffer.from(der(file), "latin1"));
  });
});

test("wants the password from a file, stdin or the environment", async () => {
  expect((await run(["pki", "inspect", write(pfx)])).err).toContain("--password-file");
  expect((await run(["pki", "inspect", write(pfx), "--password", "x"])).exitCode).toBe(1);
});
