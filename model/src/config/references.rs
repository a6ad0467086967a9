//! References between the parts of a document, judged on the value as written, so that they are reported together with
//! shape errors elsewhere (or in the very same entry).

use super::{ConfigError, escape};
use serde_json::Value;
use std::collections::{HashMap, HashSet};

/// Reports every duplicate id and every reference to something that isn't there.
pub(super) fn check(document: &Value, errors: &mut Vec<ConfigError>) {
    let known = Known::gather(document, errors);
    services(document, &known, errors);
    for (at, route) in items(document, "routes") {
        refer(route, "service", &at, &known.services, "service", errors);
    }
    plans(document, &known, errors);
    tenants(document, &known, errors);
    for (at, issuer) in items(document, "issuers") {
        refer(issuer, "tenant", &at, &known.tenants, "tenant", errors);
    }
    pack_keys(document, &known, errors);
    for list in ["sources", "endpoints"] {
        for (at, entry) in items(document, list) {
            refer(entry, "tenant", &at, &known.tenants, "tenant", errors);
        }
    }
    for (at, attachment) in items(document, "attachments") {
        refer(attachment, "pack", &at, &known.packs, "pack", errors);
        if let Some(rollout) = attachment.get("rollout") {
            refer(rollout, "candidate", &format!("{at}/rollout"), &known.packs, "pack", errors);
        }
        let Some(scope) = attachment.get("scope") else { continue };
        let at = format!("{at}/scope");
        refer(scope, "tenant", &at, &known.tenants, "tenant", errors);
        refer(scope, "service", &at, &known.services, "service", errors);
        refer(scope, "route", &at, &known.routes, "route", errors);
    }
}

type Names<'a> = HashSet<&'a str>;

struct Known<'a> {
    upstreams: Names<'a>,
    /// With the names of their versions.
    services: HashMap<&'a str, Names<'a>>,
    routes: Names<'a>,
    plans: Names<'a>,
    tenants: Names<'a>,
    packs: HashSet<String>,
}

impl<'a> Known<'a> {
    fn gather(document: &'a Value, errors: &mut Vec<ConfigError>) -> Self {
        distinct(items(document, "issuers"), "id", "issuer", errors);
        distinct(items(document, "attachments"), "id", "attachment", errors);
        distinct(items(document, "sources"), "id", "source", errors);
        distinct(items(document, "endpoints"), "id", "endpoint", errors);
        distinct(items(document, "event_types"), "name", "event type", errors);
        for (at, plan) in items(document, "plans") {
            distinct(under(&at, plan, "limits"), "id", "limit of this plan", errors);
        }
        for (at, upstream) in items(document, "upstreams") {
            distinct(under(&at, upstream, "limits"), "id", "limit of this upstream", errors);
        }
        distinct(items(document, "services"), "id", "service", errors);
        Self {
            upstreams: distinct(items(document, "upstreams"), "id", "upstream", errors),
            services: services_with_versions(document),
            routes: distinct(items(document, "routes"), "id", "route", errors),
            plans: distinct(items(document, "plans"), "id", "plan", errors),
            tenants: distinct(items(document, "tenants"), "id", "tenant", errors),
            packs: packs(document, errors),
        }
    }
}

fn services_with_versions(document: &Value) -> HashMap<&str, Names<'_>> {
    let mut known: HashMap<&str, Names<'_>> = HashMap::new();
    for (_, service) in items(document, "services") {
        let Some(id) = text(service, "id") else { continue };
        let versions = under("", service, "versions");
        known.entry(id).or_default().extend(versions.filter_map(|(_, entry)| text(entry, "name")));
    }
    known
}

fn packs(document: &Value, errors: &mut Vec<ConfigError>) -> HashSet<String> {
    let mut known = HashSet::new();
    for (at, pack) in items(document, "packs") {
        let (Some(id), Some(version)) = (text(pack, "id"), text(pack, "version")) else { continue };
        let name = format!("{id}@{version}");
        if known.contains(&name) {
            errors.push(ConfigError::new(at, format!("there is another pack `{name}`")));
        }
        known.insert(name);
    }
    known
}

fn services(document: &Value, known: &Known<'_>, errors: &mut Vec<ConfigError>) {
    for (at, service) in items(document, "services") {
        let versions = distinct(under(&at, service, "versions"), "name", "version", errors);
        for (at, version) in under(&at, service, "versions") {
            refer(version, "upstream", &at, &known.upstreams, "upstream", errors);
            refer(version, "successor", &at, &versions, "version of this service", errors);
            for (at, extension) in under(&at, version, "extensions") {
                refer(extension, "tenant", &at, &known.tenants, "tenant", errors);
            }
        }
    }
}

fn plans(document: &Value, known: &Known<'_>, errors: &mut Vec<ConfigError>) {
    for (at, plan) in items(document, "plans") {
        for (at, limit) in under(&at, plan, "limits") {
            let Some(scope) = limit.get("scope") else { continue };
            let at = format!("{at}/scope");
            refer(scope, "route", &at, &known.routes, "route", errors);
            refer(scope, "service", &at, &known.services, "service", errors);
        }
    }
}

