//! What a test of a pack can rely on: requests and responses that it makes answer as the host's do.

use tollgate_pack::{
    Answer, Decision, Denial, Edits, HeaderEdit, HeaderLine, LocalTime, Policy, Request, Response,
    Weekday, configure, is_header_name, is_header_value, json_values, settings_schema,
};

#[tollgate_pack::settings]
struct Settings {
    /// How often.
    #[schemars(range(min = 1))]
    times: u32,
    #[serde(default)]
    days: Vec<Weekday>,
}

struct Counting {
    times: u64,
}

#[tollgate_pack::pack]
impl Policy for Counting {
    type Settings = Settings;

    fn new(Settings { times, days }: Settings) -> Result<Self, String> {
        if days.is_empty() { Ok(Self { times: times.into() }) } else { Err("every day".to_owned()) }
    }

    fn on_request(&self, request: &Request) -> Decision {
        self.check(request).into()
    }
}

impl Counting {
    fn check(&self, request: &Request) -> Result<Edits, Denial> {
        match request.count("seen", 1) {
            Some(seen) if seen <= self.times => Ok(Edits::new().set("x-seen", seen.to_string())),
            _ => Err(Denial::new("seen", "Often.")),
        }
    }
}

#[test]
fn a_policy_is_made_from_its_settings_and_asked_natively() {
    let policy: Counting = configure(r#"{"times":1}"#).expect("good settings");
    let request = Request::builder().build();
    assert_eq!(policy.on_request(&request), Edits::new().set("x-seen", "1").into());
    assert_eq!(policy.on_request(&request), Denial::new("seen", "Often.").into());
    assert_eq!(request.counter("seen"), 2);
    // What it does not write, it lets pass.
    assert_eq!(policy.on_response(&request, &Response::builder().build()), Decision::Continue);
    assert_eq!(policy.cost(&request), 1);
    for (settings, expected) in [
        (r#"{"times":1,"days":["monday"]}"#, "every day"),
        (r#"{"times":1,"days":["Monday"]}"#, "unknown variant"),
        (r#"{"times":1,"often":true}"#, "unknown field `often`"),
        ("{", "EOF"),
    ] {
        let error = configure::<Counting>(settings).err().expect("bad settings");
        assert!(error.contains(expected), "{settings}: {error}");
    }
}

#[test]
fn the_schema_says_what_the_settings_type_says() {
    let schema = settings_schema::<Counting>();
    assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
    assert_eq!(schema["additionalProperties"], false);
    assert_eq!(schema["required"], serde_json::json!(["times"]));
    assert_eq!(schema["properties"]["times"]["minimum"], 1);
    assert_eq!(schema["properties"]["times"]["description"], "How often.");
    assert_eq!(schema["properties"]["days"]["items"]["enum"][6], "sunday");
}

#[test]
fn a_made_request_tells_what_it_was_made_of() {
    let request = Request::builder()
        .method("POST")
        .path("/a")
        .query("q=a%20b&q=c&e")
        .header("X-One", "1")
        .header("x-one", [0xe4])
        .header("x-two", "2")
        .body(r#"{"n":7}"#)
        .client_address("::ffff:192.0.2.9")
        .caller("acme", "app")
        .plan("gold")
        .scope("b")
        .scope("a")
        .scope("b")
        .claim("roles", vec!["x"])
        .data("key", [1, 2])
        .build();
    assert_eq!((request.method().as_str(), request.path().as_str()), ("POST", "/a"));
    assert_eq!(request.query_param("q").as_deref(), Some("a b"));
    assert_eq!(request.query_param("e").as_deref(), Some(""));
    assert_eq!(request.query_param("n"), None);
    assert_eq!(request.header_text("x-ONE").as_deref(), Some("1"));
    assert_eq!(request.headers_all("x-one"), [vec![b'1'], vec![0xe4]]);
    assert_eq!(request.header_names(), ["x-one", "x-two"]);
    assert_eq!(request.body_size(), Some(7));
    assert_eq!(request.body_json::<serde_json::Value>().expect("JSON")["n"], 7);
    assert_eq!(request.client_ip(), Some([192, 0, 2, 9].into()));
    assert_eq!((request.tenant().as_str(), request.plan().as_str()), ("acme", "gold"));
    assert_eq!(request.scopes(), ["a", "b"]);
    assert!(request.has_scope("a") && !request.has_scope("c"));
    assert_eq!(request.claim_as::<Vec<String>>("roles"), Some(vec!["x".to_owned()]));
    assert_eq!(request.claim_as::<String>("roles"), None);
    assert_eq!((request.data("key"), request.data("none")), (Some(vec![1, 2]), None));
}

#[test]
fn time_is_the_tenants_or_that_of_a_zone() {
    let request = Request::builder().now("2026-07-19T22:30:15Z").timezone("Europe/Berlin").build();
    assert_eq!(request.now(), 1_784_500_215_000_000);
    let local = |zone| request.local_time(zone);
    let berlin = LocalTime {
        year: 2026,
        month: 7,
        day: 20,
        weekday: Weekday::Monday,
        hour: 0,
        minute: 30,
        second: 15,
    };
    assert_eq!(local(None), Some(berlin));
    assert_eq!(local(Some("UTC")).map(|time| (time.day, time.hour)), Some((19, 22)));
    assert_eq!(local(Some("Nowhere/Land")), None);
    for number in 1..=7 {
        assert_eq!(Weekday::from_iso(number).iso(), number);
    }
}

#[test]
fn random_numbers_are_those_of_the_seed() {
    let drawn = |seed| {
        let request = Request::builder().seed(seed).build();
        [request.random(), request.random()]
    };
    assert_eq!(drawn(1), drawn(1));
    assert_ne!(drawn(1), drawn(2));
    assert_ne!(drawn(1)[0], drawn(1)[1]);
}

#[test]
fn there_are_sixty_four_counters() {
    let request = Request::builder().counter("0", 40).build();
    assert_eq!(request.count("0", 2), Some(42));
    for name in 1..64 {
        assert_eq!(request.count(&name.to_string(), 1), Some(1));
    }
    assert_eq!(request.count("64", 1), None);
    assert_eq!(request.count("63", u64::MAX), Some(u64::MAX));
}

#[test]
fn decisions_read_as_they_are_written() {
    assert_eq!(Decision::from(Edits::new()), Decision::Continue);
    let edits = Edits::new().set("a", "1").append("b", [2]).remove("c").body("d");
    let expected = Edits {
        headers: vec![
            HeaderEdit::Set(HeaderLine::new("a", "1")),
            HeaderEdit::Append(HeaderLine::new("b", [2])),
            HeaderEdit::Remove("c".to_owned()),
        ],
        body: Some(b"d".to_vec()),
    };
    assert_eq!(Decision::from(edits), Decision::Edit(expected));
    let denial = Denial::new("r", "m").status(429).detail("a", [1]).detail("b", "\"");
    assert_eq!(denial.details, [("a".into(), "[1]".into()), ("b".into(), r#""\"""#.into())]);
    let answer = Answer::new(200).header("x", "1").json(["a"]);
    assert_eq!(answer.body, br#"["a"]"#);
    assert_eq!(answer.headers[1], HeaderLine::new("content-type", "application/json"));
    assert_eq!(Decision::from(Ok::<(), Denial>(())), Decision::Continue);
}

#[test]
fn names_and_values_of_headers_are_told_from_others() {
    for (text, name, value) in [
        ("x-id", true, true),
        ("", false, true),
        ("a b", false, true),
        ("a\n", false, false),
        ("é\t", false, true),
    ] {
        assert_eq!((is_header_name(text), is_header_value(text)), (name, value), "{text:?}");
    }
}

#[test]
fn values_are_counted_before_they_are_read() {
    for (text, values) in
        [("7", 1), (r#""a,b:[{\",""#, 1), ("[1,2,3]", 4), (r#"{"a":1,"b":[2]}"#, 6), ("[[],{}]", 5)]
    {
        assert_eq!(json_values(text.as_bytes()), values, "{text}");
    }
}
