//! The gateway's own endpoints, under `/.tollgate/`. Not charged, never forwarded.

mod explain;
mod polls;

pub(crate) use explain::Lookups;
pub(crate) use polls::Polls;

use crate::gateway::Gateway;
use crate::pipeline::Held;
use crate::respond::Reply;
use crate::snapshot::Snapshot;
use http::{HeaderValue, Method, StatusCode, header};
use model::document::{CredentialKind, LimitScope};
use model::id::{EndpointId, LimitId};
use model::quota::{OnStoreError, Reading, fields};
use model::{ErrorCode, Head, Reject};
use polls::Question;
use serde::Serialize;
use serde_json::{Value, json};
use stages::authenticate::{Caller, Requirement};
use stages::throttle::Asked;

/// Where they stand.
pub(crate) const PREFIX: &str = "/.tollgate/";

/// Answers a request for one of them.
pub(crate) async fn answer(
    gateway: &Gateway,
    snapshot: &Snapshot,
    head: &Head,
    held: &mut Held,
) -> Result<Reply, Reject> {
    if head.method != Method::GET && head.method != Method::HEAD {
        let allow = HeaderValue::from_static("GET, HEAD");
        return Err(Reject::new(ErrorCode::MethodNotAllowed).header(header::ALLOW, allow));
    }
    let path = head.path.trim_start_matches(PREFIX);
    match path.split_once('/') {
        Some(("errors", code)) => describe(code),
        Some(("explain", id)) => explain(gateway, snapshot, head, held, id).await,
        Some(("endpoints", rest)) if let Some(id) = rest.strip_suffix("/events") => {
            events(gateway, snapshot, head, held, id).await
        }
        None if path == "errors" => {
            Ok(Reply::json(StatusCode::OK, &json!({ "items": ErrorCode::table() })))
        }
        None if path == "versions" => Ok(Reply::json(StatusCode::OK, &versions(snapshot))),
        None if path == "usage" => usage(gateway, snapshot, head, held).await,
        _ => Err(Reject::new(ErrorCode::RouteNotFound)),
    }
}

fn describe(code: &str) -> Result<Reply, Reject> {
    let code = ErrorCode::parse(code)
        .ok_or_else(|| Reject::new(ErrorCode::NotFound).message("There is no such error code."))?;
    Ok(Reply::json(StatusCode::OK, &code.describe()))
}

/// Every service's versions and where they stand in their lives.
fn versions(snapshot: &Snapshot) -> Value {
    let services = snapshot.services.iter().map(|service| {
        let versions: Vec<Value> = service
            .versions
            .iter()
            .map(|version| {
                let default =
                    service.default.as_ref().is_some_and(|default| default.name == version.name);
                json!({
                    "name": version.name,
                    "state": version.state,
                    "default": default,
                    "deprecated_at": version.deprecated_at,
                    "sunset_at": version.sunset_at,
                    "successor": version.successor,
                    "docs": version.docs,
                })
            })
            .collect();
        json!({ "service": service.id, "select": service.select, "versions": versions })
    });
    json!({ "items": services.collect::<Vec<_>>() })
}

/// What became of the caller's exchanges of this id.
async fn explain(
    gateway: &Gateway,
    snapshot: &Snapshot,
    head: &Head,
    held: &mut Held,
    id: &str,
) -> Result<Reply, Reject> {
    let caller = authenticate(gateway, snapshot, head, held).await?;
    let found = gateway.lookups.find(id, caller.identity()).await?;
    let mut reply = Reply::json(StatusCode::OK, &json!({ "items": found }));
    reply.headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(reply)
}

/// What would be sent to an endpoint of the caller's tenant.
async fn events(
    gateway: &Gateway,
    snapshot: &Snapshot,
    head: &Head,
    held: &mut Held,
    id: &str,
) -> Result<Reply, Reject> {
    let caller = authenticate(gateway, snapshot, head, held).await?;
    let endpoint = snapshot.endpoints.get(&EndpointId::from(id));
    let own = endpoint.filter(|endpoint| endpoint.tenant == caller.identity().tenant);
    let endpoint = own.ok_or_else(|| {
        Reject::new(ErrorCode::NotFound).message("There is no such endpoint of yours.")
    })?;
    let question = Question::of(head.query.as_deref())?;
    let told = gateway.polls.ask(endpoint, question, &gateway.clock).await?;
    let mut reply = Reply::json(StatusCode::OK, &told);
    reply.headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(reply)
}

/// The caller, by any kind of credential.
async fn authenticate(
    gateway: &Gateway,
    snapshot: &Snapshot,
    head: &Head,
    held: &mut Held,
) -> Result<Caller, Reject> {
    let anybody = Requirement {
        any_of: vec![CredentialKind::Jwt, CredentialKind::ApiKey],
        scopes: Vec::new(),
    };
    let now = gateway.clock.now();
    let caller = snapshot.directory.authenticate(&anybody, &gateway.memory, head, now).await;
    let caller = caller.map_err(|refused| refused.reject)?;
    held.caller = Some(caller.clone());
    Ok(caller)
}

/// The caller's limits as they stand.
async fn usage(
    gateway: &Gateway,
    snapshot: &Snapshot,
    head: &Head,
    held: &mut Held,
) -> Result<Reply, Reject> {
    let caller = authenticate(gateway, snapshot, head, held).await?;
    let now = gateway.clock.now();
    let asked =
        Asked { caller: &caller, route: None, client: head.client, cost: 1, costs_later: false };
    let demand = asked.demand(0, std::time::Duration::ZERO);
    let readings = gateway.quotas.peek(&demand, now.as_microsecond()).await.map_err(|error| {
        Reject::new(ErrorCode::DependencyUnavailable).retry_after(1).because(error)
    })?;
    let limits = &caller.tenant().limits;
    let told = readings.iter().filter(|reading| reading.mode.is_enforce());
    let told: Vec<Standing<'_>> =
        told.map(|reading| Standing::of(reading, limits.scope(&reading.id))).collect();
    Ok(Reply::json(StatusCode::OK, &json!({ "limits": told })))
}

/// A limit as its caller is told of it.
#[derive(Serialize)]
struct Standing<'a> {
    id: &'a LimitId,
    /// What it counts, where that is not every request.
    #[serde(skip_serializing_if = "Option::is_none")]
    scope: Option<&'a LimitScope>,
    used: u64,
    limit: u64,
    remaining: u64,
    /// Whole seconds until all of it is left again; 0 where nobody knows.
    reset: u64,
    /// How it is decided while the store of counters can't answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    degraded: Option<OnStoreError>,
}

impl<'a> Standing<'a> {
    fn of(reading: &'a Reading, scope: Option<&'a LimitScope>) -> Self {
        Self {
            id: &reading.id,
            scope,
            used: reading.used,
            limit: reading.limit,
            remaining: reading.remaining,
            reset: reading.reset_after.map_or(0, fields::whole_seconds),
            degraded: reading.degraded,
        }
    }
}
