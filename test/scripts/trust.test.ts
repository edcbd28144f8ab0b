import { execFileSync } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { EnrolledIdentity } from "#pki/identity.ts";
import { identityUri } from "#pki/certificate-profile.ts";
import { runCommandLine } from "#scripts/command-line/program.ts";
import { defineTrustCommands, type FindStores } from "#scripts/command-line/trust-commands.ts";
import { findNssDatabases, NssDatabase } from "#scripts/trust/nss-database.ts";
import { AnchorFolder } from "#scripts/trust/system-store.ts";
import { findTool, type TrustStore } from "#scripts/trust/trust-store.ts";
import { testAuthority } from "#test/support/pki.ts";
import { hasOpenssl } from "#test/support/openssl.ts";
import { commandsOf, readmeBlock } from "#test/support/readme.ts";
import { recordedTerminal } from "#test/support/terminal.ts";

// Debian's tool calls openssl.
const update = hasOpenssl ? findTool("update-ca-certificates") : undefined;
const certutil = process.platform === "linux" ? findTool("certutil") : undefined;

describe("signet trust", () => {
  const folder = mkdtempSync(path.join(tmpdir(), "signet-trust-"));
  const data = path.join(folder, "data");
  const anchors = path.join(folder, "anchors");
  const etc = path.join(folder, "etc");
  let root: { readonly fingerprint: string; toPem(): string };
  let other: string;

  beforeAll(async () => {
    const authority = await testAuthority({ now: new Date() });
    const { certificate, privateKey } = await authority.issue({ kind: "operator", name: "admin", role: "client" });
    root = authority.root;
    // Later, so that NSS shows it before the root where it cannot tell the two.
    other = (await testAuthority({ now: new Date(Date.now() + 60_000) })).root.toPem();
    EnrolledIdentity.write(path.join(data, "operator"), {
      uri: identityUri(authority.trustDomain, "operator", "admin"),
      caUrl: "https://localhost:9",
      root: authority.root,
      credentials: { client: { privateKey, chain: [certificate, authority.issuing] } },
    });
    for (const directory of [anchors, etc, path.join(folder, "certs"), path.join(folder, "hooks")]) mkdirSync(directory);
    writeFileSync(path.join(folder, "conf"), "\n");
  });
  afterAll(() => rmSync(folder, { recursive: true, force: true }));

  async function run(act: string | readonly string[], stores: readonly TrustStore[]) {
    const terminal = recordedTerminal();
    const find: FindStores = (kind) => stores.filter((store) => kind === "all" || store.kind === kind);
    const exitCode = await runCommandLine("signet", (definition) => defineTrustCommands(definition, find), ["--data", data, ...(typeof act === "string" ? ["trust", act] : act), "--json"], terminal);
    return { exitCode, out: terminal.out().toString("utf8"), err: terminal.err() };
  }
  const did = ({ out, err }: { readonly out: string; readonly err: string }) => (expect(err).toBe(""), JSON.parse(out) as { stores: { did: string; state: string }[] }).stores.map((store) => store.did ?? store.state);

  /** The real tool, on folders of this test. */
  function systemStore(): AnchorFolder {
    const options = { "--certsconf": path.join(folder, "conf"), "--certsdir": path.join(folder, "certs"), "--localcertsdir": anchors, "--etccertsdir": etc, "--hooksdir": path.join(folder, "hooks") };
    return new AnchorFolder({ anchors, bundle: path.join(etc, "ca-certificates.crt"), update: [update ?? "", ...Object.entries(options).flat()] });
  }
  const bundle = () => readFileSync(path.join(etc, "ca-certificates.crt"), "utf8");

  it.skipIf(update === undefined)("puts the root into the system's store and takes it out without a trace (skipped without update-ca-certificates)", async () => {
    writeFileSync(path.join(anchors, "other.crt"), other);
    expect(did(await run("status", [systemStore()]))).toStrictEqual(["absent"]);
    expect(did(await run("install", [systemStore()]))).toStrictEqual(["installed"]);
    expect(bundle()).toContain(root.toPem().trim());
    expect(readdirSync(anchors).sort()).toStrictEqual(["other.crt", `signet-${root.fingerprint}.crt`]);
    expect(did(await run("install", [systemStore()]))).toStrictEqual(["was there already"]);
    expect(did(await run("uninstall", [systemStore()]))).toStrictEqual(["uninstalled"]);
    expect(bundle()).not.toContain(root.toPem().trim());
    expect(bundle()).toContain(other.trim());
    expect(readdirSync(anchors)).toStrictEqual(["other.crt"]);
    expect(readdirSync(etc).filter((name) => name.includes("signet"))).toStrictEqual([]);
    expect(did(await run("uninstall", [systemStore()]))).toStrictEqual(["was not there"]);
  });

  it.skipIf(update === undefined)("does what the README types as root (skipped without update-ca-certificates)", async () => {
    const states: string[] = [];
    for (const command of commandsOf(readmeBlock("Trust the root on this machine", 2))) {
      const [sudo, npx, signet, ...argv] = command.split(" ");
      expect([sudo, npx, signet]).toStrictEqual(["sudo", "npx", "signet"]);
      states.push(...did(await run(argv, [systemStore()])));
    }
    expect(states).toStrictEqual(["installed", "uninstalled"]);
  });

  it.skipIf(update === undefined)("finishes an installation that was interrupted, and leaves nothing of one that failed (skipped without update-ca-certificates)", async () => {
    writeFileSync(path.join(anchors, `signet-${root.fingerprint}.crt`), root.toPem());
    expect(did(await run("status", [systemStore()]))).toStrictEqual(["incomplete"]);
    expect(did(await run("install", [systemStore()]))).toStrictEqual(["installed"]);
    expect(did(await run("uninstall", [systemStore()]))).toStrictEqual(["uninstalled"]);
    const failing = new AnchorFolder({ anchors, bundle: path.join(etc, "ca-certificates.crt"), update: [process.execPath, "-e", "process.exit(3)", "--"] });
    const { exitCode, err } = await run("install", [failing]);
    expect([exitCode, (JSON.parse(err) as { code: string }).code]).toStrictEqual([1, "file-unusable"]);
    expect(readdirSync(anchors)).not.toContain(`signet-${root.fingerprint}.crt`);
  });

  it("leaves alone what stands under its name with another content, and a root that somebody else put in", async () => {
    const store = new AnchorFolder({ anchors, bundle: path.join(folder, "bundle.crt"), update: ["/nonexistent"] });
    const file = path.join(anchors, `signet-${root.fingerprint}.crt`);
    writeFileSync(file, other);
    for (const act of ["install", "uninstall"]) expect(did(await run(act, [store]))[0]).toMatch(/^left alone: /);
    expect(readFileSync(file, "utf8")).toBe(other);
    rmSync(file);
    writeFileSync(path.join(folder, "bundle.crt"), other + root.toPem());
    for (const act of ["install", "uninstall"]) expect(did(await run(act, [store]))[0]).toMatch(/^left alone: /);
    expect(existsSync(file)).toBe(false);
  });

  it("changes nothing anywhere where one store needs root, and says what to type", async () => {
    const closed: TrustStore = { ...stub("system", "absent"), obstacle: () => ({ reason: "/etc/x can be changed by root alone", next: "sudo" }) };
    const changed: string[] = [];
    const open: TrustStore = { ...stub("nss", "absent"), install: async () => void changed.push("nss") };
    const { exitCode, err } = await run("install", [open, closed]);
    expect(exitCode).toBe(1);
    expect(JSON.parse(err)).toMatchObject({ code: "file-unusable", details: { next: expect.stringContaining("sudo ") } });
    expect(changed).toStrictEqual([]);
  });

  describe.skipIf(certutil === undefined)("in an NSS database (skipped without certutil)", () => {
    const home = path.join(folder, "home");
    function database(profile: string, password: readonly string[] = ["--empty-password"]): NssDatabase {
      const directory = path.join(home, profile);
      mkdirSync(directory, { recursive: true });
      execFileSync(certutil ?? "", ["-N", "-d", `sql:${directory}`, ...password]);
      return new NssDatabase(directory, certutil ?? "");
    }
    const list = ({ location }: NssDatabase) => execFileSync(certutil ?? "", ["-L", "-d", `sql:${location}`], { encoding: "utf8" });

    it("installs and uninstalls the root alone, beside another of the same subject, twice as well as once", async () => {
      const store = database(".pki/nssdb");
      execFileSync(certutil ?? "", ["-A", "-a", "-n", "Somebody else", "-t", "C,,", "-d", `sql:${store.location}`], { input: other });
      const before = list(store);
      expect(did(await run("install", [store]))).toStrictEqual(["installed"]);
      expect(list(store)).toMatch(new RegExp(`Signet root ${root.fingerprint} +C,,`));
      expect(did(await run("install", [store]))).toStrictEqual(["was there already"]);
      expect(did(await run("status", [store]))).toStrictEqual(["installed"]);
      expect(did(await run("uninstall", [store]))).toStrictEqual(["uninstalled"]);
      expect(list(store)).toBe(before);
      expect(did(await run("uninstall", [store]))).toStrictEqual(["was not there"]);
    });

    it("leaves alone a root that the user put in by another name, and another certificate under ours", async () => {
      const mine = database(".mozilla/firefox/a.default");
      execFileSync(certutil ?? "", ["-A", "-a", "-n", "Mine", "-t", ",,", "-d", `sql:${mine.location}`], { input: root.toPem() });
      const wrong = database(".mozilla/firefox/b.default");
      execFileSync(certutil ?? "", ["-A", "-a", "-n", `Signet root ${root.fingerprint}`, "-t", "C,,", "-d", `sql:${wrong.location}`], { input: other });
      for (const store of [mine, wrong]) {
        const before = list(store);
        for (const act of ["install", "uninstall"]) expect(did(await run(act, [store]))[0]).toMatch(/^left alone: /);
        expect(list(store)).toBe(before);
      }
      expect(findNssDatabases(home)).toStrictEqual([".pki/nssdb", ".mozilla/firefox/a.default", ".mozilla/firefox/b.default"].map((profile) => path.join(home, profile)));
    });

    it("leaves nothing in a database with a password, which it cannot change", async () => {
      writeFileSync(path.join(folder, "password"), "secret\n");
      const store = database(".mozilla/firefox/c.locked", ["-f", path.join(folder, "password")]);
      const before = list(store);
      expect((await run("install", [store])).exitCode).toBe(1);
      expect(list(store)).toBe(before);
    });
  });
});

function stub(kind: TrustStore["kind"], state: "absent"): TrustStore {
  return { kind, location: `/${kind}`, obstacle: () => undefined, state: async () => ({ state }), plan: () => [], install: async () => {}, uninstall: async () => {} };
}
