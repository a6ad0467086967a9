//! The document's webhooks: where events come from, of what types they are, and where they go.

use super::Secret;
use crate::id::{EndpointId, SourceId, TenantId};
use crate::quota::Rate;
use crate::units::{Duration, Size};
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

/// Where events come from, beside `POST /v1/events`: a system that sends webhooks (`verify`), or one that is asked for what
/// is new (`poll`). Exactly one of the two.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// The source's id: `POST /v1/inbound/{id}`.
    pub id: SourceId,
    /// Whose events these are.
    pub tenant: TenantId,
    /// How what it sends is verified.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verify: Option<Verify>,
    /// The secret that it signs with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<Secret>,
    /// The secret that it signed with before, while it changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous_secret: Option<Secret>,
    /// How far its clock may be from ours: 1s to 1h. What is older is refused.
    #[serde(default = "five_minutes")]
    pub tolerance: Duration,
    /// Where it is asked for what is new.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub poll: Option<Poll>,
    /// Where the parts of an event stand in what it says.
    #[serde(default)]
    pub event: Mapping,
}

/// How an inbound webhook is verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Verify {
    /// `X-Acme-Signature`: hex HMAC-SHA256 over `X-Acme-Timestamp "." body`.
    AcmeHmac,
    /// Standard Webhooks: `webhook-id`, `webhook-timestamp`, `webhook-signature`.
    StandardWebhooks,
}

/// Where the parts of an event stand in a JSON body: RFC 6901 pointers. What stands nowhere is absent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Mapping {
    /// Its id. Where there is none, the body's SHA-256 is.
    #[schemars(extend("format" = "json-pointer"))]
    pub id: String,
    /// Its type.
    #[schemars(extend("format" = "json-pointer"))]
    pub r#type: String,
    /// What it is about.
    #[schemars(extend("format" = "json-pointer"))]
    pub subject: String,
    /// When it happened (RFC 3339).
    #[schemars(extend("format" = "json-pointer"))]
    pub time: String,
    /// What is to be known; the whole body where it is `""`.
    #[schemars(extend("format" = "json-pointer"))]
    pub data: String,
    /// The type of events that name none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default_type: Option<String>,
}

impl Default for Mapping {
    fn default() -> Self {
        let at = str::to_owned;
        Self {
            id: at("/id"),
            r#type: at("/type"),
            subject: at("/subject"),
            time: at("/time"),
            data: at("/data"),
            default_type: None,
        }
    }
}

/// How a system without webhooks is asked for what is new. One dispatcher asks at a time.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Poll {
    /// What is asked: an `http` or `https` address.
    pub url: String,
    /// Between two questions: 1s to 24h. An answer that says that there is more is followed at once.
    #[serde(default = "thirty_seconds")]
    pub interval: Duration,
    /// How long an answer may take, whole: 1s to 5m. More than what `wait` asks the other side to hold the question for.
    #[serde(default = "thirty_seconds")]
    pub timeout: Duration,
    /// What is sent along.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authorization: Option<EndpointAuthorization>,
    /// Where the list of entries stands in the answer (RFC 6901); the answer itself where it is `""`.
    #[serde(default)]
    #[schemars(extend("format" = "json-pointer"))]
    pub items: String,
    /// How the next question goes on from this answer; `ETag` and `Last-Modified` alone when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<PollCursor>,
    /// The query parameter that asks the other side to hold the question until there is something, and for how long.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait: Option<PollWait>,
}

/// A mark in an answer that the next question repeats.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PollCursor {
    /// The query parameter that carries it.
    pub parameter: String,
    /// Where it stands in the answer (RFC 6901), like `/next_cursor`. Exactly one of this and `newest`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "json-pointer"))]
    pub from: Option<String>,
    /// Where it stands in each entry (RFC 6901), like `/updated_at`: the newest is repeated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "json-pointer"))]
    pub newest: Option<String>,
    /// Of `newest`: how far back the next question reaches, since entries may appear late.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overlap: Option<Duration>,
}

