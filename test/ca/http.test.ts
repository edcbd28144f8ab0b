import { mkdtempSync, rmSync } from "node:fs";
import { request as httpRequest } from "node:http";
import { tmpdir } from "node:os";
import path from "node:path";
import { buffer } from "node:stream/consumers";
import tls from "node:tls";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { CertificateRevocationList } from "#pki/crl.ts";
import { Certificate } from "#pki/certificate.ts";
import { systemClock } from "#pki/clock.ts";
import { EnrolmentClient, fetchPinnedRoot } from "#pki/enrolment-client.ts";
import { EnrolledIdentity } from "#pki/identity.ts";
import { createCsr, generateKeyPair } from "#pki/keys.ts";
import { caRoutes, certificateAnswer, certificateDetails, certificatesAnswer, crlsAnswer, estMediaTypes, estRoutes, revocationAnswer, tokenAnswer } from "#pki/protocol-ca.ts";
import { caSummary } from "#pki/protocol-summary.ts";
import { memoryFloors, RevocationStore } from "#pki/revocation.ts";
import { callerOf, enrolWith, operatorOf, startCa, type CaCaller } from "#test/support/services.ts";

const data = mkdtempSync(path.join(tmpdir(), "signet-ca-"));
let ca: Awaited<ReturnType<typeof startCa>>;
let operator: CaCaller;
const callers: CaCaller[] = [];

beforeAll(async () => {
  ca = await startCa(data, { outlivesTest: true, arguments: ["--dns", "example.test"] });
  operator = await operatorOf(ca);
  callers.push(operator);
});
afterAll(async () => {
  for (const caller of callers) caller.close();
  await ca.kill();
  rmSync(data, { recursive: true });
});

async function enrolledCaller(name: string, options: Parameters<typeof enrolWith>[3] = {}): Promise<CaCaller> {
  const caller = await callerOf(await enrolWith(operator, ca.ready, name, options), ca.ready);
  callers.push(caller);
  return caller;
}

const clientOf = ({ identity }: CaCaller) => identity.credential("client").chain[0] as Certificate;
const tokenFor = async (name: string, more: object = {}) => tokenAnswer.parse((await operator.call("POST", caRoutes.tokens, { name, kind: "agent", ...more })).json());
const revoke = async (body: object) => revocationAnswer.parse((await operator.call("POST", caRoutes.revocations, body)).json());
const csr = async (names: Parameters<typeof createCsr>[1] = {}, key?: Awaited<ReturnType<typeof generateKeyPair>>) => createCsr((key ?? (await generateKeyPair("ec-p256"))).privateKey, names);
const csrBody = async () => Buffer.from(Buffer.from(await csr()).toString("base64"));

/** A party before its enrolment. */
async function stranger(): Promise<EnrolmentClient> {
  const caUrl = new URL(ca.ready.enrolmentUrl);
  const root = await fetchPinnedRoot(caUrl, ca.ready.rootFingerprint);
  const revocation = new RevocationStore({ trustAnchors: [root], floors: memoryFloors(), clock: systemClock, maxAgeMilliseconds: 60_000 });
  const client = new EnrolmentClient({ caUrl, root, revocation, clock: systemClock });
  const issuers = await client.cacerts();
  for (const name of await client.crlNames()) {
    const answer = await client.fetchCrl(name, {});
    if (answer.status === "new") revocation.accept(answer.der, issuers);
  }
  return client;
}

