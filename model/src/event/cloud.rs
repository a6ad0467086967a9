//! An event as CloudEvents 1.0 knows it: context attributes, and data. However it came, it is one value with one structured
//! form, which is what is kept and sent.
//!
//! Invariants: attributes have the names and values that the specification allows (CloudEvents 1.0 §3), so that they fit
//! into headers and columns; data that is JSON is kept as it was written, to the last digit of its numbers.

use super::attribute::{self, Attribute};
use crate::id::TenantId;
use crate::webhook::{NewEvent, WebhookId};
use bytes::Bytes;
use serde_json::Value;
use serde_json::value::RawValue;
use std::collections::BTreeMap;
use std::sync::OnceLock;

/// How many context attributes an event may have.
pub(super) const ATTRIBUTES_MAX: usize = 64;

/// How many things that are wrong are told at once.
pub(super) const MALFORMED_MAX: usize = 32;

/// An event, checked.
#[derive(Clone, Debug)]
pub struct CloudEvent {
    pub(super) attributes: BTreeMap<String, Attribute>,
    pub(super) data: Option<Data>,
    /// The data as a JSON value, once it was asked for.
    pub(super) read: OnceLock<Option<Value>>,
}

/// What an event tells.
#[derive(Clone, Debug)]
pub enum Data {
    /// JSON, as it was written.
    Json(Box<RawValue>),
    /// Text of another media type.
    Text(String),
    /// Bytes of another media type.
    Bytes(Vec<u8>),
}

/// Something that is wrong with an event.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{pointer}: {message}")]
pub struct Malformed {
    /// RFC 6901 pointer into the event's structured form, in whatever form it came; in a batch, into that.
    pub pointer: String,
    /// What is wrong, and how it should be.
    pub message: String,
}

impl Malformed {
    /// Something wrong at this place.
    pub fn new(pointer: impl Into<String>, message: impl Into<String>) -> Self {
        Self { pointer: pointer.into(), message: message.into() }
    }
}

/// The parts of an event that is made here.
#[derive(Clone, Debug, Default)]
pub struct New<'a> {
    /// `id`
    pub id: &'a str,
    /// `source`
    pub source: &'a str,
    /// `type`
    pub r#type: &'a str,
    /// `subject`
    pub subject: Option<&'a str>,
    /// `time` (RFC 3339)
    pub time: Option<&'a str>,
    /// Whose it is.
    pub tenant: &'a str,
    /// What it tells, as JSON.
    pub data: Option<&'a RawValue>,
}

impl CloudEvent {
    /// One that is made here; every error.
    pub fn new(new: &New<'_>) -> Result<Self, Vec<Malformed>> {
        let mut event = Self::empty();
        let mut errors = Vec::new();
        let named = [
            ("specversion", Some("1.0")),
            ("id", Some(new.id)),
            ("source", Some(new.source)),
            ("type", Some(new.r#type)),
            ("subject", new.subject),
            ("time", new.time),
            ("tenant", Some(new.tenant)),
        ];
        for (name, value) in named {
            if let Some(value) = value {
                event.take(name, Attribute::text(value), "", &mut errors);
            }
        }
        event.data = new.data.map(|data| Data::Json(data.to_owned()));
        event.whole("", errors)
    }

    pub(super) fn empty() -> Self {
        Self { attributes: BTreeMap::new(), data: None, read: OnceLock::new() }
    }

    /// `id`
    pub fn id(&self) -> &str {
        self.attribute("id").unwrap_or_default()
    }

    /// `source`
    pub fn source(&self) -> &str {
        self.attribute("source").unwrap_or_default()
    }

    /// `type`
    pub fn r#type(&self) -> &str {
        self.attribute("type").unwrap_or_default()
    }

    /// The extension attribute that names whose it is.
    pub fn tenant(&self) -> Option<&str> {
        self.attribute("tenant")
    }

    /// Names whose it is.
    pub fn set_tenant(&mut self, tenant: &TenantId) {
        self.attributes.insert("tenant".to_owned(), Attribute::text(tenant.as_str()));
    }

    /// A context attribute; booleans and integers as text.
    pub fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes.get(name).map(Attribute::as_str)
    }

    /// The data as a JSON value; none when it is none.
    pub fn json(&self) -> Option<&Value> {
        let read = || match self.data.as_ref()? {
            Data::Json(raw) => serde_json::from_str(raw.get()).ok(),
            Data::Text(_) | Data::Bytes(_) => None,
        };
        self.read.get_or_init(read).as_ref()
    }

    /// About how many bytes it holds.
    pub fn size(&self) -> usize {
        match &self.data {
            None => 0,
            Some(Data::Json(raw)) => raw.get().len(),
            Some(Data::Text(text)) => text.len(),
            Some(Data::Bytes(bytes)) => bytes.len(),
        }
    }

    /// Whether its data is none that JSON could be read from.
    pub fn is_opaque(&self) -> bool {
        matches!(self.data, Some(Data::Text(_) | Data::Bytes(_)))
    }

    /// What is kept of it. None while it names no tenant.
    pub fn to_keep(&self) -> Option<NewEvent> {
        let tenant = TenantId::from(self.tenant()?);
        Some(NewEvent {
            webhook_id: WebhookId::of(&tenant, self.source(), self.id()),
            tenant,
            source: self.source().to_owned(),
            id: self.id().to_owned(),
            r#type: self.r#type().to_owned(),
            digest: self.digest(),
            content: Bytes::from(self.structured_form()),
        })
    }

    /// Adds an attribute, or says what is wrong with it.
    pub(super) fn take(
        &mut self,
        name: &str,
        value: Attribute,
        at: &str,
        errors: &mut Vec<Malformed>,
    ) {
        let pointer = || format!("{at}/{}", crate::config::escape(name));
        match attribute::check(name, &value) {
            Err(message) => errors.push(Malformed::new(pointer(), message)),
            Ok(()) if self.attributes.len() >= ATTRIBUTES_MAX => {
                let message = format!("An event has at most {ATTRIBUTES_MAX} context attributes.");
                errors.push(Malformed::new(pointer(), message));
            }
            Ok(()) => {
                if self.attributes.insert(name.to_owned(), value).is_some() {
                    errors.push(Malformed::new(pointer(), "It is given more than once."));
                }
            }
        }
    }

    /// The event, if nothing is wrong and nothing is missing.
    pub(super) fn whole(
        mut self,
        at: &str,
        mut errors: Vec<Malformed>,
    ) -> Result<Self, Vec<Malformed>> {
        for name in attribute::REQUIRED {
            let told = format!("{at}/{name}");
            if !self.attributes.contains_key(name) && errors.iter().all(|e| e.pointer != told) {
                errors.push(Malformed::new(told, "It is required."));
            }
        }
        if let Some(Data::Json(_)) = self.data {
            if self.json().is_none() {
                let message = "It is JSON of more than 128 levels.";
                errors.push(Malformed::new(format!("{at}/data"), message));
            }
            // CloudEvents 1.0, JSON format §3.1: what is meant where nothing is said.
            let kind = self.attributes.entry("datacontenttype".to_owned());
            kind.or_insert_with(|| Attribute::text("application/json"));
        }
        if errors.is_empty() {
            return Ok(self);
        }
        errors.truncate(MALFORMED_MAX);
        Err(errors)
    }
}
