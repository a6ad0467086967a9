//! `/v1/revocations`: credentials and tokens that are refused at once, everywhere, whatever the document says, until that is
//! lifted.
//!
//! Invariant: what is revoked is there: a slip of the pen in an id would leave a stolen credential at work.

use crate::Shared;
use crate::acting::Acting;
use crate::allowed::{Operator, Reader};
use crate::answer::Answer;
use crate::body::{NoQuery, Path, Query};
use crate::newest::Newest;
use crate::once::{Once, Posted};
use crate::page::{Page, PageQuery};
use crate::problem::Refused;
use axum::Router;
use axum::extract::State;
use axum::response::Response;
use axum::routing;
use jiff::Timestamp;
use model::audit::Entry;
use model::config::ConfigError;
use model::id::{ConsumerId, CredentialId, IssuerId, TenantId};
use model::revocation::{Revocation, Revoked};
use model::{ErrorCode, Reject};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::sync::Arc;
use store::control::{Effect, Write, WriteError};

/// A revocation, made or to be made: what is refused, and until when that must be remembered; for good when `until` is absent.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum NewRevocation {
    /// One token of an issuer, by its `jti`.
    Jti {
        /// The issuer's id in the document.
        issuer: IssuerId,
        /// The token's `jti`.
        #[schemars(length(min = 1, max = 512))]
        jti: String,
        /// Until when: the token's `exp`, say.
        #[serde(default)]
        until: Option<Timestamp>,
    },
    /// Every token of a subject that was issued before.
    Subject {
        /// The issuer's id in the document.
        issuer: IssuerId,
        /// The token's `sub`.
        #[schemars(length(min = 1, max = 512))]
        subject: String,
        /// Until when: when the last token that was issued before has expired.
        #[serde(default)]
        until: Option<Timestamp>,
    },
    /// One credential that the gateway keeps.
    Credential {
        /// The tenant.
        tenant: TenantId,
        /// The consumer.
        consumer: ConsumerId,
        /// The credential's id.
        credential: CredentialId,
        /// Until when.
        #[serde(default)]
        until: Option<Timestamp>,
    },
    /// Every token of an issuer that was issued before.
    Issuer {
        /// The issuer's id in the document.
        issuer: IssuerId,
        /// Until when: when the last token that was issued before has expired.
        #[serde(default)]
        until: Option<Timestamp>,
    },
}

impl NewRevocation {
    fn parts(self) -> (Revoked, Option<Timestamp>) {
        match self {
            Self::Jti { issuer, jti, until } => (Revoked::Jti { issuer, jti }, until),
            Self::Subject { issuer, subject, until } => {
                (Revoked::Subject { issuer, subject }, until)
            }
            Self::Credential { tenant, consumer, credential, until } => {
                (Revoked::Credential { tenant, consumer, credential }, until)
            }
            Self::Issuer { issuer, until } => (Revoked::Issuer { issuer }, until),
        }
    }
}

/// The routes.
pub(crate) fn routes() -> Router<Arc<Shared>> {
    Router::new()
        .route("/v1/revocations", routing::get(list).post(create))
        .route("/v1/revocations/{id}", routing::get(get).delete(lift))
}

/// `GET /v1/revocations`: those in force, newest first.
async fn list(
    State(shared): State<Arc<Shared>>,
    Reader(acting): Reader,
    Query(query): Query<PageQuery>,
) -> Result<Answer, Refused> {
    let page = Page::of("revocations", query.limit, query.cursor.as_deref())?;
    let mut found = shared.store.revocations(shared.clock.now()).await?;
    if acting.tenant().is_some() {
        let newest = shared.newest().await?;
        found.retain(|revocation| concerns(&acting, &newest, &revocation.what));
    }
    let older = |revocation: &Revocation| {
        page.after.as_deref().is_none_or(|after| revocation.id.as_str() < after)
    };
    found.retain(older);
    found.sort_unstable_by(|a, b| b.id.cmp(&a.id));
    found.truncate(usize::try_from(page.wanted()).unwrap_or(usize::MAX));
    Ok(Answer::ok(&page.listed(found, |revocation: &Revocation| revocation.id.clone())))
}

/// `GET /v1/revocations/{id}`
async fn get(
    State(shared): State<Arc<Shared>>,
    Reader(acting): Reader,
    Path(id): Path<String>,
    NoQuery: NoQuery,
) -> Result<Answer, Refused> {
    let newest = shared.newest().await?;
    Ok(Answer::ok(&seen(&shared, &acting, &newest, &id).await?))
}

/// `DELETE /v1/revocations/{id}`: what it refused is accepted again, if nothing else is against it.
async fn lift(
    State(shared): State<Arc<Shared>>,
    Operator(acting): Operator,
    Path(id): Path<String>,
    NoQuery: NoQuery,
) -> Result<Answer, Refused> {
    let newest = shared.newest().await?;
    let revocation = seen(&shared, &acting, &newest, &id).await?;
    let audit = audited(&shared, &acting, &newest, &revocation);
    let effect = Effect::Lift(id);
    shared.store.write(Write { effect, audit, answer: None }).await?;
    Ok(Answer::ok(&revocation))
}

