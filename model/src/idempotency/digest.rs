//! What a key belongs to and what a request is, as hashes.
//!
//! Invariant: every part is preceded by its length, so that no two different lists of parts are hashed alike; and the
//! scope holds nothing that a client can choose but the key, so that no client reaches another's answers.

use super::Key;
use crate::exchange::Head;
use crate::id::{RouteId, TenantId, VersionName};
use hmac::{Hmac, Mac};
use http::HeaderValue;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use sha2::{Digest as _, Sha256};
use std::fmt;

/// A SHA-256 digest.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// By what operators find a tenant's records, who know neither subject nor route.
    pub fn of_lookup(tenant: &TenantId, key: &Key) -> Self {
        let mut parts = Parts::of("tollgate idempotency lookup 1");
        parts.text(tenant.as_str());
        parts.text(key.as_str());
        parts.digest()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Names a record.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RecordKey {
    /// Whose it is.
    pub tenant: TenantId,
    /// The scope's hash, tenant included.
    pub digest: Digest,
}

/// What a key is unique within: CONTRACT, "Idempotency scope".
#[derive(Clone, Copy, Debug)]
pub struct Scope<'a> {
    /// The tenant.
    pub tenant: &'a TenantId,
    /// The JWT's `sub`, else the consumer.
    pub subject: &'a str,
    /// The route.
    pub route: &'a RouteId,
    /// The client's key.
    pub key: &'a Key,
}

impl Scope<'_> {
    /// The record's name.
    pub fn record_key(&self) -> RecordKey {
        RecordKey { tenant: self.tenant.clone(), digest: self.parts().digest() }
    }

    /// `Idempotency-Key` for the upstream: a quoted HMAC of the scope. The same on every node and at every repeat, and
    /// nothing that a client could have chosen to meet another's.
    pub fn upstream_key(&self, salt: &Salt) -> HeaderValue {
        let mut mac =
            Hmac::<Sha256>::new_from_slice(&salt.0).expect("HMAC takes keys of any length");
        mac.update(&self.parts().0);
        let digest = Digest(mac.finalize().into_bytes().into());
        HeaderValue::try_from(format!("\"{digest}\"")).expect("quotes and hex digits")
    }

    fn parts(&self) -> Parts {
        let mut parts = Parts::of("tollgate idempotency scope 1");
        parts.text(self.tenant.as_str());
        parts.text(self.subject);
        parts.text(self.route.as_str());
        parts.text(self.key.as_str());
        parts
    }
}

/// Tells the derived keys of one deployment from those of another. The same on all its nodes, for good.
#[derive(Clone, PartialEq, Eq)]
pub struct Salt(pub [u8; 32]);

impl fmt::Debug for Salt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Salt")
    }
}

/// What a request is. A repeat has the same; another request under the same key does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fingerprint(pub Digest);

impl Fingerprint {
    /// Method, route, version, path and query as sent, media type, content coding and body.
    pub fn of(head: &Head, route: &RouteId, version: &VersionName, body: &[u8]) -> Self {
        let mut parts = Parts::of("tollgate idempotency fingerprint 1");
        parts.text(head.method.as_str());
        parts.text(route.as_str());
        parts.text(version.as_str());
        parts.text(&head.path);
        parts.list(head.query.iter().map(String::as_bytes));
        for name in [CONTENT_TYPE, CONTENT_ENCODING] {
            parts.list(head.headers.get_all(name).iter().map(HeaderValue::as_bytes));
        }
        let mut hash = Sha256::new();
        hash.update(&parts.0);
        hash.update(length(body));
        hash.update(body);
        Self(Digest(hash.finalize().into()))
    }
}

/// Parts, each preceded by its length.
struct Parts(Vec<u8>);

impl Parts {
    /// The domain keeps the uses of hashing apart; its number grows when the parts change.
    fn of(domain: &str) -> Self {
        let mut parts = Self(Vec::with_capacity(256));
        parts.text(domain);
        parts
    }

    fn text(&mut self, part: &str) {
        self.bytes(part.as_bytes());
    }

    fn bytes(&mut self, part: &[u8]) {
        self.0.extend_from_slice(&length(part));
        self.0.extend_from_slice(part);
    }

    /// Any number of parts, and how many: none differs from an empty one.
    fn list<'a>(&mut self, list: impl Iterator<Item = &'a [u8]>) {
        let mut count = 0_u64;
        for part in list {
            self.bytes(part);
            count += 1;
        }
        self.0.extend_from_slice(&count.to_be_bytes());
    }

    fn digest(&self) -> Digest {
        Digest(Sha256::digest(&self.0).into())
    }
}

