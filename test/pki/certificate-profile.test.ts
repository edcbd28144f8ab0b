import { describe, expect, test } from "vitest";
import { Certificate } from "#pki/certificate.ts";
import { buildCertificate } from "#pki/certificate-builder.ts";
import type { CertificateContent } from "#pki/certificate-builder.ts";
import { checkProfile, checkServerName, identityUri, parseIdentityUri } from "#pki/certificate-profile.ts";
import { SignetError } from "#pki/errors.ts";
import { Name } from "#pki/name.ts";
import { oid } from "#pki/oids.ts";
import { validatePath } from "#pki/path-validation.ts";
import type { KeyPurpose, ValidatedPath } from "#pki/path-validation.ts";
import { dns, extension, extensions, forgeCa, forgeLeaf, ip, newSerialNumber, signToBeSigned, spkiOf, testAuthority, testKeyPair, testTime, uri } from "#test/support/pki.ts";

/** A root with organizationNames. */
const rootNamed = (...organizations: readonly string[]) => forgeCa("Root", undefined, { content: { subject: Name.of([...organizations.map((text): [string, string] => [oid.organizationName, text]), [oid.commonName, "Root"]]) } });
const root = rootNamed("signet.internal");
const alice = uri("spiffe://signet.internal/agent/alice");

function pathOf(list: readonly Uint8Array[], purpose: KeyPurpose = "clientAuth", issuer = root): ValidatedPath {
  return validatePath({ endEntity: forgeLeaf("alice", issuer, { extensions: list }), intermediates: [], trustAnchors: [issuer.certificate], purpose, at: testTime.now });
}

function code(run: () => unknown): string {
  try {
    run();
    return "accepted";
  } catch (error) {
    if (error instanceof SignetError) return error.code;
    throw error;
  }
}

describe("an identity", () => {
  test("is the URI of the certificate", () => {
    expect(checkProfile(pathOf([extensions.extendedKeyUsage(oid.clientAuth), extensions.subjectAltName([alice])]))).toEqual({
      uri: "spiffe://signet.internal/agent/alice",
      trustDomain: "signet.internal",
      kind: "agent",
      name: "alice",
    });
  });

  test("is of the trust domain that its issuer is named for, and of no other", async () => {
    const authority = await testAuthority();
    const issuer = { ...authority.issuingKeys, name: authority.issuing.subject, certificate: authority.issuing };
    const identity = (name: string) => {
      const list = [extensions.extendedKeyUsage(oid.clientAuth), extensions.subjectAltName([uri(name)], true)];
      const endEntity = forgeLeaf("x", issuer, { content: { subject: Name.of([]) }, extensions: list });
      return code(() => checkProfile(validatePath({ endEntity, intermediates: [authority.issuing], trustAnchors: [authority.root], purpose: "clientAuth", at: testTime.now })));
    };
    expect(identity("spiffe://signet.internal/agent/alice")).toBe("accepted");
    expect(identity("spiffe://other.internal/agent/alice")).toBe("profile-violation");
  });

  test.each([
    "spiffe://signet.internal/agent/Alice",
    "spiffe://signet.internal/agent/alice/x",
    "spiffe://signet.internal/agent/",
    "spiffe://signet.internal/admin/alice",
    "spiffe://internal/agent/alice",
    "spiffe://sig_net.internal/agent/alice",
    "spiffe://signet.internal:443/agent/alice",
    "spiffe://-signet.internal/agent/alice",
    "spiffe://signet.internal/agent/alice\n",
    "https://signet.internal/agent/alice",
    `spiffe://signet.internal/agent/${"a".repeat(64)}`,
    "",
  ])("is not %j", (text) => {
    expect(code(() => parseIdentityUri(text))).toBe("request-malformed");
  });

  test("is not made of parts that do not make one", () => {
    expect(identityUri("signet.internal", "service", "kms")).toBe("spiffe://signet.internal/service/kms");
    expect(code(() => identityUri("signet.internal", "agent", "a/b"))).toBe("request-malformed");
  });
});

