//! Packs decide, are replaced while they decide, and can harm nobody.

use crate::harness::document::{self, ACME, Edit as _, GLOBEX};
use crate::harness::node::Setup;
use crate::harness::pack::{Made, patched};
use crate::harness::{Demo, Node, Upstream};
use serde_json::{Value, json};

fn misbehaves(upstream: &Upstream, settings: Value) -> Value {
    document::standard(upstream.address).attached("trouble", "misbehave", settings)
}

async fn with_packs(document: &Value) -> Node {
    Setup::of(document).packs().start().await
}

#[tokio::test]
async fn a_denial_tells_the_partner_who_denied_and_why() {
    let upstream = Upstream::start().await;
    let document = document::standard(upstream.address).attached(
        "needs-correlation",
        "require-header",
        json!({ "headers": [{ "name": "x-correlation-id", "format": "uuid" }] }),
    );
    let node = with_packs(&document).await;
    let asks = |value: Option<&str>| {
        let call = node.get("/v1/contacts").key(ACME);
        match value {
            Some(value) => call.header("x-correlation-id", value),
            None => call,
        }
    };
    for (value, reason) in [(None, "header_missing"), (Some("7"), "header_invalid")] {
        let answer = asks(value).send().await;
        let details = answer.refuses(403, "POLICY_DENIED");
        assert_eq!(
            (&details["policy"], &details["reason"]),
            (&json!("needs-correlation"), &json!(reason))
        );
        assert_eq!(details["header"], "x-correlation-id");
        assert!(answer.json()["message"].as_str().unwrap().contains("`x-correlation-id`"));
    }
    asks(Some("0199a3c8-1f0e-7c11-9d6a-3f2b8f9f1c22")).send().await.is(200);
    upstream.only_arrival();
}

#[tokio::test]
async fn edits_reach_the_upstream_in_the_order_of_attachments() {
    let upstream = Upstream::start().await;
    let document = document::standard(upstream.address)
        .attached(
            "second",
            "header-hygiene",
            json!({ "set": { "x-order": "second" }, "remove": ["x-debug"] }),
        )
        .attached(
            "first",
            "header-hygiene",
            json!({ "set": { "x-order": "first", "x-first": "yes" } }),
        )
        .changed(|document| {
            document.entry("attachments", "first")["order"] = json!(1);
            document.entry("attachments", "second")["order"] = json!(2);
        });
    let node = with_packs(&document).await;
    node.get("/v1/contacts")
        .key(ACME)
        .header("x-debug", "1")
        .header("x-order", "client")
        .send()
        .await
        .is(200);
    let arrival = upstream.only_arrival();
    assert_eq!((arrival.header("x-order"), arrival.header("x-first")), ("second", "yes"));
    assert_eq!(arrival.lines("x-debug").len(), 0);
}

#[tokio::test]
async fn an_attachment_decides_only_what_is_in_its_scope() {
    let upstream = Upstream::start().await;
    let document = misbehaves(
        &upstream,
        json!({ "how": "deny", "status": 418, "reason": "teapot", "details": [] }),
    )
    .changed(|document| {
        document.entry("attachments", "trouble")["scope"] =
            json!({ "tenant": "acme", "route": "contacts.list" });
    });
    let node = with_packs(&document).await;
    let answer = node.get("/v1/contacts").key(ACME).send().await;
    assert_eq!(answer.refuses(418, "POLICY_DENIED")["reason"], "teapot");
    node.get("/v1/contacts").key(GLOBEX).send().await.is(200);
    node.get("/v1/contacts/7").key(ACME).send().await.is(200);
    assert_eq!(upstream.arrivals().len(), 2);
}

#[tokio::test]
async fn a_pack_sees_the_request_and_who_sent_it() {
    let upstream = Upstream::start().await;
    let document = misbehaves(&upstream, json!({ "how": "echo", "names": ["x-a", "limit"] }));
    let node = with_packs(&document).await;
    let answer = node.get("/v1/contacts?limit=2&x-a=q").key(ACME).header("x-a", "h").send().await;
    let details = answer.refuses(403, "POLICY_DENIED");
    assert_eq!((&details["method"], &details["tenant"]), (&json!("GET"), &json!("acme")));
    assert_eq!(
        (&details["consumer"], &details["route"]),
        (&json!("acme-mobile"), &json!("contacts.list"))
    );
    assert_eq!(
        (&details["version"], &details["client_address"]),
        (&json!("v1"), &json!("127.0.0.1"))
    );
    assert_eq!(details["scopes"], json!(["contacts:read", "contacts:write"]));
    let text = details.to_string();
    assert!(!text.contains(ACME), "a pack is shown no credential: {text}");
}

#[tokio::test]
async fn a_pack_forgets_every_decision() {
    let upstream = Upstream::start().await;
    let node = with_packs(&misbehaves(&upstream, json!({ "how": "count" }))).await;
    for _ in 0..20 {
        node.get("/v1/contacts").key(ACME).send().await.is(200);
    }
    let counts: Vec<_> =
        upstream.arrivals().iter().map(|arrival| arrival.header("x-count").to_owned()).collect();
    assert_eq!(counts, vec!["1"; 20]);
}

