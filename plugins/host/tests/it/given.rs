//! What capabilities give.

use std::sync::Mutex;

use super::*;

#[track_caller]
fn asked(pack: &Prepared, request: &Arc<PolicyRequest>, given: &Given) -> Value {
    Value::Object(denied(pack.on_request(request, &given.grants())).details)
}

#[test]
fn the_clock_stands_at_the_beginning_of_the_exchange() {
    let zones = ["UTC", "America/New_York", "Asia/Kathmandu", "Nowhere/At_All", ""];
    let pack = misbehave(json!({ "how": "ask", "zones": zones }));
    let told = asked(&pack, &request(&[]), &Given::default());
    assert_eq!(told["now"], json!(1_795_300_215_250_000_u64));
    let at = |day: u8, weekday: &str, hour: u8, minute: u8| {
        format!(
            "LocalTime {{ year: 2026, month: 11, day: {day}, weekday: {weekday}, hour: {hour}, minute: {minute}, \
             second: 15 }}"
        )
    };
    // The tenant's zone is Europe/Berlin.
    assert_eq!(told["here"], json!(at(21, "Saturday", 23, 30)));
    let expected = json!([
        at(21, "Saturday", 22, 30),
        at(21, "Saturday", 17, 30),
        at(22, "Sunday", 4, 15),
        null,
        null
    ]);
    assert_eq!(told["zones"], expected);
}

#[test]
fn random_numbers_are_those_of_the_request_in_every_version_and_instance() {
    let settings = json!({ "how": "ask", "random": 3 });
    let fresh = misbehave(settings.clone());
    let reused = reusing(settings.clone(), 100);
    let mut package = package("misbehave", demo::MISBEHAVE);
    let manifest = Manifest { version: "2.0.0".to_owned(), ..package.manifest().clone() };
    package =
        Package::build(manifest, demo::MISBEHAVE.to_vec(), None, Vec::new()).expect("a package");
    let other_version =
        HOST.load(package).prepare(&settings, Limits::default(), None).expect("good settings");
    let other_pack =
        CONFIGURED_EACH_TIME.prepare(&settings, Limits::default(), None).expect("good settings");

    let given = Given::default();
    let first = request(&[]);
    let mut second = PolicyRequest::clone(&first);
    second.request_id = "req-2".into();
    let second = Arc::new(second);
    let random = |pack: &Prepared, request| asked(pack, request, &given)["random"].clone();
    let of_first = random(&fresh, &first);
    let numbers: std::collections::BTreeSet<_> =
        of_first.as_array().expect("a list").iter().map(Value::to_string).collect();
    assert_eq!(numbers.len(), 3, "{of_first}");
    for pack in [&fresh, &reused, &reused, &other_version] {
        assert_eq!(random(pack, &first), of_first);
    }
    assert_ne!(random(&fresh, &second), of_first);
    assert_ne!(random(&other_pack, &first), of_first);
}

#[test]
fn data_is_what_the_exchange_was_given() {
    let pack = misbehave(json!({ "how": "ask", "keys": ["blocked", "empty", "absent"] }));
    let data = [("blocked", &b"\xff\x00"[..]), ("empty", b"")];
    let data = data.map(|(key, value)| (key.to_owned(), Bytes::from_static(value)));
    let given = Given { data: Arc::new(data.into_iter().collect()), ..Given::default() };
    let told = asked(&pack, &request(&[]), &given);
    assert_eq!(told["keys"], json!([[255, 0], [], null]));
    let told = asked(&pack, &request(&[]), &Given::default());
    assert_eq!(told["keys"], json!([null, null, null]));
}

#[test]
fn counters_go_on_over_decisions_and_threads() {
    let counters = [("a", 2), ("b", 1), ("a", 0)];
    let pack = misbehave(json!({ "how": "ask", "counters": counters }));
    let given = Given::default();
    let asked_now = request(&[]);
    assert_eq!(asked(&pack, &asked_now, &given)["counters"], json!([2, 1, 2]));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..50).for_each(|_| drop(asked(&pack, &asked_now, &given))));
        }
    });
    let told: Vec<_> = given.counters.iter().collect();
    assert_eq!(told, [("a", 402), ("b", 201)]);
    assert_eq!(asked(&pack, &asked_now, &Given::default())["counters"], json!([2, 1, 2]));
}

