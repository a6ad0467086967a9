//! Where resources stand in the document, found by the API's paths.
//!
//! Invariant: whoever holds a [`Place`] or a [`Collection`] from a request may do there what the request's method says:
//! both are extractors that ask the token's role and tenant first.

use crate::acting::Acting;
use crate::difference::escape;
pub(crate) use crate::kind::{KINDS, Kind};
use crate::ownership;
use crate::problem::Refused;
use axum::extract::{FromRequestParts, MatchedPath, RawPathParams};
use http::Method;
use http::request::Parts;
use model::ErrorCode;
use model::role::{Permission, Section};
use serde_json::Value;

/// Where one resource stands, whether it is there or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// The part of the document.
    pub(crate) section: Section,
    steps: Vec<Step>,
}

/// One entry of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Step {
    list: &'static str,
    keys: Vec<(&'static str, String)>,
}

impl Step {
    fn is(&self, entry: &Value) -> bool {
        let named = |(field, key): &(&str, String)| {
            entry.get(field).and_then(Value::as_str) == Some(key.as_str())
        };
        self.keys.iter().all(named)
    }

    fn index(&self, parent: &Value) -> Option<usize> {
        parent.get(self.list)?.as_array()?.iter().position(|entry| self.is(entry))
    }
}

/// A resource where it stands.
#[derive(Clone, Debug)]
pub(crate) struct Found<'a> {
    /// Its pointer in the document (RFC 6901).
    pub(crate) pointer: String,
    /// It.
    pub(crate) value: &'a Value,
}

impl Place {
    /// A place of this kind: `keys` in the order of the path's parameters.
    pub(crate) fn new(kind: &Kind, keys: impl IntoIterator<Item = String>) -> Option<Self> {
        let mut keys = keys.into_iter();
        let steps = kind.steps.iter().map(|(list, fields)| {
            let keys = fields.iter().map(|field| Some((*field, keys.next()?)));
            Some(Step { list, keys: keys.collect::<Option<_>>()? })
        });
        Some(Self { section: kind.section, steps: steps.collect::<Option<_>>()? })
    }

    /// An entry of a section.
    pub(crate) fn root(section: Section, id: &str) -> Self {
        let step = Step { list: section.as_str(), keys: vec![("id", id.to_owned())] };
        Self { section, steps: vec![step] }
    }

    /// An entry of a list within this resource.
    #[must_use]
    pub(crate) fn within(&self, list: &'static str, id: &str) -> Self {
        let mut steps = self.steps.clone();
        steps.push(Step { list, keys: vec![("id", id.to_owned())] });
        Self { section: self.section, steps }
    }

    /// The resource, if it is there.
    pub(crate) fn find<'a>(&self, document: &'a Value) -> Option<Found<'a>> {
        let start = Found { pointer: String::new(), value: document };
        self.steps.iter().try_fold(start, |Found { pointer, value }, step| {
            let index = step.index(value)?;
            let pointer = format!("{pointer}/{}/{index}", escape(step.list));
            Some(Found { pointer, value: value.get(step.list)?.get(index)? })
        })
    }

    /// The entry of the section that the resource is, or is within.
    pub(crate) fn outermost<'a>(&self, document: &'a Value) -> Option<&'a Value> {
        let first = self.steps.first()?;
        document.get(first.list)?.get(first.index(document)?)
    }

    /// Puts the resource there, or takes it away; says where it stands now. 404 when what it is within is not there.
    pub(crate) fn set(
        &self,
        document: &mut Value,
        resource: Option<Value>,
    ) -> Result<Option<String>, Refused> {
        let not_found = || Refused::from(ErrorCode::NotFound);
        let (last, outer) = self.steps.split_last().ok_or_else(not_found)?;
        let mut parent = document;
        let mut pointer = String::new();
        for step in outer {
            let index = step.index(parent).ok_or_else(not_found)?;
            pointer = format!("{pointer}/{}/{index}", step.list);
            parent = parent
                .get_mut(step.list)
                .and_then(|list| list.get_mut(index))
                .ok_or_else(not_found)?;
        }
        let found = last.index(parent);
        let fields = parent.as_object_mut().ok_or_else(not_found)?;
        let list = fields.entry(last.list).or_insert_with(|| Value::Array(Vec::new()));
        let list = list.as_array_mut().ok_or_else(not_found)?;
        let index = match (found, resource) {
            (Some(index), Some(resource)) => {
                if let Some(entry) = list.get_mut(index) {
                    *entry = resource;
                }
                index
            }
            (None, Some(resource)) => {
                list.push(resource);
                list.len() - 1
            }
            (Some(index), None) => {
                list.remove(index);
                return Ok(None);
            }
            (None, None) => return Ok(None),
        };
        Ok(Some(format!("{pointer}/{}/{index}", last.list)))
    }

    /// The fields by which the resource is known, with their values.
    pub(crate) fn keys(&self) -> &[(&'static str, String)] {
        self.steps.last().map(|step| step.keys.as_slice()).unwrap_or_default()
    }

    /// The tenant whose place it is by its path.
    fn tenant(&self) -> Option<&str> {
        let first = self.steps.first().filter(|step| step.list == Section::Tenants.as_str())?;
        first.keys.first().map(|(_, id)| id.as_str())
    }
}

