import { existsSync, readdirSync } from "node:fs";
import { createServer } from "node:net";
import path from "node:path";
import type { Command } from "commander";
import type { InitialisationOptions } from "#ca/authority.ts";
import { SignetError } from "#pki/errors.ts";
import { EnrolledIdentity } from "#pki/identity.ts";
import type { DeploymentMode } from "#pki/protocol-ca.ts";
import { DataDirectory } from "#store/data-directory.ts";
import { defaultPorts, layoutOf, readServices, recordService, type ServicesRecord } from "./deployment.ts";
import { keepDeveloper } from "./enrolment.ts";
import { collect, errnoOf, fileError, parseInteger, type Invocation, type Outcome } from "./program.ts";
import { caReady, describeExit, kmsReady, startService, whenAskedToStop, type Service } from "./services.ts";
import { allKeys, withCa, withKms } from "./session.ts";

export type CaOptions = Omit<InitialisationOptions, "clock">;

export interface KmsOptions {
  readonly host?: string;
  readonly kmsPort?: number;
  /** Enrolment listener of a CA elsewhere, with the SHA-256 of its root certificate and a one-time token. */
  readonly enrolment?: { readonly caUrl: string; readonly rootFingerprint: string; readonly token: string };
}

export type CaAddress = NonNullable<ServicesRecord["ca"]>;
export type KmsAddress = NonNullable<ServicesRecord["kms"]>;

const portNumber = parseInteger(1, 65_535);

/** Options that fix what a new CA is; an existing one keeps what it was made with. */
export function addCaOptions(command: Command): Command {
  return command
    .option("--trust-domain <domain>", "trust domain of a new CA: two DNS labels or more (default: signet.internal)")
    .option("--host <address>", "address to listen on (default: 127.0.0.1)")
    .option("--enrolment-port <port>", `port for enrolment (default: ${defaultPorts.enrolment})`, portNumber)
    .option("--mutual-port <port>", `port for operators and enrolled parties (default: ${defaultPorts.mutual})`, portNumber)
    .option("--publication-port <port>", `port for CRLs (default: ${defaultPorts.publication})`, portNumber)
    .option("--dns <name>", "DNS name of the CA's servers beside localhost (repeatable)", collect)
    .option("--ip <address>", "IP address of the CA's servers beside loopback (repeatable)", collect);
}

export function addKmsOptions(command: Command): Command {
  return command.option("--kms-port <port>", `port of the KMS (default: the one before, or ${defaultPorts.kms})`, portNumber);
}

/** Makes the CA of a data directory and stops it again. @throws SignetError already-exists */
export async function initialiseCa(invocation: Invocation, options: CaOptions): Promise<{ readonly mode: DeploymentMode } & CaAddress> {
  const { ca } = layoutOf(invocation.data);
  requireUnused(invocation.data);
  if (isInitialised("ca", ca)) throw new SignetError("already-exists", `${ca} holds a CA already. Nothing was touched.`, { details: { next: "Run it with `npx signet ca serve`." } });
  const service = await invocation.progress("Making the CA", () => bringUpCa(invocation.data, options));
  await service.stop();
  return { mode: service.ready.mode, ...addressOf(service) };
}

/** Runs the CA in the foreground until it is asked to stop. */
export async function serveCa(invocation: Invocation, options: CaOptions): Promise<Outcome> {
  return inForeground(invocation, async (signal, keep) => {
    requireUnused(invocation.data);
    const ca = await bringUpCa(invocation.data, options, signal);
    keep(ca);
    const address = addressOf(ca);
    const { mode } = ca.ready;
    return { json: { ready: true, mode, data: layoutOf(invocation.data).root, ca: address }, text: `${mode === "development" ? "A DEVELOPMENT deployment.\n" : ""}${describeCa(address)}\nlog               ${ca.logFile}\nCtrl-C stops it.` };
  });
}

/** Runs the KMS in the foreground until it is asked to stop. */
export async function serveKms(invocation: Invocation, options: KmsOptions): Promise<Outcome> {
  return inForeground(invocation, async (signal, keep) => {
    requireUnused(invocation.data, ["kms"]);
    const kms = await bringUpKms(invocation, options, signal);
    keep(kms);
    return { json: { ready: true, data: layoutOf(invocation.data).root, kms: { url: kms.ready.url } }, text: `KMS               ${kms.ready.url}\nlog               ${kms.logFile}\nCtrl-C stops it.` };
  });
}

