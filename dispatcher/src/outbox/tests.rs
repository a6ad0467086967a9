use super::*;
use crate::tests::entrance::Entrance;
use model::event::Event;
use serde_json::json;
use store::control::ToldOnce;

/// Puts an event into the outbox, of this tenant or of none.
async fn tell(entrance: &Entrance, id: &str, tenant: Option<&str>) {
    let at = entrance.clock.now();
    let event = Event {
        id: id.to_owned(),
        at,
        r#type: "tollgate.quota.reached".to_owned(),
        tenant: tenant.map(Into::into),
        subject: "/v1/tenants/acme".to_owned(),
        data: json!({ "share": 80 }),
    };
    let told = ToldOnce { name: id.to_owned(), until: at, event };
    assert_eq!(entrance.store.tell_once(vec![told]).await.unwrap(), 1);
}

async fn forward_all(entrance: &Entrance, dispatcher: &Dispatcher) -> More {
    forward(&entrance.store, &dispatcher.ingest, &dispatcher.holder).await.unwrap()
}

#[tokio::test]
async fn what_the_gateway_tells_of_a_tenant_is_an_event_of_that_tenant_once() {
    let entrance = Entrance::with(json!([])).await;
    for (id, tenant) in [("1", Some("acme")), ("2", None), ("3", Some("gone")), ("4", Some("acme"))]
    {
        tell(&entrance, id, tenant).await;
    }
    assert_eq!(forward_all(&entrance, &entrance.dispatcher).await, More::No);
    assert_eq!(entrance.ids().await, ["1", "3", "4"]);
    let content = entrance.kept().await.remove(0).content;
    assert_eq!(
        content,
        r#"{"specversion":"1.0","id":"1","source":"/tollgate","type":"tollgate.quota.reached","subject":"/v1/tenants/acme","time":"2026-11-21T12:00:00Z","datacontenttype":"application/json","tenant":"acme","data":{"share":80}}"#
    );
    // Another dispatcher goes on from there; nothing is read twice.
    tell(&entrance, "5", Some("globex")).await;
    let another = entrance.another();
    forward_all(&entrance, &another).await;
    assert_eq!(
        Bookmark::look::<OutboxRead>(&entrance.store, OUTBOX_READER).await.unwrap(),
        OutboxRead { number: 5 }
    );
    // One that ended before it could say how far it had come is followed by one that repeats.
    let bookmark = Bookmark::take(&entrance.store, OUTBOX_READER, "ended").await.unwrap().unwrap();
    bookmark.give_back(&OutboxRead { number: 1 }).await.unwrap();
    forward_all(&entrance, &entrance.dispatcher).await;
    assert_eq!(entrance.ids().await, ["1", "3", "4", "5"]);
}

#[tokio::test]
async fn while_one_dispatcher_reads_no_other_does() {
    let entrance = Entrance::with(json!([])).await;
    tell(&entrance, "1", Some("acme")).await;
    let mut held = Bookmark::take(&entrance.store, OUTBOX_READER, "other").await.unwrap().unwrap();
    assert_eq!(forward_all(&entrance, &entrance.dispatcher).await, More::No);
    assert!(entrance.kept().await.is_empty());
    assert!(held.keep(&OutboxRead::default()).await.is_ok());
    held.give_back(&OutboxRead::default()).await.unwrap();
    forward_all(&entrance, &entrance.dispatcher).await;
    assert_eq!(entrance.ids().await, ["1"]);
}

#[tokio::test]
async fn nothing_is_passed_over_that_is_not_accepted() {
    let entrance = Entrance::with(json!([])).await;
    tell(&entrance, "1", Some("acme")).await;
    let mut stale = Bookmark::take(&entrance.store, OUTBOX_READER, "one").await.unwrap().unwrap();
    // The same process starts again: what the one before keeps changes nothing.
    let newer = Bookmark::take(&entrance.store, OUTBOX_READER, "one").await.unwrap().unwrap();
    assert!(matches!(stale.keep(&OutboxRead { number: 9 }).await, Err(Lost::Stale)));
    newer.give_back(&OutboxRead::default()).await.unwrap();
    entrance.store.close().await;
    let forwarded = forward(&entrance.store, &entrance.dispatcher.ingest, "one").await;
    assert!(matches!(forwarded, Err(Trouble::Store(_))));
}
