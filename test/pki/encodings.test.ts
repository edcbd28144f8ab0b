import { execFileSync } from "node:child_process";
import { createPublicKey } from "node:crypto";
import { describe, expect, test } from "vitest";
import { Certificate, certificateIdKey } from "#pki/certificate.ts";
import { CertificateRequest } from "#pki/certificate-request.ts";
import { certsOnly, parseCertsOnly } from "#pki/cms.ts";
import { CertificateRevocationList, PackedRevocations, buildCrl, crlToBeSigned } from "#pki/crl.ts";
import type { RevokedEntry } from "#pki/crl.ts";
import { DerReader, constructedContextTag, contextTag, encode, encodeBitString, encodeInteger, encodeIntegerHex, encodeNamedBits, encodeObjectIdentifier, encodeSequence, encodeSetOf, encodeText, encodeTime, tag } from "#pki/der.ts";
import { SignetError } from "#pki/errors.ts";
import { createCsr, signerFromKey } from "#pki/keys.ts";
import { Name, formatIpAddress, parseIpAddress } from "#pki/name.ts";
import { oid } from "#pki/oids.ts";
import { SubjectPublicKeyInfo } from "#pki/signature-algorithm.ts";
import { pemDecodeAll, pemEncode } from "#pki/pem.ts";
import { crlEntry, crlExtensions, extension, extensions, forge, forgeCa, forgeCrl, forgeLeaf, reasonCode, signatureAlgorithms, spkiOf, testAuthority, testKeyPair, testTime, commonName, uri } from "#test/support/pki.ts";
import { hasOpenssl } from "#test/support/openssl.ts";

function code(run: () => unknown): string {
  try {
    run();
    return "accepted";
  } catch (error) {
    if (error instanceof SignetError) return error.code;
    throw error;
  }
}

const hex = (text: string): Buffer => Buffer.from(text.replaceAll(" ", ""), "hex");

describe("DER refuses", () => {
  test.each<[string, string, (reader: DerReader) => unknown]>([
    ["an indefinite length", "30 80 00 00", (r) => r.enter(tag.sequence)],
    ["a length that is not minimal", "04 81 01 00", (r) => r.readContent(tag.octetString)],
    ["a length with a leading zero", "04 82 00 80", (r) => r.readContent(tag.octetString)],
    ["a length of five octets", "04 85 01 00 00 00 00", (r) => r.readContent(tag.octetString)],
    ["content that ends early", "04 05 00", (r) => r.readContent(tag.octetString)],
    ["a header that ends early", "04", (r) => r.readContent(tag.octetString)],
    ["nothing", "", (r) => r.readContent(tag.octetString)],
    ["a tag number in several octets", "1f 81 01 00", (r) => r.next()],
    ["a constructed OCTET STRING", "24 03 04 01 00", (r) => r.readContent(tag.octetString)],
    ["BOOLEAN other than 00 and FF", "01 01 01", (r) => r.readBoolean()],
    ["an empty BOOLEAN", "01 00", (r) => r.readBoolean()],
    ["an encoded DEFAULT FALSE", "01 01 00", (r) => r.readBooleanDefaultFalse()],
    ["an empty INTEGER", "02 00", (r) => r.readIntegerBytes()],
    ["a padded INTEGER", "02 02 00 7f", (r) => r.readIntegerBytes()],
    ["a padded negative INTEGER", "02 02 ff 80", (r) => r.readIntegerBytes()],
    ["a negative count", "02 01 ff", (r) => r.readCount()],
    ["an empty OBJECT IDENTIFIER", "06 00", (r) => r.readObjectIdentifier()],
    ["an arc that does not end", "06 02 2a 86", (r) => r.readObjectIdentifier()],
    ["an arc with a leading zero", "06 03 2a 80 01", (r) => r.readObjectIdentifier()],
    ["an arc of more than 128 bits", `06 15 ${"ff".repeat(20)} 7f`, (r) => r.readObjectIdentifier()],
    ["a BIT STRING without its first octet", "03 00", (r) => r.readBitStringOctets()],
    ["a signature of part of an octet", "03 02 01 fe", (r) => r.readBitStringOctets()],
    ["named bits with trailing zeros", "03 02 05 c0", (r) => r.readNamedBits()],
    ["named bits with bits set in the padding", "03 02 07 c0", (r) => r.readNamedBits()],
    ["UTCTime without seconds", encode(tag.utcTime, Buffer.from("2606011200Z")).toString("hex"), (r) => r.readTime()],
    ["UTCTime with an offset", encode(tag.utcTime, Buffer.from("260601120000+0000")).toString("hex"), (r) => r.readTime()],
    ["GeneralizedTime with a fraction", encode(tag.generalizedTime, Buffer.from("20260601120000.5Z")).toString("hex"), (r) => r.readTime()],
    ["29 February of a year that has none", encode(tag.utcTime, Buffer.from("250229120000Z")).toString("hex"), (r) => r.readTime()],
    ["month 13", encode(tag.utcTime, Buffer.from("251301120000Z")).toString("hex"), (r) => r.readTime()],
    ["second 60", encode(tag.utcTime, Buffer.from("251231235960Z")).toString("hex"), (r) => r.readTime()],
    ["bytes that are no digits", encode(tag.utcTime, Buffer.from("2512312359 0Z")).toString("hex"), (r) => r.readTime()],
    ["an IA5String beyond ASCII", "16 01 e9", (r) => r.readAscii()],
  ])("%s", (_, bytes, read) => {
    expect(code(() => read(new DerReader(hex(bytes))))).toBe("der-malformed");
  });

  test("nesting beyond its depth", () => {
    let nested = encodeSequence();
    for (let depth = 0; depth < 40; depth++) nested = encodeSequence(nested);
    const descend = (reader: DerReader): void => {
      if (!reader.atEnd) descend(reader.enter(tag.sequence));
    };
    expect(code(() => descend(new DerReader(nested)))).toBe("der-malformed");
  });

  test("bytes after the end", () => {
    const reader = new DerReader(hex("0500 00"));
    reader.next();
    expect(code(() => reader.finish())).toBe("der-malformed");
  });
});

