//! Who is calling. Yields a [`Caller`]: a consumer whose credential was accepted on this request.
//!
//! Invariant: only [`Directory::authenticate`] makes a `Caller`, and only for an active tenant whose credential has every
//! scope that the route asks for, and is not revoked. A refusal never says which check of a credential failed.

pub mod api_key;
pub mod jwt;
pub mod key_set;
pub mod revocations;

use crate::throttle::PlanLimits;
use api_key::ApiKeys;
use http::{HeaderName, HeaderValue, header};
use jiff::Timestamp;
use jwt::{Issuer, TokenCache};
use model::document::{CredentialKind, TenantState};
use model::id::{ConsumerId, PlanId, TenantId};
use model::quota::{Calendar, PaceRules};
use model::{ErrorCode, Head, HeaderFault, Identity, Reject};
use revocations::Revocations;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The header of API keys.
pub const X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");

const X_TENANT_ID: HeaderName = HeaderName::from_static("x-tenant-id");
const X_CONSUMER_ID: HeaderName = HeaderName::from_static("x-consumer-id");
const X_SCOPES: HeaderName = HeaderName::from_static("x-scopes");

/// A consumer whose credential was accepted on this request.
#[derive(Clone, Debug)]
pub struct Caller(Arc<Accepted>);

/// What is the same for every request of a credential under one revision, so it is made once.
#[derive(Debug)]
struct Accepted {
    identity: Arc<Identity>,
    tenant: Arc<Tenant>,
    headers: [(HeaderName, HeaderValue); 3],
}

impl Caller {
    fn new(identity: Identity, tenant: Arc<Tenant>) -> Self {
        // Ids of a checked document are visible ASCII; scopes are too.
        let value =
            |text: &str| HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static(""));
        let headers = [
            (X_TENANT_ID, value(identity.tenant.as_str())),
            (X_CONSUMER_ID, value(identity.consumer.as_str())),
            (X_SCOPES, value(&identity.scopes.join(" "))),
        ];
        Self(Arc::new(Accepted { identity: Arc::new(identity), tenant, headers }))
    }

    /// Who the credential stands for.
    pub fn identity(&self) -> &Arc<Identity> {
        &self.0.identity
    }

    /// The tenant it acts for.
    pub fn tenant(&self) -> &Arc<Tenant> {
        &self.0.tenant
    }

    /// The headers that name the caller to an upstream.
    pub fn headers(&self) -> &[(HeaderName, HeaderValue)] {
        &self.0.headers
    }
}

/// A tenant as requests need it.
#[derive(Debug)]
pub struct Tenant {
    /// Its id.
    pub id: TenantId,
    /// Whether it is served.
    pub state: TenantState,
    /// Its plan.
    pub plan: PlanId,
    /// Its plan's limits.
    pub limits: Arc<PlanLimits>,
    /// When its days, weeks and months begin.
    pub calendar: Calendar,
    /// When it is slowed; never without.
    pub adaptive: Option<Arc<PaceRules>>,
    /// The version of each service that it gets when a request names none.
    pub pins: HashMap<String, String>,
    /// Its consumers and the most that each may do.
    pub consumers: HashMap<ConsumerId, Vec<Arc<str>>>,
}

/// What outlives revisions.
#[derive(Debug, Default)]
pub struct Memory {
    /// Tokens that were verified.
    pub tokens: TokenCache,
    /// What is revoked.
    pub revocations: Revocations,
}

/// Everybody who may call, as one revision knows them.
#[derive(Debug)]
pub struct Directory {
    /// Which directory it is among all that this process made: what another one accepted is verified again.
    edition: u64,
    tenants: HashMap<TenantId, Arc<Tenant>>,
    keys: ApiKeys,
    issuers: HashMap<String, Arc<Issuer>>,
}

/// What a route asks of its callers.
#[derive(Debug)]
pub struct Requirement {
    /// Any one of these kinds.
    pub any_of: Vec<CredentialKind>,
    /// All of these scopes.
    pub scopes: Vec<Arc<str>>,
}

