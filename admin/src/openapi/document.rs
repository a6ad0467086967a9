//! Operations on the document: whole, resource by resource, and keys of consumers.

use super::example;
use super::operation::{Answers, Body, JSON, Operation, id, text};
use super::schema::{PACK_VERSION, entry};
use crate::place::{KINDS, Kind};
use serde_json::{Value, json};
use utoipa::openapi::Required;
use utoipa::openapi::path::{HttpMethod, Parameter, ParameterIn};
use utoipa::openapi::schema::{ObjectBuilder, Type};

/// YAML, as documents may be sent.
const YAML: &str = "application/yaml";
/// What a merge patch is sent as (RFC 7396 §4).
const MERGE_PATCH: &str = "application/merge-patch+json";
/// The path of a consumer's credentials.
const CREDENTIALS: &str = "/v1/consumers/{id}/credentials";
/// The path of one.
const CREDENTIAL: &str = "/v1/consumers/{id}/credentials/{credential}";

/// The operations.
pub(super) fn operations() -> Vec<Operation> {
    let mut operations = whole();
    operations.extend(KINDS.iter().flat_map(resources));
    operations.extend(credentials());
    operations
}

fn whole() -> Vec<Operation> {
    let document = || example::document().clone();
    let get = Operation::new(
        HttpMethod::Get,
        "/v1/document",
        ("getDocument", "document"),
        (
            "The newest document.",
            "As JSON, however it was written; `GET /v1/revisions/{revision}` has its text, too.",
        ),
    )
    .takes(if_none_match())
    .answers(seen("The document.", vec![Body::json("Document", document())]))
    .answers(not_modified())
    .refuses(&[404]);
    let put = Operation::new(
        HttpMethod::Put,
        "/v1/document",
        ("putDocument", "document"),
        (
            "Replaces the document.",
            "Its text is kept as it was sent. The token's role is asked for each section that changes. What would not be \
             taken by a gateway is not published: every error is told, with its pointer.",
        ),
    )
    .reads(
        Required::True,
        vec![Body::json("Document", document()), Body::of("Document", YAML)],
    );
    let put = changing(put.takes(if_none_match_any())).answers(changed());
    vec![get, put]
}

/// The parameters of a change of the document.
fn changing(operation: Operation) -> Operation {
    staging(operation.takes(if_match())).refuses(&[412, 428])
}

/// The parameters of a change that replaces nothing.
fn staging(operation: Operation) -> Operation {
    let nodes = text("nodes", ParameterIn::Query, "The nodes that the revision goes to first, like `a,b`; all when absent. Until it is released or rolled back, nobody else changes the document.")
        .schema(Some(ObjectBuilder::new().schema_type(Type::String).pattern(Some(
            "^[A-Za-z0-9][A-Za-z0-9._-]{0,63}(,[A-Za-z0-9][A-Za-z0-9._-]{0,63}){0,31}$",
        ))));
    operation.takes(dry_run()).takes(nodes.build()).refuses(&[409])
}

/// `?dry_run=`
pub(super) fn dry_run() -> Parameter {
    text("dry_run", ParameterIn::Query, "Whether the change is only tried: its difference and every error are told, and nothing is changed.")
        .schema(Some(ObjectBuilder::new().schema_type(Type::Boolean)))
        .example(Some(json!(false)))
        .build()
}

fn if_match() -> Parameter {
    text("If-Match", ParameterIn::Header, "The tag of what is changed, or `*` (RFC 9110 §13.1.1).")
        .schema(Some(ObjectBuilder::new().schema_type(Type::String)))
        .example(Some(example::ETAG.into()))
        .build()
}

fn if_none_match_any() -> Parameter {
    let schema = ObjectBuilder::new().schema_type(Type::String).enum_values(Some(["*"]));
    text("If-None-Match", ParameterIn::Header, "It must not be there yet (RFC 9110 §13.1.2).")
        .schema(Some(schema))
        .build()
}

fn if_none_match() -> Parameter {
    text("If-None-Match", ParameterIn::Header, "A tag that is known: it is not told again.")
        .schema(Some(ObjectBuilder::new().schema_type(Type::String)))
        .example(Some(example::ETAG.into()))
        .build()
}

fn seen(about: &str, bodies: Vec<Body>) -> Answers {
    Answers::new(200, about, bodies).with(&["ETag", "Tollgate-Revision"])
}

