/**
 * Random paths under a root, good and with one thing changed, drawn from a seed. Everything that RFC 5280 has a rule about varies:
 * lengths, dates, CA bits, path lengths, key usages, purposes, name constraints, policies, unknown extensions, signatures.
 */
import { Certificate } from "#pki/certificate.ts";
import { oid } from "#pki/oids.ts";
import { dns, extension, extensions, forge, forgeCa, ip, keyIdentifier, testKeyPair, testTime, commonName } from "./pki.ts";
import type { ForgedCa, KeyPair } from "./pki.ts";

export interface RandomPath {
  /** What was changed, or "nothing". */
  readonly change: string;
  readonly root: Certificate;
  readonly intermediates: readonly Certificate[];
  readonly leaf: Certificate;
  readonly host: string;
}

/** xorshift over 32 bits: the same numbers for the same seed. */
export function randomFrom(seed: number): (below: number) => number {
  let state = seed | 1;
  return (below) => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) % below;
  };
}

const changes = [
  "nothing",
  "leaf expired",
  "leaf not yet valid",
  "CA expired",
  "CA without CA bit",
  "CA without basicConstraints",
  "CA without keyCertSign",
  "path length too short",
  "leaf for another purpose",
  "CA for another purpose",
  "leaf for no purpose in particular",
  "unknown critical extension in the leaf",
  "unknown critical extension in a CA",
  "name outside what is permitted",
  "name excluded",
  "address outside what is permitted",
  "signature of another key",
  "bit changed in the leaf",
  "bit changed in a CA",
  "CA missing",
  "explicit policy without policies",
  "policy all along",
] as const;

/** Key pairs to draw from, since to make one costs more than the rest. */
const pool: readonly KeyPair[] = Array.from({ length: 12 }, () => testKeyPair());

export function randomPath(random: (below: number) => number): RandomPath {
  const change = changes[random(3) === 0 ? 0 : random(changes.length)] as (typeof changes)[number];
  const depth = 1 + random(3);
  const target = random(depth);
  const host = `h${random(1000)}.example.com`;
  const past = { notBefore: new Date(testTime.notBefore.getTime() - 1e9), notAfter: new Date(testTime.now.getTime() - 1000 * (1 + random(5000))) };
  const offset = random(pool.length);
  const keys = (index: number): KeyPair => pool[(offset + index) % pool.length] as KeyPair;
  const root = forgeCa(`Root ${offset}`, undefined, { keys: keys(0) });
  const chain: ForgedCa[] = [root];
  for (let index = 0; index < depth; index++) {
    const is = (what: (typeof changes)[number]): boolean => change === what && index === target;
    const issuer = chain.at(-1) as ForgedCa;
    const own = keys(index + 1);
    const pathLength = change === "path length too short" && index === 0 ? Math.max(0, depth - 2 - (depth > 1 ? random(2) : 0)) : random(2) === 0 ? depth - 1 - index + random(2) : undefined;
    const list = [
      ...(is("CA without basicConstraints") ? [] : [extensions.basicConstraints(!is("CA without CA bit"), is("CA without CA bit") ? undefined : pathLength)]),
      is("CA without keyCertSign") ? extensions.keyUsage("cRLSign") : extensions.keyUsage("keyCertSign", "cRLSign"),
      extensions.subjectKeyIdentifier(keyIdentifier(own.publicKey)),
      extensions.authorityKeyIdentifier(keyIdentifier(issuer.publicKey)),
      ...(is("CA for another purpose") ? [extensions.extendedKeyUsage(oid.clientAuth)] : random(4) === 0 ? [extensions.extendedKeyUsage(oid.serverAuth)] : []),
      ...(is("unknown critical extension in a CA") ? [extension("1.3.6.1.4.1.99999.7", true, Buffer.from("0500", "hex"))] : []),
      ...(is("name outside what is permitted") ? [extensions.nameConstraints({ permitted: [dns("example.org")] })] : []),
      ...(is("name excluded") ? [extensions.nameConstraints({ excluded: [dns("example.com")] })] : []),
      ...(is("address outside what is permitted") ? [extensions.nameConstraints({ permitted: [ip("10.0.0.0/255.0.0.0")] })] : []),
      ...(change === "nothing" && random(3) === 0 ? [extensions.nameConstraints({ permitted: [dns("example.com"), ip("192.0.2.0/255.255.255.0")], excluded: [dns("example.org")] })] : []),
      ...(change === "policy all along" ? [extensions.certificatePolicies("1.2.3", "1.2.4"), extensions.policyConstraints({ requireExplicitPolicy: 0 })] : []),
      ...(is("explicit policy without policies") ? [extensions.policyConstraints({ requireExplicitPolicy: 0 })] : []),
    ];
    const subject = commonName(`CA ${index} of ${offset}`);
    const certificate = forge({ subject, issuer: issuer.name, publicKey: own.publicKey, extensions: list, ...(is("CA expired") ? past : {}) }, issuer.privateKey);
    chain.push({ ...own, name: subject, certificate });
  }
  const issuer = chain.at(-1) as ForgedCa;
  const leaf = forge(
    {
      subject: commonName("leaf"),
      issuer: issuer.name,
      publicKey: keys(depth + 1).publicKey,
      extensions: [
        ...(random(2) === 0 ? [extensions.basicConstraints(false)] : []),
        extensions.authorityKeyIdentifier(keyIdentifier(issuer.publicKey)),
        extensions.subjectAltName([dns(host), ip("192.0.2.1")]),
        ...(change === "leaf for no purpose in particular" ? [] : [extensions.extendedKeyUsage(change === "leaf for another purpose" ? oid.clientAuth : oid.serverAuth)]),
        ...(change === "unknown critical extension in the leaf" ? [extension("1.3.6.1.4.1.99999.8", true, Buffer.from("0500", "hex"))] : []),
        ...(change === "policy all along" ? [extensions.certificatePolicies("1.2.4")] : []),
      ],
      ...(change === "leaf expired" ? past : {}),
      ...(change === "leaf not yet valid" ? { notBefore: new Date(testTime.now.getTime() + 60_000) } : {}),
    },
    change === "signature of another key" ? keys(depth + 5).privateKey : issuer.privateKey,
  );
  const intermediates = chain.slice(1).map((ca) => ca.certificate);
  if (change === "CA missing") intermediates.splice(target, 1);
  if (change === "bit changed in a CA") intermediates[target] = changedBit(intermediates[target] as Certificate, random);
  return { change, root: root.certificate, intermediates, leaf: change === "bit changed in the leaf" ? changedBit(leaf, random) : leaf, host };
}

/** The certificate with one bit of its signature value changed, where its structure does not notice. */
function changedBit({ der }: Certificate, random: (below: number) => number): Certificate {
  const bytes = Buffer.from(der);
  const at = bytes.length - 1 - random(24);
  bytes[at] = (bytes[at] as number) ^ (1 << random(8));
  return Certificate.parse(bytes);
}
