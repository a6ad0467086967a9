//! What webhooks cost: accepting an event, delivering it, and how long it takes from the one to the other.
//!
//! Invariants: a dispatcher of its own for each measurement, on a database of its own that keeps what it was told over a
//! power cut; the time of every process that takes part counts, but for the endpoint and whoever sends. A run counts only
//! when every event was accepted and every delivery arrived.

mod sink;

use crate::chain::{Place, free_address, ready, write_json};
use crate::load::{self, Load};
use crate::process::{Cpu, Process};
use crate::report::{Spread, percentile};
use crate::{Outcome, Settings, say};
use serde::Serialize;
use serde_json::{Value, json};
use sink::Sink;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// What is aimed at, on this kind of machine: milliseconds of processor time for a delivery.
const CPU_MS_AIM: f64 = 0.3;
/// The same: events accepted a second.
const ACCEPTED_AIM: f64 = 5_000.0;
/// The same: milliseconds from accepting to the first attempt at half load, 99th percentile.
const LATENCY_MS_AIM: f64 = 50.0;

/// Endpoints of an event.
const FAN_OUTS: [usize; 2] = [1, 3];
/// Longest start of a dispatcher.
const START_MAX: Duration = Duration::from_secs(60);
/// Longest wait for the last delivery.
const DRAIN_MAX: Duration = Duration::from_secs(120);
/// How long half load is offered.
const STEADY: Duration = Duration::from_secs(10);
/// Half load is never more than this, in events a second: who sends shares the machine.
const STEADY_MAX: f64 = 2_000.0;
/// Connections that offer half load.
const SENDERS: usize = 16;
/// Between two looks at what arrived.
const LOOK: Duration = Duration::from_millis(5);
/// What the length of an event is brought to, in bytes.
const EVENT_BYTES: usize = 480;
/// TEST ONLY: what deliveries are signed with.
const SECRET: &str = "whsec_VEVTVCBPTkxZOiBzaWducyBiZW5jaCB3ZWJob29rcyE=";

/// All that was measured.
#[derive(Debug, Serialize)]
pub(crate) struct Delivered {
    ingest: Vec<Ingest>,
    drains: Vec<Drain>,
    steady: Vec<Steady>,
    summary: Summary,
}

/// Events accepted, each in a request of its own.
#[derive(Debug, Serialize)]
struct Ingest {
    round: u32,
    connections: u32,
    events: usize,
    per_second: f64,
    cpu_us: f64,
    p50_ms: f64,
    p99_ms: f64,
}

/// A backlog, delivered.
#[derive(Debug, Serialize)]
struct Drain {
    round: u32,
    fan_out: usize,
    deliveries: u64,
    /// From the first arrival to the last.
    per_second: f64,
    cpu_ms: f64,
    resident_kib: u64,
}

/// Events accepted and delivered at half of what a drain reached.
#[derive(Debug, Serialize)]
struct Steady {
    round: u32,
    offered_per_second: f64,
    events: usize,
    /// Until the first attempt arrives, from when the event was sent: accepting it is within.
    p50_ms: f64,
    p99_ms: f64,
    /// The same from its 202.
    after_p99_ms: f64,
    cpu_ms: f64,
}

#[derive(Debug, Serialize)]
struct Summary {
    accepted_per_second: Spread,
    accepting_cpu_us: Spread,
    /// By fan-out.
    delivered_per_second: Vec<(usize, Spread)>,
    delivery_cpu_ms: Vec<(usize, Spread)>,
    latency_p99_ms: Spread,
    after_p99_ms: Spread,
}

/// Measures in each round: accepting, a backlog at each fan-out, half load.
pub(crate) async fn measure(place: &Place<'_>) -> Outcome<Delivered> {
    let (mut ingest, mut drains, mut steady) = (Vec::new(), Vec::new(), Vec::new());
    for round in 1..=place.settings.rounds {
        let accepted = accept(place, round).await?;
        say(&format!(
            "round {round}: accepted {:.0}/s, {:.0} µs",
            accepted.per_second, accepted.cpu_us
        ));
        ingest.push(accepted);
        let mut reached = f64::NAN;
        for fan_out in FAN_OUTS {
            let drain = drain(place, round, fan_out).await?;
            say(&format!(
                "round {round}: fan-out {fan_out}: {:.0} deliveries/s, {:.3} ms each",
                drain.per_second, drain.cpu_ms
            ));
            if fan_out == 1 {
                reached = drain.per_second;
            }
            drains.push(drain);
        }
        let run = at_half_load(place, round, (reached / 2.0).min(STEADY_MAX)).await?;
        say(&format!(
            "round {round}: {:.0}/s offered: p50 {:.1} ms, p99 {:.1} ms",
            run.offered_per_second, run.p50_ms, run.p99_ms
        ));
        steady.push(run);
    }
    let summary = Summary::of(&ingest, &drains, &steady);
    Ok(Delivered { ingest, drains, steady, summary })
}

