import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { Agent } from "#agents/agent.ts";
import { identityUri, type IdentityKind } from "#pki/certificate-profile.ts";
import { systemClock } from "#pki/clock.ts";
import { requestOverMutualTls } from "#pki/http-client.ts";
import { EnrolledIdentity } from "#pki/identity.ts";
import type { KeyType } from "#pki/keys.ts";
import { MutualAgent } from "#pki/mtls.ts";
import { caRoutes, tokenAnswer, type RevocationReason } from "#pki/protocol-ca.ts";
import { startCa, startService, type CaReady, type ServiceProcess } from "./services.ts";

/** CA and KMS as processes of their own, on a fresh data directory and free ports, with an operator at hand. */
export interface RunningSystem {
  readonly ca: ServiceProcess<CaReady>;
  readonly kms: ServiceProcess<{ readonly url: string }>;
  readonly kmsUrl: string;
  readonly operator: EnrolledIdentity;
  readonly operatorDirectory: string;
  /** A one-time enrolment token, from the operator's API. */
  token(name: string, kind?: IdentityKind): Promise<string>;
  /** Enrols an agent, in memory unless a directory is given. P-256 unless told otherwise: quick. */
  enroll(name: string, i?: { readonly directory?: string; readonly keyType?: KeyType }): Promise<Agent>;
  /** Resolves when the revocation is on a published CRL. */
  revoke(name: string, reason?: RevocationReason): Promise<void>;
  stop(): Promise<void>;
}

/** For `beforeAll`: the caller stops it in `afterAll`. */
export async function startSystem(): Promise<RunningSystem> {
  const directory = mkdtempSync(path.join(tmpdir(), "signet-"));
  const ca = await startCa(directory, { outlivesTest: true });
  const operator = EnrolledIdentity.open(ca.operatorDirectory);
  await operator.refreshRevocation();
  const connections = new MutualAgent({
    credential: operator.credential("client"),
    trustAnchors: operator.trustAnchors,
    revocation: operator.revocation,
    clock: systemClock,
    expect: { uri: identityUri(ca.ready.trustDomain, "service", "ca") },
  });
  const post = async (route: string, body: unknown): Promise<unknown> => {
    const answer = await requestOverMutualTls({
      agent: connections,
      url: new URL(route, ca.ready.mutualUrl),
      method: "POST",
      headers: { "content-type": "application/json" },
      body: Buffer.from(JSON.stringify(body)),
    });
    return JSON.parse(Buffer.from(answer.body).toString("utf8"));
  };
  const token = async (name: string, kind: IdentityKind = "agent"): Promise<string> => {
    const hosts = kind === "service" ? { dns: ["localhost"], ip: ["127.0.0.1"] } : {};
    return tokenAnswer.parse(await post(caRoutes.tokens, { name, kind, ...hosts })).token;
  };
  const kmsToken = await token("kms", "service");
  const kms = await startService<{ url: string }>("kms-server/main.ts", ["--data", directory, "--ca", ca.ready.enrolmentUrl, "--root-fingerprint", ca.ready.rootFingerprint], {
    env: { SIGNET_ENROLMENT_TOKEN: kmsToken },
    outlivesTest: true,
  });
  return {
    ca,
    kms,
    kmsUrl: kms.ready.url,
    operator,
    operatorDirectory: ca.operatorDirectory,
    token,
    enroll: async (name, i = {}) =>
      Agent.enroll({
        caUrl: ca.ready.enrolmentUrl,
        rootFingerprint: ca.ready.rootFingerprint,
        name,
        token: await token(name),
        kmsUrl: kms.ready.url,
        keyType: "ec-p256",
        ...i,
      }),
    revoke: async (name, reason = "keyCompromise") => {
      await post(caRoutes.revocations, { identity: identityUri(ca.ready.trustDomain, "agent", name), reason });
    },
    stop: async () => {
      connections.destroy();
      operator.stop();
      await Promise.all([kms.stop(), ca.stop()]);
      rmSync(directory, { recursive: true, force: true });
    },
  };
}
