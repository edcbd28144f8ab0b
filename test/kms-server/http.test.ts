import { compactDecrypt, jwtVerify } from "jose";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { SecretKey } from "#pki/keys.ts";
import { kmsSummary } from "#pki/protocol-summary.ts";
import { testKeyPair } from "../support/pki.ts";
import { trustDomain } from "./fixture.ts";
import { startTestKms, type Party, type TestKms } from "./wire.ts";

let kms: TestKms;
beforeAll(async () => {
  kms = await startTestKms();
});
afterAll(() => kms.stop());

const canary = Buffer.from(SecretKey.random(32).reveal("local-use"));

test("a key goes from its owner to a reader as 32 raw octets, with its version and state in the headers", async () => {
  const { alice, bob } = kms.parties;
  const created = await alice.request("POST", "/v1/keys", { name: "group", spec: "aes-256", distribution: { readers: [bob.uri] } });
  expect(created.status).toBe(201);
  expect(created.json).toMatchObject({ name: "group", owner: alice.uri, distribution: { readers: [bob.uri] }, latest: { version: 1, state: "active" } });
  expect(created.headers.etag).toBe(created.json["etag"]);
  const material = await bob.request("GET", "/v1/keys/group/versions/latest/material");
  expect(material.status).toBe(200);
  expect(material.octets.length).toBe(32);
  expect(material.headers).toMatchObject({
    "content-type": "application/octet-stream", "cache-control": "no-store",
    "signet-key-id": created.json["id"], "signet-key-version": "1", "signet-key-state": "active",
  });
  expect((await alice.request("GET", "/v1/keys/group/versions/1/material")).octets.equals(material.octets)).toBe(true);
  const again = await bob.request("GET", "/v1/keys/group/versions/1/material", undefined, { "If-None-Match": String(material.headers.etag) });
  expect(again).toMatchObject({ status: 304, octets: Buffer.alloc(0) });
});

test("the octets of a key are zero once they have been sent, or cannot be sent any more", async () => {
  const { alice } = kms.parties;
  await alice.request("POST", "/v1/keys", { name: "zeroed", spec: "aes-256" });
  const before = kms.released.length;
  const { octets } = await alice.request("GET", "/v1/keys/zeroed/versions/latest/material");
  expect(octets.equals(Buffer.alloc(32))).toBe(false);
  await alice.hangUp("/v1/keys/zeroed/versions/latest/material");
  expect(kms.released.length).toBeGreaterThan(before);
  await expect.poll(() => kms.released.every((material) => material.every((octet) => octet === 0)), { timeout: 30_000 }).toBe(true);
});

