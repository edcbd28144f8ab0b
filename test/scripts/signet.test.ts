import { spawnSync } from "node:child_process";
import { generateKeyPairSync } from "node:crypto";
import { lstatSync, mkdirSync, readdirSync, readFileSync, statSync, symlinkSync, writeFileSync } from "node:fs";
import path from "node:path";
import { Readable } from "node:stream";
import { Command } from "commander";
import { describe, expect, it } from "vitest";
import type { Definition } from "#scripts/command-line/program.ts";
import { readServices, recordService } from "#scripts/command-line/deployment.ts";
import { fillDirectory, writeWhole, writeWholeFrom } from "#scripts/command-line/files.ts";
import { defineSignet, signet } from "#scripts/command-line/signet.ts";
import { withExample } from "#scripts/command-line/program.ts";
import { createCsr, generateKeyPair } from "#pki/keys.ts";
import { pemEncode } from "#pki/pem.ts";
import { crlExtensions, forgeCrl, testAuthority, uri } from "#test/support/pki.ts";
import { temporaryDirectory } from "#test/support/temporary-directory.ts";
import { recordedTerminal } from "#test/support/terminal.ts";

async function run(argv: readonly string[], input: Uint8Array | string = "", options: { readonly stdoutIsTerminal?: boolean } = {}) {
  const terminal = recordedTerminal(input, options);
  const exitCode = await signet(argv, terminal);
  return { exitCode, out: terminal.out().toString("utf8"), err: terminal.err() };
}

