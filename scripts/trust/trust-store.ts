import { execFile } from "node:child_process";
import { accessSync, constants } from "node:fs";
import path from "node:path";
import type { Certificate } from "#pki/certificate.ts";
import { SignetError } from "#pki/errors.ts";

/**
 * What a store holds under our name for a root. `incomplete`: ours, but not in effect, as an interrupted installation leaves it. `foreign`: something else
 * stands under our name, or the root stands under a name that is not ours; both are left alone.
 */
export type TrustState = "installed" | "incomplete" | "absent" | "foreign";

/** A place where programs of this machine look for the roots that they trust. */
export interface TrustStore {
  readonly kind: "system" | "nss";
  /** Where it is, for people. */
  readonly location: string;
  /** Why this process cannot change it, with what to type instead; undefined where it can. */
  obstacle(): { readonly reason: string; readonly next: "sudo" | string } | undefined;
  state(root: Certificate): Promise<{ readonly state: TrustState; readonly note?: string }>;
  /** The acts that {@link install} and {@link uninstall} consist of, as one would type them. */
  plan(act: "install" | "uninstall", root: Certificate): readonly string[];
  /** Puts the root in; a second time changes nothing. @throws SignetError file-unusable, with nothing left behind */
  install(root: Certificate): Promise<void>;
  /** Takes out what {@link install} put in, and nothing else. @throws SignetError file-unusable */
  uninstall(root: Certificate): Promise<void>;
}

/** A tool by its name, in PATH or where only root has it there; undefined where the machine lacks it. */
export function findTool(name: string): string | undefined {
  const folders = [...(process.env["PATH"] ?? "").split(path.delimiter), "/usr/sbin", "/sbin"];
  return folders.filter((folder) => path.isAbsolute(folder)).map((folder) => path.join(folder, name)).find((file) => isAccessible(file, constants.X_OK));
}

export function isAccessible(file: string, mode: number): boolean {
  try {
    accessSync(file, mode);
    return true;
  } catch {
    return false;
  }
}

export interface ToolResult {
  readonly exitCode: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs a tool without a shell and without a terminal to ask anything of. @throws SignetError file-unusable where it cannot be run */
export function runTool(file: string, argv: readonly string[], input = ""): Promise<ToolResult> {
  return new Promise((resolve, reject) => {
    const child = execFile(file, [...argv], { encoding: "utf8", timeout: 60_000, maxBuffer: 16 * 1024 * 1024 }, (error, stdout, stderr) => {
      if (error === null) return resolve({ exitCode: 0, stdout, stderr });
      if (typeof error.code === "number") return resolve({ exitCode: error.code, stdout, stderr });
      return reject(new SignetError("file-unusable", `${file} cannot be run: ${error.message}.`, { cause: error }));
    });
    // A tool that ends before it has read its input is told from its exit code.
    child.stdin?.on("error", () => {});
    child.stdin?.end(input);
  });
}

/** A tool's last word, for a message. */
export function lastLine({ stdout, stderr }: ToolResult): string {
  return `${stdout}\n${stderr}`.trim().split("\n").at(-1)?.trim() ?? "";
}
