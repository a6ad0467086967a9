//! The counters of all tenants, on Redis.
//!
//! Invariant: whatever becomes of an answer, a permit is charged once and settled once; a command that was lost may be
//! sent again.

use super::link::{Link, SLOTS, hash_slot};
use super::script::Script;
use super::state::{self, Answer, IsSlots, Keys, key_of};
use model::id::TenantId;
use model::port::StoreError;
use model::quota::{
    Counters, Demand, Kind, Limit, PermitRecord, Reading, Settlement, Verdict, Window,
};
use redis::{Cmd, Value};
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;
use tokio::time::Instant;

/// How long a command may take that no request waits for.
const UNHURRIED: Duration = Duration::from_millis(500);
/// How often a demand is sent: once more when Redis' clock is in another window than was thought, and once more when that
/// was its end.
const TRIES: usize = 3;
/// The largest whole number of which Lua knows the next one, too.
const EXACT: i64 = (1 << 53) - 1;

const RESERVE: &str = concat!(include_str!("prelude.lua"), include_str!("reserve.lua"));
const SETTLE: &str = concat!(include_str!("prelude.lua"), include_str!("settle.lua"));
const PEEK: &str = concat!(include_str!("prelude.lua"), include_str!("peek.lua"));
const RESET: &str = concat!(include_str!("prelude.lua"), include_str!("reset.lua"));

/// Counters on Redis.
#[derive(Debug)]
pub struct RedisCounters {
    link: Link,
    clock: ClockOf,
    /// By how much Redis' clock is ahead of ours, in microseconds, as it was heard last.
    ahead: AtomicI64,
    reserve: Script,
    settle: Script,
    peek: Script,
    reset: Script,
}

/// Whose clock decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClockOf {
    /// Redis' own: the same for all nodes.
    Redis,
    /// The caller's, for tests that move it.
    Caller,
}

impl ClockOf {
    /// The least time to live of a key, in milliseconds. A caller's clock may stand still while Redis' goes on.
    pub(super) const fn least_lifetime(self) -> i64 {
        match self {
            Self::Redis => 1_000,
            Self::Caller => 600_000,
        }
    }
}

impl RedisCounters {
    /// Counters behind this link.
    pub fn new(link: Link, clock: ClockOf) -> Self {
        Self {
            link,
            clock,
            ahead: AtomicI64::new(0),
            reserve: Script::new(RESERVE),
            settle: Script::new(SETTLE),
            peek: Script::new(PEEK),
            reset: Script::new(RESET),
        }
    }

    /// The link to Redis.
    pub fn link(&self) -> &Link {
        &self.link
    }

    /// How many parts there are that fail apart from each other: the hash slots of a cluster.
    pub fn parts(&self) -> usize {
        if self.link.is_cluster() { SLOTS.into() } else { 1 }
    }

    /// The part that has this tenant's counters.
    pub fn part(&self, tenant: &TenantId) -> usize {
        if self.link.is_cluster() { hash_slot(tenant.as_str()).into() } else { 0 }
    }

    /// Settles permits together; says of each, in their order, how it went. What failed may be settled again: it takes
    /// effect once.
    pub async fn settle_all(
        &self,
        endings: &[(PermitRecord, Settlement)],
        now: i64,
    ) -> Vec<Result<(), StoreError>> {
        let until = Instant::now() + UNHURRIED;
        let keys: Vec<_> = endings.iter().map(|(permit, _)| keys_of_permit(permit)).collect();
        let ends: Vec<_> = keys.iter().zip(endings.iter().map(|(_, end)| *end)).collect();
        let command = |(keys, settlement): &(&Keys, Settlement)| {
            let fill = |command: &mut Cmd| self.fill_settle(command, keys, *settlement, None, now);
            (keys.permit.clone(), self.settle.by_hash(fill))
        };
        let answers = self.link.run_all(ends.iter().map(command).collect(), until).await;
        let mut settled = Vec::with_capacity(endings.len());
        for ((keys, settlement), answer) in ends.into_iter().zip(answers) {
            settled.push(match answer {
                Ok(_) => Ok(()),
                // The first one makes the script known again.
                Err(failure) if failure.is_unknown_script() => {
                    self.settle_by(keys, settlement, None, now).await
                }
                Err(failure) => Err(failure.into()),
            });
        }
        settled
    }

