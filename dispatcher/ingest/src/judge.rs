//! Whether events may be kept: whose they are, how large, how many, and whether they fit their type's schema.
//!
//! Invariant: cheap before dear, and nothing is spent here: what is refused here takes nothing of a rate.

use crate::rates::Counts;
use crate::rules::Rules;
use crate::{BACKLOG_RETRY_S, Origin};
use bytes::Bytes;
use http::{HeaderMap, header};
use jsonschema::ValidationError;
use model::event::{CloudEvent, Malformed};
use model::id::TenantId;
use model::webhook::{Acceptance, NewEvent};
use model::{ErrorCode, Reject};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use store::webhooks::Arriving;

/// How many things that are wrong are told at once.
const ERRORS_MAX: usize = 32;

/// How much is told of one: a schema may list more than anybody reads.
const MESSAGE_BYTES_MAX: usize = 512;

/// What types of the gateway's own events begin with, and of nobody else's.
const OWN_TYPES: &str = "tollgate.";

/// What sources begin with that the gateway speaks for.
const OWN_SOURCES: [&str; 3] = ["/tollgate", "/v1/inbound/", "/v1/sources/"];

/// Judges by one revision.
pub(crate) struct Judge(pub(crate) Arc<Rules>);

/// Events as they were sent.
pub(crate) struct Sent {
    events: Vec<CloudEvent>,
    form: Form,
}

/// How many may have been sent: where pointers begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    One,
    Batch,
}

impl Form {
    /// Where the event at this place stands.
    fn at(self, place: usize) -> String {
        match self {
            Self::One => String::new(),
            Self::Batch => format!("/{place}"),
        }
    }
}

impl From<Vec<CloudEvent>> for Sent {
    fn from(events: Vec<CloudEvent>) -> Self {
        Self { events, form: Form::Batch }
    }
}

impl From<CloudEvent> for Sent {
    fn from(event: CloudEvent) -> Self {
        Self { events: vec![event], form: Form::One }
    }
}

/// Events that may be kept.
pub(crate) struct Fit {
    pub(crate) arriving: Arriving,
    pub(crate) form: Form,
    /// What they take of their tenants' rates.
    pub(crate) counts: Counts,
}

/// Reads what a request holds, in whichever mode `Content-Type` says (HTTP binding §3).
pub(crate) fn read(headers: &HeaderMap, body: &Bytes) -> Result<Sent, Reject> {
    let mut kinds = headers.get_all(header::CONTENT_TYPE).iter();
    let kind = kinds.next().and_then(|kind| kind.to_str().ok());
    if kinds.next().is_some() {
        let message = "`Content-Type` is given more than once.";
        return Err(Reject::new(ErrorCode::ValidationFailed).message(message));
    }
    let kind = kind.and_then(|kind| kind.split(';').next()).unwrap_or_default().trim();
    let read = if kind.eq_ignore_ascii_case(CloudEvent::STRUCTURED) {
        CloudEvent::structured(body).map(Sent::from)
    } else if kind.eq_ignore_ascii_case(CloudEvent::BATCH) {
        CloudEvent::batch(body).map(Sent::from)
    } else if is_cloud_events(kind) || !CloudEvent::is_binary(headers) {
        let (one, batch) = (CloudEvent::STRUCTURED, CloudEvent::BATCH);
        return Err(Reject::new(ErrorCode::ValidationFailed).message(format!(
            "Send a CloudEvent as `{one}` or `{batch}`, or with its attributes as `ce-` headers."
        )));
    } else {
        CloudEvent::of_request(headers, body).map(Sent::from)
    };
    read.map_err(|errors| malformed(&errors))
}

/// A format of CloudEvents, which then is none that is known.
fn is_cloud_events(kind: &str) -> bool {
    const PREFIX: &str = "application/cloudevents";
    kind.get(..PREFIX.len()).is_some_and(|start| start.eq_ignore_ascii_case(PREFIX))
}

impl Judge {
    /// Events that may be kept, of whoever may send those of `bound`, or of all tenants; or why none of them may.
    pub(crate) fn fit(
        &self,
        origin: Origin,
        bound: Option<&TenantId>,
        sent: Sent,
    ) -> Result<Fit, Reject> {
        let Sent { mut events, form } = sent;
        let mut errors = Vec::new();
        for (place, event) in events.iter_mut().enumerate() {
            owned(event, bound, &form.at(place))?;
            errors.extend(self.wrong_names(origin, event, &form.at(place)));
        }
        if !errors.is_empty() {
            return Err(malformed(&errors));
        }
        let new: Vec<NewEvent> = events.iter().filter_map(CloudEvent::to_keep).collect();
        if origin == Origin::Gateway {
            let arriving = Arriving { events: new, backlog: BTreeMap::new() };
            return Ok(Fit { arriving, form, counts: Counts::new() });
        }
        let counts = self.counted(&new, form)?;
        self.fit_schemas(&events, form)?;
        let backlog = counts
            .keys()
            .filter_map(|id| Some((id.clone(), self.0.tenant(id.as_str())?.caps.backlog)));
        let backlog = backlog.collect();
        Ok(Fit { arriving: Arriving { events: new, backlog }, form, counts })
    }

