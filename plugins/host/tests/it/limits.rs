//! What happens to packs that go beyond.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use model::FailureReason::{Deadline, Fuel, HostLimit, Memory, Output, Saturated, Trap};
use model::document::{PackCaps, PackLimits};
use model::units::Size;

use super::*;

fn set(name: &str, value: &str, times: usize) -> Value {
    json!({ "how": "set", "name": name, "value": value, "times": times })
}

fn deny(status: u16, reason: &str, details: Value) -> Value {
    json!({ "how": "deny", "status": status, "reason": reason, "details": details })
}

fn answer(status: u16, name: &str, body: &str) -> Value {
    json!({ "how": "answer", "status": status, "headers": [[name, "v"]], "body": body })
}

#[test]
fn each_way_of_failing_has_its_own_reason_in_each_phase_and_harms_no_other_decision() {
    let given = Given::default();
    let answered = response(&[]);
    let good = telling(&json!({ "how": "work", "rounds": 1 }));
    let ways = [
        (json!({ "how": "spin" }), Fuel, "fuel"),
        (json!({ "how": "panic", "message": "boo" }), Trap, "unreachable"),
        (json!({ "how": "recurse" }), Trap, "out of bounds"),
        (json!({ "how": "hoard" }), Memory, "unreachable"),
        (json!({ "how": "storm" }), HostLimit, "too often"),
        (json!({ "how": "long-name", "bytes": 200_000 }), HostLimit, "too much data"),
    ];
    for pack in [&MISBEHAVE, &CONFIGURED_EACH_TIME] {
        for reuse in [None, NonZeroU32::new(1000)] {
            let pack = pack.prepare(&json!({ "how": "told" }), Limits::default(), reuse);
            let pack = pack.expect("good settings");
            for (how, reason, detail) in &ways {
                let asked = telling(how);
                let failures = [
                    on_request(&pack, &asked).expect_err("a failure"),
                    on_response(&pack, &asked, &answered).expect_err("a failure"),
                    pack.cost(&asked, &given.grants()).expect_err("a failure"),
                ];
                for failure in failures {
                    assert_eq!(failure.reason, *reason, "{how}: {failure}");
                    assert!(failure.detail.contains(detail), "{how}: {failure}");
                }
                assert_eq!(on_request(&pack, &good), Ok(Decision::Continue), "after {how}");
            }
        }
    }
}

#[test]
fn what_the_host_copies_for_a_pack_counts_as_its_work() {
    // 100 bodies of 1 MiB fit into the number of calls, and would take a hundred times as long as the fuel is worth.
    let pack = misbehave(json!({ "how": "devour", "times": 100 }));
    let large = Bytes::from(vec![b'x'; 1 << 20]);
    let failure = on_request(&pack, &with_body(large.clone())).expect_err("a failure");
    assert_eq!(failure.reason, Fuel, "{failure}");
    let told =
        PolicyResponse { status: StatusCode::OK, headers: Arc::default(), body: Some(large) };
    let failure = on_response(&pack, &request(&[]), &Arc::new(told)).expect_err("a failure");
    assert_eq!(failure.reason, Fuel, "{failure}");
    assert_eq!(on_request(&pack, &with_body(vec![b'x'; 1 << 10])), Ok(Decision::Continue));
}

/// Fuel that no test burns.
const AMPLE: u64 = u64::MAX;

#[test]
fn a_raised_limit_lets_through_what_the_default_stops() {
    let usual = Limits::default();
    for (settings, reason, raised) in [
        (
            json!({ "how": "work", "rounds": 100_000 }),
            Fuel,
            Limits { fuel: 10 * usual.fuel, ..usual },
        ),
        (json!({ "how": "hoard", "bytes": 5 << 20 }), Memory, Limits { memory: 8 << 20, ..usual }),
        (
            json!({ "how": "chatter", "lines": 600, "line": "x" }),
            HostLimit,
            Limits { host_calls: 600, ..usual },
        ),
        (
            json!({ "how": "long-name", "bytes": 70_000 }),
            HostLimit,
            Limits { output: Some(128 << 10), ..usual },
        ),
        (set("x", &"y".repeat(1000), 70), Output, Limits { output: Some(128 << 10), ..usual }),
    ] {
        let decide = |limits| {
            let pack = MISBEHAVE.prepare(&settings, limits, None).expect("good settings");
            on_request(&pack, &request(&[]))
        };
        assert_eq!(decide(usual).expect_err("a failure").reason, reason, "{settings}");
        assert!(decide(raised).is_ok(), "{settings}: {:?}", decide(raised));
    }
}