describe("DER reads back what it writes", () => {
  test.each([0n, 1n, 127n, 128n, 255n, 256n, -1n, -128n, -129n, 1n << 64n, (1n << 159n) - 1n])("INTEGER %s", (value) => {
    const octets = new DerReader(encodeInteger(value)).readIntegerBytes();
    expect(BigInt.asIntN(octets.length * 8, BigInt(`0x${octets.toString("hex")}`))).toBe(value);
  });

  test.each(["1.2.840.113549.1.1.11", "2.5.29.15", "2.5.29.200", "2.999.3", "0.9.2342.19200300.100.1.25", "2.25.329800735698586629295641978511506172918", "1.3.6.1.4.1.4294967296"])("OBJECT IDENTIFIER %s", (dotted) => {
    expect(new DerReader(encodeObjectIdentifier(dotted)).readObjectIdentifier()).toBe(dotted);
  });

  test.each(["1950-01-01T00:00:00Z", "2049-12-31T23:59:59Z", "2050-01-01T00:00:00Z", "1949-12-31T23:59:59Z", "2000-02-29T00:00:00Z", "0050-03-01T00:00:00Z", "9999-12-31T23:59:59Z"])("time %s", (text) => {
    const time = new Date(text);
    expect(new DerReader(encodeTime(time)).readTime()).toBe(time.getTime());
  });

  test("named bits", () => {
    for (let bits = 1; bits < 512; bits++) expect(new DerReader(encodeNamedBits(bits)).readNamedBits()).toBe(bits);
  });

  test("lengths up to three octets", () => {
    for (const length of [0, 127, 128, 255, 256, 65_535, 65_536]) expect(new DerReader(encode(tag.octetString, Buffer.alloc(length))).readContent(tag.octetString)).toHaveLength(length);
  });
});

describe("PEM", () => {
  const der = Buffer.from("some octets that are longer than one line of sixty-four characters is");
  test("round trip, with text around and either line ending", () => {
    const text = `Explanation\n${pemEncode("CERTIFICATE", der)}between\n${pemEncode("X509 CRL", der)}`;
    for (const variant of [text, text.replaceAll("\n", "\r\n")]) expect(pemDecodeAll(variant).map((block) => [block.label, Buffer.from(block.der).equals(der)])).toEqual([["CERTIFICATE", true], ["X509 CRL", true]]);
    expect(pemDecodeAll("")).toEqual([]);
  });

  test.each([
    ["no end", "-----BEGIN A-----\nAAAA\n"],
    ["another end", "-----BEGIN A-----\nAAAA\n-----END B-----\n"],
    ["a block inside a block", "-----BEGIN A-----\n-----BEGIN A-----\nAAAA\n-----END A-----\n"],
    ["an end alone", "-----END A-----\n"],
    ["header lines", "-----BEGIN A-----\nProc-Type: 4,ENCRYPTED\n\nAAAA\n-----END A-----\n"],
    ["base64 that is not canonical", "-----BEGIN A-----\nAAB=\n-----END A-----\n"],
    ["padding left out", "-----BEGIN A-----\nAAA\n-----END A-----\n"],
    ["padding in the middle", "-----BEGIN A-----\nAA==\nAAAA\n-----END A-----\n"],
    ["nothing inside", "-----BEGIN A-----\n-----END A-----\n"],
    ["a broken boundary", "-----BEGIN A----\nAAAA\n-----END A-----\n"],
  ])("refuses %s", (_, text) => {
    expect(code(() => pemDecodeAll(text))).toBe("pem-malformed");
  });
});

