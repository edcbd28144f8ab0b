import { createHash } from "node:crypto";
import http from "node:http";
import https from "node:https";
import path from "node:path";
import { DatabaseSync } from "node:sqlite";
import { Certificate } from "#pki/certificate.ts";
import { parseCertsOnly } from "#pki/cms.ts";
import { CertificateRevocationList } from "#pki/crl.ts";
import { createCsr, generateKeyPair } from "#pki/keys.ts";
import { caRoutes, estMediaTypes, estRoutes, publicationRoutes, type CertificateAnswer, type CertificateDescription, type RevocationAnswer } from "#pki/protocol-ca.ts";
import { caArguments, Caller, openOperator, startCa, untilServed, type CaReady, type IssuedToken } from "../scratch-system.ts";
import { startAndKill, type ServiceProcess } from "../service-process.ts";
import { AuditChain } from "./audit-chain.ts";
import { Findings, ruleResults, type RuleResult } from "./findings.ts";
import type { TortureOptions } from "./main.ts";
import { Random } from "./random.ts";
import { refusalOf, runTrials, type Load, type TortureSubject } from "./trials.ts";

const rules = {
  issued: "an issued certificate stays listed",
  revoked: "a revocation stays on the published CRL",
  token: "a token is redeemed once, and stays good until then",
  serial: "no serial number twice",
  crl: "no CRL number and no thisUpdate goes back",
  chain: "the audit log is one whole chain and never gets shorter",
} as const;
type Rule = (typeof rules)[keyof typeof rules];

interface KnownCertificate {
  readonly serialNumber: string;
  readonly fingerprint: string;
  revocation: "none" | "in flight" | "in doubt" | { readonly crlNumber: bigint };
}

interface SeenCrl {
  readonly number: bigint;
  readonly thisUpdate: number;
  readonly digest: string;
}

/** Answer to an enrolment: a certificate, or undefined where the token was refused. */
type Redeemed = Certificate | undefined;

class CaUnderTorture implements TortureSubject<Rule> {
  readonly dataDirectory: string;
  readonly acknowledged: Record<Rule, number> = {
    [rules.issued]: 0,
    [rules.revoked]: 0,
    [rules.token]: 0,
    [rules.serial]: 0,
    [rules.crl]: 0,
    [rules.chain]: 0,
  };
  readonly #root: string;
  readonly #random: Random;
  readonly #csrs: readonly string[];
  #service: ServiceProcess<CaReady>;
  readonly #operator: Caller;
  readonly #enrolment: https.Agent;
  readonly #publication = new http.Agent({ keepAlive: true });
  #named = 0;
  readonly #certificates = new Map<string, KnownCertificate>();
  readonly #fresh = new Set<KnownCertificate>();
  readonly #tokens = { unused: [] as IssuedToken[], inDoubt: [] as IssuedToken[], redeemed: [] as IssuedToken[], freshlyRedeemed: [] as IssuedToken[] };
  readonly #crls = new Map<string, SeenCrl>();
  readonly #chain = new AuditChain();
  /** What was noticed while the load ran. */
  #noticed = new Findings<Rule>();

  constructor(i: { root: string; service: ServiceProcess<CaReady>; operator: Caller; csrs: readonly string[]; random: Random }) {
    this.#root = i.root;
    this.dataDirectory = path.join(i.root, "ca");
    this.#service = i.service;
    this.#operator = i.operator;
    this.#csrs = i.csrs;
    this.#random = i.random;
    this.#enrolment = new https.Agent({ keepAlive: true, ca: i.operator.party.trustAnchors.map((anchor) => anchor.toPem()) });
  }

