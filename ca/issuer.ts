import { createHash, randomBytes } from "node:crypto";
import { assembleSigned, Certificate } from "#pki/certificate.ts";
import { buildCertificate } from "#pki/certificate-builder.ts";
import { checkProfile, type Identity, type Role } from "#pki/certificate-profile.ts";
import type { Clock } from "#pki/clock.ts";
import { SignetError } from "#pki/errors.ts";
import type { Signer } from "#pki/keys.ts";
import { validatePath } from "#pki/path-validation.ts";
import type { AuditLog } from "#store/audit-log.ts";
import type { SqlEngine, SqlTransaction } from "#store/engine.ts";
import type { ServerNames } from "./enrollment.ts";
import { abandonIntents, recordIntent, recordIssued } from "./ledger.ts";

/** A leaf to be issued. Of what a requester sent, only its public key is in it. */
export interface LeafRequest {
  readonly identity: Identity;
  readonly role: Role;
  /** Empty for a client and for an agent. */
  readonly names: ServerNames;
  /** SubjectPublicKeyInfo, DER: its possession proved, its strength checked. */
  readonly subjectPublicKey: Uint8Array;
  /** At most; never past the issuer's notAfter. */
  readonly validityDays: number;
  /** Identity URI of who asked, for the audit log. */
  readonly requestedBy: string;
}

/** Leave to issue one certificate, once: its bytes are linted and its serial number is recorded. */
export class IssuanceToken {
  readonly #toBeSigned: Uint8Array;
  readonly serialNumber: string;
  readonly request: LeafRequest;
  #spent = false;

  constructor(toBeSigned: Uint8Array, serialNumber: string, request: LeafRequest) {
    this.#toBeSigned = toBeSigned;
    this.serialNumber = serialNumber;
    this.request = request;
  }

  /** The bytes to sign; the second call fails. */
  spend(): Uint8Array {
    if (this.#spent) throw new SignetError("internal", "An issuance token is good for one certificate.");
    this.#spent = true;
    return this.#toBeSigned;
  }
}

export interface IssuerOptions {
  readonly engine: SqlEngine;
  readonly audit: AuditLog;
  readonly clock: Clock;
  readonly root: Certificate;
  readonly certificate: Certificate;
  readonly signer: Signer;
  /** URI that every leaf carries as its CRL distribution point; the shard's CRL names the same in its IDP. */
  readonly crlDistributionPoint: string;
}

const millisecondsPerDay = 86_400_000;
/** notBefore lies this far back, for parties whose clocks run late. */
const backdatedMilliseconds = 60_000;

/** Issues leaf certificates under the issuing CA, in two steps with the ledger between them. */
export class Issuer {
  readonly #options: IssuerOptions;

  constructor(options: IssuerOptions) {
    this.#options = options;
  }

  /**
   * Builds and lints the to-be-signed certificate, then records the intent with its serial number, which is UNIQUE, before
   * anything is signed. `authorize` runs in that same transaction: what entitles the requester (a token, a certificate that is
   * not revoked) is burnt or confirmed there and cannot change in between.
   * @throws SignetError lint-failed, key-barred, and what `authorize` throws; in every case nothing has happened
   */
  async prepare(request: LeafRequest, authorize: (transaction: SqlTransaction, serialNumber: string) => Promise<void>): Promise<IssuanceToken> {
    const { engine, clock, certificate: issuer, signer, crlDistributionPoint } = this.#options;
    const { identity, role, names, subjectPublicKey } = request;
    const serialNumber = newSerialNumber();
    const now = clock.now().getTime();
    const notBefore = wholeSeconds(Math.max(now - backdatedMilliseconds, issuer.notBefore.getTime()));
    const notAfter = wholeSeconds(Math.min(now + request.validityDays * millisecondsPerDay, issuer.notAfter.getTime()));
    const toBeSigned = await buildCertificate({
      profile: { kind: identity.kind, role },
      subjectPublicKey,
      serialNumber,
      issuer,
      issuerKeyType: signer.keyType,
      names: { uri: identity.uri, dns: [...names.dns], ip: [...names.ip] },
      notBefore,
      notAfter,
      at: new Date(now),
      crlDistributionPoint,
      trustDomain: identity.trustDomain,
    });
    await engine.transaction(async (transaction) => {
      await authorize(transaction, serialNumber);
      await recordIntent(transaction, {
        serialNumber,
        issuerKeyId: issuer.extensions.subjectKeyIdentifier ?? "",
        crlName: "leaf-0",
        identity: identity.uri,
        role,
        spkiFingerprint: sha256(subjectPublicKey),
        tbsDigest: sha256(toBeSigned),
        notBefore,
        notAfter,
      });
    });
    return new IssuanceToken(toBeSigned, serialNumber, request);
  }

