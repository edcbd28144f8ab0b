/**
 * Certificate policies along a path. RFC 9618 replaces the valid_policy_tree of RFC 5280 section 6.1, whose size a hostile
 * path can make exponential, by a graph with one node for each policy at each depth, and the same outcome.
 */
import type { PolicyMapping } from "./extensions.ts";
import { oid } from "./oids.ts";

/** A policy at one depth, and the policies of the depth above that it comes from; none means: from anyPolicy. */
interface PolicyNode {
  readonly parents: Set<string>;
}

interface Level {
  nodes: Map<string, PolicyNode>;
  hasAnyPolicy: boolean;
}

export class PolicyGraph {
  /** Levels that are done, the anchor's side first; `#current` is what the next certificate's policies are held against. */
  readonly #levels: Level[] = [];
  #current: Level = { nodes: new Map(), hasAnyPolicy: true };
  readonly #spend: (nodes: number) => void;

  /** `spend` is told of every policy, mapping and node before it is looked at or made, and throws when there are too many. */
  constructor(spend: (nodes: number) => void) {
    this.#spend = spend;
  }

  /** RFC 5280 section 6.1.3 (d), (e) as RFC 9618 section 5.4 has them. Gives false where a policy stands twice. */
  addPolicies(policies: readonly string[] | undefined, anyPolicyAllowed: boolean): boolean {
    const level = this.#current;
    if (policies === undefined) {
      this.#current = { nodes: new Map(), hasAnyPolicy: false };
      return true;
    }
    this.#spend(policies.length);
    const present = new Set(policies);
    if (present.size !== policies.length) return false;
    const openBefore = level.hasAnyPolicy;
    if (!present.delete(oid.anyPolicy) || !anyPolicyAllowed) {
      level.nodes = new Map([...level.nodes].filter(([policy]) => present.has(policy)));
      level.hasAnyPolicy = false;
    }
    if (openBefore) for (const policy of present) if (!level.nodes.has(policy)) level.nodes.set(policy, { parents: new Set() });
    return true;
  }

  /** RFC 5280 section 6.1.4 (a), (b). Gives false where anyPolicy is mapped. */
  nextLevel(mappings: readonly PolicyMapping[], mappingAllowed: boolean): boolean {
    const level = this.#current;
    const next: Level = { nodes: new Map(), hasAnyPolicy: level.hasAnyPolicy };
    const link = (policy: string, parent: string): void => {
      const node = next.nodes.get(policy);
      if (node === undefined) {
        this.#spend(1);
        next.nodes.set(policy, { parents: new Set([parent]) });
      } else {
        node.parents.add(parent);
      }
    };
    this.#spend(mappings.length);
    const mapped = new Set<string>();
    for (const { issuerDomainPolicy, subjectDomainPolicy } of mappings) {
      if (issuerDomainPolicy === oid.anyPolicy || subjectDomainPolicy === oid.anyPolicy) return false;
      mapped.add(issuerDomainPolicy);
      if (!mappingAllowed) {
        level.nodes.delete(issuerDomainPolicy);
        continue;
      }
      if (level.hasAnyPolicy && !level.nodes.has(issuerDomainPolicy)) {
        this.#spend(1);
        level.nodes.set(issuerDomainPolicy, { parents: new Set() });
      }
      if (level.nodes.has(issuerDomainPolicy)) link(subjectDomainPolicy, issuerDomainPolicy);
    }
    for (const policy of level.nodes.keys()) if (!mapped.has(policy)) link(policy, policy);
    this.#levels.push(level);
    this.#current = next;
    return true;
  }

  /** RFC 5280 section 6.1.5 (g): whether a policy is left that is valid all along the path and, in the anchor's terms, acceptable. */
  hasAcceptablePolicy(acceptable: ReadonlySet<string>): boolean {
    const last = this.#current;
    if (last.nodes.size === 0 && !last.hasAnyPolicy) return false;
    if (acceptable.has(oid.anyPolicy) || last.hasAnyPolicy) return true;
    let reachable = new Set(last.nodes.keys());
    for (const level of [...this.#levels, last].reverse()) {
      const above = new Set<string>();
      for (const policy of reachable) {
        const parents = level.nodes.get(policy)?.parents;
        if (parents?.size === 0 && acceptable.has(policy)) return true;
        for (const parent of parents ?? []) above.add(parent);
      }
      reachable = above;
    }
    return false;
  }
}
