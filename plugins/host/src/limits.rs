//! What one decision may use.

use std::time::Duration;

use crate::host::TICK;
use crate::pack::PackError;

/// The most memory that [`Limits`] can grant: what a slot of the pool holds.
pub const MAX_MEMORY: usize = 64 << 20;

/// The shortest deadline. It measures wall time, so a shorter one would fail innocent decisions of a busy host.
const MIN_DEADLINE: Duration = Duration::from_millis(100);

/// The longest deadline: a decision holds up the worker that it runs on.
const MAX_DEADLINE: Duration = Duration::from_secs(10);

/// What one decision may use. Each limit has its own reason for failing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Work, in fuel: about one unit per WebAssembly instruction, the same for the same request on any host
    /// ([`model::FailureReason::Fuel`]).
    pub fuel: u64,
    /// The net beneath the fuel; 100 ms to 10 s ([`model::FailureReason::Deadline`]). Wall time, and then a quarter as
    /// much of the thread's own time: a busy host ends no call that does little.
    pub deadline: Duration,
    /// Linear memory in bytes, at most [`MAX_MEMORY`] ([`model::FailureReason::Memory`]).
    pub memory: usize,
    /// Bytes that the pack may hand to the host in one decision or one call
    /// ([`model::FailureReason::Output`], [`model::FailureReason::HostLimit`]).
    pub output: usize,
    /// Calls of the host ([`model::FailureReason::HostLimit`]).
    pub host_calls: u32,
    /// Lines in the log; further ones are dropped.
    pub log_lines: u32,
}

/// Worth about 2 ms of one core: 0.6 ms in tight loops, 6 ms in nothing but allocating and copying (0.06 and 0.6 ns a unit on
/// a 2-core virtual machine; bulk copies cost a unit per byte). `require-header` takes 1,500.
const FUEL: u64 = 10_000_000;

impl Default for Limits {
    fn default() -> Self {
        Self {
            fuel: FUEL,
            deadline: MIN_DEADLINE,
            memory: 4 << 20,
            output: 64 << 10,
            host_calls: 512,
            log_lines: 16,
        }
    }
}

impl Limits {
    /// What `configure` may use: it runs once, when a configuration is published.
    pub(crate) fn of_configuration(&self) -> Self {
        Self { fuel: 100 * FUEL, deadline: Duration::from_secs(5), ..*self }
    }

    /// The deadline in ticks of the epoch. One more, because the present tick is partly over.
    pub(crate) fn ticks(&self) -> u64 {
        let ticks = self.deadline.as_nanos().div_ceil(TICK.as_nanos());
        u64::try_from(ticks).unwrap_or(u64::MAX).saturating_add(1)
    }

    /// Refuses limits that can't be kept.
    pub(crate) fn check(&self) -> Result<(), PackError> {
        if self.memory > MAX_MEMORY {
            let message = format!("`memory` is at most {MAX_MEMORY} bytes");
            return Err(PackError::Limits { message });
        }
        if !(MIN_DEADLINE..=MAX_DEADLINE).contains(&self.deadline) {
            let message = format!("`deadline` is {MIN_DEADLINE:?} to {MAX_DEADLINE:?}");
            return Err(PackError::Limits { message });
        }
        Ok(())
    }
}
