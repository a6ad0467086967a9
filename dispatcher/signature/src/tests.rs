//! The published vectors, what the official library says of our signatures, and what must be refused.

use super::*;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use http::{HeaderMap, HeaderValue};
use std::time::Duration;

const TOLERANCE: Duration = Duration::from_secs(300);

struct Vector {
    secret: &'static str,
    id: &'static str,
    at: i64,
    body: &'static str,
    signature: &'static str,
}

/// Of the official libraries for Python, Go, JavaScript, PHP, Java and C#.
const A: Vector = Vector {
    secret: "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
    id: "msg_p5jXN8AQM9LWM0D4loKWxJek",
    at: 1_614_265_330,
    body: r#"{"test": 2432232314}"#,
    signature: "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
};
/// Of the official library for Rust.
const B: Vector = Vector {
    secret: "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD",
    id: "msg_27UH4WbU6Z5A5EzD8u03UvzRbpk",
    at: 1_649_367_553,
    body: r#"{"email":"test@example.com","username":"test_user"}"#,
    signature: "v1,tZ1I4/hDygAJgO5TYxiSd6Sd0kDW6hPenDe+bTa3Kkw=",
};
/// Of the specification, for the message of [`A`].
const C_KEY: &str =
    "whsk_6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbfVKIDij2HKpMKkioLlX0dRqSKJp4AJ6p9lMicMFs6Kvg==";
const C_SIGNATURE: &str =
    "v1a,hnO3f9T8Ytu9HwrXslvumlUpqtNVqkhqw/enGzPCXe5BdqzCInXqYXFymVJaA7AZdpXwVLPo3mNl8EM+m7TBAg==";

fn secret(text: &str) -> Secret {
    Secret::parse(text).unwrap()
}

fn key() -> SigningKey {
    SigningKey::parse(C_KEY).unwrap()
}

fn headers(id: &str, at: &str, signature: &str) -> HeaderMap {
    let value = |text: &str| HeaderValue::from_str(text).unwrap();
    [(ID, value(id)), (TIMESTAMP, value(at)), (SIGNATURE, value(signature))].into_iter().collect()
}

fn verifier() -> Verifier {
    Verifier::new(TOLERANCE).secret(secret(A.secret)).key(key().public_key())
}

#[test]
fn the_published_vectors_hold_both_ways() {
    for vector in [A, B] {
        let Vector { secret: text, id, at, body, signature } = vector;
        assert_eq!(Signer::new(secret(text)).sign(id, at, body.as_bytes()).unwrap(), signature);
        let headers = headers(id, &at.to_string(), signature);
        let verifier = Verifier::new(TOLERANCE).secret(secret(text));
        let message = Message { id, timestamp: at };
        assert_eq!(verifier.verify(&headers, body.as_bytes(), at), Ok(message));
    }
    let signed = Signer::new(secret(A.secret)).and_key(key());
    let signed = signed.sign(A.id, A.at, A.body.as_bytes()).unwrap();
    assert_eq!(signed, format!("{} {C_SIGNATURE}", A.signature));
    let headers = headers(A.id, &A.at.to_string(), C_SIGNATURE);
    let verifier = Verifier::new(TOLERANCE).key(key().public_key());
    assert!(verifier.verify(&headers, A.body.as_bytes(), A.at).is_ok());
}

/// The official library knows no `v1a`, and passes over it.
#[test]
fn the_official_library_takes_what_we_sign_and_nothing_else() {
    let now = seconds_now();
    let old = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
    let signer = Signer::new(secret(A.secret)).and_until(secret(old), now + 60).and_key(key());
    let body = br#"{"specversion":"1.0","data":{"name":"Gr\u00fc\u00dfe"}}"#;
    let signature = signer.sign("msg_1", now, body).unwrap();
    assert_eq!(signature.split(' ').count(), 3);
    let headers = headers("msg_1", &now.to_string(), &signature);
    for secret in [A.secret, old] {
        let official = standardwebhooks::Webhook::new(secret).unwrap();
        official.verify(body, &headers).unwrap();
        for at in 0..body.len() {
            let mut tampered = body.to_vec();
            tampered[at] ^= 1;
            assert!(official.verify(&tampered, &headers).is_err(), "byte {at}");
        }
        for name in [ID, TIMESTAMP, SIGNATURE] {
            let mut tampered = headers.clone();
            let other = if name == TIMESTAMP { (now - 1).to_string() } else { "msg_2".into() };
            tampered.insert(name, other.parse().unwrap());
            assert!(official.verify(body, &tampered).is_err());
        }
    }
    let other = standardwebhooks::Webhook::new("whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA").unwrap();
    assert!(other.verify(body, &headers).is_err());
}

#[test]
fn what_the_official_library_signs_is_verified() {
    let official = standardwebhooks::Webhook::new(A.secret).unwrap();
    let signature = official.sign(A.id, A.at, A.body.as_bytes()).unwrap();
    let headers = headers(A.id, &A.at.to_string(), &signature);
    assert!(verifier().verify(&headers, A.body.as_bytes(), A.at).is_ok());
}

