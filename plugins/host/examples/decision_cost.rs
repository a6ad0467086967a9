//! What a decision costs: thread CPU time of `require-header` reading five headers, a fresh instance each time.
//!
//! `cargo run --release -p pack-host --example decision_cost`. Unix only. Read the ratio between the rows, and the
//! minimum: a busy machine adds to the rest.
#![allow(clippy::print_stdout, reason = "it reports to a terminal")]

use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{HeaderMap, HeaderValue, Method};
use model::{Head, Identity};
use pack_host::{Host, HostSettings, Limits, PolicyRequest, Prepared, componentize};
use rustix::time::{ClockId, clock_gettime};
use serde_json::json;

const HEADERS: [&str; 5] = ["x-correlation-id", "x-tenant", "x-client", "x-trace", "accept"];
const BATCHES: usize = 30;
const DECISIONS: u32 = 2_000;

fn main() -> Result<(), Box<dyn Error>> {
    let pack = demo::PACKS.iter().find(|pack| pack.name == "require-header").ok_or("no pack")?;
    let host = Host::new(HostSettings::default())?;
    let [first, also @ ..] = HEADERS;
    let settings = json!({ "header": first, "also": also });
    let request = request();

    println!("require-header, five headers, fresh instance, µs of thread CPU per decision");
    println!("{:<22} {:>8} {:>8} {:>8} {:>12}", "start", "min", "median", "fuel", "prepare ms");
    for (start, wasm) in [
        ("from a memory image", pack.wasm.to_vec()),
        ("configured each time", without_image(pack.wasm)?),
    ] {
        let pack = host.compile("bench", &wasm)?;
        let began = Instant::now();
        let prepared = pack.prepare(&settings, Limits::default())?;
        let took = began.elapsed().as_secs_f64() * 1e3;
        let fuel = prepared.on_request_measured(&request).fuel;
        let mut batches = Vec::new();
        for _ in 0..BATCHES {
            batches.push(batch(&prepared, &request)?);
        }
        batches.sort_by(f64::total_cmp);
        let at = |index: usize| batches.get(index).copied().unwrap_or(f64::NAN);
        let (min, median) = (at(0), at(BATCHES / 2));
        println!("{start:<22} {min:>8.2} {median:>8.2} {fuel:>8} {took:>12.1}");
    }
    Ok(())
}

/// Microseconds per decision.
fn batch(prepared: &Prepared, request: &Arc<PolicyRequest>) -> Result<f64, Box<dyn Error>> {
    let before = thread_cpu();
    for _ in 0..DECISIONS {
        prepared.on_request(request)?;
    }
    Ok((thread_cpu() - before).as_secs_f64() * 1e6 / f64::from(DECISIONS))
}

/// How long this thread has run.
fn thread_cpu() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
    Duration::from_secs(seconds)
        + Duration::from_nanos(u64::try_from(time.tv_nsec).unwrap_or_default())
}

/// The same pack with an addition (a nested component that nothing uses) that keeps the host from taking an image.
fn without_image(module: &[u8]) -> Result<Vec<u8>, Box<dyn Error>> {
    let mut component = componentize(module)?;
    component.extend_from_slice(b"\x04\x12\0asm\x0d\0\x01\0\x01\x08\0asm\x01\0\0\0");
    Ok(component)
}

fn request() -> Arc<PolicyRequest> {
    let mut headers = HeaderMap::new();
    for name in HEADERS {
        headers.insert(name, HeaderValue::from_static("0199a3c8-1f0e-7c11-9d6a-3f2b8f9f1c22"));
    }
    let head = Head {
        method: Method::POST,
        path: "/v1/contacts".to_owned(),
        query: None,
        authority: "api.example".to_owned(),
        headers,
        client: std::net::Ipv4Addr::LOCALHOST.into(),
    };
    let identity = Identity {
        tenant: "acme".into(),
        consumer: "acme-mobile".into(),
        subject: "acme-mobile".to_owned(),
        credential: "k1".to_owned(),
        scopes: Vec::new(),
        claims: Arc::new(json!({})),
    };
    Arc::new(PolicyRequest {
        head: Arc::new(head),
        identity: Arc::new(identity),
        route: "contacts.create".into(),
        version: "v1".into(),
        request_id: "req-1".into(),
    })
}
