import { kmsRoutes } from "#pki/protocol-kms.ts";
import { Caller, ScratchSystem } from "../scratch-system.ts";
import { closedLoop, handshakes, LoadConnection, processCpuMicroseconds, wireRequest, type LoadTarget } from "./closed-loop.ts";
import type { BenchArea } from "./main.ts";
import { atLeast, atMost, compare } from "./measurement.ts";

const keyBytes = 32;
const loadMilliseconds = 700;
const handshakesPerSample = 60;

/**
 * The KMS against a bare node:https handler: the same certificates and keys, a process each, the same client. A key fetch
 * includes policy, revocation, a durable audit record and unwrapping; the bare handler answers with 32 fixed octets.
 */
export const benchKms: BenchArea = async (report, rounds) => {
  const system = await ScratchSystem.start();
  try {
    const caller = new Caller(system.agent, system.kms.ready.url, "kms");
    await caller.send("POST", kmsRoutes.keys, { name: "bench", spec: "aes-256" });
    caller.close();
    const bare = await system.startBareServer(keyBytes);
    const pem = await system.pemOf();
    const kmsTarget = (request: Uint8Array): LoadTarget => ({ ...pem, port: Number(new URL(system.kms.ready.url).port), serverPid: system.kms.pid, request });
    const bareTarget = (request: Uint8Array): LoadTarget => ({ ...pem, port: bare.ready.port, serverPid: bare.pid, request });
    const cpuKnown = processCpuMicroseconds(process.pid) !== undefined;

    const material = wireRequest("GET", kmsRoutes.material("bench", "latest"));
    for (const connections of [1, 64]) {
      const of = `, ${connections} connection${connections === 1 ? "" : "s"}`;
      const project = await arm(kmsTarget(material), connections);
      const baseline = await arm(bareTarget(material), connections);
      report(
        await compare(
          {
            area: "kms",
            rows: [
              { metric: "rate", name: `key fetch, keep-alive mTLS, audited durably${of}`, unit: "requests/s", ...(connections === 64 ? { goal: atLeast(0.58) } : {}) },
              ...(cpuKnown ? [{ metric: "cpu" as const, name: `key fetch: CPU of the server${of}`, unit: "us/request" }] : []),
            ],
            project: project.sample,
            baseline: baseline.sample,
          },
          rounds,
        ),
      );
      project.close();
      baseline.close();
    }

    const whoami = wireRequest("GET", kmsRoutes.whoami);
    report(
      await compare(
        {
          area: "kms",
          rows: [
            { metric: "milliseconds", name: "full handshake: new connection, TLS 1.3 mutual, first answer", unit: "ms", goal: atMost(1.15) },
            ...(cpuKnown ? [{ metric: "cpu" as const, name: "full handshake: CPU of the server", unit: "ms", goal: atMost(1.15) }] : []),
          ],
          rounds: 11,
          project: () => handshakes(kmsTarget(whoami), handshakesPerSample),
          baseline: () => handshakes(bareTarget(whoami), handshakesPerSample),
        },
        rounds,
      ),
    );
    await bare.stop();
  } finally {
    await system.stop();
  }
};

async function arm(target: LoadTarget, count: number): Promise<{ sample: () => Promise<{ rate: number; cpu: number }>; close: () => void }> {
  const connections: LoadConnection[] = [];
  for (let i = 0; i < count; i++) connections.push(await LoadConnection.open(target));
  return {
    sample: () => closedLoop(connections, target, loadMilliseconds),
    close: () => {
      for (const connection of connections) connection.close();
    },
  };
}
