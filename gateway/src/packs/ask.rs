//! One question to one version of a pack: what must hold before it runs, and what is made of what it said.
//!
//! Invariant: a version that is stopped, a tenant whose CPU time is spent and a place that is not free are found before
//! anything runs, each with its own reason.

use super::picks::Pick;
use super::{Picks, TenantPacks, Version};
use crate::facts::{PackFact, Said};
use crate::report::Series;
use crate::rollout;
use crate::trace::Trace;
use model::document::PhaseName;
use model::id::TenantId;
use model::rollout::Outcome;
use model::{Decision, FailureReason};
use pack_host::{Counters, Counting, Failure, Grants, PackData, PolicyResponse, Whose, thread_cpu};
use std::cell::Cell;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

/// What a pack is asked about an exchange.
#[derive(Clone, Copy)]
pub(super) enum Question<'a> {
    /// What the request costs.
    Cost,
    /// What to do with the request.
    Request,
    /// What to do with the answer.
    Response(&'a Answered),
}

/// An answer as packs see it.
pub(super) struct Answered {
    pub(super) response: Arc<PolicyResponse>,
    /// It has a body, which is not held: nobody who reads it can decide.
    pub(super) is_withheld: bool,
}

impl Question<'_> {
    pub(super) const fn phase(self) -> PhaseName {
        match self {
            Self::Cost => PhaseName::Cost,
            Self::Request => PhaseName::Request,
            Self::Response(_) => PhaseName::Response,
        }
    }
}

/// What a version came to.
pub(super) struct Spoken {
    pub(super) outcome: Outcome,
    /// Why it could not decide, for the log.
    pub(super) detail: String,
    /// How long it took; a busy host makes it longer.
    took: Duration,
    /// How long a processor was at it.
    cpu: Duration,
    /// Whose limit it met, where it met one.
    limit: Whose,
}

/// What stands in where a pack may not count or has no data.
static NO_COUNTERS: LazyLock<Arc<Counters>> = LazyLock::new(Arc::default);
static NO_DATA: LazyLock<Arc<PackData>> = LazyLock::new(Arc::default);

impl Picks {
    /// Asks the versions of one attachment, and says what the one came to that acts. The other one is asked first: it
    /// changes nothing, so that both of them find the same counters.
    pub(super) fn consult(
        &self,
        pick: &Pick,
        question: Question<'_>,
        chain: &Chain<'_>,
        said: &mut Vec<PackFact>,
    ) -> Spoken {
        let phase = question.phase();
        let aside = pick.aside().map(|version| {
            let counting = Counting::Observing(pick.counters());
            let spoken = self.ask(pick, version, question, counting, chain);
            said.push(fact(pick, version.aside.clone(), phase, &spoken));
            spoken
        });
        let version = pick.acting();
        let counters = pick.counters();
        let counting =
            if pick.acts() { Counting::Acting(counters) } else { Counting::Observing(counters) };
        let spoken = self.ask(pick, version, question, counting, chain);
        said.push(fact(pick, version.acting.clone(), phase, &spoken));
        if let (Some(aside), Some(candidate)) = (aside, &pick.attachment.candidate) {
            let (running, other) = match pick.version {
                rollout::Version::Running => (&spoken, &aside),
                rollout::Version::Candidate => (&aside, &spoken),
            };
            // A cap of the caller's plan says nothing about the candidate.
            if other.limit == Whose::Own {
                candidate.watch.called(other.cpu, other.failure());
            }
            candidate.watch.compared(&rollout::Compared {
                at: self.request.now,
                trace: chain.trace,
                identity: &self.request.identity,
                route: &self.request.route,
                phase,
                running: &running.outcome,
                candidate: &other.outcome,
                acted: pick.version,
            });
        }
        spoken
    }

    fn ask(
        &self,
        pick: &Pick,
        version: &Version,
        question: Question<'_>,
        counters: Counting<'_>,
        chain: &Chain<'_>,
    ) -> Spoken {
        let started = Instant::now();
        let outcome = self.try_ask(pick, version, question, counters, chain);
        let (took, cpu) = (started.elapsed(), chain.lap());
        match outcome {
            Ok(outcome) => {
                if let Some(work) = &version.work {
                    work.health.decided(self.caller(), chain.now);
                }
                Spoken { outcome, detail: String::new(), took, cpu, limit: Whose::Own }
            }
            Err(failure) => {
                if let Some(work) = version.work.as_ref().filter(|_| failure.is_fault()) {
                    work.health.failed(self.caller(), failure.reason, chain.now);
                }
                let Failure { reason, detail, limit } = failure;
                Spoken { outcome: Outcome::Failed(reason), detail, took, cpu, limit }
            }
        }
    }

