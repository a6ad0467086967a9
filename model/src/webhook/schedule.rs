//! When a delivery that failed is tried again.
//!
//! Invariants: each delay is spread by ±20 %, so that what failed together does not come back together; what the endpoint
//! asks for (`Retry-After`) makes a delay longer, never shorter, and never longer than [`RETRY_AFTER_MAX`].

use crate::document::Schedule;
use std::time::Duration;

/// The delays of `standard`, in seconds: the example of Standard Webhooks. Ten attempts over 75 hours.
pub const STANDARD: [u64; 9] = [5, 300, 1_800, 7_200, 18_000, 36_000, 50_400, 72_000, 86_400];
/// How far a delay is spread to either side.
pub const JITTER: f64 = 0.2;
/// The longest wait that an endpoint is granted by `Retry-After`.
pub const RETRY_AFTER_MAX: Duration = Duration::from_secs(3_600);

impl Schedule {
    /// How long to wait after this attempt, the first being 1; none after the last one.
    ///
    /// `spread`: where in its range the delay lies, from 0 to 1. `asked`: the endpoint's `Retry-After`.
    pub fn delay(&self, attempt: u32, spread: f64, asked: Option<Duration>) -> Option<Duration> {
        let index = usize::try_from(attempt.checked_sub(1)?).ok()?;
        let planned = match self {
            Self::Standard => Duration::from_secs(*STANDARD.get(index)?),
            Self::Delays(delays) => delays.get(index)?.0,
        };
        let factor = 1.0 - JITTER + 2.0 * JITTER * spread.clamp(0.0, 1.0);
        let floor = asked.unwrap_or_default().min(RETRY_AFTER_MAX);
        Some(planned.mul_f64(factor).max(floor))
    }

    /// From the first attempt to the last at most, by its delays: spread as far as they are, and each as long as the endpoint
    /// may ask for.
    pub fn longest(&self) -> Duration {
        let delay = |attempt| self.delay(attempt, 1.0, Some(RETRY_AFTER_MAX));
        (1..).map_while(delay).fold(Duration::ZERO, Duration::saturating_add)
    }

    /// How many attempts there are.
    pub fn attempts(&self) -> usize {
        1 + match self {
            Self::Standard => STANDARD.len(),
            Self::Delays(delays) => delays.len(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units;
    use proptest::prelude::*;

    #[test]
    fn the_standard_schedule_is_ten_attempts_over_three_days() {
        let schedule = Schedule::Standard;
        assert_eq!(schedule.attempts(), 10);
        let total: Duration =
            (1..=9).map(|attempt| schedule.delay(attempt, 0.5, None).unwrap()).sum();
        assert_eq!(total, Duration::from_secs(75 * 3_600 + 35 * 60 + 5));
        assert_eq!(schedule.delay(10, 0.5, None), None);
        assert_eq!(schedule.delay(0, 0.5, None), None);
        assert_eq!(schedule.delay(u32::MAX, 0.5, None), None);
    }

    #[test]
    fn what_the_endpoint_asks_for_is_a_floor_with_a_cap() {
        let schedule = Schedule::Delays(vec![units::Duration(Duration::from_secs(10))]);
        let delay = |asked| schedule.delay(1, 0.5, Some(Duration::from_secs(asked))).unwrap();
        assert_eq!(delay(3).as_secs(), 10, "never shorter");
        assert_eq!(delay(30).as_secs(), 30);
        assert_eq!(delay(u64::MAX), RETRY_AFTER_MAX);
    }

    #[test]
    fn the_longest_way_is_spread_and_asked_for_as_far_as_may_be() {
        let seconds = |seconds| units::Duration(Duration::from_secs(seconds));
        for (schedule, longest) in [
            (Schedule::Delays(vec![]), 0),
            (Schedule::Delays(vec![seconds(10_000)]), 12_000),
            // An endpoint may ask for an hour.
            (Schedule::Delays(vec![seconds(1), seconds(1)]), 7_200),
            (Schedule::Standard, 3 * 3_600 + (20 + 50 + 100 + 140 + 200 + 240) * 360 * 6 / 5),
        ] {
            assert_eq!(schedule.longest().as_secs(), longest, "{schedule:?}");
        }
    }

    proptest! {
        #[test]
        fn a_delay_stays_within_a_fifth_of_what_is_planned(
            millis in prop::collection::vec(1_u64..1_000_000_000, 1..64),
            attempt in 1_u32..80,
            spread in 0.0..=1.0,
        ) {
            let delays = millis.iter().map(|n| units::Duration(Duration::from_millis(*n))).collect();
            let delay = Schedule::Delays(delays).delay(attempt, spread, None);
            let planned = millis.get(attempt as usize - 1);
            prop_assert_eq!(delay.is_some(), planned.is_some());
            if let (Some(delay), Some(planned)) = (delay, planned) {
                let planned = Duration::from_millis(*planned);
                prop_assert!(delay >= planned.mul_f64(0.799) && delay <= planned.mul_f64(1.201));
            }
        }
    }
}
