//! What becomes of exchanges at the hands of packs, without an edge.

use super::*;
use crate::facts::{PackFact, Said};
use crate::gateway::Gateway;
use crate::pipeline::Halt;
use crate::report::Part;
use crate::snapshot::Snapshot;
use crate::tests::pack::{key, lay, misbehave};
use crate::tests::{gateway, store};
use crate::trace::Trace;
use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};
use jiff::Timestamp;
use model::config;
use model::{ErrorCode, FailureReason, Head, Identity, Reject};
use pack_host::PolicyRequest;
use serde_json::{Value, json};
use std::time::Duration;
use tempfile::TempDir;

/// A revision with these attachments in force.
struct Bench {
    gateway: Arc<Gateway>,
    snapshot: Arc<Snapshot>,
    trace: Trace,
    now: i64,
    _folder: TempDir,
}

/// An attachment of the pack that misbehaves; `with` says what is otherwise than usual.
fn attachment(id: &str, settings: &Value, with: &Value) -> Value {
    let mut entry = json!({
        "id": id, "pack": "misbehave@1.0.0", "phases": ["request"], "mode": "enforce",
        "on_failure": "closed", "settings": settings,
    });
    for (field, value) in with.as_object().unwrap() {
        entry[field] = value.clone();
    }
    entry
}

fn document(attachments: &[Value]) -> Value {
    let tenant = |id: &str, plan: &str| json!({ "id": id, "plan": plan, "state": "active", "consumers": [{ "id": "app", "scopes": ["read"] }] });
    let route = |id: &str, method: &str| {
        json!({ "id": id, "service": "contacts", "match": { "path": "/contacts", "methods": [method] },
                "authenticate": { "any_of": ["api_key"] } })
    };
    json!({
        "format": 1,
        "upstreams": [{ "id": "crm", "targets": [{ "address": "127.0.0.1:9" }] }],
        "services": [{ "id": "contacts", "select": ["path"],
                       "versions": [{ "name": "v1", "upstream": "crm", "state": "active" }] }],
        "routes": [route("list", "GET"), route("create", "POST")],
        "plans": [{ "id": "gold", "limits": [] },
                  { "id": "small", "limits": [], "packs": { "cpu_per_second": "1ms", "instances": 1 } }],
        "tenants": [tenant("acme", "gold"), tenant("globex", "gold"), tenant("initech", "small")],
        "pack_keys": [key(&["*"])],
        "packs": [{ "id": "misbehave", "version": "1.0.0" }, { "id": "misbehave", "version": "1.1.0" }],
        "attachments": attachments,
    })
}

impl Bench {
    async fn of(attachments: &[Value]) -> Self {
        let (store, folder) = store().await;
        let gateway = gateway(&store, "node-a", folder.path());
        lay(folder.path(), &misbehave("1.0.0"));
        lay(folder.path(), &misbehave("1.1.0"));
        let config = Arc::new(config::read(&document(attachments).to_string()).unwrap());
        let compiling = gateway.clone();
        let compiled =
            tokio::task::spawn_blocking(move || compiling.compile(config)).await.unwrap();
        gateway.put_in_force(compiled.unwrap_or_else(|errors| panic!("{errors:?}")), 1);
        let snapshot = gateway.live.pin().unwrap();
        let trace = Trace::of(&HeaderMap::new(), Timestamp::UNIX_EPOCH);
        let now = gateway.clock.micros();
        Self { gateway, snapshot, trace, now, _folder: folder }
    }

