-- One row a key; its policy is owner and readers. `revision` rises with every change of the key or of one of its versions;
-- `tag` authenticates the key with its readers and versions: see key-wrap.ts.
CREATE TABLE key_record (
  id TEXT PRIMARY KEY,
  name TEXT NOT NULL UNIQUE,
  spec TEXT NOT NULL,
  algorithms TEXT NOT NULL,
  owner TEXT NOT NULL,
  created_at INTEGER NOT NULL,
  revision INTEGER NOT NULL,
  tag BLOB NOT NULL
) STRICT;
CREATE INDEX key_record_owner ON key_record (owner, name);

CREATE TABLE key_reader (
  principal TEXT NOT NULL,
  key_id TEXT NOT NULL REFERENCES key_record (id),
  PRIMARY KEY (principal, key_id)
) STRICT;
CREATE INDEX key_reader_key ON key_reader (key_id);

-- One row a version (SP 800-57 Part 1 section 7: the state is the version's). `wrapped` is null once destroyed.
CREATE TABLE key_version (
  key_id TEXT NOT NULL REFERENCES key_record (id),
  version INTEGER NOT NULL,
  state TEXT NOT NULL,
  origin TEXT NOT NULL,
  created_at INTEGER NOT NULL,
  state_changed_at INTEGER NOT NULL,
  revocation_reason TEXT,
  wrapped BLOB,
  uses INTEGER NOT NULL DEFAULT 0,
  PRIMARY KEY (key_id, version)
) STRICT;

-- Sealed XOR of the inventory tags of all keys: see key-wrap.ts.
CREATE TABLE inventory (
  id INTEGER PRIMARY KEY CHECK (id = 1),
  sealed BLOB NOT NULL
) STRICT;

CREATE TABLE idempotency (
  caller TEXT NOT NULL,
  idempotency_key TEXT NOT NULL,
  request_digest TEXT NOT NULL,
  answer TEXT NOT NULL,
  created_at INTEGER NOT NULL,
  PRIMARY KEY (caller, idempotency_key)
) STRICT;
CREATE INDEX idempotency_age ON idempotency (created_at);

-- Denials are counted here, outside the audit log: as many rows as there are callers and operations, however many the denials.
CREATE TABLE denial_count (
  caller TEXT NOT NULL,
  operation TEXT NOT NULL,
  count INTEGER NOT NULL,
  PRIMARY KEY (caller, operation)
) STRICT;
