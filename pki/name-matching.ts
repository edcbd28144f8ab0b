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

interface Mailbox {
  readonly local: string;
  readonly host: string;
}

function splitMailbox(mailbox: string): Mailbox | undefined {
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

/** Names, and bases of subtrees, are each held against very many of the other: what is made of one is made once. */
function madeOnce<Form>(make: (name: GeneralName) => Form): (name: GeneralName) => Form {
  const made = new WeakMap<GeneralName, { readonly form: Form }>();
  return (name) => {
    let held = made.get(name);
    if (held === undefined) made.set(name, (held = { form: make(name) }));
    return held.form;
  };
}

const presentedDnsName = madeOnce(({ value }) => (typeof value === "string" && isDnsNameOrWildcard(value) ? value.toLowerCase() : undefined));
const presentedHost = madeOnce(({ value }) => (typeof value === "string" ? uriHost(value) : undefined));
const presentedMailbox = madeOnce(({ value }) => (typeof value === "string" ? splitMailbox(value) : undefined));

/** No leading period, no wildcard: zero or more labels are added to the base (RFC 5280 section 4.2.1.10). */
const dnsBase = madeOnce(({ value }) => (typeof value === "string" && (value === "" || isDnsName(value)) ? value.toLowerCase() : undefined));
/** Of URIs and mailboxes: ".example.com" is every host below, "example.com" that host alone, "" every host. */
const hostBase = madeOnce(({ value }) => (typeof value === "string" && (value === "" || isDnsName(value.startsWith(".") ? value.slice(1) : value)) ? value.toLowerCase() : undefined));
const mailboxBase = madeOnce((name): Mailbox | { readonly hosts: string | undefined } | undefined => (typeof name.value === "string" && name.value.includes("@") ? presentedMailbox(name) : { hosts: hostBase(name) }));
const addressRange = madeOnce((name) => (name.kind === "ip" ? readAddressRange(name.octets) : undefined));

/**
 * Whether a subtree of a constraint holds a name of the same kind. `undefined` means that it cannot be told, because either
 * is not in the form that its kind prescribes; the caller then refuses the certificate. `excluded` makes a wildcard name
 * match if any name it stands for does.
 */
export function isWithinSubtree(name: GeneralName, base: GeneralName, excluded: boolean): boolean | undefined {
  if (name.kind === "directory" && base.kind === "directory") return name.value.isWithin(base.value);
  if (name.kind === "dns" && base.kind === "dns") return isWithinDnsSubtree(presentedDnsName(name), dnsBase(base), excluded);
  if (name.kind === "ip" && base.kind === "ip") return isWithinAddressRange(name.octets, addressRange(base));
  if (name.kind === "uri" && base.kind === "uri") return isWithinHostConstraint(presentedHost(name), hostBase(base));
  if (name.kind === "email" && base.kind === "email") {
    const mailbox = presentedMailbox(name);
    const constraint = mailboxBase(base);
    if (mailbox === undefined || constraint === undefined) return undefined;
    if ("hosts" in constraint) return isWithinHostConstraint(mailbox.host, constraint.hosts);
    return constraint.local === mailbox.local && constraint.host === mailbox.host;
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

function isWithinDnsSubtree(name: string | undefined, base: string | undefined, excluded: boolean): boolean | undefined {
  if (name === undefined || base === undefined) return undefined;
  if (!name.startsWith("*.") || !excluded) return isWithinDomain(name, base);
  const parent = name.slice(2);
  return isWithinDomain(parent, base) || base.slice(base.indexOf(".") + 1) === parent;
}

function isWithinHostConstraint(host: string | undefined, base: string | undefined): boolean | undefined {
  if (host === undefined || base === undefined) return undefined;
  if (base === "") return true;
  return base.startsWith(".") ? host.endsWith(base) && host.length > base.length : host === base;
}

interface AddressRange {
  readonly address: Uint8Array;
  readonly mask: Uint8Array;
}

/** Of iPAddress in a constraint: address and mask, of 4 or 16 octets each. */
function readAddressRange(octets: Uint8Array): AddressRange | undefined {
  const length = octets.length / 2;
  if (length !== 4 && length !== 16) return undefined;
  const mask = octets.subarray(length);
  return isPrefixMask(mask) ? { address: octets.subarray(0, length), mask } : undefined;
}

function isWithinAddressRange(address: Uint8Array, range: AddressRange | undefined): boolean | undefined {
  if (range === undefined || (address.length !== 4 && address.length !== 16)) return undefined;
  const { address: base, mask } = range;
  return address.length === base.length && address.every((octet, index) => ((octet ^ (base[index] as number)) & (mask[index] as number)) === 0);
}

/** CIDR (RFC 4632): ones, then zeros. */
function isPrefixMask(mask: Uint8Array): boolean {
  const bits = Array.from(mask, (octet) => octet.toString(2).padStart(8, "0")).join("");
  return /^1*0*$/.test(bits);
}
