import { randomBytes } from "node:crypto";
import { CompactEncrypt, CompactSign } from "jose";
import { beforeAll, describe, expect, test } from "vitest";
import { type EnvelopeRecipient, type ExpectedEnvelope, openKeyEnvelope } from "#agents/key-envelope.ts";
import { parseIdentityUri } from "#pki/certificate-profile.ts";
import type { Certificate } from "#pki/certificate.ts";
import { systemClock } from "#pki/clock.ts";
import type { ErrorCode } from "#pki/errors.ts";
import { encryptCompactJwe, signCompactJws, thumbprintOf } from "#pki/jose.ts";
import { memoryFloors, RevocationStore } from "#pki/revocation.ts";
import { testAuthority, testKeyPair, type IssuedLeaf, type TestAuthority } from "../support/pki.ts";

const refused = (code: ErrorCode) => expect.objectContaining({ code });
const aliceUri = "spiffe://signet.internal/agent/alice";
const kmsUri = "spiffe://signet.internal/service/kms";
const material = randomBytes(32);

let authority: TestAuthority;
let kms: IssuedLeaf;
let alice: IssuedLeaf;
let recipient: EnvelopeRecipient;
let revocation: RevocationStore;

beforeAll(async () => {
  authority = await testAuthority({ now: new Date() });
  kms = await authority.issue({ kind: "service", role: "server", name: "kms" });
  alice = await authority.issue({ role: "client", name: "alice", keys: testKeyPair("rsa-2048") });
  recipient = recipientFor(alice);
  revocation = knowledge();
});

function knowledge(): RevocationStore {
  const store = new RevocationStore({ trustAnchors: [authority.root], floors: memoryFloors(), clock: systemClock, maxAgeMilliseconds: 300_000 });
  for (const crl of [authority.rootCrl([]), authority.leafCrl([])]) store.accept(crl.der, [authority.issuing]);
  return store;
}

function recipientFor(leaf: IssuedLeaf): EnvelopeRecipient {
  return {
    identity: parseIdentityUri(aliceUri),
    trustAnchors: [authority.root],
    revocation: { check: (path) => revocation.check(path) },
    credential: () => ({ privateKey: leaf.privateKey, chain: [leaf.certificate, authority.issuing] }),
  };
}

const base64 = (...chain: Certificate[]) => chain.map((certificate) => Buffer.from(certificate.der).toString("base64"));
const claims = (changes: object = {}) => ({
  iss: kmsUri, aud: aliceUri, iat: Math.floor(Date.now() / 1000), jti: "request", name: "orders", version: 2, state: "active", algorithms: ["AES-256-GCM"],
  jwk: { kty: "oct", kid: `${"0a".repeat(16)}.2`, k: material.toString("base64url") }, ...changes,
});
const header = (changes: object = {}) => ({ typ: "signet-key+jwt", x5c: base64(kms.certificate, authority.issuing), ...changes });
const signedBy = (leaf: IssuedLeaf, text: string, head: Record<string, unknown> = header()) => signCompactJws(head, Buffer.from(text), leaf.privateKey);
const sealed = (jws: Uint8Array) => encryptCompactJwe(alice.certificate, "JWT", jws);
const open = (envelope: Uint8Array, expected: ExpectedEnvelope = {}, to = recipient) => openKeyEnvelope(envelope, to, expected);

test("an envelope by the KMS opens to the key it holds, of the name and version that were asked for", () => {
  const key = open(sealed(signedBy(kms, JSON.stringify(claims()))), { name: "orders", version: 2 });
  expect(key).toMatchObject({ name: "orders", id: "0a".repeat(16), version: 2, algorithms: ["AES-256-GCM"] });
  expect(material.equals(key.secret.reveal("local-use"))).toBe(true);
});

test("one that jose has made opens too: the format is that of the RFCs", async () => {
  const jws = await new CompactSign(Buffer.from(JSON.stringify(claims()))).setProtectedHeader({ alg: "ES256", ...header() }).sign(kms.privateKey);
  const jwe = await new CompactEncrypt(Buffer.from(jws)).setProtectedHeader({ alg: "RSA-OAEP-256", enc: "A256GCM", cty: "JWT", "x5t#S256": thumbprintOf(alice.certificate) }).encrypt(alice.publicKey);
  expect(material.equals(open(Buffer.from(jwe)).secret.reveal("local-use"))).toBe(true);
});

