import { spawnSync } from "node:child_process";
import type { ChildProcess } from "node:child_process";
import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { ArmResult, Attack } from "#scripts/attacks/attack.ts";
import { catalogue, familyOf } from "#scripts/attacks/catalogue.ts";
import { judge } from "#scripts/attacks/director.ts";
import { equipLaboratory } from "#scripts/attacks/forge.ts";
import { arms, runAttack } from "#scripts/attacks/run.ts";
import { type Evidence, gatherEvidence } from "#scripts/demo/evidence.ts";
import { attackReport, renderHtml, type Report } from "#scripts/demo/report.ts";
import { copyIdentity } from "#scripts/demo/storage-thief.ts";
import { SystemUnderAttack, trustDomain } from "#scripts/demo/world.ts";

// The whole catalogue runs in `npm run demo`; here at least one attack of each family, and each rule that must stop one by itself.
const representative = ["P04", "P08", "R05", "R06", "R08", "R12", "R14", "T12", "K05", "C01", "C06"];

const attackOf = (id: string): Attack => {
  const found = catalogue.find((attack) => attack.id === id);
  if (found === undefined) throw new Error(`no attack ${id}`);
  return found;
};

describe("the catalogue", () => {
  test("has both arms of every attack, and of no other", () => {
    const written = Object.values(arms).flatMap((family) => Object.entries(family));
    expect(written.map(([id]) => id).sort()).toEqual(catalogue.map((attack) => attack.id).sort());
    for (const [, { naive, signet }] of written) for (const arm of [naive, signet]) expect(arm.mallory).toBeTypeOf("function");
  });

  test("has attacks of all five families, and each id once", () => {
    expect(new Set(catalogue.map(familyOf))).toEqual(new Set(["P", "R", "T", "K", "C"]));
    expect(new Set(catalogue.map((attack) => attack.id)).size).toBe(catalogue.length);
  });

  test("the representative attacks are of every family", () => {
    expect(new Set(representative.map((id) => id[0])).size).toBe(5);
  });
});

test("a copy of a running party's identity has no file that was being written", async () => {
  const directory = await mkdtemp(path.join(tmpdir(), "signet-copied-"));
  try {
    const [from, to] = ["from", "to"].map((name) => path.join(directory, name)) as [string, string];
    await mkdir(from);
    await writeFile(path.join(from, "crl-floors.json"), "{}");
    await writeFile(path.join(from, "crl-floors.json.0123456789ab.tmp"), "{");
    await copyIdentity(from, to);
    expect(await readdir(to)).toEqual(["crl-floors.json"]);
  } finally {
    await rm(directory, { recursive: true });
  }
});

describe("the judge", () => {
  const attack = attackOf("C06");
  const secret = "0f".repeat(32);
  const found = { secret, claims: new Set(["forged"]), log: [] as string[], accepted: [] as string[], refusals: [{ code: "not-permitted", detail: "" }], failures: [] as string[], notes: [] as string[], ms: 1 };

  test.each([
    ["in hexadecimal", secret],
    ["in capitals", secret.toUpperCase()],
    ["in base64", Buffer.from(secret, "hex").toString("base64")],
    ["as text that was logged as bytes", Buffer.from(`key=${secret}`).toString("hex")],
  ])("finds the canary in Mallory's log %s", (_form, line) => {
    expect(judge(attack, "signet", { ...found, log: ["hello", line] })).toMatchObject({ attackerWon: true, canarySeen: true, asExpected: false });
  });

  test("counts a forged value that the victim accepted", () => {
    expect(judge(attack, "signet", { ...found, accepted: ["forged"] })).toMatchObject({ attackerWon: true, canarySeen: false, asExpected: false });
  });

  test("does not count what Mallory believes, nor a value that she did not forge", () => {
    expect(judge(attack, "signet", { ...found, log: ["I have won"], accepted: ["honest"] })).toMatchObject({ attackerWon: false, asExpected: true });
  });

  test("takes no other refusal for the expected one", () => {
    expect(judge(attack, "signet", { ...found, refusals: [{ code: "internal", detail: "" }] })).toMatchObject({ attackerWon: false, asExpected: false });
    expect(judge(attack, "signet", { ...found, refusals: [] }).asExpected).toBe(false);
  });

  test("takes no arm for good in which a role did not play its part", () => {
    expect(judge(attack, "signet", { ...found, failures: ["mallory: no such file"] }).asExpected).toBe(false);
  });

  test("takes no naive arm for good that Mallory lost", () => {
    expect(judge(attack, "naive", found).asExpected).toBe(false);
  });

  test("puts no canary into the evidence", () => {
    const { evidence } = judge(attack, "naive", { ...found, log: [secret], notes: [`she has ${secret}`] });
    expect(evidence.join("\n")).not.toContain(secret);
  });
});

