//! Operations of those who run the gateway: audit, tokens, nodes, revocations, secrets.

use super::answer::{Answers, Body};
use super::example;
use super::operation::Operation;
use super::parameter::{cursor, id_in_path, id_in_query, limit, query, string, time};
use crate::audit::{ACTION_MAX, ACTOR_MAX, EXPORT_MAX, NDJSON, RESOURCE_MAX};
use serde_json::{Value, json};
use utoipa::openapi::Required;
use utoipa::openapi::path::HttpMethod;

/// The operations.
pub(super) fn operations() -> Vec<Operation> {
    let mut operations = vec![audit()];
    operations.extend(tokens());
    operations.push(nodes());
    operations.extend(revocations());
    operations.push(rekey());
    operations
}

/// Takes when something was.
pub(super) fn spanned(operation: Operation) -> Operation {
    operation.takes(time("since", "From then on.", "2026-01-01T00:00:00Z")).takes(time(
        "until",
        "Before then.",
        example::LATER,
    ))
}

fn audit() -> Operation {
    let about = "Newest first; refusals, too. With `Accept: application/x-ndjson` an export: one entry \
         on each line, at most 100,000; its next part begins with `before`, the id of the last line. \
         A token of a tenant sees what concerns it.";
    let bodies = vec![
        Body::json("AuditEntryList", example::page(example::entry())),
        Body::json("Lines", format!("{}\n", example::entry()).into()).of_kind(NDJSON),
    ];
    let operation = Operation::get("/v1/audit", "listAudit", "audit")
        .says("Lists what was done.", about)
        .takes(id_in_query("tenant", "What concerns this tenant.", "acme"))
        .takes(query("actor", "By the actor of this name.", string(1, ACTOR_MAX), "first"))
        .takes(query("action", "Of this action.", string(1, ACTION_MAX), "plans.put"))
        .takes(query(
            "resource",
            "On this path, or beneath it.",
            string(1, RESOURCE_MAX),
            "/v1/plans",
        ));
    spanned(operation)
        .takes(id_in_query("before", "Older than the entry of this id.", "ffffffff"))
        .takes(limit(EXPORT_MAX))
        .takes(cursor())
        .answers(Answers::new(200, "A page, or an export.", bodies))
}

fn tokens() -> [Operation; 4] {
    let with = |field: &str, value: Value| {
        let mut token = example::token();
        if let Some(fields) = token.as_object_mut() {
            fields.insert(field.to_owned(), value);
        }
        token
    };
    let one = || id_in_path("id", "The token's id.", example::ID);
    let about = "Newest first, without the tokens themselves. Revoked ones are gone: the audit tells of \
         them.";
    let page = Answers::page("Token", example::token());
    let list = Operation::get("/v1/tokens", "listTokens", "tokens")
        .says("Lists tokens.", about)
        .paged()
        .answers(page.then("getToken", "The newest.", &[("id", "$response.body#/items/0/id")]));
    let about = "It is in this answer and nowhere else: only its hash is kept. A token of a tenant \
         makes tokens of that tenant only.";
    let body = json!({ "name": "ci", "role": "publisher", "expires_at": example::LATER });
    let made = with("token", format!("tga_{}", example::TRACE.repeat(2)).into());
    let made = Answers::made("The token, which is not told again.", "MadeToken", made)
        .with(&["Location", "Idempotency-Replayed"])
        .then("getToken", "The token without itself.", &[("id", "$response.body#/id")])
        .then("deleteToken", "Revokes it.", &[("id", "$response.body#/id")]);
    let create = Operation::post("/v1/tokens", "createToken", "tokens")
        .says("Makes a token.", about)
        .reads(Required::True, vec![Body::json("NewToken", body)])
        .answers(made);
    let get = Operation::get("/v1/tokens/{id}", "getToken", "tokens")
        .says("Gets a token.", "Without the token itself.")
        .takes(one())
        .answers(Answers::ok("The token.", "Token", example::token()));
    let about = "It is refused from then on. The last token of role `admin` that is bound to no tenant \
         can't be revoked.";
    let revoked = with("revoked_at", example::AT.into());
    let delete = Operation::new(HttpMethod::Delete, "/v1/tokens/{id}", "deleteToken", "tokens")
        .says("Revokes a token.", about)
        .takes(one())
        .answers(Answers::ok("The token, as it was.", "Token", revoked))
        .refuses(&[409]);
    [list, create, get, delete]
}

fn nodes() -> Operation {
    let about = "By name: which revision is in force on each, how far it is behind, what it could not \
         put in force and why. Those that have not reported for 15 s are gone, and shown for a day.";
    let node = json!({
        "name": "gateway-1",
        "roles": ["gateway"],
        "build": "0.1.0",
        "revision": 8,
        "lag": 0,
        "state": "in_force",
        "started_at": example::AT,
        "seen_at": example::AT,
    });
    let page = json!({ "items": [node], "next_cursor": null, "newest": 8 });
    Operation::get("/v1/nodes", "listNodes", "nodes")
        .says("Lists the processes of this deployment.", about)
        .paged()
        .answers(Answers::ok("A page.", "Nodes", page))
}

fn revocations() -> [Operation; 4] {
    let asked =
        json!({ "kind": "jti", "issuer": "demo", "jti": "b7e2c1", "until": example::LATER });
    let mut made = json!({ "id": example::ID, "at": example::AT });
    json_patch::merge(&mut made, &asked);
    let about = "Those in force, newest first. A token of a tenant sees that tenant's.";
    let list = Operation::get("/v1/revocations", "listRevocations", "revocations")
        .says("Lists revocations.", about)
        .paged()
        .answers(Answers::page("Revocation", made.clone()));
    let about = "In force everywhere within a second, without a new revision. Of a subject or an issuer \
         every token is refused that was issued until now.";
    let id = [("id", "$response.body#/id")];
    let answer = Answers::made("The revocation.", "Revocation", made.clone())
        .with(&["Location", "Idempotency-Replayed"])
        .then("getRevocation", "It.", &id)
        .then("deleteRevocation", "Lifts it.", &id);
    let create = Operation::post("/v1/revocations", "createRevocation", "revocations")
        .says("Revokes a credential, a token, a subject or an issuer.", about)
        .reads(Required::True, vec![Body::json("NewRevocation", asked)])
        .answers(answer);
    let one = || id_in_path("id", "The revocation's id.", example::ID);
    let get = Operation::get("/v1/revocations/{id}", "getRevocation", "revocations")
        .says("Gets a revocation.", "While it is in force.")
        .takes(one())
        .answers(Answers::ok("The revocation.", "Revocation", made.clone()));
    let about = "What it refused is accepted again everywhere within a second, as far as nothing else is \
         against it.";
    let path = "/v1/revocations/{id}";
    let delete = Operation::new(HttpMethod::Delete, path, "deleteRevocation", "revocations")
        .says("Lifts a revocation.", about)
        .takes(one())
        .answers(Answers::ok("The revocation, as it was.", "Revocation", made));
    [list, create, get, delete]
}

fn rekey() -> Operation {
    let about = "Those that were sealed under another one, in one revision. An older key may be taken \
         away when that is in force everywhere.";
    let done = json!({ "resealed": 2, "revision": 8 });
    let done = Answers::ok("How many were sealed anew.", "Rekeyed", done);
    Operation::post("/v1/secrets:rekey", "rekeySecrets", "secrets")
        .says("Seals every secret under the first master key.", about)
        .reads(Required::False, vec![Body::json("Rekeying", json!({}))])
        .answers(done.with(&["Tollgate-Revision", "Idempotency-Replayed"]))
}