describe("a valid path is refused as a peer's", () => {
  const client = extensions.extendedKeyUsage(oid.clientAuth);
  test.each([
    ["without a subjectAltName, whatever its common name", [client], "san-missing"],
    ["without an extendedKeyUsage", [extensions.subjectAltName([alice])], "extended-key-usage-missing"],
    ["for both purposes at once", [extensions.extendedKeyUsage(oid.clientAuth, oid.serverAuth), extensions.subjectAltName([alice])], "purpose-not-permitted"],
    ["for any purpose", [extensions.extendedKeyUsage(oid.anyExtendedKeyUsage), extensions.subjectAltName([alice])], "purpose-not-permitted"],
    ["with two URIs", [client, extensions.subjectAltName([alice, uri("spiffe://signet.internal/agent/bob")])], "identity-ambiguous"],
    ["with the same URI twice", [client, extensions.subjectAltName([alice, alice])], "identity-ambiguous"],
    ["with a DNS name alone", [client, extensions.subjectAltName([dns("alice")])], "identity-ambiguous"],
    ["with a URI that is no identity", [client, extensions.subjectAltName([uri("https://example.com/")])], "profile-violation"],
    ["of a CA", [client, extensions.subjectAltName([alice]), extensions.basicConstraints(true)], "profile-violation"],
  ] as const)("%s", (_, list, expected) => {
    expect(code(() => checkProfile(pathOf(list)))).toBe(expected);
  });

  test.each([["none", []], ["two", ["signet.internal", "signet.internal"]], ["another", ["other.internal"]]] as const)("where its issuer has not the trust domain as its one organizationName, but %s", (_, organizations) => {
    expect(code(() => checkProfile(pathOf([client, extensions.subjectAltName([alice])], "clientAuth", rootNamed(...organizations))))).toBe("profile-violation");
  });

  test("if it was never validated", () => {
    const path = pathOf([client, extensions.subjectAltName([alice])]);
    expect(code(() => checkProfile({ ...path, endEntity: path.endEntity, trustAnchor: path.trustAnchor } as unknown as ValidatedPath))).toBe("internal");
  });
});

describe("a server's name", () => {
  const certificate = forgeLeaf("common.example.com", root, { extensions: [extensions.subjectAltName([dns("a.example.com"), dns("*.b.example.com"), dns("*.com"), dns("f*.example.com"), dns("10.0.0.1"), ip("127.0.0.1"), ip("::1")])] });
  test.each([
    ["a.example.com", true],
    ["A.Example.COM", true],
    ["x.b.example.com", true],
    ["b.example.com", false],
    ["x.y.b.example.com", false],
    ["example.com", false],
    ["foo.example.com", false],
    ["common.example.com", false],
    ["a.example.com.", false],
    ["a.example.com\0.evil.example", false],
    ["*.b.example.com", false],
    ["", false],
    ["127.0.0.1", true],
    ["127.0.0.2", false],
    ["10.0.0.1", false],
    ["::1", true],
    ["0:0:0:0:0:0:0:1", true],
    ["::2", false],
  ])("%j matches: %s", (host, matches) => {
    expect(code(() => checkServerName(certificate, host))).toBe(matches ? "accepted" : "name-mismatch");
  });

  test("in the common name alone counts for nothing", () => {
    expect(code(() => checkServerName(forgeLeaf("localhost", root), "localhost"))).toBe("name-mismatch");
  });
});

