//! The attachments of one exchange, each with the version that was picked for it; and what they make of the request.

use super::ask::{Chain, Question, Spoken};
use super::{Attached, Attachment, COST_MAX, Ring, TenantPacks, Version, Work};
use crate::facts::PackFact;
use crate::pipeline::Halt;
use crate::respond::Reply;
use crate::rollout;
use crate::trace::Trace;
use bytes::Bytes;
use http::{HeaderName, HeaderValue, header};
use model::document::{Mode, OnFailure, PhaseName};
use model::id::AttachmentId;
use model::rollout::Outcome;
use model::{Decision, Denial, Edits, ErrorCode, FailureReason, HeaderEdit, Reject};
use pack_host::{Counters, PackData, PolicyRequest};
use std::sync::Arc;

/// What says something about a body that is no longer there when another one takes its place.
const ABOUT_THE_BODY: [HeaderName; 6] = [
    header::ETAG,
    header::CONTENT_ENCODING,
    HeaderName::from_static("content-md5"),
    HeaderName::from_static("digest"),
    HeaderName::from_static("content-digest"),
    HeaderName::from_static("repr-digest"),
];

/// The attachments that decide about one exchange, and the request as the next of them sees it.
pub struct Picks {
    pub(super) picks: Vec<Pick>,
    pub(super) tenant: Arc<TenantPacks>,
    pub(super) request: Arc<PolicyRequest>,
    /// The request's body is not held, though somebody reads it.
    pub(super) is_withheld: bool,
    /// Whether the answer's body is held for who reads it.
    holds_response: bool,
}

/// Who wants to see bodies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Readers {
    /// Nobody.
    Nobody,
    /// Only such as change nothing: the exchange must not suffer from it.
    Observers,
    /// Such as act on the exchange.
    Actors,
}

/// An attachment and the version that was picked for one exchange.
pub(super) struct Pick {
    pub(super) attachment: Arc<Attachment>,
    /// Which one acts.
    pub(super) version: rollout::Version,
    /// Whether the other one is asked as well.
    is_compared: bool,
    /// One state of the operators' data, for all phases.
    pub(super) data: Option<Arc<PackData>>,
    /// The tenant's counters, where a version counts.
    pub(super) counters: Option<Arc<Counters>>,
}

impl Picks {
    /// Picks the versions for an exchange; none when nothing is attached for its tenant.
    pub fn of(
        attached: &Attached,
        tenant: &Arc<TenantPacks>,
        request: impl FnOnce() -> PolicyRequest,
    ) -> Option<Self> {
        let request = match attached.of(&tenant.id) {
            [] => return None,
            _ => request(),
        };
        let mut picks: Vec<Pick> = Vec::with_capacity(attached.of(&tenant.id).len());
        for attachment in attached.of(&tenant.id) {
            // A pack that is attached twice sees one state of its data.
            let twin = picks.iter().find(|earlier| earlier.attachment.pack == attachment.pack);
            let data = twin.and_then(|earlier| earlier.data.clone());
            picks.push(Pick::of(attachment.clone(), data, tenant, &request));
        }
        let (tenant, request) = (tenant.clone(), Arc::new(request));
        Some(Self { picks, tenant, request, is_withheld: false, holds_response: false })
    }

    /// Whether one of them speaks in this phase.
    pub fn speak(&self, phase: PhaseName) -> bool {
        self.picks.iter().any(|pick| pick.attachment.speaks(phase))
    }

    /// Who wants to see the body of the request, and who that of the answer.
    pub fn readers(&self) -> (Readers, Readers) {
        let most = |speaks: fn(&Attachment) -> bool, reads: fn(&Work) -> bool| {
            let speaking = self.picks.iter().filter(|pick| speaks(&pick.attachment));
            speaking.map(|pick| pick.reader(reads)).max().unwrap_or(Readers::Nobody)
        };
        let later = |attachment: &Attachment| {
            attachment.speaks(PhaseName::Request) || attachment.speaks(PhaseName::Response)
        };
        let last = |attachment: &Attachment| attachment.speaks(PhaseName::Response);
        (most(later, |work| work.reads_request), most(last, |work| work.reads_response))
    }