describe("a key as an envelope (Accept: application/jose)", () => {
  const keys = testKeyPair("rsa-2048");
  const accept = { Accept: "application/jose" };
  const path = "/v1/keys/sealed/versions/latest/material";
  let rosa: Party;
  beforeAll(async () => {
    rosa = await kms.enrol("rosa", keys);
    await kms.parties.alice.request("POST", "/v1/keys", { name: "sealed", spec: "aes-256", distribution: { readers: [rosa.uri] } });
  });

  test("jose opens and verifies it: a JWE to the caller's certificate around a JWS by the KMS, with the octets that are handed out raw", async () => {
    const before = kms.released.length;
    const answer = await rosa.request("GET", path, undefined, { Accept: "application/json;q=0.5, application/JOSE" });
    expect(answer).toMatchObject({ status: 200, headers: { "content-type": "application/jose", "cache-control": "no-store", vary: "Accept" } });
    expect(answer.headers.etag).toBeUndefined();
    const { plaintext, protectedHeader } = await compactDecrypt(answer.octets.toString("latin1"), keys.privateKey);
    expect(protectedHeader).toMatchObject({ alg: "RSA-OAEP-256", enc: "A256GCM", cty: "JWT" });
    const { payload, protectedHeader: signed } = await jwtVerify(Buffer.from(plaintext).toString("latin1"), kms.certificate.subjectPublicKeyInfo.keyObject, {
      audience: rosa.uri, issuer: `spiffe://${trustDomain}/service/kms`, typ: "signet-key+jwt", algorithms: ["ES256"],
    });
    expect(signed.x5c?.[0]).toBe(Buffer.from(kms.certificate.der).toString("base64"));
    const raw = await rosa.request("GET", path);
    expect(payload).toMatchObject({ name: "sealed", version: 1, state: "active", jwk: { kty: "oct", kid: `${String(raw.headers["signet-key-id"])}.1`, k: raw.octets.toString("base64url") } });
    expect(Math.abs(Number(payload.iat) - Date.now() / 1000)).toBeLessThan(300);
    await expect.poll(() => kms.released.slice(before).every((octets) => octets.every((octet) => octet === 0)), { timeout: 30_000 }).toBe(true);
    const { entries } = (await kms.parties.olga.request("GET", "/v1/audit/entries?limit=200")).json as { entries: { action: string; actor: string; details: { requestId: string } }[] };
    expect(entries).toContainEqual(expect.objectContaining({ action: "key.distributed", actor: rosa.uri, details: expect.objectContaining({ requestId: payload.jti }) }));
  });

  test("a caller without an RSA key is told so in place of the octets; without a right to the key, as ever", async () => {
    const { alice, dave } = kms.parties;
    const refusal = await alice.request("GET", path, undefined, accept);
    expect(refusal).toMatchObject({ status: 406, headers: { "content-type": "application/problem+json" }, json: { code: "not-acceptable" } });
    const stranger = await kms.enrol("sam", testKeyPair("rsa-2048"));
    expect(await stranger.request("GET", path, undefined, accept)).toMatchObject({ status: 403, json: { code: "not-permitted" } });
    expect(await dave.request("GET", path, undefined, accept)).toMatchObject({ status: 406 });
  });

  test("a key is asked about anew each time: no 304 stands for an envelope, and a revoked key gives none", async () => {
    const raw = await rosa.request("GET", path);
    expect(await rosa.request("GET", path, undefined, { ...accept, "If-None-Match": String(raw.headers.etag) })).toMatchObject({ status: 200 });
    await kms.parties.alice.request("POST", "/v1/keys/sealed:revoke", { reason: "keyCompromise" });
    expect(await rosa.request("GET", path, undefined, accept)).toMatchObject({ status: 409, json: { code: "state-conflict" } });
  });
});

test("absent and forbidden look alike, to the octet but for the request's id", async () => {
  const { alice, dave } = kms.parties;
  await alice.request("POST", "/v1/keys", { name: "private", spec: "aes-256" });
  for (const path of ["", "/versions", "/versions/latest/material", "/versions/1/material"]) {
    const [there, absent] = await Promise.all(["private", "nowhere"].map((name) => dave.request("GET", `/v1/keys/${name}${path}`)));
    expect(there).toMatchObject({ status: 403, json: { code: "not-permitted" } });
    expect({ ...there?.json, requestId: "" }).toEqual({ ...absent?.json, requestId: "" });
  }
  const [there, absent] = await Promise.all(["private", "nowhere"].map((name) => dave.request("POST", `/v1/keys/${name}:revoke`, { reason: "unspecified" })));
  expect(there).toMatchObject({ status: 200, json: { key: "private", revoked: true } });
  expect(absent).toMatchObject({ status: 200, json: { key: "nowhere", revoked: true } });
  expect((await alice.request("GET", "/v1/keys/private/versions/latest/material")).status).toBe(200);
});

