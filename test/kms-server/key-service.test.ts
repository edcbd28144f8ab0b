import path from "node:path";
import { onTestFinished, describe, expect, test } from "vitest";
import { idempotencyMilliseconds, keyUsageLimits, KeyService } from "#kms-server/key-service.ts";
import { systemClock } from "#pki/clock.ts";
import { SignetError } from "#pki/errors.ts";
import { SecretKey } from "#pki/keys.ts";
import type { AuthenticatedPeer } from "#pki/mtls.ts";
import type { KeyDescription } from "#pki/protocol-kms.ts";
import { AuditLog } from "#store/audit-log.ts";
import { openSqlite } from "#store/sqlite.ts";
import { temporaryDirectory } from "#test/support/temporary-directory.ts";
import { callBy, materialOf, openKeyService, testPeer, trustDomain } from "./fixture.ts";

const code = (code: string) => ({ code });

async function running(recheck?: (peer: AuthenticatedPeer) => void) {
  const opened = await openKeyService(temporaryDirectory(), SecretKey.random(32), recheck);
  onTestFinished(() => opened.close());
  const [alice, bob, dave, olga] = await Promise.all([testPeer("agent", "alice"), testPeer("agent", "bob"), testPeer("agent", "dave"), testPeer("operator", "olga")]);
  const actions = async () => (await opened.engine.read((tx) => opened.auditLog.entries(tx, 0, 1000))).map((entry) => entry.action);
  return { ...opened, alice, bob, dave, olga, actions };
}

/** Answer of a change that was carried out. */
function done(answer: KeyDescription | { dryRun: true }): KeyDescription {
  if ("dryRun" in answer) throw new Error("a dry run");
  return answer;
}

