//! Idempotency records that nodes share, on Redis.
//!
//! Invariants: a step is one script on the keys of one tenant; a claim of which nobody heard holds nothing. What becomes
//! of a record, the scripts decide as [`record`] does, and [`record`] itself tells what is found.

mod record;
mod replicas;
mod withdrawals;

use self::record::{Fields, Names, Nonce, index, newest_fence, withdrawal};
use super::counters::ClockOf;
use super::link::Link;
use super::script::Script;
use super::state::{number_of, unreadable};
use http::header::LOCATION;
use model::document::OnUnknown;
use model::id::TenantId;
use model::idempotency::record::{self as machine, Change};
use model::idempotency::{
    Answer, ClaimRequest, Claimed, Digest, Fence, Key, Ledger, Record, RecordKey, Settled,
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
    bytes_per_tenant: usize,
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
    /// Records behind this link, which is the ledger's alone: answers are large, and others wait behind them. A tenant's
    /// answers take no more than so many bytes.
    pub fn new(link: Link, clock: ClockOf, bytes_per_tenant: usize, runtime: &Handle) -> Self {
        Self {
            withdrawals: Withdrawals::new(link.clone(), clock, Script::new(WITHDRAW), runtime),
            replicas: Replicas::new(link.clone(), runtime),
            link,
            clock,
            bytes_per_tenant,
            claim: Script::new(CLAIM),
            settle: Script::new(SETTLE),
            find: Script::new(FIND),
        }
    }

    /// The link to Redis.
    pub fn link(&self) -> &Link {
        &self.link
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
            command.arg(2 + more.len()).arg(&names.record).arg(&names.answer).arg(&more);
            fill_clock(command, self.clock, now);
            command.arg(request.lease).arg(request.retention);
            command.arg(u8::from(request.on_unknown == OnUnknown::Redrive)).arg(nonce.to_string());
            command.arg(&fingerprint.0.0).arg(&lookup.0);
            command.arg(request.route.as_str()).arg(request.owner.as_str()).arg(&key.digest.0);
        };
        let until = Instant::now() + CLAIM_DEADLINE;
        let (value, had) =
            self.run(&self.claim, until, &names.record, fill, request.replicas).await?;
        let told = told(request, value, now)?;
        if let Claimed::Held { .. } | Claimed::Redriven { .. } = told {
            // The claim did run, whatever became of waiting for replicas: it is to be withdrawn.
            had.map_err(|error| match may_have_run(&error) {
                true => error,
                false => StoreError::Unanswered(error.to_string()),
            })?;
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
            command.arg(3).arg(&names.record).arg(&names.answer).arg(&names.bytes);
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
        let until = Instant::now() + SETTLE_DEADLINE;
        let replicas = if let Step::Complete(_, replicas) = step { replicas } else { 0 };
        let (value, had) = self.run(&self.settle, until, &names.record, fill, replicas).await?;
        match value {
            Value::BulkString(word) if word == b"applied" => had.map(|()| Settled::Applied),
            Value::BulkString(word) if word == b"already" => Ok(Settled::Already),
            Value::BulkString(word) if word == b"stale" => Ok(Settled::Stale),
            other => Err(unreadable(&other)),
        }
    }

    /// Runs a script, and says whether so many replicas have what it wrote.
    async fn run(
        &self,
        script: &Script,
        until: Instant,
        key: &str,
        fill: impl Fn(&mut Cmd),
        replicas: u8,
    ) -> Result<(Value, Result<(), StoreError>), StoreError> {
        match replicas {
            0 => Ok((script.run(&self.link, until, key, fill).await?, Ok(()))),
            _ => self.replicas.run(script, until, key, fill, replicas).await,
        }
    }

    fn fill_answer<'a>(&self, command: &'a mut Cmd, answer: &Answer) -> &'a mut Cmd {
        command.arg("complete").arg(answer.status().as_u16());
        let location = match answer {
            Answer::Retained(response) => {
                command.arg("done").arg(response.to_bytes());
                let mut headers = response.headers.iter();
                headers.find(|(name, _)| *name == LOCATION).map(|(_, value)| value)
            }
            Answer::Sealed(response) => {
                command.arg("sealed").arg(&*response.bytes);
                None
            }
            Answer::NotRetained { location, .. } => {
                command.arg("not_retained").arg("");
                location.as_ref()
            }
        };
        command.arg(answer.size()).arg(self.bytes_per_tenant);
        match location {
            Some(location) => command.arg(location.as_bytes()),
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
                true => Claimed::Held { fence, lease_until },
                false => Claimed::Redriven { fence, lease_until },
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
        Value::BulkString(word) if word == b"withdrawn" => {
            let late = "the claim came after it was given up";
            Err(StoreError::Unavailable(late.to_owned()))
        }
        other => Err(unreadable(other)),
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

    async fn find(
        &self,
        tenant: &TenantId,
        key: &Key,
        now: i64,
    ) -> Result<Vec<Record>, StoreError> {
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
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        self.read(keys, until, now).await
    }
}

impl RedisLedger {
    /// The records of these keys, and their answers.
    async fn read(
        &self,
        keys: Vec<RecordKey>,
        until: Instant,
        now: i64,
    ) -> Result<Vec<Record>, StoreError> {
        let names: Vec<_> = keys.iter().map(Names::of).collect();
        let records: Vec<_> = names.iter().map(|names| names.record.as_str()).collect();
        let Some(first) = records.first() else { return Ok(Vec::new()) };
        let fill = |command: &mut Cmd| {
            command.arg(records.len()).arg(&records);
            fill_clock(command, self.clock, now);
        };
        let told = self.find.run(&self.link, until, first, fill).await?;
        let Value::Array(told) = told else { return Err(unreadable(&told)) };
        let mut found = Vec::new();
        for ((key, names), fields) in keys.into_iter().zip(&names).zip(told) {
            if let Some(fields) = Fields::of(fields)?
                && found.len() < FOUND_MAX
            {
                let answer = match fields.is_answered() {
                    true => {
                        let mut get = redis::cmd("GET");
                        get.arg(&names.answer);
                        self.link.run(&names.answer, &get, until).await?
                    }
                    false => Value::Nil,
                };
                found.push(fields.record(key, answer)?);
            }
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests;
