import { createServer, type Server } from "node:http";
import { createServer as createTlsServer } from "node:https";
import type { AddressInfo } from "node:net";
import type { TLSSocket } from "node:tls";
import type { Request, Response } from "express";
import { SignetError } from "#pki/errors.ts";
import { close, createApplication, listen, sendJson } from "#pki/http-server.ts";
import type { Log } from "#pki/log.ts";
import { alpn, mutualServerOptions, PeerSessions } from "#pki/mtls.ts";
import type { DeploymentMode } from "#pki/protocol-ca.ts";
import { contentSecurityPolicy, statusPage } from "./page.ts";
import { StatusCredential } from "./credential.ts";
import type { StatusSource } from "./source.ts";

/** The page is for this machine alone, whatever the services listen on. */
const loopback = "127.0.0.1";

export interface StatusPageOptions {
  readonly source: StatusSource;
  readonly mode: DeploymentMode;
  /** 0 takes a free one. */
  readonly port: number;
  readonly log: Log;
  readonly refreshSeconds?: number;
}

export interface RunningStatusPage {
  readonly url: string;
  close(): Promise<void>;
}

/**
 * Serves the status page on loopback. In development over plain HTTP, to whoever is on this machine; in production over mutual TLS 1.3, to operators alone.
 * @throws SignetError port-taken, and what the CA says where it certifies the page's own server
 */
export async function serveStatusPage(options: StatusPageOptions): Promise<RunningStatusPage> {
  const { source, mode, log, refreshSeconds = 5 } = options;
  let server: Server;
  let admitPeer = (_request: Request): void => {};
  let stop = async (): Promise<void> => {};
  const application = (): ReturnType<typeof createApplication> =>
    createApplication({
      log,
      admit: (request, response) => {
        harden(response);
        requireOwnHost(request, (server.address() as AddressInfo).port);
        requireReading(request);
        admitPeer(request);
      },
      routes: {
        "/": {
          GET: async (_request, response) => {
            const octets = Buffer.from(statusPage({ mode, ...(await source.view()) }, refreshSeconds));
            response.writeHead(200, { "Content-Type": "text/html; charset=utf-8", "Content-Length": octets.length }).end(octets);
          },
        },
        "/status.json": { GET: async (_request, response) => sendJson(response, 200, { mode, ...(await source.view()) }) },
      },
    });
  if (mode === "development") {
    server = createServer(application());
  } else {
    const { operator } = source;
    const credential = await StatusCredential.obtain(source.ca, log);
    const sessions = new PeerSessions({ trustAnchors: operator.trustAnchors, authorities: () => credential.current.chain.slice(1), revocation: operator.revocation, clock: source.clock, purpose: "clientAuth", alpn: alpn.http });
    const tlsOptions = () => mutualServerOptions({ credential: credential.current, trustAnchors: operator.trustAnchors, alpn: alpn.http });
    const tlsServer = createTlsServer(tlsOptions(), application());
    tlsServer.on("secureConnection", (socket: TLSSocket) => sessions.admit(socket));
    credential.onRenewal(() => tlsServer.setSecureContext(tlsOptions()));
    admitPeer = (request) => requireOperator(sessions, request);
    stop = () => credential.stop(source.ca);
    server = tlsServer;
  }
  try {
    const port = await listen(server, options.port, loopback);
    return {
      url: `${mode === "development" ? "http" : "https"}://localhost:${port}`,
      close: async () => {
        await Promise.all([stop(), close(server)]);
      },
    };
  } catch (error) {
    await stop();
    throw error;
  }
}

function harden(response: Response): void {
  response.setHeader("Content-Security-Policy", contentSecurityPolicy);
  response.setHeader("X-Content-Type-Options", "nosniff");
  response.setHeader("X-Frame-Options", "DENY");
  response.setHeader("Referrer-Policy", "no-referrer");
  response.setHeader("Cross-Origin-Opener-Policy", "same-origin");
  response.setHeader("Cross-Origin-Resource-Policy", "same-origin");
  // No Strict-Transport-Security: it would hold for every other server on localhost as well.
}

/** A site that has its own name resolve to loopback asks under that name (DNS rebinding): nobody is answered but under the names of this machine. */
function requireOwnHost(request: Request, port: number): void {
  if (!["localhost", loopback, "[::1]"].some((name) => request.headers.host === `${name}:${port}`)) throw new SignetError("not-permitted", `This page answers under localhost:${port} alone.`);
}

function requireReading(request: Request): void {
  if (request.method !== "GET" && request.method !== "HEAD") throw new SignetError("method-not-allowed", "This page is read-only: it answers to GET and HEAD.");
}

function requireOperator(sessions: PeerSessions, request: Request): void {
  const { identity } = sessions.peer(request.socket as TLSSocket);
  if (identity.kind !== "operator") throw new SignetError("not-permitted", `This page is for operators, and ${identity.uri} is none.`);
}
