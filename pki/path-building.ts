/**
 * Search for a path from an end entity to a trust anchor among certificates that anybody may have sent: several candidates
 * for an issuer, cross-signed and cyclic sets. Depth first, the likeliest candidate first, with limits on all work.
 */
import type { Certificate } from "./certificate.ts";
import { asBuffer } from "./der.ts";
import { SignetError } from "./errors.ts";
import { checkEndEntity, checkIntermediate, checkPath, checkTrustAnchor } from "./path-rules.ts";
import type { PathParameters, PathWork } from "./path-rules.ts";

/** Limits on the work for one end entity. Honest sets need a few units of each. */
export interface PathBudget {
  /** Signature verifications. A chain of n certificates without rivals needs n. */
  readonly signatures: number;
  /** Candidates that are taken into a path. */
  readonly steps: number;
  /** Names times the subtrees that constrain their form; the same number as in OpenSSL and BoringSSL. */
  readonly nameComparisons: number;
  /** Policies and mappings that are looked at, and nodes of policy graphs. */
  readonly policyNodes: number;
}

export const defaultBudget: PathBudget = { signatures: 100, steps: 10_000, nameComparisons: 1 << 20, policyNodes: 20_000 };

/** What several searches have in common that are to cost no more than one: what is left of a budget, and the signatures that were looked at. */
export class SearchWork {
  readonly remaining: { -readonly [What in keyof PathBudget]: number };
  readonly signatures = new Map<Certificate, Map<Certificate, boolean>>();

  constructor(budget: Partial<PathBudget> = {}) {
    this.remaining = { ...defaultBudget, ...budget };
  }
}

/** From this many certificates on, the candidates for an issuer are kept: fewer are found faster anew. */
const swarm = 32;

/** Longest path, anchor included. */
const pathLengthLimit = 32;

export interface PathSearch {
  readonly endEntity: Certificate;
  readonly intermediates: readonly Certificate[];
  readonly trustAnchors: readonly Certificate[];
  readonly parameters: PathParameters;
  readonly budget?: Partial<PathBudget>;
  /** In place of a budget of its own. */
  readonly work?: SearchWork;
  /** A further condition on a path, such as revocation; it throws what is wrong with it, and the search goes on. */
  readonly accept?: (chain: readonly Certificate[]) => void;
}

/** How far a candidate got before it failed; of several failures the one that got farthest is reported. */
const stage = { nothing: 0, signature: 1, issuer: 2, path: 3 } as const;

/**
 * The first path that holds: end entity first, trust anchor last.
 * @throws SignetError with the code of the rule that broke the likeliest path; `path-not-found` where nothing leads to an anchor;
 *   `budget-exceeded`
 */
export function findPath(search: PathSearch): readonly Certificate[] {
  return new Search(search).run();
}

class Search implements PathWork {
  readonly #search: PathSearch;
  readonly #work: SearchWork;
  /** What came of checking a certificate by itself; one may be offered in every role. */
  readonly #checkedEndEntities = new Map<Certificate, SignetError | undefined>();
  readonly #checkedAnchors = new Map<Certificate, SignetError | undefined>();
  readonly #checkedIntermediates = new Map<Certificate, SignetError | undefined>();
  readonly #candidateLists = new Map<Certificate, readonly Candidate[]>();
  #failure: SignetError | undefined;
  #failureStage: number = stage.nothing;

  constructor(search: PathSearch) {
    this.#search = search;
    this.#work = search.work ?? new SearchWork(search.budget);
  }

  run(): readonly Certificate[] {
    const { endEntity } = this.#search;
    const path = this.#extend([endEntity]);
    if (path !== undefined) return path;
    throw this.#failure ?? new SignetError("path-not-found", `No path leads from ${endEntity.subject.toString()} to a trust anchor.`);
  }

  nameComparisons(count: number): void {
    this.#spend("nameComparisons", count);
  }

  policyNodes(count: number): void {
    this.#spend("policyNodes", count);
  }

