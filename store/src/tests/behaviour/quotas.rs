//! Quotas of nodes: the last that was told of each counter, until its window is over.

use crate::Store;
use crate::tests::samples::at;
use model::quota::{CounterKey, KeptQuota, Part, Period, Window};

/// A counter of this consumer in the hour that begins then.
fn kept(consumer: &str, hour: i64, used: u64) -> KeptQuota {
    let start = at(hour * 3_600).as_microsecond();
    KeptQuota {
        tenant: "acme".into(),
        key: CounterKey { limit: "hourly".into(), part: Part::Consumer(consumer.into()) },
        period: Period::Hour,
        window: Window { start, end: start + 3_600_000_000 },
        used,
    }
}

pub(in crate::tests) async fn a_nodes_quotas_are_what_it_kept_last(store: &Store) {
    let (a, b, c) = ("a".into(), "b".into(), "c".into());
    let long = "ä".repeat(4_000);
    let credential = KeptQuota {
        key: CounterKey {
            limit: "hourly".into(),
            part: Part::Credential("web".into(), long.as_str().into()),
        },
        ..kept("web", 0, 7)
    };
    store
        .keep_quotas(&a, &[kept("web", 0, 1), kept("mobile", 0, 2), credential.clone()])
        .await
        .unwrap();
    store.keep_quotas(&a, &[kept("web", 0, 5)]).await.unwrap();
    store.keep_quotas(&b, &[kept("web", 0, u64::MAX)]).await.unwrap();
    store.keep_quotas(&b, &[]).await.unwrap();
    let found = async |node, seconds| {
        let mut found = store.kept_quotas(node, at(seconds).as_microsecond()).await.unwrap();
        found.sort_by_key(|quota| quota.used);
        found
    };
    assert_eq!(found(&a, 0).await, [kept("mobile", 0, 2), kept("web", 0, 5), credential]);
    assert_eq!(found(&b, 3_599).await, [kept("web", 0, i64::MAX.unsigned_abs())]);
    assert_eq!(found(&c, 0).await, []);
    // The next window takes the place of the one before.
    store.keep_quotas(&a, &[kept("web", 1, 0)]).await.unwrap();
    assert_eq!(found(&a, 3_600).await, [kept("web", 1, 0)]);
    for (seconds, purged, left) in [(3_599, 0, 3), (3_600, 3, 1), (7_200, 1, 0)] {
        assert_eq!(store.purge(at(seconds).as_microsecond()).await.unwrap(), purged);
        assert_eq!(found(&a, 0).await.len(), left, "{seconds}");
    }
}

pub(in crate::tests) async fn very_many_quotas_are_kept_and_read(store: &Store) {
    const COUNT: u64 = 10_001;
    let node = "a".into();
    let all: Vec<_> = (0..COUNT).map(|number| kept(&number.to_string(), 0, number)).collect();
    store.keep_quotas(&node, &all).await.unwrap();
    let mut found = store.kept_quotas(&node, at(0).as_microsecond()).await.unwrap();
    found.sort_by_key(|quota| quota.used);
    assert_eq!(found.len(), all.len());
    assert_eq!(found, all);
}
