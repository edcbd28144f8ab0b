import { randomBytes } from "node:crypto";
import { type Identity, parseIdentityUri } from "#pki/certificate-profile.ts";
import type { Clock } from "#pki/clock.ts";
import { SignetError } from "#pki/errors.ts";
import { SecretKey } from "#pki/keys.ts";
import type { AuthenticatedPeer } from "#pki/mtls.ts";
import type { EncryptionContext, KeyAlgorithm, KeyDescription, KeyEvent, KeyRevocationReason, KeyVersionDescription } from "#pki/protocol-kms.ts";
import { summaryRows, type KmsSummary } from "#pki/protocol-summary.ts";
import { toLatestRecords, type AuditEvent, type AuditLog } from "#store/audit-log.ts";
import type { SqlEngine, SqlTransaction } from "#store/engine.ts";
import { openCiphertext, readCiphertextKey, sealCiphertext } from "./ciphertext.ts";
import { keyEventsFor } from "./key-events.ts";
import { isPermitted, isPermittedAtLarge, type KeyOperation, notPermitted } from "./key-policy.ts";
import { type KeyState, requireTransition, requireUse, stateAfter } from "./key-state.ts";
import { type KeyRecord, KeyStore, type KeyVersionRecord } from "./key-store.ts";
import { KeyWrap } from "./key-wrap.ts";

/** Encryptions under one key version. SP 800-38D section 8.3 allows 2^32 with random IVs; Signet advises rotation at a quarter of that and refuses at half. */
export const keyUsageLimits = { rotationAdvised: 2 ** 30, refused: 2 ** 31 } as const;

/** How long an Idempotency-Key is remembered. */
export const idempotencyMilliseconds = 24 * 60 * 60 * 1000;

/** Who calls, and how. With `dryRun` policy and state are judged and nothing is done. */
export interface KeyCall {
  readonly peer: AuthenticatedPeer;
  readonly requestId: string;
  readonly dryRun?: boolean;
  readonly idempotencyKey?: string | undefined;
}

/** What a new key shall be. `material`, 32 octets, is imported and then zeroed; without it 32 random octets are drawn. */
export interface NewKey {
  readonly name: string;
  readonly algorithms?: readonly KeyAlgorithm[] | undefined;
  readonly readers?: readonly string[] | undefined;
  readonly material?: Uint8Array;
}

/** A key version on its way out; `material` is missing where the caller has it already (304). It is zeroed by whoever wrote it. */
export interface DistributedKey {
  readonly keyId: string;
  readonly version: number;
  readonly state: KeyState;
  readonly algorithms: readonly KeyAlgorithm[];
  readonly etag: string;
  readonly material?: Uint8Array;
}

export interface KeyServiceParts {
  readonly engine: SqlEngine;
  readonly auditLog: AuditLog;
  readonly unsealKey: SecretKey;
  /** Throws once the peer is revoked, or revocation data has run out. Called after the audit record is durable, immediately before bytes leave. */
  readonly recheck: (peer: AuthenticatedPeer) => void;
  readonly clock: Clock;
  readonly trustDomain: string;
}

const dryRun = { dryRun: true, permitted: true } as const;
export type DryRun = typeof dryRun;

/**
 * The keys: create, distribute, rotate, revoke, destroy, encrypt, decrypt. Every act is allowed by policy and state, and stands
 * in the audit log in the transaction of the act, durable before its result is known outside.
 */
export class KeyService {
  readonly #parts: KeyServiceParts;
  readonly #store: KeyStore;
  readonly #wrap: KeyWrap;
  readonly #denials = new Map<string, { caller: string; operation: KeyOperation; count: number }>();

  private constructor(parts: KeyServiceParts, store: KeyStore, wrap: KeyWrap) {
    this.#parts = parts;
    this.#store = store;
    this.#wrap = wrap;
  }

  /** Opens the keys of a migrated database. @throws SignetError unseal-failed | data-directory-corrupt */
  static async open(parts: KeyServiceParts): Promise<KeyService> {
    const wrap = new KeyWrap(parts.unsealKey);
    return new KeyService(parts, await KeyStore.open(parts.engine, wrap), wrap);
  }

  get keyCount(): number {
    return this.#store.size;
  }

