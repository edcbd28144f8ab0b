import { randomUUID } from "node:crypto";
import type { z } from "zod";
import { isErrorCode, SignetError } from "#pki/errors.ts";
import { requestOverMutualTls, streamOverMutualTls, type TlsAnswer, type TlsRequest } from "#pki/http-client.ts";
import { SecretKey } from "#pki/keys.ts";
import type { MutualAgent } from "#pki/mtls.ts";
import {
  auditEntriesResponse,
  decryptResponse,
  destroyKeyResponse,
  dryRunResponse,
  encryptResponse,
  eventStreamMediaType,
  heartbeatSeconds,
  keyDescription,
  keyEnvelopeMediaType,
  keyEvent,
  keyListResponse,
  keyNamePattern,
  keyVersionListResponse,
  kmsRoutes,
  kmsStatusResponse,
  materialHeaders,
  revokeKeyResponse,
  whoamiResponse,
  type AuditEntriesResponse,
  type EncryptionContext,
  type KeyAction,
  type KeyAlgorithm,
  type KeyDescription,
  type KeyEvent,
  type KeyListResponse,
  type KeyRevocationReason,
  type KeyVersionListResponse,
  type KmsStatusResponse,
  type WhoamiResponse,
} from "#pki/protocol-kms.ts";
import { kmsSummary, type KmsSummary } from "#pki/protocol-summary.ts";

/** One version of a key that the KMS handed out, with its 32 octets of AES-256 material. */
export interface GroupKey {
  /** The key's name: 1 to 63 of a-z, 0-9, '.', '_' and '-'. */
  readonly name: string;
  /** The key's own id: another key that later takes the same name has another. */
  readonly id: string;
  /** From 1. */
  readonly version: number;
  /** What it may be used for. */
  readonly algorithms: readonly KeyAlgorithm[];
  /** 32 octets: `secret.keyObject` for node:crypto, `secret.reveal("local-use")` for the octets. */
  readonly secret: SecretKey;
}

/** Policy of a key that is made. */
export interface NewKey {
  /** What the key may be used for; the KMS's default is AES-256-GCM alone. */
  readonly algorithms?: readonly KeyAlgorithm[];
  /** Identity URIs that get the key beside its owner. */
  readonly readers?: readonly string[];
}

/** Part of a list. */
export interface Page {
  /** Where the page before ended, as it said. */
  readonly cursor?: string;
  /** Most entries that are wanted. */
  readonly limit?: number;
}

type Method = "GET" | "POST" | "PATCH";

/** Longest line of events: a key of some thousand versions that change at once. */
const longestEventCharacters = 256 * 1024;

/** Material kept to be confirmed by a 304; the oldest goes first. */
const keptMaterials = 256;

/**
 * The KMS as its callers see it: every route of `pki/protocol-kms.ts` over mutual TLS, with the KMS's refusals as SignetError of the
 * same code. The certificate of the connection is the only credential. Calls that make something carry an Idempotency-Key, so that
 * a repeated one is carried out once.
 */
export class KmsClient {
  readonly #url: string;
  readonly #agent: MutualAgent;
  readonly #materials = new Map<string, { readonly etag: string; readonly key: GroupKey }>();

  /** @internal `url`: base URL of the KMS's mutual listener, such as https://localhost:8443. */
  constructor(i: { readonly url: string; readonly agent: MutualAgent }) {
    this.#url = i.url;
    this.#agent = i.agent;
  }

  /** Makes an AES-256 key that this caller owns. @throws SignetError already-exists, request-malformed */
  async createKey(name: string, key: NewKey = {}, idempotencyKey: string = randomUUID()): Promise<KeyDescription> {
    return this.#call("POST", kmsRoutes.keys, keyDescription, { body: newKeyBody(name, key), headers: { "idempotency-key": idempotencyKey } });
  }

  /** Brings in 32 octets of existing material as a new key. @throws SignetError already-exists, request-malformed */
  async importKey(name: string, material: Uint8Array, key: NewKey = {}, idempotencyKey: string = randomUUID()): Promise<KeyDescription> {
    const body = { ...newKeyBody(name, key), material: Buffer.from(material).toString("base64") };
    return this.#call("POST", kmsRoutes.import, keyDescription, { body, headers: { "idempotency-key": idempotencyKey } });
  }

