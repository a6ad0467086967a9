//! The breaker of an endpoint: leaves it alone for a while when too many attempts fail.
//!
//! Closed: attempts are counted in a sliding window. Open: none begins. Half-open: one begins, and what becomes of it closes
//! the breaker or opens it again, for twice as long, at most [`OPEN_MAX`]. Invariant: only attempts that began in the present
//! state are judged, so that stragglers of an outage neither open a breaker that closed nor close one that opened.

/// The longest time that an endpoint is left alone at once, in microseconds.
pub const OPEN_MAX: i64 = 3_600_000_000;
/// In how many parts the window slides.
const PARTS: usize = 10;

/// When a breaker opens, and for how long.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BreakerRules {
    /// The share of attempts that fail.
    pub failure_rate: f64,
    /// In what time, in microseconds.
    pub window: i64,
    /// Fewer attempts than this tell nothing.
    pub min_attempts: u32,
    /// How long it is open at first, in microseconds.
    pub open_for: i64,
}

/// The breaker of one endpoint. Time is microseconds since the epoch.
#[derive(Clone, Debug, Default)]
pub struct Breaker {
    state: State,
    /// How often it opened in a row.
    opened: u32,
    /// Counts changes of state: attempts of an earlier one are not judged.
    epoch: u32,
}

#[derive(Clone, Debug)]
enum State {
    Closed(Window),
    Open { until: i64 },
    HalfOpen { probing: bool },
}

impl Default for State {
    fn default() -> Self {
        Self::Closed(Window::default())
    }
}

/// How many attempts may begin now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// As many as one likes.
    Any,
    /// One, which tells whether the endpoint is back.
    One,
    /// None until this time.
    Until(i64),
    /// None until the one that is under way has ended.
    Probing,
}

/// What an attempt that begins is remembered by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Begun(u32);

/// What an attempt says of its endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sign {
    /// It is well.
    Well,
    /// It is not.
    Unwell,
    /// Nothing.
    None,
}

/// A change of the breaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// It opened, until this time.
    Opened(i64),
    /// It closed.
    Closed,
}

impl Breaker {
    /// Takes what is known of it elsewhere: until when it is open, and how often in a row it opened. One that is half-open
    /// elsewhere changes nothing here.
    pub fn adopt(&mut self, open_until: Option<i64>, opened: u32) {
        match (&self.state, open_until) {
            (State::Open { until: known }, Some(until)) if *known == until => self.opened = opened,
            (_, Some(until)) => {
                self.opened = opened;
                self.turn_to(State::Open { until });
            }
            (State::Open { .. } | State::HalfOpen { .. }, None) if opened == 0 => {
                self.opened = 0;
                self.turn_to(State::default());
            }
            (_, None) => {}
        }
    }

    /// How often it opened in a row: 0 when it is closed.
    pub const fn opened(&self) -> u32 {
        self.opened
    }

    /// Until when it is open, if it is.
    pub const fn open_until(&self) -> Option<i64> {
        match self.state {
            State::Open { until } => Some(until),
            State::Closed(_) | State::HalfOpen { .. } => None,
        }
    }

    /// How many attempts may begin.
    pub fn room(&self, now: i64) -> Room {
        match self.state {
            State::Closed(_) => Room::Any,
            State::Open { until } if now < until => Room::Until(until),
            State::Open { .. } | State::HalfOpen { probing: false } => Room::One,
            State::HalfOpen { probing: true } => Room::Probing,
        }
    }

    /// An attempt begins, for which there was room.
    pub fn begin(&mut self, now: i64) -> Begun {
        match &mut self.state {
            State::Open { until } if now >= *until => {
                self.turn_to(State::HalfOpen { probing: true });
            }
            State::HalfOpen { probing } => *probing = true,
            State::Closed(_) | State::Open { .. } => {}
        }
        Begun(self.epoch)
    }

    /// An attempt has ended.
    pub fn end(
        &mut self,
        rules: &BreakerRules,
        begun: Begun,
        sign: Sign,
        now: i64,
    ) -> Option<Turn> {
        if begun.0 != self.epoch {
            return None;
        }
        match (&mut self.state, sign) {
            (State::Closed(window), Sign::Well | Sign::Unwell) => {
                window.count(rules.window, sign, now);
                window.is_too_much(rules).then(|| self.open(rules, now))
            }
            (State::HalfOpen { .. }, Sign::Well) => {
                self.opened = 0;
                self.turn_to(State::default());
                Some(Turn::Closed)
            }
            (State::HalfOpen { .. }, Sign::Unwell) => Some(self.open(rules, now)),
            (State::HalfOpen { probing }, Sign::None) => {
                *probing = false;
                None
            }
            (State::Closed(_) | State::Open { .. }, _) => None,
        }
    }