describe("names are equal by RFC 5280 section 7.1", () => {
  const name = (identifier: number, text: string | Buffer): Name =>
    Name.parse(encodeSequence(encodeSetOf([encodeSequence(encodeObjectIdentifier(oid.commonName), typeof text === "string" ? encodeText(text, identifier) : encode(identifier, text))])));
  test.each([
    ["across string types", name(tag.printableString, "Acme"), name(tag.utf8String, "Acme"), true],
    ["without regard to case", name(tag.utf8String, "ACME Straße"), name(tag.utf8String, "acme strasse"), false],
    ["in case beyond ASCII", name(tag.utf8String, "ÄCME"), name(tag.utf8String, "äcme"), true],
    ["with white space compressed", name(tag.utf8String, "  Acme \t  Inc "), name(tag.printableString, "acme inc"), true],
    ["but not with it left out", name(tag.utf8String, "Acme Inc"), name(tag.utf8String, "AcmeInc"), false],
    ["composed or decomposed", name(tag.utf8String, "\u00e9"), name(tag.utf8String, "e\u0301"), true],
    ["with characters that map to nothing", name(tag.utf8String, "Ac\u00adme"), name(tag.utf8String, "Acme"), true],
    ["as BMPString", name(tag.bmpString, hex("00410063006d0065")), name(tag.utf8String, "acme"), true],
    ["but not if UTF-8 is broken", name(tag.utf8String, hex("ff")), name(tag.utf8String, "\ufffd"), false],
    ["nor for other text", name(tag.utf8String, "Acme"), name(tag.utf8String, "Acme2"), false],
  ])("%s", (_, one, other, equal) => {
    expect(one.equals(other)).toBe(equal);
    expect(other.equals(one)).toBe(equal);
    expect(one.canonicalKey === other.canonicalKey).toBe(equal);
  });

  test("the order of RDNs counts, the order within one does not", () => {
    const attribute = (type: string, value: string) => encodeSequence(encodeObjectIdentifier(type), encodeText(value));
    const a = attribute(oid.commonName, "a");
    const b = attribute(oid.organizationName, "b");
    // In the order of DER, case decides which of the two stands first.
    const pair = (one: string, other: string) => Name.parse(encodeSequence(encodeSetOf([attribute(oid.commonName, one), attribute(oid.commonName, other)])));
    expect(pair("B", "c").equals(pair("b", "C"))).toBe(true);
    expect(Name.parse(encodeSequence(encode(tag.set, a), encode(tag.set, b))).equals(Name.parse(encodeSequence(encode(tag.set, b), encode(tag.set, a))))).toBe(false);
    expect(Name.parse(encodeSequence(encode(tag.set, a), encode(tag.set, b))).isWithin(Name.parse(encodeSequence(encode(tag.set, a))))).toBe(true);
    expect(Name.parse(encodeSequence(encode(tag.set, a), encode(tag.set, b))).isWithin(Name.parse(encodeSequence(encode(tag.set, b))))).toBe(false);
  });

  test("text escapes what would look like another name (RFC 4514)", () => {
    expect(Name.of([[oid.organizationName, "Acme, CN=x"], [oid.commonName, "#a\u0000+\"b "]]).toString()).toBe('CN=\\#a\\00\\+\\"b\\ ,O=Acme\\, CN=x');
  });
});

test.each([["127.0.0.1", "127.0.0.1"], ["::1", "::1"], ["2001:DB8:0:0:1:0:0:1", "2001:db8::1:0:0:1"], ["::", "::"], ["1::", "1::"], ["::ffff:192.0.2.1", "::ffff:c000:201"], ["1:2:3:4:5:6:7:8", "1:2:3:4:5:6:7:8"]])("the address %s is written %s", (text, canonical) => {
  expect(formatIpAddress(parseIpAddress(text) ?? new Uint8Array())).toBe(canonical);
});

