/** Family R: a revoked certificate goes on being used, because the news of its revocation is withheld, replayed, forged or not asked for. */
import { X509Certificate } from "node:crypto";
import http from "node:http";
import https from "node:https";
import tls, { type TLSSocket } from "node:tls";
import type { Arm, FamilyArms, Laboratory, MalloryStage, PemCredential, Stage, VictimStage } from "./attack.ts";
import { malloryFetch, naiveKeyServer } from "./naive.ts";
import { connectTls, errorCodeOf, listenOnLoopback, problemCodeOf } from "./observe.ts";
import { copiedCredential, liveOf, malloryAsksKms } from "./paths.ts";

const forge = () => import("./forge.ts");
const guarded = () => import("./guarded.ts");

const minutesFromNow = (minutes: number): Date => new Date(Math.floor(Date.now() / 1000) * 1000 + minutes * 60_000);

/** A CRL of the laboratory's issuing CA; Mallory signs with a key of her own where she says so. */
async function issuingCrl(
  laboratory: Laboratory,
  shape: { number: number; thisUpdate: Date; nextUpdate: Date; serialNumbers: readonly string[]; pretend?: boolean },
): Promise<string> {
  const { crlPem, forgeCrl, forgeKeyPair, issuerFrom, laboratoryNames } = await forge();
  const issuer = issuerFrom(laboratory.issuing);
  const genuine = new X509Certificate(laboratory.issuing.certificate).publicKey;
  return crlPem(
    forgeCrl({
      issuer: shape.pretend === true ? { name: issuer.name, privateKey: forgeKeyPair().privateKey } : issuer,
      authorityKey: genuine,
      number: shape.number,
      thisUpdate: shape.thisUpdate,
      nextUpdate: shape.nextUpdate,
      serialNumbers: shape.serialNumbers,
      scope: { only: "user", fullName: laboratoryNames.crl },
    }),
  );
}

/** Mallory answers in the place of the distribution point, which is plain HTTP. */
async function poseAsDistributionPoint(stage: MalloryStage, answer: (outgoing: http.ServerResponse) => void): Promise<void> {
  const server = http.createServer((_incoming, outgoing) => answer(outgoing));
  stage.onEnd(() => server.closeAllConnections());
  stage.tell("distribution-point", await listenOnLoopback(server));
}

/** What the victim downloads from the distribution point; undefined for an answer 304. */
async function downloadCrl(stage: VictimStage): Promise<string | undefined> {
  const port = Number(await stage.hear("distribution-point"));
  const answer = await fetch(`http://127.0.0.1:${port}/crl/leaf-0.crl`, { headers: { "if-none-match": '"1"' } });
  return answer.status === 304 ? undefined : answer.text();
}

/** Mallory asks for the key with Bob's certificate and key. */
async function fetchAsBob(stage: MalloryStage): Promise<void> {
  const { bob } = stage.world.laboratory;
  await malloryFetch(stage, Number(await stage.hear("port")), { key: bob.key, cert: bob.chain, ALPNProtocols: ["http/1.1"] });
}

const serveCrlThenFetch =
  (crl: (stage: MalloryStage) => Promise<string>): Arm["mallory"] =>
  async (stage) => {
    const pem = await crl(stage);
    await poseAsDistributionPoint(stage, (outgoing) => outgoing.end(pem));
    await fetchAsBob(stage);
  };

/** A home-made check: is the peer's serial number among the entries of this CRL? */
async function listedIn(crlPem: string): Promise<(socket: TLSSocket) => boolean> {
  await import("reflect-metadata");
  const x509 = await import("@peculiar/x509");
  const crl = new x509.X509Crl(crlPem);
  return (socket) => crl.findRevoked((socket.getPeerX509Certificate()?.serialNumber ?? "").toLowerCase()) !== null;
}

const mutualOptions = (stage: Stage): https.ServerOptions => ({ ca: stage.world.laboratory.root.certificate, requestCert: true, rejectUnauthorized: true });

/** A naive key server that downloads a CRL once and looks its callers up in it, unverified. */
const homeMadeCheck: NonNullable<Arm["victim"]> = async (stage) => {
  const crl = (await downloadCrl(stage)) ?? "";
  const listed = await listedIn(crl);
  await naiveKeyServer(stage, mutualOptions(stage), (socket) => !listed(socket));
  await stage.end;
};

/** A key server of Signet that holds the CRLs `held` and is then handed what Mallory serves. */
const guardedDownload =
  (held: (laboratory: Laboratory) => readonly string[]): NonNullable<Arm["victim"]> =>
  async (stage) => {
    const { guard, guardedKeyServer } = await guarded();
    const { laboratory } = stage.world;
    const state = guard(laboratory, held(laboratory));
    const crl = await downloadCrl(stage);
    try {
      state.accept(crl ?? "");
    } catch (error) {
      stage.refused(errorCodeOf(error), error instanceof Error ? error.message : "");
    }
    await guardedKeyServer(stage, state);
    await stage.end;
  };