#[test]
fn secrets_sign_until_they_are_over() {
    let signer = Signer::new(secret(A.secret)).and_until(secret(B.secret), 100);
    let count = |at| signer.sign("a", at, b"").unwrap().split(' ').count();
    assert_eq!([count(99), count(100), count(101)], [2, 1, 1]);
}

#[test]
fn only_whole_messages_are_verified() {
    let at = A.at.to_string();
    let good = || headers(A.id, &at, A.signature);
    let without = |name: HeaderName| {
        let mut headers = good();
        headers.remove(name);
        headers
    };
    let twice = |name: HeaderName| {
        let mut headers = good();
        headers.append(&name, headers[&name].clone());
        headers
    };
    let signed = |signature: &str| headers(A.id, &at, signature);
    let unpadded = A.signature.trim_end_matches('=');
    let wrong = Signer::new(secret(B.secret)).sign(A.id, A.at, A.body.as_bytes()).unwrap();
    let mut bad_v1a = C_SIGNATURE.to_owned();
    bad_v1a.replace_range(4..5, "A");
    let raw = HeaderValue::from_bytes(b"v1,\xff").unwrap();
    let mut not_text = good();
    not_text.insert(SIGNATURE, raw);
    for (case, headers, expected) in [
        ("good", good(), Ok(())),
        ("no id", without(ID), Err(Refused::Missing(ID))),
        ("no timestamp", without(TIMESTAMP), Err(Refused::Missing(TIMESTAMP))),
        ("no signature", without(SIGNATURE), Err(Refused::Missing(SIGNATURE))),
        ("two ids", twice(ID), Err(Refused::Repeated(ID))),
        ("two timestamps", twice(TIMESTAMP), Err(Refused::Repeated(TIMESTAMP))),
        ("two signatures", twice(SIGNATURE), Err(Refused::Repeated(SIGNATURE))),
        ("empty", signed(""), Err(Refused::Signature)),
        ("no scheme", signed(&A.signature[3..]), Err(Refused::Signature)),
        ("partial", signed("v1,"), Err(Refused::Signature)),
        ("cut", signed(&A.signature[..20]), Err(Refused::Signature)),
        ("unpadded base64", signed(unpadded), Err(Refused::Signature)),
        ("another secret", signed(&wrong), Err(Refused::Signature)),
        ("another scheme", signed(&A.signature.replace("v1", "v2")), Err(Refused::Signature)),
        ("its scheme in capitals", signed(&A.signature.replace('v', "V")), Err(Refused::Signature)),
        ("v1 as v1a", signed(&A.signature.replace("v1", "v1a")), Err(Refused::Signature)),
        ("v1a as v1", signed(&C_SIGNATURE.replace("v1a", "v1")), Err(Refused::Signature)),
        ("v1a of another message", signed(&bad_v1a), Err(Refused::Signature)),
        ("v1a", signed(C_SIGNATURE), Ok(())),
        ("one of several", signed(&format!("{wrong} {}", A.signature)), Ok(())),
        ("junk first", signed(&format!("junk v1 , v1,! ,, {}", A.signature)), Ok(())),
        (
            "junk without end",
            signed(&format!("{}{}", "x ".repeat(32), A.signature)),
            Err(Refused::Signature),
        ),
        ("not text", not_text, Err(Refused::Malformed(SIGNATURE))),
        ("an id with a dot", headers("a.b", &at, A.signature), Err(Refused::Malformed(ID))),
        ("an empty id", headers("", &at, A.signature), Err(Refused::Malformed(ID))),
        (
            "another id",
            headers("msg_q5jXN8AQM9LWM0D4loKWxJek", &at, A.signature),
            Err(Refused::Signature),
        ),
    ] {
        let result = verifier().verify(&headers, A.body.as_bytes(), A.at).map(drop);
        assert_eq!(result, expected, "{case}");
    }
}

/// The same JSON, written again.
#[test]
fn the_raw_body_is_what_is_signed() {
    let headers = headers(A.id, &A.at.to_string(), A.signature);
    for body in [r#"{"test":2432232314}"#, "{\"test\": 2432232314}\n", ""] {
        let result = verifier().verify(&headers, body.as_bytes(), A.at);
        assert_eq!(result, Err(Refused::Signature), "{body:?}");
    }
    let binary = [0xff, 0x00, 0xfe];
    let signature = Signer::new(secret(A.secret)).sign("msg", 1, &binary).unwrap();
    let headers = self::headers("msg", "1", &signature);
    assert!(verifier().verify(&headers, &binary, 1).is_ok());
}

#[test]
fn a_message_is_good_for_as_long_as_is_tolerated_and_to_the_second() {
    let headers = headers(A.id, &A.at.to_string(), A.signature);
    for (late, expected) in [
        (0, Ok(())),
        (300, Ok(())),
        (301, Err(Refused::Old)),
        (-300, Ok(())),
        (-301, Err(Refused::Future)),
        (i64::MAX - A.at, Err(Refused::Old)),
    ] {
        let result = verifier().verify(&headers, A.body.as_bytes(), A.at + late).map(drop);
        assert_eq!(result, expected, "{late} s late");
    }
    let strict = Verifier::new(Duration::from_secs(1)).secret(secret(A.secret));
    assert_eq!(strict.verify(&headers, A.body.as_bytes(), A.at + 2), Err(Refused::Old));
}

