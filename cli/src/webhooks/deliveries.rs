//! `tollgate webhooks endpoints` and `deliveries`: lists.

use crate::remote::{self, Form, Remote};
use crate::table::table;
use crate::{Ending, misused, print};
use clap::{Args, ValueEnum};
use jiff::Timestamp;
use model::id::is_id;
use reqwest::Url;
use serde_json::Value;

/// The most endpoints that are listed.
const ENDPOINTS_MAX: usize = 100_000;
/// The most items of a page, as the API has it.
const PAGE: usize = 500;

/// Lists the endpoints that the document names, with how they stand.
///
/// Example: tollgate webhooks endpoints
#[derive(Args)]
pub(super) struct Endpoints {
    /// Prints a JSON array.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    remote: Remote,
}

impl Endpoints {
    pub(super) fn run(self) -> anyhow::Result<Ending> {
        let api = self.remote.connect()?;
        let form = Form::json_if(self.json);
        let endpoints = match remote::run(api.items("/v1/endpoints?limit=500", ENDPOINTS_MAX))? {
            Ok(endpoints) => endpoints,
            Err(refusal) => return Ok(refusal.show(form)),
        };
        let headings = ["ENDPOINT", "TENANT", "EVENTS", "STATE", "URL"];
        shown(&endpoints, form, "there are no endpoints", |endpoints| {
            table(headings, &endpoints.iter().map(endpoint).collect::<Vec<_>>())
        });
        Ok(Ending::Done)
    }
}

/// Lists deliveries, newest first: each event's way to one endpoint.
///
/// Example: tollgate webhooks deliveries --endpoint acme-hook --dead-letters
#[derive(Args)]
pub(super) struct Deliveries {
    /// Of this tenant.
    #[arg(long, value_name = "ID")]
    tenant: Option<String>,
    /// To this endpoint.
    #[arg(long, value_name = "ID")]
    endpoint: Option<String>,
    /// In this state; `dead` are dead letters and what was discarded.
    #[arg(long)]
    state: Option<State>,
    /// Dead letters alone: what came to nothing, and nobody discarded.
    #[arg(long, conflicts_with = "state")]
    dead_letters: bool,
    /// Of this event.
    #[arg(long, value_name = "ID")]
    webhook_id: Option<String>,
    /// Of events of this type.
    #[arg(long = "type", value_name = "TYPE")]
    kind: Option<String>,
    /// Of events that were accepted from then on, like 2026-11-21T09:00:00Z.
    #[arg(long, value_name = "TIME")]
    since: Option<Timestamp>,
    /// Of events that were accepted before then.
    #[arg(long, value_name = "TIME")]
    until: Option<Timestamp>,
    /// At most so many.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    most: u32,
    /// Prints a JSON array.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    remote: Remote,
}

/// Where deliveries stand.
#[derive(Clone, Copy, ValueEnum)]
enum State {
    Pending,
    Held,
    Delivered,
    Parked,
    Dead,
}

impl State {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Held => "held",
            Self::Delivered => "delivered",
            Self::Parked => "parked",
            Self::Dead => "dead",
        }
    }
}

impl Deliveries {
    pub(super) fn run(self) -> anyhow::Result<Ending> {
        are_ids(self.tenant.iter().chain(&self.endpoint))?;
        let api = self.remote.connect()?;
        let form = Form::json_if(self.json);
        let most = usize::try_from(self.most)?;
        let limit = most.min(PAGE).to_string();
        let fields = [
            ("limit", Some(limit)),
            ("tenant", self.tenant),
            ("endpoint", self.endpoint),
            ("state", self.state.map(|state| state.as_str().to_owned())),
            ("webhook_id", self.webhook_id),
            ("type", self.kind),
            ("since", self.since.map(|time| time.to_string())),
            ("until", self.until.map(|time| time.to_string())),
        ];
        let list = if self.dead_letters { "/v1/dead_letters" } else { "/v1/deliveries" };
        let path = path(list, fields)?;
        let deliveries = match remote::run(api.items(&path, most))? {
            Ok(deliveries) => deliveries,
            Err(refusal) => return Ok(refusal.show(form)),
        };
        let headings = ["DELIVERY", "STATE", "ENDPOINT", "TYPE", "ACCEPTED", "ATTEMPTS", "EVENT"];
        shown(&deliveries, form, "there are no such deliveries", |deliveries| {
            table(headings, &deliveries.iter().map(delivery).collect::<Vec<_>>())
        });
        Ok(Ending::Done)
    }
}

/// Refuses what can be no id.
pub(super) fn are_ids<'a>(mut given: impl Iterator<Item = &'a String>) -> anyhow::Result<()> {
    match given.find(|id| !is_id(id)) {
        Some(id) => Err(misused(format!("`{id}` is no id"))),
        None => Ok(()),
    }
}

