import { once } from "node:events";
import type { AddressInfo } from "node:net";
import tls, { type TLSSocket } from "node:tls";
import { beforeAll, expect, onTestFinished, test } from "vitest";
import type { Certificate } from "#pki/certificate.ts";
import { type Clock, systemClock } from "#pki/clock.ts";
import { SignetError } from "#pki/errors.ts";
import { alpn, type Credential, credentialOptions, endChainsAtOwnAuthorities, mutualServerOptions, PeerSessions } from "#pki/mtls.ts";
import { validatePath } from "#pki/path-validation.ts";
import { certificatesMet, presentedChain, presentedEndEntity } from "#pki/presented-certificates.ts";
import { memoryFloors, RevocationStore } from "#pki/revocation.ts";
import { commonName, extensions, forge, forgeCa, forgeLeaf, keyIdentifier, testAuthority, testKeyPair, testTime, type TestAuthority } from "../support/pki.ts";

const hour = 3_600_000;
const limit = 512;

let authority: TestAuthority;
let service: Credential;
let alice: Credential;

beforeAll(async () => {
  authority = await testAuthority({ now: new Date() });
  const chained = ({ certificate, privateKey }: Awaited<ReturnType<TestAuthority["issue"]>>): Credential => ({ privateKey, chain: [certificate, authority.issuing] });
  service = chained(await authority.issue({ kind: "service", role: "server", name: "kms" }));
  alice = chained(await authority.issue({ role: "client", name: "alice" }));
});

/** A chain as Node shows it. */
function shown([certificate, ...rest]: readonly Certificate[]): NonNullable<Parameters<typeof presentedChain>[0]> {
  return { raw: Buffer.from(certificate?.der ?? []), issuerCertificate: rest.length === 0 ? undefined : shown(rest) };
}
const read = (...chain: readonly Certificate[]): Certificate[] => presentedChain(shown(chain));

