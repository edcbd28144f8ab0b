/** Family T: the wire itself. Versions stripped, protocols crossed, callers named by a header, sessions recorded for later. */
import { createPrivateKey, generateKeyPairSync } from "node:crypto";
import https from "node:https";
import net from "node:net";
import tls from "node:tls";
import type { FamilyArms, MalloryStage, PemCredential, VictimStage } from "./attack.ts";
import { interpose, withoutSupportedVersions } from "./interposer.ts";
import { malloryFetch, malloryServer, naiveKeyClient, naiveKeyServer } from "./naive.ts";
import { connectTls, errorCodeOf, lines, listenOnLoopback, request } from "./observe.ts";
import { copiedCredential, liveOf, malloryAsksKms } from "./paths.ts";
import { readRecording, type Recording } from "./tls12.ts";

const forge = () => import("./forge.ts");
const posing = () => import("./posing.ts");

/** A server credential of the laboratory with an RSA key, for the key exchange of the old days. */
async function rsaServer(stage: VictimStage): Promise<PemCredential> {
  const { forgeCredential, issuerFrom } = await forge();
  const keys = generateKeyPairSync("rsa", { modulusLength: 2048 });
  const { issuing } = stage.world.laboratory;
  return forgeCredential({ subject: "kms", issuer: issuerFrom(issuing), purposes: ["serverAuth"], dns: ["localhost"] }, issuing.certificate, keys);
}

/** Mallory relays, strips TLS 1.3 from each ClientHello, and keeps a recording of everything. */
async function stripAndRecord(stage: MalloryStage, target: number): Promise<Recording> {
  const recording: Recording = { client: [], server: [] };
  const wire = await interpose({
    target: () => target,
    fromClient: (bytes, state) => {
      const passed = state.client === 1 ? (withoutSupportedVersions(bytes) ?? bytes) : bytes;
      recording.client.push(passed);
      return passed;
    },
    fromServer: (bytes) => {
      recording.server.push(bytes);
      return bytes;
    },
  });
  stage.onEnd(() => wire.close());
  stage.tell("port", wire.port);
  await stage.end;
  return recording;
}

/** A bulletin board that speaks lines over TLS: under the same name and the same CA as the key server, as other services often are. */
async function bulletinBoard(stage: VictimStage): Promise<number> {
  const { kms } = stage.world.laboratory;
  const posts: string[] = [];
  const server = tls.createServer({ key: kms.key, cert: kms.chain }, (socket) => {
    socket.on("error", () => {});
    const next = lines(socket);
    const take = async (): Promise<void> => {
      for (;;) {
        const line = (await next()).trim();
        if (line === "READ") socket.write(`${posts.join("|")}\n`);
        else posts.push(line);
        stage.tell("posted");
      }
    };
    void take();
  });
  stage.onEnd(() => server.close());
  return listenOnLoopback(server);
}

