//! What it costs to prepare one pack with many settings: time, memory and descriptors.
//!
//! `cargo run --release -p pack-host --example prepare_cost -- [SETTINGS]`
#![allow(clippy::print_stdout, reason = "it prints what it measured")]

use std::error::Error;
use std::path::Path;
use std::time::Instant;
use std::{env, fs};

use pack_host::worker::{self, Worker};
use pack_host::{Asked, Host, HostSettings, Limits, Manifest, Package};
use rustix::process::{Resource, getrlimit, setrlimit};
use serde_json::{Value, json};

const SETTINGS: usize = 1_000;
/// As a gateway has.
const INSTANCES: u32 = 256;

fn main() -> Result<(), Box<dyn Error>> {
    match env::args().nth(1) {
        // The process that compiles is this program, too.
        Some(argument) if argument == worker::ARGUMENT => {
            let _status = worker::serve();
            Ok(())
        }
        Some(count) => measure(count.parse()?),
        None => measure(SETTINGS),
    }
}

fn measure(count: usize) -> Result<(), Box<dyn Error>> {
    let mut files = getrlimit(Resource::Nofile);
    files.current = files.maximum;
    setrlimit(Resource::Nofile, files)?;
    let folder = env::temp_dir().join(format!("prepare-cost-{}", std::process::id()));
    for start in ["compiled", "from the cache"] {
        let (memory, descriptors) = (resident()?, open()?);
        let began = Instant::now();
        let settings = HostSettings::new(INSTANCES, Worker::Process("/proc/self/exe".into()));
        let host = Host::new(HostSettings { cache: Some(folder.clone()), ..settings })?;
        let pack = host.load(package()?);
        let settings: Vec<Value> =
            (0..count).map(|at| json!({ "header": format!("x-header-{at}") })).collect();
        let asked: Vec<_> = settings
            .iter()
            .map(|settings| Asked { settings, limits: Limits::default(), reuse: None })
            .collect();
        let prepared = pack.prepare_all(&asked).into_iter().collect::<Result<Vec<_>, _>>()?;
        println!(
            "{} settings {start}: {:.2?}, {:.3} MiB and {:.2} descriptors each",
            prepared.len(),
            began.elapsed(),
            (resident()? - memory) / count as f64,
            (open()? - descriptors) as f64 / count as f64,
        );
    }
    println!("on disk: {:.3} MiB each", on_disk(&folder)? / count as f64);
    fs::remove_dir_all(folder)?;
    Ok(())
}

fn package() -> Result<Package, Box<dyn Error>> {
    let pack = demo::PACKS.iter().find(|pack| pack.name == "require-header");
    let pack = pack.ok_or("no such pack")?;
    let manifest: Manifest = serde_json::from_value(json!({
        "name": pack.name, "version": pack.version, "abi": pack_host::ABI,
        "phases": ["request"], "capabilities": ["log"],
    }))?;
    Ok(Package::build(manifest, pack.wasm.to_vec(), None, Vec::new())?)
}

/// Memory of this process that no file on disk backs, in MiB.
fn resident() -> Result<f64, Box<dyn Error>> {
    let status = fs::read_to_string("/proc/self/status")?;
    let own = |line: &&str| line.starts_with("RssAnon") || line.starts_with("RssShmem");
    let kib = |line: &str| line.split_whitespace().nth(1)?.parse::<f64>().ok();
    Ok(status.lines().filter(own).filter_map(kib).sum::<f64>() / 1024.0)
}

fn open() -> Result<i64, Box<dyn Error>> {
    Ok(i64::try_from(fs::read_dir("/proc/self/fd")?.count())?)
}

fn on_disk(folder: &Path) -> Result<f64, Box<dyn Error>> {
    let mut bytes = 0;
    for entry in fs::read_dir(folder)? {
        bytes += entry?.metadata()?.len();
    }
    Ok(bytes as f64 / f64::from(1 << 20))
}
