//! Compiled packs on disk, so that a node that starts again compiles nothing again.
//!
//! Invariant: what is handed out was written by this node: each entry carries an HMAC-SHA256 over its name and content under
//! a key that only this node has. One that fails it is removed and made again. An entry's name covers everything that it is
//! made of: pack, settings, engine, processor.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::hash::{Hash as _, Hasher};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use aws_lc_rs::hmac::{self, HMAC_SHA256};
use rustix::fs::{Timespec, Timestamps, UTIME_NOW, futimens};
use sha2::{Digest as _, Sha256};
use wasmtime::Engine;

use crate::artefact::Artefact;
use crate::worker::MAX_ARTEFACT_BYTES;

/// The most that the entries take together, in bytes; those that were used longest ago go first.
const MAX_CACHE_BYTES: u64 = 1 << 30;
/// What is left when some had to go, so that this doesn't happen each time.
const SWEPT_CACHE_BYTES: u64 = MAX_CACHE_BYTES / 10 * 9;
/// The node's key, beside the entries.
const KEY_FILE: &str = "node.key";
const KEY_BYTES: usize = 32;
const TAG_BYTES: usize = 32;
/// Whether the code has a memory image, as an entry's first byte after the tag.
const CONFIGURED_EACH_TIME: u8 = 0;
const IMAGE: u8 = 1;
/// Part of every name: a change of how artefacts are made or entries are written makes a new one.
const FORMAT: &str = concat!("1/", env!("CARGO_PKG_VERSION"));

/// Compiled packs on disk.
pub(crate) struct Cache {
    folder: PathBuf,
    key: hmac::Key,
    engine: [u8; 32],
    /// About how much the entries take.
    bytes: Mutex<u64>,
}

/// Why there is no cache.
#[derive(Debug, thiserror::Error)]
#[error("the folder of compiled packs {}: {source}", folder.display())]
pub struct CacheError {
    folder: PathBuf,
    source: io::Error,
}

impl Cache {
    /// Opens a folder, and makes it and the node's key where there are none.
    pub(crate) fn open(folder: &Path, engine: &Engine) -> Result<Self, CacheError> {
        let opened = || {
            DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
            let key = node_key(folder)?;
            let bytes = entries(folder)?.iter().map(|entry| entry.bytes).sum();
            Ok(Self {
                folder: folder.to_owned(),
                key: hmac::Key::new(HMAC_SHA256, &key),
                engine: engine_hash(engine),
                bytes: Mutex::new(bytes),
            })
        };
        opened().map_err(|source| CacheError { folder: folder.to_owned(), source })
    }

    /// What was made of these parts.
    pub(crate) fn find(&self, parts: &[String]) -> Option<Artefact> {
        let name = self.name(parts);
        let path = self.folder.join(&name);
        let file = File::open(&path).ok()?;
        let mut bytes = Vec::new();
        let most = TAG_BYTES + 1 + MAX_ARTEFACT_BYTES;
        // One more, to see that there is more.
        (&file).take(most as u64 + 1).read_to_end(&mut bytes).ok()?;
        let artefact = (bytes.len() <= most).then(|| self.opened(&name, &bytes)).flatten();
        if artefact.is_some() {
            let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
            // Only the order in which entries go depends on it.
            let _touched =
                futimens(&file, &Timestamps { last_access: now, last_modification: now });
        } else {
            tracing::warn!(entry = name, "a compiled pack on disk was changed; it is made again");
            let _removed = fs::remove_file(&path);
        }
        artefact
    }

    /// Keeps what was made of these parts. A cache that can't be written costs time, nothing else.
    pub(crate) fn keep(&self, parts: &[String], artefact: &Artefact) {
        let name = self.name(parts);
        let sealed = self.sealed(&name, artefact);
        let made = self.write(&name, &sealed).and_then(|()| self.grown(sealed.len() as u64));
        if let Err(error) = made {
            tracing::warn!(folder = %self.folder.display(), %error, "a compiled pack can't be kept");
        }
    }

