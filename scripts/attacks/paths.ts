/** Family P: certificates that look right. Mallory poses as somebody by means of a chain that a careless check lets pass. */
import { createPrivateKey, randomBytes, X509Certificate } from "node:crypto";
import { readFile } from "node:fs/promises";
import http from "node:http";
import path from "node:path";
import type { TLSSocket } from "node:tls";
import type { Arm, FamilyArms, Laboratory, LiveSystem, MalloryStage, PemCredential, Stage, VictimStage } from "./attack.ts";
import type { CertificateShape, Issuer } from "./forge.ts";
import { malloryFetch, malloryServer, naiveKeyClient, naiveKeyServer } from "./naive.ts";
import { errorCodeOf, handshakeRefusalOf, listenOnLoopback, problemCodeOf, request } from "./observe.ts";

const forge = () => import("./forge.ts");
const guarded = () => import("./guarded.ts");
const posing = () => import("./posing.ts");

async function issuingCa(laboratory: Laboratory): Promise<Issuer> {
  const { laboratoryNames } = await forge();
  return { name: laboratoryNames.issuing, privateKey: createPrivateKey(laboratory.issuing.key) };
}

/** A certificate that the laboratory's issuing CA was careless enough to sign for Mallory. */
async function misissued(laboratory: Laboratory, shape: Omit<CertificateShape, "publicKey" | "issuer">): Promise<PemCredential> {
  const { forgeCredential, laboratoryNames } = await forge();
  return forgeCredential({ ...shape, issuer: await issuingCa(laboratory), crlDistributionPoint: laboratoryNames.crl }, laboratory.issuing.certificate);
}

/** The peer's certificate carries a good signature by this authority: a popular check that forgets all the rest. */
function signedBy(socket: TLSSocket, authorityPem: string): boolean {
  const peer = socket.getPeerX509Certificate();
  return peer !== undefined && peer.verify(new X509Certificate(authorityPem).publicKey);
}

/** A victim that stores its key through Signet's client side in the laboratory. */
const guardedClient = async (stage: VictimStage): Promise<void> => {
  const { guard, guardedKeyClient } = await guarded();
  await guardedKeyClient(stage, guard(stage.world.laboratory, [stage.world.laboratory.emptyCrl]));
};

/** A victim that hands its key out through Signet's server side in the laboratory. */
const guardedServer = async (stage: VictimStage): Promise<void> => {
  const { guard, guardedKeyServer } = await guarded();
  await guardedKeyServer(stage, guard(stage.world.laboratory, [stage.world.laboratory.emptyCrl]));
  await stage.end;
};

/** Mallory serves with a credential of her making, until the victim has come and gone. */
const serveWith =
  (credential: (stage: MalloryStage) => Promise<PemCredential>): Arm["mallory"] =>
  async (stage) => {
    await malloryServer(stage, await credential(stage));
    await stage.end;
  };

/** Mallory asks for the key with a credential of her making. */
const fetchWith =
  (credential: (stage: MalloryStage) => Promise<PemCredential>): Arm["mallory"] =>
  async (stage) => {
    const { key, chain } = await credential(stage);
    await malloryFetch(stage, Number(await stage.hear("port")), { key, cert: chain, ALPNProtocols: ["http/1.1"] });
  };

/** A copy of a party's credential, as a thief holds it or its owner misuses it. */
export async function copiedCredential(directory: string | undefined, role: "client" | "server"): Promise<PemCredential> {
  if (directory === undefined) throw new Error("no such party");
  const text = await readFile(path.join(directory, `${role}.pem`), "utf8");
  const [key = ""] = text.match(/-----BEGIN PRIVATE KEY-----[^-]+-----END PRIVATE KEY-----/) ?? [];
  const certificates = text.match(/-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----/g) ?? [];
  return { key, certificate: `${certificates[0] ?? ""}\n`, chain: `${certificates.join("\n")}\n` };
}

export function liveOf(stage: Stage): LiveSystem {
  if (stage.world.live === undefined) throw new Error("this arm needs the live system");
  return stage.world.live;
}

