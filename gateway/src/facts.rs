//! What is known of one exchange. Stages enrich it through their proofs; [`report`](crate::report) reads it once.
//!
//! Invariant: only [`Facts::stage`] and [`Facts::ended`] time a stage and record how it ended.

use crate::outbound::Limited;
use crate::pipeline::Halt;
use crate::report::Series;
use crate::trace::Trace;
use jiff::Timestamp;
use model::document::PhaseName;
use model::id::{AttachmentId, ConsumerId, RouteId, TenantId, UpstreamId, VersionName};
use model::quota::Reading;
use model::record::Verdict;
use model::{ErrorCode, FailureReason, Head};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A native stage (DESIGN: life of a request).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stage {
    /// Well-formed head.
    Gate,
    /// Which route.
    Route,
    /// Who.
    Authenticate,
    /// Which version.
    Version,
    /// What packs say it costs; where none is asked, the route says it.
    Cost,
    /// Whether limits allow it.
    Throttle,
    /// Whether packs allow it.
    Decide,
    /// Whether its upstream may be sent it now; where nothing limits that, nobody is asked.
    Outbound,
    /// Whether it is a repeat.
    Claim,
    /// The upstream's part.
    Forward,
    /// What packs make of its answer.
    Respond,
    /// Outcome and charges.
    Settle,
}

impl Stage {
    /// Every stage, in order.
    pub const ALL: [Self; 12] = [
        Self::Gate,
        Self::Route,
        Self::Authenticate,
        Self::Version,
        Self::Cost,
        Self::Throttle,
        Self::Decide,
        Self::Outbound,
        Self::Claim,
        Self::Forward,
        Self::Respond,
        Self::Settle,
    ];

    /// The name used in metrics and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Gate => "gate",
            Self::Route => "route",
            Self::Authenticate => "authenticate",
            Self::Version => "version",
            Self::Cost => "cost",
            Self::Throttle => "throttle",
            Self::Decide => "decide",
            Self::Outbound => "outbound",
            Self::Claim => "claim",
            Self::Forward => "forward",
            Self::Respond => "respond",
            Self::Settle => "settle",
        }
    }
}

/// One stage that ran.
#[derive(Clone, Copy, Debug)]
pub struct StageFact {
    /// Which.
    pub stage: Stage,
    /// Whether the exchange went on.
    pub verdict: Verdict,
    /// How long it took.
    pub took: Duration,
}

/// What one version of a pack said.
#[derive(Clone, Debug)]
pub struct PackFact {
    /// Where it is attached.
    pub attachment: AttachmentId,
    /// Which pack and version, and whether what it says acts.
    pub series: Arc<Series>,
    /// About what it was asked.
    pub phase: PhaseName,
    /// What it said; or why it could not decide, with what the log keeps.
    pub said: Result<Said, (FailureReason, String)>,
    /// How long it took.
    pub took: Duration,
}

/// What a version said, without what was to be changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    /// Nothing.
    Continue,
    /// Changes.
    Edit,
    /// A refusal, for this reason.
    Deny(String),
    /// An answer.
    Answer,
    /// What the request costs.
    Cost(u32),
}

impl Said {
    /// The name used in metrics and records.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Continue => "continue",
            Self::Edit => "edit",
            Self::Deny(_) => "deny",
            Self::Answer => "answer",
            Self::Cost(_) => "cost",
        }
    }
}

/// The upstream's part.
#[derive(Clone, Debug)]
pub struct UpstreamFact {
    /// Which upstream.
    pub id: UpstreamId,
    /// Its status; none when it gave no answer.
    pub status: Option<u16>,
    /// From the first byte sent to the head of the answer.
    pub took: Duration,
}

