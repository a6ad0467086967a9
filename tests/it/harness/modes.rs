//! A tenant for each `on_store_error`, so that all of them are seen in one outage.

use super::cluster::Member;
use super::document::{self, Edit as _, key_of};
use super::offer::{Offer, Outcomes, Stream};
use super::{Pair, Upstream, eventually};
use serde_json::{Value, json};

/// A tenant whose limits all do the same when they can't be counted: what it may do per second, and what each gateway of a
/// [`Pair`] is asked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tenant {
    pub(crate) mode: &'static str,
    pub(crate) rate: u32,
    pub(crate) asked: u32,
}

/// Twice as much as it may.
pub(crate) const LOCAL: Tenant = Tenant { mode: "local", rate: 40, asked: 40 };
/// Twice as much as it may.
pub(crate) const OPEN: Tenant = Tenant { mode: "open", rate: 20, asked: 20 };
/// Much less than it may.
pub(crate) const CLOSED: Tenant = Tenant { mode: "closed", rate: 1_000, asked: 10 };
pub(crate) const TENANTS: [Tenant; 3] = [LOCAL, OPEN, CLOSED];

impl Tenant {
    fn limits(self) -> Value {
        let Self { mode, rate, .. } = self;
        json!([
            { "id": "rate", "rate": format!("{rate}/s"), "burst": rate, "per": "tenant", "on_store_error": mode },
            // Without batches, what Redis counts is what was admitted.
            { "id": "daily", "quota": "1000000/day", "per": "tenant", "exact": true, "on_store_error": mode },
        ])
    }

    /// Asserts that what was admitted by Redis is charged to it, and at most what was admitted at all. Outcomes are settled
    /// after their answers.
    pub(crate) async fn is_charged_once(self, pair: &Pair, outcomes: &Outcomes) {
        let admitted = outcomes.admitted() as u64;
        let alone = |how: &str| {
            outcomes.0.iter().filter(|asked| asked.admitted() && asked.degraded(how)).count() as u64
        };
        let least = admitted - alone("local") - alone("open");
        let what = format!("{} is charged what was admitted", self.mode);
        let used = eventually(&what, async || {
            let used = pair.used(self.mode, "daily").await;
            if (least..=admitted).contains(&used) { Ok(used) } else { Err((least, used, admitted)) }
        })
        .await;
        println!("{}: {admitted} admitted, {least} of them by Redis; {used} charged", self.mode);
    }
}

/// A document with all of them.
pub(crate) fn document(upstream: &Upstream) -> Value {
    TENANTS.iter().fold(document::standard(upstream.address), |document, tenant| {
        document.with_tenant(tenant.mode, tenant.limits())
    })
}

/// Requests of every tenant at both gateways; a stream for each tenant and gateway, tenant by tenant.
pub(crate) fn offered(pair: &Pair) -> Offer {
    let keys = TENANTS.map(|tenant| key_of(tenant.mode));
    let streams: Vec<Stream<'_>> = TENANTS
        .iter()
        .zip(&keys)
        .flat_map(|(tenant, key)| pair.asked(key, tenant.asked, 4))
        .collect();
    Offer::start(&streams)
}

/// Lines of a log that say that counters are away, or back.
pub(crate) fn changes(member: &Member) -> Vec<String> {
    let log = member.log();
    let says = |line: &&str| line.contains(r#""message":"the shared counters"#);
    log.lines().filter(says).map(str::to_owned).collect()
}
