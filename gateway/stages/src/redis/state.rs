//! How counters and permits are written in Redis, and what the scripts answer, read back into the model's own.
//!
//! Invariant: the model makes every reading; here is only text. `prelude.lua` says what the text looks like.

use model::id::TenantId;
use model::port::StoreError;
use model::quota::{
    Bucket, Charge, Counted, Counter, CounterKey, Demand, Kind, Period, PermitId, PermitRecord,
    Rate, Reading, Refused, Slots, Spent, Taken, Verdict, Window,
};
use redis::{Cmd, Value};

/// Where a demand's permit and counters are.
pub(super) struct Keys {
    /// `{tenant}:`, in which a cluster's client finds the tenant.
    pub(super) tag: String,
    pub(super) permit: String,
    pub(super) counters: Vec<String>,
}

impl Keys {
    /// Those of a permit and of its counters.
    pub(super) fn of(tenant: &TenantId, permit: PermitId, counters: Vec<String>) -> Self {
        let tag = format!("{{{tenant}}}:");
        Self { permit: format!("qp:{tag}{permit}"), tag, counters }
    }

    /// Appends how many there are, and the keys.
    pub(super) fn fill(&self, command: &mut Cmd) {
        command.arg(1 + self.counters.len()).arg(&self.permit).arg(&self.counters);
    }
}

/// Where a counter is. Slots have another name, so that a limit whose kind is edited meets no other kind of value.
pub(super) fn key_of(key: &CounterKey, tenant: &TenantId, is_slots: IsSlots) -> String {
    let name = key.storage_name(tenant);
    match is_slots {
        IsSlots::No => name,
        IsSlots::Yes => format!("qs{}", name.strip_prefix('q').unwrap_or(&name)),
    }
}

/// Whether a counter holds slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum IsSlots {
    Yes,
    No,
}

impl From<Kind> for IsSlots {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Concurrency(_) => Self::Yes,
            Kind::Rate { .. } | Kind::Quota(_) => Self::No,
        }
    }
}

impl From<Taken> for IsSlots {
    fn from(taken: Taken) -> Self {
        match taken {
            Taken::Slot => Self::Yes,
            Taken::Rate { .. } | Taken::Quota { .. } => Self::No,
        }
    }
}

/// What `reserve.lua` answered.
pub(super) enum Answer {
    /// It decided, at this time.
    Decided(Verdict, i64),
    /// Its clock, which it tells, was outside the windows that it was given.
    Again(i64),
    /// The permit was settled before it was asked for: a command came late.
    Over,
}

/// Reads what `reserve.lua` answered.
pub(super) fn answer_of(demand: &Demand, value: Value) -> Result<Answer, StoreError> {
    let Value::Array(parts) = value else { return Err(unreadable(&value)) };
    let mut parts = parts.into_iter();
    let mut next = || parts.next().unwrap_or(Value::Nil);
    let (word, now, about) = (text_of(next())?, number_of(&next())?, next());
    let states: Vec<_> = parts.collect();
    let read = |(counted, state)| reading_of(counted, state, demand, now);
    let readings =
        || -> Result<Vec<_>, _> { demand.limits.iter().zip(&states).map(read).collect() };
    let is_whole = states.len() == demand.limits.len();
    let verdict = match word.as_str() {
        "again" => return Ok(Answer::Again(now)),
        "over" => return Ok(Answer::Over),
        "admitted" if is_whole => admitted(demand, &text_of(about)?, &states, readings()?)?,
        "open" if is_whole => Verdict::Admitted {
            permit: permit_of(demand, &text_of(about)?)?,
            readings: readings()?.into_iter().map(Reading::admitted).collect(),
        },
        "refused" if is_whole => {
            let refused = Refused::of(&readings()?).ok_or_else(|| {
                StoreError::Unreadable("a refusal that no limit explains".to_owned())
            })?;
            Verdict::Refused(refused)
        }
        _ => return Err(unreadable(&word)),
    };
    Ok(Answer::Decided(verdict, now))
}

/// Each limit is charged that has a `1`; the others only observe.
fn admitted(
    demand: &Demand,
    charged: &str,
    states: &[Value],
    mut readings: Vec<Reading>,
) -> Result<Verdict, StoreError> {
    let mut charges = Vec::new();
    let limits = demand.limits.iter().zip(states).zip(&mut readings).zip(charged.bytes());
    for (((counted, state), reading), charged) in limits {
        if charged != b'1' {
            continue;
        }
        reading.refusal = None;
        let cost = demand.cost;
        let taken = match counted.limit.kind {
            Kind::Rate { .. } if !demand.costs_later => continue,
            Kind::Rate { rate, burst } => Taken::Rate { cost, rate, burst },
            Kind::Quota(_) => match counter_of(state)? {
                Some(Counter::Spent(spent)) => Taken::Quota { cost, window: spent.parts().1 },
                Some(Counter::Bucket(_) | Counter::Slots(_)) | None => {
                    return Err(unreadable(state));
                }
            },
            Kind::Concurrency(_) => Taken::Slot,
        };
        charges.push(Charge { key: counted.key.clone(), taken });
    }
    let tenant = demand.tenant.clone();
    let permit = PermitRecord { id: demand.permit, tenant, charges: charges.into() };
    Ok(Verdict::Admitted { permit, readings })
}

