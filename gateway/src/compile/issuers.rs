//! Issuers and their keys. Key sets are runtime state: one per issuer and source, kept over revisions.

use model::config::{Config, ConfigError};
use model::document::{Algorithm, Document, Issuer, Jwks, Secret};
use stages::authenticate::jwt::{self, TenantSource};
use stages::authenticate::key_set::KeySet;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::task::AbortHandle;

/// Shortest shared secret, in bytes: that of the hash (RFC 7518 §3.2).
const SECRET_BYTES_MIN: usize = 32;

/// The fetched key sets of this process, by address.
pub struct KeySets {
    runtime: tokio::runtime::Handle,
    client: reqwest::Client,
    fetched: Mutex<HashMap<String, Fetched>>,
}

struct Fetched {
    set: Arc<KeySet>,
    task: AbortHandle,
    issuer: String,
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

    fn fetched_from(&self, uri: &str, issuer: &Issuer) -> Arc<KeySet> {
        let mut fetched = self.fetched.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = fetched.entry(uri.to_owned()).or_insert_with(|| {
            let set = Arc::new(KeySet::fetched_from(uri));
            let task =
                self.runtime.spawn(set.clone().keep_fresh(self.client.clone())).abort_handle();
            Fetched { set, task, issuer: issuer.id.as_str().to_owned() }
        });
        entry.set.clone()
    }

    /// Stops fetching for issuers that the document no longer has.
    pub fn keep_only_those_of(&self, config: &Config) {
        let issuers = &config.document().issuers;
        let wanted = |uri: &String| {
            issuers.iter().any(|issuer| {
                issuer.jwks.as_ref().is_some_and(|jwks| jwks.uri.as_ref() == Some(uri))
            })
        };
        let mut fetched = self.fetched.lock().unwrap_or_else(PoisonError::into_inner);
        fetched.retain(|uri, entry| {
            let keep = wanted(uri);
            if !keep {
                entry.task.abort();
            }
            keep
        });
    }

    /// An issuer whose keys were never read.
    pub fn missing(&self) -> Option<String> {
        let fetched = self.fetched.lock().unwrap_or_else(PoisonError::into_inner);
        fetched.values().find(|entry| !entry.set.is_ready()).map(|entry| entry.issuer.clone())
    }
}

/// The issuers of a document, by their `iss`.
pub(super) fn issuers(
    document: &Document,
    keys: &KeySets,
    errors: &mut Vec<ConfigError>,
) -> HashMap<String, Arc<jwt::Issuer>> {
    let mut issuers = HashMap::new();
    for (index, issuer) in document.issuers.iter().enumerate() {
        match key_set(issuer, keys) {
            Ok(keys) => {
                issuers.insert(issuer.issuer.clone(), Arc::new(compiled(issuer, keys)));
            }
            Err((field, message)) => {
                errors.push(ConfigError::new(format!("/issuers/{index}/{field}"), message));
            }
        }
    }
    issuers
}

fn compiled(issuer: &Issuer, keys: Arc<KeySet>) -> jwt::Issuer {
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

fn key_set(issuer: &Issuer, keys: &KeySets) -> Result<Arc<KeySet>, Fault> {
    match (&issuer.jwks, &issuer.secret) {
        (Some(Jwks { uri: Some(uri), .. }), _) => Ok(keys.fetched_from(uri, issuer)),
        (Some(Jwks { file: Some(file), .. }), _) => {
            let text = std::fs::read(file)
                .map_err(|error| ("jwks/file", format!("`{file}` can't be read: {error}")))?;
            let set = KeySet::from_json(&text).map_err(|error| ("jwks/file", error.to_string()))?;
            Ok(Arc::new(set))
        }
        (_, Some(secret)) => {
            let bytes = reveal(secret)?;
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

/// The secret itself, on the node that uses it. Errors never hold it.
fn reveal(secret: &Secret) -> Result<Vec<u8>, Fault> {
    match (&secret.env, &secret.file) {
        (Some(name), _) => std::env::var(name)
            .map(String::into_bytes)
            .map_err(|_| ("secret/env", format!("the environment has no `{name}`"))),
        (None, Some(file)) => std::fs::read(file)
            .map(|bytes| bytes.trim_ascii_end().to_vec())
            .map_err(|error| ("secret/file", format!("`{file}` can't be read: {error}"))),
        (None, None) => Err(("secret", "names no secret".to_owned())),
    }
}
