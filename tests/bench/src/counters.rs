//! What a decision about limits costs: in this process, on Redis, and prepaid from it, beside a plain INCR.
//!
//! Invariants: the demand is always one of a rate and a quota, ample, so that every one is admitted; Redis is a server of
//! the bench's own, whose processor time counts as ours does; in every round each way gets the same time, in turns.

mod redis;
mod run;

use crate::chain::Place;
use crate::report::Spread;
use crate::{Outcome, say};
use gateway::quotas::Quotas;
use redis::Redis;
use run::{Run, Takes, Way};
use serde::Serialize;
use std::fmt::Write as _;
use std::sync::Arc;

/// What a way is compared with.
const REFERENCE: &str = "incr";
/// Commands of one decision: never more than one.
const COMMANDS_MAX: f64 = 1.01;
/// The same where units are taken in advance.
const PREPAID_COMMANDS_MAX: f64 = 0.1;

/// All that was measured.
#[derive(Debug, Serialize)]
pub(crate) struct Counted {
    callers: u32,
    summary: Vec<Summary>,
    runs: Vec<Run>,
}

/// A way over all rounds.
#[derive(Debug, Serialize)]
struct Summary {
    way: &'static str,
    title: &'static str,
    per_second: Spread,
    cpu_us: Spread,
    redis_cpu_us: Spread,
    /// Both, ÷ those of a plain INCR in the same round.
    times_incr: Spread,
    commands: Spread,
    /// How long one takes, when nobody else asks.
    alone_us: Spread,
}

/// Measures each way in each round, with many callers and with one.
pub(crate) async fn measure(place: &Place<'_>) -> Outcome<Counted> {
    let mut redis = Redis::start(place.folder).await?;
    let ways = ways(&redis).await?;
    let callers = place.settings.connections;
    let mut runs = Vec::new();
    for round in 1..=place.settings.rounds {
        for way in &ways {
            for callers in [callers, 1] {
                let run = run::measure(round, way, callers, &mut redis).await?;
                say(&run.line());
                runs.push(run);
            }
        }
    }
    let summary = ways.iter().map(|way| Summary::of(way, &runs, callers)).collect();
    Ok(Counted { callers, summary, runs })
}

impl Counted {
    /// Whether a decision was one command at most, and prepaid ones far less.
    pub(crate) fn passed(&self) -> bool {
        self.summary.iter().all(|row| match row.way {
            "prepaid" => row.commands.max < PREPAID_COMMANDS_MAX,
            _ => row.commands.max < COMMANDS_MAX,
        })
    }

    /// The table, with what one must know to read it.
    pub(crate) fn markdown(&self) -> String {
        let mut text = "| a decision of a rate and a quota | a second | CPU µs here | CPU µs in Redis | both, × INCR of one round | \
                        commands | µs when alone |\n|---|---|---|---|---|---|---|\n"
            .to_owned();
        for row in &self.summary {
            // Writing to a string can't fail.
            let _ = writeln!(
                text,
                "| {} | {:.0} | {:.2} | {:.2} | {:.2} | {:.3} | {:.1} |",
                row.title,
                row.per_second,
                row.cpu_us,
                row.redis_cpu_us,
                row.times_incr,
                row.commands.median,
                row.alone_us,
            );
        }
        let _ = writeln!(
            text,
            "\n{}: {} callers in a closed loop, and one alone; one connection; Redis on loopback shares the machine.\n",
            if self.passed() {
                "Counters: no decision took more than one command"
            } else {
                "FAILED: decisions took more commands than they may"
            },
            self.callers,
        );
        text
    }
}

impl Summary {
    fn of(way: &Way, runs: &[Run], callers: u32) -> Self {
        let of = |way: &'static str, callers: u32| {
            runs.iter().filter(move |run| run.way == way && run.callers == callers)
        };
        let spread = |value: fn(&Run) -> f64| Spread::of(of(way.id, callers).map(value));
        let total = |run: &Run| run.cpu_us + run.redis_cpu_us;
        let ratios = of(way.id, callers)
            .zip(of(REFERENCE, callers))
            .map(|(run, reference)| total(run) / total(reference));
        Self {
            way: way.id,
            title: way.title,
            per_second: spread(|run| run.per_second),
            cpu_us: spread(|run| run.cpu_us),
            redis_cpu_us: spread(|run| run.redis_cpu_us),
            times_incr: Spread::of(ratios),
            commands: spread(|run| run.commands),
            alone_us: Spread::of(of(way.id, 1).map(|run| 1e6 / run.per_second)),
        }
    }
}

/// In process, exact, prepaid; and what they are compared with.
async fn ways(redis: &Redis) -> Outcome<Vec<Way>> {
    let alone = Arc::new(Quotas::in_process());
    let shared = Arc::new(redis.quotas()?);
    Ok(vec![
        Way::quotas("in_process", "in this process", alone, Takes::Each)?,
        Way::quotas("exact", "on Redis, each one (`exact`)", shared.clone(), Takes::Each)?,
        Way::quotas("prepaid", "on Redis, taken in advance", shared, Takes::Ahead)?,
        Way::incr("incr", "a plain `INCR`", redis.connection().await?),
    ])
}