describe("Mallory", () => {
  const processes = new Set<ChildProcess>();
  const laboratory = equipLaboratory();
  const results: ArmResult[] = [];
  let directory = "";
  let system: SystemUnderAttack;

  beforeAll(async () => {
    directory = await mkdtemp(path.join(tmpdir(), "signet-attacks-"));
    system = new SystemUnderAttack(directory, processes);
    await system.startCa();
    await system.startKms();
    await Promise.all([system.enroll("alice"), system.enroll("carol"), system.enrollUnattended("mallory"), system.enrollUnattended("bob")]);
    await system.revoke("bob");
  });

  afterAll(async () => {
    await system.stop();
    await rm(directory, { recursive: true, force: true, maxRetries: 3 });
  });

  test.concurrent.for(representative.map((id) => [id, attackOf(id).title, attackOf(id).expected] as const))(
    "%s: %s: wins against the naive arm, and is refused by Signet with %s",
    async ([id]) => {
      const both = await runAttack(attackOf(id), { laboratory, live: system.live, cues: system.cues, directory, processes });
      results.push(...both);
      for (const result of both) expect(result, result.evidence.join("\n")).toMatchObject({ asExpected: true, attackerWon: result.arm === "naive" });
    },
  );

  describe("the evidence", () => {
    let evidence: Evidence;
    let output = "";

    beforeAll(async () => {
      output = path.join(directory, "output");
      evidence = await gatherEvidence(system, output);
    });

    const openssl = spawnSync("openssl", ["version"], { encoding: "utf8" }).stdout ?? "";
    test.skipIf(!/^OpenSSL [3-9]\./.test(openssl))("OpenSSL agrees on every certificate, good and revoked, and on every CRL (skipped without OpenSSL 3)", () => {
      expect(evidence.verifications.map(({ outcome }) => outcome)).toContain("revoked");
      for (const { command, outcome } of evidence.verifications) {
        const [program = "", ...argv] = command.split(" ");
        const { status, stderr } = spawnSync(program, argv, { cwd: output, encoding: "utf8" });
        // `openssl crl` ends with 0 whatever it finds.
        if (argv[0] === "crl") expect(stderr, command).toContain("verify OK");
        else if (outcome === "good") expect(status, `${command}\n${stderr}`).toBe(0);
        else expect(stderr, command).toContain("certificate revoked");
      }
    });

    test("holds no private key", async () => {
      for (const name of await readdir(output)) expect(await readFile(path.join(output, name), "utf8")).not.toContain("PRIVATE KEY");
    });

    test("the page asks for nothing from outside", () => {
      const report: Report = {
        format: "signet-demo-report-1", ok: true, startedAt: new Date().toISOString(), durationMilliseconds: 1, versions: {}, trustDomain, rootFingerprint: system.ca.rootFingerprint,
        parties: [], story: [], cuts: [], attacks: catalogue.map((attack) => attackReport(attack, results.filter((result) => result.id === attack.id))), verdicts: [], evidence,
      };
      const page = renderHtml(report, catalogue);
      expect(page.match(/\b(?:src|href)="[^#"]/g)).toBeNull();
      expect(page).not.toMatch(/url\(|@import|<script/);
      expect(page.match(/<svg class="sequence"/g)).toHaveLength(2 * catalogue.length);
    });
  });
});
