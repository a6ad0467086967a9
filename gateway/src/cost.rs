//! What an answer of the upstream says that its request cost (`cost_from_response_header`).
//!
//! Invariant: what is no cost changes nothing: then the request costs what its route says, or a pack.

use http::{HeaderMap, HeaderName};
use model::quota::Rate;
use std::sync::atomic::{AtomicBool, Ordering};

/// The most that one answer may cost, in units: what the largest burst is.
const COST_MAX: u32 = Rate::MAX;

/// A route's header that says the cost.
pub struct CostHeader {
    name: HeaderName,
    warned: AtomicBool,
}

/// The header is there, and is no cost.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("not one whole number from 0 to {COST_MAX}, in digits")]
pub struct NoCost;

impl CostHeader {
    /// The header of this name.
    pub fn new(name: HeaderName) -> Self {
        Self { name, warned: AtomicBool::new(false) }
    }

    /// Its name.
    pub fn name(&self) -> &HeaderName {
        &self.name
    }

    /// What it says, in units; nothing where the answer has none.
    pub fn read(&self, answer: &HeaderMap) -> Result<Option<u32>, NoCost> {
        let mut lines = answer.get_all(&self.name).iter();
        match (lines.next(), lines.next()) {
            (None, _) => Ok(None),
            (Some(only), None) => units(only.as_bytes()).map(Some).ok_or(NoCost),
            (Some(_), Some(_)) => Err(NoCost),
        }
    }

    /// Whether this is the first time that somebody is to be warned of it, for as long as the route stays as it is.
    pub fn warns(&self) -> bool {
        !self.warned.swap(true, Ordering::Relaxed)
    }
}

/// Digits only (RFC 9110 §5.6.3 leaves no space around a value).
fn units(value: &[u8]) -> Option<u32> {
    if !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let units = str::from_utf8(value).ok()?.parse().ok()?;
    (units <= COST_MAX).then_some(units)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn only_one_whole_number_is_a_cost() {
        let header = CostHeader::new(HeaderName::from_static("x-cost"));
        for (lines, cost) in [
            (&[][..], Ok(None)),
            (&["0"], Ok(Some(0))),
            (&["7"], Ok(Some(7))),
            (&["007"], Ok(Some(7))),
            (&["1000000000"], Ok(Some(1_000_000_000))),
            (&["1000000001"], Err(NoCost)),
            (&["99999999999999999999"], Err(NoCost)),
            (&[""], Err(NoCost)),
            (&["-1"], Err(NoCost)),
            (&["+1"], Err(NoCost)),
            (&["1.5"], Err(NoCost)),
            (&["1, 2"], Err(NoCost)),
            (&["7 units"], Err(NoCost)),
            (&["7", "7"], Err(NoCost)),
        ] {
            let mut answer = HeaderMap::new();
            for line in lines {
                answer.append("x-cost", HeaderValue::from_static(line));
            }
            assert_eq!(header.read(&answer), cost, "{lines:?}");
        }
    }

    #[test]
    fn a_route_warns_once() {
        let header = CostHeader::new(HeaderName::from_static("x-cost"));
        assert_eq!([header.warns(), header.warns(), header.warns()], [true, false, false]);
    }
}
