/** Sequence diagrams as inline SVG, drawn from the catalogue's steps. Colours are the page's; each kind of arrow also has a shape of its own. */
import type { DiagramStep } from "../attacks/attack.ts";

export const escapeText = (text: string): string =>
  text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;").replaceAll('"', "&quot;");

const width = 340;
const laneMargin = 46;
const headHeight = 34;
const charactersPerLine = 30;
const lineHeight = 14;

/** Breaks a label into lines of about thirty characters, between words. */
function wrap(label: string): string[] {
  const lines: string[] = [];
  for (const word of label.split(" ")) {
    const last = lines.at(-1);
    if (last !== undefined && `${last} ${word}`.length <= charactersPerLine) lines[lines.length - 1] = `${last} ${word}`;
    else lines.push(word);
  }
  return lines;
}

/** Mallory stands in the middle wherever there are others on both sides of her. */
function laneOrder(steps: readonly DiagramStep[]): string[] {
  const actors = [...new Set(steps.flatMap((step) => [step.from, step.to]))];
  if (actors.length < 3 || !actors.includes("Mallory")) return actors;
  const partners = actors.filter((actor) => actor !== "Mallory");
  const first = steps[0];
  if (first?.from === "Mallory" || (first?.from !== "Alice" && first?.to !== "Mallory")) return ["Mallory", ...partners];
  return [partners[0] ?? "", "Mallory", ...partners.slice(1)];
}

const sayings: Readonly<Record<DiagramStep["kind"], string>> = { message: "", attack: "Mallory's doing: ", loss: "lost: ", refusal: "refused: " };

/** One diagram. `title` is its accessible name. */
export function sequenceDiagram(steps: readonly DiagramStep[], title: string): string {
  const lanes = laneOrder(steps);
  const gap = (width - 2 * laneMargin) / Math.max(1, lanes.length - 1);
  const at = (actor: string): number => laneMargin + lanes.indexOf(actor) * gap;
  const parts: string[] = [];
  let y = headHeight + 10;
  for (const step of steps) {
    const lines = wrap(step.label);
    const [from, to] = [at(step.from), at(step.to)];
    const labelWidth = Math.max(...lines.map((line) => line.length)) * 6.2;
    const centre = from === to ? from : (from + to) / 2;
    const x = Math.min(Math.max(centre, labelWidth / 2 + 2), width - labelWidth / 2 - 2);
    lines.forEach((line, index) => {
      parts.push(`<text class="label" x="${x.toFixed(1)}" y="${y + 10 + index * lineHeight}" text-anchor="middle">${escapeText(line)}</text>`);
    });
    y += lines.length * lineHeight + 6;
    parts.push(from === to ? ownArrow(step.kind, from, y) : arrow(step.kind, from, to, y));
    y += from === to ? 26 : 14;
  }
  const height = y + 6;
  const heads = lanes.map((actor) => {
    const x = at(actor);
    const mallory = actor === "Mallory" ? " mallory" : "";
    return (
      `<line class="lane" x1="${x}" y1="${headHeight - 4}" x2="${x}" y2="${height - 4}"/>` +
      `<rect class="actor${mallory}" x="${x - 42}" y="4" width="84" height="24" rx="5"/>` +
      `<text class="name${mallory}" x="${x}" y="20" text-anchor="middle">${escapeText(actor)}</text>`
    );
  });
  const told = steps.map((step) => `${step.from} to ${step.to}: ${sayings[step.kind]}${step.label}`).join(". ");
  return (
    `<svg class="sequence" viewBox="0 0 ${width} ${height}" role="img" aria-label="${escapeText(`${title}. ${told}.`)}">` +
    `${heads.join("")}${parts.join("")}</svg>`
  );
}

function arrow(kind: DiagramStep["kind"], from: number, to: number, y: number): string {
  const way = Math.sign(to - from);
  const start = from + way * 3;
  if (kind === "refusal") {
    // A refusal stops on its way, at a cross.
    const stop = from + (to - from) * 0.62;
    return `<g class="refusal"><line x1="${start}" y1="${y}" x2="${stop}" y2="${y}"/><path d="M${stop - 5} ${y - 5}l10 10m0 -10l-10 10"/></g>`;
  }
  const end = to - way * 3;
  const head = `<path class="head" d="M${end} ${y}l${-way * 9} -4.5v9z"/>`;
  const start2 = kind === "loss" ? `<circle class="head" cx="${start + way * 2}" cy="${y}" r="4.5"/>` : "";
  return `<g class="${kind}"><line x1="${start}" y1="${y}" x2="${end - way * 7}" y2="${y}"/>${head}${start2}</g>`;
}

function ownArrow(kind: DiagramStep["kind"], x: number, y: number): string {
  return `<g class="${kind}"><path class="loop" d="M${x + 3} ${y}h24v12h-17"/><path class="head" d="M${x + 4} ${y + 12}l9 -4.5v9z"/></g>`;
}

/** A picture of who talks to whom. */
export function partiesPicture(): string {
  const box = (x: number, y: number, size: number, name: string, part: string, kind = ""): string =>
    `<g class="party ${kind}"><rect x="${x}" y="${y}" width="${size}" height="42" rx="7"/>` +
    `<text class="name" x="${x + size / 2}" y="${y + 18}" text-anchor="middle">${name}</text>` +
    `<text class="part" x="${x + size / 2}" y="${y + 33}" text-anchor="middle">${part}</text></g>`;
  const agents = [
    { name: "Alice", part: "owns the key", kind: "" },
    { name: "Carol", part: "member", kind: "" },
    { name: "Bob", part: "revoked", kind: "revoked" },
    { name: "Dave", part: "no member", kind: "" },
  ];
  const lane = (index: number): number => 45 + index * 90;
  const certified = agents.map((_agent, index) => `<path class="wire faint" d="M${180 + (index - 1.5) * 22} 52L${lane(index)} 104"/>`);
  const served = agents.map(({ name }, index) => {
    const bottom = 180 + (index - 1.5) * 22;
    if (name === "Bob") return `<path class="wire cut" d="M${lane(index)} 146L${bottom} 246"/>`;
    if (name !== "Dave") return `<path class="wire" d="M${lane(index)} 146L${bottom} 246"/>`;
    // Dave is heard, and refused.
    const [x, y] = [lane(index) + (bottom - lane(index)) * 0.78, 146 + 100 * 0.78];
    return `<path class="wire" d="M${lane(index)} 146L${x} ${y}"/><path class="wire cross" d="M${x - 5} ${y - 5}l10 10m0 -10l-10 10"/>`;
  });
  return (
    `<svg class="parties" viewBox="0 0 360 296" role="img" aria-label="The CA certifies everybody and publishes revocations. The KMS hands the group key to Alice and Carol. Alice and Carol are linked with each other. Bob's connections to the KMS and to Carol are cut. Dave is refused the group key. Mallory sits on every wire.">` +
    `${certified.join("")}${served.join("")}<path class="wire" d="M84 125H96"/><path class="wire cut" d="M174 125H186"/>` +
    `<g class="party mallory"><rect x="6" y="180" width="348" height="24" rx="12" opacity=".92"/><text class="name" x="180" y="196" text-anchor="middle">Mallory, on every wire</text></g>` +
    agents.map(({ name, part, kind }, index) => box(lane(index) - 39, 104, 78, name, part, kind)).join("") +
    `${box(115, 10, 130, "CA", "certifies and revokes")}${box(115, 246, 130, "KMS", "keeps the keys")}</svg>`
  );
}
