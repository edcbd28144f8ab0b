import type { Identity } from "#pki/certificate-profile.ts";
import type { KeyEvent } from "#pki/protocol-kms.ts";
import { isPermitted } from "./key-policy.ts";
import type { KeyRecord, KeyVersionRecord } from "./key-store.ts";

/** Versions that one event names at most: some 10 KiB of a line, whatever the age of the key. */
export const versionsPerEvent = 1_000;

/**
 * What a change of one key is to a caller, by the policy before and after: nothing, unless the caller may have the key itself. Versions that take the same state in one change
 * make one event, or as few as hold them.
 */
export function keyEventsFor(caller: Identity, before: KeyRecord | undefined, after: KeyRecord): readonly KeyEvent[] {
  const { name: key, id } = after;
  const had = isPermitted(caller, "distribute", before);
  const latest = after.versions.at(-1) as KeyVersionRecord;
  if (!isPermitted(caller, "distribute", after)) return had ? [{ type: "withdrawn", key, id }] : [];
  if (!had || before === undefined) return [{ type: "available", key, id, version: latest.version, state: latest.state }];

  const events: KeyEvent[] = [];
  const states = new Map(before.versions.map(({ version, state }) => [version, state]));
  if (!states.has(latest.version)) events.push({ type: "rotated", key, id, version: latest.version, state: latest.state });
  const changed = after.versions.filter(({ version, state }) => states.has(version) && states.get(version) !== state);
  for (const [state, versions] of Map.groupBy(changed, (each) => each.state)) {
    const reason = versions[0]?.revocationReason ?? undefined;
    const numbers = versions.map(({ version }) => version);
    for (let at = 0; at < numbers.length; at += versionsPerEvent) events.push({ type: "state-changed", key, id, versions: numbers.slice(at, at + versionsPerEvent), state, ...(reason === undefined ? {} : { reason }) });
  }
  return events;
}
