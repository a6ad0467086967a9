//! What a document must mean where events come from and go.
//!
//! Whether an address is one that may be connected to depends on the process (`webhooks.allow_private`), so that is judged
//! where the document is compiled, and again at each connection.

use super::{Errors, check_scopes, check_secret};
use crate::config::{ConfigError, event_schema};
use crate::document::{
    AuthorizationHeader, ClientCredentials, Document, Endpoint, EndpointAuthorization, EventCaps,
    EventType, Ordering, Poll, PollCursor, PollWait, Schedule, Source,
};
use crate::exchange::HOP_BY_HOP;
use crate::id::TenantId;
use crate::units::{Duration, Size};
use crate::webhook::Destination;
use std::collections::{HashMap, HashSet};
use std::ops::RangeInclusive;
use std::time;

/// How far a source's clock may be from ours.
const TOLERANCE: RangeInclusive<Duration> = seconds(1)..=seconds(3600);
/// Between two questions, how long an answer may take, and how long the other side may be asked to hold a question.
const POLL_INTERVAL: RangeInclusive<Duration> = seconds(1)..=seconds(DAY);
const POLL_TIMEOUT: RangeInclusive<Duration> = seconds(1)..=seconds(300);
const POLL_OVERLAP: RangeInclusive<Duration> = seconds(0)..=seconds(DAY);
/// How long an attempt may take.
const TIMEOUT: RangeInclusive<Duration> = millis(100)..=seconds(60);
/// Between two attempts.
const DELAY: RangeInclusive<Duration> = millis(100)..=seconds(7 * DAY);
const BREAKER: RangeInclusive<Duration> = seconds(1)..=seconds(3600);
const DISABLE_AFTER: RangeInclusive<Duration> = seconds(3600)..=seconds(90 * DAY);
/// How large an event may be.
const EVENT_SIZE: RangeInclusive<Size> = Size(1 << 10)..=Size(1 << 20);
/// The longest type of an event, name of a parameter and id of a client, in bytes.
const WORD_BYTES_MAX: usize = 128;
/// The longest name of a context attribute (CloudEvents 1.0 §3.1.1), and how many an endpoint may ask for.
const ATTRIBUTE_BYTES_MAX: usize = 20;
const ATTRIBUTES_MAX: usize = 16;
/// How many values an attribute may have.
const VALUES_MAX: usize = 64;
/// How many endpoints a tenant may have: each event of it becomes so many deliveries.
const ENDPOINTS_MAX: usize = 256;
/// Headers that a delivery has anyway. Lower case.
const OWN_HEADERS: &[&str] = &[
    "accept",
    "accept-encoding",
    "content-length",
    "content-type",
    "expect",
    "host",
    "user-agent",
];
/// Headers that a delivery has anyway begin with these.
const OWN_PREFIXES: &[&str] = &["webhook-", "ce-"];

const DAY: u64 = 24 * 60 * 60;

const fn seconds(seconds: u64) -> Duration {
    Duration(time::Duration::from_secs(seconds))
}

const fn millis(millis: u64) -> Duration {
    Duration(time::Duration::from_millis(millis))
}

pub(super) fn check_caps(at: &str, caps: &EventCaps, errors: &mut Errors<'_>) {
    errors.range(at, "size", Some(caps.size), &EVENT_SIZE);
}

pub(super) fn check_source(at: &str, source: &Source, errors: &mut Errors<'_>) {
    match (&source.verify, &source.poll) {
        (Some(_), None) if source.secret.is_none() => {
            errors.add(at, "", "needs `secret`, by which what is sent is verified");
        }
        (Some(_), None) => {}
        (None, Some(poll)) => {
            for (field, secret) in
                [("secret", &source.secret), ("previous_secret", &source.previous_secret)]
            {
                if secret.is_some() {
                    errors.add(at, field, "is only used with `verify`: give `poll/authorization`");
                }
            }
            check_poll(&format!("{at}/poll"), poll, errors);
        }
        (Some(_), Some(_)) => errors.add(at, "poll", "stands beside `verify`: make two sources"),
        (None, None) => errors.add(at, "", "needs `verify` or `poll`"),
    }
    for (field, secret) in
        [("secret", &source.secret), ("previous_secret", &source.previous_secret)]
    {
        if let Some(secret) = secret {
            check_secret(&format!("{at}/{field}"), secret, errors);
        }
    }
    errors.range(at, "tolerance", Some(source.tolerance), &TOLERANCE);
    if let Some(name) = &source.event.default_type {
        check_word(at, "event/default_type", name, errors);
    }
}

