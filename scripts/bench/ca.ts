import { generateKeyPairSync, sign } from "node:crypto";
import { closeSync, fsyncSync, openSync, writeSync } from "node:fs";
import path from "node:path";
import { createCsr } from "#pki/keys.ts";
import { caRoutes, estMediaTypes, estRoutes } from "#pki/protocol-ca.ts";
import { kmsRoutes } from "#pki/protocol-kms.ts";
import { ScratchSystem } from "../scratch-system.ts";
import { closedLoop, LoadConnection, wireRequest, type LoadTarget } from "./closed-loop.ts";
import type { BenchArea } from "./main.ts";
import { compare } from "./measurement.ts";

const loadMilliseconds = 700;
const connectionCount = 16;
/** About what a certificate or a short CRL has. */
const signedBytes = 700;

/** The CA against the least that its work can cost: one signature and one fsync. */
export const benchCa: BenchArea = async (report, rounds) => {
  const system = await ScratchSystem.start();
  try {
    const issuerKeyType = system.agent.credential("client").chain[1]?.publicKey;
    const { privateKey } = generateKeyPairSync("ec", { namedCurve: "P-256" });
    const issuing = issuerKeyType?.asymmetricKeyType === "rsa" ? generateKeyPairSync("rsa", { modulusLength: issuerKeyType.asymmetricKeyDetails?.modulusLength ?? 3072 }).privateKey : privateKey;
    const file = openSync(path.join(system.directory, "baseline"), "a");
    const signAndSync = (): void => {
      writeSync(file, sign("sha256", Buffer.alloc(signedBytes), issuing));
      fsyncSync(file);
    };

    const csr = Buffer.from(await createCsr(system.agent.credential("client").privateKey, { uri: system.agent.identity.uri })).toString("base64");
    const target: LoadTarget = {
      ...(await system.pemOf()),
      port: Number(new URL(system.ca.ready.mutualUrl).port),
      serverPid: system.ca.pid,
      request: wireRequest("POST", estRoutes.simplereenroll, csr, estMediaTypes.request),
    };
    const connections: LoadConnection[] = [];
    for (let i = 0; i < connectionCount; i++) connections.push(await LoadConnection.open(target));
    report(
      await compare(
        {
          area: "ca",
          rows: [{ metric: "rate", name: `certificates by EST, ${connectionCount} connections, against one signature and one fsync each`, unit: "certificates/s" }],
          project: () => closedLoop(connections, target, loadMilliseconds),
          baseline: async () => ({ rate: repeat(signAndSync, loadMilliseconds) }),
        },
        rounds,
      ),
    );
    for (const connection of connections) connection.close();

    let revoked = 0;
    const revokeOne = async (): Promise<{ published: number; cut: number }> => {
      const name = `revoked-${revoked++}`;
      const party = await system.enroll(name);
      party.stop();
      const request = wireRequest("GET", kmsRoutes.whoami);
      const line = await LoadConnection.open({ ...(await system.pemOf(name)), port: Number(new URL(system.kms.ready.url).port), serverPid: system.kms.pid, request });
      await line.exchange();
      const start = performance.now();
      const cut = line.closed().then(() => performance.now() - start);
      await system.authority.json("POST", caRoutes.revocations, { identity: party.identity.uri, reason: "superseded" });
      const published = performance.now() - start;
      return { published, cut: await cut };
    };
    report(
      await compare(
        {
          area: "ca",
          rows: [
            { metric: "published", name: "revocation to published CRL, as acknowledged to the operator, against one signature and one fsync", unit: "ms" },
          ],
          project: revokeOne,
          baseline: async () => ({ published: 1000 / repeat(signAndSync, 100) }),
        },
        rounds,
      ),
    );
    report(
      await compare(
        { area: "ca", rows: [{ metric: "cut", name: "revocation to the cut of an open connection at the KMS", unit: "ms" }], project: revokeOne },
        rounds,
      ),
    );
    closeSync(file);
  } finally {
    await system.stop();
  }
};

/** How often a second the work can be done, done for so long. */
function repeat(work: () => void, milliseconds: number): number {
  const start = performance.now();
  let done = 0;
  while (performance.now() - start < milliseconds) {
    work();
    done++;
  }
  return (done * 1000) / (performance.now() - start);
}
