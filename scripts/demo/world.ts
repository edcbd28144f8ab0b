/** The system under attack: CA and KMS as processes of their own, the parties enrolled, and what honest people do on a cue. */
import type { ChildProcess } from "node:child_process";
import path from "node:path";
import type { LiveSystem } from "../attacks/attack.ts";
import type { Cues } from "../attacks/director.ts";
import { portOptions } from "../free-ports.ts";
import { type ServiceProcess, startService } from "../service-process.ts";
import { Party } from "./parties.ts";
import { copyIdentity, copyKmsData, swapWrappedKeys } from "./storage-thief.ts";

export const trustDomain = "demo.signet.internal";

interface CaReady {
  readonly pid: number;
  readonly enrolmentUrl: string;
  readonly mutualUrl: string;
  readonly publicationUrl: string;
  readonly rootFingerprint: string;
  readonly trustDomain: string;
}
interface KmsReady {
  readonly pid: number;
  readonly url: string;
}

export interface Enrolled {
  readonly uri: string;
  readonly serialNumber: string;
  readonly keyType: string;
  readonly notAfter: string;
}

export const agentNames = ["alice", "bob", "carol", "dave"] as const;
export type AgentName = (typeof agentNames)[number];

/** Everything that runs, from the first process on. Made step by step, so that the story can tell each step. */
export class SystemUnderAttack {
  readonly directory: string;
  readonly processes: Set<ChildProcess>;
  readonly operator: Party;
  #parties: { readonly registrar: Party; readonly agents: Readonly<Record<AgentName, Party>> } | undefined;
  #ca: ServiceProcess<CaReady> | undefined;
  #kms: ServiceProcess<KmsReady> | undefined;
  readonly #identities: Record<string, string> = {};
  readonly #others: ServiceProcess<KmsReady>[] = [];

  constructor(directory: string, processes: Set<ChildProcess>) {
    this.directory = directory;
    this.processes = processes;
    this.operator = new Party("operator", processes);
  }

  /** The agents' processes. They start once the CA is up, and load while the KMS starts. */
  get agents(): Readonly<Record<AgentName, Party>> {
    return this.#started().agents;
  }