    fn picks(&self, tenant: &str, method: &Method) -> Option<Picks> {
        let mut headers = HeaderMap::new();
        headers.insert("x-a", "client".parse().unwrap());
        headers.insert("content-length", "5".parse().unwrap());
        let head = Arc::new(Head {
            method: method.clone(),
            path: "/v1/contacts".to_owned(),
            query: None,
            authority: "api.example".to_owned(),
            headers,
            client: std::net::Ipv4Addr::LOCALHOST.into(),
        });
        let matched = self.snapshot.routes.find(&head).unwrap();
        let request = || PolicyRequest {
            head,
            body: None,
            body_size: None,
            identity: Arc::new(Identity {
                tenant: tenant.into(),
                consumer: "app".into(),
                subject: "app".to_owned(),
                credential: "k1".to_owned(),
                scopes: Vec::new(),
                claims: Arc::default(),
            }),
            plan: "gold".into(),
            timezone: jiff::tz::TimeZone::UTC,
            route: matched.route().id.clone(),
            version: "v1".into(),
            request_id: "request-1".into(),
            now: Timestamp::UNIX_EPOCH,
        };
        Picks::of(&matched.route().attached, &self.snapshot.tenants[tenant], request)
    }

    /// What becomes of acme's request, and what was said.
    fn on_request(&self) -> (Result<model::Edits, Halt>, Vec<PackFact>) {
        let mut said = Vec::new();
        let mut picks = self.picks("acme", &Method::GET).unwrap();
        picks.show_body(Bytes::from_static(b"hello"));
        (picks.on_request(&self.trace, self.now, &mut said), said)
    }

    fn on_response(&self, body: AnswerBody) -> (Result<Responded, Reject>, Vec<PackFact>) {
        let mut said = Vec::new();
        let mut headers = HeaderMap::new();
        headers.insert("etag", "\"1\"".parse().unwrap());
        headers.insert("x-a", "upstream".parse().unwrap());
        let picks = self.picks("acme", &Method::GET).unwrap();
        let at = (&self.trace, self.now);
        (picks.on_response(StatusCode::OK, headers, body, at, &mut said), said)
    }
}

/// `attachment part what` of each.
fn told(said: &[PackFact]) -> Vec<String> {
    let what = |fact: &PackFact| match &fact.said {
        Ok(Said::Cost(units)) => format!("cost {units}"),
        Ok(said) => said.as_str().to_owned(),
        Err((reason, _)) => reason.as_str().to_owned(),
    };
    let one = |fact: &PackFact| {
        format!("{} {} {}", fact.attachment, fact.series.part.as_str(), what(fact))
    };
    said.iter().map(one).collect()
}

fn refused<T>(result: Result<T, Halt>) -> Reject {
    match result {
        Err(Halt::Reject(reject)) => reject,
        Err(Halt::Reply(reply)) => panic!("{reply:?}"),
        Ok(_) => panic!("it goes on"),
    }
}

fn sets(name: &str, value: &str) -> Value {
    json!({ "how": "set", "name": name, "value": value, "times": 1 })
}

fn denies(reason: &str) -> Value {
    json!({ "how": "deny", "status": 403, "reason": reason, "details": [] })
}

#[tokio::test]
async fn a_request_meets_what_is_attached_for_its_route_and_tenant_in_order() {
    let halted = |id: &str, order: i32, scope: Value| {
        attachment(id, &json!({}), &json!({ "halted": true, "order": order, "scope": scope }))
    };
    let bench = Bench::of(&[
        halted("last", 9, json!({})),
        halted("of-acme", 5, json!({ "tenant": "acme" })),
        halted("of-globex-on-create", 4, json!({ "tenant": "globex", "route": "create" })),
        halted("b", 1, json!({ "service": "contacts" })),
        halted("a", 1, json!({ "route": "list" })),
        halted("of-initech", 0, json!({ "tenant": "initech" })),
    ])
    .await;
    for (tenant, method, expected) in [
        ("acme", Method::GET, ["of-acme", "a", "b", "last"].as_slice()),
        ("acme", Method::POST, &["of-acme", "b", "last"]),
        ("globex", Method::GET, &["a", "b", "last"]),
        ("globex", Method::POST, &["of-globex-on-create", "b", "last"]),
        ("initech", Method::POST, &["of-initech", "b", "last"]),
    ] {
        let picks = bench.picks(tenant, &method).unwrap();
        let found: Vec<_> = picks.picks.iter().map(|pick| pick.attachment.id.as_str()).collect();
        assert_eq!(found, expected, "{tenant} {method}");
    }
}

