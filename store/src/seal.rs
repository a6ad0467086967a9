//! Secrets and stored answers at rest: sealed under a master key (AES-256-GCM). The first key seals, all open.
//!
//! Invariant: neither a key nor a secret appears in an error or in what `Debug` prints.

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Prk};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use sha2::{Digest as _, Sha256};
use std::fmt;
use std::path::Path;
use std::sync::Arc;

/// What sealed secrets begin with: the format's name. A dot follows.
const FORMAT: &str = "tg1";
/// Length of a key in bytes.
const KEY_BYTES: usize = 32;
/// How long what sealed bytes begin with is, without its last dot: the format, a dot, the key id.
const HEAD_BYTES: usize = FORMAT.len() + 1 + KEY_ID_DIGITS;
/// Hex digits of a key id.
const KEY_ID_DIGITS: usize = 8;
/// The most that a key file may hold: a key, white space, nothing else.
const FILE_BYTES: u64 = 1_024;

/// Master keys. Clones share them.
///
/// A sealed secret is `tg1.<key id>.<base64url of nonce ‖ ciphertext ‖ tag>`. The key id is the first 8 hex digits of the
/// key's SHA-256, the nonce is random for each secret, and everything before the last dot is authenticated as additional
/// data: neither the format nor the key id can be exchanged.
///
/// Sealed bytes are `tg1.<key id>.` and nonce ‖ ciphertext ‖ tag as they are. They belong to a context: the key is one that
/// is derived for it (HKDF-SHA256, RFC 5869 §2.3), so that no key seals so much that random nonces might meet.
#[derive(Clone, Default)]
pub struct MasterKeys(Arc<[MasterKey]>);

struct MasterKey {
    id: String,
    key: RandomizedNonceKey,
    derive: Prk,
}

impl fmt::Debug for MasterKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|key| &key.id)).finish()
    }
}

/// Why a secret can't be sealed or opened. Never says anything of the secret.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// No key is configured.
    #[error("no master key is configured (`master_keys` in tollgate.yaml)")]
    NoKey,
    /// The key that sealed it is not among those configured.
    #[error("it was sealed under the master key {0}, which is not configured")]
    UnknownKey(String),
    /// It is not what was sealed.
    #[error("it is not a sealed secret, or was changed")]
    Torn,
    /// A key file is no key.
    #[error("{0}")]
    BadKey(String),
}

impl MasterKeys {
    /// Reads keys: each file holds 64 hex digits or 44 characters of base64 (32 bytes), and only its owner may read it.
    pub fn read(files: &[impl AsRef<Path>]) -> Result<Self, SealError> {
        files.iter().map(|file| MasterKey::read(file.as_ref())).collect::<Result<_, _>>().map(Self)
    }

    /// Whether there is a key to seal with.
    pub fn can_seal(&self) -> bool {
        !self.0.is_empty()
    }

    /// Seals a secret: `tg1.<key id>.<base64url>`.
    pub fn seal(&self, secret: &[u8]) -> Result<String, SealError> {
        let MasterKey { id, key, .. } = self.0.first().ok_or(SealError::NoKey)?;
        let head = format!("{FORMAT}.{id}");
        let bytes = close(key, &head, secret.to_vec())?;
        Ok(format!("{head}.{}", URL_SAFE_NO_PAD.encode(bytes)))
    }

    /// Opens what was sealed.
    pub fn open(&self, sealed: &str) -> Result<Vec<u8>, SealError> {
        let (head, body) = sealed.rsplit_once('.').ok_or(SealError::Torn)?;
        let key = self.key_of(head)?;
        let bytes = URL_SAFE_NO_PAD.decode(body).map_err(|_| SealError::Torn)?;
        open(&key.key, head, &bytes)
    }

    /// Seals bytes that belong to `context`, where alone they can be opened.
    pub fn seal_bytes(&self, context: &[u8], plain: Vec<u8>) -> Result<Vec<u8>, SealError> {
        let key = self.0.first().ok_or(SealError::NoKey)?;
        let head = format!("{FORMAT}.{}", key.id);
        let bytes = close(&key.for_context(context)?, &head, plain)?;
        Ok([head.as_bytes(), b".", &bytes].concat())
    }

    /// Opens bytes that were sealed in this context.
    pub fn open_bytes(&self, context: &[u8], sealed: &[u8]) -> Result<Vec<u8>, SealError> {
        let (head, bytes) = sealed.split_at_checked(HEAD_BYTES).ok_or(SealError::Torn)?;
        let bytes = bytes.strip_prefix(b".").ok_or(SealError::Torn)?;
        let head = str::from_utf8(head).map_err(|_| SealError::Torn)?;
        open(&self.key_of(head)?.for_context(context)?, head, bytes)
    }

    /// The key that `tg1.<key id>` names.
    fn key_of(&self, head: &str) -> Result<&MasterKey, SealError> {
        let id = head.strip_prefix(FORMAT).and_then(|rest| rest.strip_prefix('.'));
        let id = id.filter(|id| is_key_id(id)).ok_or(SealError::Torn)?;
        let key = self.0.iter().find(|key| key.id == id);
        key.ok_or_else(|| SealError::UnknownKey(id.to_owned()))
    }

