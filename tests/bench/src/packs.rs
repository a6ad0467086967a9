//! What policy packs cost: a decision, a thousand attachments in one process, and a version on its way into force.
//!
//! Invariant: all of it is measured on the reference pack `require-header`, read from a signed pack file as gateways read it.

mod decision;
pub(crate) mod file;
mod many;
mod neighbour;
mod publish;

use crate::Outcome;
use crate::chain::Place;
use crate::report::Spread;
use decision::Decided;
use many::Many;
use neighbour::Pair;
use publish::Published;
use serde::Serialize;
use serde_json::{Value, json};
use std::fmt::Write as _;

/// The median of a decision in a fresh instance, in microseconds of CPU time.
const FRESH_MAX: f64 = 10.0;
/// The same in an instance that is used again.
const REUSED_MAX: f64 = 3.0;
/// What a process with all attachments may have in memory.
const RESIDENT_MAX_MIB: f64 = 1024.0;
/// From its document to its deciding on every thread, for a version that was compiled before.
const LIVE_MAX_MS: f64 = 50.0;

/// A tenant's 99th percentile while another one's pack never returns, ÷ that of a run without.
const NOTICED_MAX: f64 = 1.2;

/// Attachments of the large document, each with settings of its own.
const ATTACHMENTS: usize = 1_000;
pub(crate) const PACK: &str = "require-header";

/// All that was measured.
#[derive(Debug, Serialize)]
pub(crate) struct Packs {
    decisions: Vec<Decided>,
    many: Vec<Many>,
    published: Vec<Published>,
    neighbour: Vec<Pair>,
}

/// Measures, one after the other.
pub(crate) async fn measure(place: &Place<'_>) -> Outcome<Packs> {
    Ok(Packs {
        decisions: decision::measure(place.settings.rounds)?,
        many: many::measure(place).await?,
        published: publish::measure(place).await?,
        neighbour: neighbour::measure(place).await?,
    })
}

impl Packs {
    /// Whether all is as it must be, by medians.
    pub(crate) fn passed(&self) -> bool {
        self.fresh().median < FRESH_MAX
            && self.reused().median < REUSED_MAX
            && self.many.iter().all(|one| one.resident_mib() < RESIDENT_MAX_MIB)
            && self.live().median < LIVE_MAX_MS
            && self.noticed().median < NOTICED_MAX
    }

    fn fresh(&self) -> Spread {
        Spread::of(self.decisions.iter().map(|round| round.fresh_us))
    }

    fn reused(&self) -> Spread {
        Spread::of(self.decisions.iter().map(|round| round.reused_us))
    }

    fn noticed(&self) -> Spread {
        Spread::of(self.neighbour.iter().map(Pair::ratio))
    }

    fn live(&self) -> Spread {
        Spread::of(self.published.iter().map(Published::total_ms))
    }

    /// The tables, with the limits.
    pub(crate) fn markdown(&self) -> String {
        let mut text = format!(
            "| a decision of `{PACK}`, five headers | CPU µs, median (min–max) | may take |\n|---|---|---|\n\
             | fresh instance | {:.2} | {FRESH_MAX:.0} |\n| instance used again | {:.2} | {REUSED_MAX:.0} |\n\n\
             | attachments, each with settings of its own | RSS MiB | descriptors | until ready s |\n|---|---|---|---|\n",
            self.fresh(),
            self.reused(),
        );
        for one in &self.many {
            // Writing to a string can't fail.
            let _ = writeln!(
                text,
                "| {} | {:.0} | {} | {:.1} |",
                one.attachments,
                one.resident_mib(),
                one.descriptors,
                one.ready_seconds
            );
        }
        let spread = |value: fn(&Published) -> f64| Spread::of(self.published.iter().map(value));
        let _ = writeln!(
            text,
            "\n| a version among {ATTACHMENTS} attachments, compiled before | ms, median (min–max) |\n|---|---|\n\
             | read and check the document | {:.1} |\n| compile its snapshot | {:.1} |\n\
             | until every thread has it | {:.2} |\n| in all; may take {LIVE_MAX_MS:.0} | {:.1} |\n\n\
             | a tenant's p99 | × of the run before, median (min–max) |\n|---|---|\n\
             | while another one's pack never returns; may be {NOTICED_MAX} | {:.2} |\n| with nothing different | {:.2} |\n\n{}.\n",
            spread(|one| one.check_ms),
            spread(|one| one.compile_ms),
            spread(|one| one.live_ms),
            self.live(),
            self.noticed(),
            Spread::of(self.neighbour.iter().map(Pair::equal_ratio)),
            if self.passed() {
                "Packs: all within their limits"
            } else {
                "FAILED: packs beyond a limit"
            },
        );
        text
    }
}

fn header(number: usize) -> String {
    format!("x-bench-{number:04}")
}

fn tenant(number: usize) -> String {
    format!("tenant-{number:04}")
}

fn key(number: usize) -> String {
    format!("{}_0123456789abcdef0123456789abcdef", prefix(number))
}

fn prefix(number: usize) -> String {
    format!("tg_live_{number:08}")
}

/// A document of so many tenants; each of the first so many has an attachment that demands a header of its own.
fn document(tenants: usize, attachments: usize) -> Outcome<Value> {
    let one_tenant = |number| {
        json!({
            "id": tenant(number),
            "plan": "open",
            "state": "active",
            "consumers": [{
                "id": "app",
                "scopes": [],
                "credentials": [{
                    "id": "k1",
                    "api_key": { "hash": crate::chain::digest(&key(number)), "prefix": prefix(number) },
                }],
            }],
        })
    };
    let attachment = |number| {
        json!({
            "id": format!("require-{number:04}"),
            "pack": format!("{PACK}@{}", file::FIRST),
            "scope": { "tenant": tenant(number) },
            "phases": ["request"],
            "mode": "enforce",
            "on_failure": "closed",
            "settings": { "header": header(number) },
        })
    };
    Ok(json!({
        "format": 1,
        "upstreams": [{ "id": "crm", "targets": [{ "address": "127.0.0.1:9" }] }],
        "services": [{
            "id": "contacts",
            "select": ["path", "default"],
            "versions": [{ "name": "v1", "upstream": "crm", "state": "active", "default": true }],
        }],
        "routes": [{
            "id": "contacts.list",
            "service": "contacts",
            "match": { "path": "/contacts", "methods": ["GET"] },
            "authenticate": { "any_of": ["api_key"] },
        }],
        "plans": [{ "id": "open", "limits": [] }],
        "tenants": (0..tenants).map(one_tenant).collect::<Value>(),
        "pack_keys": [file::key()?],
        "packs": [
            { "id": PACK, "version": file::FIRST },
            { "id": PACK, "version": file::SECOND },
        ],
        "attachments": (0..attachments).map(attachment).collect::<Value>(),
    }))
}
