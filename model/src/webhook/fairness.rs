//! Whose deliveries come next: deficit round robin over tenants, and within a tenant over its lanes (its endpoints).
//!
//! A tenant whose turn it is may take [`TENANT_QUANTUM`] deliveries, one of its lanes [`LANE_QUANTUM`]; what is left of
//! either when there is no more room is theirs the next time. Invariant: of tenants that all have something to take, none gets
//! more than a quantum ahead of another, however many lanes and however long a backlog it has.

use crate::id::{EndpointId, TenantId};
use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::Hash;

/// How much a tenant takes in its turn.
pub const TENANT_QUANTUM: u32 = 16;
/// How much a lane takes in its turn.
pub const LANE_QUANTUM: u32 = 8;

/// Tenants and lanes that have something to take, in the order of their turns.
#[derive(Clone, Debug, Default)]
pub struct Rounds {
    tenants: Ring<TenantId>,
    lanes: HashMap<TenantId, Ring<EndpointId>>,
}

/// How much a lane is granted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Whose it is.
    pub tenant: TenantId,
    /// Which one.
    pub endpoint: EndpointId,
    /// How many.
    pub most: u32,
}

impl Rounds {
    /// A lane has something to take. It stays in turn until a grant fills what it wants.
    pub fn enter(&mut self, tenant: &TenantId, endpoint: &EndpointId) {
        self.tenants.enter(tenant, TENANT_QUANTUM);
        self.lanes.entry(tenant.clone()).or_default().enter(endpoint, LANE_QUANTUM);
    }

    /// Whether nobody has anything to take.
    pub fn is_empty(&self) -> bool {
        self.tenants.order.is_empty()
    }

    /// Shares so much room among those in turn. `wants` says how much a lane wants, and is asked once for each: a lane that
    /// wants nothing, or gets all that it wants, is no longer in turn. `tenant_room` says how much a tenant may have, and is
    /// asked once as well; lanes of one that may have no more stay in turn.
    pub fn grant(
        &mut self,
        mut room: u32,
        mut tenant_room: impl FnMut(&TenantId) -> u32,
        mut wants: impl FnMut(&TenantId, &EndpointId) -> u32,
    ) -> Vec<Grant> {
        let mut grants = Grants::default();
        let mut rooms: HashMap<TenantId, u32> = HashMap::new();
        // Tenants that have all that they may have, in a row: when it is everybody, there is no more to share.
        let mut passed = 0;
        while room > 0 && passed < self.tenants.order.len() {
            let Some(tenant) = self.tenants.first() else { break };
            let left = rooms.entry(tenant.clone()).or_insert_with(|| tenant_room(&tenant));
            if *left == 0 {
                self.tenants.pass(TENANT_QUANTUM);
                passed += 1;
                continue;
            }
            let lanes = self.lanes.entry(tenant.clone()).or_default();
            if grants.next_of(&tenant, lanes, &mut wants) {
                room -= 1;
                *left -= 1;
                passed = 0;
                self.tenants.took(TENANT_QUANTUM);
            } else {
                self.lanes.remove(&tenant);
                self.tenants.leave(TENANT_QUANTUM);
            }
        }
        grants.given
    }
}

/// What is granted so far.
#[derive(Default)]
struct Grants {
    given: Vec<Grant>,
    /// What each lane that was asked still wants, and where its grant stands.
    wanted: HashMap<EndpointId, (u32, Option<usize>)>,
}

impl Grants {
    /// Grants one delivery to the lane in turn of this tenant; says whether any wanted one.
    fn next_of(
        &mut self,
        tenant: &TenantId,
        lanes: &mut Ring<EndpointId>,
        wants: &mut impl FnMut(&TenantId, &EndpointId) -> u32,
    ) -> bool {
        while let Some(endpoint) = lanes.first() {
            let wanted = self.wanted.entry(endpoint.clone());
            let (left, at) = wanted.or_insert_with(|| (wants(tenant, &endpoint), None));
            if *left == 0 {
                lanes.leave(LANE_QUANTUM);
                continue;
            }
            *left -= 1;
            match at.and_then(|at| self.given.get_mut(at)) {
                Some(grant) => grant.most += 1,
                None => {
                    *at = Some(self.given.len());
                    self.given.push(Grant { tenant: tenant.clone(), endpoint, most: 1 });
                }
            }
            match *left {
                0 => lanes.leave(LANE_QUANTUM),
                _ => lanes.took(LANE_QUANTUM),
            }
            return true;
        }
        false
    }
}

/// Those in turn. The first has so much left of its quantum.
#[derive(Clone, Debug)]
struct Ring<K> {
    order: VecDeque<K>,
    known: HashSet<K>,
    left: u32,
}

impl<K> Default for Ring<K> {
    fn default() -> Self {
        Self { order: VecDeque::new(), known: HashSet::new(), left: 0 }
    }
}

impl<K: Clone + Eq + Hash> Ring<K> {
    fn enter(&mut self, key: &K, quantum: u32) {
        if self.known.insert(key.clone()) {
            if self.order.is_empty() {
                self.left = quantum;
            }
            self.order.push_back(key.clone());
        }
    }

    fn first(&self) -> Option<K> {
        self.order.front().cloned()
    }

