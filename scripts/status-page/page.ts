import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { parseIdentityUri } from "#pki/certificate-profile.ts";
import type { ConnectedPeers, LatestRecords } from "#pki/protocol-summary.ts";
import { html, Markup } from "./html.ts";
import { refreshScript } from "./refresh-script.ts";
import type { Known, StatusView } from "./source.ts";

const style = readFileSync(new URL("./page.css", import.meta.url), "utf8");
const sourceOf = (text: string): string => `'sha256-${createHash("sha256").update(text).digest("base64")}'`;

/** What the page may do (CSP level 3): its own style and script by their hashes, its picture, and to ask for itself again. Nothing else, and in no frame. */
export const contentSecurityPolicy = [
  "default-src 'none'",
  `style-src ${sourceOf(style)}`,
  `script-src ${sourceOf(refreshScript)}`,
  "img-src data:",
  "connect-src 'self'",
  "base-uri 'none'",
  "form-action 'none'",
  "frame-ancestors 'none'",
].join("; ");

/** A black ring in a white one, as it must do on any tab. */
const icon = `data:image/svg+xml,${encodeURIComponent('<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32"><circle cx="16" cy="16" r="15" fill="#fff"/><circle cx="16" cy="16" r="9" fill="none" stroke="#0b5d57" stroke-width="6"/></svg>')}`;

/**
 * The status page, whole: it says everything without its script, which only asks for it again.
 * @param refreshSeconds how often the script does that
 */
export function statusPage(view: StatusView, refreshSeconds: number): string {
  const { ca, kms } = view;
  const down = [ca, kms].filter(({ failure }) => failure !== undefined).length;
  const title = down === 0 ? "Signet" : "Signet, not all of it answering";
  return html`<!doctype html>
<html lang="en" data-refresh="${String(refreshSeconds)}">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>${title}: ${view.trustDomain}</title>
<link rel="icon" href="${Markup.verbatim(icon)}">
<style>${Markup.verbatim(style)}</style>
</head>
<body>
<a class="skip" href="#main">Skip to the content</a>
${view.mode === "development" ? html`<p class="banner"><strong>DEVELOPMENT</strong> Keys lie here without passphrases, and this page is open to everybody on this machine.</p>` : undefined}
<header>
<h1>Signet <span>${view.trustDomain}</span></h1>
<p class="asof" id="asof" data-part>As of ${clockTime(view.at)} <a href="/">Refresh</a></p>
</header>
<main id="main">
<p class="trouble" id="lost" role="status" hidden></p>
${services(view)}
${certificates(view)}
${revocations(view)}
${connected(view)}
${keys(view)}
${crls(view)}
${audit(view)}
</main>
<footer id="footer" data-part>
${ca.summary === undefined ? undefined : html`<p>Root certificate, SHA-256: <code>${ca.summary.rootFingerprint}</code></p>`}
<p>Times are UTC. This page changes nothing; <a href="/status.json">status.json</a> says the same to programs.</p>
</footer>
<script>${Markup.verbatim(refreshScript)}</script>
</body>
</html>
`.text;
}

function services({ ca, kms, at }: StatusView): Markup {
  const card = (name: string, says: string, { summary, at: known, failure }: Known<{ readonly peers: ConnectedPeers }>) => html`<div class="service ${failure === undefined ? "up" : "down"}">
<h3>${name}</h3>
<p class="state">${failure === undefined ? "Answering" : "Not answering"}</p>
<p>${failure === undefined ? says : failureText(failure, known, at)}</p>
${summary === undefined ? undefined : html`<p class="quiet">${plural(summary.peers.connections, "connection")} of ${plural(summary.peers.identities, "identity", "identities")}</p>`}
</div>`;
  return section(
    "services",
    "Services",
    html`<div class="services">${[card("Certificate authority", "Issues, renews, revokes and publishes.", ca), card("Key management", "Hands keys out over mutual TLS.", kms)]}</div>`,
  );
}

function failureText({ code, message }: { readonly code: string; readonly message: string }, known: Date | undefined, now: Date): Markup {
  return html`${message} <code>${code}</code> ${known === undefined ? "Nothing was heard of it since this page was started." : html`What is shown of it is from ${clockTime(known)}, ${relative(known, now)}.`}`;
}

