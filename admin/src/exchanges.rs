//! `/v1/exchanges`: decision records, looked up and erased.
//!
//! Invariant: a token that is bound to a tenant finds that tenant's only, without what is for operators (the cause, the
//! node, what packs failed of). Erasing does not ask whether the tenant is still there: a tenant goes first, then its records.

use crate::Shared;
use crate::acting::Acting;
use crate::allowed::{Administrator, Reader};
use crate::answer::Answer;
use crate::body::{Path, Query};
use crate::page::{Listed, Page, PageQuery};
use crate::problem::Refused;
use crate::search::{id, of_tenant};
use axum::Router;
use axum::extract::State;
use axum::routing;
use jiff::Timestamp;
use model::audit::Entry;
use model::id::TenantId;
use model::record::Record;
use model::{ErrorCode, Reject};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::sync::Arc;
use store::control::{Effect, Write};
use store::records::RecordQuery;

/// The longest request id that is looked up, in bytes: the gateway takes none that is longer.
pub(crate) const EXCHANGE_BYTES_MAX: usize = 128;

/// Which records are wanted.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ExchangesQuery {
    tenant: Option<String>,
    consumer: Option<String>,
    route: Option<String>,
    error: Option<String>,
    since: Option<Timestamp>,
    until: Option<Timestamp>,
    limit: Option<u32>,
    cursor: Option<String>,
}

/// `?tenant=`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct EraseQuery {
    tenant: String,
}

/// What was erased.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Erased {
    /// How many records.
    erased: u64,
}

/// The routes.
pub(crate) fn routes() -> Router<Arc<Shared>> {
    Router::new()
        .route("/v1/exchanges", routing::get(list).delete(erase))
        .route("/v1/exchanges/{exchange}", routing::get(get))
}

/// `GET /v1/exchanges`
async fn list(
    State(shared): State<Arc<Shared>>,
    Reader(acting): Reader,
    Query(query): Query<ExchangesQuery>,
) -> Result<Answer, Refused> {
    let page = Page::of("exchanges", query.limit, query.cursor.as_deref())?;
    let asked = RecordQuery {
        consumer: id("consumer", query.consumer)?,
        route: id("route", query.route)?,
        error: query.error.map(code).transpose()?,
        since: query.since,
        until: query.until,
        ..RecordQuery::default()
    };
    let tenant = id("tenant", query.tenant)?;
    Ok(Answer::ok(&found(&shared, &acting, page, tenant, asked).await?))
}

/// `GET /v1/exchanges/{exchange}`: all that share the request id or trace id.
async fn get(
    State(shared): State<Arc<Shared>>,
    Reader(acting): Reader,
    Path(exchange): Path<String>,
    Query(query): Query<PageQuery>,
) -> Result<Answer, Refused> {
    let page = Page::of("exchange", query.limit, query.cursor.as_deref())?;
    if exchange.len() > EXCHANGE_BYTES_MAX {
        return Err(ErrorCode::NotFound.into());
    }
    let first = page.after.is_none();
    let asked = RecordQuery { exchange: Some(exchange), ..RecordQuery::default() };
    let listed = found(&shared, &acting, page, None, asked).await?;
    if first && listed.items.is_empty() {
        let message = "No record of this request id or trace id is kept.";
        return Err(Reject::new(ErrorCode::NotFound).message(message).into());
    }
    Ok(Answer::ok(&listed))
}

/// `DELETE /v1/exchanges?tenant=`
async fn erase(
    State(shared): State<Arc<Shared>>,
    Administrator(acting): Administrator,
    Query(query): Query<EraseQuery>,
) -> Result<Answer, Refused> {
    let tenant: TenantId = id("tenant", Some(query.tenant))?.ok_or(ErrorCode::ValidationFailed)?;
    acting.sees(tenant.as_str())?;
    let now = shared.clock.now();
    let facts = json!({ "erased_until": now });
    let audit = Entry { tenant: Some(tenant.clone()), ..acting.entry(&shared, facts) };
    let effect = Effect::EraseRecords(tenant, now);
    let written = shared.store.write(Write { effect, audit, answer: None }).await?;
    Ok(Answer::ok(&Erased { erased: written.rows }))
}

async fn found(
    shared: &Shared,
    acting: &Acting,
    page: Page,
    tenant: Option<TenantId>,
    asked: RecordQuery,
) -> Result<Listed<Record>, Refused> {
    let (before, limit) = (page.after.clone(), page.wanted());
    let records = match of_tenant(acting, tenant) {
        Some(tenant) => {
            shared.store.records(&RecordQuery { tenant, before, limit, ..asked }).await?
        }
        None => Vec::new(),
    };
    let records = match acting.tenant() {
        Some(_) => records.into_iter().map(Record::redacted).collect(),
        None => records,
    };
    Ok(page.listed(records, |record: &Record| record.id.clone()))
}

fn code(name: String) -> Result<String, Refused> {
    match ErrorCode::parse(&name) {
        Some(_) => Ok(name),
        None => Err(Refused::malformed("`error` is no error code.")),
    }
}
