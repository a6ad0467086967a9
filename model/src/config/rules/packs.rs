//! What a document must mean where packs are concerned: ranges, rollouts, and what is quarantined.
//!
//! What needs the pack's own file (its phases, its settings' schema, whose key it is signed with) is judged where the
//! gateway compiles.

use super::Errors;
use crate::document::{Attachment, Pack, PackCaps, PackLimits, Rollout};
use crate::units::{Duration, Size};
use std::collections::HashSet;
use std::ops::RangeInclusive;
use std::time;

/// What a pack's call may have of each.
const DEADLINE: RangeInclusive<Duration> = millis(100)..=seconds(10);
const MEMORY: RangeInclusive<Size> = Size(64 << 10)..=Size(64 << 20);
const OUTPUT: RangeInclusive<Size> = Size(1 << 10)..=Size(16 << 20);
/// What a tenant's packs may use of each second.
const CPU_PER_SECOND: RangeInclusive<Duration> = millis(1)..=seconds(60);
/// Over how long faults are counted, and candidates judged.
const FAULTS_WINDOW: RangeInclusive<Duration> = seconds(1)..=seconds(DAY);
const ROLLOUT_WINDOW: RangeInclusive<Duration> = seconds(10)..=seconds(DAY);
/// What may be asked of a candidate's p99: no call takes longer than its deadline.
const P99: RangeInclusive<Duration> = Duration(time::Duration::from_micros(10))..=seconds(10);

const DAY: u64 = 24 * 60 * 60;

const fn millis(millis: u64) -> Duration {
    Duration(time::Duration::from_millis(millis))
}

const fn seconds(seconds: u64) -> Duration {
    Duration(time::Duration::from_secs(seconds))
}

pub(super) fn check_caps(at: &str, caps: &PackCaps, errors: &mut Errors<'_>) {
    errors.range(at, "cpu_per_second", Some(caps.cpu_per_second), &CPU_PER_SECOND);
    errors.range(at, "deadline", Some(caps.deadline), &DEADLINE);
    errors.range(at, "memory", Some(caps.memory), &MEMORY);
    errors.range(at, "output", Some(caps.output), &OUTPUT);
}

pub(super) fn check(
    packs: &[(String, Pack)],
    attachments: &[(String, Attachment)],
    errors: &mut Errors<'_>,
) {
    let quarantined = packs.iter().filter(|(_, pack)| pack.quarantined.is_some());
    let quarantined: HashSet<String> =
        quarantined.map(|(_, pack)| format!("{}@{}", pack.id, pack.version)).collect();
    for (at, attachment) in attachments {
        check_attachment(at, attachment, errors);
        if attachment.halted {
            continue;
        }
        if quarantined.contains(&attachment.pack) {
            errors.add(at, "pack", told(&attachment.pack, "name another version, or halt it"));
        }
        let candidate = attachment.rollout.as_ref().map(|rollout| &rollout.candidate);
        if let Some(candidate) = candidate.filter(|candidate| quarantined.contains(*candidate)) {
            let message = told(candidate, "name another version, or take the rollout out");
            errors.add(at, "rollout/candidate", message);
        }
    }
}

fn told(pack: &str, mend: &str) -> String {
    format!("`{pack}` is quarantined: {mend}")
}

fn check_attachment(at: &str, attachment: &Attachment, errors: &mut Errors<'_>) {
    for (index, phase) in attachment.phases.iter().enumerate() {
        if attachment.phases.iter().take(index).any(|earlier| earlier == phase) {
            errors.add(at, &format!("phases/{index}"), "stands twice");
        }
    }
    let PackLimits { deadline, memory, output, .. } = attachment.limits;
    errors.range(at, "limits/deadline", deadline, &DEADLINE);
    errors.range(at, "limits/memory", memory, &MEMORY);
    errors.range(at, "limits/output", output, &OUTPUT);
    errors.range(at, "quarantine/window", Some(attachment.quarantine.window), &FAULTS_WINDOW);
    if let Some(rollout) = &attachment.rollout {
        check_rollout(&format!("{at}/rollout"), &attachment.pack, rollout, errors);
    }
}

fn check_rollout(at: &str, running: &str, rollout: &Rollout, errors: &mut Errors<'_>) {
    let name = |reference: &str| reference.split_once('@').map(|(name, _)| name.to_owned());
    if rollout.candidate == running {
        errors.add(at, "candidate", "is the running version itself: name another one");
    } else if name(&rollout.candidate) != name(running) {
        let name = name(running).unwrap_or_default();
        errors.add(at, "candidate", format!("must be a version of `{name}`, as `pack` is"));
    }
    errors.range(at, "window", Some(rollout.window), &ROLLOUT_WINDOW);
    errors.range(at, "rollback_on/p99", rollout.rollback_on.p99, &P99);
}
