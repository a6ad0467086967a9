-- Records are counted as well as bytes of answers; what an older release leaves of a record's columns is cleared; a `Location`
-- is sealed where answers are; fences don't go back. For SQLite see 0009_sqlite.sql.

-- Traffic queues behind whoever waits for this lock: it is tried again, rather than waited for.
SET LOCAL lock_timeout = '2s';
-- Until this is committed nobody writes what neither the first count nor a trigger would see. No other table that releases
-- in service lock is locked: whoever waits for this one can't be waited for.
LOCK TABLE idempotency IN ACCESS EXCLUSIVE MODE;

-- The `Location` of an answer, sealed by itself: it stays when the answer does not.
ALTER TABLE idempotency ADD COLUMN sealed_location BLOB;

-- A claim has no answer. A release that doesn't know of these columns leaves in them what the record before had.
UPDATE idempotency SET sealed = NULL WHERE sealed IS NOT NULL AND state <> 'not_retained';

-- A larger fence is a claim. Whoever claims what has expired begins anew, and nothing is in doubt.
CREATE FUNCTION idempotency_begin_anew() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.sealed := NULL;
    NEW.sealed_location := NULL;
    IF NEW.claimed_at >= OLD.expires_at THEN
        NEW.in_doubt := 0;
    END IF;
    RETURN NEW;
END
$$;

CREATE TRIGGER idempotency_begins_anew BEFORE UPDATE ON idempotency
    FOR EACH ROW WHEN (NEW.fence <> OLD.fence) EXECUTE FUNCTION idempotency_begin_anew();

-- Records of each tenant, and bytes of the `Location`s that are kept outside of answers, counted as those of answers are
-- (0008).
CREATE TABLE idempotency_records (
    tenant  TEXT   NOT NULL,
    part    TEXT   NOT NULL,
    records BIGINT NOT NULL,
    bytes   BIGINT NOT NULL,
    PRIMARY KEY (tenant, part)
);

INSERT INTO idempotency_records (tenant, part, records, bytes)
SELECT tenant, substr(encode(digest, 'hex'), 1, 1), COUNT(*),
    SUM(COALESCE(LENGTH(location), 0) + COALESCE(LENGTH(sealed_location), 0))
FROM idempotency GROUP BY 1, 2;

CREATE FUNCTION idempotency_count_records() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    added_records BIGINT := 1;
    added_bytes BIGINT := COALESCE(LENGTH(NEW.location), 0) + COALESCE(LENGTH(NEW.sealed_location), 0);
BEGIN
    IF TG_OP = 'UPDATE' THEN
        added_records := 0;
        added_bytes := added_bytes - COALESCE(LENGTH(OLD.location), 0) - COALESCE(LENGTH(OLD.sealed_location), 0);
    END IF;
    IF added_records <> 0 OR added_bytes <> 0 THEN
        INSERT INTO idempotency_records AS counted (tenant, part, records, bytes)
        VALUES (NEW.tenant, substr(encode(NEW.digest, 'hex'), 1, 1), added_records, added_bytes)
        ON CONFLICT (tenant, part) DO UPDATE
        SET records = counted.records + excluded.records, bytes = counted.bytes + excluded.bytes;
    END IF;
    RETURN NULL;
END
$$;

CREATE TRIGGER idempotency_records_of_new AFTER INSERT OR UPDATE ON idempotency
    FOR EACH ROW EXECUTE FUNCTION idempotency_count_records();

-- In one order, whoever deletes: two that do so at once don't wait for each other.
CREATE FUNCTION idempotency_uncount_records() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO idempotency_records AS counted (tenant, part, records, bytes)
    SELECT tenant, substr(encode(digest, 'hex'), 1, 1), -COUNT(*),
        -SUM(COALESCE(LENGTH(location), 0) + COALESCE(LENGTH(sealed_location), 0))
    FROM gone GROUP BY 1, 2 ORDER BY 1, 2
    ON CONFLICT (tenant, part) DO UPDATE
    SET records = counted.records + excluded.records, bytes = counted.bytes + excluded.bytes;
    RETURN NULL;
END
$$;

CREATE TRIGGER idempotency_records_of_deleted AFTER DELETE ON idempotency REFERENCING OLD TABLE AS gone
    FOR EACH STATEMENT EXECUTE FUNCTION idempotency_uncount_records();

-- Fences follow the clock, so that they grow also where a backup was put back, or a replica took over that was behind. One
-- is given at a time, for as long as that takes and not for a transaction: between the two steps nobody else may take one.
CREATE FUNCTION idempotency_next_fence() RETURNS BIGINT LANGUAGE plpgsql AS $$
DECLARE
    turns CONSTANT BIGINT := hashtextextended('idempotency_fences', 0);
    fence BIGINT;
    clock BIGINT;
BEGIN
    PERFORM pg_advisory_lock(turns);
    fence := nextval('idempotency_fences');
    clock := EXTRACT(EPOCH FROM clock_timestamp()) * 1000000;
    IF fence < clock THEN
        fence := setval('idempotency_fences', clock);
    END IF;
    PERFORM pg_advisory_unlock(turns);
    RETURN fence;
END
$$;
