//! What a broker has, accepted: what becomes of each message.

use bytes::Bytes;
use http::HeaderMap;
use ingest::{Ingest, Origin};
use model::event::CloudEvent;
use model::id::TenantId;
use model::webhook::Acceptance;

/// What becomes of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Its event is committed, or was before.
    Kept,
    /// Not now: the store is away, or its tenant's cap is reached. It comes again.
    Later,
    /// Never: it is no event, or one that is not taken. Says why.
    Refused(String),
}

/// Accepts the events of messages, each for itself. `tenant`: whose all of them are, where the settings say so.
pub(crate) async fn judge(
    ingest: &Ingest,
    tenant: Option<&TenantId>,
    messages: Vec<(HeaderMap, Bytes)>,
) -> Vec<Verdict> {
    let read: Vec<_> =
        messages.iter().map(|(headers, body)| event(tenant, headers, body)).collect();
    let sound = read.iter().filter_map(|event| event.as_ref().ok().cloned()).collect();
    let kept = ingest.keep_each(Origin::Producer, sound).await;
    let mut kept = match kept {
        Ok(kept) => kept.into_iter().map(Some).collect::<Vec<_>>().into_iter(),
        // Nothing was even looked at: there is no document, or no store.
        Err(_) => Vec::new().into_iter(),
    };
    let verdict = |event: Result<CloudEvent, String>| match event {
        Err(why) => Verdict::Refused(why),
        Ok(_) => match kept.next().flatten() {
            Some(Ok(Acceptance::Accepted | Acceptance::Repeat)) => Verdict::Kept,
            Some(Ok(Acceptance::Conflict)) => Verdict::Refused(
                "Another event was accepted under this tenant, source and id.".to_owned(),
            ),
            Some(Ok(Acceptance::Full)) | None => Verdict::Later,
            Some(Err(reject)) => match ingest::waits(reject.code) {
                true => Verdict::Later,
                false => Verdict::Refused(told(&reject)),
            },
        },
    };
    read.into_iter().map(verdict).collect()
}

fn told(reject: &model::Reject) -> String {
    let problem = &reject.details;
    match problem.is_empty() {
        true => reject.code.as_str().to_owned(),
        false => format!(
            "{}: {}",
            reject.code.as_str(),
            serde_json::to_string(problem).unwrap_or_default()
        ),
    }
}

/// The event of a message: structured, or binary with `ce-` headers.
fn event(
    tenant: Option<&TenantId>,
    headers: &HeaderMap,
    body: &Bytes,
) -> Result<CloudEvent, String> {
    let read = match CloudEvent::is_binary(headers) {
        true => CloudEvent::of_request(headers, body),
        false => CloudEvent::structured(body),
    };
    let mut event = read
        .map_err(|errors| errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))?;
    match (tenant, event.tenant()) {
        (Some(tenant), None) => event.set_tenant(tenant),
        (Some(tenant), Some(named)) if named != tenant.as_str() => {
            return Err(format!(
                "It names the tenant `{named}`, and this source is another one's."
            ));
        }
        _ => {}
    }
    Ok(event)
}
