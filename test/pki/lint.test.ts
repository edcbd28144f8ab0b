import { generateKeyPairSync } from "node:crypto";
import { describe, expect, test } from "vitest";
import type { Certificate } from "#pki/certificate.ts";
import type { CertificateRevocationList } from "#pki/crl.ts";
import { constructedContextTag, contextTag, encode, encodeIntegerHex, encodeNamedBits, encodeSequence, encodeTime, tag } from "#pki/der.ts";
import { SignetError } from "#pki/errors.ts";
import { checkCrlStrictly, checkStrictly, lintCertificate, lintCrl, lintRules, subjectKeyIdentifierOf } from "#pki/lint.ts";
import type { CertificateLintContext, CrlLintContext } from "#pki/lint.ts";
import { Name, encodeGeneralName } from "#pki/name.ts";
import type { GeneralName } from "#pki/name.ts";
import { oid } from "#pki/oids.ts";
import {
  commonName,
  crlEntry,
  crlExtensions,
  directory,
  dns,
  email,
  extension,
  extensions,
  forge,
  forgeCrl,
  ip,
  keyIdentifier,
  newSerialNumber,
  reasonCode,
  spkiOf,
  testAuthority,
  testKeyPair,
  testTime,
  uri,
} from "#test/support/pki.ts";
import type { ForgedContent, ForgedCrlContent, SignatureAlgorithmName } from "#test/support/pki.ts";

const authority = await testAuthority();
const leafKeys = testKeyPair();
const caKeys = testKeyPair();
const rsaKeys = testKeyPair("rsa-2048");
/** Signs small messages without a modular reduction: e = 3. */
const weakRsa = generateKeyPairSync("rsa", { modulusLength: 2048, publicExponent: 3 }).publicKey;
const rootId = keyIdentifier(authority.rootKeys.publicKey);
const agent: CertificateLintContext = { profile: { kind: "agent", role: "client" }, issuer: authority.issuing };
const service: CertificateLintContext = { profile: { kind: "service", role: "server" }, issuer: authority.issuing };
const issuingCa: CertificateLintContext = { profile: "issuing", issuer: authority.root };
const identity = uri("spiffe://signet.internal/agent/alice");
const ski = authority.issuing.extensions.subjectKeyIdentifier ?? "";

type Extensions = Record<string, Uint8Array | undefined>;
const alice = (await authority.issue({ role: "client", name: "alice", keys: leafKeys })).certificate;
const skiOf = (certificate: Certificate): string => certificate.extensions.subjectKeyIdentifier ?? "";
const rsaSki = skiOf((await authority.issue({ role: "client", name: "rsa", keys: rsaKeys })).certificate);

const goodLeaf: Extensions = {
  ski: extensions.subjectKeyIdentifier(skiOf(alice)),
  aki: extensions.authorityKeyIdentifier(ski),
  bc: extensions.basicConstraints(false),
  ku: extensions.keyUsage("digitalSignature"),
  eku: extensions.extendedKeyUsage(oid.clientAuth),
  san: extensions.subjectAltName([identity], true),
  cdp: extensions.crlDistributionPoint("http://localhost:8080/crl/leaf-0.crl"),
};
const everyForm = [uri("signet.internal"), dns("localhost"), ip("127.0.0.0/255.0.0.0"), email("invalid"), directory([oid.organizationName, "signet.internal"])];
const goodCa: Extensions = {
  ski: extensions.subjectKeyIdentifier(skiOf((await authority.issue({ role: "client", name: "ca", keys: caKeys })).certificate)),
  aki: extensions.authorityKeyIdentifier(skiOf(authority.root)),
  bc: extensions.basicConstraints(true, 0),
  ku: extensions.keyUsage("keyCertSign", "cRLSign"),
  nc: extensions.nameConstraints({ permitted: everyForm }),
};

const list = (good: Extensions, changed: Extensions): Uint8Array[] => Object.values({ ...good, ...changed }).filter((one) => one !== undefined);

function leaf(changed: Extensions = {}, content: Partial<ForgedContent> = {}, algorithm?: SignatureAlgorithmName): Certificate {
  return forge({ subject: Name.of([]), issuer: authority.issuing.subject, publicKey: leafKeys.publicKey, extensions: list(goodLeaf, changed), ...content }, algorithm?.startsWith("rsa") === true ? rsaKeys.privateKey : authority.issuingKeys.privateKey, algorithm);
}

