//! Limits: how much a tenant, consumer, credential or address may use, and the pure machine that counts it.
//!
//! Invariants: all limits of a request are charged or none is, so a refused request consumes nothing; a permit is charged
//! once and settled once, however often it is asked for; editing a limit's size forgets nothing that was used.
//! Time is passed in, in microseconds since the Unix epoch. What counts for a whole tenant is a [`Tally`]; a store that
//! keeps counters implements [`Counters`] and agrees with it.

mod amount;
mod bucket;
mod charging;
mod counter;
mod demand;
pub mod fields;
mod kept;
mod pace;
mod slots;
#[cfg(feature = "suite")]
pub mod suite;
mod tally;
mod verdict;
mod window;

pub use amount::{InvalidQuota, InvalidRate, Period, Quota, Rate};
pub use bucket::{BACKLOG_MAX, Bucket};
pub use charging::{Outcome, Settlement, Terms};
pub use counter::Counter;
pub use demand::{Charge, Counted, CounterKey, Demand, Part, PermitId, PermitRecord, Taken};
pub use kept::KeptQuota;
pub use pace::{Judged, Measured, Pace, PaceRules, Turn};
pub use slots::Slots;
pub use tally::Tally;
pub use verdict::{Level, Reading, Refused, Verdict, Wait};
pub use window::{Calendar, Spent, Window};

use crate::error::ErrorCode;
use crate::id::LimitId;
use crate::port::StoreError;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A limit of a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limit {
    /// Its name, as partners see it; unique within its plan.
    pub id: LimitId,
    /// What is limited, and how much of it.
    pub kind: Kind,
    /// Who shares the counter.
    pub per: Per,
    /// Whether the shared store decides about each request, so that no node takes units in advance.
    pub exact: bool,
    /// Whether it refuses.
    pub mode: LimitMode,
    /// What happens when the store of counters can't answer.
    pub on_store_error: OnStoreError,
}

/// What is limited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Units per time.
    Rate {
        /// How fast what was used comes back.
        rate: Rate,
        /// How many units are admitted at one instant; at least 1.
        burst: u32,
    },
    /// Units per window of the tenant's calendar.
    Quota(Quota),
    /// So many requests at the same time; at least 1.
    Concurrency(u32),
}

impl Kind {
    /// What a caller is told who is refused by such a limit.
    pub const fn refusal_code(self) -> ErrorCode {
        match self {
            Self::Rate { .. } => ErrorCode::RateLimited,
            Self::Quota(_) => ErrorCode::QuotaExceeded,
            Self::Concurrency(_) => ErrorCode::ConcurrencyLimited,
        }
    }

    /// How much there is at one moment: the burst, the amount, the slots.
    pub const fn size(self) -> u64 {
        match self {
            Self::Rate { burst, .. } => burst as u64,
            Self::Quota(quota) => quota.amount(),
            Self::Concurrency(slots) => slots as u64,
        }
    }

    /// What one of so many nodes may admit alone: an equal part of it, at least 1.
    #[must_use]
    pub fn share(self, nodes: u32) -> Self {
        let part = |units: u32| (units / nodes.max(1)).max(1);
        match self {
            Self::Rate { rate, burst } => {
                Self::Rate { rate: rate.share(nodes), burst: part(burst) }
            }
            Self::Quota(quota) => Self::Quota(quota.share(nodes)),
            Self::Concurrency(slots) => Self::Concurrency(part(slots)),
        }
    }
}

/// Who shares a limit's counter. Always within the tenant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Per {
    /// All of the tenant's requests.
    Tenant,
    /// Those of one consumer.
    Consumer,
    /// Those with one credential.
    Credential,
    /// Those from one IPv4 address or one IPv6 /64.
    Ip,
}

/// Whether a limit refuses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LimitMode {
    /// It does.
    #[default]
    Enforce,
    /// It counts and says what it would refuse, and refuses nothing.
    Observe,
}

impl LimitMode {
    /// Whether it is that of limits which say nothing.
    pub fn is_enforce(&self) -> bool {
        *self == Self::Enforce
    }

    /// The name used in documents and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Enforce => "enforce",
            Self::Observe => "observe",
        }
    }
}

/// What happens when the store of counters can't answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnStoreError {
    /// This node counts alone, with its share of the limit.
    Local,
    /// Requests pass uncounted.
    Open,
    /// Requests are refused.
    Closed,
}

impl OnStoreError {
    /// The name used in documents, header fields and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Open => "open",
            Self::Closed => "closed",
        }
    }
}

/// A store of counters. Time is microseconds since the epoch; a store with a clock of its own may prefer that.
pub trait Counters: Send + Sync {
    /// Charges all limits of the demand in one atomic step, or none. Asked again for a permit that is open: the same
    /// permit, charged once.
    fn reserve(
        &self,
        demand: &Demand,
        now: i64,
    ) -> impl Future<Output = Result<Verdict, StoreError>> + Send;

    /// Ends a permit: frees its slots, gives quotas back if the settlement says so, charges what it cost in the end.
    /// Nothing the second time.
    fn settle(
        &self,
        permit: &PermitRecord,
        settlement: Settlement,
        now: i64,
    ) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// What a request of this demand would find, in its order. Charges nothing.
    fn peek(
        &self,
        demand: &Demand,
        now: i64,
    ) -> impl Future<Output = Result<Vec<Reading>, StoreError>> + Send;

    /// Sets the demand's rates and quotas to unused; slots stay with those who hold them. For operators.
    fn reset(
        &self,
        demand: &Demand,
        now: i64,
    ) -> impl Future<Output = Result<(), StoreError>> + Send;
}
