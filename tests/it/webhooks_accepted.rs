//! 202 means that an event is on the disk: whoever is killed right after it finds the event when it is opened again.

use crate::harness::document::{self, Edit as _};
use crate::harness::events::event;
use crate::harness::sending::{OPS, Sending};
use crate::harness::{eventually, sized};
use std::collections::BTreeMap;
use tokio::task::JoinSet;

/// How many events are on their way at each kill.
const AT_ONCE: usize = 8;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_event_that_was_accepted_is_there_after_a_kill() {
    let folder = tempfile::tempdir().unwrap();
    let database = format!("sqlite://{}", folder.path().join("tollgate.db").display());
    let mut sending = Sending::alone(&database, |sink| {
        let hook = document::endpoint("hook", &sink.url("hook"), "*");
        document::producing().with("endpoints", hook)
    })
    .await;
    let api = sending.cluster.api();
    let mut accepted = BTreeMap::new();
    for kill in 0..sized("kills", 10, 200) {
        let producer = sending.producer(OPS);
        let mut offers = JoinSet::new();
        for at in 0..AT_ONCE {
            let (producer, id) = (producer.clone(), format!("event-{kill}-{at}"));
            offers.spawn(async move {
                let offered = producer.offers(&[event(&id, "contact.created", &id)]).await;
                (id, offered.ok())
            });
        }
        let mut now = BTreeMap::new();
        while let Some(offered) = offers.join_next().await {
            let (id, Some(answer)) = offered.unwrap() else { continue };
            if now.is_empty() {
                sending.cluster.member_mut(OPS).kill();
            }
            let webhook_id = answer.is(202).json()["accepted"][0]["webhook_id"].clone();
            now.insert(id, webhook_id.as_str().unwrap().to_owned());
        }
        assert!(!now.is_empty(), "nobody accepted anything before kill {kill}");
        let process = sending.cluster.member_mut(OPS);
        process.start_again();
        process.is_ready().await;
        for (id, webhook_id) in &now {
            eventually(&format!("{id} is there"), async || {
                let path = format!("/v1/deliveries?webhook_id={webhook_id}");
                let found = api.get(&path).send().await.is(200).json();
                if found["items"][0]["event_id"] == **id { Ok(()) } else { Err(found) }
            })
            .await;
        }
        accepted.extend(now);
    }
    println!("{} events were accepted", accepted.len());
    eventually("all that was accepted arrives", async || {
        let taken = sending.sink.taken("hook");
        let missing = accepted.keys().filter(|id| !taken.contains(*id)).count();
        if missing == 0 { Ok(()) } else { Err(missing) }
    })
    .await;
    sending.sink.every_arrival_is_sound();
    for arrived in sending.sink.arrived("hook") {
        let known = accepted.get(&arrived.id);
        assert!(known.is_none_or(|known| *known == arrived.webhook_id), "{arrived:?}");
    }
}
