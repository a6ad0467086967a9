-- Policy packs and their way into service: store/src/control, rollouts.rs, differences.rs. Times are microseconds since the
-- Unix epoch. What is ordered or compared as text is so by its bytes, whatever the database's locale.

-- Pack files, never changed.
CREATE TABLE pack_files (
    name        TEXT   COLLATE BINARY NOT NULL,
    version     TEXT   COLLATE BINARY NOT NULL,
    digest      TEXT   NOT NULL,
    -- The key that it is signed with.
    key_id      TEXT   NOT NULL,
    size        BIGINT NOT NULL,
    manifest    TEXT   NOT NULL,
    -- What its vectors came to: in short, and all of it as JSON.
    reusable    BIGINT NOT NULL,
    image       BIGINT NOT NULL,
    vectors     BIGINT NOT NULL,
    trial       TEXT   NOT NULL,
    uploaded_at BIGINT NOT NULL,
    uploaded_by TEXT   NOT NULL,
    bytes       BLOB   NOT NULL,
    PRIMARY KEY (name, version)
);

-- What packs may read.
CREATE TABLE pack_data (
    pack   TEXT   COLLATE BINARY NOT NULL,
    name   TEXT   COLLATE BINARY NOT NULL,
    put_at BIGINT NOT NULL,
    put_by TEXT   NOT NULL,
    size   BIGINT NOT NULL,
    value  BLOB   NOT NULL,
    PRIMARY KEY (pack, name)
);

-- For each pack that has or had data: the feed's version when it last changed.
CREATE TABLE pack_data_versions (
    pack    TEXT   NOT NULL PRIMARY KEY,
    version BIGINT NOT NULL
);

CREATE TABLE rollouts (
    id         TEXT   COLLATE BINARY NOT NULL PRIMARY KEY,
    attachment TEXT   NOT NULL,
    pack       TEXT   NOT NULL,
    running    TEXT   NOT NULL,
    candidate  TEXT   NOT NULL,
    started_at BIGINT NOT NULL,
    state      TEXT   NOT NULL CHECK (state IN ('open', 'promoted', 'rolled_back', 'withdrawn')),
    ended_at   BIGINT,
    reason     TEXT,
    -- Once it ended: what all processes saw in its last window, as JSON.
    samples    TEXT
);

CREATE UNIQUE INDEX rollouts_open ON rollouts (attachment, pack, running, candidate)
    WHERE state = 'open';
CREATE INDEX rollouts_pack ON rollouts (pack, id);
CREATE INDEX rollouts_attachment ON rollouts (attachment, id);
CREATE INDEX rollouts_ended_at ON rollouts (ended_at);

-- The newest revision whose rollouts were opened. One row; it also orders those who open.
CREATE TABLE rollouts_opened (revision BIGINT NOT NULL);
INSERT INTO rollouts_opened (revision) VALUES (0);

-- What one process saw of an open rollout, as JSON.
CREATE TABLE rollout_samples (
    rollout TEXT   NOT NULL,
    number  BIGINT NOT NULL,
    process TEXT   NOT NULL,
    samples TEXT   NOT NULL,
    PRIMARY KEY (rollout, number, process)
);

-- `difference` is the whole of it as JSON; the other columns are what is searched.
CREATE TABLE differences (
    id         TEXT   COLLATE BINARY NOT NULL PRIMARY KEY,
    at         BIGINT NOT NULL,
    rollout    TEXT   NOT NULL,
    attachment TEXT   NOT NULL,
    pack       TEXT   NOT NULL,
    tenant     TEXT   NOT NULL,
    difference TEXT   NOT NULL
);

CREATE INDEX differences_at ON differences (at);
CREATE INDEX differences_rollout ON differences (rollout, id);
CREATE INDEX differences_attachment ON differences (attachment, id);
CREATE INDEX differences_pack ON differences (pack, id);
CREATE INDEX differences_tenant ON differences (tenant, id);

-- What the gateway has to tell, in the order of commits.
CREATE TABLE outbox (
    number  BIGINT NOT NULL PRIMARY KEY,
    id      TEXT   NOT NULL UNIQUE,
    at      BIGINT NOT NULL,
    type    TEXT   NOT NULL,
    tenant  TEXT,
    subject TEXT   NOT NULL,
    data    TEXT   NOT NULL
);

CREATE INDEX outbox_at ON outbox (at);

-- The newest number that was given. One row, whose lock orders the commits.
CREATE TABLE outbox_newest (number BIGINT NOT NULL);
INSERT INTO outbox_newest (number) VALUES (0);
