//! Parameters in path, query and headers.

use super::example;
use super::schema::ID;
use crate::page::CURSOR_BYTES_MAX;
use serde_json::{Value, json};
use utoipa::openapi::Required;
use utoipa::openapi::path::{Parameter, ParameterBuilder, ParameterIn};
use utoipa::openapi::schema::{KnownFormat, Object, ObjectBuilder, SchemaFormat, Type};

/// What is read as an idempotency key ([`model::idempotency::Key`]).
const KEY: &str = r#"^([A-Za-z0-9._~:+/=-]{1,255}|"([ !#-\[\]-~]|\\["\\]){1,255}")$"#;
/// Names of nodes with commas between them.
const NODES: &str = "^[A-Za-z0-9][A-Za-z0-9._-]{0,63}(,[A-Za-z0-9][A-Za-z0-9._-]{0,63}){0,31}$";

/// A parameter. One in the path is required, others are not.
pub(super) fn parameter(
    name: &str,
    place: ParameterIn,
    about: &str,
    schema: Object,
) -> ParameterBuilder {
    let required = match place {
        ParameterIn::Path => Required::True,
        _ => Required::False,
    };
    ParameterBuilder::new()
        .name(name)
        .parameter_in(place)
        .description(Some(about))
        .required(required)
        .schema(Some(schema))
}

/// Text.
pub(super) fn text() -> ObjectBuilder {
    ObjectBuilder::new().schema_type(Type::String)
}

/// Text of a length.
pub(super) fn string(min: usize, max: usize) -> Object {
    text().min_length(Some(min)).max_length(Some(max)).build()
}

/// A whole number.
fn integer(min: i64, max: i64) -> Object {
    ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(min)).maximum(Some(max)).build()
}

fn id(name: &str, place: ParameterIn, about: &str, example: &str) -> Parameter {
    let format = SchemaFormat::Custom("id".to_owned());
    let schema = text().format(Some(format)).pattern(Some(ID)).build();
    parameter(name, place, about, schema).example(Some(example.into())).build()
}

/// An id in the path.
pub(super) fn id_in_path(name: &str, about: &str, example: &str) -> Parameter {
    id(name, ParameterIn::Path, about, example)
}

/// An id in the query.
pub(super) fn id_in_query(name: &str, about: &str, example: &str) -> Parameter {
    id(name, ParameterIn::Query, about, example)
}

/// The same, but it must be there.
pub(super) fn required(parameter: Parameter) -> Parameter {
    ParameterBuilder::from(parameter).required(Required::True).build()
}

/// Something in the query.
pub(super) fn query(
    name: &str,
    about: &str,
    schema: Object,
    example: impl Into<Value>,
) -> Parameter {
    parameter(name, ParameterIn::Query, about, schema).example(Some(example.into())).build()
}

/// A time in the query.
pub(super) fn time(name: &str, about: &str, example: &str) -> Parameter {
    let format = SchemaFormat::KnownFormat(KnownFormat::DateTime);
    query(name, about, text().format(Some(format)).build(), example)
}

/// The number of a revision.
pub(super) fn revision(name: &str, place: ParameterIn, about: &str) -> Parameter {
    parameter(name, place, about, integer(1, i64::MAX)).example(Some(json!(1))).build()
}

/// How many items a page has.
pub(super) fn limit(max: u32) -> Parameter {
    let about = "At most so many items; 100 when absent.";
    query("limit", about, integer(1, i64::from(max)), 20)
}

/// Where a page begins. Without an example, which could only be one of another list.
pub(super) fn cursor() -> Parameter {
    let about = "The `next_cursor` of the page before.";
    parameter("cursor", ParameterIn::Query, about, string(1, CURSOR_BYTES_MAX)).build()
}

/// Whether a change is only tried.
pub(super) fn dry_run() -> Parameter {
    let about = "Whether the change is only tried: its difference and every error are told, and nothing \
         is changed.";
    query("dry_run", about, ObjectBuilder::new().schema_type(Type::Boolean).build(), false)
}

/// To whom a change goes first.
pub(super) fn nodes() -> Parameter {
    let about = "The nodes that the revision goes to first, like `a,b`; all when absent. Until it is \
         released or rolled back, nobody else changes the document.";
    let schema = text().pattern(Some(NODES)).build();
    parameter("nodes", ParameterIn::Query, about, schema).build()
}

/// What is changed. The grammar of tags is RFC 9110's own, which testers know by the header's name.
pub(super) fn if_match() -> Parameter {
    let about = "The tag of what is changed, or `*` (RFC 9110 §13.1.1).";
    let parameter = parameter("If-Match", ParameterIn::Header, about, text().build());
    parameter.example(Some(example::ETAG.into())).build()
}

/// That something must be new.
pub(super) fn if_none_match_any() -> Parameter {
    let about = "It must not be there yet (RFC 9110 §13.1.2).";
    let schema = text().enum_values(Some(["*"])).build();
    parameter("If-None-Match", ParameterIn::Header, about, schema).build()
}

/// What is known already.
pub(super) fn if_none_match() -> Parameter {
    let about = "A tag that is known: what has it is not told again.";
    let parameter = parameter("If-None-Match", ParameterIn::Header, about, text().build());
    parameter.example(Some(example::ETAG.into())).build()
}

/// The name of a POST. Without an example: each request has its own.
pub(super) fn idempotency_key() -> Parameter {
    let about = "Names the request: a repeat with the same key gets the same answer, for a day.";
    let schema = text().pattern(Some(KEY)).build();
    parameter("Idempotency-Key", ParameterIn::Header, about, schema).build()
}
