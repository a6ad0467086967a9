use super::api_key::ApiKey;
use super::jwt::TenantSource;
use super::key_set::{KeySet, KeySetError};
use super::*;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{HeaderMap, Method};
use jsonwebtoken::{Algorithm, EncodingKey};
use model::revocation::Revocation;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use std::net::Ipv4Addr;
use std::sync::Once;
use std::time::Duration;

const SECRET: &[u8] = b"a test-only secret of forty bytes, no mo";
const ACME: &str = "tg_test_acme1_0123456789abcdef";
const GLOBEX: &str = "tg_test_globx_0123456789abcdef";
const EXPIRED: &str = "tg_test_acme0_0123456789abcdef";
const SUSPENDED: &str = "tg_test_susp1_0123456789abcdef";
/// 2026-11-21T00:00:00Z, in seconds.
const NOW: i64 = 1_795_219_200;

fn now() -> Timestamp {
    Timestamp::from_second(NOW).unwrap()
}

fn tenant(id: &str, state: TenantState, consumers: &[(&str, &[&str])]) -> Arc<Tenant> {
    let consumers = consumers
        .iter()
        .map(|(id, scopes)| ((*id).into(), scopes.iter().map(|scope| (*scope).into()).collect()));
    Arc::new(Tenant {
        id: id.into(),
        state,
        plan: "gold".into(),
        limits: Arc::default(),
        calendar: Calendar::UTC,
        adaptive: None,
        pins: HashMap::new(),
        consumers: consumers.collect(),
    })
}

fn key(of: &Arc<Tenant>, consumer: &str, key: &str, expires: Option<i64>) -> ApiKey {
    let identity = Identity {
        tenant: of.id.clone(),
        consumer: consumer.into(),
        subject: consumer.to_owned(),
        credential: "k1".to_owned(),
        scopes: of.consumers[consumer].clone(),
        claims: Arc::new(json!({})),
    };
    let expires = expires.map(|seconds| Timestamp::from_second(seconds).unwrap());
    ApiKey::new(Sha256::digest(key).into(), expires, identity, of.clone())
}

/// Acme may read and write, globex may read; tokens come from one issuer, which speaks for acme, and from a shared one.
fn directory() -> Directory {
    let acme = tenant("acme", TenantState::Active, &[("acme-mobile", &["read", "write"])]);
    let globex = tenant("globex", TenantState::Active, &[("globex-web", &["read"])]);
    let initech = tenant("initech", TenantState::Suspended, &[("initech-erp", &["read"])]);
    let mut keys = ApiKeys::default();
    keys.insert(&ACME[..13], key(&acme, "acme-mobile", ACME, None));
    keys.insert(&EXPIRED[..13], key(&acme, "acme-mobile", EXPIRED, Some(NOW)));
    keys.insert(&GLOBEX[..13], key(&globex, "globex-web", GLOBEX, Some(NOW + 1)));
    keys.insert(&SUSPENDED[..13], key(&initech, "initech-erp", SUSPENDED, None));
    let issuers = [
        ("https://acme.example", issuer(TenantSource::Fixed("acme".into()))),
        ("https://shared.example", issuer(TenantSource::Claim("org".to_owned()))),
    ];
    let tenants = [acme, globex, initech].map(|tenant| (tenant.id.clone(), tenant));
    Directory::new(
        tenants.into(),
        keys,
        issuers.into_iter().map(|(name, issuer)| (name.to_owned(), Arc::new(issuer))).collect(),
    )
}

fn issuer(tenant: TenantSource) -> Issuer {
    install_crypto();
    Issuer {
        id: "idp".into(),
        audiences: vec!["crm-api".to_owned(), "crm-api-2".to_owned()],
        algorithms: vec![Algorithm::HS256],
        keys: Arc::new(KeySet::from_secret(SECRET)),
        tenant,
        consumer_claim: "client_id".to_owned(),
        scopes_claim: "scope".to_owned(),
        leeway: Duration::from_secs(30),
        typ: Some("at+jwt".to_owned()),
    }
}