/** A chain under a root and an issuing CA that have the genuine ones' names, and keys of Mallory's. */
async function chainOfTheSameNames(root: string | Uint8Array, issuing: string | Uint8Array, uri: string): Promise<PemCredential> {
  const { certificatePem, forgeCertificate, forgeCredential, forgeKeyPair } = await forge();
  const rootKeys = forgeKeyPair();
  const issuingKeys = forgeKeyPair();
  const rootIssuer = { name: root, privateKey: rootKeys.privateKey };
  const rootPem = certificatePem(forgeCertificate({ subject: root, publicKey: rootKeys.publicKey, issuer: rootIssuer, authority: {} }));
  const issuingPem = certificatePem(forgeCertificate({ subject: issuing, publicKey: issuingKeys.publicKey, issuer: rootIssuer, authority: { pathLength: 0 } }));
  const issuer = { name: issuing, privateKey: issuingKeys.privateKey };
  return forgeCredential({ subject: "kms", issuer, purposes: ["serverAuth"], uris: [uri], dns: ["localhost"], addresses: ["127.0.0.1"] }, issuingPem + rootPem);
}

/** A certificate for the KMS that Mallory's own end-entity certificate has "issued". */
async function issuedByAnEndEntity(holder: PemCredential, trustDomain: string): Promise<PemCredential> {
  const { forgeCredential, issuerFrom } = await forge();
  return forgeCredential(
    { subject: "kms", issuer: issuerFrom(holder), purposes: ["serverAuth"], uris: [`spiffe://${trustDomain}/service/kms`], dns: ["localhost"], addresses: ["127.0.0.1"] },
    holder.chain,
  );
}

/** A careless certificate authority over HTTP, which trusts what a CSR asks for; and the key server that trusts it. */
async function carelessAuthority(stage: VictimStage, mayEnroll: (token: string) => boolean): Promise<void> {
  await import("reflect-metadata");
  const x509 = await import("@peculiar/x509");
  const { laboratory } = stage.world;
  const algorithm = { name: "ECDSA", namedCurve: "P-256", hash: "SHA-256" };
  const der = createPrivateKey(laboratory.issuing.key).export({ format: "der", type: "pkcs8" });
  const signingKey = await crypto.subtle.importKey("pkcs8", Uint8Array.from(der), algorithm, false, ["sign"]);
  const server = http.createServer((incoming, outgoing) => {
    const parts: Buffer[] = [];
    incoming.on("data", (part: Buffer) => parts.push(part));
    incoming.on("end", () => {
      if (!mayEnroll(incoming.headers.authorization ?? "")) {
        outgoing.writeHead(401).end();
        return;
      }
      const csr = new x509.Pkcs10CertificateRequest(Buffer.concat(parts).toString());
      x509.X509CertificateGenerator.create({
        subject: csr.subject,
        issuer: new x509.X509Certificate(laboratory.issuing.certificate).subject,
        publicKey: csr.publicKey,
        signingKey,
        signingAlgorithm: algorithm,
        // The mistake: copy_extensions = copyall.
        extensions: csr.extensions,
      }).then(
        (certificate) => outgoing.end(certificate.toString("pem")),
        () => outgoing.destroy(),
      );
    });
  });
  stage.onEnd(() => server.closeAllConnections());
  stage.tell("enrolment", await listenOnLoopback(server));
  await naiveKeyServer(stage, { ca: laboratory.root.certificate, requestCert: true, rejectUnauthorized: true }, (socket) => {
    const names = socket.getPeerCertificate().subjectaltname ?? "";
    return names === `URI:spiffe://${laboratory.trustDomain}/agent/alice`;
  });
  await stage.end;
}