/// A process with the roles admin and dispatcher, or admin alone.
struct Node {
    process: Process,
    admin: SocketAddr,
    token: String,
}

impl Node {
    /// Starts one on this folder, whose events go to these endpoints.
    async fn start(
        place: &Place<'_>,
        folder: &Path,
        roles: &[&str],
        endpoints: &[SocketAddr],
    ) -> Outcome<Self> {
        std::fs::create_dir_all(folder)?;
        let document = write_json(&folder.join("document.yaml"), &document(endpoints))?;
        let (admin, dispatcher, status) = (free_address()?, free_address()?, free_address()?);
        let settings = json!({
            "roles": roles,
            "listen": { "admin": admin, "dispatcher": dispatcher, "status": status },
            "data": folder,
            "document": { "file": document },
            "webhooks": { "allow_private": ["127.0.0.0/8"] },
        });
        let config = write_json(&folder.join("tollgate.yaml"), &settings)?;
        let mut command = Command::new(place.programs.join("tollgate"));
        command.args(["serve", "--config"]).arg(config).env("TOLLGATE_LOG", "warn");
        command.env("TOLLGATE_SECRET_BENCH", SECRET);
        let mut process = Process::start("dispatcher", &mut command, &folder.join("log"))?;
        ready(&mut process, status, "/readyz", START_MAX).await?;
        let token = std::fs::read_to_string(folder.join("admin.token"))?.trim().to_owned();
        Ok(Self { process, admin, token })
    }

    /// A request with one event, numbered when it is sent.
    fn post(&self, number: &str) -> Arc<[u8]> {
        let event = event(number);
        format!(
            "POST /v1/events HTTP/1.1\r\nhost: bench.example\r\nauthorization: Bearer {}\r\n\
             content-type: application/cloudevents+json\r\ncontent-length: {}\r\n\r\n{event}",
            self.token,
            event.len()
        )
        .into_bytes()
        .into()
    }
}

/// One tenant with these endpoints.
fn document(endpoints: &[SocketAddr]) -> Value {
    let endpoints: Vec<Value> = endpoints
        .iter()
        .enumerate()
        .map(|(at, address)| {
            json!({
                "id": format!("sink-{at}"), "tenant": "acme", "url": format!("http://{address}/{at}"),
                "events": ["contact.*"], "secret": { "env": "TOLLGATE_SECRET_BENCH" },
                "concurrency": 64,
            })
        })
        .collect();
    json!({
        "format": 1,
        "plans": [{ "id": "gold", "limits": [], "events": { "rate": "1000000/s", "backlog": 10_000_000 } }],
        "tenants": [{ "id": "acme", "plan": "gold", "state": "active" }],
        "endpoints": endpoints,
    })
}

/// An event of 480 bytes.
fn event(number: &str) -> String {
    let whole = |notes: &str| {
        json!({
            "specversion": "1.0", "id": number, "source": "/bench", "type": "contact.created",
            "tenant": "acme", "subject": "contact", "time": "2026-11-21T12:00:00Z",
            "data": { "number": number, "notes": notes },
        })
        .to_string()
    };
    whole(&"x".repeat(EVENT_BYTES.saturating_sub(whole("").len())))
}

/// What the answer to an event is like: its length.
fn answer_bytes() -> u32 {
    let id = "evt_00000000000000000000000000000000";
    let answer =
        json!({ "accepted": [{ "source": "/bench", "id": load::NUMBERED, "webhook_id": id }] });
    u32::try_from(answer.to_string().len()).unwrap_or(u32::MAX)
}

fn folder(place: &Place<'_>, name: &str, round: u32) -> Outcome<PathBuf> {
    Ok(std::path::absolute(place.folder)?.join(format!("webhooks-{name}-{round}")))
}

