interface Write {
  (data: object, sentence: string): void;
  (sentence: string): void;
}

/** Structured log. Pass data as the first argument, the sentence as the second: `log.info({ port }, "listening")`. */
export interface Log {
  readonly debug: Write;
  readonly info: Write;
  readonly warn: Write;
  readonly error: Write;
  readonly fatal: Write;
}

const nothing: Write = () => {};

/** For who has nothing to say, such as a library used inside someone else's program. */
export const silentLog: Log = { debug: nothing, info: nothing, warn: nothing, error: nothing, fatal: nothing };
