import { readFileSync } from "node:fs";
import path from "node:path";
import { z } from "zod";
import { SignetError } from "#pki/errors.ts";
import { deploymentMode, identityNamePattern } from "#pki/protocol-ca.ts";
import { errnoOf, fileError, usageError } from "./program.ts";
import { writeWhole } from "./files.ts";

/** Where a data directory keeps what. */
export function layoutOf(data: string) {
  const root = path.resolve(data);
  return {
    root,
    /** Names of all that Signet puts there. */
    names: ["ca", "kms", "operator", "agents", "unseal", "logs", "ephemeral", "signet.json"] as readonly string[],
    ca: path.join(root, "ca"),
    kms: path.join(root, "kms"),
    kmsIdentity: path.join(root, "kms", "identity"),
    operator: path.join(root, "operator"),
    agents: path.join(root, "agents"),
    agent: (name: string) => path.join(root, "agents", requireName(name)),
    /** Only where everything is kept in memory: held by who started it, and removes it. */
    ephemeral: path.join(root, "ephemeral"),
    logs: path.join(root, "logs"),
    unsealKey: (service: "ca" | "kms") => path.join(root, "unseal", `${service}.key`),
    services: path.join(root, "signet.json"),
  };
}

/** Ports on loopback that `npm start` uses where nothing else is said; they are kept by what it initialises. */
export const defaultPorts = { enrolment: 7440, mutual: 7441, publication: 7442, kms: 7443, status: 7444 } as const;

/** Raised whenever something is recorded that an older Signet does not know, so that it says "newer" and not "damaged". */
const servicesVersion = 2;

const url = z.url().max(2048);

/** What `signet.json` records, so that the command line finds the services by itself. Nothing in it is secret. */
const servicesRecord = z.strictObject({
  /** Version 1 recorded less. */
  format: z.enum(["signet-services-1", `signet-services-${servicesVersion}`]),
  mode: deploymentMode.optional(),
  /** Agent of this data directory that `signet kms key` speaks as where nothing else is said. */
  agent: z.string().regex(identityNamePattern).optional(),
  ca: z.strictObject({ enrolmentUrl: url, mutualUrl: url, publicationUrl: url, rootFingerprint: z.string().regex(/^[0-9a-f]{64}$/), trustDomain: z.string() }).optional(),
  kms: z.strictObject({ url }).optional(),
  statusPage: z.strictObject({ url }).optional(),
});
export type ServicesRecord = z.output<typeof servicesRecord>;

/** The services recorded in a data directory, of which there may be none yet. @throws SignetError data-directory-corrupt, file-unusable */
export function readServices(data: string): ServicesRecord {
  const { services } = layoutOf(data);
  let text: string;
  try {
    text = readFileSync(services, "utf8");
  } catch (error) {
    if (errnoOf(error) === "ENOENT") return { format: `signet-services-${servicesVersion}` };
    throw fileError(services, error);
  }
  let parsed: unknown;
  try {
    parsed = JSON.parse(text);
  } catch (cause) {
    throw corrupt(services, cause);
  }
  if (isNewer(parsed)) throw new SignetError("data-directory-newer", `${services} is of a newer version of Signet. It was left alone.`);
  const record = servicesRecord.safeParse(parsed);
  if (!record.success) throw corrupt(services, record.error);
  return record.data;
}

/** Records something beside what is recorded already. */
export function recordService(data: string, service: Partial<Omit<ServicesRecord, "format">>): void {
  const record: ServicesRecord = { ...readServices(data), ...service, format: `signet-services-${servicesVersion}` };
  writeWhole(layoutOf(data).services, `${JSON.stringify(record, undefined, 2)}\n`, 0o644);
}

/** Name of an identity: it becomes part of a URI and of a path, so nothing but the one form passes. @throws SignetError usage */
export function requireName(name: string): string {
  if (!identityNamePattern.test(name)) throw usageError(`"${name}" is not a name`, "Names are 1 to 63 of a-z, 0-9 and -, such as alice or build-7.");
  return name;
}

function isNewer(parsed: unknown): boolean {
  const { format } = (typeof parsed === "object" && parsed !== null ? parsed : {}) as { readonly format?: unknown };
  const [, version] = (typeof format === "string" && /^signet-services-(\d{1,9})$/.exec(format)) || [];
  return Number(version) > servicesVersion;
}

function corrupt(file: string, cause: unknown): SignetError {
  return new SignetError("data-directory-corrupt", `${file} is damaged. It was left alone.`, { cause });
}
