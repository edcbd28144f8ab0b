import { existsSync } from "node:fs";
import { createServer, type Server } from "node:https";
import path from "node:path";
import { text } from "node:stream/consumers";
import { setTimeout } from "node:timers/promises";
import type { TLSSocket } from "node:tls";
import { parseArgs } from "node:util";
import { systemClock } from "#pki/clock.ts";
import { SignetError } from "#pki/errors.ts";
import { EnrolledIdentity } from "#pki/identity.ts";
import { close, listen } from "#pki/http-server.ts";
import type { Log } from "#pki/log.ts";
import { alpn, endChainsAtOwnAuthorities, mutualServerOptions, PeerSessions, renewMutualContext } from "#pki/mtls.ts";
import type { DeploymentMode } from "#pki/protocol-ca.ts";
import { createLog, type ServiceLog } from "#pki/service-log.ts";
import { createUnsealKey, passphraseOf, readUnsealKey } from "#pki/unseal.ts";
import { AuditLog } from "#store/audit-log.ts";
import { DataDirectory } from "#store/data-directory.ts";
import { openSqlite } from "#store/sqlite.ts";
import { EventStreams } from "./event-streams.ts";
import { kmsListener } from "./http.ts";
import { KeyService } from "./key-service.ts";

const usage = `The key-management service of Signet.

  kms-server/main.ts --data DIR [--port N] [--host ADDRESS] [--identity DIR]
                     [--ca URL --root-fingerprint HEX] [--production] [--passphrase-file FILE]

  --data DIR              keeps keys in DIR/kms and the unseal key in DIR/unseal/kms.key
  --port N                port to listen on; 0, the default, takes a free one
  --host ADDRESS          address to listen on; 127.0.0.1 unless told
  --identity DIR          the enrolled identity; DIR/kms/identity unless told
  --ca URL                enrolment URL of the CA: needed while there is no identity, or one that has expired
  --root-fingerprint HEX  SHA-256 of the root certificate: needed with --ca
  --production            seals the unseal key under a passphrase: fixed when DIR/kms is made
  --passphrase-file FILE  holds the passphrase; systemd's credential kms-passphrase takes its place

The enrolment token comes from the environment (SIGNET_ENROLMENT_TOKEN) or from standard input.

  SIGNET_ENROLMENT_TOKEN=... kms-server/main.ts --data data --ca https://localhost:8440 --root-fingerprint 5f0c...
`;

const format = { service: "kms", version: 1 } as const;
const migrations = new URL("./migrations/", import.meta.url);
/** Longest that the service goes on with revocation data whose last authenticated refresh lies back. */
const maxAgeMilliseconds = 5 * 60_000;
const denialFlushMilliseconds = 60_000;
/** How long a start waits for the CA's first answer before it listens all the same, and answers 503 until the CA is back. */
const firstRefreshMilliseconds = 3_000;

interface Arguments {
  readonly data: string;
  readonly port: number;
  readonly host: string;
  readonly identity: string;
  readonly ca: string | undefined;
  readonly rootFingerprint: string | undefined;
  readonly production: boolean;
  readonly passphraseFile: string | undefined;
}

function readArguments(argv: readonly string[]): Arguments | undefined {
  const string = { type: "string" } as const;
  let values;
  try {
    ({ values } = parseArgs({ args: [...argv], options: { data: string, port: string, host: string, identity: string, ca: string, "root-fingerprint": string, production: { type: "boolean" }, "passphrase-file": string, help: { type: "boolean" } }, strict: true }));
  } catch (error) {
    throw new SignetError("usage", error instanceof Error ? error.message : "The arguments do not parse.");
  }
  if (values.help === true) return undefined;
  if (values.data === undefined) throw new SignetError("usage", "--data DIR is missing.");
  const port = values.port ?? "0";
  if (!/^\d{1,5}$/.test(port) || Number(port) > 65535) throw new SignetError("usage", "--port is a number from 0 to 65535.");
  if ((values.ca === undefined) !== (values["root-fingerprint"] === undefined)) throw new SignetError("usage", "--ca and --root-fingerprint go together.");
  return {
    data: values.data,
    port: Number(port),
    host: values.host ?? "127.0.0.1",
    identity: values.identity ?? path.join(values.data, "kms", "identity"),
    ca: values.ca,
    rootFingerprint: values["root-fingerprint"],
    production: values.production === true,
    passphraseFile: values["passphrase-file"],
  };
}

