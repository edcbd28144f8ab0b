// A server of mutual TLS as a process of its own, driven by its parent over IPC: first HandshakeServerSetup, answered with {"port"}; then
// "cpu", answered with {"cpu"}. It greets every connection with one byte and ends it.
import { createPrivateKey } from "node:crypto";
import type { AddressInfo } from "node:net";
import tls from "node:tls";
import { Certificate } from "#pki/certificate.ts";
import { systemClock } from "#pki/clock.ts";
import { alpn, endChainsAtOwnAuthorities, mutualServerOptions, PeerSessions } from "#pki/mtls.ts";
import { memoryFloors, RevocationStore } from "#pki/revocation.ts";

export interface HandshakeServerSetup {
  /** PEM. */
  readonly root: string;
  readonly chain: string;
  readonly privateKey: string;
  /**
   * DER of the CRLs to check callers against, the root's first. None makes a baseline: TLS alone, with the same root, credential, groups and signatures.
   */
  readonly crls: readonly Uint8Array[];
  /** Of a baseline: OpenSSL ends a caller's chain at the issuing CA, as Signet's servers let it; otherwise at the root, as node:tls does. */
  readonly endsAtIssuing?: boolean;
}

const maxAgeMilliseconds = 3_600_000;

process.once("message", (setup: HandshakeServerSetup) => {
  const trustAnchors = Certificate.listFromPem(setup.root);
  const credential = { chain: Certificate.listFromPem(setup.chain), privateKey: createPrivateKey(setup.privateKey) };
  const options = mutualServerOptions({ credential, trustAnchors, alpn: alpn.http });
  const checks = setup.crls.length > 0;
  const isOrdinary = !checks && setup.endsAtIssuing !== true;
  const server = tls.createServer(isOrdinary ? { ...options, ca: setup.root } : options);
  if (!isOrdinary) endChainsAtOwnAuthorities(server);
  if (checks) {
    const revocation = new RevocationStore({ trustAnchors, floors: memoryFloors(), clock: systemClock, maxAgeMilliseconds });
    for (const crl of setup.crls) revocation.accept(crl, credential.chain);
    const sessions = new PeerSessions({ trustAnchors, authorities: () => credential.chain.slice(1), revocation, clock: systemClock, purpose: "clientAuth" });
    server.on("secureConnection", (socket) => {
      sessions.admit(socket);
      sessions.peer(socket);
    });
  }
  server.on("secureConnection", (socket) => {
    // The caller leaves with a reset now and then, which is no concern of the measurement.
    socket.on("error", () => socket.destroy());
    socket.end("!");
  });
  server.listen(0, "127.0.0.1", () => process.send?.({ port: (server.address() as AddressInfo).port }));
  process.on("message", () => {
    const { user, system } = process.cpuUsage();
    process.send?.({ cpu: user + system });
  });
});
process.on("disconnect", () => process.exit(0));
