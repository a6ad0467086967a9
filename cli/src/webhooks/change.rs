//! `tollgate webhooks retry`, `discard` and `ping`.

use super::deliveries::{cell, state};
use super::show::{is_delivery, lines};
use crate::remote::{self, Api, Form, Remote};
use crate::{Ending, misused, print, say};
use clap::Args;
use http::Method;
use model::id::is_id;
use serde_json::{Value, json};
use std::time::Duration;

/// Between two looks at a delivery that is waited for, and how long that is done.
const LOOK_PAUSE: Duration = Duration::from_millis(250);
const WAIT_MAX: Duration = Duration::from_secs(60);

/// Takes deliveries up again that are dead, parked, or wait for their next attempt: they are due at once.
///
/// Example: tollgate webhooks retry dlv_4711 dlv_4712
#[derive(Args)]
pub(super) struct Retry {
    #[command(flatten)]
    deliveries: Deliveries,
}

/// Gives deliveries up that nobody needs any more: they are no dead letters then, and those that wait behind them go on.
///
/// Example: tollgate webhooks discard dlv_4711
#[derive(Args)]
pub(super) struct Discard {
    #[command(flatten)]
    deliveries: Deliveries,
}

/// Which deliveries.
#[derive(Args)]
struct Deliveries {
    /// The deliveries' ids.
    #[arg(value_name = "DELIVERY", required = true)]
    ids: Vec<String>,
    /// Prints what the API answers, on a line each.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    remote: Remote,
}

impl Retry {
    pub(super) fn run(self) -> anyhow::Result<Ending> {
        self.deliveries.change("retry", "is due")
    }
}

impl Discard {
    pub(super) fn run(self) -> anyhow::Result<Ending> {
        self.deliveries.change("discard", "is discarded")
    }
}

impl Deliveries {
    fn change(&self, verb: &str, done: &str) -> anyhow::Result<Ending> {
        self.ids.iter().try_for_each(|id| is_delivery(id))?;
        let api = self.remote.connect()?;
        remote::run(self.each(&api, verb, done))
    }

    /// Each of them, also when one before it was refused.
    async fn each(&self, api: &Api, verb: &str, done: &str) -> anyhow::Result<Ending> {
        let form = Form::json_if(self.json);
        let mut ending = Ending::Done;
        for id in &self.ids {
            let request = api.request(Method::POST, &format!("/v1/deliveries/{id}:{verb}"))?;
            match api.send(request.json(&json!({}))).await?.success() {
                Ok(answer) if form == Form::Json => print(&answer.body.to_string()),
                Ok(_) => print(&format!("{id} {done}")),
                Err(refusal) => {
                    say(&format!("{id}:"));
                    ending = refusal.show(form);
                }
            }
        }
        Ok(ending)
    }
}

/// Sends an endpoint an event of type `tollgate.ping`, whatever types it wants, and says what became of it.
///
/// Example: tollgate webhooks ping acme-hook
#[derive(Args)]
pub(super) struct Ping {
    /// The endpoint's id.
    #[arg(value_name = "ENDPOINT")]
    endpoint: String,
    /// Doesn't wait for the first attempt.
    #[arg(long)]
    no_wait: bool,
    /// Prints what the API answers: of the delivery, or, with --no-wait, of the ping.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    remote: Remote,
}

impl Ping {
    pub(super) fn run(self) -> anyhow::Result<Ending> {
        if !is_id(&self.endpoint) {
            return Err(misused(format!("`{}` is no id of an endpoint", self.endpoint)));
        }
        let api = self.remote.connect()?;
        remote::run(self.ping(&api))
    }

    async fn ping(&self, api: &Api) -> anyhow::Result<Ending> {
        let form = Form::json_if(self.json);
        let request =
            api.request(Method::POST, &format!("/v1/endpoints/{}:ping", self.endpoint))?;
        let pinged = match api.send(request.json(&json!({}))).await?.success() {
            Ok(answer) => answer.body,
            Err(refusal) => return Ok(refusal.show(form)),
        };
        if self.no_wait {
            match form {
                Form::Json => print(&pinged.to_string()),
                Form::Text => print(&format!("{} is on its way", cell(&pinged, "/delivery"))),
            }
            return Ok(Ending::Done);
        }
        let path = format!("/v1/deliveries/{}", cell(&pinged, "/delivery"));
        let first = tokio::time::timeout(WAIT_MAX, attempted(api, &path));
        let delivery = match first.await {
            Ok(found) => match found? {
                Ok(delivery) => delivery,
                Err(refusal) => return Ok(refusal.show(form)),
            },
            Err(_) => {
                say("nothing became of it within a minute: is a dispatcher running?");
                return Ok(Ending::Refused);
            }
        };
        match form {
            Form::Json => print(&delivery.to_string()),
            Form::Text => lines(&delivery).iter().for_each(|line| print(line)),
        }
        let taken = state(&delivery) == "delivered";
        Ok(if taken { Ending::Done } else { Ending::Refused })
    }
}

/// The delivery once an attempt was made.
async fn attempted(api: &Api, path: &str) -> anyhow::Result<Result<Value, remote::Refusal>> {
    loop {
        match api.get(path).await?.success() {
            Ok(answer) => {
                let history = answer.body.get("history").and_then(Value::as_array);
                if history.is_some_and(|history| !history.is_empty()) {
                    return Ok(Ok(answer.body));
                }
            }
            Err(refusal) => return Ok(Err(refusal)),
        }
        tokio::time::sleep(LOOK_PAUSE).await;
    }
}
