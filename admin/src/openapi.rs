//! `/openapi.json`: the API described by itself (OpenAPI 3.1).
//!
//! Invariant: what stands here is what handlers do, no more and no less: every route, parameter, body, status and header. A
//! test holds the paths against the router; an API tester tries the rest. The schemas are those of the types that are read
//! and written.

mod answer;
mod control;
mod credentials;
mod events;
mod example;
mod idempotency;
mod operation;
mod packs;
mod parameter;
mod refusal;
mod resources;
mod revisions;
mod schema;
mod shown;
mod traffic;
mod webhooks;

pub(crate) use shown::{CredentialShown, Located, Shown, TrialShown};

use answer::HEADERS;
use axum::body::Bytes;
use axum::response::{IntoResponse, Response};
use http::header;
use operation::{Operation, SECURITY};
use refusal::REFUSALS;
use serde_json::Value;
use std::sync::LazyLock;
use utoipa::openapi::path::PathItem;
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa::openapi::{
    ComponentsBuilder, InfoBuilder, LicenseBuilder, OpenApiBuilder, PathsBuilder, tag::TagBuilder,
};

/// What the API is, as its description begins.
const ABOUT: &str = "The control plane of Tollgate: the document and its revisions, tenants and their credentials, tokens, \
    revocations, policy packs, nodes, usage, idempotency keys, webhooks, the audit and decision records.\n\n\
    Changes of the document name what they replace (`If-Match`, or `If-None-Match: *` for what is new) and answer with the \
    revision that they made; 200 means in force on the node that answers, and within a second everywhere. `?dry_run=true` \
    says what a change would do. POSTs take an `Idempotency-Key`: a repeat gets the first answer again, for a day. Lists are \
    pages: `next_cursor` is the `cursor` of the next one.\n\n\
    A token has a role, and may be bound to one tenant, which is then all that it sees and changes. Every refusal is a \
    problem (RFC 9457) with a `code` that does not change.";

/// What operations are about, in order.
const TAGS: &[(&str, &str)] = &[
    ("document", "The whole document."),
    ("issuers", "Who signs the JWTs that are accepted."),
    ("upstreams", "Services behind the gateway."),
    ("services", "APIs and the lives of their versions."),
    ("routes", "Published paths and the rules that guard them."),
    ("plans", "Sets of limits."),
    ("tenants", "Tenants and their consumers."),
    ("credentials", "API keys of consumers, made and rotated here and shown once."),
    ("pack_keys", "Whose packs are taken, and for which tenants."),
    ("packs", "Policy packs that attachments may name: files, rollouts, data."),
    ("attachments", "Where packs decide."),
    ("revisions", "What was published, compared, brought back, released."),
    ("audit", "Who did what, when, from where."),
    ("tokens", "Who may use this API."),
    ("nodes", "The processes of this deployment."),
    ("revocations", "What is refused at once, everywhere."),
    ("usage", "What tenants have used of their limits."),
    (
        "idempotency",
        "What is kept of idempotency keys, and freeing those whose outcome nobody knows.",
    ),
    ("exchanges", "Decision records: which stage decided what."),
    ("sources", "Where events come from."),
    (
        "endpoints",
        "Where events go: how they stand, tried by a ping, enabled again, given another secret.",
    ),
    ("event_types", "What events must be like."),
    ("events", "Sent here, and delivered to endpoints."),
    ("deliveries", "What became of events at their endpoints; dead letters."),
    ("webhook_replays", "Jobs that send the events of a window again."),
    ("secrets", "Secrets at rest."),
    ("process", "For whoever watches the process. No token."),
];

/// The description.
pub fn openapi() -> Value {
    let operations = resources::operations()
        .into_iter()
        .chain(credentials::operations())
        .chain(packs::operations())
        .chain(revisions::operations())
        .chain(control::operations())
        .chain(idempotency::operations())
        .chain(events::operations())
        .chain(webhooks::operations())
        .chain(traffic::operations());
    let paths = operations.fold(PathsBuilder::new(), |paths, operation| {
        let Operation { method, path, .. } = &operation;
        let (method, path) = (method.clone(), path.clone());
        paths.path(path, PathItem::new(method, operation.build()))
    });
    let license = LicenseBuilder::new().name("Apache-2.0").identifier(Some("Apache-2.0")).build();
    let info = InfoBuilder::new()
        .title("Tollgate admin API")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some(ABOUT))
        .license(Some(license));
    let components = ComponentsBuilder::new().security_scheme(SECURITY, bearer());
    let components = REFUSALS.iter().fold(components, |components, status| {
        components.response(refusal::name(*status), refusal::response(*status))
    });
    let components = HEADERS.iter().fold(components, |components, (name, about, kind)| {
        components.header(*name, answer::header(about, kind))
    });
    let tags = TAGS
        .iter()
        .map(|(name, about)| TagBuilder::new().name(*name).description(Some(*about)).build());
    let described = OpenApiBuilder::new()
        .info(info.build())
        .paths(paths.build())
        .components(Some(components.build()))
        .tags(Some(tags))
        .build();
    let mut described = serde_json::to_value(described).unwrap_or_default();
    if let Some(components) = described.pointer_mut("/components").and_then(Value::as_object_mut) {
        components.insert("schemas".to_owned(), Value::Object(schema::components()));
    }
    described
}

/// Needs no token: it says what is asked for, and nothing of what is there.
pub(crate) async fn serve() -> Response {
    static TEXT: LazyLock<Bytes> = LazyLock::new(|| openapi().to_string().into());
    ([(header::CONTENT_TYPE, "application/json")], TEXT.clone()).into_response()
}

fn bearer() -> SecurityScheme {
    let mut bearer = Http::new(HttpAuthScheme::Bearer);
    bearer.description = Some("A token of this API: `tga_…`.".to_owned());
    SecurityScheme::Http(bearer)
}

#[cfg(test)]
mod tests;
