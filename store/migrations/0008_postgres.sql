-- Bytes of the answers that are kept, of each tenant: counted by triggers, so that whoever writes or deletes rows can't
-- forget to. In parts, by the first digit of a record's digest: the writes of a tenant would all wait for one row. For
-- SQLite see 0008_sqlite.sql.

-- Until this is committed nobody writes what neither the first count nor a trigger would see.
LOCK TABLE idempotency IN SHARE ROW EXCLUSIVE MODE;

CREATE TABLE idempotency_bytes (
    tenant TEXT   NOT NULL,
    part   TEXT   NOT NULL,
    bytes  BIGINT NOT NULL,
    PRIMARY KEY (tenant, part)
);

INSERT INTO idempotency_bytes (tenant, part, bytes)
SELECT tenant, substr(encode(digest, 'hex'), 1, 1),
    SUM(COALESCE(LENGTH(headers), 0) + COALESCE(LENGTH(body), 0) + COALESCE(LENGTH(sealed), 0))
FROM idempotency GROUP BY 1, 2;

CREATE FUNCTION idempotency_count() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    added BIGINT := COALESCE(LENGTH(NEW.headers), 0) + COALESCE(LENGTH(NEW.body), 0) + COALESCE(LENGTH(NEW.sealed), 0);
BEGIN
    IF TG_OP = 'UPDATE' THEN
        added := added - (COALESCE(LENGTH(OLD.headers), 0) + COALESCE(LENGTH(OLD.body), 0) + COALESCE(LENGTH(OLD.sealed), 0));
    END IF;
    IF added <> 0 THEN
        INSERT INTO idempotency_bytes AS counted (tenant, part, bytes)
        VALUES (NEW.tenant, substr(encode(NEW.digest, 'hex'), 1, 1), added)
        ON CONFLICT (tenant, part) DO UPDATE SET bytes = counted.bytes + excluded.bytes;
    END IF;
    RETURN NULL;
END
$$;

CREATE TRIGGER idempotency_bytes_of_new AFTER INSERT OR UPDATE ON idempotency
    FOR EACH ROW EXECUTE FUNCTION idempotency_count();

-- In one order, whoever deletes: two that do so at once don't wait for each other.
CREATE FUNCTION idempotency_uncount() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO idempotency_bytes AS counted (tenant, part, bytes)
    SELECT tenant, substr(encode(digest, 'hex'), 1, 1),
        -SUM(COALESCE(LENGTH(headers), 0) + COALESCE(LENGTH(body), 0) + COALESCE(LENGTH(sealed), 0)) AS freed
    FROM gone GROUP BY 1, 2 HAVING SUM(COALESCE(LENGTH(headers), 0) + COALESCE(LENGTH(body), 0) + COALESCE(LENGTH(sealed), 0)) > 0 ORDER BY 1, 2
    ON CONFLICT (tenant, part) DO UPDATE SET bytes = counted.bytes + excluded.bytes;
    RETURN NULL;
END
$$;

CREATE TRIGGER idempotency_bytes_of_deleted AFTER DELETE ON idempotency REFERENCING OLD TABLE AS gone
    FOR EACH STATEMENT EXECUTE FUNCTION idempotency_uncount();