    /// The caller's tenant.
    fn caller(&self) -> &TenantId {
        &self.request.identity.tenant
    }

    fn try_ask(
        &self,
        pick: &Pick,
        version: &Version,
        question: Question<'_>,
        counters: Counting<'_>,
        chain: &Chain<'_>,
    ) -> Result<Outcome, Failure> {
        let refused = |reason, detail: &str| Failure::new(reason, detail);
        let Some(work) = &version.work else {
            return Err(refused(FailureReason::Quarantined, "the attachment is halted"));
        };
        if work.health.is_stopped_for(self.caller(), chain.now) {
            return Err(refused(
                FailureReason::Quarantined,
                "the version was stopped on this node",
            ));
        }
        if self.tenant.usage.is_spent(chain.now) {
            return Err(refused(FailureReason::TenantCpu, "the tenant's CPU time is spent"));
        }
        let is_missing = match question {
            Question::Cost => false,
            Question::Request => work.reads_request && self.is_withheld,
            Question::Response(answered) => {
                (work.reads_request && self.is_withheld)
                    || (work.reads_response && answered.is_withheld)
            }
        };
        if is_missing {
            return Err(refused(FailureReason::BodyTooLarge, "a body that it reads is not held"));
        }
        let full = |whose| refused(FailureReason::Saturated, whose);
        let _of_tenant =
            self.tenant.usage.enter().ok_or_else(|| full("the tenant has no place free"))?;
        let _of_attachment = pick
            .attachment
            .usage
            .enter()
            .ok_or_else(|| full("the attachment has no place free"))?;
        let grants = Grants {
            caps: self.tenant.caps,
            data: pick.data.as_ref().unwrap_or(&NO_DATA),
            counters,
            log: pick.attachment.usage.log(),
        };
        match question {
            Question::Cost => work.prepared.cost(&self.request, &grants).map(Outcome::Cost),
            Question::Request => {
                work.prepared.on_request(&self.request, &grants).map(Outcome::Decided)
            }
            Question::Response(Answered { response, .. }) => {
                let decision = work.prepared.on_response(&self.request, response, &grants);
                decision.map(Outcome::Decided)
            }
        }
    }
}

/// Questions of one phase, one after the other on one thread, each charged to the tenant before the next is asked.
pub(super) struct Chain<'a> {
    tenant: &'a TenantPacks,
    trace: &'a Trace,
    /// Microseconds since the Unix epoch.
    now: i64,
    /// The thread's CPU time up to which the tenant was charged.
    charged: Cell<Duration>,
}

impl<'a> Chain<'a> {
    /// Begins. `now`: microseconds since the Unix epoch.
    pub(super) fn begin(tenant: &'a TenantPacks, trace: &'a Trace, now: i64) -> Self {
        Self { tenant, trace, now, charged: Cell::new(thread_cpu()) }
    }

    /// Charges what was used since the last time, and says how much that was.
    fn lap(&self) -> Duration {
        let now = thread_cpu();
        let used = now.saturating_sub(self.charged.replace(now));
        self.tenant.usage.charge(used, self.now);
        used
    }
}

impl Pick {
    fn counters(&self) -> &Arc<Counters> {
        self.counters.as_ref().unwrap_or(&NO_COUNTERS)
    }
}

impl Spoken {
    /// Why it could not decide, if it couldn't.
    pub(super) const fn failure(&self) -> Option<FailureReason> {
        match &self.outcome {
            Outcome::Failed(reason) => Some(*reason),
            Outcome::Decided(_) | Outcome::Cost(_) => None,
        }
    }
}

fn fact(pick: &Pick, series: Arc<Series>, phase: PhaseName, spoken: &Spoken) -> PackFact {
    let said = match &spoken.outcome {
        Outcome::Cost(units) => Ok(Said::Cost(*units)),
        Outcome::Failed(reason) => Err((*reason, spoken.detail.clone())),
        Outcome::Decided(Decision::Continue) => Ok(Said::Continue),
        Outcome::Decided(Decision::Edit(_)) => Ok(Said::Edit),
        Outcome::Decided(Decision::Deny(denial)) => Ok(Said::Deny(denial.reason.clone())),
        Outcome::Decided(Decision::Answer(_)) => Ok(Said::Answer),
    };
    let attachment = pick.attachment.id.clone();
    PackFact { attachment, series, phase, said, took: spoken.took }
}