describe("the policy, over the service", () => {
  const operations: Record<string, (service: KeyService, peer: AuthenticatedPeer, name: string) => Promise<unknown>> = {
    describe: (service, peer, name) => service.describe(callBy(peer), name),
    versions: (service, peer, name) => service.versions(callBy(peer), name, 0, 10),
    distribute: (service, peer, name) => materialOf(service, peer, name),
    encrypt: (service, peer, name) => service.encrypt(callBy(peer), name, new Uint8Array(3), {}),
    "set-distribution": (service, peer, name) => service.setDistribution(callBy(peer), name, [], "*"),
    rotate: (service, peer, name) => service.rotate(callBy(peer), name),
    destroy: (service, peer, name) => service.destroy(callBy(peer), name, name),
  };
  const may: Record<string, readonly string[]> = {
    alice: Object.keys(operations),
    bob: ["describe", "versions", "distribute", "encrypt"],
    dave: [],
    olga: ["describe", "versions", "destroy"],
  };

  test.each(Object.keys(may).flatMap((who) => Object.keys(operations).map((operation) => [who, operation, may[who]?.includes(operation) === true] as const)))(
    "%s may %s: %s; where not, the answer is the one for a key that is not there",
    async (who, operation, permitted) => {
      const world = await running();
      const peer = { alice: world.alice, bob: world.bob, dave: world.dave, olga: world.olga }[who];
      const act = operations[operation];
      if (peer === undefined || act === undefined) throw new Error("no such cell");
      await world.service.create(callBy(world.alice), { name: "group", readers: [world.bob.identity.uri] });
      if (operation === "destroy") await world.service.revoke(callBy(world.alice), "group", "keyCompromise");
      const before = await world.actions();
      const outcome = await act(world.service, peer, "group").then(() => undefined, (error: unknown) => error);
      if (permitted) {
        expect(outcome).toBeUndefined();
        return;
      }
      expect(outcome).toMatchObject(code("not-permitted"));
      const absent = await act(world.service, peer, "absent").then(() => undefined, (error: unknown) => error);
      expect(absent).toMatchObject({ code: "not-permitted", message: (outcome as SignetError).message, details: (outcome as SignetError).details });
      expect(await world.actions()).toEqual(before);
    },
  );

  test("an operator owns nothing and reads nothing, and nobody else reads the audit log", async () => {
    const { service, alice, olga } = await running();
    await expect(service.create(callBy(olga), { name: "mine" })).rejects.toMatchObject(code("not-permitted"));
    await expect(service.auditEntries(callBy(alice), 0, 10)).rejects.toMatchObject(code("not-permitted"));
    expect((await service.auditEntries(callBy(olga), 0, 10)).entries).toEqual([]);
  });

  test("denials are counted by caller and operation, outside the audit log", async () => {
    const { service, dave, actions } = await running();
    for (let i = 0; i < 3; i++) await expect(service.describe(callBy(dave), "x")).rejects.toMatchObject(code("not-permitted"));
    await service.revoke(callBy(dave), "x", "unspecified");
    await service.flushDenials();
    await expect(materialOf(service, dave, "x")).rejects.toMatchObject(code("not-permitted"));
    expect(await service.denials()).toEqual([
      { caller: dave.identity.uri, operation: "describe", count: 3 },
      { caller: dave.identity.uri, operation: "distribute", count: 1 },
      { caller: dave.identity.uri, operation: "revoke", count: 1 },
    ]);
    expect(await actions()).toEqual([]);
  });

  test("denials that could not be written are written the next time", async () => {
    const { dave } = await running();
    const engine = openSqlite(path.join(temporaryDirectory(), "kms.sqlite"));
    onTestFinished(() => engine.close());
    await engine.migrate(new URL("../../kms-server/migrations/", import.meta.url));
    let full = false;
    const service = await KeyService.open({
      engine: { dialect: engine.dialect, read: (work) => engine.read(work), migrate: (url) => engine.migrate(url), close: () => engine.close(), transaction: (work) => (full ? Promise.reject(new SignetError("storage-unavailable", "full")) : engine.transaction(work)) },
      auditLog: await AuditLog.open(engine, systemClock),
      unsealKey: SecretKey.random(32),
      recheck: () => {},
      clock: systemClock,
      trustDomain,
    });
    await expect(service.describe(callBy(dave), "x")).rejects.toMatchObject(code("not-permitted"));
    full = true;
    await expect(service.flushDenials()).rejects.toMatchObject(code("audit-unavailable"));
    full = false;
    expect(await service.denials()).toEqual([{ caller: dave.identity.uri, operation: "describe", count: 1 }]);
  });

  test.each(["not a uri", `spiffe://${trustDomain}/operator/olga`, `spiffe://${trustDomain}/service/kms`, "spiffe://other.internal/agent/bob", `spiffe://${trustDomain}/agent/Bob`])(
    "a reader is an agent of this trust domain: %s is refused and no key is made",
    async (reader) => {
      const { service, alice } = await running();
      await expect(service.create(callBy(alice), { name: "k", readers: [reader] })).rejects.toMatchObject(code("request-malformed"));
      expect(service.keyCount).toBe(0);
    },
  );

  test("a list shows to each caller what they may describe, page by page", async () => {
    const { service, alice, bob, dave, olga } = await running();
    for (const name of ["c", "a", "b"]) await service.create(callBy(alice), { name, readers: name === "b" ? [bob.identity.uri] : [] });
    await service.create(callBy(bob), { name: "d" });
    const namesFor = async (peer: AuthenticatedPeer) => (await service.list(callBy(peer), "", 50)).keys.map((key) => key.name);
    expect(await namesFor(alice)).toEqual(["a", "b", "c"]);
    expect(await namesFor(bob)).toEqual(["b", "d"]);
    expect(await namesFor(dave)).toEqual([]);
    expect(await namesFor(olga)).toEqual(["a", "b", "c", "d"]);
    const first = await service.list(callBy(olga), "", 3);
    expect(first).toMatchObject({ keys: [{ name: "a" }, { name: "b" }, { name: "c" }], nextCursor: "c" });
    expect(await service.list(callBy(olga), first.nextCursor ?? "", 3)).toEqual({ keys: [expect.objectContaining({ name: "d" })] });
  });
});

