//! PostgreSQL that is away, comes, goes and comes back.

use super::samples::{publish, published};
use super::server::Server;
use crate::Store;
use crate::control::WriteError;
use model::port::StoreError;
use std::net::TcpListener;
use std::time::{Duration, Instant};

/// Within which time an operation is refused while the server is away.
const REFUSED: Duration = Duration::from_millis(2_500);
/// Within which time all works again once the server is back.
const BACK: Duration = Duration::from_secs(5);

async fn is_refused_quickly(store: &Store) {
    let begun = Instant::now();
    let told = store.write(publish("late", 0)).await;
    assert!(matches!(told, Err(WriteError::Store(StoreError::Unavailable(_)))), "{told:?}");
    assert!(begun.elapsed() < REFUSED, "{:?}", begun.elapsed());
    let begun = Instant::now();
    let told = store.newest().await;
    assert!(matches!(told, Err(StoreError::Unavailable(_))), "{told:?}");
    assert!(begun.elapsed() < REFUSED, "{:?}", begun.elapsed());
}

/// Waits until the store answers, and says how long that took.
async fn until_it_answers(store: &Store) -> Duration {
    let begun = Instant::now();
    while let Err(error) = store.feed().await {
        assert!(begun.elapsed() < 2 * BACK, "{error}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    begun.elapsed()
}

#[tokio::test]
async fn a_store_opens_before_its_server_is_there() {
    let mut server = Server::new();
    let store = Store::open(&server.url()).await.unwrap();
    assert!(!store.is_up_to_date());
    is_refused_quickly(&store).await;
    store.up_to_date().await.unwrap_err();
    server.start();
    let took = until_it_answers(&store).await;
    assert!(took < BACK, "{took:?}");
    assert!(store.is_up_to_date());
    store.up_to_date().await.unwrap();
    assert_eq!(published(&store, "one", 0).await, 1);
}

#[tokio::test]
async fn a_server_that_went_and_came_back_is_used_again() {
    let mut server = Server::new();
    server.start();
    let store = Store::open(&server.url()).await.unwrap();
    until_it_answers(&store).await;
    let (publisher, mut base) = (Store::open(&server.url()).await.unwrap(), 0);
    until_it_answers(&publisher).await;
    for _ in 0..2 {
        // All of the pool's connections are open, and then broken.
        let feeds = (0..20).map(|_| {
            let store = store.clone();
            tokio::spawn(async move { store.feed().await.unwrap() })
        });
        for feed in feeds.collect::<Vec<_>>() {
            feed.await.unwrap();
        }
        server.stop();
        is_refused_quickly(&store).await;
        server.start();
        let took = until_it_answers(&store).await;
        assert!(took < BACK, "{took:?}");
        until_it_answers(&publisher).await;
        base = published(&publisher, "text", base).await;
        assert_eq!(store.newest().await.unwrap().unwrap().info.number, base);
    }
    // It listens again as well: the pauses of its task are shorter than this.
    let listens = async {
        loop {
            let version = store.feed().await.unwrap();
            base = published(&publisher, "text", base).await;
            let begun = Instant::now();
            store.changed(Duration::from_secs(1)).await;
            if begun.elapsed() < Duration::from_millis(500) && store.feed().await.unwrap() > version
            {
                return;
            }
        }
    };
    tokio::time::timeout(2 * BACK, listens).await.unwrap();
}

#[tokio::test]
async fn a_server_that_says_nothing_is_not_waited_for() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    let begun = Instant::now();
    let store = Store::open(&format!("postgres://ann@127.0.0.1:{port}/x")).await.unwrap();
    assert!(begun.elapsed() < REFUSED, "{:?}", begun.elapsed());
    is_refused_quickly(&store).await;
}
