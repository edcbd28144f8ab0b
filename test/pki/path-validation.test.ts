import { generateKeyPairSync } from "node:crypto";
import { describe, expect, test } from "vitest";
import { Certificate } from "#pki/certificate.ts";
import { encode, encodeObjectIdentifier, encodeSequence, encodeText, tag } from "#pki/der.ts";
import { isErrorCode } from "#pki/errors.ts";
import type { ErrorCode } from "#pki/errors.ts";
import { checkStrictly } from "#pki/lint.ts";
import { Name } from "#pki/name.ts";
import { oid } from "#pki/oids.ts";
import { ValidatedPath, isValidatedPath, validatePath } from "#pki/path-validation.ts";
import type { PathBudget } from "#pki/path-validation.ts";
import { dns, directory, email, extension, extensions, forge, forgeCa, forgeLeaf, ip, testAuthority, testKeyPair, testTime, uri, commonName } from "#test/support/pki.ts";
import type { ForgedCa, ForgedContent, TestKeyType } from "#test/support/pki.ts";

const root = forgeCa("Root");
const issuing = forgeCa("Issuing CA", root);

interface Attempt {
  readonly leaf: Certificate;
  readonly intermediates?: readonly ForgedCa[];
  readonly anchors?: readonly ForgedCa[];
  readonly at?: Date;
  readonly budget?: Partial<PathBudget>;
}

function attempt({ leaf, intermediates = [issuing], anchors = [root], at = testTime.now, budget = {} }: Attempt): ValidatedPath {
  return validatePath({
    endEntity: leaf,
    intermediates: intermediates.map((ca) => ca.certificate),
    trustAnchors: anchors.map((ca) => ca.certificate),
    purpose: "clientAuth",
    at,
    budget,
  });
}

/** The code that a path is refused with, or "accepted". */
function outcome(i: Attempt): ErrorCode | "accepted" {
  try {
    attempt(i);
    return "accepted";
  } catch (error) {
    const code = (error as { code?: unknown }).code;
    if (isErrorCode(code)) return code;
    throw error;
  }
}

const leafWith = (list: readonly Uint8Array[], content: Partial<ForgedContent> = {}, issuer: ForgedCa = issuing): Certificate => forgeLeaf("leaf", issuer, { extensions: list, content });

describe("a path", () => {
  test("runs from the end entity to the anchor", () => {
    const leaf = leafWith([]);
    const path = attempt({ leaf });
    expect(path.chain).toEqual([leaf, issuing.certificate, root.certificate]);
    expect(path.endEntity).toBe(leaf);
    expect(path.trustAnchor).toBe(root.certificate);
  });

  test("of Signet's own authority holds for both roles", async () => {
    const authority = await testAuthority();
    const agent = await authority.issue({ role: "client", name: "alice" });
    const server = await authority.issue({ kind: "service", role: "server", name: "kms" });
    for (const [endEntity, purpose] of [[agent.certificate, "clientAuth"], [server.certificate, "serverAuth"]] as const) {
      expect(isValidatedPath(validatePath({ endEntity, intermediates: [authority.issuing], trustAnchors: [authority.root], purpose, at: testTime.now }))).toBe(true);
    }
  });

  test("is proven by a ValidatedPath that nothing else can make", () => {
    const path = attempt({ leaf: leafWith([]) });
    expect(isValidatedPath(path)).toBe(true);
    expect(isValidatedPath({ chain: path.chain, at: path.at, purpose: path.purpose, endEntity: path.endEntity, trustAnchor: path.trustAnchor })).toBe(false);
    expect(isValidatedPath(Object.create(ValidatedPath.prototype))).toBe(false);
    expect(() => new ValidatedPath(Symbol("construction"), path.chain, path.at, "clientAuth")).toThrow(expect.objectContaining({ code: "internal" }));
    expect(() => Object.assign(path, { at: new Date(0) })).toThrow(TypeError);
  });

  test.each<TestKeyType>(["rsa-2048", "ec-p256", "ec-p384", "ec-p521", "ed25519", "ml-dsa-44", "ml-dsa-65", "ml-dsa-87"])("may be signed with %s", (type) => {
    const ca = forgeCa("CA", undefined, { keys: testKeyPair(type) });
    const leaf = forgeLeaf("leaf", ca, { keys: testKeyPair(type) });
    expect(outcome({ leaf, intermediates: [], anchors: [ca] })).toBe("accepted");
    const other = forgeCa("CA", undefined, { keys: testKeyPair(type) });
    expect(outcome({ leaf, intermediates: [], anchors: [other] })).toBe("signature-invalid");
  });
});

