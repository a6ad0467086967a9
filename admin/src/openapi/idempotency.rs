//! Operations on idempotency records.

use super::answer::{Answers, Body};
use super::example;
use super::operation::Operation;
use super::parameter::{id_in_path, parameter, query, string, text};
use serde_json::json;
use utoipa::openapi::Required;
use utoipa::openapi::path::{Parameter, ParameterIn};
use utoipa::openapi::schema::{ObjectBuilder, Type};

/// Where the records of a key are.
const KEY: &str = "/v1/idempotency/{tenant}/{key}";
/// What is looked up: [`model::idempotency::Key`] as the header has it, but no dot segment, which clients resolve.
const SPELT: &str =
    r#"^([A-Za-z0-9_~:+/=-][A-Za-z0-9._~:+/=-]{0,254}|"([ !#-\[\]-~]|\\["\\]){1,255}")$"#;
/// The longest name of a record that is read, in characters: all of a SHA-256's hex digits.
const RECORD_LEN: usize = 64;

/// The operations.
pub(super) fn operations() -> [Operation; 2] {
    let about = "One record of each subject and route that used the key: how far it is, since when, and who holds it; at most \
         20, newest first. The key is written as in the header, bare or in quotes, and percent-encoded: a `/` as `%2F`, \
         the colon of one that ends in `:release` as `%3A`, one that begins with a dot in quotes. What was answered is a \
         partner's data: `body=true` takes the role `admin`, and is audited.";
    let records = json!({ "tenant": "acme", "records": [example::idempotency_record()] });
    let whether = ObjectBuilder::new().schema_type(Type::Boolean).build();
    let get = Operation::get(KEY, "getIdempotencyKey", "idempotency")
        .says("Looks an idempotency key up.", about)
        .takes(id_in_path("tenant", "The tenant.", "acme"))
        .takes(key())
        .takes(query(
            "record",
            "The record of this `id` only.",
            string(1, RECORD_LEN),
            example::RECORD_ID,
        ))
        .takes(query(
            "body",
            "Whether the stored answer of the one record is told.",
            whether,
            false,
        ))
        .answers(Answers::ok("What is kept of the key.", "KeyRecords", records))
        .refuses(&[409]);
    let about = "Whoever released it says that the request had no effect, or that its effect was undone: the next request \
         with the key is sent. Only a record whose outcome is unknown, and only with the fence that it was seen with. The \
         audit has it twice: as begun, and as what it came to.";
    let body = json!({ "record": example::RECORD_ID, "fence": 4711 });
    let released = json!({ "tenant": "acme", "record": example::idempotency_record() });
    let released = Answers::ok("The record, as it was.", "Released", released);
    let release =
        Operation::post(&format!("{KEY}:release"), "releaseIdempotencyKey", "idempotency")
            .says("Frees an idempotency key of which nobody knows what came of it.", about)
            .takes(id_in_path("tenant", "The tenant.", "acme"))
            .takes(key())
            .reads(Required::True, vec![Body::json("Releasing", body)])
            .answers(released.with(&["Idempotency-Replayed"]));
    [get, release]
}

fn key() -> Parameter {
    let schema = text().pattern(Some(SPELT)).build();
    let parameter = parameter("key", ParameterIn::Path, "The key.", schema);
    parameter.example(Some("order-4711".into())).build()
}
