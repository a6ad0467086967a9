//! The load: a fixed number of requests over a fixed number of HTTP/1.1 connections, each with one request at a time.
//!
//! A closed loop: a slow server gets fewer requests per second, so latencies are those of a saturated server and compare
//! chains only. Knows as much HTTP as the bench's upstream speaks.

use crate::{Outcome, Settings};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// Requests on every connection before the measurement: upstream connections stand, caches are filled.
const WARM_UP: u32 = 50;
/// Longest measurement.
const RUN_MAX: Duration = Duration::from_secs(120);
/// Longest answer, head and body.
const ANSWER_MAX: usize = 2 << 20;
/// Where a request has this, it has a number there that no other request has.
pub(crate) const NUMBERED: &str = "NNNNNNNNNNNNNNNN";
/// Longest wait for one answer outside of a measurement.
const EXCHANGE_MAX: Duration = Duration::from_secs(5);

/// Connections that stand, ready to send.
pub(crate) struct Load {
    clients: Vec<Client>,
    requests_each: u32,
}

/// What came back.
#[derive(Debug, Default)]
pub(crate) struct Answers {
    pub(crate) elapsed: Duration,
    pub(crate) statuses: BTreeMap<u16, u64>,
    /// Exchanges that broke, and answers of another length than the upstream's.
    pub(crate) errors: BTreeMap<String, u64>,
    /// Of each answer, in microseconds, in ascending order.
    pub(crate) latencies: Vec<u32>,
}

impl Load {
    /// Opens the connections; they take turns with `requests`.
    pub(crate) async fn open(
        address: SocketAddr,
        requests: &[Arc<[u8]>],
        settings: &Settings,
    ) -> Outcome<Self> {
        let mut clients = Vec::new();
        let wanted = usize::try_from(settings.connections)?;
        for request in requests.iter().cycle().take(wanted) {
            let expected = usize::try_from(settings.bytes)?;
            clients.push(Client::open(address, request.clone(), expected).await?);
        }
        Ok(Self { clients, requests_each: settings.requests.div_ceil(settings.connections) })
    }

    /// Some requests on each connection, not measured.
    pub(crate) async fn warm_up(&mut self) -> Outcome<()> {
        self.each(WARM_UP).await.map(drop)
    }

    /// The measurement.
    pub(crate) async fn run(mut self) -> Outcome<Answers> {
        let begin = Instant::now();
        let parts = self.each(self.requests_each).await?;
        let mut answers = Answers { elapsed: begin.elapsed(), ..Answers::default() };
        for part in parts {
            part.statuses
                .into_iter()
                .for_each(|(status, n)| *answers.statuses.entry(status).or_default() += n);
            part.errors
                .into_iter()
                .for_each(|(error, n)| *answers.errors.entry(error).or_default() += n);
            answers.latencies.extend(part.latencies);
        }
        answers.latencies.sort_unstable();
        Ok(answers)
    }

    async fn each(&mut self, requests: u32) -> Outcome<Vec<Answers>> {
        let mut tasks = JoinSet::new();
        for mut client in self.clients.drain(..) {
            tasks.spawn(async move {
                let answers = client.send(requests).await;
                (client, answers)
            });
        }
        let mut parts = Vec::new();
        let all = async {
            while let Some(ended) = tasks.join_next().await {
                let (client, answers) = ended?;
                self.clients.push(client);
                parts.push(answers);
            }
            Ok(parts)
        };
        tokio::time::timeout(RUN_MAX, all).await.map_err(|_| "the answers took too long")?
    }
}

/// One request on a connection of its own; the answer's status.
pub(crate) async fn once(address: SocketAddr, request: Arc<[u8]>) -> Outcome<u16> {
    let exchange = async {
        let mut client = Client::open(address, request, 0).await?;
        Ok::<_, Box<dyn std::error::Error + Send + Sync>>(client.exchange().await?.status)
    };
    tokio::time::timeout(EXCHANGE_MAX, exchange).await.map_err(|_| "no answer")?
}

/// One connection, its request, and room for an answer.
pub(crate) struct Client {
    address: SocketAddr,
    stream: TcpStream,
    request: Vec<u8>,
    numbered_at: Option<usize>,
    expected: usize,
    buffer: Vec<u8>,
}

struct Answer {
    status: u16,
    length: usize,
}

