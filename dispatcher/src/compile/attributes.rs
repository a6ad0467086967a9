//! The context attributes of an event, read from what is kept when somebody asks for one.

use model::webhook::StoredEvent;
use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use std::collections::HashMap;
use std::fmt;

/// The attributes of one event (CloudEvents 1.0 §3.1), as text.
pub(super) struct Attributes<'a> {
    event: &'a StoredEvent,
    read: Option<Read>,
}

/// What is no data, by name.
struct Read(HashMap<String, String>);

impl<'a> Attributes<'a> {
    /// Those of this event.
    pub(super) const fn of(event: &'a StoredEvent) -> Self {
        Self { event, read: None }
    }

    /// The one with this name.
    pub(super) fn get(&mut self, name: &str) -> Option<&str> {
        match name {
            "type" => return Some(&self.event.r#type),
            "source" => return Some(&self.event.source),
            "id" => return Some(&self.event.id),
            _ => {}
        }
        let content = &self.event.content;
        let read = self.read.get_or_insert_with(|| {
            // What is kept was checked when it was accepted.
            serde_json::from_slice(content).unwrap_or_else(|_| Read(HashMap::new()))
        });
        read.0.get(name).map(String::as_str)
    }
}

impl<'de> Deserialize<'de> for Read {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = Read;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a CloudEvent")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Read, A::Error> {
                let mut read = HashMap::new();
                while let Some(name) = members.next_key::<String>()? {
                    if matches!(name.as_str(), "data" | "data_base64") {
                        members.next_value::<IgnoredAny>()?;
                        continue;
                    }
                    match members.next_value::<Value>()? {
                        Value::String(text) => read.insert(name, text),
                        value @ (Value::Bool(_) | Value::Number(_)) => {
                            read.insert(name, value.to_string())
                        }
                        Value::Null | Value::Array(_) | Value::Object(_) => None,
                    };
                }
                Ok(Read(read))
            }
        }
        from.deserialize_map(Members)
    }
}
