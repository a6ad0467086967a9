//! `/v1/endpoints`, as far as endpoints are more than entries of the document: how they stand, and `:ping`, `:enable`,
//! `:rotate-secret`.

use crate::Shared;
use crate::acting::Acting;
use crate::allowed::{Dialler, Operator};
use crate::answer::Answer;
use crate::body::{NoQuery, Path, Query, verb};
use crate::newest::Newest;
use crate::once::{Once, Posted};
use crate::place::Place;
use crate::problem::Refused;
use crate::revisions::Empty;
use crate::verbs::Methods;
use crate::write::{ChangeQuery, Edit, How, Made, Proposal, Writing};
use axum::extract::State;
use axum::response::Response;
use axum::routing;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use model::audit::Entry;
use model::config::ConfigError;
use model::event::{CloudEvent, New};
use model::id::{EndpointId, TenantId};
use model::role::Section;
use model::units::Duration;
use model::webhook::{Delivery, Disabled, NewEvent, PING, Standing, WebhookId, delivery_id};
use model::{ErrorCode, Reject};
use rand::RngExt as _;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::value::to_raw_value;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time;
use store::control::{Effect, Write};
use store::webhooks::Recover;

/// The field of a shown entry that is not the document's. Whoever sends it back with the rest changes nothing by it.
pub(crate) const STANDING: &str = "standing";

/// How long an old secret signs beside the new one when nobody says.
const GRACE: time::Duration = time::Duration::from_secs(24 * 60 * 60);
/// The longest that it does.
const GRACE_MAX: time::Duration = time::Duration::from_secs(7 * 24 * 60 * 60);
/// How many old secrets sign beside the new one.
const PREVIOUS_MAX: usize = 10;
/// How long a new secret is, in bytes: Standard Webhooks advises 24 to 64.
const SECRET_LEN: usize = 32;

/// How an endpoint stands, as dispatchers keep it.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "EndpointStanding")]
pub(crate) struct StandingShown {
    /// Since when nothing succeeded; none when the last attempt did.
    #[serde(skip_serializing_if = "Option::is_none")]
    failing_since: Option<Timestamp>,
    /// Until when it is left alone: its breaker is open.
    #[serde(skip_serializing_if = "Option::is_none")]
    open_until: Option<Timestamp>,
    /// How often in a row the breaker opened.
    opened: u32,
    /// Why and since when it is disabled, if it was by itself. `POST /v1/endpoints/{id}:enable` enables it again.
    #[serde(skip_serializing_if = "Option::is_none")]
    disabled: Option<Disabled>,
    /// When this was written.
    at: Timestamp,
}

impl From<Standing> for StandingShown {
    fn from(standing: Standing) -> Self {
        let Standing { failing_since, open_until, opened, disabled, at, .. } = standing;
        Self { failing_since, open_until, opened, disabled, at }
    }
}

/// A ping on its way.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Pinged {
    /// What the receiver gets as `webhook-id`.
    webhook_id: WebhookId,
    /// The delivery: `GET /v1/deliveries/{id}` says what became of it.
    delivery: String,
}

/// `?recover=`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct EnableQuery {
    recover: Option<bool>,
}

/// An endpoint that is served again.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Enabled {
    /// The endpoint.
    endpoint: EndpointId,
    /// Whether what was parked meanwhile is taken up again.
    recovers: bool,
}

/// How a secret is replaced.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct SecretRotation {
    /// How long the old secret still signs beside the new one, at most 168h; 24h when absent, `0s` for not at all.
    #[serde(default)]
    grace: Option<Duration>,
}

/// A new secret, shown this once.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct RotatedSecret {
    /// The endpoint.
    endpoint: EndpointId,
    /// The secret itself: it is not shown again.
    secret: String,
    /// Until when the old one signs beside it.
    #[serde(skip_serializing_if = "Option::is_none")]
    previous_until: Option<Timestamp>,
    /// The revision that it made.
    revision: u64,
}

/// What can be done with an endpoint, beside what can be done with its entry.
pub(crate) fn verbs() -> Vec<(&'static str, Methods)> {
    vec![
        ("ping", routing::post(ping)),
        ("enable", routing::post(enable)),
        ("rotate-secret", routing::post(rotate_secret)),
    ]
}

/// Shows how these entries stand, where something is known.
pub(crate) async fn with_standings(shared: &Shared, entries: &mut [Value]) -> Result<(), Refused> {
    if entries.is_empty() {
        return Ok(());
    }
    let mut standings = shared.store.standings().await?;
    for entry in entries.iter_mut().filter_map(Value::as_object_mut) {
        let is_its = |field: &str, id: &str| entry.get(field).and_then(Value::as_str) == Some(id);
        let found = standings.iter().position(|standing| {
            // An id may have been another tenant's before.
            is_its("id", standing.endpoint.as_str()) && is_its("tenant", standing.tenant.as_str())
        });
        if let Some(index) = found {
            let shown = StandingShown::from(standings.swap_remove(index));
            entry.insert(STANDING.to_owned(), json!(shown));
        }
    }
    Ok(())
}

