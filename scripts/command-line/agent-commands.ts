import { Option } from "commander";
import type { Role } from "#pki/certificate-profile.ts";
import { systemClock } from "#pki/clock.ts";
import { normalFingerprint } from "#pki/enrolment-client.ts";
import { SignetError } from "#pki/errors.ts";
import { EnrolledIdentity } from "#pki/identity.ts";
import { keyTypes, type KeyType } from "#pki/keys.ts";
import { layoutOf, readServices, requireName } from "./deployment.ts";
import { completeRoles, enrollInto } from "./enrolment.ts";
import { readSecret } from "./files.ts";
import { formatDescription } from "./inspect.ts";
import { untilInterrupted } from "./interruption.ts";
import { asSignetError, usageError, type Definition, type Invocation, type Outcome } from "./program.ts";
import { identityDirectory, kmsUrlOf, openIdentity, withIdentity, withKms } from "./session.ts";

const roles: readonly Role[] = ["client", "server"];

/** `signet agent`: enrolled parties on this machine. */
export function defineAgentCommands(definition: Definition): void {
  const agent = definition.group(definition.program, "agent", "enrolled agents of this machine");
  const { handle } = definition;

  const enroll = definition
    .command(agent, "enroll <name>", "make a key here and have the CA certify it (EST, RFC 7030)", "npx signet ca token alice | npx signet agent enroll alice --token-file -")
    .requiredOption("--token-file <file>", "file with the one-time token (- for stdin)")
    .option("--ca <url>", "enrolment listener of the CA (default: the one of the data directory)")
    .option("--root-fingerprint <hex>", "SHA-256 of the CA's root certificate (default: the data directory's)")
    .option("--identity <directory>", "where to keep the identity (default: agents/NAME in the data directory)")
    .addOption(new Option("--key-type <type>", "type of its keys").choices(keyTypes).default("rsa-3072"));
  handle(enroll, async (invocation: Invocation, name: string, options: { readonly tokenFile: string; readonly ca?: string; readonly rootFingerprint?: string; readonly identity?: string; readonly keyType: KeyType }): Promise<Outcome> => {
    const directory = identityDirectory(invocation, { as: requireName(name), ...(options.identity === undefined ? {} : { identity: options.identity }) });
    if (EnrolledIdentity.isAt(directory)) throw new SignetError("already-exists", `${directory} holds an identity already. Nothing was touched.`, { details: { next: "Choose another name, or another directory with --identity." } });
    const { caUrl, rootFingerprint } = pinnedCa(invocation, options);
    const token = await readSecret(options.tokenFile, "token", invocation);
    return invocation.progress(`Enrolling ${name}`, async () => {
      const identity = await enrollInto(directory, { caUrl, rootFingerprint, name, token, keyType: options.keyType });
      try {
        await completeRoles(identity);
        return shown(identity, directory);
      } catch (error) {
        if (!(error instanceof SignetError)) throw error;
        throw new SignetError(error.code, `${name} is enrolled, but its certificate for links is missing: ${error.message}`, { cause: error, details: { ...error.details, next: `Finish with \`npx signet agent renew ${name}\`.` } });
      } finally {
        identity.stop();
      }
    });
  });

  const renew = definition
    .command(agent, "renew <name>", "renew the certificates of an identity, with new keys", "npx signet agent renew alice")
    .addOption(new Option("--role <role>", "only one of its roles").choices(roles))
    .option("--identity <directory>", "directory of the identity (default: agents/NAME in the data directory)");
  handle(renew, async (invocation: Invocation, name: string, options: { readonly role?: Role; readonly identity?: string }): Promise<Outcome> => {
    const directory = identityDirectory(invocation, { ...options, as: name });
    return withIdentity(directory, async (identity) => {
      if (options.role !== undefined && !identity.hasRole(options.role)) throw usageError(`${name} has no certificate of the role ${options.role}`);
      const wanted = roles.filter((role) => identity.hasRole(role) && (options.role ?? role) === role);
      for (const role of wanted) await identity.renew(role);
      await completeRoles(identity);
      return shown(identity, directory);
    });
  });

  const whoami = definition
    .command(agent, "whoami <name>", "who an identity is, and whether the KMS accepts it", "npx signet agent whoami alice")
    .option("--identity <directory>", "directory of the identity (default: agents/NAME in the data directory)")
    .option("--kms <url>", "base URL of the KMS (default: the one of the data directory)")
    .option("--local", "do not ask the KMS");
  handle(whoami, async (invocation: Invocation, name: string, options: { readonly identity?: string; readonly kms?: string; readonly local?: true }): Promise<Outcome> => {
    const caller = { ...options, as: name };
    const directory = identityDirectory(invocation, caller);
    if (options.local === true) return shown(openIdentity(directory), directory);
    return withKms(invocation, caller, async (kms, identity) => {
      const { uri, certificate } = await kms.whoami();
      return shown(identity, directory, { accepted: `by the KMS, as ${uri} with certificate ${certificate.serialNumber}` });
    });
  });

  const watching = definition
    .command(agent, "watch <name>", "hold a link to the KMS and show keys as they come, until revoked", "npx signet agent watch bob")
    .option("--identity <directory>", "directory of the identity (default: agents/NAME in the data directory)")
    .option("--kms <url>", "base URL of the KMS (default: the one of the data directory)")
    .addHelpText("after", "\nThe octets are received and dropped; nothing of them is shown. Where the connection ends for a reason that passes, it is made again. Ctrl-C ends with 0, a revocation with 5.");
  handle(watching, async (invocation: Invocation, name: string, options: { readonly identity?: string; readonly kms?: string }): Promise<Outcome> => {
    const directory = identityDirectory(invocation, { ...options, as: name });
    const kmsUrl = kmsUrlOf(invocation, options);
    await untilInterrupted((signal) => watch(invocation, directory, kmsUrl, signal));
    return {};
  });
}

