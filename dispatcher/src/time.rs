//! The store's time: what is due is due by the clock of the store, which is the server's on PostgreSQL.

use jiff::Timestamp;
use model::Clock;
use std::sync::atomic::{AtomicI64, Ordering};

/// The process' clock, moved by what the store's differs from it.
#[derive(Debug)]
pub(crate) struct StoreTime {
    clock: Clock,
    /// In microseconds.
    ahead: AtomicI64,
}

impl StoreTime {
    /// Not known to differ.
    pub(crate) const fn new(clock: Clock) -> Self {
        Self { clock, ahead: AtomicI64::new(0) }
    }

    /// The store's time now, in microseconds since the epoch.
    pub(crate) fn micros(&self) -> i64 {
        self.clock.micros().saturating_add(self.ahead.load(Ordering::Relaxed))
    }

    /// The process' own clock: to be asked before the store is.
    pub(crate) fn own(&self) -> i64 {
        self.clock.micros()
    }

    /// The store, asked at `asked` by the process' clock, said that it is `now`. Half of what the answer took is its way.
    pub(crate) fn heard(&self, now: Timestamp, asked: i64) {
        let middle = asked.midpoint(self.clock.micros());
        self.ahead.store(now.as_microsecond().saturating_sub(middle), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn the_stores_clock_is_told_to_half_of_the_way() {
        let clock = Clock::manual(Timestamp::UNIX_EPOCH);
        let time = StoreTime::new(clock.clone());
        let asked = time.own();
        clock.advance(Duration::from_millis(4));
        time.heard("1970-01-01T00:01:00.002Z".parse().unwrap(), asked);
        assert_eq!(time.micros(), 60_004_000);
    }
}
