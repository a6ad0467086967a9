//! From a module to a pack file, and from a file to something that decides: on packs that are built from `policies/`, on
//! small ones in text, and in real child processes.

mod cache;
mod file;
mod module;
mod prepare;
mod trial;
mod worker;

use std::path::PathBuf;
use std::sync::{Arc, LazyLock};

use http::{HeaderName, HeaderValue, Method};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use model::{Head, Identity};
use pack_host::worker::Worker;
use pack_host::{
    ABI, Caps, Counters, Counting, Failure, Grants, Host, HostSettings, Interface, LogGate,
    Manifest, NamedVector, Package, PolicyRequest, Prepared,
};
use serde_json::{Value, json};

/// A pack that allows everything, as core module: what `%imports%`, `%configure%` and `%decide%` do is filled in.
const PLAIN: &str = r#"(module
  %imports%
  (memory (export "memory") 1)
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) i32.const 1024)
  (func (export "configure") (param i32 i32) (result i32) %configure% i32.const 16)
  (func (export "on-request") (param i32) (result i32) %decide% i32.const 32))"#;

/// A host that compiles in child processes.
static HOST: LazyLock<Arc<Host>> = LazyLock::new(|| host(process()));

/// The worker that stands in this crate in place of `tollgate pack-worker`.
fn process() -> Worker {
    Worker::Process(PathBuf::from(env!("CARGO_BIN_EXE_pack-worker")))
}

fn host(worker: Worker) -> Arc<Host> {
    Host::new(HostSettings::small(worker)).expect("a host")
}

fn manifest(about: Value) -> Manifest {
    let mut manifest = json!({
        "name": "pack",
        "version": "1.0.0",
        "abi": ABI,
        "phases": ["request"],
    });
    let fields = about.as_object().expect("an object").clone();
    manifest.as_object_mut().expect("an object").extend(fields);
    serde_json::from_value(manifest).expect("a manifest")
}

fn plain(imports: &str, configure: &str, decide: &str) -> Vec<u8> {
    let text = PLAIN.replace("%imports%", imports);
    let text = text.replace("%configure%", configure).replace("%decide%", decide);
    wat::parse_str(text).expect("a module")
}

fn vector(name: &str, written: &Value) -> NamedVector {
    NamedVector::parse(name, written.to_string().as_bytes()).expect("a vector")
}

/// A package of this module, with all that the module uses in its manifest.
fn package(module: &[u8], schema: Option<Value>, vectors: &[(&str, Value)]) -> Package {
    let interface = Interface::of(module).expect("an interface");
    let named = |imports: &str| interface.imports.iter().any(|import| import.contains(imports));
    let phases = [("cost", "cost"), ("on-request", "request"), ("on-response", "response")];
    let phases =
        phases.iter().filter(|(export, _)| interface.exports.iter().any(|has| has == export));
    let capabilities = ["log", "clock", "random", "data", "counters"];
    let manifest = manifest(json!({
        "phases": phases.map(|(_, phase)| phase).collect::<Vec<_>>(),
        "body": interface.body,
        "capabilities": capabilities.iter().filter(|name| named(&format!("/{name}@"))).collect::<Vec<_>>(),
    }));
    let vectors = vectors.iter().map(|(name, written)| vector(name, written)).collect();
    Package::build(manifest, module.to_vec(), schema, vectors).expect("a pack")
}

/// The misbehaving pack.
fn misbehave(vectors: &[(&str, Value)]) -> Package {
    package(demo::MISBEHAVE, None, vectors)
}

/// What it takes to ask, beside the question.
fn decide(prepared: &Prepared, request: &Arc<PolicyRequest>) -> Result<model::Decision, Failure> {
    let (counters, log) = (Arc::new(Counters::default()), Arc::new(LogGate::default()));
    let grants = Grants {
        caps: Caps::default(),
        data: &Arc::default(),
        counters: Counting::Acting(&counters),
        log: &log,
    };
    prepared.on_request(request, &grants)
}

/// A request with these headers.
fn request(headers: &[(&'static str, &'static str)]) -> Arc<PolicyRequest> {
    let headers = headers
        .iter()
        .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
    let head = Head {
        method: Method::GET,
        path: "/v1/contacts".to_owned(),
        query: None,
        authority: "api.example".to_owned(),
        headers: headers.collect(),
        client: [192, 0, 2, 7].into(),
    };
    let identity = Identity {
        tenant: "acme".into(),
        consumer: "acme-mobile".into(),
        subject: "user-1".to_owned(),
        credential: "k1".to_owned(),
        scopes: Vec::new(),
        claims: Arc::new(json!({})),
    };
    Arc::new(PolicyRequest {
        head: Arc::new(head),
        body: None,
        body_size: None,
        identity: Arc::new(identity),
        plan: "gold".into(),
        timezone: TimeZone::UTC,
        route: "contacts.list".into(),
        version: "v1".into(),
        request_id: "req-1".into(),
        now: Timestamp::UNIX_EPOCH,
    })
}
