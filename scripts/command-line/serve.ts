import { readdirSync } from "node:fs";
import { SignetError } from "#pki/errors.ts";
import { EnrolledIdentity } from "#pki/identity.ts";
import type { DeploymentMode } from "#pki/protocol-ca.ts";
import { DataDirectory } from "#store/data-directory.ts";
import type { startStatusPage } from "../status-page/start.ts";
import { defaultPorts, layoutOf, readServices, recordService, type ServicesRecord } from "./deployment.ts";
import { keepDeveloper } from "./enrolment.ts";
import { withEphemeralData } from "./ephemeral.ts";
import { untilInterrupted, whenAborted } from "./interruption.ts";
import { nextCommands } from "./next-commands.ts";
import { asSignetError, errnoOf, fileError, signetFor, usageError, type Invocation, type Outcome } from "./program.ts";
import { anyVersion, isInitialised, loopback, modeOf, recordedPort, requireDeployment, requireFreePorts, statusPortOf, unsealArguments, type CaOptions, type KmsOptions, type ModeOptions, type ServiceName, type StatusPageOptions } from "./service-options.ts";
import { caReady, describeExit, kmsReady, startService, takeSupervisor, type Service } from "./services.ts";
import { kmsUrlOf, withCa, type Caller } from "./session.ts";

type CaAddress = NonNullable<ServicesRecord["ca"]>;

/** Makes the CA of a data directory and stops it again. @throws SignetError already-exists */
export async function initialiseCa(invocation: Invocation, options: CaOptions): Promise<{ readonly mode: DeploymentMode } & CaAddress> {
  const { ca } = layoutOf(invocation.data);
  requireUnused(invocation.data, ["ca"]);
  if (isInitialised("ca", ca)) throw new SignetError("already-exists", `${ca} holds a CA already. Nothing was touched.`, { details: { next: "Run it with `npx signet ca serve`." } });
  await requireFreePorts(invocation.data, ["ca"], options);
  const service = await invocation.progress("Making the CA", () => bringUpCa(invocation.data, options));
  await service.stop();
  return { mode: service.ready.mode, ...addressOf(service) };
}

/** Runs the CA in the foreground until it is asked to stop. */
export async function serveCa(invocation: Invocation, options: CaOptions): Promise<Outcome> {
  return inForeground(invocation, async (signal, keep) => {
    requireUnused(invocation.data, ["ca"]);
    await requireFreePorts(invocation.data, ["ca"], options);
    const ca = await bringUpCa(invocation.data, options, signal);
    keep(ca);
    const address = addressOf(ca);
    const { mode } = ca.ready;
    return { json: { ready: true, mode, data: layoutOf(invocation.data).root, ca: address }, text: `${heading("The CA", mode)}\n${describeCa(address)}\nlog               ${ca.log}\nCtrl-C stops it.` };
  });
}

/** Runs the KMS in the foreground until it is asked to stop. */
export async function serveKms(invocation: Invocation, options: KmsOptions): Promise<Outcome> {
  return inForeground(invocation, async (signal, keep) => {
    requireUnused(invocation.data, ["kms"]);
    await requireFreePorts(invocation.data, ["kms"], options);
    const kms = await bringUpKms(invocation, options, signal);
    keep(kms);
    const { mode, url } = kms.ready;
    return { json: { ready: true, mode, data: layoutOf(invocation.data).root, kms: { url } }, text: `${heading("The KMS", mode)}\nKMS               ${kms.ready.url}\nlog               ${kms.log}\nCtrl-C stops it.` };
  });
}

/** Runs the status page alone, where `npm start` does not: beside a CA and a KMS that systemd runs, as the operator of this data directory. */
export async function serveStatusPageAlone(invocation: Invocation, options: StatusPageOptions & Pick<Caller, "kms">): Promise<Outcome> {
  const { data } = invocation;
  return inForeground(invocation, async (_signal, keep) => {
    requireDeployment(data);
    const { ca } = readServices(data);
    if (ca === undefined) throw new SignetError("file-unusable", `No CA is recorded in ${layoutOf(data).root}.`, { details: { next: "Name the data directory of the CA with --data." } });
    const kmsUrl = kmsUrlOf(invocation, options);
    await requireFreePorts(data, ["status page"], options);
    const mode = modeOf(data);
    const page = await openStatusPage({ data, mode, port: statusPortOf(data, options), mutualUrl: ca.mutualUrl, kmsUrl });
    keep(page);
    recordService(data, { statusPage: page.ready });
    return { json: { ready: true, mode, data: layoutOf(data).root, statusPage: page.ready }, text: `${heading("The status page", mode)}\nstatus page       ${page.ready.url}\nlog               ${page.log}\nCtrl-C stops it.` };
  });
}

