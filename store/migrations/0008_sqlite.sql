-- Bytes of the answers that are kept, of each tenant: counted by triggers, so that whoever writes or deletes rows can't
-- forget to. For PostgreSQL see 0008_postgres.sql.

CREATE TABLE idempotency_bytes (
    tenant TEXT   NOT NULL PRIMARY KEY,
    bytes  BIGINT NOT NULL
);

INSERT INTO idempotency_bytes (tenant, bytes)
SELECT tenant, SUM(COALESCE(LENGTH(headers), 0) + COALESCE(LENGTH(body), 0) + COALESCE(LENGTH(sealed), 0))
FROM idempotency GROUP BY tenant;

CREATE TRIGGER idempotency_bytes_of_new AFTER INSERT ON idempotency
WHEN COALESCE(LENGTH(NEW.headers), 0) + COALESCE(LENGTH(NEW.body), 0) + COALESCE(LENGTH(NEW.sealed), 0) > 0
BEGIN
    INSERT INTO idempotency_bytes (tenant, bytes)
    VALUES (NEW.tenant, COALESCE(LENGTH(NEW.headers), 0) + COALESCE(LENGTH(NEW.body), 0) + COALESCE(LENGTH(NEW.sealed), 0))
    ON CONFLICT (tenant) DO UPDATE SET bytes = bytes + excluded.bytes;
END;

CREATE TRIGGER idempotency_bytes_of_changed AFTER UPDATE ON idempotency
WHEN COALESCE(LENGTH(NEW.headers), 0) + COALESCE(LENGTH(NEW.body), 0) + COALESCE(LENGTH(NEW.sealed), 0) <> COALESCE(LENGTH(OLD.headers), 0) + COALESCE(LENGTH(OLD.body), 0) + COALESCE(LENGTH(OLD.sealed), 0)
BEGIN
    INSERT INTO idempotency_bytes (tenant, bytes)
    VALUES (NEW.tenant, COALESCE(LENGTH(NEW.headers), 0) + COALESCE(LENGTH(NEW.body), 0) + COALESCE(LENGTH(NEW.sealed), 0)
        - (COALESCE(LENGTH(OLD.headers), 0) + COALESCE(LENGTH(OLD.body), 0) + COALESCE(LENGTH(OLD.sealed), 0)))
    ON CONFLICT (tenant) DO UPDATE SET bytes = bytes + excluded.bytes;
END;

CREATE TRIGGER idempotency_bytes_of_deleted AFTER DELETE ON idempotency
WHEN COALESCE(LENGTH(OLD.headers), 0) + COALESCE(LENGTH(OLD.body), 0) + COALESCE(LENGTH(OLD.sealed), 0) > 0
BEGIN
    UPDATE idempotency_bytes
    SET bytes = bytes - (COALESCE(LENGTH(OLD.headers), 0) + COALESCE(LENGTH(OLD.body), 0) + COALESCE(LENGTH(OLD.sealed), 0))
    WHERE tenant = OLD.tenant;
END;
