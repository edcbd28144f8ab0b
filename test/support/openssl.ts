import { spawnSync } from "node:child_process";

/** Whether the machine has the command of OpenSSL 3 or later; tests that need it are skipped without it, and say so. */
export const hasOpenssl = /^OpenSSL (?:[3-9]|\d{2,})\./.test(spawnSync("openssl", ["version"], { encoding: "utf8" }).stdout ?? "");
