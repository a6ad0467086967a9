//! Who wants what: orders, the customers that have them, and what those are told.

use crate::harness::Answer;
use crate::harness::call::Client;
use crate::harness::curl::Curl;
use crate::harness::document::{ACME, GLOBEX};
use serde_json::json;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::{Instant, sleep};

const PATH: &str = "/v1/contacts";
/// Both use the same keys.
pub(super) const TENANTS: [(&str, &str); 2] = [("acme", ACME), ("globex", GLOBEX)];
/// The header that says whose order a request is. The gateway passes it on.
pub(super) const ORDER: &str = "x-order";
/// The header that says whether the upstream holds its answer.
pub(super) const HELD: &str = "x-held";
/// How long a client repeats a request: longer than any lease.
const PERSISTENCE: Duration = Duration::from_secs(90);
/// Between two of its requests where no answer says how long to wait.
const PAUSE: Duration = Duration::from_millis(100);

/// What a tenant wants done once.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Order {
    /// An index into [`TENANTS`].
    pub(super) tenant: usize,
    pub(super) key: String,
}

impl Order {
    pub(super) fn tenant(&self) -> &'static str {
        TENANTS[self.tenant].0
    }

    pub(super) fn name(&self) -> String {
        format!("{}/{}", self.tenant(), self.key)
    }

    pub(super) fn body(&self) -> String {
        json!({ "first_name": self.name() }).to_string()
    }

    /// By a process that can be killed.
    pub(super) fn sent(&self, to: &Client, held: &str) -> Curl {
        let (name, (_, secret)) = (self.name(), TENANTS[self.tenant]);
        let headers = [
            ("x-api-key", secret),
            ("idempotency-key", &self.key),
            ("content-type", "application/json"),
            (ORDER, &name),
            (HELD, held),
        ];
        Curl::post(&format!("{}{PATH}", to.url()), &headers, &self.body())
    }

    pub(super) async fn repeated(&self, client: &Client) -> Option<Answer> {
        let (_, secret) = TENANTS[self.tenant];
        let call = client.post(PATH).key(secret).idempotency_key(&self.key);
        let call = call.header("content-type", "application/json").header(ORDER, self.name());
        call.body(self.body()).try_send().await.ok()
    }
}

/// A customer with an order: a process that sends it, and whoever repeats it when that has no answer.
#[derive(Clone)]
pub(super) struct Customer {
    pub(super) order: Order,
    /// An index into [`Sharing::gateways`].
    pub(super) first_at: usize,
    pub(super) gateways: [Client; 2],
    pub(super) is_held: bool,
    /// The process that sends it now.
    pub(super) process: Arc<Mutex<Option<u32>>>,
}

/// What became of an order: every success, and nothing more where the outcome is unknown at last.
pub(super) struct Told {
    pub(super) order: Order,
    pub(super) successes: Vec<Answer>,
    pub(super) is_unknown: bool,
}

impl Customer {
    pub(super) async fn orders(self) -> Told {
        let mut told = Told { order: self.order.clone(), successes: Vec::new(), is_unknown: false };
        let give_up = Instant::now() + PERSISTENCE;
        let mut heard = self.first().await;
        // The other one first: often the first one is the one that was killed.
        for turn in self.first_at + 1.. {
            let pause = pause(heard.as_ref());
            if let Some(answer) = heard {
                told.hears(answer);
            }
            if told.is_unknown || !told.successes.is_empty() {
                break;
            }
            assert!(Instant::now() < give_up, "{:?} is never settled", self.order);
            sleep(pause).await;
            heard = self.order.repeated(&self.gateways[turn % 2]).await;
        }
        told
    }

    /// What its process is answered. One that came too early is followed by another.
    async fn first(&self) -> Option<Answer> {
        loop {
            let held = if self.is_held { "yes" } else { "no" };
            let process = self.order.sent(&self.gateways[self.first_at], held);
            *self.process.lock().unwrap() = Some(process.id());
            let answer = process.answer().await;
            self.process.lock().unwrap().take();
            match answer {
                Some(answer) if is_early(&answer) => sleep(pause(Some(&answer))).await,
                answer => return answer,
            }
        }
    }
}

/// How long to wait before asking again: as long as the answer says.
fn pause(heard: Option<&Answer>) -> Duration {
    let seconds = heard.and_then(|answer| answer.header("retry-after").parse().ok());
    seconds.map_or(PAUSE, Duration::from_secs)
}

impl Told {
    pub(super) fn hears(&mut self, answer: Answer) {
        match (answer.status, &*answer.code()) {
            (201, _) => self.successes.push(answer),
            (409, "IDEMPOTENCY_OUTCOME_UNKNOWN") => self.is_unknown = true,
            _ => assert!(is_early(&answer), "{answer:?}"),
        }
    }
}

/// Whether it is to be asked again: somebody else is sending it, or a gateway could not ask its store in time.
fn is_early(answer: &Answer) -> bool {
    answer.status == 503 || answer.code() == "IDEMPOTENCY_IN_PROGRESS"
}
