//! A pack file as an OCI image layout in a tar: `oci-layout`, `index.json` and `blobs/sha256/…`.
//!
//! Invariant: a file has one way of being written. What was read is written again and compared, so that no byte of a file is
//! without meaning: whichever is changed, the file is refused. Reading takes memory in proportion to the file's size: what
//! is named many times is held, and hashed, once.

use std::collections::HashMap;
use std::io::Read as _;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use model::id::PackKeyId;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tar::{Archive, Builder, EntryType, Header};

use super::{MAX_TEXT_BYTES, MAX_VECTORS, PackageError, at_most};

const LAYOUT_PATH: &str = "oci-layout";
const LAYOUT: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;
const INDEX_PATH: &str = "index.json";
const BLOBS_PATH: &str = "blobs/sha256/";
const INDEX_TYPE: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG_TYPE: &str = "application/vnd.wasm.config.v0+json";

/// Layers of a pack: module, manifest, schema and vectors.
const MAX_LAYERS: usize = 3 + MAX_VECTORS;
/// Files in a pack file: the layers, and what holds them together.
const MAX_FILES: usize = MAX_LAYERS + 4;

/// What a pack file holds.
#[derive(Clone)]
pub(super) struct Parts {
    /// What a registry lists it under: the pack's version.
    pub(super) tag: String,
    pub(super) config: Blob,
    pub(super) layers: Vec<Layer>,
    pub(super) signature: Option<Signature>,
}

#[derive(Clone)]
pub(super) struct Layer {
    pub(super) media_type: String,
    /// The name of the file that it is outside of the pack file.
    pub(super) title: String,
    pub(super) blob: Blob,
}

/// Content and its digest. Clones share both.
#[derive(Clone)]
pub(super) struct Blob {
    pub(super) bytes: Bytes,
    pub(super) digest: Arc<str>,
}

impl From<Vec<u8>> for Blob {
    fn from(bytes: Vec<u8>) -> Self {
        let digest = format!("sha256:{:x}", Sha256::digest(&bytes)).into();
        Self { bytes: bytes.into(), digest }
    }
}

#[derive(Clone)]
pub(super) struct Signature {
    pub(super) key: PackKeyId,
    pub(super) bytes: Vec<u8>,
}

impl Parts {
    /// Reads a file. The caller has checked its size.
    pub(super) fn read(file: &[u8]) -> Result<Self, PackageError> {
        let files = Files::of(file)?;
        if *files.named(LAYOUT_PATH)?.bytes != *LAYOUT {
            return Err(PackageError::no_pack("its `oci-layout` is not of version 1.0.0"));
        }
        let index: Index = parse(INDEX_PATH, &files.named(INDEX_PATH)?.bytes)?;
        let [listed] = index.manifests;
        let manifest: OciManifest = parse("the OCI manifest", &files.blob(&listed.digest)?.bytes)?;
        if manifest.layers.len() > MAX_LAYERS {
            let (has, max) = (manifest.layers.len(), MAX_LAYERS);
            return Err(PackageError::TooLarge { what: "the pack", has, max, unit: "layers" });
        }
        let layer = |layer: Descriptor<Title>| {
            let blob = files.blob(&layer.digest)?;
            Ok(Layer { media_type: layer.media_type, title: layer.annotations.title, blob })
        };
        let parts = Self {
            tag: listed.annotations.tag,
            config: files.blob(&manifest.config.digest)?,
            layers: manifest.layers.into_iter().map(layer).collect::<Result<_, PackageError>>()?,
            signature: signature(listed.annotations.key, listed.annotations.signature)?,
        };
        if parts.write() == file { Ok(parts) } else { Err(PackageError::NotCanonical) }
    }

    /// The file's bytes: the same for the same parts.
    pub(super) fn write(&self) -> Vec<u8> {
        let manifest = self.manifest();
        let index = self.index(&manifest);
        let mut tar = Builder::new(Vec::new());
        append(&mut tar, LAYOUT_PATH, LAYOUT);
        append(&mut tar, INDEX_PATH, &index);
        let mut written: Vec<&str> = Vec::new();
        let layers = self.layers.iter().map(|layer| &layer.blob);
        for blob in [&manifest, &self.config].into_iter().chain(layers) {
            // Two parts with the same content are one blob.
            if !written.contains(&&*blob.digest) {
                append(&mut tar, &blob_path(&blob.digest), &blob.bytes);
                written.push(&blob.digest);
            }
        }
        tar.into_inner().expect("writing to memory does not fail")
    }

    /// The digest of the OCI manifest, which names the digests of everything else.
    pub(super) fn digest(&self) -> Arc<str> {
        self.manifest().digest
    }

