//! Tokens of real issuers: the issuer decides what counts, never the token.

use crate::harness::document::{self, ACME, Edit as _};
use crate::harness::node::Setup;
use crate::harness::token::{
    self, ISSUER, Key, but, claims, encoded, issuer, key_server, key_set, served_by,
};
use crate::harness::{Answer, Demo, Node, Reply, Upstream, eventually};
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

const SECRET: &[u8; 40] = b"a test-only secret of forty bytes, no mo";

async fn asks(node: &Node, token: &str) -> Answer {
    node.get("/v1/contacts").bearer(token).send().await
}

/// A node with one issuer of EdDSA tokens, and its key.
async fn with_issuer(upstream: &Upstream) -> (Node, Key, Upstream) {
    let key = Key::eddsa("k1");
    let keys = key_server(&[&key]).await;
    let document =
        document::standard(upstream.address).with("issuers", issuer(&["EdDSA"], served_by(&keys)));
    (Node::start(&document).await, key, keys)
}

/// An issuer with another name.
fn named(id: &str, issuer: Value) -> Value {
    but(but(issuer, "id", json!(id)), "issuer", json!(format!("https://{id}.example")))
}

#[tokio::test]
async fn each_algorithm_is_accepted_from_the_issuer_that_uses_it_and_from_no_other() {
    let upstream = Upstream::start().await;
    let (rsa, ec, ed, secret) =
        (Key::rs256("rsa"), Key::es256("ec"), Key::eddsa("ed"), Key::hs256(SECRET));
    let keys = key_server(&[&rsa, &ec, &ed]).await;
    let issuers = [("rs256", "RS256", &rsa), ("es256", "ES256", &ec), ("eddsa", "EdDSA", &ed)];
    let mut document = document::standard(upstream.address);
    for (id, algorithm, _) in issuers {
        document = document.with("issuers", named(id, issuer(&[algorithm], served_by(&keys))));
    }
    let reference = ("secret", json!({ "env": "TOLLGATE_SECRET_TEST_IDP" }));
    let document = document.with("issuers", named("hs256", issuer(&["HS256"], reference)));
    let setup = Setup::of(&document)
        .environment("TOLLGATE_SECRET_TEST_IDP", std::str::from_utf8(SECRET).unwrap());
    let node = setup.start().await;
    let all = [("rs256", &rsa), ("es256", &ec), ("eddsa", &ed), ("hs256", &secret)];
    for (issuer, _) in all {
        for (signer, key) in all {
            let claims = but(claims(), "iss", json!(format!("https://{issuer}.example")));
            let answer = asks(&node, &key.signs(&claims)).await;
            if issuer == signer {
                answer.is(200);
                let tampered = tampered(&key.signs(&claims));
                asks(&node, &tampered).await.refuses(401, "CREDENTIAL_INVALID");
            } else {
                answer.refuses(401, "CREDENTIAL_INVALID");
            }
        }
    }
    assert_eq!(upstream.arrivals().len(), 4);
}

/// The token with another scope, under the same signature.
fn tampered(token: &str) -> String {
    let parts: Vec<&str> = token.split('.').collect();
    let better = but(claims(), "scope", json!("contacts:read contacts:write contacts:admin"));
    format!("{}.{}.{}", parts[0], encoded(&better), parts[2])
}

#[tokio::test]
async fn keys_may_come_from_a_file() {
    let upstream = Upstream::start().await;
    let key = Key::es256("k1");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("jwks.json");
    std::fs::write(&file, key_set(&[&key]).to_string()).unwrap();
    let reference = ("jwks", json!({ "file": file }));
    let document =
        document::standard(upstream.address).with("issuers", issuer(&["ES256"], reference));
    let node = Node::start(&document).await;
    asks(&node, &key.signs(&claims())).await.is(200);
    asks(&node, &Key::es256("k1").signs(&claims())).await.refuses(401, "CREDENTIAL_INVALID");
}