const named = (...organizations: readonly string[]): Name => Name.of([...organizations.map((text): [string, string] => [oid.organizationName, text]), [oid.commonName, "CA"]]);

function ca(changed: Extensions = {}, content: Partial<ForgedContent> = {}): Certificate {
  return forge({ subject: named("signet.internal"), issuer: authority.root.subject, publicKey: caKeys.publicKey, extensions: list(goodCa, changed), ...content }, authority.rootKeys.privateKey);
}

const twoPoints = "http://localhost:8080/crl/leaf-0.crl";
const crlContext: CrlLintContext = { issuer: authority.issuing, scope: "user", distributionPoint: twoPoints, at: testTime.now };
const goodCrl: Extensions = {
  aki: crlExtensions.authorityKeyIdentifier(ski),
  number: crlExtensions.crlNumber(7),
  idp: crlExtensions.issuingDistributionPoint({ fullName: uri(twoPoints), user: true }),
};

function crl(changed: Extensions = {}, content: Partial<ForgedCrlContent> = {}, algorithm?: SignatureAlgorithmName): CertificateRevocationList {
  return forgeCrl({ issuer: authority.issuing.subject, extensions: list(goodCrl, changed), ...content }, algorithm === "rsa-sha1" ? rsaKeys.privateKey : authority.issuingKeys.privateKey, algorithm);
}

const inHours = (hours: number): Uint8Array => encodeTime(new Date(testTime.now.getTime() + hours * 3_600_000));
const freshest = crlExtensions.freshestCrl("http://localhost:8080/crl/leaf-0-delta.crl");
const delta = crlExtensions.deltaCrlIndicator(6);
const noProfile: CertificateLintContext = {};
const reasonsOnlyPoint = extension(oid.crlDistributionPoints, false, encodeSequence(encodeSequence(encodeNamedBits(2, contextTag(1)))));

