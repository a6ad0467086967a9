//! Where packs come from: memory, the node's own copies, the store, and the folder where an operator lays files.
//!
//! Invariants: a pack is known by its digest, and is signed by a key of the document that asks for it; one that the store
//! keeps passed its trial there, one that was laid passes it here. A store that is away stops nothing of which there is a
//! copy.

mod copies;

use copies::Copies;
use model::config::Config;
use model::document::{Document, Pack as Named, PackKey};
use model::id::PackId;
use model::port::StoreError;
use pack_host::{Host, MAX_FILE_BYTES, Pack, Package, Prepared};
use std::collections::{HashMap, HashSet};
use std::fs;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::Duration;
use store::Store;
use store::control::PackInfo;

/// How long the store may take to answer.
const STORE_DEADLINE: Duration = Duration::from_secs(10);
/// Packs that are known to be in the store; beyond them, their files are looked for all the same.
const KEPT_MAX: usize = 10_000;
/// Trials that are remembered. With one more, all are forgotten: the next to want one tries again.
const TRIED_MAX: usize = 1_000;

/// Where pack files lie.
pub struct PackFolders {
    /// Those that an operator laid: `NAME-VERSION.tgpack`.
    pub laid: PathBuf,
    /// Copies of those that came from the store.
    pub cache: PathBuf,
}

/// Pack files and what was made of them, for as long as somebody uses it.
pub struct PackFiles {
    laid: PathBuf,
    copies: Copies,
    pub(super) host: Arc<Host>,
    store: Store,
    runtime: tokio::runtime::Handle,
    /// By digest.
    loaded: Mutex<HashMap<String, Weak<Loaded>>>,
    /// Those that the store has. It never loses or changes one, so that nobody looks for their files.
    kept: Mutex<HashSet<(PackId, String)>>,
    /// Those that passed their trial here, by digest, and whether they are reusable: a version that comes back after nobody
    /// used it is not tried anew.
    tried: Mutex<HashMap<String, bool>>,
}

/// A pack that a document names, and what was made of it.
pub struct Loaded {
    pub(super) pack: Arc<Pack>,
    /// Whether its vectors told no difference between a fresh instance and one that is used again.
    reusable: OnceLock<bool>,
    /// By settings, limits and reuse.
    pub(super) prepared: Mutex<HashMap<String, Weak<Prepared>>>,
}

/// Why a document can't have a pack: what is amiss, and with which field of its entry.
#[derive(Debug)]
pub(super) struct Missing {
    pub(super) field: &'static str,
    pub(super) message: String,
}

impl Missing {
    fn whole(message: impl Into<String>) -> Self {
        Self { field: "", message: message.into() }
    }
}

/// What the store says of a document's packs.
pub(super) enum Kept {
    /// It has these.
    These(HashMap<(PackId, String), PackInfo>),
    /// It can't answer.
    Away(String),
}

impl PackFiles {
    /// The packs of these folders and this store. Whoever compiles with them does so outside of the runtime's own threads.
    pub fn new(
        folders: PackFolders,
        host: Arc<Host>,
        store: Store,
        runtime: tokio::runtime::Handle,
    ) -> Self {
        let PackFolders { laid, cache } = folders;
        let copies = Copies::of(cache);
        let (loaded, kept, tried) = (Mutex::default(), Mutex::default(), Mutex::default());
        Self { laid, copies, host, store, runtime, loaded, kept, tried }
    }

    /// What the files look like that were laid for a document's packs; changes whenever one of them is replaced.
    pub fn state(&self, config: &Config) -> u64 {
        use std::os::unix::fs::MetadataExt as _;
        let laid: Vec<_> = {
            let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
            let is_laid = |pack: &&Named| !kept.contains(&(pack.id.clone(), pack.version.clone()));
            used(config.document()).filter(is_laid).collect()
        };
        let mut hasher = DefaultHasher::new();
        for pack in laid {
            let seen = fs::metadata(self.laid(pack)).ok();
            let seen = seen.map(|file| (file.ino(), file.len(), file.mtime(), file.mtime_nsec()));
            if seen.is_some() {
                (pack.id.as_str(), &pack.version, seen).hash(&mut hasher);
            }
        }
        hasher.finish()
    }

