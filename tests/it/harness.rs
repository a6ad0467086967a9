//! What tests are told in: a gateway that runs, an upstream that does as it is told, and requests that read like sentences.
//!
//! Invariant: nothing outlives the test that started it, and a test that fails prints the log of what it ran.

pub(crate) mod api;
pub(crate) mod call;
pub(crate) mod cluster;
pub(crate) mod curl;
pub(crate) mod demo;
pub(crate) mod document;
pub(crate) mod events;
pub(crate) mod journal;
pub(crate) mod latch;
pub(crate) mod load;
pub(crate) mod metrics;
pub(crate) mod modes;
pub(crate) mod node;
pub(crate) mod offer;
pub(crate) mod pack;
pub(crate) mod page;
pub(crate) mod pair;
pub(crate) mod ports;
pub(crate) mod postgres;
pub(crate) mod process;
pub(crate) mod random;
pub(crate) mod raw;
pub(crate) mod redis;
pub(crate) mod sending;
pub(crate) mod sharing;
pub(crate) mod sink;
pub(crate) mod size;
pub(crate) mod stalling;
pub(crate) mod token;
pub(crate) mod upstream;

pub(crate) use call::Answer;
pub(crate) use demo::Demo;
pub(crate) use latch::Latch;
pub(crate) use node::Node;
pub(crate) use pair::Pair;
pub(crate) use random::Random;
pub(crate) use raw::Raw;
pub(crate) use size::sized;
pub(crate) use upstream::{Arrival, Reply, Upstream};

use sha2::{Digest as _, Sha256};
use std::fmt::Write as _;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How long anything may take that is waited for: generous, as a wait only lasts so long when something is wrong.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Asks again and again until the answer is the one hoped for, or [`PATIENCE`] is over. `ask` returns what it hoped for,
/// or what it saw instead.
pub(crate) async fn eventually<T, S: std::fmt::Debug>(
    hope: &str,
    mut ask: impl AsyncFnMut() -> Result<T, S>,
) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match ask().await {
            Ok(answer) => return answer,
            Err(seen) if Instant::now() > deadline => {
                panic!("{hope}: still {seen:?} after {PATIENCE:?}")
            }
            // A pause between two questions, so that asking doesn't starve what is asked.
            Err(_) => sleep(Duration::from_millis(20)).await,
        }
    }
}

/// `expected` where it is what was seen, else what was seen: the answer that [`eventually`] asks for.
pub(crate) fn hoped<T: PartialEq>(seen: T, expected: &T) -> Result<(), T> {
    if seen == *expected { Ok(()) } else { Err(seen) }
}

/// SHA-256 in hex.
pub(crate) fn sha256(bytes: impl AsRef<[u8]>) -> String {
    hex(&Sha256::digest(bytes))
}

/// Lower-case hex digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

/// Bytes that no two positions of a body make alike: a lost, doubled or swapped piece changes the hash.
pub(crate) fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|at| u8::try_from((at ^ (at >> 8) ^ (at >> 16)) & 0xff).unwrap()).collect()
}