/** One artefact for each rule, which breaks it; `also` names rules that cannot but be broken with it. */
const badCertificates: Record<string, { certificate: Certificate; context: CertificateLintContext; also?: readonly string[] }> = {
  "serial-positive": { certificate: leaf({}, { serialNumber: "-8000000000000000" }), context: agent },
  "serial-at-most-20-octets": { certificate: leaf({}, { serialNumber: `40${"11".repeat(20)}` }), context: agent },
  "version-3": { certificate: forge({ subject: commonName("v1"), issuer: commonName("v1"), publicKey: leafKeys.publicKey, version: 1 }, leafKeys.privateKey), context: noProfile },
  "time-form": { certificate: leaf({}, { validity: encodeSequence(encode(tag.generalizedTime, Buffer.from("20260601110000Z")), encodeTime(testTime.notAfter)) }), context: agent },
  "unique-identifiers-absent": { certificate: leaf({}, { beforeExtensions: [encode(contextTag(1), Buffer.of(0, 1))] }), context: agent },
  "ca-subject-present": { certificate: ca({ san: extensions.subjectAltName([dns("localhost")], true) }, { subject: Name.of([]) }), context: issuingCa, also: ["issuing-ca-organization"] },
  "authority-key-identifier-present": { certificate: leaf({ aki: undefined }), context: { profile: { kind: "agent", role: "client" } } },
  "authority-key-identifier-not-critical": { certificate: leaf({ aki: extensions.authorityKeyIdentifier(ski, true) }), context: agent },
  "ca-subject-key-identifier-present": { certificate: ca({ ski: undefined }), context: noProfile },
  "subject-key-identifier-not-critical": { certificate: leaf({ ski: extensions.subjectKeyIdentifier(skiOf(alice), true) }), context: agent },
  "ca-key-usage-present": { certificate: ca({ ku: undefined }), context: noProfile },
  "key-cert-sign-of-cas-only": { certificate: leaf({ ku: extensions.keyUsage("digitalSignature", "keyCertSign") }), context: noProfile },
  "ca-basic-constraints-critical": { certificate: ca({ bc: extensions.basicConstraints(true, 0, false) }), context: issuingCa },
  "path-length-of-cas-only": { certificate: leaf({ bc: extensions.basicConstraints(false, 1) }), context: agent },
  "policies-once-each": { certificate: leaf({ cp: extensions.certificatePolicies("1.2.3", "1.2.3") }), context: agent },
  "any-policy-not-mapped": { certificate: ca({ pm: extensions.policyMappings([oid.anyPolicy, "1.2.3"]) }), context: issuingCa },
  "subject-alt-name-critical-without-subject": { certificate: leaf({ san: extensions.subjectAltName([identity], false) }), context: agent },
  "subject-alt-name-form": { certificate: leaf({ san: extensions.subjectAltName([uri("spiffe://signet.internal/service/kms"), dns("two..dots")], true), eku: extensions.extendedKeyUsage(oid.serverAuth) }), context: service },
  "name-constraints-critical": { certificate: ca({ nc: extensions.nameConstraints({ permitted: everyForm }, false) }), context: issuingCa },
  "name-constraints-of-cas-only": { certificate: leaf({ nc: extensions.nameConstraints({ permitted: [dns("example.com")] }) }), context: agent },
  "name-constraints-form": { certificate: ca({ nc: extensions.nameConstraints({ permitted: [...everyForm, dns(".example.com")] }) }), context: issuingCa },
  "policy-constraints-critical": { certificate: ca({ pc: extensions.policyConstraints({ requireExplicitPolicy: 0 }, false) }), context: issuingCa },
  "policy-constraints-not-empty": { certificate: ca({ pc: extensions.policyConstraints({}) }), context: issuingCa },
  "distribution-point-names-something": { certificate: leaf({ cdp: reasonsOnlyPoint }), context: noProfile },
  "inhibit-any-policy-critical": { certificate: ca({ iap: extensions.inhibitAnyPolicy(0, false) }), context: issuingCa },
  "freshest-crl-not-critical": { certificate: leaf({ fc: crlExtensions.freshestCrl("http://localhost/delta.crl", true) }), context: agent },
  "validity-in-order": { certificate: leaf({}, { notBefore: testTime.notAfter, notAfter: testTime.notBefore }), context: agent },
  "distinguished-encoding": { certificate: leaf({ ku: extension(oid.keyUsage, true, Buffer.from("03020080", "hex")) }), context: agent },
  "not-before-backdated": { certificate: leaf({}, { notBefore: testTime.now }), context: { ...agent, at: new Date(testTime.now.getTime() + 59_000) } },
  "crl-distribution-point-of-crl": { certificate: leaf(), context: { ...agent, crl: crl({ idp: crlExtensions.issuingDistributionPoint({ fullName: uri(`${twoPoints}/`), user: true }) }) } },
  "freshest-crl-as-in-crl": { certificate: leaf(), context: { ...agent, crl: crl({ freshest }) } },
  "serial-of-64-random-bits": { certificate: leaf({}, { serialNumber: "40111111111111" }), context: agent },
  "signature-algorithm-strong": { certificate: leaf({}, {}, "rsa-sha1"), context: agent },
  "key-type-certified": { certificate: leaf({ ski: undefined }, { publicKey: testKeyPair("ec-p521").publicKey }), context: agent, also: ["subject-key-identifier-method"] },
  "key-acceptable": { certificate: leaf({ ski: extensions.subjectKeyIdentifier(subjectKeyIdentifierOf(spkiOf(weakRsa))), ku: extensions.keyUsage("digitalSignature", "keyEncipherment") }, { publicKey: weakRsa }), context: agent },
  "leaf-identity": { certificate: leaf({ san: extensions.subjectAltName([uri("spiffe://signet.internal/operator/alice")], true) }), context: agent },
  "trust-domain-form": { certificate: leaf({ san: extensions.subjectAltName([uri("spiffe://internal/agent/alice")], true) }), context: agent },
  "subject-key-identifier-method": { certificate: leaf({ ski: extensions.subjectKeyIdentifier("00".repeat(20)) }), context: agent },
  "authority-key-identifier-of-issuer": { certificate: leaf({ aki: extensions.authorityKeyIdentifier(rootId) }), context: agent },
  "issuer-name-of-issuer": { certificate: leaf({}, { issuer: commonName("Somebody") }), context: agent },
  "validity-within-issuer": { certificate: leaf({}, { notAfter: new Date("2049-01-01T00:00:00Z") }), context: agent },
  "key-usage-critical": { certificate: leaf({ ku: extension(oid.keyUsage, false, Buffer.from("03020780", "hex")) }), context: agent },
  "ca-profile": { certificate: ca({ ku: extensions.keyUsage("keyCertSign", "cRLSign", "digitalSignature") }), context: issuingCa },
  "ca-path-length": { certificate: ca({ bc: extensions.basicConstraints(true) }), context: issuingCa },
  "issuing-ca-names-constrained": { certificate: ca({ nc: extensions.nameConstraints({ permitted: everyForm.filter(({ kind }) => kind !== "dns"), excluded: [dns("example.com")] }) }), context: issuingCa },
  "issuing-ca-organization": { certificate: ca({}, { subject: named() }), context: issuingCa },
  "crl-distribution-point-present": { certificate: leaf({ cdp: undefined }), context: agent },
  "leaf-is-no-ca": { certificate: leaf({ bc: extensions.basicConstraints(true) }), context: agent, also: ["ca-subject-present"] },
  "leaf-key-usage": { certificate: leaf({ ku: extensions.keyUsage("digitalSignature", "keyEncipherment") }), context: agent },
  "leaf-extended-key-usage": { certificate: leaf({ eku: extensions.extendedKeyUsage(oid.clientAuth, oid.serverAuth) }), context: agent },
  "leaf-one-uri": { certificate: leaf({ san: extensions.subjectAltName([identity, uri("spiffe://signet.internal/agent/bob")], true) }), context: agent, also: ["leaf-names-by-role"] },
  "leaf-names-by-role": { certificate: leaf({ san: extensions.subjectAltName([identity, dns("localhost")], true) }), context: agent },
  "leaf-common-name-repeated": { certificate: leaf({}, { subject: commonName("localhost") }), context: agent },
};

