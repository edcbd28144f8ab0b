/**
 * Every refusal of Signet has one code. This table gives each its HTTP status, its exit code on the command line, whether
 * the same request may succeed later, and the rule it stands for. Exit codes: 1 usage or local, 2 remote or TLS,
 * 3 not found, 4 denied, 5 verification failed or revoked.
 */
export const errorTable = {
  // Encodings
  "der-malformed": { status: 400, exit: 5, retryable: false, rule: "X.690 section 10 (DER)" },
  "certificate-malformed": { status: 400, exit: 5, retryable: false, rule: "RFC 5280 section 4.1" },
  "csr-malformed": { status: 400, exit: 1, retryable: false, rule: "RFC 2986 section 4" },
  "csr-signature-invalid": { status: 400, exit: 5, retryable: false, rule: "RFC 2986 section 4.2, proof of possession" },
  "crl-malformed": { status: 400, exit: 5, retryable: false, rule: "RFC 5280 section 5.1" },
  "pem-malformed": { status: 400, exit: 1, retryable: false, rule: "RFC 7468 section 2" },
  "cms-malformed": { status: 400, exit: 2, retryable: false, rule: "RFC 5652 section 5; RFC 7030 section 4.1.3" },
  // Keys
  "key-rejected": { status: 400, exit: 5, retryable: false, rule: "weak, malformed or not of an accepted type" },
  "key-barred": { status: 403, exit: 4, retryable: false, rule: "a key revoked for keyCompromise is certified by nobody again" },
  // Paths (RFC 5280 section 6)
  "path-not-found": { status: 403, exit: 5, retryable: false, rule: "RFC 5280 section 6.1: no chain to a trust anchor" },
  "signature-invalid": { status: 403, exit: 5, retryable: false, rule: "RFC 5280 section 6.1.3 (a)(1)" },
  "algorithm-rejected": { status: 403, exit: 5, retryable: false, rule: "signature algorithm or key size not accepted (SP 800-131A)" },
  "certificate-expired": { status: 403, exit: 5, retryable: false, rule: "RFC 5280 section 6.1.3 (a)(2)" },
  "certificate-not-yet-valid": { status: 403, exit: 5, retryable: false, rule: "RFC 5280 section 6.1.3 (a)(2)" },
  "not-a-ca": { status: 403, exit: 5, retryable: false, rule: "RFC 5280 section 6.1.4 (k)" },
  "path-length-exceeded": { status: 403, exit: 5, retryable: false, rule: "RFC 5280 section 6.1.4 (l), (m)" },
  "key-usage-missing": { status: 403, exit: 5, retryable: false, rule: "RFC 5280 section 6.1.4 (n), 4.2.1.3" },
  "purpose-not-permitted": { status: 403, exit: 5, retryable: false, rule: "RFC 5280 section 4.2.1.12: extendedKeyUsage" },
  "name-not-permitted": { status: 403, exit: 5, retryable: false, rule: "RFC 5280 section 6.1.3 (b), (c): name constraints" },
  "name-mismatch": { status: 403, exit: 5, retryable: false, rule: "RFC 9525 section 6: not the name that was dialled" },
  "unknown-critical-extension": { status: 403, exit: 5, retryable: false, rule: "RFC 5280 section 6.1.5 (f), 4.2" },
  "policy-required": { status: 403, exit: 5, retryable: false, rule: "RFC 5280 section 6.1.5 (g)" },
  "budget-exceeded": { status: 403, exit: 5, retryable: false, rule: "work that a hostile set of certificates may cause" },
  // Signet's own profile, on top of RFC 5280
  "san-missing": { status: 403, exit: 5, retryable: false, rule: "a name counts in subjectAltName only, never in the CN" },
  "extended-key-usage-missing": { status: 403, exit: 5, retryable: false, rule: "extendedKeyUsage is required of every leaf" },
  "identity-ambiguous": { status: 403, exit: 5, retryable: false, rule: "SPIFFE X509-SVID section 2: exactly one URI" },
  "profile-violation": { status: 403, exit: 5, retryable: false, rule: "x509 profile of the issuing authority" },
  "lint-failed": { status: 500, exit: 5, retryable: false, rule: "nothing is signed that breaks a rule of pki/lint.ts" },
  // Revocation (RFC 5280 section 6.3)
  "certificate-revoked": { status: 403, exit: 5, retryable: false, rule: "RFC 5280 section 6.3.3" },
  "crl-missing": { status: 503, exit: 5, retryable: true, rule: "every CA on the path needs a CRL" },
  "crl-stale": { status: 503, exit: 5, retryable: true, rule: "RFC 5280 section 5.1.2.5: nextUpdate has passed" },
  "crl-refresh-overdue": { status: 503, exit: 5, retryable: true, rule: "last authenticated refresh is older than maxAge" },
  "crl-rollback": { status: 403, exit: 5, retryable: false, rule: "RFC 5280 section 5.2.3: CRLNumber or thisUpdate went back" },
  "crl-from-future": { status: 403, exit: 5, retryable: false, rule: "thisUpdate lies more than 5 minutes ahead" },
  "crl-signature-invalid": { status: 403, exit: 5, retryable: false, rule: "RFC 5280 section 6.3.3 (g)" },
  "crl-issuer-not-authorized": { status: 403, exit: 5, retryable: false, rule: "RFC 5280 section 6.3.3 (f): cRLSign" },
  "crl-scope-unsupported": { status: 403, exit: 5, retryable: false, rule: "RFC 5280 section 6.3.3 (b)" },
  "clock-rolled-back": { status: 503, exit: 5, retryable: true, rule: "the clock is behind what has been seen and verified" },
  // TLS and identity
  "client-certificate-required": { status: 403, exit: 2, retryable: false, rule: "no certificate, no service" },
  "tls-refused": { status: 403, exit: 2, retryable: false, rule: "the TLS handshake failed" },
  "alpn-mismatch": { status: 403, exit: 2, retryable: false, rule: "RFC 7301; ALPACA" },
  "peer-mismatch": { status: 403, exit: 5, retryable: false, rule: "the peer is not the party that was asked for" },
  "peer-is-self": { status: 403, exit: 5, retryable: false, rule: "reflection: the peer shows one's own identity" },
  "root-fingerprint-mismatch": { status: 403, exit: 5, retryable: false, rule: "RFC 7030 section 4.1.1: the pinned root" },
  // HTTP
  "request-malformed": { status: 400, exit: 1, retryable: false, rule: "the request does not parse" },
  "body-too-large": { status: 413, exit: 1, retryable: false, rule: "64 KiB at most" },
  "unsupported-media-type": { status: 415, exit: 1, retryable: false, rule: "RFC 9110 section 15.5.16" },
  "not-acceptable": { status: 406, exit: 1, retryable: false, rule: "RFC 9110 section 15.5.7: not in the form that was asked for" },
  "route-not-found": { status: 404, exit: 3, retryable: false, rule: "no such route" },
  "method-not-allowed": { status: 405, exit: 1, retryable: false, rule: "RFC 9110 section 15.5.6" },
  "not-found": { status: 404, exit: 3, retryable: false, rule: "no such thing, said to a caller who may know" },
  "not-permitted": { status: 403, exit: 4, retryable: false, rule: "default deny; absent and forbidden look alike" },
  "state-conflict": { status: 409, exit: 4, retryable: false, rule: "SP 800-57 Part 1 section 7: not in this state" },
  "already-exists": { status: 409, exit: 4, retryable: false, rule: "the name is taken" },
  "precondition-failed": { status: 412, exit: 4, retryable: false, rule: "RFC 9110 section 13.1.1: If-Match" },
  "idempotency-conflict": { status: 422, exit: 4, retryable: false, rule: "an Idempotency-Key names one request" },
  "limit-exceeded": { status: 429, exit: 4, retryable: true, rule: "a limit is reached" },
  "audit-unavailable": { status: 503, exit: 2, retryable: true, rule: "no secret leaves before its audit record is durable" },
  "not-ready": { status: 503, exit: 2, retryable: true, rule: "the service still waits for something, and says for what" },
  "storage-unavailable": { status: 503, exit: 2, retryable: true, rule: "nothing is acknowledged that is not durable" },
  "internal": { status: 500, exit: 2, retryable: false, rule: "a defect of the service" },
  // Enrolment
  "token-invalid": { status: 401, exit: 4, retryable: false, rule: "RFC 7030 section 3.2.3: unknown, used and expired look alike" },
  // Key management
  "key-usage-exhausted": { status: 409, exit: 4, retryable: false, rule: "SP 800-38D section 8.3: messages under one key" },
  "algorithm-not-permitted": { status: 403, exit: 4, retryable: false, rule: "the key's policy does not allow this algorithm" },
  "ciphertext-malformed": { status: 400, exit: 5, retryable: false, rule: "not a ciphertext of this format" },
  "decryption-failed": { status: 400, exit: 5, retryable: false, rule: "authentication of the ciphertext failed" },
  // Messages and links between agents
  "message-malformed": { status: 400, exit: 5, retryable: false, rule: "not a sealed message" },
  "message-replayed": { status: 409, exit: 5, retryable: false, rule: "a message is accepted once" },
  "message-superseded": { status: 409, exit: 5, retryable: false, rule: "sealed under a key version that was rotated away" },
  "link-closed": { status: 409, exit: 2, retryable: true, rule: "the link has ended" },
  // Local
  "usage": { status: 400, exit: 1, retryable: false, rule: "command line" },
  "file-unusable": { status: 400, exit: 1, retryable: false, rule: "a file cannot be read or written" },
  "data-directory-foreign": { status: 500, exit: 1, retryable: false, rule: "not a data directory of this service; left alone" },
  "data-directory-corrupt": { status: 500, exit: 1, retryable: false, rule: "damaged; left alone" },
  "data-directory-locked": { status: 500, exit: 1, retryable: false, rule: "another process uses it; nothing was touched" },
  "data-directory-newer": { status: 500, exit: 1, retryable: false, rule: "written by a newer version; left alone" },
  "unseal-failed": { status: 500, exit: 1, retryable: false, rule: "the unseal key does not open this store" },
  "hook-failed": { status: 500, exit: 1, retryable: true, rule: "a server may not have read the CRL that was written for it" },
  "port-taken": { status: 500, exit: 1, retryable: true, rule: "the port is in use" },
  "remote-unreachable": { status: 502, exit: 2, retryable: true, rule: "no connection" },
  "remote-malformed": { status: 502, exit: 2, retryable: false, rule: "the other side's answer does not parse" },
  "timed-out": { status: 504, exit: 2, retryable: true, rule: "no answer within the time limit" },
} as const satisfies Record<string, { status: number; exit: 1 | 2 | 3 | 4 | 5; retryable: boolean; rule: string }>;

