import type { KeyObject } from "node:crypto";
import { once } from "node:events";
import type { AddressInfo } from "node:net";
import path from "node:path";
import { connect, createServer, type TLSSocket } from "node:tls";
import { testAuthority } from "#test/support/pki.ts";
import type { IdentityKind } from "#pki/certificate-profile.ts";
import { KeyService, type KeyCall } from "#kms-server/key-service.ts";
import { systemClock } from "#pki/clock.ts";
import type { SecretKey } from "#pki/keys.ts";
import { alpn, type AuthenticatedPeer, mutualServerOptions, PeerSessions } from "#pki/mtls.ts";
import { memoryFloors, RevocationStore } from "#pki/revocation.ts";
import { AuditLog } from "#store/audit-log.ts";
import { openSqlite } from "#store/sqlite.ts";

export const trustDomain = "test.signet.internal";

let world: ReturnType<typeof startWorld> | undefined;
const peers = new Map<string, Promise<AuthenticatedPeer>>();
let lastHandshake: Promise<unknown> = Promise.resolve();

/** A caller as the key service knows one: there is no other way to an AuthenticatedPeer than a certificate shown in a handshake. */
export function testPeer(kind: IdentityKind, name: string): Promise<AuthenticatedPeer> {
  const known = peers.get(`${kind}/${name}`);
  if (known !== undefined) return known;
  // One handshake after another, so that each finds its own socket at the server.
  const peer = lastHandshake.then(() => shake(kind, name));
  lastHandshake = peer;
  peers.set(`${kind}/${name}`, peer);
  return peer;
}

async function shake(kind: IdentityKind, name: string): Promise<AuthenticatedPeer> {
  const { authority, sessions, server, port } = await (world ??= startWorld());
  const leaf = await authority.issue({ kind, role: "client", name });
  const accepted = once(server, "secureConnection") as Promise<[TLSSocket]>;
  const socket = connect({ host: "127.0.0.1", port, servername: "localhost", ca: authority.root.toPem(), ALPNProtocols: ["http/1.1"], key: pem(leaf.privateKey), cert: leaf.certificate.toPem() + authority.issuing.toPem() });
  try {
    const [served] = await accepted;
    sessions.admit(served);
    return sessions.peer(served);
  } finally {
    socket.destroy();
  }
}

async function startWorld() {
  const authority = await testAuthority({ now: new Date(), trustDomain });
  const trustAnchors = [authority.root];
  const revocation = new RevocationStore({ trustAnchors, floors: memoryFloors(), clock: systemClock, maxAgeMilliseconds: 300_000 });
  for (const crl of [authority.rootCrl([]), authority.leafCrl([])]) revocation.accept(crl.der, [authority.issuing]);
  const sessions = new PeerSessions({ trustAnchors, revocation, clock: systemClock, purpose: "clientAuth" });
  const own = await authority.issue({ kind: "service", role: "server", name: "kms" });
  const server = createServer(mutualServerOptions({ credential: { privateKey: own.privateKey, chain: [own.certificate, authority.issuing] }, trustAnchors, alpn: alpn.http }));
  server.listen(0, "127.0.0.1").unref();
  await once(server, "listening");
  return { authority, sessions, server, port: (server.address() as AddressInfo).port };
}

const pem = (key: KeyObject) => key.export({ type: "pkcs8", format: "pem" });

/** A key service over a database file of its own, without the network around it. */
export async function openKeyService(directory: string, unsealKey: SecretKey, recheck: (peer: AuthenticatedPeer) => void = () => {}) {
  const file = path.join(directory, "kms.sqlite");
  const engine = openSqlite(file);
  try {
    await engine.migrate(new URL("../../kms-server/migrations/", import.meta.url));
    const auditLog = await AuditLog.open(engine, systemClock);
    const service = await KeyService.open({ engine, auditLog, unsealKey, recheck, clock: systemClock, trustDomain });
    return { service, engine, auditLog, file, close: () => engine.close() };
  } catch (error) {
    await engine.close();
    throw error;
  }
}

let requests = 0;
export function callBy(peer: AuthenticatedPeer, options: Omit<KeyCall, "peer" | "requestId"> = {}): KeyCall {
  return { peer, requestId: `test-${++requests}`, ...options };
}

/** The material of a key, as `release` received it; undefined where nothing was released but the etag. */
export async function materialOf(service: KeyService, peer: AuthenticatedPeer, name: string, version: number | "latest" = "latest", ifNoneMatch?: string) {
  const released: { state: string; version: number; etag: string; material: string | undefined }[] = [];
  await service.distribute(callBy(peer), name, version, ifNoneMatch, ({ material, ...rest }) => {
    released.push({ ...rest, material: material === undefined ? undefined : Buffer.from(material).toString("hex") });
  });
  const [only] = released;
  if (only === undefined || released.length !== 1) throw new Error(`released ${released.length} times`);
  return only;
}