test.each(["1.2.3", "::1.2.3", "1.2.3.4:1", ":1.2.3.4", "01.2.3.4", "256.1.1.1", "1.2.3.4.5", ":::", "1:2:3:4:5:6:7", "1::2::3", "12345::", "1:2:3:4:5:6:7:8::", "", "g::"])("%j is no address", (text) => {
  expect(parseIpAddress(text)).toBeUndefined();
});

describe("a certificate", () => {
  const root = forgeCa("Root");
  const keys = testKeyPair();
  const content = { subject: commonName("x"), issuer: root.name, publicKey: keys.publicKey };
  const attribute = (value: Uint8Array): Uint8Array => encodeSequence(encodeObjectIdentifier(oid.organizationName), value);
  /** A name of one RDN with these attributes, as they stand. */
  const named = (...attributes: readonly Uint8Array[]) => ({ der: encodeSequence(encode(tag.set, ...attributes)) }) as unknown as Name;
  const alternative = (name: Uint8Array): Certificate => forge({ ...content, extensions: [extension(oid.subjectAltName, false, encodeSequence(name))] }, root.privateKey);

  test("is read whole", async () => {
    const authority = await testAuthority();
    const { certificate } = await authority.issue({ role: "client", name: "alice" });
    expect(certificate.version).toBe(3);
    expect(certificate.publicKeyType).toBe("ec-p256");
    expect(certificate.publicKey.equals(createPublicKey({ key: Buffer.from(certificate.spki), format: "der", type: "spki" }))).toBe(true);
    expect(certificate.extensions.extendedKeyUsage).toEqual([oid.clientAuth]);
    expect(certificate.extensions.keyUsage).toEqual(new Set(["digitalSignature"]));
    expect(certificate.extensions.basicConstraints).toEqual({ ca: false });
    expect(certificate.extensions.crlDistributionPoints).toEqual([{ fullNames: [uri(authority.crlDistributionPoint)] }]);
    expect(certificate.id).toEqual({ issuerKeyId: authority.issuing.extensions.subjectKeyIdentifier, serialNumber: certificate.serialNumber });
    expect(certificateIdKey(certificate.id)).toBe(`${certificate.id.issuerKeyId}:${certificate.serialNumber}`);
    expect(Certificate.listFromPem(certificate.toPem() + authority.root.toPem())).toEqual([certificate, authority.root]);
    expect(code(() => Certificate.fromPem(certificate.toPem() + authority.root.toPem()))).toBe("pem-malformed");
  });

  test("does not change with the bytes it was read from", () => {
    const der = Buffer.from(root.certificate.der);
    const certificate = Certificate.parse(der);
    der.fill(0);
    expect(certificate.isSignedBy(certificate.subjectPublicKeyInfo)).toBe(true);
  });

  test.each([
    ["7f", "7f"],
    ["80", "80"],
    ["00ff", "ff"],
    ["-ff", "-ff"],
    ["00", "00"],
  ])("with serial number %s has %s: 255 and -1 are two", (written, read) => {
    expect(forge({ ...content, serialNumber: written.replace(/^00(?=.)/, "") }, root.privateKey).serialNumber).toBe(read);
  });

  test.each([
    ["an extension twice", () => forge({ ...content, extensions: [extensions.keyUsage("cRLSign"), extensions.keyUsage("cRLSign")] }, root.privateKey)],
    ["extensions in version 1", () => forge({ ...content, version: 1, extensions: [extensions.keyUsage("cRLSign")] }, root.privateKey)],
    ["an empty issuer", () => forge({ ...content, issuer: Name.of([]) }, root.privateKey)],
    ["keyUsage without a bit", () => forge({ ...content, extensions: [extension(oid.keyUsage, true, hex("030100"))] }, root.privateKey)],
    ["an empty extendedKeyUsage", () => forge({ ...content, extensions: [extensions.extendedKeyUsage()] }, root.privateKey)],
    ["an empty subjectAltName", () => forge({ ...content, extensions: [extensions.subjectAltName([])] }, root.privateKey)],
    ["empty name constraints", () => forge({ ...content, extensions: [extensions.nameConstraints({})] }, root.privateKey)],
    ["bytes after an extension", () => forge({ ...content, extensions: [extension(oid.basicConstraints, true, hex("300000"))] }, root.privateKey)],
    ["an empty authorityInfoAccess", () => forge({ ...content, extensions: [extension(oid.authorityInfoAccess, false, encodeSequence())] }, root.privateKey)],
    ["bytes after the certificate", () => Certificate.parse(Buffer.concat([root.certificate.der, Buffer.of(0)]))],
    ["two different signature algorithms", () => Certificate.parse(encodeSequence(root.certificate.tbs, hex(signatureAlgorithms.ed25519.der), encode(tag.bitString, Buffer.of(0, 1))))],
    ["a constructed string in a name", () => forge({ ...content, subject: named(attribute(encode(0x2c, encodeText("Ev"), encodeText("il")))) }, root.privateKey)],
    ["the attributes of an RDN out of order", () => forge({ ...content, subject: named(attribute(encodeText("b")), attribute(encodeText("a"))) }, root.privateKey)],
    ["one attribute twice in an RDN", () => forge({ ...content, subject: named(attribute(encodeText("a")), attribute(encodeText("a"))) }, root.privateKey)],
    ["an empty unique identifier", () => forge({ ...content, beforeExtensions: [encode(contextTag(1))] }, root.privateKey)],
    ["a unique identifier with nine unused bits", () => forge({ ...content, beforeExtensions: [encode(contextTag(2), hex("0900"))] }, root.privateKey)],
    ["unused bits of a unique identifier that are not zero", () => forge({ ...content, beforeExtensions: [encode(contextTag(2), hex("0401f8"))] }, root.privateKey)],
    ["an otherName without a value", () => alternative(encode(constructedContextTag(0), encodeObjectIdentifier("1.2.3"), encode(constructedContextTag(0))))],
    ["an otherName of indefinite length", () => alternative(encode(constructedContextTag(0), encodeObjectIdentifier("1.2.3"), encode(constructedContextTag(0), hex("30800000"))))],
    ["a registeredID that ends inside an arc", () => alternative(encode(contextTag(8), Buffer.of(0x80)))],
    ["an iPAddress of no octets", () => alternative(encode(contextTag(7)))],
    ["an iPAddress of five octets", () => alternative(encode(contextTag(7), Buffer.alloc(5)))],
    ["an iPAddress with a mask", () => alternative(encode(contextTag(7), Buffer.alloc(8)))],
    ["an iPAddress without a mask in a constraint", () => forge({ ...content, extensions: [extension(oid.nameConstraints, true, encodeSequence(encode(constructedContextTag(0), encodeSequence(encode(contextTag(7), Buffer.alloc(4))))))] }, root.privateKey)],
    ["no octets", () => Certificate.parse(new Uint8Array())],
    ["too many octets", () => Certificate.parse(Buffer.alloc((1 << 20) + 1))],
  ])("is refused with %s", (_, make) => {
    expect(code(make)).toBe("certificate-malformed");
  });
});

