/** What somebody does who can write to the KMS's database and has no key: moves one key's wrapped material to another's row. */
import { DatabaseSync } from "node:sqlite";

export function swapWrappedKeys(file: string, first: string, second: string): void {
  const database = new DatabaseSync(file);
  try {
    database.exec("PRAGMA busy_timeout = 5000; BEGIN IMMEDIATE");
    const find = database.prepare("SELECT v.key_id AS id, v.wrapped AS wrapped FROM key_version v JOIN key_record k ON k.id = v.key_id WHERE k.name = ? AND v.version = 1");
    const put = database.prepare("UPDATE key_version SET wrapped = ? WHERE key_id = ? AND version = 1");
    const [a, b] = [find.get(first), find.get(second)];
    if (a === undefined || b === undefined) throw new Error("no such rows");
    put.run(b["wrapped"] ?? null, a["id"] ?? null);
    put.run(a["wrapped"] ?? null, b["id"] ?? null);
    database.exec("COMMIT");
  } finally {
    database.close();
  }
}