/// Long polling.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PollWait {
    /// The query parameter.
    pub parameter: String,
    /// How long, as whole seconds.
    pub time: Duration,
}

/// Where events of a tenant go.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Endpoint {
    /// The endpoint's id.
    pub id: EndpointId,
    /// Whose events it gets.
    pub tenant: TenantId,
    /// Where they are sent: `https`, unless the process allows plain `http` to private addresses.
    pub url: String,
    /// The types that it wants, `*` for any run of characters: `contact.*`.
    #[schemars(length(min = 1, max = 64))]
    pub events: Vec<String>,
    /// Context attributes that an event must have, each with one of these values, `*` for any run of characters.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub attributes: BTreeMap<String, Vec<String>>,
    /// The secret of its signatures (`v1`): `whsec_` and 24 to 64 bytes as base64.
    pub secret: Secret,
    /// Secrets that still sign beside it, while receivers change: at most 10.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 10))]
    pub previous_secrets: Vec<PreviousSecret>,
    /// The Ed25519 key of its signatures (`v1a`), beside the secret: `whsk_` and base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signing_key: Option<Secret>,
    /// When a delivery that failed is tried again.
    #[serde(default)]
    pub schedule: Schedule,
    /// Which deliveries wait for which.
    #[serde(default)]
    pub ordering: Ordering,
    /// The context attribute that orders by key; `subject` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order_key: Option<String>,
    /// What becomes of the deliveries behind one that came to nothing. No default where there is an order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_failure: Option<OnDead>,
    /// How long an attempt may take, from the connection to the last byte of the answer: 100ms to 60s.
    #[serde(default = "fifteen_seconds")]
    pub timeout: Duration,
    /// How often it is sent something.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<Rate>,
    /// How many attempts may be under way at one time.
    #[serde(default = "eight")]
    #[schemars(range(min = 1, max = 1_000))]
    pub concurrency: u32,
    /// How the event stands in the request.
    #[serde(default)]
    pub format: Format,
    /// What is sent along, beside the signature.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authorization: Option<EndpointAuthorization>,
    /// When it is left alone for a while.
    #[serde(default)]
    pub breaker: EndpointBreaker,
    /// Attempts that are retries, as a share of first attempts: 0 to 10.
    #[serde(default = "one_fifth")]
    #[schemars(range(min = 0.0, max = 10.0))]
    pub retry_budget: f64,
    /// It is disabled once nothing succeeded for so long and a delivery came to nothing: 1h to 90 days.
    #[serde(default = "five_days")]
    pub disable_after: Duration,
    /// Whether it is served. What comes for a disabled one is parked.
    #[serde(default)]
    pub state: EndpointState,
}

/// A secret that signs until then.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PreviousSecret {
    /// The secret.
    pub secret: Secret,
    /// Until when.
    pub until: Timestamp,
}

/// When a delivery that failed is tried again, each time ±20 %: `standard` (5s, 5m, 30m, 2h, 5h, 10h, 14h, 20h, 24h), or
/// the delays themselves.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Schedule {
    /// The schedule that Standard Webhooks gives as its example: ten attempts over 75 hours.
    #[default]
    #[serde(with = "standard")]
    #[schemars(with = "Standard")]
    Standard,
    /// One delay after each attempt; after the last attempt it is a dead letter.
    Delays(#[schemars(length(min = 1, max = 64))] Vec<Duration>),
}

/// The name of the schedule.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Standard {
    Standard,
}

mod standard {
    use super::Standard;
    use serde::{Deserialize as _, Deserializer, Serialize as _, Serializer};

    pub(super) fn serialize<S: Serializer>(to: S) -> Result<S::Ok, S::Error> {
        Standard::Standard.serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<(), D::Error> {
        Standard::deserialize(from).map(drop)
    }
}

/// Which deliveries to an endpoint wait for which.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Ordering {
    /// None.
    #[default]
    None,
    /// Those of one key, for the earlier ones of that key.
    Key,
    /// Each for all earlier ones.
    Endpoint,
}