impl Client {
    pub(crate) async fn open(
        address: SocketAddr,
        request: Arc<[u8]>,
        expected: usize,
    ) -> Outcome<Self> {
        let stream = connect(address).await.map_err(|error| format!("{address}: {error}"))?;
        let mark = NUMBERED.as_bytes();
        let numbered_at = request.windows(mark.len()).position(|bytes| bytes == mark);
        let (request, buffer) = (request.to_vec(), Vec::with_capacity(16 << 10));
        Ok(Self { address, stream, request, numbered_at, expected, buffer })
    }

    async fn send(&mut self, requests: u32) -> Answers {
        let mut answers = Answers::default();
        for _ in 0..requests {
            let begin = Instant::now();
            match self.exchange().await {
                Ok(answer) => {
                    let micros = u32::try_from(begin.elapsed().as_micros()).unwrap_or(u32::MAX);
                    answers.latencies.push(micros);
                    *answers.statuses.entry(answer.status).or_default() += 1;
                    if answer.length != self.expected {
                        *answers
                            .errors
                            .entry(format!("a body of {} bytes", answer.length))
                            .or_default() += 1;
                    }
                }
                Err(error) => {
                    *answers.errors.entry(error.to_string()).or_default() += 1;
                    if let Ok(stream) = connect(self.address).await {
                        self.stream = stream;
                    }
                }
            }
        }
        answers
    }

    /// Sends another request; the answer's status.
    pub(crate) async fn send_this(&mut self, request: &[u8]) -> Outcome<u16> {
        self.request.clear();
        self.request.extend_from_slice(request);
        Ok(self.exchange().await?.status)
    }

    async fn exchange(&mut self) -> Outcome<Answer> {
        if let Some(at) = self.numbered_at {
            number(self.request.get_mut(at..at + NUMBERED.len()).unwrap_or_default());
        }
        self.stream.write_all(&self.request).await?;
        self.buffer.clear();
        loop {
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Err("the connection was closed".into());
            }
            if self.buffer.len() > ANSWER_MAX {
                return Err("the answer is too long".into());
            }
            let Some(end) = self.buffer.windows(4).position(|bytes| bytes == b"\r\n\r\n") else {
                continue;
            };
            let (status, length) = head(self.buffer.get(..end).unwrap_or_default())?;
            let rest = end + 4 + length;
            while self.buffer.len() < rest && self.buffer.len() <= ANSWER_MAX {
                if self.stream.read_buf(&mut self.buffer).await? == 0 {
                    return Err("the connection was closed in a body".into());
                }
            }
            if self.buffer.len() != rest {
                return Err("more bytes came than the answer has".into());
            }
            return Ok(Answer { status, length });
        }
    }
}

/// Writes the next number.
fn number(place: &mut [u8]) {
    static NUMBERS: AtomicU64 = AtomicU64::new(0);
    let number = NUMBERS.fetch_add(1, Ordering::Relaxed);
    let digits = format!("{number:0width$}", width = NUMBERED.len());
    place.copy_from_slice(digits.as_bytes().get(..place.len()).unwrap_or_default());
}

async fn connect(address: SocketAddr) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Status and length of the body.
fn head(head: &[u8]) -> Outcome<(u16, usize)> {
    let head = std::str::from_utf8(head)?;
    let mut lines = head.split("\r\n");
    let status =
        lines.next().and_then(|line| line.split(' ').nth(1)).ok_or("no status line")?.parse()?;
    let length = lines.filter_map(|line| line.split_once(':')).find_map(|(name, value)| {
        name.eq_ignore_ascii_case("content-length").then_some(value.trim())
    });
    Ok((status, length.ok_or("an answer without Content-Length")?.parse()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_numbers_are_the_same() {
        let mut places = [[b'N'; NUMBERED.len()]; 2];
        places.iter_mut().for_each(|place| number(place));
        let [first, second] = places;
        assert!(first < second && second.iter().all(u8::is_ascii_digit));
    }

    #[test]
    fn heads_are_read_whatever_their_case() {
        let read = |text: &str| head(text.as_bytes()).ok();
        assert_eq!(read("HTTP/1.1 200 OK\r\ncontent-length: 12"), Some((200, 12)));
        assert_eq!(read("HTTP/1.1 403 Forbidden\r\nVia: x\r\nContent-Length:0"), Some((403, 0)));
        assert_eq!(read("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked"), None);
        assert_eq!(read(""), None);
    }
}