test("what means the same is read, though DER writes it otherwise: basicConstraints with FALSE, keyUsage with zero bits at its end", () => {
  const { keyUsage, basicConstraints } = forgeLeaf("leaf", forgeCa("Root"), { extensions: [extension(oid.basicConstraints, true, hex("3003010100")), extension(oid.keyUsage, true, hex("03020080"))] }).extensions;
  expect(basicConstraints).toEqual({ ca: false });
  expect(keyUsage).toEqual(new Set(["digitalSignature"]));
});

describe("a public key", () => {
  const point = spkiOf(testKeyPair().publicKey).subarray(-64);
  const p256 = encodeSequence(encodeObjectIdentifier(oid.ecPublicKey), encodeObjectIdentifier(oid.p256));
  const rsa = (modulus: number, exponent: number, parameters = "0500"): Uint8Array =>
    encodeSequence(encodeSequence(encodeObjectIdentifier(oid.rsaEncryption), hex(parameters)), encodeBitString(encodeSequence(encodeInteger(modulus), encodeInteger(exponent))));

  test.each<[string, Uint8Array]>([
    ["an EC point in hybrid form (RFC 5480 section 2.2)", encodeSequence(p256, encodeBitString(Buffer.concat([Buffer.of(6), point])))],
    ["explicit curve parameters (RFC 5480 section 2.1.1)", encodeSequence(encodeSequence(encodeObjectIdentifier(oid.ecPublicKey), encodeSequence()), encodeBitString(Buffer.concat([Buffer.of(4), point])))],
    ["an RSA exponent of 1, under which every message is its own signature", rsa(10007, 1)],
    ["an even RSA exponent", rsa(10007, 2)],
    ["an even RSA modulus", rsa(10008, 3)],
    ["a negative RSA modulus", rsa(-10007, 3)],
    ["RSA parameters other than NULL (RFC 3279 section 2.3.1)", rsa(10007, 3, "3000")],
  ])("is refused with %s", (_, der) => {
    expect(code(() => new SubjectPublicKeyInfo(der))).toBe("der-malformed");
  });
});

