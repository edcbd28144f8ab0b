import { constants, lstatSync, readFileSync, rmSync } from "node:fs";
import path from "node:path";
import { Certificate } from "#pki/certificate.ts";
import { SignetError } from "#pki/errors.ts";
import { writeWhole } from "../command-line/files.ts";
import { errnoOf, fileError } from "../command-line/program.ts";
import { findTool, isAccessible, lastLine, runTool, type TrustState, type TrustStore } from "./trust-store.ts";

export interface AnchorFolderOptions {
  /** Folder for certificates of the local administrator; each is a `.crt` file. */
  readonly anchors: string;
  /** All trusted certificates in one PEM file, which the tool writes. */
  readonly bundle: string;
  /** The tool, with its options. */
  readonly update: readonly [string, ...string[]];
}

/** Debian's store and its like: a folder of anchors, out of which `update-ca-certificates` (8) makes what programs read. */
export class AnchorFolder implements TrustStore {
  readonly kind = "system";
  readonly location: string;
  readonly #options: AnchorFolderOptions;

  constructor(options: AnchorFolderOptions) {
    this.#options = options;
    this.location = options.anchors;
  }

  obstacle() {
    const { anchors, bundle } = this.#options;
    const closed = [anchors, path.dirname(bundle)].find((folder) => !isAccessible(folder, constants.W_OK));
    return closed === undefined ? undefined : { reason: `${closed} can be changed by root alone`, next: "sudo" as const };
  }

  async state(root: Certificate): Promise<{ readonly state: TrustState; readonly note?: string }> {
    const file = this.#file(root);
    const held = contentOf(file);
    if (held === undefined) return { state: this.#bundleHolds(root) ? "foreign" : "absent", ...(this.#bundleHolds(root) ? { note: "the root is trusted already, under a name that is not Signet's" } : {}) };
    if (held !== root.fingerprint) return { state: "foreign", note: `${file} is not this root` };
    return { state: this.#bundleHolds(root) ? "installed" : "incomplete" };
  }

  plan(act: "install" | "uninstall", root: Certificate): readonly string[] {
    const file = this.#file(root);
    return act === "install" ? [`write ${file}`, this.#command([])] : [`remove ${file}`, this.#command(["--fresh"])];
  }

  async install(root: Certificate): Promise<void> {
    const file = this.#file(root);
    writeWhole(file, root.toPem(), 0o644);
    try {
      await this.#update([]);
      if (!this.#bundleHolds(root)) throw new SignetError("file-unusable", `${this.#options.bundle} does not hold the root after the update.`);
    } catch (error) {
      rmSync(file, { force: true });
      await this.#update(["--fresh"]).catch(() => {});
      throw error;
    }
  }

  async uninstall(root: Certificate): Promise<void> {
    const file = this.#file(root);
    try {
      rmSync(file);
    } catch (error) {
      throw fileError(file, error);
    }
    // Without --fresh its links in the folder of hashed names would stay, and lead nowhere.
    await this.#update(["--fresh"]);
  }

  /** The name says whose it is and which: two deployments have two files. */
  #file(root: Certificate): string {
    return path.join(this.#options.anchors, `signet-${root.fingerprint}.crt`);
  }

  #command(more: readonly string[]): string {
    const [tool, ...options] = this.#options.update;
    return [path.basename(tool), ...options, ...more].join(" ");
  }

  async #update(more: readonly string[]): Promise<void> {
    const [tool, ...options] = this.#options.update;
    const result = await runTool(tool, [...options, ...more]);
    if (result.exitCode !== 0) throw new SignetError("file-unusable", `${this.#command(more)} ended with ${result.exitCode}: ${lastLine(result)}`);
  }

  #bundleHolds(root: Certificate): boolean {
    try {
      return readFileSync(this.#options.bundle, "latin1").replaceAll("\r", "").includes(root.toPem().trim());
    } catch (error) {
      if (errnoOf(error) === "ENOENT") return false;
      throw fileError(this.#options.bundle, error);
    }
  }
}

/** SHA-256 of the certificate in a file; empty where something else is there, undefined where nothing is. */
function contentOf(file: string): string | undefined {
  try {
    return lstatSync(file).isFile() ? Certificate.fromPem(readFileSync(file, "latin1")).fingerprint : "";
  } catch (error) {
    if (errnoOf(error) === "ENOENT") return undefined;
    if (error instanceof SignetError) return "";
    throw fileError(file, error);
  }
}

/** The store of this machine. @throws SignetError usage, with what to type by hand, on a machine whose kind of store nobody has tried this on */
export function systemStore(rootFile: string): TrustStore {
  const update = findTool("update-ca-certificates");
  const anchors = "/usr/local/share/ca-certificates";
  if (process.platform === "linux" && update !== undefined && isAccessible(anchors, constants.R_OK)) return new AnchorFolder({ anchors, bundle: "/etc/ssl/certs/ca-certificates.crt", update: [update] });
  throw new SignetError("usage", "this machine's store is of a kind that Signet does not change by itself", { details: { next: `By hand: ${byHand(rootFile)}` } });
}

function byHand(rootFile: string): string {
  if (process.platform === "darwin") return `\`sudo security add-trusted-cert -d -r trustRoot -k /Library/Keychains/System.keychain ${rootFile}\`, and \`sudo security remove-trusted-cert -d ${rootFile}\` to undo it`;
  if (process.platform === "win32") return `\`certutil -user -addstore Root ${rootFile}\`, and \`certutil -user -delstore Root\` with its serial number to undo it`;
  if (findTool("update-ca-trust") !== undefined) return `\`sudo cp ${rootFile} /etc/pki/ca-trust/source/anchors/signet.pem && sudo update-ca-trust\`, and without that file to undo it`;
  if (findTool("trust") !== undefined) return `\`sudo trust anchor --store ${rootFile}\`, and \`sudo trust anchor --remove ${rootFile}\` to undo it`;
  return `hand ${rootFile} to the programs that shall trust it, such as \`curl --cacert ${rootFile}\``;
}
