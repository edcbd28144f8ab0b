/** Family C: ciphertexts and keys at rest or in transit, moved, altered, cut short, or asked for by the wrong party. */
import { createCipheriv, createDecipheriv, createHash, randomBytes } from "node:crypto";
import http from "node:http";
import type { FamilyArms, MalloryStage, VictimStage } from "./attack.ts";
import { malloryFetch, naiveKeyServer } from "./naive.ts";
import { listenOnLoopback } from "./observe.ts";
import { copiedCredential, liveOf, malloryAsksKms } from "./paths.ts";

const posing = () => import("./posing.ts");
const sha256 = (bytes: Uint8Array | string): string => createHash("sha256").update(bytes).digest("hex");

/** AES-256-GCM without additional data: IV, ciphertext and tag in one. */
function sealNaively(key: Uint8Array, text: string): Buffer {
  const iv = randomBytes(12);
  const cipher = createCipheriv("aes-256-gcm", key, iv);
  return Buffer.concat([iv, cipher.update(text), cipher.final(), cipher.getAuthTag()]);
}

function openNaively(key: Uint8Array, sealed: Buffer): string {
  const decipher = createDecipheriv("aes-256-gcm", key, sealed.subarray(0, 12), { authTagLength: 16 });
  decipher.setAuthTag(sealed.subarray(-16));
  return decipher.update(sealed.subarray(12, -16)).toString() + decipher.final().toString();
}

/** A small HTTP service of the victim's; its port is told to Mallory, and it stays to the end. */
async function serveHttp(stage: VictimStage, answer: (path: string, body: Buffer) => { status: number; text: string }): Promise<void> {
  const server = http.createServer((incoming, outgoing) => {
    const parts: Buffer[] = [];
    incoming.on("data", (part: Buffer) => parts.push(part));
    incoming.on("end", () => {
      const { status, text } = answer(incoming.url ?? "/", Buffer.concat(parts));
      outgoing.writeHead(status).end(text);
    });
  });
  stage.onEnd(() => server.closeAllConnections());
  stage.tell("port", await listenOnLoopback(server));
  await stage.end;
}

async function post(port: number, path: string, body: Uint8Array | string = ""): Promise<{ status: number; text: string }> {
  const answer = await new Promise<http.IncomingMessage>((resolve, reject) => {
    const outgoing = http.request({ host: "127.0.0.1", port, path, method: "POST", agent: keptAlive }, resolve);
    outgoing.on("error", reject);
    outgoing.end(body);
  });
  let text = "";
  for await (const part of answer) text += String(part);
  return { status: answer.statusCode ?? 0, text };
}
const keptAlive = new http.Agent({ keepAlive: true, maxSockets: 1 });

/**
 * Vaudenay's attack: learns the plaintext of CBC blocks from a service that only tells whether the padding was right, one
 * byte at a time from the end of each block.
 */
async function decryptByPadding(sealed: Buffer, paddingIsRight: (candidate: Buffer) => Promise<boolean>): Promise<{ plaintext: Buffer; queries: number }> {
  const recovered: Buffer[] = [];
  let queries = 0;
  for (let at = 16; at < sealed.length; at += 16) {
    const block = sealed.subarray(at, at + 16);
    const previous = sealed.subarray(at - 16, at);
    const intermediate = Buffer.alloc(16);
    for (let index = 15; index >= 0; index -= 1) {
      const padding = 16 - index;
      const probe = Buffer.alloc(16);
      for (let later = index + 1; later < 16; later += 1) probe[later] = (intermediate[later] ?? 0) ^ padding;
      let found = false;
      for (let guess = 0; guess < 256 && !found; guess += 1) {
        probe[index] = guess;
        queries += 1;
        if (!(await paddingIsRight(Buffer.concat([probe, block])))) continue;
        if (index === 15) {
          // 02 02 passes as well as 01: change the byte before and ask again.
          probe[14] = (probe[14] ?? 0) ^ 0xff;
          queries += 1;
          const still = await paddingIsRight(Buffer.concat([probe, block]));
          probe[14] = (probe[14] ?? 0) ^ 0xff;
          if (!still) continue;
        }
        intermediate[index] = guess ^ padding;
        found = true;
      }
      if (!found) throw new Error("the oracle gave nothing away");
    }
    recovered.push(Buffer.from(intermediate.map((byte, index) => byte ^ (previous[index] ?? 0))));
  }
  return { plaintext: Buffer.concat(recovered), queries };
}

