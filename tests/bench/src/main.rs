//! What a request costs, the gateway beside a bare pingora, in one run, in turns; and what many tenants, policy packs,
//! decisions about limits, idempotency keys and webhooks cost.
//!
//! Invariant: every chain gets the same number of requests in every round, and a run counts only when every answer was a
//! 2xx of the expected length.

mod chain;
mod counters;
mod keys;
mod load;
mod machine;
mod packs;
mod process;
mod report;
mod tenants;
mod webhooks;

use chain::{Chain, Place};
use clap::Parser as _;
use load::Load;
use model::Clock;
use process::{Cpu, Process};
use report::{Report, Run};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// What stays of a run, by its ending.
const STAYS: [&str; 3] = ["json", "md", "log"];
/// Between runs, for the connections of the last one to be closed on both sides.
const PAUSE: Duration = Duration::from_millis(200);

/// Measures what a request costs: direct, a bare pingora, routing only, the full chain; in turns, in one run. And what a
/// revision of many tenants costs, and a key's lookup among them; what policy packs cost; what decisions about limits cost.
///
/// Example: make bench ARGS='--rounds 9 --requests 60000'
#[derive(clap::Parser, Clone, Debug, serde::Serialize)]
#[command(name = "bench")]
struct Settings {
    /// What is measured.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Part::Chains, Part::Tenants])]
    parts: Vec<Part>,
    /// Rounds; in each, every chain is measured once.
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(5..))]
    rounds: u32,
    /// Requests of one measurement.
    #[arg(long, default_value_t = 40_000, value_parser = clap::value_parser!(u32).range(1_000..=10_000_000))]
    requests: u32,
    /// Connections, each with one request at a time.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=4096))]
    connections: u32,
    /// Worker threads of the upstream, of each proxy and of the load.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=64))]
    threads: u32,
    /// Size of the upstream's answer.
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u32).range(16..=1_048_576))]
    bytes: u32,
}

/// What can be measured alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "snake_case")]
enum Part {
    /// Requests through each chain.
    Chains,
    /// Documents of many tenants.
    Tenants,
    /// Decisions of policy packs, many attachments, a version on its way into force.
    Packs,
    /// Decisions about limits, in process and on a Redis of the bench's own.
    Counters,
    /// Requests with an `Idempotency-Key`, by where its record is kept; on the servers of `scripts/services with`.
    Keys,
    /// Events: accepting them, and delivering them to an endpoint of the bench's own.
    Webhooks,
}

fn main() -> ExitCode {
    let settings = Settings::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(usize::try_from(settings.threads).unwrap_or(1))
        .enable_all()
        .build();
    let outcome =
        runtime.map_err(Into::into).and_then(|runtime| runtime.block_on(until_stopped(settings)));
    match outcome {
        Ok(passed) if passed => ExitCode::SUCCESS,
        Ok(_) => {
            say("bench: failed: see the table above");
            ExitCode::FAILURE
        }
        Err(error) => {
            say(&format!("bench: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// A signal drops the bench, and with it the processes that it started.
async fn until_stopped(settings: Settings) -> Outcome<bool> {
    let mut terminated = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    tokio::select! {
        outcome = bench(settings) => outcome,
        _ = tokio::signal::ctrl_c() => Err("stopped".into()),
        _ = terminated.recv() => Err("stopped".into()),
    }
}

async fn bench(settings: Settings) -> Outcome<bool> {
    let programs = programs()?;
    let clock = Clock::system();
    let started = clock.now();
    let target = programs.parent().ok_or("the program lies in no folder")?;
    let folder = target.join("bench").join(started.strftime("%Y%m%dT%H%M%SZ").to_string());
    std::fs::create_dir_all(&folder)?;
    let report = Report::new(started, &settings, machine::describe());
    let place = Place { folder: &folder, programs: &programs, settings: &settings };
    let passed = measure_parts(&place, &clock, report).await?;
    // Where a run could not end, its data may say why.
    clear(&folder)?;
    Ok(passed)
}

async fn measure_parts(place: &Place<'_>, clock: &Clock, mut report: Report) -> Outcome<bool> {
    let began = Instant::now();
    let Place { folder, settings, .. } = place;
    let mut chains = Vec::new();
    let mut ended = Ok(());
    if settings.parts.contains(&Part::Tenants) {
        // Before the chains, whose processes would share the machine.
        report.tenants = tenants::measure(folder, settings.rounds).await?;
    }
    if settings.parts.contains(&Part::Packs) {
        report.packs = Some(packs::measure(place).await?);
    }
    if settings.parts.contains(&Part::Counters) {
        report.counters = Some(counters::measure(place).await?);
    }
    if settings.parts.contains(&Part::Keys) {
        report.keys = Some(keys::measure(place).await?);
    }
    if settings.parts.contains(&Part::Webhooks) {
        report.webhooks = Some(webhooks::measure(place).await?);
    }
    if settings.parts.contains(&Part::Chains) {
        let (upstream, started) = chain::start(place, clock).await?;
        for chain in &started {
            chain.prove().await?;
        }
        ended = rounds(&started, &upstream, settings, &mut report).await;
        chains = started;
    }
    // What was measured until then stays, whatever ended it.
    report.conclude(&chains, began.elapsed());
    write(folder, &report)?;
    ended.map(|()| report.passed)
}

async fn rounds(
    chains: &[Chain],
    upstream: &Process,
    settings: &Settings,
    report: &mut Report,
) -> Outcome<()> {
    for round in 1..=settings.rounds {
        for chain in chains {
            let run = measure(round, chain, upstream, settings).await?;
            say(&run.line());
            report.runs.push(run);
            tokio::time::sleep(PAUSE).await;
        }
    }
    Ok(())
}

async fn measure(
    round: u32,
    chain: &Chain,
    upstream: &Process,
    settings: &Settings,
) -> Outcome<Run> {
    let measured = chain.process.as_ref().unwrap_or(upstream);
    let mut load = Load::open(chain.address, &chain.requests, settings).await?;
    load.warm_up().await?;
    let cpu_before = (Cpu::of(measured)?, Cpu::of(upstream)?);
    let result = load.run().await?;
    let cpu = (Cpu::of(measured)?.since(cpu_before.0), Cpu::of(upstream)?.since(cpu_before.1));
    Ok(Run::new(round, chain.id, &result, cpu, measured.resident_kib()?))
}

/// Where the programs of this build lie.
fn programs() -> Outcome<PathBuf> {
    let here = std::env::current_exe()?;
    Ok(here.parent().ok_or("the program lies in no folder")?.to_owned())
}

fn write(folder: &Path, report: &Report) -> Outcome<()> {
    let table = report.markdown();
    std::fs::write(folder.join("results.json"), serde_json::to_vec_pretty(report)?)?;
    std::fs::write(folder.join("results.md"), &table)?;
    writeln!(std::io::stdout().lock(), "{table}")?;
    say(&format!("bench: written to {}", folder.join("results.json").display()));
    Ok(())
}

/// Leaves what was measured and logged, and nothing of what it was measured on.
fn clear(folder: &Path) -> Outcome<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            std::fs::remove_dir_all(path)?;
        } else if path.extension().is_none_or(|it| STAYS.iter().all(|stays| it != *stays)) {
            std::fs::remove_file(path)?;
        }
    }
    Ok(())
}

/// Progress, on standard error. Nothing can be done when nobody reads it.
fn say(line: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}
