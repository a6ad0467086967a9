//! API keys: made here, shown once, rotated with a grace.

use super::api::{Api, pointers};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

const KEYS: &str = "/v1/consumers/web/credentials";

fn hash(key: &Value) -> String {
    let digest = Sha256::digest(key.as_str().unwrap());
    digest.iter().fold("sha256:".to_owned(), |text, byte| format!("{text}{byte:02x}"))
}

#[tokio::test]
async fn a_key_is_shown_once_and_its_hash_is_in_the_document() {
    let api = Api::new().await;
    let told = api.ask("POST", KEYS).json(&json!({ "expires": "2027-01-01T00:00:00Z" }));
    let told = told.send().await.is(201);
    let (body, location) = (told.json(), told.header("location").to_owned());
    let key = body["key"].as_str().unwrap();
    assert!(key.starts_with("tg_live_") && key.len() == 40, "{key}");
    let id = body["credential"]["id"].as_str().unwrap();
    assert_eq!(location, format!("{KEYS}/{id}?tenant=globex"));
    let document = api.document().await;
    let kept = &document["tenants"][1]["consumers"][1]["credentials"][0]["api_key"];
    assert_eq!(kept["hash"], hash(&body["key"]));
    assert!(key.starts_with(kept["prefix"].as_str().unwrap()));
    assert_eq!(kept["expires"], "2027-01-01T00:00:00Z");
    // It is found where it is said to be, without the hash.
    let (read, tag) = api.read(&location).await;
    assert_eq!((&read, tag.as_str()), (&body["credential"], told.header("etag")));
    assert_eq!(read["api_key"], json!({ "prefix": kept["prefix"], "expires": kept["expires"] }));
    let list = api.ask("GET", KEYS).send().await.is(200).json();
    assert_eq!(list["items"], json!([read]));
    // And nowhere is the key.
    assert!(!document.to_string().contains(key));
    let audit = serde_json::to_string(&api.audit().await).unwrap();
    assert!(!audit.contains(key) && audit.contains("consumers.credentials.create"), "{audit}");
}

#[tokio::test]
async fn keys_are_never_the_same() {
    let api = Api::new().await;
    let mut keys = std::collections::HashSet::new();
    for _ in 0..20 {
        let told = api.ask("POST", KEYS).json(&json!({})).send().await.is(201).json();
        assert!(keys.insert(told["key"].as_str().unwrap().to_owned()));
    }
}

#[tokio::test]
async fn a_rotated_key_is_accepted_until_its_grace_ends() {
    for (body, end) in [
        (json!({}), "2026-11-22T12:00:00Z"),
        (json!({ "grace": "1h" }), "2026-11-21T13:00:00Z"),
        (json!({ "grace": "0s" }), "2026-11-21T12:00:00Z"),
    ] {
        let api = Api::new().await;
        let target = "/v1/consumers/mobile/credentials/k1:rotate?tenant=acme";
        let told = api.ask("POST", target).json(&body).send().await.is(201);
        let answer = told.json();
        let document = api.document().await;
        let [old, new] =
            document["tenants"][0]["consumers"][0]["credentials"].as_array().unwrap().as_slice()
        else {
            panic!("{document}");
        };
        assert_eq!((&old["id"], &old["api_key"]["expires"]), (&json!("k1"), &json!(end)));
        assert_eq!(new["api_key"]["hash"], hash(&answer["key"]));
        assert_eq!(
            (&answer["replaces"]["id"], &answer["replaces"]["api_key"]["expires"]),
            (&json!("k1"), &json!(end))
        );
        assert_eq!((answer["revision"].as_u64(), told.revision()), (Some(2), 2));
        assert!(told.header("location").contains(new["id"].as_str().unwrap()));
    }
}

#[tokio::test]
async fn a_grace_never_makes_a_key_live_longer() {
    let api = Api::new().await;
    let body = json!({ "id": "short", "expires": "2026-11-21T12:30:00Z" });
    api.ask("POST", KEYS).json(&body).send().await.is(201);
    let told = api.ask("POST", &format!("{KEYS}/short:rotate")).json(&json!({ "id": "next" }));
    let told = told.send().await.is(201).json();
    assert_eq!(told["replaces"]["api_key"]["expires"], "2026-11-21T12:30:00Z");
    assert_eq!(told["credential"]["id"], "next");
}

