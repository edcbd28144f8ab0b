/** A value that both engines store alike: integers up to 2^53, text, bytes, null. */
export type SqlValue = string | number | bigint | Uint8Array | null;
export type SqlRow = Readonly<Record<string, SqlValue>>;

/** Statements inside one unit of work. Parameters are `?`; a statement is prepared once and kept. */
export interface SqlTransaction {
  run(sql: string, ...parameters: readonly SqlValue[]): Promise<{ readonly changes: number }>;
  get(sql: string, ...parameters: readonly SqlValue[]): Promise<SqlRow | undefined>;
  all(sql: string, ...parameters: readonly SqlValue[]): Promise<readonly SqlRow[]>;
}

/** What remains of a SQL database once its dialect is abstracted away. */
export interface SqlEngine {
  readonly dialect: "sqlite" | "postgres";
  /**
   * Runs one unit of work, all of it or nothing, and resolves only when it is durable (fsync has returned).
   * Units run one after another and share commits, so `work` may await nothing but its own transaction:
   * no signing, no I/O.
   */
  transaction<T>(work: (transaction: SqlTransaction) => Promise<T>): Promise<T>;
  /** Reads what has been committed, without waiting for the units in flight. */
  read<T>(work: (transaction: Pick<SqlTransaction, "get" | "all">) => Promise<T>): Promise<T>;
  /** Applies, in order and once each, the `NNNN-name.sql` files of a directory. @throws SignetError data-directory-newer */
  migrate(directory: URL): Promise<void>;
  close(): Promise<void>;
}