fn not_modified() -> Answers {
    Answers::new(304, "It has the tag that is known.", Vec::new())
        .with(&["ETag", "Tollgate-Revision"])
}

fn changed() -> Answers {
    let body = Body::json("ChangedOrDryRun", example::changed());
    Answers::new(200, "What it changed, or would change.", vec![body])
        .with(&["ETag", "Tollgate-Revision"])
}

/// The five operations of a kind.
fn resources(kind: &Kind) -> Vec<Operation> {
    let name = entry(kind);
    let (resource, keys) = example::resource(kind);
    let at = At { kind, name: &name, keys: &keys };
    let get = format!("get{name}");
    let list = at
        .operation(HttpMethod::Get, kind.list, ("list", "s"), "Lists them, by id.")
        .paged()
        .answers(
            Answers::new(
                200,
                "A page.",
                vec![Body::json(format!("{name}List"), example::page(resource.clone()))],
            )
            .with(&["Tollgate-Revision"]),
        );
    let one = at
        .operation(HttpMethod::Get, kind.one, ("get", ""), "The newest, wherever it is in force.")
        .takes(if_none_match())
        .answers(seen("The resource.", vec![Body::json(&*name, resource.clone())]))
        .answers(not_modified());
    let put = at
        .operation(
            HttpMethod::Put,
            kind.one,
            ("put", ""),
            "Makes or replaces it. A secret may be given as `{\"value\": …}`: it is sealed before it is kept.",
        )
        .reads(Required::True, vec![Body::json(format!("{name}Put"), resource.clone())]);
    let made = Body::json("Changed", example::changed());
    let made = Answers::new(201, "It was made.", vec![made]).with(&["ETag", "Tollgate-Revision"]);
    let put = changing(put.takes(if_none_match_any()))
        .answers(at.linked(changed(), &get))
        .answers(at.linked(made, &get));
    let patch = at
        .operation(HttpMethod::Patch, kind.one, ("patch", ""), "Merges into it (RFC 7396).")
        .reads(
            Required::True,
            vec![
                Body::json("MergePatch", patch_of(&resource, kind)).of_kind(MERGE_PATCH),
                Body::of("MergePatch", JSON),
            ],
        );
    let patch = changing(patch).answers(at.linked(changed(), &get));
    // Examples are tried, and others need what they name: what goes is another one.
    let spare = example::spare(kind);
    let delete = At { keys: &spare, ..at }.operation(
        HttpMethod::Delete,
        kind.one,
        ("delete", ""),
        "Takes it out of the document.",
    );
    let delete = changing(delete).answers(changed()).refuses(&[422]);
    vec![list, one, put, patch, delete]
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
    keys: &'a [String],
}

impl At<'_> {
    fn operation(
        &self,
        method: HttpMethod,
        path: &str,
        (verb, end): (&str, &str),
        description: &str,
    ) -> Operation {
        let id = format!("{verb}{}{end}", self.name);
        let summary = match (verb, end) {
            ("list", _) => format!("Lists `{}`.", self.kind.name),
            (verb, _) => format!("{} one of `{}`.", said(verb), self.kind.name),
        };
        let tag = self.kind.section.as_str();
        let operation = Operation::new(method, path, (&id, tag), (&summary, description));
        let parameters = parameters(path).zip(self.keys);
        parameters.fold(operation, |operation, (name, key)| operation.takes(segment(name, key)))
    }

    /// What can be done with what was made or changed.
    fn linked(&self, answers: Answers, get: &str) -> Answers {
        let names: Vec<&str> = parameters(self.kind.one).collect();
        let values: Vec<String> =
            names.iter().map(|name| format!("$request.path.{name}")).collect();
        let same: Vec<(&str, &str)> =
            names.iter().copied().zip(values.iter().map(String::as_str)).collect();
        let mut tagged = same.clone();
        tagged.push(("If-Match", "$response.header.ETag"));
        let delete = format!("delete{}", self.name);
        answers.then(get, "The resource as it is now.", &same).then(
            &delete,
            "Takes it out again.",
            &tagged,
        )
    }
}

fn said(verb: &str) -> &'static str {
    match verb {
        "get" => "Gets",
        "put" => "Makes or replaces",
        "patch" => "Changes",
        _ => "Deletes",
    }
}

