//! The document: configuration as an operator writes it (`format: 1`).
//!
//! Every struct refuses unknown fields. Reading one is [`read`](crate::config::read), which reports all errors at once;
//! what it returns is a checked [`Config`](crate::config::Config).

mod idempotency;
mod limits;
mod packs;
mod webhooks;

pub use idempotency::*;
pub use limits::*;
pub use packs::*;
pub use webhooks::*;

use crate::id::{
    ConsumerId, CredentialId, IssuerId, PlanId, RouteId, ServiceId, TenantId, UpstreamId,
    VersionName,
};
use crate::record::RecordMode;
use crate::units::{Duration, Size};
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The whole of the configuration that a revision publishes.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Document {
    /// The document's format: 1.
    #[schemars(range(min = 1, max = 1))]
    pub format: u32,
    /// Who signs the JWTs that are accepted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub issuers: Vec<Issuer>,
    /// Services behind the gateway.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub upstreams: Vec<Upstream>,
    /// APIs and the lives of their versions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub services: Vec<Service>,
    /// Published paths and the rules that guard them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<Route>,
    /// Sets of limits.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub plans: Vec<Plan>,
    /// Tenants, their consumers and credentials.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tenants: Vec<Tenant>,
    /// Who may ship packs, and for which tenants.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pack_keys: Vec<PackKey>,
    /// Policy packs that attachments may name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub packs: Vec<Pack>,
    /// Where packs decide.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attachments: Vec<Attachment>,
    /// Where events come from.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<Source>,
    /// Where events go.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub endpoints: Vec<Endpoint>,
    /// What events must be like.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub event_types: Vec<EventType>,
}

/// An issuer of JWTs. Keys come from `jwks` (RS256, ES256, EdDSA) or `secret` (HS256), never from the token.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Issuer {
    /// The issuer's id in this document.
    pub id: IssuerId,
    /// The exact value of `iss`.
    #[schemars(length(min = 1))]
    pub issuer: String,
    /// One of these must be in `aud`.
    #[schemars(length(min = 1))]
    pub audiences: Vec<String>,
    /// The algorithms that this issuer uses.
    #[schemars(length(min = 1))]
    pub algorithms: Vec<Algorithm>,
    /// Where the public keys are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jwks: Option<Jwks>,
    /// The shared secret of HS256.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<Secret>,
    /// The tenant that every token of this issuer belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<TenantId>,
    /// The claim that names the tenant, when the issuer serves several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant_claim: Option<String>,
    /// The claim that names the consumer.
    #[serde(default = "client_id")]
    pub consumer_claim: String,
    /// The claim that lists scopes: a string with spaces between them, or an array.
    #[serde(default = "scope")]
    pub scopes_claim: String,
    /// How far clocks may differ; at most 60s.
    #[serde(default = "thirty_seconds")]
    pub leeway: Duration,
    /// The exact `typ` of the token's header (without regard to case), when one is required (RFC 9068 §4: `at+jwt`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub typ: Option<String>,
}

/// A signature algorithm of JWTs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Algorithm {
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    RS256,
    /// ECDSA with P-256 and SHA-256.
    ES256,
    /// Ed25519.
    EdDSA,
    /// HMAC with SHA-256.
    HS256,
}

/// Where a key set is: exactly one of the two.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Jwks {
    /// An `http` or `https` address, fetched in the background.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uri: Option<String>,
    /// A file, read when a revision is compiled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
}

/// The fields that hold a [`Secret`], wherever they stand; not within what the document only carries (`settings` of packs,
/// `schema` of event types).
pub const SECRET_FIELDS: &[&str] = &["secret", "previous_secret", "signing_key", "client_secret"];

/// A secret by reference: exactly one of the three. A plain value is an error.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Secret {
    /// An environment variable whose name starts with `TOLLGATE_SECRET_`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub env: Option<String>,
    /// A file on the node that uses it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// The secret itself, sealed under a master key: what the admin API makes of a value that it is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "sealed"))]
    pub sealed: Option<String>,
}

/// A service behind the gateway.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Upstream {
    /// The upstream's id.
    pub id: UpstreamId,
    /// Its peers.
    #[schemars(length(min = 1))]
    pub targets: Vec<Target>,
    /// How long each part of an exchange may take.
    #[serde(default)]
    pub timeouts: Timeouts,
    /// What it is sent at most, by all tenants together.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 4))]
    pub limits: Vec<UpstreamLimit>,
    /// What follows from its 429 and 503 with `Retry-After`.
    #[serde(default, skip_serializing_if = "Backoff::is_default")]
    pub backoff: Backoff,
}

