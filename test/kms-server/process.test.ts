import { mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import path from "node:path";
import { expect, onTestFinished, test } from "vitest";
import { Agent } from "#agents/agent.ts";
import { Authority, initialiseAuthority } from "#ca/authority.ts";
import { createToken } from "#ca/enrollment.ts";
import { identityUri } from "#pki/certificate-profile.ts";
import { EnrolledIdentity } from "#pki/identity.ts";
import { createCsr, generateKeyPair } from "#pki/keys.ts";
import { silentLog } from "#pki/log.ts";
import { freePorts } from "#scripts/free-ports.ts";
import { openSqlite } from "#store/sqlite.ts";
import { temporaryDirectory } from "#test/support/temporary-directory.ts";
import { issueToken, ServiceRefused, startCa, startKms, startService } from "#test/support/services.ts";

/** What lies in a folder and its subfolders, but for SQLite's shared memory, which readers write too. */
function snapshot(folder: string): Record<string, string> {
  const names = readdirSync(folder, { recursive: true, encoding: "utf8" }).filter((name) => !name.endsWith("-shm") && statSync(path.join(folder, name)).isFile());
  return Object.fromEntries(names.map((name) => [name, readFileSync(path.join(folder, name)).toString("base64")]));
}

test.each<[string, string, (kms: string) => void]>([
  ["a folder of somebody else", "data-directory-foreign", (kms) => writeFileSync(path.join(kms, "notes.txt"), "mine")],
  ["a damaged marker", "data-directory-corrupt", (kms) => writeFileSync(path.join(kms, "signet-kms.json"), '{"format":"signet-k')],
  ["a newer format", "data-directory-newer", (kms) => writeFileSync(path.join(kms, "signet-kms.json"), '{"format":"signet-kms","version":99}')],
])("%s is named (%s) and left alone", async (_title, code, make) => {
  const directory = temporaryDirectory();
  mkdirSync(path.join(directory, "kms"));
  make(path.join(directory, "kms"));
  const before = snapshot(directory);
  const outcome = await startService("kms-server/main.ts", ["--data", directory]).then(() => undefined, (error: unknown) => error);
  expect(outcome).toBeInstanceOf(ServiceRefused);
  expect(outcome).toMatchObject({ exitCode: 1, log: expect.stringMatching(new RegExp(`^signet kms: ${code}: .+\\n$`)) });
  expect(snapshot(directory)).toEqual(before);
});

test.each([[["--data", "x", "--port", "70000"]], [["--data", "x", "--token", "in-argv"]]])("arguments that do not parse are refused with 1 and one plain line: %j", async (args) => {
  const outcome = await startService("kms-server/main.ts", args).then(() => undefined, (error: unknown) => error);
  expect(outcome).toMatchObject({ exitCode: 1, log: expect.stringMatching(/^signet kms: usage: .+\n$/) });
});

test("what a killed initialisation left is made anew", async () => {
  const directory = temporaryDirectory();
  mkdirSync(path.join(directory, "kms"));
  writeFileSync(path.join(directory, "kms", "signet-kms.json"), '{"format":"signet-kms","version":1,"complete":false}');
  writeFileSync(path.join(directory, "kms", "kms.sqlite"), "half");
  // It gets as far as asking for its identity.
  const outcome = await startService("kms-server/main.ts", ["--data", directory]).then(() => undefined, (error: unknown) => error);
  expect(outcome).toMatchObject({ exitCode: 1, log: expect.stringContaining("signet kms: usage: There is no identity") });
  expect(JSON.parse(readFileSync(path.join(directory, "kms", "signet-kms.json"), "utf8"))).toMatchObject({ complete: true });
});

test("after a stop that outlived its certificate the KMS says so, and enrols anew as who it was with a token", async () => {
  const directory = temporaryDirectory();
  const clock = { now: () => new Date(Date.now() - 40 * 86_400_000), monotonicMilliseconds: () => 0 };
  const [enrolmentPort = 0, mutualPort = 0, publicationPort = 0] = await freePorts(3);
  await initialiseAuthority(directory, { clock, enrolmentPort, mutualPort, publicationPort });
  const authority = await Authority.open(directory, { clock, log: silentLog });
  const ledger = openSqlite(path.join(directory, "ca", "ca.sqlite"), { mode: "existing" });
  const uri = identityUri(authority.settings.trustDomain, "service", "kms");
  const token = await ledger.transaction((transaction) => createToken(transaction, { identity: uri, dns: ["localhost"], ip: [] }, new Date()));
  await ledger.close();
  const { privateKey } = await generateKeyPair("ec-p256");
  const expired = await authority.enroll("kms", token, await createCsr(privateKey, {}));
  const credential = { privateKey, chain: [expired, authority.issuingCertificate] };
  const identity = path.join(directory, "identity");
  EnrolledIdentity.write(identity, { uri, caUrl: `https://localhost:${authority.settings.enrolmentPort}`, root: authority.root, credentials: { client: credential } });
  await authority.close();

  const refused = await startService("kms-server/main.ts", ["--data", directory, "--identity", identity]).then(() => undefined, (error: unknown) => error);
  expect(refused).toMatchObject({ exitCode: 5, log: expect.stringMatching(/^signet kms: certificate-expired: The certificate of .+ has expired/) });

  const ca = await startCa(directory);
  const kms = await startKms(ca, directory, { arguments: ["--identity", identity] });
  const enrolled = EnrolledIdentity.open(identity);
  expect([enrolled.identity.uri, enrolled.isExpired("client"), enrolled.isExpired("server")]).toEqual([uri, false, false]);
  expect(await kms.stop()).toBe(0);
});

// One test, since each start costs; its steps are the rules.
test("the KMS enrols itself, keeps what it acknowledged through kill -9, is alone on its data, waits for CRLs, and stops cleanly", async () => {
  const directory = temporaryDirectory();
  const ca = await startCa(directory);
  const { enrolmentUrl, rootFingerprint, trustDomain } = ca.ready;
  let kms = await startKms(ca, directory);
  const enrol = async (name: string) => {
    const agent = await Agent.enroll({ caUrl: enrolmentUrl, rootFingerprint, kmsUrl: kms.ready.url, name, token: await issueToken(ca, { name, kind: "agent" }), keyType: "ec-p256" });
    onTestFinished(() => agent.close());
    return agent;
  };
  const alice = await enrol("alice");
  const port = new URL(kms.ready.url).port;

  // What was acknowledged before kill -9 is there after the restart, and what was not is whole or absent.
  const acknowledged = new Map<string, string>();
  const making = (async () => {
    for (let i = 0; ; i++) {
      await alice.kms.createKey(`key-${i}`);
      const { secret } = await alice.kms.material(`key-${i}`);
      acknowledged.set(`key-${i}`, Buffer.from(secret.reveal("local-use")).toString("hex"));
      if (acknowledged.size === 20) void kms.kill();
    }
  })();
  await expect(making).rejects.toMatchObject({ code: expect.stringMatching(/^(?:remote-unreachable|tls-refused|remote-malformed)$/) });
  expect(acknowledged.size).toBeGreaterThanOrEqual(20);
  await kms.kill();
  kms = await startKms(ca, directory, { arguments: ["--port", port] });
  for (const [name, material] of acknowledged) expect(Buffer.from((await alice.kms.material(name)).secret.reveal("local-use")).toString("hex")).toBe(material);

  // A second start on the same data says so and touches nothing.
  const before = snapshot(path.join(directory, "kms"));
  const second = await startKms(ca, directory).then(() => undefined, (error: unknown) => error);
  expect(second).toBeInstanceOf(ServiceRefused);
  expect(second).toMatchObject({ exitCode: 1, log: expect.stringContaining("data-directory-locked") });
  expect(snapshot(path.join(directory, "kms"))).toEqual(before);

  // A reader gets the key that is named to it.
  const bob = await enrol("bob");
  await alice.kms.createKey("group", { readers: [identityUri(trustDomain, "agent", "bob")] });
  await bob.kms.material("group");

  // SIGTERM ends it with 0. The unseal key lies outside of its data directory, for its owner alone.
  expect(await kms.stop()).toBe(0);
  expect(readdirSync(path.join(directory, "unseal")).sort()).toEqual(["ca.key", "kms.key"]);
  expect(statSync(path.join(directory, "unseal", "kms.key")).mode & 0o777).toBe(0o600);

  // Without the CA there are no fresh CRLs: it starts, says what it waits for, and serves nothing.
  await ca.stop();
  const waiting = await startKms(ca, directory, { arguments: ["--port", port] });
  expect(waiting.log()).toContain("nothing is served without fresh CRLs");
  await expect(bob.kms.material("group")).rejects.toMatchObject({ code: expect.stringMatching(/^(?:crl-missing|crl-refresh-overdue|crl-stale)$/) });
  expect(await waiting.stop()).toBe(0);
});
