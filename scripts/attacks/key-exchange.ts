/** Family K: two agents agree on a key, and Mallory sits between them, sends their own words back, or sends numbers that are none. */
import { createCipheriv, createDecipheriv, createECDH, createHash, createHmac, createPublicKey, generateKeyPairSync, hkdfSync, randomBytes, sign, verify, type KeyObject } from "node:crypto";
import net from "node:net";
import tls from "node:tls";
import type { Arm, FamilyArms, MalloryStage, VictimStage } from "./attack.ts";
import { interpose } from "./interposer.ts";
import { lines, listenOnLoopback } from "./observe.ts";
import { copiedCredential, liveOf } from "./paths.ts";

const posing = () => import("./posing.ts");

const derive = (...parts: readonly Uint8Array[]): Buffer => Buffer.from(hkdfSync("sha256", Buffer.concat(parts), "", "naive session", 32));

/** AES-256-GCM, as hexadecimal of IV, ciphertext and tag. */
function seal(key: Uint8Array, text: string): string {
  const iv = randomBytes(12);
  const cipher = createCipheriv("aes-256-gcm", key, iv);
  return Buffer.concat([iv, cipher.update(text), cipher.final(), cipher.getAuthTag()]).toString("hex");
}

function open(key: Uint8Array, sealed: string): string {
  const bytes = Buffer.from(sealed, "hex");
  const decipher = createDecipheriv("aes-256-gcm", key, bytes.subarray(0, 12), { authTagLength: 16 });
  decipher.setAuthTag(bytes.subarray(-16));
  return decipher.update(bytes.subarray(12, -16)).toString() + decipher.final().toString();
}

/** A line-by-line connection. */
interface Wire {
  readonly write: (line: string) => void;
  readonly read: () => Promise<string>;
  readonly close: () => void;
}

function wireOf(socket: net.Socket): Wire {
  socket.on("error", () => {});
  return { write: (line) => void socket.write(`${line}\n`), read: lines(socket), close: () => void socket.destroy() };
}

const dial = (port: number): Promise<Wire> =>
  new Promise((resolve, reject) => {
    const socket = net.connect(port, "127.0.0.1", () => resolve(wireOf(socket)));
    socket.once("error", reject);
  });

/** Serves connections and answers its port. */
async function serve(stage: { onEnd(close: () => unknown): void }, each: (wire: Wire) => Promise<void>): Promise<number> {
  const server = net.createServer((socket) => void each(wireOf(socket)).catch(() => socket.destroy()));
  stage.onEnd(() => server.close());
  return listenOnLoopback(server);
}

const publicOf = (exchange: { generateKeys(encoding: "hex"): string }): string => exchange.generateKeys("hex");

/** The honest half of a bare Diffie-Hellman: sends its share, reads the other's, and has a key with whoever sent it. */
async function bareExchange(wire: Wire): Promise<Buffer> {
  const exchange = createECDH("prime256v1");
  wire.write(publicOf(exchange));
  return derive(exchange.computeSecret(await wire.read(), "hex"));
}

const sha256 = (text: string): string => createHash("sha256").update(text).digest("hex");

/** Base to an exponent modulo a number; none of it in constant time, as in many a home-made implementation. */
function power(base: bigint, exponent: bigint, modulus: bigint): bigint {
  let result = 1n;
  for (let square = base % modulus, left = exponent; left > 0n; left >>= 1n, square = (square * square) % modulus) {
    if ((left & 1n) === 1n) result = (result * square) % modulus;
  }
  return result;
}

function isProbablePrime(candidate: bigint): boolean {
  for (const small of [2n, 3n, 5n, 7n, 11n, 13n, 17n, 19n, 23n, 29n]) if (candidate % small === 0n) return candidate === small;
  let odd = candidate - 1n;
  let twos = 0;
  while ((odd & 1n) === 0n) {
    odd >>= 1n;
    twos += 1;
  }
  return [2n, 3n, 5n, 7n, 11n, 13n, 17n, 19n].every((witness) => {
    let value = power(witness, odd, candidate);
    if (value === 1n || value === candidate - 1n) return true;
    for (let round = 1; round < twos; round += 1) {
      value = (value * value) % candidate;
      if (value === candidate - 1n) return true;
    }
    return false;
  });
}

/** First odd primes, enough that their product passes 2^256. */
const smallPrimes = ((): readonly bigint[] => {
  const primes: bigint[] = [];
  for (let candidate = 3n; primes.length < 50; candidate += 2n) if (primes.every((prime) => candidate % prime !== 0n)) primes.push(candidate);
  return primes;
})();

