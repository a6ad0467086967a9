//! Idempotency-Key at the admin API: a repeat gets the answer of the first, also one that showed a secret, and nothing is
//! done twice.

use crate::harness::api::Api;
use crate::harness::cluster::{Cluster, Setup};
use crate::harness::document::{self, ACME, Edit as _};
use crate::harness::postgres::Database;
use crate::harness::{Answer, Upstream};
use serde_json::{Value, json};

const CREDENTIALS: &str = "/v1/consumers/globex-web/credentials";

async fn posts(api: &Api, path: &str, key: &str, body: &Value) -> Answer {
    api.post(path).idempotency_key(key).json(body).send().await
}

fn same(first: &Answer, again: &Answer) {
    assert_eq!((again.status, &again.body), (first.status, &first.body));
    for header in ["etag", "location", "tollgate-revision", "content-type"] {
        assert_eq!(again.header(header), first.header(header), "{header}");
    }
    assert!(again.is_replay() && !first.is_replay());
}

#[tokio::test]
async fn a_repeat_gets_the_same_answer_and_does_nothing_even_after_a_kill() {
    let upstream = Upstream::start().await;
    let mut node = Setup::named("alone", &["gateway", "admin"]).start();
    node.answers().await;
    let api = node.api.clone();
    api.publish_first(&document::standard(upstream.address)).await;
    node.is_ready().await;
    let revocation = json!({ "kind": "credential", "tenant": "acme", "consumer": "acme-mobile", "credential": "k2" });
    let rows = [
        (CREDENTIALS, json!({ "id": "fresh" }), 201),
        ("/v1/consumers/globex-web/credentials/fresh:rotate", json!({ "grace": "1h" }), 201),
        ("/v1/tokens", json!({ "name": "one", "role": "viewer" }), 201),
        ("/v1/revocations", revocation, 201),
        ("/v1/usage/acme:reset", json!({}), 200),
        ("/v1/revisions/1:rollback", json!({}), 200),
    ];
    let mut firsts = Vec::new();
    for (index, (path, body, status)) in rows.iter().enumerate() {
        let key = format!("key-{index}");
        let first = posts(&api, path, &key, body).await;
        first.is(*status);
        same(&first, &posts(&api, path, &key, body).await);
        // The same key for something else is a mistake.
        let (path, body, _) = &rows[(index + 1) % rows.len()];
        posts(&api, path, &key, body).await.refuses(422, "IDEMPOTENCY_KEY_REUSED");
        firsts.push(first);
    }
    // What a repeat shows is what works.
    let key = firsts[0].json()["key"].as_str().unwrap().to_owned();
    let token = firsts[2].json()["token"].as_str().unwrap().to_owned();
    api.with(&token).get("/v1/plans").send().await.is(200);
    // Another's key is another key.
    let other = api.with(&token);
    posts(&other, CREDENTIALS, "key-0", &json!({ "id": "fresh" })).await.refuses(403, "FORBIDDEN");

    node.kill();
    node.start_again();
    node.is_ready().await;
    let audit = api.audit().await;
    for (index, ((path, body, _), first)) in rows.iter().zip(&firsts).enumerate() {
        same(first, &posts(&api, path, &format!("key-{index}"), body).await);
    }
    assert_eq!(api.audit().await, audit, "nothing was done");
    let acted = |action: &str| {
        audit.iter().filter(|entry| entry["action"] == action && entry["refused"].is_null()).count()
    };
    for action in [
        "consumers.credentials.create",
        "consumers.credentials.rotate",
        "revocations.create",
        "revisions.rollback",
    ] {
        assert_eq!(acted(action), 1, "{action}");
    }
    // The rollback took the key away again.
    assert_eq!(node.get("/v1/contacts").key(&key).send().await.code(), "CREDENTIAL_INVALID");
    node.get("/v1/contacts").key(ACME).send().await.is(200);
    // At rest the answers are sealed.
    for entry in std::fs::read_dir(node.data()).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() && path.file_name().unwrap() != "admin.token" {
            let bytes = std::fs::read(&path).unwrap();
            for secret in [&key, &token] {
                let found = bytes.windows(secret.len()).any(|window| window == secret.as_bytes());
                assert!(!found, "{} holds a secret", path.display());
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_key_at_two_admins_at_once_makes_one_credential() {
    const ROUNDS: usize = 10;
    let (database, upstream) = (Database::fresh(), Upstream::start().await);
    let names: [(&str, &[&str]); 3] =
        [("a", &["gateway"]), ("ops", &["admin"]), ("ops-2", &["admin"])];
    let document = document::standard(upstream.address);
    let cluster = Cluster::start(&database.url(), &names, &document).await;
    let apis = ["ops", "ops-2"].map(|name| cluster.member(name).api.with(&cluster.token));
    for round in 0..ROUNDS {
        let key = format!("round-{round}");
        let asked = apis.iter().cycle().take(6).map(|api| {
            let call = api.post(CREDENTIALS).idempotency_key(&key).json(&json!({}));
            tokio::spawn(call.send())
        });
        let mut made = Vec::new();
        for call in asked.collect::<Vec<_>>() {
            let answer = call.await.unwrap();
            match answer.status {
                201 => made.push(answer.json()["key"].as_str().unwrap().to_owned()),
                // Somebody else is at it: to be asked again.
                409 => drop(answer.refuses(409, "IDEMPOTENCY_IN_PROGRESS")),
                _ => drop(answer.refuses(503, "OVERLOADED")),
            }
        }
        // Whoever asks later gets it, too.
        for api in &apis {
            let answer = posts(api, CREDENTIALS, &key, &json!({})).await;
            made.push(answer.is(201).json()["key"].as_str().unwrap().to_owned());
        }
        made.dedup();
        assert_eq!(made.len(), 1, "{made:?}");
    }
    let (document, _) = apis[0].read("/v1/document").await;
    let credentials =
        document.clone().entry("tenants", "globex")["consumers"][0]["credentials"].clone();
    assert_eq!(credentials.as_array().unwrap().len(), 1 + ROUNDS);
    assert_eq!(apis[0].items("/v1/revisions").await.len(), 1 + ROUNDS);
}
