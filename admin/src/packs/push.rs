//! `POST /v1/packs`: a pack file is checked, tried, kept, and named in the document.
//!
//! Invariant: nothing is kept that was not [`Checked`], and of two files under one name and version the first stays.

use super::check::{Checked, Kept, Unkept, entry, signer};
use crate::Shared;
use crate::acting::Acting;
use crate::answer::{Answer, DryRun};
use crate::body::{self, Query};
use crate::once::{Named, Once, Undone};
use crate::openapi;
use crate::precondition::tag;
use crate::problem::{Refused, located};
use crate::write::{Edit, How, Made, Proposal, Run, TryQuery, Writing};
use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts, Request, State};
use axum::response::Response;
use http::request::Parts;
use http::{HeaderMap, StatusCode, header};
use model::audit::Entry;
use model::id::{PackId, PackKeyId};
use model::role::{Permission, Section};
use model::{ErrorCode, Reject};
use pack_host::{MAX_FILE_BYTES, Package, Trial};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use store::control::{Effect, PackFile, PackInfo, Write};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;

/// What a pack file is sent as: an OCI image layout in a tar.
pub(crate) const KIND: &str = "application/vnd.oci.image.layout.v1.tar";
/// How many pack files are read and tried at once; others wait with their bodies unread.
pub(crate) const PUSHES_MAX: usize = 2;
/// How long they wait.
const PUSH_WAIT_MAX: Duration = Duration::from_secs(10);

/// A pack that is kept.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct PushedPack {
    /// Its name.
    id: PackId,
    /// Its version.
    #[schemars(extend("format" = "pack-version"))]
    version: String,
    /// `sha256:` and the hex SHA-256 of its manifest.
    #[schemars(extend("format" = "sha256"))]
    digest: String,
    /// The key that it is signed with.
    key: PackKeyId,
    /// The file's size in bytes.
    size: u64,
    /// Whether the document names it, so that attachments may. Where the document is kept in a file, it has to be named
    /// there.
    named: bool,
    /// The revision that names it; absent where the document is kept in a file.
    #[serde(skip_serializing_if = "Option::is_none")]
    revision: Option<u64>,
    /// What its vectors came to.
    #[schemars(with = "openapi::TrialShown")]
    trial: Trial,
}

/// Whoever ships packs. They belong to no tenant, and neither does who ships them.
pub(super) struct Shipper(Acting);

impl<S: Send + Sync> FromRequestParts<S> for Shipper {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refused> {
        let acting = Acting::from_request_parts(parts, state).await?;
        acting.may(Permission::Change(Section::Packs))?;
        acting.unbound()?;
        Ok(Self(acting))
    }
}

/// A pack file as it is sent, and its place among those that are in memory.
pub(super) struct Sent {
    bytes: Bytes,
    once: Once,
    _place: OwnedSemaphorePermit,
}

impl FromRequest<Arc<Shared>> for Sent {
    type Rejection = Undone;

    async fn from_request(request: Request, shared: &Arc<Shared>) -> Result<Self, Undone> {
        let named = Named::of(&request)?;
        is_no_json(request.headers())?;
        let waiting = timeout(PUSH_WAIT_MAX, shared.pushes.clone().acquire_owned()).await;
        let place = waiting.map_err(|_| {
            let busy = Reject::new(ErrorCode::Overloaded);
            busy.message("Other packs are being tried.").retry_after(1)
        })?;
        let place = place.map_err(Refused::internal)?;
        let bytes = body::bytes(request, MAX_FILE_BYTES).await?;
        let once = named.once(shared, &bytes).await?;
        Ok(Self { bytes, once, _place: place })
    }
}

fn is_no_json(headers: &HeaderMap) -> Result<(), Refused> {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    let essence = kind.unwrap_or_default().split(';').next().unwrap_or_default().trim();
    if body::JSON.iter().any(|json| json.eq_ignore_ascii_case(essence)) {
        let message = format!("The body is the pack file itself: send it as `{KIND}`.");
        return Err(Refused::malformed(message));
    }
    Ok(())
}

/// `POST /v1/packs`
pub(super) async fn push(
    State(shared): State<Arc<Shared>>,
    Shipper(acting): Shipper,
    Query(query): Query<TryQuery>,
    Sent { bytes, once, _place }: Sent,
) -> Result<Response, Refused> {
    let how = How { run: query.run(), ..How::PLAIN };
    let writing = Writing { shared: &shared, acting: &acting, how: &how, once: &once };
    once.done(&shared, Push { writing }.run(bytes)).await
}

/// An upload on its way.
struct Push<'a> {
    writing: Writing<'a>,
}

