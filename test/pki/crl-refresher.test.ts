import { expect, onTestFinished, test } from "vitest";
import { systemClock } from "#pki/clock.ts";
import { CrlRefresher, type CrlSource, type FetchedCrl } from "#pki/crl-refresher.ts";
import { SignetError } from "#pki/errors.ts";
import { silentLog } from "#pki/log.ts";
import { memoryFloors, RevocationStore } from "#pki/revocation.ts";
import { testAuthority } from "../support/pki.ts";

const maxAgeMilliseconds = 60_000;

/** A CA as a party sees it: what it answers is the test's, the checks of the answers are Signet's. */
async function world(answer: (name: string, asked: number, wanted: Parameters<CrlSource["fetchCrl"]>[1], crls: Readonly<Record<string, Uint8Array>>) => Promise<FetchedCrl>) {
  const authority = await testAuthority({ now: new Date() });
  let elapsed = 0;
  const clock = { now: systemClock.now, monotonicMilliseconds: () => systemClock.monotonicMilliseconds() + elapsed };
  const store = new RevocationStore({ trustAnchors: [authority.root], floors: memoryFloors(), clock, maxAgeMilliseconds });
  const crls = { root: authority.rootCrl([]).der, "leaf-0": authority.leafCrl([]).der };
  const asked = new Map<string, number>();
  const known = { issuers: 0 };
  const source: CrlSource = {
    issuers: async () => {
      known.issuers += 1;
      return [authority.root, authority.issuing];
    },
    crlNames: async () => ["root", "leaf-0"],
    fetchCrl: (name, wanted) => {
      asked.set(name, (asked.get(name) ?? 0) + 1);
      return answer(name, asked.get(name) ?? 0, wanted, crls);
    },
  };
  const refresher = new CrlRefresher({ store, source, clock, log: silentLog });
  onTestFinished(() => refresher.stop());
  return { authority, store, refresher, known, age: (milliseconds: number) => void (elapsed += milliseconds) };
}

/** An answer that the CA holds until the question is withdrawn, as it does while there is no news. */
const held = (signal: AbortSignal | undefined): Promise<FetchedCrl> => new Promise((_, reject) => signal?.addEventListener("abort", () => reject(new SignetError("timed-out", "withdrawn"))));
const fresh = (der: Uint8Array | undefined): FetchedCrl => ({ status: "new", der: der ?? new Uint8Array(), etag: '"1"' });

test("an unchanged CRL counts as a refresh, once it was had", async () => {
  const { store, refresher, age } = await world(async (name, asked, { etag }, crls) => (asked === 1 ? fresh(crls[name]) : etag === '"1"' ? { status: "unchanged" } : fresh(crls[name])));
  await refresher.refreshOnce();
  expect(store.waitingFor()).toBeUndefined();
  age(maxAgeMilliseconds + 1);
  expect(store.waitingFor()).toBeDefined();
  await refresher.refreshOnce();
  expect(store.waitingFor()).toBeUndefined();
});

test("an unchanged CRL that was never had is refused", async () => {
  const { store, refresher } = await world(async () => ({ status: "unchanged" }));
  await expect(refresher.refreshOnce()).rejects.toMatchObject({ code: "remote-malformed" });
  expect(store.waitingFor()).toBeDefined();
});

test("an answer that does not verify refreshes nothing", async () => {
  const impostor = await testAuthority({ now: new Date() });
  const { store, refresher } = await world(async (name, _asked, _wanted, crls) => fresh(name === "root" ? crls[name] : impostor.leafCrl([]).der));
  await expect(refresher.refreshOnce()).rejects.toMatchObject({ code: "crl-signature-invalid" });
  expect(store.waitingFor()).toContain("end-entity");
});

test("in the background, news is asked for with a wait and takes effect at once, by issuers that are known already", async () => {
  const questions: (number | undefined)[] = [];
  const waiting = Promise.withResolvers<(answer: FetchedCrl) => void>();
  const { authority, store, refresher, known } = await world((name, asked, { waitSeconds, signal }, crls) => {
    if (name === "root") return asked === 1 ? Promise.resolve(fresh(crls[name])) : held(signal);
    questions.push(waitSeconds);
    if (asked === 1) return Promise.resolve(fresh(crls[name]));
    return asked === 2 ? new Promise((resolve) => waiting.resolve(resolve)) : held(signal);
  });
  const news = new Promise<readonly string[]>((resolve) => void store.onRevoked((added) => added.length > 0 && resolve(added.map(({ serialNumber }) => serialNumber))));
  refresher.start();
  const revoke = await waiting.promise;
  const fetched = known.issuers;
  const { certificate } = await authority.issue({ role: "client", name: "bob" });
  const thisUpdate = new Date(Date.now() - 60_000);
  revoke(fresh(authority.leafCrl([{ serialNumber: certificate.serialNumber, revocationDate: thisUpdate }], { crlNumber: 2n, thisUpdate }).der));
  expect(await news).toEqual([certificate.serialNumber]);
  expect(questions.slice(0, 2)).toEqual([undefined, 25]);
  expect(known.issuers).toBe(fetched);
});

test("failures are outlived: what failed is asked for again", async () => {
  const { store, refresher } = await world(async (name, asked, { signal }, crls) => {
    if (asked === 1) throw new SignetError("remote-unreachable", "no connection");
    return asked === 2 ? fresh(crls[name]) : held(signal);
  });
  const informed = new Promise<void>((resolve) => void store.onRevoked(() => store.waitingFor() === undefined && resolve()));
  refresher.start();
  await informed;
});

test("once it is stopped, nothing more is asked for", async () => {
  const allWaiting = Promise.withResolvers<void>();
  let questions = 0;
  let withdrawn = 0;
  const { refresher } = await world((name, asked, { signal }, crls) => {
    questions += 1;
    if (questions === 4) allWaiting.resolve();
    if (asked === 1) return Promise.resolve(fresh(crls[name]));
    signal?.addEventListener("abort", () => (withdrawn += 1));
    return held(signal);
  });
  refresher.start();
  await allWaiting.promise;
  refresher.stop();
  await new Promise((resolve) => setImmediate(resolve));
  expect([questions, withdrawn]).toEqual([4, 2]);
});
