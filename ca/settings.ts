import path from "node:path";
import { z } from "zod";
import { identityUri, parseIdentityUri, type Identity, type Role } from "#pki/certificate-profile.ts";
import { SignetError } from "#pki/errors.ts";
import { deploymentMode, publicationRoutes } from "#pki/protocol-ca.ts";
import type { DataDirectoryFormat } from "#store/data-directory.ts";
import type { SqlTransaction } from "#store/engine.ts";

const port = z.int().min(1).max(65_535);

const settingsSchema = z.strictObject({
  /** Missing in directories of format 1, which count as development, but certify none of its names: see permittedNames. */
  mode: deploymentMode.optional(),
  trustDomain: z.string(),
  /** Address that the listeners bind. */
  host: z.string(),
  enrolmentPort: port,
  mutualPort: port,
  publicationPort: port,
  /** DNS names and addresses that the authority may certify besides loopback; its own server is reached by them too. */
  dns: z.array(z.string()),
  ip: z.array(z.string()),
});

/** What is fixed at initialisation: names stand in the issuing CA's constraints, and the publication URL in every leaf. */
export type AuthoritySettings = Readonly<z.infer<typeof settingsSchema>>;

export const authorityDirectoryFormat: DataDirectoryFormat = { service: "ca", version: 2 };
export const ledgerMigrations = new URL("./migrations/", import.meta.url);

/** Usual and longest life of a leaf, in days. */
export const leafValidityDays: Readonly<Record<Role, number>> = { client: 30, server: 90 };

/** Where an authority's things lie. The unseal key is outside of `ca`, so that a copy of that folder opens nothing. */
export function authorityPaths(dataDirectory: string): { readonly ca: string; readonly unsealKey: string; readonly operator: string } {
  return {
    ca: path.join(dataDirectory, "ca"),
    unsealKey: path.join(dataDirectory, "unseal", "ca.key"),
    operator: path.join(dataDirectory, "operator"),
  };
}

export async function saveSettings(transaction: SqlTransaction, settings: AuthoritySettings): Promise<void> {
  await transaction.run("INSERT INTO authority_settings (id, settings) VALUES (1, ?)", JSON.stringify(settings));
}

/** @throws SignetError data-directory-corrupt */
export async function loadSettings(reads: Pick<SqlTransaction, "get">): Promise<AuthoritySettings> {
  const row = await reads.get("SELECT settings FROM authority_settings WHERE id = 1");
  try {
    return settingsSchema.parse(JSON.parse(String(row?.["settings"])));
  } catch (cause) {
    throw new SignetError("data-directory-corrupt", "The authority's settings are missing or damaged.", { cause });
  }
}

/** `spiffe://<trust domain>/service/ca`. */
export function authorityIdentity(trustDomain: string): Identity {
  return parseIdentityUri(identityUri(trustDomain, "service", "ca"));
}

/** Names that the public DNS will never hold (RFC 2606, RFC 6761, RFC 8375, and ICANN's resolutions on .internal and .corp). */
const developmentNames = ["test", "internal", "corp", "home.arpa"];

/** Permitted subtrees of the issuing CA: loopback always, what was chosen, and in development names that are nobody's. Ranges in CIDR notation. */
export function permittedNames(settings: Pick<AuthoritySettings, "mode" | "dns" | "ip">): { readonly dns: readonly string[]; readonly ipRanges: readonly string[] } {
  return {
    dns: [...new Set(["localhost", ...(settings.mode === "development" ? developmentNames : []), ...settings.dns])],
    ipRanges: [...new Set(["127.0.0.0/8", "::1/128", ...settings.ip.map((address) => `${address}/${address.includes(":") ? 128 : 32}`)])],
  };
}

/** Names of the authority's own server certificate. */
export function ownServerNames(settings: AuthoritySettings): { readonly dns: readonly string[]; readonly ip: readonly string[] } {
  return { dns: [...new Set(["localhost", ...settings.dns])], ip: [...new Set(["127.0.0.1", "::1", ...settings.ip])] };
}

/** URL of a listener, by a name that is in the server certificate: `localhost` where it binds loopback, else the first that was chosen. */
export function listenerUrl(settings: AuthoritySettings, scheme: "http" | "https", listenerPort: number): string {
  const loopback = settings.host === "::1" || settings.host === "localhost" || settings.host.startsWith("127.");
  const chosen = loopback ? "localhost" : (settings.dns[0] ?? settings.ip[0] ?? settings.host);
  return `${scheme}://${chosen.includes(":") ? `[${chosen}]` : chosen}:${listenerPort}`;
}

/** The distribution point in every leaf, and in the IDP of its CRL. Ports are fixed at initialisation because this may never change. */
export function leafDistributionPoint(settings: AuthoritySettings): string {
  return `${listenerUrl(settings, "http", settings.publicationPort)}${publicationRoutes.crl("leaf-0")}`;
}
