//! Requests and responses that a test makes. They answer like those that the host lends.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::{Timestamp, tz::TimeZone};
use serde_json::{Map, Value};

use crate::exchange::{Request, Response};
use crate::time::{LocalTime, Weekday};

/// The counters of one pack and tenant.
const MAX_COUNTERS: usize = 64;

/// Makes a [`Request`] for a test.
#[derive(Debug)]
pub struct RequestBuilder {
    made: MadeRequest,
}

/// Makes a [`Response`] for a test.
#[derive(Clone, Debug)]
pub struct ResponseBuilder {
    made: MadeResponse,
}

#[derive(Debug)]
pub(crate) struct MadeRequest {
    method: String,
    path: String,
    query: Option<String>,
    headers: Headers,
    body: Option<Vec<u8>>,
    body_size: Option<u64>,
    client_address: String,
    route: String,
    version: String,
    tenant: String,
    plan: String,
    consumer: String,
    scopes: Vec<String>,
    claims: Map<String, Value>,
    now: Timestamp,
    timezone: TimeZone,
    random: AtomicU64,
    data: BTreeMap<String, Vec<u8>>,
    counters: Mutex<BTreeMap<String, u64>>,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct MadeResponse {
    status: u16,
    headers: Headers,
    body: Option<Vec<u8>>,
}

#[derive(Clone, Debug, Default)]
struct Headers(Vec<(String, Vec<u8>)>);

impl Request {
    /// Begins a request for a test: `GET /` without headers, of consumer `consumer` of tenant `tenant`, plan `plan`, on
    /// route `route`, version `v1`, from 192.0.2.1, at 2026-01-01T00:00:00Z, in UTC: as a vector that leaves these out.
    pub fn builder() -> RequestBuilder {
        RequestBuilder {
            made: MadeRequest {
                method: "GET".to_owned(),
                path: "/".to_owned(),
                query: None,
                headers: Headers::default(),
                body: None,
                body_size: None,
                client_address: "192.0.2.1".to_owned(),
                route: "route".to_owned(),
                version: "v1".to_owned(),
                tenant: "tenant".to_owned(),
                plan: "plan".to_owned(),
                consumer: "consumer".to_owned(),
                scopes: Vec::new(),
                claims: Map::new(),
                now: Timestamp::constant(1_767_225_600, 0),
                timezone: TimeZone::UTC,
                random: AtomicU64::new(0),
                data: BTreeMap::new(),
                counters: Mutex::default(),
            },
        }
    }

    /// What a counter was brought to, for a test to look at.
    pub fn counter(&self, name: &str) -> u64 {
        self.lent.counters().get(name).copied().unwrap_or_default()
    }
}

impl Response {
    /// Begins a response for a test: 200 without headers.
    pub fn builder() -> ResponseBuilder {
        ResponseBuilder { made: MadeResponse { status: 200, ..MadeResponse::default() } }
    }
}

impl RequestBuilder {
    /// Sets the method.
    #[must_use]
    pub fn method(mut self, method: &str) -> Self {
        method.clone_into(&mut self.made.method);
        self
    }

    /// Sets the path.
    #[must_use]
    pub fn path(mut self, path: &str) -> Self {
        path.clone_into(&mut self.made.path);
        self
    }

    /// Sets the query, percent-encoded, without `?`.
    #[must_use]
    pub fn query(mut self, query: &str) -> Self {
        self.made.query = Some(query.to_owned());
        self
    }

    /// Adds a header line.
    #[must_use]
    pub fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.made.headers.push(name, value.as_ref());
        self
    }

    /// Gives it a body, as the pack sees it whose manifest asks for it.
    #[must_use]
    pub fn body(mut self, body: impl AsRef<[u8]>) -> Self {
        let body = body.as_ref().to_vec();
        self.made.body_size = u64::try_from(body.len()).ok();
        self.made.body = Some(body);
        self
    }

    /// Announces a body of this size.
    #[must_use]
    pub fn body_size(mut self, bytes: u64) -> Self {
        self.made.body_size = Some(bytes);
        self
    }

