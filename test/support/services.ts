import { spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { existsSync } from "node:fs";
import { createInterface } from "node:readline";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { onTestFinished } from "vitest";
import type { IdentityKind } from "#pki/certificate-profile.ts";
import { systemClock } from "#pki/clock.ts";
import { requestOverMutualTls, type TlsAnswer } from "#pki/http-client.ts";
import { EnrolledIdentity } from "#pki/identity.ts";
import type { KeyType } from "#pki/keys.ts";
import { MutualAgent } from "#pki/mtls.ts";
import { caRoutes, tokenAnswer, type TokenRequest } from "#pki/protocol-ca.ts";
import { freePorts, portOptions } from "#scripts/free-ports.ts";

const projectRoot = path.dirname(path.dirname(path.dirname(fileURLToPath(import.meta.url))));

/** A service in a process of its own. */
export interface ServiceProcess<Ready> {
  /** What its ready line said. */
  readonly ready: Ready;
  readonly pid: number;
  /** All that it has written to stderr so far. */
  log(): string;
  /** SIGTERM, and waits for the end. @returns the exit code; null if it was killed */
  stop(): Promise<number | null>;
  /** SIGKILL, and waits for the end. */
  kill(): Promise<void>;
}

/** A service that ended before it was ready. */
export class ServiceRefused extends Error {
  readonly exitCode: number | null;
  readonly log: string;

  constructor(exitCode: number | null, log: string) {
    super(`The service ended with ${exitCode} before it was ready:\n${log}`);
    this.exitCode = exitCode;
    this.log = log;
  }
}

export interface ServiceOptions {
  readonly env?: Readonly<Record<string, string>>;
  /** Text for the process's stdin; none ends it at once. */
  readonly stdin?: string;
  /** Leave the process to the caller; otherwise it ends with the test at the latest. */
  readonly outlivesTest?: boolean;
}

/** Starts a service's main file with the Node that runs this, and waits for its ready line. @throws ServiceRefused */
export async function startService<Ready>(main: string, args: readonly string[], options: ServiceOptions = {}): Promise<ServiceProcess<Ready>> {
  const child: ChildProcess = spawn(process.execPath, [path.join(projectRoot, main), ...args], {
    stdio: ["pipe", "pipe", "pipe"],
    env: { ...process.env, ...options.env },
  });
  const { stdin, stdout, stderr } = child;
  if (stdin === null || stdout === null || stderr === null) throw new Error("The process has no pipes.");
  stdin.end(options.stdin);
  let log = "";
  stderr.setEncoding("utf8").on("data", (text: string) => (log += text));
  const ended = once(child, "close") as Promise<[number | null, string | null]>;
  if (options.outlivesTest !== true)
    onTestFinished(async () => {
      child.kill("SIGKILL");
      await ended;
    });
  const lines = createInterface({ input: stdout });
  const first = await Promise.race([once(lines, "line") as Promise<[string]>, ended.then(([code]) => code)]);
  if (!Array.isArray(first)) throw new ServiceRefused(first, log);
  const end = async (signal: "SIGTERM" | "SIGKILL") => {
    child.kill(signal);
    return (await ended)[0];
  };
  return {
    ready: JSON.parse(first[0]) as Ready,
    pid: Number(child.pid),
    log: () => log,
    stop: () => end("SIGTERM"),
    kill: async () => void (await end("SIGKILL")),
  };
}

export interface CaReady {
  readonly ready: true;
  readonly service: "ca";
  readonly enrolmentUrl: string;
  readonly mutualUrl: string;
  readonly publicationUrl: string;
  readonly rootFingerprint: string;
  readonly trustDomain: string;
  readonly pid: number;
}

/**
 * Starts the CA on a data directory, which is initialised if it is new, on free ports that it keeps. `arguments` are further ones of ca/main.ts.
 * @example
 * const ca = await startCa(temporaryDirectory());
 * const operator = EnrolledIdentity.open(ca.operatorDirectory);
 */
export async function startCa(dataDirectory: string, options: ServiceOptions & { readonly arguments?: readonly string[] } = {}): Promise<ServiceProcess<CaReady> & { readonly operatorDirectory: string }> {
  const ports = existsSync(path.join(dataDirectory, "ca")) ? [] : await portOptions("enrolment", "mutual", "publication");
  const service = await startService<CaReady>("ca/main.ts", ["--data", dataDirectory, "--init", ...ports, ...(options.arguments ?? [])], options);
  return { ...service, operatorDirectory: path.join(dataDirectory, "operator") };
}

/** Somebody who calls the CA's mutual listener. */
export interface CaCaller {
  readonly identity: EnrolledIdentity;
  /** Over one kept connection; JSON in and out. @throws SignetError as the CA refused */
  call(method: "GET" | "POST", path: string, body?: object, headers?: Readonly<Record<string, string>>): Promise<{ readonly status: number; readonly headers: TlsAnswer["headers"]; readonly body: Buffer; json(): unknown }>;
  close(): void;
}

/** An identity's own way to the CA: checked TLS with its client certificate. */
export async function callerOf(identity: EnrolledIdentity, ca: CaReady): Promise<CaCaller> {
  await identity.refreshRevocation();
  const agent = new MutualAgent({
    credential: identity.credential("client"),
    trustAnchors: identity.trustAnchors,
    revocation: identity.revocation,
    clock: systemClock,
    expect: { uri: `spiffe://${ca.trustDomain}/service/ca` },
  });
  return {
    identity,
    call: async (method, route, body, headers = {}) => {
      const sent = body === undefined ? undefined : body instanceof Uint8Array ? body : Buffer.from(JSON.stringify(body));
      const answer = await requestOverMutualTls({
        agent,
        url: new URL(route, ca.mutualUrl),
        method,
        headers: { ...(sent !== undefined && { "content-type": "application/json" }), ...headers },
        ...(sent !== undefined && { body: sent }),
        timeoutMilliseconds: 40_000,
      });
      const octets = Buffer.from(answer.body);
      return { status: answer.status, headers: answer.headers, body: octets, json: () => JSON.parse(octets.toString()) as unknown };
    },
    close: () => {
      agent.destroy();
      identity.stop();
    },
  };
}

/** The operator that the CA's initialisation made. */
export async function operatorOf(ca: ServiceProcess<CaReady> & { readonly operatorDirectory: string }): Promise<CaCaller> {
  return callerOf(EnrolledIdentity.open(ca.operatorDirectory), ca.ready);
}

/** Enrols a new identity with a token of the operator's. */
export async function enrolWith(
  operator: CaCaller,
  ca: CaReady,
  name: string,
  options: { readonly kind?: IdentityKind; readonly dns?: readonly string[]; readonly keyType?: KeyType; readonly directory?: string } = {},
): Promise<EnrolledIdentity> {
  const { kind = "agent", dns, keyType = "ec-p256", directory } = options;
  const { token } = tokenAnswer.parse((await operator.call("POST", caRoutes.tokens, { name, kind, ...(dns && { dns }) })).json());
  return EnrolledIdentity.enroll({ caUrl: ca.enrolmentUrl, rootFingerprint: ca.rootFingerprint, name, token, keyType, ...(directory !== undefined && { directory }) });
}

type RunningCa = Parameters<typeof operatorOf>[0];

/** One-time enrolment token, asked for by the CA's first operator. */
export async function issueToken(ca: RunningCa, wanted: TokenRequest): Promise<string> {
  const operator = await operatorOf(ca);
  try {
    return tokenAnswer.parse((await operator.call("POST", caRoutes.tokens, wanted)).json()).token;
  } finally {
    operator.close();
  }
}

export interface KmsReady {
  readonly ready: true;
  readonly service: "kms";
  readonly url: string;
  readonly pid: number;
}

/**
 * Starts the KMS on a data directory, on a free port unless `arguments` say otherwise. Where it has no identity yet it enrols with a token of the CA's operator.
 * @example
 * const directory = temporaryDirectory();
 * const ca = await startCa(directory);
 * const kms = await startKms(ca, directory);
 */
export async function startKms(ca: RunningCa, dataDirectory: string, options: ServiceOptions & { readonly arguments?: readonly string[] } = {}): Promise<ServiceProcess<KmsReady>> {
  const enrolled = EnrolledIdentity.isAt(path.join(dataDirectory, "kms", "identity"));
  const token = enrolled ? {} : { SIGNET_ENROLMENT_TOKEN: await issueToken(ca, { name: "kms", kind: "service", dns: ["localhost"], ip: ["127.0.0.1"] }) };
  const pinned = ["--ca", ca.ready.enrolmentUrl, "--root-fingerprint", ca.ready.rootFingerprint];
  const [port] = await freePorts(1);
  // Of an option that is given twice, the last counts.
  return startService<KmsReady>("kms-server/main.ts", ["--data", dataDirectory, "--port", String(port), ...(enrolled ? [] : pinned), ...(options.arguments ?? [])], { ...options, env: { ...token, ...options.env } });
}
