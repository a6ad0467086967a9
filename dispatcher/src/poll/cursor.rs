//! How far a source was read, and what the next question repeats of it: pure.

use crate::inbound::at;
use jiff::{SignedDuration, Timestamp};
use model::document::{Poll, PollCursor, Source};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sha2::{Digest as _, Sha256};
use std::cmp::Ordering;
use std::time::Duration;

/// The longest cursor that is repeated, in bytes.
const CURSOR_BYTES_MAX: usize = 8_192;

/// Numbers from here on are times in milliseconds since the epoch, smaller ones in seconds: the year 5138.
const MILLIS_FROM: f64 = 1e11;

/// What is kept of a source between two questions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct State {
    /// What was asked: the rest means nothing for another address or cursor.
    of: String,
    /// The mark that the next question repeats.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) cursor: Option<String>,
    /// `ETag` of the last answer to this question.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) etag: Option<String>,
    /// `Last-Modified` of the last answer to this question.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) last_modified: Option<String>,
    /// When it is asked again, in microseconds since the epoch.
    pub(super) next_at: i64,
    /// How often in a row it could not be read.
    #[serde(default)]
    pub(super) failures: u32,
}

/// Which question of a turn it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// The first: it reaches back, since entries may appear late.
    First,
    /// One that goes on from the last answer.
    Next,
}

impl State {
    /// This, if it is of the source as it is described now; else as if it had never been read.
    pub(super) fn of(self, source: &Source) -> Self {
        let of = source.poll.as_ref().map(described).unwrap_or_default();
        if self.of == of { self } else { Self { of, ..Self::default() } }
    }

    /// After how long it is due; none when it is. One that is further away than can be is due: a clock was wrong.
    pub(super) fn due_in(&self, now: i64, longest: Duration) -> Option<Duration> {
        let left = u64::try_from(self.next_at.saturating_sub(now)).ok().filter(|left| *left > 0)?;
        let left = Duration::from_micros(left);
        (left <= longest).then_some(left)
    }

    /// As if it had never been read.
    pub(super) fn start_over(&mut self) {
        (self.cursor, self.etag, self.last_modified) = (None, None, None);
    }

    /// The parameters of the next question.
    pub(super) fn query(&self, poll: &Poll, step: Step) -> Vec<(String, String)> {
        let mut query = Vec::new();
        if let (Some(cursor), Some(mark)) = (&poll.cursor, &self.cursor) {
            let mark = match (step, cursor.overlap) {
                (Step::First, Some(overlap)) => back(mark, overlap.0),
                _ => mark.clone(),
            };
            query.push((cursor.parameter.clone(), mark));
        }
        if let Some(wait) = &poll.wait {
            query.push((wait.parameter.clone(), wait.time.0.as_secs().to_string()));
        }
        query
    }

    /// Moves on by an answer. Whether it moved.
    pub(super) fn advance(
        &mut self,
        cursor: &PollCursor,
        answer: &RawValue,
        entries: &[&RawValue],
    ) -> bool {
        let next = match (&cursor.from, &cursor.newest) {
            (Some(from), _) => at(answer, from).and_then(mark),
            (None, Some(newest)) => {
                let marks = entries.iter().filter_map(|entry| at(entry, newest).and_then(mark));
                let newest = marks.max_by(|one, other| in_time(one, other));
                let is_newer = |mark: &String| {
                    let known = self.cursor.as_ref();
                    known.is_none_or(|known| in_time(mark, known) == Ordering::Greater)
                };
                newest.filter(is_newer)
            }
            (None, None) => None,
        };
        match next {
            Some(next) if self.cursor.as_ref() != Some(&next) => {
                // They are of another question.
                (self.etag, self.last_modified) = (None, None);
                self.cursor = Some(next);
                true
            }
            _ => false,
        }
    }
}