/** Key and CSR of a request for more than its sender is entitled to: a CA certificate in Alice's name. */
async function greedyRequest(trustDomain: string): Promise<{ csr: string; key: string }> {
  await import("reflect-metadata");
  const x509 = await import("@peculiar/x509");
  const algorithm = { name: "ECDSA", namedCurve: "P-256", hash: "SHA-256" };
  const keys = await crypto.subtle.generateKey(algorithm, true, ["sign", "verify"]);
  const csr = await x509.Pkcs10CertificateRequestGenerator.create({
    name: "CN=alice",
    keys,
    signingAlgorithm: algorithm,
    extensions: [
      new x509.BasicConstraintsExtension(true, undefined, true),
      new x509.KeyUsagesExtension(x509.KeyUsageFlags.digitalSignature | x509.KeyUsageFlags.keyCertSign | x509.KeyUsageFlags.cRLSign, true),
      new x509.ExtendedKeyUsageExtension([x509.ExtendedKeyUsage.clientAuth, x509.ExtendedKeyUsage.serverAuth]),
      new x509.SubjectAlternativeNameExtension([{ type: "url", value: `spiffe://${trustDomain}/agent/alice` }]),
    ],
  });
  const pkcs8 = Buffer.from(await crypto.subtle.exportKey("pkcs8", keys.privateKey));
  return { csr: csr.toString("pem"), key: `-----BEGIN PRIVATE KEY-----\n${pkcs8.toString("base64")}\n-----END PRIVATE KEY-----\n` };
}

/** Mallory enrolls at the careless authority with a request of her liking, and asks for the key with what she gets. */
async function enrollCarelessly(stage: MalloryStage, token: string): Promise<void> {
  const enrolment = Number(await stage.hear("enrolment"));
  const { csr, key } = await greedyRequest(stage.world.laboratory.trustDomain);
  const answer = await fetch(`http://127.0.0.1:${enrolment}/enroll`, { method: "POST", body: csr, headers: { authorization: token } });
  const certificate = await answer.text();
  stage.log(certificate);
  await malloryFetch(stage, Number(await stage.hear("port")), { key, cert: `${certificate}\n${stage.world.laboratory.issuing.certificate}` });
}

/** Mallory enrolls at the real CA over EST (RFC 7030 section 4.2) with the same request and asks the real KMS. */
async function enrollForReal(stage: MalloryStage, name: string, token: string, keyName: string): Promise<void> {
  const live = liveOf(stage);
  const { csr, key } = await greedyRequest(live.trustDomain);
  const ca = await readFile(path.join(live.identities["mallory"] ?? "", "root.pem"), "utf8");
  const answer = await request(
    `${live.enrolmentUrl}/.well-known/est/simpleenroll`,
    {
      method: "POST",
      ca,
      agent: false,
      headers: {
        authorization: `Basic ${Buffer.from(`${name}:${token}`).toString("base64")}`,
        "content-type": "application/pkcs10",
        "content-transfer-encoding": "base64",
      },
    },
    csr.replaceAll(/-----[^-]+-----|\s/g, ""),
  );
  stage.log(`${answer.status}`, answer.text);
  if (answer.status !== 200) {
    stage.refused(problemCodeOf(answer.body) ?? `http-${answer.status}`, `the CA answered ${answer.status}`);
    return;
  }
  const { parseCertsOnly } = await import("#pki/cms.ts");
  const issued = parseCertsOnly(Buffer.from(answer.text, "base64"));
  // EST answers with the certificate alone; its issuer is the one that issued hers.
  const own = await copiedCredential(live.identities["mallory"], "client");
  const cert = issued.map((certificate) => certificate.toPem()).join("") + own.chain.slice(own.certificate.length);
  await malloryAsksKms(stage, { key, certificate: cert, chain: cert }, keyName);
}

/** Mallory asks the real KMS for the canary's key with some credential, and logs all that comes back. */
export async function malloryAsksKms(stage: MalloryStage, credential: PemCredential | undefined, keyName: string, headers: Record<string, string> = {}, kmsUrl = liveOf(stage).kmsUrl): Promise<void> {
  try {
    const answer = await request(`${kmsUrl}/v1/keys/${keyName}/versions/latest/material`, {
      rejectUnauthorized: false,
      agent: false,
      ALPNProtocols: ["http/1.1"],
      headers,
      ...(credential === undefined ? {} : { key: credential.key, cert: credential.chain }),
    });
    stage.log(`${answer.status}`, answer.body, answer.text);
    if (answer.status !== 200) stage.refused(problemCodeOf(answer.body) ?? `http-${answer.status}`, `the KMS answered ${answer.status}`);
  } catch (error) {
    stage.log(`no answer: ${errorCodeOf(error)}`);
    stage.refused(handshakeRefusalOf(error), "the KMS ended the handshake");
  }
}

