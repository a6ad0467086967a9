//! What happens to packs that go beyond.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use model::FailureReason::{Deadline, Fuel, HostLimit, Memory, Output, Saturated, Trap};

use super::*;

fn set(name: &str, value: &str, times: usize) -> Value {
    json!({ "how": "set", "name": name, "value": value, "times": times })
}

fn deny(status: u16, reason: &str, details: Value) -> Value {
    json!({ "how": "deny", "status": status, "reason": reason, "details": details })
}

#[test]
fn each_way_of_failing_has_its_own_reason_and_harms_no_other_decision() {
    let good = require_header("x-id");
    let asked = request(&[("x-id", b"1")]);
    for (settings, reason, detail) in [
        (json!({ "how": "spin" }), Fuel, "fuel"),
        (json!({ "how": "panic", "message": "boo" }), Trap, "unreachable"),
        (json!({ "how": "recurse" }), Trap, "out of bounds"),
        (json!({ "how": "hoard" }), Memory, "unreachable"),
        (json!({ "how": "storm" }), HostLimit, "too often"),
        (json!({ "how": "long-name", "bytes": 70_000 }), HostLimit, "too much data"),
        (set("x bad", "v", 1), Output, "is not a header's name"),
        (set("x", &"y".repeat(1000), 70), Output, "too much data"),
    ] {
        for pack in [&MISBEHAVE, &CONFIGURED_EACH_TIME] {
            let pack = pack.prepare(&settings, Limits::default()).expect("good settings");
            let failure = pack.on_request(&asked).expect_err("a failure");
            assert_eq!(failure.reason, reason, "{settings}: {failure}");
            assert!(failure.detail.contains(detail), "{settings}: {failure}");
            assert_eq!(good.on_request(&asked), Ok(Decision::Continue), "after {settings}");
        }
    }
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
            Limits { output: 128 << 10, ..usual },
        ),
        (set("x", &"y".repeat(1000), 70), Output, Limits { output: 128 << 10, ..usual }),
    ] {
        let decide = |limits| {
            let pack = CONFIGURED_EACH_TIME.prepare(&settings, limits).expect("good settings");
            pack.on_request(&request(&[]))
        };
        assert_eq!(decide(usual).expect_err("a failure").reason, reason, "{settings}");
        assert!(decide(raised).is_ok(), "{settings}: {:?}", decide(raised));
    }
}

#[test]
fn a_pack_may_not_say_what_belongs_to_the_gateway_or_is_not_http() {
    let owned = [
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
        "X-Tenant-Id",
        "x_tenant_id",
        "x-consumer-id",
        "x-scopes",
        "api-version",
        "x-request-id",
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
    ];
    let owned = owned.map(|name| (set(name, "v", 1), "belongs to the gateway"));
    let other = [
        (set("x bad", "v", 1), "\"x bad\" is not a header's name"),
        (set("", "v", 1), "\"\" is not a header's name"),
        (set("x-good", "a\nb", 1), "the value for `x-good` is not a header's value"),
        (set("Authorization", "Bearer x", 1), "`authorization` can only be removed"),
        (set("x", "", 3000), "too much data"),
        (deny(200, "r", json!([])), "the status 200 is not 400 to 499"),
        (deny(503, "r", json!([])), "the status 503 is not 400 to 499"),
        (deny(403, "", json!([])), "the reason \"\" is not"),
        (deny(403, "No Way", json!([])), "the reason \"No Way\" is not"),
        (deny(403, &"r".repeat(65), json!([])), "is not 1 to 64"),
        (deny(403, "r", json!([["a", "{"]])), "the detail \"a\" is not JSON"),
        (deny(403, "r", json!([["a", "1"], ["a", "2"]])), "the detail \"a\" is taken"),
        (deny(403, "r", json!([["policy", "1"]])), "the detail \"policy\" is taken"),
    ];
    for (settings, detail) in owned.into_iter().chain(other) {
        let pack =
            CONFIGURED_EACH_TIME.prepare(&settings, Limits::default()).expect("good settings");
        let failure = pack.on_request(&request(&[])).expect_err("a failure");
        assert_eq!(failure.reason, Output, "{settings}: {failure}");
        assert!(failure.detail.contains(detail), "{settings}: {failure}");
    }
}

