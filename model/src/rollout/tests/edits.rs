//! What promotion, rollback and quarantine make of a document.

use crate::id::AttachmentId;
use crate::rollout::{Fallen, promote, quarantine, roll_back, roll_back_to};
use jiff::Timestamp;
use serde_json::{Value, json};

/// Three attachments: `a` and `c` with a candidate, `b` runs what is their candidate.
fn document() -> Value {
    let rollout = json!({ "candidate": "p@1.1.0", "mode": "canary", "percent": 5 });
    json!({
        "format": 1,
        "packs": [{ "id": "p", "version": "1.0.0" }, { "id": "p", "version": "1.1.0", "digest": "d" }],
        "attachments": [
            { "id": "a", "pack": "p@1.0.0", "order": 3, "rollout": rollout },
            { "id": "b", "pack": "p@1.1.0", "settings": { "x": 1 } },
            { "id": "c", "pack": "p@1.0.0", "rollout": rollout },
        ],
    })
}

/// The document with what is said of these attachments in place of what stood there.
fn with(changes: &[(usize, Value)]) -> Value {
    let mut document = document();
    for (index, attachment) in changes {
        document["attachments"][*index] = attachment.clone();
    }
    document
}

fn ids(ids: &[&str]) -> Vec<AttachmentId> {
    ids.iter().map(|id| AttachmentId::from(*id)).collect()
}

#[test]
fn a_candidate_becomes_the_running_version_or_goes_and_all_else_stays() {
    let promoted = |id: &str| match id {
        "a" => (0, json!({ "id": "a", "pack": "p@1.1.0", "order": 3 })),
        _ => (2, json!({ "id": "c", "pack": "p@1.1.0" })),
    };
    let back = |id: &str| match id {
        "a" => (0, json!({ "id": "a", "pack": "p@1.0.0", "order": 3 })),
        _ => (2, json!({ "id": "c", "pack": "p@1.0.0" })),
    };
    for (only, concerned) in [(None, &["a", "c"][..]), (Some("c"), &["c"])] {
        let only = only.map(AttachmentId::from);
        let mut found = document();
        assert_eq!(promote(&mut found, "p@1.1.0", only.as_ref()), Ok(ids(concerned)));
        let changes: Vec<_> = concerned.iter().map(|id| promoted(id)).collect();
        assert_eq!(found, with(&changes), "{only:?}");
        let mut found = document();
        assert_eq!(roll_back(&mut found, "p@1.1.0", only.as_ref()), Ok(ids(concerned)));
        let changes: Vec<_> = concerned.iter().map(|id| back(id)).collect();
        assert_eq!(found, with(&changes), "{only:?}");
    }
    for (candidate, only) in
        [("p@1.0.0", None), ("q@1.1.0", None), ("p@1.1.0", Some("b")), ("p@1.1.0", Some("z"))]
    {
        let only = only.map(AttachmentId::from);
        let mut found = document();
        assert!(promote(&mut found, candidate, only.as_ref()).is_err(), "{candidate} {only:?}");
        assert!(roll_back(&mut found, candidate, only.as_ref()).is_err(), "{candidate} {only:?}");
        assert_eq!(found, document());
    }
}

#[test]
fn what_runs_goes_back_where_it_is_known_what_ran_before() {
    let mut found = document();
    let gone_back = roll_back_to(&mut found, "p@1.0.0", |id| {
        (id.as_str() == "a").then(|| "p@0.9.0".to_owned())
    });
    assert_eq!(gone_back, [("a".into(), Some("p@0.9.0".to_owned())), ("c".into(), None)]);
    // The candidate of `a` was measured against what went.
    assert_eq!(found, with(&[(0, json!({ "id": "a", "pack": "p@0.9.0", "order": 3 }))]));
}

#[test]
fn a_quarantined_version_goes_everywhere_or_its_attachment_is_halted() {
    let at: Timestamp = "2026-11-21T09:00:00Z".parse().unwrap();
    let marked = json!({
        "id": "p", "version": "1.1.0", "digest": "d",
        "quarantined": { "at": "2026-11-21T09:00:00Z", "reason": "5 faults in 30s" },
    });
    let known = |version: &str| Fallen::Back("b".into(), version.to_owned());
    for (before, fallen, b) in [
        (
            Some("p@1.0.0"),
            known("p@1.0.0"),
            json!({ "id": "b", "pack": "p@1.0.0", "settings": { "x": 1 } }),
        ),
        (
            None,
            Fallen::Halted("b".into()),
            json!({ "id": "b", "pack": "p@1.1.0", "settings": { "x": 1 }, "halted": true }),
        ),
    ] {
        let mut found = document();
        let told =
            quarantine(&mut found, "p@1.1.0", "5 faults in 30s", at, |_| before.map(str::to_owned));
        assert_eq!(told, Ok(vec![fallen]));
        let mut expected = with(&[
            (0, json!({ "id": "a", "pack": "p@1.0.0", "order": 3 })),
            (1, b),
            (2, json!({ "id": "c", "pack": "p@1.0.0" })),
        ]);
        expected["packs"][1] = marked.clone();
        assert_eq!(found, expected);
        let again = quarantine(&mut found, "p@1.1.0", "again", at, |_| None);
        assert!(again.is_err(), "the first reason stays");
        assert_eq!(found, expected);
    }
    for pack in ["p@9.9.9", "q@1.1.0", "p", ""] {
        let mut found = document();
        assert!(quarantine(&mut found, pack, "x", at, |_| None).is_err(), "{pack}");
        assert_eq!(found, document());
    }
}

#[test]
fn an_attachment_that_is_halted_with_a_rollout_in_progress_has_it_no_more() {
    let at: Timestamp = "2026-11-21T09:00:00Z".parse().unwrap();
    let mut found = document();
    let told = quarantine(&mut found, "p@1.0.0", "x", at, |_| None);
    assert_eq!(told, Ok(vec![Fallen::Halted("a".into()), Fallen::Halted("c".into())]));
    let mut expected = with(&[
        (0, json!({ "id": "a", "pack": "p@1.0.0", "order": 3, "halted": true })),
        (2, json!({ "id": "c", "pack": "p@1.0.0", "halted": true })),
    ]);
    expected["packs"][0]["quarantined"] = json!({ "at": "2026-11-21T09:00:00Z", "reason": "x" });
    assert_eq!(found, expected);
}
