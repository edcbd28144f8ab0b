import { randomUUID } from "node:crypto";
import type { IncomingMessage, ServerResponse } from "node:http";
import type { TLSSocket } from "node:tls";
import type { Request } from "express";
import { identityUri } from "#pki/certificate-profile.ts";
import type { Clock } from "#pki/clock.ts";
import { SignetError } from "#pki/errors.ts";
import { createApplication, type Handler, jsonBody, octetsOf, parse, requestIdHeader, requestIdOf, type Routes, sendJson, sendProblem } from "#pki/http-server.ts";
import type { Log } from "#pki/log.ts";
import type { AuthenticatedPeer, Credential, PeerSessions } from "#pki/mtls.ts";
import {
  changeKeyRequest, createKeyRequest, decryptRequest, destroyKeyRequest, encryptRequest, idempotencyKeyPattern, importKeyRequest, type KeyAction,
  keyActions, keyEnvelopeMediaType, keyNamePattern, kmsRoutes, type KmsStatusResponse, materialHeaders, revokeKeyRequest, rotateKeyRequest, type WhoamiResponse,
} from "#pki/protocol-kms.ts";
import { summaryRows, type KmsSummary } from "#pki/protocol-summary.ts";
import type { RevocationStore } from "#pki/revocation.ts";
import type { EventStreams } from "./event-streams.ts";
import { requireEnvelopeRecipient, sealKeyEnvelope } from "./key-envelope.ts";
import type { KeyCall, KeyService } from "./key-service.ts";

export interface KmsHttpParts {
  readonly service: KeyService;
  readonly sessions: Pick<PeerSessions, "peer" | "connected">;
  readonly revocation: Pick<RevocationStore, "waitingFor" | "status">;
  readonly events: EventStreams;
  /** Key and chain of the KMS's server certificate, which signs envelopes; asked each time, so that a renewal takes effect. */
  readonly credential: () => Credential;
  readonly clock: Clock;
  readonly log: Log;
}

/** The HTTP API of the KMS. The caller is the client certificate of the connection, and nothing in the request. */
export function kmsListener(parts: KmsHttpParts): (request: IncomingMessage, response: ServerResponse) => void {
  const application = createApplication({
    log: parts.log,
    routes: routesOf(parts),
    admit: (request) => {
      // Paths are taken as they stand: a name has one spelling, and none of them is encoded.
      if (!/^\/[a-z0-9._:/-]*(?:\?[A-Za-z0-9._=&-]*)?$/.test(request.url)) throw malformed("Paths and queries of this service hold no encoded or other characters.");
      peerOf(parts, request);
      queryOf(request);
    },
  });
  return (request, response) => {
    // Key material goes past the router: it is what a KMS is asked for most, and no layer between may keep, convert or log a body of key octets.
    const path = request.method === "GET" ? materialPath.exec(request.url ?? "") : null;
    if (path === null) {
      application(request, response);
      return;
    }
    const requestId = randomUUID();
    const [, name = "", version = ""] = path;
    const send = asksForEnvelope(request) ? sendEnvelope : sendMaterial;
    void send(parts, request, response, requestId, name, version === "latest" ? version : Number(version)).catch((error: unknown) => {
      response.setHeader("Cache-Control", "no-store").setHeader(requestIdHeader, requestId);
      sendProblem(response, error, requestId, parts.log);
    });
  };
}

async function sendMaterial(parts: KmsHttpParts, request: IncomingMessage, response: ServerResponse, requestId: string, name: string, version: number | "latest"): Promise<void> {
  const call = { peer: peerOf(parts, request), requestId };
  await parts.service.distribute(call, name, version, request.headers["if-none-match"], ({ keyId, version, state, etag, material }) => {
    const headers = { "Cache-Control": "no-store", Vary: "Accept", [requestIdHeader]: call.requestId, ETag: etag, [materialHeaders.keyId]: keyId, [materialHeaders.version]: version, [materialHeaders.state]: state };
    if (material === undefined) {
      response.writeHead(304, headers);
      response.end();
      return;
    }
    // 'close' comes once the octets are with the kernel, or the connection is gone; for one that is gone already it has come.
    if (response.closed || response.destroyed) {
      material.fill(0);
      return;
    }
    response.once("close", () => material.fill(0));
    response.writeHead(200, { ...headers, "Content-Type": "application/octet-stream", "Content-Length": material.length });
    response.end(material);
  });
}

