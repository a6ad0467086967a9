//! `tollgate webhooks show`: one delivery, with each attempt.

use super::deliveries::{cell, state};
use crate::remote::{self, Form, Remote};
use crate::table::table;
use crate::{Ending, misused, print};
use clap::Args;
use model::webhook::delivery_number;
use serde_json::Value;

/// Shows a delivery with each attempt: when, how long, what it came to.
///
/// Example: tollgate webhooks show dlv_4711
#[derive(Args)]
pub(super) struct Show {
    /// The delivery's id.
    #[arg(value_name = "DELIVERY")]
    id: String,
    /// Shows the event, too. It is a tenant's data: the audit has who looked.
    #[arg(long)]
    body: bool,
    /// Prints what the API answers.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    remote: Remote,
}

impl Show {
    pub(super) fn run(self) -> anyhow::Result<Ending> {
        is_delivery(&self.id)?;
        let api = self.remote.connect()?;
        let form = Form::json_if(self.json);
        let body = if self.body { "?body=true" } else { "" };
        let path = format!("/v1/deliveries/{}{body}", self.id);
        match remote::run(api.get(&path))?.success() {
            Ok(answer) if form == Form::Json => print(&answer.body.to_string()),
            Ok(answer) => lines(&answer.body).iter().for_each(|line| print(line)),
            Err(refusal) => return Ok(refusal.show(form)),
        }
        Ok(Ending::Done)
    }
}

/// Refuses what can be no delivery's id.
pub(super) fn is_delivery(id: &str) -> anyhow::Result<()> {
    match delivery_number(id) {
        Some(_) => Ok(()),
        None => Err(misused(format!("`{id}` is no delivery's id, like dlv_4711"))),
    }
}

/// A delivery, for people.
pub(super) fn lines(delivery: &Value) -> Vec<String> {
    let at = |pointer| cell(delivery, pointer);
    let mut lines = vec![format!("{}  {}", at("/id"), state(delivery))];
    for (name, pointer) in [
        ("tenant", "/tenant"),
        ("endpoint", "/endpoint"),
        ("webhook-id", "/webhook_id"),
        ("type", "/type"),
        ("source", "/source"),
        ("event id", "/event_id"),
        ("accepted", "/accepted_at"),
        ("due", "/due_at"),
        ("settled", "/settled_at"),
        ("replay", "/replay"),
    ] {
        if delivery.pointer(pointer).is_some_and(|value| !value.is_null()) {
            lines.push(format!("  {name:<10}  {}", at(pointer)));
        }
    }
    let history = delivery.get("history").and_then(Value::as_array).into_iter().flatten();
    let rows: Vec<[String; 6]> = history.map(attempt).collect();
    if !rows.is_empty() {
        lines.push(String::new());
        lines.extend(table(["ATTEMPT", "AT", "TOOK", "OUTCOME", "STATUS", "EXCERPT"], &rows));
    }
    if let Some(event) = delivery.get("event").filter(|event| !event.is_null()) {
        lines.extend([String::new(), format!("{event:#}")]);
    }
    lines
}

fn attempt(attempt: &Value) -> [String; 6] {
    let at = |pointer| cell(attempt, pointer);
    let took = attempt.get("took_us").and_then(Value::as_u64).unwrap_or_default();
    // An excerpt is the receiver's: nothing of it may speak to the terminal.
    let excerpt: String =
        at("/excerpt").chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    [
        at("/attempt"),
        at("/at"),
        format!("{} ms", took / 1_000),
        at("/outcome"),
        at("/status"),
        excerpt,
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_delivery_is_told_with_its_attempts() {
        let delivery = json!({
            "id": "dlv_7", "state": "pending", "tenant": "acme", "endpoint": "e", "webhook_id": "evt_1",
            "type": "a.b", "source": "/crm", "event_id": "1", "accepted_at": "2026-11-21T09:00:00Z",
            "attempts": 1, "due_at": "2026-11-21T09:00:05Z",
            "history": [{ "attempt": 1, "at": "2026-11-21T09:00:00Z", "took_us": 12_345,
                "outcome": "server_error", "status": 500, "excerpt": "oh\u{1b}[2J no" }],
        });
        let lines = lines(&delivery).join("\n");
        assert_eq!(
            lines,
            "dlv_7  pending\n  tenant      acme\n  endpoint    e\n  webhook-id  evt_1\n  type        a.b\n  \
             source      /crm\n  event id    1\n  accepted    2026-11-21T09:00:00Z\n  due         \
             2026-11-21T09:00:05Z\n\nATTEMPT  AT                    TOOK   OUTCOME       STATUS  EXCERPT\n1        \
             2026-11-21T09:00:00Z  12 ms  server_error  500     oh [2J no"
        );
    }
}
