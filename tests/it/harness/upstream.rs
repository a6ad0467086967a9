//! A service behind the gateway that does as a test tells it, and remembers what arrived.
//!
//! Written on sockets, because a test must see the head as it came, and break off where no server library would.
//! Invariant: an arrival is recorded before a byte of its answer is sent.

use super::ports::{free, local};
use super::{Latch, eventually, hex};
use bytes::Bytes;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// A request as it came.
#[derive(Clone, Debug)]
pub(crate) struct Arrival {
    /// Counts from 1.
    pub(crate) number: usize,
    pub(crate) method: String,
    pub(crate) target: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body_length: usize,
    pub(crate) body_sha256: String,
    /// Whether its body came to its end.
    pub(crate) whole: bool,
    /// Whether its body was chunked.
    pub(crate) chunked: bool,
}

impl Arrival {
    /// The only line of this header; empty when there is none.
    #[track_caller]
    pub(crate) fn header(&self, name: &str) -> &str {
        let lines = self.lines(name);
        assert!(lines.len() <= 1, "{name} arrived {} times: {self:?}", lines.len());
        lines.first().copied().unwrap_or_default()
    }

    /// Every line of this header.
    pub(crate) fn lines(&self, name: &str) -> Vec<&str> {
        let named = self.headers.iter().filter(|(found, _)| found.eq_ignore_ascii_case(name));
        named.map(|(_, value)| value.as_str()).collect()
    }

    fn described(&self) -> Value {
        json!({
            "arrival": self.number, "method": self.method, "target": self.target,
            "body_length": self.body_length, "body_sha256": self.body_sha256,
        })
    }
}

/// What to do about a request.
#[derive(Clone, Debug)]
pub(crate) struct Reply {
    status: u16,
    headers: Vec<(String, String)>,
    body: Bytes,
    chunked: bool,
    pause: Duration,
    latch: Option<Latch>,
    cut_after: Option<usize>,
}

impl Reply {
    pub(crate) fn of(status: u16) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: Bytes::new(),
            chunked: false,
            pause: Duration::ZERO,
            latch: None,
            cut_after: None,
        }
    }

    /// The connection is closed without an answer.
    pub(crate) fn cut() -> Self {
        Self { cut_after: Some(0), ..Self::of(200) }
    }

    /// No answer ever comes.
    pub(crate) fn never() -> Self {
        Self { latch: Some(Latch::closed()), ..Self::of(200) }
    }

    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub(crate) fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }

    pub(crate) fn json(self, value: &Value) -> Self {
        self.header("content-type", "application/json").body(value.to_string())
    }

    /// Sent in chunks instead of with its length.
    pub(crate) fn chunked(mut self) -> Self {
        self.chunked = true;
        self
    }

    /// Sent after this time.
    pub(crate) fn after(mut self, pause: Duration) -> Self {
        self.pause = pause;
        self
    }

    /// Sent when the latch opens.
    pub(crate) fn held_by(mut self, latch: &Latch) -> Self {
        self.latch = Some(latch.clone());
        self
    }

    /// The connection is closed after so many bytes, head included.
    pub(crate) fn cut_after(mut self, bytes: usize) -> Self {
        self.cut_after = Some(bytes);
        self
    }

    fn to_bytes(&self, to_head: bool) -> Vec<u8> {
        let mut text = format!("HTTP/1.1 {} Told\r\n", self.status);
        for (name, value) in &self.headers {
            text += &format!("{name}: {value}\r\n");
        }
        let bodiless = self.status == 204 || self.status == 304;
        if self.chunked {
            text += "transfer-encoding: chunked\r\n";
        } else if !bodiless && !self.headers.iter().any(|(name, _)| name == "content-length") {
            text += &format!("content-length: {}\r\n", self.body.len());
        }
        let mut bytes = (text + "\r\n").into_bytes();
        if to_head || bodiless {
            return bytes;
        }
        if self.chunked {
            for piece in self.body.chunks(16 * 1024) {
                bytes.extend(format!("{:x}\r\n", piece.len()).into_bytes());
                bytes.extend_from_slice(piece);
                bytes.extend_from_slice(b"\r\n");
            }
            bytes.extend_from_slice(b"0\r\n\r\n");
        } else {
            bytes.extend_from_slice(&self.body);
        }
        bytes
    }
}

type Script = Arc<dyn Fn(&Arrival) -> Reply + Send + Sync>;

struct Shared {
    arrivals: Mutex<Vec<Arrival>>,
    script: Mutex<Script>,
}

impl Shared {
    fn record(&self, arrival: &mut Arrival) {
        let mut arrivals = self.arrivals.lock().unwrap();
        arrival.number = arrivals.len() + 1;
        arrivals.push(arrival.clone());
    }
}

/// A service behind the gateway. It ends when it is dropped.
pub(crate) struct Upstream {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
    _serving: JoinSet<()>,
}

impl Upstream {
    /// One that answers 200, or 201 to POST, and says which arrival it answers.
    pub(crate) async fn start() -> Self {
        Self::start_at(Self::address_of_none()).await
    }

    /// An address at which connections are refused.
    pub(crate) fn address_of_none() -> SocketAddr {
        local(free(1))
    }

    pub(crate) async fn start_at(address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let shared = Arc::new(Shared {
            arrivals: Mutex::default(),
            script: Mutex::new(Arc::new(described)),
        });
        let mut serving = JoinSet::new();
        serving.spawn(accept(listener, shared.clone()));
        Self { address, shared, _serving: serving }
    }