/** What `npm start` does: a CA and a KMS over one data directory, in the foreground; made first where there is none. */
export async function serveBoth(invocation: Invocation, options: CaOptions & KmsOptions & ModeOptions & StatusPageOptions & { readonly ephemeral?: true }): Promise<Outcome> {
  if (options.ephemeral !== true) return serveOver(invocation, options);
  if (options.production === true) throw usageError("--ephemeral is for development alone", "Leave out --production, or --ephemeral.");
  return withEphemeralData(invocation, (ephemeral) => serveOver(ephemeral, options));
}

async function serveOver(invocation: Invocation, options: CaOptions & KmsOptions & ModeOptions & StatusPageOptions & { readonly ephemeral?: true }): Promise<Outcome> {
  const { data } = invocation;
  return inForeground(invocation, async (signal, keep) => {
    requireUnused(data, ["ca", "kms"]);
    const isNew = !isInitialised("ca", layoutOf(data).ca);
    // Both, before either service is made.
    for (const service of ["ca", "kms"] as const) await unsealArguments(data, service, options);
    await requireFreePorts(data, ["ca", "kms", "status page"], options);
    const ca = await invocation.progress(isNew ? "Making the CA" : "Starting the CA", () => bringUpCa(data, options, signal));
    keep(ca);
    const kms = await invocation.progress("Starting the KMS", () => bringUpKms(invocation, options, signal));
    keep(kms);
    const { mode } = ca.ready;
    if (kms.ready.mode !== mode) throw new SignetError("data-directory-corrupt", `The CA and the KMS in ${layoutOf(data).root} do not belong together: one is for production, one for development.`);
    const page = await invocation.progress("Starting the status page", () => bringUpStatusPage(data, options, ca, kms));
    if ("ready" in page) keep(page);
    const developer = mode === "development" ? await invocation.progress("Enrolling the developer", () => keepDeveloper(invocation)) : undefined;
    const agent = developer?.refusal === undefined ? developer?.name : undefined;
    const address = addressOf(ca);
    const commands = await nextCommands(invocation, mode, agent);
    const { root, logs } = layoutOf(data);
    return {
      json: { ready: true, mode, data: root, initialised: isNew, ca: address, kms: { url: kms.ready.url }, ...("ready" in page ? { statusPage: page.ready } : {}), ...(agent === undefined ? {} : { agent }), next: commands },
      text: [
        `${heading("Signet", mode)}${isNew ? ", new" : ""}: ${address.trustDomain}`,
        describeCa(address),
        `KMS               ${kms.ready.url}`,
        `status page       ${"ready" in page ? page.ready.url : `is not served: ${page.refusal.code}: ${page.refusal.message}`}`,
        ...(developer === undefined ? [] : [`agent             ${developer.name}${developer.refusal === undefined ? ", as whom `signet kms key` speaks" : ` is not usable: ${developer.refusal.code}: ${developer.refusal.message}`}`]),
        `data              ${root}${options.ephemeral === true ? ", in memory: it is gone when this ends" : ""}`,
        `logs              ${logs}`,
        "",
        "Next, in another terminal:",
        ...commands.map((command) => `  ${command}`),
        "",
        `Ctrl-C stops both. So does \`${signetFor(data)} stop\`.`,
      ].join("\n"),
    };
  });
}

function heading(what: string, mode: DeploymentMode): string {
  return `${what} is up${mode === "development" ? ", a DEVELOPMENT deployment" : ""}`;
}

type AnyService = Pick<Service<unknown>, "name" | "log" | "exit" | "stop">;
type Start = (signal: AbortSignal, keep: (service: AnyService) => void) => Promise<Outcome>;

/**
 * Starts services, says what `start` returns at once, and waits: for a signal, which stops them in the reverse of their order,
 * or for the end of one, which stops the others.
 */
function inForeground(invocation: Invocation, start: Start): Promise<Outcome> {
  return untilInterrupted((signal) => serve(invocation, start, signal));
}

