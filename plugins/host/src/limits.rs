//! What one decision may use.

use std::time::Duration;

use model::FailureReason;
use model::document::PackLimits;
use model::units::Size;

use crate::failure::Whose;
use crate::grants::Caps;
use crate::host::TICK;
use crate::pack::PackError;

/// The most memory that [`Limits`] can grant: what a slot of the pool holds.
pub const MAX_MEMORY: usize = 64 << 20;

/// The shortest deadline. It measures wall time, so a shorter one would fail innocent decisions of a busy host.
const MIN_DEADLINE: Duration = Duration::from_millis(100);

/// The longest deadline: a decision holds up the worker that it runs on.
const MAX_DEADLINE: Duration = Duration::from_secs(10);

/// What the host itself takes for one call of it, in fuel, beside a unit for each byte that changes hands: the time of 100
/// instructions or more (0.1 µs).
pub(crate) const HOST_CALL_FUEL: usize = 100;

/// What one decision may use. Each limit has its own reason for failing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Work, in fuel: about one unit per WebAssembly instruction and per byte copied, the same for the same request on any
    /// host ([`model::FailureReason::Fuel`]).
    pub fuel: u64,
    /// The net beneath the fuel; 100 ms to 10 s ([`model::FailureReason::Deadline`]). Wall time, and then a quarter as
    /// much of the thread's own time: a busy host ends no call that does little.
    pub deadline: Duration,
    /// Linear memory in bytes, at most [`MAX_MEMORY`] ([`model::FailureReason::Memory`]).
    pub memory: usize,
    /// Bytes that the pack may hand to the host in one decision or one call; 64 KiB and the size of the body it may change
    /// when none ([`model::FailureReason::Output`], [`model::FailureReason::HostLimit`]).
    pub output: Option<usize>,
    /// Calls of the host ([`model::FailureReason::HostLimit`]).
    pub host_calls: u32,
    /// Lines in the log; further ones are dropped.
    pub log_lines: u32,
    /// Decisions at one time. Counted by whoever calls, which knows what else runs
    /// ([`model::FailureReason::Saturated`]).
    pub instances: u32,
}

/// Worth about 2 ms of one core: 0.6 ms in tight loops, 6 ms in nothing but allocating and copying (0.06 and 0.6 ns a unit on
/// a 2-core virtual machine; bulk copies cost a unit per byte). `require-header` takes 2,000.
const FUEL: u64 = 10_000_000;
/// What a pack may hand to the host where nothing is said, beside a body.
const OUTPUT: usize = 64 << 10;

impl Default for Limits {
    fn default() -> Self {
        Self {
            fuel: FUEL,
            deadline: MIN_DEADLINE,
            memory: 4 << 20,
            output: None,
            host_calls: 512,
            log_lines: 16,
            instances: 64,
        }
    }
}

impl From<PackLimits> for Limits {
    /// As a document or a manifest says it; the default where it says nothing.
    fn from(said: PackLimits) -> Self {
        let default = Self::default();
        Self {
            fuel: said.fuel.unwrap_or(default.fuel),
            deadline: said.deadline.map_or(default.deadline, |deadline| deadline.0),
            memory: said.memory.map_or(default.memory, Size::bytes),
            output: said.output.map(Size::bytes),
            host_calls: said.host_calls.unwrap_or(default.host_calls),
            log_lines: said.log_lines.unwrap_or(default.log_lines),
            instances: said.instances.unwrap_or(default.instances),
        }
    }
}

impl Limits {
    /// What is left of them under a tenant's caps.
    pub(crate) fn capped(&self, caps: Caps) -> Self {
        let output = match self.output {
            Some(said) => Some(said.min(caps.output)),
            None => Some(caps.output).filter(|cap| *cap < OUTPUT),
        };
        Self {
            fuel: self.fuel.min(caps.fuel),
            deadline: self.deadline.min(caps.deadline),
            memory: self.memory.min(caps.memory),
            output,
            host_calls: self.host_calls.min(caps.host_calls),
            ..*self
        }
    }

    /// Whose limit it was that a call under these, [capped](Self::capped), ran into.
    pub(crate) fn whose(&self, capped: &Self, reason: FailureReason) -> Whose {
        let is_lower = match reason {
            FailureReason::Fuel => capped.fuel < self.fuel,
            FailureReason::Deadline => capped.deadline < self.deadline,
            FailureReason::Memory => capped.memory < self.memory,
            FailureReason::Output => capped.output != self.output,
            FailureReason::HostLimit => {
                capped.host_calls < self.host_calls || capped.output != self.output
            }
            _ => false,
        };
        if is_lower { Whose::Caller } else { Whose::Own }
    }

    /// Bytes that the pack may hand to the host at one time, where it may change a body of this size.
    pub(crate) fn output_beside(&self, body: usize) -> usize {
        self.output.unwrap_or(OUTPUT.saturating_add(body))
    }

    /// What `configure` may use: it runs once, when a configuration is published. Of an attachment's own limits only the
    /// memory counts, so that what comes of it is the same for all others.
    pub(crate) fn of_configuration(&self) -> Self {
        Self {
            fuel: 100 * FUEL,
            deadline: Duration::from_secs(5),
            memory: self.memory,
            ..Self::default()
        }
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