    /// One that does as the script says.
    pub(crate) async fn scripted(
        script: impl Fn(&Arrival) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let upstream = Self::start().await;
        upstream.does(script);
        upstream
    }

    /// From now on it does as this script says.
    pub(crate) fn does(&self, script: impl Fn(&Arrival) -> Reply + Send + Sync + 'static) {
        *self.shared.script.lock().unwrap() = Arc::new(script);
    }

    /// What arrived so far, in order.
    pub(crate) fn arrivals(&self) -> Vec<Arrival> {
        self.shared.arrivals.lock().unwrap().clone()
    }

    /// The only arrival.
    #[track_caller]
    pub(crate) fn only_arrival(&self) -> Arrival {
        let arrivals = self.arrivals();
        assert_eq!(arrivals.len(), 1, "{arrivals:#?}");
        arrivals[0].clone()
    }

    /// Waits until so many requests have arrived.
    pub(crate) async fn has_seen(&self, count: usize) -> Vec<Arrival> {
        eventually(&format!("{count} arrivals"), async || {
            let arrivals = self.arrivals();
            if arrivals.len() >= count { Ok(arrivals) } else { Err(arrivals.len()) }
        })
        .await
    }
}

fn described(arrival: &Arrival) -> Reply {
    let status = if arrival.method == "POST" { 201 } else { 200 };
    Reply::of(status).json(&arrival.described())
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (stream, _) = accepted.unwrap();
                stream.set_nodelay(true).unwrap();
                connections.spawn(serve(stream, shared.clone()));
            }
            Some(ended) = connections.join_next() => ended.unwrap(),
        }
    }
}

async fn serve(stream: TcpStream, shared: Arc<Shared>) {
    let mut connection = BufReader::new(stream);
    while let Some(arrival) = receive(&mut connection, &shared).await {
        let script = shared.script.lock().unwrap().clone();
        let reply = script(&arrival);
        tokio::time::sleep(reply.pause).await;
        if let Some(latch) = &reply.latch {
            latch.passed().await;
        }
        if !arrival.whole {
            return;
        }
        let mut bytes = reply.to_bytes(arrival.method == "HEAD");
        if let Some(most) = reply.cut_after {
            bytes.truncate(most);
        }
        let sent = connection.get_mut().write_all(&bytes).await;
        if sent.is_err() || reply.cut_after.is_some() {
            return;
        }
    }
}

/// The next request of a connection, recorded when its head is there and completed when its body is.
async fn receive(connection: &mut BufReader<TcpStream>, shared: &Shared) -> Option<Arrival> {
    let mut lines = Vec::new();
    loop {
        let mut line = Vec::new();
        if connection.read_until(b'\n', &mut line).await.ok()? == 0 {
            return None;
        }
        let line = String::from_utf8_lossy(&line).trim_end_matches(['\r', '\n']).to_owned();
        if line.is_empty() {
            break;
        }
        lines.push(line);
    }
    let mut first = lines.first()?.split(' ');
    let (method, target) = (first.next()?.to_owned(), first.next()?.to_owned());
    let header = |line: &String| {
        let (name, value) = line.split_once(':').unwrap();
        (name.to_owned(), value.trim().to_owned())
    };
    let headers: Vec<(String, String)> = lines.iter().skip(1).map(header).collect();
    let mut arrival = Arrival {
        number: 0,
        method,
        target,
        headers,
        body_length: 0,
        body_sha256: String::new(),
        whole: false,
        chunked: false,
    };
    arrival.chunked = !arrival.lines("transfer-encoding").is_empty();
    shared.record(&mut arrival);
    if !arrival.lines("expect").is_empty() {
        connection.get_mut().write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await.ok()?;
    }
    let mut hash = Sha256::new();
    arrival.whole = body(connection, &mut arrival, &mut hash).await.is_some();
    arrival.body_sha256 = hex(&hash.finalize());
    shared.arrivals.lock().unwrap()[arrival.number - 1] = arrival.clone();
    Some(arrival)
}

/// Reads a body to its end; `None` when it ends early.
async fn body(
    connection: &mut BufReader<TcpStream>,
    arrival: &mut Arrival,
    hash: &mut Sha256,
) -> Option<()> {
    if !arrival.chunked {
        let length = arrival.header("content-length").parse().unwrap_or(0);
        return piece(connection, length, arrival, hash).await;
    }
    loop {
        let mut line = String::new();
        connection.read_line(&mut line).await.ok()?;
        let length = usize::from_str_radix(line.trim().split(';').next()?, 16).ok()?;
        piece(connection, length, arrival, hash).await?;
        let mut end = String::new();
        connection.read_line(&mut end).await.ok()?;
        if length == 0 {
            return Some(());
        }
    }
}

async fn piece(
    connection: &mut BufReader<TcpStream>,
    mut length: usize,
    arrival: &mut Arrival,
    hash: &mut Sha256,
) -> Option<()> {
    let mut buffer = vec![0; 64 * 1024];
    while length > 0 {
        let most = length.min(buffer.len());
        let read = connection.read(&mut buffer[..most]).await.ok()?;
        if read == 0 {
            return None;
        }
        hash.update(&buffer[..read]);
        arrival.body_length += read;
        length -= read;
    }
    Some(())
}
