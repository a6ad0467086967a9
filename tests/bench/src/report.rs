//! What was measured: every run as it was, and medians beside each other.

use crate::Settings;
use crate::chain::Chain;
use crate::counters::Counted;
use crate::keys::Keyed;
use crate::load::Answers;
use crate::machine::Machine;
use crate::packs::Packs;
use crate::process::Cpu;
use crate::tenants::{self, Measured};
use crate::webhooks::Delivered;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;
use std::{env, iter};

/// The chain that others are compared with.
const REFERENCE: &str = "bare";

/// The whole result.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    started: jiff::Timestamp,
    seconds: f64,
    machine: Machine,
    /// What was run.
    command: String,
    settings: Settings,
    /// Whether all that was measured is as it must be.
    pub(crate) passed: bool,
    /// Whether every answer of every run was a 2xx of the expected length.
    answered: bool,
    summary: Vec<Summary>,
    pub(crate) runs: Vec<Run>,
    pub(crate) tenants: Vec<Measured>,
    pub(crate) packs: Option<Packs>,
    pub(crate) counters: Option<Counted>,
    pub(crate) keys: Option<Keyed>,
    pub(crate) webhooks: Option<Delivered>,
}

/// One chain in one round, as measured.
#[derive(Debug, Serialize)]
pub(crate) struct Run {
    round: u32,
    chain: &'static str,
    answers: u64,
    statuses: BTreeMap<u16, u64>,
    errors: BTreeMap<String, u64>,
    seconds: f64,
    cpu: Cpu,
    cpu_us_per_request: f64,
    upstream_cpu_us_per_request: f64,
    requests_per_second: f64,
    p50_ms: f64,
    p99_ms: f64,
    max_ms: f64,
    resident_kib: u64,
}

/// Median, smallest and largest of all rounds.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

/// A chain over all rounds.
#[derive(Debug, Serialize)]
struct Summary {
    chain: &'static str,
    title: &'static str,
    cpu_us_per_request: Spread,
    /// CPU ÷ that of bare pingora in the same round; none for what is not a proxy.
    times_bare: Option<Spread>,
    requests_per_second: Spread,
    p50_ms: Spread,
    p99_ms: Spread,
    resident_mib: Spread,
}

impl Run {
    pub(crate) fn new(
        round: u32,
        chain: &'static str,
        answers: &Answers,
        (cpu, upstream): (Cpu, Cpu),
        resident_kib: u64,
    ) -> Self {
        let count = count(answers.latencies.len());
        let each = |seconds: f64| seconds * 1e6 / count.max(1.0);
        let seconds = answers.elapsed.as_secs_f64();
        let millis = |percent| percentile(&answers.latencies, percent);
        Self {
            round,
            chain,
            answers: answers.statuses.values().sum(),
            statuses: answers.statuses.clone(),
            errors: answers.errors.clone(),
            seconds,
            cpu,
            cpu_us_per_request: each(cpu.total()),
            upstream_cpu_us_per_request: each(upstream.total()),
            requests_per_second: count / seconds,
            p50_ms: millis(50),
            p99_ms: millis(99),
            max_ms: millis(100),
            resident_kib,
        }
    }

    fn passed(&self) -> bool {
        self.answers > 0
            && self.errors.is_empty()
            && self.statuses.keys().all(|status| (200..300).contains(status))
    }

    /// For progress.
    pub(crate) fn line(&self) -> String {
        format!(
            "round {:>2}  {:<8} {:>7.1} µs/request  {:>8.0} requests/s  p50 {:.2} ms  p99 {:.2} ms  {:?}{}",
            self.round,
            self.chain,
            self.cpu_us_per_request,
            self.requests_per_second,
            self.p50_ms,
            self.p99_ms,
            self.statuses,
            if self.errors.is_empty() {
                String::new()
            } else {
                format!("  errors {:?}", self.errors)
            },
        )
    }
}

impl Report {
    pub(crate) fn new(started: jiff::Timestamp, settings: &Settings, machine: Machine) -> Self {
        Self {
            started,
            seconds: 0.0,
            machine,
            command: iter::once("bench".to_owned())
                .chain(env::args().skip(1))
                .collect::<Vec<_>>()
                .join(" "),
            settings: settings.clone(),
            passed: false,
            answered: false,
            summary: Vec::new(),
            runs: Vec::new(),
            tenants: Vec::new(),
            packs: None,
            counters: None,
            keys: None,
            webhooks: None,
        }
    }

    /// Sums up the runs.
    pub(crate) fn conclude(&mut self, chains: &[Chain], took: Duration) {
        self.seconds = took.as_secs_f64();
        let wanted = usize::try_from(self.settings.rounds).unwrap_or(usize::MAX) * chains.len();
        self.answered = self.runs.len() == wanted && self.runs.iter().all(Run::passed);
        self.passed = self.answered
            && (self.tenants.is_empty() || tenants::in_time(&self.tenants))
            && self.packs.as_ref().is_none_or(Packs::passed)
            && self.counters.as_ref().is_none_or(Counted::passed)
            && self.keys.as_ref().is_none_or(Keyed::passed);
        self.summary = chains.iter().map(|chain| self.summarise(chain)).collect();
    }

