import { pino } from "pino";
import type { Log } from "./log.ts";

/** Names under which something secret could stand in a record, at its top or one level below. */
const secretNames = ["token", "password", "authorization", "Authorization", "cookie", "privateKey", "key", "material", "plaintext", "secret", "body"];

export interface ServiceLog extends Log {
  /** Data that every record carries from now on. */
  setBindings(data: object): void;
}

/**
 * One JSON object a line on stderr, or on another file descriptor; stdout stays free for the service's answer. Secrets are never passed to the log; should one be, under a name that
 * tells it, `[redacted]` stands in its place.
 */
export function createLog(service: string, level: "debug" | "info" | "warn" | "error" | "silent" = "info", descriptor = 2): ServiceLog {
  return pino(
    {
      name: service,
      level,
      base: { service, pid: process.pid },
      timestamp: pino.stdTimeFunctions.isoTime,
      formatters: { level: (label) => ({ level: label }) },
      redact: { paths: secretNames.flatMap((name) => [name, `*.${name}`]), censor: "[redacted]" },
    },
    // Synchronous: the last line before an exit is the one that is wanted most.
    pino.destination({ fd: descriptor, sync: true }),
  );
}
