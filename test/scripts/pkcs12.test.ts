import { writeFileSync } from "node:fs";
import path from "node:path";
import forge from "node-forge";
import { beforeAll, expect, test } from "vitest";
import { encodePkcs12 } from "#pki/pkcs12.ts";
import { signet } from "#scripts/command-line/signet.ts";
import { commonName, forge as forgeCertificate, testAuthority, testKeyPair } from "#test/support/pki.ts";
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

test("refuses endless key derivation before it begins", async () => {
  const asn1 = forge.asn1.fromDer(forge.util.createBuffer(pfx.toString("latin1")));
  const mac = (asn1.value as forge.asn1.Asn1[])[2] as forge.asn1.Asn1;
  const iterations = (mac.value as forge.asn1.Asn1[])[2] as forge.asn1.Asn1;
  iterations.value = forge.util.hexToBytes("7fffffff");
  const { exitCode, err } = await run(["pki", "inspect", write(Buffer.from(forge.asn1.toDer(asn1).getBytes(), "latin1")), "--password-file", "-"], password);
  expect([exitCode === 0, err.includes("rounds of key derivation")]).toEqual([false, true]);
});

test("wants the password from a file, stdin or the environment", async () => {
  expect((await run(["pki", "inspect", write(pfx)])).err).toContain("--password-file");
  expect((await run(["pki", "inspect", write(pfx), "--password", "x"])).exitCode).toBe(1);
});
