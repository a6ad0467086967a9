//! Rollouts and differences: what is told of them, in pages, and to whom.

use super::api::{Api, Setup, standard};
use model::id::AttachmentId;
use model::role::Role;
use model::rollout::{Difference, RolloutState, Samples};
use serde_json::{Value, json};
use std::time::Duration;
use store::rollouts::{OpenRollout, SampleReport};

const ROLLOUTS: &str = "/v1/packs/require-header/rollouts";
const DIFFERENCES: &str = "/v1/packs/require-header/differences";

/// With a second version of the pack.
async fn api() -> Api {
    let mut document = standard();
    document["packs"] = json!([
        { "id": "require-header", "version": "1.0.0" },
        { "id": "require-header", "version": "1.1.0" },
        { "id": "unused", "version": "1.0.0" },
    ]);
    Api::with(Setup { document: Some(document), keys: vec!['1'], ..Setup::default() }).await
}

/// Opens a rollout on each of these attachments, and nowhere else.
async fn open(api: &Api, attachments: &[&str]) -> Vec<OpenRollout> {
    let now = api.clock.now();
    let named = attachments.iter().map(|attachment| OpenRollout {
        id: uuid::Uuid::now_v7().to_string(),
        attachment: AttachmentId::from(*attachment),
        pack: "require-header".into(),
        running: "1.0.0".to_owned(),
        candidate: "1.1.0".to_owned(),
        started_at: now,
    });
    let revision = api.revision().await;
    let all = api.store.sync_rollouts(revision, named.collect(), now).await.unwrap();
    let of = |attachment: &&str| {
        all.iter().find(|open| open.attachment.as_str() == *attachment).unwrap().clone()
    };
    attachments.iter().map(of).collect()
}

fn difference(of: &OpenRollout, request: &str, tenant: &str) -> Difference {
    Difference {
        id: uuid::Uuid::now_v7().to_string(),
        at: of.started_at,
        attachment: of.attachment.clone(),
        pack: of.pack.clone(),
        running: of.running.clone(),
        candidate: of.candidate.clone(),
        request_id: request.to_owned(),
        trace_id: "0".repeat(32),
        tenant: tenant.into(),
        consumer: "mobile".into(),
        route: "contacts.create".into(),
        phase: "request".to_owned(),
        running_decision: "continue".to_owned(),
        candidate_decision: "deny 403 header_missing".to_owned(),
        why: "decision: continue and deny".to_owned(),
        acted: "running".to_owned(),
    }
}

fn of<'a>(told: &'a Value, field: &str) -> Vec<&'a str> {
    told["items"].as_array().unwrap().iter().map(|item| item[field].as_str().unwrap()).collect()
}

#[tokio::test]
async fn a_rollout_is_told_with_its_rates() {
    let api = api().await;
    let [rollout] = open(&api, &["acme-header"]).await.try_into().unwrap();
    let told = api.ask("GET", ROLLOUTS).send().await.is(200).json();
    let item = &told["items"][0];
    let nothing = json!({ "calls": 0, "faults": 0, "compared": 0, "differences": 0 });
    assert_eq!((&item["state"], &item["samples"]), (&json!("open"), &nothing));
    assert_eq!(item["rates"], json!({}), "of nothing there are no rates");
    let mut samples =
        Samples { calls: 400, faults: 4, compared: 300, differences: 30, ..Samples::default() };
    for _ in 0..400 {
        samples.durations.add(Duration::from_micros(8));
    }
    let report = |process: &str| SampleReport {
        rollout: rollout.id.clone(),
        process: process.to_owned(),
        window: 0,
        samples: samples.clone(),
    };
    api.store.report_samples(vec![report("a"), report("b")]).await.unwrap();
    api.store
        .end_rollout(&rollout.id, RolloutState::RolledBack, "it leaks", api.clock.now())
        .await
        .unwrap();
    let told = api.ask("GET", ROLLOUTS).send().await.is(200).json();
    let item = &told["items"][0];
    assert_eq!(item["id"], rollout.id);
    assert_eq!(item["attachment"], "acme-header");
    assert_eq!((&item["running"], &item["candidate"]), (&json!("1.0.0"), &json!("1.1.0")));
    assert_eq!((&item["state"], &item["reason"]), (&json!("rolled_back"), &json!("it leaks")));
    let seen = json!({ "calls": 800, "faults": 8, "compared": 600, "differences": 60 });
    assert_eq!(item["samples"], seen, "of both nodes");
    let rates = json!({ "fault": 0.01, "difference": 0.1, "p50_us": 8, "p99_us": 8 });
    assert_eq!(item["rates"], rates);
}