const clientOfCa = (stage: VictimStage) => (socket: TLSSocket) => {
  if (!signedBy(socket, stage.world.laboratory.issuing.certificate)) throw new Error("not our CA");
};
const aliceUri = (stage: Stage): string => `spiffe://${stage.world.laboratory.trustDomain}/agent/alice`;
const withoutSan: Arm["mallory"] = serveWith((stage) => misissued(stage.world.laboratory, { subject: "localhost", purposes: ["serverAuth"] }));
const withoutPurpose: Arm["mallory"] = fetchWith((stage) => misissued(stage.world.laboratory, { subject: "alice", uris: [aliceUri(stage)] }));
const withTwoNames: Arm["mallory"] = fetchWith((stage) =>
  misissued(stage.world.laboratory, {
    subject: "mallory",
    purposes: ["clientAuth"],
    uris: [aliceUri(stage), `spiffe://${stage.world.laboratory.trustDomain}/agent/mallory`],
  }),
);
const kmsCredential: Arm["mallory"] = fetchWith(async (stage) => stage.world.laboratory.kms);
const liveClient: Arm["victim"] = async (stage) => (await posing()).liveKeyClient(stage);

export const paths: FamilyArms = {
  P01: {
    naive: {
      victim: (stage) =>
        naiveKeyClient(stage, { rejectUnauthorized: false }, (socket) => {
          // The mistake: a CA is known by its name.
          if (!socket.getPeerX509Certificate()?.issuer.includes("CN=Laboratory Issuing CA")) throw new Error("not our CA");
        }),
      mallory: serveWith((stage) => chainOfTheSameNames("Laboratory Root", "Laboratory Issuing CA", `spiffe://${stage.world.laboratory.trustDomain}/service/kms`)),
    },
    signet: {
      live: true,
      victim: liveClient,
      mallory: serveWith(async (stage) => {
        const { identities, trustDomain } = liveOf(stage);
        const { subjectOf } = await forge();
        const own = await copiedCredential(identities["mallory"], "client");
        const root = await readFile(path.join(identities["mallory"] ?? "", "root.pem"), "utf8");
        return chainOfTheSameNames(subjectOf(root), subjectOf(own.chain.slice(own.certificate.length)), `spiffe://${trustDomain}/service/kms`);
      }),
    },
  },

  P04: {
    // Stock Node falls back to the CN where a certificate has no subjectAltName.
    naive: { victim: (stage) => naiveKeyClient(stage, { ca: stage.world.laboratory.root.certificate }), mallory: withoutSan },
    signet: { victim: guardedClient, mallory: withoutSan },
  },

  P06: {
    naive: { victim: (stage) => naiveKeyClient(stage, { rejectUnauthorized: false }, clientOfCa(stage)), mallory: serveWith(async (stage) => stage.world.laboratory.mallory) },
    signet: { live: true, victim: liveClient, mallory: serveWith((stage) => copiedCredential(liveOf(stage).identities["mallory"], "client")) },
  },

  P07: {
    naive: {
      victim: async (stage) => {
        const { issuing, root } = stage.world.laboratory;
        await naiveKeyServer(stage, { ca: root.certificate, requestCert: true, rejectUnauthorized: false }, (socket) => signedBy(socket, issuing.certificate));
        await stage.end;
      },
      mallory: kmsCredential,
    },
    signet: { victim: guardedServer, mallory: kmsCredential },
  },

  P08: {
    naive: {
      victim: async (stage) => {
        // Stock Node, with every check that it has switched on, takes a certificate without extendedKeyUsage.
        const options = { ca: stage.world.laboratory.root.certificate, requestCert: true, rejectUnauthorized: true };
        await naiveKeyServer(stage, options, (socket) => socket.authorized);
        await stage.end;
      },
      mallory: withoutPurpose,
    },
    signet: { victim: guardedServer, mallory: withoutPurpose },
  },

  P12: {
    naive: {
      victim: (stage) =>
        naiveKeyClient(stage, { rejectUnauthorized: false }, async (socket) => {
          await import("reflect-metadata");
          const x509 = await import("@peculiar/x509");
          const { laboratory } = stage.world;
          // Every certificate that the directory of agents lists is at hand for building chains, Mallory's own among them.
          const known = [laboratory.alice, laboratory.mallory, laboratory.issuing, laboratory.root].map((holder) => new x509.X509Certificate(holder.certificate));
          // The mistake: a chain whose signatures hold is taken for a valid path (X509ChainBuilder looks at no CA bit).
          const leaf = new x509.X509Certificate(Uint8Array.from(socket.getPeerX509Certificate()?.raw ?? []));
          const chain = await new x509.X509ChainBuilder({ certificates: known }).build(leaf);
          const top = chain.at(-1);
          if (top === undefined || !Buffer.from(top.rawData).equals(new X509Certificate(laboratory.root.certificate).raw)) throw new Error("no chain to the root");
        }),
      mallory: serveWith((stage) => issuedByAnEndEntity(stage.world.laboratory.mallory, stage.world.laboratory.trustDomain)),
    },
    signet: {
      live: true,
      victim: liveClient,
      mallory: serveWith(async (stage) => {
        const { identities, trustDomain } = liveOf(stage);
        return issuedByAnEndEntity(await copiedCredential(identities["mallory"], "server"), trustDomain);
      }),
    },
  },

  P21: {
    naive: {
      victim: async (stage) => {
        const options = { ca: stage.world.laboratory.root.certificate, requestCert: true, rejectUnauthorized: true };
        // The mistake: any of the names will do.
        await naiveKeyServer(stage, options, (socket) => (socket.getPeerCertificate().subjectaltname ?? "").includes(`URI:${aliceUri(stage)}`));
        await stage.end;
      },
      mallory: withTwoNames,
    },
    signet: { victim: guardedServer, mallory: withTwoNames },
  },

  P23: {
    naive: { victim: (stage) => carelessAuthority(stage, () => true), mallory: (stage) => enrollCarelessly(stage, "mallory") },
    signet: {
      live: true,
      mallory: async (stage) => {
        const keyName = String(await stage.direct("canary-key"));
        const { name, token } = (await stage.direct("token")) as { name: string; token: string };
        await enrollForReal(stage, name, token, keyName);
      },
    },
  },

  P24: {
    naive: {
      victim: async (stage) => {
        const port = Number(await stage.hear("port"));
        // The mistake: the first contact believes whoever answers, as `curl --insecure` does.
        const root = await request(`https://localhost:${port}/cacerts`, { rejectUnauthorized: false, agent: false });
        stage.accepted(root.text);
        await request(`https://localhost:${port}/enroll`, { method: "POST", rejectUnauthorized: false, agent: false, headers: { authorization: `Bearer ${stage.secret}` } });
      },
      mallory: serveWith((stage) => chainOfTheSameNames("Laboratory Root", "Laboratory Issuing CA", `spiffe://${stage.world.laboratory.trustDomain}/service/ca`)),
    },
    signet: {
      victim: async (stage) => (await posing()).enrollAtMallory(stage),
      mallory: serveWith((stage) => chainOfTheSameNames("Laboratory Root", "Laboratory Issuing CA", `spiffe://${stage.world.laboratory.trustDomain}/service/ca`)),
    },
  },

  P25: {
    naive: {
      // The mistake: one enrolment secret for everybody, for ever; it stood in a build log.
      victim: async (stage) => {
        const token = randomBytes(8).toString("hex");
        stage.tell("build-log", token);
        await carelessAuthority(stage, (presented) => presented === token);
      },
      mallory: async (stage) => enrollCarelessly(stage, String(await stage.hear("build-log"))),
    },
    signet: {
      live: true,
      mallory: async (stage) => {
        const { name, token } = (await stage.direct("used-token")) as { name: string; token: string };
        // The token's owner may read the key: to be taken for the owner would be enough.
        const keyName = String(await stage.direct("canary-key", name));
        await enrollForReal(stage, name, token, keyName);
      },
    },
  },
};
