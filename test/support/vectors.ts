/** Public test vectors, which are not part of the project: `SIGNET_VECTORS` names their folder, else `../shared/vectors` beside the project. */
import { existsSync, readFileSync } from "node:fs";
import path from "node:path";
import { fileURLToPath } from "node:url";

const projectDirectory = path.dirname(path.dirname(path.dirname(fileURLToPath(import.meta.url))));
export const vectorsDirectory = process.env["SIGNET_VECTORS"] ?? path.join(projectDirectory, "..", "shared", "vectors");

/** Whether a file of vectors is missing; for `describe.skipIf`. */
export const vectorsAreAbsent = (file: string): boolean => !existsSync(path.join(vectorsDirectory, file));

export const readVectors = (file: string): string => readFileSync(path.join(vectorsDirectory, file), "utf8");
