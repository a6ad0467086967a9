//! `POST /v1/packs/{id}/versions/{version}:promote`, `:rollback` and `:quarantine`: a version comes into service, or goes
//! out of it.
//!
//! Invariant: each is one revision, made by the same pure changes as the gateway's own ([`model::rollout`]), so that people
//! and the system come to the same document.

use super::{entries, own_attachments, place, text};
use crate::Shared;
use crate::acting::Acting;
use crate::allowed::Attacher;
use crate::answer::Answer;
use crate::body::{Path, Query, verb};
use crate::document;
use crate::newest::Newest;
use crate::once::Posted;
use crate::openapi;
use crate::problem::Refused;
use crate::verbs::Methods;
use crate::write::{Edit, How, Made, Proposal, Published, Told, TryQuery, Writing};
use axum::extract::State;
use axum::response::Response;
use axum::routing;
use model::config::ConfigError;
use model::id::{AttachmentId, PackId};
use model::revision::PublishError;
use model::rollout::{self, Became, Before, RolloutState, Shift};
use model::{ErrorCode, Reject};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::sync::Arc;
use store::rollouts::RolloutQuery;

/// How many rollouts of an attachment are looked through for the one that ended.
const ROLLOUTS_LOOKED_AT: u32 = 8;

/// Where a version comes into service or goes out of it, and why. An empty body is everywhere, for no reason that is told.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Shifting {
    /// On this attachment alone; wherever the version is, when absent. Not of a quarantine, which is everywhere.
    #[serde(default)]
    attachment: Option<AttachmentId>,
    /// Why, for people: the rollout, the event and the quarantine tell it.
    #[serde(default)]
    #[schemars(length(min = 1, max = 512))]
    reason: Option<String>,
}

/// What came of it.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Shifted {
    /// The revision that it made.
    revision: u64,
    /// What changed in the document.
    #[schemars(with = "openapi::Shown")]
    difference: Value,
    /// The attachments that ran the version or had it as their candidate, and what became of each.
    attachments: Vec<Shift>,
}

/// What is done with a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verb {
    Promote,
    RollBack,
    Quarantine,
}

pub(super) fn verbs() -> Vec<(&'static str, Methods)> {
    let all = [
        ("promote", Verb::Promote),
        ("rollback", Verb::RollBack),
        ("quarantine", Verb::Quarantine),
    ];
    let route = |(name, what)| {
        let handler = move |shared, attacher, path, query, posted| {
            shift(what, shared, attacher, path, query, posted)
        };
        (name, routing::post(handler))
    };
    all.map(route).into()
}

async fn shift(
    what: Verb,
    State(shared): State<Arc<Shared>>,
    Attacher(acting): Attacher,
    Path((pack, segment)): Path<(String, String)>,
    Query(query): Query<TryQuery>,
    Posted { body, once }: Posted<Shifting>,
) -> Result<Response, Refused> {
    let how = How { run: query.run(), ..How::PLAIN };
    let version = Version { pack: pack.as_str().into(), version: verb(&segment).0.to_owned() };
    let writing = Writing { shared: &shared, acting: &acting, how: &how, once: &once };
    once.done(&shared, version.shift(what, &writing, body)).await
}

/// A version of a pack.
#[derive(Clone)]
struct Version {
    pack: PackId,
    version: String,
}

impl Version {
    async fn shift(
        &self,
        what: Verb,
        writing: &Writing<'_>,
        asked: Shifting,
    ) -> Result<Answer, Refused> {
        let Writing { shared, acting, .. } = *writing;
        let Shifting { attachment, reason } = asked;
        let newest = shared.newest().await?;
        self.is_there(&newest)?;
        self.may(what, acting, &newest, attachment.as_ref())?;
        if shared.revisions.is_read_only() {
            return Err(PublishError::ReadOnly.into());
        }
        let before = match what {
            Verb::Promote => Before::default(),
            Verb::RollBack | Verb::Quarantine => {
                let _place = document::place(shared).await?;
                shared.store.ran_before(&newest.document, &self.reference()).await?
            }
        };
        let reason = reason.unwrap_or_else(|| format!("by {}", acting.actor.name));
        let change = Change {
            what,
            version: self.clone(),
            only: attachment,
            before,
            reason: reason.clone(),
            at: shared.clock.now(),
        };
        let at = change.at;
        let reference = self.reference();
        let tell = |made: &Made| {
            let (before, after) = (&made.base.document, &made.document);
            let shifts = rollout::shifts(before, after, &reference).into_iter();
            let shown = shifts.filter(|shift| sees(acting, shift)).collect();
            let revision = made.revision;
            let body =
                Shifted { revision, difference: made.difference.clone(), attachments: shown };
            let events =
                rollout::events((before, after), &reference, (&reason, at), || shared.fresh_id());
            Told { answer: Answer::ok(&body).of_revision(revision), events }
        };
        let edit: Edit = Arc::new(move |newest| change.edit(newest));
        let (answer, published) = writing.publish(edit, tell).await?;
        if let Some(published) = published {
            self.ended(shared, &published, (&reason, at)).await;
        }
        Ok(answer)
    }

    /// `name@version`, as attachments name it.
    fn reference(&self) -> String {
        format!("{}@{}", self.pack, self.version)
    }

    fn is_there(&self, newest: &Newest) -> Result<(), Refused> {
        let found = place(self.pack.as_str(), &self.version)?;
        found.find(&newest.document).map(drop).ok_or(ErrorCode::NotFound.into())
    }

