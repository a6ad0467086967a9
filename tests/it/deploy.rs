//! The files of `deploy/` fit the product and each other, as far as that can be known without running a container.

mod compose;
mod image;
mod unit;

use crate::harness::process::tollgate;
use serde_json::{Map, Value};
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Output;
use std::time::Duration;

/// Where a container and the unit keep what must last.
const DATA: &str = "/var/lib/tollgate";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// `45s`.
fn seconds(value: &Value) -> Duration {
    Duration::from_secs(value.as_str().unwrap().strip_suffix('s').unwrap().parse().unwrap())
}

/// A number that the product's source gives a name.
fn constant(file: &str, declaration: &str) -> u64 {
    let text = read(file);
    let (_, rest) =
        text.split_once(declaration).unwrap_or_else(|| panic!("{file} has no `{declaration}`"));
    let digits: String = rest
        .chars()
        .take_while(|c| c.is_ascii_digit() || *c == '_')
        .filter(|c| *c != '_')
        .collect();
    digits.parse().unwrap()
}

/// How long requests in progress get when a process is told to end.
fn grace() -> Duration {
    Duration::from_secs(constant("gateway/src/server.rs", "GRACE: Duration = Duration::from_secs("))
}

/// A folder with a key where secrets lie.
fn secrets() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("master_key");
    std::fs::write(&key, "5e".repeat(32)).unwrap();
    std::fs::set_permissions(&key, Permissions::from_mode(0o600)).unwrap();
    folder
}

/// Has the binary judge its settings, and nothing else.
fn check(arguments: &[&str], environment: &Map<String, Value>) -> Output {
    let mut command = tollgate();
    command.args(["serve", "--check"]).args(arguments);
    for (name, value) in environment {
        command.env(name, value.as_str().unwrap());
    }
    command.output().unwrap()
}

/// The settings that the binary reads from these.
fn settings(arguments: &[&str], environment: &Map<String, Value>) -> Value {
    let output = check(arguments, environment);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{environment:#?}: {error}");
    serde_saphyr::from_str(std::str::from_utf8(&output.stdout).unwrap()).unwrap()
}