describe("each rule refuses with its code", () => {
  test("a chain that leads to no anchor", () => {
    expect(outcome({ leaf: leafWith([]), anchors: [forgeCa("Other Root")] })).toBe("path-not-found");
  });

  test("a self-signed end entity that is no anchor", () => {
    expect(outcome({ leaf: forgeCa("Mallory").certificate })).toBe("path-not-found");
  });

  test("a signature by another key under the issuer's name", () => {
    const impostor = forgeCa("Issuing CA", root, { content: { issuer: commonName("Nobody") } });
    expect(outcome({ leaf: leafWith([], {}, impostor) })).toBe("signature-invalid");
  });

  test("one changed bit in what is signed", () => {
    const der = Buffer.from(leafWith([]).der);
    const at = der.indexOf("leaf", 0, "latin1");
    der[at] = (der[at] as number) ^ 1;
    expect(outcome({ leaf: Certificate.parse(der) })).toBe("signature-invalid");
  });

  test("dates: the first and the last second count, the ones around them do not", () => {
    const leaf = leafWith([]);
    const { notBefore, notAfter } = testTime;
    expect(outcome({ leaf, at: notBefore })).toBe("accepted");
    expect(outcome({ leaf, at: notAfter })).toBe("accepted");
    expect(outcome({ leaf, at: new Date(notBefore.getTime() - 1) })).toBe("certificate-not-yet-valid");
    expect(outcome({ leaf, at: new Date(notAfter.getTime() + 1) })).toBe("certificate-expired");
    expect(outcome({ leaf, at: new Date(Number.NaN) })).toBe("certificate-not-yet-valid");
  });

  test.each(["issuing", "root"] as const)("an expired %s", (which) => {
    const expired = { content: { notAfter: new Date("2026-06-01T11:30:00Z") } };
    const anchor = forgeCa("Old Root", undefined, which === "root" ? expired : {});
    const ca = forgeCa("Old CA", anchor, which === "issuing" ? expired : {});
    expect(outcome({ leaf: leafWith([], {}, ca), intermediates: [ca], anchors: [anchor] })).toBe("certificate-expired");
  });

  test("an issuer whose basicConstraints says it is no CA, or that has none", () => {
    for (const replace of [[extensions.basicConstraints(false), extensions.keyUsage("keyCertSign")], [extensions.keyUsage("keyCertSign")]]) {
      const ca = forgeCa("Not a CA", root, { replace });
      expect(outcome({ leaf: leafWith([], {}, ca), intermediates: [ca] })).toBe("not-a-ca");
    }
  });

  test("an issuer of version 1, which cannot be a CA", () => {
    const ca = forgeCa("Old", root, { replace: [], content: { version: 1 } });
    expect(outcome({ leaf: leafWith([], {}, ca), intermediates: [ca] })).toBe("not-a-ca");
  });

  test("an issuer whose keyUsage lacks keyCertSign", () => {
    const ca = forgeCa("CRL signer", root, { replace: [extensions.basicConstraints(true), extensions.keyUsage("cRLSign")] });
    expect(outcome({ leaf: leafWith([], {}, ca), intermediates: [ca] })).toBe("key-usage-missing");
  });

  test("an end entity whose keyUsage does not go with the purpose", () => {
    expect(outcome({ leaf: leafWith([extensions.keyUsage("keyEncipherment")]) })).toBe("key-usage-missing");
    expect(outcome({ leaf: leafWith([extensions.keyUsage("digitalSignature")]) })).toBe("accepted");
  });

  test.each([
    ["keyCertSign", [extensions.keyUsage("keyCertSign", "digitalSignature")]],
    ["name constraints", [extensions.nameConstraints({ permitted: [dns("example.com")] })]],
  ])("an end entity that is no CA and has %s", (_, list) => {
    expect(outcome({ leaf: leafWith(list) })).toBe("profile-violation");
  });

  test("a pathLen besides CA FALSE says nothing: strict mode alone refuses it", () => {
    const leaf = leafWith([extensions.basicConstraints(false, 0)]);
    expect(outcome({ leaf })).toBe("accepted");
    expect(() => checkStrictly(leaf)).toThrow(expect.objectContaining({ code: "profile-violation" }));
  });

  test("a critical policy with a qualifier that is not understood", () => {
    const policies = (qualifier: string, critical: boolean) =>
      extension(oid.certificatePolicies, critical, encodeSequence(encodeSequence(encodeObjectIdentifier("1.2.3"), encodeSequence(encodeSequence(encodeObjectIdentifier(qualifier), encodeText("x", 0x16))))));
    expect(outcome({ leaf: leafWith([policies("1.2.3.4", true)]) })).toBe("unknown-critical-extension");
    expect(outcome({ leaf: leafWith([policies("1.2.3.4", false)]) })).toBe("accepted");
    expect(outcome({ leaf: leafWith([policies(oid.cpsUri, true)]) })).toBe("accepted");
  });

  test("an extendedKeyUsage without the purpose, on the end entity or on a CA", () => {
    expect(outcome({ leaf: leafWith([extensions.extendedKeyUsage(oid.serverAuth)]) })).toBe("purpose-not-permitted");
    expect(outcome({ leaf: leafWith([extensions.extendedKeyUsage(oid.serverAuth, oid.clientAuth)]) })).toBe("accepted");
    const ca = forgeCa("Server CA", root, { extra: [extensions.extendedKeyUsage(oid.serverAuth)] });
    expect(outcome({ leaf: leafWith([extensions.extendedKeyUsage(oid.clientAuth)], {}, ca), intermediates: [ca] })).toBe("purpose-not-permitted");
  });

  test.each(["leaf", "intermediate"] as const)("an unknown critical extension of a %s; a non-critical one is nothing", (where) => {
    for (const critical of [true, false]) {
      const unknown = [extension("1.3.6.1.4.1.99999.1", critical, Buffer.from("0500", "hex"))];
      const ca = forgeCa("Extended CA", root, where === "intermediate" ? { extra: unknown } : {});
      const leaf = leafWith(where === "leaf" ? unknown : [], {}, ca);
      expect(outcome({ leaf, intermediates: [ca] })).toBe(critical ? "unknown-critical-extension" : "accepted");
    }
  });

  test("a pathLen that is used up; self-issued certificates do not use it", () => {
    const first = forgeCa("First", root, { replace: [extensions.basicConstraints(true, 0), extensions.keyUsage("keyCertSign")] });
    const second = forgeCa("Second", first);
    expect(outcome({ leaf: leafWith([], {}, first), intermediates: [first] })).toBe("accepted");
    expect(outcome({ leaf: leafWith([], {}, second), intermediates: [first, second] })).toBe("path-length-exceeded");
    const renewed = forgeCa("First", first);
    expect(outcome({ leaf: leafWith([], {}, renewed), intermediates: [first, renewed] })).toBe("accepted");
  });

  test("a pathLen of the anchor", () => {
    const anchor = forgeCa("Short Root", undefined, { replace: [extensions.basicConstraints(true, 0), extensions.keyUsage("keyCertSign")] });
    const ca = forgeCa("CA", anchor);
    expect(outcome({ leaf: leafWith([], {}, ca), intermediates: [ca], anchors: [anchor] })).toBe("path-length-exceeded");
    expect(outcome({ leaf: leafWith([], {}, anchor), intermediates: [], anchors: [anchor] })).toBe("accepted");
  });

  test("SHA-1, and RSA keys under 2048 bits", () => {
    const rsa = testKeyPair("rsa-2048");
    const ca = forgeCa("RSA CA", undefined, { keys: rsa });
    expect(outcome({ leaf: forgeLeaf("leaf", ca, { algorithm: "rsa-sha1" }), intermediates: [], anchors: [ca] })).toBe("algorithm-rejected");
    const weak = testKeyPair("rsa-1024");
    expect(outcome({ leaf: forgeLeaf("leaf", ca, { keys: weak }), intermediates: [], anchors: [ca] })).toBe("algorithm-rejected");
    const weakCa = forgeCa("Weak CA", root, { keys: weak });
    expect(outcome({ leaf: leafWith([], {}, weakCa), intermediates: [weakCa] })).toBe("algorithm-rejected");
    expect(outcome({ leaf: leafWith([], {}, weakCa), intermediates: [], anchors: [weakCa] })).toBe("algorithm-rejected");
  });

  test("a key of a kind that Signet does not know", () => {
    const keys = generateKeyPairSync("ec", { namedCurve: "secp256k1" });
    expect(outcome({ leaf: forgeLeaf("leaf", issuing, { keys }) })).toBe("algorithm-rejected");
  });

  test("a policy that is required and that nothing on the path has", () => {
    const ca = forgeCa("Policy CA", root, { extra: [extensions.policyConstraints({ requireExplicitPolicy: 0 }), extensions.certificatePolicies("1.2.3")] });
    expect(outcome({ leaf: leafWith([], {}, ca), intermediates: [ca] })).toBe("policy-required");
    expect(outcome({ leaf: leafWith([extensions.certificatePolicies("1.2.4")], {}, ca), intermediates: [ca] })).toBe("policy-required");
    expect(outcome({ leaf: leafWith([extensions.certificatePolicies("1.2.3")], {}, ca), intermediates: [ca] })).toBe("accepted");
  });
});

