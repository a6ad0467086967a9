//! What is looked for in audit and records: bounded values, and whose entries may be found at all.

use crate::acting::Acting;
use crate::problem::Refused;
use model::id::{TenantId, is_id};

/// An id in a query, if one is given; 400 when it can't be one.
pub(crate) fn id<T: for<'a> From<&'a str>>(
    name: &str,
    given: Option<String>,
) -> Result<Option<T>, Refused> {
    match given {
        None => Ok(None),
        Some(text) if is_id(&text) => Ok(Some(T::from(&text))),
        Some(_) => Err(Refused::malformed(format!("`{name}` is not an id."))),
    }
}

/// Text in a query, if it is given: at least one character, at most so many.
pub(crate) fn words(
    name: &str,
    given: Option<String>,
    max: usize,
) -> Result<Option<String>, Refused> {
    let fits = |text: &String| !text.is_empty() && text.chars().count() <= max;
    match given {
        None => Ok(None),
        Some(text) if fits(&text) => Ok(Some(text)),
        Some(_) => Err(Refused::malformed(format!("`{name}` must be 1 to {max} characters."))),
    }
}

/// Of which tenant entries are looked for: the one that is asked for, any (`Some(None)`), or none at all, when who asks is
/// bound to another.
pub(crate) fn of_tenant(acting: &Acting, asked: Option<TenantId>) -> Option<Option<TenantId>> {
    match (acting.tenant(), asked) {
        (None, asked) => Some(asked),
        (Some(own), Some(asked)) if *own != asked => None,
        (Some(own), _) => Some(Some(own.clone())),
    }
}