  /**
   * Makes a key of one active version; the caller becomes its owner.
   * @throws SignetError not-permitted | already-exists | idempotency-conflict | request-malformed
   */
  async create(call: KeyCall, wanted: NewKey): Promise<KeyDescription | DryRun> {
    const operation = wanted.material === undefined ? "create" : "import";
    const caller = call.peer.identity;
    try {
      if (!isPermittedAtLarge(caller, operation)) throw this.#denied(caller, operation);
      if (wanted.material !== undefined && wanted.material.length !== 32) throw new SignetError("request-malformed", "The material of an aes-256 key is 32 octets.");
      const readers = this.#readers(wanted.readers ?? [], caller);
      const algorithms = [...new Set(wanted.algorithms ?? ["AES-256-GCM" as const])].sort();
      if (call.dryRun === true) {
        if (this.#store.find(wanted.name) !== undefined) throw nameTaken(wanted.name);
        return dryRun;
      }
      const now = this.#now();
      const id = randomBytes(16).toString("hex");
      const record: KeyRecord = {
        id, name: wanted.name, algorithms, owner: caller.uri, readers, createdAt: now, revision: 1,
        versions: [this.#newVersion(id, 1, now, wanted.material)],
      };
      const request = [operation, wanted.name, algorithms, [...readers].sort(), wanted.material === undefined ? null : Buffer.from(wanted.material).toString("hex")];
      return await this.#once(call, request, async (tx) => {
        if ((await this.#store.load(tx, wanted.name)) !== undefined) throw nameTaken(wanted.name);
        await this.#store.insert(tx, record);
        await this.#audit(tx, call, operation === "create" ? "key.created" : "key.imported", record.name, { ...about(record), version: 1, algorithms, readers: [...readers] });
        return record;
      });
    } finally {
      wanted.material?.fill(0);
    }
  }

  /** Keys that the caller may describe, by name after the cursor; `nextCursor` where there may be more. */
  async list(call: KeyCall, cursor: string, limit: number): Promise<{ keys: KeyDescription[]; nextCursor?: string }> {
    const caller = call.peer.identity;
    if (!isPermittedAtLarge(caller, "list")) throw this.#denied(caller, "list");
    const names = await this.#store.names(caller.kind === "operator" ? "all" : caller.uri, cursor, limit);
    const keys: KeyDescription[] = [];
    for (const name of names) {
      const record = this.#store.find(name);
      if (record !== undefined && isPermitted(caller, "describe", record)) keys.push(await this.#describe(record));
    }
    const last = names.at(-1);
    return { keys, ...(names.length === limit && last !== undefined ? { nextCursor: last } : {}) };
  }

  async describe(call: KeyCall, name: string): Promise<KeyDescription> {
    return this.#describe(this.#permitted(call.peer.identity, "describe", name));
  }

  /** Versions above the cursor, in ascending order. */
  async versions(call: KeyCall, name: string, cursor: number, limit: number): Promise<{ versions: KeyVersionDescription[]; nextCursor?: string }> {
    const record = this.#permitted(call.peer.identity, "describe", name);
    const uses = await this.#store.uses(record.id);
    const page = record.versions.filter((v) => v.version > cursor).slice(0, limit);
    const last = page.at(-1);
    const more = last !== undefined && last.version < newest(record).version;
    return { versions: page.map((v) => describeVersion(v, uses.get(v.version) ?? 0)), ...(more ? { nextCursor: String(last.version) } : {}) };
  }

  /** Tells of each change that brings the caller a key version, changes one that it may have, or takes a key from it. @returns ends it @throws SignetError not-permitted */
  watch({ peer }: KeyCall, listener: (events: readonly KeyEvent[]) => void): () => void {
    const caller = peer.identity;
    if (!isPermittedAtLarge(caller, "watch")) throw this.#denied(caller, "watch");
    return this.#store.onPublished((before, after) => {
      const events = keyEventsFor(caller, before, after);
      if (events.length > 0) listener(events);
    });
  }

  /**
   * Replaces the readers of a key. It takes nothing back that was delivered: rotate afterwards.
   * @param ifMatch the key's etag, or "*"
   * @throws SignetError precondition-failed when the key has changed since that etag
   */
  async setDistribution(call: KeyCall, name: string, readers: readonly string[], ifMatch: string | undefined): Promise<KeyDescription | DryRun> {
    const caller = call.peer.identity;
    const wanted = this.#readers(readers, caller);
    const judge = (record: KeyRecord) => {
      if (ifMatch === undefined || (ifMatch !== "*" && ifMatch !== etagOf(record))) {
        throw new SignetError("precondition-failed", "If-Match must hold the key's present etag.", { details: { etag: etagOf(record) } });
      }
    };
    if (call.dryRun === true) {
      judge(this.#permitted(caller, "set-distribution", name));
      return dryRun;
    }
    return this.#once({ ...call, idempotencyKey: undefined }, [], async (tx) => {
      const before = await this.#permittedIn(tx, caller, "set-distribution", name);
      judge(before);
      const after = { ...before, readers: wanted, revision: before.revision + 1 };
      await this.#store.update(tx, before, after);
      await this.#audit(tx, call, "key.distribution-changed", name, { ...about(after), readers: [...wanted] });
      return after;
    });
  }

