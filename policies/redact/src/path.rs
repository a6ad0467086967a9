//! The part of JSONPath (RFC 9535) that names fields: `$`, `.name`, `['name']`, `[3]`, `.*`, `[*]`, and `..` before each.

use std::iter::Peekable;
use std::str::Chars;

use tollgate_pack::serde_json::Value;

use crate::How;

/// Where fields are.
pub(crate) struct Path {
    steps: Vec<Step>,
}

enum Step {
    /// The members of this name.
    Name(String),
    /// The item at this place.
    Index(usize),
    /// All members and items.
    Every,
    /// What follows, here and at any depth.
    Deep,
}

impl Path {
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let steps = text.strip_prefix('$').and_then(|rest| steps(rest.chars().peekable()));
        match steps {
            Some(steps) if !steps.is_empty() => Ok(Self { steps }),
            Some(_) | None => Err(format!(
                "`{text}` is no path: write `$.name`, `$.items[*].name`, `$['name']`, `$.items[0]`, or `$..name`"
            )),
        }
    }

    /// Hides what is there, and tells whether there was something.
    pub(crate) fn hide(&self, value: &mut Value, how: How) -> bool {
        hide(value, &self.steps, how)
    }
}

fn steps(mut rest: Peekable<Chars<'_>>) -> Option<Vec<Step>> {
    let mut steps = Vec::new();
    while let Some(next) = rest.next() {
        let bracket = match next {
            '[' => true,
            '.' if rest.next_if_eq(&'.').is_some() => {
                steps.push(Step::Deep);
                rest.next_if_eq(&'[').is_some()
            }
            '.' => false,
            _ => return None,
        };
        let step = if bracket { bracketed(&mut rest)? } else { named(&mut rest)? };
        steps.push(step);
    }
    Some(steps)
}

/// What follows a dot.
fn named(rest: &mut Peekable<Chars<'_>>) -> Option<Step> {
    if rest.next_if_eq(&'*').is_some() {
        return Some(Step::Every);
    }
    let mut name = String::new();
    let part = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-') || !c.is_ascii();
    while let Some(c) = rest.next_if(part) {
        name.push(c);
    }
    (!name.is_empty()).then_some(Step::Name(name))
}

/// What follows an opening bracket.
fn bracketed(rest: &mut Peekable<Chars<'_>>) -> Option<Step> {
    let step = match rest.next()? {
        '*' => Step::Every,
        quote @ ('\'' | '"') => {
            let mut name = String::new();
            loop {
                match rest.next()? {
                    '\\' => name.push(rest.next().filter(|c| matches!(c, '\\' | '\'' | '"'))?),
                    c if c == quote => break,
                    c => name.push(c),
                }
            }
            Step::Name(name)
        }
        first => {
            let mut digits = String::from(first);
            while let Some(c) = rest.next_if(char::is_ascii_digit) {
                digits.push(c);
            }
            Step::Index(digits.parse().ok()?)
        }
    };
    (rest.next()? == ']').then_some(step)
}

fn hide(value: &mut Value, steps: &[Step], how: How) -> bool {
    match steps {
        [] => false,
        [Step::Deep, rest @ ..] => {
            let here = hide(value, rest, how);
            let deeper = in_children(value, steps, how);
            here | deeper
        }
        [last] => hide_children(value, last, how),
        [step, rest @ ..] => match (step, value) {
            (Step::Every | Step::Deep, value) => in_children(value, rest, how),
            (Step::Name(name), Value::Object(members)) => {
                members.get_mut(name).is_some_and(|child| hide(child, rest, how))
            }
            (Step::Index(at), Value::Array(items)) => {
                items.get_mut(*at).is_some_and(|child| hide(child, rest, how))
            }
            _ => false,
        },
    }
}

fn hide_children(value: &mut Value, which: &Step, how: How) -> bool {
    match (which, value) {
        (Step::Name(name), Value::Object(members)) => {
            let Some(held) = members.get_mut(name) else { return false };
            match how.shown(held) {
                Some(shown) => *held = shown,
                // The order of the others stays.
                None => drop(members.shift_remove(name)),
            }
            true
        }
        (Step::Index(at), Value::Array(items)) => {
            let Some(held) = items.get_mut(*at) else { return false };
            match how.shown(held) {
                Some(shown) => *held = shown,
                None => drop(items.remove(*at)),
            }
            true
        }
        (Step::Every, Value::Object(members)) => {
            let any = !members.is_empty();
            members.retain(|_, held| replaced(held, how));
            any
        }
        (Step::Every, Value::Array(items)) => {
            let any = !items.is_empty();
            items.retain_mut(|held| replaced(held, how));
            any
        }
        _ => false,
    }
}

/// Puts what is shown in the place of a value; false where nothing is.
fn replaced(held: &mut Value, how: How) -> bool {
    let shown = how.shown(held);
    let stays = shown.is_some();
    *held = shown.unwrap_or_default();
    stays
}

fn in_children(value: &mut Value, steps: &[Step], how: How) -> bool {
    let hide_in = |any, child: &mut Value| {
        // Most values are leaves, and paths go on.
        let leaf = !matches!(child, Value::Object(_) | Value::Array(_));
        if leaf { any } else { hide(child, steps, how) | any }
    };
    match value {
        Value::Object(members) => members.values_mut().fold(false, hide_in),
        Value::Array(items) => items.iter_mut().fold(false, hide_in),
        _ => false,
    }
}
