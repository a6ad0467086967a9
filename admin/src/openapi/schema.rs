//! The schemas of what is sent and answered: those of the types that are read and written.
//!
//! Invariant: a schema takes what the API takes. Where a format can be said as a pattern exactly, it is; elsewhere the
//! format's name stands alone, as the document's own schema has it.

use super::events;
use super::refusal::{self, REFUSALS};
use crate::answer::{Changed, DryRun};
use crate::credential::{CreatedCredential, NewCredential, Rotation};
use crate::deliveries::DeliveryWhole;
use crate::endpoints::{Enabled, Pinged, RotatedSecret, STANDING, SecretRotation, StandingShown};
use crate::exchanges::Erased;
use crate::idempotency::{KeyRecords, Released, Releasing};
use crate::kind::{KINDS, Kind};
use crate::nodes::Nodes;
use crate::packs::{Datum, FILE, FileShown, PushedPack, RolloutItem, Shifted, Shifting};
use crate::page::Listed;
use crate::replays::ReplayDryRun;
use crate::revisions::{self, Empty, RevisionItem, RevisionWhole};
use crate::revocations::NewRevocation;
use crate::secret::{Rekeyed, Rekeying};
use crate::tokens::{MadeToken, NewToken};
use crate::usage::{Reset, TenantUsage, WasReset};
use model::audit::Entry;
use model::config;
use model::record::Record;
use model::role::Section;
use model::rollout::Difference;
use model::token::Token;
use model::webhook::{Delivery, Replay, ReplayRequest};
use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, SchemaGenerator};
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;

/// What an id is ([`model::id::is_id`]).
pub(super) const ID: &str = "^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$";

/// Formats that a pattern says exactly.
pub(super) const PATTERNS: &[(&str, &str)] = &[
    ("id", ID),
    ("sha256", "^sha256:[0-9a-f]{64}$"),
    ("key-prefix", "^[A-Za-z0-9_]{8,32}$"),
    ("pack-version", PACK_VERSION),
    ("pack-reference", "^[A-Za-z0-9][A-Za-z0-9._-]{0,63}@[0-9]{1,9}\\.[0-9]{1,9}\\.[0-9]{1,9}$"),
    ("public-key", PUBLIC_KEY),
    ("label", "^[^\\u0000-\\u001f\\u007f-\\u009f]{1,64}$"),
    ("sealed", "^tg1\\.[A-Za-z0-9_-]+\\.[A-Za-z0-9_-]+$"),
];

/// What a public key is: 32 bytes in base64.
const PUBLIC_KEY: &str = "^ed25519:[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=$";

/// What a key of a pack's data is: visible ASCII that begins no dot segment.
pub(crate) const DATUM_KEY: &str = "^[!-\\-/-~][!-~]{0,255}$";

/// What a pack's version is.
pub(super) const PACK_VERSION: &str = "^[0-9]{1,9}\\.[0-9]{1,9}\\.[0-9]{1,9}$";

/// The end of the names of what may be given with its secrets in plain.
const GIVEN: &str = "Given";
/// A secret as PUT takes it.
const SECRET_GIVEN: &str = "SecretGiven";

/// Where `$ref`s point to.
const COMPONENTS: &str = "#/components/schemas/";