/** What `npm start` does: a CA and a KMS over one data directory, in the foreground; made first where there is none. */
export async function serveBoth(invocation: Invocation, options: CaOptions & KmsOptions): Promise<Outcome> {
  const { data } = invocation;
  return inForeground(invocation, async (signal, keep) => {
    requireUnused(data);
    const isNew = !isInitialised("ca", layoutOf(data).ca);
    await requireFreePorts(portsOf(data, options, isNew), options.host ?? loopback);
    const ca = await invocation.progress(isNew ? "Making the CA" : "Starting the CA", () => bringUpCa(data, options, signal));
    keep(ca);
    const kms = await invocation.progress("Starting the KMS", () => bringUpKms(invocation, options, signal));
    keep(kms);
    const { mode } = ca.ready;
    const developer = mode === "development" ? await invocation.progress("Enrolling the developer", () => keepDeveloper(invocation)) : undefined;
    const agent = developer?.refusal === undefined ? developer?.name : undefined;
    const address = addressOf(ca);
    const commands = await nextCommands(invocation, mode, agent);
    const { root, logs } = layoutOf(data);
    return {
      json: { ready: true, mode, data: root, initialised: isNew, ca: address, kms: { url: kms.ready.url }, ...(agent === undefined ? {} : { agent }), next: commands },
      text: [
        `Signet is up${isNew ? ", new" : ""}: ${address.trustDomain}${mode === "development" ? ", a DEVELOPMENT deployment" : ""}`,
        describeCa(address),
        `KMS               ${kms.ready.url}`,
        ...(developer === undefined ? [] : [`agent             ${developer.name}${developer.refusal === undefined ? ", as whom `signet kms key` speaks" : ` is not usable: ${developer.refusal.code}: ${developer.refusal.message}`}`]),
        `data              ${root}`,
        `logs              ${logs}`,
        "",
        "Next, in another terminal:",
        ...commands.map((command) => `  ${command}`),
        "",
        "Ctrl-C stops both.",
      ].join("\n"),
    };
  });
}

const loopback = "127.0.0.1";

type AnyService = Pick<Service<unknown>, "name" | "logFile" | "exit" | "stop">;

/**
 * Starts services, says what `start` returns at once, and waits: for a signal, which stops them in the reverse of their order,
 * or for the end of one, which stops the others.
 */
async function inForeground(invocation: Invocation, start: (signal: AbortSignal, keep: (service: AnyService) => void) => Promise<Outcome>): Promise<Outcome> {
  const running: AnyService[] = [];
  const stopAll = async (): Promise<void> => {
    for (const service of running.splice(0).reverse()) await service.stop();
  };
  const abort = new AbortController();
  const asked = whenAskedToStop().then(() => abort.abort());
  try {
    const { json, text } = await start(abort.signal, (service) => running.push(service));
    invocation.terminal.stdout.write(invocation.json ? `${JSON.stringify(json)}\n` : `${text}\n`);
  } catch (error) {
    await stopAll();
    // Whatever a start says that was told to stop, it stopped.
    if (abort.signal.aborted) return {};
    throw error;
  }
  const ended = await Promise.race([asked, ...running.map(async (service) => ({ service, how: await service.exit }))]);
  const others = running.length - 1;
  await stopAll();
  if (ended === undefined || abort.signal.aborted) {
    if (!invocation.json) invocation.terminal.stdout.write("Stopped.\n");
    return {};
  }
  throw new SignetError("internal", `The ${ended.service.name} ${describeExit(ended.how)}${others === 0 ? "" : "; the rest was stopped as well"}.`, { details: { next: `See ${ended.service.logFile}.` } });
}

type CaService = Service<typeof caReady._zod.output>;
type KmsService = Service<typeof kmsReady._zod.output>;

