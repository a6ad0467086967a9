//! What a tenant is used to send, and whether it sends far more: the pure machine of adaptive protection.
//!
//! Invariants: a second in which more came than is allowed teaches the baseline nothing above itself, and what was refused
//! teaches it nothing at all, so that a flood never becomes the norm, however long it lasts; nobody is slowed below the
//! floor, nor before being seen for a half-life. Time is microseconds since the epoch and
//! is counted in whole seconds; a clock that steps back stops nothing.

use super::{Rate, Wait};

const SECOND: i64 = 1_000_000;

/// When a tenant is slowed, and to how much.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PaceRules {
    /// How many times its baseline is admitted.
    pub factor: u32,
    /// In which time the baseline follows half of a change, in microseconds.
    pub half_life: i64,
    /// What is admitted whatever the baseline is.
    pub floor: Rate,
    /// How long it takes until a tenant is slowed, and until it no longer is, in microseconds.
    pub patience: i64,
}

/// What one node saw of one tenant.
#[derive(Clone, Debug)]
pub struct Pace {
    began: i64,
    /// The first microsecond of the second that is counted.
    second: i64,
    offered: f64,
    admitted: f64,
    /// Units per second.
    baseline: f64,
    /// Since when every second was on the other side of what is allowed than the tenant is treated as.
    turning: Option<i64>,
    slowed: Option<Slowed>,
}

/// What a tenant has left that is slowed.
#[derive(Clone, Copy, Debug)]
struct Slowed {
    units: f64,
    at: i64,
}

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Judged {
    /// How long it has to wait; `None` when it may go on.
    pub refusal: Option<Wait>,
    /// What is new about the tenant.
    pub turn: Option<Turn>,
}

/// A tenant begins to be slowed, or ends.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Turn {
    /// It is slowed from now on.
    Slowed(Measured),
    /// It no longer is.
    Normal(Measured),
}

/// What a turn was made of, in units per second.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Measured {
    /// What the tenant is used to send.
    pub baseline: f64,
    /// What it may send.
    pub allowed: f64,
    /// What it sent in the last whole second.
    pub offered: f64,
}

impl Pace {
    /// A tenant that is seen for the first time.
    pub const fn new(now: i64) -> Self {
        Self {
            began: now,
            second: now,
            offered: 0.0,
            admitted: 0.0,
            baseline: 0.0,
            turning: None,
            slowed: None,
        }
    }

    /// Counts a request of so many units and says what becomes of it.
    pub fn came(&mut self, rules: &PaceRules, cost: u32, now: i64) -> Judged {
        let turn = self.advance(rules, now);
        let units = f64::from(cost);
        self.offered += units;
        let allowed = self.allowed(rules);
        let refusal =
            self.slowed.as_mut().and_then(|slowed| slowed.take(units, allowed, rules, now));
        if refusal.is_none() {
            self.admitted += units;
        }
        Judged { refusal, turn }
    }

    /// A request that came in this second was refused by others: it teaches nothing.
    pub fn refused(&mut self, cost: u32) {
        self.admitted = (self.admitted - f64::from(cost)).max(0.0);
    }

    /// Looks at the time that has passed since the last request. For tenants that send nothing any more.
    pub fn advance(&mut self, rules: &PaceRules, now: i64) -> Option<Turn> {
        let passed = now.saturating_sub(self.second) / SECOND;
        if passed < 1 {
            return None;
        }
        // The second that was counted, then those in which nothing came.
        let end = self.second + SECOND;
        let learned = self.learned(rules, end);
        let mut turn = self.judge(rules, self.second, end, self.offered);
        let keep = decay(rules, 1);
        self.baseline = self.baseline * keep + learned * (1.0 - keep);
        if passed > 1 {
            self.baseline *= decay(rules, passed - 1);
            turn = self.judge(rules, end, now, 0.0).or(turn);
        }
        self.second += passed * SECOND;
        (self.offered, self.admitted) = (0.0, 0.0);
        turn
    }

    /// Whether it is slowed.
    pub const fn is_slowed(&self) -> bool {
        self.slowed.is_some()
    }

    /// Whether forgetting it changes little: nothing came for two half-lives, and it is not slowed.
    pub const fn is_at_rest(&self, rules: &PaceRules, now: i64) -> bool {
        self.slowed.is_none() && now.saturating_sub(self.second) > rules.half_life.saturating_mul(2)
    }

    /// What the second that ends teaches.
    fn learned(&self, rules: &PaceRules, end: i64) -> f64 {
        if self.is_known(rules, end) && self.offered > self.allowed(rules) {
            self.admitted.min(self.baseline)
        } else {
            self.admitted
        }
    }

