//! Vectors: what comes of them, in words.

use pack_host::{PackError, Trial, Tried};

use super::*;

fn tried(vectors: &[(&str, Value)]) -> Trial {
    HOST.try_out(&misbehave(vectors)).expect("a trial")
}

fn only(written: Value) -> Tried {
    tried(&[("v", written)]).vectors.remove(0)
}

fn deny() -> Value {
    json!({ "how": "deny", "status": 403, "reason": "no", "details": [["a", "1"]] })
}

fn set() -> Value {
    json!({ "how": "set", "name": "X-A", "value": "1", "times": 2 })
}

#[test]
fn vectors_pass_where_the_pack_decides_as_they_expect() {
    let trial = tried(&[
        (
            "deny",
            json!({ "settings": deny(), "expect": { "decision": "deny", "status": 403, "reason": "no", "details": { "a": 1 } } }),
        ),
        ("deny-loosely", json!({ "settings": deny(), "expect": { "decision": "deny" } })),
        (
            "edit",
            json!({ "settings": set(), "expect": { "decision": "edit", "headers": [{ "set": ["x-a", "1"] }, { "set": ["X-A", "1"] }] } }),
        ),
        (
            "refused",
            json!({ "settings": { "how": "reject", "message": "not these" }, "expect": { "refused": "not" } }),
        ),
        (
            "echo",
            json!({ "settings": { "how": "echo", "names": ["x-b"] }, "request": { "headers": [["x-b", { "base64": "/w==" }]] }, "expect": { "decision": "deny" } }),
        ),
        (
            "cost",
            json!({ "settings": { "how": "cost", "units": 7 }, "phase": "cost", "expect": { "cost": 7 } }),
        ),
    ]);
    assert!(trial.passed(), "{:?}", trial.failures().collect::<Vec<_>>());
    assert!(trial.reusable && trial.image);
    let names: Vec<_> = trial.vectors.iter().map(|tried| &*tried.name).collect();
    assert_eq!(names, ["cost", "deny", "deny-loosely", "echo", "edit", "refused"]);
    for tried in &trial.vectors {
        if tried.name == "refused" {
            assert_eq!((tried.fresh, tried.reused), (None, None));
            continue;
        }
        let spent = tried.fresh.unwrap();
        assert!(spent.fuel > 10 && spent.memory >= 64 << 10 && spent.micros > 0.0, "{tried:?}");
        assert!(tried.reused.is_some());
    }
}

#[test]
fn a_vector_that_fails_says_what_came_instead() {
    let refuse = json!({ "how": "reject", "message": "not these" });
    let go = json!({ "decision": "continue" });
    for (settings, expect, outcome, difference) in [
        (deny(), go.clone(), "deny 403 no", "expected continue, got deny 403 no"),
        (
            deny(),
            json!({ "decision": "deny", "status": 401, "reason": "never", "details": { "a": 2 } }),
            "deny 403 no",
            r#"status: expected 401, got 403; reason: expected never, got no; details: expected {"a":2}, got {"a":1}"#,
        ),
        (
            set(),
            json!({ "decision": "edit", "headers": [{ "set": ["x-a", "1"] }], "body": "b" }),
            r#"edit set x-a: "1", set x-a: "1""#,
            r#"headers: expected set x-a: "1", got set x-a: "1", set x-a: "1"; body: expected "b", got no change"#,
        ),
        (
            refuse.clone(),
            go.clone(),
            "settings refused: not these",
            "expected continue, got settings refused: not these",
        ),
        (
            refuse,
            json!({ "refused": "those" }),
            "settings refused: not these",
            r#"the message "not these" does not contain "those""#,
        ),
        (
            deny(),
            json!({ "refused": "those" }),
            "deny 403 no",
            "expected a refusal of the settings, got deny 403 no",
        ),
        (json!({ "how": "spin" }), go, "failed (fuel): ", "expected continue, got failed (fuel): "),
    ] {
        let tried = only(json!({ "settings": settings, "expect": expect }));
        assert!(tried.outcome.starts_with(outcome), "{tried:?}");
        let told = tried.difference.expect("a difference");
        assert!(told.starts_with(difference), "{told}");
    }
    let trial = tried(&[
        ("good", json!({ "settings": deny(), "expect": { "decision": "deny" } })),
        ("bad", json!({ "settings": deny(), "expect": { "decision": "continue" } })),
    ]);
    assert!(!trial.passed());
    let failures: Vec<_> = trial.failures().collect();
    assert_eq!(failures.len(), 1);
    assert!(
        failures[0].starts_with("the vector `bad`: expected continue, got deny"),
        "{failures:?}"
    );
}

#[test]
fn what_a_pack_says_is_kept_as_far_as_people_read() {
    let settings = json!({ "how": "set", "name": "x-a", "value": "y".repeat(1000), "times": 20 });
    let tried =
        only(json!({ "settings": settings, "expect": { "decision": "edit", "headers": [] } }));
    let difference = tried.difference.expect("a difference");
    for text in [&tried.outcome, &difference] {
        assert!(text.len() <= 515 && text.ends_with('…'), "{} bytes", text.len());
    }
    let settings = json!({ "how": "reject", "message": "z".repeat(10_000) });
    let tried = only(json!({ "settings": settings, "expect": { "refused": "z" } }));
    assert!(tried.outcome.len() < 600, "{} bytes", tried.outcome.len());
}

#[test]
fn a_pack_that_remembers_may_not_be_reused() {
    let settings = json!({ "how": "count" });
    let expect = json!({ "decision": "edit", "headers": [{ "set": ["x-count", "1"] }] });
    let trial = tried(&[("count", json!({ "settings": settings, "expect": expect }))]);
    assert!(trial.passed() && !trial.reusable, "{trial:?}");
    let told = trial.vectors[0].reuse_difference.as_deref().unwrap();
    assert_eq!(told, "fresh: edit set x-count; reused: edit set x-count");
}

#[test]
fn what_no_vector_shows_is_not_reusable() {
    let none = tried(&[]);
    assert!(none.passed() && !none.reusable && none.vectors.is_empty());
}

#[test]
fn a_pack_that_can_not_be_prepared_has_no_trial() {
    let spin = json!({ "settings": { "how": "spin-in-configure" }, "expect": { "refused": "" } });
    let error = HOST.try_out(&misbehave(&[("spin", spin)])).unwrap_err();
    assert!(matches!(error, PackError::Configure { .. }), "{error}");
}

#[test]
fn both_places_come_to_the_same() {
    let vectors = [("deny", json!({ "settings": deny(), "expect": { "decision": "continue" } }))];
    let here = host(Worker::Here).try_out(&misbehave(&vectors)).unwrap();
    let there = tried(&vectors);
    assert_eq!(here.vectors[0].difference, there.vectors[0].difference);
    let fuel = |trial: &Trial| trial.vectors[0].fresh.unwrap().fuel;
    assert_eq!(fuel(&here), fuel(&there));
}
