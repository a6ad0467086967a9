//! What came of a keyed request, told to the store of its key: at once, and in the background where that fails.
//!
//! Invariants: whoever holds the key tells, and its fence makes telling twice harmless; how much waits to be told, in number
//! and bytes, and for how long, is bounded. While an outcome that is known waits, its lease is renewed, so that nobody else
//! is let through. What is given up is unknown, as if the holder had died.

use crate::body::{Budget, Share};
use crate::gateway::Gateway;
use model::idempotency::{Answer, Disposition, Settled};
use stages::again::{Again, Place};
use stages::claim::{Claim, Holder};
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;

/// How many outcomes wait to be told.
const UNTOLD_MAX: usize = 1_024;
/// How many bytes of answers are kept for that.
const UNTOLD_BYTES_MAX: usize = 64 << 20;
/// How long telling is tried: longer than a failover of the store takes.
const TRIED_FOR: Duration = Duration::from_secs(300);

/// Outcomes that wait to be told.
pub struct Settling {
    again: Again,
    bytes: Budget,
}

impl Settling {
    /// They are told on this runtime.
    pub fn new(runtime: &Handle) -> Self {
        let again = Again::new(UNTOLD_MAX, TRIED_FOR, runtime);
        Self { again, bytes: Budget::of(UNTOLD_BYTES_MAX) }
    }

    /// Waits until all was told, at most for so long. Says how many outcomes are left.
    pub async fn drained(&self, within: Duration) -> usize {
        self.again.drained(within).await
    }
}

/// Tells what an ending means for the key, and what is kept of an answer where one is. Says what became of the key, where
/// there is one and the store has said it; else that is counted when it does.
pub(crate) async fn settle(
    gateway: &Arc<Gateway>,
    claim: &Claim,
    disposition: Disposition,
    kept: impl Fn() -> Option<Answer>,
    request_id: &str,
) -> Option<&'static str> {
    let holder = claim.holder()?;
    let now = gateway.clock.micros();
    let told = tokio::select! {
        told = holder.settle(&gateway.ledger, disposition, kept(), now) => told,
        never = claim.keep(&gateway.ledger, &gateway.clock), if is_known(disposition) => match never {},
    };
    match told {
        Ok(settled) => Some(word(disposition, settled, request_id)),
        Err(error) => {
            let untold =
                Untold { holder, disposition, kept: kept(), request_id: request_id.into() };
            let waits = untold.begin(gateway);
            tracing::warn!(%error, request_id, waits, "the store of keys was not told an outcome");
            (!waits).then_some("failed")
        }
    }
}

/// Whether somebody knows the outcome: then it is worth it to hold the key until the store does.
const fn is_known(disposition: Disposition) -> bool {
    match disposition {
        Disposition::Keep | Disposition::Release => true,
        Disposition::Unknown => false,
    }
}

/// How metrics call what became of a key.
fn word(disposition: Disposition, settled: Settled, request_id: &str) -> &'static str {
    match (settled, disposition) {
        (Settled::Stale, _) => {
            tracing::warn!(request_id, "a stale holder's outcome was refused");
            "stale"
        }
        (Settled::Applied | Settled::Already, Disposition::Keep) => "stored",
        (Settled::Applied | Settled::Already, Disposition::Release) => "released",
        (Settled::Applied | Settled::Already, Disposition::Unknown) => "unknown",
    }
}

/// A key whose request was not sent: it is freed where that is dropped.
pub(crate) struct Unsent {
    gateway: Arc<Gateway>,
    untold: Option<Untold>,
}

impl Unsent {
    /// The key that this claim holds, if it holds one.
    pub(crate) fn of(gateway: &Arc<Gateway>, claim: &Claim, request_id: &str) -> Self {
        let untold = claim.holder().map(|holder| Untold {
            holder,
            disposition: Disposition::Release,
            kept: None,
            request_id: request_id.into(),
        });
        Self { gateway: Arc::clone(gateway), untold }
    }

    /// From here on somebody else sees to it.
    pub(crate) fn goes_on(mut self) {
        self.untold = None;
    }
}

impl Drop for Unsent {
    fn drop(&mut self) {
        if let Some(untold) = self.untold.take() {
            untold.begin(&self.gateway);
        }
    }
}

/// An outcome that the store was not told.
struct Untold {
    holder: Holder,
    disposition: Disposition,
    kept: Option<Answer>,
    request_id: Box<str>,
}

impl Untold {
    /// Begins to tell it in the background. Whether there was room.
    fn begin(mut self, gateway: &Arc<Gateway>) -> bool {
        let share = fit(&mut self.kept, &gateway.settling.bytes);
        let owner = Arc::clone(gateway);
        gateway.settling.again.begin(async move |place| self.tell(owner, place, share).await)
    }

    async fn tell(self, gateway: Arc<Gateway>, place: Place, _held: Share) {
        let Self { holder, disposition, kept, request_id } = self;
        let once = async || {
            if is_known(disposition) {
                holder.renew(&gateway.ledger, &gateway.clock).await;
            }
            let now = gateway.clock.micros();
            holder.settle(&gateway.ledger, disposition, kept.clone(), now).await
        };
        let outcome = match place.until_done(once).await {
            // The store may have freed the key before without saying so; then another one may have it already.
            Ok(Settled::Stale) if disposition == Disposition::Release => "released",
            Ok(settled) => word(disposition, settled, &request_id),
            Err(error) => {
                tracing::warn!(%error, request_id, "an outcome was never stored: it counts as unknown");
                "failed"
            }
        };
        gateway.metrics.settled(outcome);
    }
}

