//! The document's endpoints as the dispatcher uses them: `Config` (checked) → [`Book`] (compiled).
//!
//! Invariant: a book is made of one revision, whole. An endpoint whose secrets can't be had here is in it all the same: its
//! attempts say so (`unready`), and its deliveries wait as for any other fault.

mod attributes;
mod books;

pub(crate) use books::{Books, run};

use crate::client::{Client, Target};
use crate::secret::Secrets;
use attributes::Attributes;
use model::config::Config;
use model::document::{self, EndpointState, OnDead, Ordering, Schedule};
use model::id::{EndpointId, TenantId};
use model::quota::Rate;
use model::webhook::breaker::BreakerRules;
use model::webhook::budget::BudgetRules;
use model::webhook::{PING, Planned, StoredEvent};
use sha2::{Digest as _, Sha256};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use wildmatch::WildMatchPattern;

/// The longest time that a delivery is held for an attempt.
const HOLD_MAX: Duration = Duration::from_secs(100);
/// What an attempt may need beyond its endpoint's timeout: a store that takes 10 s to say that it is held, two tries of 8 s to
/// get a token, and a store that takes 10 s to settle it. A hold is longer than the timeout by this.
const HOLD_MARGIN: Duration = Duration::from_secs(40);
/// The longest key that deliveries are ordered by, in bytes; what is longer is known by its digest.
const ORDER_KEY_MAX: usize = 256;
/// Retries that an endpoint may have at once after a quiet time, at least: as many as it takes at once, so that no retry waits
/// where it is well. And how many a second in any case.
const RETRIES_AT_ONCE: f64 = 20.0;
const RETRIES_PER_SECOND: f64 = 1.0;
/// How much of a second's rate may come at once: one part in so many.
const BURST_PART: u32 = 10;

/// A pattern in which `*` is any run of characters, and nothing else is special.
pub(crate) type Pattern = WildMatchPattern<'*', '\0'>;

/// Every endpoint of a revision.
pub(crate) struct Book {
    /// Which revision it is of.
    pub(crate) revision: u64,
    /// What it was made of.
    pub(crate) config: Arc<Config>,
    endpoints: HashMap<EndpointId, Arc<Endpoint>>,
    by_tenant: HashMap<TenantId, Vec<Arc<Endpoint>>>,
}

/// An endpoint, ready to be sent to.
pub(crate) struct Endpoint {
    pub(crate) id: EndpointId,
    pub(crate) tenant: TenantId,
    types: Vec<Pattern>,
    attributes: Vec<(String, Vec<Pattern>)>,
    ordering: Ordering,
    order_key: String,
    /// What those behind a dead one do; none where there is no order.
    pub(crate) on_dead: Option<OnDead>,
    pub(crate) schedule: Schedule,
    pub(crate) concurrency: u32,
    pub(crate) rate: Option<Rate>,
    pub(crate) breaker: BreakerRules,
    pub(crate) budget: BudgetRules,
    pub(crate) disable_after: Duration,
    timeout: Duration,
    pub(crate) is_enabled: bool,
    /// Where and how it is sent to, or why it can't be.
    pub(crate) target: Result<Target, String>,
}

impl Book {
    /// Compiles the endpoints of a document. Reads files.
    pub(crate) fn compile(
        revision: u64,
        config: Arc<Config>,
        client: &Client,
        secrets: &Secrets,
    ) -> Self {
        let mut book = Self {
            revision,
            config: config.clone(),
            endpoints: HashMap::new(),
            by_tenant: HashMap::new(),
        };
        for document in &config.document().endpoints {
            let endpoint = Arc::new(Endpoint::compile(document, client, secrets));
            if let Err(error) = &endpoint.target {
                tracing::warn!(endpoint = %endpoint.id, %error, "an endpoint can't be sent to");
            }
            book.by_tenant.entry(endpoint.tenant.clone()).or_default().push(endpoint.clone());
            book.endpoints.insert(endpoint.id.clone(), endpoint);
        }
        book
    }

    /// The endpoint with this id.
    pub(crate) fn endpoint(&self, id: &EndpointId) -> Option<&Arc<Endpoint>> {
        self.endpoints.get(id)
    }

