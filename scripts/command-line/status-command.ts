import { connect } from "node:net";
import { EnrolledIdentity } from "#pki/identity.ts";
import type { DeploymentMode } from "#pki/protocol-ca.ts";
import type { CaSummary, KmsSummary } from "#pki/protocol-summary.ts";
import { DataDirectory } from "#store/data-directory.ts";
import { layoutOf, readServices, type ServicesRecord } from "./deployment.ts";
import { formatTable } from "./inspect.ts";
import { asSignetError, hintFor, type Definition, type Invocation, type Outcome } from "./program.ts";
import { isInitialised, loopback, modeOf, requireDeployment, type ServiceName } from "./service-options.ts";
import { withCa, withKms } from "./session.ts";

/**
 * `up`: it answers, and serves. `down`: no process holds its directory. `unwell`: one does, and it does not answer or does not serve. `running`: one does,
 * and it was not asked: there is no operator's credential here, as on the host of a KMS whose CA is elsewhere, or the CA is not up.
 */
type State = "up" | "running" | "down" | "unwell";

interface ServiceStatus {
  readonly service: ServiceName;
  readonly state: State;
  readonly pid?: number;
  readonly startedAt?: string;
  readonly urls: readonly string[];
  /** Why it is not up. */
  readonly problem?: string;
}

/** `signet status`: what runs here, as its operator sees it. */
export function defineStatusCommand(definition: Definition): void {
  const status = definition.command(definition.program, "status", "whether the services of the data directory are up, and what they hold; ends with 2 where one is not", "npx signet status");
  definition.handle(status, async (invocation: Invocation): Promise<Outcome> => {
    const layout = layoutOf(invocation.data);
    const recorded = readServices(invocation.data);
    const has = (service: ServiceName): boolean => isInitialised(service, layout[service]);
    requireDeployment(invocation.data);
    const mode = modeOf(invocation.data, recorded);
    const ca = has("ca") ? await statusOfCa(invocation, recorded) : undefined;
    const kms = has("kms") ? await statusOfKms(invocation, recorded, ca === undefined || ca.status.state === "up") : undefined;
    const services: readonly ServiceStatus[] = [...(ca === undefined ? [] : [ca.status]), ...(kms === undefined ? [] : [kms.status])];
    const isUp = services.every(({ state }) => state === "up" || state === "running");
    const page = recorded.statusPage === undefined ? undefined : { url: recorded.statusPage.url, up: await isListening(recorded.statusPage.url) };
    const next = isUp ? undefined : hintFor(nextStep(services, mode, layout.logs), invocation.data);
    return {
      json: {
        data: layout.root,
        mode,
        up: isUp,
        ...(recorded.agent === undefined ? {} : { agent: recorded.agent }),
        services,
        ...(page === undefined ? {} : { statusPage: page }),
        ...(ca?.holds === undefined ? {} : { crls: ca.holds.crls, certificates: ca.holds.certificates }),
        ...(kms?.holds === undefined ? {} : { keys: kms.holds.keys }),
        ...(next === undefined ? {} : { next }),
      },
      text: [
        `${mode === "development" ? "DEVELOPMENT" : "Production"} deployment${recorded.ca === undefined ? "" : ` ${recorded.ca.trustDomain}`} in ${layout.root}`,
        "",
        formatTable(["service", "state", "process", "since", "addresses"], services.map(({ service, state, pid, startedAt, urls }) => [service, state, String(pid ?? "-"), startedAt ?? "-", urls.join(" ")])),
        ...(ca?.holds === undefined ? [] : ["", formatTable(["crl", "number", "entries", "published", "next update"], ca.holds.crls.map((crl) => [crl.name, crl.crlNumber, String(crl.entries), `${crl.publishedAt} (${span(crl.publishedAt)} ago)`, `${crl.nextUpdate} (in ${span(crl.nextUpdate)})`]))]),
        "",
        ...(ca?.holds === undefined ? [] : [`certificates      ${countsOf(ca.holds.certificates)}`]),
        ...(kms?.holds === undefined ? [] : [`keys              ${kms.holds.keys.total}${kms.holds.keys.total === 0 ? "" : ` (${countsOf(kms.holds.keys.states)})`}`]),
        ...(page === undefined ? [] : [`status page       ${page.up ? page.url : `is not served (last at ${page.url})`}`]),
        ...(recorded.agent === undefined ? [] : [`agent             ${recorded.agent}, as whom \`signet kms key\` speaks`]),
        ...services.flatMap(({ service, problem }) => (problem === undefined ? [] : [`${service}: ${problem}`])),
        ...(next === undefined ? [] : ["", next]),
      ].join("\n"),
      exitCode: isUp ? 0 : 2,
    };
  });
}