describe("signet", () => {
  it("has every command of the contract, each with a summary and an example in its help", () => {
    const handled = new Set<Command>();
    const program = new Command("signet");
    const definition: Definition = {
      program,
      command: (parent, signature, summary, example) => {
        expect(example).toContain("npx signet");
        return withExample(parent.command(signature), summary, example);
      },
      group: (parent, name, summary) => parent.command(name).description(summary),
      handle: (command) => void handled.add(command),
    };
    defineSignet(definition);
    const leaves: string[] = [];
    const walk = (command: Command, names: readonly string[]): void => {
      expect(command.description()).not.toBe("");
      if (command.commands.length > 0) return command.commands.forEach((child) => walk(child, [...names, child.name()]));
      expect(handled.has(command)).toBe(true);
      leaves.push(names.join(" "));
    };
    walk(program, []);
    const families = {
      ca: ["init", "serve", "token", "issue", "follow-crl", "revoke", "crl", "list"],
      kms: ["serve", "status"],
      "kms key": ["create", "import", "list", "show", "get", "open", "rotate", "revoke", "destroy", "encrypt", "decrypt"],
      agent: ["enroll", "renew", "whoami", "watch"],
      file: ["encrypt", "decrypt"],
      pki: ["inspect", "verify", "import-crl", "lower-crl-floor", "lint"],
      trust: ["install", "uninstall", "status"],
    };
    for (const [family, names] of Object.entries(families)) for (const name of names) expect(leaves).toContain(`${family} ${name}`);
    for (const name of ["start", "status", "stop", "status-page", "demo"]) expect(leaves).toContain(name);
  });

  it("takes secrets from files or stdin, never as an argument", async () => {
    const data = temporaryDirectory();
    for (const argv of [["agent", "enroll", "alice", "--token", "x"], ["kms", "key", "import", "team", "--material", "x"]]) {
      const { exitCode, err } = await run([...argv, "--data", data]);
      expect(exitCode).toBe(1);
      expect(err).toMatch(/^signet: usage: /);
    }
  });

  it.each([
    ["an empty data directory", ["ca", "list"], "file-unusable"],
    ["an agent that was never enrolled", ["kms", "key", "list", "--as", "nobody", "--kms", "https://localhost:9"], "file-unusable"],
    ["a data directory without a KMS", ["kms", "key", "list"], "file-unusable"],
    ["a name that is a path", ["agent", "whoami", "../operator"], "usage"],
    ["a file that is not there", ["pki", "inspect", "absent.pem"], "file-unusable"],
    ["a directory for a file", ["pki", "inspect", "."], "file-unusable"],
    ["a server without a host name", ["ca", "issue", "api", "--out", "x"], "usage"],
    ["a repeated name that does not match", ["kms", "key", "destroy", "team", "--confirm", "taem"], "usage"],
    ["an enrolment without a CA", ["agent", "enroll", "alice", "--token-file", "-"], "usage"],
  ])("answers %s with exit code 1 and one line, and makes nothing", async (_what, argv, code) => {
    const data = temporaryDirectory();
    const { exitCode, out, err } = await run(["--data", data, ...argv], "token");
    expect([exitCode, out]).toStrictEqual([1, ""]);
    expect(err).toMatch(new RegExp(`^signet: ${code}: [^\\n]+\\n$`));
    expect(readdirSync(data)).toStrictEqual([]);
  });

  it("names a damaged signet.json and leaves it alone", async () => {
    const data = temporaryDirectory();
    writeFileSync(path.join(data, "signet.json"), "{");
    const { exitCode, err } = await run(["--data", data, "kms", "status"]);
    expect(exitCode).toBe(1);
    expect(err).toMatch(/^signet: data-directory-corrupt: /);
  });

  it("says that a signet.json of a later Signet is newer, not damaged, and reads the first format", async () => {
    const data = temporaryDirectory();
    const url = "https://localhost:1";
    writeFileSync(path.join(data, "signet.json"), JSON.stringify({ format: "signet-services-3", anything: true }));
    expect((await run(["kms", "status", "--data", data])).err).toMatch(/^signet: data-directory-newer: /);
    writeFileSync(path.join(data, "signet.json"), JSON.stringify({ format: "signet-services-1", kms: { url } }));
    expect(readServices(data)).toStrictEqual({ format: "signet-services-1", kms: { url } });
    recordService(data, { agent: "alice" });
    // Whoever knows the first format alone has to see that this is a later one.
    expect(JSON.parse(readFileSync(path.join(data, "signet.json"), "utf8"))).toStrictEqual({ format: "signet-services-2", kms: { url }, agent: "alice" });
  });

  it("keeps key material off a terminal and out of JSON", async () => {
    const data = temporaryDirectory();
    expect((await run(["--data", data, "kms", "key", "get", "team"], "", { stdoutIsTerminal: true })).exitCode).toBe(1);
    expect((await run(["--data", data, "kms", "key", "get", "team", "--json"])).err).toContain('"code":"usage"');
  });

  it("inspects certificates, requests and CRLs, PEM or DER, from files or stdin", async () => {
    const authority = await testAuthority({ now: new Date() });
    const { certificate } = await authority.issue({ role: "client", name: "alice" });
    const { privateKey } = await generateKeyPair("ec-p256");
    const csr = pemEncode("CERTIFICATE REQUEST", await createCsr(privateKey, { commonName: "alice" }));
    const crl = authority.leafCrl([{ serialNumber: certificate.serialNumber, revocationDate: new Date(), reason: "superseded" }]);
    const { exitCode, out } = await run(["pki", "inspect", "-", "--json"], certificate.toPem() + csr + crl.toPem());
    expect(exitCode).toBe(0);
    const { objects } = JSON.parse(out) as { objects: Record<string, unknown>[] };
    expect(objects.map(({ type }) => type)).toStrictEqual(["certificate", "request", "crl"]);
    expect(objects[0]).toMatchObject({ serialNumber: certificate.serialNumber, subjectAltName: ["uri:spiffe://signet.internal/agent/alice"], extendedKeyUsage: ["clientAuth"], validity: "in date" });
    expect(objects[2]).toMatchObject({ crlNumber: "1", freshness: "fresh", size: 1, entries: [{ serialNumber: certificate.serialNumber, reason: "superseded" }] });
    expect((await run(["pki", "inspect", "-"], certificate.der)).exitCode).toBe(0);
  });

  it("tells what is no certificate at all (1) from a damaged one (5)", async () => {
    expect((await run(["pki", "inspect", "-"], "hello")).exitCode).toBe(1);
    const { exitCode, err } = await run(["pki", "inspect", "-"], Buffer.from("30030201ff", "hex"));
    expect(exitCode).toBe(5);
    expect(err).toMatch(/^signet: certificate-malformed: /);
  });

  it("verifies with the exit codes of the verification contract, in words or as one object", async () => {
    const directory = temporaryDirectory();
    const authority = await testAuthority({ now: new Date() });
    const { certificate } = await authority.issue({ role: "client", name: "alice" });
    const file = (name: string, pem: string): string => {
      writeFileSync(path.join(directory, name), pem);
      return path.join(directory, name);
    };
    const argv = ["pki", "verify", "--trust", file("root.pem", authority.root.toPem()), "--intermediate", file("issuing.pem", authority.issuing.toPem()), "--crl-check"];
    const leaf = file("leaf.pem", certificate.toPem());
    expect(await run([...argv, "none", "--purpose", "clientAuth", leaf])).toMatchObject({ exitCode: 0 });
    expect(JSON.parse((await run([...argv, "none", leaf, "--json"])).out)).toMatchObject({ verdict: "accept" });
    const rejected = await run(["--json", ...argv, "none", "--purpose", "serverAuth", leaf]);
    expect(rejected.exitCode).toBe(1);
    expect(JSON.parse(rejected.out)).toMatchObject({ verdict: "reject", reason: "purpose-not-permitted" });
    expect((await run([...argv, "sometimes", leaf])).exitCode).toBe(2);
    expect((await run([...argv, "none", "--ocsp", leaf])).exitCode).toBe(3);
  });

  it("lints what Signet issues without a finding, and ends with 5 on a broken rule", async () => {
    const authority = await testAuthority({ now: new Date() });
    const { certificate } = await authority.issue({ role: "client", name: "alice" });
    const pem = [certificate, authority.issuing, authority.root].map((each) => each.toPem()).join("") + authority.leafCrl([]).toPem();
    const good = await run(["pki", "lint", "-", "--json"], pem);
    expect(JSON.parse(good.out)).toStrictEqual({ results: ["certificate", "certificate", "certificate", "crl"].map((type) => ({ file: "-", type, holds: true })) });
    // Shards share numbers: a delta is held against the base of its own scope, in whatever order they come.
    const shard = (name: string, ...more: Uint8Array[]) =>
      forgeCrl({ issuer: authority.issuing.subject, extensions: [crlExtensions.authorityKeyIdentifier(authority.issuing.extensions.subjectKeyIdentifier ?? ""), crlExtensions.crlNumber(7), crlExtensions.issuingDistributionPoint({ fullName: uri(name), user: true }), ...more] }, authority.issuingKeys.privateKey).toPem();
    const freshest = crlExtensions.freshestCrl("http://localhost/1-delta.crl");
    const shards = shard("http://localhost/0.crl", freshest) + shard("http://localhost/1.crl", freshest) + shard("http://localhost/1.crl", crlExtensions.deltaCrlIndicator(7));
    expect(await run(["pki", "lint", "-"], authority.issuing.toPem() + shards)).toMatchObject({ exitCode: 0 });
    const long = authority.leafCrl([], { nextUpdate: new Date(Date.now() + 400 * 86_400_000) });
    expect((await run(["pki", "lint", "-"], authority.issuing.toPem() + long.toPem())).exitCode).toBe(5);
  });

  it.each(["inspect", "lint"])("says that a file with a key alone holds nothing to %s", async (command) => {
    const { exitCode, err } = await run(["pki", command, "-"], generateKeyPairSync("ed25519").privateKey.export({ type: "pkcs8", format: "pem" }).toString());
    expect({ exitCode, err }).toEqual({ exitCode: 1, err: expect.stringContaining("pem-malformed") });
  });
});