describe("a certification request", () => {
  test("proves possession of its key; a changed bit does not", async () => {
    const { privateKey, publicKey } = testKeyPair();
    const der = await createCsr(privateKey, { commonName: "alice", uri: "spiffe://signet.internal/agent/alice", dns: ["localhost"], ip: ["127.0.0.1"] });
    const request = CertificateRequest.parse(der);
    request.verifyPossession();
    expect(CertificateRequest.fromPem(request.toPem()).publicKey.equals(publicKey)).toBe(true);
    expect(request.requestedNames.map((name) => `${name.kind}:${String(name.value)}`)).toEqual(["uri:spiffe://signet.internal/agent/alice", "dns:localhost", "ip:127.0.0.1"]);
    expect(request.subject.toString()).toBe("CN=alice");
    const changed = Buffer.from(der);
    const at = changed.indexOf("alice");
    changed[at] = 0x62;
    expect(code(() => CertificateRequest.parse(changed).verifyPossession())).toBe("csr-signature-invalid");
    expect(code(() => CertificateRequest.parse(der.subarray(1)))).toBe("csr-malformed");
  });
});

describe("a certs-only message", () => {
  test("holds what was put in, and nothing else is one", async () => {
    const authority = await testAuthority();
    const message = certsOnly([authority.root, authority.issuing]);
    expect(new Set(parseCertsOnly(message).map((certificate) => certificate.fingerprint))).toEqual(new Set([authority.root.fingerprint, authority.issuing.fingerprint]));
    expect(code(() => parseCertsOnly(message.subarray(2)))).toBe("cms-malformed");
    expect(code(() => parseCertsOnly(authority.root.der))).toBe("cms-malformed");
  });

  test.skipIf(!hasOpenssl)("is read by OpenSSL (skipped without OpenSSL 3)", async () => {
    const authority = await testAuthority();
    const printed = execFileSync("openssl", ["pkcs7", "-inform", "DER", "-print_certs"], { input: certsOnly([authority.root, authority.issuing]) }).toString();
    expect(Certificate.listFromPem(printed)).toHaveLength(2);
  });
});

