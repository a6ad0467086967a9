//! Two gateways that share their idempotency records, and what the store has of a key.

use super::cluster::{Cluster, Member, Setup};
use super::postgres::Database;
use super::redis::Redis;
use super::{eventually, hoped};
use serde_json::{Value, json};

/// Gateways `a` and `b`, and `ops`, which has the admin API.
pub(crate) struct Sharing {
    cluster: Cluster,
    database: Database,
    redis: Option<Redis>,
}

impl Sharing {
    /// Their records are on a Redis.
    pub(crate) async fn on_redis(document: &Value) -> Self {
        Self::start(document, Some(Redis::start())).await
    }

    /// Their records are where the document is.
    pub(crate) async fn in_database(document: &Value) -> Self {
        Self::start(document, None).await
    }

    async fn start(document: &Value, redis: Option<Redis>) -> Self {
        let database = Database::fresh();
        let names: [(&str, &[&str]); 3] =
            [("a", &["gateway"]), ("b", &["gateway"]), ("ops", &["admin"])];
        let url = database.url();
        let change = |setup: Setup| {
            // The database tells whose a session is.
            let own = format!("{url}?application_name={}", setup.name());
            let setup = setup.on(&own);
            match &redis {
                Some(redis) => setup
                    .with("idempotency", json!("redis"))
                    .with("redis", json!({ "idempotency": redis.url() })),
                None => setup,
            }
        };
        let cluster = Cluster::start_with(&url, &names, document, change).await;
        Self { cluster, database, redis }
    }

    pub(crate) fn gateways(&self) -> [&Member; 2] {
        [self.cluster.member("a"), self.cluster.member("b")]
    }

    /// Kills a gateway. When this returns, stores have done all that it had told them.
    pub(crate) async fn kill(&mut self, name: &str) {
        self.cluster.member_mut(name).kill();
        let sessions = format!(
            "select count(*) from pg_stat_activity \
             where datname = current_database() and application_name = '{name}'"
        );
        eventually("its sessions have ended", async || {
            hoped(self.database.sql(&sessions), &"0".to_owned())
        })
        .await;
        if let Some(redis) = &self.redis {
            // It reads what is there on its connections before it reads from one that is made now.
            redis.ask(&["PING"]);
        }
    }

    /// Starts it again, and waits until it is ready.
    pub(crate) async fn start_again(&mut self, name: &str) {
        let member = self.cluster.member_mut(name);
        member.start_again();
        member.is_ready().await;
    }

    /// What the store has of a key; nothing where it has nothing.
    pub(crate) async fn record(&self, tenant: &str, key: &str) -> Option<Value> {
        let (api, path) = (self.cluster.api(), format!("/v1/idempotency/{tenant}/{key}"));
        let answer = eventually("the store answers", async || {
            let answer = api.get(&path).send().await;
            if answer.status == 503 { Err(answer) } else { Ok(answer) }
        })
        .await;
        if answer.status == 404 {
            return None;
        }
        let told = answer.is(200).json();
        let records = told["records"].as_array().unwrap();
        assert_eq!(records.len(), 1, "{told}");
        Some(records[0].clone())
    }
}
