//! Secrets that clients send: sealed at once, so that nothing that is written or shown has them in plain.

use crate::Shared;
use crate::allowed::Administrator;
use crate::answer::Answer;
use crate::body::NoQuery;
use crate::difference::escape;
use crate::once::Posted;
use crate::problem::Refused;
use crate::write::{Edit, How, Made, Proposal, Writing};
use axum::extract::State;
use axum::response::Response;
use model::config::ConfigError;
use model::document::SECRET_FIELDS;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::sync::Arc;
use store::seal::MasterKeys;

/// A resource with every `secret: {"value": "…"}` sealed, under whatever name of [`SECRET_FIELDS`]. What is plain in another way is an error that does not repeat it.
pub(crate) fn sealed(keys: &MasterKeys, mut resource: Value) -> Result<Value, Refused> {
    let mut errors = Vec::new();
    each(&mut resource, "", &mut |secret, at| seal(keys, secret, at, &mut errors));
    if errors.is_empty() { Ok(resource) } else { Err(Refused::unfit(&errors)) }
}

/// Does something with every secret of a value, and its pointer. Settings of packs and schemas of event types hold none.
pub(crate) fn each(value: &mut Value, at: &str, work: &mut impl FnMut(&mut Value, &str)) {
    match value {
        Value::Array(list) => {
            for (index, entry) in list.iter_mut().enumerate() {
                each(entry, &format!("{at}/{index}"), work);
            }
        }
        Value::Object(fields) => {
            for (field, value) in fields.iter_mut() {
                let at = format!("{at}/{}", escape(field));
                match field.as_str() {
                    field if SECRET_FIELDS.contains(&field) => work(value, &at),
                    "settings" | "schema" => {}
                    _ => each(value, &at, work),
                }
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn seal(keys: &MasterKeys, secret: &mut Value, at: &str, errors: &mut Vec<ConfigError>) {
    let mut refuse = |at: String, message: String| errors.push(ConfigError::new(at, message));
    match secret {
        Value::String(_) => refuse(
            at.to_owned(),
            "is a plain secret: write `{\"value\": \"…\"}`, which is sealed, or a reference (`env`, `file`)"
                .to_owned(),
        ),
        Value::Object(fields) => {
            let Some(value) = fields.shift_remove("value") else { return };
            match value.as_str().map(|plain| keys.seal(plain.as_bytes())) {
                Some(Ok(sealed)) => {
                    fields.insert("sealed".to_owned(), sealed.into());
                }
                Some(Err(error)) => refuse(format!("{at}/value"), format!("can't be sealed: {error}")),
                None => refuse(format!("{at}/value"), "must be a string".to_owned()),
            }
        }
        _ => {}
    }
}

/// `{}`: nothing is chosen.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Rekeying {}

/// How many secrets were sealed anew.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Rekeyed {
    /// How many; the others were sealed under the first key.
    resealed: usize,
    /// The revision that it made; the present one when nothing was to do.
    revision: u64,
}

/// `POST /v1/secrets:rekey`: seals what was sealed under an older master key under the first one.
pub(crate) async fn rekey(
    State(shared): State<Arc<Shared>>,
    Administrator(acting): Administrator,
    NoQuery: NoQuery,
    Posted { body: Rekeying {}, once }: Posted<Rekeying>,
) -> Result<Response, Refused> {
    acting.unbound()?;
    let keys = shared.keys.clone();
    let edit: Edit = Arc::new(move |newest| {
        let mut document = newest.document.clone();
        let mut errors = Vec::new();
        each(&mut document, "", &mut |secret, at| reseal(&keys, secret, at, &mut errors));
        if errors.is_empty() {
            Ok(Proposal { document, text: None, at: None })
        } else {
            Err(Refused::invalid(&errors, None))
        }
    });
    let answer = |made: &Made| {
        // Nothing but secrets was touched, each where it stood.
        let (old, new) = (sealed_in(&made.base.document), sealed_in(&made.document));
        let resealed = old.iter().zip(&new).filter(|(old, new)| old != new).count();
        let body = Rekeyed { resealed, revision: made.revision };
        Answer::ok(&body).of_revision(made.revision)
    };
    let writing = Writing { shared: &shared, acting: &acting, how: &How::PLAIN, once: &once };
    once.done(&shared, writing.change(edit, answer)).await
}

fn reseal(keys: &MasterKeys, secret: &mut Value, at: &str, errors: &mut Vec<ConfigError>) {
    let Some(Value::String(sealed)) = secret.get_mut("sealed") else { return };
    if keys.is_current(sealed) {
        return;
    }
    match keys.open(sealed).and_then(|plain| keys.seal(&plain)) {
        Ok(anew) => *sealed = anew,
        Err(error) => errors.push(ConfigError::new(format!("{at}/sealed"), error.to_string())),
    }
}

/// Every sealed secret, in the document's order.
fn sealed_in(document: &Value) -> Vec<String> {
    let mut found = Vec::new();
    each(&mut document.clone(), "", &mut |secret, _| {
        found.extend(secret.get("sealed").and_then(Value::as_str).map(str::to_owned));
    });
    found
}
