//! Operations on webhooks: endpoints as far as they are more than entries of the document, deliveries, replays.

use super::answer::{Answers, Body};
use super::control::spanned;
use super::example;
use super::operation::Operation;
use super::parameter::{dry_run, id_in_path, id_in_query, parameter, query, string, text};
use crate::deliveries::WORD_MAX;
use model::webhook::DeliveryState;
use serde_json::{Value, json};
use utoipa::openapi::Required;
use utoipa::openapi::path::{Parameter, ParameterIn};
use utoipa::openapi::schema::{ObjectBuilder, Type};

const DELIVERY: &str = "/v1/deliveries/{id}";
const REPLAYS: &str = "/v1/webhook_replays";
const ENDPOINT: &str = "/v1/endpoints/{id}";
/// What a delivery's id is.
const DELIVERY_ID: &str = "^dlv_[0-9]{1,18}$";
/// The headers of an answer that is kept for repeats.
const REPLAYED: &[&str] = &["Idempotency-Replayed"];

/// The operations.
pub(super) fn operations() -> Vec<Operation> {
    let mut operations = Vec::from(endpoints());
    operations.extend(deliveries());
    operations.extend(replays());
    operations
}

fn endpoints() -> [Operation; 3] {
    let of_one = |verb: &str, id: &str| {
        Operation::post(&format!("{ENDPOINT}:{verb}"), id, "endpoints").takes(id_in_path(
            "id",
            "The endpoint's id.",
            "acme-projection",
        ))
    };
    let about = "An event of type `tollgate.ping`, for this endpoint alone, whatever types it wants: accepted, signed, sent \
         and retried like any other, and shown among the deliveries. The audit has it twice where there is an \
         `Idempotency-Key`: as sent, and as answered.";
    let pinged = json!({ "webhook_id": example::WEBHOOK_ID, "delivery": "dlv_4711" });
    let pinged = Answers::ok("The delivery on its way.", "Pinged", pinged).with(REPLAYED);
    let ping = of_one("ping", "pingEndpoint")
        .says("Sends an endpoint a ping.", about)
        .reads(Required::False, vec![Body::json("Empty", json!({}))])
        .answers(pinged.then(
            "getDelivery",
            "What became of it.",
            &[("id", "$response.body#/delivery")],
        ));
    let about = "One that was disabled as it said 410 or failed for too long. What was parked meanwhile is taken up again, \
         unless `recover=false`. One that the document has disabled is enabled there.";
    let whether = ObjectBuilder::new().schema_type(Type::Boolean).build();
    let enabled = json!({ "endpoint": "acme-projection", "recovers": true });
    let enable = of_one("enable", "enableEndpoint")
        .says("Serves an endpoint again.", about)
        .takes(query(
            "recover",
            "Whether what was parked is taken up again; true when absent.",
            whether,
            true,
        ))
        .reads(Required::False, vec![Body::json("Empty", json!({}))])
        .answers(Answers::ok("It is served.", "Enabled", enabled).with(REPLAYED));
    let about = "The new secret is in this answer and nowhere else. The old one signs beside it until its grace is over, so \
         that receivers change when it suits them.";
    let rotated = json!({
        "endpoint": "acme-projection",
        "secret": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwMfKQ9r8GKYo=",
        "previous_until": example::LATER,
        "revision": 8,
    });
    let rotated = Answers::ok(
        "The secret, or what it would change (`dry_run`).",
        "RotatedSecretOrDryRun",
        rotated,
    );
    let rotate = of_one("rotate-secret", "rotateEndpointSecret")
        .says("Gives an endpoint another secret.", about)
        .staged()
        .reads(Required::False, vec![Body::json("SecretRotation", json!({ "grace": "48h" }))])
        .answers(rotated.with(&["Tollgate-Revision", "Idempotency-Replayed"]));
    [ping, enable, rotate]
}