  /**
   * Signs exactly the linted bytes, checks the certificate as any party would, and hands it out once it is recorded. Should
   * anything fail on the way, the intent is abandoned and an enrolment token that it burnt becomes usable again.
   * @throws SignetError certificate-revoked where a revocation of the identity came in between; internal
   */
  async issue(token: IssuanceToken): Promise<Certificate> {
    const { engine, audit } = this.#options;
    const toBeSigned = token.spend();
    const { identity, role, requestedBy } = token.request;
    try {
      const certificate = await this.#sign(toBeSigned, token.request);
      await engine.transaction(async (transaction) => {
        await recordIssued(transaction, certificate);
        await audit.append(transaction, {
          action: "certificate.issued",
          actor: requestedBy,
          subject: identity.uri,
          details: { serialNumber: certificate.serialNumber, role, fingerprint: certificate.fingerprint, notAfter: certificate.notAfter.toISOString() },
        });
      });
      return certificate;
    } catch (error) {
      // Should this fail too, the next start does it.
      await engine.transaction((transaction) => abandonIntents(transaction, token.serialNumber)).catch(() => {});
      throw error;
    }
  }

  async #sign(toBeSigned: Uint8Array, { role, identity }: LeafRequest): Promise<Certificate> {
    const { root, certificate: issuer, signer, clock } = this.#options;
    const certificate = await signCertificate(toBeSigned, issuer, signer);
    const path = validatePath({
      endEntity: certificate,
      intermediates: [issuer],
      trustAnchors: [root],
      purpose: role === "client" ? "clientAuth" : "serverAuth",
      at: clock.now(),
    });
    if (checkProfile(path).uri !== identity.uri) throw new SignetError("internal", "The certificate does not name the identity it was made for.");
    return certificate;
  }
}

/** Signs linted bytes and makes sure that what comes out is these bytes under the issuer's signature. `self` for a root. */
export async function signCertificate(toBeSigned: Uint8Array, issuer: Certificate | "self", signer: Signer): Promise<Certificate> {
  const certificate = Certificate.parse(assembleSigned(toBeSigned, signer.signatureAlgorithm, await signer.sign(toBeSigned)));
  if (!Buffer.from(certificate.tbs).equals(toBeSigned)) throw new SignetError("internal", "The signed bytes are not the linted ones.");
  const signedBy = issuer === "self" ? certificate : issuer;
  if (!certificate.isSignedBy(signedBy.subjectPublicKeyInfo)) throw new SignetError("internal", "The signature does not verify under the issuer's key.");
  return certificate;
}

/** 16 octets from the CSPRNG, positive and of one length: 126 random bits (RFC 5280 section 4.1.2.2 allows 20 octets). */
export function newSerialNumber(): string {
  const octets = randomBytes(16);
  octets.writeUInt8((octets.readUInt8(0) & 0x3f) | 0x40, 0);
  return octets.toString("hex");
}

/** Certificates have times of whole seconds. */
export function wholeSeconds(milliseconds: number): Date {
  return new Date(Math.floor(milliseconds / 1000) * 1000);
}

export function sha256(bytes: Uint8Array): string {
  return createHash("sha256").update(bytes).digest("hex");
}