describe("the life of a key", () => {
  test("rotation adds an active version; the one before is still distributed and decrypts, but encrypts no more", async () => {
    const { service, alice, bob } = await running();
    await service.create(callBy(alice), { name: "k", readers: [bob.identity.uri] });
    const sealed = await service.encrypt(callBy(bob), "k", Buffer.from("old"), {});
    if ("dryRun" in sealed) throw new Error("a dry run");
    const first = await materialOf(service, bob, "k");
    expect(done(await service.rotate(callBy(alice), "k")).latest).toMatchObject({ version: 2, state: "active", uses: 0 });
    const second = await materialOf(service, bob, "k");
    expect(second).toMatchObject({ version: 2, state: "active" });
    expect(second.material).not.toBe(first.material);
    expect(await materialOf(service, bob, "k", 1)).toMatchObject({ version: 1, state: "deactivated", material: first.material });
    expect(await service.decrypt(callBy(bob), "k", sealed.ciphertext, {})).toEqual({ plaintext: Buffer.from("old"), version: 1 });
    expect(await service.encrypt(callBy(bob), "k", Buffer.from("new"), {})).toMatchObject({ version: 2 });
    await expect(materialOf(service, bob, "k", 3)).rejects.toMatchObject(code("not-found"));
  });

  test("after revocation nothing is distributed, encrypted, decrypted or rotated, whichever version", async () => {
    const { service, alice, olga } = await running();
    await service.create(callBy(alice), { name: "k" });
    const sealed = await service.encrypt(callBy(alice), "k", Buffer.from("x"), {});
    if ("dryRun" in sealed) throw new Error("a dry run");
    await service.rotate(callBy(alice), "k");
    await service.revoke(callBy(olga), "k", "keyCompromise");
    for (const version of [1, 2, "latest"] as const) await expect(materialOf(service, alice, "k", version)).rejects.toMatchObject(code("state-conflict"));
    await expect(service.encrypt(callBy(alice), "k", Buffer.from("x"), {})).rejects.toMatchObject(code("state-conflict"));
    await expect(service.decrypt(callBy(alice), "k", sealed.ciphertext, {})).rejects.toMatchObject(code("state-conflict"));
    await expect(service.rotate(callBy(alice), "k")).rejects.toMatchObject(code("state-conflict"));
    await expect(service.create(callBy(alice), { name: "k" })).rejects.toMatchObject(code("already-exists"));
    expect((await service.versions(callBy(alice), "k", 0, 10)).versions).toMatchObject([
      { version: 1, state: "compromised", revocationReason: "keyCompromise" },
      { version: 2, state: "compromised", revocationReason: "keyCompromise" },
    ]);
  });

  test("revocation answers alike for one's own key, another's, and none, and works on one's own only", async () => {
    const { service, alice, dave, actions } = await running();
    await service.create(callBy(alice), { name: "k" });
    for (const [peer, name] of [[dave, "k"], [dave, "none"], [alice, "none"], [alice, "k"], [alice, "k"]] as const) {
      expect(await service.revoke(callBy(peer), name, "unspecified")).toEqual({ key: name, revoked: true });
      if (peer === dave) expect((await service.describe(callBy(alice), "k")).latest.state).toBe("active");
    }
    expect((await service.describe(callBy(alice), "k")).latest.state).toBe("compromised");
    expect(await actions()).toEqual(["key.created", "key.revoked"]);
  });

  test("only a compromised key is destroyed, with its name said twice, and on the record", async () => {
    const { service, alice, olga, actions } = await running();
    await service.create(callBy(alice), { name: "k" });
    await expect(service.destroy(callBy(alice), "k", "k")).rejects.toMatchObject(code("state-conflict"));
    await service.revoke(callBy(alice), "k", "keyCompromise");
    await expect(service.destroy(callBy(alice), "k", "K")).rejects.toMatchObject(code("request-malformed"));
    expect(await service.destroy(callBy(olga), "k", "k")).toEqual({ key: "k", destroyed: [1] });
    expect((await service.describe(callBy(alice), "k")).latest.state).toBe("destroyed");
    await expect(service.destroy(callBy(olga), "k", "k")).rejects.toMatchObject(code("state-conflict"));
    expect(await actions()).toEqual(["key.created", "key.revoked", "key.destroyed-at-once"]);
  });

  test("imported material comes back octet for octet, and only 32 octets are a key", async () => {
    const { service, alice } = await running();
    const material = Uint8Array.from(SecretKey.random(32).reveal("local-use"));
    const hex = Buffer.from(material).toString("hex");
    expect(done(await service.create(callBy(alice), { name: "k", material })).latest.origin).toBe("imported");
    expect((await materialOf(service, alice, "k")).material).toBe(hex);
    expect(material.every((octet) => octet === 0)).toBe(true);
    for (const length of [0, 16, 31, 33]) await expect(service.create(callBy(alice), { name: "no", material: new Uint8Array(length) })).rejects.toMatchObject(code("request-malformed"));
  });

  test("If-Match: a change against an outdated etag is refused and changes nothing", async () => {
    const { service, alice, bob } = await running();
    const { etag } = done(await service.create(callBy(alice), { name: "k" }));
    const changed = done(await service.setDistribution(callBy(alice), "k", [bob.identity.uri, alice.identity.uri], etag));
    expect(changed.distribution.readers).toEqual([bob.identity.uri]);
    for (const old of [etag, undefined, "", '"x"']) await expect(service.setDistribution(callBy(alice), "k", [], old)).rejects.toMatchObject(code("precondition-failed"));
    await materialOf(service, bob, "k");
    await service.setDistribution(callBy(alice), "k", [], changed.etag);
    await expect(materialOf(service, bob, "k")).rejects.toMatchObject(code("not-permitted"));
  });
});