describe("files of the command line", () => {
  it("fill a directory whole or not at all, and never over what is there", async () => {
    const directory = path.join(temporaryDirectory(), "new");
    const failure = new Error("no");
    await expect(fillDirectory(directory, ["a", "b"], async (write) => {
      write("a", "1", 0o600);
      throw failure;
    })).rejects.toBe(failure);
    expect(() => statSync(directory)).toThrow();
    await fillDirectory(directory, ["a", "b"], async (write) => write("a", "1", 0o600));
    expect(readdirSync(directory)).toStrictEqual(["a"]);
    if (process.platform !== "win32") expect(statSync(path.join(directory, "a")).mode & 0o777).toBe(0o600);
    await expect(fillDirectory(directory, ["a", "b"], async () => {})).rejects.toMatchObject({ code: "file-unusable" });
    expect(readdirSync(directory)).toStrictEqual(["a"]);
  });

  it("fill a directory that another fills meanwhile not at all, and leave it what it has", async () => {
    const directory = temporaryDirectory();
    const names = ["a", "b", "c"];
    await expect(fillDirectory(directory, names, async (write) => {
      for (const name of names) write(name, "late", 0o600);
      await fillDirectory(directory, ["b"], async (other) => other("b", "early", 0o600));
    })).rejects.toMatchObject({ code: "file-unusable" });
    expect(readdirSync(directory)).toStrictEqual(["b"]);
    expect(readFileSync(path.join(directory, "b"), "utf8")).toBe("early");
  });

  it.skipIf(process.platform === "win32")("take the place of regular files alone, not of a link or a pipe (skipped on Windows)", async () => {
    const directory = temporaryDirectory();
    const [file, symbolic, pipe] = ["file", "link", "pipe"].map((name) => path.join(directory, name)) as [string, string, string];
    writeFileSync(file, "kept");
    symlinkSync(file, symbolic);
    expect(spawnSync("mkfifo", [pipe]).status).toBe(0);
    const refused = { code: "file-unusable", details: { next: "Name the file itself, or leave out --out to pipe." } };
    for (const taken of [symbolic, pipe]) {
      expect(() => writeWhole(taken, "x", 0o600)).toThrow(expect.objectContaining(refused));
      await expect(writeWholeFrom(taken, Readable.from([Buffer.from("x")]), new AbortController().signal)).rejects.toMatchObject(refused);
    }
    writeWhole(file, "written", 0o600);
    expect([lstatSync(symbolic).isSymbolicLink(), lstatSync(pipe).isFIFO(), readFileSync(symbolic, "utf8")]).toStrictEqual([true, true, "written"]);
    expect(readdirSync(directory).sort()).toStrictEqual(["file", "link", "pipe"]);
  });

  it("are refused where a directory stands in their place", () => {
    const directory = temporaryDirectory();
    mkdirSync(path.join(directory, "taken"));
    expect(() => writeWhole(path.join(directory, "taken"), "x", 0o600)).toThrow(expect.objectContaining({ code: "file-unusable" }));
    expect(readdirSync(directory)).toStrictEqual(["taken"]);
  });
});
