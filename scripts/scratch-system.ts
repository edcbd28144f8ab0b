import { existsSync } from "node:fs";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { systemClock } from "#pki/clock.ts";
import { SignetError } from "#pki/errors.ts";
import { requestOverMutualTls } from "#pki/http-client.ts";
import { EnrolledIdentity } from "#pki/identity.ts";
import type { KeyType } from "#pki/keys.ts";
import { MutualAgent } from "#pki/mtls.ts";
import { caRoutes } from "#pki/protocol-ca.ts";
import { kmsRoutes } from "#pki/protocol-kms.ts";
import { portOptions } from "./free-ports.ts";
import { startService, type ServiceProcess } from "./service-process.ts";

/** A CA and a KMS of one's own under a scratch directory, with callers of all kinds: for benchmarks and fault suites. */

export interface CaReady {
  readonly pid: number;
  readonly enrolmentUrl: string;
  readonly mutualUrl: string;
  readonly publicationUrl: string;
  readonly rootFingerprint: string;
  readonly trustDomain: string;
}

export interface KmsReady {
  readonly pid: number;
  readonly url: string;
}

export const caArguments = (data: string): string[] => ["--data", data, "--init"];

/** Starts the CA over `data`, and initialises it if nothing is there, on free ports that it keeps. */
export async function startCa(data: string): Promise<ServiceProcess<CaReady>> {
  const ports = existsSync(path.join(data, "ca")) ? [] : await portOptions("enrolment", "mutual", "publication");
  return startService<CaReady>("ca/main.ts", [...caArguments(data), ...ports]);
}

const kmsIdentity = (data: string): string => path.join(data, "kms", "identity");

export const kmsArguments = (data: string, ca: CaReady): string[] => [
  "--data",
  data,
  "--identity",
  kmsIdentity(data),
  "--ca",
  ca.enrolmentUrl,
  "--root-fingerprint",
  ca.rootFingerprint,
];

/** Starts the KMS over `data`; the token is needed the first time only. */
export function startKms(data: string, ca: CaReady, token?: string): Promise<ServiceProcess<KmsReady>> {
  return startService<KmsReady>("kms-server/main.ts", kmsArguments(data, ca), token === undefined ? {} : { environment: { SIGNET_ENROLMENT_TOKEN: token } });
}

export interface Answer {
  readonly status: number;
  readonly headers: Readonly<Record<string, string | readonly string[] | undefined>>;
  readonly body: Uint8Array;
}

/** One enrolled party that calls one service over keep-alive mutual TLS. */
export class Caller {
  readonly party: EnrolledIdentity;
  /** Base URL of the service. */
  url: string;
  readonly #agent: MutualAgent;

  constructor(party: EnrolledIdentity, url: string, service: "ca" | "kms") {
    this.party = party;
    this.url = url;
    this.#agent = new MutualAgent({
      credential: party.credential("client"),
      trustAnchors: party.trustAnchors,
      revocation: party.revocation,
      clock: systemClock,
      expect: { uri: `spiffe://${party.identity.trustDomain}/service/${service}` },
    });
  }

  send(method: "GET" | "POST", route: string, body?: unknown, headers: Readonly<Record<string, string>> = {}): Promise<Answer> {
    return requestOverMutualTls({
      agent: this.#agent,
      url: new URL(route, this.url).href,
      method,
      headers: body === undefined ? headers : { "content-type": "application/json", ...headers },
      ...(body === undefined ? {} : { body: Buffer.from(JSON.stringify(body)) }),
    });
  }

  /** @throws SignetError with the code of the service's refusal */
  async json<T>(method: "GET" | "POST", route: string, body?: unknown): Promise<T> {
    const answer = await this.send(method, route, body);
    return JSON.parse(Buffer.from(answer.body).toString("utf8")) as T;
  }

  close(): void {
    this.#agent.destroy();
  }
}

/** The operator that the CA made at its initialisation. */
export async function openOperator(data: string): Promise<EnrolledIdentity> {
  const operator = EnrolledIdentity.open(path.join(data, "operator"));
  await operator.refreshRevocation();
  operator.startRevocationRefresh();
  return operator;
}