#[test]
fn counters_are_bounded_in_number_name_and_value() {
    let mut counters: Vec<_> = (0..66).map(|n| (format!("c{n}"), 1_u64)).collect();
    counters.push(("n".repeat(65), 1));
    counters.push((String::new(), 1));
    counters.push(("c0".to_owned(), u64::MAX));
    let pack = misbehave(json!({ "how": "ask", "counters": counters }));
    let given = Given::default();
    let told = asked(&pack, &request(&[]), &given)["counters"].clone();
    let told = told.as_array().expect("a list");
    assert!(told[..64].iter().all(|count| *count == json!(1)), "{told:?}");
    assert_eq!(told[64..], [Value::Null, Value::Null, Value::Null, Value::Null, json!(u64::MAX)]);
    assert_eq!(given.counters.iter().count(), 64);
}

#[test]
fn a_pack_that_observes_is_told_what_would_be_and_changes_nothing() {
    let mut counters = vec![("a", 5_u64), ("a", 1), ("new", 2)];
    let names: Vec<_> = (0..70).map(|n| format!("n{n}")).collect();
    counters.extend(names.iter().map(|name| (&**name, 1)));
    let pack = misbehave(json!({ "how": "ask", "counters": counters }));
    let acting = misbehave(json!({ "how": "ask", "counters": [["a", 10]] }));
    let given = Given::default();
    asked(&acting, &request(&[]), &given);
    for _ in 0..2 {
        let counters = Counting::Observing(&given.counters);
        let outcome = pack.on_request(&request(&[]), &Grants { counters, ..given.grants() });
        let told = denied(outcome).details["counters"].clone();
        let told = told.as_array().expect("a list");
        assert_eq!(told[..3], [json!(15), json!(16), json!(2)]);
        // 64 with those two.
        assert!(told[3..65].iter().all(|count| *count == json!(1)), "{told:?}");
        assert!(told[65..].iter().all(Value::is_null), "{told:?}");
    }
    let left: Vec<_> = given.counters.iter().collect();
    assert_eq!(left, [("a", 10)]);
}

#[test]
fn log_lines_carry_pack_and_request_are_escaped_and_bounded() {
    let line = format!("first\nsecond \u{1b}[31m {}", "ü".repeat(2000));
    let pack = misbehave(json!({ "how": "chatter", "lines": 100, "line": line }));
    let (outcome, log) = logged(|| on_request(&pack, &request(&[])));
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
fn an_attachment_logs_so_many_lines_a_second_and_says_how_many_were_left_out() {
    let pack = misbehave(json!({ "how": "chatter", "lines": 16, "line": "x" }));
    let given = Given::default();
    let mut asked = PolicyRequest::clone(&request(&[]));
    let lines = |asked: &PolicyRequest| {
        let asked = Arc::new(asked.clone());
        logged(|| pack.on_request(&asked, &given.grants())).1
    };
    let written: usize = (0..10).map(|_| lines(&asked).lines().count()).sum();
    assert_eq!((written, given.log.dropped()), (100, 60));
    asked.now += std::time::Duration::from_millis(250);
    let log = lines(&asked);
    assert_eq!(log.lines().count(), 5, "{log}");
    assert!(log.lines().next().expect("a line").contains("left_out=60"), "{log}");
    // A clock that was set back silences nobody.
    asked.now -= std::time::Duration::from_secs(3600);
    assert_eq!(lines(&asked).lines().count(), 16);
}

#[test]
fn a_panic_says_in_the_log_where_and_why() {
    let pack = misbehave(json!({ "how": "panic", "message": "boo" }));
    let (outcome, log) = logged(|| on_request(&pack, &request(&[])));
    assert_eq!(outcome.expect_err("a failure").reason, FailureReason::Trap);
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
