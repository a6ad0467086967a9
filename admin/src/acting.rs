//! Who acts in a request, and what they may do: the one place where roles and tenants are asked.
//!
//! Invariant: an [`Acting`] exists only for a token that was accepted, but for the one that notes strangers in the audit.

use crate::Shared;
use crate::idempotency;
use crate::problem::{Hides, Refused};
use crate::request::Ids;
use axum::extract::{ConnectInfo, FromRequestParts, MatchedPath, Request};
use axum::response::Response;
use http::Extensions;
use http::request::Parts;
use model::audit::Entry;
use model::id::{TenantId, TokenId};
use model::role::{Actor, Permission};
use model::token::Token;
use model::{ErrorCode, Reject};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::ops::Deref;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use store::control::{Effect, Write};

/// The name of whoever brings no token that is known.
const ANONYMOUS: &str = Actor::ANONYMOUS;

/// The longest path that the audit keeps, in characters.
const RESOURCE_MAX: usize = 512;

/// How many refusals of one token, and of all strangers together, are audited within [`REFUSALS_WINDOW`]; more are counted
/// in the log.
const REFUSALS_MAX: u32 = 60;

/// See [`REFUSALS_MAX`].
const REFUSALS_WINDOW: Duration = Duration::from_secs(60);

/// How many tokens' refusals are audited within [`REFUSALS_WINDOW`]; those of more are counted in the log.
pub(crate) const REFUSED_TOKENS_MAX: usize = 1_000;

/// How many of those who were refused too often the log names.
const REFUSED_NAMED_MAX: usize = 8;

/// Who acts, in which request. An extractor; clones share it.
#[derive(Clone)]
pub(crate) struct Acting(Arc<Act>);

/// What an [`Acting`] holds.
pub(crate) struct Act {
    /// Who.
    pub(crate) actor: Actor,
    /// What the audit calls what is asked, like `plans.put`.
    pub(crate) action: String,
    /// On what: the path, without idempotency keys.
    pub(crate) resource: String,
    /// The request's id.
    pub(crate) request_id: Arc<str>,
    /// What the answers that are kept for this token are sealed with: the store, which has the token's hash, can't know it.
    pub(crate) seal: [u8; 32],
}

impl Deref for Acting {
    type Target = Act;

    fn deref(&self) -> &Act {
        &self.0
    }
}

impl Acting {
    /// Of a token that was accepted.
    pub(crate) fn of(request: &Request, known: Token, token: &str) -> Self {
        let Token { id, name, role, tenant, .. } = known;
        let actor =
            Actor { token: Some(id), name, role: Some(role), tenant, source: source(request) };
        let mut seal = Sha256::new_with_prefix(b"tollgate/admin/answers/1\0");
        seal.update(token.as_bytes());
        Self::new(request, actor, seal.finalize().into())
    }

    /// Of a request whose token was not accepted.
    pub(crate) fn stranger(request: &Request) -> Self {
        let (name, source) = (ANONYMOUS.to_owned(), source(request));
        let actor = Actor { token: None, name, role: None, tenant: None, source };
        Self::new(request, actor, [0; 32])
    }

    fn new(request: &Request, actor: Actor, seal: [u8; 32]) -> Self {
        let ids = request.extensions().get::<Ids>();
        Self(Arc::new(Act {
            actor,
            action: action(request),
            resource: resource(request.uri().path()),
            request_id: ids.map_or_else(|| "".into(), |ids| ids.request.clone()),
            seal,
        }))
    }

    /// Who sent a request that is on its way. Every route lies behind `token::check`.
    pub(crate) fn of_request(extensions: &Extensions) -> Result<Self, Refused> {
        extensions.get::<Self>().cloned().ok_or(ErrorCode::CredentialMissing.into())
    }

    /// Refuses what the token's role may not do.
    pub(crate) fn may(&self, permission: Permission) -> Result<(), Refused> {
        match self.actor.role {
            Some(role) if role.may(permission) => Ok(()),
            role => {
                let role = role.map_or(ANONYMOUS, |role| role.as_str());
                let message = match permission {
                    Permission::Change(section) => {
                        format!("Tokens of role `{role}` may not change `{}`.", section.as_str())
                    }
                    Permission::Read => format!("Tokens of role `{role}` may not read."),
                    Permission::Operate | Permission::Administer | Permission::Produce => {
                        format!("Tokens of role `{role}` may not do that.")
                    }
                };
                Err(Refused::forbidden(message))
            }
        }
    }

    /// Refuses tokens that are bound to a tenant: what is asked for is everybody's.
    pub(crate) fn unbound(&self) -> Result<(), Refused> {
        match &self.actor.tenant {
            None => Ok(()),
            Some(tenant) => {
                Err(Refused::forbidden(format!("This token is bound to the tenant `{tenant}`.")))
            }
        }
    }

    /// The one tenant that it is bound to.
    pub(crate) fn tenant(&self) -> Option<&TenantId> {
        self.actor.tenant.as_ref()
    }

    /// Refuses what is of another tenant, as if it were not there.
    pub(crate) fn sees(&self, tenant: &str) -> Result<(), Refused> {
        match self.tenant() {
            Some(own) if own.as_str() != tenant => Err(Refused::hidden()),
            _ => Ok(()),
        }
    }

    /// The audit entry of what this request does. The store fills in `revision`.
    pub(crate) fn entry(&self, shared: &Shared, difference: Value) -> Entry {
        Entry {
            id: shared.fresh_id(),
            at: shared.clock.now(),
            actor: self.actor.clone(),
            action: self.action.clone(),
            resource: self.resource.clone(),
            tenant: self.concerned(),
            request_id: self.request_id.to_string(),
            revision: None,
            difference,
            refused: None,
        }
    }