describe("release of a key", () => {
  test("the audit record is durable before the key is released", async () => {
    const world = await running();
    await world.service.create(callBy(world.alice), { name: "k" });
    // A second connection sees only what has been committed.
    let seen: Promise<string[]> | undefined;
    await world.service.distribute(callBy(world.alice), "k", "latest", undefined, () => {
      seen = world.actions();
    });
    expect(await seen).toEqual(["key.created", "key.distributed"]);
  });

  test("where the audit record cannot be written nothing is released", async () => {
    const world = await running();
    await world.service.create(callBy(world.alice), { name: "k" });
    const sealed = await world.service.encrypt(callBy(world.alice), "k", Buffer.from("x"), {});
    if ("dryRun" in sealed) throw new Error("a dry run");
    await world.engine.transaction((tx) => tx.run("ALTER TABLE audit_record RENAME TO elsewhere"));
    await expect(materialOf(world.service, world.alice, "k")).rejects.toMatchObject(code("audit-unavailable"));
    await expect(world.service.decrypt(callBy(world.alice), "k", sealed.ciphertext, {})).rejects.toMatchObject(code("audit-unavailable"));
    await expect(world.service.rotate(callBy(world.alice), "k")).rejects.toMatchObject(code("audit-unavailable"));
    await world.engine.transaction((tx) => tx.run("ALTER TABLE elsewhere RENAME TO audit_record"));
    expect((await world.service.describe(callBy(world.alice), "k")).latest.version).toBe(1);
  });

  test("a peer that is revoked while its audit record is written gets nothing", async () => {
    let revoked = false;
    const { service, alice } = await running(() => {
      if (revoked) throw new SignetError("certificate-revoked", "revoked");
    });
    await service.create(callBy(alice), { name: "k" });
    const sealed = await service.encrypt(callBy(alice), "k", Buffer.from("x"), {});
    if ("dryRun" in sealed) throw new Error("a dry run");
    const attempts = [materialOf(service, alice, "k"), service.decrypt(callBy(alice), "k", sealed.ciphertext, {}), service.encrypt(callBy(alice), "k", Buffer.from("x"), {})];
    revoked = true;
    for (const outcome of await Promise.allSettled(attempts)) expect(outcome).toMatchObject({ status: "rejected", reason: code("certificate-revoked") });
  });

  test("a reader that is taken off, or a key that is revoked, while the audit record is written: nothing is released", async () => {
    const { service, alice, bob } = await running();
    for (const name of ["k", "l"]) await service.create(callBy(alice), { name, readers: [bob.identity.uri] });
    const changes = [service.setDistribution(callBy(alice), "k", [], "*"), service.revoke(callBy(alice), "l", "keyCompromise")];
    const attempts = await Promise.allSettled([materialOf(service, bob, "k"), materialOf(service, bob, "l")]);
    await Promise.all(changes);
    expect(attempts).toMatchObject([{ status: "rejected", reason: code("not-permitted") }, { status: "rejected", reason: code("state-conflict") }]);
  });

  test("who has the version already gets no material, is judged all the same, and it is on the record", async () => {
    const { service, alice, bob, dave, actions } = await running();
    await service.create(callBy(alice), { name: "k", readers: [bob.identity.uri] });
    const { etag } = await materialOf(service, bob, "k");
    expect(await materialOf(service, bob, "k", "latest", etag)).toMatchObject({ etag, material: undefined });
    await expect(materialOf(service, dave, "k", "latest", etag)).rejects.toMatchObject(code("not-permitted"));
    await service.rotate(callBy(alice), "k");
    expect((await materialOf(service, bob, "k", "latest", etag)).material).toMatch(/^[0-9a-f]{64}$/);
    expect(await actions()).toEqual(["key.created", "key.distributed", "key.access-checked", "key.rotated", "key.distributed"]);
  });
});

