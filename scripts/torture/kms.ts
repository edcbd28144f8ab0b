import { createHash } from "node:crypto";
import path from "node:path";
import { requestIdHeader } from "#pki/http-server.ts";
import { kmsRoutes, materialHeaders } from "#pki/protocol-kms.ts";
import { startAndKill, type ServiceProcess } from "../service-process.ts";
import { Caller, enroll, issueKmsToken, kmsArguments, openOperator, startCa, startKms, untilServed, type CaReady, type KmsReady } from "../scratch-system.ts";
import { AuditChain, type ShownRecord } from "./audit-chain.ts";
import { Findings, ruleResults, type RuleResult } from "./findings.ts";
import type { TortureOptions } from "./main.ts";
import { Random } from "./random.ts";
import { refusalOf, runTrials, type Load, type TortureSubject } from "./trials.ts";

const rules = {
  octets: "a key that was created or handed out is there with the same octets",
  rotation: "a rotation stays",
  revocation: "a revocation stays",
  audit: "a key that left is in the audit log",
  chain: "the audit log is one whole chain and never gets shorter",
} as const;
type Rule = (typeof rules)[keyof typeof rules];

/** What the observer knows of one key from answers that it got. */
interface KnownKey {
  readonly name: string;
  /** SHA-256 of the octets, by version: a copy of the key itself is not needed to compare. */
  readonly octets: Map<number, string>;
  latest: number;
  /** Numbers of versions that a rotation in flight may have made. */
  rotationInDoubt: boolean;
  revoked: "no" | "in doubt" | "yes";
  /** A worker acts on it, or it was touched since the last look. */
  busy: boolean;
}

interface AuditEntry {
  readonly sequence: number;
  readonly hash: string;
  readonly details?: { readonly requestId?: string };
}

class KmsUnderTorture implements TortureSubject<Rule> {
  readonly dataDirectory: string;
  readonly acknowledged: Record<Rule, number> = { [rules.octets]: 0, [rules.rotation]: 0, [rules.revocation]: 0, [rules.audit]: 0, [rules.chain]: 0 };
  readonly #root: string;
  readonly #ca: CaReady;
  readonly #agent: Caller;
  readonly #operator: Caller;
  readonly #random: Random;
  #token: string | undefined;
  #service: ServiceProcess<KmsReady> | undefined;
  #named = 0;
  readonly #keys: KnownKey[] = [];
  readonly #touched = new Set<KnownKey>();
  /** Names of keys whose creation was in flight. */
  readonly #created = new Set<string>();
  /** Request ids of deliveries that the log must hold, not yet found there. */
  readonly #delivered = new Set<string>();
  /** Every delivery ever, for the look over everything. */
  readonly #everDelivered = new Set<string>();
  readonly #chain = new AuditChain();

  constructor(i: { root: string; ca: CaReady; agent: Caller; operator: Caller; token: string; random: Random }) {
    this.#root = i.root;
    this.dataDirectory = path.join(i.root, "kms");
    this.#ca = i.ca;
    this.#agent = i.agent;
    this.#operator = i.operator;
    this.#token = i.token;
    this.#random = i.random;
  }

  async start(): Promise<void> {
    this.#service = await startKms(this.#root, this.#ca, this.#token);
    this.#token = undefined;
    this.#agent.url = this.#operator.url = this.#service.ready.url;
    await untilServed(this.#agent, kmsRoutes.whoami);
  }

  startAndKill(milliseconds: number): Promise<void> {
    return startAndKill("kms-server/main.ts", kmsArguments(this.#root, this.#ca), milliseconds);
  }

  async kill(): Promise<void> {
    await this.#service?.kill();
  }

  async stop(): Promise<void> {
    await this.#service?.stop();
  }

  async work(load: Load, worker: number): Promise<void> {
    // So that each trial has its revocation and its rotation, however few operations the machine gets done.
    if (worker === 0) await this.#onIdleKey((key) => this.#revoke(load, key));
    if (worker === 1) await this.#onIdleKey((key) => this.#rotate(load, key));
    while (!load.over) {
      const choice = this.#random.next();
      const found =
        choice >= 0.15 &&
        (await this.#onIdleKey((key) => {
          if (choice < 0.4) return this.#rotate(load, key);
          if (choice < 0.46) return this.#revoke(load, key);
          return this.#fetch(load, key, choice < 0.8 ? "latest" : (this.#random.pick([...key.octets.keys()]) ?? "latest"));
        }));
      if (!found) await this.#create(load);
    }
  }

  /** Acts on a key that nobody else acts on, so that answers come in the order of what happened to it. False where there is none. */
  async #onIdleKey(act: (key: KnownKey) => Promise<void>): Promise<boolean> {
    const key = this.#random.pick(this.#keys.filter(({ busy, revoked }) => !busy && revoked === "no"));
    if (key === undefined) return false;
    key.busy = true;
    this.#touched.add(key);
    await act(key);
    key.busy = false;
    return true;
  }

