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
mod slots;
#[cfg(feature = "suite")]
pub mod suite;
mod tally;
mod verdict;
mod window;

pub use amount::{InvalidQuota, InvalidRate, Period, Quota, Rate};
pub use bucket::Bucket;
pub use charging::{Outcome, Settlement, Terms};
pub use counter::Counter;
pub use demand::{Charge, Counted, CounterKey, Demand, Part, PermitId, PermitRecord, Taken};
pub use slots::Slots;
pub use tally::Tally;
pub use verdict::{Level, Reading, Refused, Verdict, Wait};
pub use window::{Spent, Window};

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
    /// Units per calendar window of the tenant's time zone.
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

/// A store of counters. Time is microseconds since the epoch; a store with a clock of its own may prefer that.
pub trait Counters: Send + Sync {
    /// Charges all limits of the demand in one atomic step, or none. Asked again for a permit that is open: the same
    /// permit, charged once.
    fn reserve(
        &self,
        demand: &Demand,
        now: i64,
    ) -> impl Future<Output = Result<Verdict, StoreError>> + Send;

    /// Ends a permit: frees its slots and gives quotas back if the settlement says so. Nothing the second time.
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