describe("encryption by the server", () => {
  test("a ciphertext opens under its own key and context only", async () => {
    const { service, alice } = await running();
    for (const name of ["k", "l"]) await service.create(callBy(alice), { name });
    const sealed = await service.encrypt(callBy(alice), "k", Buffer.from("secret"), { tenant: "a" });
    if ("dryRun" in sealed) throw new Error("a dry run");
    expect(await service.decrypt(callBy(alice), "k", sealed.ciphertext, { tenant: "a" })).toEqual({ plaintext: Buffer.from("secret"), version: 1 });
    await expect(service.decrypt(callBy(alice), "k", sealed.ciphertext, { tenant: "b" })).rejects.toMatchObject(code("decryption-failed"));
    await expect(service.decrypt(callBy(alice), "l", sealed.ciphertext, { tenant: "a" })).rejects.toMatchObject(code("decryption-failed"));
    const later = Buffer.from(sealed.ciphertext);
    later.writeUInt32BE(2, 20);
    await expect(service.decrypt(callBy(alice), "k", later, { tenant: "a" })).rejects.toMatchObject(code("decryption-failed"));
  });

  test("a key version encrypts as many messages as it may and not one more, however many are asked for at once", async () => {
    const { service, engine, alice } = await running();
    await service.create(callBy(alice), { name: "k" });
    await engine.transaction((tx) => tx.run("UPDATE key_version SET uses = ?", keyUsageLimits.refused - 3));
    expect((await service.describe(callBy(alice), "k")).latest.rotationAdvised).toBe(true);
    const outcomes = await Promise.allSettled(Array.from({ length: 8 }, () => service.encrypt(callBy(alice), "k", new Uint8Array(1), {})));
    expect(outcomes.filter((outcome) => outcome.status === "fulfilled").length).toBe(3);
    for (const outcome of outcomes) if (outcome.status === "rejected") expect(outcome.reason).toMatchObject(code("key-usage-exhausted"));
    await service.rotate(callBy(alice), "k");
    expect(await service.encrypt(callBy(alice), "k", new Uint8Array(1), {})).toMatchObject({ version: 2 });
    expect(keyUsageLimits.refused).toBeLessThan(2 ** 32);
  });

  test("a key for the legacy algorithm alone is distributed, but the server does not encrypt under it", async () => {
    const { service, alice } = await running();
    await service.create(callBy(alice), { name: "k", algorithms: ["AES-256-CBC-PKCS7"] });
    await expect(service.encrypt(callBy(alice), "k", new Uint8Array(1), {})).rejects.toMatchObject(code("algorithm-not-permitted"));
    expect((await materialOf(service, alice, "k")).state).toBe("active");
  });
});