/** Stable name of a refusal: a row of {@link errorTable}. */
export type ErrorCode = keyof typeof errorTable;
/** Data of a refusal, by name; never a secret. `next` is what to type next. */
export type ErrorDetails = Readonly<Record<string, string | number | boolean>>;

/** A refusal: the code decides status, exit code and meaning; the message is one line for people; details carry its data, never a secret. */
export class SignetError extends Error {
  override readonly name = "SignetError";
  readonly code: ErrorCode;
  readonly details: ErrorDetails;

  constructor(code: ErrorCode, message: string, options: { details?: ErrorDetails; cause?: unknown } = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.code = code;
    this.details = options.details ?? {};
  }

  /** HTTP status. */
  get status(): number {
    return errorTable[this.code].status;
  }

  /** Exit code of the command line: 1 usage or local, 2 remote or TLS, 3 not found, 4 denied, 5 verification failed or revoked. */
  get exitCode(): 1 | 2 | 3 | 4 | 5 {
    return errorTable[this.code].exit;
  }

  /** Whether the same request may succeed later. */
  get retryable(): boolean {
    return errorTable[this.code].retryable;
  }
}

/** Whether a value, such as the `code` of a problem document, is a code of Signet. */
export function isErrorCode(value: unknown): value is ErrorCode {
  return typeof value === "string" && Object.hasOwn(errorTable, value);
}

/** RFC 9457 problem document; `code` is stable, `title` is the rule, `detail` is for people. */
export interface Problem {
  readonly type: string;
  readonly title: string;
  readonly status: number;
  readonly code: ErrorCode;
  readonly detail: string;
  readonly requestId: string;
  readonly retryable: boolean;
  readonly details?: ErrorDetails;
}

/** The problem document of an error. Anything but a SignetError is a defect: it becomes `internal` and tells nothing of itself. */
export function toProblem(error: unknown, requestId: string): Problem {
  const known = error instanceof SignetError ? error : new SignetError("internal", "The service failed; its log has the request id.");
  return {
    type: `urn:signet:error:${known.code}`,
    title: errorTable[known.code].rule,
    status: known.status,
    code: known.code,
    detail: known.message,
    requestId,
    retryable: known.retryable,
    ...(Object.keys(known.details).length > 0 ? { details: known.details } : {}),
  };
}
