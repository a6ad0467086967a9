//! New API keys.
//!
//! Invariant: of a key, the document gets the first characters and the hash.

use jiff::Timestamp;
use rand::RngExt as _;
use rand::distr::Alphanumeric;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use std::fmt::Write as _;

/// What keys begin with.
const KEY_START: &str = "tg_live_";
/// How many random characters of 62 follow: 190 bits.
const KEY_RANDOM_LEN: usize = 32;
/// How many of them are in the prefix, by which a key is found.
const PREFIX_RANDOM_LEN: usize = 8;
/// How many random characters an id has that nobody chose.
const ID_RANDOM_LEN: usize = 10;
/// A new key and its entry in the document.
#[derive(Clone)]
pub(super) struct Minted {
    pub(super) key: String,
    pub(super) credential: Value,
}

impl Minted {
    pub(super) fn new(id: Option<String>, expires: Option<Timestamp>) -> Self {
        let id = id.unwrap_or_else(|| format!("k-{}", random(ID_RANDOM_LEN)));
        let key = format!("{KEY_START}{}", random(KEY_RANDOM_LEN));
        let prefix: String = key.chars().take(KEY_START.len() + PREFIX_RANDOM_LEN).collect();
        let hash = Sha256::digest(&key).iter().fold("sha256:".to_owned(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        });
        let mut api_key = json!({ "hash": hash, "prefix": prefix });
        if let (Some(expires), Some(fields)) = (expires, api_key.as_object_mut()) {
            fields.insert("expires".to_owned(), expires.to_string().into());
        }
        Self { key, credential: json!({ "id": id, "api_key": api_key }) }
    }

    pub(super) fn id(&self) -> &str {
        self.credential.get("id").and_then(Value::as_str).unwrap_or_default()
    }
}

fn random(length: usize) -> String {
    rand::rng().sample_iter(Alphanumeric).take(length).map(char::from).collect()
}