/** The same as an envelope, which is another each time: it has no ETag, and no 304 stands for it. */
async function sendEnvelope(parts: KmsHttpParts, request: IncomingMessage, response: ServerResponse, requestId: string, name: string, version: number | "latest"): Promise<void> {
  const call = { peer: peerOf(parts, request), requestId };
  requireEnvelopeRecipient(call.peer);
  await parts.service.distribute(call, name, version, undefined, ({ keyId, version, state, algorithms, material }) => {
    if (material === undefined) throw new SignetError("internal", "A key without its material.");
    try {
      if (response.closed || response.destroyed) return;
      const { identity } = call.peer;
      const claims = {
        iss: identityUri(identity.trustDomain, "service", "kms"), aud: identity.uri, iat: Math.floor(parts.clock.now().getTime() / 1000), jti: requestId,
        name, version, state, algorithms: [...algorithms], jwk: { kty: "oct" as const, kid: `${keyId}.${version}` },
      };
      const envelope = sealKeyEnvelope(call.peer, parts.credential(), claims, material);
      response.writeHead(200, { "Cache-Control": "no-store", Vary: "Accept", [requestIdHeader]: requestId, "Content-Type": keyEnvelopeMediaType, "Content-Length": envelope.length });
      response.end(envelope);
    } finally {
      material.fill(0);
    }
  });
}

/** Whoever names the media type gets an envelope or a refusal, never the octets in its place. */
function asksForEnvelope({ headers }: IncomingMessage): boolean {
  return (headers.accept ?? "").split(",").some((range) => range.split(";", 1)[0]?.trim().toLowerCase() === keyEnvelopeMediaType);
}