  get ca(): CaReady {
    if (this.#ca === undefined) throw new Error("the CA does not run yet");
    return this.#ca.ready;
  }

  get kms(): KmsReady {
    if (this.#kms === undefined) throw new Error("the KMS does not run yet");
    return this.#kms.ready;
  }

  get live(): LiveSystem {
    const { rootFingerprint, enrolmentUrl, mutualUrl, publicationUrl } = this.ca;
    return { trustDomain, rootFingerprint, enrolmentUrl, mutualUrl, publicationUrl, kmsUrl: this.kms.url, identities: this.#identities };
  }

  get caData(): string {
    return path.join(this.directory, "ca-data");
  }

  get kmsData(): string {
    return path.join(this.directory, "kms-data");
  }

  identityDirectory(name: string): string {
    return path.join(this.directory, "identities", name);
  }

  async startCa(): Promise<CaReady> {
    this.#ca = await startService<CaReady>("ca/main.ts", ["--data", this.caData, "--init", "--trust-domain", trustDomain, ...(await portOptions("enrolment", "mutual", "publication"))]);
    await this.operator.order("openOperator", { directory: path.join(this.caData, "operator"), mutualUrl: this.ca.mutualUrl });
    return this.ca;
  }

  async startKms(): Promise<KmsReady> {
    this.#started();
    const { token } = await this.token("kms", "service", { dns: "localhost", ip: "127.0.0.1" });
    const identity = this.identityDirectory("kms");
    this.#kms = await startService<KmsReady>(
      "kms-server/main.ts",
      ["--data", this.kmsData, "--identity", identity, "--ca", this.ca.enrolmentUrl, "--root-fingerprint", this.ca.rootFingerprint],
      { environment: { SIGNET_ENROLMENT_TOKEN: token } },
    );
    this.#identities["kms"] = identity;
    return this.kms;
  }

  async token(name: string, kind: "agent" | "service" = "agent", names: { dns?: string; ip?: string } = {}): Promise<{ token: string }> {
    return (await this.operator.order("token", { name, kind, ...names })) as { token: string };
  }

  async enroll(name: AgentName): Promise<Enrolled> {
    const { token } = await this.token(name);
    const directory = this.identityDirectory(name);
    const { enrolmentUrl: caUrl, rootFingerprint } = this.ca;
    const enrolled = await this.agents[name].order("enroll", { caUrl, rootFingerprint, name, token, kmsUrl: this.kms.url, directory });
    this.#identities[name] = directory;
    return enrolled as Enrolled;
  }

  /** Enrolls an agent that has no process: Mallory, or one whose credential she steals. Returns its directory. */
  async enrollUnattended(name: string, token?: string): Promise<string> {
    const directory = this.identityDirectory(name);
    const { enrolmentUrl: caUrl, rootFingerprint } = this.ca;
    const used = token ?? (await this.token(name)).token;
    await this.#started().registrar.order("enrollInto", { caUrl, rootFingerprint, name, token: used, directory, servers: name === "mallory" ? "yes" : "" });
    this.#identities[name] = directory;
    return directory;
  }

  revoke(name: string): Promise<unknown> {
    return this.operator.order("revoke", { identity: `spiffe://${trustDomain}/agent/${name}` });
  }

  /** What honest people do when an arm asks the director for it. */
  readonly cues: Cues = {
    "canary-key": async (readers, { id, secret }) => this.#canaryKey(id, secret, readers === undefined ? "" : String(readers)),
    token: async (_value, { id }) => {
      const name = `visitor-${id.toLowerCase()}`;
      return { name, token: (await this.token(name)).token };
    },
    "used-token": async (_value, { id }) => {
      const name = `newcomer-${id.toLowerCase()}`;
      const { token } = await this.token(name);
      await this.enrollUnattended(name, token);
      return { name, token };
    },
    "stolen-agent": async (which, { id, secret }) => {
      const name = `robbed-${id.toLowerCase()}${String(which)}`;
      const directory = await this.enrollUnattended(name);
      return { name, directory, keyName: await this.#canaryKey(`${id}${String(which)}`, secret, name) };
    },
    revoke: async (name) => {
      const { crlNumber } = (await this.revoke(String(name))) as { crlNumber: string };
      await this.#enforcedAtKms(BigInt(crlNumber));
    },
    "copy-identity": async (name, { directory }) => {
      const copy = path.join(directory, String(name));
      await copyIdentity(this.identityDirectory(String(name)), copy);
      return copy;
    },
    "swapped-storage": async (_value, { id, secret, directory }) => {
      const keyName = await this.#canaryKey(id, secret, "");
      const ownKeyName = `own-${id.toLowerCase()}`;
      await this.agents.alice.order("createKey", { name: ownKeyName, readers: "mallory" });
      const data = path.join(directory, "kms-data");
      await copyKmsData(this.kmsData, data);
      const identity = path.join(directory, "kms");
      await copyIdentity(this.identityDirectory("kms"), identity);
      const start = () => startService<KmsReady>("kms-server/main.ts", ["--data", data, "--identity", identity]);
      // The control: a copy that nobody has touched is served.
      await (await start()).stop();
      swapWrappedKeys(data, keyName, ownKeyName);
      try {
        const served = await start();
        this.#others.push(served);
        return { url: served.ready.url, ownKeyName };
      } catch (error) {
        const code = /^signet kms: ([a-z-]+): /m.exec(error instanceof Error ? error.message : "")?.[1];
        if (code === undefined) throw error;
        return { code };
      }
    },
  };

  /** The CA acknowledges once the CRL is published; a moment later the KMS has it. That moment is measured in the story, and is no part of an attack. */
  async #enforcedAtKms(crlNumber: bigint): Promise<void> {
    const givenUp = performance.now() + 20_000;
    for (;;) {
      const { crls } = (await this.agents.alice.order("kmsStatus")) as { crls: { crlNumber: string; entries: number }[] };
      if (crls.some((crl) => crl.entries > 0 && BigInt(crl.crlNumber) >= crlNumber)) return;
      if (performance.now() > givenUp) throw new Error(`the KMS does not have CRL ${crlNumber}`);
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
  }

  #started() {
    const party = (name: string): Party => new Party(name, this.processes);
    this.#parties ??= {
      // Enrolls whoever else is needed: Mallory, and agents whose credentials she steals.
      registrar: party("registrar"),
      agents: { alice: party("alice"), bob: party("bob"), carol: party("carol"), dave: party("dave") },
    };
    return this.#parties;
  }

  async #canaryKey(id: string, secret: string, readers: string): Promise<string> {
    const name = `canary-${id.toLowerCase()}`;
    await this.agents.alice.order("importKey", { name, material: secret, readers });
    return name;
  }

  /** Ends every process that this system started. */
  async stop(): Promise<void> {
    const { registrar, agents } = this.#parties ?? {};
    for (const party of [this.operator, registrar, ...Object.values(agents ?? {})]) party?.leave();
    await Promise.all([this.#kms?.stop(), this.#ca?.stop(), ...this.#others.map((other) => other.stop())]);
    for (const child of this.processes) child.kill("SIGKILL");
  }
}
