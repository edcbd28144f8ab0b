-- Times are milliseconds since 1970. Serial numbers, key ids and digests are lower-case hex.

-- The authority's own keys: root, issuing, server. sealed_key: AES-256-GCM under the unseal key, see ca/sealed-keys.ts.
CREATE TABLE authority_key (
  name TEXT PRIMARY KEY,
  certificate BLOB NOT NULL,
  sealed_key BLOB NOT NULL
) STRICT;

-- What was fixed at initialisation: one row, JSON.
CREATE TABLE authority_settings (
  id INTEGER PRIMARY KEY CHECK (id = 1),
  settings TEXT NOT NULL
) STRICT;

-- Every serial number that was ever taken, in the order in which it was. `intended` until its certificate is recorded;
-- `abandoned` where that never happened: such a certificate has left the authority in no case.
CREATE TABLE certificate (
  id INTEGER PRIMARY KEY,
  serial_number TEXT NOT NULL UNIQUE,
  issuer_key_id TEXT NOT NULL,
  crl_name TEXT NOT NULL,
  identity TEXT NOT NULL,
  role TEXT NOT NULL,
  spki_fingerprint TEXT NOT NULL,
  tbs_digest TEXT NOT NULL,
  not_before INTEGER NOT NULL,
  not_after INTEGER NOT NULL,
  state TEXT NOT NULL CHECK (state IN ('intended', 'issued', 'abandoned')),
  certificate BLOB CHECK ((certificate IS NULL) = (state <> 'issued')),
  revoked_at INTEGER,
  reason TEXT CHECK ((reason IS NULL) = (revoked_at IS NULL))
) STRICT;
CREATE INDEX certificate_by_identity ON certificate (identity);
CREATE INDEX certificate_by_key ON certificate (spki_fingerprint);
CREATE INDEX certificate_revoked ON certificate (crl_name, not_after) WHERE revoked_at IS NOT NULL;

-- Keys that were revoked for keyCompromise: nobody certifies them again.
CREATE TABLE barred_key (
  spki_fingerprint TEXT PRIMARY KEY,
  barred_at INTEGER NOT NULL
) STRICT;

-- The DNS names and addresses (JSON arrays) of an identity's server role, as an operator set them.
CREATE TABLE server_name (
  identity TEXT PRIMARY KEY,
  dns TEXT NOT NULL,
  ip TEXT NOT NULL
) STRICT;

-- One-time tokens, of which the SHA-256 alone is kept. serial_number: the intent that burnt it.
CREATE TABLE enrolment_token (
  token_hash TEXT PRIMARY KEY,
  identity TEXT NOT NULL,
  dns TEXT NOT NULL,
  ip TEXT NOT NULL,
  expires_at INTEGER NOT NULL,
  serial_number TEXT,
  revoked_at INTEGER
) STRICT;
CREATE INDEX enrolment_token_by_identity ON enrolment_token (identity);
CREATE INDEX enrolment_token_by_serial ON enrolment_token (serial_number);

-- A number is taken with its entries in one transaction, before anything is signed, and never again: published_at and crl
-- are null for one that did not get past the publication gate, crl also for those that later ones have replaced.
CREATE TABLE crl (
  name TEXT NOT NULL,
  number INTEGER NOT NULL,
  this_update INTEGER NOT NULL,
  next_update INTEGER NOT NULL,
  published_at INTEGER,
  crl BLOB,
  PRIMARY KEY (name, number)
) STRICT;
