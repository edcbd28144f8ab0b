import type { ErrorCode } from "#pki/errors.ts";

/** Families of the catalogue: paths, revocation, transport, key exchange, ciphertext and keys. */
export type Family = "P" | "R" | "T" | "K" | "C";
export type ArmName = "naive" | "signet";

/**
 * How an arm ended for Mallory: a code of Signet, or `socket-cut` where the victim closed the connection by itself and
 * so sent no code.
 */
export type Refusal = ErrorCode | "socket-cut";

/** One arrow of a sequence diagram. `kind` decides its colour and its mark, never the colour alone. */
export interface DiagramStep {
  readonly from: string;
  readonly to: string;
  readonly label: string;
  readonly kind: "message" | "attack" | "loss" | "refusal";
}

/** What people read about an attack. The code of its two arms is in the family's file, under the same id. */
export interface Attack {
  /** Letter of the family and two digits, as in the catalogue. */
  readonly id: string;
  readonly title: string;
  /** What Mallory has at the start: a place on the wire, a certificate of her own, a copied key. */
  readonly mallory: string;
  /** What she does, in one or two sentences. */
  readonly how: string;
  /** The mistake that the naive arm makes. */
  readonly naive: string;
  /** What stops her in Signet. */
  readonly defence: string;
  /** Where the rule or the attack is written down. */
  readonly source: string;
  /** Code with which Signet has to refuse. Any other refusal counts as a failure of the run. */
  readonly expected: Refusal;
  /** What the refusal's detail has to hold as well, where the code alone stands for several reasons. */
  readonly because?: string;
  readonly diagram: Readonly<Record<ArmName, readonly DiagramStep[]>>;
}

/** PEM text of a certificate (chain) and its PKCS #8 key. */
export interface PemCredential {
  readonly certificate: string;
  readonly chain: string;
  readonly key: string;
}

/**
 * A small authority made for this run, whose keys Mallory may use where the attack supposes a careless issuer. Victims of
 * both arms trust its root. Nothing outside the attacks ever trusts it.
 */
export interface Laboratory {
  readonly trustDomain: string;
  readonly root: PemCredential;
  readonly issuing: PemCredential;
  readonly kms: PemCredential;
  readonly alice: PemCredential;
  readonly bob: PemCredential;
  readonly mallory: PemCredential;
  /** Serial number of Bob's certificate in hexadecimal, as CRL entries name it. */
  readonly bobSerialNumber: string;
  /** The root's empty CRL, and a CRL of the issuing CA without entries, number 1. PEM. */
  readonly rootCrl: string;
  readonly emptyCrl: string;
  /** CRL number 2 of the issuing CA, a minute younger: Bob is on it. PEM. */
  readonly bobRevokedCrl: string;
}

/** The CA, the KMS and the parties of this run, as far as an attacker or a victim has to find them. */
export interface LiveSystem {
  readonly trustDomain: string;
  readonly rootFingerprint: string;
  readonly enrolmentUrl: string;
  readonly mutualUrl: string;
  readonly publicationUrl: string;
  readonly kmsUrl: string;
  /** Identity directories, by party. What Mallory opens of another's is what she has stolen. */
  readonly identities: Readonly<Record<string, string>>;
}

export interface World {
  readonly laboratory: Laboratory;
  readonly live?: LiveSystem;
  /** Directory of this arm alone, for copies and state. */
  readonly directory: string;
}

/** What both processes of an arm have: the world, a line to each other, and cues for the director of the run. */
export interface Stage {
  readonly world: World;
  /** Sends to the other process of this arm what it could find out by itself, such as a port. */
  tell(topic: string, value?: unknown): void;
  hear(topic: string): Promise<unknown>;
  /** Asks the director for something that honest people do at this point, such as to revoke a certificate. */
  direct(cue: string, value?: unknown): Promise<unknown>;
  /** Resolves when the other side has finished; servers stay until then. */
  readonly end: Promise<void>;
  /** A fact for the evidence of the arm. It decides nothing. */
  note(text: string): void;
  /** Runs when this process is about to leave. */
  onEnd(close: () => unknown): void;
}

export interface VictimStage extends Stage {
  /** The canary: 32 random bytes of this arm, in lower-case hexadecimal. Mallory is never given it. */
  readonly secret: string;
  /** The victim's code took this value for true. */
  accepted(value: string): void;
  /** The victim's code refused, with this code. */
  refused(code: string, detail?: string): void;
}

export interface MalloryStage extends Stage {
  /** A random value of this arm that nobody but Mallory can have made up. */
  readonly forgery: string;
  /** Writes to Mallory's own log whatever she got hold of. Bytes are written in hexadecimal. */
  log(...things: readonly (string | Uint8Array)[]): void;
  /** Declares a further forged value, such as the hash of a replayed message. */
  claim(value: string): void;
  /** The code that a live service answered her with. */
  refused(code: string, detail?: string): void;
}

/** The processes of one arm. Without a victim of its own, Mallory attacks the live system of the run. */
export interface Arm {
  readonly victim?: (stage: VictimStage) => Promise<void>;
  readonly mallory: (stage: MalloryStage) => Promise<void>;
  /** Needs `world.live`. */
  readonly live?: boolean;
}

export type FamilyArms = Readonly<Record<string, Readonly<Record<ArmName, Arm>>>>;

export interface Verdict {
  readonly id: string;
  readonly arm: ArmName;
  readonly attackerWon: boolean;
  /** The canary stands in Mallory's log. */
  readonly canarySeen: boolean;
  readonly reasonCode: string | null;
  /** `attacker-wins` for a naive arm, the code of the refusal for Signet's. */
  readonly expected: "attacker-wins" | Refusal;
  readonly ms: number;
}

/** A verdict with what people want to see of it. Evidence holds hashes of secrets, never secrets. */
export interface ArmResult extends Verdict {
  readonly asExpected: boolean;
  readonly evidence: readonly string[];
}