  #spend(what: keyof PathBudget, count: number): void {
    const { remaining } = this.#work;
    remaining[what] -= count;
    if (remaining[what] < 0) throw new SignetError("budget-exceeded", `These certificates cause too much work: ${what}.`, { details: { budget: what } });
  }

  /** A path that begins with `chain`, or undefined; failures are noted. */
  #extend(chain: readonly Certificate[]): readonly Certificate[] | undefined {
    const { parameters } = this.#search;
    const child = chain.at(-1) as Certificate;
    for (const { certificate: issuer, isAnchor } of this.#candidates(child)) {
      if (!isAnchor && (chain.length + 1 >= pathLengthLimit || chain.some((earlier) => isSameAuthority(earlier, issuer)))) continue;
      this.#spend("steps", 1);
      if (!this.#passes(stage.issuer, () => this.#checkOnce(issuer, isAnchor)) || !this.#isSigned(child, issuer)) continue;
      const path = [...chain, issuer];
      if (!isAnchor) {
        const whole = this.#extend(path);
        if (whole !== undefined) return whole;
        continue;
      }
      const holds = this.#passes(stage.path, () => {
        this.#remember(this.#checkedEndEntities, this.#search.endEntity, checkEndEntity);
        checkPath(path, parameters, this);
        this.#search.accept?.(path);
      });
      if (holds) return path;
    }
    return undefined;
  }

  #checkOnce(certificate: Certificate, isAnchor: boolean): void {
    if (isAnchor) this.#remember(this.#checkedAnchors, certificate, checkTrustAnchor);
    else this.#remember(this.#checkedIntermediates, certificate, checkIntermediate);
  }

  /** A swarm of certificates is gone through once for each child, not once for each path that the child is on. */
  #candidates(child: Certificate): Iterable<Candidate> {
    const { trustAnchors, intermediates } = this.#search;
    const found = candidates(child, trustAnchors, intermediates);
    if (trustAnchors.length + intermediates.length < swarm) return found;
    let list = this.#candidateLists.get(child);
    if (list === undefined) this.#candidateLists.set(child, (list = [...found]));
    return list;
  }

  #remember(checked: Map<Certificate, SignetError | undefined>, certificate: Certificate, check: (certificate: Certificate, parameters: PathParameters) => void): void {
    if (!checked.has(certificate)) {
      try {
        check(certificate, this.#search.parameters);
        checked.set(certificate, undefined);
      } catch (error) {
        if (!(error instanceof SignetError)) throw error;
        checked.set(certificate, error);
      }
    }
    const failure = checked.get(certificate);
    if (failure !== undefined) throw failure;
  }

  #isSigned(child: Certificate, issuer: Certificate): boolean {
    let byIssuer = this.#work.signatures.get(child);
    if (byIssuer === undefined) this.#work.signatures.set(child, (byIssuer = new Map<Certificate, boolean>()));
    let signed = byIssuer.get(issuer);
    if (signed === undefined) {
      this.#spend("signatures", 1);
      byIssuer.set(issuer, (signed = child.isSignedBy(issuer.subjectPublicKeyInfo)));
    }
    if (!signed) this.#note(stage.signature, new SignetError("signature-invalid", `${child.subject.toString()} is not signed by ${issuer.subject.toString()}.`));
    return signed;
  }

  #passes(reached: number, check: () => void): boolean {
    try {
      check();
      return true;
    } catch (error) {
      if (!(error instanceof SignetError) || error.code === "budget-exceeded") throw error;
      this.#note(reached, error);
      return false;
    }
  }

  #note(reached: number, error: SignetError): void {
    if (reached <= this.#failureStage) return;
    this.#failure = error;
    this.#failureStage = reached;
  }
}

interface Candidate {
  readonly certificate: Certificate;
  readonly isAnchor: boolean;
}

/**
 * Issuers for `child` by name, the likeliest first: anchors before intermediates, and names that are equal byte for byte before
 * those that are equal only by the rules of comparison, which cost more and are seldom needed.
 */
function* candidates(child: Certificate, trustAnchors: readonly Certificate[], intermediates: readonly Certificate[]): Iterable<Candidate> {
  const rest: Candidate[] = [];
  for (const isAnchor of [true, false]) {
    const same: Certificate[] = [];
    for (const certificate of isAnchor ? trustAnchors : intermediates) {
      if (certificate.subject.hasSameBytes(child.issuer)) same.push(certificate);
      else rest.push({ certificate, isAnchor });
    }
    for (const certificate of orderByKeyIdentifier(child, same)) yield { certificate, isAnchor };
  }
  for (const candidate of rest) if (candidate.certificate.subject.equals(child.issuer)) yield candidate;
}

/** Key identifiers are hints (RFC 4158 section 3.5.12): those that fit first, those that contradict last. */
function orderByKeyIdentifier(child: Certificate, issuers: Certificate[]): Certificate[] {
  const wanted = child.extensions.authorityKeyIdentifier;
  if (issuers.length < 2 || wanted === undefined) return issuers;
  const rank = (issuer: Certificate): number => {
    const held = issuer.extensions.subjectKeyIdentifier;
    if (held === undefined) return 1;
    return held === wanted ? 0 : 2;
  };
  return issuers.sort((one, other) => rank(one) - rank(other));
}

/** One name with one key stands once in a path: a second time it could only go in a circle. */
function isSameAuthority(one: Certificate, other: Certificate): boolean {
  return one === other || (asBuffer(one.spki).equals(other.spki) && one.subject.equals(other.subject));
}