async function bringUpCa(data: string, options: CaOptions, signal?: AbortSignal): Promise<CaService> {
  const layout = layoutOf(data);
  const argv = ["--data", layout.root, "--init"];
  const add = (name: string, value: string | number | undefined): void => {
    if (value !== undefined) argv.push(name, String(value));
  };
  // An existing CA keeps its ports and names: they stand in the certificates that it has issued.
  const defaults = isInitialised("ca", layout.ca) ? undefined : defaultPorts;
  add("--trust-domain", options.trustDomain);
  add("--host", options.host);
  add("--enrolment-port", options.enrolmentPort ?? defaults?.enrolment);
  add("--mutual-port", options.mutualPort ?? defaults?.mutual);
  add("--publication-port", options.publicationPort ?? defaults?.publication);
  for (const name of options.dns ?? []) add("--dns", name);
  for (const address of options.ip ?? []) add("--ip", address);
  const service = await startService({ name: "ca", ready: caReady, argv, logDirectory: layout.logs, ...(signal === undefined ? {} : { signal }) });
  recordService(data, { mode: service.ready.mode, ca: addressOf(service) });
  return service;
}

async function bringUpKms(invocation: Invocation, options: KmsOptions, signal: AbortSignal): Promise<KmsService> {
  const { data } = invocation;
  const layout = layoutOf(data);
  const port = options.kmsPort ?? recordedPort(readServices(data).kms?.url) ?? defaultPorts.kms;
  const argv = ["--data", layout.root, "--port", String(port), "--identity", layout.kmsIdentity, ...(options.host === undefined ? [] : ["--host", options.host])];
  let token: string | undefined;
  // One that expired, after a long stop, is enrolled anew.
  if (!EnrolledIdentity.isAt(layout.kmsIdentity) || EnrolledIdentity.open(layout.kmsIdentity).isExpired("client")) {
    const enrolment = options.enrolment ?? (await tokenForKms(invocation));
    argv.push("--ca", enrolment.caUrl, "--root-fingerprint", enrolment.rootFingerprint);
    token = enrolment.token;
  }
  const service = await startService({ name: "kms", ready: kmsReady, argv, logDirectory: layout.logs, signal, ...(token === undefined ? {} : { stdin: token }) });
  recordService(data, { kms: { url: service.ready.url } });
  return service;
}

async function tokenForKms(invocation: Invocation): Promise<NonNullable<KmsOptions["enrolment"]>> {
  return withCa(invocation, async (ca) => {
    const { token, enrolmentUrl, rootFingerprint } = await ca.createToken({ name: "kms", kind: "service", dns: ["localhost"], ip: [loopback, "::1"] });
    return { token, caUrl: enrolmentUrl, rootFingerprint };
  });
}

function addressOf(service: CaService): CaAddress {
  const { enrolmentUrl, mutualUrl, publicationUrl, rootFingerprint, trustDomain } = service.ready;
  return { enrolmentUrl, mutualUrl, publicationUrl, rootFingerprint, trustDomain };
}

function describeCa(ca: CaAddress): string {
  return `CA, enrolment     ${ca.enrolmentUrl}\nCA, mutual TLS    ${ca.mutualUrl}\nCA, CRLs          ${ca.publicationUrl}\nroot, SHA-256     ${ca.rootFingerprint}`;
}

/** Five commands that work as they stand, one after the other: with names that nothing has here yet. */
async function nextCommands(invocation: Invocation, mode: DeploymentMode, agent: string | undefined): Promise<readonly string[]> {
  const { agents, root } = layoutOf(invocation.data);
  const enrolled = existsSync(agents) ? readdirSync(agents) : [];
  // Nobody sees the keys of others, so that an agent that begins gives its key a name of its own.
  const keys = agent === undefined ? [] : (await withKms(invocation, { as: agent }, allKeys).catch(() => [])).map(({ name }) => name);
  const person = ["bob", "carol", "dave", "erin"].find((each) => !enrolled.includes(each)) ?? firstFree("bob", (each) => enrolled.includes(each));
  // These two name files in the folder where the commands are typed, too: most likely this one.
  const service = firstFree("api", (each) => existsSync(each));
  const key = firstFree("orders", (each) => keys.includes(each) || existsSync(`${each}.key`));
  const signet = root === path.resolve("data") ? "npx signet" : `npx signet --data ${/^[\w./-]+$/.test(root) ? root : JSON.stringify(root)}`;
  const issue = `${signet} ca issue ${service} --dns localhost ${mode === "development" ? `--dns ${service}.corp ` : ""}--ip 127.0.0.1 --out ./${service}`;
  const enroll = `${signet} ca token ${person} | ${signet} agent enroll ${person} --token-file -`;
  const useKey = (name: string, as: string): readonly string[] => [`${signet} kms key create ${name}${as}`, `${signet} kms key get ${name}${as} --out ${name}.key`];
  const revoke = `${signet} ca revoke ${person} --reason keyCompromise`;
  return agent === undefined ? [issue, enroll, ...useKey(`${person}-orders`, ` --as ${person}`), revoke] : [issue, ...useKey(key, ""), enroll, revoke];
}