function routesOf(parts: KmsHttpParts): Routes {
  const { service } = parts;
  // What was done is answered with success, even to a caller who was revoked meanwhile: an error would say that nothing happened.
  // Plaintext and key octets are another matter: the service looks at the caller again before it gives them.
  const answer = (work: (call: KeyCall, request: Request) => Promise<object>, madeStatus: 200 | 201 = 200): Handler => async (request, response) => {
    const peer = peerOf(parts, request);
    const body = await work({ peer, requestId: requestIdOf(response), dryRun: queryOf(request).get("dryRun") === "true", idempotencyKey: idempotencyKeyOf(request) }, request);
    if ("etag" in body && typeof body.etag === "string") response.setHeader("ETag", body.etag);
    sendJson(response, "dryRun" in body ? 200 : madeStatus, body);
  };

  const actions: Readonly<Record<KeyAction, (call: KeyCall, name: string, request: Request) => Promise<object>>> = {
    rotate: async (call, name, request) => {
      parse(rotateKeyRequest, optionalJsonBody(request));
      return service.rotate(call, name);
    },
    revoke: async (call, name, request) => service.revoke(call, name, parse(revokeKeyRequest, optionalJsonBody(request)).reason),
    destroy: async (call, name, request) => service.destroy(call, name, parse(destroyKeyRequest, jsonBody(request)).confirm),
    encrypt: async (call, name, request) => {
      const { plaintext, context = {} } = parse(encryptRequest, jsonBody(request));
      const made = await service.encrypt(call, name, Buffer.from(plaintext, "base64"), context);
      return "dryRun" in made ? made : { ciphertext: base64(made.ciphertext), version: made.version };
    },
    decrypt: async (call, name, request) => {
      const { ciphertext, context = {} } = parse(decryptRequest, jsonBody(request));
      const opened = await service.decrypt(call, name, Buffer.from(ciphertext, "base64"), context);
      return "dryRun" in opened ? opened : { plaintext: base64(opened.plaintext), version: opened.version };
    },
  };

  return {
    [kmsRoutes.keys]: {
      GET: answer(async (call, request) => service.list(call, queryOf(request).get("cursor") ?? "", limitOf(request))),
      POST: answer(async (call, request) => {
        const { name, algorithms, distribution } = parse(createKeyRequest, jsonBody(request));
        return service.create(call, { name, algorithms, readers: distribution?.readers });
      }, 201),
    },
    // The colon is escaped, as it would begin a parameter.
    "/v1/keys\\:import": {
      POST: answer(async (call, request) => {
        const { name, algorithms, distribution, material } = parse(importKeyRequest, jsonBody(request));
        return service.create(call, { name, algorithms, readers: distribution?.readers, material: Buffer.from(material, "base64") });
      }, 201),
    },
    "/v1/keys/:target": {
      GET: answer(async (call, request) => service.describe(call, targetOf(request, false).name)),
      PATCH: answer(async (call, request) => {
        const { name } = targetOf(request, false);
        return service.setDistribution(call, name, parse(changeKeyRequest, jsonBody(request)).distribution.readers, request.headers["if-match"]);
      }),
      POST: answer(async (call, request) => {
        const { name, action } = targetOf(request, true);
        return actions[action](call, name, request);
      }),
    },
    "/v1/keys/:target/versions": { GET: answer(async (call, request) => service.versions(call, targetOf(request, false).name, numberCursorOf(request), limitOf(request))) },
    // Its GET has been answered before it comes here, unless the name or the number does not fit, or a query follows.
    "/v1/keys/:target/versions/:version/material": {
      GET: (request) => {
        if (request.method !== "GET") throw new SignetError("method-not-allowed", "Key material has no head of its own: ask by GET.");
        throw malformed("Key material is asked for by the name of the key and a version number or `latest`, and nothing else.");
      },
    },
    [kmsRoutes.events]: {
      GET: (request, response) => {
        if (request.method !== "GET") throw new SignetError("method-not-allowed", "A stream of events has no head of its own: ask by GET.");
        parts.events.begin({ peer: peerOf(parts, request), requestId: requestIdOf(response) }, response);
      },
    },
    [kmsRoutes.whoami]: { GET: answer(async ({ peer }) => whoami(peer)) },
    [kmsRoutes.status]: { GET: answer(async ({ peer }) => status(parts, peer)) },
    [kmsRoutes.summary]: { GET: answer((call) => summary(parts, call)) },
    [kmsRoutes.auditEntries]: { GET: answer(async (call, request) => service.auditEntries(call, numberCursorOf(request), limitOf(request))) },
  };
}

/** The caller of this request, judged now. Where revocation data is what is missing, the refusal says what is waited for. */
function peerOf({ sessions, revocation }: KmsHttpParts, request: IncomingMessage): AuthenticatedPeer {
  try {
    return sessions.peer(request.socket as TLSSocket);
  } catch (error) {
    const waitingFor = revocation.waitingFor();
    if (!(error instanceof SignetError) || error.status !== 503 || waitingFor === undefined) throw error;
    throw new SignetError(error.code, `Nothing is served yet. The service waits for ${waitingFor}.`, { details: { ...error.details, waitingFor }, cause: error });
  }
}

function whoami({ identity, certificate }: AuthenticatedPeer): WhoamiResponse {
  const { issuerKeyId, serialNumber } = certificate.id;
  return {
    uri: identity.uri, kind: identity.kind, name: identity.name, trustDomain: identity.trustDomain,
    certificate: { issuerKeyId, serialNumber, spkiSha256: certificate.spkiFingerprint, notAfter: certificate.notAfter.toISOString() },
  };
}

async function status({ service, revocation }: KmsHttpParts, peer: AuthenticatedPeer): Promise<KmsStatusResponse> {
  const crls = revocation.status().map(({ scope, crlNumber, thisUpdate, nextUpdate, entries }) => ({
    scope, crlNumber: String(crlNumber), thisUpdate: thisUpdate.toISOString(), nextUpdate: nextUpdate.toISOString(), entries,
  }));
  if (peer.identity.kind !== "operator") return { service: "kms", crls };
  return { service: "kms", crls, keys: service.keyCount, denials: [...(await service.denials())] };
}

