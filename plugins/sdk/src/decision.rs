//! What a pack may say.

use serde::Serialize;

/// What a pack decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Nothing to add.
    Continue,
    /// Go on with these changes.
    Edit(Edits),
    /// Refuse.
    Deny(Denial),
    /// Answer. In the request phase the upstream is not asked; in the response phase its answer is replaced.
    Answer(Answer),
}

/// Changes of a request or a response, made in the order in which they are written down.
///
/// Hop-by-hop and framing headers, `host`, and the headers that are the gateway's own can't be changed; `authorization` and
/// `proxy-authorization` can only be removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Edits {
    /// The changes of headers.
    pub headers: Vec<HeaderEdit>,
    /// What takes the body's place. Only a pack whose manifest asks for the body of this phase may change it.
    pub body: Option<Vec<u8>>,
}

/// One change of a header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeaderEdit {
    /// Replaces every line of this name by one.
    Set(HeaderLine),
    /// Adds a line.
    Append(HeaderLine),
    /// Removes every line of this name.
    Remove(String),
}

/// A header's name and value. Bytes, because a header's value may be other than UTF-8.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderLine {
    /// Its name, in any case.
    pub name: String,
    /// Its value.
    pub value: Vec<u8>,
}

/// A refusal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denial {
    /// 400 to 499; 403 when `None`.
    pub status: Option<u16>,
    /// Why, for programs: `lower_snake`, at most 64 characters.
    pub reason: String,
    /// Why, for people. Shown to the caller.
    pub message: String,
    /// Shown to the caller beside the reason: names, each once, and JSON texts. `policy` and `reason` are the gateway's.
    pub details: Vec<(String, String)>,
}

/// An answer in place of the upstream's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// 200 to 599.
    pub status: u16,
    /// Its headers, in order.
    pub headers: Vec<HeaderLine>,
    /// Its body.
    pub body: Vec<u8>,
}

impl HeaderLine {
    /// A header of this name and value.
    pub fn new(name: impl Into<String>, value: impl Into<Vec<u8>>) -> Self {
        Self { name: name.into(), value: value.into() }
    }
}

impl Edits {
    /// No changes yet. A decision made of none is [`Decision::Continue`].
    pub fn new() -> Self {
        Self::default()
    }

    /// Replaces every line of this name by one.
    #[must_use]
    pub fn set(mut self, name: impl Into<String>, value: impl Into<Vec<u8>>) -> Self {
        self.headers.push(HeaderEdit::Set(HeaderLine::new(name, value)));
        self
    }

    /// Adds a line.
    #[must_use]
    pub fn append(mut self, name: impl Into<String>, value: impl Into<Vec<u8>>) -> Self {
        self.headers.push(HeaderEdit::Append(HeaderLine::new(name, value)));
        self
    }

    /// Removes every line of this name.
    #[must_use]
    pub fn remove(mut self, name: impl Into<String>) -> Self {
        self.headers.push(HeaderEdit::Remove(name.into()));
        self
    }

    /// Replaces the body.
    #[must_use]
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = Some(body.into());
        self
    }
}

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

impl Answer {
    /// An answer of this status, 200 to 599, without headers and body.
    pub fn new(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: Vec::new() }
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: impl Into<String>, value: impl Into<Vec<u8>>) -> Self {
        self.headers.push(HeaderLine::new(name, value));
        self
    }

    /// Gives it a body.
    #[must_use]
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    /// Gives it a JSON body and `content-type: application/json`. A value that JSON can't hold becomes `null`.
    #[must_use]
    pub fn json(self, value: impl Serialize) -> Self {
        let body = serde_json::to_vec(&value).unwrap_or_else(|_| b"null".to_vec());
        self.header("content-type", "application/json").body(body)
    }
}

impl From<Edits> for Decision {
    /// `Continue` where there is nothing to change.
    fn from(edits: Edits) -> Self {
        if edits == Edits::default() { Self::Continue } else { Self::Edit(edits) }
    }
}

impl From<Denial> for Decision {
    fn from(denial: Denial) -> Self {
        Self::Deny(denial)
    }
}

impl From<Answer> for Decision {
    fn from(answer: Answer) -> Self {
        Self::Answer(answer)
    }
}

impl From<()> for Decision {
    /// `Continue`.
    fn from((): ()) -> Self {
        Self::Continue
    }
}

impl<D: Into<Self>> From<Result<D, Denial>> for Decision {
    /// What a check with `?` came to.
    fn from(checked: Result<D, Denial>) -> Self {
        match checked {
            Ok(passed) => passed.into(),
            Err(denial) => denial.into(),
        }
    }
}