#[tokio::test]
async fn what_can_not_be_a_key_is_refused() {
    let api = Api::new().await;
    let rotate = "/v1/consumers/mobile/credentials/k1:rotate?tenant=acme";
    for (target, body, pointers) in [
        (KEYS, json!({ "id": "not an id", "colour": 1 }), vec!["/colour", "/id"]),
        (KEYS, json!({ "expires": "tomorrow" }), vec!["/expires"]),
        (KEYS, json!({ "id": 7, "expires": 7 }), vec!["/expires", "/id"]),
        (KEYS, json!([]), vec![""]),
        (rotate, json!({ "grace": "long" }), vec!["/grace"]),
        (rotate, json!({ "grace": "2161h" }), vec!["/grace"]),
    ] {
        let details =
            api.ask("POST", target).json(&body).send().await.refuses(422, "CONFIG_INVALID");
        let found: Vec<_> = details["errors"]
            .as_array()
            .unwrap()
            .iter()
            .map(|e| e["pointer"].as_str().unwrap())
            .collect();
        assert_eq!(found, pointers, "{target} {body}");
    }
    for (target, status, code) in [
        ("/v1/consumers/nobody/credentials", 404, "NOT_FOUND"),
        ("/v1/consumers/web/credentials?tenant=acme", 404, "NOT_FOUND"),
        ("/v1/consumers/mobile/credentials", 409, "CONFLICT"),
        ("/v1/consumers/web/credentials/none:rotate", 404, "NOT_FOUND"),
        ("/v1/consumers/web/credentials/none:frobnicate", 404, "NOT_FOUND"),
        ("/v1/consumers/web/credentials/none", 405, "METHOD_NOT_ALLOWED"),
    ] {
        api.ask("POST", target).json(&json!({})).send().await.refuses(status, code);
    }
    assert_eq!(api.revision().await, 1);
}

#[tokio::test]
async fn a_key_is_not_made_under_an_id_that_is_revoked() {
    let api = Api::new().await;
    let id = json!({ "id": "rv" });
    let made = api.ask("POST", KEYS).json(&id).send().await.is(201);
    let (target, tag) = (made.header("location").to_owned(), made.header("etag").to_owned());
    let what =
        json!({ "kind": "credential", "tenant": "globex", "consumer": "web", "credential": "rv" });
    let revoked = api.ask("POST", "/v1/revocations").json(&what).send().await.is(201);
    api.ask("DELETE", &target).header("if-match", tag).send().await.is(200);
    let other = json!({ "id": "other" });
    api.ask("POST", KEYS).json(&other).send().await.is(201);
    let revision = api.revision().await;
    let rotate = format!("{KEYS}/other:rotate");
    for target in [KEYS, &format!("{KEYS}?dry_run=true"), &rotate] {
        let details = api.ask("POST", target).json(&id).send().await.refuses(409, "CONFLICT");
        assert_eq!(details["revocation"], revoked.json()["id"], "{target}");
    }
    assert_eq!(api.revision().await, revision);
    // Of another consumer the id is free; and here, too, when the revocation is lifted.
    let elsewhere = "/v1/consumers/mobile/credentials?tenant=globex";
    api.ask("POST", elsewhere).json(&id).send().await.is(201);
    api.ask("DELETE", revoked.header("location")).send().await.is(200);
    api.ask("POST", &rotate).json(&id).send().await.is(201);
}

#[tokio::test]
async fn a_key_that_has_ended_already_is_not_made() {
    let api = Api::new().await;
    let rotate = "/v1/consumers/mobile/credentials/k1:rotate?tenant=acme";
    let now = "2026-11-21T12:00:00Z";
    for (target, body, expected) in [
        (KEYS, json!({ "expires": now }), vec!["/expires"]),
        (rotate, json!({ "expires": "2020-01-01T00:00:00Z" }), vec!["/expires"]),
        (rotate, json!({ "expires": now, "grace": "2161h" }), vec!["/expires", "/grace"]),
    ] {
        let told = api.ask("POST", target).json(&body).send().await;
        assert_eq!(told.json()["message"], "What was sent is not valid.", "no document was");
        let details = told.refuses(422, "CONFIG_INVALID");
        let found: Vec<_> = pointers(&details).into_iter().map(|(pointer, _)| pointer).collect();
        assert_eq!(found, expected, "{target} {body}");
    }
    assert_eq!(api.revision().await, 1);
    // A repeat is answered as the first was, whatever the time is.
    let soon = json!({ "expires": "2026-11-21T12:00:10Z" });
    let ask = || api.ask("POST", KEYS).header("idempotency-key", "k").json(&soon);
    let first = ask().send().await.is(201);
    api.clock.advance(std::time::Duration::from_secs(10));
    assert_eq!(ask().send().await.is(201).text, first.text);
}
