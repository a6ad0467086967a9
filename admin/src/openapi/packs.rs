//! Operations on packs beyond their entries: files, rollouts, what they read.

use super::answer::{Answers, Body};
use super::example;
use super::operation::Operation;
use super::parameter::{
    dry_run, id_in_path, id_in_query, if_match, if_none_match_any, parameter, text,
};
use super::schema::{DATUM_KEY, PACK_VERSION};
use crate::packs::{BYTES, PACK_FILE_KIND};
use serde_json::{Value, json};
use utoipa::openapi::Required;
use utoipa::openapi::path::{HttpMethod, Parameter, ParameterIn};

const VERSION: &str = "/v1/packs/{id}/versions/{version}";
const DATA: &str = "/v1/packs/{id}/data";
const DATUM: &str = "/v1/packs/{id}/data/{key}";
const TAG: &str = "packs";

/// The headers of what is done with a pack.
const DONE: &[&str] = &["Tollgate-Revision", "Idempotency-Replayed"];

/// The operations.
pub(super) fn operations() -> Vec<Operation> {
    let mut operations = vec![push()];
    operations.extend(shifts());
    operations.extend([rollouts(), differences()]);
    operations.extend(data());
    operations
}

fn pack() -> Parameter {
    id_in_path("id", "The pack's name.", "require-header")
}

/// A pack's version.
pub(super) fn version(example: &str) -> Parameter {
    let schema = text().pattern(Some(PACK_VERSION)).build();
    let parameter = parameter("version", ParameterIn::Path, "The pack's version.", schema);
    parameter.example(Some(example.into())).build()
}

fn push() -> Operation {
    let about = "The body is the file that `tollgate pack build` and `sign` made. It is read, its signature is checked \
         against `pack_keys`, its vectors are run; then it is kept for good, and a revision names it in `packs`. What is \
         wrong with it is told with how to mend it. The same file again changes nothing; another one under the same version \
         is a conflict.";
    let body = Body::also("Bytes", PACK_FILE_KIND);
    let mut named = example::pushed();
    let same = [("id", "$response.body#/id"), ("version", "$response.body#/version")];
    let made = Answers::made("It is kept, and named.", "PushedPack", named.clone())
        .with(&["ETag", "Location"])
        .with(DONE)
        .then("getPack", "Its entry, and what is known of its file.", &same);
    if let Some(fields) = named.as_object_mut() {
        fields.insert("named".to_owned(), false.into());
        fields.shift_remove("revision");
    }
    let same = Answers::ok("It was kept already, or is only tried.", "PushedPackOrDryRun", named)
        .with(&["ETag", "Location"])
        .with(DONE);
    Operation::post("/v1/packs", "pushPack", TAG)
        .says("Uploads a pack.", about)
        .takes(dry_run())
        .reads(Required::True, vec![body])
        .answers(made)
        .answers(same)
}

fn shifts() -> [Operation; 3] {
    let shift = |verb: &str, summary: &str, about: &str, became: &str| {
        let body = json!({ "attachment": "acme-correlation", "reason": "as agreed" });
        let body = if verb == "quarantine" { json!({ "reason": "leaks" }) } else { body };
        let answer = example::shifted(became);
        Operation::post(&format!("{VERSION}:{verb}"), &format!("{verb}Pack"), TAG)
            .says(summary, about)
            .takes(pack())
            .takes(version("1.1.0"))
            .takes(dry_run())
            .reads(Required::False, vec![Body::json("Shifting", body)])
            .answers(
                Answers::ok("What it changed, or would change.", "ShiftedOrDryRun", answer)
                    .with(DONE),
            )
    };
    [
        shift(
            "promote",
            "Makes a candidate the running version.",
            "Wherever it is a candidate, or on one attachment. A token of a tenant names one of its tenant's.",
            "promoted",
        ),
        shift(
            "rollback",
            "Takes a version back.",
            "As a candidate it is taken out; where it runs, the attachment runs again what it ran before, as the newest \
             revisions tell. A token of a tenant names one of its tenant's attachments.",
            "rolled_back",
        ),
        shift(
            "quarantine",
            "Takes a version out of service everywhere.",
            "As a rollback; an attachment that has nothing to go back to is halted. From then on the version can't be \
             named. Operators may do this, too; whoever may change packs may take it back by PATCH.",
            "rolled_back",
        ),
    ]
}