describe("name constraints hold", () => {
  const name = commonName("leaf");
  const within = (constraints: { permitted?: Parameters<typeof extensions.nameConstraints>[0]["permitted"]; excluded?: Parameters<typeof extensions.nameConstraints>[0]["excluded"] }, ...names: Parameters<typeof extensions.subjectAltName>[0]) => {
    const ca = forgeCa("Constrained CA", root, { extra: [extensions.nameConstraints(constraints as Parameters<typeof extensions.nameConstraints>[0])] });
    return outcome({ leaf: leafWith(names.length === 0 ? [] : [extensions.subjectAltName(names)], {}, ca), intermediates: [ca] });
  };
  const refused = "name-not-permitted";

  test.each([
    ["the host", [dns("example.com")], dns("example.com"), "accepted"],
    ["a host below", [dns("example.com")], dns("a.b.EXAMPLE.com"), "accepted"],
    ["a host that only ends alike", [dns("example.com")], dns("badexample.com"), refused],
    ["the host above", [dns("a.example.com")], dns("example.com"), refused],
    ["a wildcard below", [dns("example.com")], dns("*.example.com"), "accepted"],
    ["a wildcard that stands for more than is permitted", [dns("a.example.com")], dns("*.example.com"), refused],
    ["a constraint with a leading period, which DNS names do not have", [dns(".example.com")], dns("a.example.com"), refused],
    ["a name that is none", [dns("example.com")], dns("a..example.com"), refused],
    ["every host", [dns("")], dns("a.example.com"), "accepted"],
    ["another form than the constrained one", [dns("example.com")], uri("spiffe://other/x"), "accepted"],
    ["an address in the range", [ip("10.0.0.0/255.0.0.0")], ip("10.9.8.7"), "accepted"],
    ["an address outside", [ip("10.0.0.0/255.0.0.0")], ip("11.0.0.1"), refused],
    ["an IPv6 address under an IPv4 range", [ip("10.0.0.0/255.0.0.0")], ip("::1"), refused],
    ["a mask with holes", [ip("10.0.0.0/255.0.255.0")], ip("10.0.0.1"), refused],
    ["a URI's host", [uri("td.example")], uri("spiffe://td.example/agent/alice"), "accepted"],
    ["a URI's host below, which a host alone does not permit", [uri("td.example")], uri("spiffe://a.td.example/agent/alice"), refused],
    ["a URI's host below a domain", [uri(".td.example")], uri("https://a.td.example:8443/x?y"), "accepted"],
    ["the domain itself under a leading period", [uri(".td.example")], uri("https://td.example/"), refused],
    ["a URI without a host", [uri("td.example")], uri("urn:x:y"), refused],
    ["a URI with an address for a host", [uri("td.example")], uri("https://10.0.0.1/"), refused],
    ["a host in a URI's user information", [uri("td.example")], uri("https://td.example@evil.example/"), refused],
    ["a mailbox at a host", [email("example.com")], email("a@example.com"), "accepted"],
    ["a mailbox below a host that is meant alone", [email("example.com")], email("a@b.example.com"), refused],
    ["a mailbox below a domain", [email(".example.com")], email("a@b.example.com"), "accepted"],
    ["one mailbox", [email("Root@example.com")], email("Root@EXAMPLE.com"), "accepted"],
    ["the local part in other case", [email("Root@example.com")], email("root@example.com"), refused],
  ] as const)("permitted: %s", (_, permitted, presented, expected) => {
    expect(within({ permitted }, presented)).toBe(expected);
  });

  test.each([
    ["the host", [dns("example.com")], dns("example.com"), refused],
    ["a host beside", [dns("example.com")], dns("example.org"), "accepted"],
    ["a wildcard that stands for an excluded host", [dns("a.example.com")], dns("*.example.com"), refused],
    ["an address in the range", [ip("::/ffff::")], ip("0:1::1"), refused],
    ["an address outside", [ip("::/ffff::")], ip("1::1"), "accepted"],
    ["a mailbox", [email("")], email("a@example.com"), refused],
    ["a URI", [uri("")], uri("spiffe://td.example/agent/a"), refused],
    ["a form that is not compared", [{ kind: "other", value: "1.2.3", tagNumber: 8, der: Buffer.from("88022a03", "hex") }], { kind: "other", value: "1.2.3", tagNumber: 8, der: Buffer.from("88022a03", "hex") }, refused],
  ] as const)("excluded: %s", (_, excluded, presented, expected) => {
    expect(within({ excluded }, presented)).toBe(expected);
  });

  test("whole: one that is malformed is not made good by another beside it", () => {
    expect(within({ permitted: [dns(".example.com"), dns("example.com")] }, dns("example.com"))).toBe(refused);
  });

  test("on the subject, and on mailboxes in it", () => {
    const ca = forgeCa("Constrained CA", root, { extra: [extensions.nameConstraints({ permitted: [directory([oid.organizationName, "Acme"]), email("example.com")] })] });
    const named = (...attributes: (readonly [string, string])[]) => {
      const subject = directory(...attributes);
      return outcome({ leaf: leafWith([], subject.kind === "directory" ? { subject: subject.value } : {}, ca), intermediates: [ca] });
    };
    expect(named([oid.organizationName, "ACME "], [oid.commonName, "x"])).toBe("accepted");
    expect(named([oid.commonName, "x"], [oid.organizationName, "Acme"])).toBe(refused);
    expect(named([oid.organizationName, "Acme"], [oid.emailAddress, "a@example.com"])).toBe("accepted");
    expect(named([oid.organizationName, "Acme"], [oid.emailAddress, "a@example.org"])).toBe(refused);
  });

  test("on attributes of the subject that are no text: they cannot be held against a constraint of their type", () => {
    const evil = directory([oid.organizationName, "Evil"]);
    const below = (constraints: Parameters<typeof extensions.nameConstraints>[0], type: string, value: Uint8Array) => {
      const ca = forgeCa("Constrained CA", root, { extra: [extensions.nameConstraints(constraints)] });
      const subject = Name.parse(encodeSequence(encode(tag.set, encodeSequence(encodeObjectIdentifier(type), value))));
      return outcome({ leaf: leafWith([], { subject }, ca), intermediates: [ca] });
    };
    const visibleString = encode(0x1a, Buffer.from("Evil"));
    for (const value of [visibleString, encode(0x1b, Buffer.from("Evil")), encode(tag.utf8String, Buffer.from("Evil\xff", "latin1")), encode(tag.printableString, Buffer.from("Ev\xefl", "latin1"))]) {
      expect(below({ excluded: [evil] }, oid.organizationName, value)).toBe(refused);
      expect(below({ permitted: [evil] }, oid.organizationName, value)).toBe(refused);
      expect(below({ excluded: [evil] }, oid.commonName, value)).toBe("accepted");
    }
    expect(below({ excluded: [evil] }, oid.organizationName, encodeText("Good"))).toBe("accepted");
    // The same octets are the same name, whatever they spell.
    const same = { kind: "directory", value: Name.parse(encodeSequence(encode(tag.set, encodeSequence(encodeObjectIdentifier(oid.organizationName), visibleString)))) } as const;
    expect(below({ permitted: [same] }, oid.organizationName, visibleString)).toBe("accepted");
    expect(below({ excluded: [same] }, oid.organizationName, encodeText("Evil"))).toBe(refused);
  });

  test("of every CA on the path together, the anchor's too; a lower one cannot widen them", () => {
    const anchor = forgeCa("Constrained Root", undefined, { extra: [extensions.nameConstraints({ permitted: [dns("example.com")] })] });
    const ca = forgeCa("Wide CA", anchor, { extra: [extensions.nameConstraints({ permitted: [dns("example.com"), dns("example.org")] })] });
    const leaf = (host: string) => outcome({ leaf: leafWith([extensions.subjectAltName([dns(host)])], {}, ca), intermediates: [ca], anchors: [anchor] });
    expect(leaf("a.example.com")).toBe("accepted");
    expect(leaf("a.example.org")).toBe(refused);
  });

  test("of a self-issued intermediate's own name they do not; of a self-issued end entity's they do", () => {
    const first = forgeCa("First", root, { extra: [extensions.nameConstraints({ excluded: [directory([oid.commonName, "First"])] })] });
    const renewed = forgeCa("First", first);
    expect(outcome({ leaf: leafWith([], { subject: name }, renewed), intermediates: [first, renewed] })).toBe("accepted");
    expect(outcome({ leaf: leafWith([], { subject: first.name }, first), intermediates: [first] })).toBe(refused);
  });
});

