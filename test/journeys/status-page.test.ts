import { execFileSync } from "node:child_process";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { request as httpRequest, type IncomingHttpHeaders, type OutgoingHttpHeaders } from "node:http";
import { request as httpsRequest } from "node:https";
import { tmpdir } from "node:os";
import path from "node:path";
import { text } from "node:stream/consumers";
import { chromium, type Browser, type BrowserContext, type Page } from "playwright-core";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { Certificate } from "#pki/certificate.ts";
import { systemClock } from "#pki/clock.ts";
import { createCsr, generateKeyPair } from "#pki/keys.ts";
import { silentLog } from "#pki/log.ts";
import { credentialOptions, type Credential } from "#pki/mtls.ts";
import { encodePkcs12 } from "#pki/pkcs12.ts";
import type { DeploymentMode } from "#pki/protocol-ca.ts";
import { statusPage } from "#scripts/status-page/page.ts";
import { serveStatusPage, type RunningStatusPage } from "#scripts/status-page/server.ts";
import { StatusSource, type StatusView } from "#scripts/status-page/source.ts";
import { findTool } from "#scripts/trust/trust-store.ts";
import { startSystem, type RunningSystem } from "#test/support/system.ts";

const browserFile = process.platform === "linux" ? (findTool("chromium") ?? findTool("chromium-browser")) : undefined;
const certutil = findTool("certutil");
const pk12util = findTool("pk12util");

const folder = mkdtempSync(path.join(tmpdir(), "signet-page-"));
let system: RunningSystem;
let source: StatusSource;
const pages: RunningStatusPage[] = [];
let development: string;
let production: string;

async function serve(mode: DeploymentMode, refreshSeconds: number): Promise<string> {
  return (await servePage(mode, refreshSeconds)).url;
}

async function servePage(mode: DeploymentMode, refreshSeconds: number): Promise<RunningStatusPage> {
  const page = await serveStatusPage({ source, mode, port: 0, log: silentLog, refreshSeconds });
  pages.push(page);
  return page;
}

beforeAll(async () => {
  system = await startSystem();
  source = await StatusSource.open({ operatorDirectory: system.operatorDirectory, mutualUrl: system.ca.ready.mutualUrl, kmsUrl: system.kmsUrl, clock: systemClock, log: silentLog });
  development = await serve("development", 0.25);
  production = await serve("production", 0.25);
});

afterAll(async () => {
  for (const page of pages) await page.close();
  source.stop();
  await system.stop();
  rmSync(folder, { recursive: true, force: true });
});

interface Answer {
  readonly status: number | undefined;
  readonly headers: IncomingHttpHeaders;
  readonly body: string;
}

/** What a client gets, whoever it is. Rejects where the connection ends without an answer. */
function ask(url: string, i: { readonly method?: string; readonly headers?: OutgoingHttpHeaders; readonly credential?: Credential | undefined } = {}): Promise<Answer> {
  const { method = "GET", headers = {}, credential } = i;
  return new Promise((resolve, reject) => {
    const tls = { ca: system.operator.trustAnchors.map((root) => root.toPem()), agent: false, ALPNProtocols: ["http/1.1"], ...(credential === undefined ? {} : credentialOptions(credential)) };
    const outgoing = url.startsWith("https:") ? httpsRequest(url, { method, headers, ...tls }) : httpRequest(url, { method, headers, agent: false });
    outgoing.once("error", reject);
    outgoing.once("response", (incoming) => void text(incoming).then((body) => resolve({ status: incoming.statusCode, headers: incoming.headers, body }), reject));
    outgoing.end();
  });
}

/** Somebody else with a client certificate, from the operator. */
async function newcomer(kind: "operator" | "agent", name: string): Promise<Credential> {
  const { privateKey } = await generateKeyPair("ec-p256");
  const csr = Buffer.from(await createCsr(privateKey, { commonName: name })).toString("base64");
  const { chain } = await source.ca.issue({ csr, kind, name, role: "client" });
  return { privateKey, chain: Certificate.listFromPem(chain) };
}

const revokeOperator = (name: string) => source.ca.revoke({ identity: `spiffe://signet.internal/operator/${name}`, reason: "cessationOfOperation" });

/** Names as a hostile certificate or record could have them. */
const hostile = `<script>alert(1)</script>"'\`><img src=x onerror=alert(1)>\u202Egnp.exe\u0000&amp;`;

