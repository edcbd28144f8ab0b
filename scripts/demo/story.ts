/** The story up to Mallory's entrance: who the parties are, what they do, and how Bob is cut off while he holds connections open. */
import type { Attack } from "../attacks/attack.ts";
import { agentNames, type Enrolled, type SystemUnderAttack } from "./world.ts";

export interface StoryStep {
  readonly title: string;
  readonly detail: string;
  readonly ms: number;
  readonly ok: boolean;
}

/** One measured cut: from the moment the operator's request was sent to the moment Bob's connection was gone. */
export interface Cut {
  readonly connection: string;
  readonly ms: number;
}

export interface PartyRecord {
  readonly name: string;
  readonly part: string;
  readonly uri: string;
  /** Process; Mallory has new ones for every attack. */
  readonly pid?: number;
  readonly serialNumber?: string;
  readonly keyType?: string;
  readonly fate: string;
}

export interface Story {
  readonly steps: readonly StoryStep[];
  readonly cuts: readonly Cut[];
  readonly parties: readonly PartyRecord[];
}

/** Wraps each step, so that the terminal can show it while it runs. */
export type Telling = (title: string, act: () => Promise<string>) => Promise<StoryStep>;

const short = (hash: string): string => `${hash.slice(0, 16)}...`;
const portOf = (url: string): number => Number(new URL(url).port);
const http = "http/1.1";
const link = "signet-link/1";

/** A statement of the story that has to hold; where it does not, the step fails and says so. */
function must(holds: boolean, otherwise: string): void {
  if (!holds) throw new Error(otherwise);
}

