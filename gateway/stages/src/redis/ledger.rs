//! Idempotency records that nodes share, on Redis.
//!
//! Invariants: a step is one script on the keys of one tenant; a claim of which nobody heard holds nothing. What becomes
//! of a record, the scripts decide as [`record`] does, and [`record`] itself tells what is found.

mod record;
mod replicas;
mod withdrawals;

use self::record::{Fields, Names, Nonce, index, newest_fence, withdrawal};
use super::counters::ClockOf;
use super::link::{Failure, Link};
use super::script::Script;
use super::state::{number_of, unreadable};
use model::document::{OnLedgerError, OnUnknown};
use model::id::TenantId;
use model::idempotency::record::{self as machine, Change};
use model::idempotency::{
    Answer, ClaimRequest, Claimed, Digest, Fence, Found, Key, Ledger, RECORD_BYTES, RecordKey,
    SealedResponse, Settled, TenantRoom,
};
use model::port::StoreError;
use redis::{Cmd, Value};
use replicas::Replicas;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::time::Instant;
use withdrawals::{Asking, Withdrawals};

/// How long a claim may take: a request waits for it, and one that is refused for nothing costs more than a wait.
const CLAIM_DEADLINE: Duration = Duration::from_millis(250);
/// How long what follows a claim may take: it carries answers, and what is not stored is unknown.
const SETTLE_DEADLINE: Duration = Duration::from_secs(1);
/// How much of that it may take on the connection that waits for replicas, behind claims that do.
const REPLICAS_DEADLINE: Duration = Duration::from_millis(500);
/// How many records an operator is shown.
const FOUND_MAX: usize = 20;
/// How many of a key's records are looked at for those: some were released.
const LOOKED_AT_MAX: usize = 64;

const WITHDRAW: &str =
    concat!(include_str!("ledger/prelude.lua"), include_str!("ledger/withdraw.lua"));
const CLAIM: &str = concat!(include_str!("ledger/prelude.lua"), include_str!("ledger/claim.lua"));
const SETTLE: &str = concat!(include_str!("ledger/prelude.lua"), include_str!("ledger/settle.lua"));
const FIND: &str = concat!(include_str!("ledger/prelude.lua"), include_str!("ledger/find.lua"));

/// Idempotency records on Redis.
#[derive(Debug)]
pub struct RedisLedger {
    link: Link,
    clock: ClockOf,
    room: TenantRoom,
    withdrawals: Withdrawals,
    replicas: Replicas,
    claim: Script,
    settle: Script,
    find: Script,
}

/// A holder's or an operator's step.
enum Step {
    Renew { lease: i64 },
    Complete(Answer, u8),
    Release,
    MarkUnknown,
    Clear,
}

impl RedisLedger {
    /// Records behind this link, which is the ledger's alone: answers are large, and others wait behind them. A tenant has
    /// so much room.
    pub fn new(link: Link, clock: ClockOf, room: TenantRoom, runtime: &Handle) -> Self {
        Self {
            withdrawals: Withdrawals::new(link.clone(), clock, Script::new(WITHDRAW), runtime),
            replicas: Replicas::new(link.clone(), runtime),
            link,
            clock,
            room,
            claim: Script::new(CLAIM),
            settle: Script::new(SETTLE),
            find: Script::new(FIND),
        }
    }

    /// The link to Redis.
    pub fn link(&self) -> &Link {
        &self.link
    }

    /// Makes the connection for routes that want replicas to have what is written, unless there is one.
    pub fn prepare_replicas(&self) {
        self.replicas.link();
    }

