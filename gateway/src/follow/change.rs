//! Changes that are made here: the port that admin speaks to.
//!
//! Invariant: nothing is written that could not be compiled here, and what was written is in force here when it is
//! answered, unless it went to other nodes first or the store says that another one is newer.

use super::Follower;
use crate::publish::{Candidate, Judged};
use async_trait::async_trait;
use model::audit::Entry;
use model::config::{Config, ConfigError};
use model::port::StoreError;
use model::revision::{
    Change, KeptAnswer, PublishError, Published, RevisionInfo, Revisions, Staged,
};
use std::sync::{Arc, PoisonError};
use store::control::{Effect, Write, WriteError};

#[async_trait]
impl Revisions for Follower {
    async fn newest(&self) -> Result<Option<Published>, StoreError> {
        let Some(info) = self.store().revisions(None, 1).await?.pop() else { return Ok(None) };
        if let Some(known) = self.known(&info) {
            return Ok(Some(known));
        }
        let newest = self.store().newest().await?.map(|newest| Candidate::from(newest).published());
        if let Some(newest) = &newest {
            self.remember(newest.clone());
        }
        Ok(newest)
    }

    fn in_force(&self) -> Option<Published> {
        self.publisher.in_force()
    }

    async fn check(&self, text: String) -> Result<Arc<Config>, Vec<ConfigError>> {
        self.publisher.check(text).await
    }

    async fn publish(&self, change: Change) -> Result<Published, PublishError> {
        let Change { text, base, nodes, staged, audit, answer, events } = change;
        let mut candidate = Candidate::new(base.saturating_add(1), text.into());
        candidate.nodes.clone_from(&nodes);
        let judged = self.publisher.judge(candidate.text.clone()).await;
        let judged = judged.sound().map_err(PublishError::Invalid)?;
        let effect = Effect::Publish {
            text: candidate.text.clone(),
            base,
            nodes,
            replaces_staged: staged == Staged::Replace,
            events,
        };
        let written = self.store().write(Write { effect, audit, answer }).await.map_err(refused)?;
        candidate.number = written.revision.unwrap_or(candidate.number);
        let published = candidate.clone().published();
        self.remember(published.clone());
        self.written(candidate, judged).await;
        Ok(published)
    }

    async fn release(
        &self,
        number: u64,
        audit: Entry,
        answer: Option<KeptAnswer>,
    ) -> Result<Published, PublishError> {
        let revision = self.store().revision(number).await?.ok_or(PublishError::NotFound)?;
        let candidate = Candidate { nodes: None, ..Candidate::from(revision) };
        let judged = self.publisher.judge(candidate.text.clone()).await;
        let judged = judged.sound().map_err(PublishError::Invalid)?;
        let effect = Effect::Release(number);
        self.store().write(Write { effect, audit, answer }).await.map_err(refused)?;
        let published = candidate.clone().published();
        self.written(candidate, judged).await;
        Ok(published)
    }
}

impl Follower {
    /// After a write that made this the newest revision: puts it in force here, if it is this node's.
    async fn written(&self, candidate: Candidate, judged: Judged) {
        let turn = self.publisher.turn().await;
        match self.newest_here().await {
            Ok(newest) => {
                self.take(&turn, newest, Some((candidate, judged))).await;
            }
            // What was written is known all the same; something newer may be in force by now.
            Err(error) => {
                self.away(&error);
                let newer = turn.in_force().is_none_or(|known| known.number < candidate.number);
                let nodes = candidate.nodes.as_ref();
                if newer && nodes.is_none_or(|nodes| nodes.contains(&self.gateway.node)) {
                    self.put_in_force(&turn, candidate, judged).await;
                }
            }
        }
    }

    /// This revision, if it was read before.
    fn known(&self, info: &RevisionInfo) -> Option<Published> {
        let newest = self.newest.read().unwrap_or_else(PoisonError::into_inner).clone();
        let mut known = newest.into_iter().chain(self.in_force());
        let known = known.find(|known| is_of(known, info))?;
        Some(Published { nodes: info.nodes.clone(), ..known })
    }

    fn remember(&self, newest: Published) {
        *self.newest.write().unwrap_or_else(PoisonError::into_inner) = Some(newest);
    }
}

fn is_of(published: &Published, info: &RevisionInfo) -> bool {
    let digest = info.digest.trim_start_matches("sha256:");
    published.number == info.number && digest.starts_with(&published.etag)
}

fn refused(error: WriteError) -> PublishError {
    match error {
        WriteError::Stale => PublishError::Stale,
        WriteError::Staged { number, nodes } => PublishError::Staged { number, nodes },
        WriteError::NotFound => PublishError::NotFound,
        WriteError::Repeat => PublishError::Repeat,
        WriteError::Store(error) => PublishError::Store(error),
        // No revision is refused so.
        error @ (WriteError::LastToken
        | WriteError::TooMany(_)
        | WriteError::TooLarge { .. }
        | WriteError::OtherPack) => PublishError::Store(StoreError::Unreadable(error.to_string())),
    }
}