/// The names of a path's parameters.
fn parameters(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
}

fn segment(name: &str, example: &str) -> Parameter {
    match name {
        "version" => text(name, ParameterIn::Path, "The pack's version.")
            .schema(Some(
                ObjectBuilder::new().schema_type(Type::String).pattern(Some(PACK_VERSION)),
            ))
            .example(Some(example.into()))
            .build(),
        "name" => id(name, ParameterIn::Path, "The version's name.", example),
        "consumer" => id(name, ParameterIn::Path, "The consumer's id.", example),
        _ => id(name, ParameterIn::Path, "The resource's id.", example),
    }
}

fn credentials() -> Vec<Operation> {
    let consumer = || id("id", ParameterIn::Path, "The consumer's id.", "acme-mobile");
    let credential = || id("credential", ParameterIn::Path, "The credential's id.", "k1");
    let tenant = || {
        id(
            "tenant",
            ParameterIn::Query,
            "Whose consumer it is, where several have one of this id.",
            "acme",
        )
    };
    let operation = |method, path: &str, name: &str, about: (&str, &str)| {
        let operation = Operation::new(method, path, (name, "credentials"), about);
        operation.takes(consumer()).takes(tenant()).refuses(&[409])
    };
    let same = [
        ("id", "$request.path.id"),
        ("credential", "$response.body#/credential/id"),
        ("tenant", "$response.body#/credential/tenant"),
    ];
    let made = || {
        let body = json!({
            "key": "tg_live_k3JmQx7bXl0pV9sWc2RtYh4GnZdQaEuF",
            "credential": example::credential("k2"),
            "revision": 8,
        });
        let answers = Answers::new(
            201,
            "The key, which is not shown again.",
            vec![Body::json("CreatedCredential", body)],
        );
        answers
            .with(&["ETag", "Location", "Tollgate-Revision", "Idempotency-Replayed"])
            .then("getCredential", "The credential without its key.", &same)
            .then(
                "deleteCredential",
                "Takes it out again.",
                &[same.as_slice(), &[("If-Match", "$response.header.ETag")]].concat(),
            )
    };
    let tried = || {
        let body = json!({ "valid": true, "errors": [], "difference": [] });
        Answers::new(200, "What it would change (`dry_run`).", vec![Body::json("DryRun", body)])
    };
    let page = example::page(example::credential("k1"));
    let list = operation(
        HttpMethod::Get,
        CREDENTIALS,
        "listCredentials",
        ("Lists a consumer's credentials.", "By id; without hashes."),
    )
    .paged()
    .answers(
        Answers::new(200, "A page.", vec![Body::json("CredentialShownList", page)])
            .with(&["Tollgate-Revision"]),
    );
    let create = operation(
        HttpMethod::Post,
        CREDENTIALS,
        "createCredential",
        (
            "Makes an API key.",
            "The key is in this answer and nowhere else: the document has its hash.",
        ),
    )
    .posts(
        Required::False,
        Body::json("NewCredential", json!({ "id": "k2", "expires": example::LATER })),
    );
    let get = operation(
        HttpMethod::Get,
        CREDENTIAL,
        "getCredential",
        ("Gets one of a consumer's credentials.", "Without its hash."),
    )
    .takes(credential())
    .takes(if_none_match())
    .answers(seen(
        "The credential.",
        vec![Body::json("CredentialShown", example::credential("k1"))],
    ))
    .answers(not_modified());
    let delete = operation(
        HttpMethod::Delete,
        CREDENTIAL,
        "deleteCredential",
        (
            "Deletes one of a consumer's credentials.",
            "Requests with the key are refused from then on.",
        ),
    )
    .takes(id("credential", ParameterIn::Path, "The credential's id.", "k1-unused"));
    let delete = changing(delete).answers(changed()).refuses(&[422]);
    let rotate = operation(
        HttpMethod::Post,
        "/v1/consumers/{id}/credentials/{credential}:rotate",
        "rotateCredential",
        (
            "Makes a key that takes the place of another.",
            "Both are accepted until the old one's grace is over.",
        ),
    )
    .takes(credential())
    .posts(Required::False, Body::json("Rotation", json!({ "grace": "48h" })));
    vec![
        list,
        staging(create).answers(made()).answers(tried()),
        get,
        delete,
        staging(rotate).answers(made()).answers(tried()),
    ]
}
