//! Gateways and clients are killed while requests with keys are on their way, again and again: nothing arrives twice, every
//! answer of a key is the same, and unknown is exactly what nobody can know.

mod noting;
mod order;

use crate::harness::call::Client;
use crate::harness::document::{self, Edit as _};
use crate::harness::process::signal;
use crate::harness::sharing::Sharing;
use crate::harness::{Latch, Random, Upstream, eventually, sha256, sized};
use noting::{Noted, Noting};
use order::{Customer, Order, TENANTS, Told};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::sleep;

/// How many keys begin before each kill.
const KEYS_PER_KILL: usize = 4;

/// Both tenants may write, and what is not answered in 10 s is not waited for.
fn document(upstream: &Upstream) -> Value {
    document::standard(upstream.address).timeouts("1s", "10s", "10s").changed(|document| {
        document.entry("tenants", "globex")["consumers"][0]["scopes"] =
            json!(["contacts:read", "contacts:write"]);
    })
}

/// What is killed.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Victim {
    /// An index into [`Sharing::gateways`].
    Gateway(usize),
    /// Whose order is held.
    Client,
}

/// What goes on in a run.
struct Run {
    gateways: [Client; 2],
    sharing: Sharing,
    noting: Noting,
    random: Random,
    customers: JoinSet<Told>,
    /// Orders of which a gateway that was killed may have known the outcome, by [`Order::name`].
    lost: BTreeSet<String>,
    /// Orders that nobody has been told about yet.
    open: BTreeMap<String, Order>,
    told: Vec<Told>,
    /// Kills that came after a request was marked dispatched, and before it was done.
    landed: usize,
}

impl Run {
    fn new(sharing: Sharing, noting: Noting) -> Self {
        Self {
            gateways: sharing.gateways().map(|member| Client::to(member.gateway)),
            sharing,
            noting,
            random: Random::of_this_run(),
            customers: JoinSet::new(),
            lost: BTreeSet::new(),
            open: BTreeMap::new(),
            told: Vec::new(),
            landed: 0,
        }
    }

    /// Those who come before a kill. One is held where it lands.
    fn customers(&mut self, number: usize, victim: Victim) -> Vec<Customer> {
        let mut customers = Vec::new();
        for at in 0..KEYS_PER_KILL * TENANTS.len() {
            let (key, tenant) = (format!("order-{number}-{}", at / TENANTS.len()), at % 2);
            customers.push(Customer {
                order: Order { tenant, key },
                first_at: self.random.below(2),
                gateways: self.gateways.clone(),
                is_held: self.random.below(2) == 0,
                process: Arc::default(),
            });
        }
        let chosen = self.random.below(customers.len());
        customers[chosen].is_held = true;
        if let Victim::Gateway(index) = victim {
            customers[chosen].first_at = index;
        }
        customers
    }

    fn start(&mut self, customer: &Customer) {
        self.open.insert(customer.order.name(), customer.order.clone());
        self.customers.spawn(customer.clone().orders());
    }

    /// One kill, while some requests are held by the upstream and others are wherever they are by then.
    async fn kills(&mut self, number: usize) {
        let victim = match self.random.below(4) {
            index @ (0 | 1) => Victim::Gateway(index),
            _ => Victim::Client,
        };
        let door = Latch::closed();
        self.noting.holds_by(&door);
        let customers = self.customers(number, victim);
        let (held, free): (Vec<&Customer>, Vec<&Customer>) =
            customers.iter().partition(|customer| customer.is_held);
        held.iter().for_each(|customer| self.start(customer));
        self.noting.has(&held.iter().map(|customer| customer.order.name()).collect()).await;
        free.iter().for_each(|customer| self.start(customer));
        // The moment is what is random here.
        sleep(Duration::from_millis(u64::try_from(self.random.below(60)).unwrap())).await;
        match victim {
            Victim::Client => {
                let chosen = held[self.random.below(held.len())];
                self.kills_a_client(chosen).await;
                door.open();
            }
            Victim::Gateway(index) => {
                let name = self.sharing.gateways()[index].name.clone();
                let held = held.iter().filter(|customer| customer.first_at == index);
                self.kills_a_gateway(&name, held.map(|customer| customer.order.name())).await;
                door.open();
                self.sharing.start_again(&name).await;
            }
        }
        while let Some(told) = self.customers.try_join_next() {
            self.hears(told.unwrap());
        }
    }

    fn hears(&mut self, told: Told) {
        self.open.remove(&told.order.name());
        self.told.push(told);
    }

