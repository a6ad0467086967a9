-- Events and attempts of webhooks: for PostgreSQL, where they lie in days, see 0011_postgres.sql.

-- Numbers are in the order of commits, and times don't go back along them.
CREATE TABLE webhook_events (
    number      INTEGER PRIMARY KEY,
    accepted_at BIGINT NOT NULL,
    webhook_id  TEXT   NOT NULL,
    tenant      TEXT   NOT NULL,
    source      TEXT   NOT NULL,
    id          TEXT   NOT NULL,
    type        TEXT   NOT NULL,
    content     BLOB   NOT NULL
);

CREATE INDEX webhook_events_tenant ON webhook_events (tenant, accepted_at, number);

-- What makes a repeat one. `digest`: SHA-256 of what it must be like, as base64.
CREATE TABLE webhook_ids (
    webhook_id TEXT   NOT NULL PRIMARY KEY,
    digest     TEXT   NOT NULL,
    event      BIGINT NOT NULL,
    at         BIGINT NOT NULL
) WITHOUT ROWID;

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
    PRIMARY KEY (delivery, fence)
) WITHOUT ROWID;
