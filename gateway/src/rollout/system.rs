//! Revisions that a node makes by itself: a candidate promoted, a version taken out of service.
//!
//! Invariant: each is made of the newest document, whoever wrote that, with its audit entry and its events in one
//! transaction. Where another node was first, nothing is left to do. How often is tried again is bounded.

use crate::gateway::Gateway;
use crate::trace::fresh_id;
use jiff::Timestamp;
use model::audit::Entry;
use model::config::{self, ConfigError};
use model::event::Event;
use model::id::{AttachmentId, TenantId};
use model::port::StoreError;
use model::revision::{Change, PublishError, Revisions, Staged};
use model::role::Actor;
use model::rollout::{self, Became, Before, Shift};
use rand::RngExt as _;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// How often a revision is made again because somebody else published meanwhile, or an attachment can't go back.
const TRIES_MAX: u32 = 8;
/// The longest pause between two tries.
const PAUSE_MAX: Duration = Duration::from_millis(100);

/// What is to become of a version of a pack.
#[derive(Clone, Debug)]
pub(super) struct Order {
    /// `name@version`.
    pub(super) version: Arc<str>,
    /// Why, for people.
    pub(super) reason: Arc<str>,
    pub(super) what: What,
}

#[derive(Clone, Debug)]
pub(super) enum What {
    /// It is taken out of service everywhere.
    Quarantine,
    /// It is taken out of service here, as a candidate or as the running version.
    TakeOut(AttachmentId),
    /// It becomes the running version here.
    Promote(AttachmentId),
}