describe("enrolment", () => {
  test("with a token a party gets a certificate for its own key and the token's name, by EST over verified TLS", async () => {
    const alice = await enrolledCaller("alice", { keyType: "rsa-2048" });
    expect(alice.identity.identity.uri).toBe("spiffe://signet.internal/agent/alice");
    const certificate = clientOf(alice);
    expect(certificate.extensions.subjectAltName?.map(({ kind, value }) => [kind, value])).toEqual([["uri", "spiffe://signet.internal/agent/alice"]]);
    expect(certificate.extensions.crlDistributionPoints?.[0]?.fullNames?.map(({ value }) => value)).toEqual([`${ca.ready.publicationUrl}/crl/leaf-0.crl`]);
    expect(await alice.call("GET", caRoutes.crls).then((answer) => crlsAnswer.parse(answer.json()).crls.map(({ name }) => name))).toEqual(["root", "leaf-0"]);
  });

  test("from a CSR the key alone is taken: its subject, names and extensions go nowhere", async () => {
    const { token } = await tokenFor("carol");
    const client = await stranger();
    const request = await csr({ commonName: "admin", uri: "spiffe://signet.internal/operator/admin", dns: ["localhost"], ip: ["127.0.0.1"] });
    const [certificate, ...more] = await client.simpleenroll("carol", token, request);
    client.close();
    expect(more).toEqual([]);
    expect(certificate?.extensions.subjectAltName?.map(({ value }) => value)).toEqual(["spiffe://signet.internal/agent/carol"]);
    expect(certificate?.subject.rdns).toEqual([]);
  });

  test("ten redemptions of one token at once give one certificate", async () => {
    const { token } = await tokenFor("racer");
    const client = await stranger();
    const requests = await Promise.all(Array.from({ length: 10 }, () => csr()));
    const results = await Promise.allSettled(requests.map((request) => client.simpleenroll("racer", token, request)));
    client.close();
    expect(results.filter(({ status }) => status === "fulfilled")).toHaveLength(1);
    for (const result of results) if (result.status === "rejected") expect(result.reason).toMatchObject({ code: "token-invalid" });
    const { certificates } = certificatesAnswer.parse((await operator.call("GET", `${caRoutes.certificates}?identity=spiffe://signet.internal/agent/racer`)).json());
    expect(certificates).toHaveLength(1);
  });

  test("an unknown, a used, a burnt and another's token look alike", async () => {
    const client = await stranger();
    const used = await tokenFor("used");
    await client.simpleenroll("used", used.token, await csr());
    const burnt = await tokenFor("burnt");
    await revoke({ identity: "spiffe://signet.internal/agent/burnt", reason: "cessationOfOperation" });
    const others = await tokenFor("others");
    const refusals = await Promise.all(
      ([["nobody", "x".repeat(43)], ["used", used.token], ["burnt", burnt.token], ["alice", others.token], ["others", ""]] as const).map(async ([name, token]) =>
        client.simpleenroll(name, token, await csr()).catch(({ code, message }: { code: string; message: string }) => ({ code, message })),
      ),
    );
    client.close();
    for (const refusal of refusals) expect(refusal).toEqual(refusals[0]);
    expect(refusals[0]).toMatchObject({ code: "token-invalid" });
  });

  test("a request that is refused for its key leaves the token as it was", async () => {
    const { token } = await tokenFor("careful");
    const client = await stranger();
    const request = Buffer.from(await csr());
    request.writeUInt8(request.readUInt8(request.length - 1) ^ 1, request.length - 1);
    await expect(client.simpleenroll("careful", token, request)).rejects.toMatchObject({ code: "csr-signature-invalid" });
    await expect(client.simpleenroll("careful", token, Buffer.from("3000", "hex"))).rejects.toMatchObject({ code: "csr-malformed" });
    expect(await client.simpleenroll("careful", token, await csr())).toHaveLength(1);
    client.close();
  });
});