    async fn kills_a_client(&mut self, customer: &Customer) {
        let process = customer.process.lock().unwrap().unwrap();
        signal("KILL", process);
        let order = &customer.order;
        let record = self.sharing.record(order.tenant(), &order.key).await.unwrap();
        assert_eq!(record["state"], "dispatched", "{order:?}");
        self.landed += 1;
    }

    /// What it had dispatched and not done is lost; those that were held are among it.
    async fn kills_a_gateway(&mut self, name: &str, mut held: impl Iterator<Item = String>) {
        self.sharing.kill(name).await;
        let mut dispatched = BTreeSet::new();
        for (name_of, order) in &self.open {
            // Lost before, and still leased.
            if self.lost.contains(name_of) {
                continue;
            }
            let record = self.sharing.record(order.tenant(), &order.key).await;
            if record.is_some_and(|is| is["state"] == "dispatched" && is["owner"] == name) {
                dispatched.insert(name_of.clone());
            }
        }
        assert!(held.all(|order| dispatched.contains(&order)), "{dispatched:?}");
        self.lost.extend(dispatched);
        self.landed += 1;
    }

    /// Waits until every customer knows, and asks both gateways once more about each order.
    async fn ends(&mut self) {
        while let Some(told) = self.customers.join_next().await {
            self.hears(told.unwrap());
        }
        for told in &mut self.told {
            for gateway in &self.gateways {
                let answer = eventually("a gateway has its store", async || {
                    let answer = told.order.repeated(gateway).await;
                    answer.filter(|answer| answer.status != 503).ok_or(())
                })
                .await;
                assert_ne!(answer.code(), "IDEMPOTENCY_IN_PROGRESS", "{:?}", told.order);
                told.hears(answer);
            }
        }
    }

    /// What the whole is about.
    fn nothing_is_done_twice(&self) {
        let noted = self.noting.noted();
        let mut arrivals: BTreeMap<&str, &Noted> = BTreeMap::new();
        for noted in &noted {
            let first = arrivals.insert(&noted.order, noted);
            assert!(first.is_none(), "{} arrived twice", noted.order);
        }
        let derived: BTreeSet<&str> = noted.iter().map(|noted| &*noted.derived_key).collect();
        assert_eq!(derived.len(), noted.len(), "tenants share a derived key");
        let mut unknown = BTreeSet::new();
        for Told { order, successes, is_unknown } in &self.told {
            let name = order.name();
            if let Some(noted) = arrivals.get(&*name) {
                assert!(noted.body == sha256(order.body()) || noted.body == "cut", "{name}");
            }
            if *is_unknown {
                assert!(successes.is_empty(), "{name} is both: {successes:?}");
                unknown.insert(name);
                continue;
            }
            assert!(arrivals.contains_key(&*name), "{name} never arrived");
            let first = &successes[0];
            assert_eq!(first.json()["order"], *name, "an answer to somebody else");
            for answer in successes {
                assert_eq!((answer.status, &answer.body), (first.status, &first.body), "{name}");
                for header in ["content-type", "location"] {
                    assert_eq!(answer.header(header), first.header(header), "{name}");
                }
            }
            let sent = successes.iter().filter(|answer| !answer.is_replay()).count();
            assert!(sent <= 1, "{name} was answered by {sent} dispatches");
        }
        assert_eq!(unknown, self.lost, "unknown, and dispatched by a gateway that was killed");
    }
}

/// Two tenants use so many keys each, while one process after another is killed.
async fn processes_are_killed(sharing: Sharing, noting: Noting, keys: usize) {
    let kills = keys / KEYS_PER_KILL;
    let mut run = Run::new(sharing, noting);
    for number in 0..kills {
        run.kills(number).await;
    }
    run.ends().await;
    let (arrived, unknown) = (run.noting.noted().len(), run.lost.len());
    println!("{} orders, {arrived} arrivals, {unknown} unknown", run.told.len());
    assert_eq!((run.landed, run.told.len()), (kills, kills * KEYS_PER_KILL * TENANTS.len()));
    run.nothing_is_done_twice();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_is_killed_on_redis_nothing_arrives_twice_and_unknown_is_what_was_lost() {
    let noting = Noting::start().await;
    let sharing = Sharing::on_redis(&document(&noting.upstream)).await;
    processes_are_killed(sharing, noting, sized("keys", 100, 1_000)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_is_killed_on_postgresql_nothing_arrives_twice_and_unknown_is_what_was_lost() {
    let noting = Noting::start().await;
    let sharing = Sharing::in_database(&document(&noting.upstream)).await;
    processes_are_killed(sharing, noting, sized("keys", 40, 1_000)).await;
}
