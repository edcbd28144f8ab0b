import { fork } from "node:child_process";
import { once } from "node:events";
import { fileURLToPath } from "node:url";
import tls from "node:tls";
import { alpn, keyExchangeGroups } from "#pki/mtls.ts";
import type { TestAuthority } from "#test/support/pki.ts";
import type { HandshakeServerSetup } from "./handshake-server.ts";

/** Callers of one sample, each with a certificate and key of its own. */
const callersPerSample = 200;
/** Callers in all: more than a server remembers, so that those who come in turn are new to it whenever they come. */
const callers = 800;
/** Samples until the server's code has been compiled. */
const warmUpSamples = 6;

/** Servers of mutual TLS in processes of their own, and callers that make full handshakes with them. */
export class HandshakeBench {
  readonly #setup: Omit<HandshakeServerSetup, "crls" | "endsAtIssuing">;
  readonly #contexts: readonly tls.SecureContext[];

  private constructor(setup: Omit<HandshakeServerSetup, "crls" | "endsAtIssuing">, contexts: readonly tls.SecureContext[]) {
    this.#setup = setup;
    this.#contexts = contexts;
  }

  static async prepare(authority: TestAuthority): Promise<HandshakeBench> {
    const pem = async (leaf: Awaited<ReturnType<TestAuthority["issue"]>>) => ({
      chain: leaf.certificate.toPem() + authority.issuing.toPem(),
      privateKey: String(leaf.privateKey.export({ format: "pem", type: "pkcs8" })),
    });
    const contexts: tls.SecureContext[] = [];
    for (let i = 0; i < callers; i++) {
      const { chain, privateKey } = await pem(await authority.issue({ role: "client", name: `caller-${i}` }));
      contexts.push(tls.createSecureContext({ ca: authority.root.toPem(), cert: chain, key: privateKey, minVersion: "TLSv1.3", ecdhCurve: keyExchangeGroups }));
    }
    return new HandshakeBench({ root: authority.root.toPem(), ...(await pem(await authority.issue({ kind: "service", role: "server", name: "bench" }))) }, contexts);
  }

  /** Starts a server that checks callers against these CRLs, or does no more than TLS where there are none. */
  async server(crls: readonly { readonly der: Uint8Array }[], endsAtIssuing = false): Promise<HandshakeServer> {
    const child = fork(fileURLToPath(new URL("handshake-server.ts", import.meta.url)), { serialization: "advanced" });
    child.send({ ...this.#setup, crls: crls.map(({ der }) => der), endsAtIssuing } satisfies HandshakeServerSetup);
    const [{ port }] = (await once(child, "message")) as [{ port: number }];
    const cpu = async (): Promise<number> => {
      child.send("cpu");
      const [answer] = (await once(child, "message")) as [{ cpu: number }];
      return answer.cpu;
    };
    let first = 0;
    const cpuOfHandshake = async (who: "known" | "new"): Promise<number> => {
      if (who === "new") first = (first + callersPerSample) % callers;
      const before = await cpu();
      for (const secureContext of this.#contexts.slice(first, first + callersPerSample)) await greeting(port, secureContext);
      return ((await cpu()) - before) / callersPerSample;
    };
    for (let i = 0; i < warmUpSamples; i++) await cpuOfHandshake("new");
    return { cpuOfHandshake, stop: () => child.disconnect() };
  }
}

export interface HandshakeServer {
  /**
   * Microseconds of the server's CPU that a full handshake took, connection and end included: the mean over callers who come one after another,
   * and whose certificates the server has met lately (once it was asked for a sample of them), or not.
   */
  cpuOfHandshake(who: "known" | "new"): Promise<number>;
  stop(): void;
}

/** A connection, with both certificates and without a session, until the server has greeted. */
async function greeting(port: number, secureContext: tls.SecureContext): Promise<void> {
  const socket = tls.connect({ host: "127.0.0.1", port, servername: "localhost", secureContext, ALPNProtocols: [alpn.http] });
  const [greeted] = (await once(socket, "data")) as [Buffer];
  if (greeted.toString() !== "!") throw new Error("not the server's greeting");
  socket.destroy();
  await once(socket, "close");
}