    /// Sets the address of the peer.
    #[must_use]
    pub fn client_address(mut self, address: &str) -> Self {
        address.clone_into(&mut self.made.client_address);
        self
    }

    /// Sets the id of the route.
    #[must_use]
    pub fn route(mut self, route: &str) -> Self {
        route.clone_into(&mut self.made.route);
        self
    }

    /// Sets the version of the API.
    #[must_use]
    pub fn version(mut self, version: &str) -> Self {
        version.clone_into(&mut self.made.version);
        self
    }

    /// Sets the ids of the caller.
    #[must_use]
    pub fn caller(mut self, tenant: &str, consumer: &str) -> Self {
        tenant.clone_into(&mut self.made.tenant);
        consumer.clone_into(&mut self.made.consumer);
        self
    }

    /// Sets the id of the tenant's plan.
    #[must_use]
    pub fn plan(mut self, plan: &str) -> Self {
        plan.clone_into(&mut self.made.plan);
        self
    }

    /// Adds a scope.
    #[must_use]
    pub fn scope(mut self, scope: &str) -> Self {
        self.made.scopes.push(scope.to_owned());
        self.made.scopes.sort_unstable();
        self.made.scopes.dedup();
        self
    }

    /// Adds a claim.
    #[must_use]
    pub fn claim(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.made.claims.insert(name.to_owned(), value.into());
        self
    }

    /// Sets the time (RFC 3339).
    ///
    /// # Panics
    /// Where that is no time.
    #[must_use]
    pub fn now(mut self, time: &str) -> Self {
        self.made.now = time.parse().expect("a time such as 2026-11-21T09:00:00Z");
        self
    }

    /// Sets the time zone of the tenant (IANA name).
    ///
    /// # Panics
    /// Where there is no such zone.
    #[must_use]
    pub fn timezone(mut self, zone: &str) -> Self {
        self.made.timezone = TimeZone::get(zone).expect("a time zone such as Europe/Berlin");
        self
    }

    /// Chooses the random numbers. Not those that the host would make.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.made.random = AtomicU64::new(seed);
        self
    }

    /// Keeps data for the pack.
    #[must_use]
    pub fn data(mut self, key: &str, value: impl AsRef<[u8]>) -> Self {
        self.made.data.insert(key.to_owned(), value.as_ref().to_vec());
        self
    }

    /// Sets a counter.
    #[must_use]
    pub fn counter(self, name: &str, value: u64) -> Self {
        self.made.counters().insert(name.to_owned(), value);
        self
    }

    /// Ends the building.
    pub fn build(self) -> Request {
        Request { lent: self.made }
    }
}

impl ResponseBuilder {
    /// Sets the status.
    #[must_use]
    pub fn status(mut self, status: u16) -> Self {
        self.made.status = status;
        self
    }

    /// Adds a header line.
    #[must_use]
    pub fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.made.headers.push(name, value.as_ref());
        self
    }

    /// Gives it a body, as the pack sees it whose manifest asks for it.
    #[must_use]
    pub fn body(mut self, body: impl AsRef<[u8]>) -> Self {
        self.made.body = Some(body.as_ref().to_vec());
        self
    }

    /// Ends the building.
    pub fn build(self) -> Response {
        Response { lent: self.made }
    }
}

impl MadeRequest {
    pub(crate) fn method(&self) -> String {
        self.method.clone()
    }

    pub(crate) fn path(&self) -> String {
        self.path.clone()
    }

    pub(crate) fn query(&self) -> Option<String> {
        self.query.clone()
    }

    pub(crate) fn query_param(&self, name: &str) -> Option<String> {
        form_urlencoded::parse(self.query.as_ref()?.as_bytes())
            .find(|(found, _)| found == name)
            .map(|(_, value)| value.into_owned())
    }

    pub(crate) fn header(&self, name: &str) -> Option<Vec<u8>> {
        self.headers.first(name)
    }

