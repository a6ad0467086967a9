//! Hides fields of JSON answers from callers who may not see them: an access matrix of fields against scopes and roles.
//!
//! A body that can't be read is not handed on, unless the settings say so.

mod path;
#[cfg(test)]
mod tests;

use tollgate_pack::serde_json::Value;
use tollgate_pack::{Decision, Denial, Edits, Policy, Request, Response, json_values};

use path::Path;

/// The access matrix: a row of fields, and who sees them.
#[tollgate_pack::settings]
struct Settings {
    /// The rows. A field that several rows name is seen by whom each of them lets see it.
    #[schemars(length(min = 1))]
    fields: Vec<Row>,
    /// The claim of the caller's JWT that holds the roles: a text, or a list of texts. Needed by rows with `roles`.
    roles_claim: Option<String>,
    /// What becomes of an answer whose body can't be read: no JSON, encoded, malformed, or of too many values (some 20,000).
    #[serde(default)]
    unreadable: Unreadable,
}

/// Fields, who sees them, and what others see.
#[tollgate_pack::settings]
struct Row {
    /// Where they are: JSONPath (RFC 9535) with names, indices, `*` and `..`, such as `$.items[*].email` or `$..email`.
    #[schemars(length(min = 1))]
    paths: Vec<String>,
    /// Who has one of these scopes sees them.
    #[serde(default)]
    scopes: Vec<String>,
    /// Who has one of these roles sees them.
    #[serde(default)]
    roles: Vec<String>,
    /// What others see.
    #[serde(default)]
    otherwise: Otherwise,
    /// With `mask`: how many characters at the end of a text others see.
    #[serde(default)]
    keep_last: usize,
}

/// What those see who may not see a field.
#[tollgate_pack::settings]
#[derive(Clone, Copy, Default, PartialEq)]
#[serde(rename_all = "snake_case")]
enum Otherwise {
    /// Nothing: the field is not there.
    #[default]
    Remove,
    /// `null`.
    Null,
    /// `***`, and of a text the last `keep_last` characters.
    Mask,
}

/// What becomes of an answer whose body can't be read.
#[tollgate_pack::settings]
#[derive(Clone, Copy, Default)]
#[serde(rename_all = "snake_case")]
enum Unreadable {
    /// The caller does not get it.
    #[default]
    Deny,
    /// The caller gets it as it is.
    Pass,
}

struct Redact {
    rows: Vec<Compiled>,
    roles_claim: Option<String>,
    unreadable: Unreadable,
}

struct Compiled {
    paths: Vec<Path>,
    scopes: Vec<String>,
    roles: Vec<String>,
    how: How,
}

/// What becomes of a field.
#[derive(Clone, Copy)]
pub(crate) enum How {
    Remove,
    Null,
    Mask { keep_last: usize },
}

/// The roles of a caller, as claims hold them.
#[derive(tollgate_pack::serde::Deserialize)]
#[serde(crate = "::tollgate_pack::serde", untagged)]
enum Roles {
    One(String),
    Many(Vec<String>),
}

/// What reading and writing a value costs, in walks of a path past it.
const READING: usize = 16;
/// The walks that the fuel of `pack.yaml` is for: 20,000 values with one path, 17,500 with four.
const WORK: usize = 350_000;
/// What stands for a body that changes, and does not hold for the new one.
const DIGESTS: [&str; 4] = ["content-digest", "repr-digest", "digest", "content-md5"];

#[tollgate_pack::pack]
impl Policy for Redact {
    type Settings = Settings;

    fn new(settings: Settings) -> Result<Self, String> {
        let Settings { fields, roles_claim, unreadable } = settings;
        if fields.is_empty() {
            return Err("`fields` names none".to_owned());
        }
        if roles_claim.is_none() && fields.iter().any(|row| !row.roles.is_empty()) {
            return Err("there are rows with `roles`: say in `roles_claim` which claim holds them"
                .to_owned());
        }
        let rows = fields.into_iter().map(Compiled::new).collect::<Result<_, _>>()?;
        Ok(Self { rows, roles_claim, unreadable })
    }

