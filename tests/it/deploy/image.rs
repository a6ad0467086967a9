//! The Dockerfile: what it is built from, and what a container of it can do.

use super::{DATA, read, root};
use crate::harness::process::tollgate;
use serde_json::{Map, Value};
use std::path::Path;
use std::process::Command;

/// An instruction of the Dockerfile: its name and the rest, on one line.
type Instruction = (String, String);

fn dockerfile() -> Vec<Instruction> {
    let text = read("deploy/Dockerfile");
    let code: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    let joined = code.join("\n").replace("\\\n", " ");
    let lines = joined.lines().map(str::trim).filter(|line| !line.is_empty());
    let instruction = |line: &str| {
        let (name, rest) = line.split_once(' ').unwrap_or((line, ""));
        (name.to_owned(), rest.split_whitespace().collect::<Vec<_>>().join(" "))
    };
    lines.map(instruction).collect()
}

/// What is done from the last FROM on: the image itself.
pub(super) fn image() -> Vec<Instruction> {
    let all = dockerfile();
    let last = all.iter().rposition(|(name, _)| name == "FROM").unwrap();
    all[last..].to_vec()
}

/// The values of an instruction, of which there may be several.
pub(super) fn values(instructions: &[Instruction], name: &str) -> Vec<String> {
    let same = instructions.iter().filter(|(known, _)| known == name);
    same.map(|(_, rest)| rest.clone()).collect()
}

/// What the build takes from the repository.
fn copied() -> Vec<String> {
    let copies = values(&dockerfile(), "COPY").into_iter().filter(|rest| !rest.contains("--from="));
    let sources = copies.flat_map(|rest| {
        let mut words: Vec<String> = rest.split(' ').map(str::to_owned).collect();
        words.pop();
        words
    });
    sources.collect()
}

/// What the image sets in the environment.
pub(super) fn image_environment() -> Map<String, Value> {
    let set = values(&image(), "ENV").join(" ");
    let pairs = set.split(' ').map(|pair| pair.split_once('=').unwrap());
    pairs.map(|(name, value)| (name.to_owned(), value.into())).collect()
}

#[test]
fn a_container_can_do_no_more_than_it_must() {
    let image = image();
    let user = values(&image, "USER").pop().unwrap();
    let (uid, gid) = user.split_once(':').unwrap();
    assert!(uid.parse::<u32>().unwrap() > 999 && gid.parse::<u32>().unwrap() > 999, "{user}");
    let data = format!("COPY --from=builder --chown={user} --chmod=0700 /data {DATA}");
    assert!(image.iter().any(|(name, rest)| format!("{name} {rest}") == data), "{image:#?}");
    assert_eq!(values(&image, "ENTRYPOINT"), [r#"["/usr/bin/tollgate"]"#]);
    assert_eq!(values(&image, "CMD"), [r#"["serve"]"#]);
    // Nothing is run there, so that an image without a shell will do.
    assert_eq!(values(&image, "RUN"), Vec::<String>::new());
}

#[test]
fn an_image_is_called_healthy_when_it_is_ready() {
    let [health] = &values(&image(), "HEALTHCHECK")[..] else { panic!("there is not one") };
    let (_, command) = health.split_once("CMD ").unwrap();
    let words: Vec<String> = serde_json::from_str(command).unwrap();
    assert_eq!(words, ["/usr/bin/tollgate", "ready"]);
    let output = tollgate().arg("ready").arg("--help").output().unwrap();
    assert!(output.status.success());
}

#[test]
fn the_image_is_built_from_what_a_build_needs() {
    let copied = copied();
    for path in &copied {
        assert!(root().join(path).exists(), "{path} is not there");
    }
    let allowed = read(".dockerignore");
    for path in &copied {
        let line = format!("!{path}");
        assert!(allowed.lines().any(|known| known == line), "{path} is not sent to the builder");
    }
    // Cargo reads the whole workspace from it, with the lock file as it is.
    let folder = tempfile::tempdir().unwrap();
    for path in &copied {
        copy(&root().join(path), &folder.path().join(path));
    }
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    for what in [
        ["--manifest-path=Cargo.toml", "--package=cli"],
        ["--manifest-path=policies/Cargo.toml", "--target=wasm32-unknown-unknown"],
    ] {
        let mut tree = Command::new(&cargo);
        tree.args(["tree", "--locked", "--offline", "--edges=normal,build"]).args(what);
        let output = tree.current_dir(folder.path()).output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{what:?}: {error}");
    }
}

/// Copies a file or a folder, without what builds leave there.
fn copy(from: &Path, to: &Path) {
    if from.is_dir() {
        std::fs::create_dir_all(to).unwrap();
        for entry in std::fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            if entry.file_name() != "target" {
                copy(&entry.path(), &to.join(entry.file_name()));
            }
        }
    } else {
        std::fs::copy(from, to).unwrap();
    }
}

#[test]
fn the_image_is_built_by_our_toolchain_for_the_system_that_it_runs_on() {
    let arguments = values(&dockerfile(), "ARG");
    let value = |name: &str| {
        let found = arguments.iter().find_map(|argument| argument.strip_prefix(name));
        found.unwrap_or_else(|| panic!("{name} is not among {arguments:?}")).to_owned()
    };
    let (builder, runtime) = (value("BUILDER="), value("RUNTIME="));
    let toolchain = read("rust-toolchain.toml");
    let version = builder.strip_prefix("rust:").unwrap().split('-').next().unwrap().to_owned();
    assert!(toolchain.contains(&format!("channel = \"{version}\"")), "{builder}");
    let release = builder.rsplit('-').next().unwrap();
    assert_eq!(runtime, format!("debian:{release}-slim"));
    assert_eq!(values(&dockerfile(), "FROM"), ["${BUILDER} AS builder", "${RUNTIME}"]);
}
