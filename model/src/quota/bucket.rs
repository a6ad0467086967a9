//! The counter of a rate: GCRA (ITU-T I.371), as one theoretical arrival time (TAT).
//!
//! Invariant: in any interval T, no more than `burst + rate·T` units are admitted, exactly. Arithmetic is in *ticks* of
//! 1/units of a microsecond, in which one unit costs a whole number: nothing is rounded, so nothing drifts. A store that
//! calculates in 53 bits can do the same with whole microseconds and the rest of ticks apart: see [`Rate::time_of`].

use super::{Level, Rate, Wait};

/// The longest backlog that an edit of the rate can leave, in microseconds: 142 years, which 53 bits hold beside the time.
pub const BACKLOG_MAX: i64 = 1 << 52;

/// How far the backlog of a rate reaches, with the rate and burst under which it grew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bucket {
    /// Whole microseconds of the TAT since the epoch.
    tat: i64,
    /// The rest of the TAT, in 1/`rate.units()` of a microsecond.
    part: u32,
    rate: Rate,
    burst: u32,
}

impl Bucket {
    /// A bucket from which nothing was taken.
    pub const fn at_rest(rate: Rate, burst: u32) -> Self {
        Self { tat: i64::MIN, part: 0, rate, burst }
    }

    /// What is used of `burst` now.
    pub fn level(&self, rate: Rate, burst: u32, now: i64) -> Level {
        let backlog = self.backlog(rate, now);
        let unit = i128::from(rate.micros());
        let left = (room(rate, burst) - backlog).max(0);
        Level {
            limit: burst.into(),
            used: to_u64(div_up(backlog, unit)),
            remaining: to_u64(left / unit),
            reset_after: Some(to_micros(div_up(backlog, rate.units().into()))),
            window: None,
        }
    }

    /// How long a request of this cost has to wait; `None` when it fits now.
    pub fn refusal(&self, rate: Rate, burst: u32, cost: u32, now: i64) -> Option<Wait> {
        let above = self.backlog(rate, now) + price(rate, cost) - room(rate, burst);
        if cost == 0 || above <= 0 {
            None
        } else if cost > burst {
            Some(Wait::Forever)
        } else {
            Some(Wait::For(to_micros(div_up(above, rate.units().into()))))
        }
    }

    /// Takes the cost, whether it fits or not: of what does not, as much as the burst has room for.
    pub fn charge(&mut self, rate: Rate, burst: u32, cost: u32, now: i64) {
        if cost == 0 {
            return;
        }
        let units = i128::from(rate.units());
        let backlog = self.backlog(rate, now);
        let most = backlog.max(room(rate, burst));
        let tat = i128::from(now) * units + (backlog + price(rate, cost)).min(most);
        *self = Self {
            tat: to_micros(tat.div_euclid(units)),
            part: u32::try_from(tat.rem_euclid(units)).unwrap_or(0),
            rate,
            burst,
        };
    }

    /// After a step back of the clock: what is used drains from now on.
    pub fn bound(&mut self, now: i64) {
        let (whole, part) = self.rate.time_of(self.burst);
        let bound = (now.saturating_add(whole), part);
        if (self.tat, self.part) > bound {
            (self.tat, self.part) = bound;
        }
    }

    /// When nothing is used any more, in microseconds since the epoch.
    pub const fn rests_at(&self) -> i64 {
        self.tat.saturating_add(1)
    }

    /// What was kept elsewhere of such a bucket.
    pub const fn restored(tat: i64, part: u32, rate: Rate, burst: u32) -> Self {
        Self { tat, part, rate, burst }
    }

    /// What was used and has not yet drained, in ticks of `rate`. A rate that was edited keeps the units, rounded up, and
    /// not the time.
    ///
    /// A backlog never exceeds the burst under which it grew. A larger one means that the clock stepped back: the burst then
    /// counts as spent, and drains from when it is next [bound](Self::bound) or charged.
    fn backlog(&self, rate: Rate, now: i64) -> i128 {
        let since = i128::from(self.tat) - i128::from(now);
        let ticks = since * i128::from(self.rate.units()) + i128::from(self.part);
        let ticks = ticks.clamp(0, room(self.rate, self.burst));
        if self.rate == rate {
            return ticks;
        }
        let units = div_up(ticks, self.rate.micros().into());
        let most = i128::from(BACKLOG_MAX) * i128::from(rate.units());
        (units * i128::from(rate.micros())).min(most)
    }
}