export interface IssuedToken {
  readonly name: string;
  readonly token: string;
}

/** A token with which the KMS enrols for both its roles. */
export function issueKmsToken(operator: Caller): Promise<IssuedToken> {
  return operator.json("POST", caRoutes.tokens, { name: "kms", kind: "service", dns: ["localhost"], ip: ["127.0.0.1"] });
}

/** Enrols an agent of a new name: key and CSR of its own, a one-time token from the operator. */
export async function enroll(ca: CaReady, operator: Caller, name: string, options: { readonly directory?: string; readonly keyType?: KeyType } = {}): Promise<EnrolledIdentity> {
  const { token } = await operator.json<IssuedToken>("POST", caRoutes.tokens, { name, kind: "agent" });
  const party = await EnrolledIdentity.enroll({ caUrl: ca.enrolmentUrl, rootFingerprint: ca.rootFingerprint, name, token, ...options });
  party.startRevocationRefresh();
  return party;
}

/** Waits until a service that has just been started serves this caller, through refusals that say they will pass. */
export async function untilServed(caller: Caller, route: string): Promise<void> {
  const end = performance.now() + 20_000;
  for (;;) {
    try {
      await caller.send("GET", route);
      return;
    } catch (error) {
      if (!(error instanceof SignetError && error.retryable) || performance.now() > end) throw error;
      await new Promise((resolve) => setTimeout(resolve, 25));
    }
  }
}

/** A running CA and KMS in a scratch directory, with the operator's line to the CA and one agent whose files are on disk. */
export class ScratchSystem {
  readonly directory: string;
  readonly ca: ServiceProcess<CaReady>;
  readonly kms: ServiceProcess<KmsReady>;
  readonly authority: Caller;
  readonly agent: EnrolledIdentity;

  private constructor(i: { directory: string; ca: ServiceProcess<CaReady>; kms: ServiceProcess<KmsReady>; authority: Caller; agent: EnrolledIdentity }) {
    this.directory = i.directory;
    this.ca = i.ca;
    this.kms = i.kms;
    this.authority = i.authority;
    this.agent = i.agent;
  }

  static async start(): Promise<ScratchSystem> {
    const directory = await mkdtemp(path.join(tmpdir(), "signet-scratch-"));
    const ca = await startCa(directory);
    const authority = new Caller(await openOperator(directory), ca.ready.mutualUrl, "ca");
    const { token } = await issueKmsToken(authority);
    const kms = await startKms(directory, ca.ready, token);
    const agent = await enroll(ca.ready, authority, "bench", { directory: path.join(directory, "bench") });
    const caller = new Caller(agent, kms.ready.url, "kms");
    await untilServed(caller, kmsRoutes.whoami);
    caller.close();
    return new ScratchSystem({ directory, ca, kms, authority, agent });
  }

  /** Enrols another agent, its files in a directory of its name. */
  enroll(name: string): Promise<EnrolledIdentity> {
    return enroll(this.ca.ready, this.authority, name, { directory: path.join(this.directory, name) });
  }

  /** PEM texts with which an agent authenticates. */
  async pemOf(name = "bench"): Promise<{ readonly ca: string; readonly cert: string; readonly key: string }> {
    const file = (pem: string): Promise<string> => readFile(path.join(this.directory, name, pem), "utf8");
    // Key and chain are in one file.
    const client = await file("client.pem");
    return { ca: await file("root.pem"), cert: client, key: client };
  }

  /** The baseline: a bare node:https handler in a process of its own, with the KMS's certificate and key. */
  startBareServer(answerBytes: number): Promise<ServiceProcess<{ readonly pid: number; readonly port: number }>> {
    const identity = kmsIdentity(this.directory);
    return startService("scripts/bench/bare-server.ts", [path.join(identity, "root.pem"), path.join(identity, "server.pem"), String(answerBytes)]);
  }

  async stop(): Promise<void> {
    this.agent.stop();
    this.authority.party.stop();
    this.authority.close();
    await this.kms.stop();
    await this.ca.stop();
    await rm(this.directory, { recursive: true, force: true });
  }
}
