//! Admission: the ordered stages, each asking for the proofs of those before it.

mod decide;

use crate::body::{self, BODY_DEADLINE, Body, BodySource, Budget, Share};
use crate::facts::{Facts, Stage, Witness};
use crate::gateway::Gateway;
use crate::outbound::{self, Clearance};
use crate::packs::Picks;
use crate::record::Due;
use crate::report::Store;
use crate::respond::Reply;
use crate::route::Matched;
use crate::settling::{self, Unsent};
use crate::snapshot::Snapshot;
use crate::trace::Trace;
use crate::upstream::Upstream;
use decide::Decided;
use jiff::Timestamp;
use model::document::IdempotencyMode;
use model::idempotency::Ending;
use model::quota::Reading;
use model::{Edits, ErrorCode, Head, Reject};
use rand::RngExt as _;
use stages::authenticate::Caller;
use stages::claim::{self, Ask, Claim, Judged};
use stages::throttle::{self, Asked, Permit};
use stages::version::Resolved;
use std::sync::Arc;
use std::time::Duration;

/// Why a request goes no further.
#[derive(Debug)]
pub enum Halt {
    /// Refused.
    Reject(Reject),
    /// Answered without the upstream: a stored answer, or a pack's.
    Reply(Box<Reply>),
}

impl From<Reject> for Halt {
    fn from(reject: Reject) -> Self {
        Self::Reject(reject)
    }
}

/// What the stages see of one request.
pub struct Context<'a, B> {
    /// The process' runtime state.
    pub gateway: &'a Arc<Gateway>,
    /// The pinned revision.
    pub snapshot: &'a Snapshot,
    /// The head that passed the Gate.
    pub head: &'a Arc<Head>,
    /// Trace and request ids.
    pub trace: &'a Trace,
    /// When the request came.
    pub now: Timestamp,
    source: B,
    body: Option<Body>,
}

impl<'a, B: BodySource> Context<'a, B> {
    /// What the stages see of this request, whose body comes from `source`.
    pub fn new(
        gateway: &'a Arc<Gateway>,
        snapshot: &'a Snapshot,
        head: &'a Arc<Head>,
        trace: &'a Trace,
        source: B,
    ) -> Self {
        let now = gateway.clock.now();
        Self { gateway, snapshot, head, trace, now, source, body: None }
    }

    /// Where requests of this version go.
    fn upstream(&self, version: &Resolved) -> &'a Arc<Upstream> {
        let upstream = self.snapshot.upstreams.get(&version.version().upstream);
        upstream.expect("a checked document has no dangling upstream")
    }

    /// The body, read on first use. Whoever asks makes the exchange a buffered one.
    async fn body(&mut self, limit: usize, budget: &Budget) -> Result<&Body, Reject> {
        self.body_with(Share::default(), limit, budget).await
    }

    /// The same for who has taken a share of the budget for it.
    async fn body_with(
        &mut self,
        share: Share,
        limit: usize,
        budget: &Budget,
    ) -> Result<&Body, Reject> {
        let read = match self.body.take() {
            Some(body) => body,
            None => body::collect(&mut self.source, limit, budget, share).await?,
        };
        Ok(self.body.insert(read))
    }
}

/// What was proved of a request that may go to the upstream.
pub struct Admitted {
    /// Its route.
    pub matched: Matched,
    /// Who sent it.
    pub caller: Caller,
    /// The version that it gets.
    pub version: Resolved,
    /// The packs that decide about it, and will about its answer.
    pub packs: Option<Picks>,
    /// The changes of its head that packs asked for.
    pub edits: Edits,
    /// Where it goes.
    pub upstream: Arc<Upstream>,
    /// Whether a repeat of it will be recognised.
    pub claim: Claim,
    /// The body to send, when a stage had to see it or made another one; otherwise it streams.
    pub body: Option<Body>,
}

/// What a refused request held when it was refused, to be settled.
#[derive(Default)]
pub struct Held {
    /// The caller, once known.
    pub caller: Option<Caller>,
    /// Its route, once known.
    pub matched: Option<Matched>,
    /// Its version, once known.
    pub version: Option<Resolved>,
    /// What it was charged.
    pub permit: Option<Permit>,
    /// What it takes of what its upstream is sent at most.
    pub clearance: Option<Clearance>,
    /// Whether it leaves a decision record; its place in the buffer, where it must.
    pub record: Due,
}

