//! Packs: files → compiled packs → packs with their settings, each made once and reused by every revision that needs it.

use crate::packs::Attachment;
use model::config::{Config, ConfigError};
use model::document::{self, Document};
use pack_host::{Host, Limits, MAX_PACK_BYTES, Pack, Prepared};
use sha2::{Digest as _, Sha256};
use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// The folder of pack files and what was made of them, for as long as somebody uses it.
pub struct PackFiles {
    folder: PathBuf,
    host: Arc<Host>,
    /// By the digest of the file.
    compiled: Mutex<HashMap<String, Weak<Pack>>>,
    /// By the digest and the settings.
    prepared: Mutex<HashMap<(String, String), Weak<Prepared>>>,
}

impl PackFiles {
    /// The packs of this folder, each in a file `NAME-VERSION.wasm`.
    pub fn new(folder: PathBuf, host: Arc<Host>) -> Self {
        Self { folder, host, compiled: Mutex::default(), prepared: Mutex::default() }
    }

    fn path(&self, pack: &document::Pack) -> PathBuf {
        self.folder.join(format!("{}-{}.wasm", pack.id, pack.version))
    }

    /// What the files of a document's packs look like; changes whenever one of them is replaced.
    pub fn state(&self, config: &Config) -> u64 {
        use std::os::unix::fs::MetadataExt as _;
        let mut hasher = DefaultHasher::new();
        for pack in &config.document().packs {
            let seen = std::fs::metadata(self.path(pack)).ok();
            let seen = seen.map(|file| (file.ino(), file.len(), file.mtime(), file.mtime_nsec()));
            (pack.id.as_str(), &pack.version, seen).hash(&mut hasher);
        }
        hasher.finish()
    }

    fn load(&self, pack: &document::Pack) -> Result<Arc<Pack>, String> {
        let path = self.path(pack);
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let unreadable =
            |error: std::io::Error| format!("its file `{name}` can't be read: {error}");
        if std::fs::metadata(&path).map_err(unreadable)?.len() > MAX_PACK_BYTES as u64 {
            return Err(format!("its file `{name}` is larger than {MAX_PACK_BYTES} bytes"));
        }
        let bytes = std::fs::read(&path).map_err(unreadable)?;
        let digest = format!("sha256:{:x}", Sha256::digest(&bytes));
        if let Some(wanted) = pack.digest.as_ref().filter(|wanted| **wanted != digest) {
            return Err(format!("its file `{name}` has the digest {digest}, not {wanted}"));
        }
        let mut compiled = self.compiled.lock().unwrap_or_else(PoisonError::into_inner);
        compiled.retain(|_, known| known.strong_count() > 0);
        if let Some(known) = compiled.get(&digest).and_then(Weak::upgrade) {
            return Ok(known);
        }
        let made = Arc::new(
            self.host
                .compile(&format!("{}@{}", pack.id, pack.version), &bytes)
                .map_err(|error| error.to_string())?,
        );
        compiled.insert(digest, Arc::downgrade(&made));
        Ok(made)
    }

    fn prepare(&self, pack: &Pack, settings: &serde_json::Value) -> Result<Arc<Prepared>, String> {
        let key = (pack.digest().to_owned(), settings.to_string());
        let mut prepared = self.prepared.lock().unwrap_or_else(PoisonError::into_inner);
        prepared.retain(|_, known| known.strong_count() > 0);
        if let Some(known) = prepared.get(&key).and_then(Weak::upgrade) {
            return Ok(known);
        }
        let made = pack.prepare(settings, Limits::default()).map_err(|error| error.to_string())?;
        let made = Arc::new(made);
        prepared.insert(key, Arc::downgrade(&made));
        Ok(made)
    }
}

/// The packs of a document.
pub(super) struct Packs {
    /// All of them, attached or not.
    pub(super) loaded: Vec<Arc<Pack>>,
    /// Their attachments in the order in which they decide, each with its scope.
    pub(super) attachments: Vec<(document::Scope, Arc<Attachment>)>,
}

/// Every pack of a document, compiled, and with its settings wherever it is attached.
pub(super) fn packs(
    document: &Document,
    files: &PackFiles,
    errors: &mut Vec<ConfigError>,
) -> Packs {
    let mut packs = HashMap::new();
    for (index, pack) in document.packs.iter().enumerate() {
        match files.load(pack) {
            Ok(loaded) => {
                packs.insert(format!("{}@{}", pack.id, pack.version), (pack, loaded));
            }
            Err(message) => errors.push(ConfigError::new(format!("/packs/{index}"), message)),
        }
    }
    let mut attachments = Vec::new();
    for (index, entry) in document.attachments.iter().enumerate() {
        let Some((pack, loaded)) = packs.get(&entry.pack) else { continue };
        match files.prepare(loaded, &entry.settings) {
            Ok(prepared) => {
                let attachment = Attachment {
                    id: entry.id.clone(),
                    pack: pack.id.clone(),
                    version: pack.version.clone(),
                    tenant: entry.scope.tenant.clone(),
                    mode: entry.mode,
                    on_failure: entry.on_failure,
                    prepared,
                };
                attachments.push((entry.order, entry.scope.clone(), Arc::new(attachment)));
            }
            Err(message) => {
                errors.push(ConfigError::new(format!("/attachments/{index}/settings"), message));
            }
        }
    }
    attachments.sort_by(|a, b| (a.0, &a.2.id).cmp(&(b.0, &b.2.id)));
    let attachments = attachments.into_iter().map(|(_, scope, attachment)| (scope, attachment));
    let loaded = packs.into_values().map(|(_, loaded)| loaded).collect();
    Packs { loaded, attachments: attachments.collect() }
}