/// An endpoint of the newest document.
pub(crate) struct Endpoint {
    id: EndpointId,
    tenant: TenantId,
    place: Place,
    disabled: bool,
}

impl Endpoint {
    /// The one of this id, if who asks may see it.
    pub(crate) fn find(acting: &Acting, newest: &Newest, id: &str) -> Result<Self, Refused> {
        let found = Self::at(newest, id).ok_or(ErrorCode::NotFound)?;
        acting.sees(found.tenant.as_str())?;
        Ok(found)
    }

    /// Whether it is this tenant's.
    pub(crate) fn is_of(&self, tenant: &TenantId) -> bool {
        self.tenant == *tenant
    }

    /// The one that a delivery goes to.
    pub(crate) fn of_delivery(newest: &Newest, delivery: &Delivery) -> Result<Self, Refused> {
        let found = Self::at(newest, delivery.endpoint.as_str());
        let found = found.filter(|found| found.tenant == delivery.tenant);
        found.ok_or_else(|| conflict("Its endpoint is no longer in the document."))
    }

    fn at(newest: &Newest, id: &str) -> Option<Self> {
        let place = Place::root(Section::Endpoints, id);
        let entry = place.find(&newest.document)?.value;
        let tenant = TenantId::from(entry.get("tenant")?.as_str()?);
        let disabled = entry.get("state").and_then(Value::as_str) == Some("disabled");
        Some(Self { id: id.into(), tenant, place, disabled })
    }

    /// Refuses what would only be parked.
    pub(crate) async fn is_served(&self, shared: &Shared) -> Result<(), Refused> {
        self.is_enabled()?;
        let standings = shared.store.standings().await?;
        let own =
            |standing: &&Standing| standing.endpoint == self.id && standing.tenant == self.tenant;
        match standings.iter().find(own).and_then(|standing| standing.disabled.as_ref()) {
            None => Ok(()),
            Some(_) => Err(conflict(
                "The endpoint is disabled, as it failed for too long or said 410: enable it first, by \
                 `POST /v1/endpoints/{id}:enable`.",
            )),
        }
    }

    /// Refuses what the document has out of service.
    fn is_enabled(&self) -> Result<(), Refused> {
        if self.disabled {
            return Err(conflict(
                "The document has the endpoint disabled: set its `state` to `enabled` first.",
            ));
        }
        Ok(())
    }

    fn entry(&self, shared: &Shared, acting: &Acting, facts: Value) -> Entry {
        Entry { tenant: Some(self.tenant.clone()), ..acting.entry(shared, facts) }
    }
}

/// `POST /v1/endpoints/{id}:ping`
async fn ping(
    State(shared): State<Arc<Shared>>,
    Operator(acting): Operator,
    Path(segment): Path<String>,
    NoQuery: NoQuery,
    Posted { body: Empty {}, once }: Posted<Empty>,
) -> Result<Response, Refused> {
    let work = async {
        let newest = shared.newest().await?;
        let endpoint = Endpoint::find(&acting, &newest, verb(&segment).0)?;
        endpoint.is_served(&shared).await?;
        send_ping(&shared, &acting, &once, &endpoint).await
    };
    once.done(&shared, work).await
}

/// The number of the delivery is known once it is written, so the answer is kept after it: the audit has it twice. A repeat
/// that comes in between is another ping.
async fn send_ping(
    shared: &Shared,
    acting: &Acting,
    once: &Once,
    endpoint: &Endpoint,
) -> Result<Answer, Refused> {
    let event = pinging(shared, acting, endpoint)?;
    let webhook_id = event.webhook_id.clone();
    let effect = Effect::Ping { event: Box::new(event), endpoint: endpoint.id.clone() };
    let audit = endpoint.entry(shared, acting, json!({ "webhook_id": webhook_id }));
    let written = shared.store.write(Write { effect, audit, answer: None }).await?;
    let number = written.delivery.ok_or_else(|| Refused::internal("a ping without a delivery"))?;
    let delivery = delivery_id(number);
    let facts = json!({ "webhook_id": webhook_id, "delivery": delivery });
    let answer = Answer::ok(&Pinged { webhook_id, delivery });
    if let kept @ Some(_) = once.keep(&answer)? {
        let audit = endpoint.entry(shared, acting, facts);
        shared.store.write(Write { effect: Effect::Note, audit, answer: kept }).await?;
    }
    Ok(answer)
}

/// An event for this endpoint alone.
fn pinging(shared: &Shared, acting: &Acting, endpoint: &Endpoint) -> Result<NewEvent, Refused> {
    let id = shared.fresh_id();
    let source = format!("/v1/endpoints/{}", endpoint.id);
    let data = json!({ "endpoint": endpoint.id, "by": acting.actor.name });
    let data = to_raw_value(&data).map_err(Refused::internal)?;
    let event = CloudEvent::new(&New {
        id: &id,
        source: &source,
        r#type: PING,
        subject: Some(endpoint.id.as_str()),
        time: Some(&shared.clock.now().to_string()),
        tenant: endpoint.tenant.as_str(),
        data: Some(&data),
    });
    let event = event.map_err(|errors| Refused::internal(format!("a ping: {errors:?}")))?;
    event.to_keep().ok_or_else(|| Refused::internal("a ping without a tenant"))
}

