//! `/v1/events`: the door is `ingest`'s own, and tried there; here is who may come to it.

use super::api::Api;
use model::event::CloudEvent;
use model::role::Role;
use model::webhook::WebhookId;
use serde_json::json;

#[tokio::test]
async fn events_are_kept_for_whoever_may_send_them_and_are_no_change_that_is_audited() {
    let api = Api::new().await;
    let before = api.audit().await.len();
    for (role, tenant, of, status) in [
        (Role::Viewer, None, "acme", 403),
        (Role::Publisher, None, "acme", 403),
        (Role::Producer, None, "acme", 202),
        (Role::Producer, Some("acme"), "acme", 202),
        (Role::Producer, Some("acme"), "globex", 403),
        (Role::Operator, Some("globex"), "globex", 202),
        (Role::Admin, None, "nobody", 400),
    ] {
        let token = api.token(role, tenant).await;
        let event = json!({
            "specversion": "1.0", "id": "e-1", "source": "/crm", "type": "a", "tenant": of,
        });
        let ask = api.ask("POST", "/v1/events").bearer(&token).body(event.to_string());
        let told = ask.header("content-type", CloudEvent::STRUCTURED).send().await;
        assert_eq!(told.status, status, "{role:?} {tenant:?} {of}: {}", told.text);
        if status == 202 {
            let webhook_id = WebhookId::of(&of.into(), "/crm", "e-1");
            let accepted = json!([{ "source": "/crm", "id": "e-1", "webhook_id": webhook_id }]);
            assert_eq!(told.json()["accepted"], accepted);
        }
    }
    let kept = api.store.events_after(0, 10).await.unwrap();
    let tenants: Vec<&str> = kept.iter().map(|event| event.tenant.as_str()).collect();
    assert_eq!(tenants, ["acme", "globex"]);
    // The three that were refused for what they may not do.
    assert_eq!(api.audit().await.len(), before + 3);
}

#[tokio::test]
async fn what_is_no_event_is_told_where() {
    let api = Api::new().await;
    let kind = CloudEvent::BATCH;
    let batch = json!([{ "specversion": "1.0", "id": "", "source": "/crm", "type": "a" }]);
    let ask = || api.ask("POST", "/v1/events").body(batch.to_string());
    let told = ask().header("content-type", kind).send().await.refuses(400, "VALIDATION_FAILED");
    assert_eq!(told["errors"][0]["pointer"], "/0/id");
    let json = "application/json";
    ask().header("content-type", json).send().await.refuses(400, "VALIDATION_FAILED");
    let queried = api.ask("POST", "/v1/events?dry_run=true").json(&batch);
    queried.send().await.refuses(400, "VALIDATION_FAILED");
    api.ask("GET", "/v1/events").send().await.refuses(405, "METHOD_NOT_ALLOWED");
}