#[tokio::test]
async fn a_public_key_is_no_shared_secret() {
    let upstream = Upstream::start().await;
    let key = Key::rs256("k1");
    let keys = key_server(&[&key]).await;
    let document = document::standard(upstream.address)
        .with("issuers", issuer(&["RS256", "ES256"], served_by(&keys)));
    let node = Node::start(&document).await;
    asks(&node, &key.signs(&claims())).await.is(200);
    let public = key.public();
    let modulus = public["n"].as_str().unwrap();
    let header = but(key.header(), "alg", json!("HS256"));
    let secrets = [
        public.to_string().into_bytes(),
        modulus.as_bytes().to_vec(),
        key.public_der(),
        key.public_pem().into_bytes(),
    ];
    for secret in secrets {
        let forged = Key::hs256(&secret).signs_under(&header, &claims());
        asks(&node, &forged).await.refuses(401, "CREDENTIAL_INVALID");
    }
    assert_eq!(upstream.arrivals().len(), 1);
}

#[tokio::test]
async fn a_token_that_proves_nothing_is_refused_in_any_spelling() {
    let upstream = Upstream::start().await;
    let (node, key, _keys) = with_issuer(&upstream).await;
    let good = key.signs(&claims());
    let message = good.rsplit_once('.').unwrap().0;
    let mut tokens =
        vec![format!("{message}."), message.to_owned(), format!("{good}."), format!("{good}.x")];
    for name in ["none", "None", "NONE", "nOnE", "", "HS256", "RS256", "EdDSA ", "eddsa", "ES512"] {
        let header = encoded(&but(key.header(), "alg", json!(name)));
        let claims = encoded(&claims());
        tokens.push(format!("{header}.{claims}."));
        tokens.push(format!("{header}.{claims}.{}", good.rsplit_once('.').unwrap().1));
    }
    for token in tokens {
        asks(&node, &token).await.refuses(401, "CREDENTIAL_INVALID");
    }
    assert_eq!(upstream.arrivals().len(), 0);
}

#[tokio::test]
async fn headers_that_bring_their_own_keys_are_not_followed() {
    let upstream = Upstream::start().await;
    let (node, key, keys) = with_issuer(&upstream).await;
    let attacker = Key::eddsa("k1");
    let trap = key_server(&[&attacker]).await;
    let url = format!("http://{}/jwks.json", trap.address);
    for (name, value) in [
        ("jwk", attacker.public()),
        ("jku", json!(url)),
        ("x5u", json!(url)),
        ("x5c", json!(["AA=="])),
    ] {
        for kid in [json!("k1"), json!("k2"), Value::Null] {
            let header = but(but(attacker.header(), name, value.clone()), "kid", kid);
            asks(&node, &attacker.signs_under(&header, &claims()))
                .await
                .refuses(401, "CREDENTIAL_INVALID");
        }
        // Beside a good signature they do no harm.
        asks(&node, &key.signs_under(&but(key.header(), name, value), &claims())).await.is(200);
    }
    assert_eq!(trap.arrivals().len(), 0);
    assert!(keys.arrivals().len() <= 2, "unknown keys make few fetches");
}

