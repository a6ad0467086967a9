//! What an attachment is told.

use tollgate_pack::{is_header_name, is_header_value};

/// Rules, asked in their order.
#[tollgate_pack::settings]
pub(crate) struct Settings {
    /// The first that denies ends the decision; changes of several come together. The first with a cost that holds says it.
    #[schemars(length(min = 1))]
    pub(crate) rules: Vec<Rule>,
    /// What a request costs, in phase `cost`, for which no rule says it.
    #[serde(default = "one")]
    pub(crate) default_cost: u32,
}

/// A condition, and one thing that follows where it holds.
#[tollgate_pack::settings]
pub(crate) struct Rule {
    /// A condition in the Common Expression Language, such as `request.method == "POST" && !("contacts:write" in caller.scopes)`.
    pub(crate) when: String,
    /// When it is asked; `request` when absent. A cost has none.
    pub(crate) phase: Option<Phase>,
    /// Denies.
    pub(crate) deny: Option<Deny>,
    /// Of a rule that denies: what follows where its condition can't be evaluated, as when it reads a header that isn't there;
    /// `deny` when absent. Other rules are skipped then.
    pub(crate) on_error: Option<OnError>,
    /// Sets a header, in place of what is there.
    pub(crate) set_header: Option<SetHeader>,
    /// Removes the header of this name.
    pub(crate) remove_header: Option<String>,
    /// The request's cost in units of the plan's limits.
    pub(crate) cost: Option<u32>,
}

/// When a rule is asked.
#[tollgate_pack::settings]
#[derive(Clone, Copy, Default)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Phase {
    /// Before the request goes to the upstream.
    #[default]
    Request,
    /// Before the answer goes to the caller.
    Response,
}

/// What follows where a condition can't be evaluated.
#[tollgate_pack::settings]
#[derive(Clone, Copy, Default, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub(crate) enum OnError {
    /// As if it held.
    #[default]
    Deny,
    /// As if it did not.
    Skip,
}

/// A refusal.
#[tollgate_pack::settings]
pub(crate) struct Deny {
    /// Why, for programs: lower-case letters, digits and `_`.
    #[schemars(regex(pattern = "^[a-z][a-z0-9_]{0,63}$"))]
    pub(crate) reason: String,
    /// Why, for people.
    #[serde(default = "message")]
    pub(crate) message: String,
    /// 400 to 499; 403 when absent.
    #[schemars(range(min = 400, max = 499))]
    pub(crate) status: Option<u16>,
}

/// A header and its value: one of `value` and `value_of`.
#[tollgate_pack::settings]
pub(crate) struct SetHeader {
    /// Its name.
    pub(crate) name: String,
    /// Its value.
    pub(crate) value: Option<String>,
    /// An expression that says its value: a text, a number or a truth value. Where it can't be evaluated, the header is removed.
    pub(crate) value_of: Option<String>,
}

fn one() -> u32 {
    1
}

fn message() -> String {
    "A rule of this API denies the request.".to_owned()
}

impl Deny {
    pub(crate) fn checked(self) -> Result<Self, String> {
        let part = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        let starts = self.reason.starts_with(|c: char| c.is_ascii_lowercase());
        if !starts || self.reason.len() > 64 || !self.reason.chars().all(part) {
            return Err(format!(
                "`{}` is no reason: write lower-case letters, digits and `_`",
                self.reason
            ));
        }
        match self.status {
            Some(status) if !(400..500).contains(&status) => {
                Err(format!("`status` is {status}, and a refusal's is 400 to 499"))
            }
            _ => Ok(self),
        }
    }
}

impl SetHeader {
    /// The name, and the value or the expression that says it.
    pub(crate) fn checked(self) -> Result<(String, Result<String, String>), String> {
        let name = header_name(self.name)?;
        match (self.value, self.value_of) {
            (Some(value), None) if is_header_value(&value) => Ok((name, Ok(value))),
            (Some(_), None) => Err(format!("the value of `{name}` has control characters")),
            (None, Some(expression)) => Ok((name, Err(expression))),
            _ => Err(format!("give one of `value` and `value_of` for `{name}`")),
        }
    }
}

pub(crate) fn header_name(name: String) -> Result<String, String> {
    if is_header_name(&name) { Ok(name) } else { Err(format!("`{name}` is not a header's name")) }
}
