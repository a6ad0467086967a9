//! Many tenants in one document. What that costs is measured by `make bench`.

use crate::harness::cluster::Setup;
use crate::harness::document::{self, Edit as _, credential};
use crate::harness::{Upstream, sized};
use serde_json::{Value, json};

/// How many credentials each tenant has.
const CREDENTIALS: usize = 3;

/// A key of a tenant.
fn key(tenant: usize, credential: usize) -> String {
    format!("tg_t{tenant:05}_{credential}_{:032x}", tenant * CREDENTIALS + credential)
}

fn tenant(number: usize) -> Value {
    let credentials: Vec<Value> =
        (0..CREDENTIALS).map(|each| credential(&format!("k{each}"), &key(number, each))).collect();
    json!({ "id": format!("tenant-{number}"), "plan": "unlimited", "state": "active", "consumers": [
        { "id": format!("app-{number}"), "scopes": ["contacts:read"], "credentials": credentials },
    ] })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_tenants_are_published_and_a_key_of_the_last_one_works() {
    let upstream = Upstream::start().await;
    let mut node = Setup::named("alone", &["gateway", "admin"]).start();
    node.answers().await;
    let tenants = sized("tenants", 1_000, 10_000);
    let document = document::standard(upstream.address)
        .changed(|document| document["tenants"] = (0..tenants).map(tenant).collect());
    println!("{} bytes", document.to_string().len());
    assert_eq!(node.api.publish_first(&document).await, 1);
    node.is_ready().await;
    for number in [0, tenants / 2, tenants - 1] {
        for each in 0..CREDENTIALS {
            node.get("/v1/contacts").key(&key(number, each)).send().await.is(200);
        }
        let forged = key(number, 0).replace("_0_", "_7_");
        node.get("/v1/contacts").key(&forged).send().await.refuses(401, "CREDENTIAL_INVALID");
    }
    // One of them is changed like any other.
    let last = format!("/v1/tenants/tenant-{}", tenants - 1);
    let changed = node.api.merge(&last, &json!({ "state": "suspended" })).await;
    assert_eq!(changed.is(200).revision(), 2);
    let answer = node.get("/v1/contacts").key(&key(tenants - 1, 0)).send().await;
    answer.refuses(403, "TENANT_SUSPENDED");
    node.get("/v1/contacts").key(&key(0, 0)).send().await.is(200);
    assert_eq!(node.api.items("/v1/tenants?limit=500").await.len(), tenants);
}