#[test]
fn a_limit_on_what_is_handed_over_counts_the_body_too_where_it_is_set() {
    let limits = Limits { output: Some(1000), ..Limits::default() };
    let settings = json!({ "how": "rewrite", "body": "x", "times": 2000 });
    let pack = MISBEHAVE.prepare(&settings, limits, None).expect("good settings");
    let failure = on_request(&pack, &with_body(vec![0; 100_000])).expect_err("a failure");
    assert_eq!(failure.reason, Output, "{failure}");
}

#[test]
fn the_caps_of_a_caller_hold_for_fresh_and_reused_instances_and_are_no_fault_of_the_packs() {
    let usual = PackCaps::default();
    let deadline = |millis| model::units::Duration(Duration::from_millis(millis));
    let limits = Limits {
        fuel: AMPLE,
        deadline: Duration::from_secs(10),
        host_calls: 1000,
        output: Some(1 << 20),
        ..Limits::default()
    };
    let capped = [
        (json!({ "how": "work", "rounds": 1000 }), PackCaps { fuel: 10_000, ..usual }, Fuel),
        (
            json!({ "how": "hoard", "bytes": 1 << 20 }),
            PackCaps { memory: Size(1 << 20), ..usual },
            Memory,
        ),
        // Less than an instance has when it starts.
        (
            json!({ "how": "work", "rounds": 1 }),
            PackCaps { memory: Size(64 << 10), ..usual },
            Memory,
        ),
        (
            json!({ "how": "chatter", "lines": 100, "line": "x" }),
            PackCaps { host_calls: 50, ..usual },
            HostLimit,
        ),
        (
            json!({ "how": "long-name", "bytes": 100_000 }),
            PackCaps { output: Size(10_000), ..usual },
            HostLimit,
        ),
        (set("x", &"y".repeat(1000), 50), PackCaps { output: Size(10_000), ..usual }, Output),
        (
            json!({ "how": "work", "rounds": 100_000_000 }),
            PackCaps { fuel: AMPLE, deadline: deadline(100), ..usual },
            Deadline,
        ),
    ];
    for reuse in [1, 1000] {
        let reuse = NonZeroU32::new(reuse);
        let pack = MISBEHAVE.prepare(&json!({ "how": "told" }), limits, reuse).expect("good");
        for (how, caps, reason) in &capped {
            let asked = telling(how);
            let capped = Given { caps: Caps::from(caps), ..Given::default() };
            let failure = pack.on_request(&asked, &capped.grants()).expect_err("a failure");
            assert_eq!(failure.reason, *reason, "{how}: {failure}");
            assert!(!failure.is_fault(), "{how}: {failure}");
            if *reason != Deadline {
                assert!(pack.on_request(&asked, &Given::default().grants()).is_ok(), "{how}");
            }
        }
        // A cap that is no lower than the limit excuses nothing, and neither does one of something else.
        let caps = PackCaps { memory: Size(2 << 20), host_calls: 1000, ..usual };
        let capped = Given { caps: Caps::from(&caps), ..Given::default() };
        let storm = telling(&json!({ "how": "storm" }));
        let failure = pack.on_request(&storm, &capped.grants()).expect_err("a failure");
        assert!(failure.reason == HostLimit && failure.is_fault(), "{failure}");
    }
}

#[test]
fn what_the_host_reads_for_a_pack_counts_as_its_work() {
    let deadline = Duration::from_secs(10);
    let limits = Limits { host_calls: 100_000, deadline, ..Limits::default() };
    let settings = json!({ "how": "query", "times": 50_000 });
    let pack = MISBEHAVE.prepare(&settings, limits, None).expect("good settings");
    let mut asked = PolicyRequest::clone(&request(&[]));
    Arc::make_mut(&mut asked.head).query = Some("a=b&".repeat(2000));
    let failure = on_request(&pack, &Arc::new(asked)).expect_err("a failure");
    assert_eq!(failure.reason, Fuel, "{failure}");
}

