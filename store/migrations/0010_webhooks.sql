-- Webhooks, but for events and attempts: see 0011.

-- The newest numbers, and how far fan-out has come. Who raises one holds its row until the commit. `turn`: how often
-- fan-out moved.
CREATE TABLE webhook_numbers (
    name   TEXT   NOT NULL PRIMARY KEY,
    number BIGINT NOT NULL,
    at     BIGINT NOT NULL,
    turn   BIGINT NOT NULL
);

INSERT INTO webhook_numbers (name, number, at, turn) VALUES ('events', 0, 0, 0), ('deliveries', 0, 0, 0), ('fan_out', 0, 0, 0);

-- Tenants that are aside: fan-out's cursor passes their events. `number`: up to which they are planned; `at`: no later one
-- is from before then; `turn`: when some were planned last.
CREATE TABLE webhook_aside (
    tenant TEXT   NOT NULL PRIMARY KEY,
    number BIGINT NOT NULL,
    at     BIGINT NOT NULL,
    turn   BIGINT NOT NULL
);

-- An event's way to one endpoint. `blocks`: those of its endpoint and order_key with greater numbers wait for it, and have
-- no due_at meanwhile. Those that wait for one that is parked or dead are parked, too, as `blocked`.
CREATE TABLE webhook_deliveries (
    number      INTEGER PRIMARY KEY,
    event       BIGINT NOT NULL,
    accepted_at BIGINT NOT NULL,
    tenant      TEXT   NOT NULL,
    endpoint    TEXT   NOT NULL COLLATE BINARY,
    order_key   TEXT   COLLATE BINARY,
    state       TEXT   NOT NULL,
    reason      TEXT,
    blocks      BIGINT NOT NULL,
    attempts    BIGINT NOT NULL,
    due_at      BIGINT,
    fence       BIGINT NOT NULL,
    holder      TEXT,
    held_at     BIGINT,
    hold_until  BIGINT,
    settled_at  BIGINT,
    replay      TEXT
);

-- What is claimed: lane by lane, in the order of due times.
CREATE INDEX webhook_deliveries_due ON webhook_deliveries (endpoint, due_at, number)
    WHERE state = 'pending' AND due_at IS NOT NULL;
CREATE INDEX webhook_deliveries_held ON webhook_deliveries (holder) WHERE state = 'held';
CREATE INDEX webhook_deliveries_order ON webhook_deliveries (endpoint, order_key, number) WHERE blocks = 1;
CREATE INDEX webhook_deliveries_waiting ON webhook_deliveries (endpoint, order_key, number)
    WHERE state = 'pending' AND due_at IS NULL;
-- What is taken up or left; and what is looked for, by endpoint or not.
CREATE INDEX webhook_deliveries_taken_up ON webhook_deliveries (state, endpoint, blocks, number)
    WHERE state = 'parked' AND reason <> 'blocked';
CREATE INDEX webhook_deliveries_parked ON webhook_deliveries (state, number) WHERE state = 'parked';
CREATE INDEX webhook_deliveries_parked_endpoint ON webhook_deliveries (state, endpoint, number)
    WHERE state = 'parked';
CREATE INDEX webhook_deliveries_dead ON webhook_deliveries (number) WHERE state = 'dead';
CREATE INDEX webhook_deliveries_dead_letters ON webhook_deliveries (number)
    WHERE state = 'dead' AND reason <> 'discarded';
CREATE INDEX webhook_deliveries_event ON webhook_deliveries (event);
CREATE INDEX webhook_deliveries_endpoint ON webhook_deliveries (endpoint, number);
CREATE INDEX webhook_deliveries_tenant ON webhook_deliveries (tenant, number);

-- How much of a tenant's waits: events that are not fanned out yet, and deliveries that are pending or held. In parts: the
-- writes of a tenant would all wait for one row.
CREATE TABLE webhook_waiting (
    tenant  TEXT   NOT NULL,
    part    BIGINT NOT NULL,
    waiting BIGINT NOT NULL,
    PRIMARY KEY (tenant, part)
);

-- What is known of endpoints beside the document. `recovery`: what is still to be done with those that were parked up to
-- the number `recover_to`. `enabled_at`: when somebody enabled it last. `named_at`: when a document was known to name it,
-- an hour late at most.
CREATE TABLE webhook_standings (
    endpoint        TEXT   NOT NULL PRIMARY KEY,
    tenant          TEXT   NOT NULL,
    failing_since   BIGINT,
    open_until      BIGINT,
    opened          BIGINT NOT NULL,
    disabled_reason TEXT,
    disabled_since  BIGINT,
    at              BIGINT NOT NULL,
    recovery        TEXT,
    recover_to      BIGINT,
    enabled_at      BIGINT,
    named_at        BIGINT NOT NULL DEFAULT 0
);

CREATE TABLE webhook_dispatchers (
    name    TEXT   NOT NULL PRIMARY KEY,
    beat_at BIGINT NOT NULL
);

-- Who reads on from where: one at a time under each name, known by a fence.
CREATE TABLE webhook_readers (
    name       TEXT   NOT NULL PRIMARY KEY,
    holder     TEXT   NOT NULL,
    fence      BIGINT NOT NULL,
    hold_until BIGINT NOT NULL,
    state      TEXT   NOT NULL
);

CREATE TABLE webhook_replays (
    id         TEXT   NOT NULL PRIMARY KEY COLLATE BINARY,
    tenant     TEXT   NOT NULL,
    request    TEXT   NOT NULL,
    state      TEXT   NOT NULL,
    created_at BIGINT NOT NULL,
    created_by TEXT   NOT NULL,
    counted    BIGINT NOT NULL,
    queued     BIGINT NOT NULL,
    skipped    BIGINT NOT NULL,
    cursor_at  BIGINT NOT NULL,
    cursor     BIGINT NOT NULL,
    ended_at   BIGINT,
    holder     TEXT,
    fence      BIGINT NOT NULL,
    hold_until BIGINT NOT NULL
);

CREATE INDEX webhook_replays_running ON webhook_replays (hold_until) WHERE state = 'running';

-- Deliveries that were deleted and came to nothing, until their tenants are told. `first_at`, `last_at`: when their events
-- were accepted.
CREATE TABLE webhook_expired (
    tenant   TEXT   NOT NULL,
    endpoint TEXT   NOT NULL,
    pending  BIGINT NOT NULL,
    parked   BIGINT NOT NULL,
    dead     BIGINT NOT NULL,
    first_at BIGINT NOT NULL,
    last_at  BIGINT NOT NULL,
    PRIMARY KEY (tenant, endpoint)
);