  /**
   * Adds a new active version and deactivates the one before, which still opens what it sealed. A revoked key is not rotated.
   * @throws SignetError not-permitted | state-conflict | idempotency-conflict
   */
  async rotate(call: KeyCall, name: string): Promise<KeyDescription | DryRun> {
    const caller = call.peer.identity;
    if (call.dryRun === true) {
      requireTransition(newest(this.#permitted(caller, "rotate", name)).state, "deactivate");
      return dryRun;
    }
    return this.#once(call, ["rotate", name], async (tx) => {
      const before = await this.#permittedIn(tx, caller, "rotate", name);
      const now = this.#now();
      const old = newest(before);
      const fresh = this.#newVersion(before.id, old.version + 1, now);
      const after = { ...before, revision: before.revision + 1, versions: [...before.versions.slice(0, -1), this.#transition(before, old, "deactivate", now), fresh] };
      await this.#store.update(tx, before, after);
      await this.#audit(tx, call, "key.rotated", name, { ...about(after), version: fresh.version });
      return after;
    });
  }

  /**
   * Compromises every version of the key (SP 800-57 Part 1 section 7.5): none is distributed, encrypts or decrypts again. Answers alike whether the
   * key was there and the caller's to revoke or not, and takes one commit either way.
   */
  async revoke(call: KeyCall, name: string, reason: KeyRevocationReason): Promise<{ key: string; revoked: true } | DryRun> {
    if (call.dryRun === true) return dryRun;
    const caller = call.peer.identity;
    const revoked = await this.#durably(async (tx) => {
      const before = await this.#store.load(tx, name);
      if (before === undefined || !isPermitted(caller, "revoke", before)) {
        await this.#store.addDenials(tx, caller.uri, "revoke", 1);
        return undefined;
      }
      const now = this.#now();
      const versions = before.versions.map((v) => (stateAfter(v.state, "compromise") === undefined ? v : { ...this.#transition(before, v, "compromise", now), revocationReason: reason }));
      const affected = versions.filter((v) => !before.versions.includes(v)).map((v) => v.version);
      if (affected.length === 0) return before;
      const after = { ...before, revision: before.revision + 1, versions };
      await this.#store.update(tx, before, after);
      await this.#audit(tx, call, "key.revoked", name, { ...about(after), versions: affected.map(String), reason });
      return after;
    });
    if (revoked !== undefined) this.#store.publish(revoked);
    return { key: name, revoked: true };
  }

  /**
   * Wipes the wrapped material of every compromised version, at once and for good.
   * @param confirm the key's name again
   * @throws SignetError not-permitted | state-conflict when no version is compromised
   */
  async destroy(call: KeyCall, name: string, confirm: string): Promise<{ key: string; destroyed: number[] } | DryRun> {
    const caller = call.peer.identity;
    if (confirm !== name) throw new SignetError("request-malformed", "`confirm` must repeat the name of the key.");
    const doomed = (record: KeyRecord) => {
      const compromised = record.versions.filter((v) => v.state === "compromised").map((v) => v.version);
      if (compromised.length === 0) requireTransition(newest(record).state, "destroy");
      return compromised;
    };
    if (call.dryRun === true) {
      doomed(this.#permitted(caller, "destroy", name));
      return dryRun;
    }
    const { after, destroyed } = await this.#durably(async (tx) => {
      const before = await this.#permittedIn(tx, caller, "destroy", name);
      const destroyed = doomed(before);
      const now = this.#now();
      const versions = before.versions.map((v) => (destroyed.includes(v.version) ? { ...v, state: requireTransition(v.state, "destroy"), stateChangedAt: now, wrapped: null } : v));
      const after = { ...before, revision: before.revision + 1, versions };
      await this.#store.update(tx, before, after);
      await this.#audit(tx, call, "key.destroyed-at-once", name, { ...about(after), versions: destroyed.map(String) });
      return { after, destroyed };
    });
    this.#store.publish(after);
    return { key: name, destroyed };
  }

  /**
   * Hands out the key itself. In order: policy and state; the audit record, durable; the peer, policy and state again; and in the same turn
   * of the event loop `release`, which writes. Where `ifNoneMatch` is the version's etag, all of that happens but the key stays here.
   * @throws SignetError not-permitted | not-found (no such version) | state-conflict | audit-unavailable, or what makes the peer unacceptable
   */
  async distribute(call: KeyCall, name: string, version: number | "latest", ifNoneMatch: string | undefined, release: (key: DistributedKey) => void): Promise<void> {
    const caller = call.peer.identity;
    const asked = pickVersion(this.#permitted(caller, "distribute", name), version);
    requireUse(asked.state, "distribute");
    const known = ifNoneMatch !== undefined && ifNoneMatch === materialEtag(name, asked);
    await this.#durably((tx) => this.#audit(tx, call, known ? "key.access-checked" : "key.distributed", name, { version: asked.version }));
    this.#parts.recheck(call.peer);
    const record = this.#permitted(caller, "distribute", name);
    const present = pickVersion(record, asked.version);
    requireUse(present.state, "distribute");
    const key = { keyId: record.id, version: present.version, state: present.state, algorithms: record.algorithms, etag: materialEtag(name, present) };
    release(known && key.etag === ifNoneMatch ? key : { ...key, material: this.#unwrap(record, present) });
  }

  /**
   * Encrypts under the latest version, bound to the context.
   * @throws SignetError key-usage-exhausted when the version has done its 2^31 messages
   */
  async encrypt(call: KeyCall, name: string, plaintext: Uint8Array, context: EncryptionContext): Promise<{ ciphertext: Uint8Array; version: number } | DryRun> {
    const judge = () => {
      const record = this.#permitted(call.peer.identity, "encrypt", name);
      if (!record.algorithms.includes("AES-256-GCM")) throw new SignetError("algorithm-not-permitted", "This key does not allow AES-256-GCM, and the server offers nothing else.");
      return record;
    };
    const record = judge();
    const { version, state } = newest(record);
    requireUse(state, "protect");
    if (call.dryRun === true) return dryRun;
    await this.#durably(async (tx) => {
      if (!(await this.#store.countUse(tx, record.id, version, keyUsageLimits.refused))) {
        throw new SignetError("key-usage-exhausted", "This key version has encrypted as many messages as it may. Rotate the key.", { details: { version } });
      }
      await this.#audit(tx, call, "key.encrypted", name, { version, context: JSON.stringify(context) });
    });
    this.#parts.recheck(call.peer);
    const present = pickVersion(judge(), version);
    requireUse(present.state, "process"); // rotated meanwhile is fine, revoked is not
    return { ciphertext: this.#withKey(record, present, (key) => sealCiphertext(key, { keyId: record.id, version }, plaintext, context)), version };
  }

  /**
   * Decrypts what {@link encrypt} made under this key, whichever version it names.
   * @throws SignetError ciphertext-malformed | decryption-failed | state-conflict
   */
  async decrypt(call: KeyCall, name: string, ciphertext: Uint8Array, context: EncryptionContext): Promise<{ plaintext: Uint8Array; version: number } | DryRun> {
    const made = readCiphertextKey(ciphertext);
    const judge = () => {
      const record = this.#permitted(call.peer.identity, "decrypt", name);
      const found = record.versions.find((v) => v.version === made.version);
      if (record.id !== made.keyId || found === undefined) throw new SignetError("decryption-failed", "This ciphertext was not made under this key.");
      requireUse(found.state, "process");
      return { record, found };
    };
    judge();
    if (call.dryRun === true) return dryRun;
    await this.#durably((tx) => this.#audit(tx, call, "key.decrypted", name, { version: made.version, context: JSON.stringify(context) }));
    this.#parts.recheck(call.peer);
    const { record, found } = judge();
    return { plaintext: this.#withKey(record, found, (key) => openCiphertext(key, ciphertext, context)), version: made.version };
  }

  /** Entries of the audit log after a cursor, for operators. */
  async auditEntries(call: KeyCall, cursor: number, limit: number) {
    if (!isPermittedAtLarge(call.peer.identity, "read-audit")) throw this.#denied(call.peer.identity, "read-audit");
    const entries = await this.#parts.engine.read((tx) => this.#parts.auditLog.entries(tx, cursor, limit));
    const last = entries.at(-1);
    return { entries, ...(entries.length === limit && last !== undefined ? { nextCursor: String(last.sequence) } : {}) };
  }

  /** Keys by state, denials and the last audit records, for operators. */
  async summary(call: KeyCall): Promise<Pick<KmsSummary, "keys" | "denials" | "audit">> {
    if (!isPermittedAtLarge(call.peer.identity, "read-audit")) throw this.#denied(call.peer.identity, "read-audit");
    const denials = (await this.denials()).reduce((sum, { count }) => sum + count, 0);
    const audit = toLatestRecords(await this.#parts.engine.read((tx) => this.#parts.auditLog.latest(tx, summaryRows)));
    return { keys: { total: this.#store.size, states: this.#store.states }, denials, audit };
  }

  /** Denials by caller and operation, since the database was made. */
  async denials(): Promise<readonly { caller: string; operation: string; count: number }[]> {
    await this.flushDenials();
    return this.#store.denials();
  }

  /** Writes the denials counted since the last time. They are kept in memory meanwhile, so that refusing costs no disk. */
  async flushDenials(): Promise<void> {
    const counted = [...this.#denials.values()];
    this.#denials.clear();
    if (counted.length === 0) return;
    try {
      await this.#durably(async (tx) => {
        for (const { caller, operation, count } of counted) await this.#store.addDenials(tx, caller, operation, count);
      });
    } catch (error) {
      for (const { caller, operation, count } of counted) this.#countDenials(caller, operation, count);
      throw error;
    }
  }

  /** A key as last committed, if the caller may do this to it. */
  #permitted(caller: Identity, operation: KeyOperation, name: string): KeyRecord {
    const record = this.#store.find(name);
    if (record === undefined || !isPermitted(caller, operation, record)) throw this.#denied(caller, operation);
    return record;
  }

  /** A key as this transaction sees it, if the caller may do this to it. */
  async #permittedIn(tx: SqlTransaction, caller: Identity, operation: KeyOperation, name: string): Promise<KeyRecord> {
    const record = await this.#store.load(tx, name);
    if (record === undefined || !isPermitted(caller, operation, record)) throw this.#denied(caller, operation);
    return record;
  }

  #denied(caller: Identity, operation: KeyOperation): SignetError {
    this.#countDenials(caller.uri, operation, 1);
    return notPermitted();
  }

  #countDenials(caller: string, operation: KeyOperation, count: number): void {
    const counter = this.#denials.get(`${operation} ${caller}`);
    if (counter === undefined) this.#denials.set(`${operation} ${caller}`, { caller, operation, count });
    else counter.count += count;
  }

  /** Runs a change of one key in one transaction, once for each Idempotency-Key, and answers with the key's description. */
  async #once(call: KeyCall, request: readonly unknown[], work: (tx: SqlTransaction) => Promise<KeyRecord>): Promise<KeyDescription> {
    const caller = call.peer.identity.uri;
    const idempotencyKey = call.idempotencyKey;
    const digest = idempotencyKey === undefined ? "" : this.#wrap.requestDigest(JSON.stringify(request));
    const done = await this.#durably(async (tx) => {
      if (idempotencyKey === undefined) return { record: await work(tx) };
      const now = this.#now();
      const earlier = await this.#store.recall(tx, caller, idempotencyKey, digest, now - idempotencyMilliseconds);
      if (earlier !== undefined) return { answer: JSON.parse(earlier) as KeyDescription };
      const record = await work(tx);
      const answer = describeRecord(record, 0);
      await this.#store.remember(tx, caller, idempotencyKey, digest, JSON.stringify(answer), now);
      return { record, answer };
    });
    if (done.record !== undefined) this.#store.publish(done.record);
    return done.answer ?? this.#describe(done.record);
  }

  /** Runs a unit of work to its commit. Whatever keeps it from being durable is `audit-unavailable`: nothing is done unrecorded. */
  async #durably<T>(work: (tx: SqlTransaction) => Promise<T>): Promise<T> {
    try {
      return await this.#parts.engine.transaction(work);
    } catch (error) {
      if (error instanceof SignetError && error.code !== "storage-unavailable") throw error;
      throw new SignetError("audit-unavailable", "The act could not be recorded, so it was not carried out.", { cause: error });
    }
  }

