//! Operations on what traffic left: usage, decision records, and what the process says of itself.

use super::answer::{Answers, Body};
use super::control::spanned;
use super::example;
use super::operation::Operation;
use super::parameter::{id_in_path, id_in_query, parameter, query, required, string, text};
use crate::exchanges::EXCHANGE_BYTES_MAX;
use model::ErrorCode;
use serde_json::json;
use utoipa::openapi::Required;
use utoipa::openapi::path::{HttpMethod, ParameterIn};

/// The operations.
pub(super) fn operations() -> Vec<Operation> {
    let mut operations = Vec::from(usage());
    operations.extend(exchanges());
    operations.extend(process());
    operations
}

fn usage() -> [Operation; 2] {
    let about = "Shared limits, and each consumer's own, also those that only observe; not those per credential or address.";
    let standing = json!({ "tenant": "acme", "limits": [example::usage(1_250)] });
    let get = Operation::get("/v1/usage", "getUsage", "usage")
        .says("What a tenant has used of its limits.", about)
        .takes(required(id_in_query("tenant", "The tenant.", "acme")))
        .answers(Answers::ok("Each limit as it stands.", "TenantUsage", standing))
        .refuses(&[404, 409]);
    let about = "Of one limit, or of all. The audit keeps what was used before.";
    let reset = json!({
        "tenant": "acme",
        "before": [example::usage(1_250)],
        "after": [example::usage(0)],
    });
    let reset = Answers::ok("Each limit before and after.", "WasReset", reset);
    let set_back = Operation::post("/v1/usage/{tenant}:reset", "resetUsage", "usage")
        .says("Sets what a tenant has used back to nothing.", about)
        .takes(id_in_path("tenant", "The tenant.", "acme"))
        .reads(Required::False, vec![Body::json("Reset", json!({ "limit": "daily" }))])
        .answers(reset.with(&["Idempotency-Replayed"]));
    [get, set_back]
}

fn exchanges() -> [Operation; 3] {
    let about = "Newest first. A route says which exchanges leave one (`record`). A token of a tenant \
         sees that tenant's.";
    let codes = ErrorCode::ALL.iter().map(|code| code.as_str());
    let code = text().enum_values(Some(codes)).build();
    let page = || Answers::page("Record", example::record());
    let first = [("exchange", "$response.body#/items/0/request_id")];
    let list = Operation::get("/v1/exchanges", "listExchanges", "exchanges")
        .says("Lists decision records.", about)
        .takes(id_in_query("tenant", "Of this tenant.", "acme"))
        .takes(id_in_query("consumer", "Of this consumer.", "acme-mobile"))
        .takes(id_in_query("route", "On this route.", "contacts.create"))
        .takes(query("error", "Refused with this code.", code, "QUOTA_EXCEEDED"));
    let list = spanned(list).paged().answers(page().then(
        "getExchange",
        "All that share its request id.",
        &first,
    ));
    let about = "A request id or a trace id.";
    let exchange = parameter("exchange", ParameterIn::Path, about, string(1, EXCHANGE_BYTES_MAX));
    let get = Operation::get("/v1/exchanges/{exchange}", "getExchange", "exchanges")
        .says("Gets the records of a request or a trace.", "All that share the id, newest first.")
        .takes(exchange.example(Some(example::REQUEST.into())).build())
        .paged()
        .answers(page());
    let about =
        "All that were made until now, whether the tenant is still there or not. It is audited.";
    let erased = Answers::ok("How many were erased.", "Erased", json!({ "erased": 3 }));
    let erase = Operation::new(HttpMethod::Delete, "/v1/exchanges", "eraseExchanges", "exchanges")
        .says("Erases a tenant's decision records.", about)
        .takes(required(id_in_query("tenant", "Whose.", "initech")))
        .answers(erased)
        .refuses(&[404]);
    [list, get, erase]
}

fn process() -> [Operation; 4] {
    let text = |example: &str| vec![Body::json("Text", example.into()).of_kind("text/plain")];
    let parts = |ready: bool, store: &str| {
        let parts = json!({ "gateway": "ready", "store": store });
        let counters = json!({ "state": "shared", "nodes": 3 });
        let example =
            json!({ "ready": ready, "parts": parts, "revision": 8, "counters": counters });
        vec![Body::json("Readiness", example)]
    };
    let description = json!({ "openapi": "3.1.0" });
    [
        Operation::open("/openapi.json", "getOpenapi", "process")
            .says("This description.", "OpenAPI 3.1.")
            .answers(Answers::ok("The description.", "Description", description)),
        Operation::open("/healthz", "getHealth", "process")
            .says("Whether the process lives.", "It answers.")
            .answers(Answers::new(200, "It does.", text("ok\n"))),
        Operation::open("/readyz", "getReadiness", "process")
            .says("Whether the process is ready.", "Each part of it, by name.")
            .answers(Answers::new(200, "It is.", parts(true, "ready")))
            .answers(Answers::new(503, "It is not.", parts(false, "the store does not answer"))),
        Operation::open("/metrics", "getMetrics", "process")
            .says("What the process counts.", "In Prometheus' text format.")
            .answers(Answers::new(200, "The metrics.", text("tollgate_in_flight 0\n"))),
    ]
}