#[tokio::test]
async fn what_is_attached_for_others_costs_a_request_nothing() {
    let other = json!({ "halted": true, "scope": { "tenant": "globex" } });
    let bench = Bench::of(&[attachment("a", &json!({}), &other)]).await;
    assert!(bench.picks("acme", &Method::GET).is_none());
    assert!(bench.picks("globex", &Method::GET).is_some());
}

#[tokio::test]
async fn a_halted_attachment_fails_as_it_says() {
    for (on_failure, is_refused) in [("closed", true), ("open", false)] {
        let halted = json!({ "halted": true, "on_failure": on_failure,
                             "phases": ["cost", "request", "response"] });
        let bench = Bench::of(&[attachment("a", &json!({}), &halted)]).await;
        let (decided, said) = bench.on_request();
        assert_eq!(told(&said), ["a enforce quarantined"]);
        let (responded, said) = bench.on_response(AnswerBody::Streaming);
        assert_eq!(told(&said), ["a enforce quarantined"]);
        let picks = bench.picks("acme", &Method::GET).unwrap();
        let cost = picks.cost(5, &bench.trace, 0, &mut Vec::new());
        if is_refused {
            for reject in [refused(decided), responded.unwrap_err(), cost.unwrap_err()] {
                assert_eq!(reject.code, ErrorCode::PolicyFailed);
                assert_eq!(reject.details["policy"], "a");
            }
        } else {
            assert_eq!(decided.unwrap(), model::Edits::default());
            assert!(
                matches!(responded, Ok(Responded::Edited(edits)) if edits == model::Edits::default())
            );
            assert_eq!(cost.unwrap(), 5, "the route's");
        }
    }
}

#[tokio::test]
async fn the_sum_of_what_packs_say_is_the_cost() {
    let says = |id: &str, units: u32, with: Value| {
        let mut entry = attachment(id, &json!({ "how": "cost", "units": units }), &with);
        entry["phases"] = json!(["cost"]);
        entry
    };
    let panics = json!({ "how": "panic", "message": "boom" });
    let fails =
        json!({ "phases": ["cost"], "on_failure": "open", "quarantine": { "faults": 100 } });
    let of = |tenant: &str| json!({ "scope": { "tenant": tenant } });
    // The list is everybody's business, to create is not.
    let on_list = |mode: &str| json!({ "mode": mode, "scope": { "route": "list" } });
    let bench = Bench::of(&[
        says("three", 3, on_list("enforce")),
        says("nothing", 0, on_list("enforce")),
        says("watches", 100, on_list("observe")),
        says("four", 4, of("acme")),
        says("free", 0, of("globex")),
        says("much", u32::MAX, of("initech")),
        attachment("fails", &panics, &fails),
    ])
    .await;
    for (tenant, method, of_route, cost) in [
        ("acme", Method::GET, 20, 7),
        ("globex", Method::GET, 20, 3),
        ("initech", Method::GET, 20, COST_MAX),
        // A tenant's own pack only makes its requests dearer.
        ("acme", Method::POST, 20, 20),
        ("acme", Method::POST, 2, 4),
        ("globex", Method::POST, 1, 1),
    ] {
        let mut said = Vec::new();
        let picks = bench.picks(tenant, &method).unwrap();
        let said_cost = picks.cost(of_route, &bench.trace, bench.now, &mut said).unwrap();
        assert_eq!(said_cost, cost, "{tenant} {method} {of_route}");
        assert!(told(&said).contains(&"fails enforce trap".to_owned()));
    }
    let free = Bench::of(&[says("nothing", 0, json!({}))]).await;
    let picks = free.picks("acme", &Method::GET).unwrap();
    let cost = picks.cost(20, &free.trace, free.now, &mut Vec::new());
    assert_eq!(cost.unwrap(), 1, "nothing is free of all limits");
}

