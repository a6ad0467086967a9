//! Both kinds of database against the same suites, and what only one of them can get wrong.
//!
//! PostgreSQL is the server of `TOLLGATE_TEST_POSTGRES` (`scripts/services with cargo test -p store`); without it, tests
//! fail. Each test has a database of its own.

mod behaviour;
mod both;
mod databases;
mod kills;
mod ledger;
mod outages;
mod postgres;
mod samples;
mod server;
mod sqlite;
mod webhooks;

use crate::{ClockOf, SqlLedger, Store};
use model::idempotency::{ClaimRequest, Claimed, Fence, Ledger as _, TenantRoom};

impl Store {
    /// The idempotency records, for whom it is what time a test says.
    fn timed_ledger(&self) -> SqlLedger {
        self.ledger_of(TenantRoom::SHARED, ClockOf::Caller)
    }
}

/// Claims a key that is free.
async fn hold(store: &SqlLedger, request: &ClaimRequest, now: i64) -> Fence {
    match store.claim(request, now).await.unwrap() {
        Claimed::Held { fence, .. } => fence,
        other => panic!("{other:?}"),
    }
}
