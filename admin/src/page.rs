//! Lists: a bounded page, and an opaque cursor to the next one.

use crate::problem::Refused;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How many items a page has when nobody says.
const LIMIT_DEFAULT: u32 = 100;
/// The most items of a page.
pub(crate) const LIMIT_MAX: u32 = 500;
/// The longest cursor that is read, in bytes.
pub(crate) const CURSOR_BYTES_MAX: usize = 512;

/// `?limit=&cursor=`: of lists that take nothing else. Others have these two fields, and make a [`Page`] of them.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PageQuery {
    pub(crate) limit: Option<u32>,
    pub(crate) cursor: Option<String>,
}

/// Which page is asked for.
#[derive(Debug)]
pub(crate) struct Page {
    list: &'static str,
    /// At most so many items.
    pub(crate) limit: u32,
    /// The key of the last item of the page before.
    pub(crate) after: Option<String>,
}

impl Page {
    /// A page of the list of this name, which cursors carry, so that one list's cursor is none of another's.
    pub(crate) fn of(
        list: &'static str,
        limit: Option<u32>,
        cursor: Option<&str>,
    ) -> Result<Self, Refused> {
        let limit = limit.unwrap_or(LIMIT_DEFAULT);
        if !(1..=LIMIT_MAX).contains(&limit) {
            return Err(Refused::malformed(format!("`limit` must be 1 to {LIMIT_MAX}.")));
        }
        let after = cursor.map(|cursor| {
            read(list, cursor).ok_or_else(|| Refused::malformed("`cursor` is none of this list."))
        });
        Ok(Self { list, limit, after: after.transpose()? })
    }

    /// The key as one of another type: a number, an id.
    pub(crate) fn after<T: std::str::FromStr>(&self) -> Result<Option<T>, Refused> {
        let parsed = self.after.as_deref().map(str::parse);
        parsed.transpose().map_err(|_| Refused::malformed("`cursor` is none of this list."))
    }

    /// How many to ask a store for: one more than is shown, to know whether there is a next page.
    pub(crate) fn wanted(&self) -> u32 {
        self.limit + 1
    }

    /// The page of items that are at hand, in the order of their keys.
    pub(crate) fn sorted<T>(
        &self,
        items: impl Iterator<Item = (String, T)>,
    ) -> Listed<(String, T)> {
        let after = |(key, _): &(String, T)| self.after.as_ref().is_none_or(|last| key > last);
        let mut items: Vec<_> = items.filter(after).collect();
        items.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        items.truncate(usize::try_from(self.wanted()).unwrap_or(usize::MAX));
        self.listed(items, |(key, _)| key.clone())
    }

    /// The page's items, of up to [`wanted`](Self::wanted) ones.
    pub(crate) fn listed<T>(&self, mut items: Vec<T>, key: impl Fn(&T) -> String) -> Listed<T> {
        let limit = usize::try_from(self.limit).unwrap_or(usize::MAX);
        let more = items.len() > limit;
        items.truncate(limit);
        let last = items.last().filter(|_| more);
        let next_cursor =
            last.map(|last| URL_SAFE_NO_PAD.encode(format!("{}\n{}", self.list, key(last))));
        Listed { items, next_cursor }
    }
}

fn read(list: &str, cursor: &str) -> Option<String> {
    if cursor.len() > CURSOR_BYTES_MAX {
        return None;
    }
    let text = String::from_utf8(URL_SAFE_NO_PAD.decode(cursor).ok()?).ok()?;
    let (of, key) = text.split_once('\n')?;
    (of == list && !key.is_empty()).then(|| key.to_owned())
}

/// A page of a list.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "{T}List")]
pub(crate) struct Listed<T> {
    /// The items.
    pub(crate) items: Vec<T>,
    /// Where the next page begins; none after the last.
    pub(crate) next_cursor: Option<String>,
}

impl<T> Listed<T> {
    /// The page with each item turned into another.
    pub(crate) fn map<U>(self, turn: impl FnMut(T) -> U) -> Listed<U> {
        Listed { items: self.items.into_iter().map(turn).collect(), next_cursor: self.next_cursor }
    }
}
