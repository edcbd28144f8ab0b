/** Victims of the Signet arms that are real agents: identities of this run, opened through the agents' SDK as any program would. */
import { createHash } from "node:crypto";
import { Agent } from "#agents/agent.ts";
import { type AgreementGroup, EphemeralKeyPair, ffdhePrimes } from "#agents/key-agreement.ts";
import { openAes256Gcm, sealAes256Gcm } from "#pki/aead.ts";
import { Certificate } from "#pki/certificate.ts";
import { EnrolledIdentity } from "#pki/identity.ts";
import { SecretKey } from "#pki/keys.ts";
import type { Stage, VictimStage } from "./attack.ts";
import { errorCodeOf } from "./observe.ts";
import { liveOf } from "./paths.ts";

const sha256 = (bytes: Uint8Array | string): string => createHash("sha256").update(bytes).digest("hex");

/** Runs what the victim does, and reports with which code Signet stopped it. */
async function reporting(stage: VictimStage, act: () => Promise<void>): Promise<void> {
  try {
    await act();
  } catch (error) {
    stage.refused(errorCodeOf(error), error instanceof Error ? error.message : "");
  }
}

/** A party of this run, opened from a copy of its identity directory, with its CRLs fetched. */
async function openAgent(stage: Stage, name: string, kmsUrl = liveOf(stage).kmsUrl): Promise<Agent> {
  const directory = String(await stage.direct("copy-identity", name));
  const agent = await Agent.open(directory, { kmsUrl });
  stage.onEnd(() => agent.close());
  await readyToJudge(agent);
  return agent;
}

