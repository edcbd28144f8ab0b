/**
 * The rules of RFC 5280 section 6.1, each in one place. Rules about one certificate are checked when it is taken into
 * a path; rules about a path (names, policies, lengths) when the path has reached its anchor.
 */
import type { Certificate } from "./certificate.ts";
import { SignetError } from "./errors.ts";
import type { ErrorCode } from "./errors.ts";
import type { KeyUsageBit, NameConstraints } from "./extensions.ts";
import { checkStrictly } from "./lint.ts";
import { constrainingForms, formOfName, isWithinSubtree } from "./name-matching.ts";
import type { GeneralName } from "./name.ts";
import { oid } from "./oids.ts";
import { PolicyGraph } from "./policy-graph.ts";
import type { SignatureAlgorithm } from "./signature-algorithm.ts";

/** Purposes by their names; the EKU and the key usage bits that go with each (RFC 5280 section 4.2.1.12). */
export const keyPurposes = {
  serverAuth: { oid: oid.serverAuth, keyUsage: ["digitalSignature", "keyEncipherment", "keyAgreement"] },
  clientAuth: { oid: oid.clientAuth, keyUsage: ["digitalSignature", "keyAgreement"] },
  codeSigning: { oid: oid.codeSigning, keyUsage: ["digitalSignature"] },
  emailProtection: { oid: oid.emailProtection, keyUsage: ["digitalSignature", "nonRepudiation", "keyEncipherment", "keyAgreement"] },
  timeStamping: { oid: oid.timeStamping, keyUsage: ["digitalSignature", "nonRepudiation"] },
  OCSPSigning: { oid: oid.ocspSigning, keyUsage: ["digitalSignature", "nonRepudiation"] },
} as const satisfies Record<string, { oid: string; keyUsage: readonly KeyUsageBit[] }>;
/** A purpose by its name in RFC 5280 section 4.2.1.12. */
export type AnyKeyPurpose = keyof typeof keyPurposes;

/** Inputs of RFC 5280 section 6.1.1 (c) to (g). */
export interface PolicyParameters {
  /** user-initial-policy-set; empty means any-policy. */
  readonly initialSet: readonly string[];
  readonly explicit: boolean;
  readonly inhibitMapping: boolean;
  readonly inhibitAny: boolean;
}

export interface PathParameters {
  readonly at: Date;
  /** What the end entity's key is for: a purpose, the signing of CRLs, or (undefined) nothing in particular. */
  readonly purpose: AnyKeyPurpose | "cRLSign" | undefined;
  readonly policy: PolicyParameters;
  /** Most intermediates that are not self-issued; undefined sets no limit. */
  readonly maximumDepth: number | undefined;
  /** Fewest bits of an RSA modulus. From 2048 on SHA-1, SHA-224 and DSA are refused as well (SP 800-131A). */
  readonly minimumRsaBits: number;
  /** Also hold every certificate against what RFC 5280 section 4 demands of those who issue. */
  readonly strict: boolean;
  /** Of a trust anchor only its name and key count (RFC 5280 section 6.1.1 (d)), or all that its certificate says. */
  readonly anchor: "bare" | "certificate";
}

export const anyPolicyParameters: PolicyParameters = { initialSet: [], explicit: false, inhibitMapping: false, inhibitAny: false };

function refuse(code: ErrorCode, certificate: Certificate, reason: string): SignetError {
  return new SignetError(code, `${reason}: ${certificate.label}, serial number ${certificate.serialNumber}.`, {
    details: { subject: certificate.subject.toString(), serialNumber: certificate.serialNumber },
  });
}

/** Rules for a certificate in any place of a path, the anchor's included where its certificate counts. */
function checkCertificate(certificate: Certificate, parameters: PathParameters, isAnchor = false): void {
  const { extensions } = certificate;
  const at = parameters.at.getTime();
  // Written so that a time that is not a number is refused.
  if (!(certificate.notBeforeTime <= at)) throw refuse("certificate-not-yet-valid", certificate, `Not valid before ${certificate.notBefore.toISOString()}`);
  if (!(at <= certificate.notAfterTime)) throw refuse("certificate-expired", certificate, `Expired at ${certificate.notAfter.toISOString()}`);
  if (extensions.unknownCritical.length > 0) throw refuse("unknown-critical-extension", certificate, `Critical extension ${extensions.unknownCritical.join(", ")}`);
  checkExtendedKeyUsage(certificate, parameters);
  if (parameters.strict) checkStrictly(certificate, isAnchor);
}