export async function tellStory(system: SystemUnderAttack, tell: Telling): Promise<Story> {
  const steps: StoryStep[] = [];
  const step = async (title: string, act: () => Promise<string>): Promise<void> => void steps.push(await tell(title, act));
  const enrolled = new Map<string, Enrolled>();
  const cuts: Cut[] = [];

  await step("The authority opens", async () => {
    const ca = await system.startCa();
    return `The CA runs in process ${ca.pid}: a root, an issuing CA, and listeners for enrolment, mutual TLS and publication. Root SHA-256 ${short(ca.rootFingerprint)}`;
  });
  await step("The key service opens", async () => {
    const kms = await system.startKms();
    return `The KMS runs in process ${kms.pid}. It enrolled like everybody else, and serves over mutual TLS only.`;
  });
  const { alice, bob, carol, dave } = system.agents;
  await step("Alice, Bob, Carol and Dave enroll", async () => {
    await Promise.all(agentNames.map(async (name) => enrolled.set(name, await system.enroll(name))));
    await system.enrollUnattended("mallory");
    return "Each makes an RSA key in a process of its own; only certificate requests leave them (EST, a one-time token each, the root's fingerprint pinned). Mallory enrolls as well: she is an insider.";
  });
  await step("Dave renews his certificate", async () => {
    const { before, after } = (await dave.order("renew")) as { before: string; after: string };
    must(before !== after, "the certificate did not change");
    return `EST simplereenroll over mutual TLS: serial number ${before.slice(0, 8)}... became ${after.slice(0, 8)}...`;
  });
  const keyOf = async (party: typeof alice): Promise<{ version: number; sha256: string }> =>
    (await party.order("requestKey", { name: "team" })) as { version: number; sha256: string };
  await step("Alice creates a group key for Bob and Carol", async () => {
    await alice.order("createKey", { name: "team", readers: "bob,carol" });
    const keys = await Promise.all([keyOf(alice), keyOf(bob), keyOf(carol)]);
    must(new Set(keys.map((key) => key.sha256)).size === 1, "the copies differ");
    return `The KMS hands the same 256 bits to all three (SHA-256 ${short(keys[0]?.sha256 ?? "")}).`;
  });
  await step("Dave asks for it too", async () => {
    const code = await dave.refusalOf("requestKey", { name: "team" });
    must(code === "not-permitted", `Dave was answered ${code ?? "with the key"}`);
    return "Refused: not-permitted, the same answer as for a key that does not exist.";
  });
  await step("They exchange sealed messages", async () => {
    const message = String(await alice.order("seal", { group: "team", text: "Meet at nine." }));
    const [atBob, atCarol] = (await Promise.all([bob, carol].map((party) => party.order("open", { group: "team", message })))) as { from: string; text: string }[];
    must(atBob?.text === "Meet at nine." && atCarol?.text === "Meet at nine.", "a message did not arrive");
    return `Alice seals, Bob and Carol open: "${atBob?.text ?? ""}" from ${atBob?.from ?? ""}. AES-256-GCM, with a key of its own for each message.`;
  });
  const ports = { alice: 0, carol: 0 };
  await step("Alice and Carol agree on a session key between themselves", async () => {
    [ports.alice, ports.carol] = (await Promise.all([alice.order("listen"), carol.order("listen")])).map(Number) as [number, number];
    const dialled = (await alice.order("dial", { peer: "carol", port: ports.carol })) as { group: string; sha256: string };
    const answered = (await carol.order("linkKey", { peer: "alice" })) as { sha256: string };
    must(dialled.sha256 === answered.sha256, "the two ends have different keys");
    await alice.order("say", { peer: "carol", text: "Between us." });
    must((await carol.order("hear", { peer: "alice" })) === "Between us.", "the message did not arrive");
    return `Ephemeral Diffie-Hellman (${dialled.group}), authenticated by both certificates. Both ends show SHA-256 ${short(dialled.sha256)}; the key itself is shown to nobody.`;
  });

  const places = [
    { name: "kms", label: "the KMS", port: portOf(system.kms.url), protocol: http },
    { name: "alice", label: "Alice", port: ports.alice, protocol: link },
    { name: "carol", label: "Carol", port: ports.carol, protocol: link },
  ] as const;
  await step("Bob opens connections and keeps them", async () => {
    const answers = (await Promise.all(places.map(({ name, port, protocol }) => bob.order("hold", { name, port, protocol })))) as { served: boolean; session: boolean }[];
    must(answers.every((answer) => answer.served), "Bob was not served before his revocation");
    const sessions = answers.filter((answer) => answer.session).length;
    return `One to the KMS, one to Alice, one to Carol, all served. He keeps the TLS sessions that he was given (${sessions}) for later.`;
  });
  await step("Bob is revoked", async () => {
    const answer = (await system.revoke("bob")) as { revoked: string[]; crlNumber: string; sentAt: number; acknowledgedAt: number };
    for (const { name, label } of places) {
      const event = await bob.event(({ event: kind, value }) => kind === "cut" && (value as { name: string }).name === name);
      if (event === undefined) throw new Error(`Bob's connection to ${label} was not cut`);
      cuts.push({ connection: label, ms: Math.max(0, (event.value as { at: number }).at - answer.sentAt) });
    }
    const measured = cuts.map(({ connection, ms }) => `${connection} after ${ms.toFixed(0)} ms`).join(", ");
    return `${answer.revoked.length} certificates on CRL ${answer.crlNumber}, acknowledged after ${(answer.acknowledgedAt - answer.sentAt).toFixed(0)} ms. His open connections were cut: ${measured}.`;
  });
  await step("Bob tries again everywhere", async () => {
    type Try = { served: boolean; code: string | null; offered?: boolean; reused?: boolean };
    const told: string[] = [];
    for (const { name, label, port, protocol } of places) {
      const open = (await bob.order("tryOpenConnection", { name, protocol })) as Try;
      const resumed = (await bob.order("tryNewConnection", { name, port, protocol, offerSession: "yes" })) as Try;
      const fresh = (await bob.order("tryNewConnection", { name, port, protocol })) as Try;
      must(![open, resumed, fresh].some((attempt) => attempt.served), `${label} served Bob after his revocation`);
      must(resumed.reused !== true, `${label} resumed a session from before`);
      told.push(`${label}: open connection ${open.code === "socket-cut" ? "cut" : "refused"}, session from before ${resumed.offered === true ? "not resumed" : "never issued"}, new connection refused${fresh.code === null || fresh.code === "tls-refused" ? "" : ` (${fresh.code})`}`);
    }
    for (const party of [alice, carol]) {
      const event = await party.event(({ event: kind, value }) => kind === "link-refused" && (value as { code: string }).code === "certificate-revoked");
      must(event !== undefined, `${party.name} did not refuse Bob with certificate-revoked`);
    }
    const [first = "", ...rest] = told.join("; ");
    return `${first.toUpperCase()}${rest.join("")}. Alice and Carol give certificate-revoked as their reason.`;
  });
  await step("The group goes on without him", async () => {
    const { version } = (await alice.order("removeMember", { group: "team", member: "bob" })) as { version: number };
    const message = String(await alice.order("seal", { group: "team", text: "Now at ten." }));
    const opened = (await carol.order("open", { group: "team", message })) as { text: string; keyVersion: number };
    must(opened.text === "Now at ten." && opened.keyVersion === version, "Carol did not get the new key");
    const code = await bob.refusalOf("open", { group: "team", message });
    must(code !== undefined, "Bob opened a message under the new key");
    const kept = (await bob.order("openWithKeptKey", { message })) as { code: string | null };
    must(kept.code === "decryption-failed", `Bob's old key answered ${kept.code ?? "with the text"}`);
    return `Alice rotates the key to version ${version}; Carol reads on. Bob gets no new key, and his copy of the old one opens nothing new (${kept.code}).`;
  });

  const uri = (kind: string, name: string): string => `spiffe://${system.live.trustDomain}/${kind}/${name}`;
  const agent = (name: (typeof agentNames)[number], part: string, fate: string): PartyRecord => {
    const record = enrolled.get(name);
    return {
      name: name[0]?.toUpperCase() + name.slice(1),
      part,
      uri: uri("agent", name),
      pid: system.agents[name].pid,
      fate,
      ...(record === undefined ? {} : { serialNumber: record.serialNumber, keyType: record.keyType }),
    };
  };
  return {
    steps,
    cuts,
    parties: [
      { name: "CA", part: "issues certificates, publishes revocations", uri: uri("service", "ca"), pid: system.ca.pid, fate: "a process of its own" },
      { name: "KMS", part: "keeps keys, and hands them out over mutual TLS", uri: uri("service", "kms"), pid: system.kms.pid, fate: "a process of its own" },
      agent("alice", "owns the group key", "in good standing"),
      agent("bob", "member of the group", "revoked for key compromise"),
      agent("carol", "member of the group", "in good standing"),
      agent("dave", "agent, no member", "in good standing, refused the group key"),
      { name: "Mallory", part: "attacker, and an agent herself", uri: uri("agent", "mallory"), fate: "processes of her own for every attack" },
    ],
  };
}

/** What the attacks come to in one sentence. */
export function countedBy(attacks: readonly Attack[]): string {
  const families = new Set(attacks.map((attack) => attack.id[0]));
  return `${attacks.length} attacks of ${families.size} families`;
}
