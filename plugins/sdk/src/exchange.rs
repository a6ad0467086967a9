//! The exchange that is judged.

use std::net::IpAddr;

use serde::de::DeserializeOwned;

#[cfg(target_arch = "wasm32")]
use crate::abi::{LentRequest, LentResponse};
#[cfg(not(target_arch = "wasm32"))]
use crate::made::{MadeRequest as LentRequest, MadeResponse as LentResponse};
use crate::time::LocalTime;

/// A request and its caller.
///
/// Getters are lazy: what a pack doesn't ask for is never copied into it, and what it asks for twice is copied twice.
///
/// The host functions are methods as well, so that a test can say what they answer: [`Request::now`] and
/// [`Request::local_time`] (capability `clock`), [`Request::random`] (`random`), [`Request::data`] (`data`),
/// [`Request::count`] (`counters`).
pub struct Request {
    pub(crate) lent: LentRequest,
}

/// The answer to a request, before the caller gets it.
pub struct Response {
    pub(crate) lent: LentResponse,
}

impl Request {
    /// The method, such as `POST`.
    pub fn method(&self) -> String {
        self.lent.method()
    }

    /// The path as it was sent, percent-encoded, starting with `/`.
    pub fn path(&self) -> String {
        self.lent.path()
    }

    /// The query as it was sent, without `?`; `None` when the target had no `?`.
    pub fn query(&self) -> Option<String> {
        self.lent.query()
    }

    /// The first value of this query parameter, decoded (`application/x-www-form-urlencoded`).
    pub fn query_param(&self, name: &str) -> Option<String> {
        self.lent.query_param(name)
    }

    /// The first line of this header.
    pub fn header(&self, name: &str) -> Option<Vec<u8>> {
        self.lent.header(name)
    }

    /// The first line of this header, where it is text.
    pub fn header_text(&self, name: &str) -> Option<String> {
        self.header(name).and_then(|value| String::from_utf8(value).ok())
    }

    /// Every line of this header, in order.
    pub fn headers_all(&self, name: &str) -> Vec<Vec<u8>> {
        self.lent.headers_all(name)
    }

    /// The names of the headers, in lower case, each once.
    pub fn header_names(&self) -> Vec<String> {
        self.lent.header_names()
    }

    /// The body, where the manifest asks for it (`body: [request]`); `None` for any other pack, and while the cost is asked.
    pub fn body(&self) -> Option<Vec<u8>> {
        self.lent.body()
    }

    /// The body, read as JSON. No body reads like an empty one. What a caller nests a hundred deep needs more than the usual stack
    /// of 32 KiB: write `stack: 256KiB` into `pack.yaml`; and [`crate::json_values`] tells beforehand what it costs.
    pub fn body_json<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        serde_json::from_slice(&self.body().unwrap_or_default())
    }

    /// The size of the body in bytes, as far as it is known: announced by the client, or read already.
    pub fn body_size(&self) -> Option<u64> {
        self.lent.body_size()
    }

    /// The address of the peer of the connection, such as `192.0.2.7` or `2001:db8::7`.
    pub fn client_address(&self) -> String {
        self.lent.client_address()
    }

    /// The same, parsed. An IPv4 peer of a dual-stack listener, `::ffff:192.0.2.7`, is the IPv4 address that it is.
    pub fn client_ip(&self) -> Option<IpAddr> {
        self.client_address().parse().ok().map(|address: IpAddr| address.to_canonical())
    }

    /// The id of the matched route.
    pub fn route(&self) -> String {
        self.lent.route()
    }

    /// The resolved version of the API.
    pub fn version(&self) -> String {
        self.lent.version()
    }

    /// The id of the caller's tenant.
    pub fn tenant(&self) -> String {
        self.lent.tenant()
    }

    /// The id of the tenant's plan.
    pub fn plan(&self) -> String {
        self.lent.plan()
    }

    /// The id of the caller's consumer.
    pub fn consumer(&self) -> String {
        self.lent.consumer()
    }

    /// What the caller's credential may do; sorted, without repeats.
    pub fn scopes(&self) -> Vec<String> {
        self.lent.scopes()
    }

    /// Whether the caller's credential may do this.
    pub fn has_scope(&self, scope: &str) -> bool {
        self.scopes().iter().any(|held| held == scope)
    }

    /// A claim of the caller's JWT as JSON text; `None` when there is no such claim or the credential is of another kind.
    pub fn claim(&self, name: &str) -> Option<String> {
        self.lent.claim(name)
    }

    /// A claim of the caller's JWT, where it is one that reads as `T`.
    pub fn claim_as<T: DeserializeOwned>(&self, name: &str) -> Option<T> {
        serde_json::from_str(&self.claim(name)?).ok()
    }

    /// The time of the exchange, in microseconds since the Unix epoch. It stands still while a pack decides, and is the same
    /// for every pack. Capability `clock`.
    pub fn now(&self) -> u64 {
        self.lent.now()
    }

    /// The same in this time zone (IANA name), or in that of the caller's tenant when `None`; nothing for a zone that is not
    /// known. Capability `clock`.
    pub fn local_time(&self, zone: Option<&str>) -> Option<LocalTime> {
        self.lent.local_time(zone)
    }

    /// The next 64 random bits, seeded by the request: the same request gets the same ones, whichever version of the pack
    /// asks. Capability `random`.
    pub fn random(&self) -> u64 {
        self.lent.random()
    }

    /// What operators keep for the pack under this key. One exchange sees one state of it. Capability `data`.
    pub fn data(&self, key: &str) -> Option<Vec<u8>> {
        self.lent.data(key)
    }

    /// Adds to a counter of the pack for the caller's tenant, on this node, and tells what it is then; `None` when there are
    /// more than 64. A pack that only observes changes nothing: it is told what the counter would be. Capability `counters`.
    pub fn count(&self, name: &str, by: u64) -> Option<u64> {
        self.lent.count(name, by)
    }
}

impl Response {
    /// The status.
    pub fn status(&self) -> u16 {
        self.lent.status()
    }

    /// The first line of this header.
    pub fn header(&self, name: &str) -> Option<Vec<u8>> {
        self.lent.header(name)
    }

    /// The first line of this header, where it is text.
    pub fn header_text(&self, name: &str) -> Option<String> {
        self.header(name).and_then(|value| String::from_utf8(value).ok())
    }

    /// Every line of this header, in order.
    pub fn headers_all(&self, name: &str) -> Vec<Vec<u8>> {
        self.lent.headers_all(name)
    }

    /// The names of the headers, in lower case, each once.
    pub fn header_names(&self) -> Vec<String> {
        self.lent.header_names()
    }

    /// The body, where the manifest asks for it (`body: [response]`); `None` for any other pack.
    pub fn body(&self) -> Option<Vec<u8>> {
        self.lent.body()
    }

    /// The body, read as JSON. No body reads like an empty one.
    pub fn body_json<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        serde_json::from_slice(&self.body().unwrap_or_default())
    }
}