    /// The request's body was read.
    pub fn show_body(&mut self, body: Bytes) {
        let request = Arc::make_mut(&mut self.request);
        request.body_size = Some(body.len() as u64);
        request.body = Some(body);
    }

    /// The request's body is not held: who reads it can't decide.
    pub const fn withhold_body(&mut self) {
        self.is_withheld = true;
    }

    /// The answer's body will be held for who reads it.
    pub const fn hold_response(&mut self) {
        self.holds_response = true;
    }

    /// Whether the answer's body is held for who reads it.
    pub const fn holds_response(&self) -> bool {
        self.holds_response
    }

    /// What the request costs: the sum of what they say, at least 1; what the route says, where nobody says anything. Those of
    /// a tenant only make it dearer. `now`: microseconds since the Unix epoch.
    pub fn cost(
        &self,
        of_route: u32,
        trace: &Trace,
        now: i64,
        said: &mut Vec<PackFact>,
    ) -> Result<u32, Reject> {
        let chain = Chain::begin(&self.tenant, trace, now);
        let (mut everybodys, mut tenants): (Option<u32>, u32) = (None, 0);
        for pick in self.speaking(PhaseName::Cost) {
            let spoken = self.consult(pick, Question::Cost, &chain, said);
            match spoken.outcome {
                _ if !pick.acts() => {}
                Outcome::Cost(units) => match pick.attachment.ring {
                    Ring::Everybodys => {
                        everybodys = Some(everybodys.unwrap_or(0).saturating_add(units));
                    }
                    Ring::Tenants => tenants = tenants.saturating_add(units),
                },
                Outcome::Failed(_) => pick.failed(&spoken)?,
                Outcome::Decided(_) => {}
            }
        }
        let cost = match everybodys {
            Some(units) => units.saturating_add(tenants),
            None => of_route.max(tenants),
        };
        Ok(cost.clamp(1, COST_MAX))
    }

    /// What becomes of the request, each seeing it as those before left it.
    pub fn on_request(
        &mut self,
        trace: &Trace,
        now: i64,
        said: &mut Vec<PackFact>,
    ) -> Result<Edits, Halt> {
        let tenant = self.tenant.clone();
        let chain = Chain::begin(&tenant, trace, now);
        let mut all = Edits::default();
        let (mut rest, to_come) = (self.picks.len(), self.speak(PhaseName::Response));
        for place in 0..self.picks.len() {
            rest -= 1;
            let Some(pick) = self.picks.get(place) else { break };
            if !pick.attachment.speaks(PhaseName::Request) {
                continue;
            }
            let spoken = self.consult(pick, Question::Request, &chain, said);
            match spoken.outcome {
                _ if !pick.acts() => {}
                Outcome::Decided(Decision::Edit(edits)) => {
                    let edits = with_body_fields(edits);
                    // Where nobody looks any more, nothing is copied.
                    if rest > 0 || to_come {
                        self.apply(&edits);
                    }
                    all.extend(edits);
                }
                Outcome::Decided(Decision::Deny(denial)) => {
                    return Err(denied(&pick.attachment.id, denial).into());
                }
                Outcome::Decided(Decision::Answer(answer)) => {
                    return Err(Halt::Reply(Box::new(Reply::by_pack(answer))));
                }
                Outcome::Failed(_) => pick.failed(&spoken)?,
                Outcome::Decided(Decision::Continue) | Outcome::Cost(_) => {}
            }
        }
        Ok(all)
    }

    /// Those that speak in this phase, in the order of requests.
    pub(super) fn speaking(&self, phase: PhaseName) -> impl Iterator<Item = &Pick> {
        self.picks.iter().filter(move |pick| pick.attachment.speaks(phase))
    }

