//! Ways to write down a decision that read well. The types are those of the interface.

use crate::{Decision, Denial, HeaderEdit, HeaderLine};
use serde::Serialize;

impl Denial {
    /// A refusal with status 403. `reason` is for programs (`lower_snake`, at most 64 characters), `message` for people.
    pub fn new(reason: impl Into<String>, message: impl Into<String>) -> Self {
        Self { status: None, reason: reason.into(), message: message.into(), details: Vec::new() }
    }

    /// Chooses another status, 400 to 499.
    #[must_use]
    pub fn status(mut self, status: u16) -> Self {
        self.status = Some(status);
        self
    }

    /// Adds a detail that the caller sees. A value that JSON can't hold, such as a map without text keys, becomes `null`.
    #[must_use]
    pub fn detail(mut self, name: impl Into<String>, value: impl Serialize) -> Self {
        let value = serde_json::to_string(&value).unwrap_or_else(|_| "null".to_owned());
        self.details.push((name.into(), value));
        self
    }
}

impl From<Denial> for Decision {
    fn from(denial: Denial) -> Self {
        Self::Deny(denial)
    }
}

impl From<Vec<HeaderEdit>> for Decision {
    /// `Continue` where there is nothing to change.
    fn from(edits: Vec<HeaderEdit>) -> Self {
        if edits.is_empty() { Self::Continue } else { Self::Edit(edits) }
    }
}

impl HeaderEdit {
    /// Replaces every line of this name by one.
    pub fn set(name: impl Into<String>, value: impl Into<Vec<u8>>) -> Self {
        Self::Set(HeaderLine { name: name.into(), value: value.into() })
    }

    /// Adds a line.
    pub fn append(name: impl Into<String>, value: impl Into<Vec<u8>>) -> Self {
        Self::Append(HeaderLine { name: name.into(), value: value.into() })
    }

    /// Removes every line of this name.
    pub fn remove(name: impl Into<String>) -> Self {
        Self::Remove(name.into())
    }
}
