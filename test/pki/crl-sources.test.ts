import { spawn } from "node:child_process";
import { once } from "node:events";
import { readFileSync, rmSync, writeFileSync } from "node:fs";
import http from "node:http";
import type { AddressInfo } from "node:net";
import path from "node:path";
import { text } from "node:stream/consumers";
import { beforeAll, describe, expect, onTestFinished, test } from "vitest";
import { systemClock } from "#pki/clock.ts";
import type { Certificate } from "#pki/certificate.ts";
import { createFloors, fileFloors, loweredFloors, lowerFloorsAfterRestore } from "#pki/crl-floors.ts";
import { CrlRefresher, type CrlSource } from "#pki/crl-refresher.ts";
import { DistributionPointSource, FolderSource } from "#pki/crl-sources.ts";
import { SignetError } from "#pki/errors.ts";
import { silentLog } from "#pki/log.ts";
import { validatePath } from "#pki/path-validation.ts";
import { memoryFloors, RevocationStore } from "#pki/revocation.ts";
import { lookUpWhileBusy } from "../support/busy-lookup.ts";
import { extensions, forgeCa, forgeLeaf, testAuthority, type TestAuthority } from "../support/pki.ts";
import { temporaryDirectory } from "../support/temporary-directory.ts";

const maxAgeMilliseconds = 60_000;
const refused = (code: string) => expect.objectContaining({ code });
let authority: TestAuthority;
let alice: Certificate;
/** In force at a party that {@link abandoned} makes. */
let held: Uint8Array;
beforeAll(async () => {
  authority = await testAuthority({ now: new Date() });
  alice = (await authority.issue({ role: "client", name: "alice" })).certificate;
  held = leafCrl(1);
});
const thisUpdateOf = (crlNumber: number): Date => new Date(Date.now() - 3_600_000 + crlNumber * 1000);
const leafCrl = (crlNumber: number, ...revoked: readonly Certificate[]): Uint8Array =>
  authority.leafCrl(revoked.map(({ serialNumber }) => ({ serialNumber, revocationDate: thisUpdateOf(0) })), { crlNumber: BigInt(crlNumber), thisUpdate: thisUpdateOf(crlNumber) }).der;