  async #audit(tx: SqlTransaction, { peer, requestId }: KeyCall, action: string, key: string, details: AuditEvent["details"]): Promise<void> {
    const { serialNumber, spkiFingerprint } = peer.certificate;
    await this.#parts.auditLog.append(tx, {
      action,
      actor: peer.identity.uri,
      subject: key,
      details: { ...details, certificate: serialNumber, spki: spkiFingerprint, requestId },
    });
  }

  #newVersion(keyId: string, version: number, now: number, imported?: Uint8Array): KeyVersionRecord {
    const material = imported ?? randomBytes(32);
    try {
      const wrapped = this.#wrap.wrap(material, { keyId, version, state: "active" });
      return { version, state: "active", origin: imported === undefined ? "generated" : "imported", createdAt: now, stateChangedAt: now, revocationReason: null, wrapped };
    } finally {
      if (imported === undefined) material.fill(0);
    }
  }

  /** A version after a transition that keeps its material, rewrapped for the new state. */
  #transition(record: KeyRecord, v: KeyVersionRecord, transition: "deactivate" | "compromise", now: number): KeyVersionRecord {
    const state = requireTransition(v.state, transition);
    const wrapped = v.wrapped === null ? null : this.#wrap.rewrap(v.wrapped, { keyId: record.id, version: v.version, state: v.state }, state);
    return { ...v, state, stateChangedAt: now, wrapped };
  }

  /** Material of a version in octets of its own; who receives them zeroes them. */
  #unwrap(record: KeyRecord, v: KeyVersionRecord): Uint8Array {
    if (v.wrapped === null) throw new SignetError("state-conflict", "This key version was destroyed.", { details: { state: v.state } });
    return this.#wrap.unwrap(v.wrapped, { keyId: record.id, version: v.version, state: v.state });
  }

  #withKey<T>(record: KeyRecord, v: KeyVersionRecord, use: (key: SecretKey) => T): T {
    const material = this.#unwrap(record, v);
    try {
      return use(SecretKey.from(material));
    } finally {
      material.fill(0);
    }
  }

  /** Readers as a set of agents of this trust domain, without the owner. */
  #readers(uris: readonly string[], owner: Identity): ReadonlySet<string> {
    const readers = new Set<string>();
    for (const uri of uris) {
      const { kind, trustDomain } = parseIdentityUri(uri);
      if (kind !== "agent" || trustDomain !== this.#parts.trustDomain) throw new SignetError("request-malformed", "Readers are agents of this trust domain.", { details: { reader: uri } });
      if (uri !== owner.uri) readers.add(uri);
    }
    return readers;
  }

  async #describe(record: KeyRecord): Promise<KeyDescription> {
    return describeRecord(record, (await this.#store.uses(record.id)).get(newest(record).version) ?? 0);
  }

  #now(): number {
    return this.#parts.clock.now().getTime();
  }
}