function viewOf(i: { readonly hostile?: boolean; readonly kmsDown?: boolean } = {}): StatusView {
  const at = new Date("2030-01-02T03:04:05Z");
  const name = i.hostile === true ? hostile : "spiffe://signet.internal/agent/alice";
  const when = new Date(at.getTime() - 60_000).toISOString();
  const peers = { connections: 1, identities: 1, latest: [{ identity: name, kind: "agent" as const, connections: 1, since: when }] };
  const audit = [{ sequence: 1, at: when, action: i.hostile === true ? hostile : "key.created", actor: name, subject: name, reason: i.hostile === true ? hostile : "superseded" }];
  const crl = { crlNumber: "7", thisUpdate: when, nextUpdate: when, entries: 1, issuer: name };
  return {
    at,
    mode: "development",
    trustDomain: i.hostile === true ? hostile : "signet.internal",
    ca: {
      at,
      summary: {
        at: when, trustDomain: name, rootFingerprint: name, peers, audit,
        certificates: { valid: 12_345, expiring: 1, revoked: 1, expired: 0 },
        nextToExpire: [{ serialNumber: name, identity: name, role: "client", notAfter: when, renewed: false }],
        revocations: [{ serialNumber: name, identity: name, role: "client", revokedAt: when, reason: "keyCompromise" }],
        crls: [{ ...crl, name, url: "http://localhost:1/x.crl", publishedAt: when }],
      },
    },
    kms: {
      at: new Date(at.getTime() - 120_000),
      summary: { at: when, keys: { total: 3, states: { active: 2, compromised: 1 } }, denials: 4, crls: [{ ...crl, refreshedAt: when }], peers, audit },
      ...(i.kmsDown === true ? { failure: { code: "remote-unreachable", message: i.hostile === true ? hostile : "No connection." } } : {}),
    },
  };
}

describe("the status page", () => {
  it("answers under the names of this machine alone, against DNS rebinding", async () => {
    const { port } = new URL(development);
    for (const name of ["localhost", "127.0.0.1", "[::1]"]) expect((await ask(development, { headers: { host: `${name}:${port}` } })).status).toBe(200);
    for (const host of [`evil.example:${port}`, "localhost", `localhost:${Number(port) + 1}`, `localhost.evil.example:${port}`, `localhost:${port}.`, "evil.example"]) {
      const { status, body } = await ask(`${development}/status.json`, { headers: { host } });
      expect([host, status, (JSON.parse(body) as { code: string }).code]).toStrictEqual([host, 403, "not-permitted"]);
    }
  });

  it("is read-only, and nothing may embed it, load it from elsewhere or run in it but its own", async () => {
    for (const method of ["POST", "PUT", "DELETE", "OPTIONS", "PATCH"]) expect((await ask(development, { method })).status).toBe(405);
    const { headers } = await ask(development, { headers: { origin: "http://evil.example" } });
    expect(headers).toMatchObject({ "cache-control": "no-store", "x-content-type-options": "nosniff", "referrer-policy": "no-referrer", "cross-origin-resource-policy": "same-origin" });
    const policy = String(headers["content-security-policy"]);
    for (const rule of ["default-src 'none'", "frame-ancestors 'none'", "base-uri 'none'", "form-action 'none'"]) expect(policy).toContain(rule);
    expect(policy).not.toMatch(/unsafe|https?:|\*/);
    expect(Object.keys(headers).filter((name) => name.startsWith("access-control"))).toStrictEqual([]);
    expect(await ask(development, { method: "HEAD" })).toMatchObject({ status: 200, body: "" });
    expect((await ask(`${development}/favicon.ico`)).status).toBe(404);
  });

  it("shows whatever stands in a certificate or a record as text", () => {
    const page = statusPage(viewOf({ hostile: true, kmsDown: true }), 5);
    expect(page.match(/<script/g)).toHaveLength(1);
    for (const mark of ["<img", "\u202E", "\u0000"]) expect(page).not.toContain(mark);
    expect(page).toContain("&#60;script&#62;alert(1)&#60;/script&#62;&#34;&#39;&#96;&#62;");
    expect(page).toContain("\\u{202e}gnp.exe\\u{0}&#38;amp;");
  });

  it("says that a service is down, and shows what it knew with its age", () => {
    const page = statusPage(viewOf({ kmsDown: true }), 5);
    expect(page).toContain("<code>remote-unreachable</code>");
    expect(page).toMatch(/The KMS does not answer: .*03:02:05 UTC<\/time>, 2 min ago/);
    expect(page).toContain("<dt>Keys</dt><dd>3</dd>");
    expect(statusPage(viewOf(), 5)).not.toContain("does not answer");
  });

  it("has a certificate that is renewed before the page warns of its end, and revokes it when it ends", async () => {
    const ofPage = () => source.ca.listCertificates({ identity: "spiffe://signet.internal/service/status" });
    const before = new Set((await ofPage()).map(({ serialNumber }) => serialNumber));
    const page = await servePage("production", 0.25);
    const own = async () => (await ofPage()).find(({ serialNumber }) => !before.has(serialNumber));
    const certificate = await own();
    expect(certificate?.state).toBe("valid");
    // Renewed in the last third; the page warns within a week.
    expect((Date.parse(certificate?.notAfter ?? "") - Date.parse(certificate?.notBefore ?? "")) / 3 / 86_400_000).toBeGreaterThan(7);
    pages.splice(pages.indexOf(page), 1);
    await page.close();
    expect(await own()).toMatchObject({ state: "revoked", reason: "cessationOfOperation" });
  });

  it("lets in over mutual TLS operators alone, and none whose certificate is revoked", async () => {
    const olga = await newcomer("operator", "olga");
    expect((await ask(production, { credential: olga })).body).toContain("<h1>Signet");
    await expect(ask(production)).rejects.toThrow();
    expect(JSON.parse((await ask(production, { credential: await newcomer("agent", "page-agent") })).body)).toMatchObject({ code: "not-permitted" });
    await revokeOperator("olga");
    await expect.poll(async () => (await ask(production, { credential: olga })).body, { timeout: 30_000 }).toContain("certificate-revoked");
  });
});