    fn open(&mut self, rules: &BreakerRules, now: i64) -> Turn {
        let doublings = self.opened.min(32);
        let span = rules.open_for.saturating_mul(1_i64 << doublings).min(OPEN_MAX);
        let until = now.saturating_add(span);
        self.opened = self.opened.saturating_add(1);
        self.turn_to(State::Open { until });
        Turn::Opened(until)
    }

    fn turn_to(&mut self, state: State) {
        self.state = state;
        self.epoch = self.epoch.wrapping_add(1);
    }
}

/// What was counted in the last while: a ring of parts, each for a tenth of it.
#[derive(Clone, Debug, Default)]
struct Window {
    parts: [Counts; PARTS],
    /// The number of the part that counts now, since the epoch.
    newest: i64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    well: u32,
    unwell: u32,
}

impl Window {
    fn count(&mut self, window: i64, sign: Sign, now: i64) {
        let part = now.div_euclid((window / PARTS as i64).max(1));
        if part > self.newest {
            let passed = part.abs_diff(self.newest);
            for step in 0..passed.min(PARTS as u64) {
                if let Some(counts) = self.part_mut(part - i64::try_from(step).unwrap_or(0)) {
                    *counts = Counts::default();
                }
            }
            self.newest = part;
        }
        // A clock that stepped back counts on in the newest part.
        let newest = self.newest;
        if let Some(counts) = self.part_mut(newest) {
            match sign {
                Sign::Well => counts.well = counts.well.saturating_add(1),
                Sign::Unwell => counts.unwell = counts.unwell.saturating_add(1),
                Sign::None => {}
            }
        }
    }

    fn part_mut(&mut self, number: i64) -> Option<&mut Counts> {
        let index = usize::try_from(number.rem_euclid(PARTS as i64)).ok()?;
        self.parts.get_mut(index)
    }