    /// The first took one.
    fn took(&mut self, quantum: u32) {
        self.left = self.left.saturating_sub(1);
        if self.left == 0 {
            self.pass(quantum);
        }
    }

    /// The first's turn is over.
    fn pass(&mut self, quantum: u32) {
        if let Some(first) = self.order.pop_front() {
            self.order.push_back(first);
        }
        self.left = quantum;
    }

    /// The first wants no more.
    fn leave(&mut self, quantum: u32) {
        if let Some(first) = self.order.pop_front() {
            self.known.remove(&first);
        }
        self.left = quantum;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn tenant(n: usize) -> TenantId {
        TenantId::from(format!("t{n}").as_str())
    }

    fn lane(tenant: usize, n: usize) -> EndpointId {
        EndpointId::from(format!("t{tenant}-{n}").as_str())
    }

    fn by_tenant(grants: &[Grant]) -> BTreeMap<String, u32> {
        let mut sums = BTreeMap::new();
        for grant in grants {
            *sums.entry(grant.tenant.to_string()).or_default() += grant.most;
        }
        sums
    }

    #[test]
    fn a_tenant_with_many_lanes_gets_no_more_than_one_with_one() {
        let mut rounds = Rounds::default();
        for n in 0..50 {
            rounds.enter(&tenant(0), &lane(0, n));
        }
        rounds.enter(&tenant(1), &lane(1, 0));
        let sums = by_tenant(&rounds.grant(64, |_| u32::MAX, |_, _| 1_000));
        assert_eq!(sums, BTreeMap::from([("t0".to_owned(), 32), ("t1".to_owned(), 32)]));
    }

    #[test]
    fn what_one_does_not_want_the_others_get() {
        let mut rounds = Rounds::default();
        rounds.enter(&tenant(0), &lane(0, 0));
        rounds.enter(&tenant(1), &lane(1, 0));
        let want =
            |tenant: &TenantId, _: &EndpointId| if tenant.as_str() == "t0" { 3 } else { 500 };
        let sums = by_tenant(&rounds.grant(100, |_| u32::MAX, want));
        assert_eq!(sums, BTreeMap::from([("t0".to_owned(), 3), ("t1".to_owned(), 97)]));
        assert!(!rounds.is_empty(), "it wants more");
        assert!(rounds.grant(100, |_| u32::MAX, |_, _| 0).is_empty());
        assert!(rounds.is_empty());
    }

    #[test]
    fn a_tenant_that_may_have_no_more_stays_in_turn_and_holds_up_nobody() {
        let mut rounds = Rounds::default();
        for n in 0..3 {
            rounds.enter(&tenant(n), &lane(n, 0));
        }
        let may = |tenant: &TenantId| if tenant.as_str() == "t1" { 5 } else { 40 };
        let sums = by_tenant(&rounds.grant(100, may, |_, _| 1_000));
        let expected = [("t0", 40), ("t1", 5), ("t2", 40)].map(|(id, n)| (id.to_owned(), n));
        assert_eq!(sums, BTreeMap::from(expected));
        assert!(rounds.grant(100, |_| 0, |_, _| 1_000).is_empty());
        assert_eq!(by_tenant(&rounds.grant(48, |_| u32::MAX, |_, _| 1_000)).len(), 3);
    }

    #[test]
    fn small_rooms_go_round_as_one_large_one_does() {
        let mut rounds = Rounds::default();
        let mut sums = BTreeMap::new();
        for n in 0..4 {
            rounds.enter(&tenant(n), &lane(n, 0));
            rounds.enter(&tenant(n), &lane(n, 1));
        }
        for _ in 0..4 * 32 {
            for grant in rounds.grant(1, |_| u32::MAX, |_, _| 1_000) {
                *sums.entry(grant.endpoint.to_string()).or_insert(0_u32) += grant.most;
            }
        }
        assert!(sums.len() == 8 && sums.values().all(|sum| *sum == 16), "{sums:?}");
    }

    proptest! {
        /// Of tenants that want without end none gets a quantum ahead of another, over any sequence of rooms; and no room is
        /// left while somebody wants.
        #[test]
        fn nobody_gets_more_than_a_quantum_ahead(
            lanes in prop::collection::vec(1_usize..6, 1..8),
            rooms in prop::collection::vec(0_u32..70, 1..60),
        ) {
            let mut rounds = Rounds::default();
            let mut sums: BTreeMap<String, u32> = BTreeMap::new();
            for room in rooms {
                for (owner, lanes) in lanes.iter().enumerate() {
                    for n in 0..*lanes {
                        rounds.enter(&tenant(owner), &lane(owner, n));
                    }
                }
                let grants = rounds.grant(room, |_| u32::MAX, |_, _| u32::MAX);
                prop_assert_eq!(grants.iter().map(|grant| grant.most).sum::<u32>(), room);
                for (id, sum) in by_tenant(&grants) {
                    *sums.entry(id).or_default() += sum;
                }
            }
            let most = sums.values().copied().max().unwrap_or(0);
            let least = (0..lanes.len()).map(|n| sums.get(&format!("t{n}")).copied().unwrap_or(0)).min();
            prop_assert!(most - least.unwrap_or(0) <= TENANT_QUANTUM);
        }
    }
}