#[tokio::test]
async fn no_tenants_pack_undoes_what_everybodys_do() {
    let echo = json!({ "how": "echo", "names": ["x-a"] });
    let own = |order: i32| json!({ "order": order, "scope": { "tenant": "acme" }, "phases": ["request", "response"] });
    let everybodys = json!({ "order": 0, "phases": ["request", "response"] });
    for order in [-9, 9] {
        let bench = Bench::of(&[
            attachment("everybodys", &sets("x-a", "everybodys"), &everybodys),
            attachment("own", &sets("x-a", "own"), &own(order)),
        ])
        .await;
        let (decided, said) = bench.on_request();
        assert_eq!(told(&said), ["own enforce edit", "everybodys enforce edit"]);
        let mut headers = HeaderMap::new();
        decided.unwrap().apply(&mut headers);
        assert_eq!(headers["x-a"], "everybodys", "they have the last word about requests");
        // And are the first to see answers: what they hide is hidden.
        let bench = Bench::of(&[
            attachment("everybodys", &sets("x-a", "hidden"), &everybodys),
            attachment("own", &echo, &own(order)),
        ])
        .await;
        let (responded, said) = bench.on_response(AnswerBody::None);
        assert_eq!(told(&said), ["everybodys enforce edit", "own enforce deny"]);
        let reject = responded.unwrap_err();
        assert_eq!(reject.details["response_header"]["x-a"], json!(b"hidden"));
    }
}

#[tokio::test]
async fn a_packs_answer_is_shown_to_those_that_follow() {
    let answers =
        json!({ "how": "answer", "status": 203, "headers": [["x-a", "answer"]], "body": "old" });
    let on = json!({ "phases": ["response"] });
    let bench = Bench::of(&[
        attachment("1", &answers, &on),
        attachment("2", &json!({ "how": "rewrite", "body": "new", "times": 1 }), &on),
        attachment("3", &sets("x-a", "changed"), &on),
    ])
    .await;
    let (responded, said) = bench.on_response(AnswerBody::None);
    let Ok(Responded::Replaced(reply)) = responded else { panic!("{responded:?}") };
    assert_eq!((reply.status.as_u16(), reply.body.as_ref()), (203, b"new".as_slice()));
    assert_eq!(reply.headers["x-a"], "changed");
    assert_eq!(told(&said), ["1 enforce answer", "2 enforce edit", "3 enforce edit"]);
}

#[tokio::test]
async fn each_sees_the_request_as_those_before_it_left_it() {
    let bench = Bench::of(&[
        attachment("1", &sets("x-a", "first"), &json!({})),
        attachment("2", &json!({ "how": "rewrite", "body": "other", "times": 2 }), &json!({})),
        attachment("3", &sets("x-a", "unseen"), &json!({ "mode": "observe" })),
        attachment("4", &json!({ "how": "echo", "names": ["x-a", "content-length"] }), &json!({})),
        attachment("5", &denies("never"), &json!({})),
    ])
    .await;
    let (decided, said) = bench.on_request();
    let reject = refused(decided);
    assert_eq!((reject.code, &reject.details["policy"]), (ErrorCode::PolicyDenied, &json!("4")));
    assert_eq!(reject.details["header"]["x-a"], json!(b"first"));
    assert_eq!(reject.details["header"]["content-length"], json!(b"10"));
    assert_eq!(reject.details["body"], json!(b"otherother"));
    assert_eq!(
        told(&said),
        ["1 enforce edit", "2 enforce edit", "3 observe edit", "4 enforce deny"],
        "nobody is asked after a refusal"
    );
}

#[tokio::test]
async fn another_body_takes_with_it_what_was_said_of_the_old_one() {
    let on = json!({ "phases": ["response"] });
    let rewrites = json!({ "how": "rewrite", "body": "new", "times": 1 });
    let bench = Bench::of(&[
        attachment("1", &rewrites, &on),
        attachment("2", &sets("x-a", "changed"), &on),
    ])
    .await;
    let apply = |responded: Result<Responded, Reject>| {
        let Ok(Responded::Edited(edits)) = responded else { panic!("{responded:?}") };
        let mut headers = HeaderMap::new();
        headers.insert("etag", "\"1\"".parse().unwrap());
        edits.apply(&mut headers);
        (edits.body, headers.contains_key("etag"), headers["x-a"].clone())
    };
    let (responded, said) = bench.on_response(AnswerBody::Whole(Bytes::from_static(b"old")));
    assert_eq!(apply(responded), (Some("new".into()), false, "changed".parse().unwrap()));
    assert_eq!(told(&said), ["1 enforce edit", "2 enforce edit"]);
    // Where there is no body, none is put.
    let (responded, _) = bench.on_response(AnswerBody::None);
    assert_eq!(apply(responded), (None, true, "changed".parse().unwrap()));
}

