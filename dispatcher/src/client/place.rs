//! A destination in the parts that a request needs, made once.

use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderValue, Uri};
use model::id::TenantId;
use model::webhook::{Destination, DestinationError};
use std::sync::Arc;

/// Where requests are sent.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    destination: Destination,
    /// On whose behalf.
    tenant: TenantId,
    /// Scheme, host and port: what connections are kept by.
    origin: Arc<str>,
    authority: HeaderValue,
    path: Uri,
}

impl Place {
    /// The place of this address, of which only the form is judged here: the rest is judged with each connection.
    pub(crate) fn parse(url: &str, tenant: &TenantId) -> Result<Self, DestinationError> {
        Self::of(Destination::parse(url)?, tenant.clone())
    }

    fn of(destination: Destination, tenant: TenantId) -> Result<Self, DestinationError> {
        let uri = destination.uri();
        let malformed = || DestinationError::Form("its host is malformed".to_owned());
        let authority = uri.authority().map_or("", Authority::as_str);
        let scheme = uri.scheme().map_or("", Scheme::as_str);
        let origin = format!("{scheme}://{authority}").into();
        let authority = HeaderValue::try_from(authority).map_err(|_| malformed())?;
        let root = || PathAndQuery::from_static("/");
        let path = Uri::from(uri.path_and_query().cloned().unwrap_or_else(root));
        Ok(Self { destination, tenant, origin, authority, path })
    }

    /// The same place with this query beside its own.
    pub(crate) fn with_query(&self, query: &[(&str, &str)]) -> Result<Self, DestinationError> {
        if query.is_empty() {
            Ok(self.clone())
        } else {
            Self::of(self.destination.with_query(query)?, self.tenant.clone())
        }
    }

    pub(crate) fn destination(&self) -> &Destination {
        &self.destination
    }

    pub(super) fn tenant(&self) -> &TenantId {
        &self.tenant
    }

    pub(super) fn origin(&self) -> &Arc<str> {
        &self.origin
    }

    pub(super) fn authority(&self) -> &HeaderValue {
        &self.authority
    }

    pub(super) fn path(&self) -> &Uri {
        &self.path
    }
}
