//! The port, on a real socket and a real store.

use crate::tests::entrance::{Answered, Entrance, bound};
use hmac::{Hmac, Mac as _};
use model::event::CloudEvent;
use model::role::Role;
use model::token::Token;
use model::webhook::WebhookId;
use serde_json::{Value, json};
use sha2::Sha256;
use std::time::Duration;
use store::control::Effect;
use webhook_signature::{Secret, Signer};

const STRUCTURED: (&str, &str) = ("content-type", CloudEvent::STRUCTURED);

fn event(tenant: &str, id: &str) -> String {
    json!({ "specversion": "1.0", "id": id, "source": "/crm", "type": "a", "tenant": tenant })
        .to_string()
}

async fn sent(entrance: &Entrance, token: &str, event: &str) -> Answered {
    let bearer = format!("Bearer {token}");
    entrance.post("/v1/events", &[STRUCTURED, ("authorization", &bearer)], event).await
}

#[tokio::test]
async fn who_may_send_events_is_answered_once_they_are_kept() {
    let entrance = Entrance::with(json!([])).await;
    for (role, expected) in [
        (Role::Viewer, "403 FORBIDDEN"),
        (Role::Publisher, "403 FORBIDDEN"),
        (Role::Producer, "202"),
        (Role::Operator, "202"),
        (Role::Admin, "202"),
    ] {
        let token = entrance.token(role, |token| token).await;
        let answered = sent(&entrance, &token, &event("acme", role.as_str())).await;
        assert_eq!(answered.told(), expected, "{role:?}: {answered:?}");
        if expected == "202" {
            let webhook_id = WebhookId::of(&"acme".into(), "/crm", role.as_str());
            let accepted =
                json!([{ "source": "/crm", "id": role.as_str(), "webhook_id": webhook_id }]);
            assert_eq!(answered.body, json!({ "accepted": accepted }));
        }
    }
    assert_eq!(entrance.ids().await, ["producer", "operator", "admin"]);
}

#[tokio::test]
async fn a_token_that_is_none_is_refused_with_what_is_asked_for() {
    let entrance = Entrance::with(json!([])).await;
    let now = entrance.clock.now();
    let ended = |token: Token| Token { expires_at: Some(now), ..token };
    let revoked = |token: Token| Token { revoked_at: Some(now), ..token };
    let ended = entrance.token(Role::Producer, ended).await;
    let revoked = entrance.token(Role::Producer, revoked).await;
    let (ended, revoked) = (format!("Bearer {ended}"), format!("bearer {revoked}"));
    let long = format!("Bearer {}", "x".repeat(257));
    let missing = r#"Bearer realm="tollgate-admin""#;
    let invalid = r#"Bearer realm="tollgate-admin", error="invalid_token""#;
    for (authorization, expected, challenge) in [
        (None, "401 CREDENTIAL_MISSING", missing),
        (Some("Basic dXNlcjpwYXNz"), "401 CREDENTIAL_INVALID", invalid),
        (Some("Bearer tga_unknown"), "401 CREDENTIAL_INVALID", invalid),
        (Some(&*long), "401 CREDENTIAL_INVALID", invalid),
        (Some(&*revoked), "401 CREDENTIAL_INVALID", invalid),
        (Some(&*ended), "401 CREDENTIAL_EXPIRED", invalid),
    ] {
        let headers: Vec<_> =
            [STRUCTURED].into_iter().chain(authorization.map(|a| ("authorization", a))).collect();
        let answered = entrance.post("/v1/events", &headers, event("acme", "1")).await;
        assert_eq!(answered.told(), expected, "{authorization:?}");
        assert_eq!(answered.header("www-authenticate"), Some(challenge), "{authorization:?}");
    }
    assert!(entrance.kept().await.is_empty());
}

#[tokio::test]
async fn a_token_that_is_revoked_is_refused_within_a_second() {
    let entrance = Entrance::with(json!([])).await;
    let token = entrance.token(Role::Producer, |token| token).await;
    assert_eq!(sent(&entrance, &token, &event("acme", "1")).await.told(), "202");
    let id = model::id::TokenId::from(token.as_str());
    entrance.write(Effect::RevokeToken(id, entrance.clock.now())).await;
    entrance.clock.advance(Duration::from_secs(1));
    let answered = sent(&entrance, &token, &event("acme", "2")).await;
    assert_eq!(answered.told(), "401 CREDENTIAL_INVALID");
}

