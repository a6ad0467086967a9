-- Idempotency records: model/src/idempotency/record.rs. Times are microseconds since the Unix epoch.

CREATE TABLE idempotency (
    digest      BLOB   NOT NULL PRIMARY KEY,
    tenant      TEXT   NOT NULL,
    -- By what operators find a record: the hash of tenant and key.
    lookup      BLOB   NOT NULL,
    route       TEXT   NOT NULL,
    fingerprint BLOB   NOT NULL,
    fence       BIGINT NOT NULL,
    owner       TEXT   NOT NULL,
    claimed_at  BIGINT NOT NULL,
    retention   BIGINT NOT NULL,
    expires_at  BIGINT NOT NULL,
    state       TEXT   NOT NULL CHECK (state IN ('dispatched', 'done', 'not_retained', 'unknown')),
    -- When the lease ends; of other states, since when.
    state_time  BIGINT NOT NULL,
    status      BIGINT,
    location    BLOB,
    headers     BLOB,
    body        BLOB
);

CREATE INDEX idempotency_expires_at ON idempotency (expires_at);
CREATE INDEX idempotency_lookup ON idempotency (lookup);

-- The newest fence that was given. One row.
CREATE TABLE idempotency_fence (newest BIGINT NOT NULL);
INSERT INTO idempotency_fence (newest) VALUES (0);
