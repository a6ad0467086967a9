//! Random choices that can be made again: the seed is printed, and a failing test shows it.

use std::hash::{BuildHasher as _, RandomState};

/// The seed of a run that is to be made again.
const VARIABLE: &str = "TOLLGATE_TEST_SEED";

/// SplitMix64.
pub(crate) struct Random(u64);

impl Random {
    /// Choices from this seed.
    pub(crate) fn seeded(seed: u64) -> Self {
        println!("seed: {seed}");
        Self(seed)
    }

    /// Other choices in each run, or those of `TOLLGATE_TEST_SEED`.
    pub(crate) fn of_this_run() -> Self {
        Self::seeded(match std::env::var(VARIABLE) {
            Ok(seed) => seed.parse().unwrap_or_else(|_| panic!("{VARIABLE} is no number: {seed}")),
            Err(_) => RandomState::new().hash_one(VARIABLE),
        })
    }

    pub(crate) fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.number() % u64::try_from(bound).unwrap()).unwrap()
    }
}
