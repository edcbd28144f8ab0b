import { writeFileSync, rmSync } from "node:fs";
import path from "node:path";
import { expect, test } from "vitest";
import { EnrolledIdentity } from "#pki/identity.ts";
import { signet } from "#scripts/command-line/signet.ts";
import { testAuthority } from "#test/support/pki.ts";
import { temporaryDirectory } from "#test/support/temporary-directory.ts";
import { recordedTerminal } from "#test/support/terminal.ts";

async function run(...argv: string[]) {
  const terminal = recordedTerminal();
  const exitCode = await signet([...argv, "--json"], terminal);
  const [out, err] = [terminal.out().toString("utf8"), terminal.err()];
  return { exitCode, answer: JSON.parse(out === "" ? err : out) as Record<string, unknown> };
}

/** An enrolled party on disk, whose CA listens nowhere. */
async function party() {
  const authority = await testAuthority({ now: new Date() });
  const { certificate, privateKey } = await authority.issue({ role: "client", name: "alice" });
  const directory = path.join(temporaryDirectory(), "alice");
  EnrolledIdentity.write(directory, { uri: "spiffe://signet.internal/agent/alice", caUrl: "https://localhost:1", root: authority.root, credentials: { client: { privateKey, chain: [certificate, authority.issuing] } } });
  const crlFile = (crlNumber: number, minutesAgo: number): string => {
    const file = path.join(directory, "..", `${crlNumber}.crl`);
    writeFileSync(file, authority.leafCrl([], { crlNumber: BigInt(crlNumber), thisUpdate: new Date(Date.now() - minutesAgo * 60_000) }).der);
    return file;
  };
  return { directory, crlFile };
}

test("a CRL file is verified and counts for the party; an older one is refused", async () => {
  const { directory, crlFile } = await party();
  expect(await run("pki", "import-crl", "--identity", directory, crlFile(7, 10))).toMatchObject({ exitCode: 0, answer: { imported: [{ crlNumber: "7" }] } });
  expect(await run("pki", "import-crl", "--identity", directory, crlFile(6, 20))).toMatchObject({ exitCode: 5, answer: { code: "crl-rollback" } });
});

test("a floor is lowered only by who says that he understands what passes then, and why", async () => {
  const { directory, crlFile } = await party();
  await run("pki", "import-crl", "--identity", directory, crlFile(7, 10));
  expect(await run("pki", "lower-crl-floor", directory, "--reason", "restored")).toMatchObject({ exitCode: 1, answer: { code: "usage" } });
  const understood = "--i-understand-that-revoked-certificates-may-pass";
  expect((await run("pki", "lower-crl-floor", directory, understood)).exitCode).toBe(1);
  const older = crlFile(6, 20);
  expect((await run("pki", "import-crl", "--identity", directory, older)).exitCode).toBe(5);
  expect(await run("pki", "lower-crl-floor", directory, "--reason", "restored", understood)).toMatchObject({ exitCode: 0, answer: { lowered: [{ crlNumber: "7" }] } });
  expect((await run("pki", "import-crl", "--identity", directory, older)).exitCode).toBe(0);
});

test("an identity whose floors were deleted is not opened", async () => {
  const { directory, crlFile } = await party();
  rmSync(path.join(directory, "crl-floors.json"));
  expect(await run("pki", "import-crl", "--identity", directory, crlFile(1, 5))).toMatchObject({ answer: { code: "data-directory-corrupt" } });
});
