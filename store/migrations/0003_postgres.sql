-- What is written differently for each kind of database: for SQLite see 0003_sqlite.sql.

-- Fences come from a sequence: all claims would wait for one row.
CREATE SEQUENCE idempotency_fences AS BIGINT;

-- Ids and paths are ordered by their bytes, whatever the database's locale.
ALTER TABLE audit
    ALTER COLUMN id TYPE TEXT COLLATE "C",
    ALTER COLUMN resource TYPE TEXT COLLATE "C";
ALTER TABLE tokens ALTER COLUMN id TYPE TEXT COLLATE "C";
ALTER TABLE nodes ALTER COLUMN name TYPE TEXT COLLATE "C";
ALTER TABLE records ALTER COLUMN id TYPE TEXT COLLATE "C";

CREATE FUNCTION audit_is_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'audit entries are never changed nor deleted';
END
$$;

CREATE TRIGGER audit_keeps_what_is_written BEFORE UPDATE OR DELETE OR TRUNCATE ON audit
    FOR EACH STATEMENT EXECUTE FUNCTION audit_is_append_only();
