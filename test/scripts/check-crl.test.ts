import { writeFileSync } from "node:fs";
import path from "node:path";
import { beforeAll, describe, expect, it } from "vitest";
import type { Certificate } from "#pki/certificate.ts";
import type { CertificateRevocationList } from "#pki/crl.ts";
import { checkCrlScript } from "#scripts/command-line/check-crl-script.ts";
import { testAuthority, type TestAuthority } from "#test/support/pki.ts";
import { temporaryDirectory } from "#test/support/temporary-directory.ts";
import { recordedTerminal } from "#test/support/terminal.ts";

const now = Date.now();
const hours = (count: number): Date => new Date(now + count * 3_600_000);

interface Answer {
  readonly exitCode: number;
  readonly verdict: string;
  readonly problem?: string;
  readonly certificates?: readonly { readonly status: string; readonly serialNumber: string; readonly reason?: string; readonly crl?: { readonly crlNumber: string; readonly issuer: string; readonly scope: string; readonly freshness: string } }[];
  readonly refusedCrls?: readonly { readonly problem: string }[];
}

describe("scripts/check-crl.ts", () => {
  let authority: TestAuthority;
  let leaf: Certificate;

  beforeAll(async () => {
    authority = await testAuthority({ now: new Date(now) });
    leaf = (await authority.issue({ role: "client", name: "alice" })).certificate;
  });

  async function check(crls: readonly CertificateRevocationList[], trust = authority): Promise<Answer> {
    const directory = temporaryDirectory();
    const file = (name: string, text: string): string => {
      writeFileSync(path.join(directory, name), text);
      return path.join(directory, name);
    };
    const terminal = recordedTerminal();
    const argv = ["--json", "--data", path.join(directory, "none"), file("cert.pem", leaf.toPem()), "--trust", file("root.pem", trust.root.toPem()), "--intermediate", file("issuing.pem", trust.issuing.toPem())];
    const exitCode = await checkCrlScript(crls.length === 0 ? argv : [...argv, "--crl", file("crl.pem", crls.map((crl) => crl.toPem()).join(""))], terminal);
    expect(terminal.err()).toBe("");
    return { exitCode, ...(JSON.parse(terminal.out().toString("utf8")) as Omit<Answer, "exitCode">) };
  }

  it("says good with exit code 0, by which CRL of which issuer and scope, and that it is fresh", async () => {
    const answer = await check([authority.leafCrl([], { crlNumber: 7n }), authority.rootCrl([])]);
    expect(answer).toMatchObject({ exitCode: 0, verdict: "good", refusedCrls: [] });
    expect(answer.certificates).toHaveLength(2);
    expect(answer.certificates?.[0]).toMatchObject({ status: "good", serialNumber: leaf.serialNumber, crl: { crlNumber: "7", issuer: authority.issuing.subject.toString(), scope: "end-entity certificates", freshness: "fresh" } });
    expect(answer.certificates?.[1]).toMatchObject({ status: "good", crl: { issuer: authority.root.subject.toString(), scope: "CA certificates" } });
  });

  it("answers for the certificate itself where only its own CRL is given, and lists the CA as unknown", async () => {
    const answer = await check([authority.leafCrl([])]);
    expect(answer).toMatchObject({ exitCode: 0, verdict: "good" });
    expect(answer.certificates?.[1]).toMatchObject({ status: "unknown", problem: "crl-missing" });
  });

  it("says revoked with exit code 5 and the reason", async () => {
    const answer = await check([authority.leafCrl([{ serialNumber: leaf.serialNumber, revocationDate: hours(-1), reason: "keyCompromise" }])]);
    expect(answer).toMatchObject({ exitCode: 5, verdict: "revoked" });
    expect(answer.certificates?.[0]).toMatchObject({ status: "revoked", reason: "keyCompromise" });
  });

  it("says revoked where the issuing CA is", async () => {
    const answer = await check([authority.leafCrl([]), authority.rootCrl([{ serialNumber: authority.issuing.serialNumber, revocationDate: hours(-1), reason: "cACompromise" }])]);
    expect(answer).toMatchObject({ exitCode: 5, verdict: "revoked" });
  });

  it("cannot tell, exit code 2: no CRL, a stale one, a future one, a CRL of other certificates, one of another CA, under its own name or ours", async () => {
    const sameName = await testAuthority({ now: new Date(now) });
    const otherName = await testAuthority({ now: new Date(now), trustDomain: "other.internal" });
    const entries = [{ serialNumber: leaf.serialNumber, revocationDate: hours(-3) }];
    const cases: readonly (readonly [readonly CertificateRevocationList[], string | undefined])[] = [
      [[], undefined],
      [[authority.leafCrl(entries, { thisUpdate: hours(-3), nextUpdate: hours(-1) })], "crl-stale"],
      [[authority.leafCrl([], { thisUpdate: hours(1), nextUpdate: hours(2) })], "crl-from-future"],
      [[authority.rootCrl([])], undefined],
      [[sameName.leafCrl(entries)], "crl-signature-invalid"],
      [[otherName.leafCrl(entries)], "crl-signature-invalid"],
    ];
    for (const [crls, refused] of cases) {
      const answer = await check(crls);
      expect(answer).toMatchObject({ exitCode: 2, verdict: "unknown" });
      expect(answer.certificates?.[0]?.status).toBe("unknown");
      expect(answer.refusedCrls?.map(({ problem }) => problem)).toStrictEqual(refused === undefined ? [] : [refused]);
    }
  });

  it("cannot tell, exit code 2 and never 5, of a certificate that does not lead to the root that is trusted", async () => {
    const other = await testAuthority({ now: new Date(now) });
    expect(await check([authority.leafCrl([])], other)).toMatchObject({ exitCode: 2, verdict: "unknown" });
  });

  it("refuses files that are not there or hold nothing of the kind with exit code 1, and damaged ones with 2", async () => {
    const directory = temporaryDirectory();
    const root = path.join(directory, "root.pem");
    const garbage = path.join(directory, "garbage.pem");
    const damaged = path.join(directory, "damaged.pem");
    writeFileSync(root, authority.root.toPem());
    writeFileSync(garbage, "nothing of the kind");
    writeFileSync(damaged, "-----BEGIN CERTIFICATE-----\nMAMCAQE=\n-----END CERTIFICATE-----\n");
    for (const [file, exitCode] of [[path.join(directory, "absent.pem"), 1], [garbage, 1], [damaged, 2]] as const) {
      const terminal = recordedTerminal();
      expect(await checkCrlScript([file, "--trust", root, "--data", directory], terminal)).toBe(exitCode);
    }
  });
});