/** Resolves once the agent's first refresh of its CRLs has ended; until then it refuses everybody. */
export async function readyToJudge(agent: Pick<Agent, "enrolled">): Promise<void> {
  const givenUp = performance.now() + 20_000;
  while (agent.enrolled.revocation.waitingFor() !== undefined) {
    if (performance.now() > givenUp) throw new Error(`still waiting for ${agent.enrolled.revocation.waitingFor() ?? ""}`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

/** Alice stores a key, the canary, at what Mallory says is the KMS. */
export async function liveKeyClient(stage: VictimStage): Promise<void> {
  const port = Number(await stage.hear("port"));
  const alice = await openAgent(stage, "alice", `https://localhost:${port}`);
  await reporting(stage, async () => {
    const key = await alice.kms.importKey("canary", Buffer.from(stage.secret, "hex"));
    stage.accepted(key.name);
  });
}

/** A newcomer with a one-time token, the canary, enrolls at what Mallory says is the CA; the root's fingerprint is pinned. */
export async function enrollAtMallory(stage: VictimStage): Promise<void> {
  const port = Number(await stage.hear("port"));
  const genuine = Certificate.fromPem(stage.world.laboratory.root.certificate).fingerprint;
  await reporting(stage, async () => {
    const enrolled = await EnrolledIdentity.enroll({ caUrl: `https://localhost:${port}`, rootFingerprint: genuine, name: "newcomer", token: stage.secret });
    stage.accepted(enrolled.identity.uri);
  });
}

/** Alice dials Carol over Mallory's wire and says the canary once the link is open. */
export async function linkThroughMallory(stage: VictimStage): Promise<void> {
  const [alice, carol] = await Promise.all([openAgent(stage, "alice"), openAgent(stage, "carol")]);
  const listener = await carol.listen({
    onLink: (link) => void link.receive().then((message) => stage.accepted(Buffer.from(message).toString()), () => {}),
    onRefused: (reason) => stage.refused(reason.code, `${reason.message} ${String(reason.details["reason"] ?? "")}`),
  });
  stage.tell("carol", listener.port);
  await reporting(stage, async () => {
    const link = await alice.dial("carol", { host: "127.0.0.1", port: Number(await stage.hear("port")) });
    await link.send(Buffer.from(stage.secret));
  });
}

/** Alice dials Carol, and Mallory has the bytes come back to Alice's own listener. */
export async function dialAndBeReflected(stage: VictimStage): Promise<void> {
  const alice = await openAgent(stage, "alice");
  const listener = await alice.listen({ onLink: (link) => stage.accepted(link.peer.uri) });
  stage.tell("alice", listener.port);
  await reporting(stage, async () => {
    const link = await alice.dial("carol", { host: "127.0.0.1", port: Number(await stage.hear("port")) });
    await link.send(Buffer.from(stage.secret));
  });
}

/** Alice's client of the KMS is led to Carol's listener for links: the same CA, the same run, another protocol. */
export async function crossProtocol(stage: VictimStage): Promise<void> {
  const carol = await openAgent(stage, "carol");
  const listener = await carol.listen({ onLink: (link) => void link.receive().then((message) => stage.accepted(Buffer.from(message).toString()), () => {}) });
  stage.tell("carol", listener.port);
  await liveKeyClient(stage);
}

/** A group of Alice and Carol with a key of this arm. */
async function groupOfTwo(stage: VictimStage) {
  const [alice, carol] = await Promise.all([openAgent(stage, "alice"), openAgent(stage, "carol")]);
  const name = `arm-${sha256(stage.secret).slice(0, 12)}`;
  await alice.createKey(name, { readers: [alice.peerUri("carol")] });
  return { sealed: Buffer.from(await alice.group(name).seal(Buffer.from(stage.secret))), reader: carol.group(name) };
}

/** Carol reads a message of Alice's that Mallory delivers twice. */
export async function readTwice(stage: VictimStage): Promise<void> {
  const { sealed, reader } = await groupOfTwo(stage);
  stage.tell("sealed", sealed.toString("base64"));
  for (const which of ["first", "second"]) {
    await reporting(stage, async () => {
      const delivered = String(await stage.hear("delivered"));
      await reader.open(Buffer.from(delivered, "base64"));
      stage.accepted(`${which}: ${sha256(delivered)}`);
    });
  }
}

/** Carol is handed altered messages and answers each with what any caller would see of it. */
export async function openAlteredMessages(stage: VictimStage): Promise<void> {
  const { sealed, reader } = await groupOfTwo(stage);
  stage.tell("recorded", sealed.toString("base64"));
  const answers = new Set<string>();
  for (let altered = await stage.hear("altered"); altered !== null; altered = await stage.hear("altered")) {
    const answer = await reader.open(Buffer.from(String(altered), "base64")).then(() => "opened", errorCodeOf);
    answers.add(answer);
    stage.tell("answer", answer);
  }
  stage.refused([...answers].join(", "), `${answers.size === 1 ? "one answer" : "several answers"} to every alteration`);
}

/** A receiver of AES-256-GCM gets a ciphertext whose tag was cut. */
export async function openWithShortTag(stage: VictimStage): Promise<void> {
  const key = SecretKey.random(32);
  stage.tell("recorded", Buffer.from(sealAes256Gcm(key, Buffer.from(stage.secret), Buffer.from("order"))).toString("hex"));
  const altered = String(await stage.hear("altered"));
  await reporting(stage, async () => {
    openAes256Gcm(key, Buffer.from(altered, "hex"), Buffer.from("order"));
    stage.accepted(sha256(altered));
  });
}

/** An agent that agrees on keys by the name of a group is sent public values that are no members of it. */
export async function agreeWithDegenerateValues(stage: VictimStage): Promise<void> {
  stage.tell("groups", Object.entries(ffdhePrimes).map(([name, modulus]) => ({ name, modulus })));
  const codes = new Map<string, number>();
  for (let share = await stage.hear("share"); share !== null; share = await stage.hear("share")) {
    const { group, value } = share as { group: AgreementGroup; value: string };
    try {
      (await EphemeralKeyPair.generate(group)).sessionKey(Buffer.from(value, "hex"));
      stage.accepted(value);
    } catch (error) {
      codes.set(errorCodeOf(error), (codes.get(errorCodeOf(error)) ?? 0) + 1);
    }
  }
  stage.refused([...codes.keys()].join(", "), `${[...codes.values()].reduce((sum, count) => sum + count, 0)} values refused`);
}
