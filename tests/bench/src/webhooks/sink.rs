//! Where deliveries go: an endpoint of the bench's own, which answers 204 at once and notes when each event arrived first.

use crate::Outcome;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

const ANSWER: &[u8] = b"HTTP/1.1 204 No Content\r\ncontent-length: 0\r\n\r\n";
/// What stands before an event's number.
const MARK: &[u8] = br#""number":"#;
/// Largest request.
const REQUEST_MAX: usize = 64 << 10;

/// What arrived.
pub(super) struct Arrivals {
    began: Instant,
    /// By number: when it arrived first, in nanoseconds, 0 while it has not.
    first: Vec<AtomicU64>,
    count: AtomicU64,
    latest: AtomicU64,
}

/// An endpoint that listens until it is dropped.
pub(super) struct Sink {
    pub(super) address: SocketAddr,
    pub(super) arrivals: Arc<Arrivals>,
    _tasks: JoinSet<()>,
}

impl Sink {
    /// One for events numbered below `numbers`.
    pub(super) async fn open(numbers: usize) -> Outcome<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let first = (0..numbers).map(|_| AtomicU64::new(0)).collect();
        let (count, latest) = (AtomicU64::new(0), AtomicU64::new(0));
        let arrivals = Arc::new(Arrivals { began: Instant::now(), first, count, latest });
        let (mut tasks, noting) = (JoinSet::new(), arrivals.clone());
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(serve(stream, noting.clone()));
            }
        });
        Ok(Self { address, arrivals, _tasks: tasks })
    }
}

impl Arrivals {
    /// Nanoseconds since the sink was opened.
    pub(super) fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// How many requests came.
    pub(super) fn count(&self) -> u64 {
        self.count.load(Ordering::Acquire)
    }

    /// When the last one came.
    pub(super) fn latest(&self) -> u64 {
        self.latest.load(Ordering::Acquire)
    }

    /// When an event came first; none while it has not.
    pub(super) fn first(&self, number: usize) -> Option<u64> {
        let at = self.first.get(number)?.load(Ordering::Acquire);
        (at > 0).then_some(at)
    }

    fn note(&self, number: Option<usize>) {
        let now = self.now().max(1);
        if let Some(first) = number.and_then(|number| self.first.get(number)) {
            // A repeat, or another endpoint's, comes later.
            let _ = first.compare_exchange(0, now, Ordering::AcqRel, Ordering::Relaxed);
        }
        self.latest.fetch_max(now, Ordering::AcqRel);
        self.count.fetch_add(1, Ordering::AcqRel);
    }
}

/// One connection: as much HTTP/1.1 as the dispatcher speaks.
async fn serve(mut stream: TcpStream, arrivals: Arc<Arrivals>) {
    // Nothing else is to be done about a connection that breaks.
    let _ = stream.set_nodelay(true);
    let mut buffer = Vec::with_capacity(8 << 10);
    while let Some(body) = request(&mut stream, &mut buffer).await {
        arrivals.note(number(&body));
        if stream.write_all(ANSWER).await.is_err() {
            return;
        }
    }
}

/// The next request's body; none at the connection's end.
async fn request(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<Vec<u8>> {
    loop {
        if let Some(end) = buffer.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(buffer.get(..end)?).to_ascii_lowercase();
            let length =
                head.split("\r\n").find_map(|line| line.strip_prefix("content-length:"))?;
            let whole = end + 4 + length.trim().parse::<usize>().ok()?;
            if whole > REQUEST_MAX {
                return None;
            }
            if buffer.len() >= whole {
                let rest = buffer.split_off(whole);
                let body = std::mem::replace(buffer, rest).split_off(end + 4);
                return Some(body);
            }
        }
        if stream.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    }
}

/// The event's number, which has leading zeros.
fn number(body: &[u8]) -> Option<usize> {
    let at = body.windows(MARK.len()).position(|bytes| bytes == MARK)? + MARK.len();
    let digits = body.get(at..)?.iter().skip_while(|byte| **byte == b'"');
    let digits: String =
        digits.take_while(|byte| byte.is_ascii_digit()).map(|byte| char::from(*byte)).collect();
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_out_of_bodies() {
        assert_eq!(number(br#"{"id":"x","data":{"number":"0000000000000042","a":1}}"#), Some(42));
        assert_eq!(number(br#"{"data":{}}"#), None);
    }
}
