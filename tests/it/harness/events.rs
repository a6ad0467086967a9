//! Events, sent as producers send them: in batches, again and again until they are accepted.

use super::PATIENCE;
use super::api::Api;
use super::call::{Answer, Client};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// Between two tries to have a batch accepted.
const PAUSE: Duration = Duration::from_millis(100);

/// Whoever sends events to a process' `/v1/events`.
#[derive(Clone)]
pub(crate) struct Producer {
    pub(crate) to: Client,
    pub(crate) token: String,
}

/// An event of acme.
pub(crate) fn event(id: &str, kind: &str, subject: &str) -> Value {
    event_of("acme", id, kind, subject)
}

/// An event of a tenant.
pub(crate) fn event_of(tenant: &str, id: &str, kind: &str, subject: &str) -> Value {
    json!({ "specversion": "1.0", "id": id, "source": "/tests", "type": kind, "subject": subject, "tenant": tenant,
            "data": { "of": subject } })
}

impl Producer {
    /// Sends a batch once.
    pub(crate) async fn offers(&self, events: &[Value]) -> reqwest::Result<Answer> {
        self.to
            .post("/v1/events")
            .bearer(&self.token)
            .header("content-type", "application/cloudevents-batch+json")
            .body(Value::from(events.to_vec()).to_string())
            .try_send()
            .await
    }

    /// Sends a batch until it is accepted, whatever happens to whom it is sent to. Says what was accepted.
    pub(crate) async fn sends(&self, events: &[Value]) -> Vec<Value> {
        let deadline = Instant::now() + PATIENCE * 4;
        loop {
            match self.offers(events).await {
                Ok(answer) if answer.status == 202 => {
                    return answer.json()["accepted"].as_array().unwrap().clone();
                }
                // Nobody is there, or the store is away, or there is too much of it.
                Ok(answer) if [429, 503].contains(&answer.status) && Instant::now() < deadline => {}
                Err(_) if Instant::now() < deadline => {}
                Ok(answer) => {
                    answer.is(202);
                }
                Err(error) => panic!("nobody takes events: {error:?}"),
            }
            sleep(PAUSE).await;
        }
    }
}

/// Whether nothing is on its way to any endpoint any more; if not, one delivery that is.
pub(crate) async fn is_settled(api: &Api) -> Result<(), Value> {
    for state in ["pending", "held"] {
        let answer = api.get(&format!("/v1/deliveries?state={state}&limit=1")).send().await;
        if let Some(open) = answer.is(200).json()["items"].get(0) {
            return Err(open.clone());
        }
    }
    Ok(())
}