/// A path with a query of the fields that are given.
fn path<const N: usize>(path: &str, fields: [(&str, Option<String>); N]) -> anyhow::Result<String> {
    let mut url = Url::parse("http://admin")?.join(path)?;
    for (name, value) in fields.into_iter().filter_map(|(name, value)| Some((name, value?))) {
        url.query_pairs_mut().append_pair(name, &value);
    }
    Ok(format!("{}?{}", url.path(), url.query().unwrap_or_default()))
}

fn shown(items: &[Value], form: Form, none: &str, lines: impl Fn(&[Value]) -> Vec<String>) {
    match form {
        Form::Json => print(&Value::from(items).to_string()),
        Form::Text if items.is_empty() => print(none),
        Form::Text => lines(items).iter().for_each(|line| print(line)),
    }
}

/// What stands at this pointer, as a cell shows it.
pub(super) fn cell(item: &Value, pointer: &str) -> String {
    match item.pointer(pointer) {
        None | Some(Value::Null) => "-".to_owned(),
        Some(Value::String(text)) => {
            let time = text.parse::<Timestamp>().map(|time| format!("{time:.0}"));
            time.unwrap_or_else(|_| text.clone())
        }
        Some(value) => value.to_string(),
    }
}

fn endpoint(endpoint: &Value) -> [String; 5] {
    let events = endpoint.get("events").and_then(Value::as_array).into_iter().flatten();
    let events: Vec<&str> = events.filter_map(Value::as_str).collect();
    let at = |pointer| cell(endpoint, pointer);
    [at("/id"), at("/tenant"), events.join(" "), standing(endpoint), at("/url")]
}

/// How an endpoint stands, in words.
fn standing(endpoint: &Value) -> String {
    let known = |pointer: &str| endpoint.pointer(pointer).is_some_and(|value| !value.is_null());
    let at = |pointer| cell(endpoint, pointer);
    if endpoint.get("state").and_then(Value::as_str) == Some("disabled") {
        "disabled by the document".to_owned()
    } else if known("/standing/disabled") {
        let (why, since) = (at("/standing/disabled/reason"), at("/standing/disabled/since"));
        format!("disabled since {since}: {why}")
    } else if known("/standing/open_until") {
        format!("left alone until {}", at("/standing/open_until"))
    } else if known("/standing/failing_since") {
        format!("failing since {}", at("/standing/failing_since"))
    } else {
        "enabled".to_owned()
    }
}

fn delivery(delivery: &Value) -> [String; 7] {
    let at = |pointer| cell(delivery, pointer);
    [
        at("/id"),
        state(delivery),
        at("/endpoint"),
        at("/type"),
        at("/accepted_at"),
        at("/attempts"),
        at("/webhook_id"),
    ]
}

/// Where a delivery stands, and why.
pub(super) fn state(delivery: &Value) -> String {
    let at = |pointer| cell(delivery, pointer);
    match delivery.get("reason").and_then(Value::as_str) {
        Some(reason) => format!("{}: {reason}", at("/state")),
        None => at("/state"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_endpoint_is_told_in_a_row() {
        let with = |field: &str, value: Value| {
            let mut endpoint = json!({ "id": "e", "tenant": "acme", "url": "https://h.example/", "events": ["a.*", "b"] });
            endpoint[field] = value;
            endpoint
        };
        let since = "2026-11-21T09:00:00.123Z";
        for (endpoint_, expected) in [
            (with("state", json!("enabled")), "enabled"),
            (with("state", json!("disabled")), "disabled by the document"),
            (
                with("standing", json!({ "disabled": { "reason": "gone", "since": since } })),
                "disabled since 2026-11-21T09:00:00Z: gone",
            ),
            (
                with("standing", json!({ "open_until": since, "failing_since": since })),
                "left alone until 2026-11-21T09:00:00Z",
            ),
            (
                with("standing", json!({ "failing_since": since })),
                "failing since 2026-11-21T09:00:00Z",
            ),
            (with("standing", json!({ "opened": 0 })), "enabled"),
        ] {
            let row = endpoint(&endpoint_).join(" ");
            assert_eq!(row, format!("e acme a.* b {expected} https://h.example/"));
        }
    }

    #[test]
    fn a_delivery_is_told_in_a_row() {
        let dead = json!({ "id": "dlv_7", "state": "dead", "reason": "exhausted", "endpoint": "e", "type": "a.b",
            "accepted_at": "2026-11-21T09:00:00Z", "attempts": 10, "webhook_id": "evt_1" });
        assert_eq!(
            delivery(&dead).join(" "),
            "dlv_7 dead: exhausted e a.b 2026-11-21T09:00:00Z 10 evt_1"
        );
    }

    #[test]
    fn a_query_is_encoded() {
        let path = path("/v1/x", [("type", Some("a b&c".to_owned())), ("since", None)]).unwrap();
        assert_eq!(path, "/v1/x?type=a+b%26c");
    }
}
