//! One way of deciding, asked again and again for a given time.

use super::redis::Redis;
use crate::Outcome;
use crate::process::Cpu;
use ::redis::aio::MultiplexedConnection;
use ::redis::cmd;
use gateway::quotas::Quotas;
use model::Clock;
use model::quota::{
    Calendar, Counted, CounterKey, Demand, Kind, Limit, LimitMode, OnStoreError, Part, Per,
    PermitId, Settlement,
};
use serde::Serialize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::task::{JoinSet, spawn_blocking};

/// How long one run is measured, and how long it runs before.
const MEASURED: Duration = Duration::from_millis(1_500);
const WARM_UP: Duration = Duration::from_millis(250);
/// After so many decisions a caller lets others go on: those that wait for nothing would keep the thread.
const TURN: u64 = 64;
/// A rate that no machine asks for, with a second's burst: a caller that was not scheduled for a while is not refused. What
/// is taken in advance of it is what 50 ms ask for.
const RATE: &str = "10000000/s";
const BURST: u32 = 10_000_000;
/// As long as a permit of the gateway lasts, about; in microseconds.
const PERMIT_TTL: i64 = 40_000_000;

/// One way of deciding.
pub(super) struct Way {
    pub(super) id: &'static str,
    pub(super) title: &'static str,
    decider: Decider,
}

/// Whether each decision is Redis', or units are taken from it ahead.
#[derive(Clone, Copy)]
pub(super) enum Takes {
    Each,
    Ahead,
}

#[derive(Clone)]
enum Decider {
    Quotas { quotas: Arc<Quotas>, demand: Arc<Demand>, clock: Clock },
    Incr { connection: MultiplexedConnection, key: Arc<str> },
}

/// One way in one round, as measured.
#[derive(Debug, Serialize)]
pub(super) struct Run {
    round: u32,
    pub(super) way: &'static str,
    pub(super) callers: u32,
    decisions: u64,
    seconds: f64,
    pub(super) per_second: f64,
    /// Processor time of this process for each decision, in microseconds.
    pub(super) cpu_us: f64,
    /// The same of Redis.
    pub(super) redis_cpu_us: f64,
    /// Commands that Redis was sent for each decision.
    pub(super) commands: f64,
}

impl Way {
    pub(super) fn quotas(
        id: &'static str,
        title: &'static str,
        quotas: Arc<Quotas>,
        takes: Takes,
    ) -> Outcome<Self> {
        let demand = Arc::new(demand(id, takes)?);
        Ok(Self { id, title, decider: Decider::Quotas { quotas, demand, clock: Clock::system() } })
    }

    pub(super) fn incr(
        id: &'static str,
        title: &'static str,
        connection: MultiplexedConnection,
    ) -> Self {
        Self { id, title, decider: Decider::Incr { connection, key: "q:{bench}:incr:t".into() } }
    }
}

impl Run {
    /// For progress.
    pub(super) fn line(&self) -> String {
        let Self { round, way, callers, per_second, cpu_us, redis_cpu_us, commands, .. } = self;
        format!(
            "round {round:>2}  {way:<10} {callers:>3} callers  {per_second:>9.0} decisions/s  {cpu_us:>6.2} µs here  \
             {redis_cpu_us:>6.2} µs in Redis  {commands:.3} commands each"
        )
    }
}

/// Measures one way. A decision that is not admitted by who should decide it ends the bench.
pub(super) async fn measure(
    round: u32,
    way: &Way,
    callers: u32,
    redis: &mut Redis,
) -> Outcome<Run> {
    ask(way, callers, WARM_UP).await?;
    let before = (Cpu::own()?, redis.done().await?);
    let began = Instant::now();
    let decisions = ask(way, callers, MEASURED).await?;
    let seconds = began.elapsed().as_secs_f64();
    let after = (Cpu::own()?, redis.done().await?);
    let count = number(decisions);
    let each = |cpu: Cpu| cpu.total() * 1e6 / count;
    Ok(Run {
        round,
        way: way.id,
        callers,
        decisions,
        seconds,
        per_second: count / seconds,
        cpu_us: each(after.0.since(before.0)),
        redis_cpu_us: each(after.1.cpu.since(before.1.cpu)),
        commands: number(after.1.commands - before.1.commands) / count,
    })
}

/// Has so many callers ask for so long; how many decisions they got.
async fn ask(way: &Way, callers: u32, long: Duration) -> Outcome<u64> {
    let stop = Arc::new(AtomicBool::new(false));
    let mut tasks = JoinSet::new();
    for _ in 0..callers {
        tasks.spawn(caller(way.decider.clone(), stop.clone()));
    }
    // A thread of its own: callers that never wait leave the runtime's timers no time.
    spawn_blocking(move || {
        std::thread::sleep(long);
        stop.store(true, Ordering::Relaxed);
    })
    .await?;
    let mut decisions = 0;
    while let Some(done) = tasks.join_next().await {
        decisions += done??;
    }
    Ok(decisions)
}

async fn caller(mut decider: Decider, stop: Arc<AtomicBool>) -> Outcome<u64> {
    let mut decisions = 0;
    while !stop.load(Ordering::Relaxed) {
        decider.decide().await?;
        decisions += 1;
        if decisions % TURN == 0 {
            tokio::task::yield_now().await;
        }
    }
    Ok(decisions)
}

impl Decider {
    async fn decide(&mut self) -> Outcome<()> {
        match self {
            Self::Quotas { quotas, demand, clock } => {
                let demand = Demand { permit: next_permit(), ..Demand::clone(demand) };
                let permit = quotas
                    .reserve(&demand, clock.now().as_microsecond())
                    .await
                    .map_err(|refused| format!("{refused:?}"))?;
                let readings = permit.readings();
                if readings.len() != demand.limits.len()
                    || readings.iter().any(|reading| reading.degraded.is_some())
                {
                    return Err(format!("Redis did not decide: {readings:?}").into());
                }
                quotas.settle(permit, Settlement::Commit, clock.now().as_microsecond());
            }
            Self::Incr { connection, key } => {
                let _: u64 = cmd("INCR").arg(&**key).query_async(connection).await?;
            }
        }
        Ok(())
    }
}

/// A permit's id that no other decision of this process has.
fn next_permit() -> PermitId {
    static PERMITS: AtomicU64 = AtomicU64::new(1);
    PermitId(PERMITS.fetch_add(1, Ordering::Relaxed).into())
}

/// One unit of a rate and of a quota that nobody uses up.
fn demand(tenant: &str, takes: Takes) -> Outcome<Demand> {
    let limit = |id: &str, kind| {
        let limit = Limit {
            id: id.into(),
            kind,
            per: Per::Tenant,
            exact: matches!(takes, Takes::Each),
            mode: LimitMode::Enforce,
            on_store_error: OnStoreError::Local,
        };
        let key = CounterKey { limit: limit.id.clone(), part: Part::Tenant };
        Counted { key, limit: Arc::new(limit) }
    };
    let rate = Kind::Rate { rate: RATE.parse()?, burst: BURST };
    let quota = Kind::Quota("999999999999999/month".parse()?);
    Ok(Demand {
        permit: next_permit(),
        tenant: tenant.into(),
        calendar: Calendar::UTC,
        cost: 1,
        costs_later: false,
        permit_ttl: PERMIT_TTL,
        limits: vec![limit("burst", rate), limit("daily", quota)],
    })
}

fn number(n: u64) -> f64 {
    f64::from(u32::try_from(n).unwrap_or(u32::MAX))
}
