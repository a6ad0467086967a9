//! Compiled packs on disk: what is used again, what is made again, and what never runs.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use pack_host::{Limits, PackError};

use super::*;

fn cached(folder: &Path, worker: Worker) -> Arc<Host> {
    let cache = Some(folder.to_owned());
    Host::new(HostSettings { cache, ..HostSettings::small(worker) }).expect("a host")
}

/// No worker: what isn't in the cache can't be had.
fn nowhere() -> Worker {
    Worker::Process("/nowhere/worker".into())
}

fn count() -> Value {
    json!({ "how": "count" })
}

fn prepare(host: &Arc<Host>) -> Result<Arc<Prepared>, PackError> {
    host.load(misbehave(&[])).prepare(&count(), Limits::default(), None)
}

/// The entries of a cache, without its key.
fn entries(folder: &Path) -> Vec<PathBuf> {
    let files =
        fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path());
    files.filter(|path| !path.ends_with("node.key")).collect()
}

#[test]
fn what_was_compiled_once_is_used_by_the_next_process() {
    let folder = tempfile::tempdir().unwrap();
    let first = prepare(&cached(folder.path(), process())).unwrap();
    let second = prepare(&cached(folder.path(), nowhere())).unwrap();
    let asked = request(&[]);
    assert_eq!(decide(&first, &asked), decide(&second, &asked));
    assert!(second.has_image());
}

#[test]
fn other_settings_or_limits_or_packs_are_other_entries() {
    let folder = tempfile::tempdir().unwrap();
    prepare(&cached(folder.path(), process())).unwrap();
    let host = cached(folder.path(), nowhere());
    let pack = host.load(misbehave(&[]));
    let usual = Limits::default();
    for (settings, limits, kept) in [
        (count(), usual, true),
        // What only bounds calls doesn't change what is compiled.
        (count(), Limits { fuel: 1_000_000, host_calls: 9, ..usual }, true),
        (count(), Limits { memory: 5 << 20, ..usual }, false),
        (json!({ "how": "spin" }), usual, false),
    ] {
        assert_eq!(pack.prepare(&settings, limits, None).is_ok(), kept, "{settings} {limits:?}");
    }
    let vector = ("v", json!({ "settings": count(), "expect": { "decision": "edit" } }));
    assert!(host.load(misbehave(&[vector])).prepare(&count(), usual, None).is_err());
}

#[test]
fn a_changed_byte_never_runs_and_is_made_again() {
    let folder = tempfile::tempdir().unwrap();
    prepare(&cached(folder.path(), process())).unwrap();
    let entry = entries(folder.path()).remove(0);
    let good = fs::read(&entry).unwrap();
    let positions = (0..good.len()).step_by(good.len() / 64).chain([31, 32, good.len() - 1]);
    for at in positions {
        let mut bad = good.clone();
        bad[at] ^= 1;
        fs::write(&entry, bad).unwrap();
        assert!(prepare(&cached(folder.path(), nowhere())).is_err(), "byte {at}");
        assert!(!entry.exists(), "byte {at}");
    }
    for bad in [&good[..good.len() - 1], &[&good[..], b"x"].concat(), b""] {
        fs::write(&entry, bad).unwrap();
        assert!(prepare(&cached(folder.path(), nowhere())).is_err(), "{} bytes", bad.len());
    }
    fs::write(&entry, b"changed").unwrap();
    prepare(&cached(folder.path(), process())).unwrap();
    assert_eq!(fs::read(&entry).unwrap().len(), good.len());
    prepare(&cached(folder.path(), nowhere())).unwrap();
}

#[test]
fn another_nodes_entries_are_not_used() {
    let (own, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    prepare(&cached(own.path(), process())).unwrap();
    let entry = entries(own.path()).remove(0);
    // The other node makes its key.
    drop(cached(other.path(), nowhere()));
    fs::copy(&entry, other.path().join(entry.file_name().unwrap())).unwrap();
    assert!(prepare(&cached(other.path(), nowhere())).is_err());
    // Nor is an entry under another name.
    let foreign = own.path().join("0".repeat(64));
    fs::rename(&entry, &foreign).unwrap();
    assert!(prepare(&cached(own.path(), nowhere())).is_err());
}

#[test]
fn the_nodes_key_is_its_own_and_a_loose_one_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("node.key");
    prepare(&cached(folder.path(), process())).unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&key), 0o600);
    assert_eq!(mode(&entries(folder.path())[0]), 0o600);
    let first = fs::read(&key).unwrap();
    assert_eq!(first.len(), 32);
    drop(cached(folder.path(), nowhere()));
    assert_eq!(fs::read(&key).unwrap(), first, "made once");
    for change in [
        |key: &Path| fs::write(key, b"short").unwrap(),
        |key: &Path| {
            fs::set_permissions(key, fs::Permissions::from_mode(0o644)).unwrap();
        },
    ] {
        let before = fs::read(&key).unwrap();
        change(&key);
        assert!(prepare(&cached(folder.path(), nowhere())).is_err());
        assert_ne!(fs::read(&key).unwrap(), before);
        assert_eq!(mode(&key), 0o600);
        prepare(&cached(folder.path(), process())).unwrap();
    }
}

#[test]
fn many_threads_share_a_cache() {
    let folder = tempfile::tempdir().unwrap();
    let host = cached(folder.path(), process());
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| prepare(&host).unwrap());
        }
    });
    assert_eq!(entries(folder.path()).len(), 1);
    assert!(prepare(&cached(folder.path(), nowhere())).is_ok());
}
