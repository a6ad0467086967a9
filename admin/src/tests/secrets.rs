//! Secrets: taken once, sealed at once, shown never.

use super::api::{Api, Setup, standard};
use serde_json::{Value, json};

const CANARY: &str = "canary-9f1c66-do-not-show";

fn issuer(secret: Value) -> Value {
    json!({ "id": "hs", "issuer": "https://hs.example", "audiences": ["crm"], "algorithms": ["HS256"],
        "tenant": "acme", "secret": secret })
}

#[tokio::test]
async fn a_value_is_sealed_before_anything_is_kept() {
    let api = Api::new().await;
    let put = api.ask("PUT", "/v1/issuers/hs").header("if-none-match", "*");
    let told = put.json(&issuer(json!({ "value": CANARY }))).send().await.is(201);
    let sealed = told.json()["resource"]["secret"]["sealed"].as_str().unwrap().to_owned();
    assert!(sealed.starts_with("tg1."));
    assert_eq!(api.document().await["issuers"][2]["secret"], json!({ "sealed": sealed }));
    // What was read may be put again as it is.
    let (read, tag) = api.read("/v1/issuers/hs").await;
    let put = api.ask("PUT", "/v1/issuers/hs").header("if-match", tag).json(&read);
    assert_eq!(put.send().await.is(200).revision(), 2);
    let patch = api.ask("PATCH", "/v1/issuers/hs").header("if-match", "*");
    let told = patch.json(&json!({ "secret": { "value": CANARY } })).send().await.is(200).json();
    assert_ne!(told["resource"]["secret"]["sealed"], sealed, "sealed anew");
}

#[tokio::test]
async fn a_secret_shows_nowhere() {
    let api = Api::new().await;
    let mut answers = Vec::new();
    let whole = |secret: Value| {
        let mut document = standard();
        document["issuers"][0] = issuer(secret);
        document
    };
    let consumer = |key: Value| json!({ "credentials": [{ "id": "k9", "api_key": key }] });
    let key =
        json!({ "hash": CANARY, "prefix": CANARY, "key": CANARY, "value": { "deep": CANARY } });
    let wrong = [
        json!(CANARY),
        json!([CANARY]),
        json!({ "value": [CANARY] }),
        json!({ "plain": CANARY }),
        json!({ "value": CANARY, "env": "X" }),
        json!({ "sealed": CANARY }),
    ];
    for dry in ["", "?dry_run=true"] {
        for secret in &wrong {
            for (method, target, body) in [
                ("PUT", "/v1/issuers/acme-idp", issuer(secret.clone())),
                ("PATCH", "/v1/issuers/acme-idp", json!({ "secret": secret })),
                ("PUT", "/v1/document", whole(secret.clone())),
                ("PUT", "/v1/tenants/acme/consumers/mobile", consumer(key.clone())),
                ("PATCH", "/v1/tenants/acme", json!({ "consumers": [consumer(key.clone())] })),
            ] {
                let mut body = body;
                if method == "PUT" && target.contains("issuers") {
                    body["id"] = json!("acme-idp");
                }
                let ask = api.ask(method, &format!("{target}{dry}")).header("if-match", "*");
                let told = ask.json(&body).send().await;
                assert!(told.status == 422 || !dry.is_empty(), "{method} {target}: {}", told.text);
                answers.push(told.text);
            }
        }
    }
    // One that is taken.
    let put = api.ask("PUT", "/v1/issuers/hs").header("if-none-match", "*");
    answers.push(put.json(&issuer(json!({ "value": CANARY }))).send().await.is(201).text);
    let dry =
        api.ask("PUT", "/v1/issuers/hs?dry_run=true").json(&issuer(json!({ "value": CANARY })));
    answers.push(dry.send().await.is(200).text);
    for target in ["/v1/document", "/v1/issuers", "/v1/issuers/hs"] {
        answers.push(api.ask("GET", target).send().await.is(200).text);
    }
    answers.push(serde_json::to_string(&api.audit().await).unwrap());
    for answer in answers {
        assert!(!answer.contains(CANARY), "{answer}");
    }
    api.store.close().await;
    for file in std::fs::read_dir(api.folder.path()).unwrap() {
        let bytes = std::fs::read(file.unwrap().path()).unwrap();
        assert!(!bytes.windows(CANARY.len()).any(|window| window == CANARY.as_bytes()));
    }
}

#[tokio::test]
async fn without_a_master_key_a_value_is_refused_with_what_to_do() {
    let api = Api::with(Setup { document: Some(standard()), ..Setup::default() }).await;
    let put = api.ask("PUT", "/v1/issuers/hs").header("if-none-match", "*");
    let told = put.json(&issuer(json!({ "value": CANARY }))).send().await;
    assert!(told.text.contains("master_keys") && !told.text.contains(CANARY), "{}", told.text);
    let details = told.refuses(422, "CONFIG_INVALID");
    assert_eq!(details["errors"][0]["pointer"], "/secret/value");
}

#[tokio::test]
async fn rekeying_seals_all_under_the_first_key_in_one_revision() {
    let api = Api::new().await;
    for (id, tenant) in [("hs", "acme"), ("hs2", "globex")] {
        let mut body = issuer(json!({ "value": format!("{CANARY}-{id}") }));
        body["id"] = json!(id);
        body["tenant"] = json!(tenant);
        body["issuer"] = json!(format!("https://{id}.example"));
        let put = api.ask("PUT", &format!("/v1/issuers/{id}")).header("if-none-match", "*");
        put.json(&body).send().await.is(201);
    }
    let rekey =
        async |api: &Api| api.ask("POST", "/v1/secrets:rekey").json(&json!({})).send().await;
    assert_eq!(rekey(&api).await.is(200).json(), json!({ "resealed": 0, "revision": 3 }));
    let before = api.document().await;
    let api = api.restarted(&['2', '1']);
    let told = rekey(&api).await.is(200);
    assert_eq!(told.json(), json!({ "resealed": 2, "revision": 4 }));
    let after = api.document().await;
    for index in [2, 3] {
        assert_ne!(before["issuers"][index]["secret"], after["issuers"][index]["secret"]);
    }
    let entry = api.audit().await.remove(0);
    assert_eq!((entry.action.as_str(), entry.revision), ("secrets.rekey", Some(4)));
    // The old key is not needed any more; without the new one nothing can be done, and nothing is.
    let api = api.restarted(&['2']);
    assert_eq!(rekey(&api).await.is(200).json(), json!({ "resealed": 0, "revision": 4 }));
    let api = api.restarted(&['3']);
    let details = rekey(&api).await.refuses(422, "CONFIG_INVALID");
    assert_eq!(details["errors"][0]["pointer"], "/issuers/2/secret/sealed");
    assert_eq!(api.revision().await, 4);
}