    /// What is wrong with the names that an event has.
    fn wrong_names(&self, origin: Origin, event: &CloudEvent, at: &str) -> Vec<Malformed> {
        let mut errors = Vec::new();
        match event.tenant() {
            None => errors.push(Malformed::new(
                format!("{at}/tenant"),
                "It is required: the id of the tenant whose event it is.",
            )),
            Some(tenant) if origin != Origin::Gateway && self.0.tenant(tenant).is_none() => {
                errors.push(Malformed::new(format!("{at}/tenant"), "There is no such tenant."));
            }
            Some(_) => {}
        }
        if origin != Origin::Gateway && event.r#type().starts_with(OWN_TYPES) {
            let message = format!("Types that begin with `{OWN_TYPES}` are the gateway's own.");
            errors.push(Malformed::new(format!("{at}/type"), message));
        }
        let own = OWN_SOURCES.into_iter().find(|own| event.source().starts_with(own));
        if let Some(own) = own.filter(|_| origin == Origin::Producer) {
            let message = format!("Sources that begin with `{own}` are the gateway's own.");
            errors.push(Malformed::new(format!("{at}/source"), message));
        }
        errors
    }

    /// How many events of which tenant these are, if each may send and none is too large.
    fn counted(&self, events: &[NewEvent], form: Form) -> Result<Counts, Reject> {
        let mut counts = Counts::new();
        for (place, event) in events.iter().enumerate() {
            // Asked for before.
            let Some(tenant) = self.0.tenant(event.tenant.as_str()) else { continue };
            if tenant.is_suspended {
                return Err(Reject::new(ErrorCode::TenantSuspended));
            }
            let limit = tenant.caps.size.bytes();
            if event.content.len() > limit {
                return Err(Reject::new(ErrorCode::BodyTooLarge)
                    .message(format!("An event of this tenant has at most {limit} bytes."))
                    .detail("pointer", form.at(place))
                    .detail("limit", limit));
            }
            counts.entry(event.tenant.clone()).or_insert((0, tenant.caps.rate)).0 += 1;
        }
        Ok(counts)
    }

    fn fit_schemas(&self, events: &[CloudEvent], form: Form) -> Result<(), Reject> {
        let mut errors = Vec::new();
        for (place, event) in events.iter().enumerate() {
            let Some(schema) = self.0.schema(event.r#type()) else { continue };
            let at = form.at(place);
            if event.is_opaque() {
                let message = "It must be JSON: its type has a schema.";
                errors.push(Malformed::new(format!("{at}/data"), message));
                continue;
            }
            let room = ERRORS_MAX.saturating_sub(errors.len());
            let data = event.json().unwrap_or(&Value::Null);
            errors.extend(schema.iter_errors(data).take(room).map(|error| {
                let pointer = format!("{at}/data{}", error.instance_path());
                Malformed::new(pointer, told(&error))
            }));
        }
        if errors.is_empty() {
            return Ok(());
        }
        Err(malformed(&errors).message("The event does not fit the schema of its type."))
    }
}

/// What is wrong, without what was sent.
fn told(error: &ValidationError<'_>) -> String {
    let mut message = error.masked_with("What stands here").to_string();
    message.truncate(message.floor_char_boundary(MESSAGE_BYTES_MAX));
    message
}

/// Gives an event to the one tenant that it may be of; refuses what is another one's.
fn owned(event: &mut CloudEvent, bound: Option<&TenantId>, at: &str) -> Result<(), Reject> {
    match (bound, event.tenant()) {
        (Some(bound), Some(tenant)) if bound.as_str() != tenant => {
            Err(Reject::new(ErrorCode::Forbidden)
                .message(format!("This token sends events of the tenant `{bound}` only."))
                .detail("pointer", format!("{at}/tenant")))
        }
        (Some(bound), None) => {
            event.set_tenant(bound);
            Ok(())
        }
        _ => Ok(()),
    }
}

/// 400: every error, with its place.
pub(crate) fn malformed(errors: &[Malformed]) -> Reject {
    let shown = errors.iter().take(ERRORS_MAX);
    let shown = shown.map(|error| json!({ "pointer": error.pointer, "message": error.message }));
    Reject::new(ErrorCode::ValidationFailed)
        .message("The event is malformed.")
        .detail("errors", shown.collect::<Value>())
}

/// Why nothing of a request is kept, if it isn't.
pub(crate) fn refusal(outcomes: &[Acceptance], form: Form) -> Option<Reject> {
    let is = |wanted: Acceptance| move |outcome: &&Acceptance| **outcome == wanted;
    if outcomes.iter().any(|outcome| is(Acceptance::Conflict)(&outcome)) {
        let places =
            outcomes.iter().enumerate().filter(|(_, outcome)| is(Acceptance::Conflict)(outcome));
        let errors = places.take(ERRORS_MAX).map(|(place, _)| {
            json!({
                "pointer": format!("{}/id", form.at(place)),
                "message": "Another event of this tenant and source was accepted under this id.",
            })
        });
        return Some(
            Reject::new(ErrorCode::Conflict)
                .message("Another event was accepted under the same source and id.")
                .detail("errors", errors.collect::<Value>()),
        );
    }
    outcomes.iter().find(is(Acceptance::Full)).map(|_| {
        Reject::new(ErrorCode::RateLimited)
            .message("As many events and deliveries of the tenant wait as may.")
            .detail("limit", "events.backlog")
            .retry_after(BACKLOG_RETRY_S)
    })
}
