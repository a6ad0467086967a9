//! The resources of the document: read and changed in one way, whatever their kind ([`KINDS`]).

use crate::Shared;
use crate::acting::Acting;
use crate::answer::Answer;
use crate::body::{Merge, Query, Whole};
use crate::endpoints;
use crate::newest::Newest;
use crate::once::Once;
use crate::ownership;
use crate::packs;
use crate::page::{Page, PageQuery};
use crate::place::{Collection, KINDS, Place};
use crate::precondition::{Conditions, is_known, tag};
use crate::problem::Refused;
use crate::secret;
use crate::verbs;
use crate::write::{ChangeQuery, Edit, How, Made, Proposal, Writing};
use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use axum::routing;
use http::{HeaderMap, StatusCode};
use model::config::ConfigError;
use model::role::Section;
use model::{ErrorCode, Reject};
use serde_json::Value;
use std::sync::Arc;

/// The routes of all kinds.
pub(crate) fn routes() -> Router<Arc<Shared>> {
    KINDS.iter().fold(Router::new(), |router, kind| {
        let one = routing::get(get).put(put).patch(patch).delete(delete);
        let one = match kind.section {
            Section::Packs => verbs::split(Some(one), packs::verbs()),
            Section::Endpoints => verbs::split(Some(one), endpoints::verbs()),
            _ => one,
        };
        router.route(kind.list, routing::get(list)).route(kind.one, one)
    })
}

/// `GET` of a list: by id, as the document's entries have no time.
async fn list(
    State(shared): State<Arc<Shared>>,
    acting: Acting,
    collection: Collection,
    Query(query): Query<PageQuery>,
) -> Result<Answer, Refused> {
    let page = Page::of(collection.kind.name, query.limit, query.cursor.as_deref())?;
    let newest = shared.newest().await?;
    let entries = collection.entries(&newest.document).ok_or(ErrorCode::NotFound)?;
    let seen = |entry: &&Value| sees(&acting, &collection, entry);
    let keyed = entries.iter().filter(seen).map(|entry| (collection.key(entry), entry));
    let mut listed = page.sorted(keyed).map(|(_, entry)| entry.clone());
    show(&shared, collection.kind.section, &mut listed.items).await?;
    Ok(Answer::ok(&listed).of_revision(newest.number))
}

fn sees(acting: &Acting, collection: &Collection, entry: &Value) -> bool {
    // What is within a resource is whose that is.
    let [_] = collection.kind.steps else { return true };
    owns(acting, collection.kind.section, entry)
}

fn owns(acting: &Acting, section: Section, entry: &Value) -> bool {
    let own = acting.tenant().map(model::id::TenantId::as_str);
    own.is_none() || own == ownership::owner(section, entry)
}

/// `GET` of one.
async fn get(
    State(shared): State<Arc<Shared>>,
    acting: Acting,
    place: Place,
    headers: HeaderMap,
) -> Result<Response, Refused> {
    let newest = shared.newest().await?;
    let resource = match standing(&acting, &place, &newest) {
        Standing::Seen(resource) => resource,
        Standing::Hidden => return Err(Refused::hidden()),
        Standing::Nothing => return Err(ErrorCode::NotFound.into()),
    };
    let mut shown = [resource.clone()];
    show(&shared, place.section, &mut shown).await?;
    let [shown] = &shown;
    let answer = Answer::ok(shown).tagged(tag(resource)).of_revision(newest.number);
    if is_known(&headers, &tag(resource)) {
        return Ok(answer.not_modified());
    }
    Ok(answer.into_response())
}

/// Shows entries with what is known of them beside the document. Their tags are of what the document says.
async fn show(shared: &Shared, section: Section, entries: &mut [Value]) -> Result<(), Refused> {
    match section {
        Section::Packs => packs::with_files(shared, entries).await,
        Section::Endpoints => endpoints::with_standings(shared, entries).await,
        _ => Ok(()),
    }
}

/// What stands at a place.
#[derive(Clone, Copy)]
enum Standing<'a> {
    /// What who asks may see.
    Seen(&'a Value),
    /// What is another tenant's: as if it were not there, and its id is taken all the same.
    Hidden,
    /// Nothing.
    Nothing,
}

fn standing<'a>(acting: &Acting, place: &Place, newest: &'a Newest) -> Standing<'a> {
    let Some(found) = place.find(&newest.document) else { return Standing::Nothing };
    match place.outermost(&newest.document) {
        Some(entry) if owns(acting, place.section, entry) => Standing::Seen(found.value),
        _ => Standing::Hidden,
    }
}