    /// The token's own tenant, else the one that the path names. What one tenant's token asks of another's is not told there.
    fn concerned(&self) -> Option<TenantId> {
        let named = || {
            let rest = self.resource.strip_prefix("/v1/tenants/")?;
            let id = TenantId::from(rest.split('/').next().unwrap_or_default());
            model::id::is_id(id.as_str()).then_some(id)
        };
        self.actor.tenant.clone().or_else(named)
    }

    /// Writes a refusal for lack of permission into the audit, also one that hides that it is one.
    pub(crate) async fn noted(&self, shared: &Shared, response: Response) -> Response {
        // Read before waiting: a response can't be shared between threads.
        let extensions = response.extensions();
        let refused = extensions.get::<Arc<Reject>>().map(|reject| reject.code);
        if refused == Some(ErrorCode::Forbidden) || extensions.get::<Hides>().is_some() {
            self.note(shared, ErrorCode::Forbidden).await;
        }
        response
    }

    /// Writes a refusal into the audit, unless there were too many. The caller is refused whether that can be written or not.
    pub(crate) async fn note(&self, shared: &Shared, code: ErrorCode) {
        if !shared.refusals.may_note(self.actor.token.as_ref(), shared.clock.micros()) {
            return;
        }
        let audit = Entry { refused: Some(code), ..self.entry(shared, json!([])) };
        let write = Write { effect: Effect::Note, audit, answer: None };
        if let Err(error) = shared.store.write(write).await {
            let (actor, action) = (&self.actor.name, &self.action);
            tracing::warn!(%error, actor, action, "a refusal is not in the audit");
        }
    }
}

impl<S: Sync> FromRequestParts<S> for Acting {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Refused> {
        Self::of_request(&parts.extensions)
    }
}

/// The client's address.
fn source(request: &Request) -> String {
    let peer = request.extensions().get::<ConnectInfo<SocketAddr>>();
    peer.map_or_else(|| "unknown".to_owned(), |ConnectInfo(peer)| peer.ip().to_string())
}

/// The path. An idempotency key is its client's, and may say what nobody else is to know: there the path ends before it.
fn resource(path: &str) -> String {
    let tenant = path.strip_prefix(idempotency::KEYS).and_then(|rest| rest.split('/').next());
    match tenant {
        Some(tenant) => [idempotency::KEYS, tenant].concat(),
        None => path.to_owned(),
    }
    .chars()
    .take(RESOURCE_MAX)
    .collect()
}

/// The collections of the route's path and what is done there: `tenants.consumers.put`, `revisions.rollback`.
fn action(request: &Request) -> String {
    let matched = request.extensions().get::<MatchedPath>();
    let Some(template) = matched.and_then(|path| path.as_str().strip_prefix("/v1/")) else {
        return "unknown".to_owned();
    };
    let named = |segment: &&str| !segment.starts_with('{');
    let collections: Vec<&str> = template.split('/').filter(named).collect();
    let mut action = collections.join(".").replace(':', ".");
    let last = request.uri().path().rsplit('/').next().unwrap_or_default();
    let of_one = template.ends_with('}');
    let verb = last.rsplit_once(':').map(|(_, verb)| verb);
    let verb = verb.filter(|verb| verb.bytes().all(|b| b.is_ascii_lowercase()));
    match (request.method().as_str(), verb) {
        ("POST", Some(_)) if !of_one => {}
        ("POST", Some(verb)) => action.extend([".", verb]),
        ("POST", None) => action.push_str(".create"),
        ("GET" | "HEAD", _) => action.push_str(".get"),
        (method, _) => action.extend([".", &method.to_ascii_lowercase()]),
    }
    action
}

/// Counts refusals, so that nobody can fill the audit, which nothing is ever deleted from.
#[derive(Default)]
pub(crate) struct Refusals(Mutex<Window>);

#[derive(Default)]
struct Window {
    began: i64,
    /// By token; strangers share one.
    noted: HashMap<Option<TokenId>, u32>,
    skipped: u64,
}

impl Refusals {
    /// Whether one of this token, or of a stranger, is to be audited.
    pub(crate) fn may_note(&self, token: Option<&TokenId>, now: i64) -> bool {
        let mut window = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let length = i64::try_from(REFUSALS_WINDOW.as_micros()).unwrap_or(i64::MAX);
        if now.saturating_sub(window.began) >= length {
            let ended = std::mem::replace(&mut *window, Window { began: now, ..Window::default() });
            ended.told();
        }
        window.note(token)
    }
}

impl Window {
    fn note(&mut self, token: Option<&TokenId>) -> bool {
        let token = token.cloned();
        // Strangers have a place, however many tokens are refused.
        let is_full = self.noted.len() >= REFUSED_TOKENS_MAX && !self.noted.contains_key(&token);
        if token.is_none() || !is_full {
            let noted = self.noted.entry(token).or_default();
            if *noted < REFUSALS_MAX {
                *noted += 1;
                return true;
            }
        }
        self.skipped += 1;
        false
    }

    /// Says what was not audited, if anything.
    fn told(&self) {
        if self.skipped == 0 {
            return;
        }
        let full = self.noted.iter().filter(|(_, noted)| **noted >= REFUSALS_MAX);
        let by = full.map(|(token, _)| token.as_ref().map_or(ANONYMOUS, TokenId::as_str));
        let by: Vec<&str> = by.take(REFUSED_NAMED_MAX).collect();
        tracing::warn!(skipped = self.skipped, ?by, "refusals were not audited");
    }
}