test("the whole life of a key over HTTP", async () => {
  const { alice, bob, olga } = kms.parties;
  const created = await alice.request("POST", "/v1/keys", { name: "life", spec: "aes-256" });
  const changed = await alice.request("PATCH", "/v1/keys/life", { distribution: { readers: [bob.uri] } }, { "If-Match": String(created.headers.etag) });
  expect(changed).toMatchObject({ status: 200, json: { distribution: { readers: [bob.uri] } } });
  expect(await alice.request("PATCH", "/v1/keys/life", { distribution: { readers: [] } }, { "If-Match": String(created.headers.etag) })).toMatchObject({ status: 412, json: { code: "precondition-failed" } });
  const sealed = await bob.request("POST", "/v1/keys/life:encrypt", { plaintext: Buffer.from("hello").toString("base64"), context: { a: "1" } });
  expect(await alice.request("POST", "/v1/keys/life:rotate")).toMatchObject({ status: 200, json: { latest: { version: 2 } } });
  const opened = await bob.request("POST", "/v1/keys/life:decrypt", { ciphertext: sealed.json["ciphertext"], context: { a: "1" } });
  expect(opened).toMatchObject({ status: 200, json: { plaintext: Buffer.from("hello").toString("base64"), version: 1 } });
  expect(await bob.request("POST", "/v1/keys/life:decrypt", { ciphertext: sealed.json["ciphertext"] })).toMatchObject({ status: 400, json: { code: "decryption-failed" } });
  expect(await bob.request("GET", "/v1/keys/life/versions")).toMatchObject({ status: 200, json: { versions: [{ version: 1, state: "deactivated", uses: 1 }, { version: 2, state: "active" }] } });
  expect(await bob.request("GET", "/v1/keys?limit=1")).toMatchObject({ status: 200, json: { keys: [{}], nextCursor: expect.any(String) } });
  expect(await alice.request("POST", "/v1/keys/life:destroy", { confirm: "life" })).toMatchObject({ status: 409, json: { code: "state-conflict" } });
  expect((await alice.request("POST", "/v1/keys/life:revoke", { reason: "keyCompromise" })).json).toEqual({ key: "life", revoked: true });
  expect(await bob.request("POST", "/v1/keys/life:decrypt", { ciphertext: sealed.json["ciphertext"], context: { a: "1" } })).toMatchObject({ status: 409, json: { code: "state-conflict" } });
  expect(await olga.request("POST", "/v1/keys/life:destroy", { confirm: "life" })).toMatchObject({ status: 200, json: { key: "life", destroyed: [1, 2] } });
  expect(await bob.request("GET", "/v1/whoami")).toMatchObject({ status: 200, json: { uri: bob.uri, kind: "agent", name: "bob" } });
  expect(await bob.request("GET", "/v1/status")).not.toMatchObject({ json: { keys: expect.any(Number) } });
  expect(await olga.request("GET", "/v1/status")).toMatchObject({ status: 200, json: { service: "kms", keys: expect.any(Number) } });
  expect(await bob.request("GET", "/v1/audit/entries")).toMatchObject({ status: 403, json: { code: "not-permitted" } });
  expect((await olga.request("GET", "/v1/audit/entries?limit=200")).json).toMatchObject({ entries: expect.arrayContaining([expect.objectContaining({ action: "key.destroyed-at-once", actor: olga.uri, subject: "life" })]) });
});

test("an operator is told in a summary of keys by state and of who is connected, and nobody else is", async () => {
  const { alice, bob, olga } = kms.parties;
  const states = async () => kmsSummary.parse((await olga.request("GET", "/v1/summary")).json).keys;
  const before = await states();
  for (const name of ["counted-1", "counted-2"]) await alice.request("POST", "/v1/keys", { name, spec: "aes-256" });
  await alice.request("POST", "/v1/keys/counted-1:rotate");
  await alice.request("POST", "/v1/keys/counted-2:revoke", { reason: "superseded" });
  const after = await states();
  expect(after.total).toBe(before.total + 2);
  expect(after.states.active).toBe((before.states.active ?? 0) + 1);
  expect(after.states.compromised).toBe((before.states.compromised ?? 0) + 1);
  const summary = kmsSummary.parse((await olga.request("GET", "/v1/summary")).json);
  expect(summary.audit[0]).toMatchObject({ action: "key.revoked", actor: alice.uri, subject: "counted-2", reason: "superseded" });
  expect(summary.peers.latest.map(({ identity }) => identity)).toEqual(expect.arrayContaining([alice.uri, olga.uri]));
  expect(summary.crls).toHaveLength(2);
  expect(await bob.request("GET", "/v1/summary")).toMatchObject({ status: 403, json: { code: "not-permitted" } });
});

