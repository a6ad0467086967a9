//! An expression: parsed, and its names checked, before it is ever evaluated.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use cel::common::ast::{EntryExpr, Expr, IdedExpr, LiteralValue};
use cel::extractors::This;
use cel::{Context, Env, ExecutionError, Program, Value, extensions};
use ipnet::IpNet;
use regex_lite::Regex;
use tollgate_pack::{is_header_value, log};

use crate::fields::{Exchange, NAMES, Of};

/// The function that compares a text with a regular expression.
const MATCHES: &str = "matches";

/// The longest text that is compared, in bytes: what a caller sends must not use up the fuel.
const MATCHED: usize = 4096;

/// When an expression is evaluated.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope {
    Request,
    Response,
}

/// An expression.
pub(crate) struct Condition {
    text: String,
    program: Program,
    patterns: Arc<Patterns>,
}

/// The regular expressions that an expression writes down, compiled.
#[derive(Default)]
struct Patterns(BTreeMap<String, Regex>);

/// What expressions can call.
pub(crate) fn environment() -> Env {
    let mut env = Env::stdlib();
    env.add_extension(extensions::strings)
        .expect("none of its functions is in the standard library");
    env
}

impl Condition {
    pub(crate) fn parse(env: &Env, text: &str, scope: Scope) -> Result<Self, String> {
        let program = env.compile(text).map_err(|error| format!("`{text}`: {error}"))?;
        let mut checked = Checked { scope, bound: Vec::new(), patterns: Patterns::default() };
        checked.check(program.expression()).map_err(|error| format!("`{text}`: {error}"))?;
        Ok(Self { text: text.to_owned(), program, patterns: Arc::new(checked.patterns) })
    }

    /// Whether it holds; nothing where it can't be evaluated.
    pub(crate) fn holds(&self, env: &Arc<Env>, exchange: Exchange<'_>) -> Option<bool> {
        match self.evaluate(env, exchange)? {
            Value::Bool(holds) => Some(holds),
            other => self.failed(&format!("it is {}, and neither true nor false", type_of(&other))),
        }
    }

    /// The text that it says; nothing where it can't be evaluated.
    pub(crate) fn text(&self, env: &Arc<Env>, exchange: Exchange<'_>) -> Option<String> {
        let text = match self.evaluate(env, exchange)? {
            Value::String(text) => text.as_str().to_owned(),
            Value::Int(number) => number.to_string(),
            Value::UInt(number) => number.to_string(),
            Value::Float(number) => number.to_string(),
            Value::Bool(truth) => truth.to_string(),
            other => return self.failed(&format!("it is {}, and no text", type_of(&other))),
        };
        if is_header_value(&text) { Some(text) } else { self.failed("it has control characters") }
    }

    fn evaluate(&self, env: &Arc<Env>, exchange: Exchange<'_>) -> Option<Value> {
        let mut context = Context::with_env(Arc::clone(env));
        exchange.name_in(&mut context);
        let patterns = Arc::clone(&self.patterns);
        let matches = move |This(text): This<Arc<String>>, pattern: Arc<String>| {
            patterns.matches(&text, &pattern)
        };
        let added = context
            .add_function(MATCHES, matches)
            .and_then(|()| context.add_function("inCidr", in_cidr));
        added.expect("the standard library has neither");
        self.program.execute(&context).map_err(|error| self.failed::<()>(&told(&error))).ok()
    }

    /// Says why in the log, without the values of this exchange.
    fn failed<T>(&self, why: &str) -> Option<T> {
        log::warn(&format!("`{}` can't be evaluated: {why}", self.text));
        None
    }
}

/// What went wrong. Errors of the library hold the values that they are about.
fn told(error: &ExecutionError) -> String {
    match error {
        ExecutionError::NoSuchKey(name) => format!("there is no `{name}`"),
        ExecutionError::UndeclaredReference(name) => format!("`{name}` is not known"),
        ExecutionError::FunctionError { function, .. } => format!("`{function}` can't say"),
        ExecutionError::NoSuchOverload(overload) => overload.to_string(),
        _ => "its values don't fit together".to_owned(),
    }
}

fn type_of(value: &Value) -> &'static str {
    match value {
        Value::List(_) => "a list",
        Value::Map(_) => "a map",
        Value::Int(_) | Value::UInt(_) | Value::Float(_) => "a number",
        Value::String(_) => "a text",
        Value::Bytes(_) => "bytes",
        Value::Bool(_) => "a truth value",
        Value::Null => "null",
        _ => "something else",
    }
}

