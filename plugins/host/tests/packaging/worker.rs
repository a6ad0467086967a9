//! Child processes that take too long, too much, or talk nonsense.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use pack_host::worker::JobLimits;
use pack_host::{Limits, PackError};

use super::*;

/// A host whose jobs may take this.
fn limited(worker: Worker, jobs: JobLimits) -> Arc<Host> {
    Host::new(HostSettings { jobs, ..HostSettings::small(worker) }).expect("a host")
}

fn prepare(host: &Arc<Host>, package: Package) -> Result<Arc<Prepared>, PackError> {
    host.load(package).prepare(&json!({ "how": "count" }), Limits::default(), None)
}

/// A module with so many functions that compiling them takes seconds, even where all is fast.
static LONG_TO_COMPILE: LazyLock<Package> = LazyLock::new(|| {
    let step = "local.get 0 i32.const 3 i32.mul i32.const 5 i32.xor local.set 0 ";
    let function = format!("(func (param i32) (result i32) {} local.get 0)", step.repeat(60));
    let text = PLAIN.replace("%imports%", "").replace("%configure%", "").replace("%decide%", "");
    let text = text.strip_suffix(')').expect("its end").to_owned() + &function.repeat(6_000) + ")";
    package(&wat::parse_str(text).expect("a module"), None, &[])
});

/// A script in place of the worker.
fn script(folder: &Path, text: &str) -> Worker {
    let path = folder.join("worker");
    fs::write(&path, format!("#!/bin/sh\n{text}\n")).expect("a script");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).expect("a script");
    Worker::Process(path)
}

/// Children of this process that have ended and that nobody waited for.
fn zombies() -> usize {
    let children = fs::read_to_string("/proc/thread-self/children").unwrap_or_default();
    let ended = |pid: &&str| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.contains(") Z ")
    };
    children.split_whitespace().filter(ended).count()
}

#[test]
fn a_job_past_its_time_is_killed_and_waited_for() {
    let wall = Duration::from_millis(300);
    let host = limited(process(), JobLimits { wall, ..JobLimits::default() });
    let began = Instant::now();
    let error = prepare(&host, LONG_TO_COMPILE.clone()).err().unwrap();
    assert_eq!(error, PackError::TooCostly { what: "300ms".to_owned() });
    assert!(error.to_string().contains("make the module smaller"), "{error}");
    // Not only when it would have been done.
    assert!(began.elapsed() >= wall);
    assert_eq!(zombies(), 0);
}

#[test]
fn a_job_past_its_processor_time_is_ended_by_the_kernel() {
    let cpu = Duration::from_secs(1);
    let host = limited(process(), JobLimits { cpu, ..JobLimits::default() });
    let error = prepare(&host, LONG_TO_COMPILE.clone()).err().unwrap();
    assert_eq!(error, PackError::TooCostly { what: "1s of processor time".to_owned() });
}

#[test]
fn a_job_that_takes_too_much_memory_fails_and_nothing_else_does() {
    let host = limited(process(), JobLimits { memory: 48 << 20, ..JobLimits::default() });
    let error = prepare(&host, LONG_TO_COMPILE.clone()).err().unwrap();
    assert_eq!(error, PackError::TooCostly { what: "48 MiB of memory".to_owned() });
}

#[test]
fn what_is_no_worker_is_told_apart_from_what_is_no_pack() {
    let folder = tempfile::tempdir().unwrap();
    for (text, expected) in [
        ("exit 3", "it ended with exit status: 3"),
        ("cat > /dev/null; exit 0", "its answer can't be read"),
        ("head -c 4096 /dev/urandom", "its answer can't be read"),
        ("yes", "it ended with"),
        ("printf '\\002\\0\\0\\0\\0\\0\\0\\0{}'", "its answer can't be read"),
        // An answer to another question.
        (
            r#"printf '\101\0\0\0\0\0\0\0{"tried":{"reusable":false,"image":false,"vectors":[]}}          '"#,
            "another question",
        ),
        ("kill -9 $$", "signal: 9"),
        // It says that it has code, but there is none.
        (r#"printf '\031\0\0\0\0\0\0\0{"prepared":[{"Ok":true}]}'"#, "its answer can't be read"),
        // It says so, and there is something else.
        (
            r#"printf '\031\0\0\0\0\0\0\0{"prepared":[{"Ok":true}]}\004\0\0\0\0\0\0\0code'"#,
            "the process that compiles packs failed",
        ),
    ] {
        let error = prepare(&host(script(folder.path(), text)), misbehave(&[])).err().unwrap();
        let PackError::Worker { message } = &error else { panic!("{text}: {error}") };
        assert!(error.to_string().contains(expected), "{text}: {message}");
    }
    let nowhere = Worker::Process(folder.path().join("nowhere"));
    let error = prepare(&host(nowhere), misbehave(&[])).err().unwrap();
    assert!(matches!(error, PackError::Worker { .. }), "{error}");
    assert_eq!(zombies(), 0);
}

#[test]
fn one_that_neither_reads_nor_ends_is_killed() {
    let folder = tempfile::tempdir().unwrap();
    let wall = Duration::from_millis(200);
    // The second one has given its answer, but goes on.
    for text in ["exec sleep 600", "exec >&-; exec sleep 600"] {
        let worker = script(folder.path(), text);
        let host = limited(worker, JobLimits { wall, ..JobLimits::default() });
        let began = Instant::now();
        assert!(prepare(&host, misbehave(&[])).is_err());
        assert!(began.elapsed() < Duration::from_secs(60), "{text}");
    }
    assert_eq!(zombies(), 0);
}

#[test]
fn a_worker_has_nothing_of_ours() {
    let folder = tempfile::tempdir().unwrap();
    let told = folder.path().join("told");
    let text = format!("{{ env; pwd; ls -l /proc/self/fd; }} > {} 2>&1; exit 1", told.display());
    assert!(prepare(&host(script(folder.path(), &text)), misbehave(&[])).is_err());
    let told = fs::read_to_string(told).unwrap();
    // A shell sets some by itself.
    for name in ["PATH=/", "HOME=", "CARGO"] {
        assert!(!told.contains(name), "{told}");
    }
    assert!(told.contains("PWD=/\n"), "{told}");
}

#[test]
fn at_most_two_run_at_one_time() {
    let folder = tempfile::tempdir().unwrap();
    let text = format!(
        "d={}; mkdir $d/$$; ls -d $d/[0-9]* | wc -l >> $d/most; sleep 0.1; rmdir $d/$$; exit 1",
        folder.path().display()
    );
    let host = host(script(folder.path(), &text));
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| assert!(prepare(&host, misbehave(&[])).is_err()));
        }
    });
    let most = fs::read_to_string(folder.path().join("most")).unwrap();
    let most: Vec<usize> = most.lines().map(|line| line.trim().parse().unwrap()).collect();
    assert_eq!(most.len(), 6);
    assert!(most.iter().all(|at_once| *at_once <= 2), "{most:?}");
}
