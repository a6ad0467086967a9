//! Random numbers of a request: the same ones for all versions of a pack, so that their decisions can be compared. Not for
//! secrets: whoever knows the request's id knows them.

use sha2::{Digest as _, Sha256};

/// SplitMix64 (Steele, Lea and Flood 2014).
pub(crate) struct Random(u64);

impl Random {
    /// The numbers of this request for this pack.
    pub(crate) fn new(request: &str, pack: &str) -> Self {
        let hash = Sha256::new().chain_update(request).chain_update([0]).chain_update(pack);
        let hash = hash.finalize();
        Self(hash.iter().take(8).fold(0, |seed, byte| seed << 8 | u64::from(*byte)))
    }

    /// The next 64 bits.
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_depend_on_request_and_pack_alone() {
        let of = |request, pack| {
            let mut random = Random::new(request, pack);
            [random.next(), random.next(), random.next()]
        };
        assert_eq!(of("req-1", "sampler"), of("req-1", "sampler"));
        assert_ne!(of("req-1", "sampler"), of("req-2", "sampler"));
        assert_ne!(of("req-1", "sampler"), of("req-1", "other"));
        let [first, second, third] = of("req-1", "sampler");
        assert!(first != second && second != third);
    }

    #[test]
    fn the_numbers_are_those_of_splitmix64() {
        let mut random = Random(1_234_567);
        let told = [random.next(), random.next(), random.next()];
        // The published test vector of the generator.
        let expected =
            [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423];
        assert_eq!(told, expected);
    }
}