#[tokio::test]
async fn a_token_that_is_bound_sends_its_own_tenants_events_only() {
    let entrance = Entrance::with(json!([])).await;
    let token = entrance.token(Role::Producer, bound("acme")).await;
    assert_eq!(sent(&entrance, &token, &event("globex", "1")).await.told(), "403 FORBIDDEN");
    let anonymous = r#"{"specversion":"1.0","id":"2","source":"/crm","type":"a"}"#;
    assert_eq!(sent(&entrance, &token, anonymous).await.told(), "202");
    let kept = entrance.kept().await;
    assert_eq!((kept.len(), kept[0].tenant.as_str()), (1, "acme"));
}

#[tokio::test]
async fn every_refusal_has_the_one_body_and_names_its_request() {
    let entrance = Entrance::with(json!([])).await;
    let token = entrance.token(Role::Producer, |token| token).await;
    let bearer = format!("Bearer {token}");
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let traceparent = format!("00-{trace}-00f067aa0ba902b7-01");
    let common = [("x-request-id", "request-17"), ("traceparent", &*traceparent)];
    let with = |more: &[(&'static str, &str)]| -> Vec<(String, String)> {
        let all = common.iter().chain(more);
        all.map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    };
    let large = "9999999";
    for (method, path, headers, expected) in [
        ("GET", "/v1/events", with(&[]), "405 METHOD_NOT_ALLOWED"),
        ("POST", "/", with(&[]), "404 NOT_FOUND"),
        ("POST", "/v1/inbound/nobody", with(&[]), "404 NOT_FOUND"),
        ("POST", "/metrics", with(&[]), "404 NOT_FOUND"),
        ("POST", "/v1/events", with(&[]), "401 CREDENTIAL_MISSING"),
        (
            "POST",
            "/v1/events",
            with(&[("authorization", &bearer), ("content-length", large)]),
            "413 BODY_TOO_LARGE",
        ),
        (
            "POST",
            "/v1/events",
            with(&[("authorization", &bearer), ("content-length", "0")]),
            "400 VALIDATION_FAILED",
        ),
    ] {
        let headers: Vec<(&str, &str)> = headers.iter().map(|(n, v)| (&**n, &**v)).collect();
        let answered = entrance.raw(method, path, &headers, b"").await;
        assert_eq!(answered.told(), expected, "{method} {path}");
        assert_eq!(answered.header("content-type"), Some("application/problem+json"));
        assert_eq!(answered.header("x-request-id"), Some("request-17"));
        assert_eq!(answered.body["trace_id"], trace);
        assert_eq!(answered.body["instance"], "urn:request:request-17");
    }
    let allow = entrance.raw("GET", "/v1/events", &[], b"").await;
    assert_eq!(allow.header("allow"), Some("POST"));
}

#[tokio::test]
async fn a_body_that_says_nothing_of_its_length_is_bounded_all_the_same() {
    let entrance = Entrance::with(json!([])).await;
    let token = entrance.token(Role::Producer, |token| token).await;
    let bearer = format!("Bearer {token}");
    let headers = [STRUCTURED, ("authorization", &*bearer), ("transfer-encoding", "chunked")];
    let chunked = |bytes: &[u8]| {
        let mut body = format!("{:x}\r\n", bytes.len()).into_bytes();
        body.extend_from_slice(bytes);
        body.extend_from_slice(b"\r\n0\r\n\r\n");
        body
    };
    let small = chunked(event("acme", "1").as_bytes());
    assert_eq!(entrance.raw("POST", "/v1/events", &headers, &small).await.told(), "202");
    let large = chunked(&vec![b' '; ingest::BODY_BYTES_MAX + 1]);
    let answered = entrance.raw("POST", "/v1/events", &headers, &large).await;
    assert_eq!(answered.told(), "413 BODY_TOO_LARGE");
}

/// Sources that send webhooks, and one that is asked.
fn sources() -> Value {
    json!([
        { "id": "acme-crm", "tenant": "acme", "verify": "acme_hmac", "secret": { "file": "SECRET" } },
        { "id": "standard", "tenant": "globex", "verify": "standard_webhooks",
            "secret": { "file": "SECRET.standard" },
            "event": { "id": "/none", "type": "/event", "data": "" } },
        { "id": "legacy", "tenant": "acme", "poll": { "url": "http://127.0.0.1:9000/" } },
    ])
}

fn acme_signature(secret: &str, time: &str, body: &str) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).unwrap();
    for part in [time, ".", body] {
        mac.update(part.as_bytes());
    }
    mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect()
}

