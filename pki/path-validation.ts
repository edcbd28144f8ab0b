/** Certification path validation (RFC 5280 section 6) as Signet itself relies on it, and the proof that it took place. */
import type { Certificate } from "./certificate.ts";
import { SignetError } from "./errors.ts";
import { findPath } from "./path-building.ts";
import type { PathBudget } from "./path-building.ts";
import { anyPolicyParameters } from "./path-rules.ts";

export type { PathBudget } from "./path-building.ts";

/** What the end entity's key is to be used for: `clientAuth` as seen by a TLS server, `serverAuth` as seen by a TLS client. */
export type KeyPurpose = "clientAuth" | "serverAuth";

/** What a path may be validated for: a key purpose, or (of a CA) the signing of CRLs, which keyUsage alone permits. */
export type PathPurpose = KeyPurpose | "cRLSign";

/** Known in this module alone: without it no ValidatedPath comes into being. */
const construction = Symbol("construction");

/**
 * Proof that a path was validated: nothing but `validatePath` makes one, and `isValidatedPath` tells it from any look-alike.
 * It says nothing of revocation, nor of Signet's own profile.
 */
export class ValidatedPath {
  readonly #brand = true;
  /** End entity first, trust anchor last. */
  readonly chain: readonly Certificate[];
  /** The time that it was validated for. */
  readonly at: Date;
  readonly purpose: PathPurpose;

  /** @internal */
  constructor(key: symbol, chain: readonly Certificate[], at: Date, purpose: PathPurpose) {
    if (key !== construction) throw new SignetError("internal", "A ValidatedPath comes from validatePath alone.");
    this.chain = Object.freeze([...chain]);
    this.at = new Date(at);
    this.purpose = purpose;
    Object.freeze(this);
  }

  get endEntity(): Certificate {
    return this.chain[0] as Certificate;
  }

  get trustAnchor(): Certificate {
    return this.chain.at(-1) as Certificate;
  }

  static isValidatedPath(value: unknown): value is ValidatedPath {
    return typeof value === "object" && value !== null && #brand in value && value.#brand;
  }
}

/** Whether a value is a ValidatedPath that `validatePath` made. */
export function isValidatedPath(value: unknown): value is ValidatedPath {
  return ValidatedPath.isValidatedPath(value);
}

/** What is demanded of every path and CRL: RSA keys have 2048 bits or more, and no signature uses SHA-1 (SP 800-131A). */
export const demands = { policy: anyPolicyParameters, maximumDepth: undefined, minimumRsaBits: 2048, strict: false, anchor: "certificate" } as const;

/**
 * Finds and validates a path from the end entity to one of the trust anchors. RSA keys have 2048 bits or more, and no
 * signature uses SHA-1 (SP 800-131A).
 * @throws SignetError with the code of the rule that is broken; see `findPath`
 * @example
 * const path = validatePath({ endEntity, intermediates: [issuingCa], trustAnchors: [root], purpose: "clientAuth", at: new Date() });
 */
export function validatePath(i: {
  readonly endEntity: Certificate;
  readonly intermediates: readonly Certificate[];
  readonly trustAnchors: readonly Certificate[];
  readonly purpose: PathPurpose;
  readonly at: Date;
  readonly budget?: Partial<PathBudget>;
}): ValidatedPath {
  const chain = findPath({
    endEntity: i.endEntity,
    intermediates: i.intermediates,
    trustAnchors: i.trustAnchors,
    parameters: { ...demands, at: i.at, purpose: i.purpose },
    ...(i.budget === undefined ? {} : { budget: i.budget }),
  });
  return new ValidatedPath(construction, chain, i.at, i.purpose);
}