/** One line an event, as it comes; what ends the watch for good is thrown, with the reason that the CA gives. */
async function watch(invocation: Invocation, directory: string, kmsUrl: string, signal: AbortSignal): Promise<void> {
  const { stdout } = invocation.terminal;
  const say = (json: object, text: string): void => void stdout.write(invocation.json ? `${JSON.stringify(json)}\n` : `${new Date().toISOString()}  ${text}\n`);
  // From its files alone first, for what is wrong with them to be said in the usual words.
  openIdentity(directory).stop();
  // Links and groups are of no use to the other commands.
  const { Agent } = await import("#agents/agent.ts");
  const agent = await Agent.open(directory, { kmsUrl });
  const receive = async (key: string, version: number): Promise<void> => {
    try {
      const { length } = (await agent.requestKey(key, version)).secret;
      say({ type: "received", key, version, octets: length }, `${key} version ${version}: ${length} octets received`);
    } catch (error) {
      const { code, message } = asSignetError(error);
      if (!signal.aborted) say({ type: "not-received", key, version, code }, `${key} version ${version} not received: ${code}: ${message}`);
    }
  };
  try {
    await agent.watchKeys((event) => {
      switch (event.type) {
        case "connected":
          return say(event, `connected to ${kmsUrl} as ${event.uri}, who may have ${event.keys === 1 ? "1 key" : `${event.keys} keys`} now. Ctrl-C ends the watch.`);
        case "available":
          say(event, `${event.key} version ${event.version} is available (${event.state})`);
          return void receive(event.key, event.version);
        case "rotated":
          say(event, `${event.key} was rotated: version ${event.version} (${event.state})`);
          return void receive(event.key, event.version);
        case "state-changed":
          return say(event, `${event.key} version ${event.versions.join(", ")} is ${event.state}${event.reason === undefined ? "" : ` (${event.reason})`}`);
        case "withdrawn":
          return say(event, `${event.key} is not for this agent any more`);
        case "disconnected":
          return say(event, `not connected: ${event.code}: ${event.detail} The next attempt is in ${event.retryMilliseconds} ms.`);
      }
    }, signal);
  } catch (error) {
    throw withMilliseconds(error);
  } finally {
    await agent.close();
  }
}

/** Adds how long the revocation took: from the time that the CA has put on the CRL that shows it to the end of the connection as it was seen here. */
function withMilliseconds(error: unknown): unknown {
  if (!(error instanceof SignetError) || error.code !== "certificate-revoked") return error;
  const { publishedAt, cutAt, crlNumber } = error.details;
  if (typeof publishedAt !== "string" || typeof cutAt !== "string") return error;
  const milliseconds = Date.parse(cutAt) - Date.parse(publishedAt);
  // A CRL that was published after the cut, for somebody else, shows this revocation too, and says nothing of its time.
  if (milliseconds < 0) return error;
  const measured = `The connection to the KMS was seen cut here ${milliseconds} ms after the CA published CRL ${String(crlNumber)}, which says so (the CA's clock and this machine's).`;
  return new SignetError(error.code, `${error.message} ${measured}`, { details: { ...error.details, milliseconds }, cause: error });
}

/** The CA to enrol with. The fingerprint is what the first contact is checked against, so it never comes from the network. */
function pinnedCa(invocation: Invocation, { ca, rootFingerprint }: { readonly ca?: string; readonly rootFingerprint?: string }): { readonly caUrl: string; readonly rootFingerprint: string } {
  const fingerprint = rootFingerprint === undefined ? undefined : normalFingerprint(rootFingerprint);
  if (ca !== undefined && fingerprint !== undefined) return { caUrl: ca, rootFingerprint: fingerprint };
  const recorded = readServices(invocation.data).ca;
  if (recorded !== undefined && (ca === undefined || ca === recorded.enrolmentUrl)) return { caUrl: recorded.enrolmentUrl, rootFingerprint: fingerprint ?? recorded.rootFingerprint };
  throw usageError(ca === undefined ? `no CA is recorded in ${layoutOf(invocation.data).root}` : "the CA's root fingerprint is missing", "Give both --ca URL and --root-fingerprint HEX, as the operator tells them.");
}

function shown(identity: EnrolledIdentity, directory: string, more: Readonly<Record<string, string>> = {}): Outcome {
  const now = systemClock.now();
  const certificates = roles
    .filter((role) => identity.hasRole(role))
    .flatMap((role) => identity.credential(role).chain.slice(0, 1).map((certificate) => ({ role, serialNumber: certificate.serialNumber, notAfter: certificate.notAfter.toISOString(), fingerprint: certificate.fingerprint, expired: now > certificate.notAfter })));
  const json = { uri: identity.identity.uri, directory, certificates, ...more };
  return { json, text: formatDescription({ ...json, certificates: certificates.map((each) => `${each.role}: ${each.serialNumber}, until ${each.notAfter}${each.expired ? " (expired)" : ""}`) }) };
}