test("Idempotency-Key over HTTP: answered again, or refused for another body", async () => {
  const { alice } = kms.parties;
  const key = { "Idempotency-Key": "one" };
  const first = await alice.request("POST", "/v1/keys", { name: "idem", spec: "aes-256" }, key);
  expect(await alice.request("POST", "/v1/keys", { spec: "aes-256", name: "idem" }, key)).toMatchObject({ status: 201, json: first.json });
  expect(await alice.request("POST", "/v1/keys", { name: "idem2", spec: "aes-256" }, key)).toMatchObject({ status: 422, json: { code: "idempotency-conflict" } });
  expect(await alice.request("POST", "/v1/keys", { name: "idem" , spec: "aes-256" })).toMatchObject({ status: 409, json: { code: "already-exists" } });
  for (const bad of ["", "a b", "x".repeat(129)]) expect(await alice.request("POST", "/v1/keys", { name: "x", spec: "aes-256" }, { "Idempotency-Key": bad })).toMatchObject({ status: 400, json: { code: "request-malformed" } });
});

describe("who is let in", () => {
  test.each([
    ["no certificate", "none"],
    ["a certificate of a foreign CA with the same names", "foreign"],
    ["a service's server certificate, used as a client", "serverAsClient"],
    ["an agent's server certificate, used as a client", "agentServerAsClient"],
  ] as const)("%s gets no octet of an answer", async (_title, who) => {
    const outcome = await kms.strangers[who].request("GET", "/v1/keys/group/versions/latest/material").then(
      ({ status, octets, json }) => ({ status, length: octets.length, code: json["code"] }),
      (error: NodeJS.ErrnoException) => ({ refused: error.code }),
    );
    if ("refused" in outcome) expect(outcome.refused).toMatch(/^(?:ECONNRESET|EPIPE|ERR_SSL_.*)$/);
    else expect(outcome).toMatchObject({ status: 403, code: expect.stringMatching(/^(?:purpose-not-permitted|signature-invalid|path-not-found|client-certificate-required)$/) });
  });

  test("nothing in the request names the caller", async () => {
    const { dave } = kms.parties;
    const headers = { "X-Client-Cert": "x", "X-Forwarded-Client-Cert": `URI=${kms.parties.alice.uri}`, "X-Forwarded-For": "127.0.0.1", Authorization: "Basic YWxpY2U6eA==" };
    expect((await dave.request("GET", "/v1/whoami", undefined, headers)).json["uri"]).toBe(dave.uri);
    expect((await dave.request("GET", "/v1/keys/group", undefined, headers)).status).toBe(403);
  });

  test("a revoked party is refused on the connection that it holds, and on a new one", async () => {
    const { alice } = kms.parties;
    const rita = await kms.enrol("rita");
    await alice.request("POST", "/v1/keys", { name: "until", spec: "aes-256", distribution: { readers: [rita.uri] } });
    expect((await rita.request("GET", "/v1/keys/until/versions/1/material")).status).toBe(200);
    await kms.revoke(rita);
    for (let i = 0; i < 2; i++) {
      const outcome = await rita.request("GET", "/v1/keys/until/versions/1/material").then(({ status, json }) => ({ status, code: json["code"] }), (error: NodeJS.ErrnoException) => error.code);
      if (typeof outcome === "object") expect(outcome).toEqual({ status: 403, code: "certificate-revoked" });
      else expect(outcome).toMatch(/^(?:ECONNRESET|EPIPE)$/);
    }
    expect((await alice.request("GET", "/v1/keys/until/versions/1/material")).status).toBe(200);
  });
});

test("a refused caller hears why however much of its body is still on its way, and that the connection ends", async () => {
  const rita = await kms.enrol("rita-of-the-body");
  await kms.revoke(rita);
  for (const path of ["/v1/keys", "/v1/keys/group/versions/1/material"]) {
    const answer = await rita.sendInTwo(path === "/v1/keys" ? "POST" : "GET", path, Buffer.alloc(60_000, 0x20));
    expect(answer).toMatchObject({ status: 403, headers: { connection: "close" }, json: { code: "certificate-revoked" } });
  }
});

