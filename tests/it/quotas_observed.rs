//! What operators see of quotas that nodes share: limits that are only tried out, events as a quota is used up, and a reset
//! with its trace.

use crate::harness::cluster::Member;
use crate::harness::document::{self, Edit as _, key_of};
use crate::harness::redis::Redis;
use crate::harness::{Pair, Upstream, eventually, hoped};
use serde_json::{Value, json};

const PATH: &str = "/v1/contacts";

fn quota(id: &str, amount: &str, mode: &str) -> Value {
    json!({ "id": id, "quota": amount, "per": "tenant", "exact": true, "mode": mode, "on_store_error": "closed" })
}

/// So many requests in turns at both gateways; how many were admitted.
async fn asks(pair: &Pair, tenant: &str, count: usize) -> usize {
    let mut admitted = 0;
    for turn in 0..count {
        let answer = pair.members()[turn % 2].get(PATH).key(&key_of(tenant)).send().await;
        admitted += usize::from(answer.status == 200);
    }
    admitted
}

/// How often gateways decided so about a limit.
async fn decided(pair: &Pair, limit: &str, decision: &str, mode: &str) -> String {
    let of = async |member: &Member| {
        let labels = [("limit", limit), ("decision", decision), ("mode", mode)];
        member.metrics().await.sum("tollgate_limit_decisions_total", &labels)
    };
    (of(pair.a()).await + of(pair.b()).await).to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_limit_that_is_tried_out_says_what_it_would_refuse_and_refuses_nothing() {
    let (redis, upstream) = (Redis::start(), Upstream::start().await);
    let limits =
        json!([quota("monthly", "100/month", "enforce"), quota("planned", "3/month", "observe")]);
    let document = document::standard(upstream.address).with_tenant("tried", limits);
    let pair = Pair::start(&redis.url(), &document).await;
    assert_eq!(asks(&pair, "tried", 10).await, 10);
    eventually("seven would be refused", async || {
        hoped(decided(&pair, "planned", "would_refuse", "observe").await, &"7".to_owned())
    })
    .await;
    assert_eq!(decided(&pair, "planned", "admitted", "observe").await, "3");
    assert_eq!(decided(&pair, "planned", "refused", "observe").await, "0");
    assert_eq!(decided(&pair, "monthly", "admitted", "enforce").await, "10");
    let answer = pair.a().get(PATH).key(&key_of("tried")).send().await;
    // Partners are told of what refuses them.
    for header in ["ratelimit", "ratelimit-policy"] {
        let line = answer.is(200).header(header);
        assert!(line.contains("\"monthly\"") && !line.contains("planned"), "{header}: {line}");
    }
    assert_eq!(answer.header("x-ratelimit-limit"), "100");
    let seen = pair.cluster.api().get("/v1/usage?tenant=tried").send().await.is(200).json();
    let planned = seen["limits"].as_array().unwrap().iter().find(|limit| limit["id"] == "planned");
    let planned = planned.unwrap_or_else(|| panic!("{seen}"));
    assert_eq!((&planned["used"], &planned["mode"]), (&json!(3), &json!("observe")));
}

/// What the outbox tells of a tenant's quota: percent and number, in the order of commits.
fn told(pair: &Pair, tenant: &str) -> Vec<String> {
    let rows = pair.database.sql(&format!(
        "select data from outbox where type = 'tollgate.quota.reached' and tenant = '{tenant}' order by number"
    ));
    rows.lines().map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quota_that_is_used_up_is_told_of_at_80_95_and_100_percent_once_by_two_nodes() {
    let (redis, upstream) = (Redis::start(), Upstream::start().await);
    let limits = json!([quota("monthly", "40/month", "enforce")]);
    let document = document::standard(upstream.address)
        .with_tenant("full", limits.clone())
        .with_tenant("half", limits);
    let pair = Pair::start(&redis.url(), &document).await;
    assert_eq!(asks(&pair, "half", 31).await, 31);
    // Used, and how often that is told of by then.
    for (count, admitted, events) in
        [(31, 31, 0), (1, 1, 1), (5, 5, 1), (1, 1, 2), (2, 2, 3), (20, 0, 3)]
    {
        assert_eq!(asks(&pair, "full", count).await, admitted);
        eventually(&format!("{events} are told of"), async || {
            hoped(told(&pair, "full").len(), &events)
        })
        .await;
    }
    let events = told(&pair, "full");
    println!("{events:#?}");
    let percents: Vec<Value> = events
        .iter()
        .map(|data| serde_json::from_str::<Value>(data).unwrap()["percent"].clone())
        .collect();
    assert_eq!(percents, [json!(80), json!(95), json!(100)], "{events:#?}");
    assert_eq!(told(&pair, "half"), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reset_holds_on_every_node_and_is_audited() {
    let (redis, upstream) = (Redis::start(), Upstream::start().await);
    let limits =
        json!([quota("monthly", "20/month", "enforce"), quota("daily", "50/day", "enforce")]);
    let document = document::standard(upstream.address)
        .with_tenant("reset", limits.clone())
        .with_tenant("other", limits);
    let pair = Pair::start(&redis.url(), &document).await;
    for tenant in ["reset", "other"] {
        assert_eq!(asks(&pair, tenant, 25).await, 20);
    }
    let api = pair.cluster.api();
    let reset = api.post("/v1/usage/reset:reset").json(&json!({ "limit": "monthly" })).send().await;
    let told = reset.is(200).json();
    assert_eq!((&told["before"][0]["used"], &told["after"][0]["used"]), (&json!(20), &json!(0)));
    for member in pair.members() {
        assert_eq!(member.used(&key_of("reset"), "monthly").await, 0);
        assert_eq!(member.used(&key_of("reset"), "daily").await, 20);
        assert_eq!(member.used(&key_of("other"), "monthly").await, 20);
    }
    for member in pair.members() {
        // A refusal is remembered for a tenth of a second at most.
        eventually("it is admitted again", async || {
            let answer = member.get(PATH).key(&key_of("reset")).send().await;
            hoped(answer.status, &200)
        })
        .await;
    }
    let entries = api.audit().await;
    let resets: Vec<&Value> = entries
        .iter()
        .filter(|entry| entry["action"] == "usage.reset" && entry["tenant"] == "reset")
        .collect();
    let states: Vec<&Value> = resets.iter().map(|entry| &entry["difference"]["state"]).collect();
    assert_eq!(states, ["done", "begun"], "{resets:#?}");
    assert_eq!(resets[0]["difference"]["before"][0]["used"], 20);
}
