import { execFile, execFileSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { afterAll, expect, test } from "vitest";
import { SignetError } from "#pki/errors.ts";
import { verify } from "#pki/verification.ts";
import { testTime } from "#test/support/pki.ts";
import { randomFrom, randomPath } from "#test/support/random-paths.ts";
import type { RandomPath } from "#test/support/random-paths.ts";

/** How many paths: `SIGNET_OPENSSL_PATHS=500` for a thorough run. */
const count = Number(process.env["SIGNET_OPENSSL_PATHS"] ?? 40);
const isAbsent = ((): boolean => {
  try {
    return !execFileSync("openssl", ["version"]).toString().startsWith("OpenSSL 3");
  } catch {
    return true;
  }
})();

const directory = mkdtempSync(path.join(tmpdir(), "signet-openssl-"));
afterAll(() => rmSync(directory, { recursive: true }));

function signetAccepts({ root, intermediates, leaf, host }: RandomPath): boolean {
  try {
    verify({
      trust: [root.der],
      intermediates: intermediates.map((certificate) => certificate.der),
      crls: [],
      leaf: leaf.der,
      time: testTime.now,
      purpose: "serverAuth",
      names: [{ kind: "DNS", value: host }],
      crlCheck: "none",
      policy: undefined,
      maxDepth: undefined,
      minRsaBits: undefined,
      crlMaxAgeSec: undefined,
      anchor: "certificate",
      strict: false,
    });
    return true;
  } catch (error) {
    if (error instanceof SignetError) return false;
    throw error;
  }
}

function opensslAccepts({ root, intermediates, leaf, host }: RandomPath, index: number): Promise<boolean> {
  const put = (name: string, text: string): string => {
    const file = path.join(directory, `${index}-${name}.pem`);
    writeFileSync(file, text);
    return file;
  };
  const untrusted = intermediates.map((certificate) => certificate.toPem()).join("");
  const args = [
    // Without a policy of the user's, OpenSSL finds none acceptable; RFC 5280 section 6.1.1 (c) says any is.
    "verify",
    "-x509_strict",
    "-policy_check",
    "-policy",
    "2.5.29.32.0",
    "-purpose",
    "sslserver",
    "-verify_hostname",
    host,
    "-attime",
    String(testTime.now.getTime() / 1000),
    "-CAfile",
    put("root", root.toPem()),
    ...(untrusted === "" ? [] : ["-untrusted", put("untrusted", untrusted)]),
    put("leaf", leaf.toPem()),
  ];
  return new Promise((resolve) => execFile("openssl", args, (error) => resolve(error === null)));
}

test.skipIf(isAbsent)(`OpenSSL 3 gives the same verdict on ${count} random paths, good and changed`, async () => {
  const random = randomFrom(0x0551);
  const paths = Array.from({ length: count }, () => randomPath(random));
  const different: string[] = [];
  const accepted = { yes: 0, no: 0 };
  for (let from = 0; from < paths.length; from += 4) {
    const verdicts = await Promise.all(paths.slice(from, from + 4).map((one, index) => opensslAccepts(one, from + index)));
    for (const [index, theirs] of verdicts.entries()) {
      const one = paths[from + index] as RandomPath;
      const ours = signetAccepts(one);
      accepted[ours ? "yes" : "no"]++;
      if (ours !== theirs) different.push(`${from + index}: ${one.change}: Signet ${ours ? "accepts" : "rejects"}, OpenSSL ${theirs ? "accepts" : "rejects"}`);
    }
  }
  expect(different).toEqual([]);
  // A comparison in which everything is refused would show nothing.
  expect(accepted.yes).toBeGreaterThan(count / 5);
  expect(accepted.no).toBeGreaterThan(count / 5);
});