    /// Whether it was seen for long enough to have habits.
    const fn is_known(&self, rules: &PaceRules, now: i64) -> bool {
        now.saturating_sub(self.began) >= rules.half_life
    }

    /// Whether the tenant has been on the other side for long enough at `now`, as it was since `from`.
    fn judge(&mut self, rules: &PaceRules, from: i64, now: i64, offered: f64) -> Option<Turn> {
        let allowed = self.allowed(rules);
        let known = self.is_known(rules, now);
        let turns = if self.is_slowed() { offered <= allowed } else { known && offered > allowed };
        if !turns {
            self.turning = None;
            return None;
        }
        let since = *self.turning.get_or_insert(from);
        if now.saturating_sub(since) < rules.patience {
            return None;
        }
        self.turning = None;
        let measured = Measured { baseline: self.baseline, allowed, offered };
        if self.slowed.take().is_some() {
            return Some(Turn::Normal(measured));
        }
        self.slowed = Some(Slowed { units: allowed, at: now });
        Some(Turn::Slowed(measured))
    }

    /// Units per second.
    fn allowed(&self, rules: &PaceRules) -> f64 {
        let floor = f64::from(rules.floor.units()) * 1e6 / micros(rules.floor.micros());
        (self.baseline * f64::from(rules.factor)).max(floor)
    }
}

impl Slowed {
    /// Takes so many units of those that come back at this speed, a second's worth at most.
    fn take(&mut self, units: f64, allowed: f64, rules: &PaceRules, now: i64) -> Option<Wait> {
        let passed = micros(now.saturating_sub(self.at).max(0)) / 1e6;
        // A request that costs more than a second's worth must not wait for ever.
        let most = allowed.max(units);
        self.units = (self.units + passed * allowed).min(most);
        self.at = now;
        if self.units >= units {
            self.units -= units;
            return None;
        }
        let seconds = (units - self.units) / allowed;
        // What is allowed decays meanwhile: never earlier than true.
        let slower = (2e6 * seconds / micros(rules.half_life.max(SECOND))).exp2();
        Some(Wait::For(whole_micros(seconds * slower)))
    }
}

/// What is left of the baseline after so many seconds.
fn decay(rules: &PaceRules, seconds: i64) -> f64 {
    (-micros(seconds) * 1e6 / micros(rules.half_life.max(SECOND))).exp2()
}

#[expect(clippy::cast_precision_loss, reason = "times of a process are far below 2^53")]
const fn micros(number: i64) -> f64 {
    number as f64
}

