//! What a limit counts, and what is charged: scopes, limits that only observe, billing months, costs that answers say, and
//! outcomes that a route charges although others don't.

use crate::harness::call::Call;
use crate::harness::document::{self, ACME, Edit as _};
use crate::harness::node::Setup;
use crate::harness::{Node, Reply, Upstream, eventually};
use jiff::Span;
use jiff::civil::Date;
use model::Clock;
use serde_json::{Value, json};

/// A limit of the tenant, with more said of it.
fn limit(id: &str, more: &Value) -> Value {
    let mut limit = json!({ "id": id, "per": "tenant", "on_store_error": "closed" });
    limit.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    limit
}

/// A rate that is as good as a number: one comes back in an hour.
fn rate(id: &str, burst: u32, more: &Value) -> Value {
    let mut limit = limit(id, more);
    limit["rate"] = json!("1/h");
    limit["burst"] = json!(burst);
    limit
}

/// An upstream that answers as the request asks it to.
async fn obliging() -> Upstream {
    Upstream::scripted(|arrival| {
        let status = arrival.header("x-status").parse().unwrap_or(200);
        match arrival.header("x-asks-cost") {
            "" => Reply::of(status),
            "twice" => Reply::of(status).header("x-cost", "7").header("x-cost", "7"),
            cost => Reply::of(status).header("x-cost", cost),
        }
    })
    .await
}

#[tokio::test]
async fn a_limit_counts_what_its_scope_names_and_nothing_else() {
    let upstream = Upstream::start().await;
    let limits = json!([
        rate("all", 100, &json!({})),
        rate("lists", 2, &json!({ "scope": { "route": "contacts.list" } })),
        rate("contacts", 4, &json!({ "scope": { "service": "contacts" } })),
    ]);
    let document = document::standard(upstream.address)
        .with(
            "services",
            json!({ "id": "notes", "select": ["path"],
                    "versions": [{ "name": "v1", "upstream": "crm", "state": "active" }] }),
        )
        .with(
            "routes",
            json!({ "id": "notes.list", "service": "notes", "authenticate": { "any_of": ["api_key"] },
                    "match": { "path": "/notes", "methods": ["GET"] } }),
        )
        .limited(limits);
    let node = Node::start(&document).await;
    let get = async |path: &str| node.get(path).key(ACME).send().await;
    let named = |line: &str| -> Vec<String> {
        line.split(", ").map(|member| member.split('"').nth(1).unwrap().to_owned()).collect()
    };
    for (path, limits) in [
        ("/v1/contacts", &["all", "lists", "contacts"][..]),
        ("/v1/contacts/7", &["all", "contacts"]),
        ("/v1/notes", &["all"]),
        ("/v1/contacts", &["all", "lists", "contacts"]),
    ] {
        let answer = get(path).await;
        for header in ["ratelimit-policy", "ratelimit"] {
            assert_eq!(named(answer.is(200).header(header)), limits, "{header} of {path}");
        }
    }
    assert_eq!(get("/v1/contacts").await.refuses(429, "RATE_LIMITED")["limit"], "lists");
    get("/v1/contacts/7").await.is(200);
    assert_eq!(get("/v1/contacts/7").await.refuses(429, "RATE_LIMITED")["limit"], "contacts");
    get("/v1/notes").await.is(200);

    let answer = get("/.tollgate/usage").await;
    assert_eq!(named(answer.is(200).header("ratelimit-policy")), ["all", "lists", "contacts"]);
    let told = answer.json()["limits"].clone();
    let told: Vec<_> = told.as_array().unwrap().iter().collect();
    let scopes: Vec<&Value> = told.iter().map(|limit| &limit["scope"]).collect();
    let (route, service) = (json!({ "route": "contacts.list" }), json!({ "service": "contacts" }));
    assert_eq!(scopes, [&Value::Null, &route, &service]);
    let used: Vec<&Value> = told.iter().map(|limit| &limit["used"]).collect();
    assert_eq!(used, [6, 2, 4]);
}

#[tokio::test]
async fn a_limit_that_observes_refuses_nothing_and_tells_operators_what_it_would() {
    let upstream = Upstream::start().await;
    let limits = json!([
        rate("burst", 4, &json!({})),
        limit("tight", &json!({ "quota": "2/month", "mode": "observe" })),
    ]);
    let node = Node::start(&document::standard(upstream.address).limited(limits)).await;
    for _ in 0..4 {
        let answer = node.get("/v1/contacts").key(ACME).send().await;
        for header in ["ratelimit-policy", "ratelimit"] {
            assert!(!answer.is(200).header(header).contains("tight"), "partners are not told");
        }
        assert_eq!(answer.header("x-ratelimit-limit"), "4");
    }
    let refused = node.get("/v1/contacts").key(ACME).send().await;
    assert_eq!(refused.refuses(429, "RATE_LIMITED")["limit"], "burst");
    let usage = node.usage(ACME).await;
    assert_eq!((usage.as_array().unwrap().len(), &usage[0]["id"]), (1, &json!("burst")));

    let metrics = node.has_reported(6).await;
    let decided = |decision: &str, mode: &str| {
        let labels = [("limit", "tight"), ("decision", decision), ("mode", mode)];
        metrics.sum("tollgate_limit_decisions_total", &labels)
    };
    assert_eq!((decided("admitted", "observe"), decided("would_refuse", "observe")), (2.0, 3.0));
    assert_eq!(decided("refused", "observe") + decided("refused", "enforce"), 0.0);

    let of_operator = node.admin.get("/v1/usage?tenant=acme").bearer(&node.admin_token());
    let told = of_operator.send().await.is(200).json()["limits"].clone();
    let modes: Vec<_> = told.as_array().unwrap().iter().map(|limit| &limit["mode"]).collect();
    assert_eq!(modes, ["enforce", "observe"]);
    assert_eq!((&told[1]["id"], &told[1]["used"]), (&json!("tight"), &json!(2)));
}