const akiWithIssuer = extension(
  oid.authorityKeyIdentifier,
  false,
  encodeSequence(encode(contextTag(0), Buffer.from(ski, "hex")), encode(constructedContextTag(1), encodeGeneralName({ kind: "directory", value: authority.root.subject })), encode(contextTag(2), Buffer.of(1))),
);
const serial = newSerialNumber();

const badCrls: Record<string, { crl: CertificateRevocationList; context?: CrlLintContext; also?: readonly string[] }> = {
  "crl-version-2": { crl: crl({}, { version: 1, extensions: [] }), context: {}, also: ["crl-authority-key-identifier", "crl-number-present", "crl-authority-key-identifier-only"] },
  "crl-time-form": { crl: crl({}, { thisUpdate: encode(tag.generalizedTime, Buffer.from("20260601110000Z")) }) },
  "crl-authority-key-identifier": { crl: crl({ aki: crlExtensions.authorityKeyIdentifier(ski, true) }) },
  "revocation-date-form": { crl: crl({}, { entries: [encodeSequence(encodeIntegerHex(serial), encode(tag.generalizedTime, Buffer.from("20260601110000Z")))] }) },
  "certificate-issuer-critical": {
    crl: crl({ idp: crlExtensions.issuingDistributionPoint({ fullName: uri(twoPoints), user: true, indirect: true }) }, { entries: [crlEntry(serial, extension(oid.certificateIssuer, false, encodeSequence(encodeGeneralName({ kind: "directory", value: authority.root.subject }))))] }),
    also: ["crl-scope"],
  },
  "crl-number-present": { crl: crl({ number: undefined }) },
  "crl-number-not-critical": { crl: crl({ number: crlExtensions.crlNumber(7, true) }) },
  "crl-number-at-most-20-octets": { crl: crl({ number: crlExtensions.crlNumber(1n << 160n) }) },
  "delta-indicator-critical": { crl: crl({ delta: crlExtensions.deltaCrlIndicator(6, false) }) },
  "issuing-distribution-point-critical": { crl: crl({ idp: crlExtensions.issuingDistributionPoint({ fullName: uri(twoPoints), user: true }, false) }) },
  "crl-freshest-crl-not-critical": { crl: crl({ freshest: crlExtensions.freshestCrl("http://localhost/delta.crl", true) }), also: [] },
  "freshest-crl-not-in-delta": { crl: crl({ delta: crlExtensions.deltaCrlIndicator(6), freshest: crlExtensions.freshestCrl("http://localhost/delta.crl") }) },
  "reason-code-not-critical": { crl: crl({}, { entries: [crlEntry(serial, reasonCode(1, true))] }) },
  "remove-from-crl-in-delta-only": { crl: crl({}, { entries: [crlEntry(serial, reasonCode(8))] }) },
  "next-update-later": { crl: crl({}, { nextUpdate: inHours(-2) }) },
  "crl-authority-key-identifier-only": { crl: crl({ aki: akiWithIssuer }) },
  "crl-authority-key-identifier-of-issuer": { crl: crl({ aki: crlExtensions.authorityKeyIdentifier(rootId) }) },
  "crl-issuer-name-of-issuer": { crl: crl({}, { issuer: commonName("Somebody") }) },
  "crl-within-issuer": { crl: crl({}, { nextUpdate: inHours(24 * 5) }), context: { ...crlContext, issuer: ca({ ski: extensions.subjectKeyIdentifier(ski) }, { subject: authority.issuing.subject, notAfter: new Date("2026-06-02T00:00:00Z") }) } },
  "crl-signature-algorithm-strong": { crl: crl({}, {}, "rsa-sha1") },
  "crl-entries-once-each": { crl: crl({}, { entries: [crlEntry(serial), crlEntry(serial, reasonCode(1))] }) },
  "reason-never-unspecified": { crl: crl({}, { entries: [crlEntry(serial, reasonCode(0))] }) },
  "no-hold": { crl: crl({}, { entries: [crlEntry(serial, reasonCode(6))] }) },
  "crl-period": { crl: crl({}, { nextUpdate: inHours(24 * 11) }) },
  "crl-scope": { crl: crl({ idp: crlExtensions.issuingDistributionPoint({ fullName: uri(twoPoints) }) }) },
  "crl-distribution-point-of-shard": { crl: crl({ idp: crlExtensions.issuingDistributionPoint({ fullName: uri(`${twoPoints}/`), user: true }) }) },
  "crl-scope-kept": { crl: crl(), context: { ...crlContext, previous: crl({ number: crlExtensions.crlNumber(6), idp: crlExtensions.issuingDistributionPoint({ fullName: uri(`${twoPoints}x`), user: true }) }, { thisUpdate: inHours(-3) }) } },
  "delta-scope-of-base": { crl: crl({ delta }), context: { ...crlContext, base: crl({ freshest, idp: crlExtensions.issuingDistributionPoint({ fullName: uri(`${twoPoints}/`), user: true }) }) } },
  "delta-number-of-base": { crl: crl({ delta }), context: { ...crlContext, base: crl({ freshest, number: crlExtensions.crlNumber(6) }) } },
  "base-names-its-delta": { crl: crl({ delta }), context: { ...crlContext, base: crl() } },
  "this-update-recent": { crl: crl(), context: { ...crlContext, at: new Date(testTime.now.getTime() + 6 * 60_000) } },
  "delta-after-its-base": { crl: crl({ delta: crlExtensions.deltaCrlIndicator(8) }) },
  "crl-number-rises": { crl: crl(), context: { ...crlContext, previous: crl({}, { thisUpdate: inHours(-3) }) } },
  "this-update-rises": { crl: crl(), context: { ...crlContext, previous: crl({ number: crlExtensions.crlNumber(6) }) } },
  "this-update-not-ahead": { crl: crl({}, { thisUpdate: inHours(0.5) }) },
};