#[tokio::test]
async fn replacing_a_packs_file_changes_the_next_answer() {
    let upstream = Upstream::start().await;
    let document = document::standard(upstream.address).attached(
        "nobody",
        "cidr-allow",
        json!({ "allow": ["192.0.2.0/24"] }),
    );
    let node = with_packs(&document).await;
    let message = async || {
        let answer = node.get("/v1/contacts").key(ACME).send().await;
        answer.refuses(403, "POLICY_DENIED");
        answer.json()["message"].as_str().unwrap().to_owned()
    };
    let (before, after) = (
        "Requests from this address are not accepted.",
        "Requests from that address are not accepted.",
    );
    assert_eq!(message().await, before);
    let pack = demo::PACKS.iter().find(|pack| pack.name == "cidr-allow").unwrap();
    let changed = Made::named("cidr-allow", "1.0.0", &patched(pack.wasm, before, after));
    node.publish_pack("cidr-allow", &changed.file()).await;
    assert_eq!(message().await, after);

    // A file that is no pack changes nothing.
    node.lay_pack("cidr-allow", b"not a pack");
    node.has_logged(&["/packs/0", "rejected"]).await;
    assert_eq!(message().await, after);
    node.publish_pack("cidr-allow", &Made::of(pack).file()).await;
    assert_eq!(message().await, before);
    assert_eq!(upstream.arrivals().len(), 0);
}

/// Every way in which a pack fails to decide, with the reason that metrics show.
fn failures() -> Vec<(&'static str, Value)> {
    vec![
        ("fuel", json!({ "how": "spin" })),
        ("fuel", json!({ "how": "work", "rounds": 4_000_000_000_u32 })),
        ("trap", json!({ "how": "panic", "message": "boom" })),
        ("trap", json!({ "how": "recurse" })),
        ("memory", json!({ "how": "hoard", "bytes": null })),
        ("host_limit", json!({ "how": "storm" })),
        ("host_limit", json!({ "how": "long-name", "bytes": 1_000_000 })),
        (
            "output",
            json!({ "how": "set", "name": "x-big", "value": "x".repeat(2000), "times": 100 }),
        ),
        ("output", json!({ "how": "set", "name": "x-tenant-id", "value": "globex", "times": 1 })),
        ("output", json!({ "how": "set", "name": "a b", "value": "", "times": 1 })),
        ("output", json!({ "how": "deny", "status": 200, "reason": "fine", "details": [] })),
        ("output", json!({ "how": "deny", "status": 403, "reason": "x", "details": [["a", "{"]] })),
    ]
}

#[tokio::test]
async fn a_pack_that_fails_is_503_and_harms_nobody_else() {
    let upstream = Upstream::start().await;
    let standard = || document::standard(upstream.address);
    let node = with_packs(&standard()).await;
    let numbered: Vec<_> = failures().into_iter().enumerate().collect();
    // A few at a time: each of them is compiled with its settings.
    for some in numbered.chunks(3) {
        let document =
            some.iter().fold(standard(), |document, (number, (_, settings))| {
                let id = format!("trouble-{number}");
                document
                .with("routes", json!({
                    "id": id, "service": "contacts", "authenticate": { "any_of": ["api_key"] },
                    "match": { "path": format!("/trouble/{number}"), "methods": ["GET"] },
                }))
                .attached(&id, "misbehave", settings.clone())
                .changed(|document| {
                    let entry = document.entry("attachments", &id);
                    entry["scope"] = json!({ "route": id });
                    // Each of them fails for its own reason, and not because others did.
                    entry["quarantine"] = json!({ "faults": 1_000_000 });
                })
            });
        node.publish(&document).await;
        for (number, (reason, settings)) in some {
            let failures = async || {
                let metrics = node.metrics().await;
                metrics.sum("tollgate_pack_failures_total", &[("reason", reason)])
            };
            let before = failures().await;
            let answer = node.get(&format!("/v1/trouble/{number}")).key(ACME).send().await;
            let details = answer.refuses(503, "POLICY_FAILED");
            assert_eq!(details["policy"], format!("trouble-{number}"));
            assert!(!answer.json().to_string().contains("wasm"), "the cause stays private");
            node.get("/v1/contacts").key(ACME).send().await.is(200);
            crate::harness::eventually(&format!("{settings} is counted as {reason}"), async || {
                let after = failures().await;
                if after > before { Ok(()) } else { Err(after) }
            })
            .await;
        }
    }
    assert_eq!(upstream.arrivals().len(), failures().len());
}

