//! Why a pack could not decide.

use model::FailureReason;
use wasmtime::{PoolConcurrencyLimitError, Trap, WasmBacktrace};

use crate::call::{Call, HostCallsSpent};

/// How wasmtime words that a guest handed over more than [`crate::Limits::output`]; its type is private. Where the words
/// change, such a failure counts as a trap; `each_way_of_failing_has_its_own_reason` tells.
const TOO_MUCH_DATA: &str = "fuel allocated for hostcalls has been exhausted";

/// Why a pack could not decide.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {detail}", reason.as_str())]
pub struct Failure {
    /// For metrics and records.
    pub reason: FailureReason,
    /// For the log; never shown to the caller.
    pub detail: String,
}

impl Failure {
    /// A decision that can't be used.
    pub(crate) fn output(detail: impl Into<String>) -> Self {
        Self { reason: FailureReason::Output, detail: detail.into() }
    }

    /// What an error of the engine means.
    pub(crate) fn of(error: &wasmtime::Error, call: &Call) -> Self {
        Self { reason: reason(error, call), detail: error.root_cause().to_string() }
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