    fn apply(&mut self, edits: &Edits) {
        let head = Arc::make_mut(&mut Arc::make_mut(&mut self.request).head);
        edits.apply(&mut head.headers);
        if let Some(body) = &edits.body {
            head.headers.remove(header::TRANSFER_ENCODING);
            head.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
            self.show_body(body.clone());
        }
    }
}

impl Pick {
    fn of(
        attachment: Arc<Attachment>,
        data: Option<Arc<PackData>>,
        tenant: &TenantPacks,
        request: &PolicyRequest,
    ) -> Self {
        let candidate = attachment.candidate.as_ref();
        let candidate = candidate
            .filter(|candidate| candidate.watch.takes(&request.identity, &request.request_id));
        let version = match candidate {
            Some(candidate) if candidate.acts => rollout::Version::Candidate,
            Some(_) | None => rollout::Version::Running,
        };
        let is_compared = candidate.is_some();
        let data = data.or_else(|| attachment.data.as_ref().map(|data| data.now()));
        let mut pick = Self { attachment, version, is_compared, data, counters: None };
        let counts = pick.works().any(|work| work.counts);
        pick.counters = counts.then(|| tenant.usage.counters(&pick.attachment.pack));
        pick
    }

    /// The version whose decision counts.
    pub(super) fn acting(&self) -> &Version {
        match (self.version, &self.attachment.candidate) {
            (rollout::Version::Candidate, Some(candidate)) => &candidate.version,
            (rollout::Version::Candidate | rollout::Version::Running, _) => {
                &self.attachment.running
            }
        }
    }

    /// The version that is only compared with it.
    pub(super) fn aside(&self) -> Option<&Version> {
        let candidate = self.attachment.candidate.as_ref().filter(|_| self.is_compared)?;
        Some(match self.version {
            rollout::Version::Running => &candidate.version,
            rollout::Version::Candidate => &self.attachment.running,
        })
    }

    /// As what it reads a body.
    fn reader(&self, reads: fn(&Work) -> bool) -> Readers {
        let acting = self.acting().work.as_ref().is_some_and(reads);
        match (acting && self.acts(), self.works().any(reads)) {
            (true, _) => Readers::Actors,
            (false, true) => Readers::Observers,
            (false, false) => Readers::Nobody,
        }
    }

    /// What runs of both.
    fn works(&self) -> impl Iterator<Item = &Work> {
        [Some(self.acting()), self.aside()].into_iter().flatten().filter_map(|it| it.work.as_ref())
    }

    /// Whether what is decided here changes the exchange.
    pub(super) fn acts(&self) -> bool {
        self.attachment.mode == Mode::Enforce
    }

    /// What a failure of the one that acts means.
    pub(super) fn failed(&self, spoken: &Spoken) -> Result<(), Reject> {
        let Some(reason) = spoken.failure() else { return Ok(()) };
        if self.attachment.on_failure == OnFailure::Open {
            return Ok(());
        }
        let reject = Reject::new(ErrorCode::PolicyFailed)
            .detail("policy", self.attachment.id.as_str())
            .because(format_args!("{}: {}", reason.as_str(), spoken.detail));
        Err(match reason {
            // What others use now is free again soon.
            FailureReason::Saturated | FailureReason::TenantCpu => reject.retry_after(1),
            _ => reject,
        })
    }
}

/// The refusal that a pack asked for.
pub(super) fn denied(attachment: &AttachmentId, denial: Denial) -> Reject {
    let mut reject = Reject::new(ErrorCode::PolicyDenied).message(denial.message);
    reject.status = denial.status;
    reject.details = denial.details;
    reject.detail("policy", attachment.as_str()).detail("reason", denial.reason)
}

/// The same edits; where they bring another body, what was said about the old one goes first.
pub(super) fn with_body_fields(mut edits: Edits) -> Edits {
    if edits.body.is_some() {
        let gone = ABOUT_THE_BODY.into_iter().map(HeaderEdit::Remove);
        edits.headers = gone.chain(edits.headers).collect();
    }
    edits
}