describe("Idempotency-Key", () => {
  const idempotencyKey = "3b1c";

  test("the same request is carried out once and answered twice, also after a restart and at the same time", async () => {
    const directory = temporaryDirectory();
    const unsealKey = SecretKey.random(32);
    const alice = await testPeer("agent", "alice");
    const first = await openKeyService(directory, unsealKey);
    const [created, meanwhile] = await Promise.all([1, 2].map(() => first.service.create(callBy(alice, { idempotencyKey }), { name: "k" })));
    expect(meanwhile).toEqual(created);
    const rotated = done(await first.service.rotate(callBy(alice, { idempotencyKey: "other" }), "k"));
    await first.close();
    const second = await openKeyService(directory, unsealKey);
    onTestFinished(() => second.close());
    expect(await second.service.create(callBy(alice, { idempotencyKey }), { name: "k" })).toEqual(created);
    expect(await second.service.rotate(callBy(alice, { idempotencyKey: "other" }), "k")).toEqual(rotated);
    expect((await second.service.describe(callBy(alice), "k")).latest.version).toBe(2);
  });

  test("another request under the same key is refused and has no effect; another caller's key is their own", async () => {
    const { service, alice, bob } = await running();
    const material = () => Buffer.alloc(32, 7);
    await service.create(callBy(alice, { idempotencyKey }), { name: "k", material: material() });
    for (const attempt of [
      () => service.create(callBy(alice, { idempotencyKey }), { name: "l", material: material() }),
      () => service.create(callBy(alice, { idempotencyKey }), { name: "k", material: Buffer.alloc(32, 8) }),
      () => service.create(callBy(alice, { idempotencyKey }), { name: "k" }),
      () => service.rotate(callBy(alice, { idempotencyKey }), "k"),
    ]) await expect(attempt()).rejects.toMatchObject(code("idempotency-conflict"));
    expect(service.keyCount).toBe(1);
    expect(done(await service.create(callBy(bob, { idempotencyKey }), { name: "l" })).owner).toBe(bob.identity.uri);
  });

  test("a refused request is not remembered, and a remembered one is forgotten after a day", async () => {
    const { service, engine, alice } = await running();
    await service.create(callBy(alice), { name: "k" });
    await expect(service.create(callBy(alice, { idempotencyKey }), { name: "k" })).rejects.toMatchObject(code("already-exists"));
    await service.create(callBy(alice, { idempotencyKey }), { name: "l" });
    await engine.transaction((tx) => tx.run("UPDATE idempotency SET created_at = created_at - ?", idempotencyMilliseconds + 1000));
    expect(done(await service.create(callBy(alice, { idempotencyKey }), { name: "m" })).name).toBe("m");
  });
});

test("a dry run judges policy and state, and does nothing", async () => {
  const { service, alice, bob, dave, actions } = await running();
  const dry = { dryRun: true } as const;
  const permitted = { dryRun: true, permitted: true };
  expect(await service.create(callBy(alice, dry), { name: "k" })).toEqual(permitted);
  expect(service.keyCount).toBe(0);
  await service.create(callBy(alice), { name: "k", readers: [bob.identity.uri] });
  const sealed = await service.encrypt(callBy(alice), "k", Buffer.from("x"), {});
  if ("dryRun" in sealed) throw new Error("a dry run");
  await expect(service.create(callBy(bob, dry), { name: "k" })).rejects.toMatchObject(code("already-exists"));
  expect(await service.rotate(callBy(alice, dry), "k")).toEqual(permitted);
  expect(await service.encrypt(callBy(bob, dry), "k", new Uint8Array(1), {})).toEqual(permitted);
  expect(await service.decrypt(callBy(bob, dry), "k", sealed.ciphertext, {})).toEqual(permitted);
  expect(await service.setDistribution(callBy(alice, dry), "k", [], "*")).toEqual(permitted);
  expect(await service.revoke(callBy(alice, dry), "k", "unspecified")).toEqual(permitted);
  await expect(service.destroy(callBy(alice, dry), "k", "k")).rejects.toMatchObject(code("state-conflict"));
  await expect(service.rotate(callBy(bob, dry), "k")).rejects.toMatchObject(code("not-permitted"));
  await expect(service.encrypt(callBy(dave, dry), "k", new Uint8Array(1), {})).rejects.toMatchObject(code("not-permitted"));
  expect(await actions()).toEqual(["key.created", "key.encrypted"]);
  expect((await service.describe(callBy(alice), "k")).latest).toMatchObject({ version: 1, state: "active", uses: 1 });
});