impl Rate {
    /// In which time so many units pass: whole microseconds, and the rest in 1/[`units`](Self::units) of a microsecond.
    pub fn time_of(self, units: u32) -> (i64, u32) {
        let (ticks, by) = (price(self, units), i128::from(self.units()));
        (to_micros(ticks.div_euclid(by)), u32::try_from(ticks.rem_euclid(by)).unwrap_or(0))
    }
}

/// The ticks of so many units.
fn price(rate: Rate, units: u32) -> i128 {
    i128::from(units) * i128::from(rate.micros())
}

/// The largest backlog.
fn room(rate: Rate, burst: u32) -> i128 {
    price(rate, burst)
}

/// Division that rounds up; `number` is not negative.
const fn div_up(number: i128, by: i128) -> i128 {
    (number + by - 1).div_euclid(by)
}

fn to_micros(number: i128) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn to_u64(number: i128) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const START: i64 = 1_800_000_000_000_000;

    fn rate(text: &str) -> Rate {
        text.parse().unwrap()
    }

    /// Charges when it fits; says whether it did.
    fn take(bucket: &mut Bucket, rate: Rate, burst: u32, cost: u32, now: i64) -> bool {
        let fits = bucket.refusal(rate, burst, cost, now).is_none();
        if fits {
            bucket.charge(rate, burst, cost, now);
        }
        fits
    }

    #[test]
    fn a_burst_of_n_admits_n_at_one_instant() {
        for (text, burst) in [("50/s", 100), ("7/s", 3), ("1/h", 1), ("1000000000/s", 5)] {
            let mut bucket = Bucket::at_rest(rate(text), burst);
            let admitted =
                (0..burst * 2).filter(|_| take(&mut bucket, rate(text), burst, 1, START)).count();
            assert_eq!(admitted, burst as usize, "{text}");
            let level = bucket.level(rate(text), burst, START);
            assert_eq!((level.used, level.remaining), (u64::from(burst), 0), "{text}");
        }
    }

    #[test]
    fn a_rate_that_does_not_divide_a_second_has_no_drift() {
        // 7/s: one unit takes 142857 1/7 µs. After an hour of asking every 100 µs: the burst and 7 · 3600, not one less.
        let (rate, burst) = (rate("7/s"), 3);
        let mut bucket = Bucket::at_rest(rate, burst);
        let admitted = (0..=36_000_000_i64)
            .filter(|step| take(&mut bucket, rate, burst, 1, START + step * 100))
            .count();
        assert_eq!(admitted, 3 + 7 * 3600);
    }

    #[test]
    fn retry_after_is_the_first_microsecond_at_which_it_fits() {
        for (text, burst, cost) in
            [("1/s", 3, 1), ("7/s", 3, 2), ("50/s", 100, 100), ("3/min", 1, 1), ("11/h", 4, 3)]
        {
            let rate = rate(text);
            let mut bucket = Bucket::at_rest(rate, burst);
            bucket.charge(rate, burst, burst, START);
            let Some(Wait::For(wait)) = bucket.refusal(rate, burst, cost, START) else {
                panic!("{text}: not refused")
            };
            assert!(bucket.refusal(rate, burst, cost, START + wait - 1).is_some(), "{text}");
            assert!(bucket.refusal(rate, burst, cost, START + wait).is_none(), "{text}");
        }
    }

    #[test]
    fn a_cost_above_the_burst_never_fits_and_no_cost_always_does() {
        let (rate, mut bucket) = (rate("1/s"), Bucket::at_rest(rate("1/s"), 2));
        assert_eq!(bucket.refusal(rate, 2, 3, START), Some(Wait::Forever));
        bucket.charge(rate, 2, 2, START);
        assert_eq!(bucket.refusal(rate, 2, 0, START), None);
        assert_eq!(bucket.refusal(rate, 1, 0, START), None);
    }

    #[test]
    fn an_edit_keeps_what_was_used() {
        let (old, burst) = (rate("10/h"), 100);
        let mut bucket = Bucket::at_rest(old, burst);
        bucket.charge(old, burst, 60, START);
        for (text, burst, remaining) in [
            ("10/h", 100, 40),
            ("10/h", 200, 140),
            ("10/h", 50, 0),
            ("1000/s", 100, 40),
            ("7/min", 100, 40),
        ] {
            let level = bucket.level(rate(text), burst, START);
            assert_eq!((level.used, level.remaining), (60, remaining), "{text} {burst}");
        }
        // A raised rate drains what was used at the new rate: 60 units at 1000/s are 60 ms, no longer 6 h.
        assert_eq!(bucket.level(rate("1000/s"), 100, START).reset_after, Some(60_000));
        // A burst that was cut and raised again has forgotten nothing.
        bucket.charge(old, 10, 0, START);
        assert_eq!(bucket.level(old, 100, START).used, 60);
    }

    #[test]
    fn a_clock_that_steps_back_locks_for_no_longer_than_the_burst() {
        let (rate, burst) = (rate("50/s"), 100);
        let mut bucket = Bucket::at_rest(rate, burst);
        bucket.charge(rate, burst, 1, START);
        let back = START - 3_600_000_000;
        assert_eq!(bucket.level(rate, burst, back).used, 100);
        assert_eq!(bucket.refusal(rate, burst, 1, back), Some(Wait::For(20_000)));
        // From the first look that may write on, the new time holds.
        bucket.bound(back);
        assert_eq!(bucket.refusal(rate, burst, 1, back + 19_999), Some(Wait::For(1)));
        assert_eq!(bucket.refusal(rate, burst, 1, back + 20_000), None);
        bucket.charge(rate, burst, 0, back);
        assert!(!take(&mut bucket, rate, burst, 1, back));
        let mut bucket = Bucket::at_rest(rate, burst);
        bucket.charge(rate, burst, 1, START);
        bucket.charge(rate, burst, 1, back);
        assert_eq!(bucket.level(rate, burst, back + 2_020_000).used, 0);
    }

    #[test]
    fn the_extremes_do_not_overflow() {
        for text in ["1/h", "1000000000/s", "1000000000/h"] {
            for now in [i64::MIN, -1, 0, START, i64::MAX] {
                let mut bucket = Bucket::at_rest(rate(text), u32::MAX);
                bucket.charge(rate(text), u32::MAX, u32::MAX, now);
                bucket.charge(rate("1/h"), u32::MAX, u32::MAX, now);
                let _ = bucket.refusal(rate("1000000000/s"), 1, u32::MAX, i64::MIN);
                let _ = bucket.level(rate("1/h"), u32::MAX, i64::MAX);
            }
        }
    }

    proptest! {
        /// The bound, over every pair of admissions; and no request is refused that an exact bucket would admit.
        #[test]
        fn any_interval_admits_at_most_burst_plus_rate_times_t(
            units in 1_u32..200,
            unit in prop::sample::select(vec!["s", "min", "h"]),
            burst in 1_u32..20,
            steps in prop::collection::vec((0_i64..3_000_000, 1_u32..8), 1..120),
        ) {
            let rate: Rate = format!("{units}/{unit}").parse().unwrap();
            let mut bucket = Bucket::at_rest(rate, burst);
            let mut admitted: Vec<(i64, u32)> = Vec::new();
            let mut now = START;
            // What is left in an exact bucket, in ticks.
            let mut left = price(rate, burst);
            for (step, cost) in steps {
                now += step;
                left = (left + i128::from(step) * i128::from(units)).min(price(rate, burst));
                let expected = price(rate, cost) <= left;
                prop_assert_eq!(take(&mut bucket, rate, burst, cost, now), expected);
                if expected {
                    left -= price(rate, cost);
                    admitted.push((now, cost));
                }
            }
            for (first, (from, _)) in admitted.iter().enumerate() {
                let mut sum = 0_i128;
                for (to, cost) in &admitted[first..] {
                    sum += i128::from(*cost);
                    let bound = price(rate, burst) + i128::from(to - from) * i128::from(units);
                    prop_assert!(sum * i128::from(rate.micros()) <= bound);
                }
            }
        }
    }
}