/// Each of these is signed as it stands there, and still is no time.
#[test]
fn a_timestamp_is_digits_and_nothing_else() {
    let now = A.at;
    let mac = |timestamp: &str| {
        let signed = key::Signed { id: b"msg", timestamp: timestamp.as_bytes(), body: b"{}" };
        let tag = secret(A.secret).tag(&signed);
        format!("v1,{}", BASE64_STANDARD.encode(tag.as_ref()))
    };
    for timestamp in [
        "+1614265330",
        "-1614265330",
        " 1614265330",
        "1614265330 ",
        "1614265330.5",
        "1.614265330e9",
        "1614265330abc",
        "0x6037bdf2",
        "",
        "1614265330000000000000",
        "٣",
    ] {
        let value = HeaderValue::from_bytes(timestamp.as_bytes()).unwrap();
        let mut headers = headers("msg", "1", &mac(timestamp));
        headers.insert(TIMESTAMP, value);
        let result = verifier().verify(&headers, b"{}", now);
        assert_eq!(result, Err(Refused::Malformed(TIMESTAMP)), "{timestamp:?}");
    }
    let plain = now.to_string();
    assert!(verifier().verify(&headers("msg", &plain, &mac(&plain)), b"{}", now).is_ok());
}

#[test]
fn without_keys_nothing_is_verified() {
    let headers = headers(A.id, &A.at.to_string(), A.signature);
    let result = Verifier::new(TOLERANCE).verify(&headers, A.body.as_bytes(), A.at);
    assert_eq!(result, Err(Refused::Signature));
}

#[test]
fn a_message_with_an_ambiguous_id_or_time_is_not_signed() {
    let signer = Signer::new(secret(A.secret));
    for id in ["", "a.b", ".", "a b", "a\n", "ä"] {
        assert_eq!(signer.sign(id, 1, b""), Err(SignError::Id), "{id:?}");
    }
    assert_eq!(signer.sign("a", -1, b""), Err(SignError::Time));
}

#[test]
fn keys_have_their_lengths_and_their_prefixes() {
    let of =
        |prefix: &str, bytes: usize| format!("{prefix}{}", BASE64_STANDARD.encode(vec![7; bytes]));
    for (bytes, good) in [(0, false), (23, false), (24, true), (64, true), (65, false)] {
        assert_eq!(Secret::parse(&of("whsec_", bytes)).is_ok(), good, "{bytes}");
    }
    for (bytes, good) in [(0, false), (31, false), (32, true), (33, false), (65, false)] {
        assert_eq!(SigningKey::parse(&of("whsk_", bytes)).is_ok(), good, "{bytes}");
    }
    for (bytes, good) in [(31, false), (32, true), (33, false)] {
        assert_eq!(PublicKey::parse(&of("whpk_", bytes)).is_ok(), good, "{bytes}");
    }
    assert_eq!(SigningKey::parse(&of("whsk_", 64)).unwrap_err(), KeyError::Mismatch);
    let mut seed = BASE64_STANDARD.decode(&C_KEY["whsk_".len()..]).unwrap();
    seed.truncate(32);
    let short = SigningKey::parse(&format!("whsk_{}", BASE64_STANDARD.encode(seed))).unwrap();
    assert_eq!(short.public_key(), key().public_key());
    let shown = key().public_key().to_string();
    assert_eq!(PublicKey::parse(&shown), Ok(key().public_key()));
    for text in [
        "",
        "whsec_",
        "whsec",
        "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        "WHSEC_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
    ] {
        assert!(Secret::parse(text).is_err(), "{text:?}");
    }
    // 25 bytes, whose base64 ends with `==`.
    let padded = of("whsec_", 25);
    assert!(Secret::parse(&padded).is_ok());
    assert_eq!(
        Secret::parse(padded.trim_end_matches('=')).unwrap_err(),
        KeyError::Base64("whsec_")
    );
}

#[test]
fn keys_are_shown_by_nothing() {
    let secret_part = &A.secret["whsec_".len()..];
    let signer = Signer::new(secret(A.secret)).and_until(secret(B.secret), 1).and_key(key());
    let shown = format!("{signer:?} {:?} {:?} {:?}", secret(A.secret), key(), verifier());
    for text in [secret_part, &B.secret["whsec_".len()..], &C_KEY["whsk_".len()..]] {
        assert!(!shown.contains(&text[..8]), "{shown}");
        for wrong in
            [format!("whsec_{text}!"), format!("wh_{text}"), format!("whsec_{}", &text[..8])]
        {
            let errors = [
                Secret::parse(&wrong).err(),
                SigningKey::parse(&wrong).err(),
                PublicKey::parse(&wrong).err(),
            ];
            for error in errors {
                let error = error.unwrap();
                assert!(!format!("{error} {error:?}").contains(&text[..8]), "{error}");
            }
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "the official library asks the system's clock")]
fn seconds_now() -> i64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    i64::try_from(now.as_secs()).unwrap()
}