async fn acme(entrance: &Entrance, secret: &str, body: &str) -> Answered {
    let time = entrance.clock.now().as_second().to_string();
    let signature = acme_signature(secret, &time, body);
    let headers = [
        ("x-acme-key-id", "k1"),
        ("x-acme-timestamp", &*time),
        ("x-acme-signature", &*signature),
        ("content-type", "application/json"),
    ];
    entrance.post("/v1/inbound/acme-crm", &headers, body).await
}

#[tokio::test]
async fn a_webhook_that_its_source_signed_is_kept_once_as_its_tenants_event() {
    let entrance = Entrance::with(sources()).await;
    std::fs::write(entrance.secret(), "hunter2\n").unwrap();
    let body = r#"{ "id": "e-1", "type": "contact.created", "subject": "c-1", "time": "2026-11-21T11:59:00Z",
        "data": { "amount": 1.10 }, "attempt": 1 }"#;
    let answered = acme(&entrance, "hunter2", body).await;
    assert_eq!(answered.told(), "202", "{answered:?}");
    let webhook_id = WebhookId::of(&"acme".into(), "/v1/inbound/acme-crm", "e-1");
    let accepted =
        json!([{ "source": "/v1/inbound/acme-crm", "id": "e-1", "webhook_id": webhook_id }]);
    assert_eq!(answered.body, json!({ "accepted": accepted }));
    // It is sent again, later and with what does not concern the event.
    entrance.clock.advance(Duration::from_secs(60));
    let again = body.replace("\"attempt\": 1", "\"attempt\": 2");
    assert_eq!(acme(&entrance, "hunter2", &again).await.told(), "202");
    let changed = body.replace("1.10", "1.20");
    assert_eq!(acme(&entrance, "hunter2", &changed).await.told(), "409 CONFLICT");
    let kept = entrance.kept().await;
    assert_eq!(kept.len(), 1);
    assert_eq!(
        kept[0].content,
        r#"{"specversion":"1.0","id":"e-1","source":"/v1/inbound/acme-crm","type":"contact.created","subject":"c-1","time":"2026-11-21T11:59:00Z","datacontenttype":"application/json","tenant":"acme","data":{ "amount": 1.10 }}"#
    );
}