describe("roles", () => {
  test("an agent gets a server certificate whose only name is its URI, and renews both roles", async () => {
    const { identity } = await enrolledCaller("server-agent");
    await identity.enrollServerRole();
    const first = identity.credential("server").chain[0];
    expect(first?.extensions.subjectAltName?.map(({ kind }) => kind)).toEqual(["uri"]);
    await identity.renew("server");
    await identity.renew("client");
    expect(identity.credential("server").chain[0]?.serialNumber).not.toBe(first?.serialNumber);
  });

  test("a service's server names are those that the operator gave its token, within the authority's constraints", async () => {
    const { identity } = await enrolledCaller("api", { kind: "service", dns: ["api.example.test", "localhost"] });
    await identity.enrollServerRole();
    expect(identity.credential("server").chain[0]?.extensions.subjectAltName?.map(({ value }) => value)).toEqual(["spiffe://signet.internal/service/api", "api.example.test", "localhost"]);
    await expect(operator.call("POST", caRoutes.tokens, { name: "web", kind: "service", dns: ["bank.example"] })).rejects.toMatchObject({ code: "name-not-permitted" });
    await expect(operator.call("POST", caRoutes.tokens, { name: "web", kind: "agent", dns: ["localhost"] })).rejects.toMatchObject({ code: "request-malformed" });
    const nameless = await enrolledCaller("nameless", { kind: "service" });
    await expect(nameless.identity.enrollServerRole()).rejects.toMatchObject({ code: "not-permitted" });
  });

  test("nobody, not even an operator, is certified as the authority itself", async () => {
    await expect(operator.call("POST", caRoutes.tokens, { name: "ca", kind: "service" })).rejects.toMatchObject({ code: "not-permitted" });
    const body = { csr: Buffer.from(await csr()).toString("base64"), kind: "service", name: "ca", role: "server", dns: ["localhost"] };
    await expect(operator.call("POST", caRoutes.certificates, body)).rejects.toMatchObject({ code: "not-permitted" });
  });

  test("an operator issues for a CSR, and what it issued is found by serial number", async () => {
    const body = { csr: Buffer.from(await csr({ commonName: "ignored" })).toString("base64"), kind: "service", name: "shop", role: "server", dns: ["shop.example.test"], validityDays: 7 };
    const answer = await operator.call("POST", caRoutes.certificates, body);
    const { certificate, chain } = certificateAnswer.parse(answer.json());
    const [leaf, issuing] = Certificate.listFromPem(chain);
    expect(leaf?.toPem()).toBe(certificate);
    expect(issuing?.isSignedBy((await ca1Root()).subjectPublicKeyInfo)).toBe(true);
    const found = certificateDetails.parse((await operator.call("GET", caRoutes.certificate(leaf?.serialNumber ?? ""))).json());
    expect(found).toMatchObject({ identity: "spiffe://signet.internal/service/shop", role: "server", state: "valid", certificate });
    await expect(operator.call("POST", caRoutes.certificates, { ...body, validityDays: 91 })).rejects.toMatchObject({ code: "request-malformed" });
    await expect(operator.call("GET", caRoutes.certificate("00ff"))).rejects.toMatchObject({ code: "not-found" });
  });

  const ca1Root = () => fetchPinnedRoot(new URL(ca.ready.enrolmentUrl), ca.ready.rootFingerprint);
});

describe("every route against every role: what is not for a caller is denied", () => {
  const operatorRoutes: [method: "GET" | "POST", path: string, body?: object][] = [
    ["POST", caRoutes.tokens, { name: "x", kind: "operator" }],
    ["POST", caRoutes.certificates, {}],
    ["GET", caRoutes.certificates],
    ["GET", caRoutes.certificate("0a")],
    ["POST", caRoutes.revocations, { identity: "spiffe://signet.internal/operator/admin", reason: "keyCompromise" }],
    ["POST", caRoutes.crls],
    ["GET", caRoutes.summary],
  ];
  const commonRoutes: typeof operatorRoutes = [["GET", caRoutes.crls], ["GET", caRoutes.crl("leaf-0")], ["GET", caRoutes.chain], ["GET", estRoutes.cacerts]];
  // Of the other listeners alone.
  const absentRoutes: typeof operatorRoutes = [["GET", caRoutes.directory], ["POST", estRoutes.simpleenroll], ["GET", "/crl/leaf-0.crl"]];

  test.each(["agent", "service", "operator"] as const)("%s", async (kind) => {
    const caller = kind === "operator" ? operator : await enrolledCaller(`matrix-${kind}`, { kind });
    for (const [method, route, body] of commonRoutes) expect((await caller.call(method, route, body)).status).toBe(200);
    for (const [method, route, body] of absentRoutes) await expect(caller.call(method, route, body)).rejects.toMatchObject({ code: "route-not-found" });
    if (kind === "operator") return;
    for (const [method, route, body] of operatorRoutes) await expect(caller.call(method, route, body), `${method} ${route}`).rejects.toMatchObject({ code: "not-permitted" });
    for (const route of [caRoutes.tokens, caRoutes.revocations])
      await expect(caller.call("POST", route, Buffer.from("{ broken"))).rejects.toMatchObject({ code: "not-permitted" });
  });

  test("an operator has no server role", async () => {
    await expect(operator.identity.enrollServerRole()).rejects.toMatchObject({ code: "not-permitted" });
  });

  test("no certificate, no byte: the mutual listener ends the connection", async () => {
    const { port, hostname } = new URL(ca.ready.mutualUrl);
    const received = await new Promise<number>((resolve) => {
      let octets = 0;
      const socket = tls.connect({ port: Number(port), host: hostname, rejectUnauthorized: false, ALPNProtocols: ["http/1.1"] }, () => socket.write("GET /v1/crls HTTP/1.1\r\nHost: localhost\r\n\r\n"));
      socket.on("data", (chunk) => (octets += chunk.length));
      socket.on("error", () => {});
      socket.on("close", () => resolve(octets));
    });
    expect(received).toBe(0);
  });
});

