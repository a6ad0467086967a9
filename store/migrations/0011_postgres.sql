-- Events and attempts of webhooks, in days (UTC), which are made ahead and dropped as a whole. For SQLite see
-- 0011_sqlite.sql.

-- Numbers are in the order of commits, and times don't go back along them.
CREATE TABLE webhook_events (
    number      BIGINT NOT NULL,
    accepted_at BIGINT NOT NULL,
    webhook_id  TEXT   NOT NULL,
    tenant      TEXT   NOT NULL,
    source      TEXT   NOT NULL,
    id          TEXT   NOT NULL,
    type        TEXT   NOT NULL,
    content     BYTEA  NOT NULL,
    PRIMARY KEY (number, accepted_at)
) PARTITION BY RANGE (accepted_at);

-- Takes what is of no day that was made.
CREATE TABLE webhook_events_rest PARTITION OF webhook_events DEFAULT;

CREATE INDEX webhook_events_tenant ON webhook_events (tenant, accepted_at, number);

-- What makes a repeat one. `digest`: SHA-256 of what it must be like, as base64.
CREATE TABLE webhook_ids (
    webhook_id TEXT   COLLATE "C" NOT NULL PRIMARY KEY,
    digest     TEXT   NOT NULL,
    event      BIGINT NOT NULL,
    at         BIGINT NOT NULL
);

CREATE TABLE webhook_attempts (
    delivery BIGINT NOT NULL,
    fence    BIGINT NOT NULL,
    at       BIGINT NOT NULL,
    attempt  BIGINT NOT NULL,
    took     BIGINT NOT NULL,
    outcome  TEXT   NOT NULL,
    status   BIGINT,
    excerpt  TEXT,
    node     TEXT   NOT NULL,
    PRIMARY KEY (delivery, fence, at)
) PARTITION BY RANGE (at);

CREATE TABLE webhook_attempts_rest PARTITION OF webhook_attempts DEFAULT;

-- Every row of it changes a few times within seconds: what is dead goes soon.
ALTER TABLE webhook_deliveries SET (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_insert_scale_factor = 0.1);
ALTER TABLE webhook_numbers SET (fillfactor = 10, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
ALTER TABLE webhook_waiting SET (fillfactor = 50);
ALTER TABLE webhook_aside SET (fillfactor = 10, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