#[tokio::test]
async fn what_a_limit_would_refuse_is_in_the_record_for_operators_alone() {
    let upstream = Upstream::start().await;
    let limits = json!([
        rate("burst", 4, &json!({})),
        limit("tight", &json!({ "quota": "2/month", "mode": "observe" })),
    ]);
    let document = document::standard(upstream.address).limited(limits).changed(|document| {
        document.entry("routes", "contacts.list")["record"] = json!("required");
    });
    let node = Node::start(&document).await;
    for n in 1..=3 {
        let call =
            node.get("/v1/contacts").key(ACME).header("x-request-id", format!("observed-{n}"));
        call.send().await.is(200);
    }
    let limits_of = async |call: &dyn Fn() -> Call| {
        let record = eventually("the record is kept", async || {
            let answer = call().send().await;
            if answer.status == 200 { Ok(answer.json()) } else { Err(answer.status) }
        })
        .await;
        record["items"][0]["limits"].clone()
    };
    let token = node.admin_token();
    let burst = json!({ "id": "burst", "limit": 4, "remaining": 1, "refused": false });
    let tight =
        json!({ "id": "tight", "limit": 2, "remaining": 0, "refused": true, "mode": "observe" });
    let of_operator = || node.admin.get("/v1/exchanges/observed-3").bearer(&token);
    assert_eq!(limits_of(&of_operator).await, json!([burst, tight]));
    let of_partner = || node.get("/.tollgate/explain/observed-3").key(ACME);
    assert_eq!(limits_of(&of_partner).await, json!([burst]));
}

/// Whole seconds, rounded up, until this day begins.
fn until(zone: &str, day: Date) -> i64 {
    let left = Clock::system().now().duration_until(day.in_tz(zone).unwrap().timestamp());
    left.as_secs() + i64::from(left.subsec_nanos() > 0)
}

#[tokio::test]
async fn a_billing_month_begins_on_the_tenants_day_in_its_own_zone() {
    let zone = "Pacific/Auckland";
    let upstream = Upstream::start().await;
    let limits = json!([
        limit("calendar", &json!({ "quota": "100/month" })),
        limit("billed", &json!({ "quota": "100/billing_month" })),
    ]);
    // Some day soon that is not the first, on which every month begins.
    let today = Clock::system().now().in_tz(zone).unwrap().date();
    let mut soon = today.checked_add(Span::new().days(2)).unwrap();
    if soon.day() == 1 {
        soon = soon.tomorrow().unwrap();
    }
    let document = document::standard(upstream.address).limited(limits).changed(|document| {
        let tenant = document.entry("tenants", "acme");
        tenant["timezone"] = json!(zone);
        tenant["billing_day"] = json!(soon.day());
    });
    let node = Node::start(&document).await;
    let answer = node.get("/v1/contacts").key(ACME).send().await;
    let policy = "\"calendar\";q=100;w=2678400, \"billed\";q=100;w=2678400";
    assert_eq!(answer.is(200).header("ratelimit-policy"), policy);
    let before = until(zone, soon);
    let usage = node.usage(ACME).await;
    let after = until(zone, soon);
    let reset = usage[1]["reset"].as_i64().unwrap();
    assert!((after..=before).contains(&reset), "{reset} is not from {after} to {before}");
    let first = today.last_of_month().tomorrow().unwrap();
    let reset = usage[0]["reset"].as_i64().unwrap();
    assert!((reset - until(zone, first)).abs() <= 2, "{reset}");
}

/// Contacts that say what they cost, under a rate and a quota; reading one costs 2 unless its answer says more.
fn costly(upstream: &Upstream, charge: &Value) -> Value {
    document::standard(upstream.address)
        .limited(json!([
            rate("burst", 100, &json!({})),
            limit("monthly", &json!({ "quota": "50/month" })),
        ]))
        .changed(|document| {
            for id in ["contacts.read", "contacts.create"] {
                let route = document.entry("routes", id);
                route["cost"] = json!(2);
                route["cost_from_response_header"] = json!("X-Cost");
                route["charge"] = charge.clone();
            }
        })
}

