/** Whether a name in a certificate is the one that was asked for (RFC 9525), or lies in a subtree (RFC 5280 section 4.2.1.10). */
import { asBuffer } from "./der.ts";
import { parseIpAddress } from "./name.ts";
import type { GeneralName } from "./name.ts";
import { oid } from "./oids.ts";

const label = "[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?";
const hostNamePattern = new RegExp(`^${label}(?:\\.${label})*$`);

/** A DNS name in ASCII, without a trailing dot, of labels of 1 to 63 octets; IDNs are A-labels. Underscores occur and are let pass. */
export function isDnsName(name: string): boolean {
  return name.length <= 253 && hostNamePattern.test(name.toLowerCase());
}

/** A DNS name whose left-most label may be "*". */
export function isDnsNameOrWildcard(name: string): boolean {
  return isDnsName(name.startsWith("*.") ? name.slice(2) : name);
}

/**
 * RFC 9525 section 6.3: labels alike without regard to case; "*" stands for one whole left-most label, and never for one
 * directly under a top-level domain.
 */
export function matchesDnsName(presented: string, host: string): boolean {
  const wanted = host.toLowerCase();
  const pattern = presented.toLowerCase();
  if (!isDnsName(wanted) || parseIpAddress(wanted) !== undefined) return false;
  if (!pattern.startsWith("*.")) return pattern === wanted;
  const parent = pattern.slice(2);
  const dot = wanted.indexOf(".");
  return dot > 0 && wanted.slice(dot + 1) === parent && parent.includes(".");
}

export function matchesIpAddress(presented: Uint8Array, address: string): boolean {
  const wanted = parseIpAddress(address);
  return wanted !== undefined && asBuffer(presented).equals(wanted);
}

/** RFC 5280 section 7.5: the local part as it stands, the host without regard to case. */
export function matchesMailbox(presented: string, mailbox: string): boolean {
  const one = splitMailbox(presented);
  const other = splitMailbox(mailbox);
  return one !== undefined && other !== undefined && one.local === other.local && one.host === other.host;
}

/** Longest mailbox and URI that are taken apart: each may be held against very many constraints. */
const mailboxLimit = 512;
const uriLimit = 2048;

function splitMailbox(mailbox: string): { local: string; host: string } | undefined {
  if (mailbox.length > mailboxLimit) return undefined;
  const at = mailbox.lastIndexOf("@");
  const local = mailbox.slice(0, Math.max(at, 0));
  const host = mailbox.slice(at + 1).toLowerCase();
  return local !== "" && !/[\s@\0]/.test(local) && isDnsName(host) ? { local, host } : undefined;
}

/** Host of a URI in lower case; undefined where there is none, or an IP address, which no constraint can hold (RFC 5280 section 4.2.1.10). */
function uriHost(uri: string): string | undefined {
  if (uri.length > uriLimit) return undefined;
  const [, authority] = /^[a-z][a-z0-9+.-]*:\/\/([^/?#]*)/i.exec(uri) ?? [];
  const host = authority?.slice(authority.lastIndexOf("@") + 1).replace(/:\d*$/, "").toLowerCase();
  return host !== undefined && isDnsName(host) && parseIpAddress(host) === undefined ? host : undefined;
}

const isWithinDomain = (host: string, domain: string): boolean => domain === "" || host === domain || host.endsWith(`.${domain}`);

/**
 * Whether a subtree of a constraint holds a name of the same kind. `undefined` means that it cannot be told, because either
 * is not in the form that its kind prescribes; the caller then refuses the certificate. `excluded` makes a wildcard name
 * match if any name it stands for does.
 */
export function isWithinSubtree(name: GeneralName, base: GeneralName, excluded: boolean): boolean | undefined {
  if (name.kind === "directory" && base.kind === "directory") return name.value.isWithin(base.value);
  if (name.kind === "dns" && base.kind === "dns") return isWithinDnsSubtree(name.value, base.value, excluded);
  if (name.kind === "ip" && base.kind === "ip") return isWithinAddressRange(name.octets, base.octets);
  if (name.kind === "uri" && base.kind === "uri") {
    const host = uriHost(name.value);
    return host === undefined ? undefined : isWithinHostConstraint(host, base.value.toLowerCase());
  }
  if (name.kind === "email" && base.kind === "email") {
    const mailbox = splitMailbox(name.value);
    if (mailbox === undefined) return undefined;
    if (!base.value.includes("@")) return isWithinHostConstraint(mailbox.host, base.value.toLowerCase());
    const only = splitMailbox(base.value);
    return only === undefined ? undefined : only.local === mailbox.local && only.host === mailbox.host;
  }
  // RFC 9598 section 6: constraints on mailboxes hold for internationalised ones too. They are not compared here.
  if (name.kind === "other" && name.value === oid.smtpUtf8Mailbox && base.kind === "email") return undefined;
  // A form that is not processed, in a constraint and in a name: refuse (RFC 5280 section 4.2.1.10).
  if (name.kind === "other" && base.kind === "other" && name.tagNumber === base.tagNumber) return undefined;
  return false;
}

/** The form of a name: its kind, and for forms that are not processed the number of their tag. */
export function formOfName(name: GeneralName): string {
  return name.kind === "other" ? `other ${name.tagNumber}` : name.kind;
}

/** Forms of the subtrees that constrain a name. */
export function constrainingForms(name: GeneralName): readonly string[] {
  return name.kind === "other" && name.value === oid.smtpUtf8Mailbox ? [formOfName(name), "email"] : [formOfName(name)];
}

function isWithinDnsSubtree(presented: string, subtree: string, excluded: boolean): boolean | undefined {
  // No leading period, no wildcard: zero or more labels are added to the base (RFC 5280 section 4.2.1.10).
  if (!isDnsNameOrWildcard(presented) || (subtree !== "" && !isDnsName(subtree))) return undefined;
  const name = presented.toLowerCase();
  const base = subtree.toLowerCase();
  if (!name.startsWith("*.") || !excluded) return isWithinDomain(name, base);
  const parent = name.slice(2);
  return isWithinDomain(parent, base) || base.slice(base.indexOf(".") + 1) === parent;
}

/** Of URIs and mailboxes: ".example.com" is every host below, "example.com" that host alone, "" every host. */
function isWithinHostConstraint(host: string, base: string): boolean | undefined {
  if (base === "") return true;
  if (!isDnsName(base.startsWith(".") ? base.slice(1) : base)) return undefined;
  return base.startsWith(".") ? host.endsWith(base) && host.length > base.length : host === base;
}

function isWithinAddressRange(address: Uint8Array, range: Uint8Array): boolean | undefined {
  const length = range.length / 2;
  if ((length !== 4 && length !== 16) || (address.length !== 4 && address.length !== 16)) return undefined;
  const mask = range.subarray(length);
  if (!isPrefixMask(mask)) return undefined;
  return address.length === length && address.every((octet, index) => ((octet ^ (range[index] as number)) & (mask[index] as number)) === 0);
}

/** CIDR (RFC 4632): ones, then zeros. */
function isPrefixMask(mask: Uint8Array): boolean {
  const bits = Array.from(mask, (octet) => octet.toString(2).padStart(8, "0")).join("");
  return /^1*0*$/.test(bits);
}