  /** Keys that this caller owns or reads, a page at a time. */
  async listKeys(page: Page = {}): Promise<KeyListResponse> {
    return this.#call("GET", kmsRoutes.keys + query(page), keyListResponse);
  }

  /** Owner, readers, algorithms and latest version of a key, without its material. @throws SignetError not-permitted (absent and forbidden look alike) */
  async describeKey(name: string): Promise<KeyDescription> {
    return this.#call("GET", kmsRoutes.key(segment(name)), keyDescription);
  }

  /** Versions of a key with their states (NIST SP 800-57 Part 1 section 7), a page at a time. @throws SignetError not-permitted */
  async listVersions(name: string, page: Page = {}): Promise<KeyVersionListResponse> {
    return this.#call("GET", kmsRoutes.versions(segment(name)) + query(page), keyVersionListResponse);
  }

  /**
   * Sets who gets the key. `etag` is that of the description the change is based on.
   * @throws SignetError precondition-failed where someone changed the key in between
   */
  async changeReaders(name: string, readers: readonly string[], etag: string): Promise<KeyDescription> {
    return this.#call("PATCH", kmsRoutes.key(segment(name)), keyDescription, { body: { distribution: { readers } }, headers: { "if-match": etag } });
  }

  /** Makes the next version; the ones before open old ciphertexts, and seal no new ones. */
  async rotateKey(name: string, idempotencyKey: string = randomUUID()): Promise<KeyDescription> {
    return this.#call("POST", kmsRoutes.action(segment(name), "rotate"), keyDescription, { body: {}, headers: { "idempotency-key": idempotencyKey } });
  }

  /** After this, no key of this name that the caller may revoke is usable. It answers alike whether or not there was one. */
  async revokeKey(name: string, reason: KeyRevocationReason = "unspecified"): Promise<void> {
    this.#forget(name);
    await this.#call("POST", kmsRoutes.action(segment(name), "revoke"), revokeKeyResponse, { body: { reason } });
  }

