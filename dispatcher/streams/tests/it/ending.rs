//! What streams do at their end, whatever broker they speak to.

use crate::harness::Ground;
use std::time::Duration;
use streams::Settings;

#[tokio::test]
async fn a_sink_of_a_process_that_ends_is_another_ones_at_once() {
    let ground = Ground::new().await;
    let store = ground.parts.store.clone();
    let (name, span) = ("sink/nats/events", Duration::from_secs(60));
    store.hold_reader(name, &ground.parts.holder, span).await.unwrap().unwrap();
    assert_eq!(store.hold_reader(name, "two/1", span).await.unwrap(), None);
    ground.run(Settings::default()).end().await;
    assert!(store.hold_reader(name, "two/1", span).await.unwrap().is_some());
}
