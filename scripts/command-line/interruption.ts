/** Runs work that Ctrl-C, a supervisor or a closed terminal may end; meanwhile these signals do nothing else. */
export async function untilInterrupted<T>(work: (signal: AbortSignal) => Promise<T>): Promise<T> {
  const interruption = new AbortController();
  const interrupt = (): void => interruption.abort();
  for (const signal of signals) process.on(signal, interrupt);
  try {
    return await work(interruption.signal);
  } finally {
    for (const signal of signals) process.off(signal, interrupt);
  }
}

/** Resolves when the signal aborts, or has. */
export function whenAborted(signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) resolve();
    else signal.addEventListener("abort", () => resolve(), { once: true });
  });
}

const signals = ["SIGINT", "SIGTERM", "SIGHUP"] as const;

/** Exit code of a command that was interrupted before its work was done. */
export const interruptedExitCode = 130;
