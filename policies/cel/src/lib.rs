//! One-line conditions in the Common Expression Language: where one holds, its rule denies, changes a header, or sets the cost.
//!
//! Conditions are parsed, and the names in them checked, when the settings are applied. One that can't be evaluated, as when it
//! reads a header that isn't there, never fails the decision, since callers can bring that about: its rule says what follows.

mod condition;
mod fields;
mod settings;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use cel::Env;
use tollgate_pack::{Decision, Denial, Edits, Policy, Request, Response};

use condition::{Condition, Scope};
use fields::Exchange;
use settings::{Deny, OnError, Phase, Rule, Settings};

struct Cel {
    env: Arc<Env>,
    on_request: Vec<Compiled<Action>>,
    on_response: Vec<Compiled<Action>>,
    costs: Vec<Compiled<u32>>,
    default_cost: u32,
}

/// A rule, ready to be asked.
struct Compiled<A> {
    when: Condition,
    /// What counts where the condition can't be evaluated.
    otherwise: bool,
    then: A,
}

/// What becomes of an exchange.
enum Action {
    Deny(Deny),
    Set { name: String, value: Text },
    Remove(String),
}

/// A text as it is, or what an expression says.
enum Text {
    Fixed(String),
    Said(Condition),
}

#[tollgate_pack::pack]
impl Policy for Cel {
    type Settings = Settings;

    fn new(settings: Settings) -> Result<Self, String> {
        if settings.rules.is_empty() {
            return Err("`rules` names none".to_owned());
        }
        let env = Arc::new(condition::environment());
        let default_cost = settings.default_cost;
        let mut made = Self {
            env: Arc::clone(&env),
            on_request: Vec::new(),
            on_response: Vec::new(),
            costs: Vec::new(),
            default_cost,
        };
        for (at, rule) in settings.rules.into_iter().enumerate() {
            made.add(&env, rule).map_err(|error| format!("`rules[{at}]`: {error}"))?;
        }
        Ok(made)
    }

    fn on_request(&self, request: &Request) -> Decision {
        self.decide(&self.on_request, Exchange { request, response: None })
    }

    fn on_response(&self, request: &Request, response: &Response) -> Decision {
        self.decide(&self.on_response, Exchange { request, response: Some(response) })
    }

    fn cost(&self, request: &Request) -> u32 {
        let exchange = Exchange { request, response: None };
        let holds = |rule: &&Compiled<u32>| rule.holds(&self.env, exchange);
        self.costs.iter().find(holds).map_or(self.default_cost, |rule| rule.then)
    }
}

impl Cel {
    /// Rules are asked in their order; the first that denies ends it, and changes come together.
    fn decide(&self, rules: &[Compiled<Action>], exchange: Exchange<'_>) -> Decision {
        let mut edits = Edits::new();
        for rule in rules {
            if !rule.holds(&self.env, exchange) {
                continue;
            }
            edits = match &rule.then {
                Action::Deny(deny) => return denial(deny).into(),
                Action::Set { name, value: Text::Fixed(value) } => edits.set(name, value.as_str()),
                Action::Set { name, value: Text::Said(value) } => {
                    match value.text(&self.env, exchange) {
                        Some(text) => edits.set(name, text),
                        // What somebody else wrote there must not pass for what the rule says.
                        None => edits.remove(name),
                    }
                }
                Action::Remove(name) => edits.remove(name),
            };
        }
        edits.into()
    }

    fn add(&mut self, env: &Env, rule: Rule) -> Result<(), String> {
        let Rule { when, phase, deny, on_error, set_header, remove_header, cost } = rule;
        let (rules, scope) = match phase.unwrap_or_default() {
            Phase::Request => (&mut self.on_request, Scope::Request),
            Phase::Response => (&mut self.on_response, Scope::Response),
        };
        if on_error.is_some() && deny.is_none() {
            return Err("`on_error` goes with `deny`: other rules are skipped".to_owned());
        }
        let otherwise = deny.is_some() && on_error.unwrap_or_default() == OnError::Deny;
        let condition = |scope| Condition::parse(env, &when, scope);
        let then = match (deny, set_header, remove_header, cost) {
            (Some(deny), None, None, None) => Action::Deny(deny.checked()?),
            (None, Some(header), None, None) => {
                let (name, value) = header.checked()?;
                let value = match value {
                    Ok(text) => Text::Fixed(text),
                    Err(expression) => Text::Said(Condition::parse(env, &expression, scope)?),
                };
                Action::Set { name, value }
            }
            (None, None, Some(name), None) => Action::Remove(settings::header_name(name)?),
            (None, None, None, Some(units)) => {
                if phase.is_some() {
                    return Err("a cost has no `phase`: it is asked before the request".to_owned());
                }
                self.costs.push(Compiled {
                    when: condition(Scope::Request)?,
                    otherwise,
                    then: units,
                });
                return Ok(());
            }
            _ => {
                return Err("give exactly one of `deny`, `set_header`, `remove_header` and `cost`"
                    .to_owned());
            }
        };
        rules.push(Compiled { when: condition(scope)?, otherwise, then });
        Ok(())
    }
}

impl<A> Compiled<A> {
    fn holds(&self, env: &Arc<Env>, exchange: Exchange<'_>) -> bool {
        self.when.holds(env, exchange).unwrap_or(self.otherwise)
    }
}

fn denial(deny: &Deny) -> Denial {
    let denial = Denial::new(&deny.reason, &deny.message);
    deny.status.into_iter().fold(denial, Denial::status)
}
