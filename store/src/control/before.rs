//! What attachments ran before, read out of older revisions.

use super::Revision;
use crate::Store;
use model::config;
use model::port::StoreError;
use model::rollout::Before;
use serde_json::Value;
use std::sync::Arc;

/// How many older revisions are looked into.
const REVISIONS_MAX: u32 = 100;
/// How much text is read of them, in bytes.
const BYTES_MAX: u64 = 64 << 20;

impl Store {
    /// What the attachments of a document that run `name@version` ran before, as far as the newest revisions tell: 100 of
    /// them, and 64 MiB of text. Those that are or were on some nodes only tell nothing.
    pub async fn ran_before(&self, document: &Value, running: &str) -> Result<Before, StoreError> {
        let mut before = Before::of(document, running);
        if !before.is_open() {
            return Ok(before);
        }
        let (mut bytes, mut last) = (0, String::new());
        for info in self.revisions(None, REVISIONS_MAX).await? {
            bytes += info.size;
            if bytes > BYTES_MAX || !before.is_open() {
                break;
            }
            // The same text again tells nothing new.
            if info.nodes.is_some() || info.digest == last {
                continue;
            }
            last = info.digest;
            let Some(Revision { text, .. }) = self.revision(info.number).await? else { break };
            before = looked(before, text).await?;
        }
        Ok(before)
    }
}

/// A large text takes a while: away from the threads that serve. One that this build can't read tells nothing.
async fn looked(mut before: Before, text: Arc<str>) -> Result<Before, StoreError> {
    let looking = tokio::task::spawn_blocking(move || {
        if let Ok(older) = config::parse(&text) {
            before.look(&older);
        }
        before
    });
    looking.await.map_err(|error| StoreError::Unavailable(error.to_string()))
}
