import "reflect-metadata";
import { X509Crl } from "@peculiar/x509";
import { createHash, type KeyObject, randomFillSync, sign, verify } from "node:crypto";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { Certificate } from "#pki/certificate.ts";
import { systemClock } from "#pki/clock.ts";
import { buildCrl, CertificateRevocationList, PackedRevocations } from "#pki/crl.ts";
import { signerFromKey } from "#pki/keys.ts";
import { validatePath } from "#pki/path-validation.ts";
import { memoryFloors, RevocationStore } from "#pki/revocation.ts";
import { testAuthority, type TestAuthority } from "#test/support/pki.ts";
import { HandshakeBench, type HandshakeServer } from "./handshakes.ts";
import type { BenchArea } from "./main.ts";
import { atLeast, atMost, compare, type Goal } from "./measurement.ts";

const pathsPerSample = 1000;
const manyEntries = 1_000_000;
const someEntries = 100_000;
/** A service validates its first paths cold, and all others warm: until then the compiler's own time counts as that of the path. */
const pathWarmUpRounds = 8;
const fewEntries = 1000;
const serialOctets = 16;
const handshakeRounds = 15;

/** Paths, CRLs and handshakes against the bare cryptography that they cannot do without, by CPU time. */
export const benchPki: BenchArea = async (report, rounds) => {
  const authority = await testAuthority({ now: new Date() });
  for (const rows of await paths(authority, rounds)) report(rows);
  for (const rows of await crls(authority, rounds)) report(rows);
  report(await againstPeculiar(authority));
  for (const rows of await handshakes(authority, rounds)) report(rows);
};

/** Paths of root, issuing CA and leaf (P-256), the leaf parsed, all validated and checked for revocation, against the signature verifications alone. */
async function paths(authority: TestAuthority, rounds?: number) {
  const { root, issuing } = authority;
  const leaf = (await authority.issue({ role: "client", name: "bench" })).certificate;
  const revocation = new RevocationStore({ trustAnchors: [root], floors: memoryFloors(), clock: systemClock, maxAgeMilliseconds: 3_600_000 });
  revocation.accept(authority.rootCrl([]).der, [root]);
  revocation.accept(authority.leafCrl([]).der, [issuing]);
  const keys = { leaf: issuing.publicKey, issuing: root.publicKey };
  const check = (issuer: Certificate): void => {
    revocation.check(validatePath({ endEntity: Certificate.parse(leaf.der), intermediates: [issuer], trustAnchors: [root], purpose: "clientAuth", at: new Date() }));
  };
  const verifyBare = (certificate: Certificate, key: KeyObject): void => {
    if (!verify("sha256", certificate.tbs, key, certificate.signature)) throw new Error("the baseline does not verify");
  };
  return [
    await compare(
      {
        area: "pki",
        rows: [{ metric: "microseconds", name: "path of three P-256 certificates: parse, validate, check revocation, against its two signature verifications", unit: "us", goal: atMost(2) }],
        warmUpRounds: pathWarmUpRounds,
        project: async () => ({ microseconds: each(pathsPerSample, () => check(Certificate.parse(issuing.der))) }),
        baseline: async () => ({
          microseconds: each(pathsPerSample, () => {
            verifyBare(leaf, keys.leaf);
            verifyBare(issuing, keys.issuing);
          }),
        }),
      },
      rounds,
    ),
    await compare(
      {
        area: "pki",
        rows: [{ metric: "microseconds", name: "the same where the issuing CA has been met before, against one signature verification", unit: "us", goal: atMost(1.25) }],
        warmUpRounds: pathWarmUpRounds,
        project: async () => ({ microseconds: each(pathsPerSample, () => check(issuing)) }),
        baseline: async () => ({ microseconds: each(pathsPerSample, () => verifyBare(leaf, keys.leaf)) }),
      },
      rounds,
    ),
  ];
}

