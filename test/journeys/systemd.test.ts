import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { bootSystemd, environment, whyNoSystemd, type OwnSystemd, type Typist } from "#test/support/own-systemd.ts";
import { readmeBlock, type ReadmeBlock } from "#test/support/readme.ts";

// The README's blocks that want root, users and systemd: typed as they stand, one after another, on a machine of its own.
const project = path.dirname(path.dirname(path.dirname(fileURLToPath(import.meta.url))));
const why = whyNoSystemd();

describe.skipIf(why !== undefined)(`Signet under systemd${why === undefined ? "" : ` (skipped: ${why})`}`, { timeout: 120_000 }, () => {
  let upstream = "";
  let machine: OwnSystemd;
  let person: Typist;
  let fingerprint = "";
  let upgrade = "";

  beforeAll(async () => {
    upstream = mkdtempSync(path.join(tmpdir(), "signet-upstream-"));
    upgrade = publish();
    machine = await bootSystemd(upstream);
    person = await machine.terminal();
  });

  afterAll(async () => {
    await machine?.stop();
    rmSync(upstream, { recursive: true, force: true });
  });

  /** Nothing of the caller's: a hook's GIT_INDEX_FILE is the index of his clone, and his configuration may want signatures. */
  function git(args: readonly string[], input = ""): string {
    const env = { ...environment, HOME: upstream, GIT_CONFIG_GLOBAL: "/dev/null", GIT_CONFIG_NOSYSTEM: "1" };
    return execFileSync("git", [`--git-dir=${upstream}`, `--work-tree=${project}`, "-c", "user.name=Signet", "-c", "user.email=signet@signet.internal", ...args], { encoding: "utf8", env, input }).trim();
  }

  /** A repository of the project as it stands here, committed or not, whose main is a version before. @returns the commit to upgrade to */
  function publish(): string {
    git(["init", "--quiet", "--initial-branch=main"]);
    git(["add", "--all"]);
    const tree = git(["write-tree"]);
    const earlierPackage = git(["hash-object", "-w", "--stdin"], packageFile().replace(/"version": "[^"]+"/, '"version": "0.0.1"'));
    const earlierTree = git(["mktree"], git(["ls-tree", tree]).replace(/(?<=^100644 blob )[0-9a-f]+(?=\tpackage\.json$)/m, earlierPackage));
    const earlier = git(["commit-tree", "-m", "Earlier", earlierTree]);
    git(["update-ref", "refs/heads/main", earlier]);
    return git(["commit-tree", "-m", "This", "-p", earlier, tree]);
  }

  const packageFile = (): string => readFileSync(path.join(project, "package.json"), "utf8");

  /** Types a block, its placeholders filled in. @returns all that was seen */
  async function typeBlock(block: ReadmeBlock, whileUp: () => unknown = () => {}): Promise<string> {
    let all = "";
    for (const line of block.text.trim().split("\n")) {
      const { code, seen } = await type(line.replace("REPOSITORY", "/srv/signet").replace("HEX", fingerprint), / (?:kms serve|status-page) /.test(line) ? whileUp : undefined);
      expect(code, `line ${block.line}:\n${seen}`).toBe(0);
      all += seen;
    }
    return all;
  }

  async function type(line: string, whileUp?: () => unknown): Promise<{ readonly code: number; readonly seen: string }> {
    const { code, seen } = await person.type(line, whileUp);
    return { code, seen: code === 0 ? seen : `${seen}\n${machine.run("journalctl", ["--no-pager", "--lines=40"])}` };
  }

  const states = (): string => machine.run("systemctl", ["show", "--property=ActiveState", "--value", "signet-ca", "signet-kms"]).replaceAll(/\s+/g, " ").trim();
  const operator = "sudo -u signet-ca /opt/signet/signet --data /var/lib/signet-ca";
  const as = (name: string): string => `--as ${name} --kms https://localhost:7443`;

  it("is installed by somebody who may use sudo", async () => {
    await typeBlock(readmeBlock("Two services under systemd", 1));
  });

  it("has a CA, and a KMS that cannot read its files, once they are enabled", async () => {
    fingerprint = /^rootFingerprint +([0-9a-f]{64})\r?$/m.exec(await typeBlock(readmeBlock("Two services under systemd", 2)))?.[1] ?? "";
    await typeBlock(readmeBlock("Two services under systemd", 3));
    expect(states()).toBe("active active");
    expect((await person.type("sudo -u signet-kms ls /var/lib/signet-ca")).seen).toContain("Permission denied");
    expect((await person.type("sudo -u signet-kms cat /etc/signet/ca-passphrase")).seen).toContain("Permission denied");
  });

  it("gives agents their keys", async () => {
    expect(await typeBlock(readmeBlock("Two services under systemd", 4))).toMatch(/^name +ledger\r?$/m);
  });

  it("shows its status page to an operator", async () => {
    const ask = (credential: string) => `
      const { readFileSync: read } = require("node:fs"), operator = "/var/lib/signet-ca/operator/";
      require("node:https").get("https://localhost:7444/status.json", { ca: read(operator + "root.pem"), ALPNProtocols: ["http/1.1"], ${credential} }, (answer) => answer.pipe(process.stdout)).on("error", (error) => console.log(error.code));`;
    await typeBlock(readmeBlock("Two services under systemd", 5), () => {
      expect(JSON.parse(machine.run("node", ["--eval", ask('cert: read(operator + "client.pem"), key: read(operator + "client.pem")')]))).toMatchObject({ mode: "production", kms: { summary: { keys: { total: 1 } } } });
      expect(machine.run("node", ["--eval", ask("")])).toMatch(/^ERR_SSL_|^ECONNRESET/);
    });
  });

  it("has another passphrase when it was given one, and a service that was killed comes back by itself", async () => {
    machine.run("sh", ["-c", "kill -KILL $(grep --files-with-matches '[k]ms-server/main.ts' /proc/[0-9]*/cmdline | cut -d / -f 3)"]);
    await typeBlock(readmeBlock("Two services under systemd", 6));
    await expect.poll(() => machine.run("systemctl", ["show", "--property=NRestarts,ActiveState", "signet-kms"]), { timeout: 30_000 }).toBe("NRestarts=1\nActiveState=active\n");
    expect(states()).toBe("active active");
  });

  it("refuses after a restore who was revoked since the back-up, and goes on with everybody else", async () => {
    const enrolment = `/opt/signet/signet agent enroll bob --ca https://localhost:7440 --root-fingerprint ${fingerprint} --key-type ec-p256 --token-file -`;
    expect(await type(`${operator} ca token bob | ${enrolment}`)).toMatchObject({ code: 0 });
    await typeBlock(readmeBlock("Back-up and restore", 1));
    expect(states()).toBe("active active");
    // Bob has seen the CRL that the restored CA knows nothing of.
    expect(await type(`${operator} ca revoke alice --reason keyCompromise`)).toMatchObject({ code: 0 });
    expect(await type(`/opt/signet/signet kms key create lost ${as("bob")}`)).toMatchObject({ code: 0 });

    await typeBlock(readmeBlock("Back-up and restore", 2));
    expect(states()).toBe("active active");
    expect(await person.type(`/opt/signet/signet kms key get ledger --out ledger.key ${as("alice")}`)).toMatchObject({ code: 5, seen: expect.stringContaining("certificate-revoked") });
    expect(await type(`/opt/signet/signet kms key create kept ${as("bob")}`)).toMatchObject({ code: 0 });
  });

  it("runs on after an upgrade", async () => {
    git(["update-ref", "refs/heads/main", upgrade]);
    await typeBlock(readmeBlock("Upgrade", 1));
    expect(machine.run("cat", ["/opt/signet/package.json"])).toBe(packageFile());
    expect(states()).toBe("active active");
  });

  it("logs one JSON object a line to the journal", () => {
    const lines = machine.run("journalctl", ["--output=json", "_SYSTEMD_UNIT=signet-ca.service", "+", "_SYSTEMD_UNIT=signet-kms.service"]).trim().split("\n");
    const messages = lines.map((line) => (JSON.parse(line) as { readonly MESSAGE: string }).MESSAGE);
    expect(messages.filter((message) => !message.startsWith("{"))).toStrictEqual([]);
    expect(messages.map((message) => (JSON.parse(message) as { readonly msg?: string }).msg)).toContain("listening");
  });
});
