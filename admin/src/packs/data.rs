//! `/v1/packs/{id}/data`: what packs of this name may read, as bytes under keys. It belongs to no tenant.
//!
//! Invariant: a value is in the answer to who reads it and nowhere else: neither the audit nor a log has it.

use super::{entries, text};
use crate::Shared;
use crate::allowed::{Attacher, Reader};
use crate::answer::Answer;
use crate::body::{self, NoQuery, Path, Query};
use crate::page::{Page, PageQuery};
use crate::precondition::{Conditions, Guard, is_known, tag_of};
use crate::problem::Refused;
use axum::body::Bytes;
use axum::extract::{FromRequest, Request, State};
use axum::response::{IntoResponse as _, Response};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use jiff::Timestamp;
use model::ErrorCode;
use model::id::{PackId, is_id};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::json;
use std::sync::Arc;
use store::control::{DATUM_KEY_MAX, DATUM_VALUE_MAX, Effect, Over, PackDatum, Write};

/// What values are answered as: only packs know what they are.
pub(crate) const BYTES: &str = "application/octet-stream";

/// What there is under a key, without the value.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "PackDatum")]
pub(crate) struct Datum {
    /// The key.
    key: String,
    /// The value's size in bytes.
    size: u64,
    /// The value's tag.
    etag: String,
    /// Since when it is so.
    updated_at: Timestamp,
    /// Who put it there.
    by: String,
}

impl From<&PackDatum> for Datum {
    fn from(datum: &PackDatum) -> Self {
        Self {
            key: datum.key.clone(),
            size: datum.value.len() as u64,
            etag: tag_of(&datum.value),
            updated_at: datum.at,
            by: datum.by.clone(),
        }
    }
}

/// A value as it is sent.
pub(super) struct Sent(Bytes);

impl<S: Sync> FromRequest<S> for Sent {
    type Rejection = Refused;

    async fn from_request(request: Request, _: &S) -> Result<Self, Refused> {
        body::bytes(request, DATUM_VALUE_MAX).await.map(Self)
    }
}

/// `GET /v1/packs/{id}/data`: by key.
pub(super) async fn list(
    State(shared): State<Arc<Shared>>,
    Reader(acting): Reader,
    Path(pack): Path<String>,
    Query(query): Query<PageQuery>,
) -> Result<Answer, Refused> {
    acting.unbound()?;
    let page = Page::of("packs.data", query.limit, query.cursor.as_deref())?;
    let pack = named(&pack)?;
    let data = shared.store.pack_data(&pack).await?.entries;
    if data.is_empty() {
        is_there(&shared, &pack).await?;
    }
    let keyed = data.iter().map(|datum| (datum.key.clone(), datum));
    Ok(Answer::ok(&page.sorted(keyed).map(|(_, datum)| Datum::from(datum))))
}

/// `GET /v1/packs/{id}/data/{key}`: the value.
pub(super) async fn get(
    State(shared): State<Arc<Shared>>,
    Reader(acting): Reader,
    Path((pack, key)): Path<(String, String)>,
    NoQuery: NoQuery,
    headers: HeaderMap,
) -> Result<Response, Refused> {
    acting.unbound()?;
    let datum = shared.store.pack_datum(&named(&pack)?, &key).await?.ok_or(ErrorCode::NotFound)?;
    let etag = tag_of(&datum.value);
    let answer = Answer::ok(&()).tagged(etag.clone());
    if is_known(&headers, &etag) {
        return Ok(answer.not_modified());
    }
    let mut response = answer.into_response();
    let headers = response.headers_mut();
    headers.remove(header::CONTENT_LENGTH);
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(BYTES));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    *response.body_mut() = datum.value.into();
    Ok(response)
}

/// `PUT /v1/packs/{id}/data/{key}`: gateways have it within a second, without a new revision.
pub(super) async fn put(
    State(shared): State<Arc<Shared>>,
    Attacher(acting): Attacher,
    Path((pack, key)): Path<(String, String)>,
    NoQuery: NoQuery,
    headers: HeaderMap,
    Sent(value): Sent,
) -> Result<Answer, Refused> {
    acting.unbound()?;
    let pack = named(&pack)?;
    if !is_key(&key) {
        let message = format!(
            "A key is 1 to {DATUM_KEY_MAX} visible characters of ASCII, of which the first is no dot."
        );
        return Err(Refused::malformed(message));
    }
    is_there(&shared, &pack).await?;
    let present = shared.store.pack_datum(&pack, &key).await?;
    let tag = present.as_ref().map(|datum| tag_of(&datum.value));
    Conditions::of(&headers)?.permit(tag.as_deref(), Guard::Required)?;
    let (at, by) = (shared.clock.now(), acting.actor.name.clone());
    let datum = PackDatum { pack, key, value, at, by };
    let shown = Datum::from(&datum);
    let sizes =
        json!({ "before": present.as_ref().map(|old| old.value.len()), "after": shown.size });
    let audit = acting.entry(&shared, json!({ "key": shown.key, "size": sizes }));
    let status = if present.is_some() { StatusCode::OK } else { StatusCode::CREATED };
    let over = present.map_or(Over::Nothing, |old| Over::Value(old.value));
    let effect = Effect::PutPackData(Box::new(datum), over);
    shared.store.write(Write { effect, audit, answer: None }).await?;
    Ok(Answer::new(status, &shown).tagged(shown.etag.clone()))
}

/// `DELETE /v1/packs/{id}/data/{key}`
pub(super) async fn delete(
    State(shared): State<Arc<Shared>>,
    Attacher(acting): Attacher,
    Path((pack, key)): Path<(String, String)>,
    NoQuery: NoQuery,
    headers: HeaderMap,
) -> Result<Answer, Refused> {
    acting.unbound()?;
    let pack = named(&pack)?;
    let present = shared.store.pack_datum(&pack, &key).await?.ok_or(ErrorCode::NotFound)?;
    let shown = Datum::from(&present);
    Conditions::of(&headers)?.permit(Some(&shown.etag), Guard::Required)?;
    let sizes = json!({ "before": shown.size, "after": null });
    let audit = acting.entry(&shared, json!({ "key": key, "size": sizes }));
    let effect = Effect::DeletePackData { pack, key, over: Over::Value(present.value) };
    shared.store.write(Write { effect, audit, answer: None }).await?;
    Ok(Answer::ok(&shown))
}

/// A dot segment would be taken out of the path on its way.
fn is_key(key: &str) -> bool {
    (1..=DATUM_KEY_MAX).contains(&key.len())
        && !key.starts_with('.')
        && key.bytes().all(|b| b.is_ascii_graphic())
}

fn named(pack: &str) -> Result<PackId, Refused> {
    if is_id(pack) { Ok(pack.into()) } else { Err(ErrorCode::NotFound.into()) }
}

/// Refuses packs that the document does not have.
async fn is_there(shared: &Shared, pack: &PackId) -> Result<(), Refused> {
    let newest = shared.newest().await?;
    let found = entries(&newest.document, "packs").any(|e| text(e, "/id") == Some(pack.as_str()));
    if found { Ok(()) } else { Err(ErrorCode::NotFound.into()) }
}