/** Full handshakes with both certificates: what the server's own validation and revocation check add to TLS. */
async function handshakes(authority: TestAuthority, rounds?: number) {
  const bench = await HandshakeBench.prepare(authority);
  const crlsOf = async (entries: number) => [authority.rootCrl([]), { der: await signedCrl(authority, randomRevocations(entries)) }];
  const [bare, few, many, shortened] = [
    await bench.server([]),
    await bench.server(await crlsOf(fewEntries)),
    await bench.server(await crlsOf(manyEntries)),
    await bench.server([], true),
  ];
  const callers = { known: "callers met before", new: "callers not met before" } as const;
  const row = async (who: keyof typeof callers, baseline: HandshakeServer, against: string, goal?: Goal) =>
    compare(
      {
        area: "pki",
        rows: [
          {
            metric: "microseconds",
            name: `mTLS handshake, validated and checked against ${manyEntries.toLocaleString("en")} entries, ${callers[who]}: server CPU, against ${against}`,
            unit: "us",
            ...(goal === undefined ? {} : { goal }),
          },
        ],
        rounds: handshakeRounds,
        project: async () => ({ microseconds: await many.cpuOfHandshake(who) }),
        baseline: async () => ({ microseconds: await baseline.cpuOfHandshake(who) }),
      },
      rounds,
    );
  try {
    const measured = [];
    for (const who of ["known", "new"] as const) {
      measured.push(await row(who, bare, "the bare handshake", atMost(1.15)));
      // No more than with few entries: what is over 1 is the noise of two equal servers.
      measured.push(await row(who, few, `${fewEntries.toLocaleString("en")} entries`, atMost(1.05)));
    }
    // What Signet's own checks cost by themselves, what it saves OpenSSL left out of the account. The requirement speaks of the whole.
    measured.push(await row("new", shortened, "a bare one that ends at the issuing CA too"));
    return measured;
  } finally {
    for (const server of [bare, few, many, shortened]) server.stop();
  }
}

/** A CRL of a million entries: built and signed, parsed, looked into, and the memory that it takes. */
async function crls(authority: TestAuthority, rounds = 5) {
  const revoked = randomRevocations(manyEntries);
  const der = await signedCrl(authority, revoked);
  const { tbs } = CertificateRevocationList.parse(der);
  const serials = serialsOf(revoked, 4096);
  const octets = serials.map((serial) => Buffer.from(serial, "hex"));
  const none = Buffer.alloc(0);
  const indexed = CertificateRevocationList.parse(der);
  indexed.find(serials[0] ?? "");
  const entries = manyEntries.toLocaleString("en");
  return [
    await compare(
      {
        area: "pki",
        rows: [{ metric: "milliseconds", name: `CRL of ${entries} entries: build and sign, against hash and signature of the same octets`, unit: "ms", goal: atMost(5) }],
        project: async () => ({ milliseconds: await once(async () => void (await signedCrl(authority, revoked))) }),
        baseline: async () => ({ milliseconds: await once(async () => void sign("sha256", tbs, authority.issuingKeys.privateKey)) }),
      },
      rounds,
    ),
    await compare(
      {
        area: "pki",
        rows: [{ metric: "milliseconds", name: `CRL of ${entries} entries: verify, parse and index, against the hash`, unit: "ms", goal: atMost(6) }],
        project: async () => ({
          milliseconds: await once(async () => {
            const crl = CertificateRevocationList.parse(der);
            crl.verifySignature(authority.issuing);
            crl.find(serials[0] ?? "");
          }),
        }),
        baseline: async () => ({ milliseconds: await once(async () => void createHash("sha256").update(tbs).digest()) }),
      },
      rounds,
    ),
    await compare(
      {
        area: "pki",
        rows: [{ metric: "rate", name: `CRL of ${entries} entries: look-ups, half of them found`, unit: "look-ups/s", goal: atLeast(10_000_000, "value") }],
        project: async () => ({
          rate:
            1e6 /
            each(500_000, (n) => {
              if (indexed.has(octets[n % octets.length] ?? none) !== (n % 2 === 0)) throw new Error("a wrong answer");
            }),
        }),
      },
      rounds,
    ),
    await compare(
      {
        area: "pki",
        rows: [{ metric: "octets", name: `CRL of ${entries} entries: memory for an entry, index included`, unit: "octets", goal: atMost(45, "value") }],
        project: async () => ({ octets: memoryOfCrl(der, serials[0] ?? "") / manyEntries }),
      },
      rounds,
    ),
  ];
}

