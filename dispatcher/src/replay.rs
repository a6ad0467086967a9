//! Replays at work: each is held by one dispatcher at a time, which queues its window page by page.
//!
//! Invariant: a page is queued once, whoever comes and goes (the store moves the job's cursor with it). The rate is kept
//! between pages, so that at one moment no more than a page is queued: what takes longer than a replay is held for is waited
//! for in the store, by nobody.

use crate::Dispatcher;
use crate::compile::Pattern;
use model::webhook::{Replay, ReplayRequest, ReplayState, StoredEvent};
use std::sync::Arc;
use std::time::Duration;
use store::webhooks::Plan;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// How many replays a dispatcher works at.
const AT_ONCE: usize = 4;
/// Between two looks for replays that nobody works at.
const LOOK_PAUSE: Duration = Duration::from_secs(1);
/// How long a replay is held for a page and the pause behind it: after that, another dispatcher takes one whose holder was
/// killed.
const SPAN: Duration = Duration::from_secs(10);
/// The most events of a page.
const PAGE_MAX: u32 = 200;
/// So many pages a second are queued where the rate is high enough.
const PAGES_A_SECOND: u32 = 4;

/// Works at replays until the dispatcher stops. What is not at its end goes on elsewhere, once the hold is over.
pub(crate) async fn run(dispatcher: Arc<Dispatcher>) {
    let mut at_work = JoinSet::new();
    while !dispatcher.is_stopping() {
        while at_work.try_join_next().is_some() {}
        if at_work.len() < AT_ONCE
            && dispatcher.plan().is_some()
            && let Some((replay, fence)) = held(&dispatcher).await
        {
            at_work.spawn(work(dispatcher.clone(), replay, fence));
            continue;
        }
        dispatcher.pause(LOOK_PAUSE).await;
    }
    at_work.shutdown().await;
}

async fn held(dispatcher: &Dispatcher) -> Option<(Replay, u64)> {
    match dispatcher.store.hold_replay(&dispatcher.holder, SPAN).await {
        Ok(held) => held,
        Err(error) => {
            tracing::debug!(%error, "no replay can be held: the store can't answer");
            None
        }
    }
}

/// Queues page after page, at the replay's rate.
async fn work(dispatcher: Arc<Dispatcher>, replay: Replay, fence: u64) {
    let Replay { id, request, .. } = &replay;
    let patterns: Arc<[Pattern]> = request.types.iter().map(|text| Pattern::new(text)).collect();
    let most = (request.rate / PAGES_A_SECOND).clamp(1, PAGE_MAX);
    while let Some((plan, revision)) = dispatcher.plan() {
        let plan = of_request(plan, request, patterns.clone());
        match dispatcher.store.replay_step(id, fence, plan, revision, most, SPAN).await {
            // One that waits is held again by and by, by whoever comes first.
            Ok(step) if step.stale || step.waits => return,
            Ok(step) if step.outdated => {
                dispatcher.behind.waits(revision, Instant::now());
                dispatcher.pause(LOOK_PAUSE).await;
            }
            Ok(step) if step.state != ReplayState::Running => {
                return tracing::info!(replay = id, "a replay is done: all of it is queued");
            }
            Ok(step) => dispatcher.pause(request.time_of(step.queued)).await,
            // The hold ends by itself, and then somebody goes on.
            Err(error) => {
                return tracing::warn!(%error, replay = id, "a replay waits: the store can't answer");
            }
        }
        if dispatcher.is_stopping() {
            return;
        }
    }
}

/// What of a plan a replay asks for.
fn of_request(plan: Plan, request: &ReplayRequest, patterns: Arc<[Pattern]>) -> Plan {
    let endpoint = request.endpoint.clone();
    Arc::new(move |event: &StoredEvent| {
        let is_wanted = |pattern: &Pattern| pattern.matches(&event.r#type);
        if !patterns.is_empty() && !patterns.iter().any(is_wanted) {
            return Vec::new();
        }
        let mut planned = plan(event);
        planned.retain(|planned| endpoint.as_ref().is_none_or(|only| *only == planned.endpoint));
        planned
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::webhook::{Dedupe, Planned, WebhookId};

    fn event(kind: &str) -> StoredEvent {
        StoredEvent {
            number: 1,
            webhook_id: WebhookId::known("evt_1"),
            tenant: "acme".into(),
            source: "/crm".to_owned(),
            id: "1".to_owned(),
            r#type: kind.to_owned(),
            accepted_at: jiff::Timestamp::UNIX_EPOCH,
            content: b"{}".as_slice().into(),
        }
    }

    #[test]
    fn a_replay_plans_what_it_asks_for_of_what_is_wanted_now() {
        let planned =
            |endpoint: &str| Planned { endpoint: endpoint.into(), order_key: None, parked: None };
        let everything: Plan = Arc::new(move |_| vec![planned("a"), planned("b")]);
        for (endpoint, types, kind, expected) in [
            (None, &[][..], "contact.created", &["a", "b"][..]),
            (Some("b"), &[], "contact.created", &["b"]),
            (Some("c"), &[], "contact.created", &[]),
            (None, &["contact.*"], "contact.created", &["a", "b"]),
            (None, &["order.*", "contact.deleted"], "contact.created", &[]),
            (Some("a"), &["order.*", "*"], "contact.created", &["a"]),
        ] {
            let request = ReplayRequest {
                tenant: "acme".into(),
                endpoint: endpoint.map(Into::into),
                since: jiff::Timestamp::UNIX_EPOCH,
                until: jiff::Timestamp::UNIX_EPOCH,
                types: types.iter().map(|text| (*text).to_owned()).collect(),
                dedupe: Dedupe::SkipDelivered,
                rate: 100,
            };
            let patterns = request.types.iter().map(|text| Pattern::new(text)).collect();
            let plan = of_request(everything.clone(), &request, patterns);
            let found = plan(&event(kind));
            let found: Vec<&str> = found.iter().map(|planned| planned.endpoint.as_str()).collect();
            assert_eq!(found, expected, "{endpoint:?} {types:?}");
        }
    }
}