fn tenants(document: &Value, known: &Known<'_>, errors: &mut Vec<ConfigError>) {
    let mut prefixes = Vec::new();
    for (at, tenant) in items(document, "tenants") {
        refer(tenant, "plan", &at, &known.plans, "plan", errors);
        pins(&at, tenant, known, errors);
        distinct(under(&at, tenant, "consumers"), "id", "consumer of this tenant", errors);
        for (at, consumer) in under(&at, tenant, "consumers") {
            distinct(
                under(&at, consumer, "credentials"),
                "id",
                "credential of this consumer",
                errors,
            );
            for (at, credential) in under(&at, consumer, "credentials") {
                let Some(prefix) = credential.pointer("/api_key/prefix").and_then(Value::as_str)
                else {
                    continue;
                };
                // Not shown: it may be a whole key that stands where its prefix belongs.
                prefixes.push((format!("{at}/api_key/prefix"), prefix));
            }
        }
    }
    once(prefixes, "has the prefix of another key", errors);
}

/// Keys may ship for tenants that are there, or for all.
fn pack_keys(document: &Value, known: &Known<'_>, errors: &mut Vec<ConfigError>) {
    distinct(items(document, "pack_keys"), "id", "pack key", errors);
    for (at, key) in items(document, "pack_keys") {
        for (at, tenant) in under(&at, key, "tenants") {
            let Some(tenant) = tenant.as_str() else { continue };
            if tenant != "*" && !known.tenants.contains(tenant) {
                let message = format!("there is no tenant `{tenant}`; `*` stands for all of them");
                errors.push(ConfigError::new(at, message));
            }
        }
    }
}

/// Reports every place of a value that stands at several. Never where the others are: they may be another tenant's.
pub(super) fn once(places: Vec<(String, &str)>, message: &str, errors: &mut Vec<ConfigError>) {
    let mut counted: HashMap<&str, usize> = HashMap::new();
    for (_, value) in &places {
        *counted.entry(value).or_default() += 1;
    }
    let repeated = |value: &str| counted.get(value).is_some_and(|count| *count > 1);
    let clashes = places.into_iter().filter(|(_, value)| repeated(value));
    errors.extend(clashes.map(|(at, _)| ConfigError::new(at, message)));
}

fn pins(at: &str, tenant: &Value, known: &Known<'_>, errors: &mut Vec<ConfigError>) {
    let Some(pins) = tenant.get("pins").and_then(Value::as_object) else { return };
    for (service, version) in pins {
        let at = format!("{at}/pins/{}", escape(service));
        let Some(versions) = known.services.get(service.as_str()) else {
            errors.push(ConfigError::new(at, format!("there is no service `{service}`")));
            continue;
        };
        let Some(version) = version.as_str() else { continue };
        if !versions.contains(version) {
            let message = format!("service `{service}` has no version `{version}`");
            errors.push(ConfigError::new(at, message));
        }
    }
}

/// The entries of a top-level list, with their pointers.
pub(super) fn items<'a>(
    document: &'a Value,
    list: &str,
) -> impl Iterator<Item = (String, &'a Value)> + use<'a> {
    under("", document, list)
}

fn under<'a>(
    at: &str,
    parent: &'a Value,
    list: &str,
) -> impl Iterator<Item = (String, &'a Value)> + use<'a> {
    let at = format!("{at}/{list}");
    let entries = parent.get(list).and_then(Value::as_array).into_iter().flatten();
    entries.enumerate().map(move |(index, entry)| (format!("{at}/{index}"), entry))
}

fn text<'a>(entry: &'a Value, field: &str) -> Option<&'a str> {
    entry.get(field).and_then(Value::as_str)
}

/// The names that stand in this field of the entries; a repeated one is an error.
fn distinct<'a>(
    entries: impl Iterator<Item = (String, &'a Value)>,
    field: &str,
    what: &str,
    errors: &mut Vec<ConfigError>,
) -> Names<'a> {
    let mut names = Names::new();
    for (at, entry) in entries {
        let Some(name) = text(entry, field) else { continue };
        if !names.insert(name) {
            let message = format!("there is another {what} `{name}`");
            errors.push(ConfigError::new(format!("{at}/{field}"), message));
        }
    }
    names
}

/// A set of names that a reference may point into.
trait Holds {
    fn holds(&self, name: &str) -> bool;
}

impl Holds for Names<'_> {
    fn holds(&self, name: &str) -> bool {
        self.contains(name)
    }
}

impl Holds for HashMap<&str, Names<'_>> {
    fn holds(&self, name: &str) -> bool {
        self.contains_key(name)
    }
}

impl Holds for HashSet<String> {
    fn holds(&self, name: &str) -> bool {
        self.contains(name)
    }
}

fn refer(
    entry: &Value,
    field: &str,
    at: &str,
    known: &impl Holds,
    what: &str,
    errors: &mut Vec<ConfigError>,
) {
    let Some(name) = text(entry, field) else { return };
    if !known.holds(name) {
        errors.push(ConfigError::new(
            format!("{at}/{field}"),
            format!("there is no {what} `{name}`"),
        ));
    }
}
