//! What the demo prints when it is ready: addresses, keys and commands to try, each on one line.

use crate::print;
use std::path::Path;

pub(super) fn show(data: &Path, environment: &[(String, String)]) {
    let value = |name: &str| {
        let found = environment.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str()).unwrap_or_default()
    };
    let (gateway, admin, token) = (value("GATEWAY_URL"), value("ADMIN_URL"), value("ADMIN_TOKEN"));
    let (dispatcher, crm) = (value("DISPATCHER_URL"), value("CRM_URL"));
    let (acme, globex) = (value("ACME_KEY"), value("GLOBEX_KEY"));
    let env = data.join("demo.env");
    let env = env.display();
    let us = std::env::args().next().unwrap_or_else(|| "tollgate".to_owned());
    let body = r#"'{"name":{"given":"Ada","family":"Lovelace"},"emails":["ada@example.org"],"notes":"met at the fair"}'"#;
    let posted = format!("-H 'Content-Type: application/json' -d {body}");
    let plan = r#"'{"limits":[{"id":"burst","rate":"1/min","burst":3,"per":"tenant","on_store_error":"local"}]}'"#;
    let event = r#"'{"specversion":"1.0","id":"try-1","source":"/try","type":"invoice.paid","tenant":"acme","data":{"number":7}}'"#;
    let lines = [
        "Tollgate is ready.".to_owned(),
        String::new(),
        format!("  gateway     {gateway}"),
        format!("  admin       {admin}"),
        format!("  dispatcher  {dispatcher}   (webhooks; private addresses that they may go to: {})", super::LOOPBACK),
        format!("  demo CRM    {crm}"),
        format!("  status      {}/metrics", value("STATUS_URL")),
        String::new(),
        format!("  acme        {acme}   (gold: reads and writes)"),
        format!("  globex      {globex}   (free: reads)"),
        format!("  admin       {token}"),
        format!("  all of it, and JWTs, in {env}"),
        String::new(),
        "Send something:".to_owned(),
        format!("  curl -i {gateway}/v2/contacts -H 'X-Api-Key: {acme}'"),
        format!(
            "  curl -i {gateway}/v2/contacts -H 'X-Api-Key: {acme}' -H 'Idempotency-Key: try-1' {posted}"
        ),
        format!(
            "  curl -i {gateway}/v2/contacts -H 'X-Api-Key: {globex}' -H 'Idempotency-Key: try-2' {posted}"
        ),
        format!(
            "  curl -i {gateway}/v1/contacts -H \"Authorization: Bearer $(. {env}; echo $ACME_JWT)\""
        ),
        format!("  curl -s {gateway}/.tollgate/usage -H 'X-Api-Key: {acme}'"),
        format!("  curl -s {gateway}/.tollgate/errors/RATE_LIMITED"),
        "Ask what was decided about one request (a record is kept a moment after its answer):"
            .to_owned(),
        format!(
            "  curl -s -o /dev/null {gateway}/v2/contacts -H 'X-Api-Key: {globex}' -H 'X-Request-ID: explain-me' && sleep 1 && curl -s {gateway}/.tollgate/explain/explain-me -H 'X-Api-Key: {globex}'"
        ),
        "Every change of a contact is an event, which webhooks carry to a copy of acme's contacts, and on to a mailing list:"
            .to_owned(),
        format!("  curl -s {crm}/projection/contacts; echo; curl -s {crm}/mailing-list"),
        format!("  curl -s '{admin}/v1/deliveries?limit=5' -H 'Authorization: Bearer {token}'"),
        "Have the CRM send webhooks by itself, two a second, then stop:".to_owned(),
        format!("  curl -s -X PUT {crm}/api/simulator/webhooks/automatic -H 'Content-Type: application/json' -d '{{\"on\":true,\"interval\":\"500ms\"}}'"),
        format!("  curl -s -X PUT {crm}/api/simulator/webhooks/automatic -H 'Content-Type: application/json' -d '{{\"on\":false}}'"),
        "Take the mailing list away; what the copy can do only half of it undoes, and is sent again:".to_owned(),
        format!("  curl -s -X PUT {crm}/mailing-list/condition -H 'Content-Type: application/json' -d '{{\"condition\":\"down\"}}'"),
        format!("  curl -s {crm}/projection/events"),
        "Send an event of your own:".to_owned(),
        format!(
            "  curl -s {dispatcher}/v1/events -H 'Authorization: Bearer {token}' -H 'Content-Type: application/cloudevents+json' -d {event}"
        ),
        "Make the free plan three requests at once, then one a minute; the next request sees it:"
            .to_owned(),
        format!(
            "  curl -s -X PATCH {admin}/v1/plans/free -H 'Authorization: Bearer {token}' -H 'If-Match: *' -H 'Content-Type: application/merge-patch+json' -d {plan}"
        ),
        format!("  curl -s '{admin}/v1/revisions?limit=5' -H 'Authorization: Bearer {token}'"),
        "Or change the document as a file:".to_owned(),
        format!("  set -a; . {env}; set +a"),
        format!("  {us} export > document.yaml"),
        format!("  {us} apply document.yaml"),
        String::new(),
        "Ctrl-C ends.".to_owned(),
    ];
    for line in lines {
        print(&line);
    }
}