/// What becomes of deliveries behind one that came to nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnDead {
    /// They wait until somebody retries or discards it.
    Stop,
    /// They go on.
    Skip,
}

/// How an event stands in a request (CloudEvents 1.0, HTTP binding §3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// As `application/cloudevents+json`.
    #[default]
    Structured,
    /// The data is the body, the attributes are `ce-` headers.
    Binary,
}

/// What is sent along with a request, beside its signature: exactly one of the two.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EndpointAuthorization {
    /// A header.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub header: Option<AuthorizationHeader>,
    /// A bearer token by the client credentials grant (RFC 6749 §4.4).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oauth2: Option<ClientCredentials>,
}

/// A header with a secret value.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AuthorizationHeader {
    /// Its name.
    #[schemars(extend("format" = "header"))]
    pub name: String,
    /// Its value.
    pub secret: Secret,
}

/// The client credentials grant (RFC 6749 §4.4).
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ClientCredentials {
    /// The token endpoint.
    pub token_url: String,
    /// The client's id.
    pub client_id: String,
    /// The client's secret.
    pub client_secret: Secret,
    /// What is asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scopes: Vec<String>,
}

/// When an endpoint is left alone: of the attempts in a window so many failed. What is due waits and burns no attempt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct EndpointBreaker {
    /// The share of attempts that fail: more than 0, at most 1.
    #[schemars(range(min = 0.01, max = 1.0))]
    pub failure_rate: f64,
    /// In what time: 1s to 1h.
    pub window: Duration,
    /// Fewer attempts than this tell nothing.
    #[schemars(range(min = 1, max = 100_000))]
    pub min_attempts: u32,
    /// How long it is left alone, doubled each time that it fails again, at most an hour: 1s to 1h.
    pub open_for: Duration,
}

impl Default for EndpointBreaker {
    fn default() -> Self {
        let seconds = |n| Duration(std::time::Duration::from_secs(n));
        Self { failure_rate: 0.7, window: seconds(300), min_attempts: 10, open_for: seconds(30) }
    }
}

/// Whether an endpoint is served.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum EndpointState {
    /// It is.
    #[default]
    Enabled,
    /// It is not: what comes for it is parked.
    Disabled,
}

/// A type of events. What is sent of it must fit its schema; events of types that are not listed are taken as they are.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EventType {
    /// The type: `contact.created`.
    #[schemars(length(min = 1, max = 128))]
    pub name: String,
    /// The schema's version, for people.
    #[serde(default = "first_version")]
    #[schemars(range(min = 1))]
    pub version: u32,
    /// What it means.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// JSON Schema (draft 2020-12) of an event's `data`.
    pub schema: Value,
}

/// What a tenant may send: in each process so often, and in all so much that waits.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct EventCaps {
    /// How many events.
    pub rate: Rate,
    /// How many deliveries may wait.
    #[schemars(range(min = 1, max = 100_000_000))]
    pub backlog: u64,
    /// How large one may be: 1KiB to 1MiB.
    pub size: Size,
}

impl EventCaps {
    /// Whether nothing else was said.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl Default for EventCaps {
    fn default() -> Self {
        let rate = "2000/s".parse().expect("this is a rate");
        Self { rate, backlog: 1_000_000, size: Size(256 << 10) }
    }
}

const fn seconds(n: u64) -> Duration {
    Duration(std::time::Duration::from_secs(n))
}

fn five_minutes() -> Duration {
    seconds(300)
}

fn thirty_seconds() -> Duration {
    seconds(30)
}

fn fifteen_seconds() -> Duration {
    seconds(15)
}

fn five_days() -> Duration {
    seconds(5 * 86_400)
}

fn one_fifth() -> f64 {
    0.2
}

fn eight() -> u32 {
    8
}

fn first_version() -> u32 {
    1
}