fn check_poll(at: &str, poll: &Poll, errors: &mut Errors<'_>) {
    check_url(at, "url", &poll.url, errors);
    errors.range(at, "interval", Some(poll.interval), &POLL_INTERVAL);
    errors.range(at, "timeout", Some(poll.timeout), &POLL_TIMEOUT);
    if let Some(authorization) = &poll.authorization {
        check_authorization(&format!("{at}/authorization"), authorization, errors);
    }
    if let Some(cursor) = &poll.cursor {
        check_cursor(&format!("{at}/cursor"), cursor, errors);
    }
    if let Some(PollWait { parameter, time }) = &poll.wait {
        let at = format!("{at}/wait");
        check_word(&at, "parameter", parameter, errors);
        if time.0.is_zero() || time.0.subsec_nanos() != 0 {
            errors.add(&at, "time", "must be whole seconds, at least 1s");
        } else if *time >= poll.timeout {
            errors.add(&at, "time", format!("must be less than `timeout`, {}", poll.timeout));
        }
    }
}

fn check_cursor(at: &str, cursor: &PollCursor, errors: &mut Errors<'_>) {
    check_word(at, "parameter", &cursor.parameter, errors);
    if cursor.from.is_some() == cursor.newest.is_some() {
        errors.add(at, "", "needs exactly one of `from` and `newest`");
    }
    if cursor.overlap.is_some() && cursor.newest.is_none() {
        errors.add(at, "overlap", "is only used with `newest`");
    }
    errors.range(at, "overlap", cursor.overlap, &POLL_OVERLAP);
}

/// Each endpoint of a tenant beyond as many as it may have.
pub(super) fn check_endpoints(endpoints: &[(String, Endpoint)], errors: &mut Errors<'_>) {
    let mut counted: HashMap<&TenantId, usize> = HashMap::new();
    for (at, endpoint) in endpoints {
        let count = counted.entry(&endpoint.tenant).or_default();
        *count += 1;
        if *count > ENDPOINTS_MAX {
            let message = format!("its tenant has more than {ENDPOINTS_MAX} endpoints");
            errors.add(at, "", message);
        }
    }
}

pub(super) fn check_endpoint(at: &str, endpoint: &Endpoint, errors: &mut Errors<'_>) {
    check_url(at, "url", &endpoint.url, errors);
    check_wanted(at, endpoint, errors);
    check_secrets(at, endpoint, errors);
    check_order(at, endpoint, errors);
    if let Schedule::Delays(delays) = &endpoint.schedule {
        for (index, delay) in delays.iter().enumerate() {
            errors.range(at, &format!("schedule/{index}"), Some(*delay), &DELAY);
        }
    }
    errors.range(at, "timeout", Some(endpoint.timeout), &TIMEOUT);
    errors.range(at, "breaker/window", Some(endpoint.breaker.window), &BREAKER);
    errors.range(at, "breaker/open_for", Some(endpoint.breaker.open_for), &BREAKER);
    errors.range(at, "disable_after", Some(endpoint.disable_after), &DISABLE_AFTER);
    if let Some(authorization) = &endpoint.authorization {
        check_authorization(&format!("{at}/authorization"), authorization, errors);
    }
}

/// Types and attributes, each once.
fn check_wanted(at: &str, endpoint: &Endpoint, errors: &mut Errors<'_>) {
    let mut seen = HashSet::new();
    for (index, wanted) in endpoint.events.iter().enumerate() {
        let field = format!("events/{index}");
        check_word(at, &field, wanted, errors);
        if !seen.insert(wanted) {
            errors.add(at, &field, format!("`{}` is in the list already", wanted.escape_debug()));
        }
    }
    if endpoint.attributes.len() > ATTRIBUTES_MAX {
        errors.add(at, "attributes", format!("has more than {ATTRIBUTES_MAX} fields"));
    }
    for (name, values) in &endpoint.attributes {
        let field = format!("attributes/{}", super::escape(name));
        if !is_attribute(name) {
            errors.add(at, &field, ATTRIBUTE);
        }
        if values.is_empty() || values.len() > VALUES_MAX {
            errors.add(at, &field, format!("needs 1 to {VALUES_MAX} values"));
        }
    }
}