/// Every schema, by name.
pub(super) fn components() -> Map<String, Value> {
    let mut schemas = document();
    schemas.extend(sent());
    schemas.extend(answered());
    let holders = holders(&schemas);
    for kind in KINDS {
        let (name, shown) = (entry(kind), shown(kind));
        schemas.insert(format!("{shown}List"), list(&shown));
        let Some(schema) = schemas.get(&name) else { continue };
        let mut written = written(kind, schema, &holders);
        if let Some((field, what)) = beside(kind.section) {
            let mut seen = schema.clone();
            with(&mut seen, field, reference(what));
            let ignored = json!({ "description": "As it is shown: ignored.", "readOnly": true });
            with(&mut written, field, ignored);
            schemas.insert(shown, seen);
        }
        schemas.insert(format!("{name}Put"), written);
    }
    give(&mut schemas, &holders);
    schemas.insert("CredentialShownList".to_owned(), list("CredentialShown"));
    let revocation = schemas.get("NewRevocation").map(made).unwrap_or_default();
    schemas.insert("Revocation".to_owned(), revocation);
    schemas.insert("RevocationList".to_owned(), list("Revocation"));
    schemas.insert(SECRET_GIVEN.to_owned(), secret());
    schemas.insert("CloudEvent".to_owned(), events::schema());
    schemas.insert("CloudEventBatch".to_owned(), events::batch());
    schemas.insert("MergePatch".to_owned(), merge_patch());
    schemas.insert("ChangedOrDryRun".to_owned(), either("Changed", "DryRun"));
    schemas.insert("PushedPackOrDryRun".to_owned(), either("PushedPack", "DryRun"));
    schemas.insert("ShiftedOrDryRun".to_owned(), either("Shifted", "DryRun"));
    schemas.insert("RotatedSecretOrDryRun".to_owned(), either("RotatedSecret", "DryRun"));
    schemas.insert(
        "Bytes".to_owned(),
        json!({ "type": "string", "format": "binary", "description": "Bytes." }),
    );
    schemas.insert("Lines".to_owned(), text("One entry as JSON on each line."));
    schemas.insert("Text".to_owned(), text("Lines of text."));
    schemas.insert(
        "Description".to_owned(),
        json!({ "type": "object", "description": "An OpenAPI document." }),
    );
    schemas.insert("Readiness".to_owned(), readiness());
    schemas.insert("Problem".to_owned(), refusal::problem());
    for status in REFUSALS {
        schemas.insert(refusal::schema_name(*status), refusal::schema(*status));
    }
    schemas.values_mut().for_each(patterned);
    schemas.sort_keys();
    schemas
}

/// The name of the schema of a kind's resources: that of the document's type.
pub(super) fn entry(kind: &Kind) -> String {
    let document = config::schema();
    let mut parent = &document;
    let mut name = "";
    for (list, _) in kind.steps {
        let reference = parent.pointer(&format!("/properties/{list}/items/$ref"));
        name = reference.and_then(Value::as_str).and_then(|at| at.rsplit('/').next()).unwrap_or("");
        parent = document.pointer(&format!("/$defs/{name}")).unwrap_or(&Value::Null);
    }
    name.to_owned()
}

/// The name of the schema of a kind's resources as they are shown.
pub(super) fn shown(kind: &Kind) -> String {
    let name = entry(kind);
    if beside(kind.section).is_some() { format!("{name}Shown") } else { name }
}

/// What is shown of a section's entries beside the document's own fields: the field, and the name of its schema.
fn beside(section: Section) -> Option<(&'static str, &'static str)> {
    match section {
        Section::Packs => Some((FILE, "PackFile")),
        Section::Endpoints => Some((STANDING, "EndpointStanding")),
        _ => None,
    }
}

/// An entry with a further field.
fn with(schema: &mut Value, field: &str, what: Value) {
    if let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) {
        properties.insert(field.to_owned(), what);
    }
}

/// The document's schema, with its parts beside it.
fn document() -> Map<String, Value> {
    let Value::Object(mut document) = config::schema() else { return Map::new() };
    document.shift_remove("$schema");
    let parts = document.shift_remove("$defs");
    let mut schemas = Map::new();
    schemas.insert("Document".to_owned(), Value::Object(document));
    if let Some(Value::Object(parts)) = parts {
        schemas.extend(parts);
    }
    schemas.values_mut().for_each(repoint);
    schemas
}

