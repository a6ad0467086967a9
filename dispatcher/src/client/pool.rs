//! Connections that are kept for the next request: HTTP/1.1, one request at a time each.
//!
//! Kept ones may have been closed by the other side just now, without a word. A request that came to nothing on one is sent
//! once more, on a new one: receivers know a message by its id, and an attempt of a schedule is not spent on this race.
//!
//! Why not hyper-util's pool: it has no bound over all hosts, and there are as many hosts as tenants care to name; it
//! repeats only what was never written, which leaves the race above; and its connections never get too old, so that a busy
//! one would not see that its name moved.

use super::{Failure, Place, StillOurs};
use crate::guard::Guard;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;
use tokio::time::{Instant, interval, timeout};

/// How long a connection is kept that nothing is sent on. Receivers mostly close theirs after 5 to 75 s.
const IDLE_MAX: Duration = Duration::from_secs(30);
/// How old a connection may become: names move to other addresses.
const AGE_MAX: Duration = Duration::from_secs(300);
/// How many idle connections to one host are kept, and how many in all.
const KEPT_PER_HOST: usize = 128;
const KEPT_MAX: usize = 4_096;
/// How long a kept connection may take to be ready.
const READY_MAX: Duration = Duration::from_millis(10);
/// How often those that were idle for too long are closed.
const SWEEP_PAUSE: Duration = Duration::from_secs(5);
/// Largest head of an answer, in bytes.
const HEAD_MAX: usize = 64 << 10;

/// A body that is sent.
type Body = Full<Bytes>;

/// Connections, and the way to new ones.
pub(super) struct Pool {
    guard: Guard,
    kept: Arc<Mutex<Kept>>,
}

#[derive(Default)]
struct Kept {
    hosts: HashMap<Arc<str>, Vec<Connection>>,
    count: usize,
}

struct Connection {
    sender: SendRequest<Body>,
    made: Instant,
    /// Since when nothing is sent on it.
    idle: Instant,
}

/// An answer's head, with the connection that its body comes on.
pub(super) struct Answering {
    pub(super) response: Response<Incoming>,
    connection: Connection,
    host: Arc<str>,
}

impl Pool {
    /// An empty one, in a runtime.
    pub(super) fn new(guard: Guard) -> Self {
        let kept = Arc::default();
        tokio::spawn(sweep(Arc::downgrade(&kept)));
        Self { guard, kept }
    }

    /// Sends a request, whose target is in origin form and which has a `Host`, and waits for the head of
    /// the answer. Not where it is not ours any more.
    pub(super) async fn send(
        &self,
        to: &Place,
        request: Request<Body>,
        is_ours: StillOurs<'_>,
    ) -> Result<Answering, Failure> {
        let host = to.origin();
        while let Some(mut connection) = self.take(host) {
            // Its task has seen the end of the answer before, or does so now; or else the other side closed it.
            if !matches!(timeout(READY_MAX, connection.sender.ready()).await, Ok(Ok(()))) {
                continue;
            }
            still(is_ours)?;
            match connection.sender.try_send_request(request.clone()).await {
                Ok(response) => {
                    return Ok(Answering { response, connection, host: Arc::clone(host) });
                }
                Err(error) if error.error().is_parse() => {
                    return Err(Failure::Http(error.into_error()));
                }
                Err(_) => break,
            }
        }
        let mut connection = self.connect(to).await?;
        still(is_ours)?;
        let response = connection.sender.send_request(request).await.map_err(Failure::Http)?;
        Ok(Answering { response, connection, host: Arc::clone(host) })
    }

    async fn connect(&self, to: &Place) -> Result<Connection, Failure> {
        let stream = self.guard.connect(to.destination(), to.tenant()).await?;
        let mut http = http1::Builder::new();
        let (sender, connection) = http
            .max_buf_size(HEAD_MAX)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(Failure::Http)?;
        // It ends with the connection, which is closed when nobody can send on it any more. Its errors are the sender's.
        tokio::spawn(connection);
        let now = Instant::now();
        Ok(Connection { sender, made: now, idle: now })
    }

    /// The connection that was used last, since it is the one that lives longest.
    fn take(&self, host: &str) -> Option<Connection> {
        let now = Instant::now();
        let mut kept = lock(&self.kept);
        let Kept { hosts, count } = &mut *kept;
        let connections = hosts.get_mut(host)?;
        while let Some(connection) = connections.pop() {
            *count -= 1;
            if connection.serves(now) {
                return Some(connection);
            }
        }
        None
    }

    /// Keeps the connection of an answer whose body was read to its end.
    pub(super) fn keep(&self, answering: Answering) {
        let Answering { mut connection, host, .. } = answering;
        connection.idle = Instant::now();
        let mut kept = lock(&self.kept);
        let Kept { hosts, count } = &mut *kept;
        if connection.sender.is_closed() || *count >= KEPT_MAX {
            return;
        }
        let connections = hosts.entry(host).or_default();
        if connections.len() < KEPT_PER_HOST {
            connections.push(connection);
            *count += 1;
        }
    }
}

impl Kept {
    fn close_idle(&mut self, now: Instant) {
        self.hosts.retain(|_, connections| {
            connections.retain(|connection| connection.serves(now));
            !connections.is_empty()
        });
        self.count = self.hosts.values().map(Vec::len).sum();
    }
}

impl Connection {
    fn serves(&self, now: Instant) -> bool {
        !self.sender.is_closed() && now < self.idle + IDLE_MAX && now < self.made + AGE_MAX
    }
}

fn still(is_ours: StillOurs<'_>) -> Result<(), Failure> {
    if is_ours() { Ok(()) } else { Err(Failure::Others) }
}

fn lock(kept: &Mutex<Kept>) -> MutexGuard<'_, Kept> {
    kept.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Closes what was idle for too long, until the pool is gone.
async fn sweep(kept: Weak<Mutex<Kept>>) {
    let mut pause = interval(SWEEP_PAUSE);
    loop {
        pause.tick().await;
        let Some(kept) = kept.upgrade() else { return };
        lock(&kept).close_idle(Instant::now());
    }
}

#[cfg(test)]
mod tests;
