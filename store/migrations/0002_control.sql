-- The control plane: store/src/control.rs, records.rs. Times are microseconds since the Unix epoch.

-- Grows with every write that nodes must notice. One row; it also orders those who publish.
CREATE TABLE feed (version BIGINT NOT NULL);
INSERT INTO feed (version) VALUES (0);

-- Texts of documents, each once.
CREATE TABLE documents (
    digest TEXT NOT NULL PRIMARY KEY,
    text   TEXT NOT NULL
);

CREATE TABLE revisions (
    number BIGINT NOT NULL PRIMARY KEY,
    at     BIGINT NOT NULL,
    digest TEXT   NOT NULL REFERENCES documents (digest),
    size   BIGINT NOT NULL,
    author TEXT   NOT NULL,
    action TEXT   NOT NULL,
    -- A JSON array of names; NULL when it is everybody's.
    nodes  TEXT
);

-- Append-only. `entry` is the whole of it as JSON; the other columns are what is searched.
CREATE TABLE audit (
    id       TEXT   NOT NULL PRIMARY KEY,
    at       BIGINT NOT NULL,
    tenant   TEXT,
    actor    TEXT   NOT NULL,
    action   TEXT   NOT NULL,
    resource TEXT   NOT NULL,
    entry    TEXT   NOT NULL
);

CREATE INDEX audit_at ON audit (at);
CREATE INDEX audit_tenant ON audit (tenant, id);
CREATE INDEX audit_actor ON audit (actor, id);
CREATE INDEX audit_action ON audit (action, id);
CREATE INDEX audit_resource ON audit (resource, id);

CREATE TABLE tokens (
    id         TEXT   NOT NULL PRIMARY KEY,
    -- SHA-256 of the token.
    hash       BLOB   NOT NULL UNIQUE,
    name       TEXT   NOT NULL,
    role       TEXT   NOT NULL,
    tenant     TEXT,
    created_at BIGINT NOT NULL,
    expires_at BIGINT,
    revoked_at BIGINT
);

CREATE INDEX tokens_tenant ON tokens (tenant, id);

CREATE TABLE revocations (
    -- SHA-256 of `what`: it may be longer than what an index takes.
    digest BLOB   NOT NULL PRIMARY KEY,
    id     TEXT   NOT NULL,
    at     BIGINT NOT NULL,
    until  BIGINT,
    -- What is refused, as JSON.
    what   TEXT   NOT NULL
);

CREATE INDEX revocations_until ON revocations (until);

CREATE TABLE nodes (
    name    TEXT   NOT NULL PRIMARY KEY,
    seen_at BIGINT NOT NULL,
    report  TEXT   NOT NULL
);

-- Answers for repeats of a request with an Idempotency-Key.
CREATE TABLE answers (
    digest      BLOB   NOT NULL PRIMARY KEY,
    fingerprint BLOB   NOT NULL,
    status      BIGINT NOT NULL,
    sealed      BLOB   NOT NULL,
    until       BIGINT NOT NULL
);

CREATE INDEX answers_until ON answers (until);

-- Decision records. `record` is the whole of it as JSON; the other columns are what is searched.
CREATE TABLE records (
    id         TEXT   NOT NULL PRIMARY KEY,
    at         BIGINT NOT NULL,
    request_id TEXT   NOT NULL,
    trace_id   TEXT   NOT NULL,
    tenant     TEXT,
    consumer   TEXT,
    route      TEXT   NOT NULL,
    error      TEXT,
    record     TEXT   NOT NULL
);

CREATE INDEX records_at ON records (at);
CREATE INDEX records_request_id ON records (request_id);
CREATE INDEX records_trace_id ON records (trace_id);
CREATE INDEX records_tenant ON records (tenant, id);

-- What a deployment shares, made by whoever was first.
CREATE TABLE kept (
    name  TEXT NOT NULL PRIMARY KEY,
    value BLOB NOT NULL
);
