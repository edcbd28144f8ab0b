import type { ServerResponse } from "node:http";
import { SignetError } from "#pki/errors.ts";
import type { AuthenticatedPeer } from "#pki/mtls.ts";
import { eventStreamMediaType, heartbeatSeconds, type KeyEvent } from "#pki/protocol-kms.ts";
import type { KeyCall, KeyService } from "./key-service.ts";

/** Streams that one identity holds open at a time. */
export const streamsPerIdentity = 8;
/** What may still wait for a reader when the next change comes; beyond that it is slower than its events, is cut, and asks anew. */
export const waitingOctets = 64 * 1024;

interface Stream {
  readonly peer: AuthenticatedPeer;
  readonly response: ServerResponse;
}

/**
 * Answers that go on: one JSON object a line for each key version that comes to a caller or changes, and a heartbeat between. Nothing is kept for those who are not connected.
 * Every line asks for the caller's standing first; a revoked caller's connection is destroyed by PeerSessions.
 */
export class EventStreams {
  readonly #parts: { readonly service: Pick<KeyService, "watch">; readonly recheck: (peer: AuthenticatedPeer) => void; readonly heartbeatMilliseconds?: number };
  readonly #open = new Map<string, Set<Stream>>();

  constructor(parts: { readonly service: Pick<KeyService, "watch">; readonly recheck: (peer: AuthenticatedPeer) => void; readonly heartbeatMilliseconds?: number }) {
    this.#parts = parts;
  }

  /**
   * Begins a stream for a caller, as the answer to its request.
   * @throws SignetError not-permitted | limit-exceeded
   */
  begin(call: KeyCall, response: ServerResponse): void {
    const { peer } = call;
    const { uri } = peer.identity;
    const streams = this.#open.get(uri) ?? new Set<Stream>();
    if (streams.size >= streamsPerIdentity) throw new SignetError("limit-exceeded", `${uri} holds ${streamsPerIdentity} streams of events already.`, { details: { limit: streamsPerIdentity } });
    if (response.closed || response.destroyed) return;
    const stream = { peer, response };
    const stopWatching = this.#parts.service.watch(call, (events) => this.#write(stream, events));
    const heartbeat = setInterval(() => this.#write(stream, [{ type: "heartbeat" }]), this.#parts.heartbeatMilliseconds ?? heartbeatSeconds * 1000);
    this.#open.set(uri, streams.add(stream));
    response.once("close", () => {
      clearInterval(heartbeat);
      stopWatching();
      streams.delete(stream);
      if (streams.size === 0) this.#open.delete(uri);
    });
    response.writeHead(200, { "Content-Type": eventStreamMediaType });
    this.#write(stream, [{ type: "connected", uri, heartbeatSeconds }]);
  }

  /** Says to every reader that the service stops, and ends its stream. */
  end(): void {
    for (const stream of [...this.#open.values()].flatMap((streams) => [...streams])) endWith(stream, new SignetError("not-ready", "The KMS is stopping."));
  }

  /** All that one change tells, however much: a reader is judged by what it has not read of the changes before, since nothing that is written leaves in the same turn. */
  #write(stream: Stream, events: readonly KeyEvent[]): void {
    const { peer, response } = stream;
    if (response.writableEnded || response.destroyed) return;
    try {
      this.#parts.recheck(peer);
    } catch (error) {
      endWith(stream, error);
      return;
    }
    if (response.writableLength > waitingOctets) response.destroy();
    else response.write(events.map((event) => `${JSON.stringify(event)}\n`).join(""));
  }
}

/** The last line: the refusal that a further request would get. */
function endWith({ response }: Stream, error: unknown): void {
  const refusal = error instanceof SignetError ? error : new SignetError("internal", "The service failed.");
  response.end(`${JSON.stringify({ type: "end", code: refusal.code, detail: refusal.message } satisfies KeyEvent)}\n`);
}