    async fn ask(
        &self,
        request: &ClaimRequest,
        nonce: Nonce,
        now: i64,
    ) -> Result<Claimed, StoreError> {
        let ClaimRequest { key, lookup, fingerprint, .. } = request;
        let tenant = &key.tenant;
        let names = Names::of(key);
        let more = [index(tenant, *lookup), newest_fence(tenant), withdrawal(tenant, nonce)];
        let fill = |command: &mut Cmd| {
            command.arg(4 + more.len()).arg(&names.record).arg(&names.answer).arg(&more);
            command.arg(&names.records).arg(&names.bytes);
            fill_clock(command, self.clock, now);
            command.arg(request.lease).arg(request.retention);
            command.arg(u8::from(request.on_unknown == OnUnknown::Redrive)).arg(nonce.to_string());
            command.arg(&fingerprint.0.0).arg(&lookup.0);
            command.arg(request.route.as_str()).arg(request.owner.as_str()).arg(&key.digest.0);
            command.arg(RECORD_BYTES).arg(self.room.all);
        };
        let (claim, until) = (&self.claim, Instant::now() + CLAIM_DEADLINE);
        let (value, had) = match request.replicas {
            0 => (claim.run(&self.link, until, &names.record, fill).await?, Ok(())),
            replicas => {
                let place = self.replicas.place(until).await?;
                place.run(claim, until, &names.record, fill, replicas).await?
            }
        };
        let mut told = told(request, value, now)?;
        if let (
            Claimed::Held { is_replicated, .. } | Claimed::Redriven { is_replicated, .. },
            Err(error),
        ) = (&mut told, had)
        {
            too_few(request, error)?;
            *is_replicated = false;
        }
        Ok(told)
    }

    async fn take(
        &self,
        key: &RecordKey,
        fence: Fence,
        step: Step,
        now: i64,
    ) -> Result<Settled, StoreError> {
        let names = Names::of(key);
        let fill = |command: &mut Cmd| {
            command.arg(4).arg(&names.record).arg(&names.answer);
            command.arg(&names.bytes).arg(&names.records);
            fill_clock(command, self.clock, now);
            command.arg(fence.0);
            match &step {
                Step::Renew { lease } => command.arg("renew").arg(lease),
                Step::Complete(answer, _) => self.fill_answer(command, answer),
                Step::Release => command.arg("release"),
                Step::MarkUnknown => command.arg("mark_unknown"),
                Step::Clear => command.arg("clear"),
            };
        };
        let replicas = if let Step::Complete(_, replicas) = step { replicas } else { 0 };
        let (value, had) = self.run_settle(&names.record, fill, replicas).await?;
        match value {
            Value::BulkString(word) if word == b"applied" => {
                if let Err(error) = had {
                    tracing::warn!(%error, "an answer is stored that replicas may not have");
                }
                Ok(Settled::Applied)
            }
            Value::BulkString(word) if word == b"already" => Ok(Settled::Already),
            Value::BulkString(word) if word == b"stale" => Ok(Settled::Stale),
            other => Err(unreadable(&other)),
        }
    }

    /// Takes a step, and says whether so many replicas have what it wrote. Where the connection that waits for them is lost or
    /// busy, it is taken without: what is stored in one place is worth more than what is stored nowhere.
    async fn run_settle(
        &self,
        key: &str,
        fill: impl Fn(&mut Cmd),
        replicas: u8,
    ) -> Result<(Value, Result<(), StoreError>), StoreError> {
        let (now, settle) = (Instant::now(), &self.settle);
        let mut had = Ok(());
        if replicas > 0 {
            let soon = now + REPLICAS_DEADLINE;
            let ran = match self.replicas.place(soon).await {
                Ok(place) => place.run(settle, soon, key, &fill, replicas).await,
                Err(busy) => Err(Failure::NotSent(busy)),
            };
            match ran {
                Ok(ran) => return Ok(ran),
                // Where it did run, it is taken once all the same.
                Err(failure) => had = Err(failure.into()),
            }
        }
        Ok((settle.run(&self.link, now + SETTLE_DEADLINE, key, fill).await?, had))
    }