describe("names and routes", () => {
  const raw = ["Group", "GROUP", "gro%75p", "group%00", "group%2f..%2fgroup", "..", ".", "__proto__", "grоup", "-group", "", "a".repeat(64)];
  test.each(raw)("a name has one spelling: %j names no key", async (name) => {
    const { alice } = kms.parties;
    for (const path of [`/v1/keys/${name}`, `/v1/keys/${name}/versions/latest/material`, `/v1/keys/${name}:encrypt`]) {
      const { status, json, octets } = await alice.raw(path.endsWith("encrypt") ? "POST" : "GET", path);
      expect([400, 404, 405]).toContain(status);
      if (octets.length > 0 && json["code"] !== undefined) expect(["request-malformed", "route-not-found", "method-not-allowed"]).toContain(json["code"]);
    }
    expect(await alice.request("POST", "/v1/keys", { name, spec: "aes-256" })).toMatchObject({ status: 400, json: { code: "request-malformed" } });
  });

  test.each([
    ["GET", "/V1/keys", 400], ["GET", "/v1/keys/", 404], ["GET", "/v1//keys", 404], ["GET", "/v1/keys/group/", 404], ["GET", "/v1/keys/group/../group", 404], ["GET", "/v1/keys/group/versions/0/material", 400],
    ["GET", "/v1/keys/group/versions/01/material", 400], ["GET", "/v1/keys/group/versions/1e0/material", 400], ["POST", "/v1/keys/group/versions/1/material", 405], ["DELETE", "/v1/keys/group", 405],
    ["HEAD", "/v1/keys/group/versions/1/material", 405], ["HEAD", "/v1/keys/group/versions/latest/material", 405], ["POST", "/v1/keys/group:export", 404], ["GET", "/v1/keys/group:rotate", 405], ["GET", "/v1/keys:import", 405], ["GET", "/__proto__", 404], ["GET", "/", 404],
    ["GET", "/v1/keys?limit=0", 400], ["GET", "/v1/keys?limit=1&limit=2", 400], ["GET", "/v1/keys?cursor=%00", 400], ["GET", "/v1/keys?__proto__=1", 400], ["GET", "/v1/keys/group/versions?cursor=x", 400], ["POST", "/v1/keys/group:rotate?dryRun=yes", 400],
    ["GET", "/v1/keys/group/versions/1/material?x=1", 400],
  ] as const)("%s %s is answered with %i, and no key leaves", async (method, path, status) => {
    const answer = await kms.parties.alice.raw(method, path);
    expect(answer.status).toBe(status);
    expect(answer.headers["content-type"]).not.toBe("application/octet-stream");
  });
});

describe("bodies", () => {
  const key = { name: "body", spec: "aes-256" };
  test.each<[string, unknown]>([
    ["no name", { spec: "aes-256" }], ["another spec", { ...key, spec: "aes-128" }], ["an unknown member", { ...key, usage: "x" }], ["an inherited member", JSON.parse('{"name":"body","spec":"aes-256","__proto__":{"owner":"x"}}')],
    ["no algorithm", { ...key, algorithms: [] }], ["an unknown algorithm", { ...key, algorithms: ["AES-256-ECB"] }], ["a reader that is no agent", { ...key, distribution: { readers: ["spiffe://x.y/operator/o"] } }],
    ["readers that are no list", { ...key, distribution: { readers: "all" } }], ["an array", [key]], ["null", null], ["a string", "body"],
  ])("%s: request-malformed, and no key is made", async (_title, body) => {
    expect(await kms.parties.alice.request("POST", "/v1/keys", body)).toMatchObject({ status: 400, json: { code: "request-malformed" } });
    expect((await kms.parties.alice.request("GET", "/v1/keys/body")).status).toBe(403);
  });

  test.each([["short", canary.subarray(1).toString("base64")], ["url alphabet", "-_".repeat(22)], ["not padded", canary.toString("base64").replace("=", "")], ["with spaces", ` ${canary.toString("base64")}`]])("material that is not the base64 of 32 octets is refused: %s", async (_title, material) => {
    const answer = await kms.parties.alice.request("POST", "/v1/keys:import", { ...key, material });
    expect(answer).toMatchObject({ status: 400, json: { code: "request-malformed" } });
    expect(answer.octets.includes(material.trim().slice(0, 20))).toBe(false);
  });

  test("a body over 64 KiB is refused before it is parsed", async () => {
    const { alice } = kms.parties;
    expect(await alice.request("POST", "/v1/keys", { ...key, filler: "x".repeat(64 * 1024) })).toMatchObject({ status: 413, json: { code: "body-too-large" } });
    expect(await alice.request("POST", "/v1/keys/group:encrypt", { plaintext: Buffer.alloc(45_000).toString("base64") })).toMatchObject({ status: 200 });
  });

  test.each([["not JSON", "{"], ["deep", "[".repeat(20_000)], ["not UTF-8", Buffer.from([0x22, 0xff, 0x22])]])("%s: a typed refusal", async (_title, body) => {
    expect(await kms.parties.alice.raw("POST", "/v1/keys", body, { "Content-Type": "application/json" })).toMatchObject({ status: 400, json: { code: "request-malformed" } });
  });

  test("another media type is refused", async () => {
    expect(await kms.parties.alice.raw("POST", "/v1/keys", JSON.stringify(key), { "Content-Type": "text/plain" })).toMatchObject({ status: 415, json: { code: "unsupported-media-type" } });
  });

  test.each([[{ a: 1 }], [["a"]], ["a"], [{ "": "x" }], [{ a: "\ud800" }], [Object.fromEntries(Array.from({ length: 33 }, (_, i) => [`k${i}`, "v"]))]])("a context that is not a map of strings is refused: %j", async (context) => {
    expect(await kms.parties.alice.request("POST", "/v1/keys/group:encrypt", { plaintext: "", context })).toMatchObject({ status: 400, json: { code: "request-malformed" } });
  });
});