    /// Settles whatever a demand was charged of which the answer was lost; nothing if it never ran. Should it run later,
    /// it finds its permit settled and is charged nothing.
    pub async fn settle_unknown(
        &self,
        demand: &Demand,
        settlement: Settlement,
        now: i64,
    ) -> Result<(), StoreError> {
        let keys = keys_of_demand(demand);
        self.settle_by(&keys, settlement, Some(demand.permit_ttl), now).await
    }

    async fn settle_by(
        &self,
        keys: &Keys,
        settlement: Settlement,
        over_for: Option<i64>,
        now: i64,
    ) -> Result<(), StoreError> {
        let until = Instant::now() + UNHURRIED;
        let fill = |command: &mut Cmd| self.fill_settle(command, keys, settlement, over_for, now);
        self.settle.run(&self.link, until, &keys.permit, fill).await.map(drop)
    }

    fn fill_settle(
        &self,
        command: &mut Cmd,
        keys: &Keys,
        settlement: Settlement,
        over_for: Option<i64>,
        now: i64,
    ) {
        keys.fill(command);
        self.fill_now(command, now);
        command.arg(self.clock.least_lifetime()).arg(&keys.tag);
        match settlement {
            Settlement::Commit => command.arg("commit"),
            Settlement::Refund => command.arg("refund"),
            Settlement::Cost(units) => command.arg(units),
        };
        match over_for {
            Some(micros) => command.arg((micros / 1_000).max(self.clock.least_lifetime())),
            None => command.arg(""),
        };
    }

    /// The time that decides: ours, or none where Redis takes its own.
    fn fill_now(&self, command: &mut Cmd, now: i64) {
        match self.clock {
            ClockOf::Caller => command.arg(now),
            ClockOf::Redis => command.arg(""),
        };
    }

    /// What the clock that decides shows, as far as is known here.
    fn estimate(&self, now: i64) -> i64 {
        match self.clock {
            ClockOf::Caller => now,
            ClockOf::Redis => now.saturating_add(self.ahead.load(Ordering::Relaxed)),
        }
    }

    fn hear_clock(&self, told: i64, now: i64) {
        self.ahead.store(told.saturating_sub(now), Ordering::Relaxed);
    }
}

impl Counters for RedisCounters {
    async fn reserve(&self, demand: &Demand, now: i64) -> Result<Verdict, StoreError> {
        let until = self.link.due();
        let keys = keys_of_demand(demand);
        for _ in 0..TRIES {
            let expected = self.estimate(now);
            let fill = |command: &mut Cmd| {
                keys.fill(command);
                self.fill_now(command, now);
                command.arg(demand.permit.to_string()).arg(demand.permit_ttl).arg(demand.cost);
                command.arg(u8::from(demand.costs_later));
                command.arg(self.clock.least_lifetime()).arg(&keys.tag);
                for counted in &demand.limits {
                    fill_limit(command, &counted.limit, demand, expected);
                }
            };
            let value = self.reserve.run(&self.link, until, &keys.permit, fill).await?;
            match state::answer_of(demand, value)? {
                Answer::Decided(verdict, told) => {
                    self.hear_clock(told, now);
                    return Ok(verdict);
                }
                Answer::Again(told) => self.hear_clock(told, now),
                Answer::Over => {
                    let late = "the permit was settled before it was asked for";
                    return Err(StoreError::Unavailable(late.to_owned()));
                }
            }
        }
        Err(StoreError::Unavailable("Redis' clock jumps".to_owned()))
    }

    async fn settle(
        &self,
        permit: &PermitRecord,
        settlement: Settlement,
        now: i64,
    ) -> Result<(), StoreError> {
        self.settle_by(&keys_of_permit(permit), settlement, None, now).await
    }