/// What a request of this demand would find at a counter.
pub(super) fn reading_of(
    counted: &Counted,
    state: &Value,
    demand: &Demand,
    now: i64,
) -> Result<Reading, StoreError> {
    let limit = &*counted.limit;
    if let Kind::Concurrency(size) = limit.kind {
        let held = u64::try_from(number_of(state)?).unwrap_or(0);
        let (level, refusal) = (Slots::level_of(held, size), Slots::refusal_of(held, size));
        return Ok(Reading::new(limit, level, refusal));
    }
    let counter = counter_of(state)?.unwrap_or_else(|| Counter::at_rest(limit.kind, demand, now));
    Ok(counter.check(limit, demand, now))
}

/// `r TAT PART BURST RATE` or `q START END USED PERIOD`.
fn counter_of(state: &Value) -> Result<Option<Counter>, StoreError> {
    let bytes = match state {
        Value::Nil => return Ok(None),
        Value::BulkString(bytes) => bytes,
        other => return Err(unreadable(other)),
    };
    let text = std::str::from_utf8(bytes).map_err(|_| unreadable(state))?;
    let mut words = text.split(' ');
    let mut word = || words.next().unwrap_or_default();
    let counter = match word() {
        "r" => (|| {
            let (tat, part, burst) =
                (word().parse().ok()?, word().parse().ok()?, word().parse().ok()?);
            let rate: Rate = word().parse().ok()?;
            Some(Counter::Bucket(Bucket::restored(tat, part, rate, burst)))
        })(),
        "q" => (|| {
            let window = Window { start: word().parse().ok()?, end: word().parse().ok()? };
            let used = word().parse().ok()?;
            let name = word();
            let period = Period::ALL.into_iter().find(|period| period.as_str() == name)?;
            Some(Counter::Spent(Spent::restored(period, window, used)))
        })(),
        _ => None,
    };
    counter.map(Some).ok_or_else(|| unreadable(state))
}

/// `UNTIL`, then per charge ` LENGTH WHAT;NAME`.
fn permit_of(demand: &Demand, text: &str) -> Result<PermitRecord, StoreError> {
    let mut charges = Vec::new();
    let (_, mut rest) = text.split_once(' ').ok_or_else(|| unreadable(&text))?;
    loop {
        let (charge, after) = charge_of(demand, rest).ok_or_else(|| unreadable(&text))?;
        charges.push(charge);
        match after.strip_prefix(' ') {
            Some(more) => rest = more,
            None => break,
        }
    }
    Ok(PermitRecord { id: demand.permit, tenant: demand.tenant.clone(), charges: charges.into() })
}

/// The first charge, and what follows it.
fn charge_of<'a>(demand: &Demand, text: &'a str) -> Option<(Charge, &'a str)> {
    let (about, rest) = text.split_once(';')?;
    let mut words = about.split(' ');
    let mut word = || words.next();
    let length = word()?.parse().ok()?;
    let taken = match word()? {
        "s" => Taken::Slot,
        "q" => Taken::Quota {
            cost: word()?.parse().ok()?,
            window: Window { start: word()?.parse().ok()?, end: word()?.parse().ok()? },
        },
        "r" => Taken::Rate {
            cost: word()?.parse().ok()?,
            burst: word()?.parse().ok()?,
            rate: word()?.parse().ok()?,
        },
        _ => return None,
    };
    let (name, after) = rest.split_at_checked(length)?;
    let (_, key) = CounterKey::of_storage_name(&format!("q:{{{}}}:{name}", demand.tenant))?;
    Some((Charge { key, taken }, after))
}

pub(super) fn number_of(value: &Value) -> Result<i64, StoreError> {
    match value {
        Value::Int(number) => Ok(*number),
        other => Err(unreadable(other)),
    }
}

fn text_of(value: Value) -> Result<String, StoreError> {
    redis::from_redis_value(value).map_err(|error| unreadable(&error))
}

pub(super) fn unreadable(what: &impl std::fmt::Debug) -> StoreError {
    StoreError::Unreadable(format!("{what:?}"))
}
