import { fileURLToPath } from "node:url";

/** Path of a module that is started as a process, by its path from the root such as "ca/main.ts": the source in a clone, what was compiled of it in the package. */
export function projectFile(file: string): string {
  return fileURLToPath(import.meta.resolve(`#${file}`));
}
