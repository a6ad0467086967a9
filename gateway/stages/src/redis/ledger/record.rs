//! How idempotency records are written in Redis, read back into the model's own.
//!
//! Invariant: the model says what a record means; here is only text. `prelude.lua` says what the text looks like.

use super::super::state::unreadable;
use http::{HeaderValue, StatusCode};
use model::id::TenantId;
use model::idempotency::{
    Answer, Digest, Fence, Fingerprint, Outline, Owner, Record, RecordKey, SealedResponse, State,
    StoredResponse,
};
use model::port::StoreError;
use redis::{FromRedisValue, Value};

/// The names of what belongs to one record.
pub(super) struct Names {
    pub(super) record: String,
    pub(super) answer: String,
    /// Of the tenant.
    pub(super) bytes: String,
    /// Of the tenant.
    pub(super) records: String,
}

impl Names {
    pub(super) fn of(key: &RecordKey) -> Self {
        let RecordKey { tenant, digest } = key;
        Self {
            record: format!("ik:{{{tenant}}}:{digest}"),
            answer: format!("ia:{{{tenant}}}:{digest}"),
            bytes: format!("ib:{{{tenant}}}"),
            records: format!("ib:{{{tenant}}}:records"),
        }
    }
}

pub(super) fn index(tenant: &TenantId, lookup: Digest) -> String {
    format!("il:{{{tenant}}}:{lookup}")
}

pub(super) fn newest_fence(tenant: &TenantId) -> String {
    format!("if:{{{tenant}}}")
}

pub(super) fn withdrawal(tenant: &TenantId, nonce: Nonce) -> String {
    format!("iw:{{{tenant}}}:{nonce}")
}

/// Tells a claim from all others, before it has a fence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Nonce(u128);

impl Nonce {
    pub(super) fn random() -> Self {
        Self(rand::random())
    }
}

impl std::fmt::Display for Nonce {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// A record's fields, in the order in which the scripts tell them.
pub(super) struct Fields(Vec<Value>);

impl Fields {
    /// Those of a record; nothing where there is none.
    pub(super) fn of(value: Value) -> Result<Option<Self>, StoreError> {
        match value {
            Value::Nil => Ok(None),
            Value::Array(fields) => Ok(Some(Self(fields))),
            other => Err(unreadable(&other)),
        }
    }

    /// The record. Where its answer should be kept and is not there, it counts as not retained.
    pub(super) fn record(&self, key: RecordKey, answer: Value) -> Result<Record, StoreError> {
        self.read(key, |kept| self.answer(kept, answer))
            .ok_or_else(|| unreadable(&"an idempotency record"))
    }

    /// The record, told whether its answer is there.
    pub(super) fn outline(
        &self,
        key: RecordKey,
        is_there: &Value,
    ) -> Result<Record<Outline>, StoreError> {
        let is_there = *is_there == Value::Int(1);
        self.read(key, |kept| self.outlined(kept, is_there))
            .ok_or_else(|| unreadable(&"an idempotency record"))
    }

    fn read<A>(&self, key: RecordKey, answer: impl FnOnce(&str) -> Option<A>) -> Option<Record<A>> {
        let time = self.number(2)?;
        let state = match self.text(1)?.as_str() {
            "dispatched" => State::Dispatched { lease_until: time },
            "unknown" => State::Unknown { since: time },
            kept => State::Done { stored_at: time, answer: answer(kept)? },
        };
        Some(Record {
            key,
            lookup: self.digest(7)?,
            route: self.text(8)?.as_str().into(),
            fingerprint: Fingerprint(self.digest(6)?),
            fence: Fence(self.number(3)?),
            owner: Owner::from(self.text(9)?.as_str()),
            claimed_at: self.number(10)?,
            retention: self.number(5)?,
            expires_at: self.number(4)?,
            in_doubt: self.number(13)? == 1,
            state,
        })
    }

    fn answer(&self, kept: &str, answer: Value) -> Option<Answer> {
        let status = self.status()?;
        let place: Option<Vec<u8>> = self.get(14)?;
        let sealed = |bytes: Option<Vec<u8>>, place: Option<Vec<u8>>| {
            let (bytes, location) = (bytes.map(Into::into), place.map(Into::into));
            Some(Answer::Sealed(SealedResponse { status, bytes, location }))
        };
        match (kept, answer, place) {
            ("done", Value::BulkString(bytes), _) => {
                StoredResponse::from_bytes(status, &bytes.into()).map(Answer::Retained)
            }
            ("sealed", Value::BulkString(bytes), place) => sealed(Some(bytes), place),
            ("sealed" | "not_retained", _, place @ Some(_)) => sealed(None, place),
            ("done" | "sealed" | "not_retained", _, _) => {
                let location: Option<Vec<u8>> = self.get(12)?;
                let location = location.and_then(|value| HeaderValue::from_bytes(&value).ok());
                Some(Answer::NotRetained { status, location })
            }
            (_, _, _) => None,
        }
    }

    fn outlined(&self, kept: &str, is_there: bool) -> Option<Outline> {
        let is_retained = match kept {
            "done" | "sealed" => is_there,
            "not_retained" => false,
            _ => return None,
        };
        let size: Option<usize> = self.get(15)?;
        Some(Outline { status: self.status()?, is_retained, size: size.unwrap_or(0) })
    }

    fn status(&self) -> Option<StatusCode> {
        StatusCode::from_u16(self.get(11)?).ok()
    }

    fn get<T: FromRedisValue>(&self, place: usize) -> Option<T> {
        redis::from_redis_value(self.0.get(place)?.clone()).ok()
    }

    fn text(&self, place: usize) -> Option<String> {
        self.get(place)
    }

    fn number(&self, place: usize) -> Option<i64> {
        self.get(place)
    }

    fn digest(&self, place: usize) -> Option<Digest> {
        let bytes: Vec<u8> = self.get(place)?;
        bytes.try_into().ok().map(Digest)
    }
}