/// Why a request is not let in.
#[derive(Debug)]
pub struct Unauthenticated {
    /// The answer.
    pub reject: Reject,
    /// Who it was, where the credential was accepted and something else was missing.
    pub caller: Option<Caller>,
}

impl From<Reject> for Unauthenticated {
    fn from(reject: Reject) -> Self {
        Self { reject, caller: None }
    }
}

/// The one credential that a request presents.
enum Presented<'a> {
    Bearer(&'a str),
    ApiKey(&'a str),
}

impl Directory {
    /// Gathers what a revision says of tenants, keys and issuers (by their `iss`).
    pub fn new(
        tenants: HashMap<TenantId, Arc<Tenant>>,
        keys: ApiKeys,
        issuers: HashMap<String, Arc<Issuer>>,
    ) -> Self {
        static EDITIONS: AtomicU64 = AtomicU64::new(0);
        let edition = EDITIONS.fetch_add(1, Ordering::Relaxed);
        Self { edition, tenants, keys, issuers }
    }

    /// The tenant of this id.
    pub fn tenant(&self, id: &TenantId) -> Option<&Arc<Tenant>> {
        self.tenants.get(id)
    }

    /// Accepts the request's credential, or says why not.
    pub async fn authenticate(
        &self,
        requirement: &Requirement,
        memory: &Memory,
        head: &Head,
        now: Timestamp,
    ) -> Result<Caller, Unauthenticated> {
        let caller = match requirement.presented(head)? {
            Presented::ApiKey(key) => self.verify_key(key, &memory.revocations, now),
            Presented::Bearer(token) => self.verify_token(token, memory, now).await,
        };
        let caller = caller.map_err(|reject| requirement.challenge(reject))?;
        let allowed = match caller.tenant().state {
            TenantState::Suspended => Err(Reject::new(ErrorCode::TenantSuspended)),
            TenantState::Active => requirement.check_scopes(caller.identity()),
        };
        match allowed {
            Ok(()) => Ok(caller),
            Err(reject) => Err(Unauthenticated { reject, caller: Some(caller) }),
        }
    }

    fn verify_key(
        &self,
        key: &str,
        revocations: &Revocations,
        now: Timestamp,
    ) -> Result<Caller, Reject> {
        let caller = self.keys.verify(key, now)?;
        revocations.check_key(caller.identity()).map_err(jwt::refused)?;
        Ok(caller)
    }

    async fn verify_token(
        &self,
        token: &str,
        memory: &Memory,
        now: Timestamp,
    ) -> Result<Caller, Reject> {
        let Memory { tokens, revocations } = memory;
        if let Some((caller, issuer)) = tokens.get(token, self.edition, now) {
            let claims = &caller.identity().claims;
            revocations.check_token(&issuer, claims).map_err(jwt::refused)?;
            return Ok(caller);
        }
        let parsed = jwt::Token::parse(token)?;
        let issuer = self
            .issuers
            .get(&parsed.issuer)
            .ok_or_else(|| jwt::refused(format_args!("unknown issuer {:?}", parsed.issuer)))?;
        let verified = issuer.verify(&parsed, now).await?;
        revocations.check_token(&issuer.id, &verified.claims).map_err(jwt::refused)?;
        let caller = self.caller_of(issuer, &verified)?;
        tokens.put(token, self.edition, &verified, caller.clone());
        Ok(caller)
    }

    /// Whom verified claims stand for: the issuer's tenant, and a consumer of it. Scopes are those of the token that the
    /// consumer may have at all.
    fn caller_of(&self, issuer: &Issuer, verified: &jwt::Verified) -> Result<Caller, Reject> {
        let tenant_id = issuer.tenant_of(&verified.claims)?;
        let tenant = self
            .tenants
            .get(tenant_id)
            .ok_or_else(|| jwt::refused(format_args!("unknown tenant {tenant_id:?}")))?;
        let consumer = issuer.consumer_of(&verified.claims)?;
        let (consumer, allowed) = tenant.consumers.get_key_value(consumer).ok_or_else(|| {
            jwt::refused(format_args!("unknown consumer {consumer:?} of {tenant_id}"))
        })?;
        let claimed = issuer.scopes_of(&verified.claims);
        let scopes = allowed.iter().filter(|scope| claimed.contains(&&***scope)).cloned().collect();
        let subject = verified.claims.get("sub").and_then(serde_json::Value::as_str);
        let identity = Identity {
            tenant: tenant.id.clone(),
            consumer: consumer.clone(),
            subject: subject.unwrap_or(consumer.as_str()).to_owned(),
            credential: verified.key_id.clone(),
            scopes,
            claims: verified.claims.clone(),
        };
        Ok(Caller::new(identity, tenant.clone()))
    }
}

impl Requirement {
    /// The one credential of an accepted kind. Two of them are refused: which one counts must not be a guess.
    fn presented<'a>(&self, head: &'a Head) -> Result<Presented<'a>, Reject> {
        let mut found = None;
        for kind in &self.any_of {
            let presented = match kind {
                CredentialKind::Jwt => bearer(head).map(|token| token.map(Presented::Bearer)),
                CredentialKind::ApiKey => {
                    head.single(&X_API_KEY).map(|key| key.map(Presented::ApiKey))
                }
            };
            let presented = presented.map_err(|fault| {
                let cause = match fault {
                    HeaderFault::Repeated => "the credential's header stands twice",
                    HeaderFault::NotText => "the credential's header is not text",
                };
                self.challenge(Reject::new(ErrorCode::CredentialInvalid).because(cause))
            })?;
            if let Some(presented) = presented {
                if found.is_some() {
                    let reject = Reject::new(ErrorCode::CredentialInvalid)
                        .message("More than one credential was sent; send one.");
                    return Err(self.challenge(reject));
                }
                found = Some(presented);
            }
        }
        found.ok_or_else(|| self.challenge(Reject::new(ErrorCode::CredentialMissing)))
    }

    /// Names the accepted kinds in `WWW-Authenticate`, as every 401 must (RFC 9110 §11.6.1).
    fn challenge(&self, mut reject: Reject) -> Reject {
        if reject.status != http::StatusCode::UNAUTHORIZED {
            return reject;
        }
        for kind in &self.any_of {
            let invalid = reject.code != ErrorCode::CredentialMissing;
            let value = match kind {
                // RFC 6750 §3: no error code when no token was sent.
                CredentialKind::Jwt if invalid => {
                    r#"Bearer realm="tollgate", error="invalid_token""#
                }
                CredentialKind::Jwt => r#"Bearer realm="tollgate""#,
                CredentialKind::ApiKey => r#"ApiKey realm="tollgate", header="X-Api-Key""#,
            };
            reject = reject.header(header::WWW_AUTHENTICATE, HeaderValue::from_static(value));
        }
        reject
    }

    fn check_scopes(&self, identity: &Identity) -> Result<(), Reject> {
        let missing: Vec<&str> = self
            .scopes
            .iter()
            .map(|scope| &**scope)
            .filter(|scope| !identity.has_scope(scope))
            .collect();
        if missing.is_empty() {
            return Ok(());
        }
        let required: Vec<&str> = self.scopes.iter().map(|scope| &**scope).collect();
        let mut reject = Reject::new(ErrorCode::ScopeDenied)
            .detail("required", required.clone())
            .detail("missing", missing);
        let challenge =
            format!(r#"Bearer error="insufficient_scope", scope="{}""#, required.join(" "));
        if self.any_of.contains(&CredentialKind::Jwt)
            && let Ok(value) = HeaderValue::try_from(challenge)
        {
            reject = reject.header(header::WWW_AUTHENTICATE, value);
        }
        Err(reject)
    }
}

/// The token of `Authorization: Bearer`; another scheme is no credential of ours.
fn bearer(head: &Head) -> Result<Option<&str>, HeaderFault> {
    let Some(value) = head.single(&header::AUTHORIZATION)? else { return Ok(None) };
    let Some((scheme, token)) = value.split_once(' ') else { return Ok(None) };
    Ok(scheme.eq_ignore_ascii_case("bearer").then(|| token.trim_start_matches(' ')))
}

#[cfg(test)]
mod tests;
