//! What was measured of keys, summed up: medians and ratios, store by store.

use super::stores::Store;
use super::{BODY, Keyed, Run, Way};
use crate::report::Spread;
use serde::Serialize;
use std::fmt::Write as _;

/// What is read of a run.
type Figure = fn(&Run) -> f64;

/// A store over all rounds. Ratios are to the mean of the two runs without a key in the same round.
#[derive(Debug, Serialize)]
pub(super) struct Summary {
    store: &'static str,
    title: &'static str,
    unkeyed_per_second: Spread,
    keyed_per_second: Spread,
    replayed_per_second: Spread,
    /// Processor time of gateway and store, for each request.
    unkeyed_cpu_us: Spread,
    keyed_cpu_us: Spread,
    replayed_cpu_us: Spread,
    keyed_times_cpu: Spread,
    replayed_times_cpu: Spread,
    /// The second run without a key ÷ the first: what is no more than this is nothing.
    equal_times_cpu: Spread,
    /// How long half of the requests take at most when one is sent at a time.
    unkeyed_alone_ms: Spread,
    keyed_alone_ms: Spread,
    replayed_alone_ms: Spread,
    keyed_times_alone: Spread,
    equal_times_alone: Spread,
}

impl Summary {
    pub(super) fn of(store: &Store, runs: &[Run], connections: u32) -> Self {
        let of = |way: Way, connections: u32| {
            let id = store.kind.id;
            runs.iter()
                .filter(move |run| (run.store, run.way, run.connections) == (id, way, connections))
        };
        // All runs without a key; and the means of two of one round.
        let unkeyed = |connections, value: Figure| -> Vec<f64> {
            let pairs = of(Way::Unkeyed, connections).zip(of(Way::UnkeyedAgain, connections));
            pairs.map(|(one, other)| f64::midpoint(value(one), value(other))).collect()
        };
        let spread = |way, connections, value: Figure| Spread::of(of(way, connections).map(value));
        let times = |way, connections, value: Figure| {
            let means = unkeyed(connections, value);
            Spread::of(of(way, connections).zip(means).map(|(run, mean)| value(run) / mean))
        };
        let equal = |connections, value: Figure| {
            let pairs = of(Way::UnkeyedAgain, connections).zip(of(Way::Unkeyed, connections));
            Spread::of(pairs.map(|(again, first)| value(again) / value(first)))
        };
        let rate: Figure = |run| run.requests_per_second;
        let p50: Figure = |run| run.p50_ms;
        Self {
            store: store.kind.id,
            title: store.kind.title,
            unkeyed_per_second: Spread::of(unkeyed(connections, rate).into_iter()),
            keyed_per_second: spread(Way::Keyed, connections, rate),
            replayed_per_second: spread(Way::Replayed, connections, rate),
            unkeyed_cpu_us: Spread::of(unkeyed(connections, Run::cpu_us).into_iter()),
            keyed_cpu_us: spread(Way::Keyed, connections, Run::cpu_us),
            replayed_cpu_us: spread(Way::Replayed, connections, Run::cpu_us),
            keyed_times_cpu: times(Way::Keyed, connections, Run::cpu_us),
            replayed_times_cpu: times(Way::Replayed, connections, Run::cpu_us),
            equal_times_cpu: equal(connections, Run::cpu_us),
            unkeyed_alone_ms: Spread::of(unkeyed(1, p50).into_iter()),
            keyed_alone_ms: spread(Way::Keyed, 1, p50),
            replayed_alone_ms: spread(Way::Replayed, 1, p50),
            keyed_times_alone: times(Way::Keyed, 1, p50),
            equal_times_alone: equal(1, p50),
        }
    }
}

impl Keyed {
    /// The tables, with what one must know to read them.
    pub(crate) fn markdown(&self) -> String {
        let mut text = "| records | requests/s without a key / with / replayed | CPU µs/request without / with / replayed | \
                        with, × without, of one round | replayed, × without | two equal runs |\n|---|---|---|---|---|---|\n"
            .to_owned();
        // Writing to a string can't fail.
        for row in &self.summary {
            let _ = writeln!(
                text,
                "| {} | {:.0} / {:.0} / {:.0} | {:.0} / {:.0} / {:.0} | {:.2} | {:.2} | {:.2} |",
                row.title,
                row.unkeyed_per_second.median,
                row.keyed_per_second.median,
                row.replayed_per_second.median,
                row.unkeyed_cpu_us.median,
                row.keyed_cpu_us.median,
                row.replayed_cpu_us.median,
                row.keyed_times_cpu,
                row.replayed_times_cpu,
                row.equal_times_cpu,
            );
        }
        text += "\n| one request at a time | median ms without a key | with | replayed | with, × without, of one round | \
                 two equal runs |\n|---|---|---|---|---|---|\n";
        for row in &self.summary {
            let _ = writeln!(
                text,
                "| {} | {:.2} | {:.2} | {:.2} | {:.2} | {:.2} |",
                row.title,
                row.unkeyed_alone_ms,
                row.keyed_alone_ms,
                row.replayed_alone_ms,
                row.keyed_times_alone,
                row.equal_times_alone,
            );
        }
        let _ = writeln!(
            text,
            "\n{}: a POST of {} B, by {} connections and by one. Processor time is that of the gateway and of the store's \
             server. A request with a key is buffered and its answer stored before it is sent; one without streams.\n",
            match self.passed {
                true => "Keys: all answers 200",
                false => "FAILED: not all answers were 200 of the right length",
            },
            BODY.len(),
            self.connections,
        );
        text
    }
}
