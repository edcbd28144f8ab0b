/** The directory that a run leaves its report in, held for that run alone while it works. */
import { existsSync } from "node:fs";
import { mkdir, readdir, rm } from "node:fs/promises";
import path from "node:path";
import { SignetError } from "#pki/errors.ts";
import { DataDirectory } from "#store/data-directory.ts";

const format = { service: "demo", version: 1 } as const;
/** Holds the lock and, below it, what the run works with; it goes when the run ends. */
const holdName = "run";
const reportName = "report.json";
const leftByRuns = /^(?:report\.(?:json|html)|[a-z0-9-]+\.pem)$/;

export class OutputDirectory {
  readonly path: string;
  readonly #held: DataDirectory;

  private constructor(directory: string, held: DataDirectory) {
    this.path = directory;
    this.#held = held;
  }

  /**
   * Takes a directory that is empty or that an earlier run wrote, and clears away what that run left.
   * @throws SignetError data-directory-foreign where anything else lies, data-directory-locked while another run is at work: nothing was touched then
   */
  static async take(directory: string): Promise<OutputDirectory> {
    await mkdir(directory, { recursive: true });
    const hold = path.join(directory, holdName);
    const names = (await readdir(directory)).filter((name) => !committed.has(name));
    if (names.length > 0 && !names.includes(reportName) && DataDirectory.inspect(hold, format) === "empty")
      throw new SignetError("data-directory-foreign", `${directory} holds something else. It was left alone.`, { details: { next: "Name another one with --directory." } });
    const output = new OutputDirectory(directory, await holdFor(hold));
    await output.#clearReport();
    await output.#clearWorking();
    await mkdir(output.working, { mode: 0o700 });
    return output;
  }

  /** Where the run keeps its services' data and its private keys. */
  get working(): string {
    return this.#held.file("work");
  }

  /** Ends the run's hold. What it worked with goes; its certificates stay only with the report that tells of them. */
  async release(options: { readonly keepWorking: boolean }): Promise<void> {
    if (!existsSync(path.join(this.path, reportName))) await this.#clearReport();
    if (!options.keepWorking) await this.#clearWorking();
    this.#held.close();
    if (!options.keepWorking) await rm(this.#held.path, { recursive: true, force: true, maxRetries: 3 });
  }

  async #clearReport(): Promise<void> {
    for (const name of await readdir(this.path)) if (leftByRuns.test(name)) await rm(path.join(this.path, name));
  }

  async #clearWorking(): Promise<void> {
    await rm(this.working, { recursive: true, force: true, maxRetries: 3 });
  }
}

/** What the repository itself keeps beside reports. */
const committed: ReadonlySet<string> = new Set([".gitignore", "README.md"]);

async function holdFor(hold: string): Promise<DataDirectory> {
  try {
    if (DataDirectory.inspect(hold, format) === "ours") return DataDirectory.open(hold, format);
    return await DataDirectory.initialise(hold, format, async () => {});
  } catch (error) {
    if (!(error instanceof SignetError) || error.code !== "data-directory-locked") throw error;
    throw new SignetError(error.code, error.message, { cause: error, details: { next: "Wait for it, or name another directory with --directory." } });
  }
}