/** What belongs to CAs alone does not stand in another certificate (RFC 5280 sections 4.2.1.9, 4.2.1.10): what it claims is contradictory. */
function checkConsistency(certificate: Certificate): void {
  const { basicConstraints, keyUsage, nameConstraints } = certificate.extensions;
  if (basicConstraints?.ca === true) return;
  // A pathLen besides CA FALSE says nothing that could be believed: it is refused in strict mode, as a fault of the issuer.
  if (keyUsage?.has("keyCertSign") === true || nameConstraints !== undefined) throw refuse("profile-violation", certificate, "Not a CA, but with extensions of one");
}

/** extendedKeyUsage, where present, must name the purpose: on the end entity, and on every CA above it as a limit of what it may vouch for. */
function checkExtendedKeyUsage(certificate: Certificate, { purpose }: PathParameters): void {
  const usages = certificate.extensions.extendedKeyUsage;
  if (purpose === undefined || purpose === "cRLSign" || usages === undefined) return;
  if (!usages.includes(keyPurposes[purpose].oid) && !usages.includes(oid.anyExtendedKeyUsage)) throw refuse("purpose-not-permitted", certificate, `extendedKeyUsage does not permit ${purpose}`);
}

/** The key that a certificate holds is strong enough. */
function checkKeyStrength(certificate: Certificate, { minimumRsaBits }: PathParameters): void {
  const { family, modulusBits, type } = certificate.subjectPublicKeyInfo;
  if (modulusBits !== undefined && (modulusBits < minimumRsaBits || (minimumRsaBits >= 2048 && modulusBits % 8 !== 0))) throw refuse("algorithm-rejected", certificate, `RSA key of ${modulusBits} bits`);
  if (minimumRsaBits >= 2048 && (family === undefined || family === "dsa")) throw refuse("algorithm-rejected", certificate, `Key of type ${type}`);
}

/** Whether a signature, a certificate's or a CRL's, is made with an algorithm that is known and strong enough. */
export function isStrongSignature({ family, hash }: SignatureAlgorithm, { minimumRsaBits }: PathParameters): boolean {
  return family !== undefined && (minimumRsaBits < 2048 || (hash !== "sha1" && hash !== "sha224" && family !== "dsa"));
}

function checkSignatureStrength(certificate: Certificate, parameters: PathParameters): void {
  if (!isStrongSignature(certificate.signatureAlgorithm, parameters)) throw refuse("algorithm-rejected", certificate, `Signature algorithm ${certificate.signatureAlgorithm.oid}`);
}

/** Rules for whoever issues certificates: RFC 5280 section 6.1.4 (k) and (n). */
function checkCertificationAuthority(certificate: Certificate): void {
  const { basicConstraints, keyUsage } = certificate.extensions;
  if (basicConstraints?.ca !== true) throw refuse("not-a-ca", certificate, "basicConstraints does not make it a CA");
  if (keyUsage !== undefined && !keyUsage.has("keyCertSign")) throw refuse("key-usage-missing", certificate, "keyUsage lacks keyCertSign");
}

/** All rules for the end entity alone. @throws SignetError */
export function checkEndEntity(certificate: Certificate, parameters: PathParameters): void {
  checkCertificate(certificate, parameters);
  checkConsistency(certificate);
  checkSignatureStrength(certificate, parameters);
  checkKeyStrength(certificate, parameters);
  const { keyUsage } = certificate.extensions;
  if (parameters.purpose === undefined || keyUsage === undefined) return;
  // Section 4.2.1.12: keyUsage and extendedKeyUsage are processed independently, and the purpose must be consistent with both, of a CA's certificate too.
  const wanted: readonly KeyUsageBit[] = parameters.purpose === "cRLSign" ? ["cRLSign"] : keyPurposes[parameters.purpose].keyUsage;
  if (!wanted.some((bit) => keyUsage.has(bit))) throw refuse("key-usage-missing", certificate, `keyUsage does not go with ${parameters.purpose}`);
}

