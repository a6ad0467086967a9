//! `Idempotency-Key`: a repeat gets the answer again, and nothing happens twice.

use super::api::{Api, Told};
use serde_json::{Value, json};
use std::time::Duration;

const KEYS: &str = "/v1/consumers/web/credentials";

async fn post(api: &Api, target: &str, key: &str, body: &Value) -> Told {
    api.ask("POST", target).header("idempotency-key", key).json(body).send().await
}

#[tokio::test]
async fn a_repeat_gets_the_answer_that_the_first_got() {
    let api = Api::new().await;
    let body = json!({ "id": "k2" });
    let first = post(&api, KEYS, "once", &body).await.is(201);
    assert_eq!(first.header("idempotency-replayed"), "");
    for spelling in ["once", "\"once\""] {
        let again = post(&api, KEYS, spelling, &body).await.is(201);
        assert_eq!(again.text, first.text);
        for name in ["etag", "location", "tollgate-revision", "content-type"] {
            assert_eq!(again.header(name), first.header(name), "{name}");
        }
        assert_eq!(again.header("idempotency-replayed"), "true");
    }
    assert_eq!(api.revision().await, 2);
    // Without the key it is another request, and its id is taken.
    api.ask("POST", KEYS).json(&body).send().await.refuses(409, "CONFLICT");
    post(&api, KEYS, "another", &body).await.refuses(409, "CONFLICT");
}

#[tokio::test]
async fn a_key_that_was_used_for_something_else_is_422() {
    let api = Api::new().await;
    let body = json!({ "id": "k2" });
    post(&api, KEYS, "once", &body).await.is(201);
    for (target, body) in [
        (KEYS, json!({ "id": "k3" })),
        (KEYS, json!({})),
        ("/v1/consumers/web/credentials?tenant=globex", body.clone()),
        ("/v1/consumers/web/credentials/k2:rotate", json!({})),
        ("/v1/secrets:rekey", json!({})),
    ] {
        post(&api, target, "once", &body).await.refuses(422, "IDEMPOTENCY_KEY_REUSED");
    }
    assert_eq!(api.revision().await, 2);
}

#[tokio::test]
async fn a_key_belongs_to_its_token_and_lasts_a_day() {
    let api = Api::new().await;
    let first = post(&api, KEYS, "once", &json!({})).await.is(201);
    let other = api.token(model::role::Role::Admin, None).await;
    let ask = api.ask("POST", KEYS).bearer(&other).header("idempotency-key", "once");
    let theirs = ask.json(&json!({})).send().await.is(201);
    assert_ne!(theirs.json()["key"], first.json()["key"]);
    api.clock.advance(Duration::from_secs(24 * 3600 - 1));
    assert_eq!(post(&api, KEYS, "once", &json!({})).await.is(201).text, first.text);
    api.clock.advance(Duration::from_secs(2));
    let anew = post(&api, KEYS, "once", &json!({})).await.is(201);
    assert_ne!(anew.json()["key"], first.json()["key"]);
}

#[tokio::test]
async fn what_is_refused_is_not_kept() {
    let api = Api::new().await;
    post(&api, KEYS, "once", &json!({ "id": "not an id" })).await.refuses(422, "CONFIG_INVALID");
    let dry = format!("{KEYS}?dry_run=true");
    assert_eq!(post(&api, &dry, "once", &json!({})).await.is(200).json()["valid"], true);
    post(&api, KEYS, "once", &json!({ "id": "an-id" })).await.is(201);
}

#[tokio::test]
async fn a_malformed_key_is_400() {
    let api = Api::new().await;
    for key in ["", "a b", "\"a", "k;p=1", &"k".repeat(256)] {
        post(&api, KEYS, key, &json!({})).await.refuses(400, "IDEMPOTENCY_KEY_INVALID");
    }
    let ask = api.ask("POST", KEYS).header("idempotency-key", "a").header("idempotency-key", "a");
    ask.json(&json!({})).send().await.refuses(400, "IDEMPOTENCY_KEY_INVALID");
    assert_eq!(api.revision().await, 1);
}

#[tokio::test]
async fn of_repeats_at_the_same_time_one_is_done() {
    let api = Api::new().await;
    let body = json!({ "id": "k2" });
    let all = tokio::join!(
        post(&api, KEYS, "once", &body),
        post(&api, KEYS, "once", &body),
        post(&api, KEYS, "once", &body),
        post(&api, KEYS, "once", &body),
    );
    let all = [all.0, all.1, all.2, all.3];
    assert_eq!(api.revision().await, 2);
    for told in &all {
        assert_eq!((told.status, &told.text), (201, &all[0].text));
    }
}

#[tokio::test]
async fn at_rest_nobody_reads_a_kept_answer() {
    let api = Api::new().await;
    let told = post(&api, KEYS, "once", &json!({})).await.is(201).json();
    let key = told["key"].as_str().unwrap().to_owned();
    api.store.close().await;
    for entry in std::fs::read_dir(api.folder.path()).unwrap() {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        for secret in [key.as_bytes(), api.admin.as_bytes()] {
            assert!(!bytes.windows(secret.len()).any(|window| window == secret));
        }
    }
}