function brokenRules(run: () => void, code = "lint-failed"): string[] {
  try {
    run();
    return [];
  } catch (error) {
    if (!(error instanceof SignetError) || error.code !== code) throw error;
    return String(error.details["rules"]).split(" ");
  }
}

describe("a good artefact breaks no rule", () => {
  test("certificates of every profile", async () => {
    expect(brokenRules(() => lintCertificate(leaf({ freshest }), { ...agent, at: new Date(testTime.notBefore.getTime() + 60_999), crl: crl({ freshest }) }))).toEqual([]);
    expect(brokenRules(() => lintCertificate(ca(), issuingCa))).toEqual([]);
    expect(brokenRules(() => lintCertificate(authority.root, { profile: "root", issuer: authority.root }))).toEqual([]);
    expect(brokenRules(() => lintCertificate(authority.issuing, issuingCa))).toEqual([]);
    const server = await authority.issue({ kind: "service", role: "server", name: "kms" });
    expect(brokenRules(() => lintCertificate(server.certificate, service))).toEqual([]);
    const rsa = await authority.issue({ role: "client", name: "alice", keys: rsaKeys });
    expect(skiOf(rsa.certificate)).toBe(rsaSki);
    expect(brokenRules(() => lintCertificate(rsa.certificate, agent))).toEqual([]);
  });

  test("CRLs of both scopes, base and delta", () => {
    const previous = crl({ number: crlExtensions.crlNumber(6) }, { thisUpdate: inHours(-3) });
    expect(brokenRules(() => lintCrl(crl(), { ...crlContext, previous }))).toEqual([]);
    expect(brokenRules(() => lintCrl(authority.leafCrl([{ serialNumber: serial, revocationDate: testTime.now, reason: "keyCompromise" }]), crlContext))).toEqual([]);
    expect(brokenRules(() => lintCrl(authority.rootCrl([]), { issuer: authority.root, scope: "ca", at: testTime.now }))).toEqual([]);
    expect(brokenRules(() => lintCrl(crl({ delta }, { entries: [crlEntry(serial, reasonCode(8))] }), { ...crlContext, base: crl({ freshest }) }))).toEqual([]);
  });
});

