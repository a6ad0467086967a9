//! How packs run, on the packs that are built from `policies/`.

mod decide;
mod limits;
mod prepare;

use std::sync::{Arc, LazyLock};

use http::{HeaderMap, Method};
use model::{Decision, Denial, Head, HeaderEdit, Identity};
use pack_host::{
    Failure, Host, HostSettings, Limits, Pack, PackError, PolicyRequest, Prepared, componentize,
};
use serde_json::{Value, json};

static HOST: LazyLock<Arc<Host>> =
    LazyLock::new(|| Host::new(HostSettings::default()).expect("a host"));
static MISBEHAVE: LazyLock<Pack> =
    LazyLock::new(|| HOST.compile("misbehave@1.0.0", demo::MISBEHAVE).expect("a pack"));
/// The same, with an addition (a nested component that nothing uses) for which no memory image can be taken of it.
static CONFIGURED_EACH_TIME: LazyLock<Pack> = LazyLock::new(|| {
    let mut component = componentize(demo::MISBEHAVE).expect("a component");
    component.extend_from_slice(b"\x04\x12\0asm\x0d\0\x01\0\x01\x08\0asm\x01\0\0\0");
    HOST.compile("misbehave-without-image", &component).expect("a pack")
});
static REQUIRE_HEADER: LazyLock<Pack> = LazyLock::new(|| compile_demo("require-header"));

fn compile_demo(name: &str) -> Pack {
    let pack = demo::PACKS.iter().find(|pack| pack.name == name).expect("a demo pack");
    HOST.compile(name, pack.wasm).expect("a pack")
}

/// A pack that misbehaves as told, under the default limits.
fn misbehave(settings: Value) -> Prepared {
    MISBEHAVE.prepare(&settings, Limits::default()).expect("good settings")
}

fn require_header(header: &str) -> Prepared {
    REQUIRE_HEADER.prepare(&json!({ "header": header }), Limits::default()).expect("good settings")
}

/// A request with these headers.
fn request(headers: &[(&'static str, &[u8])]) -> Arc<PolicyRequest> {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        map.append(*name, http::HeaderValue::from_bytes(value).expect("a value"));
    }
    let head = Head {
        method: Method::POST,
        path: "/v1/contacts/a%20b".to_owned(),
        query: Some("limit=10&q=a+b%2Fc&q=second&bad=%FF".to_owned()),
        authority: "api.example".to_owned(),
        headers: map,
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
        identity: Arc::new(identity),
        route: "contacts.create".into(),
        version: "v1".into(),
        request_id: "req-1".into(),
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