export const transport: FamilyArms = {
  T01: {
    naive: {
      victim: async (stage) => {
        // The mistake: a certificate is asked for, and nobody looks whether one came.
        await naiveKeyServer(stage, { ca: stage.world.laboratory.root.certificate, requestCert: true, rejectUnauthorized: false }, () => true);
        await stage.end;
      },
      mallory: async (stage) => void (await malloryFetch(stage, Number(await stage.hear("port")), {})),
    },
    signet: {
      live: true,
      mallory: async (stage) => {
        const keyName = String(await stage.direct("canary-key"));
        await malloryAsksKms(stage, undefined, keyName);
      },
    },
  },

  T04: {
    naive: {
      victim: async (stage) => {
        const credential = await rsaServer(stage);
        // "For compatibility": TLS 1.2, and a cipher suite whose key travels under the server's long-term RSA key.
        const old = { maxVersion: "TLSv1.2", minVersion: "TLSv1.2", ciphers: "AES128-GCM-SHA256" } as const;
        const server = https.createServer({ ...old, key: credential.key, cert: credential.chain }, (incoming, outgoing) => incoming.resume().on("end", () => outgoing.end("stored")));
        stage.onEnd(() => server.closeAllConnections());
        stage.tell("server", await listenOnLoopback(server));
        await naiveKeyClient(stage, { ca: stage.world.laboratory.root.certificate, ...old });
        // Weeks later the server is retired, and its disk is sold.
        stage.tell("stolen-key", credential.key);
      },
      mallory: async (stage) => {
        const recording = await stripAndRecord(stage, Number(await stage.hear("server")));
        stage.log(readRecording(recording, createPrivateKey(String(await stage.hear("stolen-key")))));
      },
    },
    signet: {
      live: true,
      victim: async (stage) => (await posing()).liveKeyClient(stage),
      mallory: async (stage) => {
        const recording = await stripAndRecord(stage, Number(new URL(liveOf(stage).kmsUrl).port));
        for (const bytes of [...recording.client, ...recording.server]) stage.log(bytes);
      },
    },
  },

  T10: {
    naive: {
      victim: async (stage) => {
        stage.tell("board", await bulletinBoard(stage));
        // The client is sure of the name and of the CA; the service behind them is another one.
        const port = Number(await stage.hear("port"));
        const socket = await connectTls({ port, ca: stage.world.laboratory.root.certificate });
        socket.on("error", () => {});
        socket.write(`POST /keys HTTP/1.1\r\nHost: localhost\r\nContent-Length: 64\r\n\r\n${stage.secret}\r\n`);
        await stage.end;
        socket.destroy();
      },
      mallory: async (stage) => {
        const board = Number(await stage.hear("board"));
        const wire = await interpose({ target: () => board });
        stage.onEnd(() => wire.close());
        stage.tell("port", wire.port);
        // Five lines: request line, two headers, an empty line, the key.
        for (let line = 0; line < 5; line += 1) await stage.hear("posted");
        const reader = await connectTls({ port: board, rejectUnauthorized: false });
        reader.write("READ\n");
        stage.log("on the board:", await lines(reader)());
        reader.destroy();
      },
    },
    signet: {
      live: true,
      victim: async (stage) => (await posing()).crossProtocol(stage),
      mallory: async (stage) => {
        const link = Number(await stage.hear("carol"));
        const wire = await interpose({
          target: () => link,
          fromClient: (bytes) => {
            stage.log(bytes);
            return bytes;
          },
        });
        stage.onEnd(() => wire.close());
        stage.tell("port", wire.port);
        await stage.end;
      },
    },
  },

  T12: {
    naive: {
      victim: async (stage) => {
        // Written for a life behind a proxy, and reachable without it.
        await naiveKeyServer(stage, {}, (_socket, incoming) => incoming.headers["x-client-cert-uri"] === "spiffe://lab.signet.internal/agent/alice");
        await stage.end;
      },
      mallory: async (stage) => {
        const port = Number(await stage.hear("port"));
        await malloryFetch(stage, port, { headers: { "x-client-cert-uri": "spiffe://lab.signet.internal/agent/alice" } });
      },
    },
    signet: {
      live: true,
      mallory: async (stage) => {
        const live = liveOf(stage);
        const keyName = String(await stage.direct("canary-key"));
        const alice = `spiffe://${live.trustDomain}/agent/alice`;
        const { certificate } = await copiedCredential(live.identities["alice"], "client");
        const der = certificate.replaceAll(/-----[^-]+-----|\s/g, "");
        await malloryAsksKms(stage, await copiedCredential(live.identities["mallory"], "client"), keyName, {
          "x-client-cert-uri": alice,
          "x-client-cert": encodeURIComponent(certificate),
          "client-cert": `:${der}:`,
          "x-forwarded-client-cert": `URI=${alice}`,
          "x-ssl-client-verify": "SUCCESS",
          "x-forwarded-for": "127.0.0.1",
        });
      },
    },
  },

  T13: {
    naive: {
      victim: async (stage) => {
        // A proxy that counts by Content-Length and guards /keys, before a server that goes by Transfer-Encoding.
        const inner = net.createServer((socket) => {
          socket.on("error", () => {});
          let text = "";
          socket.on("data", (part: Buffer) => {
            text += part.toString("latin1");
            for (;;) {
              const head = text.indexOf("\r\n\r\n");
              if (head < 0) return;
              const lead = text.slice(0, head);
              let after = head + 4;
              if (/^transfer-encoding:.*chunked/im.test(lead)) {
                const end = text.indexOf("0\r\n\r\n", after);
                if (end < 0) return;
                after = end + 5;
              }
              text = text.slice(after);
              const body = lead.startsWith("GET /keys/canary ") ? stage.secret : "fine";
              socket.write(`HTTP/1.1 200 OK\r\nContent-Length: ${body.length}\r\n\r\n${body}`);
            }
          });
        });
        stage.onEnd(() => inner.close());
        const behind = await listenOnLoopback(inner);
        const proxy = net.createServer((socket) => {
          const onward = net.connect(behind, "127.0.0.1");
          onward.pipe(socket);
          for (const side of [socket, onward]) side.on("error", () => {});
          let text = "";
          socket.on("data", (part: Buffer) => {
            text += part.toString("latin1");
            for (;;) {
              const head = text.indexOf("\r\n\r\n");
              if (head < 0) return;
              const length = Number(/^content-length: (\d+)/im.exec(text.slice(0, head))?.[1] ?? 0);
              if (text.length < head + 4 + length) return;
              const whole = text.slice(0, head + 4 + length);
              text = text.slice(whole.length);
              if (/^\w+ \/keys/.test(whole)) socket.end("HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n");
              else onward.write(whole, "latin1");
            }
          });
        });
        stage.onEnd(() => proxy.close());
        stage.tell("port", await listenOnLoopback(proxy));
        await stage.end;
      },
      mallory: async (stage) => {
        const socket = net.connect(Number(await stage.hear("port")), "127.0.0.1");
        socket.on("error", () => {});
        const answers = new Promise<void>((resolve) => {
          let count = 0;
          socket.on("data", (part: Buffer) => {
            stage.log(part.toString("latin1"));
            count += part.toString("latin1").split("HTTP/1.1").length - 1;
            if (count >= 2) resolve();
          });
          socket.on("close", () => resolve());
        });
        const smuggled = "GET /keys/canary HTTP/1.1\r\nHost: localhost\r\n\r\n";
        const body = `0\r\n\r\n${smuggled}`;
        socket.write(`POST /hello HTTP/1.1\r\nHost: localhost\r\nContent-Length: ${body.length}\r\nTransfer-Encoding: chunked\r\n\r\n${body}`);
        await answers;
        socket.destroy();
      },
    },
    signet: {
      live: true,
      mallory: async (stage) => {
        const live = liveOf(stage);
        const keyName = String(await stage.direct("canary-key"));
        const { key, chain } = await copiedCredential(live.identities["mallory"], "client");
        const smuggled = `GET /v1/keys/${keyName}/versions/latest/material HTTP/1.1\r\nHost: localhost\r\n\r\n`;
        const body = `0\r\n\r\n${smuggled}`;
        try {
          const socket = await connectTls({ port: Number(new URL(live.kmsUrl).port), key, cert: chain, rejectUnauthorized: false, ALPNProtocols: ["http/1.1"] });
          const answer = await new Promise<string>((resolve) => {
            let text = "";
            socket.on("data", (part: Buffer) => (text += part.toString("latin1")));
            socket.on("error", () => {});
            socket.on("close", () => resolve(text));
            socket.write(`POST /v1/whoami HTTP/1.1\r\nHost: localhost\r\nContent-Length: ${body.length}\r\nTransfer-Encoding: chunked\r\n\r\n${body}`);
          });
          stage.log(answer);
          stage.refused(/"code":"([a-z-]+)"/.exec(answer)?.[1] ?? (answer.startsWith("HTTP/1.1 400") ? "request-malformed" : "unknown"), answer.split("\r\n")[0]);
        } catch (error) {
          stage.refused(errorCodeOf(error));
        }
      },
    },
  },

  T14: {
    naive: {
      victim: async (stage) => {
        const { root } = stage.world.laboratory;
        await naiveKeyServer({ ...stage, tell: (_topic, port) => stage.tell("server", port) }, { ca: root.certificate, requestCert: true, rejectUnauthorized: true }, (socket) => socket.authorized);
        await naiveKeyClient(stage, { rejectUnauthorized: false });
      },
      mallory: async (stage) => {
        const { mallory } = stage.world.laboratory;
        const upstream = Number(await stage.hear("server"));
        // Downstream any certificate will do; upstream her own is as good as anybody's.
        const genuine = await request(`https://localhost:${upstream}/keys/group`, { rejectUnauthorized: false, agent: false, key: mallory.key, cert: mallory.chain });
        stage.log("the genuine key:", genuine.text);
        await malloryServer(stage, mallory);
        await stage.end;
      },
    },
    signet: {
      live: true,
      victim: async (stage) => (await posing()).liveKeyClient(stage),
      mallory: async (stage) => {
        // Her server certificate is genuine: the real CA issued it, for links under her own name.
        await malloryServer(stage, await copiedCredential(liveOf(stage).identities["mallory"], "server"));
        await stage.end;
      },
    },
  },
};
