-- What gateways keep of limits: store/src/control/outbox.rs, quotas.rs. Times are microseconds since the Unix epoch.

-- What the outbox told of once, and does not tell again.
CREATE TABLE told (
    -- SHA-256 of what names it: it may be longer than what an index takes.
    digest BLOB   NOT NULL PRIMARY KEY,
    until  BIGINT NOT NULL
);

CREATE INDEX told_until ON told (until);

-- What was used of quotas that nodes count in their own processes.
CREATE TABLE quotas (
    node    TEXT   NOT NULL,
    -- SHA-256 of `counter`.
    digest  BLOB   NOT NULL,
    counter TEXT   NOT NULL,
    period  TEXT   NOT NULL,
    starts  BIGINT NOT NULL,
    ends    BIGINT NOT NULL,
    used    BIGINT NOT NULL,
    PRIMARY KEY (node, digest)
);

CREATE INDEX quotas_ends ON quotas (ends);
