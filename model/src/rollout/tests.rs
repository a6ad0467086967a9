mod edits;
mod judging;

use super::*;
use crate::document::{OnPass, RollbackOn, RolloutMode};
use crate::{Decision, Denial, Edits, FailureReason, HeaderEdit, PackAnswer, units};
use http::{HeaderName, HeaderValue, StatusCode};
use serde_json::{Map, Value, json};
use std::time::Duration;

fn rollout(candidate: &str, percent: f64, by: By) -> Rollout {
    Rollout {
        candidate: candidate.to_owned(),
        mode: RolloutMode::Canary,
        percent,
        by,
        window: units::Duration(Duration::from_secs(600)),
        min_samples: 100,
        rollback_on: RollbackOn::default(),
        on_pass: OnPass::Wait,
    }
}

fn caller(tenant: &str, consumer: &str) -> Identity {
    Identity {
        tenant: tenant.into(),
        consumer: consumer.into(),
        subject: consumer.to_owned(),
        credential: "k1".to_owned(),
        scopes: Vec::new(),
        claims: Default::default(),
    }
}

/// Which of 10,000 exchanges are in the share: of 100 tenants with 10 consumers each, ten requests of every one.
fn share(rollout: &Rollout, attachment: &str) -> Vec<bool> {
    let attachment = attachment.into();
    let exchanges = (0..10_000).map(|number| {
        let caller = caller(&format!("t{}", number % 100), &format!("c{}", number / 100 % 10));
        takes(rollout, &attachment, &caller, &format!("request-{number}"))
    });
    exchanges.collect()
}

fn percent_of(share: &[bool]) -> f64 {
    share.iter().filter(|taken| **taken).count() as f64 * 100.0 / share.len() as f64
}

#[test]
fn a_share_is_about_as_large_as_asked_and_the_same_each_time() {
    for (percent, by, within) in [
        (0.5, By::Request, 0.1..1.0),
        (10.0, By::Request, 9.0..11.0),
        (10.0, By::Consumer, 7.0..13.0),
        (50.0, By::Consumer, 45.0..55.0),
        (30.0, By::Tenant, 18.0..42.0),
        (99.9, By::Request, 99.7..100.0),
    ] {
        let rollout = rollout("p@1.1.0", percent, by);
        let taken = share(&rollout, "a");
        assert!(within.contains(&percent_of(&taken)), "{percent} {by:?}: {}", percent_of(&taken));
        assert_eq!(share(&rollout, "a"), taken);
    }
    assert_eq!(percent_of(&share(&rollout("p@1.1.0", 100.0, By::Request), "a")), 100.0);
}

#[test]
fn whoever_is_in_a_share_stays_in_it_when_it_grows_and_is_in_it_with_every_request() {
    let (small, large) =
        (rollout("p@1.1.0", 10.0, By::Consumer), rollout("p@1.1.0", 30.0, By::Consumer));
    let (few, more) = (share(&small, "a"), share(&large, "a"));
    assert!(few.iter().zip(&more).all(|(few, more)| !few || *more));
    for (by, same) in [(By::Consumer, 1_000), (By::Tenant, 100)] {
        let taken = share(&rollout("p@1.1.0", 30.0, by), "a");
        for (number, is_taken) in taken.iter().enumerate() {
            assert_eq!(*is_taken, taken[number % same], "{by:?} {number}");
        }
    }
}

#[test]
fn another_candidate_or_attachment_has_another_share() {
    let first = share(&rollout("p@1.1.0", 50.0, By::Consumer), "a");
    for (candidate, attachment) in [("p@1.2.0", "a"), ("p@1.1.0", "b")] {
        let other = share(&rollout(candidate, 50.0, By::Consumer), attachment);
        let same = first.iter().zip(&other).filter(|(a, b)| a == b).count();
        assert!((4_000..6_000).contains(&same), "{candidate} {attachment}: {same}");
    }
    // Ids are kept apart: one that ends as another begins is not the same.
    let (one, two) =
        (rollout("p@1.1.0", 50.0, By::Consumer), rollout("p@1.1.0", 50.0, By::Consumer));
    let differ = (0..100).any(|number| {
        let (a, b) = (caller("ab", &format!("c{number}")), caller("a", &format!("bc{number}")));
        takes(&one, &"a".into(), &a, "r") != takes(&two, &"a".into(), &b, "r")
    });
    assert!(differ);
}

fn name(text: &str) -> HeaderName {
    text.parse().unwrap()
}

fn value(text: &str) -> HeaderValue {
    text.parse().unwrap()
}

fn set(header: &str, text: &str) -> HeaderEdit {
    HeaderEdit::Set(name(header), value(text))
}

