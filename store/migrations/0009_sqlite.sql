-- Records are counted as well as bytes of answers; what an older release leaves of a record's columns is cleared; a `Location`
-- is sealed where answers are. For PostgreSQL see 0009_postgres.sql.

-- The `Location` of an answer, sealed by itself: it stays when the answer does not.
ALTER TABLE idempotency ADD COLUMN sealed_location BLOB;

-- A claim has no answer. A release that doesn't know of these columns leaves in them what the record before had.
UPDATE idempotency SET sealed = NULL WHERE sealed IS NOT NULL AND state <> 'not_retained';

-- A larger fence is a claim. Whoever claims what has expired begins anew, and nothing is in doubt.
CREATE TRIGGER idempotency_begins_anew AFTER UPDATE ON idempotency
WHEN NEW.fence <> OLD.fence AND (NEW.sealed IS NOT NULL OR NEW.sealed_location IS NOT NULL OR NEW.in_doubt <> 0)
BEGIN
    UPDATE idempotency
    SET sealed = NULL, sealed_location = NULL, in_doubt = in_doubt AND NEW.claimed_at < OLD.expires_at
    WHERE digest = NEW.digest;
END;

-- Records of each tenant, and bytes of the `Location`s that are kept outside of answers, counted as those of answers are
-- (0008).
CREATE TABLE idempotency_records (
    tenant  TEXT   NOT NULL PRIMARY KEY,
    records BIGINT NOT NULL,
    bytes   BIGINT NOT NULL
);

INSERT INTO idempotency_records (tenant, records, bytes)
SELECT tenant, COUNT(*), SUM(COALESCE(LENGTH(location), 0) + COALESCE(LENGTH(sealed_location), 0))
FROM idempotency GROUP BY tenant;

CREATE TRIGGER idempotency_records_of_new AFTER INSERT ON idempotency
BEGIN
    INSERT INTO idempotency_records (tenant, records, bytes)
    VALUES (NEW.tenant, 1, COALESCE(LENGTH(NEW.location), 0) + COALESCE(LENGTH(NEW.sealed_location), 0))
    ON CONFLICT (tenant) DO UPDATE SET records = records + 1, bytes = bytes + excluded.bytes;
END;

CREATE TRIGGER idempotency_records_of_changed AFTER UPDATE ON idempotency
WHEN COALESCE(LENGTH(NEW.location), 0) + COALESCE(LENGTH(NEW.sealed_location), 0)
    <> COALESCE(LENGTH(OLD.location), 0) + COALESCE(LENGTH(OLD.sealed_location), 0)
BEGIN
    UPDATE idempotency_records
    SET bytes = bytes + COALESCE(LENGTH(NEW.location), 0) + COALESCE(LENGTH(NEW.sealed_location), 0)
        - COALESCE(LENGTH(OLD.location), 0) - COALESCE(LENGTH(OLD.sealed_location), 0)
    WHERE tenant = NEW.tenant;
END;

CREATE TRIGGER idempotency_records_of_deleted AFTER DELETE ON idempotency
BEGIN
    UPDATE idempotency_records
    SET records = records - 1,
        bytes = bytes - COALESCE(LENGTH(OLD.location), 0) - COALESCE(LENGTH(OLD.sealed_location), 0)
    WHERE tenant = OLD.tenant;
END;
