//! The walls of the workspace stand where DESIGN §3 puts them.

use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What each crate may know of the others. `cli` composes them, `bench` and `tests` look at all.
const ARROWS: &[(&str, &[&str])] = &[
    ("model", &[]),
    ("store", &["model"]),
    ("stages", &["model"]),
    ("pack-host", &["model"]),
    ("gateway", &["model", "store", "stages", "pack-host", "webhook-signature"]),
    ("admin", &["model", "store", "pack-host", "ingest"]),
    ("webhook-signature", &[]),
    // The door for events, which admin and dispatcher have both.
    ("ingest", &["model", "store"]),
    ("dispatcher", &["model", "store", "ingest", "webhook-signature"]),
    ("streams", &["model", "store", "ingest"]),
    ("crm", &[]),
    ("demo", &[]),
    // A receiver as its author might write it: it knows how webhooks are signed, and nothing else of ours.
    ("projection", &["webhook-signature"]),
];

/// Crates that look at all the others.
const OUTERMOST: &[&str] = &["cli", "bench", "tests"];

/// Heavy dependencies, each at home in one place. `crm` and `projection` are backends of their own; `bench` measures pingora and
/// Redis themselves.
const HOMES: &[(&str, &[&str])] = &[
    ("pingora", &["gateway", "bench"]),
    ("wasmtime", &["pack-host"]),
    ("wasmtime-wizer", &["pack-host"]),
    ("sqlx", &["store", "crm", "projection"]),
    ("redis", &["stages", "bench"]),
    ("prometheus", &["gateway", "dispatcher"]),
    ("clap", &["cli", "bench"]),
    ("anyhow", &["cli", "bench"]),
];

/// What does I/O. None of it may be below `model`, however far.
const DOES_IO: &[&str] = &[
    "tokio",
    "mio",
    "hyper",
    "reqwest",
    "axum",
    "pingora",
    "pingora-core",
    "sqlx",
    "sqlx-core",
    "wasmtime",
    "redis",
    "rustls",
    "tempfile",
    "prometheus",
];

