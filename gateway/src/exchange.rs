//! One request and its answer, as the edge carries it from hook to hook.
//!
//! Invariant: an exchange that began is reported and settled exactly once: by [`Exchange::end`], or by `Drop` when a
//! panic or a shutdown cut it off before.

use crate::facts::{Facts, Stage, UpstreamFact};
use crate::gateway::Gateway;
use crate::packs::{AnswerBody, Responded};
use crate::pipeline::{Admitted, Halt, Held};
use crate::report;
use crate::respond::Reply;
use crate::snapshot::Snapshot;
use crate::upstream::Upstream;
use http::{HeaderMap, StatusCode};
use model::document::PhaseName;
use model::quota::Outcome;
use model::record::Verdict;
use model::{ErrorCode, Head, Reject};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

/// How an upstream failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpstreamFailure {
    /// Provably nothing was sent: there was no connection, or nothing was written to it.
    Unsent(ErrorCode),
    /// Something may have been sent.
    Broken(ErrorCode),
}

impl UpstreamFailure {
    /// The public code.
    pub const fn code(self) -> ErrorCode {
        match self {
            Self::Unsent(code) | Self::Broken(code) => code,
        }
    }
}

/// What goes to an upstream: the proofs, and what must be known to send it.
pub struct Dispatch {
    /// What was proved.
    pub admitted: Admitted,
    /// The head that was proved.
    pub head: Arc<Head>,
    /// Trace and request ids.
    pub trace: crate::trace::Trace,
    /// Where it goes.
    pub upstream: Arc<Upstream>,
    /// How the upstream failed, when it did.
    pub failure: OnceLock<UpstreamFailure>,
    /// Peers that could not be connected to.
    pub refused_connections: AtomicUsize,
    /// Whether a connection is there, and the request is about to be written to it or was.
    pub has_begun: AtomicBool,
    /// When it was sent.
    pub started: Instant,
}

impl Dispatch {
    /// How it failed: as was found, else with this code, and sent or not.
    pub fn failed(&self, code: ErrorCode) -> UpstreamFailure {
        *self.failure.get_or_init(|| match self.has_begun.load(Ordering::Relaxed) {
            true => UpstreamFailure::Broken(code),
            false => UpstreamFailure::Unsent(code),
        })
    }
}

/// What one pingora session is to us.
pub enum Role {
    /// A client's request.
    Outer(Box<Exchange>),
    /// The buffered dispatch of one, which reports nothing itself.
    Inner(Arc<Dispatch>),
    /// Nothing yet.
    Fresh,
}

/// One request and its answer.
pub struct Exchange {
    /// The process' runtime state.
    pub gateway: Arc<Gateway>,
    /// The pinned revision; none before the first.
    pub snapshot: Option<Arc<Snapshot>>,
    /// What is known of it.
    pub facts: Facts,
    /// What must be settled, and shown in every answer.
    pub held: Held,
    /// What streams to the upstream.
    pub dispatch: Option<Arc<Dispatch>>,
    /// How it ended.
    pub outcome: Outcome,
    /// What it cost in all, where its answer says so, in units.
    pub cost: Option<u32>,
    /// What takes the place of an answer that was about to stream through.
    pub instead: Option<Halt>,
    /// Bytes of the request's body that have streamed through.
    pub streamed: usize,
    ended: bool,
}

impl Exchange {
    /// An exchange that begins.
    pub fn begin(gateway: Arc<Gateway>, snapshot: Option<Arc<Snapshot>>, facts: Facts) -> Self {
        gateway.metrics.began();
        Self {
            gateway,
            snapshot,
            facts,
            held: Held::default(),
            dispatch: None,
            outcome: Outcome::GatewayFailed,
            cost: None,
            instead: None,
            streamed: 0,
            ended: false,
        }
    }