#[test]
fn limits_are_those_of_the_document_and_defaults_where_it_says_nothing() {
    assert_eq!(Limits::from(PackLimits::default()), Limits::default());
    let said = PackLimits {
        fuel: Some(1),
        deadline: Some(model::units::Duration(Duration::from_secs(2))),
        memory: Some(Size(3)),
        output: Some(Size(4)),
        host_calls: Some(5),
        log_lines: Some(6),
        instances: Some(7),
    };
    let limits = Limits {
        fuel: 1,
        deadline: Duration::from_secs(2),
        memory: 3,
        output: Some(4),
        host_calls: 5,
        log_lines: 6,
        instances: 7,
    };
    assert_eq!(Limits::from(said), limits);
}

/// What a pack must not set, in one direction, and may in the other.
const OF_REQUESTS: [&str; 18] = [
    "X-Tenant-Id",
    "x_tenant_id",
    "x-consumer-id",
    "x-scopes",
    "traceparent",
    "tracestate",
    "idempotency-key",
    "x-idempotency-key",
    "x-idempotency-fence",
    "forwarded",
    "x-forwarded-for",
    "X-Forwarded-Anything",
    "x_forwarded_for",
    "via",
    "x-real-ip",
    "X_Real_IP",
    "x-forwarded-host",
    "x-forwarded-proto",
];
const OF_RESPONSES: [&str; 9] = [
    "tollgate-revision",
    "Idempotency-Replayed",
    "idempotency_replayed",
    "idempotency-status",
    "RateLimit-Policy",
    "ratelimit",
    "x-ratelimit-limit",
    "x-ratelimit-remaining",
    "x-ratelimit-reset",
];
const OF_BOTH: [&str; 12] = [
    "Connection",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "content-length",
    "Host",
    "expect",
    "api-version",
    "x-request-id",
];

#[test]
fn a_pack_may_not_write_the_gateways_headers() {
    let pack = misbehave(json!({ "how": "told" }));
    let told = response(&[]);
    let refused = |outcome: Result<Decision, Failure>, name: &str| {
        let failure = outcome.expect_err("a failure");
        assert_eq!(failure.reason, Output, "{name}: {failure}");
        assert!(failure.detail.contains("belongs to the gateway"), "{name}: {failure}");
    };
    for (names, of_request, of_response) in
        [(&OF_REQUESTS[..], true, false), (&OF_RESPONSES, false, true), (&OF_BOTH, true, true)]
    {
        for name in names {
            let asked = telling(&set(name, "v", 1));
            match (on_request(&pack, &asked), of_request) {
                (outcome, true) => refused(outcome, name),
                (outcome, false) => assert!(outcome.is_ok(), "{name}: {outcome:?}"),
            }
            match (on_response(&pack, &asked, &told), of_response) {
                (outcome, true) => refused(outcome, name),
                (outcome, false) => assert!(outcome.is_ok(), "{name}: {outcome:?}"),
            }
            if of_response {
                // An answer goes to the caller, whichever phase gives it.
                refused(on_request(&pack, &telling(&answer(200, name, ""))), name);
            }
        }
    }
}

