//! The one way in which the document is changed, by resource or whole: edit the newest, judge what changed, publish.
//!
//! Invariant: role and tenant are asked for what really changed ([`ownership::judge`]), whatever the request said that it changes; and
//! one process makes one change at a time, so that documents in the making are bounded. What changes nothing is no revision;
//! while the newest is on some nodes only, nothing asked for everybody is so.

use crate::Shared;
use crate::acting::Acting;
use crate::answer::{Answer, Changed, DryRun};
use crate::difference;
use crate::newest::{Newest, blocking};
use crate::once::Once;
use crate::ownership;
use crate::precondition::Guard;
use crate::problem::{Refused, located};
use model::audit::Entry;
use model::event::{Event, VERSION_CHANGED, version_changes};
use model::id::{NodeName, TenantId, is_id};
use model::revision::{Change, PublishError, Staged};
use model::{ErrorCode, Reject};
use serde::Deserialize;
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;

/// How often a change is made again because another process published meanwhile.
const TRIES_MAX: u32 = 5;
/// How long a change waits for those before it.
const TURN_WAIT_MAX: Duration = Duration::from_secs(10);
/// The most nodes that a revision goes to first.
const NODES_MAX: usize = 32;
/// How long ago a node may have reported that is named, in hours.
const NODE_SEEN_H: i64 = 24;

/// `?dry_run=&nodes=`: of every change of the document.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ChangeQuery {
    #[serde(default)]
    pub(crate) dry_run: bool,
    #[serde(default)]
    pub(crate) nodes: Option<String>,
}

/// `?dry_run=`: of changes that go to all nodes at once.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TryQuery {
    #[serde(default)]
    dry_run: bool,
}

impl TryQuery {
    /// Whether the change is only tried.
    pub(crate) fn run(&self) -> Run {
        if self.dry_run { Run::Dry } else { Run::Publish }
    }
}

/// How a change is made.
#[derive(Clone, Debug)]
pub(crate) struct How {
    /// Whether it is only tried.
    pub(crate) run: Run,
    /// The nodes that it goes to first; none for all.
    pub(crate) nodes: Option<Vec<NodeName>>,
    /// What becomes of a newest revision that is on some nodes only.
    pub(crate) staged: Staged,
}

/// Whether a change is only tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Run {
    Publish,
    Dry,
}

impl How {
    /// Published, to all.
    pub(crate) const PLAIN: Self = Self { run: Run::Publish, nodes: None, staged: Staged::Keep };

    /// As the query says.
    pub(crate) async fn of(
        shared: &Shared,
        acting: &Acting,
        query: &ChangeQuery,
    ) -> Result<Self, Refused> {
        let run = if query.dry_run { Run::Dry } else { Run::Publish };
        let Some(list) = &query.nodes else { return Ok(Self { run, ..Self::PLAIN }) };
        // While a revision is on some nodes only, nobody else can change anything.
        acting.unbound()?;
        let mut names: Vec<&str> = list.split(',').map(str::trim).collect();
        names.sort_unstable();
        names.dedup();
        if names.len() > NODES_MAX || names.iter().any(|name| !is_id(name)) {
            let message = format!("`nodes` must be 1 to {NODES_MAX} names of nodes, like `a,b`.");
            return Err(Refused::malformed(message));
        }
        let since = shared.clock.now() - jiff::SignedDuration::from_hours(NODE_SEEN_H);
        let known = shared.store.nodes(since).await?;
        if let Some(name) =
            names.iter().find(|name| !known.iter().any(|k| k.name.as_str() == **name))
        {
            let message = format!("No node `{name}` has reported in the last {NODE_SEEN_H} hours.");
            return Err(Refused::malformed(message));
        }
        let nodes = Some(names.into_iter().map(NodeName::from).collect());
        Ok(Self { run, nodes, ..Self::PLAIN })
    }

    /// How the change must be guarded.
    pub(crate) fn guard(&self) -> Guard {
        match self.run {
            Run::Publish => Guard::Required,
            Run::Dry => Guard::Optional,
        }
    }
}

/// What a change makes of the newest document.
pub(crate) struct Proposal {
    /// The document.
    pub(crate) document: Value,
    /// Its text, when it is to be kept as it was written; else compact JSON.
    pub(crate) text: Option<String>,
    /// Where what was sent stands in it: errors are shown relative to that.
    pub(crate) at: Option<String>,
}

/// Makes a proposal of the newest document. Pure: it is asked again when another process published meanwhile, and then
/// refuses if its own preconditions hold no more.
pub(crate) type Edit = Arc<dyn Fn(&Newest) -> Result<Proposal, Refused> + Send + Sync>;

/// A change on its way, of which nothing is written yet.
pub(crate) struct Made {
    /// What it was made of.
    pub(crate) base: Arc<Newest>,
    /// The document as it will be.
    pub(crate) document: Value,
    /// The revision that it will be; the present one when nothing changes.
    pub(crate) revision: u64,
    /// What changes.
    pub(crate) difference: Value,
    text: String,
    at: Option<String>,
    tenant: Option<TenantId>,
}

impl Made {
    /// Whether there is anything to publish.
    pub(crate) fn changes(&self) -> bool {
        self.revision != self.base.number
    }

