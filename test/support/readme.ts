import { cpSync, readFileSync, symlinkSync } from "node:fs";
import path from "node:path";
import { fileURLToPath } from "node:url";

const root = path.dirname(path.dirname(path.dirname(fileURLToPath(import.meta.url))));

/**
 * A fenced block of README.md. What stands behind the language in its first line is shown by no renderer, and says how the
 * block is tried:
 *
 *     sh                          typed into a shell of the reader's folder; exits with 0
 *     sh exit=5                   exits with 5
 *     sh background until="…"     typed into another terminal, where it goes on; the next block is typed when it has said …
 *     sh background then=5        ends by itself with 5 before the last block does
 *     sh needs="nginx,curl"       skipped, visibly, where a command is missing
 *     sh elsewhere="FILE"         executed by that file, which asks for the block by its id
 *     js file=server.mjs          saved under that name, as the text around it says
 *     js file=… elsewhere="FILE"  saved and executed by that file
 *     text                        what is shown, not typed
 */
export interface ReadmeBlock {
  readonly language: string;
  readonly attributes: Readonly<Record<string, string>>;
  readonly text: string;
  /** Heading that it stands under, and which of the blocks there it is. */
  readonly heading: string;
  readonly number: number;
  readonly line: number;
}

/** The fenced blocks of a page, in their order. */
export function readmeBlocks(file: string | URL = new URL("../../README.md", import.meta.url)): readonly ReadmeBlock[] {
  const blocks: ReadmeBlock[] = [];
  let heading = "";
  let open: { readonly info: string; readonly line: number; readonly lines: string[] } | undefined;
  for (const [index, line] of readFileSync(file, "utf8").split("\n").entries()) {
    if (open === undefined) {
      heading = /^#+ (.*)$/.exec(line)?.[1] ?? heading;
      const info = /^```(.*)$/.exec(line)?.[1];
      if (info !== undefined) open = { info, line: index + 1, lines: [] };
    } else if (line === "```") {
      const [language = "", ...rest] = open.info.split(" ");
      const number = blocks.filter((block) => block.heading === heading).length + 1;
      blocks.push({ language, attributes: attributesOf(rest.join(" ")), text: `${open.lines.join("\n")}\n`, heading, number, line: open.line });
      open = undefined;
    } else {
      open.lines.push(line);
    }
  }
  if (open !== undefined) throw new Error(`The block of line ${open.line} has no end.`);
  return blocks;
}

/** One block, for a test that executes it in surroundings of its own. */
export function readmeBlock(heading: string, number: number): ReadmeBlock {
  const found = readmeBlocks().find((block) => block.heading === heading && block.number === number);
  if (found === undefined) throw new Error(`README.md has no block ${number} under "${heading}".`);
  return found;
}

/** Command lines of a block, without their comments. */
export function commandsOf({ text }: ReadmeBlock): readonly string[] {
  return text.trim().split("\n").map((line) => line.replace(/\s+#.*$/, "").trim());
}

/** Patterns of .gitignore for what lies directly in the folder of a clone. */
const ignored = readFileSync(path.join(root, ".gitignore"), "utf8")
  .split("\n")
  .filter((line) => line !== "" && !line.startsWith("#"))
  .map((line) => new RegExp(`^${line.replaceAll(/^\/|\/$/g, "").replaceAll(".", "\\.").replaceAll("*", ".*")}$`));

/** Whether git takes no notice of what lies under this name directly in the folder of a clone. */
export const isIgnored = (name: string): boolean => ignored.some((pattern) => pattern.test(name));

/** What a clone holds, and nothing that was made there since: neither what is generated nor what a reader of the README has left. */
export function copyProject(target: string): void {
  const isWanted = (relative: string): boolean => !isIgnored(relative) && relative !== ".git" && !relative.startsWith(`certs${path.sep}`);
  cpSync(root, target, { recursive: true, filter: (source) => isWanted(path.relative(root, source)) });
  symlinkSync(path.join(root, "node_modules"), path.join(target, "node_modules"), "junction");
}

function attributesOf(text: string): Readonly<Record<string, string>> {
  return Object.fromEntries([...text.matchAll(/([a-z]+)(?:=(?:"([^"]*)"|(\S+)))?/g)].map(([, name = "", quoted, bare]) => [name, quoted ?? bare ?? ""]));
}