function newest(record: KeyRecord): KeyVersionRecord {
  const latest = record.versions.at(-1);
  if (latest === undefined) throw new SignetError("data-directory-corrupt", "A key without a version.");
  return latest;
}

function pickVersion(record: KeyRecord, version: number | "latest"): KeyVersionRecord {
  if (version === "latest") return newest(record);
  const found = record.versions.find((v) => v.version === version);
  if (found === undefined) throw new SignetError("not-found", "This key has no such version.", { details: { version } });
  return found;
}

function nameTaken(name: string): SignetError {
  return new SignetError("already-exists", "A key of this name exists, or existed: names are not used twice.", { details: { name } });
}

/** What the audit record of a change says of the key, beside its name. */
function about(record: KeyRecord) {
  return { keyId: record.id, revision: record.revision };
}

function etagOf(record: KeyRecord): string {
  return `"${record.id.slice(0, 16)}.${record.revision}"`;
}

function materialEtag(name: string, v: KeyVersionRecord): string {
  return `"${name}.${v.version}.${v.state}"`;
}

function describeRecord(record: KeyRecord, uses: number): KeyDescription {
  return {
    name: record.name,
    id: record.id,
    spec: "aes-256",
    algorithms: [...record.algorithms],
    owner: record.owner,
    distribution: { readers: [...record.readers].sort() },
    createdAt: new Date(record.createdAt).toISOString(),
    etag: etagOf(record),
    latest: describeVersion(newest(record), uses),
  };
}

function describeVersion(v: KeyVersionRecord, uses: number): KeyVersionDescription {
  return {
    version: v.version,
    state: v.state,
    origin: v.origin,
    createdAt: new Date(v.createdAt).toISOString(),
    stateChangedAt: new Date(v.stateChangedAt).toISOString(),
    uses,
    rotationAdvised: uses >= keyUsageLimits.rotationAdvised,
    ...(v.revocationReason === null ? {} : { revocationReason: v.revocationReason }),
  };
}
