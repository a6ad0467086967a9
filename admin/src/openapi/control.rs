//! Operations beside the document: revisions, audit, tokens, nodes, revocations, usage, exchanges, the process itself.

use super::document::dry_run;
use super::example;
use super::operation::{Answers, Body, Operation, id, page_size, string, text, time};
use crate::audit::{ACTION_MAX, ACTOR_MAX, EXPORT_MAX, NDJSON, RESOURCE_MAX};
use crate::exchanges::EXCHANGE_BYTES_MAX;
use model::ErrorCode;
use serde_json::{Value, json};
use utoipa::openapi::Required;
use utoipa::openapi::path::{HttpMethod, Parameter, ParameterBuilder, ParameterIn};
use utoipa::openapi::schema::{ObjectBuilder, Type};

/// The operations.
pub(super) fn operations() -> Vec<Operation> {
    [
        revisions(),
        audit(),
        tokens(),
        nodes(),
        revocations(),
        usage(),
        exchanges(),
        secrets(),
        process(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn number(name: &str, place: ParameterIn, about: &str, example: u64) -> Parameter {
    let schema = ObjectBuilder::new()
        .schema_type(Type::Integer)
        .minimum(Some(1))
        .maximum(Some(i64::MAX))
        .build();
    text(name, place, about).schema(Some(schema)).example(Some(example.into())).build()
}

fn revision() -> Parameter {
    number("revision", ParameterIn::Path, "The revision's number.", 1)
}

fn revisions() -> Vec<Operation> {
    let operation = |method, path: &str, name: &str, about: (&str, &str)| {
        Operation::new(method, path, (name, "revisions"), about)
    };
    let mut whole = example::revision();
    if let Some(fields) = whole.as_object_mut() {
        fields.insert("document".to_owned(), json!({ "format": 1 }));
        fields.insert("text".to_owned(), "format: 1\n".into());
    }
    let list = operation(
        HttpMethod::Get,
        "/v1/revisions",
        "listRevisions",
        ("Lists revisions.", "Newest first. Empty where the document is kept in a file."),
    )
    .paged()
    .answers(
        Answers::new(
            200,
            "A page.",
            vec![Body::json("RevisionList", example::page(example::revision()))],
        )
        .then(
            "getRevision",
            "The newest, with its document.",
            &[("revision", "$response.body#/items/0/revision")],
        )
        .then(
            "rollbackRevision",
            "Brings it back.",
            &[("revision", "$response.body#/items/0/revision")],
        )
        .then(
            "diffRevision",
            "What came after.",
            &[("revision", "$response.body#/items/0/revision")],
        ),
    );
    let get = operation(
        HttpMethod::Get,
        "/v1/revisions/{revision}",
        "getRevision",
        ("Gets a revision.", "With its document, as JSON and as it was written."),
    )
    .takes(revision())
    .answers(
        Answers::new(200, "The revision.", vec![Body::json("RevisionWhole", whole)])
            .with(&["Tollgate-Revision"]),
    );
    let difference = json!({
        "from": 1,
        "to": 8,
        "difference": [{ "op": "replace", "path": "/tenants/0/state", "value": "suspended" }],
    });
    let diff = operation(HttpMethod::Get, "/v1/revisions/{revision}/diff", "diffRevision", ("Compares two revisions.", "As a JSON Patch (RFC 6902) that makes the second of the first. Entries are compared by their ids; secrets are left out."))
        .takes(revision())
        .takes(number("to", ParameterIn::Query, "The other revision; the newest when absent.", 1))
        .answers(Answers::new(200, "The difference.", vec![Body::json("Difference", difference)]));
    let rollback = operation(HttpMethod::Post, "/v1/revisions/{revision}:rollback", "rollbackRevision", ("Brings a revision back.", "Publishes its text, byte for byte, as a new revision for all, also in place of one that is on some nodes only. The token's role is asked for each section that changes."))
        .takes(revision())
        .takes(dry_run())
        .posts(Required::False, Body::json("Empty", json!({})))
        .answers(Answers::new(200, "What it changed, or would change.", vec![Body::json("ChangedOrDryRun", example::changed())]).with(&["Tollgate-Revision", "Idempotency-Replayed"]));
    let release = operation(
        HttpMethod::Post,
        "/v1/revisions/{revision}:release",
        "releaseRevision",
        (
            "Gives a revision to all nodes.",
            "Of the newest revision, when it is on some nodes only.",
        ),
    )
    .takes(revision())
    .posts(Required::False, Body::json("Empty", json!({})))
    .answers(
        Answers::new(200, "The revision.", vec![Body::json("Revision", example::revision())])
            .with(&["Tollgate-Revision", "Idempotency-Replayed"]),
    );
    vec![list, get, diff, rollback, release]
}

/// Text that is searched for.
fn words(name: &str, about: &str, max: usize, example: &str) -> Parameter {
    let schema = string(1, max);
    text(name, ParameterIn::Query, about).schema(Some(schema)).example(Some(example.into())).build()
}

fn spanned(operation: Operation) -> Operation {
    operation.takes(time("since", "From then on.", "2026-01-01T00:00:00Z")).takes(time(
        "until",
        "Before then.",
        example::LATER,
    ))
}

fn audit() -> Vec<Operation> {
    let lines = format!("{}\n", example::entry());
    let answers = Answers::new(
        200,
        "A page, or an export.",
        vec![
            Body::json("AuditEntryList", example::page(example::entry())),
            Body::json("Lines", lines.into()).of_kind(NDJSON),
        ],
    );
    let list = Operation::new(
        HttpMethod::Get,
        "/v1/audit",
        ("listAudit", "audit"),
        (
            "Lists what was done.",
            "Newest first; refusals, too. With `Accept: application/x-ndjson` an export: one entry on each line, at most \
             100,000; its next part begins with `before`, the id of the last line. A token of a tenant sees what concerns it.",
        ),
    )
    .takes(id("tenant", ParameterIn::Query, "What concerns this tenant.", "acme"))
    .takes(words("actor", "By the actor of this name.", ACTOR_MAX, "deploy"))
    .takes(words("action", "Of this action.", ACTION_MAX, "plans.put"))
    .takes(words("resource", "On this path, or beneath it.", RESOURCE_MAX, "/v1/plans"));
    let list = spanned(list)
        .takes(id("before", ParameterIn::Query, "Older than the entry of this id.", "ffffffff"))
        .takes(page_size(EXPORT_MAX))
        .takes(super::operation::cursor())
        .answers(answers);
    vec![list]
}

fn tokens() -> Vec<Operation> {
    let operation = |method, path: &str, name: &str, about: (&str, &str)| {
        Operation::new(method, path, (name, "tokens"), about)
    };
    let mut made = example::token();
    if let Some(fields) = made.as_object_mut() {
        fields.insert("token".to_owned(), format!("tga_{}", example::TRACE.repeat(2)).into());
    }
    let one = || id("id", ParameterIn::Path, "The token's id.", example::ID);
    let list = operation(HttpMethod::Get, "/v1/tokens", "listTokens", ("Lists tokens.", "Newest first, without the tokens themselves. Revoked ones are gone: the audit tells of them."))
        .paged()
        .answers(
            Answers::new(200, "A page.", vec![Body::json("TokenList", example::page(example::token()))])
                .then("getToken", "The newest.", &[("id", "$response.body#/items/0/id")]),
        );
    let create = operation(HttpMethod::Post, "/v1/tokens", "createToken", ("Makes a token.", "It is in this answer and nowhere else: only its hash is kept. A token of a tenant makes tokens of that tenant only."))
        .posts(Required::True, Body::json("NewToken", json!({ "name": "ci", "role": "publisher", "expires_at": example::LATER })))
        .answers(
            Answers::new(201, "The token, which is not told again.", vec![Body::json("MadeToken", made)])
                .with(&["Location", "Idempotency-Replayed"])
                .then("getToken", "The token without itself.", &[("id", "$response.body#/id")])
                .then("deleteToken", "Revokes it.", &[("id", "$response.body#/id")]),
        );
    let get = operation(
        HttpMethod::Get,
        "/v1/tokens/{id}",
        "getToken",
        ("Gets a token.", "Without the token itself."),
    )
    .takes(one())
    .answers(Answers::new(200, "The token.", vec![Body::json("Token", example::token())]));
    let mut revoked = example::token();
    if let Some(fields) = revoked.as_object_mut() {
        fields.insert("revoked_at".to_owned(), example::AT.into());
    }
    let delete = operation(HttpMethod::Delete, "/v1/tokens/{id}", "deleteToken", ("Revokes a token.", "It is refused from then on. The last token of role `admin` that is bound to no tenant can't be revoked."))
        .takes(one())
        .answers(Answers::new(200, "The token, as it was.", vec![Body::json("Token", revoked)]))
        .refuses(&[409]);
    vec![list, create, get, delete]
}

fn nodes() -> Vec<Operation> {
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
    let mut page = example::page(node);
    if let Some(fields) = page.as_object_mut() {
        fields.insert("newest".to_owned(), 8.into());
    }
    let list = Operation::new(
        HttpMethod::Get,
        "/v1/nodes",
        ("listNodes", "nodes"),
        (
            "Lists the processes of this deployment.",
            "By name: which revision is in force on each, how far it is behind, what it could not put in force and why. Those \
             that have not reported for 15 s are gone, and shown for a day.",
        ),
    )
    .paged()
    .answers(Answers::new(200, "A page.", vec![Body::json("Nodes", page)]));
    vec![list]
}

fn revocations() -> Vec<Operation> {
    let asked =
        json!({ "kind": "jti", "issuer": "demo", "jti": "b7e2c1", "until": example::LATER });
    let made = json!({ "id": example::ID, "at": example::AT, "until": example::LATER, "kind": "jti", "issuer": "demo", "jti": "b7e2c1" });
    let list = Operation::new(
        HttpMethod::Get,
        "/v1/revocations",
        ("listRevocations", "revocations"),
        (
            "Lists revocations.",
            "Those in force, newest first. A token of a tenant sees that tenant's.",
        ),
    )
    .paged()
    .answers(Answers::new(
        200,
        "A page.",
        vec![Body::json("RevocationList", example::page(made.clone()))],
    ));
    let create = Operation::new(
        HttpMethod::Post,
        "/v1/revocations",
        ("createRevocation", "revocations"),
        (
            "Revokes a credential, a token, a subject or an issuer.",
            "In force everywhere within a second, without a new revision. Of a subject or an issuer every token is refused \
             that was issued until now.",
        ),
    )
    .posts(Required::True, Body::json("NewRevocation", asked))
    .answers(Answers::new(201, "The revocation.", vec![Body::json("Revocation", made)]).with(&["Idempotency-Replayed"]));
    vec![list, create]
}

fn usage() -> Vec<Operation> {
    let standing = json!({ "tenant": "acme", "limits": [example::usage(1_250)] });
    let reset = json!({ "tenant": "acme", "before": [example::usage(1_250)], "after": [example::usage(0)] });
    let get = Operation::new(
        HttpMethod::Get,
        "/v1/usage",
        ("getUsage", "usage"),
        (
            "What a tenant has used of its limits.",
            "Shared limits, and each consumer's own; not those per credential or address.",
        ),
    )
    .takes(required(id("tenant", ParameterIn::Query, "The tenant.", "acme")))
    .answers(Answers::new(
        200,
        "Each limit as it stands.",
        vec![Body::json("TenantUsage", standing)],
    ))
    .refuses(&[404, 409]);
    let set_back = Operation::new(
        HttpMethod::Post,
        "/v1/usage/{tenant}:reset",
        ("resetUsage", "usage"),
        (
            "Sets what a tenant has used back to nothing.",
            "Of one limit, or of all. The audit keeps what was used before.",
        ),
    )
    .takes(id("tenant", ParameterIn::Path, "The tenant.", "acme"))
    .posts(Required::False, Body::json("Reset", json!({ "limit": "daily" })))
    .answers(
        Answers::new(200, "Each limit before and after.", vec![Body::json("WasReset", reset)])
            .with(&["Idempotency-Replayed"]),
    );
    vec![get, set_back]
}

fn required(parameter: Parameter) -> Parameter {
    ParameterBuilder::from(parameter).required(Required::True).build()
}

fn exchanges() -> Vec<Operation> {
    let operation = |method, path: &str, name: &str, about: (&str, &str)| {
        Operation::new(method, path, (name, "exchanges"), about)
    };
    let page = || vec![Body::json("RecordList", example::page(example::record()))];
    let codes: Vec<Value> = ErrorCode::ALL.iter().map(|code| code.as_str().into()).collect();
    let code = ObjectBuilder::new().schema_type(Type::String).enum_values(Some(codes));
    let code = text("error", ParameterIn::Query, "Refused with this code.")
        .schema(Some(code))
        .example(Some("QUOTA_EXCEEDED".into()));
    let tenant = || id("tenant", ParameterIn::Query, "Of this tenant.", "acme");
    let list = operation(HttpMethod::Get, "/v1/exchanges", "listExchanges", ("Lists decision records.", "Newest first. A route says which exchanges leave one (`record`). A token of a tenant sees that tenant's."))
        .takes(tenant())
        .takes(id("consumer", ParameterIn::Query, "Of this consumer.", "acme-mobile"))
        .takes(id("route", ParameterIn::Query, "On this route.", "contacts.create"))
        .takes(code.build());
    let list = spanned(list).paged().answers(Answers::new(200, "A page.", page()).then(
        "getExchange",
        "All that share its request id.",
        &[("exchange", "$response.body#/items/0/request_id")],
    ));
    let exchange = text("exchange", ParameterIn::Path, "A request id or a trace id.")
        .schema(Some(string(1, EXCHANGE_BYTES_MAX)))
        .example(Some(example::REQUEST.into()));
    let get = operation(
        HttpMethod::Get,
        "/v1/exchanges/{exchange}",
        "getExchange",
        (
            "Gets the decision records of a request or a trace.",
            "All that share the id, newest first.",
        ),
    )
    .takes(exchange.build())
    .paged()
    .answers(Answers::new(200, "A page.", page()));
    let erase = operation(HttpMethod::Delete, "/v1/exchanges", "eraseExchanges", ("Erases a tenant's decision records.", "All that were made until now, whether the tenant is still there or not. It is audited."))
        .takes(required(id("tenant", ParameterIn::Query, "Whose.", "initech")))
        .answers(Answers::new(200, "How many were erased.", vec![Body::json("Erased", json!({ "erased": 3 }))]))
        .refuses(&[404]);
    vec![list, get, erase]
}

fn secrets() -> Vec<Operation> {
    let rekey = Operation::new(
        HttpMethod::Post,
        "/v1/secrets:rekey",
        ("rekeySecrets", "secrets"),
        (
            "Seals every secret under the first master key.",
            "Those that were sealed under another one, in one revision. An older key may be taken away when that is in force \
             everywhere.",
        ),
    )
    .posts(Required::False, Body::json("Rekeying", json!({})))
    .answers(
        Answers::new(200, "How many were sealed anew.", vec![Body::json("Rekeyed", json!({ "resealed": 2, "revision": 8 }))])
            .with(&["Tollgate-Revision", "Idempotency-Replayed"]),
    );
    vec![rekey]
}

fn process() -> Vec<Operation> {
    let operation = |path: &str, name: &str, about: (&str, &str)| {
        Operation::open(path, (name, "process"), about)
    };
    let ready = |ready: bool, store: &str| {
        let body = json!({ "ready": ready, "parts": { "gateway": "ready", "store": store }, "revision": 8 });
        vec![Body::json("Readiness", body)]
    };
    vec![
        operation("/openapi.json", "getOpenapi", ("This description.", "OpenAPI 3.1.")).answers(
            Answers::new(
                200,
                "The description.",
                vec![Body::json("Description", json!({ "openapi": "3.1.0" }))],
            ),
        ),
        operation("/healthz", "getHealth", ("Whether the process lives.", "It answers.")).answers(
            Answers::new(
                200,
                "It does.",
                vec![Body::json("Text", "ok\n".into()).of_kind("text/plain")],
            ),
        ),
        operation(
            "/readyz",
            "getReadiness",
            ("Whether the process is ready.", "Each part of it, by name."),
        )
        .answers(Answers::new(200, "It is.", ready(true, "ready")))
        .answers(Answers::new(
            503,
            "It is not.",
            ready(false, "the store does not answer"),
        )),
        operation(
            "/metrics",
            "getMetrics",
            ("What the process counts.", "In Prometheus' text format."),
        )
        .answers(Answers::new(
            200,
            "The metrics.",
            vec![Body::json("Text", "tollgate_in_flight 0\n".into()).of_kind("text/plain")],
        )),
    ]
}