/** A prime p of which p - 1 is the product of small primes and little else: "custom parameters", as an attacker would choose them. */
function weakPrime(): bigint {
  const smooth = smallPrimes.reduce((product, prime) => product * prime, 2n);
  for (let factor = (1n << 160n) + BigInt(`0x${randomBytes(8).toString("hex")}`); ; factor += 1n) {
    const candidate = smooth * factor + 1n;
    if (isProbablePrime(candidate)) return candidate;
  }
}

const confirmation = (shared: bigint): string => createHmac("sha256", derive(Buffer.from(shared.toString(16)))).update("finished").digest("hex");

/** Residue of the victim's exponent modulo a small prime, from its answer to an element of that order. */
function residueFrom(element: bigint, order: bigint, modulus: bigint, answer: string): bigint {
  for (let residue = 0n, value = 1n; residue < order; residue += 1n, value = (value * element) % modulus) if (confirmation(value) === answer) return residue;
  throw new Error("no residue fits");
}

/** The smallest number with these residues (Chinese remainder theorem). */
function combine(residues: readonly (readonly [residue: bigint, modulus: bigint])[]): bigint {
  let [value, product] = [0n, 1n];
  for (const [residue, modulus] of residues) {
    while (value % modulus !== residue) value += product;
    product *= modulus;
  }
  return value;
}

/** Two Signet agents in one victim process, Alice and Carol; Mallory is the wire between them. */
const linkedAgents: NonNullable<Arm["victim"]> = async (stage) => (await posing()).linkThroughMallory(stage);

const account = (name: string, keys: { publicKey: KeyObject }): string => JSON.stringify({ name, key: keys.publicKey.export({ format: "jwk" }) });

async function misbindNaively(stage: VictimStage): Promise<void> {
  const alice = generateKeyPairSync("ed25519");
  const bank = generateKeyPairSync("ed25519");
  // A directory in which everybody registers: names are bound to keys, and it never lies.
  const directory = new Map([["alice", alice.publicKey], ["bank", bank.publicKey]]);
  stage.tell("directory", [account("alice", alice), account("bank", bank)]);
  const registered = JSON.parse(String(await stage.hear("register"))) as { name: string; key: { kty: string; crv: string; x: string } };
  directory.set(registered.name, createPublicKey({ key: registered.key, format: "jwk" }));
  const credited = Promise.withResolvers<void>();
  // The bank: signs both shares, and takes the name that comes with a good signature over them.
  const port = await serve(stage, async (wire) => {
    const theirs = await wire.read();
    const exchange = createECDH("prime256v1");
    const mine = publicOf(exchange);
    wire.write(mine);
    wire.write(sign(null, Buffer.from(theirs + mine), bank.privateKey).toString("hex"));
    const name = await wire.read();
    const signature = Buffer.from(await wire.read(), "hex");
    const key = directory.get(name);
    if (key === undefined || !verify(null, Buffer.from(theirs + mine), key, signature)) throw new Error("bad signature");
    const deposit = open(derive(exchange.computeSecret(theirs, "hex")), await wire.read());
    stage.note(`The bank credited Alice's deposit (${deposit.length} characters) to another account.`);
    stage.accepted(name);
    credited.resolve();
  });
  stage.tell("bank", port);
  const wire = await dial(Number(await stage.hear("port")));
  const exchange = createECDH("prime256v1");
  const mine = publicOf(exchange);
  wire.write(mine);
  const theirs = await wire.read();
  if (!verify(null, Buffer.from(mine + theirs), bank.publicKey, Buffer.from(await wire.read(), "hex"))) throw new Error("not the bank");
  wire.write("alice");
  wire.write(sign(null, Buffer.from(mine + theirs), alice.privateKey).toString("hex"));
  wire.write(seal(derive(exchange.computeSecret(theirs, "hex")), stage.secret));
  await credited.promise;
}