  async verify(everything: boolean): Promise<Findings<Rule>> {
    const findings = new Findings<Rule>();
    for (const name of this.#created) {
      const refused = await refusalOf(() => this.#agent.send("GET", kmsRoutes.key(name)));
      if (refused === undefined) this.#add(name);
    }
    this.#created.clear();
    const keys = everything ? this.#keys : new Set([...this.#touched, ...this.#random.sample(this.#keys, 20)]);
    for (const key of keys) {
      key.busy = false;
      await this.#verifyKey(key, findings);
    }
    this.#touched.clear();
    await this.#verifyAudit(everything, findings);
    return findings;
  }

  async #create(load: Load): Promise<void> {
    const name = `torture-${this.#named++}`;
    await load.attempt(
      () => this.#agent.send("POST", kmsRoutes.keys, { name, spec: "aes-256" }),
      () => {
        this.acknowledged[rules.octets]++;
        this.#touched.add(this.#add(name));
      },
      () => this.#created.add(name),
    );
  }

  #add(name: string): KnownKey {
    const key: KnownKey = { name, octets: new Map(), latest: 1, rotationInDoubt: false, revoked: "no", busy: false };
    this.#keys.push(key);
    return key;
  }

  #rotate(load: Load, key: KnownKey): Promise<void> {
    return load.attempt(
      () => this.#agent.json<{ latest: { version: number } }>("POST", kmsRoutes.action(key.name, "rotate"), {}),
      (description) => {
        this.acknowledged[rules.rotation]++;
        key.latest = description.latest.version;
      },
      () => (key.rotationInDoubt = true),
    );
  }

  #revoke(load: Load, key: KnownKey): Promise<void> {
    return load.attempt(
      () => this.#agent.send("POST", kmsRoutes.action(key.name, "revoke"), { reason: "superseded" }),
      () => {
        this.acknowledged[rules.revocation]++;
        key.revoked = "yes";
      },
      () => (key.revoked = "in doubt"),
    );
  }

  async #fetch(load: Load, key: KnownKey, version: number | "latest"): Promise<void> {
    let answered: { version: number; digest: string } | undefined;
    await load.attempt(
      () => this.#material(key, version),
      (answer) => (answered = answer),
      () => {},
    );
    if (answered === undefined) return;
    const known = key.octets.get(answered.version);
    if (known !== undefined && known !== answered.digest) throw new Error(`${key.name} version ${answered.version} changed its octets while the service ran`);
    key.octets.set(answered.version, answered.digest);
  }

  /** Fetches a version, and owes the audit log an entry for it. */
  async #material(key: KnownKey, version: number | "latest"): Promise<{ version: number; digest: string }> {
    const answer = await this.#agent.send("GET", kmsRoutes.material(key.name, version));
    const requestId = answer.headers[requestIdHeader.toLowerCase()];
    if (typeof requestId !== "string") throw new Error("an answer without a request id");
    this.#delivered.add(requestId);
    this.#everDelivered.add(requestId);
    this.acknowledged[rules.octets]++;
    this.acknowledged[rules.audit]++;
    return { version: Number(answer.headers[materialHeaders.version.toLowerCase()]), digest: createHash("sha256").update(answer.body).digest("hex") };
  }

  async #verifyKey(key: KnownKey, findings: Findings<Rule>): Promise<void> {
    if (key.revoked !== "no") {
      const refused = await refusalOf(() => this.#material(key, "latest"));
      if (refused === undefined && key.revoked === "yes") findings.lost(rules.revocation, `${key.name} is handed out again`);
      key.revoked = refused === undefined ? "no" : "yes";
      if (key.revoked === "yes") return;
    }
    let latest = 0;
    const absent = await refusalOf(async () => {
      latest = (await this.#agent.json<{ latest: { version: number } }>("GET", kmsRoutes.key(key.name))).latest.version;
    });
    if (absent !== undefined) {
      findings.lost(rules.octets, `${key.name}: ${absent}`);
      return;
    }
    const most = key.latest + (key.rotationInDoubt ? 1 : 0);
    if (latest < key.latest) findings.lost(rules.rotation, `${key.name} is at version ${latest}, not ${key.latest}`);
    if (latest > most) findings.violated(rules.rotation, `${key.name} is at version ${latest}, beyond ${most}`);
    key.latest = latest;
    key.rotationInDoubt = false;
    for (const [version, digest] of new Map([...this.#random.sample([...key.octets], 2), ...[...key.octets].slice(-1)])) {
      let found: string | undefined;
      const refused = await refusalOf(async () => (found = (await this.#material(key, version)).digest));
      if (refused !== undefined) findings.lost(rules.octets, `${key.name} version ${version}: ${refused}`);
      else if (found !== digest) findings.violated(rules.octets, `${key.name} version ${version} has other octets`);
    }
  }

  /** Reads the log from its first entry, or on from the last one seen (that one again), and crosses off the deliveries. */
  async #verifyAudit(everything: boolean, findings: Findings<Rule>): Promise<void> {
    const owed = new Set(everything ? this.#everDelivered : this.#delivered);
    const from = everything ? 1 : Math.max(1, this.#chain.length);
    const before = this.#chain.length;
    const records: ShownRecord[] = [];
    for (let cursor = from - 1; ; ) {
      const { entries } = await this.#operator.json<{ entries: AuditEntry[] }>("GET", `${kmsRoutes.auditEntries}?cursor=${cursor}`);
      for (const { hash, ...record } of entries) {
        records.push({ sequence: record.sequence, record: JSON.stringify(record), hash });
        if (record.details?.requestId !== undefined) owed.delete(record.details.requestId);
      }
      const last = entries.at(-1);
      if (last === undefined) break;
      cursor = last.sequence;
    }
    const { broken, missing } = this.#chain.follow(from, records);
    this.acknowledged[rules.chain] += Math.max(0, this.#chain.length - before);
    for (const what of broken) findings.violated(rules.chain, what);
    if (missing > 0) findings.lost(rules.chain, `the last ${missing} records`);
    for (const requestId of owed) findings.lost(rules.audit, `no record of request ${requestId}`);
    this.#delivered.clear();
  }
}

/** Kills the KMS at random moments while keys are created, handed out, rotated and revoked; the CA goes on running beside it. */
export async function tortureKms(options: TortureOptions): Promise<RuleResult[]> {
  const random = new Random(options.seed);
  const ca = await startCa(options.directory);
  try {
    const operatorParty = await openOperator(options.directory);
    const authority = new Caller(operatorParty, ca.ready.mutualUrl, "ca");
    const { token } = await issueKmsToken(authority);
    const agentParty = await enroll(ca.ready, authority, "torture", { keyType: "ec-p256" });
    const subject = new KmsUnderTorture({
      root: options.directory,
      ca: ca.ready,
      agent: new Caller(agentParty, "https://localhost", "kms"),
      operator: new Caller(operatorParty, "https://localhost", "kms"),
      token,
      random,
    });
    const { trials, control } = await runTrials({ subject, trials: options.trials, random, progress: options.progress });
    const broken = "an older copy of the database put back";
    return ruleResults({
      suite: "kms",
      rules: Object.values(rules),
      trials: options.trials,
      acknowledged: subject.acknowledged,
      minimumPerTrial: { [rules.octets]: 12, [rules.rotation]: 3, [rules.revocation]: 1, [rules.audit]: 12, [rules.chain]: 16 },
      findings: trials,
      control,
      broken: { [rules.octets]: broken, [rules.rotation]: broken, [rules.revocation]: broken, [rules.audit]: broken, [rules.chain]: broken },
    });
  } finally {
    await ca.stop();
  }
}