fn check_secrets(at: &str, endpoint: &Endpoint, errors: &mut Errors<'_>) {
    check_secret(&format!("{at}/secret"), &endpoint.secret, errors);
    for (index, previous) in endpoint.previous_secrets.iter().enumerate() {
        check_secret(&format!("{at}/previous_secrets/{index}/secret"), &previous.secret, errors);
    }
    if let Some(key) = &endpoint.signing_key {
        check_secret(&format!("{at}/signing_key"), key, errors);
    }
}

fn check_order(at: &str, endpoint: &Endpoint, errors: &mut Errors<'_>) {
    match (endpoint.ordering, endpoint.on_failure) {
        (Ordering::None, Some(_)) => {
            errors.add(at, "on_failure", "is only used with an `ordering` of `key` or `endpoint`");
        }
        (Ordering::Key | Ordering::Endpoint, None) => {
            errors.add(at, "", "is ordered, so it needs `on_failure`: `stop` or `skip`");
        }
        (Ordering::None, None) | (Ordering::Key | Ordering::Endpoint, Some(_)) => {}
    }
    let Some(name) = &endpoint.order_key else { return };
    if endpoint.ordering != Ordering::Key {
        errors.add(at, "order_key", "is only used with `ordering: key`");
    } else if !is_attribute(name) {
        errors.add(at, "order_key", ATTRIBUTE);
    }
}

fn check_authorization(at: &str, given: &EndpointAuthorization, errors: &mut Errors<'_>) {
    if given.header.is_some() == given.oauth2.is_some() {
        errors.add(at, "", "needs exactly one of `header` and `oauth2`");
    }
    if let Some(AuthorizationHeader { name, secret }) = &given.header {
        let lower = name.to_ascii_lowercase();
        let own = OWN_HEADERS.iter().chain(HOP_BY_HOP).any(|own| *own == lower)
            || OWN_PREFIXES.iter().any(|prefix| lower.starts_with(prefix));
        if own {
            errors.add(at, "header/name", "is a header that the request has anyway");
        }
        check_secret(&format!("{at}/header/secret"), secret, errors);
    }
    if let Some(ClientCredentials { token_url, client_id, client_secret, scopes }) = &given.oauth2 {
        check_url(at, "oauth2/token_url", token_url, errors);
        check_word(at, "oauth2/client_id", client_id, errors);
        check_secret(&format!("{at}/oauth2/client_secret"), client_secret, errors);
        check_scopes(&format!("{at}/oauth2/scopes"), scopes, errors);
    }
}

/// Endpoints whose deliveries may be tried for longer than events are kept for: those would be gone before they are dead. How
/// long that is, the process says, not the document.
pub(in crate::config) fn beyond(document: &Document, kept: Duration) -> Vec<ConfigError> {
    let endpoints = document.endpoints.iter().enumerate();
    let longer = endpoints.filter_map(|(index, endpoint)| {
        let longest = Duration(endpoint.schedule.longest());
        (longest > kept).then(|| {
            let message = format!(
                "may last for {longest}, with its spread and what an endpoint may ask for, and events are kept for {kept}: \
                 shorten it, or raise `webhooks.retention` in the settings"
            );
            ConfigError::new(format!("/endpoints/{index}/schedule"), message)
        })
    });
    longer.collect()
}

pub(super) fn check_event_type(at: &str, kind: &EventType, errors: &mut Errors<'_>) {
    check_word(at, "name", &kind.name, errors);
    if kind.name.contains('*') {
        errors.add(at, "name", "is one type, so it holds no `*`");
    }
    if let Err(error) = event_schema(&kind.schema) {
        errors.add(at, &format!("schema{}", error.pointer), error.message);
    }
}

/// What is one word to people: no spaces, no control characters.
fn check_word(at: &str, field: &str, word: &str, errors: &mut Errors<'_>) {
    let plain = |c: char| !c.is_whitespace() && !c.is_control();
    if word.is_empty() || word.len() > WORD_BYTES_MAX || !word.chars().all(plain) {
        let message = format!("must be 1 to {WORD_BYTES_MAX} bytes without spaces");
        errors.add(at, field, message);
    }
}

/// Its form. An address is never repeated in an error: people write passwords into them.
fn check_url(at: &str, field: &str, text: &str, errors: &mut Errors<'_>) {
    if let Err(error) = Destination::parse(text) {
        errors.add(at, field, error.to_string());
    }
}

const ATTRIBUTE: &str =
    "is no context attribute: 1 to 20 lower-case letters and digits (CloudEvents 1.0 §3.1)";

fn is_attribute(name: &str) -> bool {
    (1..=ATTRIBUTE_BYTES_MAX).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
}