describe("a CRL", () => {
  const serials = Array.from({ length: 500 }, (_, index) => (0x4000_0000_0000_0000n + BigInt(index) * 0x1234_5678_9abn).toString(16));
  const entries: RevokedEntry[] = serials.map((serialNumber, index) => ({
    serialNumber,
    revocationDate: new Date(testTime.notBefore.getTime() + index * 1000),
    ...(index % 3 === 0 ? { reason: "keyCompromise" as const } : {}),
  }));

  test("lists what was put in: every serial number is found, and no other", async () => {
    const authority = await testAuthority();
    const crl = authority.leafCrl(entries, { crlNumber: 300n });
    expect(crl.size).toBe(500);
    expect([...crl.entries()]).toEqual(entries);
    for (const entry of entries) expect(crl.find(entry.serialNumber)).toEqual(entry);
    for (const absent of ["00", "ff", "-ff", `${serials[0]}00`, "5000000000000001"]) expect(crl.find(absent)).toBeUndefined();
    for (const malformed of ["", "4", "zz", "FF", "0x", "\u00e9\u00e9", `00${serials[0]}`, `-${serials[0]}`, "-"]) expect(code(() => crl.find(malformed))).toBe("request-malformed");
    for (const tooLong of ["7f".repeat(128), "ff".repeat(127), "ff".repeat(200), `-${"80".repeat(200)}`]) expect(code(() => crl.find(tooLong))).toBe("crl-missing");
    expect(crl.crlNumber).toBe(300n);
    expect(crl.issuer.equals(authority.issuing.subject)).toBe(true);
    expect(crl.issuingDistributionPoint?.fullNames).toEqual([uri(authority.crlDistributionPoint)]);
    expect(crl.isDelta).toBe(false);
    expect(crl.indexOctetsPerEntry).toBeLessThanOrEqual(45);
    expect(CertificateRevocationList.fromPem(crl.toPem()).size).toBe(500);
    crl.verifySignature(authority.issuing);
    expect(code(() => crl.verifySignature(authority.root))).toBe("crl-signature-invalid");
  });

  test("with one changed octet in an entry is not the issuer's", async () => {
    const authority = await testAuthority();
    const der = Buffer.from(authority.leafCrl(entries).der);
    const at = der.indexOf(serials[0] ?? "", 0, "hex") + 3;
    der[at] = (der[at] as number) ^ 1;
    expect(code(() => CertificateRevocationList.parse(der).verifySignature(authority.issuing))).toBe("crl-signature-invalid");
  });

  test("without entries has no revokedCertificates", async () => {
    const authority = await testAuthority();
    const crl = authority.leafCrl([]);
    expect(crl.size).toBe(0);
    expect(crl.find("01")).toBeUndefined();
    expect([...crl.entries()]).toEqual([]);
  });

  test("from packed revocations is the same to the byte", async () => {
    const authority = await testAuthority();
    const common = {
      issuer: authority.issuing,
      thisUpdate: testTime.notBefore,
      nextUpdate: testTime.notAfter,
      crlNumber: 1n,
      issuingDistributionPoint: { only: "user", fullName: "http://localhost/x.crl" },
      signatureAlgorithm: hex(signatureAlgorithms["ec-p256"].der),
    } as const;
    const packed = new PackedRevocations(
      8,
      Buffer.from(serials.join(""), "hex"),
      Uint32Array.from(entries, (entry) => entry.revocationDate.getTime() / 1000),
      Uint8Array.from(entries, (entry) => (entry.reason === undefined ? 0 : 1)),
    );
    expect(crlToBeSigned({ ...common, entries: packed })).toEqual(crlToBeSigned({ ...common, entries }));
  });

  test("is not built with what no CRL can say", async () => {
    const authority = await testAuthority();
    const { serialNumber } = authority.issuing;
    expect(code(() => authority.leafCrl([{ serialNumber, revocationDate: new Date(Number.NaN) }]))).toBe("internal");
    expect(code(() => authority.leafCrl([{ serialNumber, revocationDate: new Date("+010000-01-01T00:00:00Z") }]))).toBe("internal");
    expect(code(() => authority.leafCrl([], { thisUpdate: new Date(Number.NaN) }))).toBe("internal");
    expect(code(() => authority.leafCrl([], { crlNumber: -1n }))).toBe("internal");
    expect(code(() => authority.leafCrl([], { crlNumber: 1n << 159n }))).toBe("internal");
    expect(authority.leafCrl([], { crlNumber: (1n << 159n) - 1n }).crlNumber).toBe((1n << 159n) - 1n);
    for (const reason of [7, 11, 200]) expect(code(() => new PackedRevocations(1, Buffer.of(1), Uint32Array.of(0), Uint8Array.of(reason)))).toBe("internal");
  });

  test.each(["ec-p256", "ed25519"] as const)("is built and signed by a key of type %s as one that is written in parts", async (type) => {
    const authority = await testAuthority();
    const { privateKey, publicKey } = testKeyPair(type);
    const signer = signerFromKey(privateKey);
    const content = { issuer: authority.issuing, thisUpdate: testTime.notBefore, nextUpdate: testTime.notAfter, crlNumber: 1n, issuingDistributionPoint: { only: "user" } } as const;
    for (const listed of [[], entries]) {
      const crl = CertificateRevocationList.parse(await buildCrl({ ...content, entries: listed }, signer));
      expect(crl.tbs).toEqual(crlToBeSigned({ ...content, entries: listed, signatureAlgorithm: signer.signatureAlgorithm }));
      expect(crl.isSignedBy(new SubjectPublicKeyInfo(spkiOf(publicKey)))).toBe(true);
    }
  });

  test("finds every serial number of any length among thousands, and no other", () => {
    const ca = forgeCa("CA");
    const numbers = Array.from({ length: 3000 }, (_, n) => `${n % 3 === 0 ? "-" : ""}${n % 3 === 0 ? "8" : "7"}${(n + 0x10000000000).toString(16).padStart(1 + 2 * (5 + (n % 16)), "a")}`);
    const [listed, others] = [numbers.filter((_, n) => n % 2 === 0), numbers.filter((_, n) => n % 2 === 1)];
    const crl = forgeCrl({ issuer: ca.name, entries: listed.map((serialNumber) => crlEntry(serialNumber)) }, ca.privateKey);
    const octetsOf = (serialNumber: string): Uint8Array => hex(serialNumber.replace("-", ""));
    expect(listed.filter((serialNumber) => crl.find(serialNumber)?.serialNumber !== serialNumber || !crl.has(octetsOf(serialNumber)))).toEqual([]);
    expect(others.filter((serialNumber) => crl.find(serialNumber) !== undefined || crl.has(octetsOf(serialNumber)))).toEqual([]);
    expect(crl.hasDuplicateEntries).toBe(false);
    expect(crl.has(Buffer.alloc(127, 1))).toBe(false);
    expect(code(() => crl.has(Buffer.alloc(128, 1)))).toBe("crl-missing");
    const [first = ""] = listed;
    const twice = forgeCrl({ issuer: ca.name, entries: [...listed, first].map((serialNumber) => crlEntry(serialNumber)) }, ca.privateKey);
    expect(twice.hasDuplicateEntries).toBe(true);
  });

  test.skipIf(!hasOpenssl)("is read by OpenSSL (skipped without OpenSSL 3)", async () => {
    const authority = await testAuthority();
    const printed = execFileSync("openssl", ["crl", "-inform", "DER", "-text", "-noout"], { input: authority.leafCrl(entries.slice(0, 2)).der }).toString();
    expect(printed).toContain(serials[1]?.toUpperCase());
    expect(printed).toContain("Only User Certificates");
  });

  test("finds -1 and 255 apart", () => {
    const ca = forgeCa("CA");
    const crl = forgeCrl({ issuer: ca.name, entries: [crlEntry("-ff"), crlEntry("80", reasonCode(1))] }, ca.privateKey);
    expect(crl.find("-ff")).toBeDefined();
    expect(crl.find("ff")).toBeUndefined();
    expect(crl.find("80")?.reason).toBe("keyCompromise");
  });

  test("tells of critical extensions that are not processed, its own and its entries'", () => {
    const ca = forgeCa("CA");
    const unknown = extension("1.2.3.4", true, hex("0500"));
    expect(forgeCrl({ issuer: ca.name, extensions: [unknown] }, ca.privateKey).unknownCritical).toEqual(["1.2.3.4"]);
    expect(forgeCrl({ issuer: ca.name, entries: [crlEntry("01"), crlEntry("02", unknown)] }, ca.privateKey).unknownCritical).toEqual(["1.2.3.4"]);
  });

  test.each([
    ["a reason that does not exist", { entries: [crlEntry("01", reasonCode(7))] }],
    ["an empty list of entries", { extensions: [crlExtensions.crlNumber(1)], entries: [] , thisUpdate: Buffer.concat([encodeTime(testTime.notBefore), encodeTime(testTime.notAfter), encodeSequence()]), nextUpdate: Buffer.alloc(0) }],
    ["no nextUpdate", { nextUpdate: Buffer.alloc(0) }],
    ["an empty issuer", { issuer: Name.of([]) }],
    ["a negative number", { extensions: [crlExtensions.crlNumber(-1)] }],
    ["a padded serial number", { entries: [encodeSequence(encode(tag.integer, Buffer.of(0, 1)), encodeTime(testTime.now))] }],
    ["no such date in an entry", { entries: [encodeSequence(encodeIntegerHex("01"), encode(tag.utcTime, Buffer.from("250230000000Z")))] }],
    ["a scope that excludes itself", { extensions: [crlExtensions.issuingDistributionPoint({ user: true, ca: true })] }],
  ])("is refused with %s", (_, content) => {
    const ca = forgeCa("CA");
    expect(code(() => forgeCrl({ issuer: ca.name, ...content }, ca.privateKey))).toBe("crl-malformed");
  });

  test("names leaves by issuer and serial number, so that a root's entry says nothing of an issuing CA's leaf", () => {
    const root = forgeCa("Root");
    const other = forgeCa("Other");
    const leaf = forgeLeaf("x", other, { content: { serialNumber: "4142434445464748" } });
    const crl = forgeCrl({ issuer: root.name, entries: [crlEntry(leaf.serialNumber)] }, root.privateKey);
    expect(crl.find(leaf.serialNumber)).toBeDefined();
    expect(crl.find(leaf.serialNumber, leaf.issuer)).toBeUndefined();
  });
});