function certificates({ ca, at, trustDomain }: StatusView): Markup {
  const { summary } = ca;
  if (summary === undefined) return section("certificates", "Certificates", nothingKnown("CA"), "wide");
  const { valid, expiring, revoked, expired } = summary.certificates;
  const rows = summary.nextToExpire.map(({ identity, role, serialNumber, notAfter, renewed }) => [
    identityCell(identity, trustDomain),
    html`${role}`,
    html`<code>${serialNumber}</code>`,
    moment(notAfter, at),
    renewed ? html`<span class="badge good">yes</span>` : html`<span class="badge ${new Date(notAfter).getTime() - at.getTime() < 7 * 86_400_000 ? "warn" : ""}">not yet</span>`,
  ]);
  return section(
    "certificates",
    "Certificates",
    html`${stale("CA", ca, at)}${figures([["Valid", valid], ["Ending within 7 days", expiring], ["Revoked", revoked], ["Expired", expired]])}
${table("Valid certificates that end next", ["Identity", "Role", "Serial number", "Ends", "Renewed"], rows, "No certificate is valid.")}`,
    "wide",
  );
}

function revocations({ ca, at, trustDomain }: StatusView): Markup {
  const { summary } = ca;
  if (summary === undefined) return section("revocations", "Revocations", nothingKnown("CA"));
  const rows = summary.revocations.map(({ identity, role, reason, revokedAt }) => [identityCell(identity, trustDomain), html`${role}`, html`<span class="badge bad">${reason}</span>`, moment(revokedAt, at)]);
  return section("revocations", "Revocations", html`${stale("CA", ca, at)}${table("Certificates that were revoked last", ["Identity", "Role", "Reason", "When"], rows, "Nothing has been revoked.")}`);
}

function crls({ ca, kms, at }: StatusView): Markup {
  const { summary } = ca;
  if (summary === undefined) return section("crls", "CRLs", nothingKnown("CA"), "wide");
  const rows = summary.crls.map(({ name, issuer, crlNumber, entries, publishedAt, nextUpdate }) => {
    const held = kms.summary?.crls.find((candidate) => candidate.issuer === issuer);
    return [
      html`<span class="name">${name}</span>`,
      html`${crlNumber}`,
      html`${entries}`,
      moment(publishedAt, at),
      html`${moment(nextUpdate, at)}${new Date(nextUpdate) < at ? html` <span class="badge bad">overdue</span>` : undefined}`,
      held === undefined ? html`unknown` : html`number ${held.crlNumber}${held.crlNumber === crlNumber ? undefined : html` <span class="badge warn">behind</span>`} <span class="quiet">confirmed ${relative(new Date(held.refreshedAt), at)}</span>`,
    ];
  });
  return section("crls", "CRLs", html`${stale("CA", ca, at)}${table("CRLs in force", ["Name", "Number", "Entries", "Published", "Next update", "At the KMS"], rows, "No CRL has been published.")}`, "wide");
}

function connected({ ca, kms, at, trustDomain }: StatusView): Markup {
  const rows = ([["CA", ca], ["KMS", kms]] as const)
    .flatMap(([service, { summary }]) => (summary?.peers.latest ?? []).map((peer) => ({ service, ...peer })))
    .sort((one, other) => other.since.localeCompare(one.since))
    .map(({ identity, service, connections, since }) => [identityCell(identity, trustDomain), html`${service}`, html`${connections}`, moment(since, at)]);
  const shown = (summary: { readonly peers: ConnectedPeers } | undefined) => (summary === undefined ? 0 : summary.peers.identities - summary.peers.latest.length);
  const more = shown(ca.summary) + shown(kms.summary);
  return section(
    "connected",
    "Connected",
    html`${stale("CA", ca, at)}${stale("KMS", kms, at)}${table("Who holds connections, latest first", ["Identity", "To", "Connections", "Since"], rows, "Nobody is connected.")}
${more > 0 ? html`<p class="more">and ${plural(more, "identity", "identities")} more</p>` : undefined}`,
  );
}

function keys({ kms, at }: StatusView): Markup {
  const { summary } = kms;
  if (summary === undefined) return section("keys", "Keys", nothingKnown("KMS"));
  const { states, total } = summary.keys;
  const rows = Object.entries(states).map(([state, count]) => [html`<span class="badge ${state === "active" ? "good" : state === "compromised" ? "bad" : ""}">${state}</span>`, html`${count}`, html`${keyStateMeanings[state] ?? ""}`]);
  return section(
    "keys",
    "Keys",
    html`${stale("KMS", kms, at)}${figures([["Keys", total], ["Requests denied", summary.denials]])}
${table("Keys by the state of their latest version", ["State", "Keys", "Meaning"], rows, "No key has been made.")}`,
  );
}

/** NIST SP 800-57 Part 1 section 7, in a few words. */
const keyStateMeanings: Readonly<Record<string, string>> = {
  "pre-activation": "not in use yet",
  active: "encrypts, decrypts and is handed out",
  suspended: "held back",
  deactivated: "opens what it sealed before",
  compromised: "revoked: it does nothing any more",
  destroyed: "its material is gone",
};