#[tokio::test]
async fn headers_and_claims_are_judged_as_the_issuer_says() {
    let upstream = Upstream::start().await;
    let (node, key, _keys) = with_issuer(&upstream).await;
    let now = token::now();
    let claim = |name: &str, value: Value| key.signs(&but(claims(), name, value));
    let header =
        |name: &str, value: Value| key.signs_under(&but(key.header(), name, value), &claims());
    let long = "x".repeat(9000);
    let cases = [
        ("as it should be", key.signs(&claims()), 200, ""),
        ("one audience of many", claim("aud", json!(["other", "crm-api"])), 200, ""),
        (
            "fractions of seconds",
            claim("exp", json!(f64::from(u32::try_from(now).unwrap()) + 60.5)),
            200,
            "",
        ),
        ("expired within the leeway", claim("exp", json!(now - 10)), 200, ""),
        ("valid soon, within the leeway", claim("nbf", json!(now + 10)), 200, ""),
        ("no time of issue", claim("iat", Value::Null), 200, ""),
        ("scopes in an array", claim("scope", json!(["contacts:read"])), 200, ""),
        ("typ in another spelling", header("typ", json!("application/AT+JWT")), 200, ""),
        ("no kid", header("kid", Value::Null), 200, ""),
        ("expired", claim("exp", json!(now - 60)), 401, "CREDENTIAL_EXPIRED"),
        ("never expires", claim("exp", Value::Null), 401, "CREDENTIAL_INVALID"),
        ("expires as text", claim("exp", json!((now + 60).to_string())), 401, "CREDENTIAL_INVALID"),
        ("expired before all time", claim("exp", json!(-1)), 401, "CREDENTIAL_INVALID"),
        ("expires after all time", claim("exp", json!(1e300)), 401, "CREDENTIAL_INVALID"),
        ("not valid yet", claim("nbf", json!(now + 60)), 401, "CREDENTIAL_INVALID"),
        ("issued in the future", claim("iat", json!(now + 60)), 401, "CREDENTIAL_INVALID"),
        ("no issuer", claim("iss", Value::Null), 401, "CREDENTIAL_INVALID"),
        ("another issuer", claim("iss", json!(format!("{ISSUER}/"))), 401, "CREDENTIAL_INVALID"),
        ("no audience", claim("aud", Value::Null), 401, "CREDENTIAL_INVALID"),
        ("another audience", claim("aud", json!("crm-api2")), 401, "CREDENTIAL_INVALID"),
        ("other audiences", claim("aud", json!(["a", "b"])), 401, "CREDENTIAL_INVALID"),
        ("unknown consumer", claim("client_id", json!("acme-fax")), 401, "CREDENTIAL_INVALID"),
        (
            "consumer of another tenant",
            claim("client_id", json!("globex-web")),
            401,
            "CREDENTIAL_INVALID",
        ),
        ("no consumer", claim("client_id", Value::Null), 401, "CREDENTIAL_INVALID"),
        ("no scopes", claim("scope", Value::Null), 403, "SCOPE_DENIED"),
        ("too small a scope", claim("scope", json!("contacts:write")), 403, "SCOPE_DENIED"),
        ("an ID token", header("typ", json!("JWT")), 401, "CREDENTIAL_INVALID"),
        ("no typ", header("typ", Value::Null), 401, "CREDENTIAL_INVALID"),
        ("critical header", header("crit", json!(["exp"])), 401, "CREDENTIAL_INVALID"),
        ("unencoded payload", header("b64", json!(false)), 401, "CREDENTIAL_INVALID"),
        ("long kid", header("kid", json!("k".repeat(129))), 401, "CREDENTIAL_INVALID"),
        ("long token", claim("x", json!(long)), 401, "CREDENTIAL_INVALID"),
    ];
    let mut served = 0;
    for (case, token, status, code) in cases {
        println!("{case}");
        let answer = asks(&node, &token).await;
        if status == 200 {
            answer.is(200);
            served += 1;
        } else {
            answer.refuses(status, code);
        }
    }
    assert_eq!(upstream.arrivals().len(), served);
}

#[tokio::test]
async fn what_is_no_token_is_refused() {
    let upstream = Upstream::start().await;
    let (node, _key, _keys) = with_issuer(&upstream).await;
    for garbage in ["a.b.c", "..", "e30.e30.e30", "\u{e4}.b.c", "eyJhbGciOiJFZERTQSJ9"] {
        let answer = node
            .get("/v1/contacts")
            .header("authorization", format!("Bearer {garbage}"))
            .send()
            .await;
        answer.refuses(401, "CREDENTIAL_INVALID");
    }
    assert_eq!(upstream.arrivals().len(), 0);
}

