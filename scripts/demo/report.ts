/** The report of a run as data, and as one HTML page without anything from outside. */
import { readFileSync } from "node:fs";
import type { ArmResult, Attack, Verdict } from "../attacks/attack.ts";
import { families, familyOf } from "../attacks/catalogue.ts";
import { escapeText, partiesPicture, sequenceDiagram } from "./diagram.ts";
import type { Evidence } from "./evidence.ts";
import type { Cut, PartyRecord, StoryStep } from "./story.ts";

export interface AttackReport extends Omit<Attack, "diagram" | "naive"> {
  readonly family: string;
  readonly mistake: string;
  readonly arms: readonly ArmResult[];
}

export interface Report {
  readonly format: "signet-demo-report-1";
  readonly ok: boolean;
  readonly startedAt: string;
  readonly durationMilliseconds: number;
  readonly versions: Readonly<Record<string, string>>;
  readonly trustDomain: string;
  readonly rootFingerprint: string;
  readonly parties: readonly PartyRecord[];
  readonly story: readonly StoryStep[];
  readonly cuts: readonly Cut[];
  readonly attacks: readonly AttackReport[];
  readonly verdicts: readonly Verdict[];
  readonly evidence: Evidence;
}

export function attackReport(attack: Attack, arms: readonly ArmResult[]): AttackReport {
  const { diagram: _diagram, naive, ...rest } = attack;
  return { ...rest, mistake: naive, family: families[familyOf(attack)], arms };
}

export const verdictOf = ({ id, arm, attackerWon, canarySeen, reasonCode, expected, ms }: ArmResult): Verdict => ({ id, arm, attackerWon, canarySeen, reasonCode, expected, ms });

const paragraph = (text: string, kind = ""): string => `<p${kind === "" ? "" : ` class="${kind}"`}>${escapeText(text)}</p>`;

function armColumn(attack: Attack, result: ArmResult | undefined, arm: "naive" | "signet"): string {
  const heading = arm === "naive" ? "Naive" : "Signet";
  const won = result?.attackerWon === true;
  const verdict =
    result === undefined
      ? "did not run"
      : arm === "naive"
        ? won
          ? "Mallory wins"
          : "Mallory loses"
        : won
          ? "MALLORY WINS"
          : `refused: ${result.reasonCode ?? "nothing said"}`;
  const good = result?.asExpected === true;
  return (
    `<div class="arm ${arm}"><h4>${heading} <span class="verdict ${won ? "won" : "held"}">${escapeText(verdict)}</span></h4>` +
    paragraph(arm === "naive" ? attack.naive : attack.defence) +
    sequenceDiagram(attack.diagram[arm], `${attack.title}, ${heading}`) +
    (result === undefined ? "" : `<ul class="evidence">${result.evidence.map((line) => `<li>${escapeText(line)}</li>`).join("")}</ul>`) +
    (result === undefined ? "" : `<p class="small">${good ? "As expected" : "NOT AS EXPECTED"}; ${result.ms} ms in processes of its own.</p>`) +
    `</div>`
  );
}

