//! `/v1/tokens`: who may use this API.
//!
//! Invariant: a token is told once, in the answer that makes it. A token that is bound to a tenant makes, sees and revokes
//! those of that tenant only.

use crate::Shared;
use crate::acting::Acting;
use crate::allowed::Administrator;
use crate::answer::Answer;
use crate::body::{NoQuery, Path, Query};
use crate::once::{Once, Posted};
use crate::page::{Page, PageQuery};
use crate::problem::Refused;
use crate::token::{hash, new_token};
use axum::Router;
use axum::extract::State;
use axum::response::Response;
use axum::routing;
use jiff::Timestamp;
use model::ErrorCode;
use model::audit::Entry;
use model::config::ConfigError;
use model::id::{TenantId, TokenId};
use model::role::{Actor, Role};
use model::token::Token;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::sync::Arc;
use store::control::{Effect, Write};

/// A token to be made.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewToken {
    /// What people call it.
    #[schemars(extend("format" = "label"))]
    name: String,
    /// What it may do.
    role: Role,
    /// The one tenant that it sees and changes; none for all.
    #[serde(default)]
    tenant: Option<TenantId>,
    /// From when it is refused; none for never.
    #[serde(default)]
    expires_at: Option<Timestamp>,
}

/// A token that was made, with itself.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct MadeToken {
    #[serde(flatten)]
    of: Token,
    /// The token. It is not told again.
    token: String,
}

/// The routes.
pub(crate) fn routes() -> Router<Arc<Shared>> {
    Router::new()
        .route("/v1/tokens", routing::get(list).post(create))
        .route("/v1/tokens/{id}", routing::get(get).delete(revoke))
}

/// `GET /v1/tokens`
async fn list(
    State(shared): State<Arc<Shared>>,
    Administrator(acting): Administrator,
    Query(query): Query<PageQuery>,
) -> Result<Answer, Refused> {
    let page = Page::of("tokens", query.limit, query.cursor.as_deref())?;
    let after = page.after.as_deref().map(TokenId::from);
    let found = shared.store.tokens(acting.tenant(), after.as_ref(), page.wanted()).await?;
    Ok(Answer::ok(&page.listed(found, |token| token.id.to_string())))
}

/// `GET /v1/tokens/{id}`
async fn get(
    State(shared): State<Arc<Shared>>,
    Administrator(acting): Administrator,
    Path(id): Path<String>,
    NoQuery: NoQuery,
) -> Result<Answer, Refused> {
    Ok(Answer::ok(&seen(&shared, &acting, &id).await?))
}

/// `POST /v1/tokens`
async fn create(
    State(shared): State<Arc<Shared>>,
    Administrator(acting): Administrator,
    NoQuery: NoQuery,
    Posted { body, once }: Posted<NewToken>,
) -> Result<Response, Refused> {
    once.done(&shared, make(&shared, &acting, &once, body)).await
}

async fn make(
    shared: &Shared,
    acting: &Acting,
    once: &Once,
    asked: NewToken,
) -> Result<Answer, Refused> {
    let NewToken { name, role, tenant, expires_at } = asked;
    if acting.tenant().is_some() && acting.tenant() != tenant.as_ref() {
        let message = "A token that is bound to a tenant makes tokens of that tenant only.";
        return Err(Refused::forbidden(message));
    }
    check(shared, &name, tenant.as_ref(), expires_at).await?;
    let id = TokenId::from(shared.fresh_id().as_str());
    let created_at = shared.clock.now();
    let made = Token { id, name, role, tenant, created_at, expires_at, revoked_at: None };
    let token = new_token();
    let audit = entry(shared, acting, &made);
    let location = format!("/v1/tokens/{}", made.id);
    let answer = Answer::created(location, &MadeToken { of: made.clone(), token: token.clone() });
    let effect = Effect::CreateToken(made, hash(&token));
    shared.store.write(Write { effect, audit, answer: once.keep(&answer)? }).await?;
    Ok(answer)
}

/// `DELETE /v1/tokens/{id}`
async fn revoke(
    State(shared): State<Arc<Shared>>,
    Administrator(acting): Administrator,
    Path(id): Path<String>,
    NoQuery: NoQuery,
) -> Result<Answer, Refused> {
    let token = seen(&shared, &acting, &id).await?;
    let now = shared.clock.now();
    let audit = entry(&shared, &acting, &token);
    let effect = Effect::RevokeToken(token.id.clone(), now);
    shared.store.write(Write { effect, audit, answer: None }).await?;
    Ok(Answer::ok(&Token { revoked_at: Some(now), ..token }))
}

/// The token of this id, as far as who asks may see it.
async fn seen(shared: &Shared, acting: &Acting, id: &str) -> Result<Token, Refused> {
    let token = shared.store.token(&TokenId::from(id)).await?;
    let visible =
        |token: &Token| acting.tenant().is_none_or(|own| token.tenant.as_ref() == Some(own));
    let token = token.ok_or(ErrorCode::NotFound)?;
    if visible(&token) { Ok(token) } else { Err(Refused::hidden()) }
}

/// Whether the name is free to be taken, the tenant is there and the end is to come; all errors at once.
async fn check(
    shared: &Shared,
    name: &str,
    tenant: Option<&TenantId>,
    expires_at: Option<Timestamp>,
) -> Result<(), Refused> {
    let mut errors = Vec::new();
    if expires_at.is_some_and(|end| end <= shared.clock.now()) {
        errors.push(ConfigError::new("/expires_at", "is in the past"));
    }
    if Actor::is_reserved(name) {
        let message = "is what history and audit call who has no token: choose another name";
        errors.push(ConfigError::new("/name", message));
    }
    if let Some(tenant) = tenant
        && !has_tenant(&shared.newest().await?.document, tenant)
    {
        errors.push(ConfigError::new("/tenant", format!("there is no tenant `{tenant}`")));
    }
    if errors.is_empty() { Ok(()) } else { Err(Refused::unfit(&errors)) }
}

fn has_tenant(document: &Value, tenant: &TenantId) -> bool {
    let tenants = document.get("tenants").and_then(Value::as_array).into_iter().flatten();
    let ids = tenants.filter_map(|entry| entry.get("id")?.as_str());
    ids.into_iter().any(|id| id == tenant.as_str())
}

fn entry(shared: &Shared, acting: &Acting, token: &Token) -> Entry {
    let Token { id, name, role, tenant, expires_at, .. } = token;
    let facts =
        json!({ "id": id, "name": name, "role": role, "tenant": tenant, "expires_at": expires_at });
    Entry {
        resource: format!("/v1/tokens/{id}"),
        tenant: tenant.clone(),
        ..acting.entry(shared, facts)
    }
}
