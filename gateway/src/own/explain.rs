//! `/.tollgate/explain/{request or trace id}`: callers see what became of their own exchanges, and of nobody else's.
//!
//! Invariant: what is another consumer's is answered as what is not there. A few lookups at a time, each in bounded time:
//! nobody loads the database through here.

use crate::trace::is_request_id;
use model::record::Record;
use model::{ErrorCode, Identity, Reject};
use std::time::Duration;
use store::Store;
use store::records::RecordQuery;
use tokio::sync::Semaphore;
use tokio::time::timeout;

/// Lookups at once; more are refused.
const AT_ONCE: usize = 16;
/// How long one may take.
const DEADLINE: Duration = Duration::from_secs(2);
/// Exchanges in one answer. Several share a trace id; a client may use a request id again.
const ITEMS_MAX: u32 = 20;

/// Where decision records are looked up.
pub(crate) struct Lookups {
    store: Store,
    turns: Semaphore,
}

impl Lookups {
    /// Lookups in this store.
    pub(crate) fn new(store: Store) -> Self {
        Self { store, turns: Semaphore::new(AT_ONCE) }
    }

    /// The caller's exchanges of this id, newest first and redacted.
    pub(super) async fn find(&self, id: &str, caller: &Identity) -> Result<Vec<Record>, Reject> {
        let id = exchange_id(id)?;
        let Ok(_turn) = self.turns.try_acquire() else {
            return Err(Reject::new(ErrorCode::Overloaded)
                .retry_after(1)
                .because("too many decision records are looked up at once"));
        };
        let unavailable = || Reject::new(ErrorCode::DependencyUnavailable).retry_after(1);
        let query = RecordQuery {
            exchange: Some(id),
            tenant: Some(caller.tenant.clone()),
            consumer: Some(caller.consumer.clone()),
            limit: ITEMS_MAX,
            ..RecordQuery::default()
        };
        let found = timeout(DEADLINE, self.store.records(&query))
            .await
            .map_err(|_| unavailable().because(format_args!("no answer within {DEADLINE:?}")))?
            .map_err(|error| unavailable().because(error))?;
        if found.is_empty() {
            return Err(Reject::new(ErrorCode::NotFound).message(
                "There is no record of such an exchange of yours. Not every exchange leaves one, and none is kept for good.",
            ));
        }
        Ok(found.into_iter().map(Record::redacted).collect())
    }
}

