import { createServer } from "node:net";
import path from "node:path";
import type { Command } from "commander";
import type { InitialisationOptions } from "#ca/authority.ts";
import { SignetError } from "#pki/errors.ts";
import type { DeploymentMode } from "#pki/protocol-ca.ts";
import { isUnsealKeySealed, passphraseOf } from "#pki/unseal.ts";
import { DataDirectory } from "#store/data-directory.ts";
import { defaultPorts, layoutOf, readServices, type ServicesRecord } from "./deployment.ts";
import { ephemeralInUse } from "./ephemeral.ts";
import { collect, errnoOf, fileError, parseInteger, usageError } from "./program.ts";

export type ServiceName = "ca" | "kms";

/** Development unless told; in production each service's unseal key is sealed under a passphrase of its own. */
export interface ModeOptions {
  readonly production?: true;
  readonly caPassphraseFile?: string;
  readonly kmsPassphraseFile?: string;
}

interface LogOptions {
  readonly logToStderr?: true;
}

export type CaOptions = Omit<InitialisationOptions, "clock" | "passphrase"> & Omit<ModeOptions, "kmsPassphraseFile"> & LogOptions;

export interface KmsOptions extends Omit<ModeOptions, "caPassphraseFile">, LogOptions {
  readonly host?: string;
  readonly kmsPort?: number;
  /** Enrolment listener of a CA elsewhere, with the SHA-256 of its root certificate and a one-time token. */
  readonly enrolment?: { readonly caUrl: string; readonly rootFingerprint: string; readonly token: string };
}

/** Where services listen unless they are told. */
export const loopback = "127.0.0.1";

const portNumber = parseInteger(1, 65_535);

/** Options that fix what a new CA is; an existing one keeps what it was made with. */
export function addCaOptions(command: Command): Command {
  return addPassphraseOption(command, "ca")
    .option("--trust-domain <domain>", "trust domain of a new CA: two DNS labels or more (default: signet.internal)")
    .option("--host <address>", "address to listen on (default: 127.0.0.1)")
    .option("--enrolment-port <port>", `port for enrolment (default: ${defaultPorts.enrolment})`, portNumber)
    .option("--mutual-port <port>", `port for operators and enrolled parties (default: ${defaultPorts.mutual})`, portNumber)
    .option("--publication-port <port>", `port for CRLs (default: ${defaultPorts.publication})`, portNumber)
    .option("--dns <name>", "DNS name of the CA's servers beside localhost (repeatable)", collect)
    .option("--ip <address>", "IP address of the CA's servers beside loopback (repeatable)", collect);
}

export function addKmsOptions(command: Command): Command {
  return addPassphraseOption(command, "kms").option("--kms-port <port>", `port of the KMS (default: the one before, or ${defaultPorts.kms})`, portNumber);
}

export interface StatusPageOptions {
  readonly statusPort?: number;
}

export function addStatusPageOptions(command: Command): Command {
  return command.option("--status-port <port>", `port of the status page, on loopback whatever --host says (default: the one before, or ${defaultPorts.status})`, portNumber);
}

export function statusPortOf(data: string, { statusPort }: StatusPageOptions): number {
  return statusPort ?? recordedPort(readServices(data).statusPage?.url) ?? defaultPorts.status;
}

/** Fixed when a deployment is made. */
export function addModeOption(command: Command): Command {
  return command.option("--production", "make a deployment for production: its unseal keys are sealed under passphrases, and nothing in it says DEVELOPMENT");
}

export function addLogOption(command: Command): Command {
  return command.option("--log-to-stderr", "log to standard error, as systemd's journal wants it, not to a file in the data directory");
}

function addPassphraseOption(command: Command, service: ServiceName): Command {
  return command.option(`--${service}-passphrase-file <file>`, `file of mode 0600 with the passphrase of a production ${service === "ca" ? "CA" : "KMS"} (default: systemd's credential ${service}-passphrase)`);
}

/**
 * Arguments that a service unseals by. The passphrase is looked for here already, so that one that is missing is known before anything is made; the
 * service is given the name of the file alone, or finds systemd's credential as we do.
 * @throws SignetError usage, file-unusable, unseal-failed
 */
export async function unsealArguments(data: string, service: ServiceName, options: ModeOptions): Promise<readonly string[]> {
  const layout = layoutOf(data);
  const isNew = !isInitialised(service, layout[service]);
  const recorded = readServices(data).mode;
  if (isNew && options.production === true && recorded === "development") throw usageError(`the deployment in ${layout.root} was made for development, which does not change`, "Make one for production in another directory: --data DIRECTORY.");
  const file = service === "ca" ? options.caPassphraseFile : options.kmsPassphraseFile;
  const production = options.production === true || (isNew && recorded === "production");
  const passphrase = await passphraseOf({ unsealKey: layout.unsealKey(service), isNew, production, source: { file, option: `--${service}-passphrase-file`, credential: `${service}-passphrase` } });
  if (passphrase === undefined) return [];
  return ["--production", ...(file === undefined ? [] : ["--passphrase-file", path.resolve(file)])];
}

/** Whether a service has its data there. @throws SignetError data-directory-foreign, -corrupt */
export function isInitialised(service: ServiceName, directory: string): boolean {
  return DataDirectory.inspect(directory, anyVersion(service)) === "ours";
}

