//! How packs run, on a pack that is built from `policies/` and does as its settings say.

mod decide;
mod garbled;
mod given;
mod limits;
mod reuse;

use std::num::NonZeroU32;
use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use model::document::PhaseName;
use model::{Decision, Denial, FailureReason, Head, HeaderEdit, Identity};
use pack_host::worker::Worker;
use pack_host::{
    BodyOf, Capability, Caps, Counters, Counting, Failure, Grants, Host, HostSettings, Limits,
    LogGate, Manifest, Pack, PackData, PackError, Package, PolicyRequest, PolicyResponse, Prepared,
    componentize,
};
use serde_json::{Value, json};

static HOST: LazyLock<Arc<Host>> = LazyLock::new(|| host(64));
static MISBEHAVE: LazyLock<Arc<Pack>> =
    LazyLock::new(|| HOST.load(package("misbehave", demo::MISBEHAVE)));
/// The same, with an addition (a nested component that nothing uses) for which no memory image can be taken of it.
static CONFIGURED_EACH_TIME: LazyLock<Arc<Pack>> = LazyLock::new(|| {
    let mut component = componentize(demo::MISBEHAVE).expect("a component");
    component.extend_from_slice(b"\x04\x12\0asm\x0d\0\x01\0\x01\x08\0asm\x01\0\0\0");
    HOST.load(package("misbehave-without-image", &component))
});

/// A host with room for so many decisions at one time.
fn host(instances: u32) -> Arc<Host> {
    Host::new(HostSettings::new(instances, Worker::Here)).expect("a host")
}

fn package(name: &str, module: &[u8]) -> Package {
    let manifest = Manifest {
        name: name.into(),
        version: "1.0.0".to_owned(),
        abi: pack_host::ABI.to_owned(),
        phases: vec![PhaseName::Cost, PhaseName::Request, PhaseName::Response],
        body: vec![BodyOf::Request, BodyOf::Response],
        capabilities: Capability::ALL.to_vec(),
        limits: model::document::PackLimits::default(),
    };
    Package::build(manifest, module.to_vec(), None, Vec::new()).expect("a package")
}

/// A pack that misbehaves as told, under the default limits, in fresh instances.
fn misbehave(settings: Value) -> Arc<Prepared> {
    MISBEHAVE.prepare(&settings, Limits::default(), None).expect("good settings")
}

/// A request that tells a pack with the settings `{"how":"told"}` how to misbehave: one preparation serves many ways.
fn telling(how: &Value) -> Arc<PolicyRequest> {
    request(&[("x-how", how.to_string().as_bytes())])
}

/// The same, in instances that make so many decisions.
fn reusing(settings: Value, decisions: u32) -> Arc<Prepared> {
    let reuse = NonZeroU32::new(decisions);
    MISBEHAVE.prepare(&settings, Limits::default(), reuse).expect("good settings")
}

/// What calls are given beside the exchange.
#[derive(Default)]
struct Given {
    caps: Caps,
    data: Arc<PackData>,
    counters: Arc<Counters>,
    log: Arc<LogGate>,
}

impl Given {
    fn grants(&self) -> Grants<'_> {
        let counters = Counting::Acting(&self.counters);
        Grants { caps: self.caps, data: &self.data, counters, log: &self.log }
    }
}

fn on_request(pack: &Prepared, request: &Arc<PolicyRequest>) -> Result<Decision, Failure> {
    pack.on_request(request, &Given::default().grants())
}

fn on_response(
    pack: &Prepared,
    request: &Arc<PolicyRequest>,
    response: &Arc<PolicyResponse>,
) -> Result<Decision, Failure> {
    pack.on_response(request, response, &Given::default().grants())
}

fn header_map(headers: &[(&'static str, &[u8])]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        map.append(*name, http::HeaderValue::from_bytes(value).expect("a value"));
    }
    map
}

/// A request with these headers.
fn request(headers: &[(&'static str, &[u8])]) -> Arc<PolicyRequest> {
    let head = Head {
        method: Method::POST,
        path: "/v1/contacts/a%20b".to_owned(),
        query: Some("limit=10&q=a+b%2Fc&q=second&bad=%FF".to_owned()),
        authority: "api.example".to_owned(),
        headers: header_map(headers),
        client: "192.0.2.7".parse().expect("an address"),
    };
    let identity = Identity {
        tenant: "acme".into(),
        consumer: "acme-mobile".into(),
        subject: "user-1".to_owned(),
        credential: "k1".to_owned(),
        scopes: vec!["contacts:read".into(), "contacts:write".into()],
        claims: Arc::new(json!({ "sub": "user-1", "org": { "id": 7 } })),
    };
    Arc::new(PolicyRequest {
        head: Arc::new(head),
        body: Some(Bytes::from_static(b"{\"name\":\"\xff\"}")),
        body_size: Some(12),
        identity: Arc::new(identity),
        plan: "gold".into(),
        timezone: TimeZone::get("Europe/Berlin").expect("a time zone"),
        route: "contacts.create".into(),
        version: "v1".into(),
        request_id: "req-1".into(),
        now: "2026-11-21T22:30:15.25Z".parse::<Timestamp>().expect("a time"),
    })
}

/// A request with this body.
fn with_body(body: impl Into<Bytes>) -> Arc<PolicyRequest> {
    let body = body.into();
    let mut request = PolicyRequest::clone(&request(&[]));
    request.body_size = u64::try_from(body.len()).ok();
    request.body = Some(body);
    Arc::new(request)
}

/// A response with these headers.
fn response(headers: &[(&'static str, &[u8])]) -> Arc<PolicyResponse> {
    Arc::new(PolicyResponse {
        status: StatusCode::CREATED,
        headers: Arc::new(header_map(headers)),
        body: Some(Bytes::from_static(b"made")),
    })
}

/// The denial that this must be.
#[track_caller]
fn denied(outcome: Result<Decision, Failure>) -> Denial {
    let denial = match outcome {
        Ok(Decision::Deny(denial)) => Ok(denial),
        other => Err(other),
    };
    denial.expect("a denial")
}

/// The value that the decision sets this header to.
#[track_caller]
fn header_set(outcome: Result<Decision, Failure>, name: &str) -> String {
    let edits = match outcome {
        Ok(Decision::Edit(edits)) => Ok(edits),
        other => Err(other),
    };
    let edits = edits.expect("edits");
    let mut headers = HeaderMap::new();
    edits.apply(&mut headers);
    let value = headers.get(name).and_then(|value| value.to_str().ok());
    value.expect("the header").to_owned()
}
