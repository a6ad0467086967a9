//! What the claims write: small values of each kind, told apart by a number.

use crate::Store;
use crate::control::{Effect, Write, WriteError, Written};
use jiff::Timestamp;
use model::audit::Entry;
use model::id::NodeName;
use model::record::{Record, StageRecord, Verdict};
use model::revision::KeptAnswer;
use model::revocation::{Revocation, Revoked};
use model::role::{Actor, Role};
use model::token::{Token, TokenHash};
use std::sync::atomic::{AtomicU64, Ordering};

/// When everything begins, in seconds since the epoch.
const START: i64 = 1_800_000_000;

/// So many seconds after the beginning.
pub(super) fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(START + seconds).unwrap()
}

/// An id as UUIDv7 would sort: by number.
pub(super) fn id(number: u64) -> String {
    format!("01890a5d-ac96-774b-bcce-{number:012x}")
}

/// The next audit entry of this test program, with a secret-free difference.
pub(super) fn entry(action: &str, resource: &str) -> Entry {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    Entry {
        id: id(number),
        at: at(0),
        actor: Actor {
            token: Some("t1".into()),
            name: "ann".to_owned(),
            role: Some(Role::Admin),
            tenant: None,
            source: "127.0.0.1".to_owned(),
        },
        action: action.to_owned(),
        resource: resource.to_owned(),
        tenant: None,
        request_id: format!("request-{number}"),
        revision: None,
        difference: serde_json::json!([{ "op": "add", "path": "/plans/0", "value": number }]),
        refused: None,
    }
}

pub(super) fn publish(text: &str, base: u64) -> Write {
    write(publication(text, base, None))
}

pub(super) fn staged(text: &str, base: u64, nodes: &[&str]) -> Write {
    let nodes = Some(nodes.iter().copied().map(NodeName::from).collect());
    write(publication(text, base, nodes))
}

fn publication(text: &str, base: u64, nodes: Option<Vec<NodeName>>) -> Effect {
    let text = text.into();
    Effect::Publish { text, base, nodes, replaces_staged: false, events: Vec::new() }
}

/// Publishes what takes the place of a staged one.
pub(super) fn rollback(text: &str, base: u64) -> Write {
    let text = text.into();
    write(Effect::Publish { text, base, nodes: None, replaces_staged: true, events: Vec::new() })
}

pub(super) fn write(effect: Effect) -> Write {
    Write { effect, audit: entry("document.put", "/v1/document"), answer: None }
}

/// Publishes, and says the number.
pub(super) async fn published(store: &Store, text: &str, base: u64) -> u64 {
    done(store.write(publish(text, base)).await).revision.unwrap()
}

pub(super) fn done(written: Result<Written, WriteError>) -> Written {
    written.unwrap()
}

pub(super) fn token(number: u64, role: Role, tenant: Option<&str>) -> (Token, TokenHash) {
    let token = Token {
        id: id(number).as_str().into(),
        name: format!("token {number}"),
        role,
        tenant: tenant.map(Into::into),
        created_at: at(0),
        expires_at: None,
        revoked_at: None,
    };
    (token, [u8::try_from(number).unwrap(); 32])
}

pub(super) fn revocation(number: u64, jti: &str, seconds: i64) -> Revocation {
    Revocation {
        id: id(number),
        at: at(seconds),
        until: Some(at(seconds + 60)),
        what: Revoked::Jti { issuer: "idp".into(), jti: jti.to_owned() },
    }
}

pub(super) fn answer(digest: u8, seconds: i64) -> KeptAnswer {
    KeptAnswer {
        digest: [digest; 32],
        fingerprint: [digest + 1; 32],
        status: 201,
        sealed: vec![0, digest, 255],
        until: at(seconds),
    }
}

pub(super) fn record(number: u64, tenant: Option<&str>, route: &str, seconds: i64) -> Record {
    Record {
        id: id(number),
        request_id: format!("request-{number}"),
        trace_id: format!("{number:032x}"),
        at: at(seconds),
        took_us: 1_234,
        node: Some("a".into()),
        revision: 3,
        method: "GET".to_owned(),
        path: "/v1/contacts".to_owned(),
        route: route.into(),
        tenant: tenant.map(Into::into),
        consumer: tenant.map(|tenant| format!("{tenant}-mobile").as_str().into()),
        version: Some("v1".into()),
        status: Some(200),
        error: (number % 2 == 1).then(|| "RATE_LIMITED".to_owned()),
        cause: None,
        stages: vec![StageRecord {
            stage: "route".to_owned(),
            verdict: Verdict::Passed,
            took_us: 7,
        }],
        limits: Vec::new(),
        packs: Vec::new(),
        idempotency: None,
        upstream: None,
    }
}