/** All rules for an intermediate alone. @throws SignetError */
export function checkIntermediate(certificate: Certificate, parameters: PathParameters): void {
  checkCertificate(certificate, parameters);
  checkSignatureStrength(certificate, parameters);
  checkKeyStrength(certificate, parameters);
  checkCertificationAuthority(certificate);
}

/** All rules for a trust anchor alone; its own signature says nothing, since it is trusted without it. @throws SignetError */
export function checkTrustAnchor(certificate: Certificate, parameters: PathParameters): void {
  checkKeyStrength(certificate, parameters);
  if (parameters.anchor === "bare") return;
  checkCertificate(certificate, parameters, true);
  // Versions 1 and 2 have no basicConstraints; that they are CAs is known by other means: somebody made them anchors.
  if (certificate.version === 3) checkCertificationAuthority(certificate);
}

/** Work that a path may cause; each call may throw `budget-exceeded`. */
export interface PathWork {
  nameComparisons(count: number): void;
  policyNodes(count: number): void;
}

/**
 * The rules about a whole path: RFC 5280 sections 6.1.2 to 6.1.5 as RFC 5937 applies them to an anchor with constraints.
 * `chain` is the end entity first and the anchor last.
 * @throws SignetError `name-not-permitted`, `path-length-exceeded`, `policy-required`, `budget-exceeded`
 */
export function checkPath(chain: readonly Certificate[], parameters: PathParameters, work: PathWork): void {
  const certificates = chain.slice(0, -1).reverse();
  const anchor = chain.at(-1);
  const length = certificates.length;
  const { policy } = parameters;
  const constraints: NameConstraints[] = [];
  const policies = new PolicyGraph((count) => work.policyNodes(count));
  let explicitPolicy = policy.explicit ? 0 : length + 1;
  let policyMapping = policy.inhibitMapping ? 0 : length + 1;
  let inhibitAnyPolicy = policy.inhibitAny ? 0 : length + 1;
  let maximumPathLength = Math.min(length, parameters.maximumDepth ?? length);
  const acceptable = new Set(policy.initialSet.length === 0 ? [oid.anyPolicy] : policy.initialSet);

  /** Section 6.1.4 (g), (i), (j), (m): what a CA's certificate lays down for those below it. */
  const constrainFurther = ({ extensions }: Certificate): void => {
    if (extensions.nameConstraints !== undefined) constraints.push(extensions.nameConstraints);
    explicitPolicy = Math.min(explicitPolicy, extensions.policyConstraints?.requireExplicitPolicy ?? explicitPolicy);
    policyMapping = Math.min(policyMapping, extensions.policyConstraints?.inhibitPolicyMapping ?? policyMapping);
    inhibitAnyPolicy = Math.min(inhibitAnyPolicy, extensions.inhibitAnyPolicy ?? inhibitAnyPolicy);
    maximumPathLength = Math.min(maximumPathLength, extensions.basicConstraints?.pathLength ?? maximumPathLength);
  };

  if (anchor !== undefined && parameters.anchor === "certificate") {
    constrainFurther(anchor);
    // RFC 5937 section 3.2 intersects an anchor's policies with the initial set, and knows no mappings of an anchor. Taken as those of
    // a certificate above the path, they narrow it just so, and mappings hold too.
    const { certificatePolicies, policyMappings = [] } = anchor.extensions;
    if (certificatePolicies !== undefined) {
      if (!policies.addPolicies(certificatePolicies, true)) throw refuse("policy-required", anchor, "A certificate policy stands twice");
      if (!policies.nextLevel(policyMappings, !policy.inhibitMapping)) throw refuse("policy-required", anchor, "anyPolicy is mapped");
    }
  }
  for (const [index, certificate] of certificates.entries()) {
    const last = index === length - 1;
    const { extensions } = certificate;
    const selfIssued = certificate.isSelfIssued;
    // Section 6.1.3 (b), (c).
    if (!selfIssued || last) checkNameConstraints(certificate, constraints, work);
    // Section 6.1.3 (d) to (f).
    const anyPolicyAllowed = inhibitAnyPolicy > 0 || (!last && selfIssued);
    if (!policies.addPolicies(extensions.certificatePolicies, anyPolicyAllowed)) throw refuse("policy-required", certificate, "A certificate policy stands twice");
    if (last) {
      // Section 6.1.5 (a), (b).
      explicitPolicy = extensions.policyConstraints?.requireExplicitPolicy === 0 ? 0 : Math.max(explicitPolicy - 1, 0);
      break;
    }
    // Section 6.1.4 (a), (b).
    if (!policies.nextLevel(extensions.policyMappings ?? [], policyMapping > 0)) throw refuse("policy-required", certificate, "anyPolicy is mapped");
    if (!selfIssued) {
      // Section 6.1.4 (h) and (l).
      explicitPolicy = Math.max(explicitPolicy - 1, 0);
      policyMapping = Math.max(policyMapping - 1, 0);
      inhibitAnyPolicy = Math.max(inhibitAnyPolicy - 1, 0);
      if (maximumPathLength <= 0) throw refuse("path-length-exceeded", certificate, "No CA may stand here");
      maximumPathLength--;
    }
    constrainFurther(certificate);
  }
  // Section 6.1.3 (f) and 6.1.5 (g): once explicit_policy is 0 it stays 0, and a graph without a policy stays so.
  if (explicitPolicy === 0 && !policies.hasAcceptablePolicy(acceptable)) throw refuse("policy-required", chain[0] as Certificate, "No acceptable policy is valid along the path");
}

