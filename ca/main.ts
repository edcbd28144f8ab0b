import { parseArgs } from "node:util";
import { systemClock } from "#pki/clock.ts";
import { SignetError } from "#pki/errors.ts";
import { createLog } from "#pki/service-log.ts";
import { passphraseOf } from "#pki/unseal.ts";
import { DataDirectory } from "#store/data-directory.ts";
import { Authority, initialiseAuthority } from "./authority.ts";
import { serveAuthority } from "./http.ts";
import { authorityDirectoryFormat, authorityPaths, type AuthoritySettings } from "./settings.ts";

// The process of the certificate authority:
//   node ca/main.ts --data DIR [--init [--trust-domain D] [--host ADDRESS] [--dns NAME]... [--ip ADDRESS]...]
//                   [--enrolment-port N] [--mutual-port N] [--publication-port N] [--production] [--passphrase-file FILE]
// --init makes the authority where DIR has none yet. Names, ports and the mode are fixed then; given later, they have to be the same.
// A production authority is one whose unseal key is sealed under a passphrase, which a file holds, or systemd's credential ca-passphrase.
// When it serves, it prints one JSON line on stdout; its log goes to stderr. SIGTERM and SIGINT stop it cleanly.

const log = createLog("ca");

function argumentsOf(argv: readonly string[]) {
  try {
    const { values } = parseArgs({
      args: [...argv],
      strict: true,
      options: {
        data: { type: "string" },
        init: { type: "boolean", default: false },
        "trust-domain": { type: "string" },
        host: { type: "string" },
        dns: { type: "string", multiple: true },
        ip: { type: "string", multiple: true },
        "enrolment-port": { type: "string" },
        "mutual-port": { type: "string" },
        "publication-port": { type: "string" },
        production: { type: "boolean", default: false },
        "passphrase-file": { type: "string" },
      },
    });
    return values;
  } catch (error) {
    throw new SignetError("usage", error instanceof Error ? error.message : "The arguments do not parse.");
  }
}

/** Port number of an option; undefined where none or 0 (any free one) is given. */
function portOf(name: string, text: string | undefined): number | undefined {
  if (text === undefined || text === "0") return undefined;
  if (!/^\d{1,5}$/.test(text) || Number(text) > 65_535) throw new SignetError("usage", `--${name} takes a port number.`);
  return Number(text);
}

async function main(): Promise<void> {
  const given = argumentsOf(process.argv.slice(2));
  if (given.data === undefined) throw new SignetError("usage", "--data DIR is missing.");
  const wanted = {
    trustDomain: given["trust-domain"],
    host: given.host,
    enrolmentPort: portOf("enrolment-port", given["enrolment-port"]),
    mutualPort: portOf("mutual-port", given["mutual-port"]),
    publicationPort: portOf("publication-port", given["publication-port"]),
    dns: given.dns,
    ip: given.ip,
  };
  const paths = authorityPaths(given.data);
  const isNew = DataDirectory.inspect(paths.ca, authorityDirectoryFormat) !== "ours";
  const passphrase = await passphraseOf({
    unsealKey: paths.unsealKey,
    isNew,
    production: given.production,
    source: { file: given["passphrase-file"], option: "--ca-passphrase-file", credential: "ca-passphrase" },
  });
  const unsealing = { clock: systemClock, ...(passphrase === undefined ? {} : { passphrase }) };
  if (given.init && isNew) {
    const chosen = Object.fromEntries(Object.entries(wanted).filter(([, value]) => value !== undefined));
    await initialiseAuthority(given.data, { ...chosen, ...unsealing });
  }
  const authority = await Authority.open(given.data, { ...unsealing, log });
  log.setBindings({ mode: authority.mode });
  let serving: Awaited<ReturnType<typeof serveAuthority>>;
  try {
    requireSame(authority.settings, wanted);
    await authority.start();
    serving = await serveAuthority(authority, { clock: systemClock, log });
  } catch (error) {
    await authority.close();
    throw error;
  }
  if (authority.mode === "development") log.warn("a DEVELOPMENT deployment: its unseal key lies unprotected beside the data");
  let stopping = false;
  const stop = () => {
    if (stopping) return;
    stopping = true;
    log.info("stopping");
    serving
      .close()
      .then(() => authority.close())
      .then(() => process.exit(0))
      .catch(fail);
  };
  process.on("SIGTERM", stop);
  process.on("SIGINT", stop);
  const { enrolmentUrl, mutualUrl, publicationUrl } = serving;
  const { root, settings } = authority;
  process.stdout.write(
    `${JSON.stringify({ ready: true, service: "ca", enrolmentUrl, mutualUrl, publicationUrl, rootFingerprint: root.fingerprint, trustDomain: settings.trustDomain, mode: authority.mode, pid: process.pid })}\n`,
  );
}

function requireSame(settings: AuthoritySettings, wanted: Partial<Record<keyof AuthoritySettings, unknown>>): void {
  for (const name of Object.keys(settings) as (keyof AuthoritySettings)[])
    if (wanted[name] !== undefined && JSON.stringify(wanted[name]) !== JSON.stringify(settings[name]))
      throw new SignetError("usage", `${name} was fixed at initialisation: it is ${JSON.stringify(settings[name])}.`);
}

function fail(error: unknown): never {
  if (error instanceof SignetError) {
    process.stderr.write(`signet ca: ${error.code}: ${error.message}\n`);
    process.exit(error.exitCode);
  }
  log.fatal({ err: error }, "a defect stopped the authority");
  process.exit(2);
}

process.on("uncaughtException", fail);
main().catch(fail);
