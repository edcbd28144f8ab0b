/** The certificates that a peer presents in a TLS handshake, read as rarely and as cheaply as their bytes allow. */
import type { TLSSocket } from "node:tls";
import { Certificate } from "./certificate.ts";
import { constructedContextTag, DerReader, tag } from "./der.ts";

/** Longest chain that is read from a peer. */
const chainLimit = 8;

/** A certificate as Node shows it, in either of its two forms, linked to the next of the chain. */
interface ShownCertificate {
  readonly raw: Buffer;
  readonly issuerCertificate?: ShownCertificate | undefined;
}

/**
 * The chain as the peer sent it, end entity first. Empty if there is none.
 * @param shown a server passes `getPeerX509Certificate()`: the older `getPeerCertificate(true)` decodes every field of every certificate, which costs
 *   five times as much. A client has no choice: Node has made the older form by then, and the newer takes its certificate out of OpenSSL's chain.
 */
export function presentedChain(shown: ShownCertificate | undefined): Certificate[] {
  const chain: Certificate[] = [];
  // The older form is an empty object where there is no certificate, and a self-signed one is its own issuer.
  for (let at = shown; at?.raw !== undefined && chain.length < chainLimit; at = at.issuerCertificate === at ? undefined : at.issuerCertificate) {
    chain.push(readOnce(at.raw, chain.length === 0 ? endEntitiesMet : issuersMet));
  }
  return chain;
}

/**
 * The peer's end-entity certificate alone, out of the encoding of the TLS session: OpenSSL keeps it there, and takes it from there when it is asked for the
 * peer's certificate. Node's own ways of asking make objects of the whole chain, which costs a tenth of a handshake. Undefined where there is none, or where
 * the encoding is not the one that is known.
 */
export function presentedEndEntity(socket: TLSSocket): Certificate | undefined {
  const session = socket.getSession();
  if (session === undefined) return undefined;
  try {
    // SSL_SESSION_ASN1 of OpenSSL (ssl/ssl_asn1.c): version, protocol, cipher, identifier, secret, then tagged fields, of which [3] is the peer's certificate.
    const fields = new DerReader(session).enter(tag.sequence);
    while (!fields.atEnd) if (fields.next() === constructedContextTag(3)) return readOnce(session.subarray(fields.contentStart, fields.contentEnd), endEntitiesMet);
    return undefined;
  } catch {
    return undefined;
  } finally {
    // It holds a secret, which resumes nothing at a server without tickets, and is nobody's business.
    session.fill(0);
  }
}

/**
 * Certificates met before, by their DER, first in, first out: an object knows which signature over it has been verified, and that finding stands as
 * long as the bytes. All else is judged anew. The two are apart, so that no number of callers drives out the few issuers.
 */
const issuersMet = new Map<string, Certificate>();
const endEntitiesMet = new Map<string, Certificate>();
const metLimit = 512;
/** A longer one is read each time. One of ML-DSA-65 takes about 6,000. */
const metOctetsLimit = 8192;

/** How many certificates are known by their bytes. */
export function certificatesMet(): { readonly endEntities: number; readonly issuers: number } {
  return { endEntities: endEntitiesMet.size, issuers: issuersMet.size };
}

function readOnce(der: Buffer, met: Map<string, Certificate>): Certificate {
  if (der.length > metOctetsLimit) return Certificate.parse(der);
  const key = der.toString("latin1");
  const known = met.get(key);
  if (known !== undefined) return known;
  const certificate = Certificate.parse(der);
  if (met.size >= metLimit) for (const oldest of met.keys()) {
    met.delete(oldest);
    break;
  }
  met.set(key, certificate);
  return certificate;
}