    /// What the store says of these packs.
    pub(super) fn kept<'a>(&self, packs: impl Iterator<Item = &'a Named>) -> Kept {
        let wanted: Vec<_> = packs.map(|pack| (pack.id.clone(), pack.version.clone())).collect();
        if wanted.is_empty() {
            return Kept::These(HashMap::new());
        }
        let infos = match self.ask(self.store.pack_infos(wanted)) {
            Ok(infos) => infos,
            Err(error) => return Kept::Away(error.to_string()),
        };
        let named = |info: &PackInfo| (info.name.clone(), info.version.clone());
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() < KEPT_MAX {
            kept.extend(infos.iter().map(named));
        }
        Kept::These(infos.into_iter().map(|info| (named(&info), info)).collect())
    }

    /// The pack of this entry, signed by one of these keys.
    pub(super) fn find(
        &self,
        named: &Named,
        keys: &[PackKey],
        kept: &Kept,
    ) -> Result<Arc<Loaded>, Missing> {
        let info = match kept {
            Kept::These(infos) => infos.get(&(named.id.clone(), named.version.clone())),
            Kept::Away(_) => None,
        };
        let digest = named.digest.as_ref().or(info.map(|info| &info.digest));
        if let Some(known) = digest.and_then(|digest| self.known(digest, keys)) {
            return Ok(known);
        }
        if let Some(info) = info.filter(|info| digest == Some(&info.digest)) {
            return self.of_store(named, info, keys);
        }
        // Where the store has answered, only a digest speaks for a copy.
        let copy = match kept {
            Kept::These(_) if digest.is_none() => None,
            Kept::These(_) | Kept::Away(_) => self.copies.find(named, digest),
        };
        if let Some(package) = copy.filter(|package| package.signer(keys).is_ok()) {
            let reusable = self.tried(package.digest());
            return Ok(self.remember(package, reusable));
        }
        self.laid_one(named, keys).map_err(|missing| match (kept, info) {
            (Kept::Away(error), _) => {
                Missing::whole(format!("the store can't be asked for it: {error}"))
            }
            (Kept::These(_), Some(info)) => Missing {
                field: "/digest",
                message: format!("the store keeps it with the digest {}", info.digest),
            },
            (Kept::These(_), None) => missing,
        })
    }

    /// One that the store keeps: the node's copy of it where that is the same, else the store's file.
    fn of_store(
        &self,
        named: &Named,
        info: &PackInfo,
        keys: &[PackKey],
    ) -> Result<Arc<Loaded>, Missing> {
        // A pack may be signed anew: then the copy's signature is the old one.
        let copy = self.copies.find(named, Some(&info.digest));
        if let Some(package) = copy.filter(|package| package.signer(keys).is_ok()) {
            return Ok(self.remember(package, Some(info.reusable)));
        }
        let fetched = self.ask(self.store.pack_file(&named.id, &named.version));
        let file = fetched
            .map_err(|error| Missing::whole(format!("the store can't be asked for it: {error}")))?
            .ok_or_else(|| Missing::whole("the store has lost its file"))?;
        let package = read(&file.bytes, named)?;
        if package.digest() != info.digest {
            return Err(Missing::whole(format!(
                "the store's file has the digest {}, not {}",
                package.digest(),
                info.digest
            )));
        }
        package.signer(keys).map_err(|error| Missing::whole(error.to_string()))?;
        self.copies.keep(&package, &file.bytes, &self.in_use());
        Ok(self.remember(package, Some(info.reusable)))
    }

    /// One that an operator laid. Its vectors are tried here, unless they were already.
    fn laid_one(&self, named: &Named, keys: &[PackKey]) -> Result<Arc<Loaded>, Missing> {
        let path = self.laid(named);
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let bytes = read_file(&path).map_err(|error| {
            let how = "`tollgate pack push` uploads one";
            Missing::whole(format!(
                "the store has no such pack ({how}), and its file `{name}` {error}"
            ))
        })?;
        let package = read(&bytes, named)?;
        if let Some(wanted) = named.digest.as_ref().filter(|wanted| *wanted != package.digest()) {
            let message =
                format!("its file `{name}` has the digest {}, not {wanted}", package.digest());
            return Err(Missing { field: "/digest", message });
        }
        package.signer(keys).map_err(|error| Missing::whole(error.to_string()))?;
        if let Some(known) = self.known(package.digest(), keys) {
            return Ok(known);
        }
        let reusable = match self.tried(package.digest()) {
            Some(reusable) => reusable,
            None => self.try_out(&package)?,
        };
        Ok(self.remember(package, Some(reusable)))
    }

    /// Runs its vectors, and tells whether it is reusable. That they failed is not remembered: nothing runs then.
    fn try_out(&self, package: &Package) -> Result<bool, Missing> {
        let trial =
            self.host.try_out(package).map_err(|error| Missing::whole(error.to_string()))?;
        if !trial.passed() {
            let failures: Vec<String> = trial.failures().collect();
            return Err(Missing::whole(format!("its vectors fail: {}", failures.join("; "))));
        }
        self.passed(package.digest(), trial.reusable);
        Ok(trial.reusable)
    }

    /// Whether the pack of this digest is reusable, where it passed its trial here.
    fn tried(&self, digest: &str) -> Option<bool> {
        let tried = self.tried.lock().unwrap_or_else(PoisonError::into_inner);
        tried.get(digest).copied()
    }

    fn passed(&self, digest: &str, reusable: bool) {
        let mut tried = self.tried.lock().unwrap_or_else(PoisonError::into_inner);
        if tried.len() >= TRIED_MAX {
            tried.clear();
        }
        tried.insert(digest.to_owned(), reusable);
    }

    /// One that is in use already, if it is signed by one of these keys.
    fn known(&self, digest: &str, keys: &[PackKey]) -> Option<Arc<Loaded>> {
        let loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        let known = loaded.get(digest).and_then(Weak::upgrade)?;
        known.pack.package().signer(keys).is_ok().then_some(known)
    }

    fn remember(&self, package: Package, reusable: Option<bool>) -> Arc<Loaded> {
        let digest = package.digest().to_owned();
        let pack = self.host.load(package);
        let reusable = reusable.map_or_else(OnceLock::new, OnceLock::from);
        let loaded = Arc::new(Loaded { pack, reusable, prepared: Mutex::default() });
        let mut known = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|_, loaded| loaded.strong_count() > 0);
        known.insert(digest, Arc::downgrade(&loaded));
        loaded
    }

    /// The digests of packs that are in use.
    fn in_use(&self) -> HashSet<String> {
        let known = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        let used = known.iter().filter(|(_, loaded)| loaded.strong_count() > 0);
        used.map(|(digest, _)| digest.clone()).collect()
    }

    fn ask<T>(
        &self,
        question: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        self.runtime.block_on(async {
            let answer = tokio::time::timeout(STORE_DEADLINE, question).await;
            answer.unwrap_or(Err(StoreError::TimedOut(STORE_DEADLINE)))
        })
    }

    fn laid(&self, pack: &Named) -> PathBuf {
        self.laid.join(format!("{}-{}.tgpack", pack.id, pack.version))
    }
}