describe("bad requests", () => {
  test.each<[string, string, object | Buffer, string, Record<string, string>?]>([
    ["a kind that does not exist", caRoutes.tokens, { name: "x", kind: "root" }, "request-malformed"],
    ["a name with a dot", caRoutes.tokens, { name: "a.b", kind: "agent" }, "request-malformed"],
    ["a name in capitals", caRoutes.tokens, { name: "Alice", kind: "agent" }, "request-malformed"],
    ["a reason that does not exist", caRoutes.revocations, { identity: "spiffe://signet.internal/agent/x", reason: "removeFromCRL" }, "request-malformed"],
    ["a revocation of nothing", caRoutes.revocations, { reason: "superseded" }, "request-malformed"],
    ["a revocation of two things", caRoutes.revocations, { identity: "spiffe://signet.internal/agent/x", serialNumber: "0a", reason: "superseded" }, "request-malformed"],
    ["a revocation of what is not there", caRoutes.revocations, { identity: "spiffe://signet.internal/agent/unheard-of", reason: "superseded" }, "not-found"],
    ["a CSR that is none", caRoutes.certificates, { csr: "MAAA", kind: "agent", name: "x", role: "client" }, "csr-malformed"],
    ["EST under another media type", estRoutes.simplereenroll, Buffer.from("MAAA"), "unsupported-media-type"],
    ["EST without base64", estRoutes.simplereenroll, Buffer.from("%%%"), "csr-malformed", { "content-type": estMediaTypes.request }],
  ])("%s", async (_, route, body, code, headers) => {
    await expect(operator.call("POST", route, body, headers)).rejects.toMatchObject({ code });
  });

  test("a cursor that the route did not give", async () => {
    await expect(operator.call("GET", `${caRoutes.certificates}?cursor=1'--`)).rejects.toMatchObject({ code: "request-malformed" });
  });
});