function nextStep(services: readonly ServiceStatus[], mode: DeploymentMode, logs: string): string {
  const down = services.filter(({ state }) => state === "down").length;
  if (down === 0) return `See the logs in ${logs}.`;
  const start = mode === "development" ? "`npx signet start`" : "`npx signet start --ca-passphrase-file FILE --kms-passphrase-file FILE`, or `systemctl start signet-ca signet-kms` where systemd runs them";
  return `${down < services.length ? "Stop what still runs with `npx signet stop`, then start" : "Start"} with ${start}.`;
}

type CaHolds = Pick<CaSummary, "crls" | "certificates">;
type KmsHolds = Pick<KmsSummary, "keys">;

async function statusOfCa(invocation: Invocation, { ca }: ServicesRecord): Promise<{ readonly status: ServiceStatus; readonly holds?: CaHolds }> {
  const urls = ca === undefined ? [] : [ca.enrolmentUrl, ca.mutualUrl, ca.publicationUrl];
  return statusOf(invocation, "ca", urls, () => withCa(invocation, (client) => client.summary()));
}

/** The KMS is asked only where the CA has answered: without its CRLs the operator talks to nobody. */
async function statusOfKms(invocation: Invocation, { kms }: ServicesRecord, mayAsk: boolean): Promise<{ readonly status: ServiceStatus; readonly holds?: KmsHolds }> {
  return statusOf(invocation, "kms", kms === undefined ? [] : [kms.url], mayAsk ? () => withKms(invocation, {}, (client) => client.summary(), "operator") : undefined);
}

async function statusOf<Holds>(invocation: Invocation, service: ServiceName, urls: readonly string[], ask: (() => Promise<Holds>) | undefined): Promise<{ readonly status: ServiceStatus; readonly holds?: Holds }> {
  const holder = DataDirectory.holder(layoutOf(invocation.data)[service]);
  const running = { service, urls, ...(holder?.pid === undefined ? {} : { pid: holder.pid, startedAt: holder.startedAt ?? "" }) };
  if (holder === undefined) return { status: { ...running, state: "down" } };
  if (ask === undefined || !EnrolledIdentity.isAt(layoutOf(invocation.data).operator)) return { status: { ...running, state: "running" } };
  try {
    return { status: { ...running, state: "up" }, holds: await ask() };
  } catch (error) {
    const { code, message } = asSignetError(error);
    return { status: { ...running, state: "unwell", problem: `${code}: ${message}` } };
  }
}

/** Whether somebody listens where the status page was served last. That it is the page, only the page itself says. */
function isListening(address: string): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect({ host: loopback, port: Number(new URL(address).port) });
    const answer = (isUp: boolean): void => {
      socket.destroy();
      resolve(isUp);
    };
    socket.once("connect", () => answer(true)).once("error", () => answer(false));
  });
}

function countsOf(counts: Readonly<Record<string, number | undefined>>): string {
  return Object.entries(counts).map(([state, count]) => `${count} ${state}`).join(", ");
}

/** How far a time lies from now, either way. */
function span(time: string): string {
  const minutes = Math.abs(Date.parse(time) - Date.now()) / 60_000;
  return minutes < 60 ? `${Math.floor(minutes)} min` : `${(minutes / 60).toFixed(1)} h`;
}
