import { rmdir } from "node:fs/promises";
import path from "node:path";
import { SignetError } from "#pki/errors.ts";
import { EnrolledIdentity } from "#pki/identity.ts";
import { layoutOf, readServices, recordService } from "./deployment.ts";
import type { Invocation } from "./program.ts";
import { withCa } from "./session.ts";

/** Enrols, and leaves no empty directory behind where that fails. */
export async function enrollInto(directory: string, i: Omit<Parameters<typeof EnrolledIdentity.enroll>[0], "directory">): Promise<EnrolledIdentity> {
  try {
    return await EnrolledIdentity.enroll({ ...i, directory });
  } catch (error) {
    for (const made of [directory, path.dirname(directory)]) await rmdir(made).catch(() => {});
    throw error;
  }
}

/** Agents answer links of other agents, for which they have a certificate of the server role too. */
export async function completeRoles(identity: EnrolledIdentity): Promise<void> {
  if (identity.identity.kind === "agent" && !identity.hasRole("server")) await identity.enrollServerRole();
}

/** The agent that a development deployment begins with. */
const developer = "developer";

/**
 * Enrols the first agent of a development deployment, once, and records it as the one that `signet kms key` speaks as. One that is
 * there is kept alive: renewed where that is due, and enrolled anew where it has expired during a long stop. Why that did not come
 * about, such as its revocation, is told and keeps nobody else from being served.
 */
export async function keepDeveloper(invocation: Invocation): Promise<{ readonly name: string; readonly refusal?: SignetError }> {
  try {
    await renewOrEnroll(invocation);
    if (readServices(invocation.data).agent !== developer) recordService(invocation.data, { agent: developer });
    return { name: developer };
  } catch (error) {
    if (!(error instanceof SignetError)) throw error;
    return { name: developer, refusal: error };
  }
}

async function renewOrEnroll(invocation: Invocation): Promise<void> {
  const { data } = invocation;
  const directory = layoutOf(data).agent(developer);
  const identity = EnrolledIdentity.isAt(directory) ? EnrolledIdentity.open(directory) : await enrollDeveloper(invocation, directory);
  try {
    if (identity.isExpired("client")) {
      const fresh = await enrollDeveloper(invocation);
      identity.adopt("client", fresh.credential("client"));
      fresh.stop();
    }
    await identity.refreshRevocation();
    await completeRoles(identity);
    await identity.renewWhereDue();
  } finally {
    identity.stop();
  }
}

async function enrollDeveloper(invocation: Invocation, directory?: string): Promise<EnrolledIdentity> {
  const { enrolmentUrl: caUrl, rootFingerprint, token } = await withCa(invocation, (ca) => ca.createToken({ name: developer, kind: "agent" }));
  const i = { caUrl, rootFingerprint, name: developer, token, keyType: "rsa-2048" } as const;
  return directory === undefined ? EnrolledIdentity.enroll(i) : enrollInto(directory, i);
}