export const keyExchange: FamilyArms = {
  K01: {
    naive: {
      victim: async (stage) => {
        const received = Promise.withResolvers<void>();
        const port = await serve(stage, async (wire) => {
          stage.accepted(open(await bareExchange(wire), await wire.read()));
          received.resolve();
        });
        stage.tell("bob", port);
        const wire = await dial(Number(await stage.hear("port")));
        wire.write(seal(await bareExchange(wire), stage.secret));
        await received.promise;
      },
      mallory: async (stage) => {
        const bob = Number(await stage.hear("bob"));
        const port = await serve(stage, async (alice) => {
          const withAlice = await bareExchange(alice);
          stage.log("Alice said:", open(withAlice, await alice.read()));
          const onward = await dial(bob);
          onward.write(seal(await bareExchange(onward), stage.forgery));
        });
        stage.tell("port", port);
        await stage.end;
      },
    },
    signet: { live: true, victim: linkedAgents, mallory: terminateLink },
  },

  K02: {
    naive: {
      victim: misbindNaively,
      mallory: async (stage) => {
        const own = generateKeyPairSync("ed25519");
        await stage.hear("directory");
        // An honest registration, of an account with a name that is hers alone.
        stage.tell("register", account(stage.forgery, own));
        const bank = Number(await stage.hear("bank"));
        const port = await serve(stage, async (alice) => {
          const onward = await dial(bank);
          const hers = await alice.read();
          onward.write(hers);
          const theirs = await onward.read();
          alice.write(theirs);
          alice.write(await onward.read());
          await alice.read();
          await alice.read();
          // Her own name and signature over the same two shares; the key stays one that she does not know.
          onward.write(stage.forgery);
          onward.write(sign(null, Buffer.from(hers + theirs), own.privateKey).toString("hex"));
          const sealed = await alice.read();
          stage.log("passed on, unread:", sealed);
          onward.write(sealed);
        });
        stage.tell("port", port);
        await stage.end;
      },
    },
    signet: {
      live: true,
      victim: linkedAgents,
      mallory: async (stage) => {
        // In TLS the client's certificate and signature travel sealed under the handshake keys: she can only alter bytes.
        const carol = Number(await stage.hear("carol"));
        const wire = await interpose({
          target: () => carol,
          fromClient: (bytes, state) => {
            stage.log(bytes);
            if (state.client !== 2) return bytes;
            const altered = Buffer.from(bytes);
            altered.writeUInt8(altered.readUInt8(altered.length >> 1) ^ 1, altered.length >> 1);
            return altered;
          },
        });
        stage.onEnd(() => wire.close());
        stage.tell("port", wire.port);
        await stage.end;
      },
    },
  },

  K05: {
    naive: {
      victim: async (stage) => {
        // Alice and Bob share a key, and each both calls and answers. Nothing in it says who is who.
        const shared = randomBytes(32);
        const proof = (nonce: string): string => createHmac("sha256", shared).update(nonce).digest("hex");
        const port = await serve(stage, async (wire) => {
          const nonce = await wire.read();
          wire.write(proof(nonce));
          const own = randomBytes(16).toString("hex");
          wire.write(own);
          if ((await wire.read()) !== proof(own)) return;
          const message = await wire.read();
          if (open(shared, message) === stage.secret) stage.accepted(`from Bob: ${sha256(message)}`);
          stage.tell("answered");
          wire.write("thanks");
        });
        stage.tell("alice", port);
        const wire = await dial(Number(await stage.hear("port")));
        const nonce = randomBytes(16).toString("hex");
        wire.write(nonce);
        if ((await wire.read()) !== proof(nonce)) throw new Error("not Bob");
        wire.write(proof(await wire.read()));
        wire.write(seal(shared, stage.secret));
        await wire.read();
      },
      mallory: async (stage) => {
        const alice = Number(await stage.hear("alice"));
        const port = await serve(stage, async (caller) => {
          const reflected = await dial(alice);
          const relay = async (from: Wire, to: Wire): Promise<string> => {
            const line = await from.read();
            stage.log("reflected:", line);
            to.write(line);
            return line;
          };
          await relay(caller, reflected);
          await relay(reflected, caller);
          await relay(reflected, caller);
          await relay(caller, reflected);
          stage.claim(`from Bob: ${sha256(await relay(caller, reflected))}`);
          await relay(reflected, caller);
        });
        stage.tell("port", port);
        await stage.end;
      },
    },
    signet: { live: true, victim: async (stage) => (await posing()).dialAndBeReflected(stage), mallory: async (stage) => relayTo(stage, "alice") },
  },

  K06: {
    naive: {
      victim: async (stage) => {
        // Sealed with a good key and a good cipher, and nothing that makes one order differ from its copy.
        const shared = randomBytes(32);
        let orders = 0;
        const both = Promise.withResolvers<void>();
        const port = await serve(stage, async (wire) => {
          const order = await wire.read();
          if (open(shared, order) !== stage.secret) return;
          orders += 1;
          stage.accepted(`order ${orders}: ${sha256(order)}`);
          if (orders === 2) both.resolve();
        });
        stage.tell("carol", port);
        const wire = await dial(Number(await stage.hear("port")));
        wire.write(seal(shared, stage.secret));
        await both.promise;
      },
      mallory: async (stage) => {
        const carol = Number(await stage.hear("carol"));
        const port = await serve(stage, async (alice) => {
          const order = await alice.read();
          stage.log("recorded:", order);
          stage.claim(`order 2: ${sha256(order)}`);
          for (const copy of [order, order]) {
            const onward = await dial(carol);
            onward.write(copy);
          }
        });
        stage.tell("port", port);
        await stage.end;
      },
    },
    signet: { live: true, victim: async (stage) => (await posing()).readTwice(stage), mallory: async (stage) => replayOnce(stage) },
  },

  K07: {
    naive: {
      victim: async (stage) => {
        // "Fresh parameters", a static exponent, and no look at the numbers that a peer sends.
        const modulus = weakPrime();
        const exponent = BigInt(`0x${stage.secret}`) >> 8n;
        stage.tell("parameters", { modulus: modulus.toString(16), publicValue: power(2n, exponent, modulus).toString(16) });
        const port = await serve(stage, async (wire) => {
          for (;;) wire.write(confirmation(power(BigInt(`0x${await wire.read()}`), exponent, modulus)));
        });
        // What Alice sealed for this exponent earlier, as Mallory recorded it.
        stage.tell("recorded", seal(derive(Buffer.from(exponent.toString(16))), stage.secret));
        stage.tell("port", port);
        await stage.end;
      },
      mallory: async (stage) => {
        const parameters = (await stage.hear("parameters")) as { modulus: string };
        const modulus = BigInt(`0x${parameters.modulus}`);
        const wire = await dial(Number(await stage.hear("port")));
        const residues: [bigint, bigint][] = [];
        for (const order of smallPrimes) {
          let element = 1n;
          for (let base = 2n; element === 1n; base += 1n) element = power(base, (modulus - 1n) / order, modulus);
          wire.write(element.toString(16));
          residues.push([residueFrom(element, order, modulus, await wire.read()), order]);
        }
        const exponent = combine(residues);
        stage.log(`${residues.length} queries gave an exponent of ${exponent.toString(2).length} bits`);
        stage.log("recorded session:", open(derive(Buffer.from(exponent.toString(16))), String(await stage.hear("recorded"))));
        wire.close();
      },
    },
    signet: { victim: async (stage) => (await posing()).agreeWithDegenerateValues(stage), mallory: sendDegenerateValues },
  },
};