#[expect(clippy::cast_possible_truncation, reason = "saturates, at centuries")]
fn whole_micros(seconds: f64) -> i64 {
    (seconds * 1e6).ceil() as i64
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const START: i64 = 1_800_000_000_000_000;
    const MINUTE: i64 = 60 * SECOND;

    fn rules() -> PaceRules {
        PaceRules {
            factor: 4,
            half_life: 10 * MINUTE,
            floor: "5/s".parse().unwrap(),
            patience: 10 * SECOND,
        }
    }

    /// Sends so many units in each second until the end, evenly; says how many were admitted, and what turned.
    fn send(pace: &mut Pace, per_second: u32, from: i64, seconds: i64) -> (u64, Vec<Turn>) {
        let (mut admitted, mut turns) = (0, Vec::new());
        for second in 0..seconds {
            for one in 0..per_second {
                let now = from + second * SECOND + i64::from(one) * SECOND / i64::from(per_second);
                let judged = pace.came(&rules(), 1, now);
                admitted += u64::from(judged.refusal.is_none());
                turns.extend(judged.turn);
            }
        }
        (admitted, turns)
    }

    /// One that has sent 10 units a second for an hour.
    fn settled() -> (Pace, i64) {
        let mut pace = Pace::new(START);
        let (admitted, turns) = send(&mut pace, 10, START, 3600);
        assert_eq!((admitted, turns.len()), (36_000, 0));
        (pace, START + 3600 * SECOND)
    }

    #[test]
    fn whoever_is_far_above_its_baseline_is_slowed_to_a_multiple_of_it_and_no_longer_when_it_stops()
    {
        let (mut pace, mut now) = settled();
        let (admitted, turns) = send(&mut pace, 400, now, 30);
        let [Turn::Slowed(measured)] = turns[..] else { panic!("{turns:?}") };
        assert!((9.5..12.0).contains(&(measured.baseline.min(11.9))), "{measured:?}");
        assert!(measured.offered > measured.allowed);
        // Ten seconds of patience, then four times the baseline.
        assert!((4_000..5_200).contains(&admitted), "{admitted}");
        assert!(pace.is_slowed());
        now += 30 * SECOND;
        let (_, turns) = send(&mut pace, 10, now, 30);
        assert!(matches!(turns[..], [Turn::Normal(_)]), "{turns:?}");
        assert!(!pace.is_slowed());
    }

    #[test]
    fn what_is_held_back_does_not_become_the_norm() {
        let (mut pace, now) = settled();
        let before = pace.baseline;
        let (_, turns) = send(&mut pace, 100, now, 6_000);
        assert!(
            matches!(turns[..], [Turn::Slowed(_)]),
            "after ten half-lives it is slowed still: {turns:?}"
        );
        assert!(pace.baseline < before * 1.001, "{before} {}", pace.baseline);
    }

    #[test]
    fn what_grows_within_its_factor_becomes_the_norm() {
        let (mut pace, now) = settled();
        let before = pace.baseline;
        assert_eq!(send(&mut pace, 30, now, 3_600).1, vec![]);
        assert!(pace.baseline > before * 2.5, "{before} {}", pace.baseline);
    }

    #[test]
    fn what_others_refuse_teaches_nothing() {
        let (mut pace, now) = settled();
        let before = pace.baseline;
        for second in 0..3_600 {
            for one in 0..30 {
                let came = pace.came(&rules(), 1, now + second * SECOND + one);
                if came.refusal.is_none() && one >= 10 {
                    pace.refused(1);
                }
            }
        }
        assert!(pace.baseline < before * 1.1, "{before} {}", pace.baseline);
    }

    #[test]
    fn nobody_is_slowed_at_first_below_the_floor_or_for_a_short_burst() {
        let mut new = Pace::new(START);
        assert_eq!(send(&mut new, 300, START, 60), (18_000, vec![]));
        let mut small = Pace::new(START);
        send(&mut small, 1, START, 1200);
        assert_eq!(send(&mut small, 5, START + 1200 * SECOND, 60).1, vec![]);
        let (mut pace, mut now) = settled();
        for _ in 0..20 {
            assert_eq!(
                send(&mut pace, 200, now, 5).1,
                vec![],
                "five seconds are within its patience"
            );
            now += 5 * SECOND;
            assert_eq!(send(&mut pace, 10, now, 55).1, vec![]);
            now += 55 * SECOND;
        }
    }

    #[test]
    fn a_tenant_that_goes_silent_is_normal_again_and_forgotten_in_time() {
        let (mut pace, now) = settled();
        send(&mut pace, 400, now, 20);
        assert!(pace.is_slowed());
        let later = now + 60 * SECOND;
        assert!(matches!(pace.advance(&rules(), later), Some(Turn::Normal(_))));
        assert!(!pace.is_at_rest(&rules(), later));
        assert!(pace.is_at_rest(&rules(), later + 30 * MINUTE));
    }

    #[test]
    fn a_request_that_is_refused_fits_after_its_wait() {
        let (mut pace, now) = settled();
        send(&mut pace, 400, now, 20);
        let at = now + 20 * SECOND - 1;
        for cost in [1, 7, 500] {
            let mut pace = pace.clone();
            let refused = (0..10_000).find_map(|_| pace.came(&rules(), cost, at).refusal);
            let Some(Wait::For(wait)) = refused else { panic!("{refused:?}") };
            let mut early = pace.clone();
            assert!(early.came(&rules(), cost, at + wait / 2).refusal.is_some(), "{cost}");
            assert_eq!(
                pace.came(&rules(), cost, at + wait + 1).refusal,
                None,
                "{cost} after {wait}"
            );
        }
    }

    proptest! {
        /// Whatever comes, in whatever order of times: no number goes astray, and a slowed tenant gets no more than allowed.
        #[test]
        fn nothing_goes_astray(steps in prop::collection::vec((-5_i64 * SECOND..90 * SECOND, 0_u32..2_000), 1..200)) {
            let mut pace = Pace::new(START);
            let mut now = START;
            for (step, cost) in steps {
                now += step;
                pace.came(&rules(), cost, now);
                prop_assert!(pace.baseline.is_finite() && pace.baseline >= 0.0);
                prop_assert!(pace.allowed(&rules()) >= 5.0);
                if let Some(slowed) = pace.slowed {
                    prop_assert!(slowed.units >= 0.0 && slowed.units.is_finite());
                }
            }
        }
    }
}