    pub(crate) fn headers_all(&self, name: &str) -> Vec<Vec<u8>> {
        self.headers.all(name)
    }

    pub(crate) fn header_names(&self) -> Vec<String> {
        self.headers.names()
    }

    pub(crate) fn body(&self) -> Option<Vec<u8>> {
        self.body.clone()
    }

    pub(crate) fn body_size(&self) -> Option<u64> {
        self.body_size
    }

    pub(crate) fn client_address(&self) -> String {
        self.client_address.clone()
    }

    pub(crate) fn route(&self) -> String {
        self.route.clone()
    }

    pub(crate) fn version(&self) -> String {
        self.version.clone()
    }

    pub(crate) fn tenant(&self) -> String {
        self.tenant.clone()
    }

    pub(crate) fn plan(&self) -> String {
        self.plan.clone()
    }

    pub(crate) fn consumer(&self) -> String {
        self.consumer.clone()
    }

    pub(crate) fn scopes(&self) -> Vec<String> {
        self.scopes.clone()
    }

    pub(crate) fn claim(&self, name: &str) -> Option<String> {
        self.claims.get(name).map(Value::to_string)
    }

    pub(crate) fn now(&self) -> u64 {
        u64::try_from(self.now.as_microsecond()).unwrap_or_default()
    }

    pub(crate) fn local_time(&self, zone: Option<&str>) -> Option<LocalTime> {
        let zone = match zone {
            Some(name) => TimeZone::get(name).ok()?,
            None => self.timezone.clone(),
        };
        let there = self.now.to_zoned(zone);
        let small = |part: i8| u8::try_from(part).unwrap_or_default();
        Some(LocalTime {
            year: there.year(),
            month: small(there.month()),
            day: small(there.day()),
            weekday: Weekday::from_iso(small(there.weekday().to_monday_one_offset())),
            hour: small(there.hour()),
            minute: small(there.minute()),
            second: small(there.second()),
        })
    }

    /// SplitMix64.
    pub(crate) fn random(&self) -> u64 {
        const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
        let state = self.random.fetch_add(STEP, Ordering::Relaxed).wrapping_add(STEP);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(crate) fn data(&self, key: &str) -> Option<Vec<u8>> {
        self.data.get(key).cloned()
    }

    pub(crate) fn count(&self, name: &str, by: u64) -> Option<u64> {
        let mut counters = self.counters();
        if !counters.contains_key(name) && counters.len() >= MAX_COUNTERS {
            return None;
        }
        let counter = counters.entry(name.to_owned()).or_default();
        *counter = counter.saturating_add(by);
        Some(*counter)
    }

    fn counters(&self) -> MutexGuard<'_, BTreeMap<String, u64>> {
        self.counters.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl MadeResponse {
    pub(crate) fn status(&self) -> u16 {
        self.status
    }

    pub(crate) fn header(&self, name: &str) -> Option<Vec<u8>> {
        self.headers.first(name)
    }

    pub(crate) fn headers_all(&self, name: &str) -> Vec<Vec<u8>> {
        self.headers.all(name)
    }

    pub(crate) fn header_names(&self) -> Vec<String> {
        self.headers.names()
    }

    pub(crate) fn body(&self) -> Option<Vec<u8>> {
        self.body.clone()
    }
}

impl Headers {
    fn push(&mut self, name: &str, value: &[u8]) {
        self.0.push((name.to_ascii_lowercase(), value.to_vec()));
    }

    fn first(&self, name: &str) -> Option<Vec<u8>> {
        self.all(name).into_iter().next()
    }

    fn all(&self, name: &str) -> Vec<Vec<u8>> {
        let lines = self.0.iter().filter(|(held, _)| held.eq_ignore_ascii_case(name));
        lines.map(|(_, value)| value.clone()).collect()
    }

    fn names(&self) -> Vec<String> {
        let mut names = Vec::new();
        for (name, _) in &self.0 {
            if !names.contains(name) {
                names.push(name.clone());
            }
        }
        names
    }
}