    fn fill_answer<'a>(&self, command: &'a mut Cmd, answer: &Answer) -> &'a mut Cmd {
        command.arg("complete").arg(answer.status().as_u16());
        let location = match answer {
            Answer::Retained(response) => {
                command.arg("done").arg(response.to_bytes());
                response.location().map(|location| ("l", location.as_bytes()))
            }
            Answer::Sealed(SealedResponse { bytes, location, .. }) => {
                match bytes {
                    Some(bytes) => command.arg("sealed").arg(&**bytes),
                    None => command.arg("not_retained").arg(""),
                };
                location.as_deref().map(|location| ("x", location))
            }
            Answer::NotRetained { location, .. } => {
                command.arg("not_retained").arg("");
                location.as_ref().map(|location| ("l", location.as_bytes()))
            }
        };
        command.arg(answer.size()).arg(self.room.answers);
        match location {
            Some((field, location)) => command.arg(field).arg(location),
            None => command,
        }
    }
}

/// The time that decides, ours or none where Redis takes its own, and the least time to live.
fn fill_clock(command: &mut Cmd, clock: ClockOf, now: i64) {
    match clock {
        ClockOf::Caller => command.arg(now),
        ClockOf::Redis => command.arg(""),
    };
    command.arg(clock.least_lifetime());
}

/// What `claim.lua` told.
fn told(request: &ClaimRequest, value: Value, now: i64) -> Result<Claimed, StoreError> {
    let Value::Array(parts) = value else { return Err(unreadable(&value)) };
    let mut parts = parts.into_iter();
    let mut next = || parts.next().unwrap_or(Value::Nil);
    let (word, clock, about) = (next(), number_of(&next())?, next());
    match &word {
        Value::BulkString(word) if word == b"held" || word == b"redriven" => {
            let fence = redis::from_redis_value(about).map_err(|error| unreadable(&error))?;
            // By the clock of whoever asks, and since before they asked: never later than Redis' own says.
            let (fence, lease_until) = (Fence(fence), now.saturating_add(request.lease));
            Ok(match word == b"held" {
                true => Claimed::Held { fence, lease_until, is_replicated: true },
                false => Claimed::Redriven { fence, lease_until, is_replicated: true },
            })
        }
        Value::BulkString(word) if word == b"found" => {
            let fields = Fields::of(about)?.ok_or_else(|| unreadable(&"nothing was found"))?;
            let record = fields.record(request.key.clone(), next())?;
            match machine::claim(Some(&record), request, record.fence, clock) {
                (told, Change::Nothing) => Ok(told),
                (_, _) => Err(unreadable(&"a free key that was not given")),
            }
        }
        Value::BulkString(word) if word == b"full" => {
            Err(StoreError::Full("idempotency records of a tenant"))
        }
        Value::BulkString(word) if word == b"withdrawn" => {
            let late = "the claim came after it was given up";
            Err(StoreError::Unavailable(late.to_owned()))
        }
        other => Err(unreadable(other)),
    }
}

/// A claim that fewer replicas have than its route wants. It did run, whatever became of waiting for them: who does not
/// hold it withdraws it.
fn too_few(request: &ClaimRequest, error: StoreError) -> Result<(), StoreError> {
    match request.on_store_error {
        OnLedgerError::Bypass => {
            tracing::warn!(%error, "a claim is held that replicas may not have");
            Ok(())
        }
        OnLedgerError::Closed if may_have_run(&error) => Err(error),
        OnLedgerError::Closed => Err(StoreError::Unanswered(error.to_string())),
    }
}

/// Whether a command that failed so may have done its work.
const fn may_have_run(error: &StoreError) -> bool {
    matches!(error, StoreError::TimedOut(_) | StoreError::Unanswered(_))
}

impl Ledger for RedisLedger {
    async fn claim(&self, request: &ClaimRequest, now: i64) -> Result<Claimed, StoreError> {
        let nonce = Nonce::random();
        let asking =
            Asking { withdrawals: &self.withdrawals, claim: Some((&request.key, nonce, now)) };
        let told = self.ask(request, nonce, now).await;
        match &told {
            Err(error) if may_have_run(error) => drop(asking),
            Ok(_) | Err(_) => asking.answered(),
        }
        told
    }

    async fn renew(
        &self,
        key: &RecordKey,
        fence: Fence,
        lease: i64,
        now: i64,
    ) -> Result<Settled, StoreError> {
        self.take(key, fence, Step::Renew { lease }, now).await
    }

