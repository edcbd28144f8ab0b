import type { Clock } from "#pki/clock.ts";
import { parseIdentityUri, type Identity } from "#pki/certificate-profile.ts";
import { SignetError } from "#pki/errors.ts";
import type { KeyDescription } from "#pki/protocol-kms.ts";
import type { GroupKey, KmsClient } from "./kms-client.ts";
import { newStream, openMessage, readMessageHeader, ReplayWindow, sealMessage, type MessageStream } from "./message.ts";

/** A message of another member. */
export interface OpenedMessage {
  /** Whom the message names: every member holds the group's key, so that a member could have sealed it in another's name. */
  readonly sender: Identity;
  /** Version of the group's key, from 1. */
  readonly keyVersion: number;
  /** As the sender handed it in. */
  readonly plaintext: Uint8Array;
}

/** Age, by monotonic time, from which the group's key is confirmed with the KMS before it seals or opens anything. */
const keyAgeMilliseconds = 60_000;

/**
 * A group of agents that share a key of the KMS: its owner and its readers are the members. Messages are sealed under the latest
 * version that this agent knows; whatever is sealed under an older one is refused, since a version is left behind when a member leaves.
 * An agent learns of a new version from the first message under it, from {@link refresh}, and at the latest after a minute.
 */
export class Group {
  /** Name of the key at the KMS. */
  readonly name: string;
  readonly #self: Identity;
  readonly #kms: Pick<KmsClient, "material" | "describeKey" | "changeReaders" | "rotateKey">;
  readonly #clock: Clock;
  readonly #replay = new ReplayWindow();
  readonly #stream: MessageStream;
  #sequence = 0;
  #current: { readonly key: GroupKey; readonly confirmedAt: number } | undefined;
  #refreshing: Promise<GroupKey> | undefined;

  /** @internal an agent has one object a group: see `Agent.group` */
  constructor(i: {
    readonly name: string;
    readonly self: Identity;
    readonly kms: Pick<KmsClient, "material" | "describeKey" | "changeReaders" | "rotateKey">;
    readonly clock: Clock;
  }) {
    this.name = i.name;
    this.#self = i.self;
    this.#kms = i.kms;
    this.#clock = i.clock;
    this.#stream = newStream(i.clock.now());
  }

  /** Seals a message to the group. @throws SignetError not-permitted where the KMS no longer gives this agent the key */
  async seal(plaintext: Uint8Array): Promise<Uint8Array> {
    const key = await this.#confirmedKey();
    this.#sequence += 1;
    const header = { sender: this.#self.uri, group: this.name, keyVersion: key.version, stream: this.#stream, sequence: this.#sequence };
    return sealMessage(key.secret, header, plaintext);
  }

  /**
   * Opens a message of another member, once.
   * @throws SignetError message-malformed, message-superseded (sealed under a version that this agent knows a newer one of), message-replayed,
   *   decryption-failed, peer-is-self (one's own message, sent back), not-permitted
   */
  async open(message: Uint8Array): Promise<OpenedMessage> {
    const claimed = readMessageHeader(message);
    if (claimed.group !== this.name) throw new SignetError("message-malformed", `A message of another group than ${this.name}.`);
    if (claimed.sender === this.#self.uri) throw new SignetError("peer-is-self", "One's own message came back.");
    const sender = parseSender(claimed.sender, this.#self.trustDomain);
    let key = await this.#confirmedKey();
    if (claimed.keyVersion > key.version) key = await this.refresh();
    if (claimed.keyVersion > key.version) throw new SignetError("message-malformed", `Version ${claimed.keyVersion} of ${this.name} does not exist.`);
    if (claimed.keyVersion < key.version) {
      throw new SignetError("message-superseded", `The message is sealed under version ${claimed.keyVersion} of ${this.name}; the group is at ${key.version}.`, {
        details: { group: this.name, keyVersion: claimed.keyVersion, current: key.version },
      });
    }
    const { header, plaintext } = openMessage(key.secret, message);
    this.#replay.accept(header);
    return { sender, keyVersion: header.keyVersion, plaintext };
  }

  /** Asks the KMS for the latest version, and returns it. */
  refresh(): Promise<GroupKey> {
    // Many messages may tell of a new version at once; they share one request.
    this.#refreshing ??= this.#fetch().finally(() => {
      this.#refreshing = undefined;
    });
    return this.#refreshing;
  }

  /** Has the key confirmed with the KMS before it is used again: something happened that may have changed who has it. */
  expire(): void {
    if (this.#current !== undefined) this.#current = { ...this.#current, confirmedAt: Number.NEGATIVE_INFINITY };
  }

  /** Makes a new version, which all who remain readers may fetch. For the owner. */
  async rotate(): Promise<GroupKey> {
    await this.#kms.rotateKey(this.name);
    return this.#fetch();
  }

  /** Lets an agent have the key, its present version included. For the owner. */
  async addMember(uri: string): Promise<void> {
    await this.#changeReaders((readers) => [...new Set([...readers, uri])]);
  }

  /** Takes an agent off the readers, and then rotates, since what it has it keeps. For the owner. */
  async removeMember(uri: string): Promise<GroupKey> {
    await this.#changeReaders((readers) => readers.filter((reader) => reader !== uri));
    return this.rotate();
  }

  /** Description of the group's key, as the KMS gives it: owner, readers, versions. */
  describe(): Promise<KeyDescription> {
    return this.#kms.describeKey(this.name);
  }

  async #changeReaders(change: (readers: readonly string[]) => readonly string[]): Promise<void> {
    const description = await this.#kms.describeKey(this.name);
    await this.#kms.changeReaders(this.name, change(description.distribution.readers), description.etag);
  }

  async #confirmedKey(): Promise<GroupKey> {
    const current = this.#current;
    if (current !== undefined && this.#clock.monotonicMilliseconds() - current.confirmedAt < keyAgeMilliseconds) return current.key;
    return this.refresh();
  }

  async #fetch(): Promise<GroupKey> {
    const askedAt = this.#clock.monotonicMilliseconds();
    let key: GroupKey;
    try {
      key = await this.#kms.material(this.name, "latest");
    } catch (error) {
      // A refused key must not go on for the rest of its minute.
      if (error instanceof SignetError && !error.retryable) this.#current = undefined;
      throw error;
    }
    const known = this.#current?.key;
    if (known !== undefined && known.id === key.id && key.version < known.version) return known;
    this.#current = { key, confirmedAt: askedAt };
    return key;
  }
}

function parseSender(uri: string, trustDomain: string): Identity {
  let sender: Identity;
  try {
    sender = parseIdentityUri(uri);
  } catch (error) {
    throw new SignetError("message-malformed", "The sender of the message is not an identity.", { cause: error });
  }
  if (sender.trustDomain !== trustDomain) throw new SignetError("message-malformed", "The sender of the message is of another trust domain.");
  return sender;
}