/// Where the resources of one kind stand.
#[derive(Clone, Debug)]
pub(crate) struct Collection {
    /// Which kind.
    pub(crate) kind: &'static Kind,
    /// What the list is within.
    outer: Option<Place>,
}

impl Collection {
    /// The entries; none when what the list is within is not there.
    pub(crate) fn entries<'a>(&self, document: &'a Value) -> Option<&'a [Value]> {
        let parent = match &self.outer {
            None => document,
            Some(outer) => outer.find(document)?.value,
        };
        let (list, _) = self.kind.steps.last()?;
        Some(parent.get(*list).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default())
    }

    /// What an entry is known by, as one text.
    pub(crate) fn key(&self, entry: &Value) -> String {
        let fields = self.kind.steps.last().map(|(_, fields)| *fields).unwrap_or_default();
        let keys = fields.iter().filter_map(|field| entry.get(field)?.as_str());
        keys.collect::<Vec<_>>().join("@")
    }
}

/// Asks role and tenant for what the method does to a section.
fn permit(acting: &Acting, method: &Method, section: Section) -> Result<(), Refused> {
    acting.may(match *method {
        Method::GET | Method::HEAD => Permission::Read,
        _ => Permission::Change(section),
    })?;
    if ownership::is_shared(section) { Ok(()) } else { acting.unbound() }
}

async fn keys<S: Send + Sync>(parts: &mut Parts, state: &S) -> Result<Vec<String>, Refused> {
    let params = RawPathParams::from_request_parts(parts, state).await;
    let params = params.map_err(|_| Refused::from(ErrorCode::NotFound))?;
    Ok(params.iter().map(|(_, value)| value.to_owned()).collect())
}

fn matched(parts: &Parts) -> &str {
    parts.extensions.get::<MatchedPath>().map(MatchedPath::as_str).unwrap_or_default()
}

impl<S: Send + Sync> FromRequestParts<S> for Place {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refused> {
        let acting = Acting::from_request_parts(parts, state).await?;
        let kind = KINDS.iter().find(|kind| kind.one == matched(parts));
        let kind = kind.ok_or_else(|| Refused::internal("a route that is no kind's"))?;
        permit(&acting, &parts.method, kind.section)?;
        let place = Self::new(kind, keys(parts, state).await?).ok_or(ErrorCode::NotFound)?;
        place.tenant().map_or(Ok(()), |tenant| acting.sees(tenant))?;
        Ok(place)
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Collection {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refused> {
        let acting = Acting::from_request_parts(parts, state).await?;
        let kind = KINDS.iter().find(|kind| kind.list == matched(parts));
        let kind = kind.ok_or_else(|| Refused::internal("a route that is no kind's"))?;
        permit(&acting, &parts.method, kind.section)?;
        let keys = keys(parts, state).await?;
        let outer = kind.steps.split_last().map(|(_, outer)| outer).unwrap_or_default();
        let outer = if outer.is_empty() {
            None
        } else {
            let outer = Kind { steps: outer, ..*kind };
            Some(Place::new(&outer, keys).ok_or(ErrorCode::NotFound)?)
        };
        outer.as_ref().and_then(Place::tenant).map_or(Ok(()), |tenant| acting.sees(tenant))?;
        Ok(Self { kind, outer })
    }
}
