//! Which version of an API a request gets, and what its answer says about that version's life.

use http::{HeaderName, HeaderValue, header};
use jiff::Timestamp;
use model::document::{Select, VersionState};
use model::id::{ServiceId, TenantId, UpstreamId, VersionName};
use model::{ErrorCode, Head, Reject};
use std::collections::HashMap;
use std::sync::Arc;

use crate::authenticate::Tenant;

/// The request and response header that names a version.
pub const API_VERSION: HeaderName = HeaderName::from_static("api-version");
/// RFC 9745 §2.
const DEPRECATION: HeaderName = HeaderName::from_static("deprecation");
/// RFC 8594 §3.
const SUNSET: HeaderName = HeaderName::from_static("sunset");

/// A service as requests need it.
#[derive(Debug)]
pub struct Service {
    /// Its id.
    pub id: ServiceId,
    /// How a request names its version, in order of precedence.
    pub select: Vec<Select>,
    /// Its versions.
    pub versions: Vec<Arc<Version>>,
    /// The one that requests get which name none.
    pub default: Option<Arc<Version>>,
}

/// A version as requests need it.
#[derive(Debug)]
pub struct Version {
    /// Its name.
    pub name: VersionName,
    /// The same, as `API-Version`.
    pub header: HeaderValue,
    /// Where its requests go.
    pub upstream: UpstreamId,
    /// What the upstream expects before the route's path.
    pub upstream_prefix: String,
    /// Where it stands in its life.
    pub state: VersionState,
    /// Since or from when it is deprecated.
    pub deprecated_at: Option<Timestamp>,
    /// From when it is withdrawn.
    pub sunset_at: Option<Timestamp>,
    /// The version to move to.
    pub successor: Option<VersionName>,
    /// Whether a path can name the successor, so that a link can.
    pub successor_by_path: bool,
    /// Where the deprecation is explained.
    pub docs: Option<String>,
    /// Tenants that may use it for longer.
    pub extensions: HashMap<TenantId, Timestamp>,
}

/// The version that a request gets.
#[derive(Clone, Debug)]
pub struct Resolved {
    version: Arc<Version>,
}

impl Resolved {
    /// The version.
    pub fn version(&self) -> &Arc<Version> {
        &self.version
    }
}

impl Service {
    /// Judges the version: named by the path's first `segment`, a header, the tenant's pin or the default.
    pub fn resolve(
        &self,
        head: &Head,
        segment: Option<&str>,
        path: &str,
        tenant: &Tenant,
        now: Timestamp,
    ) -> Result<Resolved, Reject> {
        let version = self.select_version(head, segment, tenant)?;
        let withdrawn = version.state == VersionState::Sunset
            || version.sunset_at.is_some_and(|sunset| sunset <= now);
        let extended = version.extensions.get(&tenant.id).is_some_and(|until| now < *until);
        if withdrawn && !extended {
            let mut reject =
                Reject::new(ErrorCode::VersionSunset).detail("version", version.name.as_str());
            if let Some(sunset) = version.sunset_at {
                reject = reject.detail("sunset_at", sunset.to_string());
            }
            if let Some(successor) = &version.successor {
                reject = reject.detail("successor", successor.as_str());
            }
            for (name, value) in version.lifecycle(path) {
                reject = reject.header(name, value);
            }
            return Err(reject);
        }
        Ok(Resolved { version: version.clone() })
    }

    fn select_version(
        &self,
        head: &Head,
        segment: Option<&str>,
        tenant: &Tenant,
    ) -> Result<&Arc<Version>, Reject> {
        for way in &self.select {
            let named = match way {
                Select::Path => segment,
                Select::Header => head.single(&API_VERSION).map_err(|_| {
                    Reject::new(ErrorCode::ValidationFailed)
                        .message("`API-Version` must stand once, as text.")
                })?,
                Select::MediaType => media_type_version(head),
                Select::TenantPin => tenant.pins.get(self.id.as_str()).map(String::as_str),
                Select::Default => match &self.default {
                    Some(version) => return Ok(version),
                    None => None,
                },
            };
            if let Some(name) = named {
                return self
                    .versions
                    .iter()
                    .find(|version| version.name.as_str() == name)
                    .ok_or_else(|| self.unknown(Some(name)));
            }
        }
        Err(self.unknown(None))
    }

    fn unknown(&self, name: Option<&str>) -> Reject {
        let known: Vec<&str> = self.versions.iter().map(|version| version.name.as_str()).collect();
        let reject = Reject::new(ErrorCode::VersionUnknown).detail("supported", known);
        match name {
            Some(name) => reject.detail("version", name.chars().take(64).collect::<String>()),
            None => reject.message("The request names no API version, and there is no default."),
        }
    }

    /// The request headers that decide the version, for `Vary`.
    pub fn vary(&self) -> Option<HeaderValue> {
        let header = self.select.contains(&Select::Header);
        let media_type = self.select.contains(&Select::MediaType);
        match (header, media_type) {
            (true, true) => Some(HeaderValue::from_static("API-Version, Accept")),
            (true, false) => Some(HeaderValue::from_static("API-Version")),
            (false, true) => Some(HeaderValue::from_static("Accept")),
            (false, false) => None,
        }
    }
}

impl Version {
    /// `Deprecation`, `Sunset` and `Link` as answers of this version carry them. `path` is the route's, without version.
    pub fn lifecycle(&self, path: &str) -> Vec<(HeaderName, HeaderValue)> {
        let mut headers = Vec::new();
        let mut add = |name: HeaderName, value: String| {
            if let Ok(value) = HeaderValue::try_from(value) {
                headers.push((name, value));
            }
        };
        if let Some(at) = self.deprecated_at {
            add(DEPRECATION, format!("@{}", at.as_second()));
        }
        if let Some(at) = self.sunset_at {
            add(
                SUNSET,
                jiff::fmt::rfc2822::DateTimePrinter::new()
                    .timestamp_to_rfc9110_string(&at)
                    .unwrap_or_default(),
            );
        }
        if let Some(docs) = &self.docs {
            if self.deprecated_at.is_some() {
                add(header::LINK, format!(r#"<{docs}>; rel="deprecation"; type="text/html""#));
            }
            if self.sunset_at.is_some() {
                add(header::LINK, format!(r#"<{docs}>; rel="sunset"; type="text/html""#));
            }
        }
        if let Some(successor) = self.successor.as_ref().filter(|_| self.successor_by_path) {
            add(header::LINK, format!(r#"</{successor}{path}>; rel="successor-version""#));
        }
        headers
    }
}

/// `Accept: application/vnd.crm.<version>+json`.
fn media_type_version(head: &Head) -> Option<&str> {
    let lines = head.headers.get_all(header::ACCEPT).iter();
    let ranges = lines.filter_map(|line| line.to_str().ok()).flat_map(|line| line.split(','));
    ranges.into_iter().find_map(|range| {
        let media_type = range.split(';').next().unwrap_or_default().trim();
        media_type.strip_prefix("application/vnd.crm.")?.strip_suffix("+json")
    })
}

#[cfg(test)]
mod tests;
