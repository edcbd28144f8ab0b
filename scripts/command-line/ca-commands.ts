import { randomBytes } from "node:crypto";
import { isIP } from "node:net";
import { InvalidArgumentError, Option, type Command } from "commander";
import { CertificateRequest } from "#pki/certificate-request.ts";
import { identityUri, type IdentityKind, type Role } from "#pki/certificate-profile.ts";
import { SignetError } from "#pki/errors.ts";
import { keyTypes, type KeyType } from "#pki/keys.ts";
import { isDnsNameOrWildcard } from "#pki/name-matching.ts";
import { requirePkcs12Password } from "#pki/pkcs12.ts";
import { certificateStates, revocationReasons, type CertificateDescription, type RevocationAnswer, type RevocationReason, type RevocationRequest } from "#pki/protocol-ca.ts";
import type { CaClient } from "./ca-client.ts";
import { requireName } from "./deployment.ts";
import { readInput, writeWhole } from "./files.ts";
import { followCrl, type FollowOptions } from "./follow-crl.ts";
import { describeCrl, formatDescription, formatTable, readPkiObjects } from "./inspect.ts";
import { issueCredential, type IssueOptions } from "./issue.ts";
import { collect, parseInteger, usageError, type Definition, type Invocation, type Outcome } from "./program.ts";
import { defineChangePassphrase } from "./passphrase-command.ts";
import { initialiseCa, serveCa } from "./serve.ts";
import { addCaOptions, addLogOption, addModeOption, type CaOptions } from "./service-options.ts";
import { withCa } from "./session.ts";

interface NameOptions {
  readonly kind?: IdentityKind;
  readonly dns?: readonly string[];
  readonly ip?: readonly string[];
}