impl Push<'_> {
    async fn run(&self, bytes: Bytes) -> Result<Answer, Refused> {
        let Writing { shared, how, .. } = self.writing;
        let dry = how.run == Run::Dry;
        let checked = match Checked::of(shared, &bytes).await {
            Ok(checked) => checked,
            Err(Unkept::Errors(errors)) if dry => {
                let errors = located(&errors, Some(""));
                return Ok(Answer::ok(&DryRun { valid: false, errors, difference: json!([]) }));
            }
            Err(Unkept::Errors(errors)) => return Err(Refused::unfit(&errors)),
            Err(Unkept::Refused(refused)) => return Err(refused),
        };
        let size = bytes.len() as u64;
        if shared.revisions.is_read_only() {
            return self.beside_a_file(&checked, bytes).await;
        }
        if !dry {
            self.keep(&checked, bytes, None).await?;
        }
        let (package, place) = (checked.package.clone(), checked.place.clone());
        let edit: Edit = Arc::new(move |newest| {
            signer(&newest.document, &package).map_err(|error| Refused::unfit(&[error]))?;
            let mut document = newest.document.clone();
            let at = match entry(&newest.document, &place, &package)? {
                Some(at) => Some(at),
                None => place.set(&mut document, Some(named(&package)))?,
            };
            Ok(Proposal { document, text: None, at })
        });
        let is_new = matches!(checked.kept, Kept::Nothing);
        let tell = |made: &Made| {
            let body = checked.shown(size, true, Some(made.revision));
            let answer = checked.answer(is_new || made.changes(), &body);
            let entry = checked.place.find(&made.document).map(|found| tag(found.value));
            entry.into_iter().fold(answer.of_revision(made.revision), Answer::tagged)
        };
        self.writing.change(edit, tell).await
    }

    /// Where the document is kept in a file: what names the pack is not ours to write.
    async fn beside_a_file(&self, checked: &Checked, bytes: Bytes) -> Result<Answer, Refused> {
        let Writing { shared, how, once, .. } = self.writing;
        if how.run == Run::Dry {
            let (errors, difference) = (json!([]), json!([]));
            return Ok(Answer::ok(&DryRun { valid: true, errors, difference }));
        }
        let newest = shared.newest().await?;
        let is_named = entry(&newest.document, &checked.place, &checked.package)?.is_some();
        let body = checked.shown(bytes.len() as u64, is_named, None);
        let answer = checked.answer(matches!(checked.kept, Kept::Nothing), &body);
        self.keep(checked, bytes, once.keep(&answer)?).await?;
        Ok(answer)
    }

    /// Keeps the file, if it is not there yet as it is.
    async fn keep(
        &self,
        checked: &Checked,
        bytes: Bytes,
        answer: Option<model::revision::KeptAnswer>,
    ) -> Result<(), Refused> {
        let Writing { shared, acting, .. } = self.writing;
        let Checked { package, key, trial, .. } = checked;
        let resigns = match &checked.kept {
            Kept::Same => return Ok(()),
            Kept::Nothing => None,
            Kept::Signed(old) => Some(old.clone()),
        };
        let (name, version) = (package.name().clone(), package.version().to_owned());
        let (digest, size) = (package.digest().to_owned(), bytes.len() as u64);
        let facts = json!({ "digest": digest, "key": key, "size": size, "resigns": resigns });
        let resource = checked.path();
        let audit = Entry { resource, ..acting.entry(shared, facts) };
        let info = PackInfo {
            name,
            version,
            digest,
            key: key.clone(),
            size,
            manifest: serde_json::to_value(package.manifest()).map_err(Refused::internal)?,
            reusable: trial.reusable,
            image: trial.image,
            vectors: trial.vectors.len() as u64,
            uploaded_at: shared.clock.now(),
            by: acting.actor.name.clone(),
        };
        let trial = serde_json::to_value(trial).map_err(Refused::internal)?;
        let file = Box::new(PackFile { info, trial, bytes });
        let effect = Effect::KeepPack { file, resigns };
        shared.store.write(Write { effect, audit, answer }).await?;
        Ok(())
    }
}

impl Checked {
    fn path(&self) -> String {
        format!("/v1/packs/{}/versions/{}", self.package.name(), self.package.version())
    }

    fn shown(&self, size: u64, named: bool, revision: Option<u64>) -> PushedPack {
        PushedPack {
            id: self.package.name().clone(),
            version: self.package.version().to_owned(),
            digest: self.package.digest().to_owned(),
            key: self.key.clone(),
            size,
            named,
            revision,
            trial: self.trial.clone(),
        }
    }

    fn answer(&self, is_new: bool, body: &PushedPack) -> Answer {
        let status = if is_new { StatusCode::CREATED } else { StatusCode::OK };
        Answer::created(self.path(), body).with_status(status)
    }
}

/// The entry that names a pack.
fn named(package: &Package) -> Value {
    json!({ "id": package.name(), "version": package.version(), "digest": package.digest() })
}