test("without fresh CRLs nothing is served, and the refusal says what is waited for", async () => {
  const waiting = await startTestKms({ crls: false });
  try {
    const { alice } = waiting.parties;
    for (const path of ["/v1/whoami", "/v1/keys", "/v1/keys/group/versions/latest/material"]) {
      expect(await alice.request("GET", path)).toMatchObject({ status: 503, json: { code: "crl-missing", retryable: true, details: { waitingFor: expect.stringMatching(/./) } } });
    }
    await waiting.publishCrls();
    expect((await alice.request("GET", "/v1/whoami")).status).toBe(200);
  } finally {
    await waiting.stop();
  }
});

test("a secret stands in no log line, audit record, error or file in clear", async () => {
  const { alice, dave, olga } = kms.parties;
  const material = canary.toString("base64");
  expect((await alice.request("POST", "/v1/keys:import", { name: "canary", spec: "aes-256", material }, { "Idempotency-Key": "canary" })).status).toBe(201);
  await alice.request("GET", "/v1/keys/canary/versions/1/material");
  const sealed = await alice.request("POST", "/v1/keys/canary:encrypt", { plaintext: material, context: { a: "b" } });
  await alice.request("POST", "/v1/keys/canary:decrypt", { ciphertext: sealed.json["ciphertext"], context: { a: "b" } });
  const refusals = [
    await alice.request("POST", "/v1/keys:import", { name: "canary", spec: "aes-256", material, extra: material }),
    await alice.request("POST", "/v1/keys:import", { name: material, spec: "aes-256", material: `${material}AAAA` }),
    await alice.raw("POST", "/v1/keys:import", `{"material":"${material}"`, { "Content-Type": "application/json" }),
    await dave.request("POST", "/v1/keys/canary:encrypt", { plaintext: material }),
    await alice.request("POST", "/v1/keys/canary:decrypt", { ciphertext: Buffer.concat([Buffer.from("SGK1"), canary, canary]).toString("base64") }),
  ];
  await olga.request("GET", "/v1/status");
  const audit = (await olga.request("GET", "/v1/audit/entries?limit=200")).octets;
  const places = { log: Buffer.from(kms.logged()), audit, files: kms.files(), ...Object.fromEntries(refusals.map((answer, i) => [`refusal ${i}`, answer.octets])) };
  for (const answer of refusals) expect(answer.status).toBeGreaterThanOrEqual(400);
  expect(places.files.includes("canary")).toBe(true);
  for (const [place, octets] of Object.entries(places)) {
    for (const form of [canary, material, canary.toString("base64url"), canary.toString("hex"), material.slice(0, 16)]) expect(octets.includes(form), `${place} holds the canary`).toBe(false);
  }
});