/// Files that would hold anything.
const BANNED_NAMES: &[&str] = &[
    "utils",
    "util",
    "common",
    "helpers",
    "helper",
    "types",
    "manager",
    "misc",
    "filter",
    "middleware",
    "mod",
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

fn cargo(arguments: &[&str]) -> String {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo).args(arguments).current_dir(root()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// What each crate of the workspace depends on, but for its tests.
fn dependencies() -> BTreeMap<String, Vec<String>> {
    let told = cargo(&["metadata", "--format-version", "1", "--no-deps", "--locked", "--offline"]);
    let metadata: Value = serde_json::from_str(&told).unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let packages = metadata["packages"].as_array().unwrap().iter().map(|package| {
        let dependencies = package["dependencies"].as_array().unwrap().iter();
        let shipped = dependencies.filter(|dependency| dependency["kind"] != "dev");
        (text(&package["name"]), shipped.map(|dependency| text(&dependency["name"])).collect())
    });
    packages.collect()
}

/// Every source file under these folders, with its path from the root and its text.
fn sources(folders: &[&str]) -> Vec<(String, String)> {
    fn gather(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() {
                if name != "target" && !name.starts_with('.') {
                    gather(&path, found);
                }
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    for folder in folders {
        gather(&root().join(folder), &mut found);
    }
    assert!(!found.is_empty(), "{folders:?}");
    found.sort();
    let read = |path: PathBuf| {
        let name = path.strip_prefix(root()).unwrap().to_string_lossy().into_owned();
        (name, std::fs::read_to_string(&path).unwrap())
    };
    found.into_iter().map(read).collect()
}

/// The files whose code (not its comments) mentions a text.
fn mentioning(folders: &[&str], text: &str) -> Vec<String> {
    let code =
        |source: &str| source.lines().any(|line| line.split("//").next().unwrap().contains(text));
    sources(folders).into_iter().filter(|(_, source)| code(source)).map(|(name, _)| name).collect()
}

#[test]
fn crates_know_only_those_that_they_may_know() {
    let found = dependencies();
    let ours: Vec<&String> = found.keys().collect();
    for (name, dependencies) in &found {
        if OUTERMOST.contains(&name.as_str()) {
            continue;
        }
        let arrows = ARROWS.iter().find(|(known, _)| known == name);
        let (_, allowed) =
            arrows.unwrap_or_else(|| panic!("{name} is new: say in ARROWS what it may know"));
        for dependency in dependencies.iter().filter(|dependency| ours.contains(dependency)) {
            assert!(
                allowed.contains(&dependency.as_str()),
                "{name} must not depend on {dependency}"
            );
        }
    }
    for (name, _) in ARROWS {
        assert!(found.contains_key(*name), "{name} is gone: take it out of ARROWS");
    }
}

#[test]
fn each_heavy_dependency_has_one_home() {
    let found = dependencies();
    for (dependency, homes) in HOMES {
        for (name, dependencies) in &found {
            let has = dependencies.iter().any(|known| known == dependency);
            assert!(
                !has || homes.contains(&name.as_str()),
                "{name} must not depend on {dependency}"
            );
        }
    }
}

#[test]
fn the_model_does_no_io() {
    let arguments = [
        "tree",
        "--package",
        "model",
        "--edges",
        "normal",
        "--prefix",
        "none",
        "--locked",
        "--offline",
    ];
    let tree = cargo(&arguments);
    for line in tree.lines() {
        let name = line.split(' ').next().unwrap();
        assert!(!DOES_IO.contains(&name), "model depends on {name}");
    }
    for io in ["std::fs", "std::env", "std::process", "std::thread", "TcpStream"] {
        assert_eq!(mentioning(&["model/src"], io), Vec::<String>::new(), "{io}");
    }
}

/// Folders with sources of ours.
const ALL: &[&str] = &[
    "model",
    "store",
    "gateway",
    "plugins",
    "admin",
    "dispatcher",
    "cli",
    "fixtures",
    "policies",
    "tests",
];

const SHIPPED: &[&str] =
    &["model", "store", "gateway", "plugins/host", "admin", "dispatcher", "cli"];

#[test]
fn there_is_one_cell_of_configuration_one_of_keys_and_one_of_revocations() {
    let cells = mentioning(SHIPPED, "ArcSwap");
    assert_eq!(
        cells,
        [
            // The data of packs, and which counters a tenant has: runtime state, which no revision holds.
            "gateway/src/rollout/data.rs",
            "gateway/src/rollout/tenant.rs",
            "gateway/src/snapshot.rs",
            "gateway/stages/src/authenticate/key_set.rs",
            "gateway/stages/src/authenticate/revocations.rs",
        ]
    );
}

#[test]
fn only_the_reporter_and_the_dispatcher_count() {
    for counting in ["use prometheus", "IntCounter", "HistogramVec", "IntGauge"] {
        let counts = mentioning(SHIPPED, counting);
        let places = ["gateway/src/report", "dispatcher/src/metrics.rs"];
        let reports = |path: &String| places.iter().any(|place| path.starts_with(place));
        assert!(!counts.is_empty() && counts.iter().all(reports), "{counting}: {counts:?}");
    }
}

#[test]
fn no_file_has_a_name_that_says_nothing() {
    for (path, _) in sources(ALL) {
        for part in Path::new(&path).with_extension("").components() {
            let part = part.as_os_str().to_string_lossy().into_owned();
            assert!(!BANNED_NAMES.contains(&part.as_str()), "{path}: `{part}` says nothing");
        }
    }
}

#[test]
fn no_test_is_skipped() {
    let attribute = concat!("#[ig", "nore");
    assert_eq!(mentioning(ALL, attribute), Vec::<String>::new());
}
