//! Whose credentials are meant: consumers are known by an id that is unique within their tenant only.

use crate::acting::Acting;
use crate::place::Place;
use crate::problem::Refused;
use model::role::Section;
use model::{ErrorCode, Reject};
use serde_json::Value;

/// A consumer of a document, found by its id.
pub(super) struct Owner {
    pub(super) tenant: String,
    pub(super) consumer: String,
    pub(super) place: Place,
}

impl Owner {
    /// The only consumer of this id, or that of the tenant.
    pub(super) fn find(
        acting: &Acting,
        document: &Value,
        consumer: &str,
        tenant: Option<&str>,
    ) -> Result<Self, Refused> {
        if let Some(tenant) = tenant {
            acting.sees(tenant)?;
        }
        let within = tenant.or_else(|| acting.tenant().map(model::id::TenantId::as_str));
        let tenants = document.get("tenants").and_then(Value::as_array).into_iter().flatten();
        let mut found: Vec<Self> = tenants
            .filter(|entry| has(entry, consumer))
            .filter_map(|entry| entry.get("id")?.as_str())
            .filter(|id| within.is_none_or(|within| within == *id))
            .map(|id| Self::of(id, consumer))
            .collect();
        match (found.pop(), found.as_slice()) {
            (None, _) => Err(ErrorCode::NotFound.into()),
            (Some(only), []) => Ok(only),
            (Some(last), others) => {
                let tenants: Vec<_> = others.iter().map(|o| o.tenant.clone()).collect();
                Err(Reject::new(ErrorCode::Conflict)
                    .message("Several tenants have a consumer of this id: choose with `?tenant=`.")
                    .detail("tenants", [tenants, vec![last.tenant]].concat())
                    .into())
            }
        }
    }

    fn of(tenant: &str, consumer: &str) -> Self {
        let place = Place::root(Section::Tenants, tenant).within("consumers", consumer);
        Self { tenant: tenant.to_owned(), consumer: consumer.to_owned(), place }
    }

    pub(super) fn credential(&self, id: &str) -> Place {
        self.place.within("credentials", id)
    }

    /// A credential as it is shown: without its hash, and with whose it is.
    pub(super) fn shown(&self, credential: &Value) -> Value {
        let mut shown = credential.clone();
        if let Some(fields) = shown.as_object_mut() {
            fields.insert("tenant".to_owned(), self.tenant.as_str().into());
            fields.insert("consumer".to_owned(), self.consumer.as_str().into());
            if let Some(key) = fields.get_mut("api_key").and_then(Value::as_object_mut) {
                key.shift_remove("hash");
            }
        }
        shown
    }
}

/// Whether a tenant has a consumer of this id.
fn has(tenant: &Value, consumer: &str) -> bool {
    let consumers = tenant.get("consumers").and_then(Value::as_array).into_iter().flatten();
    consumers.filter_map(|entry| entry.get("id")).any(|id| id == consumer)
}
