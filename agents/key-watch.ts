import { randomInt } from "node:crypto";
import { setTimeout as delay } from "node:timers/promises";
import { SignetError } from "#pki/errors.ts";
import type { EnrolledIdentity } from "#pki/identity.ts";
import type { KeyEvent } from "#pki/protocol-kms.ts";
import type { KmsClient } from "./kms-client.ts";

/**
 * What a watcher is told. Beside the KMS's own events: `disconnected`, with the code of what ended the stream or kept it from beginning, and how long it is until the next attempt.
 */
export type WatchedEvent =
  | Exclude<KeyEvent, { readonly type: "heartbeat" | "end" | "connected" }>
  | { readonly type: "connected"; readonly uri: string; /** Keys that the agent may have now. */ readonly keys: number }
  | { readonly type: "disconnected"; readonly code: string; readonly detail: string; readonly retryMilliseconds: number };

const backOffMilliseconds = { first: 250, longest: 15_000 };

/**
 * Holds a stream of events at the KMS, again and again where it ends for a reason that passes. What came while none was held is made up for: keys and versions that are new when a
 * stream begins anew are told of as `available`, some perhaps twice.
 * @returns once `signal` is aborted
 * @throws SignetError what does not pass: certificate-revoked (`publishedAt` and `cutAt` in its details where both are known), certificate-expired, not-permitted, peer-mismatch and others; and what keeps the very
 *   first stream from beginning
 */
export async function watchKeys(i: { readonly kms: KmsClient; readonly enrolled: EnrolledIdentity; readonly onEvent: (event: WatchedEvent) => void; readonly signal: AbortSignal }): Promise<void> {
  const { kms, enrolled, onEvent, signal } = i;
  const versions = new Map<string, number>();
  let [failures, streams] = [0, 0];
  const onKmsEvent = (event: Parameters<Parameters<KmsClient["watch"]>[0]>[0]): void => {
    if (event.type === "connected") {
      failures = 0;
      streams += 1;
      void catchUp(event.uri, streams === 1).catch(() => {
        // The stream stands or falls by itself; what cannot be listed now is told of by events.
      });
      return;
    }
    if (event.type === "available" || event.type === "rotated") versions.set(event.id, event.version);
    onEvent(event);
  };
  const catchUp = async (uri: string, isFirst: boolean): Promise<void> => {
    const missed: WatchedEvent[] = [];
    let [keys, cursor]: [number, string | undefined] = [0, undefined];
    do {
      const page: Awaited<ReturnType<KmsClient["listKeys"]>> = await kms.listKeys(cursor === undefined ? {} : { cursor });
      for (const { name, id, latest } of page.keys) {
        keys += 1;
        if ((versions.get(id) ?? 0) >= latest.version) continue;
        versions.set(id, latest.version);
        if (!isFirst) missed.push({ type: "available", key: name, id, version: latest.version, state: latest.state });
      }
      cursor = page.nextCursor;
    } while (cursor !== undefined);
    if (signal.aborted) return;
    onEvent({ type: "connected", uri, keys });
    missed.forEach(onEvent);
  };

  while (!signal.aborted) {
    try {
      await kms.watch(onKmsEvent, signal);
    } catch (error) {
      if (signal.aborted) return;
      // Thrown by the listener.
      if (!(error instanceof SignetError)) throw error;
      const refusal = await reasonOf(error, enrolled);
      failures += 1;
      if (!passes(refusal) || streams === 0) throw refusal;
      const limit = Math.min(backOffMilliseconds.longest, backOffMilliseconds.first * 2 ** Math.min(failures - 1, 10));
      const retryMilliseconds = randomInt(Math.ceil(limit / 2), limit + 1);
      onEvent({ type: "disconnected", code: refusal.code, detail: refusal.message, retryMilliseconds });
      await delay(retryMilliseconds, undefined, { signal }).catch(() => {});
    }
  }
}

/** Why a stream ended: where nobody said so, what the CA's latest CRLs say of the agent's own certificate. */
async function reasonOf(error: SignetError, enrolled: EnrolledIdentity): Promise<SignetError> {
  if (error.code !== "link-closed" && error.code !== "tls-refused" && error.code !== "certificate-revoked") return error;
  try {
    await enrolled.checkOwnStanding();
    return error;
  } catch (own) {
    // A CA that does not answer says nothing of this certificate.
    if (!(own instanceof SignetError) || (own.code !== "certificate-revoked" && own.code !== "certificate-expired")) return error;
    return new SignetError(own.code, own.message, { details: { ...error.details, ...own.details }, cause: error });
  }
}

/** Whether the same may succeed later. A connection that was refused in its handshake may have met a KMS that begins or stops. */
function passes(refusal: SignetError): boolean {
  return refusal.retryable || refusal.code === "tls-refused";
}
