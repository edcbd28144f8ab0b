/** The naive arms' honest parties: a small key server and a client that trusts it, with exactly the mistake that an attack needs. */
import https from "node:https";
import type { IncomingMessage } from "node:http";
import type { TLSSocket } from "node:tls";
import type { MalloryStage, PemCredential, VictimStage } from "./attack.ts";
import { type Answer, listenOnLoopback, request, type RequestOptions } from "./observe.ts";

export type Authorise = (socket: TLSSocket, request: IncomingMessage) => boolean;

/** A key server that hands the canary to whom `authorise` lets through. Its port is told to Mallory; it stays to the end. */
export async function naiveKeyServer(stage: VictimStage, options: https.ServerOptions, authorise: Authorise): Promise<https.Server> {
  const { kms } = stage.world.laboratory;
  const server = https.createServer({ key: kms.key, cert: kms.chain, ...options }, (incoming, outgoing) => {
    const permitted = authorise(incoming.socket as TLSSocket, incoming);
    outgoing.writeHead(permitted ? 200 : 403, { "content-type": "text/plain" });
    outgoing.end(permitted ? stage.secret : "no");
  });
  server.on("tlsClientError", () => {});
  server.on("clientError", (_error, socket) => socket.destroy());
  stage.onEnd(() => server.closeAllConnections());
  stage.tell("port", await listenOnLoopback(server));
  return server;
}

/** A client that stores a key, the canary, at what it takes for the KMS. It accepts the answer as the KMS's. */
export async function naiveKeyClient(
  stage: VictimStage,
  options: Pick<RequestOptions, "ca" | "rejectUnauthorized" | "ciphers" | "minVersion" | "maxVersion">,
  check: (socket: TLSSocket) => void | Promise<void> = () => {},
): Promise<void> {
  const port = Number(await stage.hear("port"));
  const { alice } = stage.world.laboratory;
  const answer = await new Promise<Answer>((resolve, reject) => {
    const agent = new https.Agent({ ...options, cert: alice.chain, key: alice.key });
    // The check is the naive client's own, made before the request's body is written.
    const outgoing = https.request(`https://localhost:${port}/keys`, { method: "POST", agent }, (incoming) => {
      const parts: Buffer[] = [];
      incoming.on("data", (part: Buffer) => parts.push(part));
      incoming.on("end", () => {
        const body = Buffer.concat(parts);
        resolve({ status: incoming.statusCode ?? 0, body, text: body.toString() });
      });
    });
    outgoing.on("error", reject);
    outgoing.on("socket", (socket) => {
      socket.once("secureConnect", () => {
        Promise.resolve(socket as TLSSocket)
          .then(check)
          .then(
            () => outgoing.end(stage.secret),
            (error: unknown) => outgoing.destroy(error instanceof Error ? error : new Error(String(error))),
          );
      });
    });
  });
  stage.accepted(answer.text);
}

/** Mallory's own server: logs every request that it is sent and answers with her forgery. Tells the victim its port. */
export async function malloryServer(stage: MalloryStage, credential: PemCredential, options: https.ServerOptions = {}): Promise<number> {
  const server = https.createServer({ key: credential.key, cert: credential.chain, requestCert: true, rejectUnauthorized: false, ...options }, (incoming, outgoing) => {
    const parts: Buffer[] = [];
    incoming.on("data", (part: Buffer) => parts.push(part));
    incoming.on("end", () => {
      stage.log(`${incoming.method} ${incoming.url}`, JSON.stringify(incoming.headers), Buffer.concat(parts).toString("latin1"));
      outgoing.end(stage.forgery);
    });
  });
  // How a victim leaves the handshake is no evidence; only what it sends is.
  server.on("tlsClientError", () => {});
  stage.onEnd(() => server.closeAllConnections());
  const port = await listenOnLoopback(server);
  stage.tell("port", port);
  return port;
}

/** Mallory as a client of a key server: logs what she is answered. */
export async function malloryFetch(stage: MalloryStage, port: number, options: RequestOptions, path = "/keys/canary"): Promise<Answer | undefined> {
  try {
    const answer = await request(`https://localhost:${port}${path}`, { rejectUnauthorized: false, agent: false, ...options });
    stage.log(`${answer.status}`, answer.text);
    return answer;
  } catch (error) {
    stage.log(`no answer: ${error instanceof Error ? error.message : String(error)}`);
    return undefined;
  }
}
