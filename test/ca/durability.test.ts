import { once } from "node:events";
import { cpSync, existsSync, mkdtempSync, readFileSync, readdirSync, rmSync, statSync, truncateSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import path from "node:path";
import { DatabaseSync } from "node:sqlite";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { Authority, initialiseAuthority } from "#ca/authority.ts";
import { Certificate } from "#pki/certificate.ts";
import { systemClock } from "#pki/clock.ts";
import { CertificateRevocationList } from "#pki/crl.ts";
import { EnrolledIdentity } from "#pki/identity.ts";
import { createCsr, generateKeyPair } from "#pki/keys.ts";
import { silentLog } from "#pki/log.ts";
import { caRoutes, certificateAnswer, certificatesAnswer, tokenAnswer } from "#pki/protocol-ca.ts";
import { freePorts } from "#scripts/free-ports.ts";
import { AuditLog } from "#store/audit-log.ts";
import { openSqlite } from "#store/sqlite.ts";
import { callerOf, enrolWith, operatorOf, ServiceRefused, startCa, startService, type CaCaller } from "#test/support/services.ts";
import { temporaryDirectory } from "#test/support/temporary-directory.ts";

const crlOf = async (caller: CaCaller, name: string) => CertificateRevocationList.parse((await caller.call("GET", caRoutes.crl(name))).body);

/** Why a start with these arguments is refused. */
async function refusalOf(...args: readonly string[]): Promise<{ exitCode: number | null; code: string | undefined; log: string }> {
  const refusal: unknown = await startService("ca/main.ts", args).catch((error: unknown) => error);
  if (!(refusal instanceof ServiceRefused)) throw new Error("The service started.");
  return { exitCode: refusal.exitCode, code: /^signet ca: ([a-z-]+): /m.exec(refusal.log)?.[1], log: refusal.log };
}

test("kill -9 and a restart lose nothing that was acknowledged, and nothing goes back", async () => {
  const data = temporaryDirectory();
  const before = await startCa(data);
  const operator = await operatorOf(before);
  const alice = await enrolWith(operator, before.ready, "alice", { directory: path.join(data, "alice") });
  const used = tokenAnswer.parse((await operator.call("POST", caRoutes.tokens, { name: "dave", kind: "agent" })).json());
  const unused = tokenAnswer.parse((await operator.call("POST", caRoutes.tokens, { name: "carol", kind: "agent" })).json());
  const bob = await enrolWith(operator, before.ready, "bob");
  await EnrolledIdentity.enroll({ caUrl: before.ready.enrolmentUrl, rootFingerprint: before.ready.rootFingerprint, name: "dave", token: used.token, keyType: "ec-p256" });
  const bobSerial = bob.credential("client").chain[0]?.serialNumber ?? "";
  await operator.call("POST", caRoutes.revocations, { identity: bob.identity.uri, reason: "keyCompromise" });
  const [leafBefore, rootBefore] = [await crlOf(operator, "leaf-0"), await crlOf(operator, "root")];
  await before.kill();
  operator.close();

  const after = await startCa(data);
  expect(after.ready).toEqual({ ...before.ready, pid: after.pid });
  const again = await operatorOf(after);
  const [leafAfter, rootAfter] = [await crlOf(again, "leaf-0"), await crlOf(again, "root")];
  expect(leafAfter.find(bobSerial)?.reason).toBe("keyCompromise");
  expect(leafAfter.crlNumber).toBeGreaterThan(leafBefore.crlNumber ?? 0n);
  expect(leafAfter.thisUpdate.getTime() - leafBefore.thisUpdate.getTime()).toBeGreaterThanOrEqual(1000);
  // Not due for weeks: the same bytes go on.
  expect(Buffer.from(rootAfter.der).equals(rootBefore.der)).toBe(true);

  const aliceAgain = await callerOf(EnrolledIdentity.open(path.join(data, "alice")), after.ready);
  expect((await aliceAgain.call("GET", caRoutes.crls)).status).toBe(200);
  const enrol = (name: string, token: string) => EnrolledIdentity.enroll({ caUrl: after.ready.enrolmentUrl, rootFingerprint: after.ready.rootFingerprint, name, token, keyType: "ec-p256" });
  await expect(enrol("dave", used.token)).rejects.toMatchObject({ code: "token-invalid" });
  expect((await enrol("carol", unused.token)).identity.name).toBe("carol");
  const barred = await createCsr(bob.credential("client").privateKey, {});
  await expect(again.call("POST", caRoutes.certificates, { csr: Buffer.from(barred).toString("base64"), kind: "agent", name: "bob", role: "client" })).rejects.toMatchObject({ code: "key-barred" });
  aliceAgain.close();
  again.close();
  expect(alice.identity.uri).toBe("spiffe://signet.internal/agent/alice");

  expect(await after.stop()).toBe(0);
  const engine = openSqlite(path.join(data, "ca", "ca.sqlite"), { mode: "existing" });
  const audit = await AuditLog.open(engine, systemClock);
  await engine.read((reads) => audit.verify(reads));
  const actions = (await engine.read((reads) => audit.entries(reads, 0, 1000))).map(({ action }) => action);
  expect(new Set(actions)).toEqual(new Set(["authority.created", "certificate.issued", "crl.published", "token.created", "identity.revoked"]));
  await engine.close();
});

test("certificates that were acknowledged in a burst cut off by kill -9 are all there, each serial number once", async () => {
  const data = temporaryDirectory();
  const before = await startCa(data);
  const operator = await operatorOf(before);
  const { privateKey } = await generateKeyPair("ec-p256");
  const csr = Buffer.from(await createCsr(privateKey, {})).toString("base64");
  const acknowledged: string[] = [];
  let killed: Promise<void> | undefined;
  const burst = Array.from({ length: 60 }, async (_, n) => {
    const answer = await operator.call("POST", caRoutes.certificates, { csr, kind: "agent", name: `burst-${n}`, role: "client" });
    acknowledged.push(Certificate.fromPem(certificateAnswer.parse(answer.json()).certificate).serialNumber);
    if (acknowledged.length === 10) killed = before.kill();
  });
  await Promise.allSettled(burst);
  await killed;
  operator.close();
  expect(acknowledged.length).toBeGreaterThanOrEqual(10);
  const again = await operatorOf(await startCa(data));
  const { certificates } = certificatesAnswer.parse((await again.call("GET", `${caRoutes.certificates}?limit=500`)).json());
  again.close();
  const serials = certificates.map(({ serialNumber }) => serialNumber);
  expect(new Set(serials).size).toBe(serials.length);
  expect(serials).toEqual(expect.arrayContaining(acknowledged));
});

test("a second start on the same data says so and touches nothing; the first goes on", async () => {
  const data = temporaryDirectory();
  const ca = await startCa(data);
  const contents = () => readdirSync(path.join(data, "ca")).sort().map((name) => [name, statSync(path.join(data, "ca", name)).mtimeMs]);
  const before = contents();
  const refusal = await refusalOf("--data", data, "--init");
  expect(refusal).toMatchObject({ exitCode: 1, code: "data-directory-locked" });
  expect(refusal.log).toContain(`process ${ca.pid}`);
  expect(contents()).toEqual(before);
  const operator = await operatorOf(ca);
  expect((await operator.call("GET", caRoutes.crls)).status).toBe(200);
  operator.close();
});

test("SIGTERM answers whoever waits for a CRL, and ends with 0", async () => {
  const ca = await startCa(temporaryDirectory());
  const operator = await operatorOf(ca);
  const etag = String((await operator.call("GET", caRoutes.crl("root"))).headers["etag"]);
  const waiting = operator.call("GET", caRoutes.crl("root"), undefined, { "if-none-match": etag, prefer: "wait=30" });
  await operator.call("GET", caRoutes.crls);
  const [code, answer] = await Promise.all([ca.stop(), waiting]);
  expect([code, answer.status]).toEqual([0, 304]);
  operator.close();
});

test("what a killed initialisation left is made anew", async () => {
  const data = temporaryDirectory();
  await initialiseAuthority(data, { clock: systemClock });
  writeFileSync(path.join(data, "ca", "signet-ca.json"), '{"format":"signet-ca","version":1,"complete":false}');
  await expect(Authority.open(data, { clock: systemClock, log: silentLog })).rejects.toMatchObject({ code: "data-directory-foreign" });
  const ca = await startCa(data);
  const operator = await operatorOf(ca);
  const { certificates } = certificatesAnswer.parse((await operator.call("GET", caRoutes.certificates)).json());
  expect(certificates.map(({ identity }) => identity)).toEqual(["spiffe://signet.internal/operator/admin", "spiffe://signet.internal/service/ca"]);
  operator.close();
});

describe("a start is refused with the reason, and nothing is touched", () => {
  const template = mkdtempSync(path.join(tmpdir(), "signet-ca-"));
  beforeAll(async () => {
    const [enrolmentPort = 0, mutualPort = 0, publicationPort = 0] = await freePorts(3);
    await initialiseAuthority(template, { clock: systemClock, enrolmentPort, mutualPort, publicationPort });
  });
  afterAll(() => rmSync(template, { recursive: true }));
  function initialised(): string {
    const data = temporaryDirectory();
    cpSync(template, data, { recursive: true });
    return data;
  }
  const contentsOf = (data: string) => readdirSync(path.join(data, "ca")).filter((name) => name !== "lock").map((name) => [name, readFileSync(path.join(data, "ca", name))]);

  test.each<[string, string, (data: string) => void]>([
    ["another unseal key", "unseal-failed", (data) => writeFileSync(path.join(data, "unseal", "ca.key"), Buffer.alloc(32, 1))],
    ["no unseal key", "unseal-failed", (data) => rmSync(path.join(data, "unseal", "ca.key"))],
    ["a database cut short", "data-directory-corrupt", (data) => truncateSync(path.join(data, "ca", "ca.sqlite"), 20_000)],
    ["no database", "data-directory-corrupt", (data) => rmSync(path.join(data, "ca", "ca.sqlite"))],
    ["a directory without its marker", "data-directory-foreign", (data) => rmSync(path.join(data, "ca", "signet-ca.json"))],
    ["a newer format", "data-directory-newer", (data) => writeFileSync(path.join(data, "ca", "signet-ca.json"), '{"format":"signet-ca","version":9,"complete":true}')],
  ])("%s", async (_, code, damage) => {
    const data = initialised();
    damage(data);
    const before = contentsOf(data);
    await expect(Authority.open(data, { clock: systemClock, log: silentLog })).rejects.toMatchObject({ code });
    expect(contentsOf(data)).toEqual(before);
  });

  test.each<[string, (data: string) => void]>([
    ["a changed audit record", (data) => editDatabase(data, "UPDATE audit_record SET record = replace(record, 'admin', 'adnim') WHERE record LIKE '%admin%'")],
    ["a sealed key in another's place", (data) => editDatabase(data, "UPDATE authority_key SET sealed_key = (SELECT sealed_key FROM authority_key WHERE name = 'issuing') WHERE name = 'root'")],
    ["no settings", (data) => editDatabase(data, "DELETE FROM authority_settings")],
  ])("%s", async (_, damage) => {
    const data = initialised();
    damage(data);
    await expect(Authority.open(data, { clock: systemClock, log: silentLog })).rejects.toMatchObject({ code: expect.stringMatching(/^(data-directory-corrupt|unseal-failed)$/) });
  });

  test("an operator credential without its authority", async () => {
    const data = initialised();
    rmSync(path.join(data, "ca"), { recursive: true });
    await expect(initialiseAuthority(data, { clock: systemClock })).rejects.toMatchObject({ code: "data-directory-foreign" });
    expect(EnrolledIdentity.open(path.join(data, "operator")).identity.uri).toBe("spiffe://signet.internal/operator/admin");
  });

  test("a trust domain of one label, a name or an address that no certificate could carry", async () => {
    const odd = [{ dns: ["bad name"] }, { dns: ["*.example.test"] }, { dns: ["Example.test"] }, { ip: ["999.1.1.1"] }, { ip: ["fe80::1%eth0"] }];
    for (const options of [{ trustDomain: "signet" }, { trustDomain: "signet_ca.internal" }, { host: "0.0.0.0" }, ...odd]) {
      const data = path.join(temporaryDirectory(), "new");
      await expect(initialiseAuthority(data, { ...options, clock: systemClock })).rejects.toMatchObject({ code: "usage" });
      expect(existsSync(data)).toBe(false);
    }
  });

  test("the process says it in one line, with its exit code", async () => {
    const data = initialised();
    const port = Number(new URL(EnrolledIdentity.open(path.join(data, "operator")).caUrl).port);
    const blocker = createServer().listen(port, "127.0.0.1");
    await once(blocker, "listening");
    const refusals = await Promise.all([refusalOf("--data", data), refusalOf("--data", "x", "--insecure")]);
    await new Promise((resolve) => blocker.close(resolve));
    expect(refusals.map(({ exitCode, code }) => [exitCode, code])).toEqual([[1, "port-taken"], [1, "usage"]]);
    for (const { log } of refusals) expect(log).not.toMatch(/^\s+at /m);
    // The distribution point in every certificate names it.
    expect(await refusalOf("--data", data, "--publication-port", "1")).toMatchObject({ exitCode: 1, code: "usage" });
  });
});

function editDatabase(data: string, sql: string): void {
  const database = new DatabaseSync(path.join(data, "ca", "ca.sqlite"));
  database.exec(sql);
  database.close();
}
