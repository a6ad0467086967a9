//! The retry budget: how many retries may fail, measured by what is sent for the first time.
//!
//! A retry takes a token. First attempts and successes bring a share of one, time brings one a second, and a retry that
//! succeeds brings back what it took: so an endpoint that is well again is not held up by its past. Invariant: over any time,
//! retries that fail are at most `most + share · (first attempts + successes) + per_second · seconds`.
//!
//! A retry without a token is postponed, which burns no attempt: each one a little further, as if they stood in a queue.

const SECOND: f64 = 1_000_000.0;

/// The longest time that a retry is postponed at once, in microseconds: so soon one is made once successes bring tokens back.
pub const POSTPONE_MAX: i64 = 10_000_000;

/// How much there is to spend.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BudgetRules {
    /// Tokens for each first attempt, and for each success.
    pub share: f64,
    /// Tokens that time brings, so that what is seldom sent is retried as well.
    pub per_second: f64,
    /// How many are kept at most.
    pub most: f64,
}

/// What is left of a budget. Time is microseconds since the epoch.
#[derive(Clone, Copy, Debug)]
pub struct RetryBudget {
    tokens: f64,
    at: i64,
    /// Where the queue of those that were postponed ends.
    turn: i64,
}

impl RetryBudget {
    /// A full one.
    pub const fn full(rules: &BudgetRules, now: i64) -> Self {
        Self { tokens: rules.most, at: now, turn: now }
    }

    /// Something is sent for the first time.
    pub fn first(&mut self, rules: &BudgetRules) {
        self.add(rules, rules.share);
    }

    /// A retry is to begin: takes a token, or says for how many microseconds it is postponed.
    pub fn retry(&mut self, rules: &BudgetRules, now: i64) -> Result<(), i64> {
        self.pass_time(rules, now);
        if self.tokens >= 1.0 {
            self.tokens -= 1.0;
            return Ok(());
        }
        // The cast is within what may be postponed.
        #[expect(clippy::cast_possible_truncation, reason = "it saturates, and is cut below")]
        let pace = (SECOND / rules.per_second) as i64;
        let last = now.saturating_add(POSTPONE_MAX);
        self.turn = self.turn.max(now).saturating_add(pace).min(last);
        Err(self.turn - now)
    }

    /// A retry that took a token was not made.
    pub fn unspent(&mut self, rules: &BudgetRules) {
        self.add(rules, 1.0);
    }

    /// A retry succeeded.
    pub fn succeeded(&mut self, rules: &BudgetRules) {
        self.add(rules, 1.0 + rules.share);
    }

    fn pass_time(&mut self, rules: &BudgetRules, now: i64) {
        #[expect(clippy::cast_precision_loss, reason = "a difference of times, far below 2^52")]
        let passed = now.saturating_sub(self.at).max(0) as f64 / SECOND;
        self.at = now;
        self.add(rules, passed * rules.per_second);
    }

    fn add(&mut self, rules: &BudgetRules, tokens: f64) {
        self.tokens = (self.tokens + tokens).min(rules.most);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const START: i64 = 1_800_000_000_000_000;
    const RULES: BudgetRules = BudgetRules { share: 0.2, per_second: 1.0, most: 10.0 };

    fn spent() -> RetryBudget {
        let mut budget = RetryBudget::full(&RULES, START);
        for _ in 0..10 {
            budget.retry(&RULES, START).unwrap();
        }
        budget
    }

    #[test]
    fn five_first_attempts_pay_for_one_retry() {
        let mut budget = spent();
        for _ in 0..5 {
            assert!(budget.retry(&RULES, START).is_err());
            budget.first(&RULES);
        }
        budget.first(&RULES);
        assert!(budget.retry(&RULES, START).is_ok());
        assert!(budget.retry(&RULES, START).is_err());
    }

    #[test]
    fn retries_that_succeed_cost_nothing() {
        let mut budget = spent();
        budget.unspent(&RULES);
        for _ in 0..1_000 {
            budget.retry(&RULES, START).unwrap();
            budget.succeeded(&RULES);
        }
    }

    #[test]
    fn those_that_are_postponed_come_one_after_the_other_and_all_within_ten_seconds() {
        let mut budget = spent();
        for second in (1..=10).chain([10, 10]) {
            assert_eq!(budget.retry(&RULES, START), Err(second * 1_000_000));
        }
        assert!(budget.retry(&RULES, START + 1_000_000).is_ok(), "time brings one a second");
    }

    proptest! {
        #[test]
        fn retries_that_fail_stay_within_the_budget(
            steps in prop::collection::vec((0_i64..2_000_000, 0_u8..4), 1..400),
        ) {
            let mut budget = RetryBudget::full(&RULES, START);
            let (mut now, mut firsts, mut successes, mut failures) = (START, 0.0, 0.0, 0.0);
            for (step, what) in steps {
                now += step;
                match what {
                    0 => {
                        budget.first(&RULES);
                        firsts += 1.0;
                    }
                    1 if budget.retry(&RULES, now).is_ok() => {
                        budget.succeeded(&RULES);
                        successes += 1.0;
                    }
                    2 if budget.retry(&RULES, now).is_ok() => failures += 1.0,
                    3 => match budget.retry(&RULES, now) {
                        Ok(()) => budget.unspent(&RULES),
                        Err(wait) => prop_assert!(wait > 0 && wait <= POSTPONE_MAX),
                    },
                    _ => {}
                }
                let seconds = (now - START) as f64 / SECOND;
                let bound = RULES.most + RULES.share * (firsts + successes) + RULES.per_second * seconds;
                prop_assert!(failures <= bound + 1e-6, "{failures} of {bound}");
            }
        }
    }
}
