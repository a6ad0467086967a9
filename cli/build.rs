//! Writes what `tollgate pack new` unpacks: the SDK, the interface, and the templates of `plugins/sdk/templates`, as they
//! stand in this repository. A pack then builds outside of it.
#![allow(clippy::print_stdout, reason = "a build script speaks to cargo through its output")]

use std::env;
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// What in the SDK's folder is not for authors.
const NOT_FOR_AUTHORS: &[&str] = &["target", "templates", "tests", "Cargo.lock"];

fn main() -> io::Result<()> {
    let plugins = Path::new(env!("CARGO_MANIFEST_DIR")).join("../plugins").canonicalize()?;
    let templates = plugins.join("sdk/templates");
    let mut sdk = files(&plugins.join("wit"), &plugins, &[])?;
    sdk.extend(files(&plugins.join("sdk"), &plugins, NOT_FOR_AUTHORS)?);
    let sets = [
        ("SDK", "The SDK and the interface, as they lie in `plugins`.", sdk),
        ("RUST", "The template of a pack in Rust.", template(&templates.join("rust"))?),
        ("C", "The template of a pack in C.", template(&templates.join("c"))?),
    ];
    let mut text = String::new();
    for (name, about, files) in sets {
        let _ = writeln!(text, "/// {about}\npub(super) const {name}: &[(&str, &str)] = &[");
        for (path, file) in files {
            let _ = writeln!(text, "    ({path:?}, include_str!({:?})),", file.display());
        }
        text.push_str("];\n");
    }
    let out = env::var_os("OUT_DIR").ok_or_else(|| io::Error::other("cargo sets OUT_DIR"))?;
    fs::write(Path::new(&out).join("kit.rs"), text)
}

fn template(folder: &Path) -> io::Result<Vec<(String, PathBuf)>> {
    files(folder, folder, &["target"])
}

/// Every file in a folder, with its path within `root`, in order.
fn files(folder: &Path, root: &Path, without: &[&str]) -> io::Result<Vec<(String, PathBuf)>> {
    // The folder itself only where all of it is taken: else a build in it would have this one run again.
    if without.is_empty() {
        println!("cargo:rerun-if-changed={}", folder.display());
    }
    let mut entries = fs::read_dir(folder)?.collect::<io::Result<Vec<_>>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    let mut found = Vec::new();
    for entry in entries {
        let name = entry.file_name();
        if without.iter().any(|skipped| name == *skipped) {
            continue;
        }
        let path = entry.path();
        println!("cargo:rerun-if-changed={}", path.display());
        if entry.file_type()?.is_dir() {
            found.extend(files(&path, root, without)?);
            continue;
        }
        let within = path.strip_prefix(root).map_err(io::Error::other)?;
        let within = within.to_str().ok_or_else(|| io::Error::other("a path is not text"))?;
        found.push((within.to_owned(), path));
    }
    Ok(found)
}
