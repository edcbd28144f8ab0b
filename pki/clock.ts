/** Source of time. Injected everywhere, so that a test decides what time it is and a rolled-back wall clock can be noticed. */
export interface Clock {
  /** Wall-clock time, for certificate and CRL dates. */
  now(): Date;
  /** Milliseconds since an arbitrary start that never goes back, for ages and time limits. */
  monotonicMilliseconds(): number;
}

/** The machine's own. */
export const systemClock: Clock = {
  now: () => new Date(),
  monotonicMilliseconds: () => performance.now(),
};