impl Patterns {
    fn matches(&self, text: &str, pattern: &str) -> Result<bool, ExecutionError> {
        if text.len() > MATCHED {
            return Err(ExecutionError::function_error(MATCHES, "the text is too long"));
        }
        if let Some(compiled) = self.0.get(pattern) {
            return Ok(compiled.is_match(text));
        }
        let compiled = Regex::new(pattern);
        let compiled = compiled.map_err(|error| ExecutionError::function_error(MATCHES, error))?;
        Ok(compiled.is_match(text))
    }
}

/// Whether an address is in a CIDR block.
fn in_cidr(This(address): This<Arc<String>>, block: Arc<String>) -> Result<bool, ExecutionError> {
    let refused = |what: &str| ExecutionError::function_error("inCidr", what);
    let address: IpAddr = address.parse().map_err(|_| refused("this is no address"))?;
    let block: IpNet = block.parse().map_err(|_| refused("this is no CIDR block"))?;
    Ok(block.contains(&address.to_canonical()))
}

/// What is found out about an expression without evaluating it.
struct Checked {
    scope: Scope,
    /// Names that are the expression's own, such as `s` in `caller.scopes.exists(s, …)`.
    bound: Vec<String>,
    patterns: Patterns,
}

impl Checked {
    fn check(&mut self, of: &IdedExpr) -> Result<(), String> {
        match &of.expr {
            Expr::Ident(name) => self.known(name).map(drop),
            Expr::Select(select) => {
                if let Expr::Ident(name) = &select.operand.expr
                    && let Some(fields) = self.known(name)?.and_then(Of::names)
                    && !fields.contains(&select.field.as_str())
                {
                    return Err(format!(
                        "`{name}` has no `{}`, but {}",
                        select.field,
                        fields.join(", ")
                    ));
                }
                self.check(&select.operand)
            }
            Expr::Call(call) => {
                self.pattern(&call.func_name, call.args.last())?;
                let mut parts = call.target.iter().map(AsRef::as_ref).chain(&call.args);
                parts.try_for_each(|part| self.check(part))
            }
            Expr::List(list) => list.elements.iter().try_for_each(|part| self.check(part)),
            Expr::Map(map) => map.entries.iter().try_for_each(|entry| self.entry(&entry.expr)),
            Expr::Struct(made) => made.entries.iter().try_for_each(|entry| self.entry(&entry.expr)),
            Expr::Comprehension(comprehension) => {
                self.check(&comprehension.iter_range)?;
                let before = self.bound.len();
                self.bound.push(comprehension.iter_var.clone());
                self.bound.extend(comprehension.iter_var2.clone());
                self.bound.push(comprehension.accu_var.clone());
                let parts = [
                    &comprehension.accu_init,
                    &comprehension.loop_cond,
                    &comprehension.loop_step,
                    &comprehension.result,
                ];
                let checked = parts.into_iter().try_for_each(|part| self.check(part));
                self.bound.truncate(before);
                checked
            }
            Expr::Literal(_) | Expr::Unspecified => Ok(()),
        }
    }

    fn entry(&mut self, entry: &EntryExpr) -> Result<(), String> {
        match entry {
            EntryExpr::StructField(field) => self.check(&field.value),
            EntryExpr::MapEntry(entry) => {
                self.check(&entry.key)?;
                self.check(&entry.value)
            }
        }
    }

    /// What a name stands for; nothing where it is the expression's own.
    fn known(&self, name: &str) -> Result<Option<Of>, String> {
        if self.bound.iter().any(|bound| bound == name) {
            return Ok(None);
        }
        match NAMES.iter().find(|(known, _)| *known == name) {
            Some((_, Of::Response)) if self.scope == Scope::Request => {
                Err("there is no `response` yet: the rule needs `phase: response`".to_owned())
            }
            Some((_, of)) => Ok(Some(*of)),
            None => {
                let known: Vec<_> = NAMES.iter().map(|(known, _)| *known).collect();
                Err(format!("`{name}` is not known, but {}", known.join(", ")))
            }
        }
    }

    /// Compiles a pattern that is written down.
    fn pattern(&mut self, function: &str, argument: Option<&IdedExpr>) -> Result<(), String> {
        let Some(Expr::Literal(LiteralValue::String(pattern))) = argument.map(|it| &it.expr) else {
            return Ok(());
        };
        if function == MATCHES {
            let pattern = pattern.inner();
            let compiled = Regex::new(pattern).map_err(|error| format!("`{pattern}`: {error}"))?;
            self.patterns.0.insert(pattern.to_owned(), compiled);
        }
        Ok(())
    }
}
