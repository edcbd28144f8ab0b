import { createHash } from "node:crypto";

/** One record as a service shows it, or as it stands in the database. */
export interface ShownRecord {
  readonly sequence: number;
  /** The JSON text that was hashed. */
  readonly record: string;
  /** Lower-case hex. */
  readonly hash: string;
}

/**
 * Follows the audit log of a service from outside, with its own computation of the hash chain: each record must follow from the one
 * before it, and every record that was ever seen must still be there. Keeps one hash for each record.
 */
export class AuditChain {
  /** Hash of record n at index n - 1. */
  readonly #seen: string[] = [];

  /** Number of records seen so far. */
  get length(): number {
    return this.#seen.length;
  }

  /**
   * Looks at the records from number `from` (1 or more) to the end of the log.
   * @returns what is wrong with them: nothing, if they are one whole chain with all that was seen before
   */
  follow(from: number, records: readonly ShownRecord[]): { readonly broken: string[]; readonly missing: number } {
    const broken: string[] = [];
    let previous = from === 1 ? "00".repeat(32) : (this.#seen[from - 2] ?? "");
    let expected = from;
    for (const { sequence, record, hash } of records) {
      const computed = createHash("sha256").update("signet audit record v1\0").update(Buffer.from(previous, "hex")).update(record).digest("hex");
      const before = this.#seen[sequence - 1];
      if (sequence !== expected || hash !== computed) broken.push(`record ${sequence} does not follow from the one before`);
      else if (before !== undefined && before !== hash) broken.push(`record ${sequence} is not the one that was seen before`);
      else this.#seen[sequence - 1] = hash;
      previous = hash;
      expected = sequence + 1;
    }
    return { broken, missing: Math.max(0, this.#seen.length - (expected - 1)) };
  }
}
