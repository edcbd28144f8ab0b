/** What somebody does who has got at a disk, the KMS's with its database included: takes a copy, and moves one key's wrapped material to another's row. */
import { copyFile, cp, mkdir, readdir } from "node:fs/promises";
import path from "node:path";
import { DatabaseSync } from "node:sqlite";
import { temporarySuffix } from "#pki/durable-file.ts";

const databaseName = "kms.sqlite";

/** Copies the directory of an identity whose process runs. What that is writing has a name of its own until it is whole, and may be gone before it is copied. */
export async function copyIdentity(from: string, to: string): Promise<void> {
  await cp(from, to, { recursive: true, filter: (source) => !source.endsWith(temporarySuffix) });
}

/** Copies a KMS's data as it stands, while the KMS runs. */
export async function copyKmsData(from: string, to: string): Promise<void> {
  for (const part of ["kms", "unseal"]) {
    await mkdir(path.join(to, part), { recursive: true, mode: 0o700 });
    for (const entry of await readdir(path.join(from, part), { withFileTypes: true })) {
      // The lock belongs to the running service, and the database is copied as a whole below.
      if (!entry.isFile() || entry.name.startsWith(databaseName) || entry.name.startsWith("lock")) continue;
      await copyFile(path.join(from, part, entry.name), path.join(to, part, entry.name));
    }
  }
  const database = new DatabaseSync(path.join(from, "kms", databaseName), { readOnly: true });
  try {
    database.prepare("VACUUM INTO ?").run(path.join(to, "kms", databaseName));
  } finally {
    database.close();
  }
}

/** Exchanges the wrapped material of two keys' first versions. */
export function swapWrappedKeys(data: string, first: string, second: string): void {
  const database = new DatabaseSync(path.join(data, "kms", databaseName));
  try {
    const find = database.prepare("SELECT v.key_id AS id, v.wrapped AS wrapped FROM key_version v JOIN key_record k ON k.id = v.key_id WHERE k.name = ? AND v.version = 1");
    const put = database.prepare("UPDATE key_version SET wrapped = ? WHERE key_id = ? AND version = 1");
    const [a, b] = [find.get(first), find.get(second)];
    if (a === undefined || b === undefined) throw new Error("no such rows");
    put.run(b["wrapped"] ?? null, a["id"] ?? null);
    put.run(a["wrapped"] ?? null, b["id"] ?? null);
  } finally {
    database.close();
  }
}