/// Sends events over many connections, one at a time on each.
async fn send(node: &Node, settings: &Settings) -> Outcome<load::Answers> {
    let settings = Settings { bytes: answer_bytes(), ..settings.clone() };
    let load = Load::open(node.admin, &[node.post(load::NUMBERED)], &settings).await?;
    let answers = load.run().await?;
    let accepted = answers.statuses.get(&202).copied().unwrap_or_default();
    let sent: u64 = answers.statuses.values().sum();
    match accepted == sent && answers.errors.is_empty() {
        true => Ok(answers),
        false => {
            Err(format!("not all was accepted: {:?} {:?}", answers.statuses, answers.errors).into())
        }
    }
}

async fn accept(place: &Place<'_>, round: u32) -> Outcome<Ingest> {
    let folder = folder(place, "accept", round)?;
    let node = Node::start(place, &folder, &["admin", "dispatcher"], &[]).await?;
    let before = Cpu::of(&node.process)?;
    let answers = send(&node, place.settings).await?;
    let cpu = Cpu::of(&node.process)?.since(before);
    let events = answers.latencies.len();
    drop(node);
    std::fs::remove_dir_all(&folder)?;
    Ok(Ingest {
        round,
        connections: place.settings.connections,
        events,
        per_second: number(events) / answers.elapsed.as_secs_f64(),
        cpu_us: cpu.total() * 1e6 / number(events),
        p50_ms: percentile(&answers.latencies, 50),
        p99_ms: percentile(&answers.latencies, 99),
    })
}

/// Fills a backlog with no dispatcher there, then starts one.
async fn drain(place: &Place<'_>, round: u32, fan_out: usize) -> Outcome<Drain> {
    let folder = folder(place, &format!("drain-{fan_out}"), round)?;
    let sink = Sink::open(0).await?;
    let endpoints = vec![sink.address; fan_out];
    let node = Node::start(place, &folder, &["admin"], &endpoints).await?;
    let events = send(&node, place.settings).await?.latencies.len();
    drop(node);
    let deliveries = u64::try_from(events * fan_out)?;
    let mut first = None;
    let started = Instant::now();
    // Its start counts as well: it is delivering by the time that it says that it is ready.
    let node = Node::start(place, &folder, &["admin", "dispatcher"], &endpoints).await?;
    while sink.arrivals.count() < deliveries {
        if sink.arrivals.count() > 0 {
            first.get_or_insert_with(|| sink.arrivals.now());
        }
        if started.elapsed() > DRAIN_MAX {
            return Err(format!("{} of {deliveries} arrived", sink.arrivals.count()).into());
        }
        tokio::time::sleep(LOOK).await;
    }
    let nanos = sink.arrivals.latest().saturating_sub(first.unwrap_or_default());
    let took = Duration::from_nanos(nanos);
    // What is left to write is written.
    tokio::time::sleep(Duration::from_millis(200)).await;
    let cpu = Cpu::of(&node.process)?;
    let resident_kib = node.process.resident_kib()?;
    drop(node);
    std::fs::remove_dir_all(&folder)?;
    let delivered = f64::from(u32::try_from(deliveries)?);
    Ok(Drain {
        round,
        fan_out,
        deliveries: sink.arrivals.count(),
        per_second: delivered / took.as_secs_f64(),
        cpu_ms: cpu.total() * 1e3 / delivered,
        resident_kib,
    })
}