/// One peer of an upstream.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Target {
    /// `host:port`.
    #[schemars(extend("format" = "address"))]
    pub address: String,
    /// Its share of the requests.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 1000))]
    pub weight: u32,
}

/// How long each part of an exchange with an upstream may take.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Timeouts {
    /// Until the connection stands.
    pub connect: Duration,
    /// Between two reads.
    pub read: Duration,
    /// From the first byte sent to the last byte received.
    pub total: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        let seconds = |n| Duration(std::time::Duration::from_secs(n));
        Self { connect: seconds(1), read: seconds(10), total: seconds(30) }
    }
}

/// An API with versions.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Service {
    /// The service's id.
    pub id: ServiceId,
    /// How a request names its version, in order of precedence.
    #[schemars(length(min = 1))]
    pub select: Vec<Select>,
    /// Its versions.
    #[schemars(length(min = 1))]
    pub versions: Vec<Version>,
}

/// A way to name a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Select {
    /// The first segment of the path.
    Path,
    /// The `API-Version` header.
    Header,
    /// `Accept: application/vnd.crm.<version>+json`.
    MediaType,
    /// The tenant's pin.
    TenantPin,
    /// The version marked `default`.
    Default,
}

/// One version of a service.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Version {
    /// Its name.
    pub name: VersionName,
    /// Where its requests go.
    pub upstream: UpstreamId,
    /// What the upstream expects before the route's path; `/{name}` when absent, `""` for nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upstream_prefix: Option<String>,
    /// Where it stands in its life.
    pub state: VersionState,
    /// Whether requests that name no version get this one.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub default: bool,
    /// Since when, or from when, it is deprecated (RFC 9745).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deprecated_at: Option<Timestamp>,
    /// From when it is withdrawn (RFC 8594).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sunset_at: Option<Timestamp>,
    /// The version to move to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub successor: Option<VersionName>,
    /// Where the deprecation is explained.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub docs: Option<String>,
    /// Tenants that may use it for longer.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub extensions: Vec<Extension>,
}

/// Where a version stands in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum VersionState {
    /// In use.
    Active,
    /// In use, to be left.
    Deprecated,
    /// Withdrawn, whatever `sunset_at` says.
    Sunset,
}

impl VersionState {
    /// The name as documents write it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Deprecated => "deprecated",
            Self::Sunset => "sunset",
        }
    }
}

/// A tenant's longer time with a version.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Extension {
    /// Whose.
    pub tenant: TenantId,
    /// Until when.
    pub until: Timestamp,
}

/// A published path and the rules that guard it.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// The route's id.
    pub id: RouteId,
    /// The service it belongs to.
    pub service: ServiceId,
    /// Which requests it takes.
    pub r#match: Match,
    /// Which credentials it takes.
    pub authenticate: Authenticate,
    /// What a credential must be allowed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scopes: Vec<String>,
    /// Whether repeats are recognised.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotency: Option<Idempotency>,
    /// How large a request may be.
    #[serde(default)]
    pub body: Body,
    /// What a request costs, in units of the plan's limits.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub cost: u32,
    /// The header of the upstream's answer that says what the request cost in all, in units. What is more than `cost` is
    /// charged then, whether it fits or not; what is less is given back to quotas.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "header"))]
    pub cost_from_response_header: Option<String>,
    /// What is charged to quotas that would not be.
    #[serde(default, skip_serializing_if = "Charge::is_default")]
    pub charge: Charge,
    /// Whether the upstream gets `Authorization` and `X-Api-Key` as they came.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub forward_credentials: bool,
    /// Which of its exchanges leave a decision record: `required`, `sampled(p)` or `off`.
    #[serde(default, skip_serializing_if = "RecordMode::is_off")]
    pub record: RecordMode,
}

/// Which requests a route takes.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Match {
    /// `/contacts`, `/contacts/{id}`, `/files/{*rest}`; without the version.
    #[schemars(extend("format" = "path"))]
    pub path: String,
    /// The methods.
    #[schemars(length(min = 1))]
    pub methods: Vec<Method>,
}

/// A method that routes may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum Method {
    /// RFC 9110 §9.3.1.
    Get,
    /// RFC 9110 §9.3.2; a route that takes GET takes HEAD, too.
    Head,
    /// RFC 9110 §9.3.3.
    Post,
    /// RFC 9110 §9.3.4.
    Put,
    /// RFC 5789.
    Patch,
    /// RFC 9110 §9.3.5.
    Delete,
    /// RFC 9110 §9.3.7.
    Options,
}

