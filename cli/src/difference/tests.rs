//! Tables of differences and places.

use super::{changes, place};
use model::upsert::{Prune, upsert};
use serde_json::{Value, json};

#[track_caller]
fn reads(from: Value, to: Value, lines: &[&str]) {
    let told: Vec<String> = changes(&from, &to).iter().map(ToString::to_string).collect();
    assert_eq!(told, lines, "{from} → {to}");
}

#[test]
fn resources_are_named_and_values_shown() {
    let from = json!({ "format": 1, "plans": [
        { "id": "gold", "limits": [{ "id": "burst", "rate": "50/s" }, { "id": "daily", "quota": "9/day" }] },
        { "id": "free", "limits": [] },
    ] });
    reads(from.clone(), from.clone(), &[]);
    let mut to = from.clone();
    to["plans"][0]["limits"][0]["rate"] = json!("5/s");
    to["plans"][0]["limits"][0]["burst"] = json!(100);
    to["plans"][0]["limits"][1] = json!({ "id": "open", "concurrency": 3 });
    to["tenants"] = json!([{ "id": "acme", "plan": "gold" }]);
    reads(
        from,
        to,
        &[
            r#"~ /plans/gold/limits/burst/rate "50/s" → "5/s""#,
            "+ /plans/gold/limits/burst/burst 100",
            r#"- /plans/gold/limits/daily {"id":"daily","quota":"9/day"}"#,
            r#"+ /plans/gold/limits/open {"id":"open","concurrency":3}"#,
            r#"+ /tenants/acme {"id":"acme","plan":"gold"}"#,
        ],
    );
}

#[test]
fn a_list_that_goes_is_told_entry_by_entry() {
    let full = json!({ "format": 1, "plans": [{ "id": "a" }, { "id": "b" }] });
    reads(
        full.clone(),
        json!({ "format": 1 }),
        &[r#"- /plans/a {"id":"a"}"#, r#"- /plans/b {"id":"b"}"#],
    );
    reads(full, json!({ "plans": [{ "id": "b" }] }), &["- /format 1", r#"- /plans/a {"id":"a"}"#]);
}

#[test]
fn what_has_no_names_is_shown_by_place_or_whole() {
    reads(
        json!({ "upstreams": [{ "id": "crm", "targets": [{ "address": "a:1" }, { "address": "b:1" }] }] }),
        json!({ "upstreams": [{ "id": "crm", "targets": [{ "address": "a:1" }, { "address": "b:2" }] }] }),
        &[r#"~ /upstreams/crm/targets/1/address "b:1" → "b:2""#],
    );
    reads(
        json!({ "scopes": ["a"] }),
        json!({ "scopes": ["a", "b"] }),
        &[r#"~ /scopes ["a"] → ["a","b"]"#],
    );
    reads(
        json!({ "packs": [{ "id": "p", "version": "1.0.0" }] }),
        json!({ "packs": [{ "id": "p", "version": "1.0.0" }, { "id": "p", "version": "2.0.0" }] }),
        &[r#"+ /packs/p@2.0.0 {"id":"p","version":"2.0.0"}"#],
    );
    reads(json!({ "a/b": 1 }), json!({ "a/b": 2 }), &["~ /a~1b 1 → 2"]);
}

#[test]
fn another_order_is_told_as_one_thing() {
    reads(
        json!({ "plans": [{ "id": "a" }, { "id": "b" }, { "id": "c" }] }),
        json!({ "plans": [{ "id": "c" }, { "id": "a", "x": 1 }, { "id": "b" }] }),
        &["+ /plans/a/x 1", "~ /plans (another order)"],
    );
}

#[test]
fn long_values_are_cut_and_secrets_are_not_shown() {
    let lines = changes(&json!({}), &json!({ "docs": "x".repeat(500) }));
    assert!(lines[0].to_string().chars().count() < 130);
    let of = |secret: Value| json!({ "issuers": [{ "id": "i", "secret": secret }] });
    reads(
        of(json!({ "sealed": "tg1.k.AAAA" })),
        of(json!({ "value": "hunter2" })),
        &[r#"~ /issuers/i/secret {"sealed":"…"} → {"value":"…"}"#],
    );
    reads(
        of(json!({ "env": "TOLLGATE_SECRET_A" })),
        of(json!("hunter2")),
        &[r#"~ /issuers/i/secret {"env":"TOLLGATE_SECRET_A"} → "…""#],
    );
    reads(
        json!({}),
        of(json!({ "value": "hunter2" })),
        &[r#"+ /issuers/i {"id":"i","secret":{"value":"…"}}"#],
    );
}

#[test]
fn an_error_is_shown_where_the_file_has_it() {
    let current = json!({ "format": 1, "plans": [{ "id": "a" }, { "id": "b" }],
        "tenants": [{ "id": "x", "pins": { "s": "v1" }, "consumers": [{ "id": "c" }, { "id": "d" }] }] });
    let file = json!({ "plans": [{ "id": "n" }, { "id": "b", "limits": [{ "id": "l" }, { "id": "l" }] }],
        "tenants": [{ "id": "x", "consumers": [{ "id": "d", "bogus": 1 }] }] });
    let merged = upsert(&current, &file, Prune::Keep);
    for (pointer, shown) in [
        ("", ""),
        ("/plans/1/limits/1/id", "/plans/1/limits/1/id"),
        ("/plans/2", "/plans/0"),
        ("/plans/0/limits", "/plans/a/limits"),
        ("/tenants/0/consumers/1/bogus", "/tenants/0/consumers/0/bogus"),
        ("/tenants/0/consumers/0/scopes", "/tenants/x/consumers/c/scopes"),
        ("/tenants/0/plan", "/tenants/0/plan"),
        ("/packs/0/id", "/packs/0/id"),
    ] {
        assert_eq!(place(pointer, &merged, &file), shown, "{pointer}");
    }
}