    /// Refuses what concerns attachments that are not there, or are not who asks' to change.
    fn may(
        &self,
        what: Verb,
        acting: &Acting,
        newest: &Newest,
        only: Option<&AttachmentId>,
    ) -> Result<(), Refused> {
        if what == Verb::Quarantine {
            acting.unbound()?;
            if only.is_some() {
                let message = "is not for a quarantine, which is everywhere: use `:rollback`";
                return Err(unfit(message));
            }
        }
        let Some(only) = only else { return acting.unbound() };
        let none = || unfit(&format!("there is no attachment `{only}`"));
        let mut all = entries(&newest.document, "attachments");
        if !all.any(|entry| text(entry, "/id") == Some(only.as_str())) {
            return Err(none());
        }
        match own_attachments(acting, &newest.document) {
            Some(own) if !own.contains(only) => Err(none().hiding()),
            _ => Ok(()),
        }
    }

    /// Says of the rollouts that a change ended what they ended as. Nodes withdraw those that this does not reach.
    async fn ended(
        &self,
        shared: &Shared,
        published: &Published,
        (reason, at): (&str, jiff::Timestamp),
    ) {
        let reference = self.reference();
        let before = &published.base.document;
        let shifts = rollout::shifts(before, &published.document, &reference);
        for shift in shifts {
            let state = match shift.became {
                Became::Promoted => RolloutState::Promoted,
                Became::RolledBack => RolloutState::RolledBack,
                Became::Halted | Became::Kept => continue,
            };
            let was_candidate = entries(before, "attachments").any(|entry| {
                text(entry, "/id") == Some(shift.id.as_str())
                    && text(entry, "/rollout/candidate") == Some(&*reference)
            });
            if was_candidate
                && let Err(error) = self.end(shared, &shift.id, state, (reason, at)).await
            {
                let attachment = shift.id.as_str();
                tracing::warn!(%error, attachment, pack = reference, "a rollout's end is not told");
            }
        }
    }

    async fn end(
        &self,
        shared: &Shared,
        attachment: &AttachmentId,
        state: RolloutState,
        (reason, at): (&str, jiff::Timestamp),
    ) -> Result<(), model::port::StoreError> {
        let query = RolloutQuery {
            pack: Some(self.pack.clone()),
            attachments: Some(vec![attachment.clone()]),
            before: None,
            limit: ROLLOUTS_LOOKED_AT,
        };
        let is_it = |info: &rollout::RolloutInfo| {
            let withdrawn = info.state == RolloutState::Withdrawn && info.ended_at >= Some(at);
            info.candidate == self.version && (info.state == RolloutState::Open || withdrawn)
        };
        if let Some(info) = shared.store.rollouts(&query).await?.into_iter().find(is_it) {
            shared.store.end_rollout(&info.id, state, reason, at).await?;
        }
        Ok(())
    }
}

fn unfit(message: &str) -> Refused {
    Refused::unfit(&[ConfigError::new("/attachment", message)])
}

fn sees(acting: &Acting, shift: &Shift) -> bool {
    acting.tenant().is_none_or(|own| shift.tenant.as_ref() == Some(own))
}

/// A change of the document by which a version comes into service or goes out of it.
struct Change {
    what: Verb,
    version: Version,
    only: Option<AttachmentId>,
    before: Before,
    reason: String,
    at: jiff::Timestamp,
}

impl Change {
    fn edit(&self, newest: &Newest) -> Result<Proposal, Refused> {
        self.version.is_there(newest)?;
        let mut document = newest.document.clone();
        match self.what {
            Verb::Promote => self.promote(&mut document),
            Verb::RollBack => self.roll_back(&mut document),
            Verb::Quarantine => self.quarantine(&mut document),
        }?;
        Ok(Proposal { document, text: None, at: None })
    }

    fn promote(&self, document: &mut Value) -> Result<(), Refused> {
        let reference = self.version.reference();
        rollout::promote(document, &reference, self.only.as_ref()).map(drop).map_err(|_| {
            let at = self.only.as_ref().map(|id| format!(" of `{id}`")).unwrap_or_default();
            conflict(format!(
                "`{reference}` is no candidate{at}: name it in an attachment's `rollout` first, or \
                 as its `pack` to run it at once."
            ))
        })
    }

    /// Takes the candidate back, and what runs to what ran before.
    fn roll_back(&self, document: &mut Value) -> Result<(), Refused> {
        let reference = self.version.reference();
        let taken = rollout::roll_back(document, &reference, self.only.as_ref()).is_ok();
        let concerned = |id: &AttachmentId| self.only.as_ref().is_none_or(|only| only == id);
        let before = |id: &AttachmentId| self.before.get(id).filter(|_| concerned(id));
        let mut ran = rollout::roll_back_to(document, &reference, before);
        ran.retain(|(id, _)| concerned(id));
        if taken || ran.iter().any(|(_, back)| back.is_some()) {
            return Ok(());
        }
        Err(conflict(match ran.first() {
            None => format!("`{reference}` neither runs there nor is it a candidate."),
            Some((id, _)) => format!(
                "No revision that is looked at says what `{id}` ran before `{reference}` and may run \
                 again: give it another `pack` with PATCH /v1/attachments/{id}."
            ),
        }))
    }

    fn quarantine(&self, document: &mut Value) -> Result<(), Refused> {
        let reference = self.version.reference();
        let before = |id: &AttachmentId| self.before.get(id);
        rollout::quarantine(document, &reference, &self.reason, self.at, before)
            .map(drop)
            .map_err(|_| conflict(format!("`{reference}` is quarantined already.")))
    }
}

fn conflict(message: String) -> Refused {
    Reject::new(ErrorCode::Conflict).message(message).into()
}
