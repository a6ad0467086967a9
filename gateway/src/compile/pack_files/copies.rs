//! A node's copies of packs that came from the store, so that it starts without it.
//!
//! Invariant: a copy is known by its pack's digest, and what is found under another one counts as none.

use super::{Named, read, read_file};
use crate::watch::{self, Readers};
use pack_host::Package;
use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Bytes of copies that a node keeps, beside those that it uses.
const COPIES_MAX: u64 = 1 << 30;
/// Hex digits of a digest.
const DIGITS: usize = 64;

/// The folder of copies: `NAME-VERSION-DIGEST.tgpack`.
pub(super) struct Copies(PathBuf);

impl Copies {
    pub(super) const fn of(folder: PathBuf) -> Self {
        Self(folder)
    }

    /// The copy of a pack: of this digest, or the only one that there is.
    pub(super) fn find(&self, named: &Named, digest: Option<&String>) -> Option<Package> {
        let start = format!("{}-{}-", named.id, named.version);
        let path = match digest {
            Some(digest) => self.0.join(format!("{start}{}.tgpack", hex(digest))),
            None => self.only(&start)?,
        };
        let package = read(&read_file(&path).ok()?, named).ok()?;
        digest.is_none_or(|digest| digest == package.digest()).then_some(package)
    }

    fn only(&self, start: &str) -> Option<PathBuf> {
        let is_it = |path: &PathBuf| {
            let name = path.file_name().and_then(|name| name.to_str());
            let rest = name.and_then(|name| name.strip_prefix(start)?.strip_suffix(".tgpack"));
            rest.is_some_and(|hex| {
                hex.len() == DIGITS && hex.bytes().all(|digit| digit.is_ascii_hexdigit())
            })
        };
        let files = fs::read_dir(&self.0).ok()?.flatten();
        let mut copies = files.map(|file| file.path()).filter(is_it);
        let first = copies.next()?;
        copies.next().is_none().then_some(first)
    }

    /// Keeps a copy, and removes old ones that nobody uses. Where that fails, the node starts with the store or not at all.
    pub(super) fn keep(&self, package: &Package, bytes: &[u8], used: &HashSet<String>) {
        let name =
            format!("{}-{}-{}.tgpack", package.name(), package.version(), hex(package.digest()));
        let path = self.0.join(name);
        let written = fs::create_dir_all(&self.0)
            .and_then(|()| watch::replace(&path, bytes, Readers::Everybody))
            .and_then(|()| self.prune(&path, used));
        if let Err(error) = written {
            tracing::warn!(%error, path = %path.display(), "no copy of a pack could be kept");
        }
    }

    fn prune(&self, fresh: &Path, used: &HashSet<String>) -> std::io::Result<()> {
        let mut copies = Vec::new();
        for file in fs::read_dir(&self.0)? {
            let file = file?;
            let seen = file.metadata()?;
            let age = seen.modified().unwrap_or(SystemTime::UNIX_EPOCH);
            copies.push((age, seen.len(), file.path()));
        }
        copies.sort();
        let mut bytes: u64 = copies.iter().map(|(_, size, _)| size).sum();
        let is_used = |path: &Path| {
            let name = path.file_stem().and_then(|name| name.to_str()).unwrap_or_default();
            used.iter().any(|digest| name.ends_with(hex(digest)))
        };
        for (_, size, path) in copies {
            if bytes <= COPIES_MAX {
                break;
            }
            if path != fresh && !is_used(&path) {
                fs::remove_file(&path)?;
                bytes -= size;
            }
        }
        Ok(())
    }
}

fn hex(digest: &str) -> &str {
    digest.trim_start_matches("sha256:")
}