describe("who sealed it: encryption alone proves nothing, anybody can encrypt to a certificate", () => {
  test.each<[string, ErrorCode, () => Promise<Uint8Array> | Uint8Array]>([
    ["another agent, under its own name", "purpose-not-permitted", async () => {
      const mallory = await authority.issue({ role: "client", name: "mallory" });
      return signedBy(mallory, JSON.stringify(claims()), header({ x5c: base64(mallory.certificate, authority.issuing) }));
    }],
    ["an agent by its server certificate", "peer-mismatch", async () => {
      const mallory = await authority.issue({ role: "server", name: "mallory" });
      return signedBy(mallory, JSON.stringify(claims({ iss: "spiffe://signet.internal/agent/mallory" })), header({ x5c: base64(mallory.certificate, authority.issuing) }));
    }],
    ["another service", "peer-mismatch", async () => {
      const api = await authority.issue({ kind: "service", role: "server", name: "api" });
      return signedBy(api, JSON.stringify(claims({ iss: "spiffe://signet.internal/service/api" })), header({ x5c: base64(api.certificate, authority.issuing) }));
    }],
    ["a KMS of another root of the same name", "signature-invalid", async () => {
      const foreign = await testAuthority({ now: new Date() });
      const other = await foreign.issue({ kind: "service", role: "server", name: "kms" });
      return signedBy(other, JSON.stringify(claims()), header({ x5c: base64(other.certificate, foreign.issuing, foreign.root) }));
    }],
    ["a key that is not the certificate's", "signature-invalid", () => signedBy({ ...kms, ...testKeyPair() }, JSON.stringify(claims()))],
    ["an expired certificate", "certificate-expired", async () => {
      const old = await authority.issue({ kind: "service", role: "server", name: "kms", notBefore: new Date(Date.now() - 7_000_000), notAfter: new Date(Date.now() - 1000) });
      return signedBy(old, JSON.stringify(claims()), header({ x5c: base64(old.certificate, authority.issuing) }));
    }],
    ["nobody: alg none", "algorithm-rejected", () => Buffer.from(`${Buffer.from(JSON.stringify({ alg: "none", ...header() })).toString("base64url")}.${Buffer.from(JSON.stringify(claims())).toString("base64url")}.`)],
  ])("by %s: %s", async (_who, code, jws) => {
    const envelope = sealed(await jws());
    expect(() => open(envelope)).toThrow(refused(code));
  });

  test("by an HMAC under the public key of the KMS (algorithm confusion): refused by the algorithm", async () => {
    const spki = Buffer.from(String(kms.publicKey.export({ type: "spki", format: "pem" })));
    const jws = await new CompactSign(Buffer.from(JSON.stringify(claims()))).setProtectedHeader({ alg: "HS256", ...header() }).sign(spki);
    expect(() => open(sealed(Buffer.from(jws)))).toThrow(refused("algorithm-rejected"));
  });

  test("by a KMS that was revoked since, or without fresh CRLs", () => {
    const envelope = sealed(signedBy(kms, JSON.stringify(claims())));
    try {
      revocation.accept(authority.leafCrl([{ serialNumber: kms.certificate.serialNumber, revocationDate: new Date(), reason: "keyCompromise" }], { crlNumber: 2n, thisUpdate: new Date(Date.now() - 1_800_000) }).der, [authority.issuing]);
      expect(() => open(envelope)).toThrow(refused("certificate-revoked"));
      revocation = new RevocationStore({ trustAnchors: [authority.root], floors: memoryFloors(), clock: systemClock, maxAgeMilliseconds: 300_000 });
      expect(() => open(envelope)).toThrow(refused("crl-missing"));
    } finally {
      revocation = knowledge();
    }
  });
});