    fn is_too_much(&self, rules: &BreakerRules) -> bool {
        let sum = |of: fn(&Counts) -> u32| self.parts.iter().map(|part| u64::from(of(part))).sum();
        let (well, unwell): (u64, u64) = (sum(|part| part.well), sum(|part| part.unwell));
        let all = well + unwell;
        // Counts are far below 2^52.
        #[expect(clippy::cast_precision_loss, reason = "counts of a window are far below 2^52")]
        let share = unwell as f64 / all.max(1) as f64;
        all >= u64::from(rules.min_attempts) && unwell > 0 && share >= rules.failure_rate
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: i64 = 1_000_000;
    const START: i64 = 1_800_000_000 * SECOND;
    const RULES: BreakerRules = BreakerRules {
        failure_rate: 0.5,
        window: 10 * SECOND,
        min_attempts: 4,
        open_for: 30 * SECOND,
    };

    fn attempt(breaker: &mut Breaker, sign: Sign, now: i64) -> Option<Turn> {
        let begun = breaker.begin(now);
        breaker.end(&RULES, begun, sign, now)
    }

    fn opened_at(now: i64) -> Breaker {
        let mut breaker = Breaker::default();
        for _ in 0..4 {
            attempt(&mut breaker, Sign::Unwell, now);
        }
        assert_eq!(breaker.room(now), Room::Until(now + RULES.open_for));
        breaker
    }

    #[test]
    fn it_opens_at_the_share_and_not_before_there_are_enough() {
        let mut breaker = Breaker::default();
        assert_eq!(attempt(&mut breaker, Sign::Unwell, START), None);
        assert_eq!(attempt(&mut breaker, Sign::Well, START), None);
        assert_eq!(attempt(&mut breaker, Sign::None, START), None, "says nothing");
        assert_eq!(attempt(&mut breaker, Sign::Well, START), None);
        let until = START + SECOND + RULES.open_for;
        assert_eq!(attempt(&mut breaker, Sign::Unwell, START + SECOND), Some(Turn::Opened(until)));
        assert_eq!(breaker.room(until - 1), Room::Until(until));
    }

    #[test]
    fn what_left_the_window_is_forgotten() {
        let mut breaker = Breaker::default();
        for _ in 0..3 {
            attempt(&mut breaker, Sign::Unwell, START);
        }
        assert_eq!(attempt(&mut breaker, Sign::Unwell, START + 11 * SECOND), None);
        assert_eq!(breaker.room(START + 11 * SECOND), Room::Any);
    }

    #[test]
    fn half_open_takes_one_at_a_time() {
        let mut breaker = opened_at(START);
        let back = START + RULES.open_for;
        assert_eq!(breaker.room(back), Room::One);
        let probe = breaker.begin(back);
        assert_eq!(breaker.room(back), Room::Probing);
        assert_eq!(breaker.end(&RULES, probe, Sign::None, back), None);
        assert_eq!(breaker.room(back), Room::One, "it told nothing: the next one may");
        assert_eq!(attempt(&mut breaker, Sign::Well, back), Some(Turn::Closed));
        assert_eq!((breaker.room(back), breaker.opened()), (Room::Any, 0));
    }

    #[test]
    fn each_failure_in_a_row_doubles_the_wait_up_to_an_hour() {
        let mut breaker = opened_at(START);
        for factor in [2, 4, 8, 16, 32, 64, 120, 120, 120] {
            let now = breaker.open_until().unwrap();
            let until = now + factor * RULES.open_for;
            assert_eq!(attempt(&mut breaker, Sign::Unwell, now), Some(Turn::Opened(until)));
        }
        let now = breaker.open_until().unwrap();
        attempt(&mut breaker, Sign::Well, now);
        for _ in 0..4 {
            attempt(&mut breaker, Sign::Unwell, now);
        }
        assert_eq!(breaker.open_until(), Some(now + RULES.open_for), "it begins anew");
    }

    #[test]
    fn stragglers_of_another_state_are_not_judged() {
        let mut breaker = Breaker::default();
        let straggler = breaker.begin(START);
        for _ in 0..4 {
            attempt(&mut breaker, Sign::Unwell, START);
        }
        let back = START + RULES.open_for;
        let probe = breaker.begin(back);
        assert_eq!(breaker.end(&RULES, straggler, Sign::Well, back), None);
        assert_eq!(breaker.room(back), Room::Probing);
        assert_eq!(
            breaker.end(&RULES, probe, Sign::Unwell, back),
            Some(Turn::Opened(back + 2 * RULES.open_for))
        );
    }

    #[test]
    fn what_is_known_elsewhere_holds_here() {
        let mut breaker = Breaker::default();
        let straggler = breaker.begin(START);
        breaker.adopt(Some(START), 2);
        assert_eq!(breaker.room(START - 1), Room::Until(START));
        assert_eq!(breaker.end(&RULES, straggler, Sign::Well, START), None);
        let until = START + 4 * RULES.open_for;
        assert_eq!(attempt(&mut breaker, Sign::Unwell, START), Some(Turn::Opened(until)));
        breaker.adopt(None, 1);
        assert_eq!(breaker.room(START), Room::Until(until), "half-open elsewhere");
        breaker.adopt(None, 0);
        assert_eq!((breaker.room(START), breaker.opened()), (Room::Any, 0), "closed elsewhere");
        attempt(&mut breaker, Sign::Unwell, START);
        breaker.adopt(None, 0);
        for _ in 0..3 {
            attempt(&mut breaker, Sign::Unwell, START);
        }
        assert!(breaker.open_until().is_some(), "a closed one forgets nothing that it counted");
    }

    proptest! {
        /// Whatever happens: no attempt begins while it is open, never two at once while it is half-open, and it comes back.
        #[test]
        fn an_open_breaker_lets_nothing_through_and_none_stays_open(
            steps in prop::collection::vec((0_i64..20_000_000, 0_u8..4), 1..300),
        ) {
            let mut breaker = Breaker::default();
            let mut under_way: Vec<Begun> = Vec::new();
            let mut probes = 0_u32;
            let mut now = START;
            for (step, what) in steps {
                now += step;
                match (what, breaker.room(now)) {
                    (0, Room::Any) => under_way.push(breaker.begin(now)),
                    (0, Room::One) => {
                        let begun = breaker.begin(now);
                        under_way.push(begun);
                        probes = under_way.iter().filter(|known| **known == begun).count().try_into().unwrap();
                        prop_assert_eq!(probes, 1);
                    }
                    (0, Room::Until(until)) => prop_assert!(now < until && until <= now + OPEN_MAX),
                    (0, Room::Probing) => prop_assert_eq!(probes, 1),
                    (sign, _) => {
                        let sign = [Sign::None, Sign::Well, Sign::Unwell][usize::from(sign % 3)];
                        if let Some(begun) = under_way.pop() {
                            breaker.end(&RULES, begun, sign, now);
                        }
                    }
                }
            }
            while let Some(begun) = under_way.pop() {
                breaker.end(&RULES, begun, Sign::None, now);
            }
            now += OPEN_MAX;
            prop_assert!(matches!(breaker.room(now), Room::Any | Room::One));
        }
    }
}