/// Admits a request, or says why not. Read top to bottom, this is the order of the product. What must be settled or
/// shown on a refusal as well stands in `held`.
pub async fn admit<B: BodySource>(
    cx: &mut Context<'_, B>,
    facts: &mut Facts,
    held: &mut Held,
) -> Result<Admitted, Halt> {
    let matched = find_route(cx, facts, held).await?;
    let caller = authenticate(cx, facts, held, &matched).await?;
    let version = facts.stage(Stage::Version, resolve(cx, &matched, &caller)).await?;
    held.version = Some(version.clone());
    let mut packs = decide::pick(cx, facts, &matched, &caller, &version);
    let cost = decide::cost(cx, facts, &matched, packs.as_ref()).await?;
    let permit = charge(cx, facts, &matched, &caller, &version, cost).await?;
    held.permit = Some(permit);
    let Decided { edits, body } = decide::decide(cx, facts, &matched, packs.as_mut()).await?;
    let clearance = held.clearance.insert(clear(cx, facts, &caller, &version).await?);
    let upstream = clearance.upstream().clone();
    let claim =
        facts.stage(Stage::Claim, claim(cx, &matched, &caller, &version, clearance)).await?;
    if clearance.is_given_back() {
        *clearance = clear_again(cx, facts, &caller, &version, &claim).await?;
    }
    let body = body.or_else(|| cx.body.take());
    Ok(Admitted { matched, caller, version, packs, edits, upstream, claim, body })
}

/// Route: which it was is a fact as soon as it is found. Where the exchange must leave a record, its place is taken here,
/// before anything is charged.
async fn find_route<B: BodySource>(
    cx: &Context<'_, B>,
    facts: &mut Facts,
    held: &mut Held,
) -> Result<Matched, Halt> {
    let work = async {
        let matched = cx.snapshot.routes.find(cx.head)?;
        held.matched = Some(matched.clone());
        held.record = cx.gateway.recorder.due(matched.route().record, &cx.trace.trace_id)?;
        body::check_announced(cx.head, matched.route().body_limit)?;
        Ok::<_, Reject>(matched)
    };
    let matched = facts.stage(Stage::Route, work).await;
    if let (Err(_), Some(known)) = (&matched, &held.matched) {
        known.attest(facts);
    }
    matched
}

/// Authenticate: who it was is a fact as soon as the credential is accepted, also where a scope is missing.
async fn authenticate<B: BodySource>(
    cx: &Context<'_, B>,
    facts: &mut Facts,
    held: &mut Held,
    matched: &Matched,
) -> Result<Caller, Halt> {
    let requirement = &matched.route().requirement;
    let work = async {
        let directory = &cx.snapshot.directory;
        let answer = directory.authenticate(requirement, &cx.gateway.memory, cx.head, cx.now).await;
        held.caller = match &answer {
            Ok(caller) => Some(caller.clone()),
            Err(refused) => refused.caller.clone(),
        };
        answer.map_err(|refused| refused.reject)
    };
    let caller = facts.stage(Stage::Authenticate, work).await;
    if let (Err(_), Some(known)) = (&caller, &held.caller) {
        known.attest(facts);
    }
    caller
}

async fn resolve<B: BodySource>(
    cx: &Context<'_, B>,
    matched: &Matched,
    caller: &Caller,
) -> Result<Resolved, Reject> {
    let service = &matched.route().service;
    service.resolve(cx.head, matched.segment(), matched.path(), caller.tenant(), cx.now)
}

/// Throttle: its readings are facts whether it admits or refuses.
async fn charge<B: BodySource>(
    cx: &Context<'_, B>,
    facts: &mut Facts,
    matched: &Matched,
    caller: &Caller,
    version: &Resolved,
    cost: u32,
) -> Result<Permit, Halt> {
    let route = matched.route();
    let mut refused: Arc<[Reading]> = Arc::default();
    let work = async {
        let now = cx.now.as_microsecond();
        cx.gateway.protection.judge(caller, cost, now)?;
        // The body may still have to come, and a repeat may wait for the first one's answer.
        let wait = route.idempotency.as_ref().map_or(Duration::ZERO, |rules| rules.wait.0);
        let hold = cx.upstream(version).hold() + BODY_DEADLINE + wait;
        let permit = rand::rng().random();
        let asked = Asked {
            caller,
            route: Some(&route.id),
            client: cx.head.client,
            cost,
            costs_later: route.cost_header.is_some(),
        };
        let demand = asked.demand(permit, hold);
        let throttled = throttle::throttle(&cx.gateway.quotas, &demand, now).await;
        let readings = match &throttled {
            Ok(permit) => permit.readings(),
            Err(throttled) => &throttled.readings,
        };
        cx.gateway.thresholds.note(&demand, readings, &caller.tenant().plan, cx.now);
        throttled.map_err(|throttled| {
            cx.gateway.protection.refused(caller, cost);
            refused = throttled.readings;
            throttled.reject
        })
    };
    let permit: Result<Permit, Halt> = facts.stage(Stage::Throttle, work).await;
    if permit.is_err() {
        facts.readings = refused;
    }
    permit
}