/** Parsing 100,000 entries and finding one, against the library that builds our certificates. */
async function againstPeculiar(authority: TestAuthority) {
  const revoked = randomRevocations(someEntries);
  const der = await signedCrl(authority, revoked);
  const [serial = ""] = serialsOf(revoked, 1);
  return compare({
    area: "pki",
    rows: [{ metric: "milliseconds", name: `CRL of ${someEntries.toLocaleString("en")} entries: parse and find one, against @peculiar/x509`, unit: "ms", goal: atMost(0.01) }],
    rounds: 3,
    project: async () => ({
      milliseconds: await once(async () => {
        if (CertificateRevocationList.parse(der).find(serial) === undefined) throw new Error("not found");
      }),
    }),
    baseline: async () => ({
      milliseconds: await once(async () => {
        const crl = new X509Crl(der, { berOptions: { maxNodes: 10 * someEntries } });
        if (crl.findRevoked(serial) === null) throw new Error("not found");
      }),
    }),
  });
}

function randomRevocations(count: number): PackedRevocations {
  const serials = randomFillSync(Buffer.alloc(count * serialOctets));
  // Positive, and of full length, as the CA's are.
  for (let at = 0; at < serials.length; at += serialOctets) serials[at] = ((serials[at] ?? 0) & 0x7f) | 0x40;
  return new PackedRevocations(serialOctets, serials, new Uint32Array(count).fill(Math.floor(Date.now() / 1000) - 3600), new Uint8Array(count));
}

function signedCrl(authority: TestAuthority, entries: PackedRevocations): Promise<Uint8Array> {
  const content = {
    issuer: authority.issuing,
    thisUpdate: new Date(Date.now() - 60_000),
    nextUpdate: new Date(Date.now() + 3_600_000),
    crlNumber: 2n,
    issuingDistributionPoint: { fullName: authority.crlDistributionPoint, only: "user" },
    entries,
  } as const;
  return buildCrl(content, signerFromKey(authority.issuingKeys.privateKey));
}

/** Serial numbers in hex: every other one is on the list, the rest are not. */
function serialsOf(revoked: PackedRevocations, count: number): string[] {
  return Array.from({ length: count }, (_, n) => {
    const at = n * serialOctets;
    const serial = Buffer.from(revoked.serials.subarray(at, at + serialOctets));
    if (n % 2 === 1) serial.reverse();
    serial[0] = ((serial[0] ?? 0) & 0x7f) | 0x40;
    return serial.toString("hex");
  });
}

/** Octets that a parsed and indexed CRL keeps, its DER included. */
function memoryOfCrl(der: Uint8Array, serial: string): number {
  setFlagsFromString("--expose-gc");
  const collect = runInNewContext("gc") as () => void;
  const used = (): number => {
    collect();
    const { heapUsed, arrayBuffers } = process.memoryUsage();
    return heapUsed + arrayBuffers;
  };
  const before = used();
  const crl = CertificateRevocationList.parse(Buffer.from(der));
  crl.find(serial);
  const after = used();
  return crl.size === 0 ? Number.NaN : after - before;
}

/** Microseconds of CPU that one takes, over so many. */
function each(count: number, work: (n: number) => void): number {
  const start = process.cpuUsage();
  for (let n = 0; n < count; n++) work(n);
  return cpuSince(start) / count;
}

/** Milliseconds of CPU, over all threads. */
async function once(work: () => Promise<void>): Promise<number> {
  const start = process.cpuUsage();
  await work();
  return cpuSince(start) / 1000;
}

/** Microseconds. On a busy machine CPU time says more than the time that passes. */
function cpuSince(start: NodeJS.CpuUsage): number {
  const { user, system } = process.cpuUsage(start);
  return user + system;
}
