//! What a process has in hand: counted in all, and for each tenant.
//!
//! Invariant: a tenant has at most as much as is left for everybody else, of deliveries and of bytes, so that some room is
//! always free for whoever comes next.

use super::Lanes;
use model::id::TenantId;
use std::collections::HashMap;
use std::sync::Arc;

/// How many deliveries a process has in hand at once: held, and not yet settled.
pub(crate) const IN_HAND_MAX: u32 = 4_096;
/// How many bytes of events these hold at most, give or take what one claim takes.
const IN_HAND_BYTES_MAX: u64 = 256 << 20;
/// How large an event may be: what is claimed is taken to be so large until it is known.
const EVENT_BYTES_MAX: u64 = 1 << 20;

/// What is in hand.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct InHand {
    all: u32,
    bytes: u64,
    by_tenant: HashMap<TenantId, Had>,
}

/// What of a tenant is in hand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Had {
    count: u32,
    bytes: u64,
}

impl InHand {
    /// How many there are.
    pub(super) fn all(&self) -> u32 {
        self.all
    }

    /// So many more are this tenant's: how large they are is not known yet.
    pub(super) fn take(&mut self, tenant: &TenantId, count: u32) {
        self.all += count;
        self.by_tenant.entry(tenant.clone()).or_default().count += count;
    }

    /// One of this tenant's is so large.
    fn weigh(&mut self, tenant: &TenantId, bytes: u64) {
        self.bytes += bytes;
        self.by_tenant.entry(tenant.clone()).or_default().bytes += bytes;
    }

    /// So many of this tenant's are not in hand any more.
    pub(super) fn give_back(&mut self, tenant: &TenantId, count: u32, bytes: u64) {
        self.all = self.all.saturating_sub(count);
        self.bytes = self.bytes.saturating_sub(bytes);
        if let Some(had) = self.by_tenant.get_mut(tenant) {
            had.count = had.count.saturating_sub(count);
            had.bytes = had.bytes.saturating_sub(bytes);
            if had.count == 0 {
                self.by_tenant.remove(tenant);
            }
        }
    }

    /// How many more there may be.
    pub(super) fn free(&self) -> u32 {
        IN_HAND_MAX.saturating_sub(self.all)
    }

    /// What others leave beyond what this tenant has.
    pub(super) fn beyond(&self, tenant: &TenantId) -> u32 {
        self.free().saturating_sub(self.had(tenant).count)
    }

    /// How many more this tenant may have: at most half of what others leave. The same holds for bytes, where each counts as
    /// the largest there may be.
    pub(super) fn room(&self, tenant: &TenantId) -> u32 {
        let free = IN_HAND_BYTES_MAX.saturating_sub(self.bytes);
        let beyond = free.saturating_sub(self.had(tenant).bytes);
        let within_bytes = beyond.div_ceil(2 * EVENT_BYTES_MAX);
        self.beyond(tenant).div_ceil(2).min(u32::try_from(within_bytes).unwrap_or(u32::MAX))
    }

    fn had(&self, tenant: &TenantId) -> Had {
        self.by_tenant.get(tenant).copied().unwrap_or_default()
    }
}

/// The place of a delivery that is in hand, until it is settled.
pub(crate) struct Place {
    lanes: Arc<Lanes>,
    /// Whom it counts for: whose the endpoint is.
    tenant: TenantId,
    bytes: u64,
}

impl Place {
    /// Of a delivery that was [taken](InHand::take).
    pub(super) fn of(
        lanes: &Arc<Lanes>,
        in_hand: &mut InHand,
        tenant: TenantId,
        bytes: u64,
    ) -> Self {
        in_hand.weigh(&tenant, bytes);
        Self { lanes: lanes.clone(), tenant, bytes }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut inner = self.lanes.inner();
        inner.in_hand.give_back(&self.tenant, 1, self.bytes);
        if !inner.rounds.is_empty() {
            self.lanes.look.notify_one();
        }
    }
}