export function renderHtml(report: Report, attacks: readonly Attack[]): string {
  const held = report.attacks.filter((attack) => attack.arms.some((arm) => arm.arm === "signet" && arm.asExpected)).length;
  const naive = report.attacks.filter((attack) => attack.arms.some((arm) => arm.arm === "naive" && arm.asExpected)).length;
  const slowest = Math.max(1, ...report.cuts.map((cut) => cut.ms));
  const familyNames = [...new Set(attacks.map(familyOf))];
  const css = readFileSync(new URL("./report.css", import.meta.url), "utf8");
  const table = attacks
    .map((attack) => {
      const arms = report.attacks.find((one) => one.id === attack.id)?.arms ?? [];
      const [first, second] = [arms.find((arm) => arm.arm === "naive"), arms.find((arm) => arm.arm === "signet")];
      return `<tr><td><a href="#${attack.id}">${attack.id}</a></td><td>${escapeText(attack.title)}</td><td>${first?.attackerWon === true ? "Mallory wins" : "Mallory loses"}</td><td><code>${escapeText(second?.reasonCode ?? "none")}</code></td></tr>`;
    })
    .join("");
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>Signet: what Mallory tried</title>
<style>${css}</style>
</head>
<body>
<header>
<h1>What Mallory tried</h1>
<p class="lead">${report.ok ? "Every verdict is as expected." : "NOT every verdict is as expected."} Mallory ran ${report.attacks.length} attacks, each twice: against a naive system, where she won ${naive} of ${report.attacks.length}, and against Signet, which stopped ${held} of ${report.attacks.length} for the expected reason.</p>
<p class="small">${escapeText(report.startedAt)}; ${(report.durationMilliseconds / 1000).toFixed(1)} s; ${Object.entries(report.versions).map(([name, version]) => `${escapeText(name)} ${escapeText(version)}`).join(", ")}. Trust domain <code>${escapeText(report.trustDomain)}</code>, root SHA-256 <code class="hash">${report.rootFingerprint}</code>.</p>
</header>
<main>
<section id="parties"><h2>The parties</h2>
<div class="columns"><figure>${partiesPicture()}<figcaption>Every line is TLS 1.3 with both certificates. The dashed ones were cut when Bob was revoked; Dave's ends in a refusal.</figcaption></figure>
<dl>${report.parties.map((party) => `<dt>${escapeText(party.name)}</dt><dd>${escapeText(party.part)}; ${escapeText(party.fate)}.<br><code>${escapeText(party.uri)}</code></dd>`).join("")}</dl></div>
</section>
<section id="story"><h2>The story</h2>
<ol class="story">${report.story.map((step) => `<li${step.ok ? "" : ' class="failed"'}><strong>${escapeText(step.title)}.</strong> ${escapeText(step.detail)} <span class="small">(${step.ms} ms)</span></li>`).join("")}</ol>
${
  report.cuts.length === 0
    ? ""
    : `<h3>How long Bob's connections outlived his certificate</h3><div class="bars">${report.cuts
        .map((cut) => `<div class="bar"><span>${escapeText(cut.connection)}</span><span class="track"><i style="width:${Math.max(2, (100 * cut.ms) / slowest).toFixed(1)}%"></i></span><span>${cut.ms.toFixed(0)} ms</span></div>`)
        .join("")}</div><p class="small">From the moment the operator's request left to the moment the connection was gone, on this machine.</p>`
}
</section>
<section id="verdicts"><h2>The verdicts</h2>
<p>Mallory has won if a random secret of the run stands in her own log, or if a victim took a value that she forged for true. Nothing else counts, neither an exception nor what she believes herself.</p>
<div class="scroll"><table><thead><tr><th></th><th>attack</th><th>naive</th><th>Signet refuses with</th></tr></thead><tbody>${table}</tbody></table></div>
<p class="legend"><span class="key message"></span>honest <span class="key attack"></span>Mallory's doing <span class="key loss"></span>lost to her <span class="key refusal"></span>refused</p>
</section>
${familyNames
  .map(
    (family) =>
      `<section class="family"><h2>${escapeText(families[family])}</h2>${attacks
        .filter((attack) => familyOf(attack) === family)
        .map((attack) => {
          const arms = report.attacks.find((one) => one.id === attack.id)?.arms ?? [];
          return (
            `<article id="${attack.id}"><h3><span class="id">${attack.id}</span> ${escapeText(attack.title)}</h3>` +
            `<p>Mallory has ${escapeText(attack.mallory)}. ${escapeText(attack.how)}</p>` +
            `<div class="columns arms">${armColumn(attack, arms.find((arm) => arm.arm === "naive"), "naive")}${armColumn(attack, arms.find((arm) => arm.arm === "signet"), "signet")}</div>` +
            `<p class="small">${escapeText(attack.source)}</p></article>`
          );
        })
        .join("")}</section>`,
  )
  .join("\n")}
<section id="evidence"><h2>Check it yourself</h2>
<p>Beside this page lie the certificates and CRLs of the run. They are public; no private key is left of it. In that folder, with OpenSSL 3:</p>
${report.evidence.verifications.map(({ command, outcome }) => `<pre><code>${escapeText(command)}</code></pre><p class="small">${outcome === "good" ? "answers OK" : "fails: certificate revoked"}</p>`).join("")}
<h3>Files</h3><ul>${report.evidence.files.map(({ name, what }) => `<li><code>${escapeText(name)}</code>: ${escapeText(what)}</li>`).join("")}</ul>
</section>
</main>
</body>
</html>
`;
}