async function summary({ service, sessions, revocation }: KmsHttpParts, call: KeyCall): Promise<KmsSummary> {
  const now = new Date();
  const crls = revocation.status().map(({ issuer, crlNumber, thisUpdate, nextUpdate, ageMilliseconds, entries }) => ({
    issuer, crlNumber: String(crlNumber), thisUpdate: thisUpdate.toISOString(), nextUpdate: nextUpdate.toISOString(), refreshedAt: new Date(now.getTime() - ageMilliseconds).toISOString(), entries,
  }));
  return { at: now.toISOString(), ...(await service.summary(call)), crls, peers: sessions.connected(summaryRows) };
}

const materialPath = /^\/v1\/keys\/([a-z0-9][a-z0-9._-]{0,62})\/versions\/(latest|[1-9][0-9]{0,8})\/material$/;

/** The last segment of a path: `name`, or `name:action`. @throws SignetError request-malformed | route-not-found | method-not-allowed */
function targetOf(request: Request, withAction: true): { name: string; action: KeyAction };
function targetOf(request: Request, withAction: false): { name: string };
function targetOf(request: Request, withAction: boolean): { name: string; action?: KeyAction } {
  const [name = "", ...rest] = String(request.params["target"]).split(":");
  const action = keyActions.find((known) => known === rest[0]);
  if (rest.length > 1 || (rest.length === 1 && action === undefined)) throw new SignetError("route-not-found", "There is no such action on a key.");
  if (!keyNamePattern.test(name)) throw malformed("The name of a key is 1 to 63 characters of a-z, 0-9, '.', '_' and '-', and begins with a letter or digit.");
  if (withAction !== (action !== undefined)) throw new SignetError("method-not-allowed", "Actions on a key are asked for by POST, and POST asks for nothing else.");
  return action === undefined ? { name } : { name, action };
}

function idempotencyKeyOf(request: Request): string | undefined {
  const value = request.headers["idempotency-key"];
  if (value === undefined) return undefined;
  if (typeof value !== "string" || !idempotencyKeyPattern.test(value)) throw malformed("Idempotency-Key is 1 to 128 visible ASCII characters.");
  return value;
}

function optionalJsonBody(request: Request): unknown {
  return octetsOf(request).length === 0 ? {} : jsonBody(request);
}

function base64(octets: Uint8Array): string {
  return Buffer.from(octets.buffer, octets.byteOffset, octets.byteLength).toString("base64");
}

const queryForms: ReadonlyMap<string, RegExp> = new Map([["dryRun", /^(?:true|false)$/], ["limit", /^[1-9][0-9]{0,2}$/], ["cursor", /^[a-z0-9][a-z0-9._-]{0,62}$/]]);

/** Query parameters: each known, given once, and in its form. */
function queryOf(request: Request): ReadonlyMap<string, string> {
  const query = new Map<string, string>();
  const start = request.url.indexOf("?");
  if (start < 0) return query;
  for (const [name, value] of new URLSearchParams(request.url.slice(start + 1))) {
    if (query.has(name) || queryForms.get(name)?.test(value) !== true) throw malformed("The query parameters are dryRun, limit and cursor, each at most once.");
    query.set(name, value);
  }
  return query;
}

/** At most 200; 50 unless told. */
function limitOf(request: Request): number {
  return Math.min(Number(queryOf(request).get("limit") ?? 50), 200);
}

function numberCursorOf(request: Request): number {
  const cursor = queryOf(request).get("cursor") ?? "0";
  if (!/^[0-9]{1,15}$/.test(cursor)) throw malformed("The cursor is not one that this route gave.");
  return Number(cursor);
}

function malformed(message: string): SignetError {
  return new SignetError("request-malformed", message);
}
