import path from "node:path";
import { KmsClient } from "#agents/kms-client.ts";
import { identityUri } from "#pki/certificate-profile.ts";
import { systemClock } from "#pki/clock.ts";
import { SignetError } from "#pki/errors.ts";
import { EnrolledIdentity } from "#pki/identity.ts";
import { type Log, silentLog } from "#pki/log.ts";
import { alpn, MutualAgent } from "#pki/mtls.ts";
import type { KeyDescription } from "#pki/protocol-kms.ts";
import { CaClient } from "./ca-client.ts";
import { layoutOf, readServices } from "./deployment.ts";
import type { Invocation } from "./program.ts";

/** Runs `use` as the operator of the data directory, over mutual TLS with its CA. */
export async function withCa<T>(invocation: Invocation, use: (ca: CaClient) => Promise<T>): Promise<T> {
  return withIdentity(layoutOf(invocation.data).operator, async (operator) => {
    const { mutualUrl } = await operator.ca.directory();
    const ca = new CaClient({ operator, mutualUrl, clock: systemClock });
    try {
      return await use(ca);
    } finally {
      ca.close();
    }
  });
}

/** Whose credential a command uses, and where the KMS is. */
export interface Caller {
  /** Name of an agent that was enrolled into the data directory. */
  readonly as?: string;
  /** Directory of an enrolled identity, wherever it lies. */
  readonly identity?: string;
  /** Base URL of the KMS; the recorded one where there is none. */
  readonly kms?: string;
}

/** Base URL of the KMS that a command speaks to. @throws SignetError file-unusable */
export function kmsUrlOf(invocation: Invocation, options: Pick<Caller, "kms">): string {
  const url = options.kms ?? readServices(invocation.data).kms?.url;
  if (url !== undefined) return url;
  throw new SignetError("file-unusable", `No KMS is recorded in ${layoutOf(invocation.data).root}.`, { details: { next: "Start one with `npx signet start`, or name one with --kms URL." } });
}

/**
 * Runs `use` over mutual TLS with the KMS.
 * @param otherwise who speaks where `options` name nobody: the agent that the data directory records, if there is one, or its operator
 */
export async function withKms<T>(invocation: Invocation, options: Caller, use: (kms: KmsClient, identity: EnrolledIdentity) => Promise<T>, otherwise: "agent" | "operator" = "agent"): Promise<T> {
  const url = kmsUrlOf(invocation, options);
  const recorded = readServices(invocation.data).agent;
  const speaker = options.as ?? (otherwise === "agent" ? recorded : undefined);
  return withIdentity(identityDirectory(invocation, { ...options, ...(speaker === undefined ? {} : { as: speaker }) }), async (identity) => {
    const agent = new MutualAgent({
      credential: identity.credential("client"),
      trustAnchors: identity.trustAnchors,
      revocation: identity.revocation,
      clock: systemClock,
      alpn: alpn.http,
      expect: { uri: identityUri(identity.identity.trustDomain, "service", "kms") },
    });
    try {
      return await use(new KmsClient({ url, agent }), identity);
    } catch (error) {
      if (!(error instanceof SignetError) || error.code !== "not-permitted") throw error;
      const { kind, name } = identity.identity;
      const next = kind === "operator" ? "Operators own and read no keys: say as which agent with --as NAME." : `See the keys of ${name} with \`npx signet kms key list${name === recorded ? "" : ` --as ${name}`}\`, or say as whom with --as NAME.`;
      throw new SignetError(error.code, error.message, { cause: error, details: { ...error.details, next } });
    } finally {
      agent.destroy();
    }
  });
}

/** Every key that the caller may see, page after page. */
export async function allKeys(client: KmsClient): Promise<readonly KeyDescription[]> {
  const keys: KeyDescription[] = [];
  let cursor: string | undefined;
  do {
    const page = await client.listKeys(cursor === undefined ? {} : { cursor });
    keys.push(...page.keys);
    cursor = page.nextCursor;
  } while (cursor !== undefined);
  return keys;
}

export function identityDirectory(invocation: Invocation, options: Pick<Caller, "as" | "identity">): string {
  const layout = layoutOf(invocation.data);
  if (options.identity !== undefined) return path.resolve(options.identity);
  return options.as === undefined ? layout.operator : layout.agent(options.as);
}

/** Opens an enrolled identity, brings its CRLs up to date, and lets go of it when `use` is done. @throws SignetError file-unusable */
export async function withIdentity<T>(directory: string, use: (identity: EnrolledIdentity) => Promise<T>): Promise<T> {
  const identity = openIdentity(directory);
  try {
    await identity.refreshRevocation();
    return await use(identity);
  } finally {
    identity.stop();
  }
}

/** Opens an enrolled identity from its files alone. @throws SignetError file-unusable */
export function openIdentity(directory: string, log: Log = silentLog): EnrolledIdentity {
  if (!EnrolledIdentity.isAt(directory)) {
    const name = path.basename(directory);
    throw new SignetError("file-unusable", `There is no identity in ${directory}.`, {
      details: { next: name === "operator" ? "Start the services with `npx signet start`, or name their data directory with --data." : `Enrol it: \`npx signet ca token ${name} | npx signet agent enroll ${name} --token-file -\`.` },
    });
  }
  return EnrolledIdentity.open(directory, { log });
}
