/** Repeatable choices for fault suites (mulberry32): never for anything secret. */
export class Random {
  #state: number;

  /** @param seed a whole number; the same one gives the same choices */
  constructor(seed: number) {
    this.#state = seed >>> 0;
  }

  /** From 0 to below 1. */
  next(): number {
    this.#state = (this.#state + 0x6d2b79f5) >>> 0;
    let t = this.#state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  }

  /** Whole number, both ends included. */
  between(least: number, most: number): number {
    return least + Math.floor(this.next() * (most - least + 1));
  }

  /** One of them; undefined where there is none. */
  pick<T>(from: readonly T[]): T | undefined {
    return from[Math.floor(this.next() * from.length)];
  }

  /** Up to `count` of them, without repetition. */
  sample<T>(from: readonly T[], count: number): T[] {
    const chosen = new Set<T>();
    const wanted = Math.min(count, from.length);
    while (chosen.size < wanted) {
      const one = this.pick(from);
      if (one !== undefined) chosen.add(one);
    }
    return [...chosen];
  }
}