const staleCrl = (stage: MalloryStage): Promise<string> => issuingCrl(stage.world.laboratory, { number: 1, thisUpdate: minutesFromNow(-7 * 60), nextUpdate: minutesFromNow(-60), serialNumbers: [] });
const forgedCrl = (stage: MalloryStage): Promise<string> => issuingCrl(stage.world.laboratory, { number: 9, thisUpdate: minutesFromNow(-1), nextUpdate: minutesFromNow(300), serialNumbers: [], pretend: true });
const answers304: Arm["mallory"] = async (stage) => {
  await poseAsDistributionPoint(stage, (outgoing) => outgoing.writeHead(304).end());
  await fetchAsBob(stage);
};

/** One request over a TLS connection that is kept open; the answer's body, or undefined if the connection has gone. */
function ask(socket: TLSSocket, path: string): Promise<Buffer | undefined> {
  return new Promise((resolve) => {
    let received = Buffer.alloc(0);
    const finish = (whole: Buffer | undefined): void => {
      socket.off("data", take);
      socket.off("close", gone);
      resolve(whole);
    };
    const gone = (): void => finish(undefined);
    const take = (part: Buffer): void => {
      received = Buffer.concat([received, part]);
      const head = received.indexOf("\r\n\r\n");
      if (head < 0) return;
      const length = /content-length: (\d+)/i.exec(received.subarray(0, head).toString())?.[1];
      const chunkedEnd = received.indexOf("\r\n0\r\n\r\n");
      if (length !== undefined && received.length >= head + 4 + Number(length)) finish(received.subarray(head + 4));
      else if (length === undefined && chunkedEnd >= 0) finish(received.subarray(head + 4));
    };
    socket.on("data", take);
    socket.once("close", gone);
    if (socket.destroyed) gone();
    else socket.write(`GET ${path} HTTP/1.1\r\nHost: localhost\r\n\r\n`);
  });
}

/** TLS connection to the real KMS with a stolen credential. */
async function connectToKms(stage: MalloryStage, credential: PemCredential, session?: Buffer): Promise<TLSSocket> {
  const socket = await connectTls({
    port: Number(new URL(liveOf(stage).kmsUrl).port),
    key: credential.key,
    cert: credential.chain,
    rejectUnauthorized: false,
    ALPNProtocols: ["http/1.1"],
    ...(session === undefined ? {} : { session }),
  });
  socket.on("error", () => {});
  stage.onEnd(() => socket.destroy());
  return socket;
}

/** Enrolls an agent of its own for this arm, whose credential Mallory copies, and lets it read the canary's key. */
async function stealFreshCredential(stage: MalloryStage, which = ""): Promise<{ credential: PemCredential; name: string; keyName: string }> {
  const { name, directory, keyName } = (await stage.direct("stolen-agent", which)) as { name: string; directory: string; keyName: string };
  return { credential: await copiedCredential(directory, "client"), name, keyName };
}