describe("revocation", () => {
  const currentCrl = async () => CertificateRevocationList.parse((await operator.call("GET", caRoutes.crl("leaf-0"))).body);

  test("of an identity takes all its certificates and unused tokens, is on the CRL when acknowledged, and cuts its open connection", async () => {
    const bob = await enrolledCaller("bob");
    await bob.identity.enrollServerRole();
    await bob.call("GET", caRoutes.crls);
    const { token } = await tokenFor("bob");
    const answer = await revoke({ identity: "spiffe://signet.internal/agent/bob", reason: "privilegeWithdrawn" });
    const serials = [clientOf(bob).serialNumber, bob.identity.credential("server").chain[0]?.serialNumber];
    expect(new Set(answer.revoked)).toEqual(new Set(serials));
    const crl = await currentCrl();
    expect(crl.crlNumber).toBeGreaterThanOrEqual(BigInt(answer.crlNumber));
    for (const serial of answer.revoked) expect(crl.find(serial)?.reason).toBe("privilegeWithdrawn");
    await expect(bob.call("GET", caRoutes.crls)).rejects.toMatchObject({ code: expect.stringMatching(/^(tls-refused|certificate-revoked)$/) });
    await expect(bob.call("POST", estRoutes.simplereenroll, await csrBody(), { "content-type": estMediaTypes.request })).rejects.toMatchObject({ code: "certificate-revoked" });
    const client = await stranger();
    await expect(client.simpleenroll("bob", token, await csr())).rejects.toMatchObject({ code: "token-invalid" });
    client.close();
    // A new token is an operator's word of its own: the name may come back, the certificates may not.
    await enrolledCaller("bob");
    expect((await revoke({ serialNumber: answer.revoked[0], reason: "superseded" })).revoked).toEqual([answer.revoked[0]]);
    expect((await currentCrl()).find(answer.revoked[0] ?? "")?.reason).toBe("privilegeWithdrawn");
  });

  test("for keyCompromise bars the key for ever and takes every certificate on it; another reason does not", async () => {
    const key = await generateKeyPair("ec-p256");
    const issue = async (name: string) => {
      const body = { csr: Buffer.from(await csr({}, key)).toString("base64"), kind: "agent", name, role: "client" };
      return Certificate.fromPem(certificateAnswer.parse((await operator.call("POST", caRoutes.certificates, body)).json()).certificate).serialNumber;
    };
    const first = await issue("kc-first");
    const second = await issue("kc-second");
    await revoke({ serialNumber: first, reason: "superseded" });
    const third = await issue("kc-first");
    const { revoked } = await revoke({ serialNumber: third, reason: "keyCompromise" });
    expect(new Set(revoked)).toEqual(new Set([first, second, third]));
    const crl = await currentCrl();
    expect([first, second, third].map((serial) => crl.find(serial)?.reason)).toEqual(["superseded", "keyCompromise", "keyCompromise"]);
    await expect(issue("kc-third")).rejects.toMatchObject({ code: "key-barred" });
  });

  test("many at once share publications, and every acknowledgement names a CRL that carries its own", async () => {
    const issue = async (n: number) => {
      const body = { csr: Buffer.from(await csr()).toString("base64"), kind: "agent", name: `many-${n}`, role: "client" };
      return Certificate.fromPem(certificateAnswer.parse((await operator.call("POST", caRoutes.certificates, body)).json()).certificate).serialNumber;
    };
    const serials = await Promise.all(Array.from({ length: 20 }, (_, n) => issue(n)));
    const before = (await currentCrl()).crlNumber ?? 0n;
    const answers = await Promise.all(serials.map((serialNumber) => revoke({ serialNumber, reason: "superseded" })));
    const crl = await currentCrl();
    for (const [n, answer] of answers.entries()) {
      expect(answer.revoked).toEqual([serials[n]]);
      expect(BigInt(answer.crlNumber)).toBeGreaterThan(before);
      expect(crl.find(serials[n] ?? "")).toBeDefined();
    }
    expect((crl.crlNumber ?? 0n) - before).toBeLessThan(20n);
  });

  test("a long poll is answered when there is news, not before and not only at its end", async () => {
    const watcher = await enrolledCaller("watcher");
    const held = await watcher.call("GET", caRoutes.crl("leaf-0"));
    const etag = String(held.headers["etag"]);
    expect((await watcher.call("GET", caRoutes.crl("leaf-0"), undefined, { "if-none-match": etag })).status).toBe(304);
    let answered = false;
    const poll = watcher.call("GET", caRoutes.crl("leaf-0"), undefined, { "if-none-match": etag, prefer: "wait=30" }).finally(() => (answered = true));
    // A second connection's round trips pass while it waits.
    await operator.call("GET", caRoutes.crls);
    await operator.call("GET", caRoutes.crls);
    expect(answered).toBe(false);
    await operator.call("POST", caRoutes.crls);
    const news = await poll;
    expect(news.status).toBe(200);
    expect(news.headers["preference-applied"]).toBe("wait=30");
    expect(CertificateRevocationList.parse(news.body).crlNumber).toBeGreaterThan(CertificateRevocationList.parse(held.body).crlNumber ?? 0n);
  });

  test("the root and the issuing CA are not revoked through themselves", async () => {
    for (const certificate of Certificate.listFromPem((await operator.call("GET", caRoutes.chain)).body.toString()))
      await expect(operator.call("POST", caRoutes.revocations, { serialNumber: certificate.serialNumber, reason: "cACompromise" })).rejects.toMatchObject({ code: "not-permitted" });
  });

  test("of the authority's own server certificate makes it take a new one at once", async () => {
    const { certificates } = certificatesAnswer.parse((await operator.call("GET", `${caRoutes.certificates}?identity=spiffe://signet.internal/service/ca&state=valid`)).json());
    await revoke({ serialNumber: certificates[0]?.serialNumber, reason: "superseded" });
    const again = await operatorOf(ca);
    callers.push(again);
    expect((await again.call("GET", caRoutes.crls)).status).toBe(200);
  });
});