impl From<Method> for http::Method {
    fn from(method: Method) -> Self {
        match method {
            Method::Get => Self::GET,
            Method::Head => Self::HEAD,
            Method::Post => Self::POST,
            Method::Put => Self::PUT,
            Method::Patch => Self::PATCH,
            Method::Delete => Self::DELETE,
            Method::Options => Self::OPTIONS,
        }
    }
}

/// Which credentials a route takes.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Authenticate {
    /// Any one of these suffices.
    #[schemars(length(min = 1))]
    pub any_of: Vec<CredentialKind>,
}

/// A kind of credential.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CredentialKind {
    /// `Authorization: Bearer`.
    Jwt,
    /// `X-Api-Key`.
    ApiKey,
}

/// How large a request may be.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Body {
    /// The largest body, at most 64MiB.
    pub limit: Size,
}

impl Default for Body {
    fn default() -> Self {
        Self { limit: Size(1 << 20) }
    }
}

/// What packs may use for one tenant, on one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PackCaps {
    /// CPU time in each second, all its packs together: 1ms to 60s; 100ms when absent.
    pub cpu_per_second: Duration,
    /// Fuel of one call, whatever the attachment says; 50,000,000 when absent.
    #[schemars(range(min = 1_000, max = 100_000_000))]
    pub fuel: u64,
    /// Wall time of one call, whatever the attachment says: 100ms to 10s; 1s when absent.
    pub deadline: Duration,
    /// Memory of one call, whatever the attachment says: 64KiB to 64MiB; 64MiB when absent.
    pub memory: Size,
    /// What one call may hand to the host, whatever the attachment says: 1KiB to 16MiB; 2MiB when absent.
    pub output: Size,
    /// Calls of the host in one call, whatever the attachment says; 10,000 when absent.
    #[schemars(range(min = 1, max = 100_000))]
    pub host_calls: u32,
    /// Decisions at one time, all its packs together; 128 when absent.
    #[schemars(range(min = 1, max = 1_024))]
    pub instances: u32,
}

impl Default for PackCaps {
    fn default() -> Self {
        Self {
            cpu_per_second: Duration(std::time::Duration::from_millis(100)),
            fuel: 50_000_000,
            deadline: Duration(std::time::Duration::from_secs(1)),
            memory: Size(64 << 20),
            output: Size(2 << 20),
            host_calls: 10_000,
            instances: 128,
        }
    }
}

impl PackCaps {
    /// Whether all of it is as if nothing were said.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// A tenant.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Tenant {
    /// The tenant's id.
    pub id: TenantId,
    /// Its plan.
    pub plan: PlanId,
    /// Whether it is served.
    pub state: TenantState,
    /// The time zone of its calendar quotas (IANA name).
    #[serde(default = "utc")]
    #[schemars(extend("format" = "timezone"))]
    pub timezone: String,
    /// The day of the month on which its billing months begin; in shorter months the last one.
    #[serde(default = "first", skip_serializing_if = "is_first")]
    #[schemars(range(min = 1, max = 31))]
    pub billing_day: i8,
    /// The version of each service that it gets when a request names none.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub pins: BTreeMap<String, VersionName>,
    /// Its applications.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub consumers: Vec<Consumer>,
}

/// Whether a tenant is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TenantState {
    /// Served.
    Active,
    /// Every request is refused.
    Suspended,
}

/// An application that acts for a tenant.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Consumer {
    /// The consumer's id, unique within the tenant.
    pub id: ConsumerId,
    /// The most that any of its credentials may do.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scopes: Vec<String>,
    /// What it proves itself with, beside the JWTs of an issuer.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub credentials: Vec<Credential>,
}

/// A credential that the gateway itself keeps (hashed).
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Credential {
    /// The credential's id, unique within the consumer.
    pub id: CredentialId,
    /// An API key.
    pub api_key: ApiKey,
}

/// An API key: found by its prefix, proved by its hash.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ApiKey {
    /// `sha256:` and the hex SHA-256 of the whole key.
    #[schemars(extend("format" = "sha256"))]
    pub hash: String,
    /// The key's first characters, unique among all keys: 8 to 32 of letters, digits and `_`.
    #[schemars(extend("format" = "key-prefix"))]
    pub prefix: String,
    /// When it stops being accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Timestamp>,
}

fn first() -> i8 {
    1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes it so")]
fn is_first(day: &i8) -> bool {
    *day == first()
}

fn one() -> u32 {
    1
}

fn client_id() -> String {
    "client_id".to_owned()
}

fn scope() -> String {
    "scope".to_owned()
}

fn utc() -> String {
    "UTC".to_owned()
}

fn thirty_seconds() -> Duration {
    Duration(std::time::Duration::from_secs(30))
}