impl Loaded {
    /// What was prepared under this key and is in use.
    pub(super) fn known(&self, key: &str) -> Option<Arc<Prepared>> {
        let known = self.prepared.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(key).and_then(Weak::upgrade)
    }

    /// Shares what was prepared; where somebody was faster, theirs.
    pub(super) fn keep(&self, key: &str, prepared: Arc<Prepared>) -> Arc<Prepared> {
        let mut known = self.prepared.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(theirs) = known.get(key).and_then(Weak::upgrade) {
            return theirs;
        }
        known.retain(|_, prepared| prepared.strong_count() > 0);
        known.insert(key.to_owned(), Arc::downgrade(&prepared));
        prepared
    }

    /// Whether one instance may decide again and again. Its vectors are tried here, where nobody has said it.
    pub(super) fn is_reusable(&self, host: &Arc<Host>) -> Result<bool, String> {
        if let Some(reusable) = self.reusable.get() {
            return Ok(*reusable);
        }
        let trial = host.try_out(self.pack.package()).map_err(|error| error.to_string())?;
        Ok(*self.reusable.get_or_init(|| trial.reusable))
    }
}

/// The packs that a document's attachments run: what is halted runs nothing.
pub(super) fn used(document: &Document) -> impl Iterator<Item = &Named> {
    let running = document.attachments.iter().filter(|attachment| !attachment.halted);
    let references = running.flat_map(|attachment| {
        let candidate = attachment.rollout.as_ref().map(|rollout| rollout.candidate.as_str());
        [Some(attachment.pack.as_str()), candidate].into_iter().flatten()
    });
    let named: HashSet<_> = references.filter_map(|reference| reference.split_once('@')).collect();
    let packs = document.packs.iter();
    packs.filter(move |pack| named.contains(&(pack.id.as_str(), pack.version.as_str())))
}

fn read(bytes: &[u8], named: &Named) -> Result<Package, Missing> {
    let package = Package::read(bytes).map_err(|error| Missing::whole(error.to_string()))?;
    if (package.name(), package.version()) != (&named.id, named.version.as_str()) {
        return Err(Missing::whole(format!("its file holds {} instead", package.label())));
    }
    Ok(package)
}

fn read_file(path: &Path) -> Result<Vec<u8>, String> {
    let unreadable = |error: std::io::Error| format!("can't be read: {error}");
    if fs::metadata(path).map_err(unreadable)?.len() > MAX_FILE_BYTES as u64 {
        return Err(format!("is larger than {MAX_FILE_BYTES} bytes"));
    }
    fs::read(path).map_err(unreadable)
}

#[cfg(test)]
mod tests;
