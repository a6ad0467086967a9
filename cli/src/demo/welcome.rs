//! What the demo prints when it is ready: addresses, keys and commands to try, each on one line.

use crate::print;
use std::path::Path;

const JSON: &str = "-H 'Content-Type: application/json'";
const CONTACT: &str = r#"'{"name":{"given":"Ada","family":"Lovelace"},"emails":["ada@example.org"],"notes":"met at the fair"}'"#;
const PLAN: &str = r#"'{"limits":[{"id":"burst","rate":"1/min","burst":3,"per":"tenant","on_store_error":"local"}]}'"#;
const EVENT: &str = r#"'{"specversion":"1.0","id":"try-1","source":"/try","type":"invoice.paid","tenant":"acme","data":{"number":7}}'"#;

/// What `demo.env` holds, and where it is.
struct Welcome<'a> {
    environment: &'a [(String, String)],
    file: String,
}

pub(super) fn show(data: &Path, environment: &[(String, String)]) {
    let welcome = Welcome { environment, file: data.join("demo.env").display().to_string() };
    let lines =
        [welcome.addresses(), welcome.requests(), welcome.webhooks(), welcome.changes()].concat();
    for line in lines {
        print(&line);
    }
}

impl Welcome<'_> {
    fn value(&self, name: &str) -> &str {
        let found = self.environment.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str()).unwrap_or_default()
    }

    fn addresses(&self) -> Vec<String> {
        let (acme, globex) = (self.value("ACME_KEY"), self.value("GLOBEX_KEY"));
        let dispatcher = self.value("DISPATCHER_URL");
        vec![
            "Tollgate is ready.".to_owned(),
            String::new(),
            format!("  gateway     {}", self.value("GATEWAY_URL")),
            format!("  admin       {}", self.value("ADMIN_URL")),
            format!("  dispatcher  {dispatcher}   (webhooks may go to {}, too)", super::LOOPBACK),
            format!("  demo CRM    {}", self.value("CRM_URL")),
            format!("  status      {}/metrics", self.value("STATUS_URL")),
            String::new(),
            format!("  acme        {acme}   (gold: reads and writes)"),
            format!("  globex      {globex}   (free: reads)"),
            format!("  admin       {}", self.value("ADMIN_TOKEN")),
            format!("  all of it, and JWTs, in {}", self.file),
            String::new(),
        ]
    }

    fn requests(&self) -> Vec<String> {
        let (gateway, env) = (self.value("GATEWAY_URL"), &self.file);
        let (acme, globex) = (self.value("ACME_KEY"), self.value("GLOBEX_KEY"));
        let contacts = format!("curl -i {gateway}/v2/contacts");
        let explain = format!("curl -s {gateway}/.tollgate/explain/explain-me");
        vec![
            "Send something:".to_owned(),
            format!("  {contacts} -H 'X-Api-Key: {acme}'"),
            format!(
                "  {contacts} -H 'X-Api-Key: {acme}' -H 'Idempotency-Key: try-1' {JSON} -d {CONTACT}"
            ),
            format!(
                "  {contacts} -H 'X-Api-Key: {globex}' -H 'Idempotency-Key: try-2' {JSON} -d {CONTACT}"
            ),
            format!(
                "  curl -i {gateway}/v1/contacts -H \"Authorization: Bearer $(. {env}; echo $ACME_JWT)\""
            ),
            format!("  curl -s {gateway}/.tollgate/usage -H 'X-Api-Key: {acme}'"),
            format!("  curl -s {gateway}/.tollgate/errors/RATE_LIMITED"),
            "Ask what was decided about one request (a record is kept a moment after its answer):"
                .to_owned(),
            format!(
                "  curl -s -o /dev/null {gateway}/v2/contacts -H 'X-Api-Key: {globex}' -H 'X-Request-ID: explain-me' && sleep 1 && {explain} -H 'X-Api-Key: {globex}'"
            ),
        ]
    }

    fn webhooks(&self) -> Vec<String> {
        let (dispatcher, crm) = (self.value("DISPATCHER_URL"), self.value("CRM_URL"));
        let (admin, token) = (self.value("ADMIN_URL"), self.value("ADMIN_TOKEN"));
        let puts =
            |path: &str, body: &str| format!("  curl -s -X PUT {crm}{path} {JSON} -d '{body}'");
        let automatic = "/api/simulator/webhooks/automatic";
        vec![
            "Webhooks carry every change of a contact to a copy of acme's contacts, and on to a mailing list:"
                .to_owned(),
            format!("  curl -s {crm}/projection/contacts"),
            format!("  curl -s {crm}/mailing-list"),
            format!("  curl -s '{admin}/v1/deliveries?limit=5' -H 'Authorization: Bearer {token}'"),
            "Have the CRM send webhooks by itself, two a second, and stop it:".to_owned(),
            puts(automatic, r#"{"on":true,"interval":"500ms"}"#),
            puts(automatic, r#"{"on":false}"#),
            "Take the mailing list away (`up` brings it back): what can be done by halves only is undone, and comes again:"
                .to_owned(),
            puts("/mailing-list/condition", r#"{"condition":"down"}"#),
            format!("  curl -s {crm}/projection/events"),
            "Send an event of your own:".to_owned(),
            format!(
                "  curl -s {dispatcher}/v1/events -H 'Authorization: Bearer {token}' -H 'Content-Type: application/cloudevents+json' -d {EVENT}"
            ),
        ]
    }

    fn changes(&self) -> Vec<String> {
        let (admin, token) = (self.value("ADMIN_URL"), self.value("ADMIN_TOKEN"));
        let us = std::env::args().next().unwrap_or_else(|| "tollgate".to_owned());
        vec![
            "Make the free plan three requests at once, then one a minute; the next request sees it:"
                .to_owned(),
            format!(
                "  curl -s -X PATCH {admin}/v1/plans/free -H 'Authorization: Bearer {token}' -H 'If-Match: *' -H 'Content-Type: application/merge-patch+json' -d {PLAN}"
            ),
            format!("  curl -s '{admin}/v1/revisions?limit=5' -H 'Authorization: Bearer {token}'"),
            "Or change the document as a file:".to_owned(),
            format!("  set -a; . {}; set +a", self.file),
            format!("  {us} export > document.yaml"),
            format!("  {us} apply document.yaml"),
            String::new(),
            "Ctrl-C ends.".to_owned(),
        ]
    }
}
