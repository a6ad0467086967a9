//! Requests that go on while a test does other things: each connection kept alive, one request at a time.

use super::{Raw, eventually};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::task::JoinSet;

/// Between two requests of a connection: load that shares its processors with what is tested, and leaves it some.
const PAUSE: Duration = Duration::from_millis(5);

/// Load that goes on until it is stopped.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    connections: JoinSet<Seen>,
}

/// What all connections saw.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// How many answers were 200.
    pub(crate) served: u64,
    /// Everything else.
    pub(crate) failures: Vec<String>,
    /// The lowest and the highest revision.
    pub(crate) revisions: Option<(u64, u64)>,
}

impl Load {
    /// GETs of this path with this API key, over so many connections.
    pub(crate) fn start(address: SocketAddr, path: &str, key: &str, connections: usize) -> Self {
        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: load.example\r\nX-Api-Key: {key}\r\n\r\n");
        let mut tasks = JoinSet::new();
        for _ in 0..connections {
            tasks.spawn(keep_asking(address, request.clone(), stop.clone(), sent.clone()));
        }
        Self { stop, sent, connections: tasks }
    }

    /// How many requests were answered so far.
    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Waits until every connection has asked once more, and been answered.
    pub(crate) async fn goes_round(&self) {
        // Connections take turns by themselves; twice as many answers as there are connections, and once more.
        let enough = self.sent() + 3 * u64::try_from(self.connections.len()).unwrap();
        eventually("the load goes on", async || {
            let sent = self.sent();
            if sent >= enough { Ok(()) } else { Err(sent) }
        })
        .await;
    }

    /// Ends it, and asserts that no request failed.
    #[track_caller]
    pub(crate) fn stop(self) -> impl Future<Output = Seen> {
        let caller = std::panic::Location::caller();
        async move {
            self.stop.store(true, Ordering::Relaxed);
            let mut all = Seen::default();
            for seen in self.connections.join_all().await {
                all.served += seen.served;
                all.failures.extend(seen.failures);
                all.revisions = match (all.revisions, seen.revisions) {
                    (Some((low, high)), Some((lower, higher))) => {
                        Some((low.min(lower), high.max(higher)))
                    }
                    (one, other) => one.or(other),
                };
            }
            assert!(all.failures.is_empty(), "{caller}: of {}: {:#?}", all.served, all.failures);
            assert!(all.served > 0, "{caller}: nothing was asked");
            println!("load: {} requests served, revisions {:?}", all.served, all.revisions);
            all
        }
    }
}

/// Asks over one connection until told to stop, or until something fails.
async fn keep_asking(
    address: SocketAddr,
    request: String,
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
) -> Seen {
    let mut seen = Seen::default();
    let mut connection = Raw::to(address).await;
    while !stop.load(Ordering::Relaxed) {
        connection.say(&request).await;
        let Some(answer) = connection.hear().await else {
            seen.failures.push(format!("the connection ended after {} answers", seen.served));
            break;
        };
        let (lowest, highest) = seen.revisions.unwrap_or((answer.revision(), 0));
        if answer.status != 200 {
            seen.failures.push(format!("{answer:?}"));
            break;
        }
        if answer.revision() < highest {
            let back = answer.revision();
            seen.failures.push(format!("from revision {highest} back to {back} on a connection"));
            break;
        }
        seen.served += 1;
        sent.fetch_add(1, Ordering::Relaxed);
        seen.revisions = Some((lowest, answer.revision()));
        tokio::time::sleep(PAUSE).await;
    }
    seen
}
