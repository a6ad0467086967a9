//! The control plane's rows: revisions, audit, tokens, revocations, nodes, pack files and what they read, events, kept
//! answers.
//!
//! Invariant: every write is one transaction with its audit entry ([`Write`] can't be made without one), and numbers of
//! revisions have no gaps. What followers must notice raises the feed's version in that same transaction.

mod audit;
mod before;
mod nodes;
mod outbox;
mod pack_data;
mod packs;
mod revisions;
mod revocations;
mod tokens;
mod write;

pub(crate) use revisions::is_outdated;

pub use crate::webhooks::Recover;
pub use outbox::{OUTBOX_READER, OutboxRead, Outgoing, ToldOnce};
pub use pack_data::{
    DATA_BYTES_MAX, DATA_KEYS_MAX, DATUM_KEY_MAX, DATUM_VALUE_MAX, PackData, PackDatum,
};
pub use packs::{PACK_BYTES_MAX, PACKS_MAX, PackFile, PackInfo};

pub(crate) use outbox::append as append_event;
pub(crate) use write::{Undone, whole};

use crate::Store;
use crate::rows::{Columns as _, text, unreadable};
use bytes::Bytes;
use jiff::Timestamp;
use model::audit::Entry;
use model::event::Event;
use model::id::{EndpointId, NodeName, PackId, PackKeyId, TenantId, TokenId};
use model::port::StoreError;
use model::revision::{KeptAnswer, RevisionInfo};
use model::revocation::Revocation;
use model::token::{Token, TokenHash};
use model::webhook::{NewEvent, Replay};
use std::sync::Arc;
use std::time::Duration;

const FEED: &str = "SELECT version FROM feed";

const ANSWER: &str = "SELECT digest, fingerprint, status, sealed, until FROM answers WHERE digest = $1 AND until > $2";

const KEEP: &str = "INSERT INTO kept (name, value) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING";

const KEPT: &str = "SELECT value FROM kept WHERE name = $1";

/// A write to the control plane, whole.
#[derive(Clone, Debug)]
pub struct Write {
    /// What is done.
    pub effect: Effect,
    /// What the audit says of it.
    pub audit: Entry,
    /// The answer that a repeat of the same request gets.
    pub answer: Option<KeptAnswer>,
}

/// What a write does.
#[derive(Clone, Debug)]
pub enum Effect {
    /// Nothing but its audit entry: a refusal, a reset of counters.
    Note,
    /// A new revision, `base + 1`, if `base` is the newest and is everybody's.
    Publish {
        /// The document's text.
        text: Arc<str>,
        /// The newest revision, from which it was made; 0 for none.
        base: u64,
        /// The nodes that it goes to first; none for all.
        nodes: Option<Vec<NodeName>>,
        /// Whether it may replace a newest revision that is on some nodes only: a rollback may.
        replaces_staged: bool,
        /// What the outbox tells of it.
        events: Vec<Event>,
    },
    /// Gives the newest revision, which is on some nodes only, to all.
    Release(u64),
    /// A new token.
    CreateToken(Token, TokenHash),
    /// A token is refused from now on.
    RevokeToken(TokenId, Timestamp),
    /// A revocation.
    Revoke(Revocation),
    /// Takes back the revocation of this id.
    Lift(String),
    /// Keeps a pack file for good. The same file again is no change.
    KeepPack {
        /// The file.
        file: Box<PackFile>,
        /// The key whose signature of the same content may be replaced, if any may.
        resigns: Option<PackKeyId>,
    },
    /// What a pack may read under a key, from now on, if what it replaces is that.
    PutPackData(Box<PackDatum>, Over),
    /// A pack can't read anything under this key any more, if it read that.
    DeletePackData {
        /// The pack.
        pack: PackId,
        /// The key.
        key: String,
        /// What it read.
        over: Over,
    },
    /// Deletes the decision records of a tenant that were made until then, and what tells of the same exchanges how
    /// versions of packs differ: in several transactions, the last of which holds the audit entry. One that breaks off is
    /// to be asked for again.
    EraseRecords(TenantId, Timestamp),
    /// A delivery that is dead, parked or due later is due now, and its attempts are counted from 1 again.
    RetryDelivery {
        /// The delivery.
        number: u64,
    },
    /// A delivery that is pending, parked or dead is given up: nothing waits behind it any more.
    DiscardDelivery {
        /// The delivery.
        number: u64,
    },
    /// An endpoint is served again; nothing that it did before is held against it. Goes on in further transactions where
    /// much is parked, or in [`mend_order`](Store::mend_order) where it breaks off.
    EnableEndpoint {
        /// The endpoint.
        endpoint: EndpointId,
        /// Whose it is: what was parked when it was another tenant's stays so.
        tenant: TenantId,
        /// What becomes of what was parked.
        recover: Recover,
    },
    /// An event that goes to one endpoint, whatever it wants.
    Ping {
        /// The event.
        event: Box<NewEvent>,
        /// The endpoint.
        endpoint: EndpointId,
    },
    /// A replay, which dispatchers work at from now on.
    CreateReplay(Box<Replay>),
    /// The replay of this id ends.
    CancelReplay(String, Timestamp),
}

