//! `{id}:verb`, which axum's router can't tell from `{id}`: it matches whole segments.
//!
//! Invariant: a resource and what is done to it are targets of their own, each with its own methods and its own `Allow`.

use crate::Shared;
use crate::body::verb;
use crate::problem::Refused;
use axum::extract::{Request, State};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{MethodRouter, any};
use model::ErrorCode;
use std::sync::Arc;
use tower::ServiceExt as _;

pub(crate) type Methods = MethodRouter<Arc<Shared>>;

/// Routes of one path: the methods of the resource itself, if it is one, and those of each verb.
pub(crate) fn split(one: Option<Methods>, verbs: Vec<(&'static str, Methods)>) -> Methods {
    routed(one, None, verbs)
}

/// The same of what names with colons are given to: what ends in no verb is a name.
pub(crate) fn split_from_names(one: Methods, verbs: Vec<(&'static str, Methods)>) -> Methods {
    routed(Some(one.clone()), Some(one), verbs)
}

/// By what follows the last colon: nothing, something that is no verb, or a verb.
fn routed(
    one: Option<Methods>,
    other: Option<Methods>,
    verbs: Vec<(&'static str, Methods)>,
) -> Methods {
    let (one, other) = (one.map(guarded), other.map(guarded));
    let verbs: Vec<_> = verbs.into_iter().map(|(name, methods)| (name, guarded(methods))).collect();
    any(async move |State(shared): State<Arc<Shared>>, request: Request| -> Response {
        let segment = request.uri().path().rsplit('/').next().unwrap_or_default();
        let chosen = match verb(segment) {
            (_, None) => one,
            (_, Some(asked)) => {
                let found = verbs.into_iter().find(|(name, _)| *name == asked);
                found.map(|(_, methods)| methods).or(other)
            }
        };
        match chosen {
            Some(methods) => methods.with_state(shared).oneshot(request).await.into_response(),
            None => Refused::from(ErrorCode::NotFound).into_response(),
        }
    })
}

fn guarded(methods: Methods) -> Methods {
    methods.fallback(async || Refused::from(ErrorCode::MethodNotAllowed))
}
