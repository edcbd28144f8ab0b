import { cpSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { once } from "node:events";
import net, { type AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import path from "node:path";
import { afterAll, beforeAll, expect, onTestFinished, test } from "vitest";
import type { ErrorCode } from "#pki/errors.ts";
import { EnrolledIdentity } from "#pki/identity.ts";
import { caRoutes, revocationAnswer, tokenAnswer } from "#pki/protocol-ca.ts";
import { operatorOf, startCa, type CaCaller } from "#test/support/services.ts";
import { temporaryDirectory } from "../support/temporary-directory.ts";

// Enrolment as a party lives through it, at a CA in a process of its own.
const data = mkdtempSync(path.join(tmpdir(), "signet-enroll-"));
let ca: Awaited<ReturnType<typeof startCa>>;
let operator: CaCaller;
beforeAll(async () => {
  ca = await startCa(data, { outlivesTest: true });
  operator = await operatorOf(ca);
});
afterAll(async () => {
  operator?.close();
  await ca?.kill();
  rmSync(data, { recursive: true, force: true });
});

const refused = (code: ErrorCode) => expect.objectContaining({ code });
const tokenFor = async (name: string): Promise<string> => tokenAnswer.parse((await operator.call("POST", caRoutes.tokens, { name, kind: "agent" })).json()).token;
const where = () => ({ caUrl: ca.ready.enrolmentUrl, rootFingerprint: ca.ready.rootFingerprint, keyType: "ec-p256" as const });
const serialOf = (identity: EnrolledIdentity, role: "client" | "server"): string => identity.credential(role).chain[0]?.serialNumber ?? "";

async function enrolled(name: string, directory?: string): Promise<EnrolledIdentity> {
  const identity = await EnrolledIdentity.enroll({ ...where(), name, token: await tokenFor(name), ...(directory === undefined ? {} : { directory }) });
  onTestFinished(() => identity.stop());
  return identity;
}

test("a party enrols, takes the server role, renews both, and is the same party when it is opened again", async () => {
  const directory = path.join(temporaryDirectory(), "alice");
  const alice = await enrolled("alice", directory);
  expect(alice.identity.uri).toBe(`spiffe://${ca.ready.trustDomain}/agent/alice`);
  expect(alice.revocation.waitingFor()).toBeUndefined();
  expect(alice.hasRole("server")).toBe(false);
  await alice.enrollServerRole();
  const before = [serialOf(alice, "client"), serialOf(alice, "server")];
  const renewals: string[] = [];
  alice.onRenewal((role) => renewals.push(role));
  await alice.renew("client");
  await alice.renew("server");
  const after = [serialOf(alice, "client"), serialOf(alice, "server")];
  expect(renewals).toEqual(["client", "server"]);
  expect(new Set([...before, ...after]).size).toBe(4);

  expect(statSync(directory).mode & 0o777).toBe(0o700);
  for (const name of ["client.pem", "server.pem", "identity.json", "crl-floors.json"]) expect(statSync(path.join(directory, name)).mode & 0o777).toBe(0o600);
  const reopened = EnrolledIdentity.open(directory);
  onTestFinished(() => reopened.stop());
  expect([serialOf(reopened, "client"), serialOf(reopened, "server")]).toEqual(after);
  expect(reopened.revocation.waitingFor()).toBeDefined();
  await reopened.refreshRevocation();
  expect(reopened.revocation.waitingFor()).toBeUndefined();
});

test("an identity may live in memory alone", async () => {
  const identity = await enrolled("brief");
  await identity.enrollServerRole();
  expect(identity.hasRole("server")).toBe(true);
});

test("a CA that does not show the pinned root is left without a byte", async () => {
  const upstream = new URL(ca.ready.enrolmentUrl);
  let sent = 0;
  const proxy = net.createServer((downstream) => {
    const onward = net.connect(Number(upstream.port), "127.0.0.1");
    for (const socket of [downstream, onward]) socket.on("error", () => {});
    downstream.on("data", (bytes) => (sent += bytes.length));
    downstream.pipe(onward).pipe(downstream);
  });
  proxy.listen(0, "127.0.0.1");
  await once(proxy, "listening");
  onTestFinished(() => void proxy.close());
  const token = await tokenFor("pinned");
  const caUrl = `https://localhost:${(proxy.address() as AddressInfo).port}`;
  await expect(EnrolledIdentity.enroll({ ...where(), caUrl, rootFingerprint: "ab".repeat(32), name: "pinned", token })).rejects.toThrow(refused("root-fingerprint-mismatch"));
  // The handshake's own records and nothing besides: no request, hence no token. The token is as good as new.
  expect(sent).toBeLessThan(4096);
  await EnrolledIdentity.enroll({ ...where(), name: "pinned", token }).then((identity) => identity.stop());
});

test("a token counts once, for its own name, and its refusals look alike", async () => {
  const token = await tokenFor("carol");
  await expect(EnrolledIdentity.enroll({ ...where(), name: "mallory", token })).rejects.toThrow(refused("token-invalid"));
  await EnrolledIdentity.enroll({ ...where(), name: "carol", token }).then((identity) => identity.stop());
  await expect(EnrolledIdentity.enroll({ ...where(), name: "carol", token })).rejects.toThrow(refused("token-invalid"));
  await expect(EnrolledIdentity.enroll({ ...where(), name: "carol", token: "A".repeat(43) })).rejects.toThrow(refused("token-invalid"));
});

test("a directory that holds an identity is left alone, and no token is spent on it", async () => {
  const directory = path.join(temporaryDirectory(), "dora");
  await enrolled("dora", directory);
  const files = () => readdirSync(directory).sort().map((name) => [name, readFileSync(path.join(directory, name), "utf8")]);
  const before = files();
  const token = await tokenFor("dora");
  await expect(EnrolledIdentity.enroll({ ...where(), name: "dora", token, directory })).rejects.toThrow(refused("already-exists"));
  expect(files()).toEqual(before);
  await EnrolledIdentity.enroll({ ...where(), name: "dora", token }).then((identity) => identity.stop());
});

test("damage to the files of an identity is named, and nothing is changed by it", async () => {
  const parent = temporaryDirectory();
  const sound = path.join(parent, "sound");
  await enrolled("erin", sound);
  const other = await enrolled("frank", path.join(parent, "other"));
  expect(other.hasRole("client")).toBe(true);
  const chainOf = (name: string): string => readFileSync(path.join(parent, name, "client.pem"), "utf8");
  const certificatesAt = chainOf("other").indexOf("-----BEGIN CERTIFICATE");
  const keyEnd = chainOf("sound").indexOf("-----BEGIN CERTIFICATE");
  const damages: readonly [file: string, text: string][] = [
    ["identity.json", "{"],
    ["identity.json", readFileSync(path.join(sound, "identity.json"), "utf8").replace(/[0-9a-f]{64}/, "00".repeat(32))],
    ["client.pem", "not PEM"],
    ["client.pem", chainOf("sound").slice(0, keyEnd) + chainOf("other").slice(certificatesAt)],
    ["crl-floors.json", "{}"],
  ];
  for (const [index, [file, text]] of damages.entries()) {
    const damaged = path.join(parent, `damaged-${index}`);
    cpSync(sound, damaged, { recursive: true });
    writeFileSync(path.join(damaged, file), text);
    expect(() => EnrolledIdentity.open(damaged)).toThrow(refused("data-directory-corrupt"));
    expect(readFileSync(path.join(damaged, file), "utf8")).toBe(text);
  }
  const empty = path.join(parent, "empty");
  mkdirSync(empty);
  expect(() => EnrolledIdentity.open(empty)).toThrow(refused("file-unusable"));
});

test("a revocation reaches a party that watches, and the revoked renews no more", async () => {
  const [watcher, gone] = [await enrolled("grace"), await enrolled("henry")];
  watcher.startRevocationRefresh();
  const serialNumber = serialOf(gone, "client");
  const news = new Promise<void>((resolve) => void watcher.revocation.onRevoked((added) => added.some((each) => each.serialNumber === serialNumber) && resolve()));
  const answer = revocationAnswer.parse((await operator.call("POST", caRoutes.revocations, { identity: gone.identity.uri, reason: "keyCompromise" })).json());
  expect(answer.revoked).toEqual([serialNumber]);
  await news;
  await expect(gone.renew("client")).rejects.toThrow(refused("certificate-revoked"));
});