function audit({ ca, kms, at, trustDomain }: StatusView): Markup {
  const log = (name: string, { summary }: Known<{ readonly audit: LatestRecords }>) => {
    const rows = (summary?.audit ?? []).map(({ sequence, at: when, action, actor, subject, reason }) => [
      html`${String(sequence)}`,
      html`<span class="name">${action}</span>${reason === undefined ? undefined : html` <span class="quiet">${reason}</span>`}`,
      identityCell(actor, trustDomain),
      subject.startsWith("spiffe:") ? identityCell(subject, trustDomain) : html`<code>${subject}</code>`,
      moment(when, at),
    ]);
    return table(`Audit log of the ${name}`, ["No.", "What", "By", "On", "When"], rows, summary === undefined ? `Nothing is known of the audit log of the ${name}.` : `The audit log of the ${name} is empty.`);
  };
  return section("audit", "Last audit records", html`${stale("CA", ca, at)}${stale("KMS", kms, at)}${[log("CA", ca), log("KMS", kms)]}`, "wide");
}

function section(id: string, heading: string, content: Markup, kind = ""): Markup {
  return html`<section id="${id}" class="${kind}" aria-labelledby="${id}-heading" data-part>
<h2 id="${id}-heading">${heading}</h2>
${content}
</section>`;
}

function figures(items: readonly (readonly [name: string, value: number])[]): Markup {
  return html`<dl class="figures">${items.map(([name, value]) => html`<div><dt>${name}</dt><dd>${value}</dd></div>`)}</dl>`;
}

/** The roles say what the elements mean also where a narrow screen shows each row as a block. The first cell names its row. */
function table(caption: string, headings: readonly string[], rows: readonly (readonly Markup[])[], empty: string): Markup {
  if (rows.length === 0) return html`<p class="empty">${empty}</p>`;
  const cell = (content: Markup, column: number) =>
    column === 0
      ? html`<th scope="row" role="rowheader" data-label="${headings[column]}"><span>${content}</span></th>`
      : html`<td role="cell" data-label="${headings[column]}"><span>${content}</span></td>`;
  return html`<table role="table">
<caption>${caption}</caption>
<thead role="rowgroup"><tr role="row">${headings.map((heading) => html`<th scope="col" role="columnheader">${heading}</th>`)}</tr></thead>
<tbody role="rowgroup">
${rows.map((row) => html`<tr role="row">${row.map(cell)}</tr>
`)}</tbody>
</table>`;
}

/** An identity of this trust domain by kind and name; anything else as it stands. */
function identityCell(uri: string, trustDomain: string): Markup {
  try {
    const identity = parseIdentityUri(uri);
    if (identity.trustDomain === trustDomain) return html`<span class="kind">${identity.kind}</span> <span class="name">${identity.name}</span>`;
  } catch {
    // Not one of ours: shown whole.
  }
  return html`<code>${uri}</code>`;
}

function stale(service: "CA" | "KMS", { at, failure }: Known<unknown>, now: Date): Markup {
  return failure === undefined || at === undefined ? html`` : html`<p class="stale">The ${service} does not answer: what is shown of it is from ${clockTime(at)}, ${relative(at, now)}.</p>`;
}

function nothingKnown(service: string): Markup {
  return html`<p class="empty">Nothing is known yet: the ${service} does not answer.</p>`;
}

function moment(iso: string, now: Date): Markup {
  const date = new Date(iso);
  return html`<time datetime="${date.toISOString()}">${relative(date, now)}<span class="quiet">${date.toISOString().slice(0, 19).replace("T", " ")}</span></time>`;
}

function clockTime(date: Date): Markup {
  return html`<time datetime="${date.toISOString()}">${date.toISOString().slice(11, 19)} UTC</time>`;
}

const units = [["d", 86_400], ["h", 3600], ["min", 60], ["s", 1]] as const;

/** How far off, in its largest unit: `in 3 d`, `5 min ago`. */
function relative(date: Date, now: Date): string {
  const seconds = (date.getTime() - now.getTime()) / 1000;
  const distance = Math.abs(seconds);
  const [unit, length] = units.find(([, each]) => distance >= each) ?? ["s", 1];
  const amount = `${Math.floor(distance / length).toLocaleString("en-GB")} ${unit}`;
  return distance < 1 ? "now" : seconds > 0 ? `in ${amount}` : `${amount} ago`;
}

function plural(count: number, one: string, many = `${one}s`): string {
  return `${count.toLocaleString("en-GB")} ${count === 1 ? one : many}`;
}
