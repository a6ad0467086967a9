//! The counters on a real Redis, whose URL `TOLLGATE_TEST_REDIS` names (`scripts/services with …`).

mod arithmetic;
mod commands;
mod crowd;
mod outages;
mod server;

pub(super) use server::{Server, free_port, until};

use super::{ClockOf, Link, RedisCounters, RedisUrl};
use model::quota::{
    Calendar, Counted, CounterKey, Counters as _, Demand, Kind, Limit, LimitMode, OnStoreError,
    Part, Per, PermitId, PermitRecord, Verdict,
};
use redis::{Commands as _, Connection, FromRedisValue};
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;

/// Longer than any answer takes on a busy machine: these tests are not about time.
pub(super) const PATIENT: Duration = Duration::from_secs(20);
/// How long a database stays taken when a test dies.
const TAKEN: u64 = 120;

model::counters_suite!(async {
    let database = Database::take();
    (database.counters(ClockOf::Caller).await, database)
});

/// A database of the test's own.
pub(super) struct Database {
    number: u8,
    connection: Connection,
}

impl Database {
    pub(in crate::redis) fn take() -> Self {
        let mut first = connect(0);
        loop {
            for number in 1..16 {
                let options = redis::SetOptions::default()
                    .conditional_set(redis::ExistenceCheck::NX)
                    .with_expiration(redis::SetExpiry::EX(TAKEN));
                let is_mine: bool =
                    first.set_options(taken(number), std::process::id(), options).unwrap();
                if is_mine {
                    let mut database = Self { number, connection: connect(number) };
                    database.ask::<()>(&["FLUSHDB"]);
                    return database;
                }
            }
            // Other tests have them all; they give them back when they end.
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub(in crate::redis) fn url(&self) -> RedisUrl {
        format!("{}/{}", server(), self.number).parse().unwrap()
    }

    async fn counters(&self, clock: ClockOf) -> RedisCounters {
        let link = Link::new(self.url(), PATIENT, &Handle::current());
        link.connected().await;
        RedisCounters::new(link, clock)
    }

    pub(in crate::redis) fn ask<T: FromRedisValue>(&mut self, words: &[&str]) -> T {
        ask(&mut self.connection, words)
    }

    pub(in crate::redis) fn keys(&mut self) -> Vec<String> {
        let mut keys: Vec<String> = self.ask(&["KEYS", "*"]);
        keys.sort();
        keys
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        self.ask::<()>(&["FLUSHDB"]);
        let _: i64 = connect(0).del(taken(self.number)).unwrap();
    }
}

fn taken(number: u8) -> String {
    format!("taken:{number}")
}

fn server() -> String {
    std::env::var("TOLLGATE_TEST_REDIS")
        .expect("TOLLGATE_TEST_REDIS: run the tests under `scripts/services with`")
}

fn connect(database: u8) -> Connection {
    redis::Client::open(format!("{}/{database}", server())).unwrap().get_connection().unwrap()
}

pub(super) fn ask<T: FromRedisValue>(connection: &mut Connection, words: &[&str]) -> T {
    let mut command = redis::cmd(words[0]);
    command.arg(&words[1..]);
    command.query(connection).unwrap()
}

fn rate(text: &str, burst: u32) -> Kind {
    Kind::Rate { rate: text.parse().unwrap(), burst }
}

fn quota(text: &str) -> Kind {
    Kind::Quota(text.parse().unwrap())
}

fn demand(tenant: &str, id: u128, cost: u32, limits: &[(&str, Kind)]) -> Demand {
    let counted = |(id, kind): &(&str, Kind)| Counted {
        key: CounterKey { limit: (*id).into(), part: Part::Tenant },
        limit: Arc::new(Limit {
            id: (*id).into(),
            kind: *kind,
            per: Per::Tenant,
            exact: false,
            mode: LimitMode::Enforce,
            on_store_error: OnStoreError::Closed,
        }),
    };
    Demand {
        permit: PermitId(id),
        tenant: tenant.into(),
        calendar: Calendar::UTC,
        costs_later: false,
        cost,
        permit_ttl: 40_000_000,
        limits: limits.iter().map(counted).collect(),
    }
}

async fn admit(store: &RedisCounters, demand: &Demand, now: i64) -> PermitRecord {
    match store.reserve(demand, now).await.unwrap() {
        Verdict::Admitted { permit, .. } => permit,
        Verdict::Refused(refused) => panic!("refused: {refused:?}"),
    }
}

async fn used(store: &RedisCounters, demand: &Demand, now: i64) -> Vec<u64> {
    let readings = store.peek(demand, now).await.unwrap();
    readings.iter().map(|reading| reading.used).collect()
}