/// What a pack may read under a key before a write changes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Over {
    /// Whatever it may be.
    Anything,
    /// Nothing yet.
    Nothing,
    /// This value.
    Value(Bytes),
}

/// What a write came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// The revision that was published or released.
    pub revision: Option<u64>,
    /// How many rows were deleted; of a pack file, 1 when it was not there yet; of an endpoint that was enabled, how many
    /// deliveries became pending.
    pub rows: u64,
    /// The number of the delivery that was made.
    pub delivery: Option<u64>,
}

/// Why a write was not done. Whatever the reason, nothing was.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The newest revision is another one; what a pack reads, or by whom it is signed, is another one by now.
    #[error("it was changed meanwhile")]
    Stale,
    /// The newest revision is on some nodes only.
    #[error("revision {number} is on some nodes only")]
    Staged {
        /// That revision.
        number: u64,
        /// Its nodes.
        nodes: Vec<NodeName>,
    },
    /// There is no such thing.
    #[error("there is no such row")]
    NotFound,
    /// An answer is kept for this key: the request is a repeat.
    #[error("an answer is kept for this key")]
    Repeat,
    /// Nobody could administer any more: it is the last live token of role admin and of no tenant.
    #[error("it is the last live token of role admin that is bound to no tenant")]
    LastToken,
    /// There are as many as there may be.
    #[error("there are too many: {0}")]
    TooMany(&'static str),
    /// It is larger than it may be.
    #[error("{what} is larger than {max} bytes")]
    TooLarge {
        /// What.
        what: &'static str,
        /// How large it may be, in bytes.
        max: usize,
    },
    /// Another pack is kept under this name and version.
    #[error("another pack is kept under this name and version: give it another version")]
    OtherPack,
    /// The store can't do it.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A revision with its document, unread.
#[derive(Clone, Debug)]
pub struct Revision {
    /// What lists show.
    pub info: RevisionInfo,
    /// The document's text.
    pub text: Arc<str>,
}

/// Which audit entries are wanted. Newest first.
#[derive(Clone, Debug, Default)]
pub struct AuditQuery {
    /// Of this tenant.
    pub tenant: Option<TenantId>,
    /// By the actor of this name.
    pub actor: Option<String>,
    /// Of this action, like `plans.put`.
    pub action: Option<String>,
    /// Of this resource's path or one beneath it.
    pub resource: Option<String>,
    /// From then on.
    pub since: Option<Timestamp>,
    /// Before then.
    pub until: Option<Timestamp>,
    /// Older than the entry of this id.
    pub before: Option<String>,
    /// At most so many.
    pub limit: u32,
}

impl Store {
    /// Does a write, with its audit entry, or nothing.
    pub async fn write(&self, write: Write) -> Result<Written, WriteError> {
        if let Effect::EraseRecords(tenant, until) = &write.effect {
            let (tenant, until) = (tenant.clone(), *until);
            return self.erase(write, tenant, until).await;
        }
        if let Effect::EnableEndpoint { .. } = &write.effect {
            return self.enable(write).await;
        }
        self.write_at_once(write).await
    }

    async fn write_at_once(&self, write: Write) -> Result<Written, WriteError> {
        let in_feed = write.effect.is_in_feed();
        let for_webhooks = write.effect.is_for_webhooks();
        let size = write.size();
        let done = self.db.write(size, |connection| Box::pin(write::write(connection, write)));
        let written = done.await??;
        if in_feed {
            self.hints.give();
        }
        if for_webhooks {
            self.tell_webhooks();
        }
        Ok(written)
    }

    /// Deletes most of it before, so that no transaction is a long one, and goes to its end even when nobody waits any
    /// more: what was deleted has its audit entry.
    async fn erase(
        &self,
        write: Write,
        tenant: TenantId,
        until: Timestamp,
    ) -> Result<Written, WriteError> {
        let store = self.clone();
        let erases = async move {
            if let Some(answer) = &write.answer
                && store.answer(&answer.digest, write.audit.at).await?.is_some()
            {
                return Err(WriteError::Repeat);
            }
            let most = store.erase_most(&tenant, until).await?;
            let written = store.write_at_once(write).await?;
            Ok(Written { rows: written.rows + most, ..written })
        };
        match tokio::spawn(erases).await {
            Ok(written) => written,
            Err(error) => Err(StoreError::Unavailable(error.to_string()).into()),
        }
    }

    /// Takes up what was parked in further transactions, and goes to its end even when nobody waits any more. It is enabled
    /// even where that fails: the rest is taken up by the next sweep.
    async fn enable(&self, write: Write) -> Result<Written, WriteError> {
        let written = self.write_at_once(write).await?;
        let store = self.clone();
        let taken = match tokio::spawn(async move { store.take_up(usize::MAX).await }).await {
            Ok(Ok(taken)) => taken,
            Ok(Err(error)) => {
                tracing::warn!(%error, "parked deliveries are taken up later");
                0
            }
            Err(_) => 0,
        };
        self.tell_webhooks();
        Ok(Written { rows: written.rows + taken, ..written })
    }

    /// The feed's version: grows with every write that nodes must notice (revisions, releases, revocations, pack files and
    /// what packs read).
    pub async fn feed(&self) -> Result<u64, StoreError> {
        self.hints.notice();
        let row = self.db.read(|connection| Box::pin(sqlx::query(FEED).fetch_one(connection)));
        row.await?.number("version")
    }

    /// Waits until the feed may have grown: told so by the database or by a write of this process, at most for `pause`.
    /// What came since [`feed`](Self::feed) was called on this clone of the store ends the wait at once: whoever follows
    /// has a clone of its own.
    pub async fn changed(&self, pause: Duration) {
        self.hints.wait(pause).await;
    }

    /// The answer kept for a repeat, if there is one.
    pub async fn answer(
        &self,
        digest: &[u8; 32],
        now: Timestamp,
    ) -> Result<Option<KeptAnswer>, StoreError> {
        let find = sqlx::query(ANSWER).bind(digest.to_vec()).bind(now.as_microsecond());
        let row = self.db.read(|connection| Box::pin(find.fetch_optional(connection))).await?;
        let Some(row) = row else { return Ok(None) };
        Ok(Some(KeptAnswer {
            digest: row.bytes("digest")?,
            fingerprint: row.bytes("fingerprint")?,
            status: row.of::<i64>("status")?.try_into().map_err(|_| unreadable("status"))?,
            sealed: row.of("sealed")?,
            until: row.time("until")?,
        }))
    }

    /// What the deployment shares under this name: the value of whoever was first.
    pub async fn kept(&self, name: &str, value: Vec<u8>) -> Result<Vec<u8>, StoreError> {
        let name = text(name);
        let done = self.db.write(value.len(), move |connection| {
            Box::pin(async move {
                let keep = sqlx::query(KEEP).bind(name.clone()).bind(value);
                keep.execute(&mut *connection).await?;
                sqlx::query_scalar(KEPT).bind(name).fetch_one(connection).await
            })
        });
        done.await
    }
}

impl Effect {
    /// Whether nodes must notice it.
    fn is_in_feed(&self) -> bool {
        match self {
            Self::Publish { .. }
            | Self::Release(_)
            | Self::Revoke(_)
            | Self::Lift(_)
            | Self::KeepPack { .. }
            | Self::PutPackData(..)
            | Self::DeletePackData { .. } => true,
            Self::Note
            | Self::CreateToken(..)
            | Self::RevokeToken(..)
            | Self::EraseRecords(..)
            | Self::RetryDelivery { .. }
            | Self::DiscardDelivery { .. }
            | Self::EnableEndpoint { .. }
            | Self::Ping { .. }
            | Self::CreateReplay(_)
            | Self::CancelReplay(..) => false,
        }
    }

    /// Whether dispatchers may have something to do.
    fn is_for_webhooks(&self) -> bool {
        matches!(
            self,
            Self::RetryDelivery { .. }
                | Self::DiscardDelivery { .. }
                | Self::EnableEndpoint { .. }
                | Self::Ping { .. }
                | Self::CreateReplay(_)
        )
    }
}

impl Write {
    /// About how many bytes it holds.
    fn size(&self) -> usize {
        let held = match &self.effect {
            Effect::Publish { text, .. } => text.len(),
            Effect::KeepPack { file, .. } => file.bytes.len(),
            Effect::PutPackData(datum, _) => datum.value.len(),
            Effect::Ping { event, .. } => event.content.len(),
            _ => 0,
        };
        held + self.answer.as_ref().map_or(0, |answer| answer.sealed.len())
    }
}