/// Outbound: what is in the way is a fact where it refuses. Nobody is asked where nothing could be.
async fn clear<B: BodySource>(
    cx: &Context<'_, B>,
    facts: &mut Facts,
    caller: &Caller,
    version: &Resolved,
) -> Result<Clearance, Halt> {
    let upstream = cx.upstream(version);
    if let Some(clearance) = outbound::clear_at_once(upstream) {
        return Ok(clearance);
    }
    let mut limited = None;
    let work = async {
        let (tenant, now) = (&caller.identity().tenant, cx.gateway.clock.micros());
        outbound::clear(upstream, tenant, &cx.gateway.quotas, now).await.map_err(|held_back| {
            limited = Some((upstream.id.clone(), held_back.by));
            held_back.reject
        })
    };
    let clearance: Result<Clearance, Halt> = facts.stage(Stage::Outbound, work).await;
    facts.limited = limited;
    clearance
}

/// Clears a request that waited, and gave back what it had been lent meanwhile. Where something is in the way now, its key
/// is free again: nothing was sent.
async fn clear_again<B: BodySource>(
    cx: &Context<'_, B>,
    facts: &mut Facts,
    caller: &Caller,
    version: &Resolved,
    claim: &Claim,
) -> Result<Clearance, Halt> {
    // An exchange that is cut off meanwhile leaves nothing held.
    let unsent = Unsent::of(cx.gateway, claim, &cx.trace.request_id);
    let cleared = clear(cx, facts, caller, version).await;
    if cleared.is_err() {
        let (free, request_id) = (Ending::Unsent.disposition(&[]), &cx.trace.request_id);
        facts.settled = settling::settle(cx.gateway, claim, free, || None, request_id).await;
    }
    unsent.goes_on();
    cleared
}

/// Claim, the last stage: taking the lease and marking the dispatch are one write. Who waits for the answer of the first one
/// takes nothing meanwhile of what its upstream is sent at most: that is everybody's.
async fn claim<B: BodySource>(
    cx: &mut Context<'_, B>,
    matched: &Matched,
    caller: &Caller,
    version: &Resolved,
    clearance: &mut Clearance,
) -> Result<Claim, Halt> {
    let route = matched.route();
    let Some(rules) = &route.idempotency else { return Ok(Claim::unkeyed()) };
    let Some(key) = claim::key(cx.head)? else {
        return match rules.mode {
            IdempotencyMode::Required => Err(Reject::new(ErrorCode::IdempotencyKeyMissing).into()),
            IdempotencyMode::Optional => Ok(Claim::unkeyed()),
        };
    };
    let gateway = cx.gateway;
    let body = cx.body(route.body_limit, &gateway.budget).await?.bytes().clone();
    let ask = Ask {
        key,
        identity: caller.identity(),
        route: &route.id,
        version: &version.version().name,
        head: cx.head,
        body: &body,
        rules,
        hold: clearance.upstream().hold(),
    };
    let Gateway { ledger, salt, owner, waiters, clock, quotas, .. } = &**gateway;
    let gives_back = || clearance.give_back(quotas, clock.micros());
    let judged = claim::claim(ledger, salt, owner, &ask, waiters, clock, gives_back).await;
    let degraded = match &judged {
        Ok(Judged::Claim(claim)) => claim.is_bypassed(),
        Ok(Judged::Replay(_) | Judged::Awaited(_)) => false,
        Err(reject) => reject.code == ErrorCode::DependencyUnavailable,
    };
    gateway.metrics.degraded(Store::Idempotency, degraded);
    match judged? {
        Judged::Claim(claim) => Ok(claim),
        Judged::Replay(response) => Err(Halt::Reply(Box::new(Reply::stored(response, "replayed")))),
        Judged::Awaited(response) => Err(Halt::Reply(Box::new(Reply::stored(response, "waited")))),
    }
}

impl Witness for Matched {
    fn attest(&self, facts: &mut Facts) {
        facts.route = Some(self.route().id.clone());
    }
}

impl Witness for Caller {
    fn attest(&self, facts: &mut Facts) {
        facts.tenant = Some(self.identity().tenant.clone());
        facts.consumer = Some(self.identity().consumer.clone());
    }
}

impl Witness for Resolved {
    fn attest(&self, facts: &mut Facts) {
        facts.version = Some(self.version().name.clone());
    }
}

impl Witness for Permit {
    fn attest(&self, facts: &mut Facts) {
        facts.readings = self.readings().clone();
    }
}

impl Witness for Clearance {
    fn attest(&self, _: &mut Facts) {}
}

impl Witness for Claim {
    fn attest(&self, facts: &mut Facts) {
        facts.idempotency = self.outcome();
    }
}