/// The revocation of this id, if it is in force and who asks may see it.
async fn seen(
    shared: &Shared,
    acting: &Acting,
    newest: &Newest,
    id: &str,
) -> Result<Revocation, Refused> {
    let found = shared.store.revocation(id, shared.clock.now()).await?;
    let found = found.ok_or(ErrorCode::NotFound)?;
    if concerns(acting, newest, &found.what) { Ok(found) } else { Err(Refused::hidden()) }
}

/// The audit's entry of what is made of a revocation.
fn audited(
    shared: &Shared,
    acting: &Acting,
    newest: &Newest,
    Revocation { what, until, .. }: &Revocation,
) -> Entry {
    let tenant = tenant(newest, what).or_else(|| acting.tenant().cloned());
    Entry { tenant, ..acting.entry(shared, json!({ "what": what, "until": until })) }
}

/// `POST /v1/revocations`
async fn create(
    State(shared): State<Arc<Shared>>,
    Operator(acting): Operator,
    NoQuery: NoQuery,
    Posted { body, once }: Posted<NewRevocation>,
) -> Result<Response, Refused> {
    once.done(&shared, revoke(&shared, &acting, &once, body)).await
}

async fn revoke(
    shared: &Shared,
    acting: &Acting,
    once: &Once,
    asked: NewRevocation,
) -> Result<Answer, Refused> {
    let (what, until) = asked.parts();
    let (newest, at) = (shared.newest().await?, shared.clock.now());
    let mut errors = Vec::new();
    if until.is_some_and(|until| until <= at) {
        errors.push(ConfigError::new("/until", "is in the past"));
    }
    missing(acting, &newest, &what, &mut errors);
    if !errors.is_empty() {
        let refused = Refused::unfit(&errors);
        let is_others = tenant(&newest, &what).is_some() && !concerns(acting, &newest, &what);
        return Err(if is_others { refused.hiding() } else { refused });
    }
    let revocation = Revocation { id: shared.fresh_id(), at, until, what };
    let audit = audited(shared, acting, &newest, &revocation);
    let answer = Answer::created(format!("/v1/revocations/{}", revocation.id), &revocation);
    let effect = Effect::Revoke(revocation);
    let write = Write { effect, audit, answer: once.keep(&answer)? };
    match shared.store.write(write).await {
        Ok(_) => Ok(answer),
        Err(WriteError::TooMany(_)) => Err(Reject::new(ErrorCode::Conflict)
            .message("There are too many revocations in force: revoke a subject or an issuer as a whole.")
            .into()),
        Err(error) => Err(error.into()),
    }
}

/// What of it is not there, as far as who asks sees.
fn missing(acting: &Acting, newest: &Newest, what: &Revoked, errors: &mut Vec<ConfigError>) {
    let mut none = |field: &str, id: &str| {
        let message = format!("there is no {field} `{id}`");
        errors.push(ConfigError::new(format!("/{field}"), message));
    };
    match what {
        Revoked::Jti { issuer, .. }
        | Revoked::Subject { issuer, .. }
        | Revoked::Issuer { issuer } => {
            let known = entry(&newest.document, "issuers", issuer.as_str());
            if known.is_none() || !concerns(acting, newest, what) {
                none("issuer", issuer.as_str());
            }
        }
        Revoked::Credential { tenant, consumer, credential } => {
            let known = entry(&newest.document, "tenants", tenant.as_str());
            let known = known.filter(|_| concerns(acting, newest, what));
            let Some(known) = known else { return none("tenant", tenant.as_str()) };
            let Some(known) = entry(known, "consumers", consumer.as_str()) else {
                return none("consumer", consumer.as_str());
            };
            if entry(known, "credentials", credential.as_str()).is_none() {
                none("credential", credential.as_str());
            }
        }
    }
}

/// Whether it is who asks' to see and to revoke.
fn concerns(acting: &Acting, newest: &Newest, what: &Revoked) -> bool {
    acting.tenant().is_none_or(|own| tenant(newest, what).as_ref() == Some(own))
}

/// The tenant whose credential or issuer it is.
fn tenant(newest: &Newest, what: &Revoked) -> Option<TenantId> {
    match what {
        Revoked::Credential { tenant, .. } => Some(tenant.clone()),
        Revoked::Jti { issuer, .. }
        | Revoked::Subject { issuer, .. }
        | Revoked::Issuer { issuer } => {
            let known = entry(&newest.document, "issuers", issuer.as_str())?;
            Some(TenantId::from(known.get("tenant")?.as_str()?))
        }
    }
}

/// The entry of a list that has this id.
fn entry<'a>(parent: &'a Value, list: &str, id: &str) -> Option<&'a Value> {
    let entries = parent.get(list)?.as_array()?;
    entries.iter().find(|entry| entry.get("id").and_then(Value::as_str) == Some(id))
}
