//! Operations on revisions.

use super::answer::{Answers, Body};
use super::example;
use super::operation::Operation;
use super::parameter::{dry_run, revision};
use serde_json::json;
use utoipa::openapi::Required;
use utoipa::openapi::path::{Parameter, ParameterIn};

const ALL: &str = "/v1/revisions";
const ONE: &str = "/v1/revisions/{revision}";
const DIFF: &str = "/v1/revisions/{revision}/diff";
const ROLLBACK: &str = "/v1/revisions/{revision}:rollback";
const RELEASE: &str = "/v1/revisions/{revision}:release";
const TAG: &str = "revisions";

/// The headers of what is done with a revision.
const DONE: &[&str] = &["Tollgate-Revision", "Idempotency-Replayed"];

/// The operations.
pub(super) fn operations() -> [Operation; 5] {
    [list(), get(), diff(), rollback(), release()]
}

fn number() -> Parameter {
    revision("revision", ParameterIn::Path, "The revision's number.")
}

fn list() -> Operation {
    let newest = [("revision", "$response.body#/items/0/revision")];
    let about = "Newest first. Empty where the document is kept in a file.";
    let page = Answers::page("Revision", example::revision())
        .then("getRevision", "The newest, with its document.", &newest)
        .then("rollbackRevision", "Brings it back.", &newest)
        .then("diffRevision", "What came after.", &newest);
    Operation::get(ALL, "listRevisions", TAG).says("Lists revisions.", about).paged().answers(page)
}

fn get() -> Operation {
    let mut whole = example::revision();
    if let Some(fields) = whole.as_object_mut() {
        fields.insert("document".to_owned(), json!({ "format": 1 }));
        fields.insert("text".to_owned(), "format: 1\n".into());
    }
    let answer = Answers::ok("The revision.", "RevisionWhole", whole);
    Operation::get(ONE, "getRevision", TAG)
        .says("Gets a revision.", "With its document, as JSON and as it was written.")
        .takes(number())
        .answers(answer.with(&["Tollgate-Revision"]))
}

fn diff() -> Operation {
    let about = "As a JSON Patch (RFC 6902) that makes the second of the first. Entries are compared by \
         their ids; secrets are left out.";
    let body = json!({
        "from": 1,
        "to": 8,
        "difference": [{ "op": "replace", "path": "/tenants/0/state", "value": "suspended" }],
    });
    Operation::get(DIFF, "diffRevision", TAG)
        .says("Compares two revisions.", about)
        .takes(number())
        .takes(revision("to", ParameterIn::Query, "The other revision; the newest when absent."))
        .answers(Answers::ok("The difference.", "Difference", body))
}

fn rollback() -> Operation {
    let about = "Publishes its text, byte for byte, as a new revision for all, also in place of one \
         that is on some nodes only. What was quarantined since stays so: the text is then that of the \
         document with it. The token's role is asked for each section that changes.";
    let about_answer = "What it changed, or would change.";
    Operation::post(ROLLBACK, "rollbackRevision", TAG)
        .says("Brings a revision back.", about)
        .takes(number())
        .takes(dry_run())
        .reads(Required::False, vec![Body::json("Empty", json!({}))])
        .answers(Answers::ok(about_answer, "ChangedOrDryRun", example::changed()).with(DONE))
}

fn release() -> Operation {
    let about = "Of the newest revision, when it is on some nodes only.";
    Operation::post(RELEASE, "releaseRevision", TAG)
        .says("Gives a revision to all nodes.", about)
        .takes(number())
        .reads(Required::False, vec![Body::json("Empty", json!({}))])
        .answers(Answers::ok("The revision.", "Revision", example::revision()).with(DONE))
}
