//! The book in force: follows the revision that is in force in this process, and the files that secrets stand in.
//!
//! Invariant: whoever asks for it [fresh](Books::fresh) gets that of the revision in force; one that can't be read changes
//! nothing and is told once. One that is on some nodes only is no book: events and deliveries are of all nodes, which go by
//! the newest document that is everybody's.

use super::Book;
use crate::Dispatcher;
use crate::client::Client;
use crate::secret::Secrets;
use model::config::{self, Config};
use model::document::{Document, Secret};
use model::port::StoreError;
use model::revision::{Published, Revisions};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use store::Store;
use tokio::sync::Mutex;
use tokio::time::Instant;

/// Between two looks at which revision is in force.
const LOOK_PAUSE: Duration = Duration::from_millis(250);
/// Between two looks at files that secrets stand in.
const FILES_PAUSE: Duration = Duration::from_secs(10);
/// How many hex digits of its digest a document is known by.
const ETAG_DIGITS: usize = 32;

/// The book in force.
pub(crate) struct Books {
    revisions: Arc<dyn Revisions>,
    store: Store,
    client: Arc<Client>,
    secrets: Secrets,
    current: RwLock<Option<Arc<Book>>>,
    /// Taken by whoever compiles: number and etag of the last revision that was looked at.
    seen: Mutex<Option<(u64, String)>>,
    /// While the one in force is on some nodes only: its number, and the newest that is everybody's.
    everybodys: Mutex<Option<(u64, Published)>>,
}

impl Books {
    /// None yet.
    pub(crate) fn new(
        revisions: Arc<dyn Revisions>,
        store: Store,
        client: Arc<Client>,
        secrets: Secrets,
    ) -> Self {
        let (current, seen, everybodys) = (RwLock::default(), Mutex::default(), Mutex::default());
        Self { revisions, store, client, secrets, current, seen, everybodys }
    }

    /// The one that was in force when somebody last looked.
    pub(crate) fn current(&self) -> Option<Arc<Book>> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The one in force now. None before the first document.
    pub(crate) async fn fresh(&self) -> Option<Arc<Book>> {
        let Some(published) = self.published().await else { return self.current() };
        let mut seen = self.seen.lock().await;
        let is_seen =
            |(number, etag): &(u64, String)| *number == published.number && *etag == published.etag;
        if seen.as_ref().is_none_or(|known| !is_seen(known)) {
            let Published { number, text, etag, .. } = published;
            match tokio::task::spawn_blocking(move || config::read(&text)).await {
                Ok(Ok(config)) => self.compile(number, Arc::new(config)).await,
                Ok(Err(errors)) => {
                    let error = errors.first().map(ToString::to_string).unwrap_or_default();
                    tracing::error!(revision = number, %error, "webhooks go on by the revision before");
                }
                Err(error) => tracing::error!(%error, "a revision could not be read"),
            }
            *seen = Some((number, etag));
        }
        drop(seen);
        self.current()
    }

    /// The document in force here, or the newest that is everybody's where that is not. None where nobody knows.
    async fn published(&self) -> Option<Published> {
        let in_force = self.revisions.in_force()?;
        if in_force.nodes.is_none() {
            return Some(in_force);
        }
        let mut known = self.everybodys.lock().await;
        if let Some((_, known)) = known.as_ref().filter(|(staged, _)| *staged == in_force.number) {
            return Some(known.clone());
        }
        match self.everybodys().await {
            Ok(found) => {
                let found = found?;
                *known = Some((in_force.number, found.clone()));
                Some(found)
            }
            Err(error) => {
                tracing::debug!(%error, "everybody's document is not known: the store can't answer");
                None
            }
        }
    }

    async fn everybodys(&self) -> Result<Option<Published>, StoreError> {
        let Some(number) = self.store.everybodys().await? else { return Ok(None) };
        let found = self.store.revision(number).await?;
        Ok(found.map(|found| {
            let digest = found.info.digest.trim_start_matches("sha256:");
            let etag = digest.chars().take(ETAG_DIGITS).collect();
            Published { number, text: found.text, etag, nodes: None }
        }))
    }

    /// Reads secrets by file anew, where there are any.
    pub(crate) async fn reread(&self) -> Option<Arc<Book>> {
        let _turn = self.seen.lock().await;
        let book = self.current()?;
        if names_files(book.config.document()) {
            self.compile(book.revision, book.config.clone()).await;
        }
        self.current()
    }

    async fn compile(&self, revision: u64, config: Arc<Config>) {
        let (client, secrets) = (self.client.clone(), self.secrets.clone());
        let compiled = tokio::task::spawn_blocking(move || {
            Arc::new(Book::compile(revision, config, &client, &secrets))
        });
        match compiled.await {
            Ok(book) => {
                *self.current.write().unwrap_or_else(PoisonError::into_inner) = Some(book);
            }
            Err(error) => tracing::error!(%error, "endpoints could not be compiled"),
        }
    }
}

/// Whether a secret of an endpoint stands in a file.
fn names_files(document: &Document) -> bool {
    let is_file = |secret: &Secret| secret.file.is_some();
    document.endpoints.iter().any(|endpoint| {
        let authorization = endpoint.authorization.as_ref();
        let header =
            authorization.and_then(|known| known.header.as_ref()).map(|known| &known.secret);
        let oauth2 = authorization.and_then(|known| known.oauth2.as_ref());
        is_file(&endpoint.secret)
            || endpoint.previous_secrets.iter().any(|previous| is_file(&previous.secret))
            || endpoint.signing_key.as_ref().is_some_and(is_file)
            || header.is_some_and(is_file)
            || oauth2.is_some_and(|known| is_file(&known.client_secret))
    })
}

/// Follows the revision in force and the files of secrets, until it is to stop.
pub(crate) async fn run(dispatcher: Arc<Dispatcher>) {
    let mut read = Instant::now();
    while !dispatcher.is_stopping() {
        let book = match read.elapsed() >= FILES_PAUSE {
            true => {
                read = Instant::now();
                dispatcher.books.reread().await
            }
            false => dispatcher.books.fresh().await,
        };
        if let Some(book) = book {
            dispatcher.lanes.follow(&book, dispatcher.time.micros());
        }
        dispatcher.pause(LOOK_PAUSE).await;
    }
}