test("an operator is told in a summary what a listing would count, who is connected and what was done last", async () => {
  const carol = await enrolledCaller("summary-carol");
  await carol.call("GET", caRoutes.crls);
  await enrolledCaller("summary-dora");
  await revoke({ identity: "spiffe://signet.internal/agent/summary-dora", reason: "privilegeWithdrawn" });
  const summary = caSummary.parse((await operator.call("GET", caRoutes.summary)).json());
  const counted = async (state: string) => {
    let [total, cursor] = [0, ""];
    do {
      const page = certificatesAnswer.parse((await operator.call("GET", `${caRoutes.certificates}?state=${state}&limit=500${cursor}`)).json());
      total += page.certificates.length;
      cursor = page.nextCursor === undefined ? "" : `&cursor=${page.nextCursor}`;
    } while (cursor !== "");
    return total;
  };
  expect(summary.certificates).toEqual({ valid: await counted("valid"), revoked: await counted("revoked"), expired: await counted("expired"), expiring: expect.any(Number) });
  expect(summary.revocations[0]).toMatchObject({ identity: "spiffe://signet.internal/agent/summary-dora", reason: "privilegeWithdrawn" });
  expect(summary.peers.latest).toContainEqual({ identity: "spiffe://signet.internal/agent/summary-carol", kind: "agent", connections: 1, since: expect.any(String) });
  expect(summary.crls.map(({ name }) => name)).toEqual(["root", "leaf-0"]);
  expect(summary.audit.map(({ action }) => action)).toEqual(expect.arrayContaining(["crl.published", "identity.revoked"]));
  expect(summary.audit.find(({ action }) => action === "identity.revoked")).toMatchObject({ reason: "privilegeWithdrawn" });
});

describe("publication listener", () => {
  const get = (route: string, method = "GET") =>
    new Promise<{ status: number; type: string; body: Buffer }>((resolve, reject) => {
      httpRequest(new URL(route, ca.ready.publicationUrl), { method }, (answer) => {
        buffer(answer).then((body) => resolve({ status: answer.statusCode ?? 0, type: String(answer.headers["content-type"]), body }), reject);
      })
        .on("error", reject)
        .end();
    });

  test("serves the CRLs and the CA certificates where the certificates point, and nothing else", async () => {
    const issuing = Certificate.parse((await get("/ca/issuing.crt")).body);
    const root = Certificate.parse((await get("/ca/root.crt")).body);
    expect(root.fingerprint).toBe(ca.ready.rootFingerprint);
    const leaves = await get("/crl/leaf-0.crl");
    expect(leaves).toMatchObject({ status: 200, type: "application/pkix-crl" });
    CertificateRevocationList.parse(leaves.body).verifySignature(issuing);
    CertificateRevocationList.parse((await get("/crl/root.crl")).body).verifySignature(root);
    for (const route of [caRoutes.tokens, caRoutes.directory, estRoutes.simpleenroll, "/crl/leaf-1.crl", "/crl/../ca.sqlite"]) expect((await get(route)).status).toBe(404);
    expect((await get("/crl/leaf-0.crl", "POST")).status).toBe(405);
  });
});

test("no token stands in the log", async () => {
  const { token } = await tokenFor("canary");
  await EnrolledIdentity.enroll({ caUrl: ca.ready.enrolmentUrl, rootFingerprint: ca.ready.rootFingerprint, name: "canary", token, keyType: "ec-p256" });
  expect(ca.log()).toContain("CRL published");
  expect(ca.log()).not.toContain(token);
  expect(ca.log()).not.toContain("PRIVATE KEY");
});