/** Opens the data directory, or makes it where there is none. The unseal key is made with it, and never again: without it the keys are lost. */
async function openData({ data, production, passphraseFile }: Arguments) {
  const directory = path.join(data, "kms");
  const unsealFile = path.join(data, "unseal", "kms.key");
  const isNew = DataDirectory.inspect(directory, format) !== "ours";
  const passphrase = await passphraseOf({ unsealKey: unsealFile, isNew, production, source: { file: passphraseFile, option: "--kms-passphrase-file", credential: "kms-passphrase" } });
  const mode: DeploymentMode = passphrase === undefined ? "development" : "production";
  if (isNew) {
    const held = await DataDirectory.initialise(directory, format, async (held) => {
      // What a start that was killed half-way left sealed nothing yet, and is taken up.
      if (!existsSync(unsealFile)) await createUnsealKey(unsealFile, passphrase);
      const engine = openSqlite(held.file("kms.sqlite"));
      try {
        await engine.migrate(migrations);
      } finally {
        await engine.close();
      }
    });
    return { held, mode, unsealKey: await readUnsealKey(unsealFile, passphrase) };
  }
  const held = DataDirectory.open(directory, format);
  try {
    return { held, mode, unsealKey: await readUnsealKey(unsealFile, passphrase) };
  } catch (error) {
    held.close();
    throw error;
  }
}

/** The service's own identity: opened, or enrolled with a token where there is none yet, with a certificate for each role. */
async function openIdentity({ identity: directory, ca, rootFingerprint }: Arguments, log: Log): Promise<EnrolledIdentity> {
  let token = process.env["SIGNET_ENROLMENT_TOKEN"];
  // Not for the children of this process, nor for whoever reads its environment from here on.
  delete process.env["SIGNET_ENROLMENT_TOKEN"];
  const enrol = async (code: "usage" | "certificate-expired", missing: string, into?: string): Promise<EnrolledIdentity> => {
    if (ca === undefined || rootFingerprint === undefined) throw new SignetError(code, `${missing}: --ca and --root-fingerprint are needed to enrol.`);
    token = (token ?? (await text(process.stdin))).trim();
    if (token === "") throw new SignetError("usage", "The enrolment token is missing: set SIGNET_ENROLMENT_TOKEN, or write it to standard input.");
    return EnrolledIdentity.enroll({ caUrl: ca, rootFingerprint, name: "kms", token, log, maxAgeMilliseconds, ...(into === undefined ? {} : { directory: into }) });
  };
  let identity: EnrolledIdentity;
  if (EnrolledIdentity.isAt(directory)) {
    identity = EnrolledIdentity.open(directory, { log, maxAgeMilliseconds });
    if (identity.isExpired("client")) {
      // Only a new token brings it back. It stays the same identity, and keeps its floors.
      const fresh = await enrol("certificate-expired", `The certificate of ${identity.identity.uri} in ${directory} has expired`);
      identity.adopt("client", fresh.credential("client"));
      fresh.stop();
      log.info({ identity: identity.identity.uri }, "enrolled anew");
    }
  } else {
    identity = await enrol("usage", `There is no identity in ${directory}`, directory);
    log.info({ identity: identity.identity.uri }, "enrolled");
  }
  if (identity.identity.kind !== "service") throw new SignetError("peer-mismatch", `${identity.identity.uri} is not the identity of a service.`);
  if (!identity.hasRole("server") || identity.isExpired("server")) {
    await identity.refreshRevocation();
    await identity.enrollServerRole();
  }
  return identity;
}

/** Renews each certificate in time, and serves the new one to connections from then on. */
function keepRenewed(identity: EnrolledIdentity, server: Server, log: Log): void {
  identity.onRenewal((role) => {
    if (role === "server") renewMutualContext(server, listening(identity));
    log.info({ role, notAfter: identity.credential(role).chain[0]?.notAfter }, "certificate renewed");
  });
  identity.startRenewal();
}

function listening(identity: EnrolledIdentity) {
  return mutualServerOptions({ credential: identity.credential("server"), trustAnchors: identity.trustAnchors, alpn: alpn.http });
}

