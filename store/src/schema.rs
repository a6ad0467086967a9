//! The schema: its changes in order, one text for both kinds of database.
//!
//! Invariant: a change only adds, and what was released is never edited. Two releases serve together through an upgrade, so
//! that a column goes a release after the last one that reads it; and the older release opens what the newer one wrote.

use sqlx::SqlSafeStr as _;
use sqlx::migrate::{Migration, MigrationType, Migrator};

/// A kind of database, as far as texts differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    Sqlite,
    Postgres,
}

/// Every change of the schema, in order. Texts that both share are written as SQLite takes them; PostgreSQL's name for
/// `BLOB` is `BYTEA`, and for `BINARY`, the order by bytes, `"C"`; a key that SQLite keeps rows by is a `BIGINT` there.
pub(crate) fn migrator(dialect: Dialect) -> Migrator {
    let (own, bytes, counts, events) = match dialect {
        Dialect::Sqlite => (
            include_str!("../migrations/0003_sqlite.sql"),
            include_str!("../migrations/0008_sqlite.sql"),
            include_str!("../migrations/0009_sqlite.sql"),
            include_str!("../migrations/0011_sqlite.sql"),
        ),
        Dialect::Postgres => (
            include_str!("../migrations/0003_postgres.sql"),
            include_str!("../migrations/0008_postgres.sql"),
            include_str!("../migrations/0009_postgres.sql"),
            include_str!("../migrations/0011_postgres.sql"),
        ),
    };
    let changes = [
        ("idempotency", include_str!("../migrations/0001_idempotency.sql")),
        ("control", include_str!("../migrations/0002_control.sql")),
        ("dialect", own),
        ("searches", include_str!("../migrations/0004_searches.sql")),
        ("packs", include_str!("../migrations/0005_packs.sql")),
        ("limits", include_str!("../migrations/0006_limits.sql")),
        ("sealed", include_str!("../migrations/0007_sealed.sql")),
        ("bytes", bytes),
        ("counts", counts),
        ("webhooks", include_str!("../migrations/0010_webhooks.sql")),
        ("events", events),
    ];
    let changes = (1..).zip(changes).map(|(version, (name, sql))| {
        let sql = match dialect {
            Dialect::Sqlite => sql.into_sql_str(),
            Dialect::Postgres => {
                let sql = sql.replace("BLOB", "BYTEA").replace("COLLATE BINARY", "COLLATE \"C\"");
                let sql = sql.replace("INTEGER PRIMARY KEY", "BIGINT PRIMARY KEY");
                sqlx::AssertSqlSafe(sql).into_sql_str()
            }
        };
        Migration::new(version, name.into(), MigrationType::Simple, sql, false)
    });
    let mut migrator = Migrator::with_migrations(changes.collect());
    migrator.set_ignore_missing(true);
    migrator
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What was released is never edited: databases hold the checksums.
    #[test]
    fn released_changes_are_what_they_were() {
        let released = [(
            1,
            "54afd3cf9039a27933d448e85df473e811afbe9c3b637eb6161f47386d329c18cacdec9b3d2f96e03b6afd7beea70a5f",
        )];
        let changes = migrator(Dialect::Sqlite);
        for (version, sum) in released {
            let change = changes.iter().find(|change| change.version == version).unwrap();
            let hex: String = change.checksum.iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(hex, sum, "{version}");
        }
    }

    #[test]
    fn both_kinds_have_every_change_and_postgres_no_blob() {
        let (sqlite, postgres) = (migrator(Dialect::Sqlite), migrator(Dialect::Postgres));
        let names = |migrator: &Migrator| {
            migrator.iter().map(|c| (c.version, c.description.clone())).collect::<Vec<_>>()
        };
        assert_eq!(names(&sqlite), names(&postgres));
        assert!(postgres.iter().all(|change| !change.sql.as_str().contains("BLOB")));
    }
}
