import type { LinkParty } from "#agents/link.ts";
import { identityUri, parseIdentityUri, type IdentityKind } from "#pki/certificate-profile.ts";
import { systemClock, type Clock } from "#pki/clock.ts";
import type { RevokedEntry } from "#pki/crl.ts";
import type { Credential } from "#pki/mtls.ts";
import { Name } from "#pki/name.ts";
import { memoryFloors, RevocationStore } from "#pki/revocation.ts";
import { extensions, forge, testAuthority, testKeyPair } from "./pki.ts";

/** Parties as an enrolment would have made them, in memory: both roles, and CRLs of their own. */
export interface LinkWorld {
  party(name: string, i?: { readonly kind?: IdentityKind; /** false: it has not seen a CRL yet. */ readonly informed?: boolean }): Promise<LinkParty>;
  /** The party with another server certificate, signed by the same CA: with just these extensions, beside those that every leaf has. */
  withServerCertificate(party: LinkParty, forged: readonly Uint8Array[]): LinkParty;
  /** Revokes both certificates of a party, and gives the CRL that says so to these parties alone. */
  revoke(party: LinkParty, informed: readonly LinkParty[]): void;
  /** Moves on the time by which all parties judge the age of their revocation data. */
  advance(milliseconds: number): void;
}

export async function linkWorld(): Promise<LinkWorld> {
  const authority = await testAuthority({ now: new Date() });
  const { root, issuing } = authority;
  let elapsed = 0;
  const clock: Clock = { now: () => systemClock.now(), monotonicMilliseconds: () => systemClock.monotonicMilliseconds() + elapsed };
  const revoked: RevokedEntry[] = [];
  const firstUpdate = Math.floor(Date.now() / 1000) * 1000 - 600_000;
  let crlNumber = 0;
  const nextCrl = () => {
    crlNumber += 1;
    return authority.leafCrl([...revoked], { crlNumber: BigInt(crlNumber), thisUpdate: new Date(firstUpdate + crlNumber * 1000) });
  };
  return {
    async party(name, { kind = "agent", informed = true } = {}) {
      const leaves = { client: await authority.issue({ kind, name, role: "client" }), server: await authority.issue({ kind, name, role: "server" }) };
      const credentials = { client: credentialOf(leaves.client), server: credentialOf(leaves.server) };
      const revocation = new RevocationStore({ trustAnchors: [root], floors: memoryFloors(), clock, maxAgeMilliseconds: 15 * 60_000 });
      if (informed) for (const crl of [authority.rootCrl([]), nextCrl()]) revocation.accept(crl.der, [root, issuing]);
      return {
        identity: parseIdentityUri(identityUri(authority.trustDomain, kind, name)),
        trustAnchors: [root],
        revocation,
        credential: (role) => credentials[role],
      };

      function credentialOf(leaf: typeof leaves.client): Credential {
        return { privateKey: leaf.privateKey, chain: [leaf.certificate, issuing] };
      }
    },
    withServerCertificate(party, forged) {
      const keys = testKeyPair();
      const certificate = forge(
        {
          subject: Name.of([]),
          issuer: issuing.subject,
          publicKey: keys.publicKey,
          notBefore: new Date(Date.now() - 3_600_000),
          notAfter: new Date(Date.now() + 3_600_000),
          extensions: [
            extensions.authorityKeyIdentifier(issuing.extensions.subjectKeyIdentifier ?? ""),
            extensions.keyUsage("digitalSignature"),
            extensions.crlDistributionPoint(authority.crlDistributionPoint),
            ...forged,
          ],
        },
        authority.issuingKeys.privateKey,
      );
      return { ...party, credential: (role) => (role === "server" ? { privateKey: keys.privateKey, chain: [certificate, issuing] } : party.credential(role)) };
    },
    revoke(party, informed) {
      for (const role of ["client", "server"] as const) {
        const [certificate] = party.credential(role).chain;
        if (certificate !== undefined) revoked.push({ serialNumber: certificate.serialNumber, revocationDate: new Date(), reason: "keyCompromise" });
      }
      const crl = nextCrl();
      for (const one of informed) one.revocation.accept(crl.der, [root, issuing]);
    },
    advance(milliseconds) {
      elapsed += milliseconds;
    },
  };
}