fn length(part: &[u8]) -> [u8; 8] {
    (part.len() as u64).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderMap, Method};

    fn key(text: &str) -> Key {
        Key::parse(format!("\"{text}\"").as_bytes()).unwrap()
    }

    #[test]
    fn another_tenant_subject_route_or_key_is_another_record() {
        let scope = |tenant: &str, subject: &str, route: &str, text: &str| {
            let (tenant, route, key) = (tenant.into(), route.into(), key(text));
            let scope = Scope { tenant: &tenant, subject, route: &route, key: &key };
            (scope.record_key().digest, scope.upstream_key(&Salt([7; 32])))
        };
        let scopes = [
            scope("acme", "mobile", "contacts.create", "k"),
            scope("globex", "mobile", "contacts.create", "k"),
            scope("acme", "web", "contacts.create", "k"),
            scope("acme", "mobile", "contacts.update", "k"),
            scope("acme", "mobile", "contacts.create", "l"),
            // What moves from one part to the next.
            scope("acmem", "obile", "contacts.create", "k"),
            scope("acme", "mobilecontacts", ".create", "k"),
            scope("acme", "mobile", "contacts.creat", "ek"),
        ];
        for (place, scope) in scopes.iter().enumerate() {
            for other in &scopes[place + 1..] {
                assert_ne!(scope.0, other.0);
                assert_ne!(scope.1, other.1);
            }
        }
    }

    #[test]
    fn the_upstreams_key_is_stable_and_of_this_deployment() {
        let (tenant, route, key) = ("acme".into(), "contacts.create".into(), key("k-1"));
        let scope = Scope { tenant: &tenant, subject: "mobile", route: &route, key: &key };
        let derived = scope.upstream_key(&Salt([7; 32]));
        // A known answer: when it changes, upstreams take every repeat of the last hours for a new request.
        assert_eq!(derived, "\"1eedae6dd2b3f9e7d52e9e8aceee2251a8e705ef8afd706504e302f8e2df4476\"");
        assert_eq!(Key::parse(derived.as_bytes()).unwrap().as_str().len(), 64);
        assert_ne!(derived, scope.upstream_key(&Salt([8; 32])));
    }

    #[test]
    fn every_part_of_a_request_is_in_its_fingerprint() {
        let head =
            |method: Method, path: &str, query: Option<&str>, headers: &[(&'static str, &str)]| {
                let mut map = HeaderMap::new();
                for (name, value) in headers {
                    map.append(*name, value.parse().unwrap());
                }
                Head {
                    method,
                    path: path.to_owned(),
                    query: query.map(str::to_owned),
                    authority: "api.example".to_owned(),
                    headers: map,
                    client: [192, 0, 2, 1].into(),
                }
            };
        let of = |head: Head, route: &str, version: &str, body: &[u8]| {
            Fingerprint::of(&head, &route.into(), &version.into(), body)
        };
        let json = [("content-type", "application/json")];
        let plain = || head(Method::POST, "/v1/contacts", None, &json);
        let first = of(plain(), "r", "v1", b"{}");
        assert_eq!(of(plain(), "r", "v1", b"{}"), first);
        let others = [
            of(head(Method::PATCH, "/v1/contacts", None, &json), "r", "v1", b"{}"),
            of(head(Method::POST, "/v1/contact", None, &json), "r", "v1", b"{}"),
            of(head(Method::POST, "/v1/contacts", Some(""), &json), "r", "v1", b"{}"),
            of(head(Method::POST, "/v1/contacts", Some("a=1"), &json), "r", "v1", b"{}"),
            of(head(Method::POST, "/v1/contacts", None, &[]), "r", "v1", b"{}"),
            of(
                head(Method::POST, "/v1/contacts", None, &[("content-type", "text/plain")]),
                "r",
                "v1",
                b"{}",
            ),
            of(
                head(Method::POST, "/v1/contacts", None, &[json[0], ("content-encoding", "gzip")]),
                "r",
                "v1",
                b"{}",
            ),
            // What moves from one header to the next, or from the query to a header.
            of(
                head(Method::POST, "/v1/contacts", None, &[("content-encoding", json[0].1)]),
                "r",
                "v1",
                b"{}",
            ),
            of(head(Method::POST, "/v1/contacts", Some(json[0].1), &[]), "r", "v1", b"{}"),
            of(plain(), "s", "v1", b"{}"),
            of(plain(), "r", "v2", b"{}"),
            of(plain(), "r", "v1", b"{ }"),
            of(plain(), "r", "v1", b""),
        ];
        for (place, other) in others.iter().enumerate() {
            assert_ne!(*other, first, "{place}");
        }
        // What is new with every attempt is not in it.
        let retried = head(
            Method::POST,
            "/v1/contacts",
            None,
            &[json[0], ("x-request-id", "r-2"), ("date", "Sat, 21 Nov 2026 00:00:00 GMT")],
        );
        assert_eq!(of(retried, "r", "v1", b"{}"), first);
    }
}
