//! State by key, for as long as somebody uses it.
//!
//! Invariant: who asks for the same key at the same time gets the same state. What nobody uses any more is swept before the
//! map may double, so that it holds at most twice what is in use.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// From so many entries on, unused ones are looked for.
const SWEPT_FROM: usize = 64;

pub(crate) struct Known<V>(Mutex<Entries<V>>);

struct Entries<V> {
    by_key: HashMap<Arc<str>, Weak<V>>,
    sweep_at: usize,
}

impl<V> Default for Known<V> {
    fn default() -> Self {
        Self(Mutex::new(Entries { by_key: HashMap::new(), sweep_at: SWEPT_FROM }))
    }
}

impl<V> Known<V> {
    /// What is known under this key, or what is made for it now.
    pub(crate) fn get(&self, key: &str, make: impl FnOnce() -> V) -> Arc<V> {
        let mut entries = self.entries();
        if let Some(known) = entries.by_key.get(key).and_then(Weak::upgrade) {
            return known;
        }
        if entries.by_key.len() >= entries.sweep_at {
            entries.by_key.retain(|_, value| value.strong_count() > 0);
            entries.sweep_at = (entries.by_key.len() * 2).max(SWEPT_FROM);
        }
        let made = Arc::new(make());
        entries.by_key.insert(key.into(), Arc::downgrade(&made));
        made
    }

    /// Who asks for the key from now on gets another state; who has this one keeps it.
    pub(crate) fn forget(&self, key: &str) {
        self.entries().by_key.remove(key);
    }

    /// Everything that is in use.
    pub(crate) fn in_use(&self) -> Vec<Arc<V>> {
        self.entries().by_key.values().filter_map(Weak::upgrade).collect()
    }

    fn entries(&self) -> MutexGuard<'_, Entries<V>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn state_lives_as_long_as_somebody_uses_it() {
        let known = Known::<u32>::default();
        let one = known.get("a", || 1);
        assert!(Arc::ptr_eq(&one, &known.get("a", || 2)));
        assert_eq!(known.in_use().len(), 1);
        known.forget("a");
        let other = known.get("a", || 3);
        assert_eq!((*one, *other), (1, 3));
        drop(other);
        assert_eq!(*known.get("a", || 4), 4);
        assert!(known.in_use().is_empty());
    }

    #[test]
    fn the_map_stays_within_twice_of_what_is_in_use() {
        let known = Known::<usize>::default();
        let kept: Vec<_> = (0..100).map(|key| known.get(&key.to_string(), || key)).collect();
        for key in 100..10_000 {
            known.get(&key.to_string(), || key);
            assert!(known.entries().by_key.len() <= 2 * kept.len() + SWEPT_FROM);
        }
        assert_eq!(known.in_use().len(), kept.len());
    }

    #[test]
    fn who_asks_at_the_same_time_gets_the_same() {
        let known = Known::<usize>::default();
        for round in 0..200 {
            let key = round.to_string();
            let both = std::thread::scope(|scope| {
                let ask = || scope.spawn(|| known.get(&key, || round));
                let (one, other) = (ask(), ask());
                [one.join().unwrap(), other.join().unwrap()]
            });
            let [one, other] = both;
            // The first may have let go before the second asked: each of them was handed one that lived.
            assert_eq!((*one, *other), (round, round));
            assert!(Arc::ptr_eq(&one, &other));
        }
    }
}