#[test]
fn a_call_that_takes_too_long_ends_at_its_deadline() {
    let limits = Limits { fuel: AMPLE, ..Limits::default() };
    let pack = MISBEHAVE.prepare(&json!({ "how": "spin" }), limits).expect("good settings");
    let asked = Instant::now();
    let failure = pack.on_request(&request(&[])).expect_err("a failure");
    assert_eq!(failure.reason, Deadline, "{failure}");
    let took = asked.elapsed();
    assert!(took >= limits.deadline, "{took:?}");
}

#[test]
fn deadlines_hold_for_as_long_as_anything_can_run() {
    let host = Host::new(HostSettings { instances: 1 }).expect("a host");
    let pack = host.compile("misbehave", demo::MISBEHAVE).expect("a pack");
    let limits = Limits { fuel: AMPLE, ..Limits::default() };
    let prepared = pack.prepare(&json!({ "how": "spin" }), limits).expect("good settings");
    drop((host, pack));
    let failure = prepared.on_request(&request(&[])).expect_err("a failure");
    assert_eq!(failure.reason, Deadline, "{failure}");
}

#[test]
fn a_decision_for_which_no_instance_is_free_fails_as_saturated() {
    let host = Host::new(HostSettings { instances: 1 }).expect("a host");
    let pack = host.compile("misbehave", demo::MISBEHAVE).expect("a pack");
    let limits = Limits { fuel: AMPLE, deadline: Duration::from_secs(1), ..Limits::default() };
    let slow = pack.prepare(&json!({ "how": "spin" }), limits).expect("good settings");
    let quick = pack.prepare(&json!({ "how": "count" }), limits).expect("good settings");
    let asked = request(&[]);
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // Whichever thread has the one instance, the other one fails.
        scope.spawn(|| {
            let slow = || slow.on_request(&asked).expect_err("a failure").reason;
            while slow() == Saturated {}
            over.store(true, Ordering::SeqCst);
        });
        let failure = loop {
            assert!(!over.load(Ordering::SeqCst), "never saturated");
            if let Err(failure) = quick.on_request(&asked) {
                break failure;
            }
        };
        assert_eq!(failure.reason, Saturated, "{failure}");
    });
    assert!(quick.on_request(&asked).is_ok());
}

#[test]
fn log_lines_carry_pack_and_request_are_escaped_and_bounded() {
    let line = format!("first\nsecond \u{1b}[31m {}", "ü".repeat(2000));
    let pack = misbehave(json!({ "how": "chatter", "lines": 100, "line": line }));
    let (outcome, log) = logged(|| pack.on_request(&request(&[])));
    assert_eq!(outcome, Ok(Decision::Continue));
    let lines: Vec<_> = log.lines().collect();
    assert_eq!(lines.len(), 16, "{log}");
    for line in lines {
        assert!(line.contains(" INFO pack: first\\nsecond \\u{1b}[31m ü"), "{line}");
        assert!(line.contains("pack=\"misbehave@1.0.0\""), "{line}");
        assert!(line.contains("request=\"req-1\""), "{line}");
        assert!(line.len() < 1200, "{} bytes", line.len());
    }
}

#[test]
fn a_panic_says_in_the_log_where_and_why() {
    let pack = misbehave(json!({ "how": "panic", "message": "boo" }));
    let (outcome, log) = logged(|| pack.on_request(&request(&[])));
    assert_eq!(outcome.expect_err("a failure").reason, Trap);
    assert!(log.contains("ERROR") && log.contains("boo"), "{log}");
    assert!(log.contains("misbehaving/src/lib.rs"), "{log}");
}

/// What was logged meanwhile on this thread.
fn logged<T>(run: impl FnOnce() -> T) -> (T, String) {
    let written = Arc::new(Mutex::new(Vec::new()));
    let writer = Arc::clone(&written);
    let subscriber = tracing_subscriber::fmt()
        .with_ansi(false)
        .with_writer(move || Written(Arc::clone(&writer)))
        .finish();
    let outcome = tracing::subscriber::with_default(subscriber, run);
    let bytes = written.lock().expect("no panic").clone();
    (outcome, String::from_utf8(bytes).expect("UTF-8"))
}

struct Written(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Written {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("no panic").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