#[tokio::test]
async fn a_body_that_is_not_held_fails_those_that_read_it() {
    let on = json!({ "phases": ["response"], "on_failure": "open" });
    let bench = Bench::of(&[attachment("1", &sets("x-a", "changed"), &on)]).await;
    let (responded, said) = bench.on_response(AnswerBody::Streaming);
    assert!(matches!(responded, Ok(Responded::Edited(edits)) if edits == model::Edits::default()));
    assert_eq!(told(&said), ["1 enforce body_too_large"]);
    assert!(!FailureReason::BodyTooLarge.is_fault(), "the pack can't help it");
    let mut picks = bench.picks("acme", &Method::GET).unwrap();
    assert_eq!(picks.readers(), (Readers::Actors, Readers::Actors));
    picks.withhold_body();
    let mut said = Vec::new();
    let at = (&bench.trace, bench.now);
    let responded =
        picks.on_response(StatusCode::OK, HeaderMap::new(), AnswerBody::None, at, &mut said);
    assert!(responded.is_ok());
    assert_eq!(told(&said), ["1 enforce body_too_large"]);
    for (with, of_request, of_answer) in [
        (json!({ "phases": ["cost"] }), Readers::Nobody, Readers::Nobody),
        (json!({ "phases": ["request"] }), Readers::Actors, Readers::Nobody),
        (json!({ "mode": "observe" }), Readers::Observers, Readers::Nobody),
        (
            json!({ "mode": "observe", "phases": ["response"] }),
            Readers::Observers,
            Readers::Observers,
        ),
        (json!({ "halted": true }), Readers::Nobody, Readers::Nobody),
    ] {
        let bench = Bench::of(&[attachment("1", &sets("x-a", "changed"), &with)]).await;
        let readers = bench.picks("acme", &Method::GET).unwrap().readers();
        assert_eq!(readers, (of_request, of_answer), "{with}");
    }
}

#[tokio::test]
async fn a_pack_can_answer_in_both_phases() {
    let settings =
        json!({ "how": "answer", "status": 203, "headers": [["x-by", "pack"]], "body": "hello" });
    let both = json!({ "phases": ["request", "response"] });
    let bench = Bench::of(&[attachment("1", &settings, &both)]).await;
    let (decided, _) = bench.on_request();
    let Err(Halt::Reply(asked)) = decided else { panic!("{decided:?}") };
    let (responded, _) = bench.on_response(AnswerBody::Whole(Bytes::new()));
    let Ok(Responded::Replaced(answered)) = responded else { panic!("{responded:?}") };
    for reply in [asked, answered] {
        assert_eq!((reply.status.as_u16(), reply.body.as_ref()), (203, b"hello".as_slice()));
        assert_eq!(reply.headers["x-by"], "pack");
        assert_eq!(reply.charged, model::quota::Outcome::Answered);
    }
}

fn rollout(mode: &str, percent: u32) -> Value {
    json!({ "candidate": "misbehave@1.1.0", "mode": mode, "percent": percent, "window": "10m",
            "min_samples": 100 })
}

#[tokio::test]
async fn a_candidate_and_the_running_version_are_asked_about_the_same() {
    let asks = json!({ "how": "ask", "counters": [["seen", 1]], "random": 1 });
    for (mode, parts) in [
        ("observe", ["1 shadow deny", "1 enforce deny"]),
        ("canary", ["1 baseline deny", "1 canary deny"]),
    ] {
        let with = json!({ "rollout": rollout(mode, 100) });
        let bench = Bench::of(&[attachment("1", &asks, &with)]).await;
        for count in 1..=2 {
            let (decided, said) = bench.on_request();
            assert_eq!(told(&said), parts);
            assert_eq!(refused(decided).details["counters"], json!([count]), "one of them counts");
        }
        let seen = bench.snapshot.rollouts[0].clone();
        assert_eq!((seen.running.as_str(), seen.candidate.as_str()), ("1.0.0", "1.1.0"));
    }
}