/** A server that ends each connection with the name of its caller, or the code of the refusal; `move` moves the clock that callers are judged by. */
async function serve(i: { trustAnchors?: readonly Certificate[]; options?: tls.TlsOptions; partial?: boolean; authorities?: readonly Certificate[]; onSocket?: (socket: TLSSocket) => void } = {}) {
  let moved = 0;
  const clock: Clock = { now: () => new Date(Date.now() + moved), monotonicMilliseconds: () => systemClock.monotonicMilliseconds() };
  const revocation = new RevocationStore({ trustAnchors: [authority.root], floors: memoryFloors(), clock, maxAgeMilliseconds: hour });
  revocation.accept(authority.rootCrl([]).der, []);
  revocation.accept(authority.leafCrl([]).der, [authority.issuing]);
  const authorities = () => i.authorities ?? [authority.issuing];
  const sessions = new PeerSessions({ trustAnchors: i.trustAnchors ?? [authority.root], authorities, revocation, clock, purpose: "clientAuth" });
  const server = tls.createServer({ ...mutualServerOptions({ credential: service, trustAnchors: [authority.root], alpn: alpn.http }), ...i.options });
  if (i.partial !== false) endChainsAtOwnAuthorities(server);
  server.on("secureConnection", (socket) => {
    i.onSocket?.(socket);
    socket.on("error", () => {});
    sessions.admit(socket);
    try {
      socket.end(sessions.peer(socket).identity.name);
    } catch (error) {
      socket.end(error instanceof SignetError ? error.code : "?");
    }
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  onTestFinished(() => void server.close());
  /** What the server says to a caller with this credential; empty where TLS let nobody through. */
  const call = async (credential: Credential = alice): Promise<string> => {
    const socket = tls.connect({ host: "127.0.0.1", port: (server.address() as AddressInfo).port, servername: "localhost", ca: authority.root.toPem(), ALPNProtocols: [alpn.http], ...credentialOptions(credential) });
    let said = "";
    socket.on("data", (octets: Buffer) => (said += octets.toString()));
    socket.on("error", () => {});
    await new Promise((resolve) => void socket.once("close", resolve));
    return said;
  };
  return { call, revocation, move: (milliseconds: number) => void (moved = milliseconds) };
}

test("the certificate out of the TLS session is the one that Node shows, octet for octet, of every kind of key", async () => {
  const compared: boolean[] = [];
  const { call } = await serve({
    onSocket: (socket) => {
      const shownByNode = socket.getPeerX509Certificate()?.raw;
      compared.push(shownByNode !== undefined && Buffer.from(presentedEndEntity(socket)?.der ?? []).equals(shownByNode));
    },
  });
  for (const type of ["ec-p256", "rsa-2048", "ed25519", "ml-dsa-65"] as const) {
    const { certificate, privateKey } = await authority.issue({ role: "client", name: type, keys: testKeyPair(type) });
    expect(await call({ privateKey, chain: [certificate, authority.issuing] })).toBe(type);
  }
  expect(compared).toEqual([true, true, true, true]);
});

test("a session that is not there, or not in the form that is known, names nobody", () => {
  const from = (session: Buffer | undefined) => presentedEndEntity({ getSession: () => session } as TLSSocket);
  expect(from(undefined)).toBeUndefined();
  const session = Buffer.from("30060201010201ff", "hex");
  expect(from(session)).toBeUndefined();
  expect(session.every((octet) => octet === 0)).toBe(true);
  expect(from(Buffer.from("0400", "hex"))).toBeUndefined();
  expect(from(Buffer.from("3004a3020500", "hex"))).toBeUndefined();
});

test("a flood of callers fills the memory up to its bound, the oldest first out, and drives out no issuer", () => {
  const ca = forgeCa("Flooded CA");
  const keys = testKeyPair();
  const leaves = Array.from({ length: limit + 1 }, (_, n) => forgeLeaf(`caller-${n}`, ca, { keys }));
  const [first] = read(leaves[0] as Certificate, ca.certificate);
  const [, issuer] = read(leaves[0] as Certificate, ca.certificate);
  expect(read(leaves[0] as Certificate)[0]).toBe(first);
  let last: Certificate | undefined;
  for (const leaf of leaves) [last] = read(leaf, ca.certificate);
  expect(certificatesMet().endEntities).toBe(limit);
  expect(read(leaves.at(-1) as Certificate)[0]).toBe(last);
  expect(read(leaves.at(-1) as Certificate, ca.certificate)[1]).toBe(issuer);
  const [again] = read(leaves[0] as Certificate);
  expect(again).not.toBe(first);
  expect(again?.equals(first as Certificate)).toBe(true);
  // Issuers have a bound of their own.
  for (const leaf of leaves) read(last as Certificate, leaf);
  expect(certificatesMet().issuers).toBe(limit);
});

test("a certificate over 8,192 octets is read each time", () => {
  const ca = forgeCa("Long CA");
  const long = forge({ subject: commonName("x".repeat(9000)), issuer: ca.name, publicKey: ca.publicKey }, ca.privateKey);
  expect(read(long)[0]).not.toBe(read(long)[0]);
});

test("a certificate that is known is refused when it is revoked, has expired, or is not valid yet", async () => {
  const { call, revocation, move } = await serve();
  expect([await call(), await call()]).toEqual(["alice", "alice"]);
  move(25 * hour);
  expect(await call()).toBe("certificate-expired");
  move(-1.5 * hour);
  expect(await call()).toBe("certificate-not-yet-valid");
  move(0);
  expect(await call()).toBe("alice");
  const revocationDate = new Date(Date.now() - hour);
  revocation.accept(authority.leafCrl([{ serialNumber: alice.chain[0]?.serialNumber ?? "", revocationDate }], { crlNumber: 2n, thisUpdate: new Date(Date.now() - hour / 2) }).der, [authority.issuing]);
  expect(await call()).toBe("certificate-revoked");
});

test("what is known under one issuer and anchor is judged anew under another", () => {
  const at = testTime.now;
  const root = forgeCa("Anchor");
  const issuing = forgeCa("Issuing", root);
  const impostor = forgeCa("Issuing", root);
  const [leaf, known] = read(forgeLeaf("caller", issuing), issuing.certificate);
  const judge = (intermediate: Certificate | undefined, anchor: Certificate) =>
    validatePath({ endEntity: leaf as Certificate, intermediates: [intermediate as Certificate], trustAnchors: [anchor], purpose: "clientAuth", at });
  expect(judge(known, root.certificate).chain).toHaveLength(3);
  expect(() => judge(impostor.certificate, root.certificate)).toThrow(expect.objectContaining({ code: "signature-invalid" }));
  expect(() => judge(known, forgeCa("Stranger").certificate)).toThrow(expect.objectContaining({ code: "path-not-found" }));
  // Same name, another key.
  expect(() => judge(known, forgeCa("Anchor").certificate)).toThrow(expect.objectContaining({ code: "signature-invalid" }));
  expect(judge(known, root.certificate).chain).toHaveLength(3);
});

test("OpenSSL is given the anchors, and of the server's own chain what an anchor has signed", () => {
  const given = (...chain: readonly Certificate[]) => mutualServerOptions({ credential: { ...service, chain: [service.chain[0] as Certificate, ...chain] }, trustAnchors: [authority.root], alpn: alpn.http }).ca;
  const keys = testKeyPair();
  const unsigned = forgeCa("Stray", undefined, { keys, content: { issuer: authority.root.subject } });
  expect(given(authority.issuing)).toEqual([authority.root.toPem(), authority.issuing.toPem()]);
  expect(given(unsigned.certificate)).toEqual([authority.root.toPem()]);
});

test("OpenSSL ends a caller's chain at the server's own CA where it is told to, and nowhere else", async () => {
  const options = { ca: authority.issuing.toPem() };
  expect(await (await serve({ options })).call()).toBe("alice");
  expect(await (await serve({ options, partial: false })).call()).toBe("");
});

test("whom OpenSSL lets through is judged up to the anchor by Signet's own validation", async () => {
  const foreign = await testAuthority({ now: new Date() });
  const { call } = await serve({ trustAnchors: [foreign.root] });
  expect(await call()).toBe("signature-invalid");
  const stranger = await foreign.issue({ role: "client", name: "alice" });
  expect(await call({ privateKey: stranger.privateKey, chain: [stranger.certificate, foreign.issuing] })).toBe("");
});

test("the verdict on a caller who shows no CA is the same whoever called before", async () => {
  const bare = { ...alice, chain: alice.chain.slice(0, 1) };
  const own = await serve();
  expect([await own.call(bare), await own.call(), await own.call(bare)]).toEqual(["alice", "alice", "alice"]);
  const foreign = await serve({ authorities: [] });
  expect([await foreign.call(bare), await foreign.call(), await foreign.call(bare)]).toEqual(["path-not-found", "alice", "path-not-found"]);
});

test("a caller who shows a CA's new certificate is served though the one that is known has been revoked", async () => {
  const { call, revocation } = await serve();
  const { issuing, root } = authority;
  const renewed = forge(
    {
      subject: issuing.subject,
      issuer: root.subject,
      publicKey: authority.issuingKeys.publicKey,
      notBefore: new Date(Date.now() - hour),
      notAfter: new Date(Date.now() + hour),
      extensions: [
        extensions.basicConstraints(true),
        extensions.keyUsage("keyCertSign", "cRLSign"),
        extensions.subjectKeyIdentifier(issuing.extensions.subjectKeyIdentifier ?? keyIdentifier(authority.issuingKeys.publicKey)),
        extensions.authorityKeyIdentifier(root.extensions.subjectKeyIdentifier ?? ""),
      ],
    },
    authority.rootKeys.privateKey,
  );
  expect(await call()).toBe("alice");
  revocation.accept(authority.rootCrl([{ serialNumber: issuing.serialNumber, revocationDate: new Date(Date.now() - hour) }], { crlNumber: 2n, thisUpdate: new Date(Date.now() - hour / 2) }).der, []);
  expect(await call()).toBe("certificate-revoked");
  expect(await call({ ...alice, chain: [alice.chain[0] as Certificate, renewed] })).toBe("alice");
});