#[tokio::test]
async fn a_refusal_does_not_tell_which_check_failed() {
    let upstream = Upstream::start().await;
    let (node, key, _keys) = with_issuer(&upstream).await;
    let forged = Key::eddsa("k1").signs(&claims());
    let misdirected = key.signs(&but(claims(), "aud", json!("other")));
    let unknown = key.signs(&but(claims(), "iss", json!("https://who.example")));
    let mut told = Vec::new();
    for token in [forged, misdirected, unknown] {
        let answer = asks(&node, &token).await;
        answer.refuses(401, "CREDENTIAL_INVALID");
        let challenges = answer.lines("www-authenticate").join(" ");
        assert!(
            challenges.contains(r#"Bearer realm="tollgate", error="invalid_token""#),
            "{challenges}"
        );
        let body = answer.json();
        told.push((body["message"].clone(), body["details"].clone(), challenges));
    }
    assert!(told.windows(2).all(|pair| pair[0] == pair[1]), "{told:?}");
    // The log does.
    for cause in ["signature", "aud", "unknown issuer"] {
        node.has_logged(&["CREDENTIAL_INVALID", cause]).await;
    }
}

#[tokio::test]
async fn a_remembered_token_is_refused_once_it_expires() {
    let upstream = Upstream::start().await;
    let (node, key, _keys) = with_issuer(&upstream).await;
    // The issuer's leeway is 30 s: some two seconds are left.
    let token = key.signs(&but(claims(), "exp", json!(token::now() - 27)));
    asks(&node, &token).await.is(200);
    eventually("it is refused", async || {
        let answer = asks(&node, &token).await;
        if answer.status == 200 { Err(200) } else { Ok(answer) }
    })
    .await
    .refuses(401, "CREDENTIAL_EXPIRED");
}

#[tokio::test]
async fn a_new_key_works_after_one_fetch_and_a_removed_one_no_more() {
    let upstream = Upstream::start().await;
    let (old, new) = (Key::eddsa("old"), Key::eddsa("new"));
    let (before, after) = (key_set(&[&old]), key_set(&[&new]));
    let rotated = Arc::new(AtomicBool::new(false));
    let now = rotated.clone();
    let keys = Upstream::scripted(move |_| {
        Reply::of(200).json(if now.load(Ordering::Relaxed) { &after } else { &before })
    })
    .await;
    let document =
        document::standard(upstream.address).with("issuers", issuer(&["EdDSA"], served_by(&keys)));
    let node = Node::start(&document).await;
    let remembered = old.signs(&claims());
    asks(&node, &remembered).await.is(200);
    rotated.store(true, Ordering::Relaxed);
    let token = new.signs(&claims());
    eventually("the new key works", async || {
        // Meanwhile, unknown keys of whoever make no fetch of their own.
        asks(&node, &Key::eddsa("made-up").signs(&claims()))
            .await
            .refuses(401, "CREDENTIAL_INVALID");
        let answer = asks(&node, &token).await;
        if answer.status == 200 { Ok(()) } else { Err(answer.code()) }
    })
    .await;
    assert_eq!(keys.arrivals().len(), 2, "one fetch at the start, one for the unknown key");
    // Also for a token that was verified before, and has an hour to live.
    asks(&node, &remembered).await.refuses(401, "CREDENTIAL_INVALID");
    asks(&node, &old.signs(&claims())).await.refuses(401, "CREDENTIAL_INVALID");
}

#[tokio::test]
async fn a_key_server_that_fails_leaves_the_last_good_keys() {
    let upstream = Upstream::start().await;
    let (node, key, keys) = with_issuer(&upstream).await;
    let unknown = Key::eddsa("unknown").signs(&claims());
    let first = keys.arrivals().len();
    keys.does(|_| Reply::of(200).json(&json!({ "keys": [] })));
    eventually("the set was fetched again", async || {
        asks(&node, &unknown).await.refuses(401, "CREDENTIAL_INVALID");
        if keys.arrivals().len() > first { Ok(()) } else { Err(first) }
    })
    .await;
    asks(&node, &key.signs(&claims())).await.is(200);
    drop(keys);
    asks(&node, &unknown).await.refuses(401, "CREDENTIAL_INVALID");
    asks(&node, &key.signs(&claims())).await.is(200);
    node.has_logged(&["last good one stays"]).await;
}

#[tokio::test]
async fn until_the_first_keys_come_tokens_are_503_and_api_keys_work() {
    let upstream = Upstream::start().await;
    let key = Key::eddsa("k1");
    let absent = Upstream::address_of_none();
    let reference = ("jwks", json!({ "uri": format!("http://{absent}/jwks.json") }));
    let document =
        document::standard(upstream.address).with("issuers", issuer(&["EdDSA"], reference));
    let mut node = Setup::of(&document).start_unready();
    eventually("it answers", async || {
        node.get("/").try_send().await.map_err(|error| error.to_string())
    })
    .await;
    let answer = asks(&node, &key.signs(&claims())).await;
    answer.refuses(503, "DEPENDENCY_UNAVAILABLE");
    assert!(answer.header("retry-after").parse::<u64>().is_ok());
    node.get("/v1/contacts").key(ACME).send().await.is(200);
    let readiness = node.status.get("/readyz").send().await;
    assert!(String::from_utf8_lossy(&readiness.is(503).body).contains("acme-idp"));

    let keys = Upstream::start_at(absent).await;
    let set = key_set(&[&key]);
    keys.does(move |_| Reply::of(200).json(&set));
    node.is_ready().await;
    asks(&node, &key.signs(&claims())).await.is(200);
}

#[tokio::test]
async fn one_issuer_may_speak_for_several_tenants_within_what_their_consumers_may() {
    let upstream = Upstream::start().await;
    let key = Key::eddsa("k1");
    let keys = key_server(&[&key]).await;
    let shared = but(issuer(&["EdDSA"], served_by(&keys)), "tenant", Value::Null);
    let document = document::standard(upstream.address)
        .with("issuers", but(shared, "tenant_claim", json!("org")));
    let node = Node::start(&document).await;
    let token = |tenant: Value, consumer: &str| {
        key.signs(&but(but(claims(), "org", tenant), "client_id", json!(consumer)))
    };
    for (tenant, consumer, reads) in [
        (json!("acme"), "acme-mobile", (200, "")),
        (json!("globex"), "globex-web", (200, "")),
        (json!("globex"), "acme-mobile", (401, "CREDENTIAL_INVALID")),
        (json!("hooli"), "acme-mobile", (401, "CREDENTIAL_INVALID")),
        (json!("initech"), "initech-erp", (403, "TENANT_SUSPENDED")),
        (Value::Null, "acme-mobile", (401, "CREDENTIAL_INVALID")),
        (json!(["acme"]), "acme-mobile", (401, "CREDENTIAL_INVALID")),
    ] {
        let answer = asks(&node, &token(tenant.clone(), consumer)).await;
        assert_eq!((answer.status, &*answer.code()), reads, "{tenant} {consumer}");
    }
    // The token says it may write; the consumer may not.
    let writes = node
        .post("/v1/contacts")
        .bearer(&token(json!("globex"), "globex-web"))
        .idempotency_key("w");
    let details = writes.send().await.refuses(403, "SCOPE_DENIED");
    assert_eq!(
        (&details["required"], &details["missing"]),
        (&json!(["contacts:write"]), &json!(["contacts:write"]))
    );
    let arrivals = upstream.arrivals();
    let tenants: Vec<_> = arrivals.iter().map(|arrival| arrival.header("x-tenant-id")).collect();
    assert_eq!(tenants, ["acme", "globex"]);
    assert_eq!(arrivals[1].header("x-scopes"), "contacts:read");
}

#[tokio::test]
async fn a_token_of_the_demos_login_is_taken_by_the_gateway() {
    let demo = Demo::start().await;
    for name in ["ACME_JWT", "GLOBEX_JWT"] {
        demo.get("/v2/contacts").bearer(demo.value(name)).send().await.is(200);
    }
    let consumer = demo::CONSUMERS.iter().find(|consumer| consumer.tenant == "acme").unwrap();
    let credentials = json!({ "client_id": consumer.id, "client_secret": consumer.client_secret });
    let login = demo.crm.post("/api/auth/login").json(&credentials).send().await;
    let token = login.is(200).json()["access_token"].as_str().unwrap().to_owned();
    demo.get("/v2/contacts").bearer(&token).send().await.is(200);
    demo.get("/v2/contacts")
        .bearer(&tampered(&token))
        .send()
        .await
        .refuses(401, "CREDENTIAL_INVALID");
}