    /// Whether it was sealed under the first key.
    pub fn is_current(&self, sealed: &str) -> bool {
        let id = sealed.strip_prefix(FORMAT).and_then(|rest| rest.strip_prefix('.'));
        let id = id.and_then(|rest| rest.split_once('.')).map(|(id, _)| id);
        self.0.first().is_some_and(|first| id == Some(&first.id))
    }
}

impl MasterKey {
    fn read(file: &Path) -> Result<Self, SealError> {
        let bad = |what: &dyn fmt::Display| {
            SealError::BadKey(format!("the master key file {}: {what}", file.display()))
        };
        let metadata = std::fs::metadata(file).map_err(|error| bad(&error))?;
        if metadata.len() > FILE_BYTES {
            return Err(bad(&"it is too long to be a key"));
        }
        #[cfg(unix)]
        if std::os::unix::fs::PermissionsExt::mode(&metadata.permissions()) & 0o077 != 0 {
            return Err(bad(&"others than its owner may read it; make its mode 0600 or 0400"));
        }
        let text = std::fs::read_to_string(file).map_err(|error| bad(&error))?;
        let key = parse(text.trim());
        let key =
            key.ok_or_else(|| bad(&"it holds neither 64 hex digits nor base64 of 32 bytes"))?;
        Self::new(&key).ok_or_else(|| bad(&"it is refused"))
    }

    fn new(key: &[u8; KEY_BYTES]) -> Option<Self> {
        let id = Sha256::digest(key).iter().take(4).map(|byte| format!("{byte:02x}")).collect();
        let derive = Prk::new_less_safe(HKDF_SHA256, key);
        let key = RandomizedNonceKey::new(&AES_256_GCM, key).ok()?;
        Some(Self { id, key, derive })
    }

    /// The key that is derived for this context.
    fn for_context(&self, context: &[u8]) -> Result<RandomizedNonceKey, SealError> {
        let mut key = [0; KEY_BYTES];
        let info = [context];
        let derived = self.derive.expand(&info, KeyLength).and_then(|okm| okm.fill(&mut key));
        let key = derived.and_then(|()| RandomizedNonceKey::new(&AES_256_GCM, &key));
        // Only other lengths are refused.
        key.map_err(|_| SealError::Torn)
    }
}

/// How long a derived key is.
struct KeyLength;

impl KeyType for KeyLength {
    fn len(&self) -> usize {
        KEY_BYTES
    }
}

/// nonce ‖ ciphertext ‖ tag.
fn close(key: &RandomizedNonceKey, head: &str, mut plain: Vec<u8>) -> Result<Vec<u8>, SealError> {
    let nonce = key.seal_in_place_append_tag(Aad::from(head), &mut plain);
    // Only what is beyond 64 GiB is refused.
    let nonce = nonce.map_err(|_| SealError::Torn)?;
    Ok([nonce.as_ref().as_slice(), &plain].concat())
}

fn open(key: &RandomizedNonceKey, head: &str, bytes: &[u8]) -> Result<Vec<u8>, SealError> {
    let (nonce, sealed) = bytes.split_first_chunk::<NONCE_LEN>().ok_or(SealError::Torn)?;
    let (nonce, mut plain) = (Nonce::from(nonce), sealed.to_vec());
    let opened = key.open_in_place(nonce, Aad::from(head), &mut plain);
    let length = opened.map_err(|_| SealError::Torn)?.len();
    plain.truncate(length);
    Ok(plain)
}

