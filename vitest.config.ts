import { existsSync } from "node:fs";
import { defineConfig } from "vitest/config";
import { BaseSequencer, type TestSpecification } from "vitest/node";

/**
 * Begun first, in this order: a run is as long as what is begun last takes, and a clone knows no times of earlier runs. Each has a process of its own, as the
 * files directly in test/ have.
 */
const longest = ["test/readme.test.ts", "test/journeys/systemd.test.ts", "test/package/package.test.ts", "test/scripts/modes.test.ts", "test/scripts/start.test.ts", "test/attacks.test.ts", "test/torture.test.ts"];

class LongestFirst extends BaseSequencer {
  override async sort(files: TestSpecification[]): Promise<TestSpecification[]> {
    const missing = longest.find((file) => !existsSync(new URL(file, import.meta.url)));
    if (missing !== undefined) throw new Error(`vitest.config.ts names ${missing}, which does not exist.`);
    const isLongest = (file: TestSpecification, name: string): boolean => file.moduleId.endsWith(`/${name}`);
    const others = (await super.sort(files)).filter((file) => !longest.some((name) => isLongest(file, name)));
    return [...longest.flatMap((name) => files.filter((file) => isLongest(file, name))), ...others];
  }
}

export default defineConfig({
  test: {
    // Real processes, sockets and fsyncs: generous limits, since no test may judge time.
    testTimeout: 60_000,
    hookTimeout: 60_000,
    pool: "forks",
    maxWorkers: 2,
    sequence: { sequencer: LongestFirst },
    projects: [
      { extends: true, test: { name: "systems", include: ["test/*.test.ts", ...longest] } },
      // One process takes file after file, which saves a third of what they cost. Whatever changes the clock, the environment or who hears a signal puts it back.
      { extends: true, test: { name: "modules", include: ["test/*/**/*.test.ts"], exclude: longest, isolate: false } },
    ],
  },
});
