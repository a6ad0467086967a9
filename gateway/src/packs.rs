//! Stage 5: the packs attached to a route decide, in order. Each sees the head as those before it left it.

use crate::facts::{Facts, PackFact, Witness};
use http::StatusCode;
use model::document::{Mode, OnFailure};
use model::id::{AttachmentId, PackId, RouteId, TenantId, VersionName};
use model::{Decision, Denial, Edits, ErrorCode, FailureReason, Head, Identity, Reject};
use pack_host::{PolicyRequest, Prepared};
use std::sync::Arc;
use std::time::Instant;

/// A pack with its settings, at work on a route.
pub struct Attachment {
    /// Its id.
    pub id: AttachmentId,
    /// The pack.
    pub pack: PackId,
    /// The pack's version.
    pub version: String,
    /// The only tenant whose requests it decides; all of them when none.
    pub tenant: Option<TenantId>,
    /// Whether its decisions act.
    pub mode: Mode,
    /// What happens when it can't decide.
    pub on_failure: OnFailure,
    /// What runs.
    pub prepared: Arc<Prepared>,
}

/// The request as packs see it.
pub struct Asked<'a> {
    /// The head.
    pub head: &'a Arc<Head>,
    /// Who asks.
    pub identity: &'a Arc<Identity>,
    /// The route.
    pub route: &'a RouteId,
    /// The version.
    pub version: &'a VersionName,
    /// The request's id.
    pub request_id: &'a str,
}

/// What all packs together decided, and what each of them said.
pub struct Decided {
    /// The changes to the request.
    pub edits: Edits,
    said: Vec<PackFact>,
}

impl Witness for Decided {
    fn attest(&self, facts: &mut Facts) {
        facts.packs.extend(self.said.iter().cloned());
    }
}

/// A refusal by a pack, and what each pack said before.
pub struct Undecided {
    /// The answer.
    pub reject: Reject,
    /// What each pack said.
    pub said: Vec<PackFact>,
}

/// Asks the attachments that apply to the caller's tenant.
pub fn decide(attachments: &[Arc<Attachment>], asked: &Asked<'_>) -> Result<Decided, Undecided> {
    let tenant = &asked.identity.tenant;
    let mut decided = Decided { edits: Edits::default(), said: Vec::new() };
    let applies = |attachment: &&Arc<Attachment>| {
        attachment.tenant.as_ref().is_none_or(|wanted| wanted == tenant)
    };
    let mut head = asked.head.clone();
    for attachment in attachments.iter().filter(applies) {
        let request = Arc::new(PolicyRequest {
            head: head.clone(),
            identity: asked.identity.clone(),
            route: asked.route.clone(),
            version: asked.version.clone(),
            request_id: asked.request_id.into(),
        });
        let started = Instant::now();
        let result = attachment.prepared.on_request(&request);
        let fact = |decision: Result<&'static str, (FailureReason, String)>| PackFact {
            attachment: attachment.id.clone(),
            pack: attachment.pack.clone(),
            version: attachment.version.clone(),
            mode: attachment.mode,
            decision,
            took: started.elapsed(),
        };
        match result {
            Ok(decision) => {
                decided.said.push(fact(Ok(decision.as_str())));
                match (attachment.mode, decision) {
                    (Mode::Observe, _) | (Mode::Enforce, Decision::Continue) => {}
                    (Mode::Enforce, Decision::Edit(edits)) => {
                        edits.apply(&mut Arc::make_mut(&mut head).headers);
                        decided.edits.extend(edits);
                    }
                    (Mode::Enforce, Decision::Deny(denial)) => {
                        let reject = denied(&attachment.id, denial);
                        return Err(Undecided { reject, said: decided.said });
                    }
                }
            }
            Err(failure) => {
                decided.said.push(fact(Err((failure.reason, failure.detail.clone()))));
                if attachment.mode == Mode::Enforce && attachment.on_failure == OnFailure::Closed {
                    let reject = Reject::new(ErrorCode::PolicyFailed)
                        .detail("policy", attachment.id.as_str())
                        .because(format_args!("{}: {}", failure.reason.as_str(), failure.detail));
                    return Err(Undecided { reject, said: decided.said });
                }
            }
        }
    }
    Ok(decided)
}

fn denied(attachment: &AttachmentId, denial: Denial) -> Reject {
    let mut reject = Reject::new(ErrorCode::PolicyDenied).message(denial.message);
    reject.status =
        if denial.status.is_client_error() { denial.status } else { StatusCode::FORBIDDEN };
    reject.details = denial.details;
    reject.detail("policy", attachment.as_str()).detail("reason", denial.reason)
}
