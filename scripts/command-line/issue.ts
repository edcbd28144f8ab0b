import type { KeyObject } from "node:crypto";
import { CertificateRequest } from "#pki/certificate-request.ts";
import { checkProfile, identityUri, type IdentityKind, type Role } from "#pki/certificate-profile.ts";
import { Certificate } from "#pki/certificate.ts";
import { SignetError } from "#pki/errors.ts";
import { createCsr, generateKeyPair, type KeyType } from "#pki/keys.ts";
import { validatePath } from "#pki/path-validation.ts";
import { encodePkcs12 } from "#pki/pkcs12.ts";
import type { CaClient } from "./ca-client.ts";
import { fillDirectory } from "./files.ts";

/** What a directory holds after a certificate was issued into it, in the order in which it is written; `key.pem` only where the key was made here. */
const credentialFiles = ["key.pem", "cert.pem", "fullchain.pem", "root.pem", "crl.pem"] as const;

export interface IssueOptions {
  readonly name: string;
  readonly kind: IdentityKind;
  readonly role: Role;
  readonly dns: readonly string[];
  readonly ip: readonly string[];
  readonly validityDays?: number;
  /** Type of the key that is made here. */
  readonly keyType: KeyType;
  /** DER of a PKCS #10 request: its key is certified, and no key is made. */
  readonly csr?: Uint8Array;
  /** Also key and whole chain as NAME.p12; a password that was made here goes into NAME.p12.password. */
  readonly pkcs12?: { readonly password: Uint8Array; readonly keepPassword: boolean };
}

/**
 * Makes a key (PKCS #8, mode 0600), has the CA certify it, checks the path and the revocation of what comes back, and writes it with its chain and
 * every CRL that the chain needs into a directory: all of it or nothing.
 * @throws SignetError file-unusable before the CA is asked, where the directory cannot be written or holds one already
 */
export async function issueCredential(ca: CaClient, directory: string, options: IssueOptions): Promise<{ readonly certificate: Certificate; readonly files: readonly string[] }> {
  const { kind, name, role, dns, ip, validityDays, pkcs12 } = options;
  const [pfxFile, passwordFile] = [`${name}.p12`, `${name}.p12.password`];
  return fillDirectory(directory, [...credentialFiles, pfxFile, passwordFile], async (write) => {
    const files: string[] = [];
    const add: typeof write = (file, content, mode) => {
      write(file, content, mode);
      files.push(file);
    };
    let csr = options.csr;
    let publicKey: Uint8Array;
    let privateKey: KeyObject | undefined;
    if (csr === undefined) {
      const key = await generateKeyPair(options.keyType);
      ({ privateKey } = key);
      csr = await createCsr(privateKey, { commonName: name });
      publicKey = key.publicKey.export({ type: "spki", format: "der" });
      add("key.pem", privateKey.export({ type: "pkcs8", format: "pem" }), 0o600);
    } else {
      publicKey = CertificateRequest.parse(csr).spki;
    }
    // Before a certificate is asked for, so that none is issued where they are refused.
    await ca.refreshRevocation();
    const issued = await ca.issue({ csr: Buffer.from(csr).toString("base64"), kind, name, role, dns: [...dns], ip: [...ip], ...(validityDays === undefined ? {} : { validityDays }) });
    const certificate = Certificate.fromPem(issued.certificate);
    const intermediates = Certificate.listFromPem(issued.chain).filter((other) => !other.equals(certificate) && !ca.trustAnchors.some((anchor) => anchor.equals(other)));
    const path = validatePath({ endEntity: certificate, intermediates, trustAnchors: ca.trustAnchors, purpose: role === "server" ? "serverAuth" : "clientAuth", at: ca.clock.now() });
    if (checkProfile(path).uri !== identityUri(ca.trustDomain, kind, name) || !Buffer.from(publicKey).equals(certificate.spki)) {
      throw new SignetError("remote-malformed", "The CA's answer is not the certificate that was asked for.");
    }
    ca.revocation.check(path);
    add("cert.pem", certificate.toPem(), 0o644);
    add("fullchain.pem", path.chain.slice(0, -1).map((each) => each.toPem()).join(""), 0o644);
    add("root.pem", path.trustAnchor.toPem(), 0o644);
    add("crl.pem", ca.revocation.crls().map((crl) => crl.toPem()).join(""), 0o644);
    if (pkcs12 !== undefined && privateKey !== undefined) {
      add(pfxFile, encodePkcs12({ privateKey, chain: path.chain, friendlyName: name }, pkcs12.password), 0o600);
      if (pkcs12.keepPassword) add(passwordFile, Buffer.concat([pkcs12.password, Buffer.from("\n")]), 0o600);
    }
    return { certificate, files };
  });
}
