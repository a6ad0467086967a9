//! The packs' part of admission: their versions are picked once, they say what a request costs, and decide about it.
//!
//! Invariant: a pack that changes nothing costs an exchange nothing but time: where its wish to see a body could get in the
//! way, it does not see it.

use super::Context;
use crate::body::{self, Body, BodySource};
use crate::facts::{Facts, PackFact, Stage, Witness};
use crate::packs::{Picks, Readers};
use crate::pipeline::Halt;
use crate::route::Matched;
use bytes::Bytes;
use model::document::PhaseName;
use model::{Edits, Reject};
use pack_host::PolicyRequest;
use stages::authenticate::Caller;
use stages::claim;
use stages::version::Resolved;

/// The largest body that is read for a pack that only observes.
const OBSERVED_BODY_MAX: u64 = 1 << 20;

/// The packs of this exchange, where any are attached. Their versions are picked here, once for all phases.
pub(super) fn pick<B: BodySource>(
    cx: &Context<'_, B>,
    facts: &Facts,
    matched: &Matched,
    caller: &Caller,
    version: &Resolved,
) -> Option<Picks> {
    let (identity, tenant) = (caller.identity(), caller.tenant());
    let packs = cx.snapshot.tenants.get(&identity.tenant)?;
    let request = || PolicyRequest {
        head: cx.head.clone(),
        body: None,
        body_size: body::announced(cx.head),
        identity: identity.clone(),
        plan: tenant.plan.clone(),
        timezone: tenant.calendar.zone.clone(),
        route: matched.route().id.clone(),
        version: version.version().name.clone(),
        request_id: cx.trace.request_id.as_str().into(),
        now: facts.at,
    };
    Picks::of(&matched.route().attached, packs, request)
}

/// Cost: what packs say, else the route.
pub(super) async fn cost<B: BodySource>(
    cx: &Context<'_, B>,
    facts: &mut Facts,
    matched: &Matched,
    packs: Option<&Picks>,
) -> Result<u32, Halt> {
    let of_route = matched.route().cost;
    let Some(packs) = packs.filter(|packs| packs.speak(PhaseName::Cost)) else {
        return Ok(of_route);
    };
    let mut said = Vec::new();
    let now = cx.gateway.clock.micros();
    let work = async { packs.cost(of_route, cx.trace, now, &mut said).map(Cost) };
    let cost = facts.stage(Stage::Cost, work).await;
    facts.packs.append(&mut said);
    cost.map(|Cost(units)| units)
}

/// What a request costs.
struct Cost(u32);

impl Witness for Cost {
    fn attest(&self, _: &mut Facts) {}
}

/// Decide: what packs said is a fact whether they admit or refuse.
pub(super) async fn decide<B: BodySource>(
    cx: &mut Context<'_, B>,
    facts: &mut Facts,
    matched: &Matched,
    packs: Option<&mut Picks>,
) -> Result<Decided, Halt> {
    let Some(packs) = packs else { return Ok(Decided::default()) };
    let nobody_reads = packs.readers() == (Readers::Nobody, Readers::Nobody);
    if nobody_reads && !packs.speak(PhaseName::Request) {
        return Ok(Decided::default());
    }
    let mut said = Vec::new();
    let decided = facts.stage(Stage::Decide, ask(cx, matched, packs, &mut said)).await;
    facts.packs.append(&mut said);
    decided
}

async fn ask<B: BodySource>(
    cx: &mut Context<'_, B>,
    matched: &Matched,
    packs: &mut Picks,
    said: &mut Vec<PackFact>,
) -> Result<Decided, Halt> {
    let (of_request, of_answer) = packs.readers();
    if of_request != Readers::Nobody {
        // What announces no body has none: the exchange may still stream.
        let is_empty = cx.body.is_none() && body::announced(cx.head) == Some(0);
        if is_empty {
            packs.show_body(Bytes::new());
        } else if read(cx, matched, of_request).await? {
            packs.show_body(cx.body.as_ref().map(|body| body.bytes().clone()).unwrap_or_default());
        } else {
            packs.withhold_body();
        }
    }
    let now = cx.gateway.clock.micros();
    let mut edits = packs.on_request(cx.trace, now, said)?;
    let budget = &cx.gateway.budget;
    let body = edits.body.take().map(|bytes| Body::of(bytes, budget)).transpose()?;
    // An answer is held by the buffered way, which sends what it has.
    let is_held = match (of_answer, &body) {
        (Readers::Nobody, _) => false,
        (_, Some(_)) => true,
        (readers, None) => read(cx, matched, readers).await?,
    };
    if is_held {
        packs.hold_response();
    }
    Ok(Decided { edits, body })
}

/// Has the request's body read for these readers; whether it was. For observers it is read only where nothing can come of
/// it: its length is known, small, and within the budget. Or where the exchange is buffered in any case.
async fn read<B: BodySource>(
    cx: &mut Context<'_, B>,
    matched: &Matched,
    readers: Readers,
) -> Result<bool, Reject> {
    let (limit, budget) = (matched.route().body_limit, &cx.gateway.budget);
    let is_keyed =
        matched.route().idempotency.is_some() && matches!(claim::key(cx.head), Ok(Some(_)));
    if readers == Readers::Observers && cx.body.is_none() && !is_keyed {
        let length = body::announced(cx.head).filter(|length| *length <= OBSERVED_BODY_MAX);
        let share = length.and_then(|length| budget.share(usize::try_from(length).ok()?).ok());
        let Some(share) = share else { return Ok(false) };
        cx.body_with(share, limit, budget).await?;
    } else {
        cx.body(limit, budget).await?;
    }
    Ok(true)
}

/// What packs made of a request.
#[derive(Default)]
pub(super) struct Decided {
    pub(super) edits: Edits,
    /// What takes the body's place.
    pub(super) body: Option<Body>,
}

impl Witness for Decided {
    fn attest(&self, _: &mut Facts) {}
}
