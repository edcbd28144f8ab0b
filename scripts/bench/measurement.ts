/** Spread of one arm over the rounds, in the row's unit. */
export interface Samples {
  readonly min: number;
  readonly median: number;
  readonly max: number;
}

/** What a row is held to: a bound on its ratio to the baseline, or on its own value. */
export interface Goal {
  readonly of: "ratio" | "value";
  readonly is: "at least" | "at most";
  readonly bound: number;
}

/** One line of a report. `value` and `baseline` are medians over the rounds, `ratio` is value / baseline. */
export interface BenchRow {
  readonly area: string;
  readonly name: string;
  readonly value: number;
  readonly unit: string;
  readonly baseline: number | null;
  readonly ratio: number | null;
  /** Such as "ratio at most 1.15"; null where nothing is promised. */
  readonly goal: string | null;
  readonly holds: boolean | null;
  readonly samples: Samples;
}

/** A row together with how much its baseline moved, which the table shows and the JSON form has no field for. */
export interface MeasuredRow {
  readonly row: BenchRow;
  readonly baselineSamples: Samples | null;
}

/** One sample: every metric that one stretch of the same work gives, such as a rate and the server's CPU time. */
export type Sample<Metric extends string> = Readonly<Record<Metric, number>>;

export interface Comparison<Metric extends string> {
  readonly area: string;
  readonly rows: readonly { readonly metric: Metric; readonly name: string; readonly unit: string; readonly goal?: Goal }[];
  /** How often each arm is sampled, unless the caller of `compare` says otherwise. */
  readonly rounds?: number;
  /** Rounds before the counted ones; one where none is given. More where a sample is short enough for its compilation to show. */
  readonly warmUpRounds?: number;
  readonly project: () => Promise<Sample<Metric>>;
  /** The same work without Signet; absent where there is nothing to set the value against. */
  readonly baseline?: () => Promise<Sample<Metric>>;
}

export const atLeast = (bound: number, of: Goal["of"] = "ratio"): Goal => ({ of, is: "at least", bound });
export const atMost = (bound: number, of: Goal["of"] = "ratio"): Goal => ({ of, is: "at most", bound });

/**
 * Samples project and baseline in turn (A B A B ...), so that whatever else the machine does meets both alike.
 * Rounds before the counted ones warm both up.
 */
export async function compare<Metric extends string>(comparison: Comparison<Metric>, rounds?: number): Promise<MeasuredRow[]> {
  const project: Sample<Metric>[] = [];
  const baseline: Sample<Metric>[] = [];
  const counted = rounds ?? comparison.rounds ?? 7;
  const warmUps = comparison.warmUpRounds ?? 1;
  for (let round = 0; round < warmUps + counted; round++) {
    const projectSample = await comparison.project();
    const baselineSample = await comparison.baseline?.();
    if (round < warmUps) continue;
    project.push(projectSample);
    if (baselineSample !== undefined) baseline.push(baselineSample);
  }
  return comparison.rows.map(({ metric, name, unit, goal }) => {
    const samples = summarize(project.map((sample) => sample[metric]));
    const baselineSamples = baseline.length > 0 ? summarize(baseline.map((sample) => sample[metric])) : null;
    const ratio = baselineSamples === null ? null : samples.median / baselineSamples.median;
    return {
      row: {
        area: comparison.area,
        name,
        value: samples.median,
        unit,
        baseline: baselineSamples?.median ?? null,
        ratio,
        goal: goal === undefined ? null : `${goal.of} ${goal.is} ${goal.bound}`,
        holds: goal === undefined ? null : goalHolds(goal, samples.median, ratio),
        samples,
      },
      baselineSamples,
    };
  });
}

/** @throws RangeError where there is no sample, or one that is no number: a row of nonsense must not pass as measured. */
export function summarize(values: readonly number[]): Samples {
  const sorted = values.toSorted((a, b) => a - b);
  const [min] = sorted;
  const max = sorted.at(-1);
  const lower = sorted[(sorted.length - 1) >> 1];
  const upper = sorted[sorted.length >> 1];
  if (min === undefined || max === undefined || lower === undefined || upper === undefined || !sorted.every(Number.isFinite)) {
    throw new RangeError(`not a set of samples: [${values.join(", ")}]`);
  }
  return { min, median: (lower + upper) / 2, max };
}

function goalHolds(goal: Goal, value: number, ratio: number | null): boolean {
  const measured = goal.of === "value" ? value : ratio;
  if (measured === null) return false;
  return goal.is === "at least" ? measured >= goal.bound : measured <= goal.bound;
}
