//! Issuers and their keys. Key sets are runtime state: one per address, kept over revisions.

use super::Sources;
use model::config::ConfigError;
use model::document::{Algorithm, Document, Issuer, Jwks, Secret};
use model::id::IssuerId;
use stages::authenticate::jwt::{self, TenantSource};
use stages::authenticate::key_set::KeySet;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use store::seal::MasterKeys;
use tokio::task::AbortHandle;

/// Shortest shared secret, in bytes: that of the hash (RFC 7518 §3.2).
const SECRET_BYTES_MIN: usize = 32;

/// The fetched key sets of this process, by address.
pub struct KeySets {
    runtime: tokio::runtime::Handle,
    client: reqwest::Client,
    fetched: Mutex<HashMap<String, Weak<Fetched>>>,
}

/// A key set that is fetched for as long as somebody has this.
pub struct Fetched {
    set: Arc<KeySet>,
    task: AbortHandle,
}

impl Fetched {
    /// Whether it was read, ever.
    pub fn is_ready(&self) -> bool {
        self.set.is_ready()
    }
}

impl Drop for Fetched {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl KeySets {
    /// No key sets yet; fetches will run on this runtime.
    pub fn new(runtime: tokio::runtime::Handle) -> Result<Self, reqwest::Error> {
        let client = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .user_agent("tollgate")
            .build()?;
        Ok(Self { runtime, client, fetched: Mutex::default() })
    }

    fn fetched_from(&self, uri: &str) -> Arc<Fetched> {
        let mut fetched = self.fetched.lock().unwrap_or_else(PoisonError::into_inner);
        fetched.retain(|_, known| known.strong_count() > 0);
        if let Some(known) = fetched.get(uri).and_then(Weak::upgrade) {
            return known;
        }
        let set = Arc::new(KeySet::fetched_from(uri));
        let task = self.runtime.spawn(set.clone().keep_fresh(self.client.clone())).abort_handle();
        let made = Arc::new(Fetched { set, task });
        fetched.insert(uri.to_owned(), Arc::downgrade(&made));
        made
    }
}

/// The issuers of a document.
#[derive(Default)]
pub(super) struct Issuers {
    /// By their `iss`.
    pub(super) by_name: HashMap<String, Arc<jwt::Issuer>>,
    /// The key sets that are fetched for them.
    pub(super) fetched: Vec<(IssuerId, Arc<Fetched>)>,
}

/// Every issuer of a document, with its keys.
pub(super) fn issuers(
    document: &Document,
    sources: &Sources,
    errors: &mut Vec<ConfigError>,
) -> Issuers {
    let mut compiled = Issuers::default();
    for (index, issuer) in document.issuers.iter().enumerate() {
        match key_set(issuer, sources, &mut compiled.fetched) {
            Ok(keys) => {
                let name = issuer.issuer.clone();
                compiled.by_name.insert(name, Arc::new(one(issuer, keys)));
            }
            Err((field, message)) => {
                errors.push(ConfigError::new(format!("/issuers/{index}/{field}"), message));
            }
        }
    }
    compiled
}

fn one(issuer: &Issuer, keys: Arc<KeySet>) -> jwt::Issuer {
    let algorithms = issuer.algorithms.iter().map(|name| match name {
        Algorithm::RS256 => jsonwebtoken::Algorithm::RS256,
        Algorithm::ES256 => jsonwebtoken::Algorithm::ES256,
        Algorithm::EdDSA => jsonwebtoken::Algorithm::EdDSA,
        Algorithm::HS256 => jsonwebtoken::Algorithm::HS256,
    });
    let tenant = match (&issuer.tenant, &issuer.tenant_claim) {
        (Some(tenant), _) => TenantSource::Fixed(tenant.clone()),
        (None, claim) => TenantSource::Claim(claim.clone().unwrap_or_default()),
    };
    let typ = issuer.typ.as_deref().map(str::to_ascii_lowercase);
    jwt::Issuer {
        id: issuer.id.clone(),
        audiences: issuer.audiences.clone(),
        algorithms: algorithms.collect(),
        keys,
        tenant,
        consumer_claim: issuer.consumer_claim.clone(),
        scopes_claim: issuer.scopes_claim.clone(),
        leeway: issuer.leeway.0,
        typ: typ.map(|typ| typ.strip_prefix("application/").unwrap_or(&typ).to_owned()),
    }
}

type Fault = (&'static str, String);

fn key_set(
    issuer: &Issuer,
    sources: &Sources,
    fetched: &mut Vec<(IssuerId, Arc<Fetched>)>,
) -> Result<Arc<KeySet>, Fault> {
    match (&issuer.jwks, &issuer.secret) {
        (Some(Jwks { uri: Some(uri), .. }), _) => {
            let source = sources.key_sets.fetched_from(uri);
            let set = source.set.clone();
            fetched.push((issuer.id.clone(), source));
            Ok(set)
        }
        (Some(Jwks { file: Some(file), .. }), _) => {
            let text = std::fs::read(file)
                .map_err(|error| ("jwks/file", format!("`{file}` can't be read: {error}")))?;
            let set = KeySet::from_json(&text).map_err(|error| ("jwks/file", error.to_string()))?;
            Ok(Arc::new(set))
        }
        (_, Some(secret)) => {
            let bytes = reveal(secret, &sources.master_keys)?;
            if bytes.len() < SECRET_BYTES_MIN {
                return Err((
                    "secret",
                    format!("is shorter than {SECRET_BYTES_MIN} bytes (RFC 7518 §3.2)"),
                ));
            }
            Ok(Arc::new(KeySet::from_secret(&bytes)))
        }
        _ => Err(("jwks", "names no keys".to_owned())),
    }
}

/// The secret itself, on the node that uses it. Errors never hold it, nor what stands where a reference belongs: it may be
/// the secret.
pub(crate) fn reveal(secret: &Secret, keys: &MasterKeys) -> Result<Vec<u8>, Fault> {
    if let Some(sealed) = &secret.sealed {
        let mend = |error| {
            format!(
                "can't be opened here: {error}; give the value to the API again, or add its key"
            )
        };
        return keys.open(sealed).map_err(|error| ("secret/sealed", mend(error)));
    }
    match (&secret.env, &secret.file) {
        (Some(name), _) => std::env::var(name)
            .map(String::into_bytes)
            .map_err(|_| ("secret/env", "is not set in this node's environment".to_owned())),
        (None, Some(file)) => std::fs::read(file)
            .map(|bytes| bytes.trim_ascii_end().to_vec())
            .map_err(|error| ("secret/file", format!("the file can't be read: {error}"))),
        (None, None) => Err(("secret", "names no secret".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_key_set_is_shared_and_fetched_as_long_as_somebody_has_it() {
        crate::tests::install_crypto();
        let sets = KeySets::new(tokio::runtime::Handle::current()).unwrap();
        let one = sets.fetched_from("http://127.0.0.1:9/keys");
        let other = sets.fetched_from("http://127.0.0.1:9/keys");
        assert!(Arc::ptr_eq(&one, &other));
        let task = one.task.clone();
        drop(one);
        assert!(!task.is_finished());
        drop(other);
        let gone = async {
            while !task.is_finished() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(5), gone).await.unwrap();
        let _new = sets.fetched_from("http://127.0.0.1:8/keys");
        assert_eq!(sets.fetched.lock().unwrap().len(), 1, "what is gone is forgotten");
    }
}
