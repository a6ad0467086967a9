//! Issuers of tests: keys made on the spot, and tokens that say what a test wants them to say.

use super::{Reply, Upstream};
use aws_lc_rs::encoding::AsDer as _;
use aws_lc_rs::rsa;
use aws_lc_rs::signature::{self, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey};
use serde_json::{Value, json};
use std::sync::Once;

/// `iss` of the issuer of acme.
pub(crate) const ISSUER: &str = "https://idp.acme.example";

/// A key that signs.
#[derive(Clone)]
pub(crate) struct Key {
    id: String,
    algorithm: Algorithm,
    private: EncodingKey,
}

impl Key {
    pub(crate) fn rs256(id: &str) -> Self {
        let pair = rsa::KeyPair::generate(rsa::KeySize::Rsa2048).unwrap();
        let pem = pem("PRIVATE KEY", pair.as_der().unwrap().as_ref());
        Self::new(id, Algorithm::RS256, EncodingKey::from_rsa_pem(pem.as_bytes()).unwrap())
    }

    pub(crate) fn es256(id: &str) -> Self {
        let pair =
            signature::EcdsaKeyPair::generate(&signature::ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        Self::new(
            id,
            Algorithm::ES256,
            EncodingKey::from_ec_der(pair.to_pkcs8v1().unwrap().as_ref()),
        )
    }

    pub(crate) fn eddsa(id: &str) -> Self {
        let pair = signature::Ed25519KeyPair::generate().unwrap();
        Self::new(
            id,
            Algorithm::EdDSA,
            EncodingKey::from_ed_der(pair.to_pkcs8v1().unwrap().as_ref()),
        )
    }

    pub(crate) fn hs256(secret: &[u8]) -> Self {
        Self::new("", Algorithm::HS256, EncodingKey::from_secret(secret))
    }

    fn new(id: &str, algorithm: Algorithm, private: EncodingKey) -> Self {
        install_crypto();
        Self { id: id.to_owned(), algorithm, private }
    }

    /// The public half, as a key set lists it.
    pub(crate) fn public(&self) -> Value {
        let mut jwk = Jwk::from_encoding_key(&self.private, self.algorithm).unwrap();
        jwk.common.key_id = Some(self.id.clone());
        serde_json::to_value(jwk).unwrap()
    }

    /// The public half of an RSA key, as tools write it (RFC 5280 SubjectPublicKeyInfo).
    pub(crate) fn public_der(&self) -> Vec<u8> {
        let pair = rsa::KeyPair::from_der(self.private.as_bytes()).unwrap();
        let public: aws_lc_rs::encoding::PublicKeyX509Der<'_> = pair.public_key().as_der().unwrap();
        public.as_ref().to_vec()
    }

    /// The same as text.
    pub(crate) fn public_pem(&self) -> String {
        pem("PUBLIC KEY", &self.public_der())
    }

    /// The header of this key's tokens.
    pub(crate) fn header(&self) -> Value {
        let name = format!("{:?}", self.algorithm);
        match &*self.id {
            "" => json!({ "alg": name, "typ": "at+jwt" }),
            id => json!({ "alg": name, "typ": "at+jwt", "kid": id }),
        }
    }

    /// A token with these claims.
    pub(crate) fn signs(&self, claims: &Value) -> String {
        self.signs_under(&self.header(), claims)
    }

    /// A token with this header and these claims.
    pub(crate) fn signs_under(&self, header: &Value, claims: &Value) -> String {
        let message = format!("{}.{}", encoded(header), encoded(claims));
        let signature =
            jsonwebtoken::crypto::sign(message.as_bytes(), &self.private, self.algorithm).unwrap();
        format!("{message}.{signature}")
    }
}

/// RFC 7468.
fn pem(label: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let lines: Vec<&str> =
        text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

/// A key set.
pub(crate) fn key_set(keys: &[&Key]) -> Value {
    json!({ "keys": keys.iter().map(|key| key.public()).collect::<Vec<_>>() })
}

/// A server of a key set.
pub(crate) async fn key_server(keys: &[&Key]) -> Upstream {
    let set = key_set(keys);
    Upstream::scripted(move |_| Reply::of(200).json(&set)).await
}

/// A part of a token.
pub(crate) fn encoded(value: &Value) -> String {
    URL_SAFE_NO_PAD.encode(value.to_string())
}

/// Seconds since the epoch.
pub(crate) fn now() -> i64 {
    model::Clock::system().now().as_second()
}

/// Good claims of `acme-mobile` that no other call has made.
pub(crate) fn claims() -> Value {
    json!({
        "iss": ISSUER, "aud": "crm-api", "sub": "user-1", "client_id": "acme-mobile",
        "scope": "contacts:read contacts:write", "iat": now(), "exp": now() + 3600,
        "jti": unique(),
    })
}

/// A name that was not given before.
pub(crate) fn unique() -> String {
    use std::sync::atomic::{AtomicU64, Ordering};
    static COUNT: AtomicU64 = AtomicU64::new(0);
    format!("unique-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

/// The same claims with this one changed; removed when it is null.
pub(crate) fn but(mut claims: Value, name: &str, value: Value) -> Value {
    let object = claims.as_object_mut().unwrap();
    match value {
        Value::Null => drop(object.shift_remove(name)),
        value => drop(object.insert(name.to_owned(), value)),
    }
    claims
}

/// The issuer of acme, with these keys.
pub(crate) fn issuer(algorithms: &[&str], keys: (&str, Value)) -> Value {
    let mut issuer = json!({
        "id": "acme-idp", "issuer": ISSUER, "audiences": ["crm-api"], "algorithms": algorithms,
        "tenant": "acme", "typ": "at+jwt",
    });
    issuer[keys.0] = keys.1;
    issuer
}

/// Where a key server has its set.
pub(crate) fn served_by(server: &Upstream) -> (&'static str, Value) {
    ("jwks", json!({ "uri": format!("http://{}/jwks.json", server.address) }))
}

fn install_crypto() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        jsonwebtoken::crypto::aws_lc::DEFAULT_PROVIDER.install_default().unwrap();
    });
}
