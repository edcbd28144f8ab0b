/**
 * Victims of the Signet arms that live in the laboratory: Signet's own transport, path validation and revocation (pki/),
 * exactly as the CA, the KMS and the agents use them, with the laboratory's root as trust anchor.
 */
import { createPrivateKey } from "node:crypto";
import https from "node:https";
import type { TLSSocket } from "node:tls";
import { Certificate } from "#pki/certificate.ts";
import { type Clock, systemClock } from "#pki/clock.ts";
import { SignetError, toProblem } from "#pki/errors.ts";
import { alpn, connectMutually, type Credential, mutualServerOptions, PeerSessions } from "#pki/mtls.ts";
import { pemDecodeAll } from "#pki/pem.ts";
import { memoryFloors, RevocationStore } from "#pki/revocation.ts";
import type { Laboratory, PemCredential, VictimStage } from "./attack.ts";
import { errorCodeOf, listenOnLoopback } from "./observe.ts";

const fifteenMinutes = 15 * 60_000;

export const credentialOf = (pem: PemCredential): Credential => ({
  privateKey: createPrivateKey(pem.key),
  chain: Certificate.listFromPem(pem.chain),
});

export const crlDerOf = (pem: string): Uint8Array => pemDecodeAll(pem)[0]?.der ?? new Uint8Array();

export interface Guard {
  readonly trustAnchors: readonly Certificate[];
  readonly issuers: readonly Certificate[];
  readonly revocation: RevocationStore;
  readonly clock: Clock;
  /** Hands a CRL to Signet, as its refresher would. @throws SignetError crl-... */
  accept(crlPem: string): void;
}

/** What a party of the laboratory holds: the trust anchor and the CRLs that are in force. */
export function guard(laboratory: Laboratory, crls: readonly string[], clock: Clock = systemClock): Guard {
  const trustAnchors = [Certificate.fromPem(laboratory.root.certificate)];
  const issuers = [...trustAnchors, Certificate.fromPem(laboratory.issuing.certificate)];
  const revocation = new RevocationStore({ trustAnchors, floors: memoryFloors(), clock, maxAgeMilliseconds: fifteenMinutes });
  const accept = (crlPem: string): void => void revocation.accept(crlDerOf(crlPem), issuers);
  for (const crl of [laboratory.rootCrl, ...crls]) accept(crl);
  return { trustAnchors, issuers, revocation, clock, accept };
}

/**
 * A key server on Signet's server side: it hands the canary to Alice and to nobody else, after Signet has named the caller.
 * What Signet refuses is the arm's refusal.
 */
export async function guardedKeyServer(stage: VictimStage, held: Guard): Promise<PeerSessions> {
  const { trustAnchors, revocation, clock } = held;
  const { laboratory } = stage.world;
  const sessions = new PeerSessions({ trustAnchors, revocation, clock, purpose: "clientAuth" });
  const options = mutualServerOptions({ credential: credentialOf(laboratory.kms), trustAnchors, alpn: alpn.http });
  const server = https.createServer(options, (incoming, outgoing) => {
    try {
      const peer = sessions.peer(incoming.socket as TLSSocket);
      const permitted = peer.identity.name === "alice" || peer.identity.name === "bob";
      if (!permitted) throw new SignetError("not-permitted", "Only Alice and Bob may have this key.");
      outgoing.end(stage.secret);
    } catch (error) {
      stage.refused(errorCodeOf(error), error instanceof Error ? error.message : "");
      const problem = toProblem(error, "laboratory");
      outgoing.writeHead(problem.status, { "content-type": "application/problem+json" });
      outgoing.end(JSON.stringify(problem));
    }
  });
  server.on("secureConnection", (socket: TLSSocket) => sessions.admit(socket));
  server.on("tlsClientError", (error, socket) => {
    const reason = "authorizationError" in socket ? String(socket.authorizationError ?? error.message) : error.message;
    stage.refused("tls-refused", reason);
    socket.destroy();
  });
  stage.onEnd(() => server.closeAllConnections());
  stage.tell("port", await listenOnLoopback(server));
  return sessions;
}

/** A client on Signet's client side, which stores a key, the canary, at the laboratory's KMS, or at whoever poses as it. */
export async function guardedKeyClient(stage: VictimStage, held: Guard): Promise<void> {
  const { trustAnchors, revocation, clock } = held;
  const { laboratory } = stage.world;
  const port = Number(await stage.hear("port"));
  try {
    const socket = await connectMutually({
      host: "127.0.0.1",
      servername: "localhost",
      port,
      credential: credentialOf(laboratory.alice),
      trustAnchors,
      revocation,
      clock,
      alpn: alpn.http,
      expect: { uri: `spiffe://${laboratory.trustDomain}/service/kms` },
    });
    stage.onEnd(() => socket.destroy());
    socket.write(`POST /keys HTTP/1.1\r\nHost: localhost\r\nContent-Length: ${stage.secret.length}\r\n\r\n${stage.secret}`);
    const [answer] = (await new Promise<Buffer[]>((resolve) => socket.once("data", (part: Buffer) => resolve([part])))).map(String);
    stage.accepted(answer?.split("\r\n\r\n")[1] ?? "");
  } catch (error) {
    stage.refused(errorCodeOf(error), error instanceof Error ? error.message : "");
  }
}