#[tokio::test]
async fn a_candidate_without_a_share_is_not_asked() {
    let mut none = rollout("canary", 1);
    none["percent"] = json!(0.000_001);
    none["by"] = json!("tenant");
    let bench = Bench::of(&[attachment("1", &denies("no"), &json!({ "rollout": none }))]).await;
    let (_, said) = bench.on_request();
    assert_eq!(told(&said), ["1 enforce deny"]);
    assert_eq!(&*said[0].series.version, "1.0.0");
}

#[tokio::test]
async fn a_tenant_that_has_spent_its_time_fails_alone() {
    let bench = Bench::of(&[attachment("1", &denies("no"), &json!({}))]).await;
    let ask = |tenant: &str| {
        let mut said = Vec::new();
        let mut picks = bench.picks(tenant, &Method::GET).unwrap();
        let reject = refused(picks.on_request(&bench.trace, bench.now, &mut said));
        (reject.code, reject.retry_after, told(&said))
    };
    let denied = || (ErrorCode::PolicyDenied, None, vec!["1 enforce deny".to_owned()]);
    assert_eq!(ask("initech"), denied());
    bench.snapshot.tenants["initech"].usage.charge(Duration::from_secs(5), bench.now);
    let spent = vec!["1 enforce tenant_cpu".to_owned()];
    assert_eq!(ask("initech"), (ErrorCode::PolicyFailed, Some(1), spent));
    assert_eq!(ask("acme"), denied());
    // What its packs use is charged.
    let used = &bench.snapshot.tenants["acme"].usage;
    used.charge(Duration::from_millis(200), bench.now);
    assert!(used.is_spent(bench.now), "the last question took some time");
}

#[tokio::test]
async fn places_are_limited_by_tenant_and_by_attachment() {
    let with = json!({ "limits": { "instances": 1 } });
    let bench = Bench::of(&[attachment("1", &denies("no"), &with)]).await;
    let ask = |tenant: &str| {
        let mut said = Vec::new();
        let mut picks = bench.picks(tenant, &Method::GET).unwrap();
        let _ = picks.on_request(&bench.trace, bench.now, &mut said);
        told(&said).remove(0)
    };
    let taken = bench.snapshot.tenants["initech"].usage.enter();
    assert_eq!(ask("initech"), "1 enforce saturated", "its plan has one place");
    assert_eq!(ask("acme"), "1 enforce deny");
    drop(taken);
    assert_eq!(ask("initech"), "1 enforce deny");
    let picks = bench.picks("acme", &Method::GET).unwrap();
    let attachment = picks.picks[0].attachment.clone();
    let taken = attachment.usage.enter();
    assert_eq!(ask("acme"), "1 enforce saturated");
    drop(taken);
    assert_eq!(ask("acme"), "1 enforce deny");
}

#[tokio::test]
async fn a_version_that_fails_too_often_is_stopped_on_this_node() {
    let with = json!({ "quarantine": { "faults": 3, "window": "1m" }, "on_failure": "open" });
    let boom = json!({ "how": "panic", "message": "boom" });
    let bench = Bench::of(&[attachment("1", &boom, &with)]).await;
    let outcomes: Vec<String> = (0..5).map(|_| told(&bench.on_request().1).remove(0)).collect();
    let (trap, stopped) = ("1 enforce trap", "1 enforce quarantined");
    assert_eq!(outcomes, [trap, trap, trap, stopped, stopped]);
    assert_eq!(bench.gateway.packs.stopped().len(), 1);
    let part = bench.on_request().1[0].series.part;
    assert_eq!((part, part.acts()), (Part::Enforce, true));
}
