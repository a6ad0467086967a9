//! How large a test is: reduced in `make test`, in full in `make test-all`, which sets `TOLLGATE_TEST_LONG=1`.
//!
//! Invariant: both sizes make the same claim by the same code; only numbers differ.

use std::env::VarError;

const VARIABLE: &str = "TOLLGATE_TEST_LONG";

/// Whether tests run in full. Anything but `1`, `0`, the empty text and nothing is a mistake, and fails.
pub(crate) fn long() -> bool {
    match std::env::var(VARIABLE).as_deref() {
        Err(VarError::NotPresent) | Ok("" | "0") => false,
        Ok("1") => true,
        other => panic!("{VARIABLE} is {other:?}; it is 1 for the full sizes, or not set"),
    }
}

/// The number of this run, printed, so that a log says what was shown.
pub(crate) fn sized<T: std::fmt::Display>(what: &str, reduced: T, full: T) -> T {
    let number = if long() { full } else { reduced };
    println!("{what}: {number}");
    number
}