/// `#/$defs/X` as `#/components/schemas/X`.
fn repoint(schema: &mut Value) {
    match schema {
        Value::Array(list) => list.iter_mut().for_each(repoint),
        Value::Object(fields) => {
            for (field, value) in fields.iter_mut() {
                match (field.as_str(), value.as_str()) {
                    ("$ref", Some(at)) => *value = at.replace("#/$defs/", COMPONENTS).into(),
                    _ => repoint(value),
                }
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn settings() -> SchemaSettings {
    SchemaSettings::draft2020_12().with(|settings| {
        settings.definitions_path = "/components/schemas".into();
        settings.meta_schema = None;
    })
}

/// What requests hold.
fn sent() -> Map<String, Value> {
    let mut generator = settings().for_deserialize().into_generator();
    named::<NewToken>(&mut generator);
    named::<NewRevocation>(&mut generator);
    named::<NewCredential>(&mut generator);
    named::<Rotation>(&mut generator);
    named::<Reset>(&mut generator);
    named::<Releasing>(&mut generator);
    named::<Empty>(&mut generator);
    named::<Rekeying>(&mut generator);
    named::<Shifting>(&mut generator);
    named::<SecretRotation>(&mut generator);
    named::<ReplayRequest>(&mut generator);
    generator.take_definitions(true)
}

/// What answers hold.
fn answered() -> Map<String, Value> {
    let mut generator = settings().for_serialize().into_generator();
    named::<Changed>(&mut generator);
    named::<DryRun>(&mut generator);
    named::<CreatedCredential>(&mut generator);
    named::<Listed<RevisionItem>>(&mut generator);
    named::<RevisionWhole>(&mut generator);
    named::<revisions::Difference>(&mut generator);
    named::<Listed<Entry>>(&mut generator);
    named::<Listed<Token>>(&mut generator);
    named::<MadeToken>(&mut generator);
    named::<Nodes>(&mut generator);
    named::<TenantUsage>(&mut generator);
    named::<WasReset>(&mut generator);
    named::<KeyRecords>(&mut generator);
    named::<Released>(&mut generator);
    named::<Listed<Record>>(&mut generator);
    named::<Erased>(&mut generator);
    named::<Rekeyed>(&mut generator);
    named::<PushedPack>(&mut generator);
    named::<FileShown>(&mut generator);
    named::<Shifted>(&mut generator);
    named::<Listed<RolloutItem>>(&mut generator);
    named::<Listed<Difference>>(&mut generator);
    named::<Listed<Datum>>(&mut generator);
    named::<StandingShown>(&mut generator);
    named::<Pinged>(&mut generator);
    named::<Enabled>(&mut generator);
    named::<RotatedSecret>(&mut generator);
    named::<ingest::Accepted>(&mut generator);
    named::<Listed<Delivery>>(&mut generator);
    named::<DeliveryWhole>(&mut generator);
    named::<Listed<Replay>>(&mut generator);
    named::<ReplayDryRun>(&mut generator);
    generator.take_definitions(true)
}

fn named<T: JsonSchema>(generator: &mut SchemaGenerator) {
    let _ = generator.subschema_for::<T>();
}

/// Gives formats their patterns.
fn patterned(schema: &mut Value) {
    match schema {
        Value::Array(list) => list.iter_mut().for_each(patterned),
        Value::Object(fields) => {
            fields.values_mut().for_each(patterned);
            let format = fields.get("format").and_then(Value::as_str);
            let known = PATTERNS.iter().find(|(name, _)| Some(*name) == format);
            if let Some((_, pattern)) = known {
                fields.insert("pattern".to_owned(), (*pattern).into());
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn reference(name: &str) -> Value {
    json!({ "$ref": format!("{COMPONENTS}{name}") })
}

fn either(one: &str, other: &str) -> Value {
    json!({ "anyOf": [reference(one), reference(other)] })
}

fn list(name: &str) -> Value {
    json!({
        "type": "object",
        "description": "A page of a list.",
        "properties": {
            "items": { "type": "array", "items": reference(name) },
            "next_cursor": { "type": ["string", "null"], "description": "Where the next page begins; none after the last." },
        },
        "required": ["items", "next_cursor"],
    })
}

/// The schemas that have a secret in them, however deep.
fn holders(schemas: &Map<String, Value>) -> BTreeSet<String> {
    let mut holders = BTreeSet::from(["Secret".to_owned()]);
    loop {
        let further = schemas.iter().filter(|(name, schema)| {
            !holders.contains(*name) && refers(schema).iter().any(|to| holders.contains(to))
        });
        let further: Vec<String> = further.map(|(name, _)| name.clone()).collect();
        if further.is_empty() {
            return holders;
        }
        holders.extend(further);
    }
}

/// The names of the schemas that this one refers to.
fn refers(schema: &Value) -> BTreeSet<String> {
    match schema {
        Value::Array(list) => list.iter().flat_map(refers).collect(),
        Value::Object(fields) => {
            let own = fields.get("$ref").and_then(Value::as_str);
            let own = own.and_then(|at| at.strip_prefix(COMPONENTS)).map(str::to_owned);
            fields.values().flat_map(refers).chain(own).collect()
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => BTreeSet::new(),
    }
}

/// What of a resource has a secret in it, as PUT takes it: `XGiven` of each `X` that is asked for.
fn give(schemas: &mut Map<String, Value>, holders: &BTreeSet<String>) {
    loop {
        let asked: BTreeSet<String> = schemas.values().flat_map(refers).collect();
        let missing =
            asked.into_iter().filter(|name| !schemas.contains_key(name) && *name != SECRET_GIVEN);
        let missing: Vec<String> = missing.collect();
        if missing.is_empty() {
            return;
        }
        for name in missing {
            let base = name.strip_suffix(GIVEN).and_then(|base| schemas.get(base));
            let mut given = base.cloned().unwrap_or_default();
            taking_secrets(&mut given, holders);
            schemas.insert(name, given);
        }
    }
}

/// Refers to what takes secrets in plain.
fn taking_secrets(schema: &mut Value, holders: &BTreeSet<String>) {
    for holder in holders {
        replace(schema, &reference(holder), &reference(&format!("{holder}{GIVEN}")));
    }
}

/// A resource as PUT takes it: the path has its keys, and a secret may be given to be sealed.
fn written(kind: &Kind, schema: &Value, holders: &BTreeSet<String>) -> Value {
    let mut schema = schema.clone();
    let keys = kind.steps.last().map(|(_, keys)| *keys).unwrap_or_default();
    if let Some(required) = schema.get_mut("required").and_then(Value::as_array_mut) {
        required.retain(|name| !keys.contains(&name.as_str().unwrap_or_default()));
    }
    taking_secrets(&mut schema, holders);
    schema
}

fn replace(schema: &mut Value, old: &Value, new: &Value) {
    if schema == old {
        *schema = new.clone();
        return;
    }
    match schema {
        Value::Array(list) => list.iter_mut().for_each(|entry| replace(entry, old, new)),
        Value::Object(fields) => fields.values_mut().for_each(|value| replace(value, old, new)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// A secret as PUT takes it.
fn secret() -> Value {
    json!({
        "description": "A secret: by reference, or in plain, to be sealed before it is kept.",
        "anyOf": [
            reference("Secret"),
            {
                "type": "object",
                "properties": { "value": { "type": "string", "writeOnly": true, "description": "The secret itself." } },
                "required": ["value"],
                "additionalProperties": false,
            },
        ],
    })
}

fn text(about: &str) -> Value {
    json!({ "type": "string", "description": about })
}

/// A revocation that was made, of how one is asked for: it has an id and a time.
fn made(asked: &Value) -> Value {
    let mut made = asked.clone();
    let kinds = made.get_mut("oneOf").and_then(Value::as_array_mut).into_iter().flatten();
    for fields in kinds.filter_map(Value::as_object_mut) {
        if let Some(properties) = fields.get_mut("properties").and_then(Value::as_object_mut) {
            properties.insert("id".to_owned(), json!({ "type": "string" }));
            properties.insert("at".to_owned(), json!({ "type": "string", "format": "date-time" }));
        }
        if let Some(required) = fields.get_mut("required").and_then(Value::as_array_mut) {
            required.extend(["id".into(), "at".into()]);
        }
    }
    made
}

/// What `/readyz` says.
fn readiness() -> Value {
    json!({
        "type": "object",
        "description": "Whether a process is ready.",
        "properties": {
            "ready": { "type": "boolean" },
            "parts": {
                "type": "object",
                "description": "Each part by name: `ready`, or why not.",
                "additionalProperties": { "type": "string" },
            },
            "revision": { "type": "integer", "description": "The revision in force." },
            "rejected": {
                "type": "object",
                "description": "The newest revision that could not be put in force.",
                "properties": { "revision": { "type": "integer" }, "errors": { "type": "integer" } },
                "required": ["revision", "errors"],
            },
            "counters": counters(),
        },
        "required": ["ready", "parts", "revision", "counters"],
    })
}

fn counters() -> Value {
    json!({
        "type": "object",
        "description": "Who decides about limits. It makes nothing unready.",
        "properties": {
            "state": { "type": "string", "enum": ["in_process", "shared", "degraded"] },
            "nodes": {
                "type": "integer",
                "description": "Gateways that share the counters; while degraded, the last known number.",
            },
            "since": { "type": "string", "format": "date-time", "description": "Of degraded." },
        },
        "required": ["state"],
    })
}

fn merge_patch() -> Value {
    json!({
        "type": "object",
        "description": "What is to be merged into the resource (RFC 7396): a field with null goes.",
    })
}
