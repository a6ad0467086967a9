//! Versions that come into service and go out of it: promoted, rolled back, quarantined.

use super::api::{Api, Setup, Told, standard};
use model::role::Role;
use model::rollout::RolloutState;
use serde_json::{Value, json};
use store::rollouts::{OpenRollout, RolloutQuery};

const PACK: &str = "/v1/packs/require-header/versions";

fn rollout(candidate: &str) -> Value {
    json!({ "candidate": format!("require-header@{candidate}"), "mode": "canary", "percent": 10, "window": "10m",
        "min_samples": 200 })
}

/// Versions 1.0.0, 1.1.0 and 2.0.0. Everybody's attachment runs 1.1.0 since revision 2; that of acme runs 1.0.0 and has
/// 1.1.0 as its candidate; that of globex runs 1.0.0.
async fn api() -> Api {
    let mut document = standard();
    let version = |version: &str| json!({ "id": "require-header", "version": version });
    document["packs"] = json!([version("1.0.0"), version("1.1.0"), version("2.0.0")]);
    document["attachments"][0]["rollout"] = rollout("1.1.0");
    let setup = Setup { document: Some(document), keys: vec!['1'], ..Setup::default() };
    let api = Api::with(setup).await;
    patch(&api, "header", &json!({ "pack": "require-header@1.1.0" })).await;
    api
}

async fn patch(api: &Api, attachment: &str, patch: &Value) {
    let ask = api.ask("PATCH", &format!("/v1/attachments/{attachment}"));
    ask.header("if-match", "*").json(patch).send().await.is(200);
}

async fn shift(api: &Api, token: &str, target: &str, body: Value) -> Told {
    api.ask("POST", &format!("{PACK}/{target}")).bearer(token).json(&body).send().await
}

/// What became of each attachment, as the answer has it.
fn became(told: &Told) -> Vec<(String, String, String)> {
    let body = told.json();
    let text = |entry: &Value, field: &str| entry[field].as_str().unwrap().to_owned();
    let all = body["attachments"].as_array().unwrap().iter();
    all.map(|one| (text(one, "id"), text(one, "became"), text(one, "pack"))).collect()
}

fn is(id: &str, became: &str, version: &str) -> (String, String, String) {
    (id.to_owned(), became.to_owned(), format!("require-header@{version}"))
}

/// What each attachment runs, its candidate, and whether it is halted.
async fn runs(api: &Api) -> Vec<(String, Option<String>, bool)> {
    let document = api.document().await;
    let entries = document["attachments"].as_array().unwrap().iter();
    let version =
        |value: &Value| value.as_str().map(|text| text.split_once('@').unwrap().1.to_owned());
    entries
        .map(|entry| {
            let candidate = version(&entry["rollout"]["candidate"]);
            (version(&entry["pack"]).unwrap(), candidate, entry["halted"] == true)
        })
        .collect()
}

fn run(version: &str) -> (String, Option<String>, bool) {
    (version.to_owned(), None, false)
}