export const ciphertext: FamilyArms = {
  C01: {
    naive: {
      victim: async (stage) => {
        // Sealed records under one key; nothing ties a ciphertext to whose it is.
        const key = randomBytes(32);
        const store = new Map([
          ["alice", sealNaively(key, stage.secret)],
          ["mallory", sealNaively(key, "shopping list")],
        ]);
        await serveHttp(stage, (path, body) => {
          const [, act = "", name = ""] = path.split("/");
          // Mallory can write to the storage, as whoever holds the database can; the service opens only her own record for her.
          if (act === "storage" && body.length > 0) store.set(name, Buffer.from(body.toString(), "base64"));
          if (act === "storage") return { status: 200, text: store.get(name)?.toString("base64") ?? "" };
          if (name !== "mallory") return { status: 403, text: "no" };
          return { status: 200, text: openNaively(key, store.get("mallory") ?? Buffer.alloc(0)) };
        });
      },
      mallory: async (stage) => {
        const port = Number(await stage.hear("port"));
        const stolen = await post(port, "/storage/alice");
        await post(port, "/storage/mallory", stolen.text);
        stage.log((await post(port, "/open/mallory")).text);
      },
    },
    signet: { live: true, mallory: swapRecords },
  },

  C02: {
    naive: {
      victim: async (stage) => {
        // The seed's form: IV and AES-256-CBC with PKCS #7, no authentication, and an error that tells.
        const key = randomBytes(32);
        const iv = randomBytes(16);
        const cipher = createCipheriv("aes-256-cbc", key, iv);
        stage.tell("recorded", Buffer.concat([iv, cipher.update(stage.secret.slice(0, 64)), cipher.final()]).toString("hex"));
        await serveHttp(stage, (_path, body) => {
          try {
            const decipher = createDecipheriv("aes-256-cbc", key, body.subarray(0, 16));
            decipher.update(body.subarray(16));
            decipher.final();
            return { status: 200, text: "stored" };
          } catch {
            return { status: 400, text: "bad padding" };
          }
        });
      },
      mallory: async (stage) => {
        const port = Number(await stage.hear("port"));
        const recorded = Buffer.from(String(await stage.hear("recorded")), "hex");
        // Four blocks hold the canary; the last is padding.
        const { plaintext, queries } = await decryptByPadding(recorded.subarray(0, 80), async (candidate) => (await post(port, "/", candidate)).status === 200);
        stage.note(`${queries} queries, each answered with one bit.`);
        stage.log(plaintext.toString());
      },
    },
    signet: { live: true, victim: async (stage) => (await posing()).openAlteredMessages(stage), mallory: alterMessages },
  },

  C05: {
    naive: {
      victim: async (stage) => {
        const key = randomBytes(32);
        const sealed = sealNaively(key, stage.secret);
        stage.tell("recorded", sealed.toString("hex"));
        const message = (await stage.hear("altered")) as { iv: string; ciphertext: string; tag: string };
        // The mistake: the message says how long its tag is.
        const tag = Buffer.from(message.tag, "hex");
        const decipher = createDecipheriv("aes-256-gcm", key, Buffer.from(message.iv, "hex"), { authTagLength: tag.length });
        decipher.setAuthTag(tag);
        decipher.update(Buffer.from(message.ciphertext, "hex"));
        decipher.final();
        stage.accepted(`tag of ${message.tag.length / 2} bytes: ${sha256(JSON.stringify(message))}`);
      },
      mallory: async (stage) => {
        const recorded = Buffer.from(String(await stage.hear("recorded")), "hex");
        const cut = { iv: recorded.subarray(0, 12).toString("hex"), ciphertext: recorded.subarray(12, -16).toString("hex"), tag: recorded.subarray(-16, -12).toString("hex") };
        stage.claim(`tag of 4 bytes: ${sha256(JSON.stringify(cut))}`);
        stage.log(JSON.stringify(cut));
        stage.tell("altered", cut);
        await stage.end;
      },
    },
    signet: { victim: async (stage) => (await posing()).openWithShortTag(stage), mallory: cutTag },
  },

  C06: {
    naive: {
      victim: async (stage) => {
        const options = { ca: stage.world.laboratory.root.certificate, requestCert: true, rejectUnauthorized: true };
        // The mistake: whoever has a certificate may have any key whose name he knows.
        await naiveKeyServer(stage, options, (socket, incoming) => socket.authorized && incoming.url === "/keys/canary");
        await stage.end;
      },
      mallory: async (stage) => {
        const { mallory } = stage.world.laboratory;
        await malloryFetch(stage, Number(await stage.hear("port")), { key: mallory.key, cert: mallory.chain });
      },
    },
    signet: {
      live: true,
      mallory: async (stage) => {
        const keyName = String(await stage.direct("canary-key"));
        await malloryAsksKms(stage, await copiedCredential(liveOf(stage).identities["mallory"], "client"), keyName);
      },
    },
  },
};

/** Mallory swaps two wrapped keys in the KMS's storage, has the KMS started on it, and asks for the key that is hers. */
async function swapRecords(stage: MalloryStage): Promise<void> {
  const outcome = (await stage.direct("swapped-storage")) as { code: string } | { url: string; ownKeyName: string };
  stage.note("A KMS started on a copy of the storage that nobody had touched, and served.");
  if ("code" in outcome) stage.refused(outcome.code, "the KMS does not start on the storage with the two keys swapped");
  else await malloryAsksKms(stage, await copiedCredential(liveOf(stage).identities["mallory"], "client"), outcome.ownKeyName, {}, outcome.url);
}

/** Mallory alters a recorded message in every byte of its last blocks, and counts how many different answers there are. */
async function alterMessages(stage: MalloryStage): Promise<void> {
  const recorded = Buffer.from(String(await stage.hear("recorded")), "base64");
  const answers = new Set<string>();
  for (let index = 0; index < 256; index += 1) {
    const altered = Buffer.from(recorded);
    const at = altered.length - 1 - (index % Math.min(altered.length, 48));
    altered.writeUInt8(altered.readUInt8(at) ^ (1 + (index % 255)), at);
    stage.tell("altered", altered.toString("base64"));
    answers.add(String(await stage.hear("answer")));
  }
  stage.tell("altered", null);
  stage.note(`256 altered messages had ${answers.size} kind${answers.size === 1 ? "" : "s"} of answer: ${[...answers].join(", ")}.`);
  if (answers.size > 1) stage.log("an oracle:", [...answers].join(" "));
  await stage.end;
}

/** Mallory cuts the tag of a recorded ciphertext to four bytes. */
async function cutTag(stage: MalloryStage): Promise<void> {
  const recorded = Buffer.from(String(await stage.hear("recorded")), "hex");
  const cut = recorded.subarray(0, -12).toString("hex");
  stage.claim(sha256(cut));
  stage.log(cut);
  stage.tell("altered", cut);
  await stage.end;
}