/// `PUT`: makes or replaces it.
async fn put(
    State(shared): State<Arc<Shared>>,
    acting: Acting,
    place: Place,
    Query(query): Query<ChangeQuery>,
    headers: HeaderMap,
    Whole(sent): Whole,
) -> Result<Answer, Refused> {
    let sent = secret::sealed(&shared.keys, named(&place, sent)?)?;
    let make = move |_: Option<&Value>| Ok(Some(sent.clone()));
    changed(&shared, &acting, place, (&query, &headers), make).await
}

/// `PATCH`: merges into it (RFC 7396).
async fn patch(
    State(shared): State<Arc<Shared>>,
    acting: Acting,
    place: Place,
    Query(query): Query<ChangeQuery>,
    headers: HeaderMap,
    Merge(sent): Merge,
) -> Result<Answer, Refused> {
    let sent = secret::sealed(&shared.keys, sent)?;
    let at = place.clone();
    let make = move |present: Option<&Value>| {
        let mut merged = present.ok_or(ErrorCode::NotFound)?.clone();
        json_patch::merge(&mut merged, &sent);
        named(&at, merged).map(Some)
    };
    changed(&shared, &acting, place, (&query, &headers), make).await
}

/// `DELETE`.
async fn delete(
    State(shared): State<Arc<Shared>>,
    acting: Acting,
    place: Place,
    Query(query): Query<ChangeQuery>,
    headers: HeaderMap,
) -> Result<Answer, Refused> {
    let make = |present: Option<&Value>| {
        present.ok_or(ErrorCode::NotFound)?;
        Ok(None)
    };
    changed(&shared, &acting, place, (&query, &headers), make).await
}

/// Changes what stands at a place: `make` says what it will be, given what it is.
pub(crate) async fn changed(
    shared: &Shared,
    acting: &Acting,
    place: Place,
    (query, headers): (&ChangeQuery, &HeaderMap),
    make: impl Fn(Option<&Value>) -> Result<Option<Value>, Refused> + Send + Sync + 'static,
) -> Result<Answer, Refused> {
    let how = How::of(shared, acting, query).await?;
    let (conditions, guard) = (Conditions::of(headers)?, how.guard());
    let (at, asking) = (place.clone(), acting.clone());
    let edit: Edit = Arc::new(move |newest| {
        let (present, taken) = match standing(&asking, &at, newest) {
            Standing::Seen(present) => (Some(present), false),
            Standing::Hidden => (None, true),
            Standing::Nothing => (None, false),
        };
        let resource = || {
            if present.is_none() {
                // RFC 9110 §13.2.1: what is refused anyway is refused for its own reason.
                make(None)?;
            }
            conditions.permit(present.map(tag).as_deref(), guard)?;
            make(present)
        };
        let resource = if taken {
            let taken = || Reject::new(ErrorCode::Conflict).message("This id is taken.").into();
            resource().and_then(|_| Err(taken())).map_err(Refused::hiding)
        } else {
            resource()
        }?;
        let mut document = newest.document.clone();
        let at = at.set(&mut document, resource)?;
        Ok(Proposal { document, text: None, at })
    });
    let answer = |made: &Made| {
        let now = place.find(&made.document).map(|found| found.value);
        let created = now.is_some() && place.find(&made.base.document).is_none();
        let answer = made.changed(&how, now.map(tag), now.cloned());
        // What is on some nodes only is not made yet.
        if created && how.nodes.is_none() {
            answer.with_status(StatusCode::CREATED)
        } else {
            answer
        }
    };
    Writing { shared, acting, how: &how, once: &Once::NEVER }.change(edit, answer).await
}

/// The resource with the ids of its place: absent ones are filled in, others are errors.
fn named(place: &Place, resource: Value) -> Result<Value, Refused> {
    let Value::Object(mut fields) = resource else {
        let error = ConfigError::new("", "must be an object");
        return Err(Refused::unfit(&[error]));
    };
    // What is shown beside the document's own fields may come back with them.
    match place.section {
        Section::Packs => drop(fields.shift_remove(packs::FILE)),
        Section::Endpoints => drop(fields.shift_remove(endpoints::STANDING)),
        _ => {}
    }
    for (index, (field, key)) in place.keys().iter().enumerate() {
        match fields.get(*field) {
            None => {
                fields.shift_insert(index, (*field).to_owned(), key.as_str().into());
            }
            Some(Value::String(own)) if own == key => {}
            Some(_) => {
                let message = format!("must be `{key}`, as in the path");
                let error = ConfigError::new(format!("/{field}"), message);
                return Err(Refused::unfit(&[error]));
            }
        }
    }
    Ok(Value::Object(fields))
}