describe("among several candidates", () => {
  test("a good issuer is found behind bad ones of the same name", () => {
    const keys = testKeyPair();
    const good = forgeCa("Shared name", root, { keys });
    const expired = forgeCa("Shared name", root, { keys, content: { notAfter: new Date("2026-06-01T11:30:00Z") } });
    const noCa = forgeCa("Shared name", root, { keys, replace: [extensions.basicConstraints(false)] });
    const unanchored = forgeCa("Shared name", forgeCa("Unknown"), { keys });
    const otherKey = forgeCa("Shared name", root);
    const leaf = leafWith([], {}, good);
    expect(attempt({ leaf, intermediates: [expired, noCa, unanchored, otherKey, good] }).chain).toEqual([leaf, good.certificate, root.certificate]);
  });

  test("a path that breaks a rule about the path gives way to one that does not", () => {
    const keys = testKeyPair();
    const constrained = forgeCa("CA", root, { keys, extra: [extensions.nameConstraints({ excluded: [dns("example.com")] })] });
    const free = forgeCa("CA", root, { keys });
    const leaf = leafWith([extensions.subjectAltName([dns("example.com")])], {}, free);
    expect(attempt({ leaf, intermediates: [constrained, free] }).chain[1]).toBe(free.certificate);
  });

  test("names equal by RFC 5280 section 7.1 chain, though their bytes differ", () => {
    const ca = forgeCa("Issuing  ca", root, { keys: issuing });
    const leaf = leafWith([], {}, issuing);
    expect(attempt({ leaf, intermediates: [ca] }).chain[1]).toBe(ca.certificate);
  });

  test("cross-signed authorities go in no circle", () => {
    const one = forgeCa("One");
    const two = forgeCa("Two");
    const twoByOne = forgeCa("Two", one, { keys: two });
    const oneByTwo = forgeCa("One", two, { keys: one });
    const leaf = leafWith([], {}, one);
    expect(outcome({ leaf, intermediates: [oneByTwo, twoByOne, one, two] })).toBe("path-not-found");
    const oneByRoot = forgeCa("One", root, { keys: one });
    expect(outcome({ leaf, intermediates: [oneByTwo, twoByOne, one, two, oneByRoot] })).toBe("accepted");
  });
});

