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
/// `BLOB` is `BYTEA`.
pub(crate) fn migrator(dialect: Dialect) -> Migrator {
    let own = match dialect {
        Dialect::Sqlite => include_str!("../migrations/0003_sqlite.sql"),
        Dialect::Postgres => include_str!("../migrations/0003_postgres.sql"),
    };
    let changes = [
        ("idempotency", include_str!("../migrations/0001_idempotency.sql")),
        ("control", include_str!("../migrations/0002_control.sql")),
        ("dialect", own),
    ];
    let changes = (1..).zip(changes).map(|(version, (name, sql))| {
        let sql = match dialect {
            Dialect::Sqlite => sql.into_sql_str(),
            Dialect::Postgres => sqlx::AssertSqlSafe(sql.replace("BLOB", "BYTEA")).into_sql_str(),
        };
        Migration::new(version, name.into(), MigrationType::Simple, sql, false)
    });
    let mut migrator = Migrator::with_migrations(changes.collect());
    migrator.set_ignore_missing(true);
    migrator
}
