//! An attachment and its rollout in words: where it decides, how a candidate does, what would end it.

use model::document::{Attachment, OnFailure, OnPass, PhaseName, Rollout};
use serde::Deserialize;

/// A rollout, as the API tells it.
#[derive(Deserialize)]
pub(super) struct Seen {
    pub(super) attachment: String,
    pub(super) candidate: String,
    started_at: jiff::Timestamp,
    pub(super) state: String,
    ended_at: Option<jiff::Timestamp>,
    reason: Option<String>,
    samples: Counts,
    #[serde(default)]
    rates: Rates,
}

#[derive(Deserialize)]
struct Counts {
    calls: u64,
    faults: u64,
    compared: u64,
    differences: u64,
}

#[derive(Default, Deserialize)]
struct Rates {
    fault: Option<f64>,
    difference: Option<f64>,
    p99_us: Option<f64>,
}

impl Seen {
    pub(super) fn ended(&self) -> String {
        let when = self.ended_at.map(|at| format!(" at {at:.0}")).unwrap_or_default();
        let why = self.reason.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
        let how = self.state.replace('_', " ");
        format!("{} was {how}{when}{why}", self.candidate)
    }

    fn counted(&self) -> String {
        let Counts { calls, faults, compared, differences } = self.samples;
        let rate = |rate: Option<f64>| rate.map(|rate| format!(" ({rate:.4})")).unwrap_or_default();
        let p99 = self.rates.p99_us.map(|p99| format!(", p99 {p99:.0} µs")).unwrap_or_default();
        format!(
            "{calls} calls: {faults} failed{}{p99}; {differences} of {compared} decisions differ{}",
            rate(self.rates.fault),
            rate(self.rates.difference)
        )
    }
}

/// Where an attachment stands, in a line.
pub(super) fn running(attachment: &Attachment) -> String {
    let phases: Vec<&str> = attachment.phases.iter().copied().map(PhaseName::as_str).collect();
    let scope = &attachment.scope;
    let parts = [
        scope.tenant.as_ref().map(|id| format!("tenant {id}")),
        scope.service.as_ref().map(|id| format!("service {id}")),
        scope.route.as_ref().map(|id| format!("route {id}")),
    ];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    let scope = if parts.is_empty() { "every exchange".to_owned() } else { parts.join(", ") };
    let on_failure = match attachment.on_failure {
        OnFailure::Closed => "closed",
        OnFailure::Open => "open",
    };
    let halted = if attachment.halted { "; HALTED: it decides nothing" } else { "" };
    format!(
        "{}: {}, {} of {scope}; {}, on failure {on_failure}{halted}",
        attachment.id,
        attachment.pack,
        phases.join(" and "),
        attachment.mode.as_str(),
    )
}

/// How a candidate does, and what would end its rollout.
pub(super) fn candidate(
    attachment: &Attachment,
    rollout: &Rollout,
    seen: Option<&Seen>,
) -> Vec<String> {
    let since = seen.map(|seen| format!(", since {:.0}", seen.started_at)).unwrap_or_default();
    let mut lines = vec![format!("  candidate {}: {}{since}", rollout.candidate, share(rollout))];
    lines.push(match seen {
        Some(seen) => format!("    {}", seen.counted()),
        None => "    nothing was seen of it yet".to_owned(),
    });
    lines.extend(ends(attachment, rollout).into_iter().map(|line| format!("    {line}")));
    lines
}

/// Who gets a candidate, and whether it acts.
pub(super) fn share(rollout: &Rollout) -> String {
    let by = serde_json::to_value(rollout.by).unwrap_or_default();
    let by = by.as_str().unwrap_or_default();
    format!("{}, {} % by {by}", rollout.mode.as_str(), rollout.percent)
}

/// What would end a rollout.
pub(super) fn ends(attachment: &Attachment, rollout: &Rollout) -> [String; 2] {
    let limits = rollout.rollback_on;
    let after = attachment.quarantine;
    let rates = [
        limits.fault_rate.map(|rate| format!("more than {rate} of its calls failed")),
        limits.p99.map(|p99| format!("its p99 was over {p99}")),
        limits.difference_rate.map(|rate| format!("more than {rate} of its decisions differed")),
    ];
    let rates: Vec<String> = rates.into_iter().flatten().collect();
    let judged = match rates.is_empty() {
        true => String::new(),
        false => format!("; from {} calls on if {}", rollout.min_samples, rates.join(", or ")),
    };
    let then = match rollout.on_pass {
        OnPass::Promote => "it is promoted".to_owned(),
        OnPass::Wait => format!("it waits for `tollgate pack promote {}`", rollout.candidate),
    };
    [
        format!(
            "rolled back by itself and quarantined after {} faults within {} on a node{judged}",
            after.faults, after.window
        ),
        format!(
            "after {} with at least {} calls and nothing against it, {then}",
            rollout.window, rollout.min_samples
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_rollout_says_what_would_end_it() {
        let attachment: Attachment = serde_json::from_value(json!({
            "id": "pages", "pack": "page-limit@1.0.0", "scope": { "tenant": "acme", "route": "contacts.list" },
            "phases": ["request"], "mode": "enforce", "on_failure": "closed",
            "rollout": { "candidate": "page-limit@1.1.0", "mode": "canary", "percent": 12.5, "window": "10m", "min_samples": 200,
                "rollback_on": { "fault_rate": 0.001, "p99": "2ms" }, "on_pass": "promote" },
        }))
        .unwrap();
        let rollout = attachment.rollout.clone().unwrap();
        let seen: Seen = serde_json::from_value(json!({
            "attachment": "pages", "candidate": "1.1.0", "started_at": "2026-11-21T09:00:00Z", "state": "open",
            "samples": { "calls": 412, "faults": 1, "compared": 410, "differences": 3 },
            "rates": { "fault": 0.002_427, "difference": 0.007_317, "p50_us": 20.0, "p99_us": 411.6 },
        }))
        .unwrap();
        assert_eq!(
            running(&attachment),
            "pages: page-limit@1.0.0, request of tenant acme, route contacts.list; enforce, on failure closed"
        );
        assert_eq!(
            candidate(&attachment, &rollout, Some(&seen)),
            [
                "  candidate page-limit@1.1.0: canary, 12.5 % by consumer, since 2026-11-21T09:00:00Z",
                "    412 calls: 1 failed (0.0024), p99 412 µs; 3 of 410 decisions differ (0.0073)",
                "    rolled back by itself and quarantined after 5 faults within 30s on a node; from 200 calls on if more than 0.001 of its calls failed, or its p99 was over 2ms",
                "    after 10m with at least 200 calls and nothing against it, it is promoted",
            ]
        );
        let waits = Rollout { on_pass: OnPass::Wait, rollback_on: Default::default(), ..rollout };
        let [faults, pass] = ends(&attachment, &waits);
        assert!(faults.ends_with("after 5 faults within 30s on a node"), "{faults}");
        assert!(pass.ends_with("it waits for `tollgate pack promote page-limit@1.1.0`"), "{pass}");
    }
}