fn rollouts() -> Operation {
    let about = "Newest first: each candidate, how it fared, and what became of it. A token of a tenant sees those on its \
         attachments.";
    Operation::get("/v1/packs/{id}/rollouts", "listPackRollouts", TAG)
        .says("Lists a pack's rollouts.", about)
        .takes(pack())
        .paged()
        .answers(Answers::page("PackRollout", example::rollout()))
}

fn differences() -> Operation {
    let about = "Newest first: requests on which a candidate and the running version decided differently, without values of \
         headers and bodies. A token of a tenant sees those on its attachments.";
    Operation::get("/v1/packs/{id}/differences", "listPackDifferences", TAG)
        .says("Lists where two versions of a pack differ.", about)
        .takes(pack())
        .takes(id_in_query("attachment", "On this attachment.", "acme-correlation"))
        .paged()
        .answers(Answers::page("PackDifference", example::difference()))
}

fn key() -> Parameter {
    let schema = text().pattern(Some(DATUM_KEY)).build();
    let parameter = parameter("key", ParameterIn::Path, "The key.", schema);
    parameter.example(Some("blocked".into())).build()
}

fn data() -> [Operation; 4] {
    let about = "What the versions of a pack may read, by key, without the values.";
    let list = Operation::get(DATA, "listPackData", TAG)
        .says("Lists a pack's data.", about)
        .takes(pack())
        .paged()
        .answers(Answers::page("PackDatum", example::datum()));
    let value = Body::json("Bytes", Value::from("192.0.2.0/24\n")).of_kind(BYTES);
    let get = Operation::get(DATUM, "getPackDatum", TAG)
        .says("Gets a value of a pack's data.", "As it was put.")
        .takes(pack())
        .takes(key())
        .known_by_tag()
        .answers(Answers::new(200, "The value.", vec![value]).with(&["ETag"]));
    let at = [("id", "$request.path.id"), ("key", "$request.path.key")];
    let tagged = [at.as_slice(), &[("If-Match", "$response.header.ETag")]].concat();
    let told = |answers: Answers| {
        let answers = answers.with(&["ETag"]).then("getPackDatum", "The value.", &at);
        answers.then("deletePackDatum", "Takes it away again.", &tagged)
    };
    let about = "Every gateway has it within a second, without a new revision. Whatever bytes, also none. At most 64 KiB; \
         1,000 keys and 4 MiB for each pack.";
    let body = Body::json("Bytes", Value::from("192.0.2.0/24\n")).of_kind(BYTES);
    let put = Operation::new(HttpMethod::Put, DATUM, "putPackDatum", TAG)
        .says("Puts a value into a pack's data.", about)
        .takes(pack())
        .takes(key())
        .takes(if_none_match_any())
        .takes(if_match())
        .reads(Required::False, vec![body])
        .answers(told(Answers::ok("What is there now.", "PackDatum", example::datum())))
        .answers(told(Answers::made("It is new.", "PackDatum", example::datum())))
        .refuses(&[409, 412, 428]);
    let delete = Operation::new(HttpMethod::Delete, DATUM, "deletePackDatum", TAG)
        .says("Takes a value out of a pack's data.", "No pack reads it from then on.")
        .takes(pack())
        .takes(key())
        .takes(if_match())
        .answers(Answers::ok("What was there.", "PackDatum", example::datum()))
        .refuses(&[412, 428]);
    [list, get, put, delete]
}
