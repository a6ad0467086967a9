//! When to look at what again: the in-process stores forget a little on every call, never much at once.

use std::collections::BTreeSet;

/// Keys by the time at which to look at them.
#[derive(Debug)]
pub(crate) struct Due<K>(BTreeSet<(i64, K)>);

impl<K: Ord> Default for Due<K> {
    fn default() -> Self {
        Self(BTreeSet::new())
    }
}

impl<K: Ord> Due<K> {
    /// Look at this key then (microseconds since the epoch).
    pub(crate) fn insert(&mut self, at: i64, key: K) {
        self.0.insert((at, key));
    }

    /// Do not look at this key then.
    pub(crate) fn remove(&mut self, at: i64, key: K) {
        self.0.remove(&(at, key));
    }

    /// A key whose time has come, the earliest first.
    pub(crate) fn pop(&mut self, now: i64) -> Option<K> {
        let (at, _) = self.0.first()?;
        if *at > now {
            return None;
        }
        self.0.pop_first().map(|(_, key)| key)
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_due_comes_earliest_first_and_nothing_else_does() {
        let mut due = Due::default();
        for (at, key) in [(30, "c"), (10, "a"), (20, "b"), (15, "x")] {
            due.insert(at, key);
        }
        due.remove(15, "x");
        assert_eq!(due.pop(9), None);
        assert_eq!(due.pop(20), Some("a"));
        assert_eq!(due.pop(20), Some("b"));
        assert_eq!(due.pop(20), None);
        assert_eq!(due.pop(i64::MAX), Some("c"));
        assert_eq!(due.pop(i64::MAX), None);
    }
}
