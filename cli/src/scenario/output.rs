//! What a step shows of an answer, and the names of what servers made up.

use super::Step;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

/// `{status, trace_id, result | code, message}`, and the headers that the step names.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Output {
    status: u16,
    trace_id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    result: Option<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    code: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    message: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    headers: BTreeMap<String, String>,
}

impl Output {
    /// What this answer shows. The trace id of an error is that of its body: the gateway's own word.
    pub(super) fn of(
        status: u16,
        headers: &http::HeaderMap,
        body: &[u8],
        step: &Step,
        names: &mut Names,
    ) -> Self {
        let value: Option<Value> = serde_json::from_slice(body).ok();
        let text = |field: &str| {
            value
                .as_ref()
                .and_then(|value| value.get(field))
                .and_then(Value::as_str)
                .map(str::to_owned)
        };
        let refused = status >= 400 && text("code").is_some();
        let named = step.expect.headers.keys().map(|name| {
            let found = headers.get(name).and_then(|value| value.to_str().ok());
            (name.clone(), names.shown(found.unwrap_or("(absent)")))
        });
        let named = named.collect();
        Self {
            status,
            trace_id: text("trace_id").unwrap_or_else(|| step.request.trace_id.clone()),
            code: refused.then(|| text("code")).flatten(),
            message: refused.then(|| text("message")).flatten(),
            result: if refused { None } else { value.map(|value| names.replaced(value)) },
            headers: named,
        }
    }
}

/// The ids that servers made up, in the order of their appearance, and the name of this run.
#[derive(Clone)]
pub(super) struct Names {
    run: String,
    ids: Vec<String>,
}

impl Names {
    /// No ids yet. Against a server that runs on, each run has keys of its own, or it would only see replays.
    pub(super) fn of_run(run: String) -> Self {
        Self { run, ids: Vec::new() }
    }

    /// The text with `<id:N>` replaced by the id of that name, and `<run>` by the run's.
    pub(super) fn resolve(&self, text: &str) -> String {
        let mut resolved = text.replace("<run>", &self.run);
        for (index, id) in self.ids.iter().enumerate() {
            resolved = resolved.replace(&format!("<id:{}>", index + 1), id);
        }
        resolved
    }

    fn replaced(&mut self, value: Value) -> Value {
        match value {
            Value::String(text) => Value::String(self.name(text)),
            Value::Array(items) => items.into_iter().map(|item| self.replaced(item)).collect(),
            Value::Object(members) => {
                members.into_iter().map(|(key, value)| (key, self.replaced(value))).collect()
            }
            other => other,
        }
    }

    fn name(&mut self, text: String) -> String {
        if is_made_up(&text) {
            if !self.ids.contains(&text) {
                self.ids.push(text.clone());
            }
            return self.shown(&text);
        }
        if text.len() >= 20 && text.parse::<jiff::Timestamp>().is_ok() {
            "<time>".to_owned()
        } else {
            text
        }
    }

    /// The text with every known id replaced by its name.
    fn shown(&self, text: &str) -> String {
        let mut shown = text.to_owned();
        for (index, id) in self.ids.iter().enumerate() {
            shown = shown.replace(id, &format!("<id:{}>", index + 1));
        }
        shown
    }
}

/// Whether a server made it up: a UUID, or what receivers know an event by.
fn is_made_up(text: &str) -> bool {
    uuid::Uuid::try_parse(text.strip_prefix("evt_").unwrap_or(text)).is_ok()
}
