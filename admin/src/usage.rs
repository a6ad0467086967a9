//! `/v1/usage`: what a tenant has used of its limits, and setting that back.
//!
//! Invariant: counters are not in the store, so that no transaction holds both them and the audit. A reset is therefore
//! audited twice: before it, as begun, and after it, as what it came to. The first entry says no more than that it was
//! begun; if the process ends between the two, it stands alone, which is then the truth: nobody knows. What was used before
//! is told by the counters themselves, in the step that sets them back. A repeat after that is harmless, and audited.

use crate::Shared;
use crate::acting::Acting;
use crate::allowed::{Operator, Reader};
use crate::answer::Answer;
use crate::body::{NoQuery, Path, Query, verb};
use crate::once::{Once, Posted};
use crate::problem::Refused;
use crate::verbs;
use axum::Router;
use axum::extract::State;
use axum::response::Response;
use axum::routing;
use model::audit::Entry;
use model::config::ConfigError;
use model::id::{LimitId, TenantId, is_id};
use model::revision::KeptAnswer;
use model::usage::{Usage, UsageError};
use model::{ErrorCode, Reject};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::sync::Arc;
use store::control::{Effect, Write};

/// What a tenant has used.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct TenantUsage {
    /// The tenant.
    tenant: TenantId,
    /// Each limit as it stands.
    limits: Vec<Usage>,
}

/// Which counters are set back.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Reset {
    /// Those of this limit; of all when absent.
    #[serde(default)]
    limit: Option<LimitId>,
}

/// What a reset did.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct WasReset {
    /// The tenant.
    tenant: TenantId,
    /// Each limit that was set back, as it stood before.
    before: Vec<Usage>,
    /// Each of them as it stands now.
    after: Vec<Usage>,
}

/// `?tenant=`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct UsageQuery {
    tenant: String,
}

/// The routes.
pub(crate) fn routes() -> Router<Arc<Shared>> {
    Router::new()
        .route("/v1/usage", routing::get(get))
        .route("/v1/usage/{tenant}", verbs::split(None, vec![("reset", routing::post(reset))]))
}

/// `GET /v1/usage?tenant=`
async fn get(
    State(shared): State<Arc<Shared>>,
    Reader(acting): Reader,
    Query(query): Query<UsageQuery>,
) -> Result<Answer, Refused> {
    acting.sees(&query.tenant)?;
    if !is_id(&query.tenant) {
        return Err(Refused::malformed("`tenant` is not an id."));
    }
    let tenant = TenantId::from(query.tenant.as_str());
    let limits = shared.usage.usage(&tenant).await.map_err(refused)?;
    Ok(Answer::ok(&TenantUsage { tenant, limits }))
}

/// `POST /v1/usage/{tenant}:reset`
async fn reset(
    State(shared): State<Arc<Shared>>,
    Operator(acting): Operator,
    Path(segment): Path<String>,
    NoQuery: NoQuery,
    Posted { body, once }: Posted<Reset>,
) -> Result<Response, Refused> {
    let (tenant, _) = verb(&segment);
    acting.sees(tenant)?;
    if !is_id(tenant) {
        return Err(ErrorCode::NotFound.into());
    }
    let resetting = Resetting {
        shared: &shared,
        acting: &acting,
        tenant: TenantId::from(tenant),
        limit: body.limit,
    };
    once.done(&shared, resetting.run(&once)).await
}

/// A reset on its way.
struct Resetting<'a> {
    shared: &'a Shared,
    acting: &'a Acting,
    tenant: TenantId,
    limit: Option<LimitId>,
}

impl Resetting<'_> {
    async fn run(&self, once: &Once) -> Result<Answer, Refused> {
        // Refuses what can't be reset before anything of it is written.
        let known = self.shared.usage.usage(&self.tenant).await.map_err(refused)?;
        if self.limit.is_some() && !known.iter().any(|usage| self.concerns(usage)) {
            return Err(refused(UsageError::UnknownLimit));
        }
        self.note("begun", json!([]), None).await?;
        let before = match self.shared.usage.reset(&self.tenant, self.limit.as_ref()).await {
            Ok(before) => before,
            Err(error) => {
                // Some counters may have been set back before the others could not.
                self.note("failed", json!([]), None).await?;
                return Err(refused(error));
            }
        };
        let told = json!(before);
        let after = match self.shared.usage.usage(&self.tenant).await {
            Ok(now) => now.into_iter().filter(|usage| self.concerns(usage)).collect(),
            Err(error) => {
                self.note("done", told, None).await?;
                return Err(refused(error));
            }
        };
        let answer = Answer::ok(&WasReset { tenant: self.tenant.clone(), before, after });
        self.note("done", told, once.keep(&answer)?).await?;
        Ok(answer)
    }

    fn concerns(&self, usage: &Usage) -> bool {
        self.limit.as_ref().is_none_or(|limit| usage.id == *limit)
    }

    async fn note(
        &self,
        state: &str,
        before: Value,
        answer: Option<KeptAnswer>,
    ) -> Result<(), Refused> {
        let facts = json!({ "state": state, "limit": self.limit, "before": before });
        let audit =
            Entry { tenant: Some(self.tenant.clone()), ..self.acting.entry(self.shared, facts) };
        self.shared.store.write(Write { effect: Effect::Note, audit, answer }).await?;
        Ok(())
    }
}

fn refused(error: UsageError) -> Refused {
    match error {
        UsageError::UnknownTenant => Reject::new(ErrorCode::NotFound)
            .message("There is no such tenant.")
            .into(),
        UsageError::UnknownLimit | UsageError::Unlisted => {
            let message = format!("can't be set back: {error}");
            Refused::unfit(&[ConfigError::new("/limit", message)])
        }
        UsageError::Elsewhere => Reject::new(ErrorCode::Conflict)
            .message(
                "Counters are kept in each gateway's own process, and this one is no gateway. Ask a process that is both \
                 (`roles: [gateway, admin]`).",
            )
            .into(),
        UsageError::Store(error) => error.into(),
    }
}