    fn manifest(&self) -> Blob {
        let layer = |layer: &Layer| Descriptor {
            media_type: layer.media_type.clone(),
            digest: layer.blob.digest.to_string(),
            size: layer.blob.bytes.len(),
            annotations: Title { title: layer.title.clone() },
        };
        Blob::from(encode(&OciManifest {
            schema_version: 2,
            media_type: MANIFEST_TYPE.to_owned(),
            config: ConfigDescriptor {
                media_type: CONFIG_TYPE.to_owned(),
                digest: self.config.digest.to_string(),
                size: self.config.bytes.len(),
            },
            layers: self.layers.iter().map(layer).collect(),
        }))
    }

    fn index(&self, manifest: &Blob) -> Vec<u8> {
        let signature = self.signature.as_ref();
        encode(&Index {
            schema_version: 2,
            media_type: INDEX_TYPE.to_owned(),
            manifests: [Descriptor {
                media_type: MANIFEST_TYPE.to_owned(),
                digest: manifest.digest.to_string(),
                size: manifest.bytes.len(),
                annotations: Listed {
                    tag: self.tag.clone(),
                    key: signature.map(|signature| signature.key.clone()),
                    signature: signature.map(|signature| STANDARD.encode(&signature.bytes)),
                },
            }],
        })
    }
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Index {
    schema_version: u32,
    media_type: String,
    manifests: [Descriptor<Listed>; 1],
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct OciManifest {
    schema_version: u32,
    media_type: String,
    config: ConfigDescriptor,
    layers: Vec<Descriptor<Title>>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Descriptor<A> {
    media_type: String,
    digest: String,
    size: usize,
    annotations: A,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ConfigDescriptor {
    media_type: String,
    digest: String,
    size: usize,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Title {
    #[serde(rename = "org.opencontainers.image.title")]
    title: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Listed {
    #[serde(rename = "org.opencontainers.image.ref.name")]
    tag: String,
    #[serde(rename = "vnd.tollgate.pack.key", default, skip_serializing_if = "Option::is_none")]
    key: Option<PackKeyId>,
    #[serde(
        rename = "vnd.tollgate.pack.signature",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    signature: Option<String>,
}

fn blob_path(digest: &str) -> String {
    format!("{BLOBS_PATH}{}", digest.trim_start_matches("sha256:"))
}

/// The files of a tar, by path.
struct Files(HashMap<String, Blob>);

impl Files {
    fn of(file: &[u8]) -> Result<Self, PackageError> {
        let broken = |error: std::io::Error| PackageError::no_pack(error.to_string());
        let mut archive = Archive::new(file);
        let mut files = HashMap::new();
        // Raw: no extension of the format is followed, such as a sparse file's, which would be larger than the archive.
        for entry in archive.entries().map_err(broken)?.raw(true) {
            let mut entry = entry.map_err(broken)?;
            let path = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
            if entry.header().entry_type() != EntryType::Regular || files.len() == MAX_FILES {
                return Err(PackageError::NotCanonical);
            }
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).map_err(broken)?;
            files.insert(path, Blob::from(bytes));
        }
        Ok(Self(files))
    }

    fn named(&self, path: &str) -> Result<Blob, PackageError> {
        let missing = || PackageError::no_pack(format!("it has no `{path}`"));
        self.0.get(path).cloned().ok_or_else(missing)
    }

    /// The content with this digest.
    fn blob(&self, digest: &str) -> Result<Blob, PackageError> {
        let path = blob_path(digest);
        let blob = self.named(&path)?;
        if *blob.digest == *digest { Ok(blob) } else { Err(PackageError::Digest { path }) }
    }
}

fn signature(
    key: Option<PackKeyId>,
    encoded: Option<String>,
) -> Result<Option<Signature>, PackageError> {
    match (key, encoded) {
        (Some(key), Some(encoded)) => {
            let bytes = STANDARD.decode(encoded).map_err(|_| PackageError::SignatureInvalid)?;
            Ok(Some(Signature { key, bytes }))
        }
        (None, None) => Ok(None),
        (Some(_), None) | (None, Some(_)) => Err(PackageError::SignatureInvalid),
    }
}

fn append(tar: &mut Builder<Vec<u8>>, path: &str, bytes: &[u8]) {
    let mut header = Header::new_ustar();
    header.set_path(path).expect("our paths are short");
    header.set_entry_type(EntryType::Regular);
    header.set_size(bytes.len() as u64);
    header.set_mode(0o644);
    // Nothing of who packed it when and where: the same pack is the same file.
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_cksum();
    tar.append(&header, bytes).expect("writing to memory does not fail");
}

fn parse<T: serde::de::DeserializeOwned>(
    what: &'static str,
    bytes: &[u8],
) -> Result<T, PackageError> {
    at_most(what, bytes.len(), MAX_TEXT_BYTES)?;
    serde_json::from_slice(bytes)
        .map_err(|error| PackageError::no_pack(format!("{what} is not as packs have it: {error}")))
}

fn encode(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("strings and numbers are JSON")
}
