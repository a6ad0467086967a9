//! The counters of one pack for one tenant, on this node, for as long as the process runs.
//!
//! Invariant: never more than [`MAX_COUNTERS`] names, and no name is forgotten: a counter that a pack was told of goes on.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use crate::grants::Counting;

/// Counters of one pack and tenant.
pub const MAX_COUNTERS: usize = 64;
/// The longest name of a counter in bytes.
const MAX_NAME: usize = 64;

/// The counters. Taken one after the other, so that adding takes no lock.
#[derive(Debug)]
pub struct Counters {
    places: [OnceLock<Counter>; MAX_COUNTERS],
}

#[derive(Debug)]
struct Counter {
    name: Box<str>,
    value: AtomicU64,
}

impl Default for Counters {
    fn default() -> Self {
        Self { places: [const { OnceLock::new() }; MAX_COUNTERS] }
    }
}

impl Counters {
    /// One that has no room for any name.
    pub fn full() -> Self {
        let taken = || OnceLock::from(Counter { name: "".into(), value: AtomicU64::new(0) });
        Self { places: std::array::from_fn(|_| taken()) }
    }

    /// Every counter and what it is now.
    pub fn iter(&self) -> impl Iterator<Item = (&str, u64)> {
        let taken = self.places.iter().map_while(OnceLock::get);
        taken
            .filter(|counter| !counter.name.is_empty())
            .map(|counter| (&*counter.name, counter.value()))
    }

    /// What a counter is now; none when nothing was ever added to it.
    pub fn get(&self, name: &str) -> Option<u64> {
        let mut taken = self.places.iter().map_while(OnceLock::get);
        taken.find(|counter| &*counter.name == name).map(Counter::value)
    }

    /// Adds, and tells what the counter is then, at most [`u64::MAX`].
    fn add(&self, name: &str, by: u64) -> Option<u64> {
        // Whoever comes first takes a place; another one with the same name finds it there.
        let new = || Counter { name: name.into(), value: AtomicU64::new(0) };
        let counter = self
            .places
            .iter()
            .map(|place| place.get_or_init(new))
            .find(|counter| &*counter.name == name)?;
        let add = |value: u64| Some(value.saturating_add(by));
        let before = counter.value.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
        Some(before.unwrap_or_else(|value| value).saturating_add(by))
    }

    fn len(&self) -> usize {
        self.places.iter().map_while(OnceLock::get).count()
    }
}

impl Counter {
    fn value(&self) -> u64 {
        self.value.load(Ordering::Relaxed)
    }
}

/// The counters as one call sees them.
pub(crate) enum Count {
    /// Its additions stay.
    Acting(Arc<Counters>),
    /// Its additions are kept beside, for as long as the call lasts.
    Observing(Arc<Counters>, Vec<(Box<str>, u64)>),
}

impl From<Counting<'_>> for Count {
    fn from(counting: Counting<'_>) -> Self {
        match counting {
            Counting::Acting(counters) => Self::Acting(Arc::clone(counters)),
            Counting::Observing(counters) => Self::Observing(Arc::clone(counters), Vec::new()),
        }
    }
}

impl Count {
    /// Adds, and tells what the counter is then; none when there are too many, or the name is empty or too long.
    pub(crate) fn add(&mut self, name: &str, by: u64) -> Option<u64> {
        if name.is_empty() || name.len() > MAX_NAME {
            return None;
        }
        match self {
            Self::Acting(counters) => counters.add(name, by),
            Self::Observing(counters, added) => {
                let known = counters.get(name);
                let new = |(name, _): &&(Box<str>, u64)| counters.get(name).is_none();
                let at = added.iter().position(|(added, _)| &**added == name);
                if known.is_none()
                    && at.is_none()
                    && counters.len() + added.iter().filter(new).count() >= MAX_COUNTERS
                {
                    return None;
                }
                let mut sum = by;
                match at.and_then(|at| added.get_mut(at)) {
                    Some((_, before)) => {
                        *before = before.saturating_add(by);
                        sum = *before;
                    }
                    None => added.push((name.into(), by)),
                }
                Some(known.unwrap_or(0).saturating_add(sum))
            }
        }
    }
}