describe("what is built", () => {
  test.each(["rsa-3072", "ec-p256", "ec-p384", "ed25519", "ml-dsa-65"] as const)("names the signature algorithm of an issuer with a key of type %s, and verifies when signed", async (issuerKeyType) => {
    const keys = testKeyPair(issuerKeyType === "rsa-3072" ? "rsa-2048" : issuerKeyType);
    const tbs = await buildCertificate({
      profile: "root",
      subjectPublicKey: spkiOf(keys.publicKey),
      serialNumber: newSerialNumber(),
      issuer: "self",
      issuerKeyType,
      names: { commonName: "Root" },
      notBefore: testTime.notBefore,
      notAfter: testTime.notAfter,
      trustDomain: "signet.internal",
    });
    const certificate = Certificate.parse(signToBeSigned(tbs, keys.privateKey));
    expect(Buffer.from(certificate.tbs)).toEqual(Buffer.from(tbs));
    expect(certificate.isSignedBy(certificate.subjectPublicKeyInfo)).toBe(true);
  });

  test("passes lint or is not built: an agent with a host name, a short serial number, an issuer that ends earlier", async () => {
    const authority = await testAuthority();
    const good: CertificateContent = {
      profile: { kind: "agent", role: "client" },
      subjectPublicKey: spkiOf(testKeyPair().publicKey),
      serialNumber: newSerialNumber(),
      issuer: authority.issuing,
      issuerKeyType: "ec-p256",
      names: { uri: identityUri("signet.internal", "agent", "alice") },
      notBefore: testTime.notBefore,
      notAfter: testTime.notAfter,
      crlDistributionPoint: authority.crlDistributionPoint,
      trustDomain: "signet.internal",
    };
    expect((await buildCertificate(good)).length).toBeGreaterThan(200);
    const lintFailed = expect.objectContaining({ code: "lint-failed" });
    await expect(buildCertificate({ ...good, names: { ...good.names, dns: ["localhost"] } })).rejects.toEqual(lintFailed);
    await expect(buildCertificate({ ...good, serialNumber: "41" })).rejects.toEqual(lintFailed);
    await expect(buildCertificate({ ...good, notAfter: new Date("2048-01-01T00:00:00Z") })).rejects.toEqual(lintFailed);
    await expect(buildCertificate({ ...good, subjectPublicKey: spkiOf(testKeyPair("ec-p521").publicKey) })).rejects.toEqual(lintFailed);
    await expect(buildCertificate({ ...good, names: { ...good.names, ip: ["localhost"] } })).rejects.toEqual(expect.objectContaining({ code: "request-malformed" }));
  });

  test("keeps an issuing CA to its names: other hosts, addresses, mailboxes and subjects are refused", async () => {
    const authority = await testAuthority();
    const issuer = { ...authority.issuingKeys, name: authority.issuing.subject, certificate: authority.issuing };
    const outcome = (names: Parameters<typeof extensions.subjectAltName>[0], list: readonly Uint8Array[] = []) =>
      code(() =>
        validatePath({
          endEntity: forgeLeaf("x", issuer, { content: { subject: authority.issuing.subject }, extensions: [extensions.subjectAltName(names), ...list] }),
          intermediates: [authority.issuing],
          trustAnchors: [authority.root],
          purpose: "serverAuth",
          at: testTime.now,
        }),
      );
    expect(outcome([dns("localhost"), ip("127.0.0.1"), ip("::1"), alice])).toBe("accepted");
    for (const name of [dns("bank.example"), ip("10.0.0.1"), ip("::2"), { kind: "email", value: "a@example.com" } as const]) expect(outcome([name])).toBe("name-not-permitted");
    expect(code(() => validatePath({ endEntity: forgeLeaf("bank.example", issuer), intermediates: [authority.issuing], trustAnchors: [authority.root], purpose: "serverAuth", at: testTime.now }))).toBe("name-not-permitted");
    // Of URIs the constraints say nothing, since browsers would refuse the certificate; the profile holds an issuer to the trust domain that it is named for.
    expect(outcome([uri("spiffe://other.internal/agent/alice")])).toBe("accepted");
    expect(outcome([alice], [extension("1.2.3.4", true, Buffer.from("0500", "hex"))])).toBe("unknown-critical-extension");
  });
});
