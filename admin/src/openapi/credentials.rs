//! Operations on the keys of consumers.

use super::answer::{Answers, Body};
use super::example;
use super::operation::Operation;
use super::parameter::{id_in_path, id_in_query};
use super::resources::changed;
use serde_json::json;
use utoipa::openapi::Required;
use utoipa::openapi::path::{HttpMethod, Parameter};

const ALL: &str = "/v1/consumers/{id}/credentials";
const ONE: &str = "/v1/consumers/{id}/credentials/{credential}";
const ROTATE: &str = "/v1/consumers/{id}/credentials/{credential}:rotate";
const TAG: &str = "credentials";

/// The operations.
pub(super) fn operations() -> [Operation; 5] {
    let list = of_consumer(Operation::get(ALL, "listCredentials", TAG))
        .says("Lists a consumer's credentials.", "By id; without hashes.")
        .paged()
        .answers(
            Answers::page("CredentialShown", example::credential("k1"))
                .with(&["Tollgate-Revision"]),
        );
    let about = "The key is in this answer and nowhere else: the document has its hash.";
    let body = Body::json("NewCredential", json!({ "id": "k2", "expires": example::LATER }));
    let create = of_consumer(Operation::post(ALL, "createCredential", TAG))
        .says("Makes an API key.", about)
        .staged()
        .reads(Required::False, vec![body])
        .answers(made())
        .answers(tried());
    let shown = Answers::ok("The credential.", "CredentialShown", example::credential("k1"));
    let get = of_consumer(Operation::get(ONE, "getCredential", TAG))
        .says("Gets one of a consumer's credentials.", "Without its hash.")
        .takes(credential("k1"))
        .known()
        .answers(shown.with(&["ETag", "Tollgate-Revision"]));
    let about = "Requests with the key are refused from then on.";
    let delete = of_consumer(Operation::new(HttpMethod::Delete, ONE, "deleteCredential", TAG))
        .says("Deletes one of a consumer's credentials.", about)
        .takes(credential("unused"))
        .guarded()
        .answers(changed());
    let about = "Both are accepted until the old one's grace is over.";
    let rotate = of_consumer(Operation::post(ROTATE, "rotateCredential", TAG))
        .says("Makes a key that takes the place of another.", about)
        .takes(credential("k1"))
        .staged()
        .reads(Required::False, vec![Body::json("Rotation", json!({ "grace": "48h" }))])
        .answers(made())
        .answers(tried());
    [list, create, get, delete, rotate]
}

fn of_consumer(operation: Operation) -> Operation {
    let about = "Whose consumer it is, where several have one of this id.";
    operation
        .takes(id_in_path("id", "The consumer's id.", "acme-mobile"))
        .takes(id_in_query("tenant", about, "acme"))
        .refuses(&[409])
}

fn credential(example: &str) -> Parameter {
    id_in_path("credential", "The credential's id.", example)
}

fn made() -> Answers {
    let same = [
        ("id", "$request.path.id"),
        ("credential", "$response.body#/credential/id"),
        ("tenant", "$response.body#/credential/tenant"),
    ];
    let tagged = [same.as_slice(), &[("If-Match", "$response.header.ETag")]].concat();
    let body = json!({
        "key": "tg_live_k3JmQx7bXl0pV9sWc2RtYh4GnZdQaEuF",
        "credential": example::credential("k2"),
        "revision": 8,
    });
    Answers::made("The key, which is not shown again.", "CreatedCredential", body)
        .with(&["ETag", "Location", "Tollgate-Revision", "Idempotency-Replayed"])
        .then("getCredential", "The credential without its key.", &same)
        .then("deleteCredential", "Takes it out again.", &tagged)
}

fn tried() -> Answers {
    let body = json!({ "valid": true, "errors": [], "difference": [] });
    Answers::ok("What it would change (`dry_run`).", "DryRun", body)
}