  async start(): Promise<void> {
    this.#service = await startCa(this.#root);
    this.#operator.url = this.#service.ready.mutualUrl;
    await untilServed(this.#operator, caRoutes.chain);
  }

  startAndKill(milliseconds: number): Promise<void> {
    return startAndKill("ca/main.ts", caArguments(this.#root), milliseconds);
  }

  async kill(): Promise<void> {
    await this.#service.kill();
  }

  async stop(): Promise<void> {
    await this.#service.stop();
  }

  async work(load: Load, worker: number): Promise<void> {
    // So that each trial has its revocation, however few operations the machine gets done.
    if (worker === 1) await this.#revoke(load);
    while (!load.over) {
      const choice = this.#random.next();
      if (worker === 0) await load.attempt(() => this.#lookAtCrls(this.#noticed), () => {}, () => {});
      else if (choice < 0.4) await this.#enrollWithNewToken(load);
      else if (choice < 0.55) await this.#makeToken(load);
      else if (choice < 0.7) await this.#redeemOldToken(load);
      else if (choice < 0.82) await this.#revoke(load);
      else await this.#issue(load);
    }
  }

  async verify(everything: boolean): Promise<Findings<Rule>> {
    const findings = this.#noticed;
    this.#noticed = new Findings<Rule>();
    await this.#verifyTokens(everything, findings);
    await this.#lookAtCrls(findings);
    if (everything) this.#compareListing(await this.#listing(), findings);
    else {
      for (const known of new Set([...this.#fresh, ...this.#random.sample([...this.#certificates.values()], 20)])) await this.#verifyCertificate(known, findings);
    }
    this.#fresh.clear();
    this.#verifyAudit(findings);
    return findings;
  }

  /** Shows the observer a listing as of a CA that had given one serial number to two certificates. */
  async verifyBroken(findings: Findings<Rule>): Promise<void> {
    const listing = await this.#listing();
    const twice = listing.find(({ serialNumber }) => this.#certificates.has(serialNumber));
    if (twice === undefined) throw new Error("nothing is listed that was acknowledged");
    this.#compareSerials([...listing, { ...twice, fingerprint: createHash("sha256").update(twice.fingerprint).digest("hex") }], findings);
  }

  /** Holds a listing of all certificates against what was acknowledged. */
  #compareListing(listing: readonly CertificateDescription[], findings: Findings<Rule>): void {
    this.#compareSerials(listing, findings);
    const byIdentity = new Map<string, number>();
    for (const { identity } of listing) byIdentity.set(identity, (byIdentity.get(identity) ?? 0) + 1);
    for (const [identity, count] of byIdentity) {
      if (identity.includes(`/${tokenPrefix}`) && count > 1) findings.violated(rules.token, `${identity} has ${count} certificates`);
    }
    const listed = new Set(listing.map(({ serialNumber }) => serialNumber));
    for (const serialNumber of this.#certificates.keys()) if (!listed.has(serialNumber)) findings.lost(rules.issued, serialNumber);
  }

  #compareSerials(listing: readonly CertificateDescription[], findings: Findings<Rule>): void {
    const named = new Map([...this.#certificates.values()].map(({ serialNumber, fingerprint }) => [serialNumber, fingerprint]));
    for (const { serialNumber, fingerprint } of listing) {
      const other = named.get(serialNumber);
      if (other !== undefined && other !== fingerprint) findings.violated(rules.serial, `${serialNumber} names two certificates`);
      named.set(serialNumber, fingerprint);
    }
  }

  async #makeToken(load: Load): Promise<IssuedToken | undefined> {
    const name = `${tokenPrefix}${this.#named++}`;
    let made: IssuedToken | undefined;
    await load.attempt(
      () => this.#operator.json<IssuedToken>("POST", caRoutes.tokens, { name, kind: "agent" }),
      (token) => {
        made = token;
        this.#tokens.unused.push(token);
      },
      () => {},
    );
    return made;
  }

  async #enrollWithNewToken(load: Load): Promise<void> {
    const token = await this.#makeToken(load);
    if (token !== undefined && !load.over && this.#take(token)) await this.#redeem(load, token);
  }

  async #redeemOldToken(load: Load): Promise<void> {
    const token = this.#random.pick(this.#tokens.unused);
    if (token !== undefined && this.#take(token)) await this.#redeem(load, token);
  }

  /** Whether the token was still unused; it no longer is. */
  #take(token: IssuedToken): boolean {
    const at = this.#tokens.unused.indexOf(token);
    if (at >= 0) this.#tokens.unused.splice(at, 1);
    return at >= 0;
  }

  #redeem(load: Load, token: IssuedToken): Promise<void> {
    return load.attempt(
      () => this.#enroll(token),
      (certificate) => this.#redeemed(token, certificate, this.#noticed),
      () => this.#tokens.inDoubt.push(token),
    );
  }

  #redeemed(token: IssuedToken, certificate: Redeemed, findings: Findings<Rule>): void {
    if (certificate === undefined) {
      findings.lost(rules.token, `the unused token of ${token.name} was refused`);
      return;
    }
    this.acknowledged[rules.token]++;
    this.#tokens.freshlyRedeemed.push(token);
    this.#record(certificate, findings);
  }

  #record(certificate: Certificate, findings: Findings<Rule>): void {
    const { serialNumber, fingerprint } = certificate;
    const known = this.#certificates.get(serialNumber);
    if (known !== undefined && known.fingerprint !== fingerprint) findings.violated(rules.serial, `${serialNumber} was issued twice`);
    const recorded: KnownCertificate = { serialNumber, fingerprint, revocation: "none" };
    this.#certificates.set(serialNumber, recorded);
    this.#fresh.add(recorded);
    this.acknowledged[rules.issued]++;
    this.acknowledged[rules.serial]++;
  }

  #issue(load: Load): Promise<void> {
    const body = { csr: this.#csr(), kind: "agent", name: `issued-${this.#named++}`, role: "client" };
    return load.attempt(
      () => this.#operator.json<CertificateAnswer>("POST", caRoutes.certificates, body),
      (answer) => this.#record(Certificate.fromPem(answer.certificate), this.#noticed),
      () => {},
    );
  }

  async #revoke(load: Load): Promise<void> {
    const known = this.#random.pick([...this.#certificates.values()].filter(({ revocation }) => revocation === "none"));
    if (known === undefined) return;
    known.revocation = "in flight";
    this.#fresh.add(known);
    await load.attempt(
      () => this.#operator.json<RevocationAnswer>("POST", caRoutes.revocations, { serialNumber: known.serialNumber, reason: "superseded" }),
      ({ crlNumber }) => {
        known.revocation = { crlNumber: BigInt(crlNumber) };
        this.acknowledged[rules.revoked]++;
      },
      () => (known.revocation = "in doubt"),
    );
  }

  /** EST enrolment with a one-time token (RFC 7030 section 4.2.1). Undefined where the CA refuses the token. */
  async #enroll({ name, token }: IssuedToken): Promise<Redeemed> {
    const { status, body } = await exchange(this.#enrolment, new URL(estRoutes.simpleenroll, this.#service.ready.enrolmentUrl), {
      body: this.#csr(),
      headers: { "content-type": estMediaTypes.request, authorization: `Basic ${Buffer.from(`${name}:${token}`).toString("base64")}` },
    });
    if (status === 401) return undefined;
    if (status !== 200) throw new Error(`enrolment answered ${status}: ${body.toString("utf8")}`);
    const [certificate] = parseCertsOnly(Buffer.from(body.toString("latin1"), "base64"));
    if (certificate === undefined) throw new Error("enrolment answered without a certificate");
    return certificate;
  }

  /** Spent tokens must be refused, one that is unused must work, and of those in doubt we learn what became of them. */
  async #verifyTokens(everything: boolean, findings: Findings<Rule>): Promise<void> {
    const { inDoubt, redeemed, freshlyRedeemed, unused } = this.#tokens;
    for (const token of inDoubt.splice(0)) {
      const certificate = await this.#enroll(token);
      if (certificate === undefined) redeemed.push(token);
      else this.#redeemed(token, certificate, findings);
    }
    const spent = everything ? [...redeemed, ...freshlyRedeemed] : [...this.#random.sample(freshlyRedeemed, 5), ...this.#random.sample(redeemed, 3)];
    for (const token of spent) {
      const again = await this.#enroll(token);
      if (again !== undefined) findings.violated(rules.token, `the token of ${token.name} was redeemed twice`);
    }
    redeemed.push(...freshlyRedeemed.splice(0));
    const token = this.#random.pick(unused);
    if (token !== undefined && this.#take(token)) this.#redeemed(token, await this.#enroll(token), findings);
  }

  /** Fetches the published CRLs, one after another so that they cannot overtake each other. */
  async #lookAtCrls(findings: Findings<Rule>): Promise<void> {
    // What is acknowledged before the fetch begins must be on what it brings.
    const acknowledged = [...this.#certificates.values()].filter(({ revocation }) => typeof revocation === "object");
    const inDoubt = [...this.#certificates.values()].filter(({ revocation }) => revocation === "in doubt");
    for (const name of ["root", "leaf-0"]) {
      const { status, body } = await exchange(this.#publication, new URL(publicationRoutes.crl(name), this.#service.ready.publicationUrl));
      if (status !== 200) throw new Error(`the CRL ${name} answered ${status}`);
      const crl = CertificateRevocationList.parse(body);
      this.#compareCrl(name, crl, findings);
      if (name === "root") continue;
      for (const { serialNumber, revocation } of acknowledged) {
        if (crl.find(serialNumber) === undefined) findings.lost(rules.revoked, `${serialNumber} is not on CRL ${crl.crlNumber}`);
        if (typeof revocation === "object" && (crl.crlNumber ?? 0n) < revocation.crlNumber) findings.lost(rules.revoked, `CRL ${revocation.crlNumber} was acknowledged`);
      }
      for (const known of inDoubt) {
        known.revocation = crl.find(known.serialNumber) === undefined ? "none" : { crlNumber: 0n };
      }
    }
  }

  #compareCrl(name: string, crl: CertificateRevocationList, findings: Findings<Rule>): void {
    const seen: SeenCrl = { number: crl.crlNumber ?? -1n, thisUpdate: crl.thisUpdate.getTime(), digest: createHash("sha256").update(crl.der).digest("hex") };
    const before = this.#crls.get(name);
    this.#crls.set(name, seen);
    if (before?.digest === seen.digest) return;
    this.acknowledged[rules.crl]++;
    if (before === undefined) return;
    if (seen.number <= before.number) findings.violated(rules.crl, `CRL ${name} has number ${seen.number} after ${before.number}`);
    if (seen.thisUpdate < before.thisUpdate + 1000) findings.violated(rules.crl, `CRL ${name} has thisUpdate ${crl.thisUpdate.toISOString()} after ${new Date(before.thisUpdate).toISOString()}`);
  }

  async #verifyCertificate(known: KnownCertificate, findings: Findings<Rule>): Promise<void> {
    const { serialNumber, fingerprint } = known;
    let listed: CertificateDescription | undefined;
    const refused = await refusalOf(async () => (listed = await this.#operator.json<CertificateDescription>("GET", caRoutes.certificate(serialNumber))));
    if (refused !== undefined) findings.lost(rules.issued, `${serialNumber}: ${refused}`);
    else if (listed?.fingerprint !== fingerprint) findings.violated(rules.serial, `${serialNumber} is another certificate now`);
  }

  async #listing(): Promise<CertificateDescription[]> {
    const listing: CertificateDescription[] = [];
    let cursor: string | undefined;
    do {
      const page = await this.#operator.json<{ certificates: CertificateDescription[]; nextCursor?: string }>(
        "GET",
        `${caRoutes.certificates}?limit=500${cursor === undefined ? "" : `&cursor=${encodeURIComponent(cursor)}`}`,
      );
      listing.push(...page.certificates);
      cursor = page.nextCursor;
    } while (cursor !== undefined);
    return listing;
  }

  /** The CA shows its log to nobody over HTTP; the observer reads the table beside the running service. */
  #verifyAudit(findings: Findings<Rule>): void {
    const database = new DatabaseSync(path.join(this.dataDirectory, "ca.sqlite"), { readOnly: true });
    const before = this.#chain.length;
    const rows = database.prepare("SELECT sequence, record, hash FROM audit_record ORDER BY sequence").all();
    database.close();
    const { broken, missing } = this.#chain.follow(
      1,
      rows.map((row) => ({ sequence: Number(row["sequence"]), record: String(row["record"]), hash: Buffer.from(row["hash"] as Uint8Array).toString("hex") })),
    );
    this.acknowledged[rules.chain] += Math.max(0, this.#chain.length - before);
    for (const what of broken) findings.violated(rules.chain, what);
    if (missing > 0) findings.lost(rules.chain, `the last ${missing} records`);
  }

  #csr(): string {
    return this.#random.pick(this.#csrs) ?? "";
  }
}

