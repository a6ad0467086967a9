-- What is written differently for each kind of database: for PostgreSQL see 0003_postgres.sql.

CREATE TRIGGER audit_keeps_what_is_written BEFORE UPDATE ON audit
BEGIN
    SELECT RAISE(ABORT, 'audit entries are never changed');
END;

CREATE TRIGGER audit_keeps_all_of_it BEFORE DELETE ON audit
BEGIN
    SELECT RAISE(ABORT, 'audit entries are never deleted');
END;

-- REPLACE would delete without asking the trigger above.
CREATE TRIGGER audit_writes_once BEFORE INSERT ON audit
WHEN EXISTS (SELECT 1 FROM audit WHERE id = NEW.id)
BEGIN
    SELECT RAISE(ABORT, 'audit entries are never changed');
END;
