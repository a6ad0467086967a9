//! Texts of SQL that serve both kinds of database, with what differs put in; and many rows as one parameter, so that a batch
//! is one statement that is read once.
//!
//! In a text `{rows}` is a table of the columns that the text is made with, read from the JSON array that is bound as `$1`;
//! `{now}` is the time in microseconds: the server's, and in SQLite the process'. `{lock}` and `{skip}` follow a query that
//! takes rows: with `{lock}` it waits for those that others have, with `{skip}` it leaves them. With `{share}` those of the
//! table `s` stay as they are until the commit. `{part}` is where a connection counts.

use crate::db::is_postgres;
use serde::Serialize;
use sqlx::any::AnyArguments;
use sqlx::query::Query;
use sqlx::{Any, AnyConnection};
use std::sync::OnceLock;

/// A statement.
pub(super) struct Sql {
    text: &'static str,
    columns: &'static str,
    made: OnceLock<[String; 2]>,
}

impl Sql {
    pub(super) const fn new(text: &'static str) -> Self {
        Self::of_rows("", text)
    }

    /// One with `{rows}` of these columns: `number BIGINT, state TEXT`.
    pub(super) const fn of_rows(columns: &'static str, text: &'static str) -> Self {
        Self { text, columns, made: OnceLock::new() }
    }

    /// The text for the database at the other end.
    pub(super) fn on(&'static self, connection: &AnyConnection) -> &'static str {
        let [sqlite, postgres] = self.made.get_or_init(|| [self.sqlite(), self.postgres()]);
        if is_postgres(connection) { postgres } else { sqlite }
    }

    /// The text for one kind.
    #[cfg(test)]
    pub(super) fn of(&'static self, is_postgres: bool) -> &'static str {
        let [sqlite, postgres] = self.made.get_or_init(|| [self.sqlite(), self.postgres()]);
        if is_postgres { postgres } else { sqlite }
    }

    /// The statement, with nothing bound yet.
    pub(super) fn query(
        &'static self,
        connection: &AnyConnection,
    ) -> Query<'static, Any, AnyArguments> {
        sqlx::query(self.on(connection))
    }

    /// The statement, with these rows bound.
    pub(super) fn with<T: Serialize>(
        &'static self,
        connection: &AnyConnection,
        rows: &[T],
    ) -> Result<Query<'static, Any, AnyArguments>, sqlx::Error> {
        let rows =
            serde_json::to_string(rows).map_err(|error| sqlx::Error::Encode(error.into()))?;
        Ok(self.query(connection).bind(rows))
    }

    fn sqlite(&self) -> String {
        let names = self.columns.split(", ").filter_map(|column| column.split(' ').next());
        let columns: Vec<_> = names.map(|name| format!("value ->> '{name}' AS {name}")).collect();
        self.text
            .replace("{rows}", &format!("(SELECT {} FROM json_each($1))", columns.join(", ")))
            .replace("{now}", "CAST(unixepoch('subsec') * 1000000 AS INTEGER)")
            .replace("{lock}", "")
            .replace("{skip}", "")
            .replace("{share}", "")
            .replace("{part}", "0")
    }

    fn postgres(&self) -> String {
        let rows =
            format!("(SELECT * FROM json_to_recordset($1::json) AS given({}))", self.columns);
        self.text
            .replace("{rows}", &rows)
            .replace("{now}", "CAST(EXTRACT(EPOCH FROM statement_timestamp()) * 1000000 AS BIGINT)")
            .replace("{lock}", "FOR UPDATE")
            .replace("{skip}", "FOR UPDATE SKIP LOCKED")
            .replace("{share}", "FOR SHARE OF s")
            .replace("{part}", "pg_backend_pid() % 8")
    }
}