const tokenPrefix = "token-";

function exchange(
  agent: http.Agent,
  url: URL,
  post?: { readonly body: string; readonly headers: Readonly<Record<string, string>> },
): Promise<{ readonly status: number; readonly body: Buffer }> {
  return new Promise((resolve, reject) => {
    const request = (url.protocol === "https:" ? https : http).request(url, { agent, method: post === undefined ? "GET" : "POST", headers: post?.headers ?? {}, timeout: 20_000 }, (response) => {
      const chunks: Buffer[] = [];
      response.on("data", (chunk: Buffer) => chunks.push(chunk));
      response.on("error", reject);
      response.on("close", () => (response.complete ? resolve({ status: response.statusCode ?? 0, body: Buffer.concat(chunks) }) : reject(new Error("the answer broke off"))));
    });
    request.on("timeout", () => request.destroy(new Error("no answer in 20 seconds")));
    request.on("error", reject);
    request.end(post?.body);
  });
}

/** Kills the CA at random moments while tokens are made and redeemed, certificates issued and revoked, and CRLs published. */
export async function tortureCa(options: TortureOptions): Promise<RuleResult[]> {
  const random = new Random(options.seed);
  const csrs = await Promise.all(
    Array.from({ length: 16 }, async () => Buffer.from(await createCsr((await generateKeyPair("ec-p256")).privateKey, { commonName: "torture" })).toString("base64")),
  );
  const service = await startCa(options.directory);
  const operator = new Caller(await openOperator(options.directory), service.ready.mutualUrl, "ca");
  await service.stop();
  const subject = new CaUnderTorture({ root: options.directory, service, operator, csrs, random });
  try {
    const { trials, control } = await runTrials({ subject, trials: options.trials, random, progress: options.progress });
    const older = "an older copy of the database put back";
    const twice = "a listing in which one serial number names two certificates";
    return ruleResults({
      suite: "ca",
      rules: Object.values(rules),
      trials: options.trials,
      acknowledged: subject.acknowledged,
      minimumPerTrial: { [rules.issued]: 8, [rules.revoked]: 1, [rules.token]: 4, [rules.serial]: 8, [rules.crl]: 1, [rules.chain]: 16 },
      findings: trials,
      control,
      broken: { [rules.issued]: older, [rules.revoked]: older, [rules.token]: older, [rules.serial]: twice, [rules.crl]: older, [rules.chain]: older },
    });
  } finally {
    await subject.kill();
    operator.close();
    operator.party.stop();
  }
}
