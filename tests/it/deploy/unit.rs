//! The unit, and the sample of the settings that it starts with.

use super::{constant, grace, read, seconds, secrets, settings};
use crate::harness::process::tollgate;
use serde_json::{Map, Value, json};
use std::path::PathBuf;
use std::process::Command;

/// The sections and keys of the unit; keys that stand twice are a mistake here.
fn unit() -> Map<String, Value> {
    let mut section = String::new();
    let mut unit = Map::new();
    for line in read("deploy/tollgate.service").lines() {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(name) = line.strip_prefix('[') {
            section = name.trim_end_matches(']').to_owned();
            continue;
        }
        let (key, value) = line.split_once('=').unwrap_or_else(|| panic!("{line}"));
        let before = unit.insert(format!("{section}.{key}"), value.into());
        assert_eq!(before, None, "{key} stands twice");
    }
    unit
}

#[test]
fn the_sample_settings_are_read_and_fit_the_unit() {
    let folder = secrets();
    let file = folder.path().join("tollgate.yaml");
    let sample = read("deploy/tollgate.yaml");
    let here = sample.replace("/etc/tollgate", folder.path().to_str().unwrap());
    assert_ne!(here, sample, "the sample names no key");
    std::fs::write(&file, here).unwrap();
    let read = settings(&["--config", file.to_str().unwrap()], &Map::new());
    assert_eq!(read["roles"], json!(["gateway", "admin", "dispatcher"]));
    // One node counts for itself; the line for several is there, and is understood.
    assert_eq!(read["redis"], Value::Null);
    let several = std::fs::read_to_string(&file).unwrap().replace("# redis: ", "redis: ");
    std::fs::write(&file, several).unwrap();
    let shared = settings(&["--config", file.to_str().unwrap()], &Map::new());
    let url = "rediss://redis.example:6379";
    assert_eq!(shared["redis"], json!({ "quota": url, "idempotency": url }));
    let unit = unit();
    let state = unit["Service.StateDirectory"].as_str().unwrap();
    assert_eq!(read["data"], json!(format!("/var/lib/{state}")));
    assert_eq!(read["data"], unit["Service.WorkingDirectory"]);
    let start = unit["Service.ExecStart"].as_str().unwrap();
    assert_eq!(start, "/usr/bin/tollgate serve --config /etc/tollgate/tollgate.yaml");
    // Tokens cross admin's port in plain.
    for listener in ["admin", "status"] {
        assert!(read["listen"][listener].as_str().unwrap().starts_with("127.0.0.1:"), "{listener}");
    }
}

#[test]
fn the_unit_gives_requests_time_to_end_and_the_process_little_else() {
    let unit = unit();
    assert!(seconds(&unit["Service.TimeoutStopSec"]) > grace());
    let exchanges = constant("gateway/src/proxy.rs", "EXCHANGES_MAX: i64 = ");
    let files: u64 = unit["Service.LimitNOFILE"].as_str().unwrap().parse().unwrap();
    // One to the client and one to the upstream.
    assert!(files > 2 * exchanges, "{files}");
    assert_eq!(unit["Service.Restart"], "on-failure");
    let user = unit["Service.User"].as_str().unwrap();
    assert!(read("deploy/tollgate.sysusers.conf").contains(&format!("\nu {user} - ")));
    for (key, value) in [
        ("NoNewPrivileges", "yes"),
        ("ProtectSystem", "strict"),
        ("ProtectHome", "yes"),
        ("PrivateTmp", "yes"),
        ("PrivateDevices", "yes"),
        ("CapabilityBoundingSet", ""),
        ("StateDirectoryMode", "0700"),
        ("UMask", "0077"),
    ] {
        assert_eq!(unit[&format!("Service.{key}")], value, "{key}");
    }
    // Packs are compiled to machine code in memory.
    assert!(!unit.contains_key("Service.MemoryDenyWriteExecute"));
}

/// Where systemd is installed, it has a word, too; elsewhere the keys are judged by the test above alone.
#[test]
fn systemd_understands_the_unit() {
    let folder = tempfile::tempdir().unwrap();
    let file: PathBuf = folder.path().join("tollgate.service");
    let binary = tollgate().get_program().to_str().unwrap().to_owned();
    std::fs::write(&file, read("deploy/tollgate.service").replace("/usr/bin/tollgate", &binary))
        .unwrap();
    let verify = Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&file).output();
    match verify {
        // Unknown keys are told on standard error, and are no failure.
        Ok(output) => assert_eq!(
            (output.status.success(), String::from_utf8_lossy(&output.stderr).trim()),
            (true, "")
        ),
        Err(error) => println!("systemd-analyze is not there: {error}"),
    }
}
