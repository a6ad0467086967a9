//! `tollgate pack new`: a folder that builds, tests and packs at once. Everything that it needs comes out of this binary.

use crate::remote::Form;
use crate::{Ending, misused, print};
use anyhow::{Context as _, bail};
use clap::{Args, ValueEnum};
use serde_json::json;
use std::fs;
use std::path::{Path, PathBuf};

/// What is unpacked: written by the build script.
mod kit {
    include!(concat!(env!("OUT_DIR"), "/kit.rs"));
}

/// Where the SDK and the interface lie in a pack's folder.
pub(super) const SDK_FOLDER: &str = ".tollgate-sdk";
/// A template's files begin with this where they begin with a dot when unpacked.
const DOT: &str = "dot-";
/// The longest name: it stands in file names and documents.
const NAME_MAX: usize = 64;

/// Makes the folder of a pack, which builds and passes its tests at once: a policy to change, vectors, and the SDK.
///
/// Example: tollgate pack new page-limit --lang rust
#[derive(Args)]
pub(super) struct New {
    /// The pack's name: lower-case letters, digits and `-`, starting with a letter.
    name: String,
    /// What it is written in.
    #[arg(long, value_enum, default_value = "rust")]
    lang: Language,
    /// The folder; NAME when absent. It must be empty or not there.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Prints `{"folder", "files"}`.
    #[arg(long)]
    json: bool,
}

/// Languages with a template.
#[derive(Clone, Copy, ValueEnum)]
enum Language {
    Rust,
    C,
}

impl New {
    pub(super) fn run(self) -> anyhow::Result<Ending> {
        if !is_name(&self.name) {
            return Err(misused(format!(
                "`{}` is no name of a pack: write 1 to {NAME_MAX} lower-case letters, digits and `-`, starting with a letter, like `page-limit`",
                self.name
            )));
        }
        let folder = self.dir.unwrap_or_else(|| PathBuf::from(&self.name));
        if fs::read_dir(&folder).is_ok_and(|mut entries| entries.next().is_some()) {
            bail!("{} is there and not empty: choose another --dir", folder.display());
        }
        for (path, text) in kit::SDK {
            write(&folder.join(SDK_FOLDER).join(path), text)?;
        }
        let template = match self.lang {
            Language::Rust => kit::RUST,
            Language::C => kit::C,
        };
        let mut files = Vec::new();
        for (path, text) in template {
            let path = unpacked(path);
            write(&folder.join(&path), &filled(text, &self.name))?;
            files.push(path);
        }
        match Form::json_if(self.json) {
            Form::Json => print(&json!({ "folder": folder, "files": files }).to_string()),
            Form::Text => {
                print(&format!("{} is made:", folder.display()));
                files.iter().for_each(|path| print(&format!("  {path}")));
                print(&format!("Next: tollgate pack test {}", folder.display()));
            }
        }
        Ok(Ending::Done)
    }
}

/// Whether a pack may be called so: what a crate, a file and a document's entry may be called alike.
pub(super) fn is_name(name: &str) -> bool {
    name.len() <= NAME_MAX
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
}

/// Where a template's file is written: `dot-gitignore` as `.gitignore`.
fn unpacked(path: &str) -> String {
    let (folder, name) = path.rsplit_once('/').map_or(("", path), |(folder, name)| (folder, name));
    let name = name.strip_prefix(DOT).map_or_else(|| name.to_owned(), |name| format!(".{name}"));
    if folder.is_empty() { name } else { format!("{folder}/{name}") }
}

/// The template's text with the pack's name in it, as text, as an identifier and as a type.
fn filled(text: &str, name: &str) -> String {
    let camel: String = name
        .split('-')
        .flat_map(|word| {
            let mut letters = word.chars();
            letters.next().map(|first| first.to_ascii_uppercase()).into_iter().chain(letters)
        })
        .collect();
    text.replace("{{name}}", name)
        .replace("{{name_snake}}", &name.replace('-', "_"))
        .replace("{{Name}}", &camel)
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)
            .with_context(|| format!("{} can't be made", folder.display()))?;
    }
    fs::write(path, text).with_context(|| format!("{} can't be written", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_stands_as_text_identifier_and_type() {
        let text = "{{name}} {{name_snake}} {{Name}}";
        for (name, expected) in [
            ("page-limit", "page-limit page_limit PageLimit"),
            ("a", "a a A"),
            ("v2-up", "v2-up v2_up V2Up"),
        ] {
            assert!(is_name(name));
            assert_eq!(filled(text, name), expected);
        }
        for name in ["", "Page", "2fast", "-a", "a_b", "a/b", "é", &"a".repeat(65)] {
            assert!(!is_name(name), "{name}");
        }
    }

    #[test]
    fn templates_are_unpacked_with_their_dots() {
        for (path, expected) in
            [("dot-gitignore", ".gitignore"), ("src/lib.rs", "src/lib.rs"), ("a/dot-b", "a/.b")]
        {
            assert_eq!(unpacked(path), expected);
        }
        for (path, text) in kit::RUST.iter().chain(kit::C) {
            let text = filled(text, "page-limit");
            assert!(!text.contains("{{"), "{path} has a placeholder that nothing fills");
        }
    }
}