fn install_crypto() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // Fails only where a test of another module was first.
        jsonwebtoken::crypto::aws_lc::DEFAULT_PROVIDER.install_default().ok();
    });
}

fn head(lines: &[(&'static str, &str)]) -> Head {
    let mut headers = HeaderMap::new();
    for (name, value) in lines {
        headers.append(*name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
    }
    Head {
        method: Method::GET,
        path: "/".to_owned(),
        query: None,
        authority: "api.example".to_owned(),
        headers,
        client: Ipv4Addr::LOCALHOST.into(),
    }
}

fn any(scopes: &[&str]) -> Requirement {
    let scopes = scopes.iter().map(|scope| (*scope).into()).collect();
    Requirement { any_of: vec![CredentialKind::Jwt, CredentialKind::ApiKey], scopes }
}

/// What becomes of a request: `tenant/consumer/scopes`, or the code.
async fn judged(requirement: &Requirement, lines: &[(&'static str, &str)]) -> String {
    let memory = Memory::default();
    match directory().authenticate(requirement, &memory, &head(lines), now()).await {
        Ok(caller) => {
            let identity = caller.identity();
            let scopes = identity.scopes.join("+");
            format!("{}/{}/{scopes}", identity.tenant, identity.consumer)
        }
        Err(refused) => refused.reject.code.as_str().to_owned(),
    }
}

fn header() -> Value {
    json!({ "alg": "HS256", "typ": "at+jwt" })
}

fn claims() -> Value {
    json!({
        "iss": "https://acme.example", "aud": "crm-api", "sub": "user-1", "client_id": "acme-mobile",
        "scope": "read", "exp": NOW + 300,
    })
}

/// The same with this member changed; removed when it is null.
fn but(mut value: Value, name: &str, changed: Value) -> Value {
    if changed.is_null() {
        value.as_object_mut().unwrap().shift_remove(name);
    } else {
        value[name] = changed;
    }
    value
}

fn signed(header: &Value, claims: &Value, secret: &[u8]) -> String {
    install_crypto();
    let encoded = |part: &Value| URL_SAFE_NO_PAD.encode(part.to_string());
    let message = format!("{}.{}", encoded(header), encoded(claims));
    let key = EncodingKey::from_secret(secret);
    let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &key, Algorithm::HS256).unwrap();
    format!("Bearer {message}.{signature}")
}

#[tokio::test]
async fn an_api_key_is_accepted_whole_or_not_at_all() {
    let longer = format!("{ACME}0");
    let long = format!("{ACME}{}", "0".repeat(300));
    for (key, expected) in [
        (ACME, "acme/acme-mobile/read+write"),
        (GLOBEX, "globex/globex-web/read"),
        (EXPIRED, "CREDENTIAL_EXPIRED"),
        (SUSPENDED, "TENANT_SUSPENDED"),
        ("", "CREDENTIAL_INVALID"),
        (&ACME[..13], "CREDENTIAL_INVALID"),
        (&ACME[..29], "CREDENTIAL_INVALID"),
        (&longer, "CREDENTIAL_INVALID"),
        (&long, "CREDENTIAL_INVALID"),
        (&ACME.to_uppercase(), "CREDENTIAL_INVALID"),
        ("tg_test_nobod_0123456789abcdef", "CREDENTIAL_INVALID"),
        ("\u{e4}", "CREDENTIAL_INVALID"),
    ] {
        assert_eq!(judged(&any(&[]), &[("x-api-key", key)]).await, expected, "{key}");
    }
}

#[tokio::test]
async fn a_prefix_that_begins_another_one_hides_no_key() {
    let acme = tenant("acme", TenantState::Active, &[("a", &[]), ("b", &[])]);
    for order in [[0, 1], [1, 0]] {
        let pairs = [("tg_test_", "a", "tg_test_0000"), ("tg_test_long", "b", "tg_test_long_0000")];
        let mut keys = ApiKeys::default();
        for index in order {
            let (prefix, consumer, text) = pairs[index];
            keys.insert(prefix, key(&acme, consumer, text, None));
        }
        for (_, consumer, text) in pairs {
            let caller =
                keys.verify(text, now()).unwrap_or_else(|reject| panic!("{text}: {reject:?}"));
            assert_eq!(caller.identity().consumer.as_str(), consumer);
        }
    }
}

#[tokio::test]
async fn there_is_one_credential_of_a_kind_that_the_route_takes() {
    let token = signed(&header(), &claims(), SECRET);
    let only = |kind| Requirement { any_of: vec![kind], scopes: Vec::new() };
    let (jwt, api_key) = (only(CredentialKind::Jwt), only(CredentialKind::ApiKey));
    let authorization = ("authorization", &*token);
    let x_api_key = ("x-api-key", ACME);
    for (requirement, lines, expected) in [
        (&any(&[]), &[authorization][..], "acme/acme-mobile/read"),
        (&any(&[]), &[x_api_key], "acme/acme-mobile/read+write"),
        (&any(&[]), &[authorization, x_api_key], "CREDENTIAL_INVALID"),
        (&any(&[]), &[x_api_key, x_api_key], "CREDENTIAL_INVALID"),
        (&any(&[]), &[authorization, authorization], "CREDENTIAL_INVALID"),
        (&any(&[]), &[], "CREDENTIAL_MISSING"),
        (&any(&[]), &[("authorization", "Basic YTpi")], "CREDENTIAL_MISSING"),
        (&any(&[]), &[("authorization", "Basic YTpi"), x_api_key], "acme/acme-mobile/read+write"),
        (&jwt, &[x_api_key], "CREDENTIAL_MISSING"),
        (&jwt, &[authorization, x_api_key], "acme/acme-mobile/read"),
        (&api_key, &[authorization], "CREDENTIAL_MISSING"),
    ] {
        assert_eq!(judged(requirement, lines).await, expected, "{lines:?}");
    }
    let lower = token.replacen("Bearer", "bEARER", 1);
    assert_eq!(judged(&jwt, &[("authorization", &lower)]).await, "acme/acme-mobile/read");
}

#[tokio::test]
async fn every_scope_of_the_route_is_needed_and_told() {
    for (scopes, expected) in [
        (&["read"][..], "globex/globex-web/read"),
        (&["write"], "SCOPE_DENIED"),
        (&["read", "write"], "SCOPE_DENIED"),
        (&["rea"], "SCOPE_DENIED"),
    ] {
        assert_eq!(judged(&any(scopes), &[("x-api-key", GLOBEX)]).await, expected, "{scopes:?}");
    }
    let head = head(&[("x-api-key", GLOBEX)]);
    let memory = Memory::default();
    let reject = directory()
        .authenticate(&any(&["read", "write"]), &memory, &head, now())
        .await
        .unwrap_err();
    assert_eq!(reject.reject.details["required"], json!(["read", "write"]));
    assert_eq!(reject.reject.details["missing"], json!(["write"]));
}

#[tokio::test]
async fn a_401_names_the_kinds_that_are_taken() {
    let memory = Memory::default();
    for (lines, expected) in [
        (&[][..], [r#"Bearer realm="tollgate""#, r#"ApiKey realm="tollgate", header="X-Api-Key""#]),
        (
            &[("x-api-key", "nope")],
            [
                r#"Bearer realm="tollgate", error="invalid_token""#,
                r#"ApiKey realm="tollgate", header="X-Api-Key""#,
            ],
        ),
    ] {
        let judged = directory().authenticate(&any(&[]), &memory, &head(lines), now()).await;
        let reject = judged.unwrap_err();
        let challenges: Vec<_> = reject.reject.headers.iter().map(|(_, value)| value).collect();
        assert_eq!(challenges, expected);
    }
}

#[tokio::test]
async fn claims_are_judged_at_the_time_that_is_passed_in() {
    let ok = "acme/acme-mobile/read";
    let cases = [
        ("as it should be", claims(), ok),
        ("second audience", but(claims(), "aud", json!(["x", "crm-api-2"])), ok),
        ("last moment", but(claims(), "exp", json!(NOW - 29)), ok),
        ("fraction", but(claims(), "exp", json!(0.5 + 1_795_219_170.0)), ok),
        ("just over", but(claims(), "exp", json!(NOW - 30)), "CREDENTIAL_EXPIRED"),
        ("no exp", but(claims(), "exp", Value::Null), "CREDENTIAL_INVALID"),
        ("exp as text", but(claims(), "exp", json!("1795219500")), "CREDENTIAL_INVALID"),
        ("exp negative", but(claims(), "exp", json!(-1)), "CREDENTIAL_INVALID"),
        ("exp absurd", but(claims(), "exp", json!(1e18)), "CREDENTIAL_INVALID"),
        ("nbf within leeway", but(claims(), "nbf", json!(NOW + 30)), ok),
        ("nbf beyond", but(claims(), "nbf", json!(NOW + 31)), "CREDENTIAL_INVALID"),
        ("nbf as text", but(claims(), "nbf", json!("0")), "CREDENTIAL_INVALID"),
        ("iat beyond", but(claims(), "iat", json!(NOW + 31)), "CREDENTIAL_INVALID"),
        ("no aud", but(claims(), "aud", Value::Null), "CREDENTIAL_INVALID"),
        ("other aud", but(claims(), "aud", json!("crm-api-3")), "CREDENTIAL_INVALID"),
        ("aud of numbers", but(claims(), "aud", json!([1])), "CREDENTIAL_INVALID"),
        ("other iss", but(claims(), "iss", json!("https://acme.example/")), "CREDENTIAL_INVALID"),
        ("no iss", but(claims(), "iss", Value::Null), "CREDENTIAL_INVALID"),
        (
            "scopes in a list",
            but(claims(), "scope", json!(["read", "write"])),
            "acme/acme-mobile/read+write",
        ),
        ("scopes beyond the consumer's", but(claims(), "scope", json!("read admin")), ok),
        ("no scopes", but(claims(), "scope", Value::Null), "acme/acme-mobile/"),
        ("unknown consumer", but(claims(), "client_id", json!("x")), "CREDENTIAL_INVALID"),
        (
            "consumer elsewhere",
            but(claims(), "client_id", json!("globex-web")),
            "CREDENTIAL_INVALID",
        ),
        ("a tenant that the issuer doesn't speak for", but(claims(), "org", json!("globex")), ok),
    ];
    for (case, claims, expected) in cases {
        let token = signed(&header(), &claims, SECRET);
        assert_eq!(judged(&any(&[]), &[("authorization", &token)]).await, expected, "{case}");
    }
}

#[tokio::test]
async fn a_shared_issuer_names_the_tenant_by_its_claim() {
    let of = |org: Value, client: &str| {
        let claims = but(claims(), "iss", json!("https://shared.example"));
        signed(&header(), &but(but(claims, "org", org), "client_id", json!(client)), SECRET)
    };
    for (org, client, expected) in [
        (json!("acme"), "acme-mobile", "acme/acme-mobile/read"),
        (json!("globex"), "globex-web", "globex/globex-web/read"),
        (json!("initech"), "initech-erp", "TENANT_SUSPENDED"),
        (json!("globex"), "acme-mobile", "CREDENTIAL_INVALID"),
        (json!("hooli"), "acme-mobile", "CREDENTIAL_INVALID"),
        (Value::Null, "acme-mobile", "CREDENTIAL_INVALID"),
    ] {
        let token = of(org.clone(), client);
        let judged = judged(&any(&[]), &[("authorization", &token)]).await;
        assert_eq!(judged, expected, "{org} {client}");
    }
}

#[tokio::test]
async fn headers_are_judged_before_any_claim() {
    let ok = "acme/acme-mobile/read";
    let cases = [
        ("as it should be", header(), ok),
        ("media type", but(header(), "typ", json!("application/at+JWT")), ok),
        ("a kid that no secret has", but(header(), "kid", json!("k1")), ok),
        ("keys of its own", but(header(), "jwk", json!({ "kty": "oct", "k": "AA" })), ok),
        ("no typ", but(header(), "typ", Value::Null), "CREDENTIAL_INVALID"),
        ("ID token", but(header(), "typ", json!("JWT")), "CREDENTIAL_INVALID"),
        ("critical", but(header(), "crit", json!([])), "CREDENTIAL_INVALID"),
        ("unencoded", but(header(), "b64", json!(true)), "CREDENTIAL_INVALID"),
        ("long kid", but(header(), "kid", json!("k".repeat(129))), "CREDENTIAL_INVALID"),
        ("kid that is no text", but(header(), "kid", json!(1)), "CREDENTIAL_INVALID"),
        ("none", but(header(), "alg", json!("none")), "CREDENTIAL_INVALID"),
        ("None", but(header(), "alg", json!("None")), "CREDENTIAL_INVALID"),
        ("another one", but(header(), "alg", json!("RS256")), "CREDENTIAL_INVALID"),
        ("an unknown one", but(header(), "alg", json!("HS384")), "CREDENTIAL_INVALID"),
        ("no alg", but(header(), "alg", Value::Null), "CREDENTIAL_INVALID"),
    ];
    for (case, header, expected) in cases {
        let token = signed(&header, &claims(), SECRET);
        assert_eq!(judged(&any(&[]), &[("authorization", &token)]).await, expected, "{case}");
    }
}

#[tokio::test]
async fn a_signature_must_be_there_and_be_right() {
    let good = signed(&header(), &claims(), SECRET);
    let message = good.rsplit_once('.').unwrap().0;
    let other = signed(&header(), &claims(), b"another secret, which is also 40 bytes lo");
    let richer = signed(&header(), &but(claims(), "scope", json!("read write")), SECRET);
    let swapped = format!("{message}.{}", richer.rsplit_once('.').unwrap().1);
    let long = signed(&header(), &but(claims(), "x", json!("x".repeat(8200))), SECRET);
    for token in [
        other,
        swapped,
        long,
        message.to_owned(),
        format!("{message}."),
        format!("{good}.x"),
        "Bearer x".to_owned(),
    ] {
        assert_eq!(
            judged(&any(&[]), &[("authorization", &token)]).await,
            "CREDENTIAL_INVALID",
            "{token}"
        );
    }
}

#[tokio::test]
async fn a_remembered_token_counts_only_under_its_revision_and_while_it_lasts() {
    let directory = directory();
    let memory = Memory::default();
    let head = head(&[("authorization", &signed(&header(), &claims(), SECRET))]);
    let at = |seconds: i64| Timestamp::from_second(NOW + seconds).unwrap();
    let required = any(&[]);
    for (seconds, expected) in [(0, None), (329, None), (330, Some(ErrorCode::CredentialExpired))] {
        let judged = directory.authenticate(&required, &memory, &head, at(seconds)).await;
        assert_eq!(judged.err().map(|refused| refused.reject.code), expected, "{seconds}");
    }
    // A revision in which the consumer is gone.
    let empty = tenant("acme", TenantState::Active, &[]);
    let issuers =
        [("https://acme.example".to_owned(), Arc::new(issuer(TenantSource::Fixed("acme".into()))))];
    let next =
        Directory::new([(empty.id.clone(), empty)].into(), ApiKeys::default(), issuers.into());
    let judged = next.authenticate(&required, &memory, &head, now()).await;
    assert_eq!(judged.unwrap_err().reject.code, ErrorCode::CredentialInvalid);
}

/// What is revoked at [`NOW`].
fn revocation(what: Value) -> Revocation {
    let mut revocation = json!({ "id": "r1", "at": now() });
    for (name, value) in what.as_object().unwrap() {
        revocation[name] = value.clone();
    }
    serde_json::from_value(revocation).unwrap()
}

#[tokio::test]
async fn what_is_revoked_is_refused_also_when_it_is_remembered() {
    let token = |iat: Value| {
        let claims = but(but(claims(), "iat", iat), "jti", json!("t1"));
        ("authorization", signed(&header(), &claims, SECRET))
    };
    let old = token(json!(NOW));
    let fraction = token(json!(NOW as f64 + 0.5));
    let new = token(json!(NOW + 1));
    let undated = token(Value::Null);
    let key = ("x-api-key", ACME.to_owned());
    let other_key = ("x-api-key", GLOBEX.to_owned());
    let tokens = [&old, &fraction, &new, &undated];
    let all = [&old, &fraction, &new, &undated, &key, &other_key];
    for (what, refused) in [
        (json!({ "kind": "jti", "issuer": "idp", "jti": "t1" }), &tokens[..]),
        (json!({ "kind": "jti", "issuer": "idp", "jti": "t2" }), &[]),
        (json!({ "kind": "jti", "issuer": "idp2", "jti": "t1" }), &[]),
        (
            json!({ "kind": "subject", "issuer": "idp", "subject": "user-1" }),
            &[&old, &fraction, &undated],
        ),
        (json!({ "kind": "subject", "issuer": "idp", "subject": "user-2" }), &[]),
        (json!({ "kind": "subject", "issuer": "idp2", "subject": "user-1" }), &[]),
        (json!({ "kind": "issuer", "issuer": "idp" }), &[&old, &fraction, &undated]),
        (json!({ "kind": "issuer", "issuer": "idp2" }), &[]),
        (
            json!({ "kind": "credential", "tenant": "acme", "consumer": "acme-mobile", "credential": "k1" }),
            &[&key],
        ),
        (
            json!({ "kind": "credential", "tenant": "acme", "consumer": "acme-mobile", "credential": "k2" }),
            &[],
        ),
        (
            json!({ "kind": "credential", "tenant": "globex", "consumer": "acme-mobile", "credential": "k1" }),
            &[],
        ),
        (json!({ "until": now(), "kind": "issuer", "issuer": "idp" }), &[]),
    ] {
        let (directory, memory, required) = (directory(), Memory::default(), any(&[]));
        let judged = async |line: &(&'static str, String)| {
            let head = head(&[(line.0, &line.1)]);
            directory.authenticate(&required, &memory, &head, now()).await.map(drop)
        };
        for line in all {
            // From now on the tokens are remembered.
            judged(line).await.unwrap();
        }
        memory.revocations.replace(vec![revocation(what.clone())], now());
        for line in all {
            let answer = judged(line).await.map_err(|refused| refused.reject);
            match (answer, refused.contains(&line)) {
                (Ok(()), false) => {}
                (Err(reject), true) => {
                    assert_eq!(reject.code, ErrorCode::CredentialInvalid, "{what} {line:?}");
                    assert!(
                        reject.cause.as_ref().unwrap().starts_with("revoked: "),
                        "{what} {line:?}"
                    );
                    assert!(!reject.headers.is_empty(), "a 401 names the kinds that are taken");
                }
                (answer, _) => panic!("{what} {line:?}: {answer:?}"),
            }
        }
        memory.revocations.replace(Vec::new(), now());
        for line in all {
            judged(line).await.unwrap();
        }
    }
}

#[tokio::test]
async fn the_latest_of_two_revocations_of_a_subject_counts() {
    for order in [[0, 10], [10, 0]] {
        let (directory, memory) = (directory(), Memory::default());
        let revocations = order.map(|later| {
            let what = json!({ "kind": "subject", "issuer": "idp", "subject": "user-1" });
            let at = Timestamp::from_second(NOW + later).unwrap();
            Revocation { at, ..revocation(what) }
        });
        memory.revocations.replace(revocations.into(), now());
        for (iat, accepted) in [(10, false), (11, true)] {
            let token = signed(&header(), &but(claims(), "iat", json!(NOW + iat)), SECRET);
            let head = head(&[("authorization", &token)]);
            let judged = directory.authenticate(&any(&[]), &memory, &head, now()).await;
            assert_eq!(judged.is_ok(), accepted, "{order:?} {iat}");
        }
    }
}

/// RFC 8037 §A.2.
fn ed25519() -> Value {
    json!({ "kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo" })
}

/// RFC 7517 §A.1.
fn p256() -> Value {
    json!({
        "kty": "EC", "crv": "P-256", "x": "MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4",
        "y": "4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM",
    })
}

/// An RSA key of so many bits, as far as its shape goes.
fn rsa(bits: usize) -> Value {
    let mut modulus = vec![0xd5; bits / 8];
    modulus[bits / 8 - 1] = 1;
    json!({ "kty": "RSA", "n": URL_SAFE_NO_PAD.encode(modulus), "e": "AQAB" })
}

fn with_id(key: Value, id: &str) -> Value {
    but(key, "kid", json!(id))
}

#[test]
fn a_key_set_is_taken_whole_or_not_at_all() {
    install_crypto();
    let set = |keys: Vec<Value>| json!({ "keys": keys }).to_string();
    let good = || with_id(ed25519(), "a");
    let secret = "nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A";
    for (case, text, fault) in [
        ("one", set(vec![good()]), None),
        ("one of each", set(vec![good(), with_id(p256(), "b"), with_id(rsa(2048), "c")]), None),
        ("without id", set(vec![p256()]), None),
        (
            "beside one of an unused curve",
            set(vec![good(), but(with_id(p256(), "b"), "crv", json!("P-384"))]),
            None,
        ),
        (
            "beside one for encryption only",
            set(vec![good(), but(with_id(rsa(2048), "b"), "alg", json!("RSA-OAEP"))]),
            None,
        ),
        ("no JSON", "<html>".to_owned(), Some("is not a JWK set")),
        ("no set", "{}".to_owned(), Some("is not a JWK set")),
        ("empty", set(vec![]), Some("no key that can be used")),
        ("the same id twice", set(vec![good(), with_id(p256(), "a")]), Some("stands twice")),
        ("private Ed25519", set(vec![but(good(), "d", json!(secret))]), Some("holds a secret")),
        (
            "private RSA",
            set(vec![good(), but(with_id(rsa(2048), "b"), "p", json!("AQAB"))]),
            Some("holds a secret"),
        ),
        (
            "shared secret",
            set(vec![good(), json!({ "kty": "oct", "kid": "b", "k": secret })]),
            Some("holds a secret"),
        ),
        ("weak RSA", set(vec![good(), with_id(rsa(1024), "b")]), Some("less than 2048 bits")),
        (
            "too many",
            set((0..101).map(|number| with_id(ed25519(), &number.to_string())).collect()),
            Some("more than 100 keys"),
        ),
    ] {
        let read = KeySet::from_json(text.as_bytes());
        let error = read.err().map(|error: KeySetError| error.to_string());
        match (fault, error) {
            (None, None) => {}
            (Some(fault), Some(error)) => assert!(error.contains(fault), "{case}: {error}"),
            (fault, error) => panic!("{case}: {fault:?}, not {error:?}"),
        }
    }
}

#[tokio::test]
async fn a_key_is_used_only_with_its_own_algorithm_and_name() {
    install_crypto();
    let keys = vec![with_id(ed25519(), "ed"), with_id(p256(), "ec"), with_id(rsa(2048), "rsa")];
    let set = KeySet::from_json(json!({ "keys": keys }).to_string().as_bytes()).unwrap();
    for (id, algorithm, count) in [
        ("ed", Algorithm::EdDSA, 1),
        ("ec", Algorithm::ES256, 1),
        ("rsa", Algorithm::RS256, 1),
        ("", Algorithm::RS256, 1),
        ("rsa", Algorithm::HS256, 0),
        ("rsa", Algorithm::ES256, 0),
        ("ed", Algorithm::RS256, 0),
        ("other", Algorithm::RS256, 0),
    ] {
        let (_, found) = set.candidates(id, algorithm).await.unwrap();
        assert_eq!(found.len(), count, "{id} {algorithm:?}");
    }
    let secret = KeySet::from_secret(SECRET);
    assert_eq!(secret.candidates("anything", Algorithm::HS256).await.unwrap().1.len(), 1);
    assert_eq!(secret.candidates("", Algorithm::RS256).await.unwrap().1.len(), 0);
}
