//! What the process sends is signed as Standard Webhooks says: its official library verifies every delivery as it came, and
//! takes none that was changed.

use crate::harness::document::{self, Edit as _};
use crate::harness::events::event;
use crate::harness::sending::{OPS, Sending};
use crate::harness::sink::{Raw, SECRET, Told};
use http::{HeaderMap, HeaderValue};
use serde_json::{Value, json};
use standardwebhooks::Webhook;
use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;
use webhook_signature::{ID, PublicKey, Refused, SIGNATURE, TIMESTAMP, Verifier};

/// It still signs beside [`SECRET`], and the one after it does no more.
const PREVIOUS: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
const OVER: &str = "whsec_b3Zlci1vdmVyLW92ZXItb3Zlci1vdmVyLW92ZXI=";
/// Published with the specification, and its public half.
const KEY: &str =
    "whsk_6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbfVKIDij2HKpMKkioLlX0dRqSKJp4AJ6p9lMicMFs6Kvg==";
const PUBLIC_KEY: &str = "whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4=";

/// An endpoint whose secrets change, and that has a key.
fn endpoint(id: &str, url: &str, format: &str, secrets: &Path) -> Value {
    let file = |name: &str, secret: &str| {
        let file = secrets.join(name);
        std::fs::write(&file, secret).unwrap();
        json!({ "file": file })
    };
    let mut endpoint = document::endpoint(id, url, "*");
    endpoint["format"] = json!(format);
    endpoint["schedule"] = json!(["100ms", "100ms"]);
    endpoint["signing_key"] = file("key", KEY);
    endpoint["previous_secrets"] = json!([
        { "secret": file("previous", PREVIOUS), "until": "2100-01-01T00:00:00Z" },
        { "secret": file("over", OVER), "until": "2020-01-01T00:00:00Z" },
    ]);
    endpoint
}

/// What is sent, in all the forms that data has.
fn events() -> Vec<Value> {
    let mut events = vec![
        event("plain", "contact.created", "x"),
        event("words", "contact.created", "Grüße, мир, 世界 🎉 \" \\"),
    ];
    let mut with = |id: &str, fields: Value| {
        let mut event = event(id, "contact.created", "x");
        event.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        events.push(event);
    };
    with("large", json!({ "data": { "text": "a".repeat(60_000) } }));
    with("nothing", json!({ "data": null }));
    with("text", json!({ "datacontenttype": "text/plain", "data": "just\ntext" }));
    // The library takes text only. The crate's own tests have bytes that are none.
    with(
        "bytes",
        json!({ "datacontenttype": "text/csv", "data": null, "data_base64": "YSxiCjEsMgo=" }),
    );
    for event in &mut events {
        let event = event.as_object_mut().unwrap();
        if event.contains_key("data_base64") {
            event.remove("data");
        }
    }
    events
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_official_library_verifies_every_delivery_and_takes_none_that_was_changed() {
    let folder = tempfile::tempdir().unwrap();
    let database = format!("sqlite://{}", folder.path().join("tollgate.db").display());
    let sending = Sending::alone(&database, |sink| {
        sink.keeps();
        // Each attempt has a time and a signature of its own.
        sink.at("binary", |arrived| match arrived.attempt {
            1 => Told::answers(500).after(Duration::from_millis(1_100)),
            _ => Told::takes(),
        });
        ["structured", "binary"].into_iter().fold(document::producing(), |document, format| {
            let endpoint = endpoint(format, &sink.url(format), format, folder.path());
            document.with("endpoints", endpoint)
        })
    })
    .await;
    let events = events();
    let ids: BTreeSet<String> =
        events.iter().map(|event| event["id"].as_str().unwrap().to_owned()).collect();
    sending.producer(OPS).sends(&events).await;
    for endpoint in ["structured", "binary"] {
        sending.sink.takes(endpoint, &ids).await;
    }
    let kept = sending.sink.kept();
    let attempts = |endpoint: &str| kept.iter().filter(|raw| raw.endpoint == endpoint).count();
    assert!(attempts("structured") >= events.len() && attempts("binary") >= 2 * events.len());
    let mut signatures = BTreeSet::new();
    for raw in &kept {
        is_verified(raw);
        is_not_when_changed(raw);
        assert!(signatures.insert(raw.headers[SIGNATURE].clone().to_str().unwrap().to_owned()));
    }
}

/// By the secret, by the one before, by the key, and by nothing else.
fn is_verified(raw: &Raw) {
    let Raw { headers, body, .. } = raw;
    for secret in [SECRET, PREVIOUS] {
        Webhook::new(secret).unwrap().verify(body, headers).unwrap();
    }
    for secret in [OVER, "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"] {
        assert!(Webhook::new(secret).unwrap().verify(body, headers).is_err());
    }
    let signed: i64 = headers[TIMESTAMP].to_str().unwrap().parse().unwrap();
    let by_key = by_key();
    let message = by_key.verify(headers, body, signed).unwrap();
    assert_eq!(message.timestamp, signed);
    assert_eq!(by_key.verify(headers, body, signed + 301), Err(Refused::Old));
    let entries: Vec<&str> = headers[SIGNATURE].to_str().unwrap().split(' ').collect();
    let schemes = entries.iter().map(|entry| entry.split(',').next().unwrap());
    assert!(schemes.eq(["v1", "v1", "v1a"]), "{entries:?}");
}

fn by_key() -> Verifier {
    Verifier::new(Duration::from_secs(300)).key(PublicKey::parse(PUBLIC_KEY).unwrap())
}

fn is_not_when_changed(raw: &Raw) {
    let official = Webhook::new(SECRET).unwrap();
    let at: i64 = raw.headers[TIMESTAMP].to_str().unwrap().parse().unwrap();
    let refused = |what: &str, headers: &HeaderMap, body: &[u8]| {
        assert!(official.verify(body, headers).is_err(), "{what}: {headers:?}");
        assert!(by_key().verify(headers, body, at).is_err(), "{what}: {headers:?}");
    };
    // Some bytes of each body, the first and the last among them.
    let step = raw.body.len() / 50 + 1;
    for at in (0..raw.body.len()).step_by(step).chain(raw.body.len().checked_sub(1)) {
        let mut body = raw.body.clone();
        body[at] ^= 1;
        refused("a byte", &raw.headers, &body);
    }
    refused("a byte more", &raw.headers, &[&raw.body[..], b" "].concat());
    if let Some((_, shorter)) = raw.body.split_last() {
        refused("a byte less", &raw.headers, shorter);
    }
    let with = |name: http::HeaderName, value: &str| {
        let mut headers = raw.headers.clone();
        headers.insert(name, HeaderValue::from_str(value).unwrap());
        headers
    };
    refused("another id", &with(ID, "evt_00000000000000000000000000000000"), &raw.body);
    refused("a second later", &with(TIMESTAMP, &(at + 1).to_string()), &raw.body);
    refused("a second earlier", &with(TIMESTAMP, &(at - 1).to_string()), &raw.body);
    let signature = raw.headers[SIGNATURE].to_str().unwrap();
    let emptied = signature.replace("v1,", "v2,").replace("v1a,", "v2a,");
    refused("other schemes", &with(SIGNATURE, &emptied), &raw.body);
    for name in [ID, TIMESTAMP, SIGNATURE] {
        let mut headers = raw.headers.clone();
        headers.remove(&name);
        refused("a header less", &headers, &raw.body);
    }
}
