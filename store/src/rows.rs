//! Between rows and types: what columns hold, and what may stand in them.
//!
//! Invariant: a row that this version can't read is [`StoreError::Unreadable`], and text is made such that both kinds of
//! database keep and index it.

use jiff::Timestamp;
use model::id::AttachmentId;
use model::port::StoreError;
use sqlx::any::AnyRow;
use sqlx::{Any, Decode, Row, Type};
use std::fmt::Write as _;

/// How many bytes of a text are searched. PostgreSQL's indexes take about 2,700.
const SEARCHED_BYTES: usize = 512;

/// Text that both kinds of database take: PostgreSQL has no NUL in texts.
pub(crate) fn text(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

/// The part of a text that is indexed and searched.
pub(crate) fn searched(whole: &str) -> String {
    text(&whole[..whole.floor_char_boundary(SEARCHED_BYTES)])
}

/// Ids of attachments, as they are searched.
pub(crate) fn searched_ids(ids: Vec<AttachmentId>) -> Vec<String> {
    ids.iter().map(|id| searched(id.as_str())).collect()
}

/// A number as columns keep it. What is more than they hold is never counted to.
pub(crate) fn stored(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// The places of so many rows' values in a statement: `($1, $2), ($3, $4)`.
pub(crate) fn places(rows: usize, columns: usize) -> String {
    let mut places = String::new();
    for row in 0..rows {
        places.push_str(if row == 0 { "(" } else { ", (" });
        for column in 1..=columns {
            let joint = if column == 1 { "" } else { ", " };
            // Writing to a String never fails.
            write!(places, "{joint}${}", row * columns + column).unwrap_or_default();
        }
        places.push(')');
    }
    places
}

/// Reads columns.
pub(crate) trait Columns {
    /// A column's value.
    fn of<'r, T>(&'r self, column: &str) -> Result<T, StoreError>
    where
        T: Decode<'r, Any> + Type<Any>;

    /// A number that is never negative.
    fn number(&self, column: &str) -> Result<u64, StoreError> {
        u64::try_from(self.of::<i64>(column)?).map_err(|_| unreadable(column))
    }

    /// A time.
    fn time(&self, column: &str) -> Result<Timestamp, StoreError> {
        time(self.of(column)?, column)
    }

    /// A time that may be absent.
    fn maybe_time(&self, column: &str) -> Result<Option<Timestamp>, StoreError> {
        self.of::<Option<i64>>(column)?.map(|micros| time(micros, column)).transpose()
    }

    /// So many bytes.
    fn bytes<const N: usize>(&self, column: &str) -> Result<[u8; N], StoreError> {
        self.of::<&[u8]>(column)?.try_into().map_err(|_| unreadable(column))
    }
}

impl Columns for AnyRow {
    fn of<'r, T>(&'r self, column: &str) -> Result<T, StoreError>
    where
        T: Decode<'r, Any> + Type<Any>,
    {
        self.try_get(column).map_err(|error| StoreError::Unreadable(error.to_string()))
    }
}

fn time(micros: i64, column: &str) -> Result<Timestamp, StoreError> {
    Timestamp::from_microsecond(micros).map_err(|_| unreadable(column))
}

/// What stands there is nothing that this version writes.
pub(crate) fn unreadable(what: impl std::fmt::Display) -> StoreError {
    StoreError::Unreadable(what.to_string())
}