/// Why a document stays as it is.
#[derive(Debug, thiserror::Error)]
pub(super) enum Left {
    /// Revisions are not published here.
    #[error("the document is kept in a file that the operator owns: change it there")]
    ReadOnly,
    /// The newest revision is on some nodes only.
    #[error("revision {0} is on some nodes only: release it or roll it back")]
    Staged(u64),
    /// No gateway could put it in force.
    #[error("the document would not be valid: {0:?}")]
    Invalid(Vec<ConfigError>),
    /// Others keep publishing.
    #[error("others keep changing the document")]
    Busy,
    /// The store can't answer.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Makes the revision that an order asks for; says its number, and none where the document is so already.
pub(super) async fn carry_out(
    gateway: &Gateway,
    revisions: &dyn Revisions,
    order: &Order,
) -> Result<Option<u64>, Left> {
    if revisions.is_read_only() {
        return Err(Left::ReadOnly);
    }
    let mut stuck = BTreeSet::new();
    for _ in 0..TRIES_MAX {
        let Some(newest) = revisions.newest().await? else { return Ok(None) };
        let text = newest.text.clone();
        let document = blocking(move || config::parse(&text)).await?.map_err(Left::Invalid)?;
        let mut before = None;
        if let What::Quarantine | What::TakeOut(_) = order.what {
            before = Some(gateway.store.ran_before(&document, &order.version).await?);
        }
        let (wanted, halted, at) = (order.clone(), stuck.clone(), gateway.clock.now());
        let made = blocking(move || make(document, before.as_ref(), &wanted, &halted, at)).await?;
        let Some(made) = made else { return Ok(None) };
        let change = Change {
            text: made.text,
            base: newest.number,
            nodes: None,
            staged: Staged::Keep,
            audit: entry(gateway, order, made.tenant, made.difference, at),
            answer: None,
            events: made.events,
        };
        match revisions.publish(change).await {
            Ok(published) => return Ok(Some(published.number)),
            Err(PublishError::Stale) => tokio::time::sleep(pause()).await,
            Err(PublishError::Invalid(errors)) => {
                // An older version may refuse the settings of today: such an attachment is halted instead.
                let refused: Vec<_> = made.back.iter().filter(|back| back.is_in(&errors)).collect();
                if refused.is_empty() {
                    return Err(Left::Invalid(errors));
                }
                stuck.extend(refused.into_iter().map(|back| back.id.clone()));
            }
            Err(PublishError::Staged { number, .. }) => return Err(Left::Staged(number)),
            Err(PublishError::ReadOnly) => return Err(Left::ReadOnly),
            Err(PublishError::Store(error)) => return Err(error.into()),
            // Nothing is released, and no answer kept.
            Err(PublishError::NotFound | PublishError::Repeat) => return Err(Left::Busy),
        }
    }
    Err(Left::Busy)
}

/// A revision in the making.
struct Made {
    text: String,
    difference: Value,
    events: Vec<Event>,
    /// The one tenant that it concerns, where it is one.
    tenant: Option<TenantId>,
    /// Attachments that go back to another version.
    back: Vec<Back>,
}

/// An attachment that goes back, and where it stands in the document.
struct Back {
    id: AttachmentId,
    index: usize,
}

impl Back {
    /// Whether one of the errors is about it.
    fn is_in(&self, errors: &[ConfigError]) -> bool {
        let at = format!("/attachments/{}", self.index);
        let about = |error: &ConfigError| {
            let rest = error.pointer.strip_prefix(&at);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        errors.iter().any(about)
    }
}

/// What an order makes of a document; nothing where it is so already. Those that are stuck are halted rather than put back.
fn make(
    before: Value,
    ran: Option<&Before>,
    order: &Order,
    stuck: &BTreeSet<AttachmentId>,
    at: Timestamp,
) -> Option<Made> {
    let Order { version, reason, what } = order;
    let mut after = before.clone();
    let known = |id: &AttachmentId| ran?.get(id).filter(|_| !stuck.contains(id));
    match what {
        What::Promote(attachment) => {
            rollout::promote(&mut after, version, Some(attachment)).ok()?;
        }
        What::TakeOut(attachment) => {
            rollout::take_out(&mut after, version, attachment, known).ok()?;
        }
        What::Quarantine => {
            rollout::quarantine(&mut after, version, reason, at, known).ok()?;
        }
    }
    let shifts = rollout::shifts(&before, &after, version);
    let went_back = |shift: &&Shift| shift.became == Became::RolledBack;
    let back = shifts.iter().filter(went_back).filter_map(|shift| {
        let is_it =
            |entry: &Value| entry.get("id").and_then(Value::as_str) == Some(shift.id.as_str());
        let index = list(&after, "attachments").iter().position(is_it)?;
        Some(Back { id: shift.id.clone(), index })
    });
    let fresh = || fresh_id(at).to_string();
    Some(Made {
        back: back.collect(),
        tenant: only_tenant(&shifts),
        events: rollout::events((&before, &after), version, (reason, at), fresh),
        difference: difference(&before, &after),
        text: after.to_string(),
    })
}

fn only_tenant(shifts: &[Shift]) -> Option<TenantId> {
    let mut tenants = shifts.iter().filter(|shift| shift.became != Became::Kept);
    let first = tenants.next()?.tenant.clone()?;
    tenants.all(|shift| shift.tenant.as_ref() == Some(&first)).then_some(first)
}

/// What changed, as a JSON Patch (RFC 6902): entries keep their places, and only fields of theirs change, none of which can
/// hold a secret.
fn difference(before: &Value, after: &Value) -> Value {
    let mut operations = Vec::new();
    for name in ["packs", "attachments"] {
        for (index, (old, new)) in list(before, name).iter().zip(list(after, name)).enumerate() {
            let (Some(old), Some(new)) = (old.as_object(), new.as_object()) else { continue };
            let at = |field: &str| format!("/{name}/{index}/{field}");
            let gone = old.keys().filter(|field| !new.contains_key(*field));
            operations.extend(gone.map(|field| json!({ "op": "remove", "path": at(field) })));
            for (field, value) in new.iter().filter(|(field, value)| old.get(*field) != Some(value))
            {
                let op = if old.contains_key(field) { "replace" } else { "add" };
                operations.push(json!({ "op": op, "path": at(field), "value": value }));
            }
        }
    }
    Value::Array(operations)
}

fn list<'a>(document: &'a Value, name: &str) -> &'a [Value] {
    document.get(name).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn entry(
    gateway: &Gateway,
    order: &Order,
    tenant: Option<TenantId>,
    difference: Value,
    at: Timestamp,
) -> Entry {
    let (pack, version) = order.version.split_once('@').unwrap_or((&order.version, ""));
    let action = match order.what {
        What::Quarantine => "packs.quarantine",
        What::TakeOut(_) => "packs.rollback",
        What::Promote(_) => "packs.promote",
    };
    Entry {
        id: fresh_id(at).to_string(),
        at,
        actor: Actor::system(&gateway.node),
        action: action.to_owned(),
        resource: format!("/v1/packs/{pack}/versions/{version}"),
        tenant,
        request_id: fresh_id(at).to_string(),
        revision: None,
        difference,
        refused: None,
    }
}

/// Somewhere up to the longest pause, so that nodes that all saw the same don't meet again.
fn pause() -> Duration {
    PAUSE_MAX.mul_f64(rand::rng().random_range(0.1..1.0))
}

/// Does what takes long for a large document, away from the threads that serve.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, StoreError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| StoreError::Unavailable(error.to_string()))
}