/// Offers so many events a second, whatever comes back when, and looks when they arrive.
async fn at_half_load(place: &Place<'_>, round: u32, per_second: f64) -> Outcome<Steady> {
    let folder = folder(place, "steady", round)?;
    let numbers = count(per_second * STEADY.as_secs_f64());
    let sink = Sink::open(numbers).await?;
    let node = Node::start(place, &folder, &["admin", "dispatcher"], &[sink.address]).await?;
    let before = Cpu::of(&node.process)?;
    let mut senders = JoinSet::new();
    let began = tokio::time::Instant::now();
    for sender in 0..SENDERS {
        let requests: Vec<(usize, Arc<[u8]>)> = (sender..numbers)
            .step_by(SENDERS)
            .map(|at| (at, node.post(&format!("{at:016}"))))
            .collect();
        let (address, arrivals) = (node.admin, sink.arrivals.clone());
        senders.spawn(async move {
            let mut connection = load::Client::open(address, Arc::from([]), 0).await?;
            let mut times = Vec::with_capacity(requests.len());
            for (at, request) in requests {
                tokio::time::sleep_until(began + Duration::from_secs_f64(number(at) / per_second))
                    .await;
                let sent = arrivals.now();
                let status = connection.send_this(&request).await?;
                if status != 202 {
                    return Err(format!("an event was answered with {status}").into());
                }
                times.push((at, sent, arrivals.now()));
            }
            Ok::<_, Box<dyn std::error::Error + Send + Sync>>(times)
        });
    }
    let mut times = Vec::new();
    while let Some(sent) = senders.join_next().await {
        times.extend(sent??);
    }
    let waiting = Instant::now();
    while sink.arrivals.count() < u64::try_from(numbers)? {
        if waiting.elapsed() > DRAIN_MAX {
            return Err(format!("{} of {numbers} arrived", sink.arrivals.count()).into());
        }
        tokio::time::sleep(LOOK).await;
    }
    let cpu = Cpu::of(&node.process)?.since(before);
    let latency = |from: fn(&(usize, u64, u64)) -> u64| {
        let mut micros: Vec<u32> = times
            .iter()
            .filter_map(|time| {
                let arrived = sink.arrivals.first(time.0)?;
                Some(u32::try_from(arrived.saturating_sub(from(time)) / 1_000).unwrap_or(u32::MAX))
            })
            .collect();
        micros.sort_unstable();
        micros
    };
    let (whole, after) = (latency(|time| time.1), latency(|time| time.2));
    drop(node);
    std::fs::remove_dir_all(&folder)?;
    Ok(Steady {
        round,
        offered_per_second: per_second,
        events: whole.len(),
        p50_ms: percentile(&whole, 50),
        p99_ms: percentile(&whole, 99),
        after_p99_ms: percentile(&after, 99),
        cpu_ms: cpu.total() * 1e3 / number(numbers),
    })
}

fn number(n: usize) -> f64 {
    f64::from(u32::try_from(n).unwrap_or(u32::MAX))
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is some thousands")]
fn count(n: f64) -> usize {
    n as usize
}

impl Summary {
    fn of(ingest: &[Ingest], drains: &[Drain], steady: &[Steady]) -> Self {
        let of = |fan_out: usize| drains.iter().filter(move |drain| drain.fan_out == fan_out);
        Self {
            accepted_per_second: Spread::of(ingest.iter().map(|run| run.per_second)),
            accepting_cpu_us: Spread::of(ingest.iter().map(|run| run.cpu_us)),
            delivered_per_second: FAN_OUTS
                .map(|fan_out| (fan_out, Spread::of(of(fan_out).map(|run| run.per_second))))
                .into(),
            delivery_cpu_ms: FAN_OUTS
                .map(|fan_out| (fan_out, Spread::of(of(fan_out).map(|run| run.cpu_ms))))
                .into(),
            latency_p99_ms: Spread::of(steady.iter().map(|run| run.p99_ms)),
            after_p99_ms: Spread::of(steady.iter().map(|run| run.after_p99_ms)),
        }
    }
}

impl Delivered {
    /// The table, with what one must know to read it.
    pub(crate) fn markdown(&self) -> String {
        let summary = &self.summary;
        let mut text =
            "| webhooks | measured, median (min–max) | aim |\n|---|---|---|\n".to_owned();
        let mut row = |what: String, measured: String, aim: String| {
            // Writing to a string can't fail.
            let _ = writeln!(text, "| {what} | {measured} | {aim} |");
        };
        row(
            "events accepted a second, one in a request".to_owned(),
            format!("{:.0}", summary.accepted_per_second),
            format!("≥ {ACCEPTED_AIM:.0}"),
        );
        row(
            "CPU µs of accepting one".to_owned(),
            format!("{:.0}", summary.accepting_cpu_us),
            String::new(),
        );
        for (fan_out, per_second) in &summary.delivered_per_second {
            row(
                format!("deliveries a second, fan-out {fan_out}"),
                format!("{per_second:.0}"),
                String::new(),
            );
        }
        for (fan_out, cpu) in &summary.delivery_cpu_ms {
            row(
                format!("CPU ms of a delivery, fan-out {fan_out}"),
                format!("{cpu:.3}"),
                format!("≤ {CPU_MS_AIM}"),
            );
        }
        row(
            "ms from sending an event to its first attempt, half load, p99".to_owned(),
            format!("{:.1}", summary.latency_p99_ms),
            format!("< {LATENCY_MS_AIM:.0}"),
        );
        row(
            "the same from its 202".to_owned(),
            format!("{:.1}", summary.after_p99_ms),
            String::new(),
        );
        let _ = writeln!(
            text,
            "\nWebhooks: SQLite that is synced at each commit, events of {EVENT_BYTES} B, signatures on, an endpoint on loopback \
             that answers at once; who sends and who receives share the machine and are not counted.\n"
        );
        text
    }
}
