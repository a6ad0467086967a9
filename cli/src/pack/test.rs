//! `tollgate pack test`: a pack's vectors on the very host that will run it.

use super::{build, key};
use crate::parts::THIS_BINARY;
use crate::remote::Form;
use crate::table::table;
use crate::{Ending, print, say};
use anyhow::Context as _;
use clap::Args;
use pack_host::worker::Worker;
use pack_host::{Host, HostSettings, Package, Spent, Trial, Tried};
use serde_json::json;
use std::path::{Path, PathBuf};

/// Runs a pack's vectors on the real host, each in a fresh instance and again in one that is reused, and prints what each
/// came to and what it used. Exit 1 when one did not come out as expected.
///
/// Example: tollgate pack test page-limit
#[derive(Args)]
pub(super) struct Test {
    /// The pack's folder, which is built first, or a pack file.
    #[arg(default_value = ".", value_name = "DIR|FILE")]
    pack: PathBuf,
    /// Prints the trial as JSON.
    #[arg(long)]
    json: bool,
}

impl Test {
    pub(super) fn run(self) -> anyhow::Result<Ending> {
        let package = package(&self.pack)?;
        let trial = trial(&package)?;
        let passed = trial.passed();
        match Form::json_if(self.json) {
            Form::Json => {
                let told = json!({ "pack": package.label(), "passed": passed, "trial": trial });
                print(&told.to_string());
            }
            Form::Text => show(&package, &trial),
        }
        Ok(if passed { Ending::Done } else { Ending::Refused })
    }
}

/// What a folder makes, or what a file holds.
fn package(pack: &Path) -> anyhow::Result<Package> {
    if pack.is_file() { key::read(pack) } else { build::package(pack) }
}

/// Tries a pack as a gateway does: in a child that may use little and has none of this process' environment. A pack file
/// can be anybody's.
pub(super) fn trial(package: &Package) -> anyhow::Result<Trial> {
    let host = Host::new(HostSettings::small(Worker::Process(THIS_BINARY.into())))?;
    host.try_out(package).with_context(|| package.label())
}

fn show(package: &Package, trial: &Trial) {
    let rows: Vec<_> = trial.vectors.iter().map(row).collect();
    table(HEADINGS, &rows).iter().for_each(|line| print(line));
    for failure in trial.failures() {
        say(&failure);
    }
    for tried in &trial.vectors {
        if let Some(difference) = &tried.reuse_difference {
            say(&format!(
                "the vector `{}`, in an instance that decided before: {difference}",
                tried.name
            ));
        }
    }
    let (count, failed) = (trial.vectors.len(), trial.failures().count());
    print(&format!("{}: {} of {count} vectors as expected", package.label(), count - failed));
    if count == 0 {
        say("there are no vectors: write what it should decide into vectors/NAME.json");
        return;
    }
    print(match trial.image {
        true => "each instance starts from a memory image that was taken after `configure`",
        false => "no memory image can be taken: each instance runs `configure` first",
    });
    print(match trial.reusable {
        true => "instances may be reused (`reuse` of an attachment)",
        false => "instances may not be reused: `reuse` is refused",
    });
}

const HEADINGS: [&str; 8] =
    ["", "VECTOR", "OUTCOME", "FRESH µs", "FUEL", "MEMORY", "REUSED µs", "FUEL"];

fn row(tried: &Tried) -> [String; 8] {
    let cell = |spent: &Option<Spent>, cell: fn(&Spent) -> String| {
        spent.as_ref().map_or_else(|| "-".to_owned(), cell)
    };
    let micros = |spent: &Spent| format!("{:.1}", spent.micros);
    let fuel = |spent: &Spent| spent.fuel.to_string();
    let memory = |spent: &Spent| format!("{} KiB", spent.memory.div_ceil(1 << 10));
    let verdict = if tried.difference.is_some() { "FAILED" } else { "ok" };
    [
        verdict.to_owned(),
        tried.name.clone(),
        tried.outcome.clone(),
        cell(&tried.fresh, micros),
        cell(&tried.fresh, fuel),
        cell(&tried.fresh, memory),
        cell(&tried.reused, micros),
        cell(&tried.reused, fuel),
    ]
}