    /// Records the upstream's part: the head of its answer as it came, if one did.
    pub fn answered(&mut self, dispatch: &Dispatch, answer: Option<(StatusCode, &HeaderMap)>) {
        self.facts.upstream = Some(UpstreamFact {
            id: dispatch.upstream.id.clone(),
            status: answer.map(|(status, _)| status.as_u16()),
            took: dispatch.started.elapsed(),
        });
        if let Some((status, headers)) = answer {
            self.read_cost(dispatch, headers);
            let tenant = &dispatch.admitted.caller.identity().tenant;
            dispatch.upstream.outbound.heard(tenant, status, headers, self.gateway.clock.now());
        }
    }

    /// Takes note of what the answer says that it cost, before packs change it.
    fn read_cost(&mut self, dispatch: &Dispatch, answer: &HeaderMap) {
        let route = dispatch.admitted.matched.route();
        let Some(header) = &route.cost_header else { return };
        match header.read(answer) {
            Ok(cost) => self.cost = cost,
            Err(error) => {
                self.gateway.metrics.cost_unread(&route.id);
                if header.warns() {
                    let (route, header) = (route.id.as_str(), header.name().as_str());
                    tracing::warn!(%error, route, header, "an answer's cost is ignored");
                }
            }
        }
    }

    /// The answer that takes the upstream's place, and what it means for what was charged.
    pub fn reply_of(&mut self, halt: Halt) -> Reply {
        let reply = match halt {
            Halt::Reply(reply) => *reply,
            Halt::Reject(reject) => Reply::refusal(&reject, &self.facts.trace),
        };
        self.outcome = reply.charged;
        reply
    }

    /// Shows an answer of the upstream to the packs that want to see it. `None` where there are none.
    pub fn respond(
        &mut self,
        dispatch: &Dispatch,
        status: StatusCode,
        headers: impl FnOnce() -> HeaderMap,
        body: AnswerBody,
    ) -> Option<Result<Responded, Reject>> {
        let packs = dispatch.admitted.packs.as_ref();
        let packs = packs.filter(|packs| packs.speak(PhaseName::Response))?;
        self.facts.ended_once(Stage::Forward, Verdict::Passed, dispatch.started);
        let (started, now) = (Instant::now(), self.gateway.clock.micros());
        let facts = &mut self.facts;
        let at = (&dispatch.trace, now);
        let responded = packs.on_response(status, headers(), body, at, &mut facts.packs);
        let verdict = match &responded {
            Ok(Responded::Edited(_)) => Verdict::Passed,
            Ok(Responded::Replaced(_)) => Verdict::Replied,
            Err(reject) => {
                facts.refused(reject);
                Verdict::Refused
            }
        };
        facts.ended(Stage::Respond, verdict, started);
        Some(responded)
    }

    /// Settles and reports.
    pub fn end(&mut self) {
        if self.ended {
            return;
        }
        self.ended = true;
        self.settle();
        self.report();
    }

    /// Ends what it was charged, as its outcome and its route say.
    fn settle(&mut self) {
        if let Some(mut clearance) = self.held.clearance.take() {
            clearance.give_back(&self.gateway.quotas, self.gateway.clock.micros());
        }
        let Some(permit) = self.held.permit.take() else { return };
        let terms = self.held.matched.as_ref().map(|matched| matched.route().terms);
        let settlement = self.outcome.settlement(terms.unwrap_or_default()).at_cost(self.cost);
        self.gateway.quotas.settle(permit, settlement, self.gateway.clock.micros());
    }

    /// Hands the facts to the reporter, with the upstream's part of a streamed exchange.
    fn report(&mut self) {
        if let Some(dispatch) = &self.dispatch {
            let upstream = self.facts.upstream.as_ref();
            let answered = upstream.is_some_and(|upstream| upstream.status.is_some());
            let answered = answered && self.facts.error.is_none();
            let verdict = if answered { Verdict::Passed } else { Verdict::Refused };
            self.facts.ended_once(Stage::Forward, verdict, dispatch.started);
        }
        report::report(&self.gateway, &mut self.facts, std::mem::take(&mut self.held.record));
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        self.settle();
        if self.facts.status.is_none() {
            self.facts.error.get_or_insert(ErrorCode::Internal);
            self.facts.cause.get_or_insert_with(|| "the exchange was cut off".to_owned());
        }
        self.report();
    }
}
