import { constants, readdirSync, statSync } from "node:fs";
import { homedir } from "node:os";
import path from "node:path";
import { Certificate } from "#pki/certificate.ts";
import { SignetError } from "#pki/errors.ts";
import { findTool, isAccessible, lastLine, runTool, type ToolResult, type TrustState, type TrustStore } from "./trust-store.ts";

const databaseFile = "cert9.db";

/** A certificate database of NSS, as Firefox and Chromium keep one for each user, changed with NSS's own `certutil`. */
export class NssDatabase implements TrustStore {
  readonly kind = "nss";
  readonly location: string;
  readonly #certutil: string;

  /** @param directory holds cert9.db @param certutil NSS's tool; Windows has another of that name */
  constructor(directory: string, certutil: string) {
    this.location = directory;
    this.#certutil = certutil;
  }

  obstacle() {
    const { uid } = statSync(path.join(this.location, databaseFile));
    // Root could, and would leave files behind that their owner cannot change.
    if (process.getuid !== undefined && process.getuid() !== uid) return { reason: `it belongs to another user (${uid})`, next: "Run it as that user, without sudo." };
    return isAccessible(path.join(this.location, databaseFile), constants.W_OK) ? undefined : { reason: "it cannot be written", next: "Check its permissions." };
  }

  async state(root: Certificate): Promise<{ readonly state: TrustState; readonly note?: string }> {
    const ours = nicknameOf(root);
    const entries = await this.#entries();
    // Ours first: of roots of one subject, as those of two deployments are, NSS shows all under the name of each.
    for (const { nickname, trust } of entries.toSorted((one, other) => Number(other.nickname === ours) - Number(one.nickname === ours))) {
      const isRoot = (await this.#certificates(nickname)).includes(root.fingerprint);
      if (nickname === ours) return isRoot ? { state: trust.startsWith("C") ? "installed" : "incomplete" } : { state: "foreign", note: `"${ours}" there is not this root` };
      if (isRoot) return { state: "foreign", note: "the root is there already, under a name that is not Signet's" };
    }
    return { state: "absent" };
  }

  plan(act: "install" | "uninstall", root: Certificate): readonly string[] {
    const target = `-d sql:${this.location} -n "${nicknameOf(root)}"`;
    return [act === "install" ? `certutil -A ${target} -t C,,` : `certutil -D ${target}`];
  }

  async install(root: Certificate): Promise<void> {
    const input = await this.#run(["-A", "-a", "-n", nicknameOf(root), "-t", "C,,"], root.toPem());
    // A database with a password takes the certificate and then refuses the trust, some releases with 0.
    if (input.exitCode === 0 && (await this.state(root)).state === "installed") return;
    await this.#run(["-D", "-n", nicknameOf(root)]);
    throw new SignetError("file-unusable", `${this.location} did not take the root (${lastLine(input)}).`, { details: { next: "A database with a password is changed in the browser's own settings." } });
  }

  async uninstall(root: Certificate): Promise<void> {
    const result = await this.#run(["-D", "-n", nicknameOf(root)]);
    if (result.exitCode !== 0) throw new SignetError("file-unusable", `${this.location}: the root could not be taken out (${lastLine(result)}).`);
  }

  async #entries(): Promise<readonly { readonly nickname: string; readonly trust: string }[]> {
    const result = await this.#run(["-L"]);
    if (result.exitCode !== 0) throw new SignetError("file-unusable", `${this.location} cannot be read (${lastLine(result)}).`);
    return result.stdout.split("\n").flatMap((line) => {
      const [, nickname, trust] = /^(.*?) +([a-zA-Z]*,[a-zA-Z]*,[a-zA-Z]*) *$/.exec(line) ?? [];
      return nickname === undefined || trust === undefined || nickname.trim() === "" || nickname === "Certificate Nickname" ? [] : [{ nickname, trust }];
    });
  }

  /** SHA-256 of the certificates that NSS shows under a name; none where they cannot be read, as those of a token that is not there. */
  async #certificates(nickname: string): Promise<readonly string[]> {
    const { exitCode, stdout } = await this.#run(["-L", "-n", nickname, "-a"]);
    try {
      return exitCode === 0 ? Certificate.listFromPem(stdout.replaceAll("\r", "")).map(({ fingerprint }) => fingerprint) : [];
    } catch {
      return [];
    }
  }

  #run(argv: readonly string[], input = ""): Promise<ToolResult> {
    return runTool(this.#certutil, [...argv, "-d", `sql:${this.location}`], input);
  }
}

/** NSS wants a name for every certificate; this one says whose it is and which. */
function nicknameOf(root: Certificate): string {
  return `Signet root ${root.fingerprint}`;
}

/** Where browsers of one user keep such databases on Linux: Chromium's one, and each profile of Firefox, packaged or in a snap or flatpak. */
const databases = [".pki/nssdb", "snap/chromium/current/.pki/nssdb"];
const profileFolders = [".mozilla/firefox", ".config/mozilla/firefox", "snap/firefox/common/.mozilla/firefox", ".var/app/org.mozilla.firefox/.mozilla/firefox"];

/** The databases of one user that exist; none is made. */
export function findNssDatabases(home: string = homedir()): readonly string[] {
  const profiles = profileFolders.flatMap((folder) => subfolders(path.join(home, folder)));
  return [...databases.map((folder) => path.join(home, folder)), ...profiles].filter((folder) => isAccessible(path.join(folder, databaseFile), constants.F_OK));
}

function subfolders(folder: string): readonly string[] {
  try {
    return readdirSync(folder, { withFileTypes: true }).filter((entry) => entry.isDirectory()).map((entry) => path.join(folder, entry.name)).sort();
  } catch {
    return [];
  }
}

/** The user's databases, where NSS's tool is there to change them. */
export function nssStores(home?: string): readonly TrustStore[] {
  const certutil = process.platform === "linux" ? findTool("certutil") : undefined;
  return certutil === undefined ? [] : findNssDatabases(home).map((directory) => new NssDatabase(directory, certutil));
}
