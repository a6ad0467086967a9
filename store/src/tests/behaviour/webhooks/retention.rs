//! Retention: old days go, with all that is of them.

use super::*;

/// Makes everything there is so many days older, as if it had been accepted then.
async fn age(store: &Store, days: i64) {
    let by = days * 24 * 3_600 * 1_000_000;
    for (table, column) in [
        ("webhook_events", "accepted_at"),
        ("webhook_deliveries", "accepted_at"),
        ("webhook_ids", "at"),
        ("webhook_attempts", "at"),
        ("webhook_numbers", "at"),
    ] {
        execute(store, &format!("UPDATE {table} SET {column} = {column} - {by}")).await;
    }
}

pub(in crate::tests) async fn old_days_go_with_all_that_is_of_them(store: &Store) {
    const RETENTION: Duration = Duration::from_secs(30 * 24 * 3_600);
    assert_eq!(store.purge_webhooks(RETENTION).await.unwrap(), 0);
    accept(store, "acme", &["a", "b", "c"]).await;
    fan_out(store, &to(&["e1"])).await;
    let held = hold(store, "e1", 1).await;
    settle(store, &held, Next::Delivered).await;
    // Not fanned out yet: stays, however old.
    accept(store, "acme", &["d"]).await;
    age(store, 40).await;
    assert_eq!(store.purge_webhooks(RETENTION).await.unwrap(), 3);
    let kept: Vec<_> = store.events_after(0, 9).await.unwrap().into_iter().map(|e| e.id).collect();
    assert_eq!(kept, ["d"]);
    assert_eq!(store.delivery(1).await.unwrap(), None);
    sound(store).await;
    fan_out(store, &to(&["e1"])).await;
    assert_eq!(store.purge_webhooks(RETENTION).await.unwrap(), 1);
    for table in ["events", "ids", "deliveries", "attempts"] {
        assert_eq!(
            number(store, &format!("SELECT count(*) FROM webhook_{table}")).await,
            0,
            "{table}"
        );
    }
    // Numbers go on, and what was forgotten is no repeat.
    accept(store, "acme", &["a"]).await;
    assert_eq!(store.events_after(0, 9).await.unwrap()[0].number, 5);
    fan_out(store, &to(&["e1"])).await;
    assert_eq!(hold(store, "e1", 9).await[0].number, 5);
    assert_eq!(store.purge_webhooks(RETENTION).await.unwrap(), 0, "it is young");
    assert_eq!(store.purge_webhooks(Duration::ZERO).await.unwrap(), 0, "its day is not over");
    sound(store).await;
}