test("an issuing CA is constrained in addresses by a permitted range, or by the whole of IPv4 and IPv6 excluded together", () => {
  const others = everyForm.filter(({ kind }) => kind !== "ip");
  const broken = (excluded: readonly GeneralName[], permitted = others) => brokenRules(() => lintCertificate(ca({ nc: extensions.nameConstraints({ permitted, excluded }) }), issuingCa));
  const [ipv4, ipv6] = [ip("0.0.0.0/0.0.0.0"), ip("::/::")];
  expect(broken([ipv4, ipv6])).toEqual([]);
  expect(broken([ipv4])).toEqual(["issuing-ca-names-constrained"]);
  expect(broken([ipv6])).toEqual(["issuing-ca-names-constrained"]);
  expect(broken([ipv4], everyForm)).toEqual([]);
});

test("a self-signed certificate may leave the authorityKeyIdentifier out, but names no key in it that is not its own", () => {
  const keys = testKeyPair();
  const own = keyIdentifier(keys.publicKey);
  const selfSigned = (...aki: Uint8Array[]) =>
    brokenRules(() => checkStrictly(forge({ subject: commonName("Root"), issuer: commonName("Root"), publicKey: keys.publicKey, extensions: [extensions.basicConstraints(true), extensions.subjectKeyIdentifier(own), ...aki] }, keys.privateKey)), "profile-violation");
  expect(selfSigned()).toEqual([]);
  expect(selfSigned(extensions.authorityKeyIdentifier(own))).toEqual([]);
  expect(selfSigned(extensions.authorityKeyIdentifier(rootId))).toEqual(["authority-key-identifier-present"]);
  expect(selfSigned(extension(oid.authorityKeyIdentifier, false, encodeSequence()))).toEqual(["authority-key-identifier-present"]);
});

describe("one bad artefact for each rule", () => {
  test("every rule has one", () => {
    expect([...Object.keys(badCertificates), ...Object.keys(badCrls)].sort()).toEqual(lintRules.map((rule) => rule.id).sort());
    for (const rule of lintRules) expect(rule.citation).not.toBe("");
  });

  test.each([[["signet.internal", "other.internal"]], [["Signet"]]])("an issuing CA with organizationName %j", (organizations) => {
    expect(brokenRules(() => lintCertificate(ca({}, { subject: named(...organizations) }), issuingCa))).toEqual(["issuing-ca-organization"]);
  });

  test.each(Object.entries(badCertificates))("%s", (id, { certificate, context, also = [] }) => {
    expect(brokenRules(() => lintCertificate(certificate, context)).sort()).toEqual([id, ...also].sort());
  });

  test.each(Object.entries(badCrls))("%s", (id, { crl: bad, context = crlContext, also = [] }) => {
    expect(brokenRules(() => lintCrl(bad, context)).sort()).toEqual([id, ...also].sort());
  });

  test.each(lintRules.filter((rule) => rule.strict).map((rule) => rule.id))("strict mode refuses %s", (id) => {
    const certificate = badCertificates[id]?.certificate;
    const list = badCrls[id]?.crl;
    if (certificate !== undefined) expect(brokenRules(() => checkStrictly(certificate), "profile-violation")).toContain(id);
    if (list !== undefined) expect(brokenRules(() => checkCrlStrictly(list), "profile-violation")).toContain(id);
  });
});