/// What is known of one exchange. No secrets, no bodies.
#[derive(Debug)]
pub struct Facts {
    /// Trace and request ids.
    pub trace: Trace,
    /// When it began.
    pub at: Timestamp,
    /// The revision that it pinned.
    pub revision: u64,
    /// Its head, once it passed the Gate.
    pub head: Option<Arc<Head>>,
    /// Its route.
    pub route: Option<RouteId>,
    /// Its tenant.
    pub tenant: Option<TenantId>,
    /// Its consumer.
    pub consumer: Option<ConsumerId>,
    /// The version that it got.
    pub version: Option<VersionName>,
    /// What its limits read.
    pub readings: Arc<[Reading]>,
    /// What packs said.
    pub packs: Vec<PackFact>,
    /// Which upstream it was not sent to because of that upstream's own limits, and which of them.
    pub limited: Option<(UpstreamId, Limited)>,
    /// How its idempotency key was treated.
    pub idempotency: Option<&'static str>,
    /// What became of the key after the dispatch: one of [`SETTLED`].
    pub settled: Option<&'static str>,
    /// The upstream's part.
    pub upstream: Option<UpstreamFact>,
    /// The status that was sent.
    pub status: Option<u16>,
    /// The code of our own answer.
    pub error: Option<ErrorCode>,
    /// What only the log keeps of it.
    pub cause: Option<String>,
    /// Each stage that ran, in order.
    pub stages: Vec<StageFact>,
    started: Instant,
}

/// How a key may be treated, for metrics.
pub const KEY_OUTCOMES: [&str; 11] = [
    "claimed",
    "redriven",
    "replayed",
    "waited",
    "bypassed",
    "in_progress",
    "unknown",
    "reused",
    "not_retained",
    "missing",
    "invalid",
];

/// What may become of a key after its dispatch, for metrics.
pub const SETTLED: [&str; 5] = ["stored", "released", "unknown", "stale", "failed"];

/// A proof that adds what it proves to the facts.
pub trait Witness {
    /// Adds it.
    fn attest(&self, facts: &mut Facts);
}

impl Facts {
    /// The facts of an exchange that begins.
    pub fn begin(trace: Trace, at: Timestamp, revision: u64) -> Self {
        Self {
            trace,
            at,
            revision,
            head: None,
            route: None,
            tenant: None,
            consumer: None,
            version: None,
            readings: Arc::default(),
            packs: Vec::new(),
            limited: None,
            idempotency: None,
            settled: None,
            upstream: None,
            status: None,
            error: None,
            cause: None,
            stages: Vec::with_capacity(Stage::ALL.len()),
            started: Instant::now(),
        }
    }

    /// Since the exchange began.
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Runs a stage: times it, records a refusal, and lets its proof attest.
    pub async fn stage<T: Witness, E: Into<Halt>>(
        &mut self,
        stage: Stage,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<T, Halt> {
        let started = Instant::now();
        let result = work.await.map_err(Into::into);
        let verdict = match &result {
            Ok(proof) => {
                proof.attest(self);
                Verdict::Passed
            }
            Err(Halt::Reject(reject)) => {
                self.refused(reject);
                Verdict::Refused
            }
            Err(Halt::Reply(reply)) => {
                reply.attest(self);
                Verdict::Replied
            }
        };
        self.ended(stage, verdict, started);
        result
    }

    /// Records how a stage ended that began then.
    pub fn ended(&mut self, stage: Stage, verdict: Verdict, began: Instant) {
        self.stages.push(StageFact { stage, verdict, took: began.elapsed() });
    }

    /// The same, unless it is recorded already.
    pub fn ended_once(&mut self, stage: Stage, verdict: Verdict, began: Instant) {
        if !self.stages.iter().any(|ended| ended.stage == stage) {
            self.ended(stage, verdict, began);
        }
    }

    /// How its idempotency key was treated, also where it was refused for its key.
    pub fn key_outcome(&self) -> Option<&'static str> {
        self.idempotency.or_else(|| match self.error? {
            ErrorCode::IdempotencyKeyMissing => Some("missing"),
            ErrorCode::IdempotencyKeyInvalid => Some("invalid"),
            ErrorCode::IdempotencyKeyReused => Some("reused"),
            ErrorCode::IdempotencyInProgress => Some("in_progress"),
            ErrorCode::IdempotencyOutcomeUnknown => Some("unknown"),
            ErrorCode::IdempotencyResponseNotRetained => Some("not_retained"),
            _ => None,
        })
    }

    /// Records our own error answer.
    pub fn refused(&mut self, reject: &model::Reject) {
        self.error = Some(reject.code);
        self.cause.clone_from(&reject.cause);
    }
}