    async fn peek(&self, demand: &Demand, now: i64) -> Result<Vec<Reading>, StoreError> {
        let keys = keys_of_demand(demand).counters;
        let Some(first) = keys.first() else { return Ok(Vec::new()) };
        let fill = |command: &mut Cmd| {
            command.arg(keys.len()).arg(&keys);
            self.fill_now(command, now);
        };
        let value = self.peek.run(&self.link, self.link.due(), first, fill).await?;
        let Value::Array(parts) = value else { return Err(state::unreadable(&value)) };
        let mut states = parts.iter();
        let told = state::number_of(states.next().unwrap_or(&Value::Nil))?;
        self.hear_clock(told, now);
        let read = |(counted, state)| state::reading_of(counted, state, demand, told);
        demand.limits.iter().zip(states).map(read).collect()
    }

    async fn reset(&self, demand: &Demand, now: i64) -> Result<(), StoreError> {
        let until = Instant::now() + UNHURRIED;
        let resettable = |kind| IsSlots::from(kind) == IsSlots::No;
        let limits = || demand.limits.iter().filter(|counted| resettable(counted.limit.kind));
        let keys: Vec<_> =
            limits().map(|counted| key_of(&counted.key, &demand.tenant, IsSlots::No)).collect();
        let Some(first) = keys.first() else { return Ok(()) };
        for _ in 0..TRIES {
            let expected = self.estimate(now);
            let fill = |command: &mut Cmd| {
                command.arg(keys.len()).arg(&keys);
                self.fill_now(command, now);
                command.arg(self.clock.least_lifetime());
                for counted in limits() {
                    if let Kind::Quota(quota) = counted.limit.kind {
                        let window = Window::of(quota.period(), &demand.calendar, expected);
                        command.arg(quota.period().as_str());
                        command.arg(window.start).arg(window.end.min(EXACT));
                    } else {
                        command.arg("").arg("").arg("");
                    }
                }
            };
            let value = self.reset.run(&self.link, until, first, fill).await?;
            let (is_done, told): (u8, i64) =
                redis::from_redis_value(value).map_err(|error| state::unreadable(&error))?;
            self.hear_clock(told, now);
            if is_done == 1 {
                return Ok(());
            }
        }
        Err(StoreError::Unavailable("Redis' clock jumps".to_owned()))
    }
}

/// What `reserve.lua` has to know of a limit.
fn fill_limit(command: &mut Cmd, limit: &Limit, demand: &Demand, expected: i64) {
    let observes = u8::from(!limit.mode.is_enforce());
    match limit.kind {
        Kind::Rate { rate, burst } => {
            let written = rate.to_string();
            let per = written.split_once('/').map_or("s", |(_, per)| per);
            let (room, rest) = rate.time_of(burst);
            let (price, part) = rate.time_of(demand.cost);
            command.arg("r").arg(observes).arg(&written).arg(rate.units()).arg(per).arg(burst);
            command.arg(room).arg(rest).arg(price).arg(part);
        }
        Kind::Quota(quota) => {
            let window = Window::of(quota.period(), &demand.calendar, expected);
            command.arg("q").arg(observes).arg(quota.period().as_str()).arg(quota.amount());
            command.arg(window.start).arg(window.end.min(EXACT));
        }
        Kind::Concurrency(size) => {
            command.arg("s").arg(observes).arg(size);
        }
    }
}

fn keys_of_demand(demand: &Demand) -> Keys {
    let key = |counted: &model::quota::Counted| {
        key_of(&counted.key, &demand.tenant, counted.limit.kind.into())
    };
    let counters = demand.limits.iter().map(key).collect();
    Keys::of(&demand.tenant, demand.permit, counters)
}

fn keys_of_permit(permit: &PermitRecord) -> Keys {
    let key =
        |charge: &model::quota::Charge| key_of(&charge.key, &permit.tenant, charge.taken.into());
    let counters = permit.charges.iter().map(key).collect();
    Keys::of(&permit.tenant, permit.id, counters)
}