async function serve(invocation: Invocation, start: Start, signal: AbortSignal): Promise<Outcome> {
  const running: AnyService[] = [];
  const stopAll = async (): Promise<void> => {
    for (const service of running.splice(0).reverse()) await service.stop();
  };
  const tellSupervisor = takeSupervisor();
  try {
    const { json, text } = await start(signal, (service) => running.push(service));
    invocation.terminal.stdout.write(invocation.json ? `${JSON.stringify(json)}\n` : `${text}\n`);
    await tellSupervisor();
  } catch (error) {
    await stopAll();
    // Whatever a start says that was told to stop, it stopped.
    if (signal.aborted) return {};
    throw error;
  }
  const ended = await Promise.race([whenAborted(signal), ...running.map(async (service) => ({ service, how: await service.exit }))]);
  const others = running.length - 1;
  await stopAll();
  if (ended === undefined || signal.aborted) {
    if (!invocation.json) invocation.terminal.stdout.write("Stopped.\n");
    return {};
  }
  // `signet stop`, or a supervisor, has asked the service itself.
  if (ended.how.code === 0) {
    if (!invocation.json) invocation.terminal.stdout.write(`The ${ended.service.name} was stopped${others === 0 ? "" : ", and so is the rest"}.\n`);
    return {};
  }
  throw new SignetError("internal", `The ${ended.service.name} ${describeExit(ended.how)}${others === 0 ? "" : "; the rest was stopped as well"}.`, { details: { next: `See ${ended.service.log}.` } });
}

type CaService = Service<typeof caReady._zod.output>;
type KmsService = Service<typeof kmsReady._zod.output>;

async function bringUpCa(data: string, options: CaOptions, signal?: AbortSignal): Promise<CaService> {
  const layout = layoutOf(data);
  const argv = ["--data", layout.root, "--init", ...(await unsealArguments(data, "ca", options))];
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
  const service = await startService({ name: "ca", ready: caReady, argv, logDirectory: options.logToStderr === true ? undefined : layout.logs, ...(signal === undefined ? {} : { signal }) });
  recordService(data, { mode: service.ready.mode, ca: addressOf(service) });
  return service;
}

async function bringUpKms(invocation: Invocation, options: KmsOptions, signal: AbortSignal): Promise<KmsService> {
  const { data } = invocation;
  const layout = layoutOf(data);
  const port = options.kmsPort ?? recordedPort(readServices(data).kms?.url) ?? defaultPorts.kms;
  const argv = ["--data", layout.root, "--port", String(port), "--identity", layout.kmsIdentity, ...(await unsealArguments(data, "kms", options)), ...(options.host === undefined ? [] : ["--host", options.host])];
  let token: string | undefined;
  // One that expired, after a long stop, is enrolled anew.
  if (!EnrolledIdentity.isAt(layout.kmsIdentity) || EnrolledIdentity.open(layout.kmsIdentity).isExpired("client")) {
    const enrolment = options.enrolment ?? (await tokenForKms(invocation));
    argv.push("--ca", enrolment.caUrl, "--root-fingerprint", enrolment.rootFingerprint);
    token = enrolment.token;
  }
  const service = await startService({ name: "kms", ready: kmsReady, argv, logDirectory: options.logToStderr === true ? undefined : layout.logs, signal, ...(token === undefined ? {} : { stdin: token }) });
  recordService(data, { mode: service.ready.mode, kms: { url: service.ready.url } });
  return service;
}

/** Whatever keeps the status page from being served keeps nobody from the CA and the KMS; the start says so. */
async function bringUpStatusPage(data: string, options: StatusPageOptions, ca: CaService, kms: KmsService): Promise<Service<{ readonly url: string }> | { readonly refusal: SignetError }> {
  try {
    const page = await openStatusPage({ data, mode: ca.ready.mode, port: statusPortOf(data, options), mutualUrl: ca.ready.mutualUrl, kmsUrl: kms.ready.url });
    recordService(data, { statusPage: page.ready });
    return page;
  } catch (error) {
    return { refusal: asSignetError(error) };
  }
}

/** The page brings express and pino, which no other command needs: loading them is a fifth of what it costs to start one. */
async function openStatusPage(i: Parameters<typeof startStatusPage>[0]): ReturnType<typeof startStatusPage> {
  const { startStatusPage } = await import("../status-page/start.ts");
  return startStatusPage(i);
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

/**
 * Refuses a directory that holds something else, and one whose services run already, before anything in it is touched.
 * @throws SignetError data-directory-foreign, -corrupt, -locked
 */
function requireUnused(data: string, services: readonly ServiceName[]): void {
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
    const directory = layout[service];
    // The lock is the operating system's: free again at once, or held by a running service.
    if (isInitialised(service, directory)) DataDirectory.open(directory, anyVersion(service)).close();
  }
}