describe("what it says", () => {
  test.each<[string, ErrorCode, object, ExpectedEnvelope]>([
    ["another audience", "peer-mismatch", { aud: "spiffe://signet.internal/agent/bob" }, {}],
    ["another issuer", "peer-mismatch", { iss: aliceUri }, {}],
    ["another key than was asked for", "message-replayed", { name: "invoices" }, { name: "orders" }],
    ["another version than was asked for", "message-replayed", { version: 1 }, { version: 2 }],
    ["a time long ago", "message-replayed", { iat: Math.floor(Date.now() / 1000) - 3600 }, {}],
    ["a time ahead", "message-replayed", { iat: Math.floor(Date.now() / 1000) + 3600 }, { maximumAgeMilliseconds: Infinity }],
    ["a key of another kind", "ciphertext-malformed", { jwk: { kty: "RSA", kid: `${"0a".repeat(16)}.2`, k: material.toString("base64url") } }, {}],
    ["a short key", "ciphertext-malformed", { jwk: { kty: "oct", kid: `${"0a".repeat(16)}.2`, k: material.subarray(1).toString("base64url") } }, {}],
    ["a further member", "ciphertext-malformed", { exp: 1 }, {}],
    ["no key", "ciphertext-malformed", { jwk: { kty: "oct", kid: `${"0a".repeat(16)}.2` } }, {}],
  ])("%s is refused", (_what, code, changes, expected) => {
    expect(() => open(sealed(signedBy(kms, JSON.stringify(claims(changes)))), expected)).toThrow(refused(code));
  });

  test("two keys, a member that stands twice and a name that only looks like one are refused", () => {
    const text = JSON.stringify(claims());
    for (const forged of [text.replace('"k":', `"k":"${"A".repeat(43)}","k":`), text.replace('"aud":', '"aud":"x","aud":'), text.replace('"orders"', '"k\\":\\""'), `${text} `]) {
      expect(() => open(sealed(signedBy(kms, forged)))).toThrow(refused("ciphertext-malformed"));
    }
  });

  test("one that was kept opens where its age is allowed", () => {
    expect(open(sealed(signedBy(kms, JSON.stringify(claims({ iat: 1_700_000_000 })))), { maximumAgeMilliseconds: Infinity }).version).toBe(2);
  });
});

describe("headers are whole or nothing", () => {
  test.each<[string, object]>([["crit", { crit: ["exp"] }], ["jwk", { jwk: {} }], ["jku", { jku: "https://localhost/" }], ["b64", { b64: false }], ["another typ", { typ: "JWT" }], ["no chain", { x5c: [] }]])("a JWS with %s is refused", (_what, changes) => {
    expect(() => open(sealed(signedBy(kms, JSON.stringify(claims()), header(changes))))).toThrow(refused("ciphertext-malformed"));
  });

  test.each<[string, Record<string, unknown>]>([["zip", { zip: "DEF" }], ["another enc", { enc: "A128GCM" }], ["another alg", { alg: "RSA-OAEP" }], ["another cty", { cty: "octet-stream" }]])("a JWE with %s is refused", async (_what, changes) => {
    const head = { alg: "RSA-OAEP-256", enc: "A256GCM", cty: "JWT", "x5t#S256": thumbprintOf(alice.certificate), ...changes };
    const [, ...rest] = sealed(signedBy(kms, JSON.stringify(claims()))).toString("latin1").split(".");
    expect(() => open(Buffer.from([Buffer.from(JSON.stringify(head)).toString("base64url"), ...rest].join(".")))).toThrow(refused("ciphertext-malformed"));
  });

  test("sealed to another: by another certificate of the same key, by another key, or opened without an RSA key", async () => {
    const envelope = sealed(signedBy(kms, JSON.stringify(claims())));
    const renewed = await authority.issue({ role: "client", name: "alice", keys: alice });
    expect(() => open(envelope, {}, recipientFor(renewed))).toThrow(refused("decryption-failed"));
    expect(() => open(envelope, {}, recipientFor({ ...alice, ...testKeyPair("rsa-2048") }))).toThrow(refused("decryption-failed"));
    expect(() => open(envelope, {}, recipientFor({ ...alice, ...testKeyPair() }))).toThrow(refused("key-rejected"));
  });
});