/// `POST /v1/endpoints/{id}:enable`
async fn enable(
    State(shared): State<Arc<Shared>>,
    Operator(acting): Operator,
    Path(segment): Path<String>,
    Query(query): Query<EnableQuery>,
    Posted { body: Empty {}, once }: Posted<Empty>,
) -> Result<Response, Refused> {
    let recovers = query.recover.unwrap_or(true);
    let recover = if recovers { Recover::Parked } else { Recover::Nothing };
    let work = async {
        let newest = shared.newest().await?;
        let endpoint = Endpoint::find(&acting, &newest, verb(&segment).0)?;
        endpoint.is_enabled()?;
        let (id, tenant) = (endpoint.id.clone(), endpoint.tenant.clone());
        let effect = Effect::EnableEndpoint { endpoint: id, tenant, recover };
        let audit = endpoint.entry(&shared, &acting, json!({ "recovers": recovers }));
        let answer = Answer::ok(&Enabled { endpoint: endpoint.id, recovers });
        shared.store.write(Write { effect, audit, answer: once.keep(&answer)? }).await?;
        Ok(answer)
    };
    once.done(&shared, work).await
}

/// `POST /v1/endpoints/{id}:rotate-secret`
async fn rotate_secret(
    State(shared): State<Arc<Shared>>,
    Dialler(acting): Dialler,
    Path(segment): Path<String>,
    Query(query): Query<ChangeQuery>,
    Posted { body, once }: Posted<SecretRotation>,
) -> Result<Response, Refused> {
    let how = How::of(&shared, &acting, &query).await?;
    let writing = Writing { shared: &shared, acting: &acting, how: &how, once: &once };
    let id = verb(&segment).0;
    let work = async {
        let grace = body.grace.map_or(GRACE, |wanted| wanted.0);
        if grace > GRACE_MAX {
            let hours = GRACE_MAX.as_secs() / 3600;
            let error = ConfigError::new("/grace", format!("must be at most {hours}h"));
            return Err(Refused::unfit(&[error]));
        }
        let newest = shared.newest().await?;
        let endpoint = Endpoint::find(&acting, &newest, id)?;
        let now = shared.clock.now();
        let secret = format!("whsec_{}", STANDARD.encode(rand::rng().random::<[u8; SECRET_LEN]>()));
        let sealed = shared.keys.seal(secret.as_bytes()).map_err(|error| {
            let message = format!("can't be sealed: {error}");
            Refused::unfit(&[ConfigError::new("", message)])
        })?;
        let rotation = Rotation { place: endpoint.place, sealed, now, until: now + grace };
        let tell = |made: &Made| {
            let body = RotatedSecret {
                endpoint: endpoint.id.clone(),
                secret: secret.clone(),
                previous_until: (!grace.is_zero()).then_some(now + grace),
                revision: made.revision,
            };
            Answer::ok(&body).of_revision(made.revision)
        };
        let edit: Edit = Arc::new(move |newest| rotation.edit(newest));
        writing.change(edit, tell).await
    };
    once.done(&shared, work).await
}

/// A change of the document by which an endpoint has another secret.
struct Rotation {
    place: Place,
    sealed: String,
    now: Timestamp,
    until: Timestamp,
}

impl Rotation {
    fn edit(&self, newest: &Newest) -> Result<Proposal, Refused> {
        let found = self.place.find(&newest.document).ok_or(ErrorCode::NotFound)?;
        let mut endpoint = found.value.clone();
        let fields = endpoint.as_object_mut().ok_or(ErrorCode::NotFound)?;
        let old = fields.insert("secret".to_owned(), json!({ "sealed": self.sealed }));
        let mut previous = match fields.shift_remove("previous_secrets") {
            Some(Value::Array(previous)) => previous,
            _ => Vec::new(),
        };
        previous.retain(|entry| until(entry).is_none_or(|until| until > self.now));
        if self.until > self.now {
            previous.insert(0, json!({ "secret": old, "until": self.until }));
        }
        if previous.len() > PREVIOUS_MAX {
            return Err(conflict(&format!(
                "{PREVIOUS_MAX} old secrets still sign beside the present one: take some out of `previous_secrets`, or \
                 wait until they end."
            )));
        }
        if !previous.is_empty() {
            fields.insert("previous_secrets".to_owned(), Value::Array(previous));
        }
        let mut document = newest.document.clone();
        let at = self.place.set(&mut document, Some(endpoint))?;
        Ok(Proposal { document, text: None, at })
    }
}

/// When an old secret ends.
fn until(previous: &Value) -> Option<Timestamp> {
    previous.get("until")?.as_str()?.parse().ok()
}

fn conflict(message: &str) -> Refused {
    Reject::new(ErrorCode::Conflict).message(message).into()
}
