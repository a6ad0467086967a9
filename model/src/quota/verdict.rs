//! What a store of counters answers: readings, and whether the request may go on.

use super::{Kind, Limit, LimitMode, OnStoreError, PermitRecord, Window};
use crate::error::ErrorCode;
use crate::id::LimitId;

/// The answer to a demand.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// Every limit was charged.
    Admitted {
        /// What was charged; needed to settle.
        permit: PermitRecord,
        /// Every limit after the charge, in the demand's order.
        readings: Vec<Reading>,
    },
    /// No limit was charged.
    Refused(Refused),
}

impl Verdict {
    /// Every limit, in the demand's order.
    pub fn readings(&self) -> &[Reading] {
        match self {
            Self::Admitted { readings, .. } => readings,
            Self::Refused(refused) => &refused.readings,
        }
    }
}

/// A refusal. The limit that is named is the one to wait for longest: when it admits, all do.
#[derive(Clone, Debug, PartialEq)]
pub struct Refused {
    readings: Vec<Reading>,
    cause: Reading,
    wait: Wait,
}

impl Refused {
    /// The refusal that these readings mean, if any of them refuses.
    pub fn of(readings: &[Reading]) -> Option<Self> {
        let (wait, cause) = readings
            .iter()
            .filter(|reading| reading.mode == LimitMode::Enforce)
            .filter_map(|reading| Some((reading.refusal?, reading)))
            // Of equals the first, in the order in which the plan names them.
            .rev()
            .max_by_key(|(wait, _)| *wait)?;
        Some(Self { readings: readings.to_vec(), cause: cause.clone(), wait })
    }

    /// The limit that refuses.
    pub fn cause(&self) -> &Reading {
        &self.cause
    }

    /// Every limit as it stands, in the demand's order.
    pub fn readings(&self) -> &[Reading] {
        &self.readings
    }

    /// The public code.
    pub fn code(&self) -> ErrorCode {
        self.cause.kind.refusal_code()
    }

    /// `Retry-After` in whole seconds, at least 1, never earlier than true; `None` when waiting does not help.
    pub fn retry_after(&self) -> Option<u64> {
        match self.wait {
            Wait::For(micros) => Some(super::fields::whole_seconds(micros).max(1)),
            Wait::Forever => None,
        }
    }
}

/// A limit as it stands at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Reading {
    /// The limit's id.
    pub id: LimitId,
    /// What it limits.
    pub kind: Kind,
    /// How much it has: burst, amount or slots.
    pub limit: u64,
    /// How much of that is used. More than `limit` after the limit was cut.
    pub used: u64,
    /// How much may still be used now.
    pub remaining: u64,
    /// Microseconds until all of it remains again; `None` for slots, where nobody knows.
    pub reset_after: Option<i64>,
    /// The window that a quota counts in, by the clock of whoever counts.
    pub window: Option<Window>,
    /// Whether a request of the demand's cost is refused, and for how long; by a limit that only observes, would be.
    pub refusal: Option<Wait>,
    /// Whether it refuses, or only says that it would.
    pub mode: LimitMode,
    /// How it was decided without the shared store, when that could not answer.
    pub degraded: Option<OnStoreError>,
}

impl Reading {
    /// A limit at this level.
    pub fn new(limit: &Limit, level: Level, refusal: Option<Wait>) -> Self {
        Self {
            id: limit.id.clone(),
            kind: limit.kind,
            limit: level.limit,
            used: level.used,
            remaining: level.remaining,
            reset_after: level.reset_after,
            window: level.window,
            refusal,
            mode: limit.mode,
            degraded: None,
        }
    }

    /// The reading of an admitted request: what a next one would meet is not its affair.
    #[must_use]
    pub fn admitted(self) -> Self {
        Self { refusal: None, ..self }
    }
}

/// How long a refused request has to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Wait {
    /// So many microseconds.
    For(i64),
    /// Waiting does not help: it costs more than the limit ever has.
    Forever,
}

/// How much of a counter is used: the numbers of a [`Reading`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Level {
    /// How much there is.
    pub limit: u64,
    /// How much of it is used.
    pub used: u64,
    /// How much may still be used now.
    pub remaining: u64,
    /// Microseconds until all of it remains again, where that is known.
    pub reset_after: Option<i64>,
    /// The window that a quota counts in.
    pub window: Option<Window>,
}