/** `name`, or `name-2` and so on where it is taken. */
function firstFree(name: string, isTaken: (name: string) => boolean): string {
  let candidate = name;
  for (let number = 2; isTaken(candidate); number++) candidate = `${name}-${number}`;
  return candidate;
}

/** Whether a service has its data there. @throws SignetError data-directory-foreign, -corrupt */
function isInitialised(service: "ca" | "kms", directory: string): boolean {
  return DataDirectory.inspect(directory, anyVersion(service)) === "ours";
}

/** The version is the service's to judge; here it is only asked whose a directory is. */
function anyVersion(service: "ca" | "kms") {
  return { service, version: Number.MAX_SAFE_INTEGER };
}

/**
 * Refuses a directory that holds something else, and one whose services run already, before anything in it is touched.
 * @throws SignetError data-directory-foreign, -corrupt, -locked
 */
function requireUnused(data: string, services: readonly ("ca" | "kms")[] = ["ca", "kms"]): void {
  const layout = layoutOf(data);
  let names: readonly string[] = [];
  try {
    names = readdirSync(layout.root);
  } catch (error) {
    if (errnoOf(error) !== "ENOENT") throw fileError(layout.root, error);
  }
  const stranger = names.find((name) => !layout.names.includes(name));
  if (stranger !== undefined && !names.includes("ca") && !names.includes("kms")) {
    throw new SignetError("data-directory-foreign", `${layout.root} holds something else (${stranger}). It was left alone.`);
  }
  readServices(data);
  for (const service of services) {
    const directory = service === "ca" ? layout.ca : layout.kms;
    // The lock is the operating system's: free again at once, or held by a running service.
    if (isInitialised(service, directory)) DataDirectory.open(directory, anyVersion(service)).close();
  }
}

interface WantedPort {
  readonly port: number;
  readonly wantedBy: string;
  /** What to do where it is taken. */
  readonly next: string;
}

function portsOf(data: string, options: CaOptions & KmsOptions, isNew: boolean): readonly WantedPort[] {
  const { ca, kms } = readServices(data);
  const ofCa = (wantedBy: string, option: "enrolment" | "mutual" | "publication", chosen: number | undefined, recorded: string | undefined): WantedPort => {
    const port = (isNew ? undefined : recordedPort(recorded)) ?? chosen ?? defaultPorts[option];
    // The ports of a CA stand in the certificates that it has issued.
    return { port, wantedBy: `the CA for ${wantedBy}`, next: isNew ? `Choose another with --${option}-port, or stop what uses it.` : "Stop what uses it: this CA keeps the ports that it was made with." };
  };
  return [
    ofCa("enrolment", "enrolment", options.enrolmentPort, ca?.enrolmentUrl),
    ofCa("operators and enrolled parties", "mutual", options.mutualPort, ca?.mutualUrl),
    ofCa("CRLs", "publication", options.publicationPort, ca?.publicationUrl),
    { port: options.kmsPort ?? recordedPort(kms?.url) ?? defaultPorts.kms, wantedBy: "the KMS", next: "Choose another with --kms-port, or stop what uses it." },
  ];
}

function recordedPort(url: string | undefined): number | undefined {
  return url === undefined ? undefined : Number(new URL(url).port);
}

/** Before a CA is made whose ports are fixed for ever, they have to be free. @throws SignetError port-taken */
async function requireFreePorts(ports: readonly WantedPort[], host: string): Promise<void> {
  for (const { port, wantedBy, next } of ports) {
    await new Promise<void>((resolve, reject) => {
      const probe = createServer();
      probe.once("error", (error) => reject(errnoOf(error) === "EADDRINUSE" ? new SignetError("port-taken", `Port ${port} on ${host}, wanted by ${wantedBy}, is in use. Nothing was changed.`, { details: { port, next } }) : fileError(`${host}:${port}`, error)));
      probe.listen({ port, host, exclusive: true }, () => probe.close(() => resolve()));
    });
  }
}