#[tokio::test]
async fn a_webhook_that_is_not_its_sources_is_refused_before_it_is_read() {
    let entrance = Entrance::with(sources()).await;
    std::fs::write(entrance.secret(), "hunter2").unwrap();
    let body = r#"{"id":"e-1","type":"a"}"#;
    let now = entrance.clock.now().as_second();
    let refused = "401 SIGNATURE_INVALID";
    for (path, secret, time, signed, expected) in [
        ("/v1/inbound/acme-crm", "hunter3", now, body, refused),
        ("/v1/inbound/acme-crm", "hunter2", now, "{}", refused),
        ("/v1/inbound/acme-crm", "hunter2", now - 301, body, refused),
        ("/v1/inbound/acme-crm", "hunter2", now + 301, body, refused),
        ("/v1/inbound/legacy", "hunter2", now, body, "404 NOT_FOUND"),
        ("/v1/inbound/other", "hunter2", now, body, "404 NOT_FOUND"),
        ("/v1/inbound/acme-crm", "hunter2", now - 300, body, "202"),
    ] {
        let time = time.to_string();
        let signature = acme_signature(secret, &time, signed);
        let headers = [("x-acme-timestamp", &*time), ("x-acme-signature", &*signature)];
        let answered = entrance.post(path, &headers, body).await;
        assert_eq!(answered.told(), expected, "{path} {secret} {time}");
        if expected == refused {
            let challenge = Some(r#"Signature realm="tollgate""#);
            assert_eq!(answered.header("www-authenticate"), challenge);
        }
    }
    // Nobody waits for the body of what can't be verified.
    let late = (now - 301).to_string();
    let none = "0".repeat(64);
    for (headers, expected) in [
        (vec![], "401 CREDENTIAL_MISSING"),
        (vec![("x-acme-timestamp", &*late), ("x-acme-signature", &*none)], refused),
    ] {
        let headers = [&headers[..], &[("content-length", "5")]].concat();
        let answered = entrance.raw("POST", "/v1/inbound/acme-crm", &headers, b"").await;
        assert_eq!(answered.told(), expected);
    }
    // What is signed and no event, or none that fits its type, is told where.
    for (body, pointer) in [
        ("{", None),
        (r#"{"id":"2"}"#, Some("/type")),
        (r#"{"id":"2","type":"strict","data":{}}"#, Some("/data")),
        (r#"{"id":"2","type":"tollgate.ping"}"#, Some("/type")),
    ] {
        let answered = acme(&entrance, "hunter2", body).await;
        assert_eq!(answered.told(), "400 VALIDATION_FAILED", "{body}");
        let told = answered.body.pointer("/details/errors/0/pointer").and_then(Value::as_str);
        assert_eq!(told, pointer, "{body}");
    }
    let large =
        format!(r#"{{"id":"2","type":"a","data":"{}"}}"#, "x".repeat(super::INBOUND_BYTES_MAX));
    assert_eq!(acme(&entrance, "hunter2", &large).await.told(), "413 BODY_TOO_LARGE");
    assert_eq!(entrance.ids().await, ["e-1"]);
}

#[tokio::test]
async fn a_source_may_change_its_secret_while_it_sends() {
    let entrance = Entrance::with(sources()).await;
    let body = |id: &str| format!(r#"{{"id":"{id}","type":"a"}}"#);
    // Not there yet: its sender comes again.
    let unready = acme(&entrance, "one", &body("1")).await;
    assert_eq!(unready.told(), "503 DEPENDENCY_UNAVAILABLE");
    assert_eq!(unready.header("retry-after"), Some("10"));
    std::fs::write(entrance.secret(), "one").unwrap();
    assert_eq!(acme(&entrance, "one", &body("1")).await.told(), "202");
    std::fs::write(entrance.secret(), "two").unwrap();
    entrance.clock.advance(super::SECRETS_TIME);
    assert_eq!(acme(&entrance, "one", &body("2")).await.told(), "401 SIGNATURE_INVALID");
    assert_eq!(acme(&entrance, "two", &body("2")).await.told(), "202");
    // With another document it is so at once.
    std::fs::write(entrance.secret().with_extension("old"), "one").unwrap();
    let mut both = sources();
    both[0]["previous_secret"] = json!({ "file": "SECRET.old" });
    entrance.publish(both);
    for (secret, id) in [("one", "3"), ("two", "4")] {
        assert_eq!(acme(&entrance, secret, &body(id)).await.told(), "202", "{secret}");
    }
    entrance.publish(json!([]));
    assert_eq!(acme(&entrance, "two", &body("5")).await.told(), "404 NOT_FOUND");
}

#[tokio::test]
async fn a_standard_webhook_is_known_by_its_own_id() {
    let entrance = Entrance::with(sources()).await;
    let secret = "whsec_MTIzNDU2Nzg5MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTI=";
    std::fs::write(entrance.secret().with_extension("standard"), secret).unwrap();
    let signer = Signer::new(Secret::parse(secret).unwrap());
    let now = entrance.clock.now().as_second();
    let body = r#"{"event":"invoice.paid","amount":3}"#;
    let signature = signer.sign("msg_1", now, body.as_bytes()).unwrap();
    let time = now.to_string();
    let headers = [
        ("webhook-id", "msg_1"),
        ("webhook-timestamp", &*time),
        ("webhook-signature", &*signature),
    ];
    for _ in 0..2 {
        let answered = entrance.post("/v1/inbound/standard", &headers, body).await;
        assert_eq!(answered.told(), "202", "{answered:?}");
    }
    let other = [("webhook-id", "msg_2"), headers[1], headers[2]];
    let refused = entrance.post("/v1/inbound/standard", &other, body).await;
    assert_eq!(refused.told(), "401 SIGNATURE_INVALID");
    let kept = entrance.kept().await;
    assert_eq!(kept.len(), 1);
    assert_eq!((kept[0].id.as_str(), kept[0].r#type.as_str()), ("msg_1", "invoice.paid"));
    assert_eq!(kept[0].tenant.as_str(), "globex");
}