    fn name(&self, parts: &[String]) -> String {
        let mut hash = Sha256::new();
        hash.update(FORMAT);
        hash.update(self.engine);
        for part in parts {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        format!("{:x}", hash.finalize())
    }

    fn sealed(&self, name: &str, artefact: &Artefact) -> Vec<u8> {
        let image = if artefact.image { IMAGE } else { CONFIGURED_EACH_TIME };
        let mut signed = hmac::Context::with_key(&self.key);
        signed.update(name.as_bytes());
        signed.update(&[image]);
        signed.update(&artefact.code);
        [signed.sign().as_ref(), &[image], &artefact.code].concat()
    }

    fn opened(&self, name: &str, bytes: &[u8]) -> Option<Artefact> {
        let (tag, signed) = bytes.split_at_checked(TAG_BYTES)?;
        let message = [name.as_bytes(), signed].concat();
        hmac::verify(&self.key, &message, tag).ok()?;
        let (image, code) = signed.split_first()?;
        Some(Artefact { image: *image == IMAGE, code: code.to_vec() })
    }

    fn write(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let making = making(&self.folder, name);
        let written = private(&making)
            .and_then(|mut file| file.write_all(bytes))
            .and_then(|()| fs::rename(&making, self.folder.join(name)));
        if written.is_err() {
            let _removed = fs::remove_file(&making);
        }
        written
    }

    /// Counts what was added, and makes room where that is too much.
    fn grown(&self, by: u64) -> io::Result<()> {
        let mut bytes = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        *bytes = bytes.saturating_add(by);
        if *bytes <= MAX_CACHE_BYTES {
            return Ok(());
        }
        *bytes = sweep(&self.folder, SWEPT_CACHE_BYTES)?;
        Ok(())
    }
}

/// Removes the entries that were used longest ago until the rest takes no more than this; tells what that is.
fn sweep(folder: &Path, at_most: u64) -> io::Result<u64> {
    let mut entries = entries(folder)?;
    entries.sort_by_key(|entry| entry.used);
    let mut bytes = entries.iter().map(|entry| entry.bytes).sum();
    for entry in entries {
        if bytes <= at_most {
            break;
        }
        fs::remove_file(entry.path)?;
        bytes -= entry.bytes;
    }
    Ok(bytes)
}

struct Entry {
    path: PathBuf,
    bytes: u64,
    used: SystemTime,
}

fn entries(folder: &Path) -> io::Result<Vec<Entry>> {
    let mut entries = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        // It may be gone by now: another process may have made room.
        let Ok(about) = entry.metadata() else { continue };
        if about.is_file() && entry.file_name() != KEY_FILE {
            let (path, used) = (entry.path(), about.modified()?);
            entries.push(Entry { path, bytes: about.len(), used });
        }
    }
    Ok(entries)
}

/// The node's key. One that others could read, or that isn't whole, is replaced: then all entries are made again.
fn node_key(folder: &Path) -> io::Result<[u8; KEY_BYTES]> {
    let path = folder.join(KEY_FILE);
    match kept_key(&path)? {
        Some(key) => return Ok(key),
        None if path.exists() => fs::remove_file(&path)?,
        None => {}
    }
    let mut key = [0; KEY_BYTES];
    aws_lc_rs::rand::fill(&mut key).map_err(|_| io::Error::other("no random numbers"))?;
    let making = making(folder, KEY_FILE);
    private(&making)?.write_all(&key)?;
    // Of two processes that begin at one time, one makes the key.
    let made = fs::hard_link(&making, &path);
    fs::remove_file(&making)?;
    match made {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        made => made?,
    }
    kept_key(&path)?.ok_or_else(|| io::Error::other("`node.key` can't be made"))
}

fn kept_key(path: &Path) -> io::Result<Option<[u8; KEY_BYTES]>> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened?,
    };
    let mut bytes = Vec::new();
    (&file).take(KEY_BYTES as u64 + 1).read_to_end(&mut bytes)?;
    let shared = file.metadata()?.permissions().mode() & 0o077 != 0;
    Ok(if shared { None } else { bytes.try_into().ok() })
}

/// Where a file is made before it gets its name.
fn making(folder: &Path, name: &str) -> PathBuf {
    static MADE: AtomicU64 = AtomicU64::new(0);
    let made = MADE.fetch_add(1, Ordering::Relaxed);
    folder.join(format!("{name}.{}.{made}", std::process::id()))
}

/// A new file that only its owner reads.
fn private(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)
}

/// What code depends on beside what it is made of: wasmtime's version, its settings and the processor's features.
fn engine_hash(engine: &Engine) -> [u8; 32] {
    let mut hasher = Strong(Sha256::new());
    engine.precompile_compatibility_hash().hash(&mut hasher);
    hasher.0.finalize().into()
}

/// Hashes what is hashable without collisions that somebody could look for.
struct Strong(Sha256);

impl Hasher for Strong {
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    fn finish(&self) -> u64 {
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn what_was_used_longest_ago_goes_first_and_the_key_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        for (name, age) in [("a", 30), ("b", 10), ("c", 20), (KEY_FILE, 40)] {
            fs::write(path(name), [0; 100]).unwrap();
            let file = OpenOptions::new().write(true).open(path(name)).unwrap();
            file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(1_000 - age)).unwrap();
        }
        for (at_most, left) in [(300, "abc"), (299, "bc"), (150, "b"), (0, "")] {
            assert_eq!(sweep(folder.path(), at_most).unwrap(), 100 * left.len() as u64);
            for name in ["a", "b", "c"] {
                assert_eq!(path(name).exists(), left.contains(name), "{name} of {at_most}");
            }
            assert!(path(KEY_FILE).exists());
        }
    }
}