    async fn complete(
        &self,
        key: &RecordKey,
        fence: Fence,
        answer: Answer,
        replicas: u8,
        now: i64,
    ) -> Result<Settled, StoreError> {
        self.take(key, fence, Step::Complete(answer, replicas), now).await
    }

    async fn release(
        &self,
        key: &RecordKey,
        fence: Fence,
        now: i64,
    ) -> Result<Settled, StoreError> {
        self.take(key, fence, Step::Release, now).await
    }

    async fn mark_unknown(
        &self,
        key: &RecordKey,
        fence: Fence,
        now: i64,
    ) -> Result<Settled, StoreError> {
        self.take(key, fence, Step::MarkUnknown, now).await
    }

    async fn clear(&self, key: &RecordKey, fence: Fence, now: i64) -> Result<Settled, StoreError> {
        self.take(key, fence, Step::Clear, now).await
    }

    async fn find(&self, tenant: &TenantId, key: &Key, now: i64) -> Result<Found, StoreError> {
        let until = Instant::now() + SETTLE_DEADLINE;
        let index = index(tenant, Digest::of_lookup(tenant, key));
        let mut list = redis::cmd("ZREVRANGE");
        list.arg(&index).arg(0).arg(LOOKED_AT_MAX - 1);
        let listed = self.link.run(&index, &list, until).await?;
        let digests: Vec<Vec<u8>> =
            redis::from_redis_value(listed).map_err(|error| unreadable(&error))?;
        let keys: Vec<_> = digests
            .into_iter()
            .filter_map(|digest| digest.try_into().ok().map(Digest))
            .map(|digest| RecordKey { tenant: tenant.clone(), digest })
            .collect();
        let (now, told) = self.read(&index, &keys, Told::Outlines, until, now).await?;
        let mut records = Vec::new();
        for (key, told) in keys.into_iter().zip(told) {
            if let Some((fields, is_there)) = told
                && records.len() < FOUND_MAX
            {
                records.push(fields.outline(key, &is_there)?);
            }
        }
        Ok(Found { now, records })
    }

    async fn answer(
        &self,
        key: &RecordKey,
        fence: Fence,
        now: i64,
    ) -> Result<Option<Answer>, StoreError> {
        let until = Instant::now() + SETTLE_DEADLINE;
        let (keys, name) = ([key.clone()], Names::of(key).record);
        let (now, told) = self.read(&name, &keys, Told::Answers, until, now).await?;
        let Some((fields, answer)) = told.into_iter().next().flatten() else { return Ok(None) };
        let record = fields.record(key.clone(), answer)?;
        Ok(machine::answer(Some(&record), fence, now).cloned())
    }
}

/// What is told of records beside themselves.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Told {
    /// Whether their answers are there.
    Outlines,
    Answers,
}

impl RedisLedger {
    /// What time it is there, and of these keys, which are all in the slot of that name, the records that did not expire.
    async fn read(
        &self,
        slot: &str,
        keys: &[RecordKey],
        of_answers: Told,
        until: Instant,
        now: i64,
    ) -> Result<(i64, Vec<Option<(Fields, Value)>>), StoreError> {
        let names = keys.iter().map(Names::of).map(|names| (names.record, names.answer));
        let (records, answers): (Vec<_>, Vec<_>) = names.unzip();
        let fill = |command: &mut Cmd| {
            command.arg(2 * keys.len()).arg(&records).arg(&answers);
            fill_clock(command, self.clock, now);
            command.arg(u8::from(of_answers == Told::Answers));
        };
        let told = self.find.run(&self.link, until, slot, fill).await?;
        let (now, told): (i64, Vec<Option<(Value, Value)>>) =
            redis::from_redis_value(told).map_err(|error| unreadable(&error))?;
        let read = |told: Option<(Value, Value)>| {
            let Some((fields, answer)) = told else { return Ok(None) };
            Ok(Fields::of(fields)?.map(|fields| (fields, answer)))
        };
        Ok((now, told.into_iter().map(read).collect::<Result<_, StoreError>>()?))
    }
}

#[cfg(test)]
mod tests;