async function serve(options: Arguments, log: ServiceLog): Promise<void> {
  const { held, mode, unsealKey } = await openData(options);
  log.setBindings({ mode });
  const cleanup: (() => unknown)[] = [() => held.close()];
  try {
    const engine = openSqlite(held.file("kms.sqlite"), { mode: "existing" });
    cleanup.unshift(() => engine.close());
    await engine.migrate(migrations);
    const auditLog = await AuditLog.open(engine, systemClock);
    await engine.read((reads) => auditLog.verify(reads));

    const identity = await openIdentity(options, log);
    cleanup.unshift(() => identity.stop());
    const { revocation, trustAnchors } = identity;
    const sessions = new PeerSessions({ trustAnchors, authorities: () => identity.credential("server").chain.slice(1), revocation, clock: systemClock, purpose: "clientAuth" });
    const service = await KeyService.open({ engine, auditLog, unsealKey, recheck: (peer) => sessions.recheck(peer), clock: systemClock, trustDomain: identity.identity.trustDomain });
    cleanup.unshift(() => service.flushDenials());

    const events = new EventStreams({ service, recheck: (peer) => sessions.recheck(peer) });
    const listener = kmsListener({ service, sessions, revocation, events, credential: () => identity.credential("server"), clock: systemClock, log });
    const server = createServer(listening(identity), listener);
    endChainsAtOwnAuthorities(server);
    server.on("secureConnection", (socket: TLSSocket) => sessions.admit(socket));
    keepRenewed(identity, server, log);
    const flushing = setInterval(() => void service.flushDenials().catch((error: unknown) => log.error({ err: error }, "denials could not be counted")), denialFlushMilliseconds);
    cleanup.unshift(() => clearInterval(flushing));

    await settleRevocation(identity, log);
    const port = await listen(server, options.port, options.host);
    cleanup.unshift(() => close(server));
    cleanup.unshift(() => events.end());
    const url = `https://${options.host === "127.0.0.1" || options.host === "::1" ? "localhost" : options.host}:${port}`;
    log.info({ url, identity: identity.identity.uri, keys: service.keyCount }, "listening");
    if (mode === "development") log.warn("a DEVELOPMENT deployment: its unseal key lies unprotected beside the data");
    // Before it says that it is ready: whoever reads that may ask it to stop at once.
    const asked = new Promise<string>((resolve) => {
      for (const name of ["SIGTERM", "SIGINT"] as const) process.once(name, resolve);
    });
    process.stdout.write(`${JSON.stringify({ ready: true, service: "kms", url, mode, pid: process.pid })}\n`);
    log.info({ signal: await asked }, "stopping");
    for (const step of cleanup.splice(0)) await step();
    log.info("stopped");
  } catch (error) {
    for (const step of cleanup) await step();
    throw error;
  }
}

/**
 * Starts to keep the CRLs fresh, and gives the CA a moment to answer. Should it not, the service says what it waits for, here and
 * in every 503, and begins to serve by itself as soon as the CRLs are there.
 */
async function settleRevocation(identity: EnrolledIdentity, log: Log): Promise<void> {
  const { revocation } = identity;
  identity.startRevocationRefresh();
  const deadline = performance.now() + firstRefreshMilliseconds;
  while (revocation.waitingFor() !== undefined && performance.now() < deadline) await setTimeout(50);
  let reported: string | undefined;
  const report = () => {
    const waitingFor = revocation.waitingFor();
    if (waitingFor === reported) return;
    reported = waitingFor;
    if (waitingFor === undefined) log.info("revocation data is fresh; serving");
    else log.warn({ waitingFor }, "nothing is served without fresh CRLs");
  };
  report();
  setInterval(report, 1000).unref();
}

const log = createLog("kms");

/** One plain line for a refusal; only a defect is logged with its stack. */
function fail(error: unknown): never {
  if (error instanceof SignetError) {
    process.stderr.write(`signet kms: ${error.code}: ${error.message}\n`);
    process.exit(error.exitCode);
  }
  log.fatal({ err: error }, "a defect stopped the service");
  process.exit(2);
}

process.on("uncaughtException", fail);
try {
  const options = readArguments(process.argv.slice(2));
  if (options === undefined) process.stdout.write(usage);
  else await serve(options, log);
  process.exit(0);
} catch (error) {
  fail(error);
}