  /** Destroys a compromised key at once and for good; returns the versions destroyed. For its owner or an operator. @throws SignetError state-conflict */
  async destroyKey(name: string): Promise<readonly number[]> {
    this.#forget(name);
    return (await this.#call("POST", kmsRoutes.action(segment(name), "destroy"), destroyKeyResponse, { body: { confirm: name } })).destroyed;
  }

  /**
   * Fetches a version's material. What was fetched before is handed out again only if the KMS confirms it in this call (304), so that
   * a revoked key or reader ends with the next call.
   * @throws SignetError not-permitted (absent and forbidden look alike), state-conflict
   */
  async material(name: string, version: number | "latest" = "latest"): Promise<GroupKey> {
    const path = kmsRoutes.material(segment(name), version);
    const kept = this.#materials.get(path);
    // While it is asked about, it is out of the store: a refusal must not leave it behind.
    this.#materials.delete(path);
    const answer = await this.#send("GET", path, { headers: { accept: "application/octet-stream", ...(kept === undefined ? {} : { "if-none-match": kept.etag }) } });
    if (answer.status === 304) {
      if (kept === undefined) throw new SignetError("remote-malformed", "The KMS confirmed material that was not asked about.");
      this.#materials.set(path, kept);
      return kept.key;
    }
    const id = header(answer.headers, materialHeaders.keyId);
    const numbered = Number(header(answer.headers, materialHeaders.version));
    if (!Number.isSafeInteger(numbered) || numbered < 1 || (version !== "latest" && numbered !== version) || answer.body.length !== 32) {
      throw new SignetError("remote-malformed", "The KMS's answer is not the material that was asked for.");
    }
    // An id's algorithms never change, but a name can pass to another key between the two calls.
    const description = await this.describeKey(name);
    if (description.id !== id) throw new SignetError("state-conflict", `Key ${name} was replaced while it was fetched.`);
    const key: GroupKey = { name, id, version: numbered, algorithms: description.algorithms, secret: SecretKey.from(answer.body) };
    const etag = answer.headers["etag"];
    if (typeof etag === "string") {
      const [oldest] = this.#materials.keys();
      if (this.#materials.size >= keptMaterials && oldest !== undefined) this.#materials.delete(oldest);
      this.#materials.set(path, { etag, key });
    }
    return key;
  }

  /**
   * A version's material as an envelope: a compact JWE to the RSA key of the caller's certificate around a JWS by the KMS, which `openKeyEnvelope` opens.
   * It stays sealed on its way through whatever stands between the KMS and its reader.
   * @throws SignetError not-acceptable where the caller's key is no RSA key; not-permitted, state-conflict
   */
  async keyEnvelope(name: string, version: number | "latest" = "latest"): Promise<Uint8Array> {
    const answer = await this.#send("GET", kmsRoutes.material(segment(name), version), { headers: { accept: keyEnvelopeMediaType } });
    if (answer.headers["content-type"] !== keyEnvelopeMediaType) throw new SignetError("remote-malformed", "The KMS's answer is not an envelope.");
    return answer.body;
  }

  /** Encrypts at the KMS with AES-256-GCM under the latest version; the result names its key and version. `context` must be given again to decrypt. */
  async encrypt(name: string, plaintext: Uint8Array, context?: EncryptionContext): Promise<{ readonly ciphertext: Uint8Array; readonly version: number }> {
    const body = { plaintext: Buffer.from(plaintext).toString("base64"), ...(context === undefined ? {} : { context }) };
    const answer = await this.#call("POST", kmsRoutes.action(segment(name), "encrypt"), encryptResponse, { body });
    return { ciphertext: Buffer.from(answer.ciphertext, "base64"), version: answer.version };
  }

  /** @throws SignetError ciphertext-malformed, decryption-failed, not-permitted, state-conflict */
  async decrypt(name: string, ciphertext: Uint8Array, context?: EncryptionContext): Promise<{ readonly plaintext: Uint8Array; readonly version: number }> {
    const body = { ciphertext: Buffer.from(ciphertext).toString("base64"), ...(context === undefined ? {} : { context }) };
    const answer = await this.#call("POST", kmsRoutes.action(segment(name), "decrypt"), decryptResponse, { body });
    return { plaintext: Buffer.from(answer.plaintext, "base64"), version: answer.version };
  }

  /** Whether the KMS would carry out an action on a key: resolves if so, and throws the refusal if not. It touches no key. */
  async dryRun(name: string, action: KeyAction, body: Readonly<Record<string, unknown>> = {}): Promise<void> {
    await this.#call("POST", `${kmsRoutes.action(segment(name), action)}?dryRun=true`, dryRunResponse, { body });
  }

  /**
   * Holds one stream of events: what key versions come to the caller or change. Nothing is told of what happened while no stream was held.
   * @param signal ends it without an error
   * @throws SignetError link-closed (with `cutAt`, ISO 8601 with milliseconds) where the connection ended without a word; the KMS's code where it said why, such as not-ready when it stops;
   *   limit-exceeded, not-permitted, remote-unreachable, timed-out after three heartbeats that did not come
   */
  async watch(onEvent: (event: Exclude<KeyEvent, { type: "heartbeat" | "end" }>) => void, signal: AbortSignal): Promise<void> {
    const decoder = new TextDecoder();
    let [rest, hasBegun] = ["", false];
    try {
      const { body } = await streamOverMutualTls({
        agent: this.#agent,
        url: new URL(kmsRoutes.events, this.#url),
        method: "GET",
        headers: { accept: eventStreamMediaType },
        silenceMilliseconds: 3 * heartbeatSeconds * 1000,
        signal,
      });
      hasBegun = true;
      for await (const octets of body) {
        const lines = (rest + decoder.decode(octets, { stream: true })).split("\n");
        rest = lines.pop() ?? "";
        if (rest.length > longestEventCharacters) throw new SignetError("remote-malformed", "The KMS sent a line of events without an end.");
        for (const line of lines) {
          const event = parseEvent(line);
          if (event?.type === "end") throw new SignetError(isErrorCode(event.code) ? event.code : "link-closed", event.detail);
          if (event !== undefined && event.type !== "heartbeat") onEvent(event);
        }
      }
      throw new SignetError("link-closed", "The KMS ended the stream of events.");
    } catch (error) {
      const cutAt = new Date().toISOString();
      if (signal.aborted) return;
      if (!(error instanceof SignetError) || !hasBegun || (error.code !== "link-closed" && error.code !== "tls-refused")) throw error;
      throw new SignetError("link-closed", "The connection to the KMS was cut.", { details: { ...error.details, cutAt }, cause: error });
    }
  }

  /** Whom the KMS takes this caller for. */
  async whoami(): Promise<WhoamiResponse> {
    return this.#call("GET", kmsRoutes.whoami, whoamiResponse);
  }

  /** Version and state of the KMS. */
  async status(): Promise<KmsStatusResponse> {
    return this.#call("GET", kmsRoutes.status, kmsStatusResponse);
  }

  /** For operators: keys by state, who is connected, the last audit records. */
  async summary(): Promise<KmsSummary> {
    return this.#call("GET", kmsRoutes.summary, kmsSummary);
  }

  /** For operators. */
  async auditEntries(cursor?: string): Promise<AuditEntriesResponse> {
    return this.#call("GET", kmsRoutes.auditEntries + query(cursor === undefined ? {} : { cursor }), auditEntriesResponse);
  }

  #forget(name: string): void {
    const prefix = `${kmsRoutes.versions(segment(name))}/`;
    for (const path of this.#materials.keys()) if (path.startsWith(prefix)) this.#materials.delete(path);
  }

  async #call<S extends z.ZodType>(method: Method, path: string, schema: S, i: { body?: unknown; headers?: Record<string, string> } = {}): Promise<z.output<S>> {
    const answer = await this.#send(method, path, i);
    let parsed: unknown;
    try {
      parsed = JSON.parse(Buffer.from(answer.body).toString("utf8"));
    } catch (error) {
      throw new SignetError("remote-malformed", "The KMS's answer is not JSON.", { cause: error });
    }
    const result = schema.safeParse(parsed);
    // Without the parser's findings: they can quote what they found, which may be a plaintext.
    if (!result.success) throw new SignetError("remote-malformed", `The KMS's answer to ${method} ${path} is not of the agreed shape.`);
    return result.data;
  }

  async #send(method: Method, path: string, i: { body?: unknown; headers?: Record<string, string> }): Promise<TlsAnswer> {
    const json = i.body === undefined ? {} : { "content-type": "application/json" };
    const request: TlsRequest = {
      agent: this.#agent,
      url: new URL(path, this.#url).href,
      method,
      headers: { ...json, ...i.headers },
      ...(i.body === undefined ? {} : { body: Buffer.from(JSON.stringify(i.body)) }),
    };
    try {
      return await requestOverMutualTls(request);
    } catch (error) {
      // A connection that is cut, such as that of a caller who was just revoked, does not say why; asked again, over a new one, the KMS does.
      const isRepeatable = method === "GET" || i.headers?.["idempotency-key"] !== undefined;
      if (!isRepeatable || !(error instanceof SignetError) || error.code !== "tls-refused") throw error;
      return requestOverMutualTls(request);
    }
  }
}

/** A line of events; undefined for a type that a later KMS may have. @throws SignetError remote-malformed */
function parseEvent(line: string): KeyEvent | undefined {
  try {
    const value: unknown = JSON.parse(line);
    const event = keyEvent.safeParse(value);
    if (event.success) return event.data;
    const { type } = value as { readonly type?: unknown };
    if (typeof type === "string" && !keyEvent.options.some((known) => known.shape.type.value === type)) return undefined;
  } catch {
    // Falls through.
  }
  throw new SignetError("remote-malformed", "The KMS sent a line of events that is not of the agreed form.");
}

function newKeyBody(name: string, key: NewKey) {
  return {
    name,
    spec: "aes-256",
    ...(key.algorithms === undefined ? {} : { algorithms: key.algorithms }),
    ...(key.readers === undefined ? {} : { distribution: { readers: key.readers } }),
  };
}

/** One path segment: what is no key's name goes nowhere, so that none leads to another route. */
function segment(name: string): string {
  if (!keyNamePattern.test(name)) throw new SignetError("request-malformed", "Not the name of a key: 1 to 63 of a-z, 0-9, '.', '_' and '-'.");
  return name;
}

function query(page: Page): string {
  const parameters = new URLSearchParams();
  if (page.cursor !== undefined) parameters.set("cursor", page.cursor);
  if (page.limit !== undefined) parameters.set("limit", String(page.limit));
  return parameters.size === 0 ? "" : `?${parameters}`;
}

function header(headers: Readonly<Record<string, string | readonly string[] | undefined>>, name: string): string {
  const value = headers[name.toLowerCase()];
  if (typeof value !== "string") throw new SignetError("remote-malformed", `The KMS's answer lacks ${name}.`);
  return value;
}
