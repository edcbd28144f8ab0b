/** What a fault suite found about one rule. */
export interface Finding {
  /** Effects the service had acknowledged and that the observer looked for again. */
  readonly lost: number;
  /** Whatever else the rule forbids and the observer saw. */
  readonly violations: number;
}

/** The observer run against a variant that is broken on purpose: a check that cannot fail proves nothing. */
export interface Control extends Finding {
  /** What was broken, in words. */
  readonly broken: string;
  readonly caught: boolean;
}

/** One rule of one suite, over all its trials. */
export interface RuleResult extends Finding {
  readonly suite: string;
  readonly name: string;
  readonly trials: number;
  readonly acknowledged: number;
  readonly control: Control;
  /** Nothing lost, nothing violated, the control caught, and enough acknowledged for that to mean something. */
  readonly holds: boolean;
}

const examplesKept = 5;

/** Counts what an observation finds, rule by rule, and keeps the first examples in words. */
export class Findings<Rule extends string> {
  readonly #counts = new Map<Rule, { lost: number; violations: number }>();
  readonly examples: string[] = [];

  lost(rule: Rule, example: string): void {
    this.#count(rule).lost++;
    this.#keep(`lost: ${rule}: ${example}`);
  }

  violated(rule: Rule, example: string): void {
    this.#count(rule).violations++;
    this.#keep(`violated: ${rule}: ${example}`);
  }

  of(rule: Rule): Finding {
    return this.#counts.get(rule) ?? { lost: 0, violations: 0 };
  }

  get clean(): boolean {
    return this.#counts.size === 0;
  }

  add(other: Findings<Rule>): void {
    for (const [rule, { lost, violations }] of other.#counts) {
      const count = this.#count(rule);
      count.lost += lost;
      count.violations += violations;
    }
    for (const example of other.examples) this.#keep(example);
  }

  #count(rule: Rule): { lost: number; violations: number } {
    let count = this.#counts.get(rule);
    if (count === undefined) this.#counts.set(rule, (count = { lost: 0, violations: 0 }));
    return count;
  }

  #keep(example: string): void {
    if (this.examples.length < examplesKept) this.examples.push(example);
  }
}

/** Results of a suite: one per rule, from what the trials found and what the observer said of the broken variant. */
export function ruleResults<Rule extends string>(i: {
  readonly suite: string;
  readonly rules: readonly Rule[];
  readonly trials: number;
  /** Acknowledged effects by rule. */
  readonly acknowledged: Readonly<Record<Rule, number>>;
  /** With fewer than this many acknowledged per trial, a rule does not hold, whatever was found. */
  readonly minimumPerTrial: Readonly<Record<Rule, number>>;
  readonly findings: Findings<Rule>;
  readonly control: Findings<Rule>;
  readonly broken: Readonly<Record<Rule, string>>;
}): RuleResult[] {
  return i.rules.map((name) => {
    const { lost, violations } = i.findings.of(name);
    const control = i.control.of(name);
    const caught = control.lost + control.violations > 0;
    const acknowledged = i.acknowledged[name];
    const enough = acknowledged >= i.minimumPerTrial[name] * i.trials;
    return {
      suite: i.suite,
      name,
      trials: i.trials,
      acknowledged,
      lost,
      violations,
      control: { broken: i.broken[name], ...control, caught },
      holds: lost === 0 && violations === 0 && caught && enough && i.trials > 0,
    };
  });
}