test("a path may end with a CA, whose keyUsage must go with the purpose as any other's; for CRLs it must have cRLSign", () => {
  const ending = (...list: readonly Uint8Array[]) => outcome({ leaf: forgeCa("CA", root, { replace: [extensions.basicConstraints(true), ...list] }).certificate });
  expect(ending(extensions.keyUsage("keyCertSign", "cRLSign"))).toBe("key-usage-missing");
  expect(ending(extensions.keyUsage("keyCertSign", "cRLSign"), extensions.extendedKeyUsage(oid.clientAuth))).toBe("key-usage-missing");
  expect(ending(extensions.keyUsage("keyCertSign", "digitalSignature"))).toBe("accepted");
  expect(ending()).toBe("accepted");
  const ca = forgeCa("CA", root, { replace: [extensions.basicConstraints(true), extensions.keyUsage("keyCertSign")] });
  expect(() => validatePath({ endEntity: ca.certificate, intermediates: [], trustAnchors: [root.certificate], purpose: "cRLSign", at: testTime.now })).toThrow(expect.objectContaining({ code: "key-usage-missing" }));
});

describe("a budget ends hostile work", () => {
  test("on policies that a certificate repeats path after path", () => {
    const policies = Array.from({ length: 60 }, (_, index) => `1.2.${index}`);
    expect(outcome({ leaf: leafWith([extensions.certificatePolicies(...policies)]), budget: { policyNodes: 50 } })).toBe("budget-exceeded");
  });

  test("on names that no constraint is about", () => {
    const ca = forgeCa("Names", root, { extra: [extensions.nameConstraints({ excluded: [ip("10.0.0.0/255.0.0.0")] })] });
    const leaf = leafWith([extensions.subjectAltName(Array.from({ length: 60 }, (_, index) => dns(`h${index}.example.com`)))], {}, ca);
    expect(outcome({ leaf, intermediates: [ca], budget: { nameComparisons: 50 } })).toBe("budget-exceeded");
    expect(outcome({ leaf, intermediates: [ca] })).toBe("accepted");
  });

  test("on signatures: many keys under one name", () => {
    const keys = Array.from({ length: 12 }, () => forgeCa("Swarm", root));
    const leaf = forge({ subject: commonName("leaf"), issuer: commonName("Swarm"), publicKey: testKeyPair().publicKey }, testKeyPair().privateKey);
    expect(outcome({ leaf, intermediates: keys, budget: { signatures: 10 } })).toBe("budget-exceeded");
    expect(outcome({ leaf, intermediates: keys })).toBe("signature-invalid");
  });

  test("on steps: a dense mesh of cross-signed authorities without an anchor", () => {
    const keys = Array.from({ length: 7 }, (_, index) => forgeCa(`Mesh ${index}`));
    const mesh = keys.flatMap((subject) => keys.filter((issuer) => issuer !== subject).map((issuer) => forgeCa(subject.certificate.subject.attributes(oid.commonName)[0]?.text ?? "", issuer, { keys: subject })));
    expect(outcome({ leaf: leafWith([], {}, keys[0] as ForgedCa), intermediates: mesh, budget: { steps: 500 } })).toBe("budget-exceeded");
    expect(outcome({ leaf: leafWith([], {}, keys[0] as ForgedCa), intermediates: mesh })).not.toBe("accepted");
  });

  test("on name comparisons", () => {
    const many = Array.from({ length: 60 }, (_, index) => dns(`h${index}.example.com`));
    const ca = forgeCa("Names", root, { extra: [extensions.nameConstraints({ excluded: many.map((_, index) => dns(`x${index}.example.com`)) })] });
    const leaf = leafWith([extensions.subjectAltName(many)], {}, ca);
    expect(outcome({ leaf, intermediates: [ca], budget: { nameComparisons: 3000 } })).toBe("budget-exceeded");
    expect(outcome({ leaf, intermediates: [ca] })).toBe("accepted");
  });

  test("on policy nodes: mappings that multiply", () => {
    const policies = Array.from({ length: 20 }, (_, index) => `1.2.${index}`);
    const mappings = policies.map((policy, index) => [policy, policies[(index + 1) % 20] as string] as const);
    const ca = forgeCa("Mapping CA", root, { extra: [extensions.certificatePolicies(...policies), extensions.policyMappings(...mappings)] });
    const leaf = leafWith([extensions.certificatePolicies(...policies)], {}, ca);
    expect(outcome({ leaf, intermediates: [ca], budget: { policyNodes: 30 } })).toBe("budget-exceeded");
    expect(outcome({ leaf, intermediates: [ca] })).toBe("accepted");
  });
});