    /// The usual answer: of the resource as it will be, with its tag.
    pub(crate) fn changed(
        &self,
        how: &How,
        etag: Option<String>,
        resource: Option<Value>,
    ) -> Answer {
        let body = Changed {
            revision: self.revision,
            etag: etag.clone(),
            difference: self.difference.clone(),
            nodes: how.nodes.clone().filter(|_| self.changes()),
            resource,
        };
        let answer = Answer::ok(&body).of_revision(self.revision);
        etag.into_iter().fold(answer, Answer::tagged)
    }
}

/// What is told of a change: to the client, and by the outbox.
pub(crate) struct Told {
    /// What the client gets.
    pub(crate) answer: Answer,
    /// What the outbox tells.
    pub(crate) events: Vec<Event>,
}

impl From<Answer> for Told {
    fn from(answer: Answer) -> Self {
        Self { answer, events: Vec::new() }
    }
}

/// A change that was published.
pub(crate) struct Published {
    /// What it was made of.
    pub(crate) base: Arc<Newest>,
    /// The document as it is now.
    pub(crate) document: Value,
}

/// Who changes the document, how, and whether a repeat of the request is known.
pub(crate) struct Writing<'a> {
    pub(crate) shared: &'a Shared,
    pub(crate) acting: &'a Acting,
    pub(crate) how: &'a How,
    pub(crate) once: &'a Once,
}

impl Writing<'_> {
    /// Changes the document. `tell` says what the client gets, before anything is written, so that it can be kept in the
    /// transaction of the change.
    pub(crate) async fn change<T: Into<Told>>(
        &self,
        edit: Edit,
        tell: impl Fn(&Made) -> T + Send + Sync,
    ) -> Result<Answer, Refused> {
        self.publish(edit, tell).await.map(|(answer, _)| answer)
    }

    /// The same, with what was published, if anything was.
    pub(crate) async fn publish<T: Into<Told>>(
        &self,
        edit: Edit,
        tell: impl Fn(&Made) -> T + Send + Sync,
    ) -> Result<(Answer, Option<Published>), Refused> {
        let Self { shared, acting, how, once } = *self;
        let _turn = tokio::time::timeout(TURN_WAIT_MAX, shared.turn.lock())
            .await
            .map_err(|_| busy("Other changes of the document are being made."))?;
        for _ in 0..TRIES_MAX {
            let base = shared.newest().await?;
            let (edit, asking) = (edit.clone(), acting.clone());
            let asked = how.clone();
            let made = blocking(move || make(base, &edit, &asking, &asked)).await??;
            if how.run == Run::Dry {
                let errors = shared.revisions.check(made.text).await.err().unwrap_or_default();
                let valid = errors.is_empty();
                let errors = ownership::visible(acting, errors, made.at.as_deref());
                let errors = located(&errors, made.at.as_deref());
                let tried = DryRun { valid, errors, difference: made.difference };
                return Ok((Answer::ok(&tried), None));
            }
            let Told { answer, mut events } = tell(&made).into();
            if !made.changes() {
                return Ok((answer, None));
            }
            if how.nodes.is_none() {
                events.extend(of_versions(shared, &made));
            }
            let Made { base, document, tenant, difference, text, at, .. } = made;
            let change = Change {
                base: base.number,
                nodes: how.nodes.clone(),
                staged: how.staged,
                audit: Entry { tenant, ..acting.entry(shared, difference) },
                answer: once.keep(&answer)?,
                events,
                text,
            };
            match shared.revisions.publish(change).await {
                Ok(_) => return Ok((answer, Some(Published { base, document }))),
                Err(PublishError::Stale) => {}
                Err(PublishError::Invalid(errors)) => {
                    let errors = ownership::visible(acting, errors, at.as_deref());
                    return Err(Refused::invalid(&errors, at.as_deref()));
                }
                Err(error) => return Err(error.into()),
            }
        }
        Err(busy("Other processes keep changing the document."))
    }
}

/// What tenants are told of versions, once a change is everybody's.
fn of_versions(shared: &Shared, made: &Made) -> impl Iterator<Item = Event> {
    let changes = version_changes(&made.base.document, &made.document);
    changes.into_iter().map(|change| Event {
        id: shared.fresh_id(),
        at: shared.clock.now(),
        r#type: VERSION_CHANGED.to_owned(),
        tenant: Some(change.tenant),
        subject: change.subject,
        data: change.data,
    })
}

fn busy(message: &str) -> Refused {
    Reject::new(ErrorCode::Overloaded).message(message).retry_after(1).into()
}

fn make(base: Arc<Newest>, edit: &Edit, acting: &Acting, how: &How) -> Result<Made, Refused> {
    let Proposal { document, text, at } = edit(&base)?;
    let tenant = ownership::judge(acting, &base.document, &document)?;
    let same = text.as_deref().map_or(document == base.document, |text| *text == *base.text);
    let same = same && (base.nodes.is_none() || base.nodes == how.nodes);
    if let (false, Staged::Keep, Some(nodes)) = (same, how.staged, &base.nodes) {
        return Err(PublishError::Staged { number: base.number, nodes: nodes.clone() }.into());
    }
    Ok(Made {
        revision: if same { base.number } else { base.number + 1 },
        difference: difference::between(&base.document, &document),
        text: text.unwrap_or_else(|| document.to_string()),
        document,
        base,
        at,
        tenant,
    })
}