/// What a mark depends on.
fn described(poll: &Poll) -> String {
    let cursor = poll.cursor.as_ref();
    let parts = [
        Some(&poll.url),
        Some(&poll.items),
        cursor.map(|cursor| &cursor.parameter),
        cursor.and_then(|cursor| cursor.from.as_ref()),
        cursor.and_then(|cursor| cursor.newest.as_ref()),
    ];
    let mut hash = Sha256::new();
    for part in parts {
        let part = part.map_or("", String::as_str);
        hash.update(part.len().to_be_bytes());
        hash.update(part);
    }
    hash.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

/// A string or a number, as text; none for what is no mark.
fn mark(text: &RawValue) -> Option<String> {
    let text = text.get();
    let text = match text.as_bytes().first()? {
        b'"' => serde_json::from_str(text).ok()?,
        b'-' | b'0'..=b'9' => text.to_owned(),
        _ => return None,
    };
    Some(text).filter(|text: &String| (1..=CURSOR_BYTES_MAX).contains(&text.len()))
}

/// The order of two marks: as times, as numbers, or as text.
fn in_time(one: &str, other: &str) -> Ordering {
    if let (Ok(one), Ok(other)) = (one.parse::<Timestamp>(), other.parse::<Timestamp>()) {
        return one.cmp(&other);
    }
    if let (Ok(one), Ok(other)) = (one.parse::<i128>(), other.parse::<i128>()) {
        return one.cmp(&other);
    }
    if let (Ok(one), Ok(other)) = (one.parse::<f64>(), other.parse::<f64>()) {
        return one.total_cmp(&other);
    }
    one.cmp(other)
}

/// A mark that lies so far before this one; the same where it is no time.
fn back(mark: &str, overlap: Duration) -> String {
    let by = SignedDuration::try_from(overlap).unwrap_or(SignedDuration::MAX);
    if let Ok(time) = mark.parse::<Timestamp>() {
        return time.checked_sub(by).unwrap_or(Timestamp::UNIX_EPOCH).to_string();
    }
    if let Ok(number) = mark.parse::<i64>() {
        let millis = mark.parse::<f64>().is_ok_and(|number| number >= MILLIS_FROM);
        let by = if millis { overlap.as_millis() } else { overlap.as_secs().into() };
        return number.saturating_sub(i64::try_from(by).unwrap_or(i64::MAX)).to_string();
    }
    mark.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn source(poll: Value) -> Source {
        let source = json!({ "id": "legacy", "tenant": "acme", "poll": poll });
        serde_json::from_value(source).expect("a source")
    }

    fn raw(value: &Value) -> Box<RawValue> {
        serde_json::value::to_raw_value(value).expect("JSON")
    }

    /// What the questions of a turn repeat, after answers with these entries or marks.
    fn asked(cursor: Value, answers: &[Value]) -> Vec<String> {
        let source =
            source(json!({ "url": "https://crm.example/", "items": "/items", "cursor": cursor }));
        let poll = source.poll.as_ref().expect("a poll");
        let mut state = State::default().of(&source);
        let mut asked = Vec::new();
        for answer in answers {
            let answer = raw(answer);
            let items = at(&answer, "/items").expect("items");
            let entries: Vec<&RawValue> = serde_json::from_str(items.get()).expect("a list");
            state.advance(poll.cursor.as_ref().expect("a cursor"), &answer, &entries);
            let query = |step| {
                let query = state.query(poll, step).pop();
                query.map_or_else(|| "-".to_owned(), |(name, mark)| format!("{name}={mark}"))
            };
            asked.push(format!("{} {}", query(Step::First), query(Step::Next)));
        }
        asked
    }

    #[test]
    fn the_next_question_repeats_the_mark_of_the_answer() {
        let cursor = json!({ "parameter": "after", "from": "/next" });
        let answers = [
            json!({ "items": [], "next": null }),
            json!({ "items": [], "next": "a b" }),
            json!({ "items": [], "next": 17 }),
            json!({ "items": [] }),
            json!({ "items": [], "next": "" }),
            json!({ "items": [], "next": {} }),
        ];
        let same = "after=17 after=17";
        assert_eq!(asked(cursor, &answers), ["- -", "after=a b after=a b", same, same, same, same]);
    }

    #[test]
    fn the_newest_entry_is_repeated_and_the_first_question_reaches_back() {
        let cursor = json!({ "parameter": "since", "newest": "/at", "overlap": "30s" });
        let page = |marks: Value| {
            let marks = marks.as_array().expect("marks").iter();
            json!({ "items": marks.map(|mark| json!({ "at": mark })).collect::<Value>() })
        };
        for (marks, expected) in [
            (
                vec![json!(["2026-11-21T15:04:05Z", "2026-11-21T15:05:00+02:00"])],
                vec!["since=2026-11-21T15:03:35Z since=2026-11-21T15:04:05Z"],
            ),
            // An older page moves nothing back.
            (
                vec![json!([1_780_000_100]), json!([1_780_000_050]), json!([])],
                vec!["since=1780000070 since=1780000100"; 3],
            ),
            (vec![json!([1_780_000_000_000_i64])], vec!["since=1779999970000 since=1780000000000"]),
            (vec![json!(["9", "10"])], vec!["since=-20 since=10"]),
            (vec![json!(["v9", "v10"])], vec!["since=v9 since=v9"]),
            (vec![json!([null, true])], vec!["- -"]),
        ] {
            let answers: Vec<Value> = marks.iter().map(|marks| page(marks.clone())).collect();
            assert_eq!(asked(cursor.clone(), &answers), expected, "{marks:?}");
        }
    }

    #[test]
    fn another_address_or_cursor_is_read_from_the_start() {
        let one = source(json!({ "url": "https://crm.example/a", "interval": "5s" }));
        let state = State { cursor: Some("7".to_owned()), next_at: 9, ..State::default().of(&one) };
        let later = source(json!({ "url": "https://crm.example/a", "interval": "60s" }));
        assert_eq!(state.clone().of(&later), state);
        for other in [
            json!({ "url": "https://crm.example/b" }),
            json!({ "url": "https://crm.example/a", "items": "/items" }),
            json!({ "url": "https://crm.example/a", "cursor": { "parameter": "p", "from": "/n" } }),
        ] {
            let state = state.clone().of(&source(other));
            assert_eq!((state.cursor, state.next_at), (None, 0));
        }
    }

    #[test]
    fn a_time_that_is_too_far_away_is_due() {
        let state = State { next_at: 10_000_000, ..State::default() };
        let hour = Duration::from_secs(3_600);
        assert_eq!(state.due_in(4_000_000, hour), Some(Duration::from_secs(6)));
        assert_eq!(state.due_in(10_000_000, hour), None);
        assert_eq!(state.due_in(11_000_000, hour), None);
        assert_eq!(state.due_in(4_000_000, Duration::from_secs(5)), None);
    }
}