    fn on_response(&self, request: &Request, response: &Response) -> Decision {
        let hidden = self.hidden_from(request);
        let Some(body) = response.body().filter(|body| !body.is_empty() && !hidden.is_empty())
        else {
            return Decision::Continue;
        };
        let paths: usize = hidden.iter().map(|row| row.paths.len()).sum();
        if json_values(&body).saturating_mul(READING + paths) > WORK {
            return self.unreadable();
        }
        let Some(mut json) = read(response, &body) else { return self.unreadable() };
        let mut changed = false;
        for row in hidden {
            for path in &row.paths {
                changed |= path.hide(&mut json, row.how);
            }
        }
        if !changed {
            return Decision::Continue;
        }
        let there = DIGESTS.into_iter().filter(|name| response.header(name).is_some());
        there.fold(Edits::new(), Edits::remove).body(json.to_string()).into()
    }
}

impl Redact {
    /// The rows whose fields this caller may not see.
    fn hidden_from(&self, request: &Request) -> Vec<&Compiled> {
        let scopes = request.scopes();
        let roles = match self.roles_claim.as_ref().and_then(|claim| request.claim_as(claim)) {
            Some(Roles::One(role)) => vec![role],
            Some(Roles::Many(roles)) => roles,
            None => Vec::new(),
        };
        let any = |held: &[String], seeing: &[String]| seeing.iter().any(|one| held.contains(one));
        let hidden = |row: &&Compiled| !any(&scopes, &row.scopes) && !any(&roles, &row.roles);
        self.rows.iter().filter(hidden).collect()
    }

    fn unreadable(&self) -> Decision {
        match self.unreadable {
            Unreadable::Pass => Decision::Continue,
            Unreadable::Deny => Denial::new(
                "body_unreadable",
                "The answer may hold what you may not see, and can't be read.",
            )
            .into(),
        }
    }
}

impl Compiled {
    fn new(row: Row) -> Result<Self, String> {
        let Row { paths, scopes, roles, otherwise, keep_last } = row;
        if keep_last > 0 && otherwise != Otherwise::Mask {
            return Err("`keep_last` goes with `otherwise: mask` alone".to_owned());
        }
        let how = match otherwise {
            Otherwise::Remove => How::Remove,
            Otherwise::Null => How::Null,
            Otherwise::Mask => How::Mask { keep_last },
        };
        let paths = paths.iter().map(|path| Path::parse(path)).collect::<Result<_, _>>()?;
        Ok(Self { paths, scopes, roles, how })
    }
}

impl How {
    /// What stands in the place of a value; nothing where it is removed.
    pub(crate) fn shown(self, value: &Value) -> Option<Value> {
        const MASK: &str = "***";
        match (self, value) {
            (Self::Remove, _) => None,
            (Self::Null, _) => Some(Value::Null),
            (Self::Mask { keep_last }, Value::String(text)) => {
                let characters = text.chars().count();
                // Of a text that is hardly longer, nothing is shown.
                let hidden =
                    if characters > keep_last { characters - keep_last } else { characters };
                Some(Value::String(MASK.chars().chain(text.chars().skip(hidden)).collect()))
            }
            (Self::Mask { .. }, _) => Some(Value::String(MASK.to_owned())),
        }
    }
}

/// The body as JSON, where it says that it is.
fn read(response: &Response, body: &[u8]) -> Option<Value> {
    let kind = response.header_text("content-type")?;
    let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let encoded = response
        .header("content-encoding")
        .is_some_and(|encoding| !encoding.eq_ignore_ascii_case(b"identity"));
    if encoded || !(kind == "application/json" || kind.ends_with("+json")) {
        return None;
    }
    tollgate_pack::serde_json::from_slice(body).ok()
}