    /// The deliveries that this event is to have, one for each endpoint that wants it. Those of endpoints that are disabled
    /// are parked when they are due, by whoever knows [for sure](crate::lanes::Lanes::is_sure) that they are.
    pub(crate) fn plan(&self, event: &StoredEvent) -> Vec<Planned> {
        if event.r#type == PING {
            return Vec::new();
        }
        let mut attributes = Attributes::of(event);
        let mut planned = Vec::new();
        for endpoint in self.by_tenant.get(&event.tenant).into_iter().flatten() {
            if endpoint.wants(event, &mut attributes) {
                planned.push(Planned {
                    endpoint: endpoint.id.clone(),
                    order_key: endpoint.order_key(&mut attributes),
                    parked: None,
                });
            }
        }
        planned
    }
}

impl Endpoint {
    fn compile(document: &document::Endpoint, client: &Client, secrets: &Secrets) -> Self {
        let patterns = |texts: &[String]| texts.iter().map(|text| Pattern::new(text)).collect();
        let attributes = &document.attributes;
        let breaker = &document.breaker;
        Self {
            id: document.id.clone(),
            tenant: document.tenant.clone(),
            types: patterns(&document.events),
            attributes: attributes
                .iter()
                .map(|(name, values)| (name.clone(), patterns(values)))
                .collect(),
            ordering: document.ordering,
            order_key: document.order_key.clone().unwrap_or_else(|| "subject".to_owned()),
            on_dead: match document.ordering {
                Ordering::None => None,
                Ordering::Key | Ordering::Endpoint => document.on_failure,
            },
            schedule: document.schedule.clone(),
            concurrency: document.concurrency,
            rate: document.rate,
            breaker: BreakerRules {
                failure_rate: breaker.failure_rate,
                window: micros(breaker.window.0),
                min_attempts: breaker.min_attempts,
                open_for: micros(breaker.open_for.0),
            },
            budget: BudgetRules {
                share: document.retry_budget,
                per_second: RETRIES_PER_SECOND,
                most: RETRIES_AT_ONCE.max(document.concurrency.into()),
            },
            disable_after: document.disable_after.0,
            timeout: document.timeout.0,
            is_enabled: document.state == EndpointState::Enabled,
            target: target(document, client, secrets),
        }
    }

    /// Whether it wants this event.
    fn wants(&self, event: &StoredEvent, attributes: &mut Attributes<'_>) -> bool {
        self.types.iter().any(|pattern| pattern.matches(&event.r#type))
            && self.attributes.iter().all(|(name, patterns)| {
                let value = attributes.get(name);
                value.is_some_and(|value| patterns.iter().any(|pattern| pattern.matches(value)))
            })
    }

    /// What its deliveries wait for each other by. An event without the attribute waits for none.
    fn order_key(&self, attributes: &mut Attributes<'_>) -> Option<String> {
        match self.ordering {
            Ordering::None => None,
            Ordering::Endpoint => Some(String::new()),
            Ordering::Key => attributes.get(&self.order_key).map(|key| match key.len() {
                ..=ORDER_KEY_MAX => key.to_owned(),
                _ => Sha256::digest(key).iter().map(|byte| format!("{byte:02x}")).collect(),
            }),
        }
    }

    /// Whether its deliveries wait for each other, so that one that is settled lets another go.
    pub(crate) fn is_ordered(&self) -> bool {
        self.ordering != Ordering::None
    }

    /// How long a delivery is held for an attempt.
    pub(crate) fn hold_span(&self) -> Duration {
        self.timeout + HOLD_MARGIN
    }

    /// How many attempts may begin at one instant by its rate.
    pub(crate) fn burst(rate: Rate) -> u32 {
        let a_second = i64::from(rate.units()).saturating_mul(1_000_000) / rate.micros();
        u32::try_from(a_second).unwrap_or(u32::MAX).div_ceil(BURST_PART).max(1)
    }
}

/// Where and how it is sent to. Errors hold no secret.
fn target(
    document: &document::Endpoint,
    client: &Client,
    secrets: &Secrets,
) -> Result<Target, String> {
    if document.timeout.0 + HOLD_MARGIN > HOLD_MAX {
        let most = HOLD_MAX.saturating_sub(HOLD_MARGIN);
        return Err(format!(
            "its timeout is longer than {most:?}: no delivery is held for so long"
        ));
    }
    let reveal = |secret: &document::Secret| secrets.reveal(secret);
    client.target(document, &reveal).map_err(|error| error.to_string())
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}
