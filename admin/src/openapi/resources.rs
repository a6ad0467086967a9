//! Operations on the document: whole, and resource by resource.

use super::answer::{Answers, Body, JSON};
use super::example;
use super::operation::Operation;
use super::packs::version;
use super::parameter::{id_in_path, if_none_match_any};
use super::schema::{entry, shown};
use crate::kind::{KINDS, Kind};
use serde_json::Value;
use utoipa::openapi::Required;
use utoipa::openapi::path::{HttpMethod, Parameter};

/// YAML, as documents may be sent.
const YAML: &str = "application/yaml";
/// What a merge patch is sent as (RFC 7396 §4).
const MERGE_PATCH: &str = "application/merge-patch+json";
/// The headers of what tells of a resource.
const OF_RESOURCE: &[&str] = &["ETag", "Tollgate-Revision"];

/// The operations.
pub(super) fn operations() -> Vec<Operation> {
    let resources = KINDS.iter().flat_map(resources);
    whole().into_iter().chain(resources).collect()
}

fn whole() -> [Operation; 2] {
    let document = || example::document().clone();
    let about =
        "As JSON, however it was written; `GET /v1/revisions/{revision}` has its text, too.";
    let get = Operation::get("/v1/document", "getDocument", "document")
        .says("The newest document.", about)
        .known()
        .answers(Answers::ok("The document.", "Document", document()).with(OF_RESOURCE))
        .refuses(&[404]);
    let about = "Its text is kept as it was sent. The token's role is asked for each section that \
         changes. What would not be taken by a gateway is not published: every error is told, with \
         its pointer.";
    let bodies = vec![Body::json("Document", document()), Body::also("Document", YAML)];
    let put = Operation::new(HttpMethod::Put, "/v1/document", "putDocument", "document")
        .says("Replaces the document.", about)
        .takes(if_none_match_any())
        .guarded()
        .reads(Required::True, bodies)
        .answers(changed());
    [get, put]
}

/// What a change answers, and what a dry run does.
pub(super) fn changed() -> Answers {
    Answers::ok("What it changed, or would change.", "ChangedOrDryRun", example::changed())
        .with(OF_RESOURCE)
}

/// The five operations of a kind.
fn resources(kind: &Kind) -> [Operation; 5] {
    let name = entry(kind);
    let (resource, keys) = example::resource(kind);
    let seen = example::shown(kind, &resource);
    let at = At { kind, name: &name, keys: &keys };
    let list = at
        .operation(HttpMethod::Get, kind.list, ("list", "s"), "Lists them, by id.")
        .paged()
        .answers(Answers::page(&shown(kind), seen.clone()).with(&["Tollgate-Revision"]));
    let get = at
        .operation(HttpMethod::Get, kind.one, ("get", ""), "The newest, wherever it is in force.")
        .known()
        .answers(Answers::ok("The resource.", shown(kind), seen).with(OF_RESOURCE));
    let made = Answers::made("It was made.", "Changed", example::changed()).with(OF_RESOURCE);
    let about = "A secret may be given as `{\"value\": …}`: it is sealed before it is kept.";
    let body = Body::json(format!("{name}Put"), resource.clone());
    let put = at
        .operation(HttpMethod::Put, kind.one, ("put", ""), about)
        .takes(if_none_match_any())
        .guarded()
        .reads(Required::True, vec![body])
        .answers(at.linked(changed()))
        .answers(at.linked(made));
    let patch = Body::json("MergePatch", patch_of(&resource, kind)).of_kind(MERGE_PATCH);
    let patch = at
        .operation(HttpMethod::Patch, kind.one, ("patch", ""), "Merges into it (RFC 7396).")
        .guarded()
        .reads(Required::True, vec![patch, Body::also("MergePatch", JSON)])
        .answers(at.linked(changed()));
    // Examples are tried, and others need what they name: what goes is another one.
    let spare = At { keys: &example::spare(kind), ..at };
    let about = "What others refer to stays, and the answer says who does.";
    let delete = spare
        .operation(HttpMethod::Delete, kind.one, ("delete", ""), about)
        .guarded()
        .answers(changed());
    [list, get, put, patch, delete]
}

/// A field of the resource that is not one of its keys.
fn patch_of(resource: &Value, kind: &Kind) -> Value {
    let keys = kind.steps.last().map(|(_, keys)| *keys).unwrap_or_default();
    let fields = resource.as_object().into_iter().flatten();
    let other = fields.filter(|(field, _)| !keys.contains(&field.as_str())).take(1);
    Value::Object(other.map(|(field, value)| (field.clone(), value.clone())).collect())
}

/// Where a kind's operations are.
#[derive(Clone, Copy)]
struct At<'a> {
    kind: &'a Kind,
    name: &'a str,
    /// Examples for the path's parameters.
    keys: &'a [String],
}

impl At<'_> {
    fn operation(
        &self,
        method: HttpMethod,
        path: &str,
        (verb, end): (&str, &str),
        about: &str,
    ) -> Operation {
        let id = format!("{verb}{}{end}", self.name);
        let summary = match (verb, self.kind.name) {
            ("list", kinds) => format!("Lists `{kinds}`."),
            ("get", kinds) => format!("Gets one of `{kinds}`."),
            ("put", kinds) => format!("Makes or replaces one of `{kinds}`."),
            ("patch", kinds) => format!("Changes one of `{kinds}`."),
            (_, kinds) => format!("Deletes one of `{kinds}`."),
        };
        let tag = self.kind.section.as_str();
        let operation = Operation::new(method, path, &id, tag).says(&summary, about);
        let parameters = parameters(path).zip(self.keys);
        parameters.fold(operation, |operation, (name, key)| operation.takes(segment(name, key)))
    }

    /// What can be done with what was made or changed.
    fn linked(&self, answers: Answers) -> Answers {
        let (get, delete) = (format!("get{}", self.name), format!("delete{}", self.name));
        let values: Vec<String> =
            parameters(self.kind.one).map(|name| format!("$request.path.{name}")).collect();
        let same = parameters(self.kind.one).zip(values.iter().map(String::as_str));
        let tagged = same.clone().chain([("If-Match", "$response.header.ETag")]);
        answers.then(&get, "The resource as it is now.", &same.collect::<Vec<_>>()).then(
            &delete,
            "Takes it out again.",
            &tagged.collect::<Vec<_>>(),
        )
    }
}

/// The names of a path's parameters.
fn parameters(path: &str) -> impl Iterator<Item = &str> + Clone {
    path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
}

fn segment(name: &str, example: &str) -> Parameter {
    match name {
        "version" => version(example),
        "name" => id_in_path(name, "The version's name.", example),
        "consumer" => id_in_path(name, "The consumer's id.", example),
        _ => id_in_path(name, "The resource's id.", example),
    }
}