/// The events of the outbox: type, subject, tenant.
async fn events(api: &Api) -> Vec<(String, String, Option<String>)> {
    let told = api.store.outbox(0, 100).await.unwrap();
    let event = |told: store::control::Outgoing| {
        let event = told.event;
        (event.r#type, event.subject, event.tenant.map(|tenant| tenant.to_string()))
    };
    told.into_iter().map(event).collect()
}

fn event(kind: &str, subject: &str, tenant: Option<&str>) -> (String, String, Option<String>) {
    (format!("tollgate.pack.{kind}"), subject.to_owned(), tenant.map(str::to_owned))
}

#[tokio::test]
async fn a_candidate_is_promoted_wherever_it_is_one() {
    let api = api().await;
    patch(&api, "globex-header", &json!({ "rollout": rollout("1.1.0") })).await;
    let before = api.revision().await;
    let told = shift(&api, &api.admin, "1.1.0:promote", json!({})).await.is(200);
    let all = [
        is("acme-header", "promoted", "1.1.0"),
        is("globex-header", "promoted", "1.1.0"),
        is("header", "kept", "1.1.0"),
    ];
    assert_eq!(became(&told), all);
    assert_eq!((told.json()["revision"].as_u64(), told.revision()), (Some(before + 1), before + 1));
    assert_eq!(runs(&api).await, [run("1.1.0"), run("1.1.0"), run("1.1.0")]);
    let promoted =
        |id: &str, tenant| event("promoted", &format!("/v1/attachments/{id}"), Some(tenant));
    let expected = [promoted("acme-header", "acme"), promoted("globex-header", "globex")];
    assert_eq!(events(&api).await, expected);
    let entry = api.audit().await.remove(0);
    assert_eq!(
        (entry.action.as_str(), entry.revision),
        ("packs.versions.promote", Some(before + 1))
    );
    assert_eq!(entry.resource, format!("{PACK}/1.1.0:promote"));
    assert_eq!(entry.difference, told.json()["difference"]);
    let told = shift(&api, &api.admin, "1.1.0:promote", json!({})).await;
    assert!(told.text.contains("no candidate"), "{}", told.text);
    told.refuses(409, "CONFLICT");
}

#[tokio::test]
async fn on_one_attachment_others_stay() {
    let api = api().await;
    patch(&api, "globex-header", &json!({ "rollout": rollout("1.1.0") })).await;
    let only = json!({ "attachment": "globex-header" });
    let told = shift(&api, &api.admin, "1.1.0:promote", only.clone()).await.is(200);
    assert!(became(&told).contains(&is("acme-header", "kept", "1.0.0")));
    let candidate = ("1.0.0".to_owned(), Some("1.1.0".to_owned()), false);
    assert_eq!(runs(&api).await, [candidate.clone(), run("1.1.0"), run("1.1.0")]);
    // Back to what it ran before, and nothing else.
    let told = shift(&api, &api.admin, "1.1.0:rollback", only).await.is(200);
    assert!(became(&told).contains(&is("globex-header", "rolled_back", "1.0.0")));
    assert_eq!(runs(&api).await, [candidate, run("1.0.0"), run("1.1.0")]);
    for (verb, status, code) in
        [("promote", 422, "CONFIG_INVALID"), ("quarantine", 422, "CONFIG_INVALID")]
    {
        let body = json!({ "attachment": "unknown" });
        let told = shift(&api, &api.admin, &format!("1.1.0:{verb}"), body).await;
        assert_eq!(told.refuses(status, code)["errors"][0]["pointer"], "/attachment");
    }
}

#[tokio::test]
async fn a_version_is_rolled_back_as_a_candidate_and_where_it_runs() {
    let api = api().await;
    let before = api.revision().await;
    let dry = shift(&api, &api.admin, "1.1.0:rollback?dry_run=true", json!({})).await.is(200);
    assert_eq!((&dry.json()["valid"], api.revision().await), (&json!(true), before));
    let told = shift(&api, &api.admin, "1.1.0:rollback", json!({})).await.is(200);
    assert_eq!(dry.json()["difference"], told.json()["difference"]);
    let all = [is("acme-header", "rolled_back", "1.0.0"), is("header", "rolled_back", "1.0.0")];
    assert_eq!(became(&told), all);
    assert_eq!(runs(&api).await, [run("1.0.0"), run("1.0.0"), run("1.0.0")]);
    let back = |id: &str, tenant| event("rolled_back", &format!("/v1/attachments/{id}"), tenant);
    assert_eq!(events(&api).await, [back("acme-header", Some("acme")), back("header", None)]);
    // It has nowhere run since.
    let told = shift(&api, &api.admin, "2.0.0:rollback", json!({})).await;
    assert!(told.text.contains("neither"), "{}", told.text);
    told.refuses(409, "CONFLICT");
    // What it ran before is not known.
    let only = json!({ "attachment": "globex-header" });
    let told = shift(&api, &api.admin, "1.0.0:rollback", only).await;
    assert!(told.text.contains("PATCH /v1/attachments/globex-header"), "{}", told.text);
    told.refuses(409, "CONFLICT");
}

#[tokio::test]
async fn a_quarantined_version_runs_nowhere_and_is_not_named_again() {
    let api = api().await;
    let reason = json!({ "reason": "it leaks" });
    let told = shift(&api, &api.admin, "1.1.0:quarantine", reason).await.is(200);
    let all = [is("acme-header", "rolled_back", "1.0.0"), is("header", "rolled_back", "1.0.0")];
    assert_eq!(became(&told), all);
    assert_eq!(runs(&api).await, [run("1.0.0"), run("1.0.0"), run("1.0.0")]);
    let (entry, _) = api.read(&format!("{PACK}/1.1.0")).await;
    let quarantined = json!({ "at": api.clock.now(), "reason": "it leaks" });
    assert_eq!(entry["quarantined"], quarantined);
    let events = events(&api).await;
    assert_eq!(events.last(), Some(&event("quarantined", &format!("{PACK}/1.1.0"), None)));
    shift(&api, &api.admin, "1.1.0:quarantine", json!({})).await.refuses(409, "CONFLICT");
    // Of 1.0.0 there is nothing to go back to: its attachments are halted.
    let told = shift(&api, &api.admin, "1.0.0:quarantine", json!({})).await.is(200);
    assert!(became(&told).iter().all(|(_, became, _)| became == "halted"), "{}", told.text);
    let halted = ("1.0.0".to_owned(), None, true);
    assert_eq!(runs(&api).await, [halted.clone(), halted.clone(), halted]);
    let (entry, _) = api.read(&format!("{PACK}/1.0.0")).await;
    assert_eq!(entry["quarantined"]["reason"], "by admin-of-all");
    let ask = api.ask("PATCH", "/v1/attachments/header").header("if-match", "*");
    let told = ask.json(&json!({ "pack": "require-header@1.1.0", "halted": null })).send().await;
    told.refuses(422, "CONFIG_INVALID");
}

#[tokio::test]
async fn what_is_quarantined_stays_so_when_an_older_revision_is_brought_back() {
    let api = api().await;
    let operator = api.token(Role::Operator, None).await;
    let old = api.revision().await;
    shift(&api, &operator, "1.1.0:quarantine", json!({})).await.is(200);
    let ask = api.ask("PATCH", "/v1/plans/free").header("if-match", "*");
    ask.json(&json!({ "limits": [] })).send().await.is(200);
    let target = format!("/v1/revisions/{old}:rollback");
    let told = api.ask("POST", &target).bearer(&operator).send().await.is(200).json();
    let touched: Vec<_> =
        told["difference"].as_array().unwrap().iter().map(|one| one["path"].clone()).collect();
    assert_eq!(touched, ["/plans/1/limits/0"], "{told}");
    assert_eq!(runs(&api).await, [run("1.0.0"), run("1.0.0"), run("1.0.0")]);
    let (entry, _) = api.read(&format!("{PACK}/1.1.0")).await;
    assert_eq!(entry["quarantined"]["reason"], "by operator-of-all");
    // To lift it is a change of its own.
    let lift = api.ask("PATCH", &format!("{PACK}/1.1.0")).header("if-match", "*");
    lift.json(&json!({ "quarantined": null })).send().await.is(200);
    api.ask("POST", &target).send().await.is(200);
    assert_eq!(runs(&api).await[2], run("1.1.0"));
}

#[tokio::test]
async fn each_role_may_what_its_row_says() {
    // Operators take versions out of service; only who may change packs brings them back.
    for (role, promotes, quarantines, lifts) in [
        (Role::Viewer, 403, 403, 403),
        (Role::Producer, 403, 403, 403),
        (Role::Operator, 200, 200, 403),
        (Role::Publisher, 200, 200, 200),
        (Role::Admin, 200, 200, 200),
    ] {
        let api = api().await;
        let token = api.token(role, None).await;
        shift(&api, &token, "1.1.0:promote", json!({})).await.is(promotes);
        shift(&api, &token, "1.1.0:quarantine", json!({})).await.is(quarantines);
        if quarantines == 403 {
            shift(&api, &api.admin, "1.1.0:quarantine", json!({})).await.is(200);
        }
        let ask = api.ask("PATCH", &format!("{PACK}/1.1.0")).bearer(&token);
        let lift = json!({ "quarantined": null });
        ask.header("if-match", "*").json(&lift).send().await.is(lifts);
    }
}

#[tokio::test]
async fn a_document_of_an_operator_may_quarantine_and_change_nothing_else_of_packs() {
    let api = api().await;
    let operator = api.token(Role::Operator, None).await;
    let quarantined = json!({ "at": "2026-11-21T12:00:00Z", "reason": "it leaks" });
    for (change, status) in [
        (json!([{ "op": "add", "path": "/packs/2/quarantined", "value": quarantined }]), 200),
        (json!([{ "op": "replace", "path": "/packs/2/quarantined/reason", "value": "x" }]), 403),
        (json!([{ "op": "remove", "path": "/packs/2/quarantined" }]), 403),
        (json!([{ "op": "remove", "path": "/packs/2" }]), 403),
        (
            json!([{ "op": "add", "path": "/packs/-", "value": { "id": "a", "version": "1.0.0" } }]),
            403,
        ),
    ] {
        let mut document = api.document().await;
        let patch: json_patch::Patch = serde_json::from_value(change).unwrap();
        json_patch::patch(&mut document, &patch).unwrap();
        let ask = api.ask("PUT", "/v1/document").bearer(&operator).header("if-match", "*");
        ask.json(&document).send().await.is(status);
    }
}

#[tokio::test]
async fn a_token_of_a_tenant_moves_its_own_attachments_alone() {
    let api = api().await;
    patch(&api, "globex-header", &json!({ "rollout": rollout("1.1.0") })).await;
    let bound = api.token(Role::Operator, Some("acme")).await;
    let on = |attachment: &str| json!({ "attachment": attachment });
    for (target, body, status) in [
        ("1.1.0:promote", json!({}), 403),
        ("1.1.0:rollback", json!({}), 403),
        ("1.1.0:quarantine", json!({}), 403),
        ("1.1.0:promote", on("globex-header"), 422),
        ("1.1.0:promote", on("header"), 422),
        ("1.1.0:promote", on("unknown"), 422),
        ("1.1.0:promote", on("acme-header"), 200),
        ("1.1.0:rollback", on("acme-header"), 200),
    ] {
        let others = api.document().await["attachments"].as_array().unwrap()[1..].to_vec();
        let told = shift(&api, &bound, target, body).await.is(status);
        assert!(!told.text.contains("globex\""), "{}", told.text);
        if status == 200 {
            assert_eq!(became(&told).len(), 1, "{}", told.text);
        }
        assert_eq!(api.document().await["attachments"].as_array().unwrap()[1..], others);
    }
    // What is hidden is audited as a refusal, and what is absent is not.
    let refused = api.audit().await.into_iter().filter(|entry| entry.refused.is_some()).count();
    assert_eq!(refused, 5);
}

#[tokio::test]
async fn a_rollout_ends_as_what_was_done() {
    for (verb, state, reason) in [
        ("promote", RolloutState::Promoted, Some("as agreed")),
        ("rollback", RolloutState::RolledBack, None),
        ("quarantine", RolloutState::RolledBack, Some("it leaks")),
    ] {
        let api = api().await;
        let now = api.clock.now();
        let open = OpenRollout {
            id: uuid::Uuid::now_v7().to_string(),
            attachment: "acme-header".into(),
            pack: "require-header".into(),
            running: "1.0.0".to_owned(),
            candidate: "1.1.0".to_owned(),
            started_at: now,
        };
        api.store.sync_rollouts(api.revision().await, vec![open], now).await.unwrap();
        let body = reason.map_or(json!({}), |reason| json!({ "reason": reason }));
        shift(&api, &api.admin, &format!("1.1.0:{verb}"), body).await.is(200);
        let query = RolloutQuery { limit: 10, ..RolloutQuery::default() };
        let [rollout] = api.store.rollouts(&query).await.unwrap().try_into().unwrap();
        assert_eq!((rollout.state, rollout.ended_at), (state, Some(now)), "{verb}");
        assert_eq!(rollout.reason.as_deref(), reason.or(Some("by admin-of-all")));
    }
}

#[tokio::test]
async fn a_repeat_gets_the_answer_that_the_first_got() {
    let api = api().await;
    let ask =
        || api.ask("POST", &format!("{PACK}/1.1.0:promote")).header("idempotency-key", "once");
    let first = ask().json(&json!({})).send().await.is(200);
    let again = ask().json(&json!({})).send().await.is(200);
    assert_eq!((&again.text, again.header("idempotency-replayed")), (&first.text, "true"));
    ask().json(&json!({ "reason": "x" })).send().await.refuses(422, "IDEMPOTENCY_KEY_REUSED");
}

#[tokio::test]
async fn what_is_not_there_is_not_moved() {
    let api = api().await;
    for target in ["9.9.9:promote", "not-a-version:rollback", "1.1.0:demote", "1.1.0:"] {
        shift(&api, &api.admin, target, json!({})).await.refuses(404, "NOT_FOUND");
    }
    shift(&api, &api.admin, "1.1.0:promote", json!({ "reason": "" }))
        .await
        .refuses(422, "CONFIG_INVALID");
    shift(&api, &api.admin, "1.1.0:promote?nodes=a", json!({}))
        .await
        .refuses(400, "VALIDATION_FAILED");
    let setup =
        Setup { document: Some(standard()), keys: vec!['1'], read_only: true, ..Setup::default() };
    let api = Api::with(setup).await;
    let told = shift(&api, &api.admin, "1.0.0:quarantine", json!({})).await;
    assert!(told.text.contains("kept in a file"), "{}", told.text);
    told.refuses(409, "CONFLICT");
}