fn is_key_id(text: &str) -> bool {
    text.len() == KEY_ID_DIGITS
        && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// A key as its file spells it.
fn parse(text: &str) -> Option<[u8; KEY_BYTES]> {
    if text.len() != 2 * KEY_BYTES {
        return STANDARD.decode(text).ok()?.try_into().ok();
    }
    let mut key = [0; KEY_BYTES];
    let (pairs, _) = text.as_bytes().as_chunks::<2>();
    for (byte, pair) in key.iter_mut().zip(pairs) {
        let digit = |digit: u8| char::from(digit).to_digit(16).and_then(|d| u8::try_from(d).ok());
        let [high, low] = pair.map(digit);
        *byte = high? << 4 | low?;
    }
    Some(key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::PathBuf;
    use tempfile::TempDir;

    const HEX: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191A1B1C1D1E1F";
    const BASE64: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

    fn file(directory: &TempDir, name: &str, text: &str, mode: u32) -> PathBuf {
        let path = directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    fn keys(texts: &[&str]) -> MasterKeys {
        let directory = TempDir::new().unwrap();
        let files: Vec<_> = texts
            .iter()
            .enumerate()
            .map(|(place, text)| file(&directory, &place.to_string(), text, 0o600))
            .collect();
        MasterKeys::read(&files).unwrap()
    }

    fn other() -> String {
        HEX.replace("00", "ff")
    }

    #[test]
    fn the_first_key_seals_and_all_open() {
        let (old, new) = (keys(&[HEX]), keys(&[&other(), BASE64]));
        for secret in [&b"s3cret"[..], b"", &[0xff; 5_000]] {
            let sealed = old.seal(secret).unwrap();
            assert!(sealed.starts_with("tg1.630dcd29."), "{sealed}");
            assert_eq!(old.open(&sealed).unwrap(), secret);
            assert_eq!(new.open(&sealed).unwrap(), secret, "the same key, spelled in base64");
            assert!(old.is_current(&sealed) && !new.is_current(&sealed));
            assert!(new.is_current(&new.seal(secret).unwrap()));
            assert_ne!(sealed, old.seal(secret).unwrap(), "nonces are random");
        }
    }

    #[test]
    fn what_was_changed_or_sealed_by_others_is_refused() {
        let keys = keys(&[HEX]);
        let sealed = keys.seal(b"s3cret").unwrap();
        for place in 0..sealed.len() {
            let mut torn = sealed.clone().into_bytes();
            torn[place] = if torn[place] == b'A' { b'B' } else { b'A' };
            assert!(keys.open(std::str::from_utf8(&torn).unwrap()).is_err(), "{place}");
            assert!(keys.open(&sealed[..place]).is_err(), "{place}");
        }
        for (text, why) in [
            ("", "it is not a sealed secret"),
            ("tg1.630dcd29.", "it is not a sealed secret"),
            ("tg2.630dcd29.AAAA", "it is not a sealed secret"),
            ("tg1.s3cret.AAAA", "it is not a sealed secret"),
            ("tg1.00000000.AAAA", "the master key 00000000, which is not configured"),
        ] {
            let error = keys.open(text).unwrap_err().to_string();
            assert!(error.contains(why), "{text}: {error}");
        }
    }

    #[test]
    fn bytes_open_in_their_context_only() {
        let (old, new) = (keys(&[HEX]), keys(&[&other(), BASE64]));
        for plain in [&b"answer"[..], b"", &[0xff; 5_000]] {
            let sealed = old.seal_bytes(b"a", plain.to_vec()).unwrap();
            assert!(sealed.starts_with(b"tg1.630dcd29."));
            assert_eq!(new.open_bytes(b"a", &sealed).unwrap(), plain, "whichever key is the first");
            assert_ne!(sealed, old.seal_bytes(b"a", plain.to_vec()).unwrap(), "nonces are random");
            for context in [&b""[..], b"b", b"aa"] {
                assert!(matches!(old.open_bytes(context, &sealed), Err(SealError::Torn)));
            }
            for place in 0..sealed.len().min(60) {
                let mut torn = sealed.clone();
                torn[place] ^= 1;
                assert!(old.open_bytes(b"a", &torn).is_err(), "{place}");
                assert!(old.open_bytes(b"a", &sealed[..place]).is_err(), "{place}");
            }
        }
        let foreign = keys(&[&other()]).seal_bytes(b"a", b"answer".to_vec()).unwrap();
        assert!(matches!(old.open_bytes(b"a", &foreign), Err(SealError::UnknownKey(_))));
        // A secret's key is another one than that of any context.
        let secret = old.seal(b"answer").unwrap();
        let (head, body) = secret.rsplit_once('.').unwrap();
        let bytes = [head.as_bytes(), b".", &URL_SAFE_NO_PAD.decode(body).unwrap()].concat();
        assert!(matches!(old.open_bytes(b"", &bytes), Err(SealError::Torn)));
    }

    #[test]
    fn without_a_key_nothing_is_sealed() {
        let keys = MasterKeys::default();
        assert!(!keys.can_seal() && !keys.is_current("tg1.630dcd29.AAAA"));
        assert!(matches!(keys.seal(b"s"), Err(SealError::NoKey)));
        assert!(matches!(keys.seal_bytes(b"", Vec::new()), Err(SealError::NoKey)));
    }

    #[test]
    fn a_file_that_is_no_key_of_its_owners_is_refused() {
        let directory = TempDir::new().unwrap();
        for (name, text, mode, why) in [
            ("hex", &HEX[1..], 0o600, "neither 64 hex digits nor base64"),
            ("word", &HEX.replace('A', "g"), 0o600, "neither 64 hex digits nor base64"),
            ("short", "AAECAwQF", 0o600, "neither 64 hex digits nor base64"),
            ("empty", "", 0o600, "neither 64 hex digits nor base64"),
            ("long", &" ".repeat(2_000), 0o600, "too long"),
            ("group", HEX, 0o640, "others than its owner"),
            ("world", HEX, 0o604, "others than its owner"),
        ] {
            let error = MasterKeys::read(&[file(&directory, name, text, mode)]).unwrap_err();
            let said = error.to_string();
            assert!(said.contains(why) && said.contains(name), "{name}: {said}");
            assert!(text.is_empty() || !said.contains(text), "{said}");
        }
        let absent = MasterKeys::read(&[directory.path().join("absent")]).unwrap_err();
        assert!(absent.to_string().contains("absent"), "{absent}");
    }

    #[test]
    fn debug_shows_ids_only() {
        assert_eq!(format!("{:?}", keys(&[HEX])), r#"["630dcd29"]"#);
    }
}
