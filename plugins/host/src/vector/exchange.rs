//! The exchange of a vector.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use model::{Head, Identity};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::Content;
use crate::request::{PolicyRequest, PolicyResponse};

/// What marks a vector's request, and seeds its random numbers.
const REQUEST_ID: &str = "vector";

/// The request of a vector.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct VectorRequest {
    /// `GET` when absent.
    pub method: String,
    /// `/` when absent.
    pub path: String,
    /// Without `?`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub query: Option<String>,
    /// Names and values, in order.
    pub headers: Vec<(String, Content)>,
    /// None when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body: Option<Content>,
    /// 192.0.2.1 when absent.
    pub client_address: IpAddr,
    /// `route` when absent.
    pub route: String,
    /// `v1` when absent.
    pub version: String,
    /// `tenant` when absent.
    pub tenant: String,
    /// `plan` when absent.
    pub plan: String,
    /// The tenant's time zone (IANA); `UTC` when absent.
    pub timezone: String,
    /// `consumer` when absent.
    pub consumer: String,
    /// None when absent.
    pub scopes: Vec<String>,
    /// Those of a JWT; none when absent.
    pub claims: Map<String, Value>,
}

impl Default for VectorRequest {
    fn default() -> Self {
        Self {
            method: "GET".to_owned(),
            path: "/".to_owned(),
            query: None,
            headers: Vec::new(),
            body: None,
            client_address: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
            route: "route".to_owned(),
            version: "v1".to_owned(),
            tenant: "tenant".to_owned(),
            plan: "plan".to_owned(),
            timezone: "UTC".to_owned(),
            consumer: "consumer".to_owned(),
            scopes: Vec::new(),
            claims: Map::new(),
        }
    }
}

/// The response of a vector.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct VectorResponse {
    /// 200 when absent.
    pub status: u16,
    /// Names and values, in order.
    pub headers: Vec<(String, Content)>,
    /// None when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body: Option<Content>,
}

impl Default for VectorResponse {
    fn default() -> Self {
        Self { status: 200, headers: Vec::new(), body: None }
    }
}

impl VectorRequest {
    /// What the pack is asked about.
    pub(crate) fn policy_request(&self, now: Timestamp) -> Result<Arc<PolicyRequest>, String> {
        let method = Method::from_bytes(self.method.as_bytes())
            .map_err(|_| format!("`method` is {:?}, which is none", self.method))?;
        if !self.path.starts_with('/') {
            return Err(format!("`path` is {:?}: start it with `/`", self.path));
        }
        let timezone = TimeZone::get(&self.timezone)
            .map_err(|_| format!("`timezone` is {:?}, which is no IANA name", self.timezone))?;
        let mut scopes: Vec<Arc<str>> = self.scopes.iter().map(|scope| (**scope).into()).collect();
        scopes.sort();
        scopes.dedup();
        let head = Head {
            method,
            path: self.path.clone(),
            query: self.query.clone(),
            authority: "vector.example".to_owned(),
            headers: headers(&self.headers)?,
            client: self.client_address,
        };
        let identity = Identity {
            tenant: (*self.tenant).into(),
            consumer: (*self.consumer).into(),
            subject: self.consumer.clone(),
            credential: "vector".to_owned(),
            scopes,
            claims: Arc::new(Value::Object(self.claims.clone())),
        };
        let body = self.body.as_ref().map(|body| Bytes::from(body.0.clone()));
        Ok(Arc::new(PolicyRequest {
            head: Arc::new(head),
            body_size: body.as_ref().map(|body| body.len() as u64),
            body,
            identity: Arc::new(identity),
            plan: (*self.plan).into(),
            timezone,
            route: (*self.route).into(),
            version: (*self.version).into(),
            request_id: REQUEST_ID.into(),
            now,
        }))
    }
}

impl VectorResponse {
    /// What the pack is asked about.
    pub(crate) fn policy_response(&self) -> Result<Arc<PolicyResponse>, String> {
        let status = StatusCode::from_u16(self.status)
            .map_err(|_| format!("`status` is {}, which is none", self.status))?;
        Ok(Arc::new(PolicyResponse {
            status,
            headers: Arc::new(headers(&self.headers)?),
            body: self.body.as_ref().map(|body| Bytes::from(body.0.clone())),
        }))
    }
}

fn headers(lines: &[(String, Content)]) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::with_capacity(lines.len());
    for (name, value) in lines {
        let line = HeaderName::from_bytes(name.as_bytes()).ok().zip(
            // As off the wire: any bytes that a header may have.
            HeaderValue::from_bytes(&value.0).ok(),
        );
        let (name, value) = line.ok_or_else(|| format!("the header {name:?} is none in HTTP"))?;
        headers.append(name, value);
    }
    Ok(headers)
}
