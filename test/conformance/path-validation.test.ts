import { execFile } from "node:child_process";
import { generateKeyPairSync } from "node:crypto";
import { mkdtempSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import { rm } from "node:fs/promises";
import { oid } from "#pki/oids.ts";
import { answerLine } from "#pki/verification-contract.ts";
import { crlEntry, crlExtensions, dns, email, extensions, forgeCa, forgeCrl, forgeLeaf, ip, testKeyPair, testTime } from "#test/support/pki.ts";
import { readVectors, vectorsAreAbsent } from "#test/support/vectors.ts";

interface Case {
  readonly id: string;
  readonly expect: "accept" | "reject";
  readonly request: Record<string, unknown>;
}

/** Cases that this validator answers otherwise, each with its reason. One that passes after all fails the run: the list must stay true. */
const exceptions: Readonly<Record<string, Readonly<Record<string, string>>>> = {
  "pkits.jsonl": { "pkits::4.1.5": "DSA parameters inherited from the issuer's key (RFC 3279 section 2.3.2): OpenSSL has no key without parameters, and SP 800-131A ends DSA" },
  "bettertls-pathbuilding.jsonl": {},
};

function readCases(corpus: string): Case[] {
  const isRequestField = ([field]: [string, unknown]): boolean => !["id", "suite", "category", "expect", "why", "importance", "features", "conflicts", "profile"].includes(field);
  return readVectors(corpus)
    .split("\n")
    .filter((line) => line !== "")
    .map((line) => {
      const record = JSON.parse(line) as Record<string, unknown> & Pick<Case, "id" | "expect">;
      return { id: record.id, expect: record.expect, request: { n: 0, ...Object.fromEntries(Object.entries(record).filter(isRequestField)) } };
    });
}

describe.each([
  ["pkits.jsonl", 249],
  ["bettertls-pathbuilding.jsonl", 81],
])("%s", (corpus, size) => {
  test.skipIf(vectorsAreAbsent(corpus))(`${size} cases: every answer as published, apart from the listed exceptions`, () => {
    const cases = readCases(corpus);
    expect(cases).toHaveLength(size);
    const otherwise = cases.filter((one) => answerLine(JSON.stringify(one.request)).verdict !== one.expect);
    expect(otherwise.filter((one) => one.expect === "reject").map((one) => one.id)).toEqual([]);
    expect(otherwise.map((one) => one.id)).toEqual(Object.keys(exceptions[corpus] ?? {}));
  });
});

const root = forgeCa("Root");
const issuing = forgeCa("Issuing CA", root);
const rsaKeys = testKeyPair("rsa-2048");
const leaf = forgeLeaf("leaf", issuing, { extensions: [extensions.subjectAltName([dns("a.example.com"), ip("10.0.0.1"), email("a@example.com")]), extensions.extendedKeyUsage(oid.serverAuth)] });
const rootCrl = forgeCrl({ issuer: root.name, extensions: [crlExtensions.crlNumber(1), crlExtensions.authorityKeyIdentifier(root.certificate.extensions.subjectKeyIdentifier ?? "")] }, root.privateKey);
const goodCrl = forgeCrl({ issuer: issuing.name }, issuing.privateKey);
const badCrl = forgeCrl({ issuer: issuing.name, entries: [crlEntry(leaf.serialNumber)] }, issuing.privateKey);
const base64 = (...list: readonly { readonly der: Uint8Array }[]): string[] => list.map(({ der }) => Buffer.from(der).toString("base64"));

const request = {
  n: 1,
  trust: base64(root.certificate),
  intermediates: base64(issuing.certificate),
  crls: [] as string[],
  leaf: base64(leaf)[0],
  time: testTime.now.toISOString(),
  purpose: "serverAuth",
  names: [] as unknown[],
  crlCheck: "none",
  policy: null,
  maxDepth: null,
  minRsaBits: null,
  crlMaxAgeSec: null,
};
const answer = (changed: Record<string, unknown>) => answerLine(JSON.stringify({ ...request, ...changed }));

describe("a request of one line", () => {
  test.each<[string, Record<string, unknown>, string, string]>([
    ["a good path", {}, "accept", "valid"],
    ["a good path with good CRLs", { crlCheck: "chain", crls: base64(goodCrl, rootCrl) }, "accept", "valid"],
    ["a revoked leaf", { crlCheck: "leaf", crls: base64(badCrl) }, "reject", "certificate-revoked"],
    ["no CRL", { crlCheck: "leaf" }, "reject", "crl-missing"],
    ["a CRL for the leaf alone, where the chain is to be checked", { crlCheck: "chain", crls: base64(goodCrl) }, "reject", "crl-missing"],
    ["a CRL that is too old", { crlCheck: "leaf", crls: base64(goodCrl), crlMaxAgeSec: 3599 }, "reject", "crl-stale"],
    ["a CRL that is just new enough", { crlCheck: "leaf", crls: base64(goodCrl), crlMaxAgeSec: 3600 }, "accept", "valid"],
    ["a CRL that does not parse, besides a good one", { crlCheck: "leaf", crls: ["AAAA", ...base64(goodCrl)] }, "accept", "valid"],
    ["an intermediate that does not parse, besides a good one", { intermediates: ["AAAA", ...base64(issuing.certificate)] }, "accept", "valid"],
    ["a leaf that does not parse", { leaf: "AAAA" }, "reject", "certificate-malformed"],
    ["no trust anchor", { trust: [] }, "reject", "path-not-found"],
    ["every name", { names: [{ kind: "DNS", value: "a.example.com" }, { kind: "IP", value: "10.0.0.1" }, { kind: "RFC822", value: "a@EXAMPLE.com" }] }, "accept", "valid"],
    ["one name that is not there", { names: [{ kind: "DNS", value: "a.example.com" }, { kind: "IP", value: "10.0.0.2" }] }, "reject", "name-mismatch"],
    ["the common name", { names: [{ kind: "DNS", value: "leaf" }] }, "reject", "name-mismatch"],
    ["another purpose", { purpose: "clientAuth" }, "reject", "purpose-not-permitted"],
    ["no purpose", { purpose: null }, "accept", "valid"],
    ["another time", { time: "2027-01-01T00:00:00Z" }, "reject", "certificate-expired"],
    ["no intermediate allowed", { maxDepth: 0 }, "reject", "path-length-exceeded"],
    ["one intermediate allowed", { maxDepth: 1 }, "accept", "valid"],
    ["a policy that is not there", { policy: { initialSet: ["1.2.3"], explicit: true, inhibitMapping: false, inhibitAny: false } }, "reject", "policy-required"],
    ["strict: a leaf without fault", { strict: true }, "accept", "valid"],
    ["strict: CRLs without a number", { strict: true, crlCheck: "leaf", crls: base64(goodCrl) }, "reject", "crl-scope-unsupported"],
    ["a host in absolute form", { names: [{ kind: "DNS", value: "a.example.com." }] }, "accept", "valid"],
    ["an address asked for as a DNS name", { names: [{ kind: "DNS", value: "10.0.0.1" }] }, "reject", "name-mismatch"],
    ["more names than anybody means", { names: Array.from({ length: 400_000 }, () => ({ kind: "DNS", value: "a.example.com" })) }, "reject", "budget-exceeded"],
    ["a moment within the second of notAfter", { time: new Date(testTime.notAfter.getTime() + 999).toISOString() }, "accept", "valid"],
    ["a moment within the second after it", { time: new Date(testTime.notAfter.getTime() + 1000).toISOString() }, "reject", "certificate-expired"],
    ["the number of the line", { n: "x" }, "accept", "valid"],
    ["a purpose that is not known", { purpose: "ipsecUser" }, "skip", "request-malformed"],
    ["a field that is not known", { keyUsage: ["keyAgreement"] }, "skip", "request-malformed"],
    ["base64 that is none", { leaf: "*" }, "skip", "request-malformed"],
  ])("%s", (_, changed, verdict, reason) => {
    expect(answer(changed)).toEqual({ n: changed["n"] ?? 1, verdict, reason });
  });

  test.each(["", "{", "null", "[]", "1", '"x"', "{}"])("%j is answered, not thrown at", (line) => {
    expect(answerLine(line).verdict).not.toBe("accept");
  });

  test("a bare anchor counts by name and key alone; otherwise its dates and constraints count too", () => {
    const old = forgeCa("Old Root", undefined, { content: { notAfter: new Date("2026-06-01T11:30:00Z") }, replace: [extensions.basicConstraints(true, 0), extensions.nameConstraints({ permitted: [dns("example.org")] })] });
    const ca = forgeCa("CA", old);
    const below = forgeLeaf("leaf", ca, { extensions: [extensions.subjectAltName([dns("a.example.com")])] });
    const asked = { trust: base64(old.certificate), intermediates: base64(ca.certificate), leaf: base64(below)[0] };
    expect(answer({ ...asked, anchor: "bare" }).reason).toBe("valid");
    expect(answer(asked).reason).toBe("certificate-expired");
  });

  test("a key of an end entity is held against the least length too, and 512 bits are never enough", () => {
    const short = generateKeyPairSync("rsa", { modulusLength: 512 });
    const asked = { leaf: base64(forgeLeaf("leaf", issuing, { keys: short, extensions: [extensions.extendedKeyUsage(oid.serverAuth)] }))[0] };
    expect(answer(asked).reason).toBe("algorithm-rejected");
  });

  test("strict: the serial number of an anchor does not matter, that of any other certificate does", () => {
    const zero = forgeCa("Zero", undefined, { content: { serialNumber: "00" } });
    const asked = (serialNumber: string) => ({ trust: base64(zero.certificate), leaf: base64(forgeLeaf("leaf", zero, { content: { serialNumber } }))[0], strict: true });
    expect(answer(asked("41")).reason).toBe("valid");
    expect(answer(asked("00")).reason).toBe("profile-violation");
  });

  test("an anchor need not be self-signed", () => {
    expect(answer({ trust: base64(issuing.certificate), intermediates: [] }).reason).toBe("valid");
  });

  test("from 2048 bits on, SHA-1 is refused too; in a CRL as well", () => {
    const rsa = forgeCa("RSA", undefined, { keys: rsaKeys });
    const sha1 = forgeLeaf("leaf", rsa, { algorithm: "rsa-sha1", extensions: [extensions.extendedKeyUsage(oid.serverAuth)] });
    const asked = { trust: base64(rsa.certificate), leaf: base64(sha1)[0] };
    expect(answer(asked).reason).toBe("valid");
    expect(answer({ ...asked, minRsaBits: 2048 }).reason).toBe("algorithm-rejected");
    const sha256 = forgeLeaf("leaf", rsa, { extensions: [extensions.extendedKeyUsage(oid.serverAuth)] });
    const withCrl = { trust: base64(rsa.certificate), leaf: base64(sha256)[0], crlCheck: "leaf", crls: base64(forgeCrl({ issuer: rsa.name }, rsa.privateKey, "rsa-sha1")) };
    expect(answer(withCrl).reason).toBe("valid");
    expect(answer({ ...withCrl, minRsaBits: 2048 }).reason).toBe("crl-signature-invalid");
    expect(answer({ ...asked, minRsaBits: 3072 }).reason).toBe("algorithm-rejected");
  });
});

describe("the command", () => {
  const directory = mkdtempSync(path.join(tmpdir(), "signet-verify-"));
  afterAll(() => rm(directory, { recursive: true }));
  const put = (name: string, content: string | Uint8Array): string => {
    const file = path.join(directory, name);
    writeFileSync(file, content);
    return file;
  };
  const trust = put("root.pem", root.certificate.toPem());
  const intermediate = put("intermediate.pem", issuing.certificate.toPem());
  const crls = put("crl.pem", badCrl.toPem());
  const leafFile = put("leaf.pem", leaf.toPem());
  const leafDer = put("leaf.der", leaf.der);
  const run = (args: readonly string[], input = ""): Promise<{ code: number; stdout: string }> =>
    new Promise((resolve) => {
      const child = execFile(process.execPath, ["scripts/pki-verify.ts", ...args], (error, stdout) => resolve({ code: error === null ? 0 : Number(error.code), stdout }));
      child.stdin?.end(input);
    });
  const asked = ["--trust", trust, "--intermediate", intermediate, "--time", testTime.now.toISOString(), "--purpose", "serverAuth"];

  test.each<[string, readonly string[], number, string]>([
    ["accepts", [...asked, "--crl-check", "none", "--host", "a.example.com", "--ip", "10.0.0.1", "--email", "a@example.com", leafFile], 0, "valid\n"],
    ["rejects with the reason on stdout", [...asked, "--crl-check", "leaf", "--crl", crls, leafFile], 1, "certificate-revoked\n"],
    ["cannot use a file that is not there", [...asked, "--crl-check", "none", path.join(directory, "absent.pem")], 2, ""],
    ["cannot use a PEM without a certificate", [...asked, "--crl-check", "none", crls], 2, ""],
    ["cannot use a file of anchors without one", ["--trust", crls, "--crl-check", "none", leafFile], 2, ""],
    ["cannot use what is no address", [...asked, "--crl-check", "none", "--ip", "a.example.com", leafFile], 2, ""],
    ["reads DER", [...asked, "--crl-check", "none", leafDer], 0, "valid\n"],
    ["takes no option that --jsonl would leave aside", ["--jsonl", "--strict", "--crl-check", "chain", "--min-rsa-bits", "2048"], 2, ""],
    ["does not support an option that it does not know", [...asked, "--crl-check", "none", "--ocsp", leafFile], 3, ""],
    ["does not support a purpose that it does not know", [...asked.slice(0, -1), "ipsecUser", "--crl-check", "none", leafFile], 3, ""],
  ])("%s", async (_, args, code, stdout) => {
    expect(await run(args)).toEqual({ code, stdout });
  });

  test("answers lines in order", async () => {
    const { code, stdout } = await run(["--jsonl"], `${JSON.stringify(request)}\n\n${JSON.stringify({ ...request, n: "2\u2028", purpose: "clientAuth" })}\nnonsense`);
    expect(code).toBe(0);
    expect(stdout.trim().split("\n").map((line) => JSON.parse(line) as unknown)).toEqual([
      { n: 1, verdict: "accept", reason: "valid" },
      { n: "2\u2028", verdict: "reject", reason: "purpose-not-permitted" },
      { n: null, verdict: "reject", reason: "request-malformed" },
    ]);
  });
});