/** Every name of a certificate that constraints may speak of: the subject, subjectAltName, and mailboxes in the subject. */
function constrainedNames({ subject, extensions }: Certificate): GeneralName[] {
  const names: GeneralName[] = [...(extensions.subjectAltName ?? [])];
  if (subject.isEmpty) return names;
  names.push({ kind: "directory", value: subject });
  for (const { text } of subject.attributes(oid.emailAddress)) names.push({ kind: "email", value: text ?? "" });
  return names;
}

/** Subtrees by the form of name that they constrain. */
type SubtreesByForm = ReadonlyMap<string, readonly GeneralName[]>;

/** Made once for each extension: one may have a hundred thousand subtrees, and stand in thousands of paths. */
const subtreesByForm = new WeakMap<NameConstraints, { readonly permitted: SubtreesByForm; readonly excluded: SubtreesByForm }>();

function groupSubtrees(constraints: NameConstraints): { readonly permitted: SubtreesByForm; readonly excluded: SubtreesByForm } {
  let groups = subtreesByForm.get(constraints);
  if (groups === undefined) {
    groups = { permitted: Map.groupBy(constraints.permitted, formOfName), excluded: Map.groupBy(constraints.excluded, formOfName) };
    subtreesByForm.set(constraints, groups);
  }
  return groups;
}

function checkNameConstraints(certificate: Certificate, constraints: readonly NameConstraints[], work: PathWork): void {
  if (constraints.length === 0) return;
  const groups = constraints.map(groupSubtrees);
  for (const name of constrainedNames(certificate)) {
    const forms = constrainingForms(name);
    const subtrees = (byForm: SubtreesByForm): readonly GeneralName[] => forms.flatMap((form) => byForm.get(form) ?? []);
    for (const group of groups) {
      const permitted = subtrees(group.permitted);
      const excluded = subtrees(group.excluded);
      work.nameComparisons(Math.max(1, permitted.length + excluded.length));
      let held = permitted.length === 0;
      for (const base of permitted) {
        const within = isWithinSubtree(name, base, false);
        if (within === undefined) throw refuse("name-not-permitted", certificate, `The name ${nameText(name)} cannot be held against a constraint`);
        held = within;
        if (held) break;
      }
      if (!held) throw refuse("name-not-permitted", certificate, `The name ${nameText(name)} is not among the permitted`);
      if (excluded.some((base) => isWithinSubtree(name, base, true) !== false)) throw refuse("name-not-permitted", certificate, `The name ${nameText(name)} is excluded`);
    }
  }
}

function nameText(name: GeneralName): string {
  return `${name.kind}:${name.value.toString()}`;
}