fn deliveries() -> [Operation; 5] {
    let tag = "deliveries";
    let page = || {
        let first = [("id", "$response.body#/items/0/id")];
        let page = Answers::page("Delivery", example::delivery());
        page.then("getDelivery", "The first of them, with its attempts.", &first)
    };
    let about = "Newest first: each event's way to one endpoint. `since` and `until` are of the time at which the event was \
         accepted. A token of a tenant sees that tenant's.";
    let states = DeliveryState::ALL.iter().map(|state| state.as_str());
    let states = text().enum_values(Some(states)).build();
    let list = Operation::get("/v1/deliveries", "listDeliveries", tag)
        .says("Lists deliveries.", about)
        .takes(query("state", "In this state.", states, "dead"));
    let list = of_deliveries(list).answers(page());
    let about = "What came to nothing and was not discarded, newest first. To be retried, one by one or by a replay, or \
         discarded.";
    let dead = Operation::get("/v1/dead_letters", "listDeadLetters", tag)
        .says("Lists dead letters.", about);
    let dead = of_deliveries(dead).answers(page());
    let about = "With each attempt. What the event says is a tenant's data: `body=true` takes the role `operator`, and is \
         audited.";
    let whether = ObjectBuilder::new().schema_type(Type::Boolean).build();
    let get = Operation::get(DELIVERY, "getDelivery", tag)
        .says("Gets a delivery.", about)
        .takes(delivery())
        .takes(query("body", "Whether the event is told.", whether, false))
        .answers(Answers::ok("The delivery.", "DeliveryWhole", example::delivery_whole()));
    let changed = |state: &str, reason: Value| {
        let mut delivery = example::delivery();
        if let Some(fields) = delivery.as_object_mut() {
            fields.insert("state".to_owned(), state.into());
            fields.insert("reason".to_owned(), reason);
            fields.retain(|_, value| !value.is_null());
        }
        Answers::ok("The delivery, as it is now.", "Delivery", delivery).with(REPLAYED)
    };
    let about = "One that is dead, parked, or waits for its next attempt is due at once, and begins its schedule anew.";
    let retry = Operation::post(&format!("{DELIVERY}:retry"), "retryDelivery", tag)
        .says("Takes a delivery up again.", about)
        .takes(delivery())
        .reads(Required::False, vec![Body::json("Empty", json!({}))])
        .answers(changed("pending", Value::Null));
    let about = "It is dead, and no dead letter any more. Those that wait behind it go on.";
    let discard = Operation::post(&format!("{DELIVERY}:discard"), "discardDelivery", tag)
        .says("Gives a delivery up.", about)
        .takes(delivery())
        .reads(Required::False, vec![Body::json("Empty", json!({}))])
        .answers(changed("dead", "discarded".into()));
    [list, get, retry, discard, dead]
}

/// What lists of deliveries take.
fn of_deliveries(operation: Operation) -> Operation {
    let word = || string(1, WORD_MAX);
    let operation = operation
        .takes(id_in_query("tenant", "Of this tenant.", "acme"))
        .takes(id_in_query("endpoint", "To this endpoint.", "acme-projection"))
        .takes(query("webhook_id", "Of this event.", word(), example::WEBHOOK_ID))
        .takes(query("type", "Of events of this type.", word(), "contact.created"));
    spanned(operation).paged()
}

fn delivery() -> Parameter {
    let schema = text().pattern(Some(DELIVERY_ID)).build();
    let parameter = parameter("id", ParameterIn::Path, "The delivery's id.", schema);
    parameter.example(Some("dlv_4711".into())).build()
}

fn replays() -> [Operation; 4] {
    let tag = "webhook_replays";
    let list = Operation::get(REPLAYS, "listReplays", tag)
        .says("Lists replays.", "Newest first. A token of a tenant sees that tenant's.")
        .takes(id_in_query("tenant", "Of this tenant.", "acme"))
        .paged()
        .answers(Answers::page("Replay", example::replay()));
    let about = "A job: the events that a tenant's window accepted are queued again, as fast as `rate` says. By default what \
         was delivered is skipped: what is dead or parked is taken up again, and what an endpoint never had is planned. With \
         `dedupe: force` all is sent once more, under the same `webhook-id`. The window is at most 31 days long. A dry run \
         says how much it would be.";
    let same = [("id", "$response.body#/id")];
    let made = Answers::made("The replay, which runs.", "Replay", example::replay())
        .with(&["Location", "Idempotency-Replayed"])
        .then("getReplay", "How far it is.", &same)
        .then("cancelReplay", "Ends it.", &same);
    let tried = json!({ "events": 120, "queue": 42, "skip": 78 });
    let create = Operation::post(REPLAYS, "createReplay", tag)
        .says("Sends the events of a window again.", about)
        .takes(dry_run())
        .reads(Required::True, vec![Body::json("ReplayRequest", example::replay_request())])
        .answers(made)
        .answers(Answers::ok("What it would do (`dry_run`).", "ReplayDryRun", tried));
    let get = Operation::get(&format!("{REPLAYS}/{{id}}"), "getReplay", tag)
        .says("Gets a replay.", "How far it is.")
        .takes(replay())
        .answers(Answers::ok("The replay.", "Replay", example::replay()));
    let mut ended = example::replay();
    if let Some(fields) = ended.as_object_mut() {
        fields.insert("state".to_owned(), "cancelled".into());
        fields.insert("ended_at".to_owned(), example::AT.into());
    }
    let cancel = Operation::post(&format!("{REPLAYS}/{{id}}:cancel"), "cancelReplay", tag)
        .says("Ends a replay.", "What it queued stays.")
        .takes(replay())
        .reads(Required::False, vec![Body::json("Empty", json!({}))])
        .answers(Answers::ok("The replay, as it ended.", "Replay", ended).with(REPLAYED));
    [list, create, get, cancel]
}

fn replay() -> Parameter {
    let schema = string(1, 64);
    let parameter = parameter("id", ParameterIn::Path, "The replay's id.", schema);
    parameter.example(Some(example::ID.into())).build()
}
