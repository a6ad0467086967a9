//! One's turn: what happens to a document once it was judged.

use super::{Candidate, Judged, Kept, Publisher, Tried, judge};
use crate::gateway::Compiled;
use model::config::ConfigError;
use model::id::NodeName;
use model::revision::Published;
use std::sync::{Arc, PoisonError};
use tokio::sync::MutexGuard;

/// The right to put documents in force.
pub(crate) struct Turn<'a> {
    publisher: &'a Publisher,
    _turn: MutexGuard<'a, ()>,
}

impl<'a> Turn<'a> {
    pub(super) const fn new(publisher: &'a Publisher, turn: MutexGuard<'a, ()>) -> Self {
        Self { publisher, _turn: turn }
    }

    /// The document in force.
    pub(crate) fn in_force(&self) -> Option<Candidate> {
        self.publisher.kept(|kept| kept.in_force.as_ref().map(|tried| tried.candidate.clone()))
    }

    /// The document that was wanted last, unless it is in force.
    pub(crate) fn rejected(&self) -> Option<Candidate> {
        self.publisher.kept(|kept| kept.rejected.as_ref().map(|tried| tried.candidate.clone()))
    }

    /// Reads and compiles a text that may be put in force in this turn.
    pub(crate) async fn judge(&self, text: Arc<str>) -> Judged {
        judge(self.publisher.gateway.clone(), text).await
    }

    /// The document whose packs are watched.
    pub(crate) fn watched(&self) -> Option<Candidate> {
        self.publisher.kept(|kept| kept.watched().map(|tried| tried.candidate.clone()))
    }

    /// Makes it the one that is wanted: in force, or rejected, which is said.
    pub(crate) fn take(&self, candidate: Candidate, judged: Judged) -> Option<Published> {
        let published = self.take_again(candidate, judged)?;
        self.accept();
        Some(published)
    }

    /// The same for the one that is watched. Another one, of which nothing can be watched, stays rejected.
    pub(crate) fn take_again(&self, candidate: Candidate, judged: Judged) -> Option<Published> {
        let stays =
            |kept: &Kept| kept.rejected.as_ref().is_some_and(|tried| tried.watched.is_none());
        let stays = self.publisher.kept(stays);
        let tried = Tried::now(candidate, judged.watched);
        match self.put_in_force(&tried, judged.outcome) {
            Ok(published) => {
                if !stays {
                    self.accept();
                }
                Some(published)
            }
            Err(errors) => {
                self.reject(tried, &errors);
                None
            }
        }
    }

    /// Puts it in force in place of the one that is wanted, which stays rejected.
    pub(crate) fn fall_back(
        &self,
        candidate: Candidate,
        judged: Judged,
    ) -> Result<Published, Vec<ConfigError>> {
        self.put_in_force(&Tried::now(candidate, judged.watched), judged.outcome)
    }

    /// Shows that the text in force is the one that is wanted. It stays rejected where its packs were replaced by what
    /// can't be put in force.
    pub(crate) fn stands(&self) {
        let rejected = self.rejected();
        let same = |known: Candidate| rejected.is_some_and(|tried| tried.digest == known.digest);
        if !self.in_force().is_some_and(same) {
            self.accept();
        }
    }

    fn accept(&self) {
        self.change(|kept| kept.rejected = None);
        self.publisher.gateway.accepted();
    }

    /// Shows that the one that is wanted could not even be fetched.
    pub(crate) fn unreadable(&self, number: u64, error: ConfigError) {
        tracing::error!(
            error = error.message,
            in_force = self.publisher.gateway.revision(),
            "the document can't be read; the revision in force stays"
        );
        self.publisher.gateway.rejected(number, &[error]);
    }

    /// The one in force went to these nodes.
    pub(crate) fn is_for(&self, nodes: Option<Vec<NodeName>>) {
        self.change(|kept| {
            if let Some(tried) = &mut kept.in_force {
                tried.candidate.nodes = nodes;
            }
        });
    }

    fn put_in_force(
        &self,
        tried: &Tried,
        judged: Result<Compiled, Vec<ConfigError>>,
    ) -> Result<Published, Vec<ConfigError>> {
        let compiled = judged?;
        let published = tried.candidate.clone().published();
        self.publisher.gateway.put_in_force(compiled, published.number);
        self.change(|kept| kept.in_force = Some(tried.clone()));
        tracing::info!(revision = published.number, "a new revision is in force");
        Ok(published)
    }

    fn reject(&self, tried: Tried, errors: &[ConfigError]) {
        let (gateway, number) = (&self.publisher.gateway, tried.candidate.number);
        // What was said is not said again at every try.
        if gateway.rejected(number, errors) {
            for ConfigError { pointer, message } in errors {
                tracing::error!(
                    revision = number,
                    pointer,
                    error = message,
                    "the document was rejected"
                );
            }
            tracing::error!(
                revision = number,
                errors = errors.len(),
                in_force = gateway.revision(),
                "the document was rejected; the revision in force stays"
            );
        }
        self.change(|kept| kept.rejected = Some(tried));
    }

    fn change(&self, change: impl FnOnce(&mut Kept)) {
        change(&mut self.publisher.kept.write().unwrap_or_else(PoisonError::into_inner));
    }
}
