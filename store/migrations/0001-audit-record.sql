-- record: JSON text, exactly as it was hashed. hash: SHA-256, see store/audit-log.ts.
CREATE TABLE audit_record (
  sequence INTEGER PRIMARY KEY,
  record TEXT NOT NULL,
  hash BLOB NOT NULL
) STRICT;