/// A request id or a trace id.
fn exchange_id(segment: &str) -> Result<String, Reject> {
    // The one character of request ids that clients encode in a path.
    let id = segment.replace("%3A", ":").replace("%3a", ":");
    match is_request_id(&id) {
        true => Ok(id),
        false => Err(Reject::new(ErrorCode::ValidationFailed).message(
            "An exchange is named by its request id or trace id: 8 to 128 letters, digits, `.`, `_`, `~`, `:` or `-`.",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::Timestamp;
    use std::sync::Arc;

    fn identity(tenant: &str, consumer: &str) -> Identity {
        Identity {
            tenant: tenant.into(),
            consumer: consumer.into(),
            subject: consumer.to_owned(),
            credential: "k1".to_owned(),
            scopes: Vec::new(),
            claims: Arc::default(),
        }
    }

    /// The `n`th exchange of a consumer, in a trace that all share.
    fn record(n: usize, tenant: &str, consumer: &str) -> Record {
        Record {
            id: format!("00000000-0000-7000-8000-{n:012}"),
            request_id: format!("request-{n}"),
            trace_id: format!("{:032x}", 7),
            at: Timestamp::from_second(i64::try_from(n).unwrap()).unwrap(),
            took_us: 1,
            node: Some("node-a".into()),
            revision: 1,
            method: "GET".to_owned(),
            path: "/contacts".to_owned(),
            route: "contacts.list".into(),
            tenant: Some(tenant.into()),
            consumer: Some(consumer.into()),
            version: None,
            status: Some(503),
            error: Some("DEPENDENCY_UNAVAILABLE".to_owned()),
            cause: Some("what only operators see".to_owned()),
            stages: Vec::new(),
            limits: Vec::new(),
            packs: Vec::new(),
            idempotency: None,
            upstream: None,
        }
    }

    async fn lookups(records: Vec<Record>) -> (Lookups, tempfile::TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}/tollgate.db", folder.path().display());
        let store = Store::open(&url).await.unwrap();
        store.write_records(records).await.unwrap();
        (Lookups::new(store), folder)
    }

    async fn code(lookups: &Lookups, id: &str, caller: &Identity) -> &'static str {
        lookups.find(id, caller).await.map_or_else(|reject| reject.code.as_str(), |_| "found")
    }

    #[tokio::test]
    async fn callers_see_their_own_exchanges_and_nobody_elses() {
        let records =
            [(1, "acme", "app"), (2, "acme", "app"), (3, "acme", "batch"), (4, "globex", "app")];
        let records = records.map(|(n, tenant, consumer)| record(n, tenant, consumer));
        let (lookups, _folder) = lookups(records.to_vec()).await;
        let app = identity("acme", "app");
        let trace = format!("{:032x}", 7);
        let found = lookups.find(&trace, &app).await.unwrap();
        let ids: Vec<_> = found.iter().map(|record| record.request_id.as_str()).collect();
        assert_eq!(ids, ["request-2", "request-1"], "newest first");
        assert!(found.iter().all(|record| record.cause.is_none() && record.node.is_none()));
        for (id, caller, expected) in [
            ("request-1", &app, "found"),
            ("request-3", &app, "NOT_FOUND"),
            ("request-4", &app, "NOT_FOUND"),
            ("request-9", &app, "NOT_FOUND"),
            ("request-3", &identity("acme", "batch"), "found"),
            ("request-4", &identity("globex", "batch"), "NOT_FOUND"),
        ] {
            assert_eq!(code(&lookups, id, caller).await, expected, "{id} {}", caller.consumer);
        }
    }

    #[tokio::test]
    async fn a_trace_shows_its_twenty_newest_exchanges() {
        let records = (1..=25).map(|n| record(n, "acme", "app")).collect();
        let (lookups, _folder) = lookups(records).await;
        let found = lookups.find(&format!("{:032x}", 7), &identity("acme", "app")).await.unwrap();
        assert_eq!(found.len(), 20);
        assert_eq!(found.first().unwrap().request_id, "request-25");
    }

    #[tokio::test]
    async fn no_more_than_sixteen_look_at_once() {
        let (lookups, _folder) = lookups(vec![record(1, "acme", "app")]).await;
        let app = identity("acme", "app");
        let turns = lookups.turns.acquire_many(16).await.unwrap();
        assert_eq!(code(&lookups, "request-1", &app).await, "OVERLOADED");
        drop(turns);
        assert_eq!(code(&lookups, "request-1", &app).await, "found");
    }

    #[tokio::test]
    async fn without_the_store_nobody_is_told_that_nothing_is_there() {
        let (lookups, _folder) = lookups(vec![record(1, "acme", "app")]).await;
        lookups.store.close().await;
        let app = identity("acme", "app");
        assert_eq!(code(&lookups, "request-1", &app).await, "DEPENDENCY_UNAVAILABLE");
        // What can't be an id is known without it.
        assert_eq!(code(&lookups, "short", &app).await, "VALIDATION_FAILED");
    }

    #[test]
    fn what_can_be_no_id_is_refused() {
        for (segment, id) in [
            ("request-1", Some("request-1")),
            ("job%3A12345", Some("job:12345")),
            ("0af7651916cd43dd8448eb211c80319c", Some("0af7651916cd43dd8448eb211c80319c")),
            ("", None),
            ("short", None),
            ("request%001", None),
            ("request-1/more", None),
            ("request-1'--", None),
        ] {
            assert_eq!(exchange_id(segment).ok().as_deref(), id, "{segment}");
        }
        assert!(exchange_id(&"a".repeat(129)).is_err());
    }
}