/** Mallory passes every byte on, to a party that was not dialled. */
async function relayTo(stage: MalloryStage, whom: string): Promise<void> {
  const target = Number(await stage.hear(whom));
  const wire = await interpose({
    target: () => target,
    fromClient: (bytes) => {
      stage.log(bytes);
      return bytes;
    },
  });
  stage.onEnd(() => wire.close());
  stage.tell("port", wire.port);
  await stage.end;
}

/** Mallory ends Alice's link at herself, with the genuine server certificate that the CA issued for her own links. */
async function terminateLink(stage: MalloryStage): Promise<void> {
  const own = await copiedCredential(liveOf(stage).identities["mallory"], "server");
  const server = tls.createServer({ key: own.key, cert: own.chain, requestCert: true, rejectUnauthorized: false, ALPNProtocols: ["signet-link/1"] }, (socket) => {
    socket.on("error", () => {});
    socket.on("data", (bytes: Buffer) => stage.log(bytes, bytes.toString("latin1")));
    // The empty frame with which an honest listener begins.
    socket.write(Buffer.alloc(4));
  });
  server.on("tlsClientError", () => {});
  stage.onEnd(() => server.close());
  stage.tell("port", await listenOnLoopback(server));
  await stage.end;
}

/** Mallory carries a sealed message from Alice to Carol, twice. */
async function replayOnce(stage: MalloryStage): Promise<void> {
  const sealed = String(await stage.hear("sealed"));
  stage.log("recorded:", sealed);
  stage.claim(`second: ${sha256(sealed)}`);
  stage.tell("delivered", sealed);
  stage.tell("delivered", sealed);
  await stage.end;
}

/** Public values that lie in no large subgroup of any group, for a victim that agrees by the name of a group. */
async function sendDegenerateValues(stage: MalloryStage): Promise<void> {
  const groups = (await stage.hear("groups")) as { name: string; modulus: string }[];
  for (const { name, modulus } of groups) {
    const prime = BigInt(`0x${modulus}`);
    for (const value of [0n, 1n, prime - 1n, prime, prime + 1n]) {
      const share = value.toString(16).padStart(modulus.length, "0");
      stage.claim(share);
      stage.tell("share", { group: name, value: share });
    }
  }
  stage.tell("share", null);
  await stage.end;
}
