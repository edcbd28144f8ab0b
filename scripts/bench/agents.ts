import { createCipheriv, createDecipheriv, createSecretKey, randomBytes } from "node:crypto";
import { once } from "node:events";
import type { AddressInfo } from "node:net";
import tls from "node:tls";
import { systemClock } from "#pki/clock.ts";
import { SecretKey } from "#pki/keys.ts";
import { Link, LinkListener } from "#agents/link.ts";
import { newStream, openMessage, sealMessage } from "#agents/message.ts";
import { ScratchSystem } from "../scratch-system.ts";
import type { BenchArea } from "./main.ts";
import { compare } from "./measurement.ts";

const messageBytes = 1024;
const messagesPerSample = 3000;
const handshakesPerSample = 50;

/** Agents among themselves: sealed messages against bare AES-256-GCM, links against bare TLS with the same certificates. */
export const benchAgents: BenchArea = async (report, rounds) => {
  const secret = SecretKey.random(32);
  const bareKey = createSecretKey(randomBytes(32));
  const plaintext = randomBytes(messageBytes);
  const stream = newStream(new Date());
  report(
    await compare(
      {
        area: "agents",
        rows: [{ metric: "microseconds", name: "message of 1 KiB: sealed and opened, against bare AES-256-GCM", unit: "us" }],
        project: async () => ({
          microseconds: each(messagesPerSample, (sequence) => {
            const message = sealMessage(secret, { sender: "spiffe://signet.internal/agent/alice", group: "bench", keyVersion: 1, stream, sequence }, plaintext);
            openMessage(secret, message);
          }),
        }),
        baseline: async () => ({
          microseconds: each(messagesPerSample, () => {
            const iv = randomBytes(12);
            const cipher = createCipheriv("aes-256-gcm", bareKey, iv, { authTagLength: 16 });
            const sealed = Buffer.concat([cipher.update(plaintext), cipher.final()]);
            const decipher = createDecipheriv("aes-256-gcm", bareKey, iv, { authTagLength: 16 });
            decipher.setAuthTag(cipher.getAuthTag());
            Buffer.concat([decipher.update(sealed), decipher.final()]);
          }),
        }),
      },
      rounds,
    ),
  );

  const system = await ScratchSystem.start();
  try {
    const [alice, bob] = [await system.enroll("alice"), await system.enroll("bob")];
    await bob.enrollServerRole();
    const listener = await LinkListener.listen({ self: bob, clock: systemClock, onLink: (link) => void link.closed.catch(() => {}) });
    const client = alice.credential("client");
    const server = bob.credential("server");
    const pem = (chain: typeof client.chain): string => chain.map((certificate) => certificate.toPem()).join("");
    const ca = alice.trustAnchors.map((anchor) => anchor.toPem());
    const common = { ca, minVersion: "TLSv1.3", ecdhCurve: "X25519MLKEM768", requestCert: true, rejectUnauthorized: true } as const;
    const bareServer = tls.createServer({ ...common, cert: pem(server.chain), key: server.privateKey.export({ type: "pkcs8", format: "pem" }) }, (socket) => {
      socket.on("error", () => {});
      socket.write(Buffer.alloc(4));
    });
    bareServer.listen(0, "127.0.0.1");
    await once(bareServer, "listening");
    const bareClient = { ...common, port: (bareServer.address() as AddressInfo).port, host: "127.0.0.1", cert: pem(client.chain), key: client.privateKey.export({ type: "pkcs8", format: "pem" }), checkServerIdentity: () => undefined };
    report(
      await compare(
        {
          area: "agents",
          rows: [{ metric: "milliseconds", name: "link: handshake with all checks at both ends, against a bare mutual TLS 1.3 handshake", unit: "ms" }],
          project: async () => ({
            milliseconds: await eachOf(handshakesPerSample, async () => {
              const link = await Link.dial({ self: alice, uri: bob.identity.uri, to: { host: "127.0.0.1", port: listener.port }, clock: systemClock });
              link.close();
              await link.closed;
            }),
          }),
          baseline: async () => ({
            milliseconds: await eachOf(handshakesPerSample, async () => {
              const socket = tls.connect(bareClient);
              await once(socket, "data");
              socket.destroy();
              await once(socket, "close");
            }),
          }),
        },
        rounds,
      ),
    );
    await listener.close();
    bareServer.close();
    alice.stop();
    bob.stop();
  } finally {
    await system.stop();
  }
};

/** Microseconds that one takes, over so many. */
function each(count: number, work: (n: number) => void): number {
  const start = performance.now();
  for (let n = 1; n <= count; n++) work(n);
  return ((performance.now() - start) * 1000) / count;
}

/** Milliseconds that one takes, over so many, one after another. */
async function eachOf(count: number, work: () => Promise<void>): Promise<number> {
  const start = performance.now();
  for (let n = 0; n < count; n++) await work();
  return (performance.now() - start) / count;
}