/** `signet ca`: the authority itself, and what its operator does over mutual TLS. */
export function defineCaCommands(definition: Definition): void {
  const { handle } = definition;
  const ca = definition.group(definition.program, "ca", "the certificate authority");

  const init = addModeOption(addCaOptions(definition.command(ca, "init", "make a root and an issuing CA in the data directory", "npx signet ca init --data data --trust-domain signet.internal\nnpx signet ca init --data /var/lib/signet-ca --production --ca-passphrase-file /etc/signet/ca-passphrase")));
  handle(init, async (invocation: Invocation, options: CaOptions): Promise<Outcome> => {
    const made = await initialiseCa(invocation, options);
    return { json: made, text: `${made.mode === "development" ? "A DEVELOPMENT CA: its unseal key lies unprotected beside its data.\n" : ""}${formatDescription(made)}` };
  });

  const serve = addLogOption(addModeOption(addCaOptions(definition.command(ca, "serve", "run the CA in the foreground, made first where there is none; Ctrl-C stops it", "npx signet ca serve --data data"))));
  handle(serve, (invocation: Invocation, options: CaOptions) => serveCa(invocation, options));

  defineChangePassphrase(definition, ca, "ca");

  const token = addNameOptions(definition.command(ca, "token <name>", "make a one-time enrolment token, alone on stdout", "npx signet ca token alice > alice.token"), "agent").option(
    "--lifetime <seconds>",
    "how long it can be used (60 to 604800)",
    parseInteger(60, 604_800),
  );
  handle(token, (invocation: Invocation, name: string, options: NameOptions & { readonly lifetime?: number }) =>
    withCa(invocation, async (authority) => {
      const { kind = "agent", dns, ip, lifetime } = options;
      const answer = await authority.createToken({
        name: requireName(name),
        kind,
        ...(dns === undefined ? {} : { dns: [...dns] }),
        ...(ip === undefined ? {} : { ip: [...ip] }),
        ...(lifetime === undefined ? {} : { lifetimeSeconds: lifetime }),
      });
      return { json: answer, text: answer.token };
    }),
  );

  const issue = addNameOptions(
    definition.command(ca, "issue <name>", "make a key and a certificate for it, with its chain and CRLs", "npx signet ca issue api --dns localhost --dns api.corp --ip 127.0.0.1 --out ./api\nnpx signet ca issue bob --kind agent --out ./bob"),
    "service",
  )
    .addHelpText("after", issueHelp)
    .requiredOption("--out <directory>", "directory for key.pem, cert.pem, fullchain.pem, root.pem and crl.pem")
    .addOption(new Option("--role <role>", "what the certificate is for; server for a service, else client").choices(["client", "server"]))
    .addOption(new Option("--key-type <type>", "type of the key").choices(keyTypes).default("ec-p256"))
    .option("--days <days>", "validity (1 to 398)", parseInteger(1, 398))
    .option("--csr <file>", "certify the key of this PKCS #10 request instead of making one (- for stdin)")
    .option("--p12", "also NAME.p12, key and chain for browsers and Java (PKCS #12)")
    .option("--p12-password-file <file>", "file of mode 0600 with its password (- for stdin); otherwise one is made");
  handle(issue, async (invocation: Invocation, name: string, options: NameOptions & Pkcs12Options & { readonly out: string; readonly role?: Role; readonly keyType: KeyType; readonly days?: number; readonly csr?: string }): Promise<Outcome> => {
    const { kind = "service", dns = [], ip = [], days, csr, keyType, out } = options;
    const role = options.role ?? (kind === "service" ? "server" : "client");
    if (kind === "service" && role === "server" && dns.length + ip.length === 0) throw usageError("a server's certificate needs a host name", "Add --dns NAME or --ip ADDRESS, such as --dns localhost.");
    const pkcs12 = await pkcs12Of(options, invocation);
    const request = {
      name: requireName(name),
      kind,
      role,
      dns,
      ip,
      keyType,
      ...(days === undefined ? {} : { validityDays: days }),
      ...(csr === undefined ? {} : { csr: readRequest(await readInput(csr, invocation), csr).der }),
      ...(pkcs12 === undefined ? {} : { pkcs12 }),
    };
    return withCa(invocation, async (authority) => {
      const { certificate, files } = await invocation.progress(`Issuing ${name}`, () => issueCredential(authority, out, request));
      const summary = { name, directory: out, serialNumber: certificate.serialNumber, notAfter: certificate.notAfter.toISOString(), fingerprint: certificate.fingerprint, files };
      return { json: summary, text: formatDescription(summary) };
    });
  });

  const follow = definition
    .command(ca, "follow-crl [command...]", "keep a file of CRLs current, and have a server read it", "npx signet ca follow-crl --out ./api/crl.pem -- nginx -p ./nginx -c nginx.conf -s reload")
    .addHelpText("after", followHelp)
    .requiredOption("--out <file>", "file to write, such as the crl.pem of `ca issue`")
    .option("--once", "write it and run the command once")
    .option("--as <agent>", "as an agent of the data directory (default: the operator)")
    .option("--identity <directory>", "as the enrolled party in this directory");
  handle(follow, (invocation: Invocation, command: readonly string[], options: FollowOptions) => followCrl(invocation, command, options));

  const revoke = definition
    .command(ca, "revoke <name|serial>", "revoke an identity whole, or one certificate by its serial number", "npx signet ca revoke bob --reason keyCompromise")
    .addOption(new Option("--reason <reason>", "why (RFC 5280 section 5.3.1)").choices(revocationReasons).default("unspecified"))
    .addOption(new Option("--kind <kind>", "kind of the identity, where the name alone does not tell").choices(["agent", "operator", "service"]));
  handle(revoke, (invocation: Invocation, target: string, options: { readonly reason: RevocationReason; readonly kind?: IdentityKind }) =>
    withCa(invocation, async (authority) => {
      const answer = await revokeTarget(authority, target, options);
      return { json: answer, text: `Revoked ${answer.revoked.join(", ") || "nothing: it was revoked already"}; CRL ${answer.crlNumber}, published ${answer.publishedAt}.` };
    }),
  );

  const list = definition
    .command(ca, "list", "list the certificates that the CA has issued", "npx signet ca list --state revoked")
    .option("--identity <uri>", "only those of one identity, such as spiffe://signet.internal/agent/alice")
    .addOption(new Option("--state <state>", "only those in one state").choices(certificateStates));
  handle(list, (invocation: Invocation, options: { readonly identity?: string; readonly state?: CertificateDescription["state"] }) =>
    withCa(invocation, async (authority) => {
      const certificates = await authority.listCertificates(options);
      const rows = certificates.map(({ serialNumber, identity, role, state, notAfter, reason }) => [serialNumber, identity, role, reason === undefined ? state : `${state} (${reason})`, notAfter]);
      return { json: { certificates }, text: formatTable(["serial number", "identity", "role", "state", "not after"], rows) };
    }),
  );

  const crl = definition
    .command(ca, "crl", "show the CRLs in force; publish or save them", "npx signet ca crl --publish --out crl.pem")
    .option("--publish", "publish a new one of leaves first")
    .option("--out <file>", "write them to a file (PEM), as `openssl verify -CRLfile` reads them");
  handle(crl, (invocation: Invocation, options: { readonly publish?: true; readonly out?: string }) =>
    withCa(invocation, async (authority) => {
      if (options.publish === true) await authority.publishCrl();
      const crls = await authority.crls();
      if (options.out !== undefined) writeWhole(options.out, crls.map((each) => each.toPem()).join(""), 0o644);
      const described = crls.map((each) => describeCrl(each, authority.clock.now()));
      return { json: { crls: described, ...(options.out === undefined ? {} : { file: options.out }) }, text: described.map((each) => formatDescription(each)).join("\n\n") };
    }),
  );
}

interface Pkcs12Options {
  readonly p12?: true;
  readonly p12PasswordFile?: string;
  readonly csr?: string;
}

