//! Queries whose conditions depend on what is asked for: only those that are given stand in the text, so that indexes are
//! used. What people look for may still take a while, so that few searches are at work at a time.

use crate::Store;
use model::port::StoreError;
use sqlx::any::{AnyArguments, AnyRow};
use sqlx::{Any, AnyConnection, Arguments as _, AssertSqlSafe, Encode, Type};
use std::time::Duration;
use tokio::sync::SemaphorePermit;
use tokio::time::timeout;

/// How many rows one query yields at most, whatever is asked for.
pub(crate) const ROWS_MAX: u32 = 2_000;
/// How many texts a column may be one of; further ones find nothing. Both kinds of database take so many values.
pub(crate) const CHOICES_MAX: usize = 10_000;
/// How many searches are at work at a time: fewer than there are connections, so that tokens, the feed and revocations are
/// read whatever people look for.
pub(crate) const SEARCHES_MAX: usize = 2;
/// How long a search waits for those before it.
pub(crate) const SEARCH_WAIT_MAX: Duration = Duration::from_secs(2);

impl Store {
    /// A place for one more search.
    pub(crate) async fn search_place(&self) -> Result<SemaphorePermit<'_>, StoreError> {
        match timeout(SEARCH_WAIT_MAX, self.searches.acquire()).await {
            Ok(place) => Ok(place.expect("the semaphore is never closed")),
            Err(_) => Err(StoreError::TimedOut(SEARCH_WAIT_MAX)),
        }
    }
}

/// A query being put together. Its text is made of constants alone; values are bound.
pub(crate) struct Search {
    sql: String,
    arguments: AnyArguments,
    joint: &'static str,
}

impl Search {
    /// A query without conditions yet: `SELECT … FROM …`.
    pub(crate) fn new(select: &'static str) -> Self {
        Self { sql: select.to_owned(), arguments: AnyArguments::default(), joint: " WHERE " }
    }

    /// A query with a condition already: `SELECT … FROM … WHERE …`.
    pub(crate) fn narrowed(select: &'static str) -> Self {
        Self { joint: " AND ", ..Self::new(select) }
    }

    /// Adds a condition without a value, if there is one.
    pub(crate) fn also(mut self, condition: Option<&'static str>) -> Self {
        if let Some(condition) = condition {
            self.sql.push_str(self.joint);
            self.sql.push_str(condition);
            self.joint = " AND ";
        }
        self
    }

    /// Adds a condition, if there is a value for it; `{}` stands for the value.
    pub(crate) fn filter<T>(
        mut self,
        condition: &'static str,
        value: Option<T>,
    ) -> Result<Self, sqlx::Error>
    where
        T: for<'q> Encode<'q, Any> + Type<Any>,
    {
        if let Some(value) = value {
            self.arguments.add(value).map_err(sqlx::Error::Encode)?;
            let place = format!("${}", self.arguments.len());
            self.sql.push_str(self.joint);
            self.sql.push_str(&condition.replace("{}", &place));
            self.joint = " AND ";
        }
        Ok(self)
    }

    /// Adds a condition that the column is one of these texts, if there are any to choose from; none fits of an empty list.
    pub(crate) fn one_of(
        mut self,
        column: &'static str,
        texts: Option<Vec<String>>,
    ) -> Result<Self, sqlx::Error> {
        let Some(texts) = texts else { return Ok(self) };
        let mut places = Vec::with_capacity(texts.len());
        for text in texts.into_iter().take(CHOICES_MAX) {
            self.arguments.add(text).map_err(sqlx::Error::Encode)?;
            places.push(format!("${}", self.arguments.len()));
        }
        self.sql.push_str(self.joint);
        match places.is_empty() {
            true => self.sql.push_str("1 = 0"),
            false => self.sql.push_str(&format!("{column} IN ({})", places.join(", "))),
        }
        self.joint = " AND ";
        Ok(self)
    }

    /// The first rows in this order.
    pub(crate) async fn first(
        mut self,
        limit: u32,
        order: &'static str,
        connection: &mut AnyConnection,
    ) -> Result<Vec<AnyRow>, sqlx::Error> {
        self.arguments.add(i64::from(limit.min(ROWS_MAX))).map_err(sqlx::Error::Encode)?;
        self.sql.push_str(&format!(" ORDER BY {order} LIMIT ${}", self.arguments.len()));
        sqlx::query_with(AssertSqlSafe(self.sql), self.arguments).fetch_all(connection).await
    }
}
