//! What the document in force says about events, compiled once per revision.

use crate::STORE_RETRY_S;
use jsonschema::Validator;
use model::config::{self, Config};
use model::document::{EventCaps, TenantState};
use model::id::TenantId;
use model::revision::{Published, Revisions};
use model::{ErrorCode, Reject};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

/// What a revision says.
pub(crate) struct Rules {
    number: u64,
    etag: String,
    tenants: HashMap<TenantId, OfTenant>,
    schemas: HashMap<String, Validator>,
}

/// What it says of a tenant.
pub(crate) struct OfTenant {
    pub(crate) is_suspended: bool,
    pub(crate) caps: EventCaps,
}

impl Rules {
    /// Compiles what a document says.
    fn of(published: &Published, config: &Config) -> Result<Self, String> {
        let document = config.document();
        let caps: BTreeMap<_, _> =
            document.plans.iter().map(|plan| (&plan.id, &plan.events)).collect();
        let tenants = document.tenants.iter().map(|tenant| {
            let caps =
                caps.get(&tenant.plan).map_or_else(EventCaps::default, |caps| (*caps).clone());
            let is_suspended = tenant.state == TenantState::Suspended;
            (tenant.id.clone(), OfTenant { is_suspended, caps })
        });
        let schemas = document.event_types.iter().map(|kind| {
            let schema = config::event_schema(&kind.schema);
            schema.map(|schema| (kind.name.clone(), schema)).map_err(|error| error.to_string())
        });
        Ok(Self {
            number: published.number,
            etag: published.etag.clone(),
            tenants: tenants.collect(),
            schemas: schemas.collect::<Result<_, _>>()?,
        })
    }

    /// What is said of a tenant, if there is one of this id.
    pub(crate) fn tenant(&self, id: &str) -> Option<&OfTenant> {
        self.tenants.get(id)
    }

    /// What judges the data of events of this type.
    pub(crate) fn schema(&self, kind: &str) -> Option<&Validator> {
        self.schemas.get(kind)
    }

    fn is_of(&self, published: &Published) -> bool {
        self.number == published.number && self.etag == published.etag
    }
}

/// The rules of the revision in force in this process.
pub(crate) struct InForce {
    revisions: Arc<dyn Revisions>,
    known: Mutex<Option<Arc<Rules>>>,
    /// One compiles; the others wait for it.
    turn: tokio::sync::Mutex<()>,
}

impl InForce {
    pub(crate) fn new(revisions: Arc<dyn Revisions>) -> Self {
        Self { revisions, known: Mutex::default(), turn: tokio::sync::Mutex::default() }
    }

    /// The rules of the revision in force, compiled now where it is a new one; `changed` is then told.
    pub(crate) async fn rules(&self, changed: impl FnOnce(&Rules)) -> Result<Arc<Rules>, Reject> {
        let published = self.revisions.in_force().ok_or_else(|| {
            Reject::new(ErrorCode::DependencyUnavailable)
                .retry_after(STORE_RETRY_S)
                .because("no revision is in force yet")
        })?;
        if let Some(rules) = self.known(&published) {
            return Ok(rules);
        }
        let _turn = self.turn.lock().await;
        if let Some(rules) = self.known(&published) {
            return Ok(rules);
        }
        let compiled = tokio::task::spawn_blocking(move || {
            let config = config::read(&published.text).map_err(|errors| format!("{errors:?}"))?;
            Rules::of(&published, &config)
        });
        let internal = |cause: String| Reject::new(ErrorCode::Internal).because(cause);
        let compiled = compiled.await.map_err(|error| internal(error.to_string()))?;
        let rules = Arc::new(compiled.map_err(internal)?);
        changed(&rules);
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = Some(rules.clone());
        Ok(rules)
    }

    fn known(&self, published: &Published) -> Option<Arc<Rules>> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.as_ref().filter(|rules| rules.is_of(published)).cloned()
    }
}
