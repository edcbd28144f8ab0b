import dns from "node:dns";
import net from "node:net";
import { onTestFinished, vi } from "vitest";

/**
 * For the rest of the test, every name is 127.0.0.1 and ::1, and this process is busy, once it has connected to the first, for longer than Node waits for an address that a caller says
 * nothing of: the shortest that Node allows is put in the place of its half second.
 */
export function lookUpWhileBusy() {
  const waits = net.getDefaultAutoSelectFamilyAttemptTimeout();
  net.setDefaultAutoSelectFamilyAttemptTimeout(10);
  const lookup = vi.spyOn(dns, "lookup").mockImplementation(((_name: string, _options: object, found: (error: null, addresses: dns.LookupAddress[]) => void) => {
    setImmediate(() => {
      found(null, [{ address: "127.0.0.1", family: 4 }, { address: "::1", family: 6 }]);
      for (const begun = performance.now(); performance.now() - begun < 30; );
    });
  }) as unknown as typeof dns.lookup);
  onTestFinished(() => {
    lookup.mockRestore();
    net.setDefaultAutoSelectFamilyAttemptTimeout(waits);
  });
  return lookup;
}