#[tokio::test]
async fn an_answer_says_what_its_request_cost_in_the_end() {
    let upstream = obliging().await;
    let node = Node::start(&costly(&upstream, &json!({}))).await;
    // What the answer says, whether it streams, its status; what quota and rate count for it.
    let (mut quota, mut rate, mut sent) = (0, 0, 0);
    for (said, status, of_quota, of_rate) in [
        ("7", "200", 7, 7),
        ("1", "200", 1, 2),
        ("0", "200", 0, 2),
        ("3", "404", 3, 3),
        ("9", "500", 0, 2),
        ("", "200", 2, 2),
    ] {
        let read = node.get("/v1/contacts/7").key(ACME);
        let key = format!("cost-{sent}");
        for call in [read, node.keyed(&key).body("{}")] {
            let call = call.header("x-asks-cost", said).header("x-status", status);
            let answer = call.send().await;
            assert_eq!(answer.status.to_string(), status);
            assert_eq!(answer.header("x-cost"), said, "it goes on to the client");
            (quota, rate, sent) = (quota + of_quota, rate + of_rate, sent + 1);
            node.has_used(ACME, "monthly", quota).await;
            node.has_used(ACME, "burst", rate).await;
        }
    }
    // What was said may be more than is left: it is charged, and the next request meets that.
    let dear = node.get("/v1/contacts/7").key(ACME).header("x-asks-cost", "60").send().await;
    dear.is(200);
    node.has_used(ACME, "monthly", quota + 60).await;
    let refused = node.get("/v1/contacts/7").key(ACME).send().await;
    assert_eq!(refused.refuses(429, "QUOTA_EXCEEDED")["limit"], "monthly");
    assert!(node.usage(ACME).await[1]["remaining"] == 0);
}

#[tokio::test]
async fn what_is_no_cost_is_told_and_the_routes_cost_holds() {
    let upstream = obliging().await;
    let node = Node::start(&costly(&upstream, &json!({}))).await;
    let mut quota = 0;
    for said in ["-1", "7.5", "lots", "1000000001", "twice"] {
        let call = node.get("/v1/contacts/7").key(ACME).header("x-asks-cost", said);
        call.send().await.is(200);
        quota += 2;
        node.has_used(ACME, "monthly", quota).await;
    }
    let metrics = node.metrics().await;
    let labels = [("route", "contacts.read")];
    assert_eq!(metrics.sum("tollgate_costs_unread_total", &labels), 5.0);
    let log = node.log();
    let warned = log.lines().filter(|line| line.contains("an answer's cost is ignored"));
    assert_eq!(warned.count(), 1, "once for a route, not for each answer");
}

#[tokio::test]
async fn a_cost_is_read_before_packs_change_the_answer() {
    let upstream = obliging().await;
    let document = costly(&upstream, &json!({}))
        .attached("hygiene", "header-hygiene", json!({ "response": { "remove": ["x-cost"] } }))
        .changed(|document| {
            document.entry("attachments", "hygiene")["phases"] = json!(["response"]);
        });
    let node = Setup::of(&document).packs().start().await;
    let mut quota = 0;
    for call in [node.get("/v1/contacts/7").key(ACME), node.keyed("hygiene").body("{}")] {
        let answer = call.header("x-asks-cost", "7").send().await;
        assert_eq!(answer.is(200).lines("x-cost").len(), 0);
        quota += 7;
        node.has_used(ACME, "monthly", quota).await;
    }
}

#[tokio::test]
async fn replays_and_upstream_errors_are_charged_where_the_route_says_so() {
    for (charge, of_replay, of_error) in [
        (json!({}), 0, 0),
        (json!({ "replays": true }), 2, 0),
        (json!({ "upstream_errors": true }), 0, 9),
        (json!({ "replays": true, "upstream_errors": true }), 2, 9),
    ] {
        let upstream = obliging().await;
        let node = Node::start(&costly(&upstream, &charge)).await;
        let keyed = || node.keyed("charged").body("{}").header("x-asks-cost", "5");
        assert!(!keyed().send().await.is(200).is_replay());
        let mut quota = 5;
        node.has_used(ACME, "monthly", quota).await;
        for _ in 0..2 {
            // At what the route costs: the stored answer's work was done and charged before.
            assert!(keyed().send().await.is(200).is_replay());
            quota += of_replay;
            node.has_used(ACME, "monthly", quota).await;
        }
        let read = node.get("/v1/contacts/7").key(ACME).header("x-asks-cost", "9");
        read.header("x-status", "503").send().await.is(503);
        quota += of_error;
        node.has_used(ACME, "monthly", quota).await;
        // The gateway's own failures are nobody's charge, whatever the route says.
        let malformed = node.post("/v1/contacts").key(ACME).send().await;
        malformed.refuses(400, "IDEMPOTENCY_KEY_MISSING");
        node.has_used(ACME, "monthly", quota).await;
    }
}
