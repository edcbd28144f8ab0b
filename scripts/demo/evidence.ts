/** What the run leaves for others to check: every certificate and CRL as PEM, and the OpenSSL commands that verify them. Public things only. */
import { mkdir, readFile, writeFile } from "node:fs/promises";
import path from "node:path";
import type { SystemUnderAttack } from "./world.ts";

export interface EvidenceFile {
  readonly name: string;
  readonly what: string;
}

export interface Verification {
  readonly command: string;
  /** `good`, or `revoked`: the command then fails and says so. */
  readonly outcome: "good" | "revoked";
}

export interface Evidence {
  readonly files: readonly EvidenceFile[];
  readonly verifications: readonly Verification[];
}

// These files hold the private key as well: only the certificates are taken.
const certificatesIn = (pem: string): string[] => pem.match(/-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----/g)?.map((one) => `${one}\n`) ?? [];

async function download(url: string): Promise<Buffer> {
  const answer = await fetch(url);
  if (!answer.ok) throw new Error(`${url} answered ${answer.status}`);
  return Buffer.from(await answer.arrayBuffer());
}

const crlPem = (der: Buffer): string => `-----BEGIN X509 CRL-----\n${der.toString("base64").replaceAll(/.{64}(?=.)/g, "$&\n")}\n-----END X509 CRL-----\n`;

/** Writes the certificates of all parties and the CRLs in force into `directory`. */
export async function gatherEvidence(system: SystemUnderAttack, directory: string): Promise<Evidence> {
  await mkdir(directory, { recursive: true });
  const files: EvidenceFile[] = [];
  const verifications: Verification[] = [];
  const write = async (name: string, content: string, what: string): Promise<void> => {
    await writeFile(path.join(directory, name), content);
    files.push({ name, what });
  };
  const alice = system.identityDirectory("alice");
  await write("root.pem", await readFile(path.join(alice, "root.pem"), "utf8"), "the root, which everybody has pinned");
  const [, issuing = ""] = certificatesIn(await readFile(path.join(alice, "client.pem"), "utf8"));
  await write("issuing.pem", issuing, "the issuing CA");
  const { publicationUrl } = system.ca;
  const crls: string[] = [];
  const crlVerifications: Verification[] = [];
  for (const [name, issuer, what] of [["root", "root", "CRL of the root: issuing CAs that were revoked (none)"], ["leaf-0", "issuing", "CRL of the issuing CA: Bob is on it"]] as const) {
    const pem = crlPem(await download(new URL(`/crl/${name}.crl`, publicationUrl).href));
    crls.push(pem);
    await write(`crl-${name}.pem`, pem, what);
    crlVerifications.push({ command: `openssl crl -in crl-${name}.pem -CAfile ${issuer}.pem -noout`, outcome: "good" });
  }
  await write("crls.pem", crls.join(""), "both CRLs in one file");
  verifications.push(...crlVerifications, { command: "openssl verify -x509_strict -crl_check_all -CAfile root.pem -CRLfile crls.pem issuing.pem", outcome: "good" });
  for (const name of ["kms", "alice", "bob", "carol", "dave", "mallory"]) {
    for (const role of ["client", "server"] as const) {
      const chain = await readFile(path.join(system.identityDirectory(name), `${role}.pem`), "utf8").catch(() => "");
      const [leaf] = certificatesIn(chain);
      if (leaf === undefined) continue;
      const file = role === "client" ? `${name}.pem` : `${name}-server.pem`;
      await write(file, leaf, `${name}, in the role of a ${role}`);
      verifications.push({
        command: `openssl verify -x509_strict -crl_check_all -purpose ${role === "client" ? "sslclient" : "sslserver"} -CAfile root.pem -untrusted issuing.pem -CRLfile crls.pem ${file}`,
        outcome: name === "bob" ? "revoked" : "good",
      });
    }
  }
  return { files, verifications };
}
