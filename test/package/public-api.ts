import { readFileSync } from "node:fs";
import path from "node:path";

/** Declarations of a .d.ts file as tsc writes them: statements by the name that they declare, and where its other names come from. */
interface DeclarationFile {
  readonly statements: ReadonlyMap<string, string>;
  readonly imported: ReadonlyMap<string, { readonly file: string; readonly name: string }>;
}

/**
 * The public API as a text, for review: what each entry point exports, then whatever those declarations name in turn, without comments.
 * @param entryPoints .d.ts files by the name that they are imported under
 */
export function publicApi(dist: string, entryPoints: Readonly<Record<string, string>>): string {
  const files = new Map<string, DeclarationFile>();
  const fileAt = (file: string): DeclarationFile => {
    const known = files.get(file);
    if (known !== undefined) return known;
    const parsed = parseDeclarations(dist, file);
    files.set(file, parsed);
    return parsed;
  };
  const written = new Map<string, string>();
  const pending: { file: string; name: string }[] = [];
  /** Follows re-exports to where a name is declared. */
  const find = (file: string, name: string): void => {
    const { statements, imported } = fileAt(file);
    const origin = imported.get(name);
    if (origin !== undefined) return find(origin.file, origin.name);
    const statement = statements.get(name);
    if (statement === undefined || written.has(`${file} ${name}`)) return;
    written.set(`${file} ${name}`, statement);
    pending.push({ file, name });
  };

  const parts: string[] = [];
  for (const [specifier, entryPoint] of Object.entries(entryPoints)) {
    const exported = [...fileAt(entryPoint).imported];
    for (const [name, origin] of exported) find(origin.file, name === origin.name ? name : origin.name);
    parts.push(`## ${specifier}`, `exports ${exported.map(([name]) => name).sort().join(", ")}`);
  }
  for (let next = pending.shift(); next !== undefined; next = pending.shift()) {
    const { file } = next;
    const { statements, imported } = fileAt(file);
    for (const [word] of (written.get(`${file} ${next.name}`) ?? "").matchAll(/[A-Za-z_$][\w$]*/g)) {
      if (statements.has(word) || imported.has(word)) find(file, word);
    }
  }
  const declarations = [...written].sort(([one], [other]) => (one < other ? -1 : 1));
  let heading = "";
  for (const [key, statement] of declarations) {
    const [file = ""] = key.split(" ");
    if (file !== heading) parts.push(`## ${(heading = file)}`);
    parts.push(onFewerLines(statement));
  }
  return `${parts.join("\n")}\n`;
}

/** What has braces inside stays as it is; the innermost, such as a row of a table, takes one line. */
function onFewerLines(statement: string): string {
  return statement.replaceAll(/(?<!^[^\n]*)\{\n([^{}]*)\}/g, (whole, content: string) => (content.length < 200 ? `{ ${content.trim().replaceAll(/\s*\n\s*/g, " ")} }` : whole));
}

function parseDeclarations(dist: string, file: string): DeclarationFile {
  const text = readFileSync(path.join(dist, file), "utf8").replaceAll(/^[ \t]*\/\*[\s\S]*?\*\/[ \t]*\n|^\/\/.*\n/gm, "");
  const statements = new Map<string, string>();
  const imported = new Map<string, { file: string; name: string }>();
  for (const statement of topLevelStatements(text)) {
    const [, names, specifier] = /^(?:import|export)(?: type)? \{([^}]*)\} from "([#.][^"]+)";$/s.exec(statement) ?? [];
    if (names !== undefined && specifier !== undefined) {
      const from = (specifier.startsWith("#") ? specifier.slice(1) : path.posix.join(path.posix.dirname(file), specifier)).replace(/\.ts$/, ".d.ts");
      for (const each of names.split(",").map((one) => one.trim().replace(/^type /, "")).filter((one) => one !== "")) {
        const [name = "", local = name] = each.split(" as ");
        imported.set(local, { file: from, name });
      }
      continue;
    }
    const [, name] = /^(?:export )?(?:declare )?(?:abstract )?(?:class|interface|type|const|function) ([\w$]+)/.exec(statement) ?? [];
    // Overloads are one declaration.
    if (name !== undefined) statements.set(name, statements.has(name) ? `${statements.get(name)}\n${statement}` : statement);
  }
  return { statements, imported };
}

/** A statement ends where a line ends that closes what it opened: tsc indents all but the first and the last line. */
function topLevelStatements(text: string): string[] {
  const statements: string[] = [];
  let current: string[] = [];
  for (const line of text.split("\n").filter((each) => each.trim() !== "")) {
    if (current.length > 0 && !/^[\s})\]>]/.test(line)) {
      statements.push(current.join("\n"));
      current = [];
    }
    current.push(line);
  }
  if (current.length > 0) statements.push(current.join("\n"));
  return statements;
}