/// Room for as much of an answer as there is room for: all of it, its status and `Location`, its status.
fn fit(kept: &mut Option<Answer>, bytes: &Budget) -> Share {
    for smaller in [Answer::without_body, |answer: Answer| answer.within(0)] {
        if let Ok(share) = bytes.share(kept.as_ref().map_or(0, Answer::size)) {
            return share;
        }
        *kept = kept.take().map(smaller);
    }
    Share::default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{eventually, gateway, store};
    use bytes::Bytes;
    use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
    use model::document::{Idempotency, IdempotencyMode, OnLedgerError, OnUnknown};
    use model::idempotency::Key;
    use model::{Head, Identity, units};
    use stages::claim::{Ask, Judged, claim};
    use std::net::{IpAddr, Ipv4Addr};

    /// Takes a key.
    async fn claimed(gateway: &Gateway) -> Claim {
        let identity = Identity {
            tenant: "acme".into(),
            consumer: "mobile".into(),
            subject: "mobile".to_owned(),
            credential: "k1".to_owned(),
            scopes: Vec::new(),
            claims: Arc::default(),
        };
        let head = Head {
            method: Method::POST,
            path: "/v1/contacts".to_owned(),
            query: None,
            authority: "api.example".to_owned(),
            headers: HeaderMap::new(),
            client: IpAddr::V4(Ipv4Addr::LOCALHOST),
        };
        let rules = Idempotency {
            mode: IdempotencyMode::Required,
            retention: units::Duration(Duration::from_secs(3_600)),
            wait: units::Duration(Duration::ZERO),
            release_on: Vec::new(),
            on_unknown: OnUnknown::Reject,
            replicas: 0,
            on_store_error: OnLedgerError::Closed,
        };
        let ask = Ask {
            key: Key::parse(b"k").unwrap(),
            identity: &identity,
            route: &"contacts.create".into(),
            version: &"v1".into(),
            head: &head,
            body: b"a",
            rules: &rules,
            hold: Duration::from_secs(600),
        };
        let Gateway { ledger, salt, owner, waiters, clock, .. } = gateway;
        match claim(ledger, salt, owner, &ask, waiters, clock, || ()).await.unwrap() {
            Judged::Claim(claim) => claim,
            other => panic!("{other:?}"),
        }
    }

    /// How often keys became this, as the metrics have it.
    fn counted(gateway: &Gateway, outcome: &str) -> bool {
        let line = format!(r#"tollgate_idempotency_settled_total{{outcome="{outcome}"}} 1"#);
        gateway.metrics.text().lines().any(|found| found == line)
    }

    #[tokio::test]
    async fn a_key_that_was_freed_without_a_word_of_it_is_released_and_not_stale() {
        let (store, folder) = store().await;
        let gateway = gateway(&store, "a", folder.path());
        let first = claimed(&gateway).await.holder().unwrap();
        let (disposition, now) = (Disposition::Release, gateway.clock.micros());
        let told = first.settle(&gateway.ledger, disposition, None, now).await.unwrap();
        assert_eq!(told, Settled::Applied);
        // Another one has it already.
        let _second = claimed(&gateway).await;
        let untold = Untold { holder: first, disposition, kept: None, request_id: "r".into() };
        assert!(untold.begin(&gateway));
        eventually("it is told", async || counted(&gateway, "released")).await;
        assert!(!counted(&gateway, "stale"));
    }

    #[tokio::test]
    async fn a_key_of_a_request_that_is_cut_off_before_it_is_sent_is_free() {
        let (store, folder) = store().await;
        let gateway = gateway(&store, "a", folder.path());
        let unsent = Unsent::of(&gateway, &claimed(&gateway).await, "r");
        drop(unsent);
        eventually("it is told", async || counted(&gateway, "released")).await;
        // Free again; and what is sent stays held.
        let held = claimed(&gateway).await;
        Unsent::of(&gateway, &held, "r").goes_on();
        assert_eq!(gateway.settling.drained(Duration::from_secs(5)).await, 0);
        assert!(counted(&gateway, "released"), "once");
    }

    #[test]
    fn where_there_is_no_room_for_a_body_the_outcome_waits_without_it() {
        const UNIT: usize = 4_096;
        let (status, place) = (StatusCode::CREATED, HeaderValue::from_static("/v1/contacts/7"));
        let headers = HeaderMap::from_iter([(header::LOCATION, place.clone())]);
        let whole = Answer::of(status, &headers, Some(Bytes::from(vec![b'x'; 2 * UNIT])));
        let without_body = Answer::NotRetained { status, location: Some(place) };
        let status_alone = Answer::NotRetained { status, location: None };
        for (room, left) in [(3, whole.clone()), (2, without_body), (0, status_alone)] {
            let budget = Budget::of(room * UNIT);
            let mut kept = Some(whole.clone());
            let _share = fit(&mut kept, &budget);
            assert_eq!(kept, Some(left), "{room}");
        }
        let mut kept = None;
        let _share = fit(&mut kept, &Budget::of(0));
        assert_eq!(kept, None);
    }
}