    fn summarise(&self, chain: &Chain) -> Summary {
        let of = |id| self.runs.iter().filter(move |run: &&Run| run.chain == id);
        let spread = |value: fn(&Run) -> f64| Spread::of(of(chain.id).map(value));
        let ratios = of(chain.id)
            .zip(of(REFERENCE))
            .map(|(run, reference)| run.cpu_us_per_request / reference.cpu_us_per_request);
        Summary {
            chain: chain.id,
            title: chain.title,
            cpu_us_per_request: spread(|run| run.cpu_us_per_request),
            times_bare: chain.process.is_some().then(|| Spread::of(ratios)),
            requests_per_second: spread(|run| run.requests_per_second),
            p50_ms: spread(|run| run.p50_ms),
            p99_ms: spread(|run| run.p99_ms),
            resident_mib: spread(|run| {
                f64::from(u32::try_from(run.resident_kib).unwrap_or(u32::MAX)) / 1024.0
            }),
        }
    }

    /// The tables, with what one must know to read them.
    pub(crate) fn markdown(&self) -> String {
        let machine = &self.machine;
        let mut text = String::new();
        if !self.summary.is_empty() {
            text += &self.chains();
        }
        if !self.tenants.is_empty() {
            text += &tenants::markdown(&self.tenants);
        }
        text += &self.packs.as_ref().map(Packs::markdown).unwrap_or_default();
        text += &self.counters.as_ref().map(Counted::markdown).unwrap_or_default();
        text += &self.keys.as_ref().map(Keyed::markdown).unwrap_or_default();
        text += &self.webhooks.as_ref().map(Delivered::markdown).unwrap_or_default();
        // Writing to a string can't fail.
        let _ = writeln!(
            text,
            "Commit {}{}; {}, {} cores, Linux {}, {}; load before {}; {:.0} s in all.",
            machine.commit,
            if machine.dirty { " with uncommitted changes" } else { "" },
            machine.cpu,
            machine.cores,
            machine.kernel,
            machine.rustc,
            machine.load_before,
            self.seconds,
        );
        text
    }

    fn chains(&self) -> String {
        let settings = &self.settings;
        let mut text = String::new();
        let _ = writeln!(
            text,
            "| chain | CPU µs/request, median (min–max) | × bare pingora, of one round | requests/s | p50 / p99 ms | RSS MiB |\n\
             |---|---|---|---|---|---|",
        );
        // A chain that was never measured, as the bench ended before, has no row.
        for row in self.summary.iter().filter(|row| !row.cpu_us_per_request.median.is_nan()) {
            let (cpu, bare) = (row.cpu_us_per_request, row.times_bare);
            let _ = writeln!(
                text,
                "| {} | {cpu:.1} | {} | {:.0} | {:.2} / {:.2} | {:.0} |",
                row.title,
                bare.map_or("–".to_owned(), |ratio| format!("{ratio:.2}")),
                row.requests_per_second.median,
                row.p50_ms.median,
                row.p99_ms.median,
                row.resident_mib.median,
            );
        }
        let _ = writeln!(
            text,
            "\n{}: {} rounds of {} requests to each chain in turn, {} connections with keep-alive, {} threads each, {} B of \
             JSON, loopback, closed loop: load, proxy and upstream share the machine, so read ratios, not absolutes.\n",
            if self.answered {
                "All answers 2xx"
            } else {
                "FAILED: not all answers were 2xx of the right length"
            },
            settings.rounds,
            settings.requests,
            settings.connections,
            settings.threads,
            settings.bytes,
        );
        text
    }
}

impl std::fmt::Display for Spread {
    /// `median (min–max)`, with the wanted precision.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let digits = f.precision().unwrap_or(1);
        let Self { median, min, max } = self;
        write!(f, "{median:.digits$} ({min:.digits$}–{max:.digits$})")
    }
}

impl Spread {
    pub(crate) fn of(values: impl Iterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.collect();
        values.sort_by(f64::total_cmp);
        let at = |index: usize| values.get(index).copied().unwrap_or(f64::NAN);
        let last = values.len().saturating_sub(1);
        Self {
            median: f64::midpoint(at(last / 2), at(last.div_ceil(2))),
            min: at(0),
            max: at(last),
        }
    }
}

/// In milliseconds, of ascending microseconds.
pub(crate) fn percentile(sorted: &[u32], percent: usize) -> f64 {
    let index = sorted.len().saturating_sub(1) * percent / 100;
    f64::from(sorted.get(index).copied().unwrap_or(0)) / 1000.0
}

fn count(n: usize) -> f64 {
    f64::from(u32::try_from(n).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_lie_between_the_middle_ones() {
        let of = |values: &[f64]| Spread::of(values.iter().copied()).median;
        assert_eq!(of(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(of(&[4.0, 1.0, 3.0, 2.0]), 2.5);
        assert!(of(&[]).is_nan());
    }

    #[test]
    fn percentiles_are_values_that_were_measured() {
        let sorted: Vec<u32> = (1..=100).map(|n| n * 1000).collect();
        let read: Vec<f64> = [50, 99, 100].map(|percent| percentile(&sorted, percent)).into();
        assert_eq!(read, [50.0, 99.0, 100.0]);
        assert_eq!(percentile(&[], 99), 0.0);
    }
}
