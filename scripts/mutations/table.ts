/** One rule that Signet's promises rest on, how to take it out of the source, and which tests have to notice. */
export interface Mutation {
  readonly rule: string;
  readonly file: string;
  /** Text that is in the file exactly once. */
  readonly replace: string;
  readonly by: string;
  /** The narrowest test files that should turn red. */
  readonly tests: readonly string[];
}

export const mutations: readonly Mutation[] = [
  {
    rule: "the revocation check of every request",
    file: "pki/mtls.ts",
    replace: "admission.proof = admission.proof === undefined ? revocation.check(admission.path) : revocation.recheck(admission.proof);",
    by: "admission.proof ??= revocation.check(admission.path);",
    tests: ["test/pki/mtls.test.ts"],
  },
  {
    rule: "the cut of a revoked party's sockets",
    file: "pki/mtls.ts",
    replace: "      socket.destroy();\n      cut += 1;",
    by: "      cut += 1;",
    tests: ["test/pki/mtls.test.ts"],
  },
  {
    rule: "the CRL number floor",
    file: "pki/revocation.ts",
    replace: "(crlNumber <= floor.crlNumber || crl.thisUpdate <= floor.thisUpdate)",
    by: "false",
    tests: ["test/pki/revocation.test.ts"],
  },
  {
    rule: "extendedKeyUsage is required, and names one purpose",
    file: "pki/certificate-profile.ts",
    replace: 'if (path.purpose === "cRLSign" || extensions.extendedKeyUsage.length !== 1 || extensions.extendedKeyUsage[0] !== oid[path.purpose]) throw',
    by: "if (false) throw",
    tests: ["test/pki/certificate-profile.test.ts"],
  },
  {
    rule: "extendedKeyUsage must be there",
    file: "pki/certificate-profile.ts",
    replace: "if (extensions.extendedKeyUsage === undefined) throw refuse(",
    by: "if (extensions.extendedKeyUsage === undefined) return parseIdentityUri(String(extensions.subjectAltName[0]?.value)); else if (false) throw refuse(",
    tests: ["test/pki/certificate-profile.test.ts"],
  },
  {
    rule: "subjectAltName must be there; the common name counts for nothing",
    file: "pki/certificate-profile.ts",
    replace: "if (extensions.subjectAltName === undefined) throw refuse(",
    by: 'if (extensions.subjectAltName === undefined) return { uri: "", trustDomain: "", kind: "agent", name: path.endEntity.subject.toString() }; else if (false) throw refuse(',
    tests: ["test/pki/certificate-profile.test.ts"],
  },
  {
    rule: "exactly one URI",
    file: "pki/certificate-profile.ts",
    replace: "if (uris.length !== 1) throw",
    by: "if (uris.length === 0) throw",
    tests: ["test/pki/certificate-profile.test.ts"],
  },
  {
    rule: "a CRL past its nextUpdate decides nothing",
    file: "pki/revocation.ts",
    replace: "      if (crl.nextUpdate.getTime() <= now.getTime()) throw stale(crl);",
    by: "",
    tests: ["test/pki/revocation.test.ts"],
  },
  {
    rule: "a CRL whose last refresh is older than maxAge decides nothing",
    file: "pki/revocation.ts",
    replace: "if (monotonic - refreshedAt > maxAgeMilliseconds) throw",
    by: "if (false) throw",
    tests: ["test/pki/revocation.test.ts"],
  },
  {
    rule: "the signature of a CRL",
    file: "pki/revocation.ts",
    replace: "    crl.verifySignature(issuer);",
    by: "",
    tests: ["test/pki/revocation.test.ts"],
  },
  {
    rule: "the policy of a key",
    file: "kms-server/key-policy.ts",
    replace: "return policy !== undefined && permitted[standing(caller, policy)].has(operation);",
    by: "return policy !== undefined;",
    tests: ["test/kms-server/key-policy.test.ts"],
  },
  {
    rule: "the audit record is durable before the key leaves",
    file: "kms-server/key-service.ts",
    replace: 'await this.#durably((tx) => this.#audit(tx, call, known ? "key.access-checked" : "key.distributed"',
    by: 'void this.#durably((tx) => this.#audit(tx, call, known ? "key.access-checked" : "key.distributed"',
    tests: ["test/kms-server/key-service.test.ts"],
  },
  {
    rule: "proof of possession of the key that is certified",
    file: "ca/authority.ts",
    replace: "    request.verifyPossession();",
    by: "",
    tests: ["test/ca/http.test.ts"],
  },
  {
    rule: "an enrolment token is good once",
    file: "ca/enrollment.ts",
    replace: 'row["serial_number"] !== null || ',
    by: "",
    tests: ["test/ca/http.test.ts"],
  },
  {
    rule: "thisUpdate rises by a second with each CRL",
    file: "ca/crl-publisher.ts",
    replace: "Math.max(previousUpdate + 1000, now - hour)",
    by: "Math.max(previousUpdate, now - hour)",
    tests: ["test/ca/http.test.ts"],
  },
  {
    rule: "the server is the identity that was dialled",
    file: "pki/mtls.ts",
    replace: "if (uri !== expected) throw",
    by: "if (false) throw",
    tests: ["test/pki/mtls.test.ts"],
  },
  {
    rule: "the application protocol that was agreed on is the one expected",
    file: "pki/mtls.ts",
    replace: "if (socket.alpnProtocol !== expected) throw",
    by: "if (false) throw",
    tests: ["test/pki/mtls.test.ts"],
  },
  {
    rule: "the caller is looked at again once the audit record is durable",
    file: "kms-server/key-service.ts",
    replace: '    this.#parts.recheck(call.peer);\n    const record = this.#permitted(caller, "distribute", name);',
    by: '    const record = this.#permitted(caller, "distribute", name);',
    tests: ["test/kms-server/key-service.test.ts"],
  },
  {
    rule: "no session tickets",
    file: "pki/mtls.ts",
    replace: "    secureOptions: constants.SSL_OP_NO_TICKET,",
    by: "",
    tests: ["test/pki/mtls.test.ts"],
  },
  {
    rule: "the server's certificate is for the host that was dialled",
    file: "pki/certificate-profile.ts",
    replace: "if (!matches) throw",
    by: "if (false) throw",
    tests: ["test/pki/certificate-profile.test.ts"],
  },
  {
    rule: "a link asks at every message whether its peer was revoked",
    file: "agents/link.ts",
    replace: "      this.#proof = this.#self.revocation.recheck(this.#proof);",
    by: "",
    tests: ["test/agents/link.test.ts"],
  },
  {
    rule: "a message is accepted once",
    file: "agents/group.ts",
    replace: "    this.#replay.accept(header);",
    by: "",
    tests: ["test/agents/group.test.ts"],
  },
  {
    rule: "the operators' routes of the CA are for operators",
    file: "ca/http.ts",
    replace: 'if (caller.identity.kind !== "operator") throw',
    by: "if (false) throw",
    tests: ["test/ca/http.test.ts"],
  },
  {
    rule: "a key revoked for keyCompromise is certified by nobody again",
    file: "ca/ledger.ts",
    replace: "if (barred !== undefined) throw",
    by: "if (false) throw",
    tests: ["test/ca/http.test.ts"],
  },
  {
    rule: "a wrapped key is bound to its key, version and state",
    file: "kms-server/key-wrap.ts",
    replace: "return openAes256Gcm(this.#wrapping, wrapped, bindingOctets(binding));",
    by: "return openAes256Gcm(this.#wrapping, wrapped, bindingOctets({ ...binding, state: \"active\" }));",
    tests: ["test/kms-server/at-rest.test.ts"],
  },
  {
    rule: "an envelope's signature is by the KMS",
    file: "agents/key-envelope.ts",
    replace: "if (uri !== kms) throw",
    by: "if (false) throw",
    tests: ["test/agents/key-envelope.test.ts"],
  },
  {
    rule: "an envelope is for the one who opens it",
    file: "agents/key-envelope.ts",
    replace: "if (claims.aud !== audience) throw",
    by: "if (false) throw",
    tests: ["test/agents/key-envelope.test.ts"],
  },
  {
    rule: "a JWS is of the algorithm of its key, whatever it says",
    file: "pki/jose.ts",
    replace: "if (header.alg !== alg) throw",
    by: "if (false) throw",
    tests: ["test/pki/jose.test.ts"],
  },
];