#[test]
fn a_pack_may_not_say_what_is_not_http() {
    let pack = misbehave(json!({ "how": "told" }));
    for (how, detail) in [
        (set("x bad", "v", 1), "\"x bad\" is not a header's name"),
        (set("", "v", 1), "\"\" is not a header's name"),
        (set("x-good", "a\nb", 1), "the value for `x-good` is not a header's value"),
        (set("Authorization", "Bearer x", 1), "`authorization` can only be removed"),
        (set("Proxy-Authorization", "x", 1), "`proxy-authorization` can only be removed"),
        (set("x", "", 3000), "too much data"),
        (set("x", "", 257), "257 headers; at most 256 are taken"),
        (set(&"x".repeat(257), "", 1), "is longer than 256 bytes"),
        (set(&"\u{1b}".repeat(9000), "", 1), "…"),
        (deny(200, "r", json!([])), "the status 200 is not 400 to 499"),
        (deny(503, "r", json!([])), "the status 503 is not 400 to 499"),
        (deny(403, "", json!([])), "the reason \"\" is not"),
        (deny(403, "No Way", json!([])), "the reason \"No Way\" is not"),
        (deny(403, &"r".repeat(65), json!([])), "is not 1 to 64"),
        (deny(403, "r", json!([["a", "{"]])), "the detail \"a\" is not JSON"),
        (deny(403, "r", json!([["a", "1"], ["a", "2"]])), "the detail \"a\" is taken"),
        (deny(403, "r", json!([["policy", "1"]])), "the detail \"policy\" is taken"),
        (answer(199, "x", ""), "the status 199 is not 200 to 599"),
        (answer(600, "x", ""), "the status 600 is not 200 to 599"),
        (answer(204, "x", "text"), "an answer 204 has no body"),
        (answer(304, "x", "text"), "an answer 304 has no body"),
        (answer(200, "x bad", ""), "\"x bad\" is not a header's name"),
        (answer(200, "x", &"y".repeat(100_000)), "too much data"),
    ] {
        let failure = on_request(&pack, &telling(&how)).expect_err("a failure");
        assert_eq!(failure.reason, Output, "{how}: {failure}");
        assert!(failure.detail.contains(detail), "{how}: {failure}");
        assert!(failure.detail.len() <= 512, "{how}: {} bytes", failure.detail.len());
    }
    assert!(on_request(&pack, &telling(&set("x", "", 256))).is_ok());
    assert!(on_request(&pack, &telling(&answer(204, "x", ""))).is_ok());
}

#[test]
fn a_call_that_takes_too_long_ends_at_its_deadline_and_so_does_the_next() {
    let limits = Limits { fuel: AMPLE, ..Limits::default() };
    for reuse in [None, NonZeroU32::new(1000)] {
        let pack = MISBEHAVE.prepare(&json!({ "how": "spin" }), limits, reuse);
        let pack = pack.expect("good settings");
        for _ in 0..2 {
            let asked = Instant::now();
            let failure = on_request(&pack, &request(&[])).expect_err("a failure");
            assert_eq!(failure.reason, Deadline, "{failure}");
            let took = asked.elapsed();
            assert!(took >= limits.deadline, "{took:?}");
        }
    }
}

#[test]
fn deadlines_hold_for_as_long_as_anything_can_run() {
    let host = host(1);
    let pack = host.load(package("misbehave", demo::MISBEHAVE));
    let limits = Limits { fuel: AMPLE, ..Limits::default() };
    let prepared = pack.prepare(&json!({ "how": "spin" }), limits, None).expect("good settings");
    drop((host, pack));
    let failure = on_request(&prepared, &request(&[])).expect_err("a failure");
    assert_eq!(failure.reason, Deadline, "{failure}");
}

#[test]
fn a_decision_for_which_no_instance_is_free_fails_as_saturated() {
    let host = host(1);
    let pack = host.load(package("misbehave", demo::MISBEHAVE));
    let limits = Limits { fuel: AMPLE, deadline: Duration::from_secs(1), ..Limits::default() };
    let slow = pack.prepare(&json!({ "how": "spin" }), limits, None).expect("good settings");
    let quick = pack.prepare(&json!({ "how": "count" }), limits, None).expect("good settings");
    let asked = request(&[]);
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // Whichever thread has the one instance, the other one fails.
        scope.spawn(|| {
            let slow = || on_request(&slow, &asked).expect_err("a failure").reason;
            while slow() == Saturated {}
            over.store(true, Ordering::SeqCst);
        });
        let failure = loop {
            assert!(!over.load(Ordering::SeqCst), "never saturated");
            if let Err(failure) = on_request(&quick, &asked) {
                break failure;
            }
        };
        assert_eq!(failure.reason, Saturated, "{failure}");
    });
    assert!(on_request(&quick, &asked).is_ok());
}
