//! Operations on events.

use super::answer::{Answers, Body};
use super::example;
use super::operation::Operation;
use crate::events::PATH;
use model::event::{CloudEvent, EVENTS_MAX};
use serde_json::{Value, json};
use utoipa::openapi::Required;
use utoipa::openapi::path::HttpMethod;

/// The operations.
pub(super) fn operations() -> [Operation; 1] {
    let about = "CloudEvents 1.0: one in structured form, a batch, or one in binary form with its attributes as `ce-` \
         headers (HTTP binding §3.1). The extension attribute `tenant` names whose it is; a token that is bound to a \
         tenant sends that one's, whether it is named or not. The same event again is accepted again and changes nothing; \
         another one under its `source` and `id` is 409. All events of a request are accepted, or none. Types that begin \
         with `tollgate.` and the sources `/tollgate…`, `/v1/inbound/…` and `/v1/sources/…` are the gateway's own.";
    let answer = json!({
        "accepted": [{ "source": "/billing", "id": "inv-7-paid", "webhook_id": example::WEBHOOK_ID }],
    });
    let answer = Body::json("Accepted", answer);
    [Operation::new(HttpMethod::Post, PATH, "sendEvents", "events")
        .says("Sends events.", about)
        .reads(
            Required::True,
            vec![
                Body::json("CloudEvent", event()).of_kind(CloudEvent::STRUCTURED),
                Body::json("CloudEventBatch", json!([event()])).of_kind(CloudEvent::BATCH),
            ],
        )
        .refuses(&[409, 429])
        .answers(Answers::new(
            202,
            "They are on the disk, and go to whoever wants them.",
            vec![answer],
        ))]
}

fn event() -> Value {
    json!({
        "specversion": "1.0",
        "id": "inv-7-paid",
        "source": "/billing",
        "type": "invoice.paid",
        "subject": "inv-7",
        "time": example::AT,
        "tenant": "acme",
        "data": { "number": 7 },
    })
}

/// An event, as JSON has it (CloudEvents 1.0, JSON format §3).
pub(super) fn schema() -> Value {
    let text = |about: &str| json!({ "type": "string", "minLength": 1, "maxLength": 1_024, "description": about });
    // JSON format §2.2: null means that it is not set.
    let maybe = |about: &str| json!({ "type": ["string", "null"], "minLength": 1, "maxLength": 1_024, "description": about });
    let formed = |format: &str, about: &str| json!({ "type": ["string", "null"], "format": format, "description": about });
    json!({
        "type": "object",
        "description": "An event: these attributes, others of their own names, and `data` or `data_base64`.",
        "required": ["specversion", "id", "source", "type"],
        "propertyNames": { "pattern": "^([a-z0-9]{1,20}|data_base64)$" },
        "properties": {
            "specversion": { "const": "1.0" },
            "id": text("Unique within tenant and source."),
            "source": text("Where it is from: a URI-reference."),
            "type": text("What happened."),
            "subject": maybe("What it is about."),
            "time": formed("date-time", "When it happened."),
            "datacontenttype": maybe("The data's media type; JSON when absent."),
            "dataschema": formed("uri", "What the data is like."),
            "tenant": maybe("The tenant whose it is. The token's own when absent."),
            "data": { "description": "What is to be known. It fits the schema of its type, where the document has one." },
            "data_base64": { "type": "string", "description": "The same, of what is neither JSON nor text." },
        },
        "additionalProperties": { "type": ["string", "boolean", "integer", "null"] },
    })
}

/// A batch (JSON format §4).
pub(super) fn batch() -> Value {
    json!({
        "type": "array",
        "maxItems": EVENTS_MAX,
        "items": { "$ref": "#/components/schemas/CloudEvent" },
        "description": "Events, accepted together or not at all.",
    })
}