#[tokio::test]
async fn a_tenant_whose_time_is_spent_fails_alone() {
    let upstream = Upstream::start().await;
    let document = misbehaves(&upstream, json!({ "how": "spin" }))
        .with("plans", json!({ "id": "small", "limits": [], "packs": { "cpu_per_second": "1ms" } }))
        .changed(|document| {
            document.entry("tenants", "acme")["plan"] = json!("small");
            let entry = document.entry("attachments", "trouble");
            (entry["on_failure"], entry["mode"]) = (json!("open"), json!("enforce"));
            entry["quarantine"] = json!({ "faults": 1_000_000 });
            // Worth several milliseconds.
            entry["limits"] = json!({ "fuel": 50_000_000 });
        });
    let node = with_packs(&document).await;
    for key in [ACME, ACME, GLOBEX, GLOBEX] {
        node.get("/v1/contacts").key(key).send().await.is(200);
    }
    let metrics = node.has_reported(4).await;
    for (reason, count) in [("fuel", "3"), ("tenant_cpu", "1")] {
        let labels = [("pack", "misbehave"), ("reason", reason)];
        let failures = metrics.sum("tollgate_pack_failures_total", &labels);
        assert_eq!(failures.to_string(), count, "{reason}");
    }
    // Refused for it, the caller is told when to come back.
    let closed = document.changed(|document| {
        document.entry("attachments", "trouble")["on_failure"] = json!("closed");
    });
    node.publish(&closed).await;
    node.get("/v1/contacts").key(ACME).send().await.refuses(503, "POLICY_FAILED");
    let again = node.get("/v1/contacts").key(ACME).send().await;
    again.refuses(503, "POLICY_FAILED");
    assert_eq!(again.header("retry-after"), "1");
}

#[tokio::test]
async fn a_pack_that_fails_open_lets_the_request_through_as_it_was() {
    let upstream = Upstream::start().await;
    let document = misbehaves(&upstream, json!({ "how": "spin" }))
        .attached("hygiene", "header-hygiene", json!({ "set": { "x-edge": "tollgate" } }))
        .changed(|document| document.entry("attachments", "trouble")["on_failure"] = json!("open"));
    let node = with_packs(&document).await;
    node.get("/v1/contacts").key(ACME).send().await.is(200);
    assert_eq!(upstream.only_arrival().header("x-edge"), "tollgate");
}

#[tokio::test]
async fn a_pack_that_observes_is_recorded_and_does_not_act() {
    let upstream = Upstream::start().await;
    let document = misbehaves(
        &upstream,
        json!({ "how": "deny", "status": 403, "reason": "no", "details": [] }),
    )
    .attached("edits", "header-hygiene", json!({ "set": { "x-observed": "yes" } }))
    .attached("fails", "misbehave", json!({ "how": "panic", "message": "boom" }))
    .changed(|document| {
        for id in ["trouble", "edits", "fails"] {
            document.entry("attachments", id)["mode"] = json!("observe");
        }
    });
    let node = with_packs(&document).await;
    node.get("/v1/contacts").key(ACME).send().await.is(200);
    assert_eq!(upstream.only_arrival().lines("x-observed").len(), 0);
    let metrics = node.has_reported(1).await;
    for (pack, decision) in
        [("misbehave", "deny"), ("header-hygiene", "edit"), ("misbehave", "failed")]
    {
        let labels =
            [("pack", pack), ("decision", decision), ("mode", "observe"), ("version", "1.0.0")];
        assert_eq!(
            metrics.sum("tollgate_pack_decisions_total", &labels).to_string(),
            "1",
            "{pack} {decision}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn packs_that_loop_under_load_starve_nobody() {
    let upstream = Upstream::start().await;
    let document = misbehaves(&upstream, json!({ "how": "spin" })).changed(|document| {
        document.entry("attachments", "trouble")["scope"] = json!({ "tenant": "acme" });
    });
    let node = with_packs(&document).await;
    let mut clients = tokio::task::JoinSet::new();
    for number in 0..200 {
        let key = if number % 2 == 0 { ACME } else { GLOBEX };
        let call = node.get("/v1/contacts").key(key);
        clients.spawn(async move { (key, call.send().await) });
    }
    for (key, answer) in clients.join_all().await {
        if key == ACME {
            answer.refuses(503, "POLICY_FAILED");
        } else {
            answer.is(200);
        }
    }
    assert_eq!(upstream.arrivals().len(), 100);
}

#[tokio::test]
async fn the_demo_has_an_enforced_pack_on_every_contacts_route() {
    let demo = Demo::start().await;
    let (document, tag) = demo.document().await;
    let enforced = document["attachments"].as_array().unwrap().iter().any(|attachment| {
        attachment["mode"] == "enforce" && attachment["scope"] == json!({ "service": "contacts" })
    });
    assert!(enforced, "{}", document["attachments"]);
    // Demanding a header takes one more attachment, and no restart.
    demo.get("/v1/contacts").key(demo.value("ACME_KEY")).send().await.is(200);
    let demanding =
        document.attached("demands", "require-header", json!({ "header": "x-correlation-id" }));
    demo.put(&demanding, &tag).await.is(200);
    let answer = demo.get("/v1/contacts").key(demo.value("ACME_KEY")).send().await;
    let details = answer.refuses(403, "POLICY_DENIED");
    assert_eq!(
        (&details["policy"], &details["reason"]),
        (&json!("demands"), &json!("header_missing"))
    );
    let answer =
        demo.get("/v1/contacts").key(demo.value("ACME_KEY")).header("x-correlation-id", "7");
    answer.send().await.is(200);
}
