//! The newest document as a value, read once per revision.

use crate::Shared;
use crate::problem::Refused;
use model::config;
use model::id::NodeName;
use model::revision::Published;
use serde_json::{Value, json};
use std::sync::{Arc, Mutex, PoisonError};

/// The newest revision, which is read and changed, wherever it is in force.
#[derive(Debug)]
pub(crate) struct Newest {
    /// Its number; 0 before the first.
    pub(crate) number: u64,
    /// The tag of the whole document, without quotes; none before the first.
    pub(crate) etag: Option<String>,
    /// The document as it was written; empty before the first.
    pub(crate) text: Arc<str>,
    /// The document; one without entries before the first.
    pub(crate) document: Value,
    /// The nodes that it went to first; none when it is everybody's.
    pub(crate) nodes: Option<Vec<NodeName>>,
}

/// The revision that was read last.
#[derive(Default)]
pub(crate) struct Read(Mutex<Option<Arc<Newest>>>);

impl Shared {
    /// The newest revision. 503 when the store can't say.
    pub(crate) async fn newest(&self) -> Result<Arc<Newest>, Refused> {
        let Some(published) = self.revisions.newest().await? else {
            let document = json!({ "format": 1 });
            let text = "".into();
            return Ok(Arc::new(Newest { number: 0, etag: None, text, document, nodes: None }));
        };
        let known = self.read.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Published { number, text, etag, nodes } = published;
        let etag = Some(etag);
        // A release changes the nodes, and nothing else.
        let is_same = |known: &Arc<Newest>| {
            known.number == number && known.etag == etag && known.nodes == nodes
        };
        if let Some(known) = known.filter(is_same) {
            return Ok(known);
        }
        let read = text.clone();
        let parsed = blocking(move || config::parse(&read)).await?;
        let document = parsed.map_err(|errors| Refused::internal(format_args!("{errors:?}")))?;
        let newest = Arc::new(Newest { number, etag, text, document, nodes });
        *self.read.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(newest.clone());
        Ok(newest)
    }
}

/// Does what takes long for a large document, away from the threads that serve.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Refused> {
    tokio::task::spawn_blocking(work).await.map_err(Refused::internal)
}