export const revocation: FamilyArms = {
  R01: {
    naive: {
      // Nobody looks at a CRL.
      victim: async (stage) => {
        await naiveKeyServer(stage, mutualOptions(stage), (socket) => socket.authorized);
        await stage.end;
      },
      mallory: fetchAsBob,
    },
    signet: {
      live: true,
      mallory: async (stage) => {
        const { credential, name, keyName } = await stealFreshCredential(stage);
        await stage.direct("revoke", name);
        await malloryAsksKms(stage, credential, keyName);
      },
    },
  },

  R03: {
    naive: {
      victim: async (stage) => {
        // The mistake: 304 is taken as proof that nothing has changed, over plain HTTP, from whoever answers.
        const crl = (await downloadCrl(stage)) ?? stage.world.laboratory.emptyCrl;
        await naiveKeyServer(stage, { ...mutualOptions(stage), crl: [stage.world.laboratory.rootCrl, crl] }, (socket) => socket.authorized);
        await stage.end;
      },
      mallory: answers304,
    },
    signet: {
      victim: async (stage) => (await import("./withheld.ts")).newsWithheld(stage),
      mallory: answers304,
    },
  },

  R05: {
    naive: { victim: homeMadeCheck, mallory: serveCrlThenFetch(staleCrl) },
    signet: {
      victim: async (stage) => (await import("./withheld.ts")).ranOut(stage, await downloadCrl(stage)),
      mallory: serveCrlThenFetch(async (stage) => stage.world.laboratory.emptyCrl),
    },
  },

  R06: {
    naive: {
      victim: async (stage) => {
        const { rootCrl, bobRevokedCrl } = stage.world.laboratory;
        // Stock Node knows that Bob is revoked, then takes the older CRL, which is signed and has not expired.
        const context = { ca: stage.world.laboratory.root.certificate, key: stage.world.laboratory.kms.key, cert: stage.world.laboratory.kms.chain };
        const server = await naiveKeyServer({ ...stage, tell: () => {} }, { ...mutualOptions(stage), crl: [rootCrl, bobRevokedCrl] }, (socket) => socket.authorized);
        const crl = await downloadCrl(stage);
        server.setSecureContext({ ...context, crl: [rootCrl, crl ?? bobRevokedCrl] });
        const address = server.address();
        stage.tell("port", typeof address === "object" ? address?.port : undefined);
        await stage.end;
      },
      mallory: serveCrlThenFetch(async (stage) => stage.world.laboratory.emptyCrl),
    },
    signet: {
      victim: guardedDownload((laboratory) => [laboratory.emptyCrl, laboratory.bobRevokedCrl]),
      mallory: serveCrlThenFetch(async (stage) => stage.world.laboratory.emptyCrl),
    },
  },

  R07: {
    naive: {
      victim: async (stage) => {
        const { rootCrl } = stage.world.laboratory;
        const [older, newer] = await sameSecond(stage.world.laboratory);
        // OpenSSL takes the first of two CRLs of one second and never looks at the number.
        await naiveKeyServer(stage, { ...mutualOptions(stage), crl: [rootCrl, older, newer] }, (socket) => socket.authorized);
        await stage.end;
      },
      mallory: fetchAsBob,
    },
    signet: {
      live: true,
      mallory: async (stage) => {
        // Two agents are revoked in one moment: whichever CRL comes second, its news has to count.
        const robbed = await Promise.all([stealFreshCredential(stage, "a"), stealFreshCredential(stage, "b")]);
        await Promise.all(robbed.map(({ name }) => stage.direct("revoke", name)));
        for (const { credential, keyName } of robbed) await malloryAsksKms(stage, credential, keyName);
      },
    },
  },

  R08: {
    naive: { victim: homeMadeCheck, mallory: serveCrlThenFetch(forgedCrl) },
    signet: { victim: guardedDownload((laboratory) => [laboratory.bobRevokedCrl]), mallory: serveCrlThenFetch(forgedCrl) },
  },

  R11: {
    naive: {
      victim: async (stage) => {
        const { laboratory } = stage.world;
        let revoked = false;
        const context = { ca: laboratory.root.certificate, key: laboratory.kms.key, cert: laboratory.kms.chain };
        // Ticket keys that several workers share outlive each worker's CRL.
        const ticketKeys = Buffer.alloc(48, 7);
        const server = await naiveKeyServer(stage, { ...mutualOptions(stage), ticketKeys, crl: [laboratory.rootCrl, laboratory.emptyCrl] }, (socket) => socket.authorized && revoked);
        await stage.hear("session-kept");
        server.setSecureContext({ ...context, ticketKeys, crl: [laboratory.rootCrl, laboratory.bobRevokedCrl] } as tls.SecureContextOptions);
        revoked = true;
        stage.tell("revoked");
        await stage.end;
      },
      mallory: async (stage) => {
        const { bob } = stage.world.laboratory;
        const options = { port: Number(await stage.hear("port")), key: bob.key, cert: bob.chain, rejectUnauthorized: false };
        const before = await connectTls(options);
        const session = new Promise<Buffer>((resolve) => before.once("session", resolve));
        await ask(before, "/keys/canary");
        const kept = await session;
        before.destroy();
        stage.tell("session-kept");
        await stage.hear("revoked");
        // The control within the control: a new handshake is refused, so only the session lets her in.
        const refused = await connectTls(options).then((fresh) => ask(fresh, "/keys/canary"), () => undefined);
        stage.note(`A new handshake after the revocation was ${refused === undefined ? "refused" : "served"}.`);
        const resumed = await connectTls({ ...options, session: kept });
        stage.note(`The session from before was ${resumed.isSessionReused() ? "reused" : "not reused"}.`);
        const answer = await ask(resumed, "/keys/canary");
        if (resumed.isSessionReused() && refused === undefined) stage.log("resumed:", answer?.toString() ?? "nothing");
        resumed.destroy();
      },
    },
    signet: {
      live: true,
      mallory: async (stage) => {
        const { credential, name, keyName } = await stealFreshCredential(stage);
        const before = await connectToKms(stage, credential);
        let session: Buffer | undefined;
        before.on("session", (bytes: Buffer) => (session = bytes));
        await ask(before, "/v1/whoami");
        session ??= before.getSession();
        await stage.direct("revoke", name);
        const resumed = await connectToKms(stage, credential, session);
        stage.note(`Mallory offered a session from before; it was ${resumed.isSessionReused() ? "reused" : "not reused"}.`);
        const answer = await ask(resumed, `/v1/keys/${keyName}/versions/latest/material`);
        stage.log(answer ?? "connection closed", answer?.toString() ?? "");
        stage.refused(problemCodeOf(answer ?? "") ?? "tls-refused", "the KMS refused on the connection that offered the session");
      },
    },
  },

  R12: {
    naive: {
      victim: async (stage) => {
        const { laboratory } = stage.world;
        let revoked = false;
        const context = { ca: laboratory.root.certificate, key: laboratory.kms.key, cert: laboratory.kms.chain };
        const server = await naiveKeyServer(stage, { ...mutualOptions(stage), crl: [laboratory.rootCrl, laboratory.emptyCrl] }, (socket) => socket.authorized && revoked);
        await stage.hear("connected");
        server.setSecureContext({ ...context, crl: [laboratory.rootCrl, laboratory.bobRevokedCrl] });
        revoked = true;
        stage.tell("revoked");
        await stage.end;
      },
      mallory: async (stage) => {
        const { bob } = stage.world.laboratory;
        const held = await connectTls({ port: Number(await stage.hear("port")), key: bob.key, cert: bob.chain, rejectUnauthorized: false });
        await ask(held, "/keys/canary");
        stage.tell("connected");
        await stage.hear("revoked");
        stage.log("on the open connection:", (await ask(held, "/keys/canary"))?.toString() ?? "nothing");
        held.destroy();
      },
    },
    signet: {
      live: true,
      mallory: async (stage) => {
        const { credential, name, keyName } = await stealFreshCredential(stage);
        const held = await connectToKms(stage, credential);
        const first = await ask(held, "/v1/whoami");
        stage.note(`Before the revocation the KMS ${first === undefined ? "did not serve" : "served"} this connection.`);
        const closed = new Promise<boolean>((resolve) => {
          held.once("close", () => resolve(true));
          setTimeout(() => resolve(false), 15_000).unref();
        });
        const at = performance.now();
        await stage.direct("revoke", name);
        // She sends nothing: only a KMS that cuts by itself closes this connection.
        if (await closed) {
          stage.refused("socket-cut", "the KMS closed the connection by itself");
          stage.note(`Cut ${Math.round(performance.now() - at)} ms after the revocation was asked for.`);
        } else {
          const answer = await ask(held, `/v1/keys/${keyName}/versions/latest/material`);
          stage.log(answer ?? "nothing", answer?.toString() ?? "");
          stage.refused(problemCodeOf(answer ?? "") ?? "unknown", "the connection stayed open");
        }
      },
    },
  },

  R14: {
    naive: {
      victim: async (stage) => {
        // The mistake: what held at the handshake is taken to hold for as long as the connection lives.
        const admitted = new WeakSet<TLSSocket>();
        let revoked = false;
        const server = await naiveKeyServer(stage, { ...mutualOptions(stage), crl: [stage.world.laboratory.rootCrl, stage.world.laboratory.emptyCrl] }, (socket) => admitted.has(socket) && revoked);
        server.on("secureConnection", (socket: TLSSocket) => admitted.add(socket));
        await stage.hear("connected");
        revoked = true;
        stage.tell("time-passes");
        await stage.end;
      },
      mallory: async (stage) => holdAndAsk(stage),
    },
    signet: {
      victim: async (stage) => (await import("./withheld.ts")).heldConnection(stage),
      mallory: async (stage) => holdAndAsk(stage),
    },
  },
};

/** Two CRLs of the laboratory whose thisUpdate is the same second: the older without entries, the newer with Bob on it. */
async function sameSecond(laboratory: Laboratory): Promise<[string, string]> {
  const second = { thisUpdate: minutesFromNow(-5), nextUpdate: minutesFromNow(300) };
  return [
    await issuingCrl(laboratory, { ...second, number: 4, serialNumbers: [] }),
    await issuingCrl(laboratory, { ...second, number: 5, serialNumbers: [laboratory.bobSerialNumber] }),
  ];
}

/** Mallory, with Bob's key, opens a connection while all is well and keeps the news away while she holds it. */
async function holdAndAsk(stage: MalloryStage): Promise<void> {
  const { bob } = stage.world.laboratory;
  const held = await connectTls({ port: Number(await stage.hear("port")), key: bob.key, cert: bob.chain, rejectUnauthorized: false, ALPNProtocols: ["http/1.1"] });
  held.on("error", () => {});
  await ask(held, "/hello");
  stage.tell("connected");
  await stage.hear("time-passes");
  stage.log("on the open connection:", (await ask(held, "/keys/canary"))?.toString() ?? "nothing");
  held.destroy();
}