#[tokio::test]
async fn lists_are_pages_newest_first() {
    let api = api().await;
    let opened = open(&api, &["acme-header", "globex-header", "header"]).await;
    let all: Vec<_> = (0..5)
        .map(|n| (opened[0].id.clone(), difference(&opened[0], &format!("request-{n}"), "acme")))
        .collect();
    api.store.write_differences(all.clone()).await.unwrap();
    for (list, field, expected) in [
        (ROLLOUTS, "id", opened.iter().rev().map(|open| open.id.clone()).collect::<Vec<_>>()),
        (DIFFERENCES, "id", all.iter().rev().map(|(_, one)| one.id.clone()).collect()),
    ] {
        let (mut found, mut cursor) = (Vec::new(), String::new());
        loop {
            let told = api.ask("GET", &format!("{list}?limit=2{cursor}")).send().await.is(200);
            let told = told.json();
            found.extend(of(&told, field).into_iter().map(str::to_owned));
            match told["next_cursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => break,
            }
        }
        assert_eq!(found, expected, "{list}");
    }
    let told = api.ask("GET", &format!("{DIFFERENCES}?limit=1")).send().await.is(200).json();
    assert_eq!(told["items"][0], json!(all[4].1));
    for (query, status) in [
        ("?attachment=globex-header", 200),
        ("?attachment=not%20an%20id", 400),
        ("?limit=0", 400),
        ("?cursor=x", 400),
        ("?tenant=acme", 400),
    ] {
        let told = api.ask("GET", &format!("{DIFFERENCES}{query}")).send().await.is(status);
        if status == 200 {
            assert_eq!(told.json()["items"], json!([]));
        }
    }
}

#[tokio::test]
async fn a_token_of_a_tenant_sees_what_was_seen_on_its_attachments() {
    let api = api().await;
    let opened = open(&api, &["acme-header", "globex-header", "header"]).await;
    let tenants = ["acme", "globex", "acme"];
    let differences = opened.iter().zip(tenants).map(|(open, tenant)| {
        (open.id.clone(), difference(open, &format!("of-{}", open.attachment), tenant))
    });
    api.store.write_differences(differences.collect()).await.unwrap();
    let unbound = api.token(Role::Viewer, None).await;
    let bound = api.token(Role::Viewer, Some("acme")).await;
    for (token, query, expected) in [
        (&unbound, "", &["header", "globex-header", "acme-header"][..]),
        (&unbound, "?attachment=globex-header", &["globex-header"]),
        (&bound, "", &["acme-header"]),
        (&bound, "?attachment=acme-header", &["acme-header"]),
        (&bound, "?attachment=globex-header", &[]),
        (&bound, "?attachment=header", &[]),
    ] {
        let told = api.ask("GET", &format!("{DIFFERENCES}{query}")).bearer(token).send().await;
        assert_eq!(of(&told.is(200).json(), "attachment"), expected, "{query}");
        if query.is_empty() {
            let told = api.ask("GET", ROLLOUTS).bearer(token).send().await.is(200).json();
            assert_eq!(of(&told, "attachment"), expected);
        }
    }
    for (token, pack, status) in [
        (&unbound, "unused", 200),
        (&unbound, "unknown", 404),
        (&bound, "unused", 404),
        (&bound, "unknown", 404),
        (&bound, "not%20an%20id", 404),
    ] {
        for list in ["rollouts", "differences"] {
            let target = format!("/v1/packs/{pack}/{list}");
            api.ask("GET", &target).bearer(token).send().await.is(status);
        }
    }
}
