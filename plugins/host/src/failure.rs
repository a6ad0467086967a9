//! Why a pack could not decide.

use model::FailureReason;
use wasmtime::{PoolConcurrencyLimitError, Trap, WasmBacktrace};

use crate::call::{Call, HostCallsSpent};

/// How wasmtime words that a guest handed over more than [`crate::Limits::output`]; its type is private. Where the words
/// change, such a failure counts as a trap; `each_way_of_failing_has_its_own_reason` tells.
const TOO_MUCH_DATA: &str = "fuel allocated for hostcalls has been exhausted";

/// The longest detail, in bytes. Some of it may be the pack's own words.
const MAX_DETAIL: usize = 512;

/// Why a pack could not decide.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {detail}", reason.as_str())]
pub struct Failure {
    /// For metrics and records.
    pub reason: FailureReason,
    /// For the log; never shown to the caller.
    pub detail: String,
    /// Whose limit it was, if it was one.
    pub limit: Whose,
}

/// Whose limit ended a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    /// The attachment's own; or it was no limit, but the pack's own doing.
    Own,
    /// A lower one of the caller's plan: another caller's call might have gone well.
    Caller,
}

impl Failure {
    /// A failure that is the pack's own.
    pub fn new(reason: FailureReason, detail: impl Into<String>) -> Self {
        let mut detail = detail.into();
        detail.truncate(detail.floor_char_boundary(MAX_DETAIL));
        Self { reason, detail, limit: Whose::Own }
    }

    /// Whether it is the pack's own fault, for which it may be taken out of service.
    pub fn is_fault(&self) -> bool {
        self.reason.is_fault() && self.limit == Whose::Own
    }

    /// A decision that can't be used.
    pub(crate) fn output(detail: impl Into<String>) -> Self {
        Self::new(FailureReason::Output, detail)
    }

    /// What an error of the engine means.
    pub(crate) fn of(error: &wasmtime::Error, call: &Call) -> Self {
        Self::new(reason(error, call), error.root_cause().to_string())
    }
}

fn reason(error: &wasmtime::Error, call: &Call) -> FailureReason {
    if error.is::<PoolConcurrencyLimitError>() {
        return FailureReason::Saturated;
    }
    if error.is::<HostCallsSpent>() {
        return FailureReason::HostLimit;
    }
    match error.downcast_ref::<Trap>() {
        Some(Trap::OutOfFuel) => FailureReason::Fuel,
        Some(Trap::Interrupt) => FailureReason::Deadline,
        // A guest that is refused memory gives up by trapping, or doesn't even start.
        _ if call.refused_memory() => FailureReason::Memory,
        Some(_) => FailureReason::Trap,
        // The guest had returned: what it returned breaks the interface.
        None if !error.is::<WasmBacktrace>() => FailureReason::Output,
        None if error.root_cause().to_string().contains(TOO_MUCH_DATA) => FailureReason::HostLimit,
        None => FailureReason::Trap,
    }
}
