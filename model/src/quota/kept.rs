//! What was used of a quota, as it is kept outside of the process that counts.

use super::{CounterKey, Period, Window};
use crate::id::TenantId;

/// A quota's counter as it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptQuota {
    /// Whose counter it is.
    pub tenant: TenantId,
    /// The counter.
    pub key: CounterKey,
    /// The period that its window is one of.
    pub period: Period,
    /// The window that it counts in.
    pub window: Window,
    /// How much was used in that window, in units.
    pub used: u64,
}