fn append(header: &str, text: &str) -> HeaderEdit {
    HeaderEdit::Append(name(header), value(text))
}

fn edit(headers: Vec<HeaderEdit>, body: Option<&'static str>) -> Outcome {
    Outcome::Decided(Decision::Edit(Edits { headers, body: body.map(Into::into) }))
}

fn deny(status: u16, reason: &str, message: &str, details: Map<String, Value>) -> Outcome {
    Outcome::Decided(Decision::Deny(Denial {
        status: StatusCode::from_u16(status).unwrap(),
        reason: reason.to_owned(),
        message: message.to_owned(),
        details,
    }))
}

fn answer(status: u16, headers: &[(&str, &str)], body: &'static str) -> Outcome {
    Outcome::Decided(Decision::Answer(PackAnswer {
        status: StatusCode::from_u16(status).unwrap(),
        headers: headers.iter().map(|(header, text)| (name(header), value(text))).collect(),
        body: body.into(),
    }))
}

#[test]
fn two_outcomes_differ_in_what_they_come_to() {
    use FailureReason::{Fuel, Trap};
    use Outcome::{Cost, Decided, Failed};
    let go_on = || Decided(Decision::Continue);
    let remove = |header: &str| HeaderEdit::Remove(name(header));
    let details = |value: u32| Map::from_iter([("limit".to_owned(), json!(value))]);
    let no = Map::new;
    for (running, candidate, expected) in [
        (go_on(), go_on(), None),
        (Cost(2), Cost(2), None),
        (Cost(2), Cost(3), Some("cost: 2 and 3")),
        (Failed(Fuel), Failed(Fuel), None),
        (Failed(Fuel), Failed(Trap), Some("reason: fuel and trap")),
        (Failed(Fuel), go_on(), Some("only the candidate decided")),
        (Cost(1), Failed(Trap), Some("the candidate failed: trap")),
        (go_on(), deny(403, "late", "", no()), Some("decision: continue and deny")),
        (deny(403, "late", "", no()), deny(403, "late", "", no()), None),
        (
            deny(403, "late", "Late.", no()),
            deny(429, "busy", "Busy.", details(1)),
            Some("status: 403 and 429; reason: late and busy; message; details"),
        ),
        (deny(403, "late", "", details(1)), deny(403, "late", "", details(2)), Some("details")),
        (go_on(), edit(vec![], None), None),
        (edit(vec![], None), go_on(), None),
        (go_on(), edit(vec![set("a", "1")], None), Some("decision: continue and edit")),
        (
            edit(vec![set("a", "1"), set("b", "2")], None),
            edit(vec![set("b", "2"), set("a", "0"), set("a", "1")], None),
            None,
        ),
        (
            edit(vec![set("a", "1"), append("a", "2")], None),
            edit(vec![remove("a"), append("a", "1"), append("a", "2")], None),
            None,
        ),
        (
            edit(vec![append("a", "1"), append("a", "2")], None),
            edit(vec![append("a", "2"), append("a", "1")], None),
            Some("headers: a"),
        ),
        (
            edit(vec![set("c", "1"), set("a", "1")], Some("x")),
            edit(vec![append("a", "1"), remove("b"), set("c", "1")], None),
            Some("headers: a, b; body: 1 bytes (2d711642) and unchanged"),
        ),
        (
            answer(200, &[("a", "1"), ("b", "2")], "x"),
            answer(200, &[("b", "2"), ("a", "1")], "x"),
            None,
        ),
        (
            answer(200, &[("a", "secret")], "x"),
            answer(404, &[("b", "1")], "secret"),
            Some(
                "status: 200 and 404; headers: a, b; body: 1 bytes (2d711642) and 6 bytes (2bb80d53)",
            ),
        ),
        (go_on(), Cost(1), Some("phase")),
    ] {
        let told = difference(&running, &candidate);
        assert_eq!(told.as_deref(), expected, "{running:?} {candidate:?}");
    }
}

#[test]
fn a_summary_holds_no_value_and_no_body() {
    for (outcome, expected) in [
        (Outcome::Cost(7), "cost 7"),
        (Outcome::Failed(FailureReason::HostLimit), "failed: host_limit"),
        (Outcome::Decided(Decision::Continue), "continue"),
        (deny(451, "closed", "hunter2", Map::new()), "deny 451 closed"),
        (answer(302, &[("location", "hunter2")], "hunter2"), "answer 302 (7 bytes)"),
        (
            edit(vec![set("a", "hunter2"), append("b", "x"), HeaderEdit::Remove(name("c"))], None),
            "edit set a append b remove c",
        ),
        (edit(vec![], Some("hunter2")), "edit body (7 bytes)"),
    ] {
        assert_eq!(summary(&outcome), expected);
    }
}