async function serve(answer: (request: http.IncomingMessage, response: http.ServerResponse) => void): Promise<string> {
  const server = http.createServer(answer);
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  onTestFinished(() => void server.closeAllConnections(), 1000);
  onTestFinished(() => void server.close());
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}/leaf.crl`;
}

const point = (limits: { readonly timeoutMilliseconds?: number; readonly maximumBytes?: number; readonly hosts?: readonly string[] } = {}) =>
  new DistributionPointSource({ certificates: () => [alice, authority.issuing], ...limits, hosts: new Set(limits.hosts ?? ["127.0.0.1"]) });

describe("a distribution point over plain HTTP", () => {
  test("is one that a certificate names, on a host that is configured", async () => {
    const [named] = alice.extensions.crlDistributionPoints ?? [];
    const address = String(named?.fullNames?.[0]?.value);
    expect(await point({ hosts: [new URL(address).hostname] }).crlNames()).toContain(address);
    expect(await point({ hosts: ["elsewhere.example"] }).crlNames()).toEqual([]);
  });

  test("is at the port that is configured for its host; where none is, at port 80 or one that no service of another kind is assigned", async () => {
    const root = forgeCa("Root");
    const named = ["http://localhost/x", "http://localhost:22/x", "http://localhost:8080/x"];
    const certificates = () => named.map((address) => forgeLeaf("leaf", root, { extensions: [extensions.crlDistributionPoint(address)] }));
    const on = (...hosts: string[]) => new DistributionPointSource({ certificates, hosts: new Set(hosts) });
    expect(await on("localhost").crlNames()).toEqual(["http://localhost/x", "http://localhost:8080/x"]);
    expect(await on("localhost:8080").crlNames()).toEqual(["http://localhost:8080/x"]);
    expect(await on("localhost:80", "localhost:22").crlNames()).toEqual(["http://localhost/x", "http://localhost:22/x"]);
    const url = await serve((_, response) => response.writeHead(302, { location: "http://127.0.0.1:22/x" }).end());
    await expect(point().fetchCrl(url, {})).rejects.toThrow(refused("usage"));
  });

  test("gives its CRL and ETag, and is asked with the ETag", async () => {
    const crl = leafCrl(1);
    const url = await serve((request, response) => (request.headers["if-none-match"] === '"7"' ? response.writeHead(304).end() : response.setHeader("etag", '"7"').end(crl)));
    expect(await point().fetchCrl(url, {})).toEqual({ status: "new", der: Buffer.from(crl), etag: '"7"' });
    expect(await point().fetchCrl(url, { etag: '"7"' })).toEqual({ status: "unchanged" });
  });

  test("is reached on the first address of localhost alone, though this process was busy for longer than Node waits for one", async () => {
    const url = new URL(await serve((_, response) => response.end("crl")));
    url.hostname = "localhost";
    const lookup = lookUpWhileBusy();
    expect(await point({ hosts: ["localhost"] }).fetchCrl(url.href, {})).toMatchObject({ status: "new" });
    expect(lookup).toHaveBeenCalled();
  });

  test("may redirect, three times at most", async () => {
    const url = await serve((request, response) => {
      const left = Number(new URL(request.url ?? "", "http://x").searchParams.get("left") ?? 0);
      if (left > 0) response.writeHead(302, { location: `/leaf.crl?left=${left - 1}` }).end();
      else response.end("crl");
    });
    expect(await point().fetchCrl(`${url}?left=3`, {})).toMatchObject({ status: "new" });
    await expect(point().fetchCrl(`${url}?left=4`, {})).rejects.toThrow(refused("remote-malformed"));
  });

  test.each(["http://elsewhere.example/leaf.crl", "https://127.0.0.1/leaf.crl", "file:///etc/passwd", "http://user:pass@127.0.0.1/leaf.crl"])("leads to no host and no scheme that is not configured: %s", async (location) => {
    const url = await serve((_, response) => response.writeHead(302, { location }).end());
    await expect(point().fetchCrl(url, {})).rejects.toThrow(refused("usage"));
    await expect(point().fetchCrl(location, {})).rejects.toThrow(refused("usage"));
  });

  test("is cut off past the limit of size, whether or not it tells its length", async () => {
    const unending = await serve((_, response) => {
      response.write(Buffer.alloc(150_000));
    });
    await expect(point({ maximumBytes: 100_000 }).fetchCrl(unending, {})).rejects.toThrow(refused("body-too-large"));
    const announced = await serve((_, response) => response.end(Buffer.alloc(200)));
    await expect(point({ maximumBytes: 199 }).fetchCrl(announced, {})).rejects.toThrow(refused("body-too-large"));
  });

  test("is given up when the time is over, redirects and slow octets included", async () => {
    const silent = await serve((_, response) => void response.write("0"));
    await expect(point({ timeoutMilliseconds: 50 }).fetchCrl(silent, {})).rejects.toThrow(refused("timed-out"));
  });

  test.each([404, 500, 204])("brings nothing with status %i", async (status) => {
    const url = await serve((_, response) => response.writeHead(status).end());
    await expect(point().fetchCrl(url, {})).rejects.toThrow(refused("remote-malformed"));
  });
});

/** A party that had both CRLs from a CA which has stopped to answer, with further sources. */
async function abandoned(furtherSources: readonly CrlSource[]) {
  let elapsed = 0;
  const clock = { now: systemClock.now, monotonicMilliseconds: () => systemClock.monotonicMilliseconds() + elapsed };
  const store = new RevocationStore({ trustAnchors: [authority.root], floors: memoryFloors(), clock, maxAgeMilliseconds });
  store.accept(authority.rootCrl([]).der, []);
  store.accept(held, [authority.issuing]);
  const gone = (): Promise<never> => Promise.reject(new SignetError("remote-unreachable", "no connection"));
  const refresher = new CrlRefresher({ store, source: { issuers: gone, crlNames: gone, fetchCrl: gone }, furtherSources, clock, log: silentLog });
  onTestFinished(() => refresher.stop());
  return { store, refresher, age: (milliseconds: number) => void (elapsed += milliseconds) };
}
const source = (fetchCrl: CrlSource["fetchCrl"]): CrlSource => ({ issuers: async () => [authority.issuing], crlNames: async () => ["leaf"], fetchCrl });
const pathOfAlice = () => validatePath({ endEntity: alice, intermediates: [authority.issuing], trustAnchors: [authority.root], purpose: "clientAuth", at: new Date() });

describe("while the CA does not answer", () => {
  test("a revocation arrives by a distribution point, and subscribers hear of it", async () => {
    const url = await serve((_, response) => response.end(leafCrl(2, alice)));
    const { store, refresher } = await abandoned([{ ...source((_, wanted) => point().fetchCrl(url, wanted)) }]);
    const told: string[] = [];
    store.onRevoked((added) => void told.push(...added.map(({ serialNumber }) => serialNumber)));
    await refresher.refreshOnce();
    expect(told).toEqual([alice.serialNumber]);
    expect(() => store.check(pathOfAlice())).toThrow(refused("certificate-revoked"));
  });

  test("a revocation arrives as a file, in DER or PEM", async () => {
    const folder = temporaryDirectory();
    const { store, refresher } = await abandoned([new FolderSource(path.join(folder, "absent"), () => []), new FolderSource(folder, () => [authority.issuing])]);
    writeFileSync(path.join(folder, "a.crl"), leafCrl(2));
    await refresher.refreshOnce();
    expect(() => store.check(pathOfAlice())).not.toThrow();
    writeFileSync(path.join(folder, "b.crl"), `-----BEGIN X509 CRL-----\n${(Buffer.from(leafCrl(3, alice)).toString("base64").match(/.{1,64}/g) ?? []).join("\n")}\n-----END X509 CRL-----\n`);
    await refresher.refreshOnce();
    expect(() => store.check(pathOfAlice())).toThrow(refused("certificate-revoked"));
  });

  test.each([
    ["a 304", async () => ({ status: "unchanged" }) as const],
    ["the same CRL once more", async () => ({ status: "new", der: held }) as const],
    ["an older CRL", async () => ({ status: "new", der: leafCrl(0) }) as const],
    ["what is no CRL", async () => ({ status: "new", der: Buffer.from("<html>") }) as const],
  ])("%s from elsewhere is no refresh", async (_, answer) => {
    const { store, refresher, age } = await abandoned([source(answer)]);
    age(maxAgeMilliseconds + 1);
    await expect(refresher.refreshOnce()).rejects.toThrow(refused("remote-unreachable"));
    expect(() => store.check(pathOfAlice())).toThrow(refused("crl-refresh-overdue"));
  });

  test("a CRL that was seen before a restart is in force again and no refresh, until the CA confirms it", () => {
    const floors = memoryFloors();
    const party = () => new RevocationStore({ trustAnchors: [authority.root], floors, clock: systemClock, maxAgeMilliseconds });
    const crl = leafCrl(1, alice);
    party().accept(crl, [authority.issuing], "elsewhere");
    const bob = party();
    bob.accept(authority.rootCrl([]).der, []);
    const { scope } = bob.accept(crl, [authority.issuing], "elsewhere");
    expect(() => bob.check(pathOfAlice())).toThrow(refused("certificate-revoked"));
    expect(bob.waitingFor()).toContain("answer of the CA");
    bob.confirmCurrent(scope);
    expect(bob.waitingFor()).toBeUndefined();
  });
});

test("a CRL that the CA begins later is found without a restart", async () => {
  const store = new RevocationStore({ trustAnchors: [authority.root], floors: memoryFloors(), clock: systemClock, maxAgeMilliseconds });
  let asked = 0;
  const ca: CrlSource = {
    issuers: async () => [authority.root, authority.issuing],
    crlNames: async () => (++asked > 3 ? ["root", "leaf-1"] : ["root"]),
    fetchCrl: async (name, { etag, signal }) => {
      if (etag !== undefined) return new Promise((_, reject) => signal?.addEventListener("abort", () => reject(new SignetError("timed-out", "withdrawn"))));
      return { status: "new", der: name === "root" ? authority.rootCrl([]).der : leafCrl(1), etag: '"1"' };
    },
  };
  const refresher = new CrlRefresher({ store, source: ca, clock: systemClock, log: silentLog, listMilliseconds: 1 });
  onTestFinished(() => refresher.stop());
  const informed = new Promise<void>((resolve) => void store.onRevoked(() => store.waitingFor() === undefined && resolve()));
  refresher.start();
  await informed;
  expect(store.status()).toHaveLength(2);
});

describe("floors in a file", () => {
  const floor = (crlNumber: number) => ({ crlNumber: BigInt(crlNumber), thisUpdate: new Date(1_800_000_000_000 + crlNumber * 1000), digest: String(crlNumber).padStart(64, "0") });

  /** An empty file of floors, as a new party has it. */
  const newFile = (): string => {
    const file = path.join(temporaryDirectory(), "floors.json");
    createFloors(file);
    return file;
  };

  test("two holders in one party take nothing from each other", () => {
    const file = newFile();
    const [one, other] = [fileFloors(file), fileFloors(file)];
    one.raise("a", floor(5));
    other.raise("b", floor(1));
    expect(() => other.raise("a", floor(4))).toThrow(refused("crl-rollback"));
    expect([fileFloors(file).get("a")?.crlNumber, fileFloors(file).get("b")?.crlNumber]).toEqual([5n, 1n]);
  });

  test("that several processes raise at once are never lower than any of them has raised, and one that is killed while it writes stops nobody", async () => {
    const file = newFile();
    const raiser = (scope: string, count: number) =>
      spawn(process.execPath, ["test/support/raise-floors.ts", file, scope, String(count)], { stdio: ["pipe", "pipe", "inherit"] });
    const ended = async (child: ReturnType<typeof raiser>): Promise<string> => {
      const said = text(child.stdout as NodeJS.ReadableStream);
      await once(child, "exit");
      return said;
    };
    const raisers = [raiser("killed", 1_000_000), raiser("a", 40), raiser("b", 40)] as const;
    await Promise.all(raisers.map(({ stdout }) => once(stdout, "readable")));
    const [endless, ...finite] = raisers;
    const all = finite.map(ended);
    for (const { stdin } of raisers) stdin.end();
    let raised = "";
    await new Promise<void>((resolve) => endless.stdout.on("data", (part: Buffer) => (raised += part.toString()).includes("kept") && resolve()));
    endless.kill("SIGKILL");
    for (const said of await Promise.all(all)) expect(said.trim().split("\n")).toEqual(["there", ...Array.from({ length: 40 }, () => "kept")]);
    const floors = fileFloors(file);
    expect([floors.get("a")?.crlNumber, floors.get("b")?.crlNumber]).toEqual([40n, 40n]);
    floors.raise("killed", floor(2_000_000));
  });

  test("that are missing are noticed, and made for a new party by the function of that name alone", () => {
    const file = path.join(temporaryDirectory(), "floors.json");
    expect(() => fileFloors(file)).toThrow(refused("data-directory-corrupt"));
    createFloors(file);
    expect(fileFloors(file).latestThisUpdate).toBeUndefined();
  });

  test("are lowered by the act of that name alone, for a reason that stays on record", () => {
    const file = newFile();
    const floors = fileFloors(file);
    floors.raise("a", floor(5));
    floors.raise("b", floor(6));
    const at = new Date("2026-06-01T12:00:00Z");
    expect(() => lowerFloorsAfterRestore(file, { reason: " ", at })).toThrow(refused("usage"));
    expect(() => lowerFloorsAfterRestore(file, { reason: "restored", at, scope: "c" })).toThrow(refused("not-found"));
    expect(lowerFloorsAfterRestore(file, { reason: "restored", at, scope: "a" })).toEqual([{ scope: "a", crlNumber: 5n, thisUpdate: floor(5).thisUpdate, at, reason: "restored" }]);
    const after = fileFloors(file);
    expect([after.get("a"), after.get("b")?.crlNumber]).toEqual([undefined, 6n]);
    after.raise("a", floor(2));
    expect(loweredFloors(file)).toHaveLength(1);
    expect(readFileSync(file, "utf8")).toContain("restored");
  });

  test("that are missing are given up on record too; an empty file is made for a new party alone", () => {
    const file = path.join(temporaryDirectory(), "floors.json");
    lowerFloorsAfterRestore(file, { reason: "the file was lost", at: new Date() });
    expect(loweredFloors(file)).toMatchObject([{ reason: "the file was lost" }]);
    fileFloors(file).raise("a", floor(1));
    createFloors(file);
    expect(fileFloors(file).get("a")?.crlNumber).toBe(1n);
    rmSync(file);
    createFloors(file);
    expect(fileFloors(file).get("a")).toBeUndefined();
  });
});