const flags = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"];

describe.skipIf(browserFile === undefined)("in a browser (skipped without chromium)", () => {
  let browser: Browser;
  beforeAll(async () => {
    browser = await chromium.launch({ executablePath: browserFile ?? "", args: flags });
  });
  afterAll(() => browser.close());

  const sizes = { desktop: { width: 1280, height: 900 }, phone: { width: 360, height: 740 } };

  /** A page, and what went wrong in it: errors, and violations of its policy, which Chromium reports as errors too. */
  async function open(options: Parameters<Browser["newContext"]>[0], url = development): Promise<{ readonly page: Page; readonly troubles: readonly string[]; readonly context: BrowserContext }> {
    const context = await browser.newContext(options);
    const page = await context.newPage();
    const troubles: string[] = [];
    page.on("console", (message) => void (["error", "warning"].includes(message.type()) && troubles.push(message.text())));
    page.on("pageerror", (error) => void troubles.push(error.message));
    page.on("request", (request) => void (new URL(request.url()).origin === new URL(url).origin || request.url().startsWith("data:") || troubles.push(request.url())));
    await page.goto(url);
    return { page, troubles, context };
  }

  it.each(["desktop", "phone"] as const)("says everything at the width of a %s, light and dark, legibly, and asks for nothing else", async (size) => {
    for (const colorScheme of ["light", "dark"] as const) {
      const { page, troubles, context } = await open({ viewport: sizes[size], colorScheme });
      expect(await page.locator("h2:visible, h2").allTextContents()).toEqual(["Services", "Certificates", "Revocations", "Connected", "Keys", "CRLs", "Last audit records"]);
      expect(await page.getByRole("table", { name: "Audit log of the CA" }).getByRole("row").count()).toBeGreaterThan(2);
      expect(await page.getByText("DEVELOPMENT").first().isVisible()).toBe(true);
      expect(await page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")).toBe(0);
      expect(await page.evaluate(faintText)).toStrictEqual([]);
      // Everything that a certificate or a record can hold, too, and nothing of it does anything.
      await page.setContent(statusPage(viewOf({ hostile: true, kmsDown: true }), 3600));
      expect(await page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")).toBe(0);
      expect(await page.evaluate(faintText)).toStrictEqual([]);
      expect(await page.locator("img").count()).toBe(0);
      expect(troubles).toStrictEqual([]);
      await context.close();
    }
  });

  it("works without its script", async () => {
    const { page, context } = await open({ javaScriptEnabled: false });
    expect(await page.getByRole("heading", { name: "Certificates" }).isVisible()).toBe(true);
    await page.getByRole("link", { name: "Refresh" }).click();
    expect(await page.getByRole("heading", { level: 1 }).textContent()).toBe("Signet signet.internal");
    await context.close();
  });

  it("shows a revocation by itself, asks for nothing while it is hidden, and says when it gets no answer", async () => {
    await newcomer("agent", "page-mallory");
    const { page, troubles, context } = await open({});
    const row = page.getByRole("table", { name: "Certificates that were revoked last" }).getByRole("row", { name: /page-mallory/ });
    expect(await row.count()).toBe(0);
    await system.revoke("page-mallory", "keyCompromise");
    await expect.poll(() => row.textContent(), { timeout: 30_000 }).toContain("keyCompromise");
    expect(troubles).toStrictEqual([]);
    await context.close();

    const still = await browser.newPage();
    await still.clock.install();
    await still.goto(development);
    const show = (state: string) => still.evaluate(`Object.defineProperty(document, "visibilityState", { configurable: true, value: "${state}" }); document.dispatchEvent(new Event("visibilitychange"))`);
    await show("hidden");
    let asked = 0;
    still.on("request", () => void (asked += 1));
    await still.clock.runFor(3_600_000);
    expect(asked).toBe(0);
    const answered = still.waitForEvent("requestfinished");
    await show("visible");
    await answered;
    await still.route("**/*", (route) => route.abort());
    await still.clock.runFor(2000);
    await expect.poll(() => still.locator("#lost").isVisible()).toBe(true);
    await still.close();
  });

  it.skipIf(certutil === undefined || pk12util === undefined)("with an operator's .p12 imported gets in over mutual TLS, without it does not, and no longer once it is revoked (skipped without certutil and pk12util)", async () => {
    const nina = await newcomer("operator", "nina");
    // A page that has met nobody: a browser may show its own certificate and no CA's.
    const url = await serve("production", 0.25);
    const [root] = system.operator.trustAnchors;
    const file = path.join(folder, "nina.p12");
    writeFileSync(file, encodePkcs12({ privateKey: nina.privateKey, chain: [...nina.chain, root as Certificate], friendlyName: "nina" }, Buffer.from("correct horse"), 1000));

    /** A browser of its own whose user trusts the root; the profile's own setting answers the question which certificate to show. */
    async function userBrowser(name: string, imports: boolean): Promise<BrowserContext> {
      const home = path.join(folder, name);
      const database = `sql:${path.join(home, ".pki/nssdb")}`;
      mkdirSync(path.join(home, ".pki/nssdb"), { recursive: true });
      mkdirSync(path.join(home, "profile/Default"), { recursive: true });
      execFileSync(certutil ?? "", ["-N", "-d", database, "--empty-password"]);
      execFileSync(certutil ?? "", ["-A", "-a", "-n", "root", "-t", "C,,", "-d", database], { input: root?.toPem() ?? "" });
      if (imports) execFileSync(pk12util ?? "", ["-i", file, "-d", database, "-W", "correct horse"], { stdio: "ignore" });
      const chosen = { profile: { content_settings: { exceptions: { auto_select_certificate: { [`${url},*`]: { setting: { filters: [{}] } } } } } } };
      writeFileSync(path.join(home, "profile/Default/Preferences"), JSON.stringify(chosen));
      return chromium.launchPersistentContext(path.join(home, "profile"), { executablePath: browserFile ?? "", args: flags, env: { ...process.env, HOME: home } });
    }

    const without = await userBrowser("stranger", false);
    await expect((await without.newPage()).goto(url)).rejects.toThrow("net::ERR_");
    await without.close();

    const withIt = await userBrowser("nina", true);
    const page = await withIt.newPage();
    await page.goto(url);
    expect(await page.getByRole("heading", { level: 1 }).textContent()).toBe("Signet signet.internal");
    expect(await page.getByText("DEVELOPMENT").count()).toBe(0);
    await revokeOperator("nina");
    await expect.poll(() => page.locator("#lost").isVisible(), { timeout: 30_000 }).toBe(true);
    await page.goto(url).catch(() => {});
    expect(await page.getByRole("heading", { level: 1 }).count()).toBe(0);
    await withIt.close();
  });
});

/** Runs in the page: text that stands out from what is behind it by less than WCAG 2.2 level AA asks for (4.5, or 3 where it is large). */
const faintText = `(() => {
  const channels = (color) => color.match(/[\\d.]+/g).map(Number);
  const luminance = ([r, g, b]) => [r, g, b].map((c) => c / 255).map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)).reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (element) => { for (let at = element; at !== null; at = at.parentElement) { const color = channels(getComputedStyle(at).backgroundColor); if (color.length === 3 || color[3] === 1) return color; } return [255, 255, 255]; };
  const faint = [];
  for (const element of document.body.querySelectorAll("*")) {
    if (!["SCRIPT", "STYLE"].includes(element.tagName) && [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim() !== "") && element.getClientRects().length > 0) {
      const style = getComputedStyle(element);
      const [one, other] = [luminance(channels(style.color)), luminance(behind(element))];
      const contrast = (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
      const size = parseFloat(style.fontSize);
      if (contrast < (size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700) ? 3 : 4.5)) faint.push(element.textContent.slice(0, 40) + " " + contrast.toFixed(2));
    }
  }
  return faint;
})()`;