/** 144 bits, in characters that every shell, option and dialogue takes as they are: one in 64 of base64url begins with "-". @throws SignetError usage */
async function pkcs12Of({ p12, p12PasswordFile: file, csr }: Pkcs12Options, invocation: Invocation): Promise<IssueOptions["pkcs12"]> {
  if (p12 !== true) {
    if (file !== undefined) throw usageError("--p12-password-file is the password of a file that is not asked for", "Add --p12.");
    return undefined;
  }
  if (csr !== undefined) throw usageError("a .p12 file holds the private key, which stays with its owner where --csr is given", "Leave one of the two out; the owner makes one with `openssl pkcs12 -export`.");
  if (file === undefined) return { password: Buffer.from(randomBytes(18).toString("hex")), keepPassword: true };
  const content = Buffer.from(await readInput(file, invocation, "password"));
  // One line break at the end is the editor's.
  const end = content.at(-1) === 0x0a ? (content.at(-2) === 0x0d ? -2 : -1) : content.length;
  const password = content.subarray(0, end);
  requirePkcs12Password(password);
  return { password, keepPassword: false };
}

const issueHelp = `
Written into the directory, in this order, all of it or nothing; the directory is made with mode 0700 where there is none, and no file is replaced:
  key.pem            private key, PKCS #8       0600: its owner alone; a server reads it as root, or runs as the owner
  cert.pem           the certificate            0644
  fullchain.pem      it and the issuing CA      0644: what a server or client shows
  root.pem           the root                   0644: what the other side verifies against
  crl.pem            every CRL of the chain     0644: kept current by \`npx signet ca follow-crl\`
  NAME.p12           with --p12                 0600: key, certificate, issuing CA and root, AES-256 under a password
  NAME.p12.password  with --p12 alone           0600: the password that was made; move it away from NAME.p12
With --csr there is no key.pem. Where the CA refuses, a name outside of its name constraints for one, nothing is issued and nothing is left.`;

const followHelp = `
The file is written whole each time, then the command runs: at the start, and whenever a CRL of any scope takes effect. Every CRL is verified and held against this
party's floors first, as everywhere. A command that fails or takes more than a minute is reported on stderr and run again; stdout has one line per file that was
written, with the numbers of its CRLs and what the command took. Ctrl-C stops it.`;

/**
 * Revokes what `target` names: a serial number, an identity's URI, or the name of an identity that the CA knows.
 * @throws SignetError not-found; usage where several kinds of identity have the name
 */
export async function revokeTarget(ca: CaClient, target: string, options: { readonly reason: RevocationReason; readonly kind?: IdentityKind }): Promise<RevocationAnswer> {
  return ca.revoke(await revocationOf(ca, target, options));
}

async function revocationOf(ca: CaClient, target: string, { reason, kind }: { readonly reason: RevocationReason; readonly kind?: IdentityKind }): Promise<RevocationRequest> {
  if (target.startsWith("spiffe://")) return { identity: target, reason };
  // As `openssl x509 -serial` prints it, too. A name that long and without g to z has to be given as a URI.
  if (kind === undefined && /^(?:[0-9a-f]{2}:?){8,20}$/i.test(target)) return { serialNumber: target.replaceAll(":", "").toLowerCase(), reason };
  const name = requireName(target);
  const kinds: readonly IdentityKind[] = kind === undefined ? ["agent", "service", "operator"] : [kind];
  const known: string[] = [];
  for (const each of kinds) {
    const identity = identityUri(ca.trustDomain, each, name);
    if ((await ca.listCertificates({ identity })).length > 0) known.push(identity);
  }
  const [identity, ...more] = known;
  if (identity === undefined) throw new SignetError("not-found", `The CA has issued nothing to ${target}.`, { details: { next: "See `npx signet ca list`." } });
  if (more.length > 0) throw usageError(`there are several identities named ${target}: ${known.join(", ")}`, "Say which with --kind.");
  return { identity, reason };
}

/** @throws SignetError pem-malformed, csr-malformed, csr-signature-invalid */
function readRequest(octets: Uint8Array, file: string): CertificateRequest {
  const [object, ...more] = readPkiObjects(octets, file);
  if (object?.kind !== "request" || more.length > 0) throw new SignetError("pem-malformed", `${file} holds no request, or more than that.`, { details: { next: "A file with one CERTIFICATE REQUEST block is wanted." } });
  object.value.verifyPossession();
  return object.value;
}

function addNameOptions(command: Command, kind: IdentityKind): Command {
  return command
    .addOption(new Option("--kind <kind>", "kind of the identity").choices(["agent", "operator", "service"]).default(kind))
    .option("--dns <name>", "DNS name of its server (repeatable)", collectDnsName)
    .option("--ip <address>", "IP address of its server (repeatable)", collectAddress);
}

function collectDnsName(value: string, previous?: readonly string[]): readonly string[] {
  const name = value.toLowerCase();
  if (isIP(name) !== 0 || name.includes("_") || !isDnsNameOrWildcard(name)) throw new InvalidArgumentError("A DNS name is wanted, such as api.corp; an address is given with --ip.");
  return collect(name, previous);
}

function collectAddress(value: string, previous?: readonly string[]): readonly string[] {
  if (isIP(value) === 0 || value.includes("%")) throw new InvalidArgumentError("An IP address is wanted, such as 127.0.0.1; a name is given with --dns.");
  return collect(value, previous);
}
