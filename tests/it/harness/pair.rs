//! Two gateways with one document, one database and one Redis, as a deployment has them.

use super::cluster::{Cluster, Member};
use super::document::key_of;
use super::offer::Stream;
use super::postgres::Database;
use super::{eventually, hoped};
use serde_json::{Value, json};
use std::time::Duration;

/// How long a command may take where a test is not about that: tests share their processors.
const PATIENT: &str = "1s";

/// Gateways `a`, which has the admin API, and `b`.
pub(crate) struct Pair {
    pub(crate) cluster: Cluster,
    pub(crate) database: Database,
}

impl Pair {
    /// On this Redis, for which they are patient.
    pub(crate) async fn start(redis: &str, document: &Value) -> Self {
        Self::with_deadline(redis, PATIENT, document).await
    }

    /// On this Redis, which may take so long to answer. Returns when both are ready and know of each other.
    pub(crate) async fn with_deadline(redis: &str, deadline: &str, document: &Value) -> Self {
        let database = Database::fresh();
        let names: [(&str, &[&str]); 2] = [("a", &["gateway", "admin"]), ("b", &["gateway"])];
        let shared = json!({ "quota": redis, "deadline": deadline });
        let cluster = Cluster::start_with(&database.url(), &names, document, |setup| {
            setup.with("redis", shared.clone())
        })
        .await;
        let pair = Self { cluster, database };
        for member in pair.members() {
            eventually(&format!("{} knows of two nodes", member.name), async || {
                hoped(counters(member).await["nodes"].clone(), &json!(2))
            })
            .await;
        }
        pair
    }

    pub(crate) fn members(&self) -> &[Member] {
        &self.cluster.members
    }

    pub(crate) fn a(&self) -> &Member {
        self.cluster.member("a")
    }

    pub(crate) fn b(&self) -> &Member {
        self.cluster.member("b")
    }

    /// So many requests per second with this key at each of them, over so many connections.
    pub(crate) fn asked<'a>(
        &self,
        key: &'a str,
        per_second: u32,
        connections: u32,
    ) -> [Stream<'a>; 2] {
        [self.a(), self.b()].map(|member| Stream {
            to: member.gateway,
            path: "/v1/contacts",
            key,
            per_second,
            connections,
        })
    }

    /// Whether each says that its counters can't be reached: by its metric.
    pub(crate) async fn degraded(&self) -> [bool; 2] {
        let degraded = async |member: &Member| {
            let metrics = member.metrics().await;
            metrics.sum("tollgate_store_degraded", &[("store", "counters")]) > 0.0
        };
        [degraded(self.a()).await, degraded(self.b()).await]
    }

    /// Waits until both say so, or neither does. Says how long that took.
    pub(crate) async fn are_degraded(&self, degraded: bool) -> Duration {
        let began = tokio::time::Instant::now();
        eventually(&format!("degraded: {degraded}"), async || {
            hoped(self.degraded().await, &[degraded; 2])
        })
        .await;
        began.elapsed()
    }

    /// How much of a limit a tenant of [`key_of`] has used, as the first one sees it.
    pub(crate) async fn used(&self, tenant: &str, limit: &str) -> u64 {
        self.a().used(&key_of(tenant), limit).await
    }

    /// Waits until it is so much. Outcomes are settled after their answers.
    pub(crate) async fn has_used(&self, tenant: &str, limit: &str, used: u64) {
        eventually(&format!("{tenant} has used {used} of {limit}"), async || {
            hoped(self.used(tenant, limit).await, &used)
        })
        .await;
    }
}

/// What a gateway says of its counters when it is asked whether it is ready.
pub(crate) async fn counters(member: &Member) -> Value {
    member.status.get("/readyz").send().await.json()["counters"].clone()
}