/** Whether either service has its data here. @throws SignetError data-directory-foreign, -corrupt; file-unusable where neither has */
export function requireDeployment(data: string): void {
  const layout = layoutOf(data);
  if (isInitialised("ca", layout.ca) || isInitialised("kms", layout.kms)) return;
  throw new SignetError("file-unusable", `There is no deployment in ${layout.root}.`, { details: { next: "Make one with `npx signet start`, or name its directory with --data." } });
}

/** The unseal key shows it, whatever is recorded. */
export function modeOf(data: string, recorded: ServicesRecord = readServices(data)): DeploymentMode {
  const layout = layoutOf(data);
  const sealed = isUnsealKeySealed(layout.unsealKey("ca")) ?? isUnsealKeySealed(layout.unsealKey("kms"));
  return sealed === undefined ? (recorded.mode ?? "development") : sealed ? "production" : "development";
}

/** The version is the service's to judge; here it is only asked whose a directory is. */
export function anyVersion(service: ServiceName) {
  return { service, version: Number.MAX_SAFE_INTEGER };
}

interface WantedPort {
  readonly service: ServiceName | "status page";
  readonly host: string;
  readonly port: number;
  readonly wantedBy: string;
  /** Option that chooses another; none for a CA that is there, whose ports stand in the certificates that it has issued. */
  readonly option: string | undefined;
}

/** The ports that both services and the status page will bind. */
function portsOf(data: string, options: CaOptions & KmsOptions & StatusPageOptions, isNew: boolean): readonly WantedPort[] {
  const { ca, kms } = readServices(data);
  const host = options.host ?? loopback;
  const ofCa = (wantedBy: string, name: "enrolment" | "mutual" | "publication", chosen: number | undefined, recorded: string | undefined): WantedPort => ({
    service: "ca",
    host,
    port: (isNew ? undefined : recordedPort(recorded)) ?? chosen ?? defaultPorts[name],
    wantedBy: `the CA for ${wantedBy}`,
    option: isNew ? `--${name}-port` : undefined,
  });
  return [
    ofCa("enrolment", "enrolment", options.enrolmentPort, ca?.enrolmentUrl),
    ofCa("operators and enrolled parties", "mutual", options.mutualPort, ca?.mutualUrl),
    ofCa("CRLs", "publication", options.publicationPort, ca?.publicationUrl),
    { service: "kms", host, port: options.kmsPort ?? recordedPort(kms?.url) ?? defaultPorts.kms, wantedBy: "the KMS", option: "--kms-port" },
    { service: "status page", host: loopback, port: statusPortOf(data, options), wantedBy: "the status page", option: "--status-port" },
  ];
}

export function recordedPort(url: string | undefined): number | undefined {
  return url === undefined ? undefined : Number(new URL(url).port);
}

/** Before anything is made: the ports of a CA are fixed for ever. Names all that are taken. @throws SignetError port-taken, usage where two are the same */
export async function requireFreePorts(data: string, services: readonly WantedPort["service"][], options: CaOptions & KmsOptions & StatusPageOptions): Promise<void> {
  const all = portsOf(data, options, !isInitialised("ca", layoutOf(data).ca)).filter(({ service }) => services.includes(service));
  requireDifferentPorts(all);
  const taken: WantedPort[] = [];
  for (const wanted of all) if (!(await isFree(wanted.port, wanted.host))) taken.push(wanted);
  const [first] = taken;
  if (first === undefined) return;
  const named = taken.map(({ host, port, wantedBy }) => `port ${port} on ${host}, wanted by ${wantedBy}`).join("; ");
  const choices = taken.flatMap(({ option }) => (option === undefined ? [] : [`${option} N`]));
  const known = ephemeralInUse().map((directory) => ` One in memory is stopped with \`npx signet stop --data ${directory}\`.`).join("");
  const stop = "Stop what uses it (another deployment of Signet with `npx signet stop --data DIRECTORY`)";
  const choice = choices.length < taken.length ? `${stop}: a CA keeps the ports that it was made with` : `${stop}, or choose with ${choices.join(" ")}`;
  throw new SignetError("port-taken", `In use: ${named}. Nothing was changed.`, { details: { port: first.port, next: `${choice}.${known}` } });
}

function requireDifferentPorts(all: readonly WantedPort[]): void {
  for (const [index, wanted] of all.entries()) {
    const same = all.slice(0, index).find((other) => other.port === wanted.port && (other.host === wanted.host || isEveryAddress(other.host) || isEveryAddress(wanted.host)));
    if (same !== undefined) throw usageError(`port ${wanted.port} is wanted twice, by ${same.wantedBy} and by ${wanted.wantedBy}. Nothing was changed`, `Choose another with ${[same.option, wanted.option].filter((option) => option !== undefined).join(" N or ")} N.`);
  }
}

function isEveryAddress(host: string): boolean {
  return host === "0.0.0.0" || host === "::";
}

function isFree(port: number, host: string): Promise<boolean> {
  return new Promise((resolve, reject) => {
    const probe = createServer();
    probe.once("error", (error) => (errnoOf(error) === "EADDRINUSE" ? resolve(false) : reject(fileError(`${host}:${port}`, error))));
    probe.listen({ port, host, exclusive: true }, () => probe.close(() => resolve(true)));
  });
}
